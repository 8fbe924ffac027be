"""The command line: what it prints, where, and with which exit code."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import app
from models.cifar.resnet import ResNet
from pruners import BasicPruning, VerificationError, __version__
from pruners.registry import MODELS
from pruners.resnet import ResNetPruning
from pruners.verify import Outcome

ROOT = Path(app.__file__).parent

# Small enough to be pruned, trained and verified in seconds. It prints, as users' files do.
NETS = '''
import torch
from torch import nn
from pruners import basic_block, inception

print("printed on import")


@basic_block(lType="test_app_block", convs=["conv1", "conv2"])
class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1)

    def forward(self, x):
        return x + self.conv2(self.conv1(x).relu())


class Net(nn.Module):
    def __init__(self, width=8, num_classes=10):
        super().__init__()
        self.conv = nn.Conv2d(3, width, kernel_size=3, stride=4)
        self.block = Block(width)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.fc = nn.Linear(4 * width, num_classes)

    def forward(self, x):
        print("printed in forward")
        return self.fc(torch.flatten(self.pool(self.block(self.conv(x).relu())), 1))


class Flat(nn.Module):
    """Of 8x8 images only."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, kernel_size=3, padding=1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(512, 10)

    def forward(self, x):
        return self.fc(self.flatten(self.conv(x)))


class Normed(nn.Module):
    """A layer norm over the channels of one of two convolutions."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, kernel_size=3)
        self.norm = nn.LayerNorm(8)
        self.conv2 = nn.Conv2d(8, 16, kernel_size=3)
        self.fc = nn.Linear(16, 10)

    def forward(self, x):
        x = self.norm(self.conv1(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.fc(self.conv2(x).relu().mean((2, 3)))


@inception(lType="test_app_branches", branches=[["conv1"], ["conv2"]])
class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, kernel_size=1)
        self.conv2 = nn.Conv2d(3, 6, kernel_size=1)

    def forward(self, x):
        first = self.conv1(x)
        return torch.cat([self.conv2(x), first], dim=1)


class Swapped(nn.Module):
    """Its block is decorated in another order than it concatenates in."""

    def __init__(self):
        super().__init__()
        self.block = Branches()
        self.fc = nn.Conv2d(12, 10, kernel_size=1)

    def forward(self, x):
        return self.fc(self.block(x))


class Needs(nn.Module):
    def __init__(self, width, depth, bias=True):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)


def narrow(width=8):
    """As another tool leaves a network: fewer channels than its class says."""
    net = Flat()
    net.conv.weight = nn.Parameter(net.conv.weight[:4].detach().clone())
    net.conv.bias = nn.Parameter(net.conv.bias[:4].detach().clone())
    net.fc.weight = nn.Parameter(net.fc.weight[:, : 4 * 64].detach().clone())
    return net


def build():
    return Net()


def state():
    return Flat().state_dict()


class Boom(nn.Module):
    def __init__(self):
        raise ValueError("no\\nway")


@basic_block(lType="test_app_wrong", convs=["conv1", "conv9"])
class WrongBlock(Block):
    pass


@basic_block(lType="test_app_missing", convs=["conv1"])
class MissingBlock(Block):
    pass


class Wrong(Net):
    def __init__(self):
        super().__init__()
        self.block = WrongBlock(8)


class Missing(Net):
    def __init__(self):
        super().__init__()
        self.block = MissingBlock(8)
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, but for nets.py."""
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    # A user's file stays imported, under its name, for as long as this process lives.
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    return tmp_path


Run = Callable[..., SimpleNamespace]


@pytest.fixture
def run(folder: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line in this process: code, out, err, and `error`, the last line of err."""

    def main(*arguments: str) -> SimpleNamespace:
        code = app.main(arguments)
        out, err = capfd.readouterr()
        error = err.strip().splitlines()[-1] if err.strip() else ""
        return SimpleNamespace(code=code, out=out, err=err, error=error)

    return main


@pytest.fixture
def unverified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves the seconds that a fresh process takes, where a test is about something else."""
    outcome = Outcome("stub", True, 0.0, "", "masked", 1e-5)
    monkeypatch.setattr("pruners.base.PruningResult.verified", lambda self: outcome)


def written(folder: Path) -> list[str]:
    """All files in the folder, hidden ones too, but for what the test put there."""
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return sorted(f for f in files if f != "nets.py" and "__pycache__" not in f)


def refused(done: SimpleNamespace, message: str, code: int = 2) -> None:
    assert done.code == code
    assert re.fullmatch(f"error: {message}", done.error), done.error
    assert done.err.count("error:") == 1
    assert "Traceback" not in done.err
    assert done.out == ""


# --- bad input ---------------------------------------------------------------------------------

PERCENTAGE = "expected a percentage of at least 0 and below 100"
NET = ("--arch", "nets.py:Net", "--input-shape", "3,32,32")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "--arch resent",
            r"--arch resent: unknown; did you mean resnet\? `python app.py --list`.*",
        ),
        ("--arch xyzzy", "--arch xyzzy: unknown; `python app.py --list` shows all"),
        ("--prune-pct 50", r"--arch: missing; expected resnet, alexnet, .* or FILE\.py:CLASS; .*"),
        ("--arch resnet --prune-pct -1", f"--prune-pct -1: {PERCENTAGE}"),
        ("--arch resnet --prune-pct 100", f"--prune-pct 100: {PERCENTAGE}"),
        ("--arch resnet --prune-pct 101", f"--prune-pct 101: {PERCENTAGE}"),
        ("--arch resnet --prune-pct nan", f"--prune-pct nan: {PERCENTAGE}"),
        ("--arch resnet --prune-pct inf", f"--prune-pct inf: {PERCENTAGE}"),
        ("--arch resnet --prune-pct abc", f"--prune-pct abc: {PERCENTAGE}"),
        (
            "--arch resnet --prune-pct 99.9",
            r"--prune-pct 99.9: at most 99\.\d percent of the parameters can be removed with .*",
        ),
        ("--arch resnet --depth 21", "--depth 21: no resnet of this depth; expected one of 20, .*"),
        ("--arch resnet --depth x", "--depth x: expected a whole number of at least 1"),
        ("--arch resnet --min-filters 0", "--min-filters 0: expected a whole number .*"),
        ("--arch resnet --round-to 1.5", "--round-to 1.5: expected a whole number .*"),
        ("--arch resnet --num-classes 0", "--num-classes 0: expected a whole number .*"),
        ("--arch resnet --seed -1", "--seed -1: expected a whole number of at least 0"),
        ("--arch resnet --target parms", r"--target parms: unknown; did you mean params\?.*"),
        ("--arch resnet --measure Chanel", "measure Chanel: unknown; .*ChannelNorm.*"),
        ("--arch resnet --method global", "method global: unknown.*Global, Local, Iso.*"),
        ("--arch resnet --ignore layer9.*", r"--ignore layer9\.\*: matches no layer.*"),
        ("--arch resnet --dataset Digit", r"dataset Digit: unknown; did you mean Digits\?.*"),
        ("--arch resnet --dataset CIFAR10", "dataset CIFAR10: .* is missing; .*"),
        ("--arch resnet --device meta", r"--device meta: not available \(.*\); expected cpu.*"),
        ("--arch resnet --device gpu", "--device gpu: unknown; expected such as cpu, .*"),
        ("--arch resnet --name 1x", "--name '1x': cannot be imported as a Python module; .*"),
        ("--arch resnet --name ../x", r"--name '\.\./x': cannot be imported .*"),
        ("--arch resnet --name torch", "--name 'torch': is the name of another module; .*"),
        ("--arch resnet --input-shape 3x32", "--input-shape 3x32: expected channels, height .*"),
        ("--arch resnet --input-shape 3,0,9", "--input-shape 3,0,9: expected channels, height .*"),
        ("--arch resnet --input-shape 32", "--input-shape 32: ResNet20 takes images; .*"),
        ("--arch resnet --arch-args {}", "--arch-args: only for FILE.py:CLASS, .*"),
        ("--arch resnet --foo", "No such option: --foo.*"),
        ("--arch resnet train", "--arch: put it after train"),
        ("prune", "No such command 'prune'.*"),
        ("train --arch resnet", "Missing option '--out'.*"),
        ("train --arch resnet --out x.bin", "--out x.bin: expected a file that ends in .*"),
    ],
)
def test_bad_options(run: Run, folder: Path, arguments: str, message: str) -> None:
    refused(run(*arguments.split()), message)
    assert written(folder) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.py:Net"], "--arch none.py:Net: no such file; expected FILE.py:CLASS"),
        (
            ["nets.py"],
            "--arch nets.py: no class named; expected .*, such as nets.py:Net",
        ),
        (
            ["nets.py:Nett"],
            r"--arch nets.py:Nett: the file has no such torch.nn.Module class or function; "
            r"did you mean Net.*",
        ),
        (["exits.py:Net"], "--arch exits.py:Net: importing the file called sys.exit; .*"),
        (["raises.py:Net"], "--arch raises.py:Net: importing the file raised KeyError: 'key'"),
        (
            ["nets.py:Needs"],
            "--arch nets.py:Needs: its constructor needs width and depth; pass them with "
            r"""--arch-args, such as --arch-args '{"width": 10, "depth": 10}'""",
        ),
        (
            ["nets.py:Needs", "--arch-args", '{"dept": 4}'],
            r"--arch-args: Needs takes no argument 'dept'; did you mean depth\?; it takes .*",
        ),
        (["nets.py:Needs", "--arch-args", "{"], r"--arch-args {: is not JSON \(.*\); expected .*"),
        (["nets.py:Needs", "--arch-args", "[3]"], r"--arch-args \[3\]: is a list; expected .*"),
        (
            ["nets.py:Net", "--arch-args", '{"width": "8"}'],
            "--arch nets.py:Net: building the network raised TypeError: .*; check --arch-args",
        ),
        (
            ["nets.py:Flat", "--num-classes", "3"],
            "--num-classes 3: the constructor of Flat has no argument num_classes; .*",
        ),
        (
            ["nets.py:Net", "--num-classes", "3", "--arch-args", '{"num_classes": 4}'],
            "--num-classes 3: the constructor of Net gets another from --arch-args; .*",
        ),
        (["nets.py:Boom"], "--arch nets.py:Boom: building the network raised ValueError: no way.*"),
        (["nets.py:Net", "--depth", "3"], "--depth 3: only for the zoo; .*"),
        (["nets.py:Net", "--finetune-epochs", "1"], "--finetune-epochs 1: needs --dataset, .*"),
        (["nets.py:Net", "--recalibrate", "2"], "--recalibrate 2: needs --dataset, such as Digits"),
        (
            ["nets.py:Net", "--measure-args", '{"p": Infinity}'],
            r"--measure-args .*: is not JSON \(Infinity is no finite number\); expected an .*",
        ),
        (
            ["nets.py:Net", "--measure-args", '{"p": 1e999}'],
            r"--measure-args .*: is not JSON \(1e999 is no finite number\); expected an .*",
        ),
        (["nets.py:Wrong"], "block .WrongBlock.: @basic_block names 'conv9' in convs, which .*"),
        (["nets.py:Missing"], "block .MissingBlock.: @basic_block does not name .* 'conv2'.*"),
        # The last --input-shape counts.
        (["nets.py:Net", "--input-shape", "1,32,32"], ".*(1|1, 32, 32|1x32x32).*"),
        (["nets.py:Flat", "--input-shape", "3,9,9"], ".*(3, 9, 9|3x9x9|648|512).*"),
    ],
)
def test_bad_networks(run: Run, folder: Path, arguments: list[str], message: str) -> None:
    (folder / "exits.py").write_text("import sys\nsys.exit(0)\n")
    (folder / "raises.py").write_text("{}['key']\n")
    shape = ("--input-shape", "3,32,32")
    refused(run(*shape, "--arch", *arguments), message)
    assert written(folder) == ["exits.py", "raises.py"]


def test_a_file_needs_an_input_shape(run: Run) -> None:
    refused(run("--arch", "nets.py:Net"), "--arch nets.py:Net: needs --input-shape, such as .*")


class Evil:
    """Would make a file if it were unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch executed",)


def test_bad_checkpoints(run: Run, folder: Path) -> None:
    torch.save(ResNet(32).state_dict(), "deeper.pth")
    few = ResNet(20).state_dict()
    del few["fc.bias"]
    torch.save(few, "few.pth")
    torch.save(ResNet(20, num_classes=7).state_dict(), "classes.pth")
    whole = Path("deeper.pth").read_bytes()
    Path("half.pth").write_bytes(whole[: len(whole) // 2])
    assert MODELS["ResNet20"]["path"] is not None
    Path("half.safetensors").write_bytes(MODELS["ResNet20"]["path"].read_bytes()[:5000])
    torch.save({"conv1.weight": Evil()}, "evil.pth")
    Path("evil.pt").write_bytes(pickle.dumps({"conv1.weight": Evil()}))
    before = written(folder)

    def with_checkpoint(name: str) -> SimpleNamespace:
        return run("--arch", "resnet", "--checkpoint", name)

    refused(with_checkpoint("none.pth"), "checkpoint none.pth: no such file.*")
    refused(with_checkpoint("deeper.pth"), ".*not of this ResNet: .*unexpected .*layer1.3.conv1.*")
    refused(with_checkpoint("few.pth"), ".*not of this ResNet: .*missing .*fc.bias.*")
    refused(with_checkpoint("classes.pth"), ".*fc.weight is 7x64, expected 10x64.*")
    refused(with_checkpoint("half.pth"), "checkpoint half.pth: truncated or damaged .*")
    refused(with_checkpoint("half.safetensors"), "checkpoint half.safetensors: truncated .*")
    refused(with_checkpoint("evil.pth"), "checkpoint evil.pth: .*would run code.*refused.*")
    refused(with_checkpoint("evil.pt"), "checkpoint evil.pt: .*")
    assert written(folder) == before
    assert not Path("executed").exists()


@pytest.mark.parametrize("option", ["--out", "--weights-out"])
def test_output_folders_are_tried_first(run: Run, folder: Path, option: str) -> None:
    (folder / "taken").write_text("")
    # The dataset is missing too, but that would be found out later.
    arguments = ("--arch", "resnet", "--dataset", "MNIST", option)
    refused(run(*arguments, "taken"), "taken: is a file, expected a directory; choose another .*")
    refused(run(*arguments, "taken/deeper"), "taken: is a file, expected a directory; .*")
    locked = folder / "locked"
    locked.mkdir(mode=0o500)
    if not os.access(locked, os.W_OK):
        refused(run(*arguments, "locked/x"), r"locked/x: cannot be written \(Permission .*")
    # What can be written is not made yet.
    refused(run(*arguments, "new"), "dataset MNIST: .*")
    assert written(folder) == ["taken"]
    assert not (folder / "new").exists()


# --- what is no bad input ----------------------------------------------------------------------


def test_failed_verification_is_exit_code_1(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object) -> None:
        raise VerificationError("resnet20_50: not equal; nothing was written")

    monkeypatch.setattr("pruners.base.PruningResult.verified", fail)
    done = run(*NET)
    refused(done, "resnet20_50: not equal; nothing was written", code=1)


def test_a_bug_is_one_line_and_its_traceback_on_demand(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object) -> None:
        raise KeyError("two\nlines")

    monkeypatch.setattr(BasicPruning, "run", fail)
    done = run(*NET)
    refused(done, r"unexpected KeyError: 'two\\nlines' \(--debug shows where\)", code=1)
    done = run(*NET, "--debug")
    assert "Traceback" in done.err
    assert done.code == 1
    done = run("--arch", "resent", "--debug")
    assert "Traceback" in done.err
    assert done.code == 2


def test_setup_pruner() -> None:
    assert app.setup_pruner("resnet") is ResNetPruning
    assert app.setup_pruner("some/file.py:Net") is BasicPruning
    assert {entry["family"] for entry in MODELS.values()} == set(app.ARCHITECTURES)


def test_version_list_help(run: Run) -> None:
    done = run("--version")
    assert (done.code, done.out, done.err) == (0, f"pruners {__version__}\n", "")
    done = run("--list")
    assert done.code == 0
    for value in ("resnet", "110", "Digits", "ChannelNorm", "Local", "macs"):
        assert value in done.out
    assert 56 in json.loads(run("--list", "--json").out)["arch"]["resnet"]
    done = run("--help")
    assert done.code == 0
    assert "--prune-pct" in done.out
    assert "train" in done.out


# --- good runs ---------------------------------------------------------------------------------


def test_the_main_job(run: Run, folder: Path) -> None:
    done = run("--arch", "resnet", "--prune-pct", "50")
    assert done.code == 0
    assert written(folder) == [
        "generated/resnet20_50.json",
        "generated/resnet20_50.py",
        "models/pruned/resnet20_50_pruned_v1.0.json",
        "models/pruned/resnet20_50_pruned_v1.0.pth",
    ]
    lines = done.out.splitlines()
    assert re.fullmatch(
        r"generated/resnet20_50\.py +the slim network, imports torch only", lines[0]
    )
    assert lines[1].startswith("generated/resnet20_50.json ")
    assert lines[2].startswith("models/pruned/resnet20_50_pruned_v1.0.pth ")
    assert re.search(r"parameters +272,474 +1\d\d,\d{3} +5\d\.\d %", done.out)
    # The weights that ship with the zoo, and so the dataset that they were trained on.
    assert "random weights" not in done.err
    assert re.search(r"test accuracy, Digits +99\.\d % ", done.out)
    assert "\x1b" not in done.out
    manifest = json.loads((folder / "generated/resnet20_50.json").read_text())
    assert manifest["network"] == "ResNet20"
    assert manifest["test_accuracy"]["before"] > 99


def test_json_is_all_there_is_on_stdout(run: Run, folder: Path) -> None:
    done = run(*NET, "--json", "--arch-args", '{"width": 6}', "--name", "small")
    assert done.code == 0
    facts = json.loads(done.out)
    assert "printed on import" in done.err
    assert "printed in forward" in done.err
    assert "note: Net has random weights (seed 0); --checkpoint FILE loads trained ones" in done.err
    assert facts["files"] == {
        "source": "generated/small.py",
        "manifest": "generated/small.json",
        "weights": "models/pruned/small_pruned_v1.0.pth",
        "weights_manifest": "models/pruned/small_pruned_v1.0.json",
    }
    assert written(folder) == sorted(facts["files"].values())
    assert facts["parameters"]["after"] <= facts["parameters"]["before"] / 2
    assert facts["widths"]["conv"][0] == 6
    assert facts["weights"] == "random"
    assert facts["dry_run"] is False
    assert facts["test_accuracy"] is None
    assert facts["warnings"] == []
    assert facts["verification"]["max_relative_error"] <= 1e-5


@pytest.mark.usefixtures("unverified")
def test_dry_run_writes_nothing(run: Run, folder: Path) -> None:
    done = run(*NET, "--dry-run", "--out", "/proc/nowhere")
    assert done.code == 0
    assert done.error == "dry run: nothing was written"
    assert "parameters" in done.out
    done = run(*NET, "--dry-run", "--json")
    assert json.loads(done.out)["files"] == {}
    assert json.loads(done.out)["dry_run"] is True
    assert written(folder) == []


def test_same_command_same_bytes(run: Run, folder: Path) -> None:
    for out in ("a", "b"):
        assert run(*NET, "--out", out, "--weights-out", out, "--seed", "3").code == 0
    names = ["net_50.json", "net_50.py", "net_50_pruned_v1.0.json", "net_50_pruned_v1.0.pth"]
    assert written(folder) == [f"{out}/{name}" for out in ("a", "b") for name in names]
    for name in names:
        assert (folder / "a" / name).read_bytes() == (folder / "b" / name).read_bytes()


def test_train_prune_and_finetune(run: Run, folder: Path) -> None:
    train = ("train", "--arch", "nets.py:Net", "--epochs", "2", "--dataset", "Digits")
    done = run(*train, "--out", "net.safetensors")
    assert done.code == 0
    assert re.fullmatch(
        r"net\.safetensors  Net, \d+\.\d\d % of the test images of Digits\n", done.out
    )
    prune = ("--arch", "nets.py:Net", "--dataset", "Digits", "--checkpoint", "net.safetensors")
    done = run(*prune, "--prune-pct", "30", "--finetune-epochs", "2", "--json")
    assert done.code == 0
    facts = json.loads(done.out)
    assert facts["weights"] == "checkpoint"
    assert facts["files"]["weights"] == "models/pruned/net_30_pruned_v1.0.pth"
    assert facts["files"]["finetuned_weights"] == "models/pruned/net_30_pruned_v1.1.pth"
    accuracies = facts["test_accuracy"]
    assert accuracies["finetuned"] > accuracies["pruned"]
    manifest = json.loads((folder / "generated/net_30.json").read_text())
    assert manifest["test_accuracy"] == accuracies
    assert manifest["finetune_epochs"] == 2
    # The source and the manifest go with the weights that were saved last.
    assert "net_30_pruned_v1.1.pth" in manifest["files"]
    assert "net_30_pruned_v1.1.pth" in (folder / "generated/net_30.py").read_text()
    # The same again: the same files, no new versions.
    before = {name: (folder / name).read_bytes() for name in written(folder)}
    assert run(*prune, "--prune-pct", "30", "--finetune-epochs", "2", "--json").out == done.out
    assert {name: (folder / name).read_bytes() for name in written(folder)} == before


@pytest.mark.usefixtures("unverified")
def test_a_family_takes_shape_and_classes_from_options_or_dataset(run: Run) -> None:
    def widths(*arguments: str) -> tuple[list[int], int, str]:
        done = run("--arch", "resnet", "--dry-run", "--json", *arguments)
        assert done.code == 0, done.err
        facts = json.loads(done.out)
        return facts["input_shapes"][0], facts["widths"]["fc"][0], facts["weights"]

    assert widths("--input-shape", "1,16,16", "--num-classes", "7") == ([1, 16, 16], 7, "random")
    assert widths("--depth", "18", "--dataset", "Digits") == ([3, 32, 32], 10, "random")
    assert widths("--dataset", "Digits", "--input-shape", "1,8,8") == ([1, 8, 8], 10, "random")


@pytest.mark.usefixtures("unverified")
def test_weights_of_another_dataset_are_mentioned(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pruners.registry import DATASETS

    monkeypatch.setitem(DATASETS, "Other", DATASETS["Digits"])
    done = run("--arch", "resnet", "--dataset", "Other", "--dry-run")
    assert done.code == 0
    assert "ship with the zoo were trained on Digits, not on Other" in done.err


# --- Ctrl-C ------------------------------------------------------------------------------------


def press(after: Callable[..., object] | None = None) -> Callable[..., object]:
    """A function at whose end Ctrl-C is pressed."""

    def pressed(*arguments: object, **named: object) -> object:
        value = after(*arguments, **named) if after is not None else None
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        return value

    return pressed


def interrupted(done: SimpleNamespace, message: str) -> None:
    assert done.code == 130
    assert done.error == f"interrupted; {message}"
    assert "Traceback" not in done.err
    assert done.out == ""


def test_ctrl_c_while_pruning(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BasicPruning, "run", press())
    interrupted(run(*NET), "nothing was written")
    assert written(folder) == []


def test_ctrl_c_that_became_another_exception(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def swallow(self: object) -> None:
        try:
            press()()
        except KeyboardInterrupt:
            raise RuntimeError("operator failed") from None

    monkeypatch.setattr(BasicPruning, "run", swallow)
    interrupted(run(*NET), "nothing was written")


@pytest.mark.usefixtures("unverified")
def test_ctrl_c_within_the_commit_tells_what_was_written(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pruners.store

    # The store holds signals back until all files are there.
    monkeypatch.setattr(pruners.store, "_rename_all", press(pruners.store._rename_all))
    interrupted(run(*NET), "written before: generated/net_50.json")
    assert len(written(folder)) == 4


@pytest.mark.usefixtures("unverified")
def test_ctrl_c_while_fine_tuning(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pruners.job.train", press())
    done = run(*NET, "--dataset", "Digits", "--finetune-epochs", "1")
    interrupted(done, "written before: generated/net_50.json")
    assert len(written(folder)) == 4


def test_ctrl_c_in_a_process(folder: Path) -> None:
    """At moments that were drawn: while Python imports, prunes, verifies, writes."""
    draw = random.Random(time.time_ns())
    command = [sys.executable, str(ROOT / "app.py"), *NET, "--prune-pct", "30"]
    for line in ("", "loading", "verifying"):
        out = folder / f"out{line}"
        process = subprocess.Popen(
            [*command, "--out", str(out), "--weights-out", str(out)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert process.stderr is not None
        if not line:
            wait_for_import(process)
        seen = ""
        while line and not seen.startswith(line):
            seen = process.stderr.readline()
        delay = draw.uniform(0, 1)
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        text, err = process.communicate(timeout=60)
        where = f"{delay:.3f} s after {line!r}: {err}"
        assert process.returncode == 130, where
        assert err.splitlines()[-1] == "interrupted; nothing was written", where
        assert "Traceback" not in err, where
        assert text == ""
        assert not out.exists() or list(out.iterdir()) == [], where


def wait_for_import(process: subprocess.Popen[str]) -> None:
    """Until the process begins to import torch; before that it cannot say what Ctrl-C does."""
    maps = Path(f"/proc/{process.pid}/maps")
    if not maps.exists():
        time.sleep(2)
        return
    while process.poll() is None and "libtorch" not in maps.read_text():
        time.sleep(0.01)


def test_exit_code_of_a_process(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "app.py"), "--arch", "resent"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: --arch resent: unknown; did you mean resnet?")
    assert done.stderr.count("\n") == 1


# --- decorators, norms over channels -----------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--arch resnet", "ResNet20: 9 decorated blocks; decorators and trace agree"),
        ("--arch vgg --depth 16", "VGG16: no decorated blocks; the trace alone finds what goes"),
        (" ".join(NET), "Net: 1 decorated block; decorators and trace agree"),
    ],
)
def test_decorators_that_agree(run: Run, folder: Path, arguments: str, said: str) -> None:
    done = run("--check-decorators", *arguments.split())
    assert done.code == 0
    assert done.out.startswith(said)
    assert written(folder) == []


def test_decorators_that_differ(run: Run, folder: Path) -> None:
    done = run("--check-decorators", "--arch", "nets.py:Swapped", "--input-shape", "3,8,8")
    assert done.code == 2
    assert done.out.count("  decorators: ") == done.out.count("  trace: ") == 5
    assert done.out.startswith(
        "channel 0 of block.conv1.bias[0]\n"
        "  decorators: goes with channel 0 of fc.weight[1]\n"
        "  trace:      goes with channel 6 of fc.weight[1]\n"
    )
    assert re.fullmatch(
        r"error: Swapped: decorators and trace differ on 5 axes; correct the decorators, or .*",
        done.error,
    )
    assert written(folder) == []


def test_decorators_that_cannot_be_right(run: Run) -> None:
    wrong = ("--check-decorators", "--arch", "nets.py:Wrong", "--input-shape", "3,32,32")
    refused(run(*wrong), r"block \(WrongBlock\): @basic_block names 'conv9' in convs, .*")
    refused(run("--check-decorators", "--arch", "resent"), r"--arch resent: unknown; did you .*")


def test_exact_only_keeps_what_a_layer_norm_counts(run: Run) -> None:
    normed = ("--arch", "nets.py:Normed", "--input-shape", "3,12,12", "--prune-pct", "40")
    manifest = Path("generated/normed_40.json")
    assert run(*normed).code == 0
    told = json.loads(manifest.read_text())
    assert told["verification"]["oracle"] == "sliced"
    assert "conv1" not in told["kept_because"]
    assert run(*normed, "--exact-only").code == 0
    told = json.loads(manifest.read_text())
    assert told["verification"]["oracle"] == "masked"
    assert re.match(r"--exact-only: .*norm.* counts channels", told["kept_because"]["conv1"])


# --- write -------------------------------------------------------------------------------------


WRITE = ("write", "--input-shape", "3,8,8", "--out", "gen", "--weights-out", "weights")


def test_write_what_a_function_returns(run: Run, folder: Path) -> None:
    done = run(*WRITE, "--arch", "nets.py:narrow")
    assert done.code == 0, done.error
    assert "gen/flat_pruned.py             the network, imports torch only\n" in done.out
    assert "verified: differs from the network in memory by 0.0e+00" in done.out
    assert written(folder) == [
        *("gen/flat_pruned.json", "gen/flat_pruned.py"),
        *("weights/flat_pruned_v1.0.json", "weights/flat_pruned_v1.0.pth"),
    ]
    assert "nn.Conv2d(3, 4, kernel_size=3, padding=1)" in Path("gen/flat_pruned.py").read_text()


def test_write_as_json_and_with_a_name(run: Run, folder: Path) -> None:
    torch.save(ResNet(20).state_dict(), "resnet.pth")
    arguments = ("--arch", "resnet", "--checkpoint", "resnet.pth", "--name", "whole", "--json")
    done = run("write", "--out", "gen", "--weights-out", "weights", *arguments)
    assert done.code == 0, done.error
    facts = json.loads(done.out)
    assert facts["files"]["source"] == "gen/whole.py"
    assert facts["verification"]["oracle"] == "module"
    assert facts["parameters"] == {"after": 272474}


def test_write_a_module_that_was_saved_whole(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, redirect_stdout(sys.stderr):
        patch.syspath_prepend(folder)
        torch.save(importlib.import_module("nets").narrow(), "whole.pth")
    del sys.modules["nets"]
    refused(
        run(*WRITE, "whole.pth"),
        r"write whole\.pth: a module saved whole is a pickle, which runs code to load; refused, "
        r"nothing was executed; pass --trust-pickle .* --arch FILE\.py:FUNCTION",
    )
    assert run(*WRITE, "whole.pth", "--trust-pickle").code == 0
    assert Path("gen/flat_pruned.py").exists()
    assert str(folder) not in sys.path


def test_write_executes_nothing_without_trust(run: Run, folder: Path) -> None:
    torch.save(Evil(), "evil.pth")
    refused(run(*WRITE, "evil.pth"), r"write evil\.pth: a module saved whole is a pickle, .*")
    assert written(folder) == ["evil.pth"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "write: got neither; expected either FILE, .*, or --arch, .*"),
        ("x.pth --arch nets.py:narrow", "write: got both; expected either FILE, .*"),
        ("x.pth --trust-pickle", r"write x\.pth: no such file; expected what torch\.save.*"),
        ("x.pth --trust-pickle --depth 3", "--depth: only with --arch"),
        ("x.pth --checkpoint y.pth", "--checkpoint: only with --arch"),
        (
            "state.pth --trust-pickle",
            r"write state\.pth: holds a OrderedDict, expected a torch\..*",
        ),
        ("bad.pth --trust-pickle", r"write bad\.pth: loading it raised UnpicklingError: .*"),
        ("--arch nets.py:state", r"--arch nets.py:state: returned a OrderedDict, expected a .*"),
        ("--arch nets.py:nothing", "--arch nets.py:nothing: the file has no such .* or function.*"),
        ("--arch resent", r"--arch resent: unknown; did you mean resnet\?.*"),
        ("--arch nets.py:narrow --name 1x", "--name '1x': cannot be imported as a Python .*"),
    ],
)
def test_write_refuses(run: Run, folder: Path, arguments: str, message: str) -> None:
    torch.save(ResNet(20).state_dict(), "state.pth")
    Path("bad.pth").write_bytes(b"no pickle")
    refused(run(*WRITE, *arguments.split()), message)
    assert written(folder) == ["bad.pth", "state.pth"]


def test_write_needs_an_input_shape_for_a_file(run: Run, folder: Path) -> None:
    Path("whole.pth").write_bytes(b"never read")
    refused(
        run("write", "whole.pth", "--trust-pickle"),
        r"write whole\.pth: needs --input-shape, such as 3,224,224",
    )


def test_a_function_of_a_file_is_pruned_as_a_class_is(run: Run, unverified: None) -> None:
    done = run("--arch", "nets.py:build", "--input-shape", "3,32,32", "--dry-run", "--json")
    assert done.code == 0, done.error
    assert json.loads(done.out)["network"] == "Net"
