"""A generated file is pruned again: two steps are one, and nothing is lost on the way."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import image, with_telling_state
from torch import nn
from user_files import user_class, wide_image

import app
import models
from pruners import BasicPruning, Options, PrunerError, PruningResult, prune
from pruners.ancestry import pruned_before, record_of
from pruners.loading import class_from_file
from pruners.networks import Request, find_network
from pruners.store import sealed
from pruners.verify import Outcome, expected_outputs

assert models  # registers the zoo

NET = '''
class Net(nn.Module):
    """A stem, a block and a head."""

    def __init__(self, width=16, num_classes=5):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.block = Block(width, 2 * width, 2)
        self.fc = nn.Linear(2 * width, num_classes)

    def forward(self, x):
        # Twice as small at the end.
        x = self.block(F.relu(self.bn(self.stem(x))))
        return self.fc(x.mean((2, 3)))
'''
BLOCK = """
class Block(nn.Module):
    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


"""
LOST = "so what stays is told in indices of this file, not of the original network$"


def original(folder: Path, name: str) -> nn.Module:
    torch.manual_seed(0)
    return with_telling_state(user_class(folder, name, BLOCK + NET)()).double()


def saved(result: PruningResult, folder: Path) -> Path:
    """The generated file, with its manifest beside it; the fresh process is for other tests."""
    return result.save(folder / "generated", folder / "weights", verify=False).source


def again(path: Path, result: PruningResult) -> nn.Module:
    """The network of a generated file, with its weights."""
    model = class_from_file(path, "Net")().double()
    model.load_state_dict(result.state_dict)
    return model.eval()


def two_steps(folder: Path, name: str) -> tuple[nn.Module, Path, PruningResult]:
    """The original network, the first generated file, and the second step."""
    model = original(folder, name)
    first = prune(model, wide_image(2, 3, 12, 12), 30, name=f"{name}_30")
    path = saved(first, folder)
    return model, path, prune(again(path, first), wide_image(2, 3, 12, 12), 40)


def manifest_of(path: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
    return facts


def body(source: str) -> str:
    """A generated file without its header."""
    return source[source.index('"""', 3) + 3 :]


# --- two steps are one -------------------------------------------------------------------------


def test_two_steps_equal_one(tmp_path: Path) -> None:
    model, _, second = two_steps(tmp_path, "again_equal")
    assert second.pruning.fileName == "again_equal_30_40"
    facts = manifest_of(saved(second, tmp_path))
    composed = {
        name: tuple(np.array(indices, dtype=np.int64) for indices in dims)
        for name, dims in facts["kept"].items()
    }
    full = model.state_dict()
    assert list(composed) == list(full)
    for name, tensor in second.state_dict.items():
        expected = full[name]
        for dim, indices in enumerate(composed[name]):
            assert (np.diff(indices) > 0).all()
            expected = expected.index_select(dim, torch.as_tensor(indices))
        assert torch.equal(tensor, expected), name
    assert second.state_dict["fc.weight"].shape[1] < full["fc.weight"].shape[1]
    # What was kept in the step itself are other numbers.
    assert any(
        not np.array_equal(composed[name][dim], indices)
        for name, dims in second.kept.items()
        for dim, indices in enumerate(dims)
    )
    inputs = (wide_image(2, 3, 12, 12),)
    expected = expected_outputs(model, composed, inputs)
    with torch.no_grad():
        got = second.model.eval()(*inputs)
    assert float((got - expected).abs().max() / expected.abs().max()) < 1e-12


def test_manifest_and_header_tell_of_the_first_step(tmp_path: Path) -> None:
    model, first, second = two_steps(tmp_path, "again_told")
    parameters = sum(p.numel() for p in model.parameters())
    between = manifest_of(first)["parameters"]["after"]
    path = saved(second, tmp_path)
    facts = manifest_of(path)
    assert facts["network"] == "Net"
    assert facts["generated_from"] == "again_told_30.py (class Net)"
    assert facts["parameters"]["before"] == between < parameters
    assert facts["pruned_before"] == {
        "kept_of": "again_told.py (class Net)",
        "parameters": parameters,
        "macs": manifest_of(first)["macs"]["before"],
        "input_shapes": [[3, 12, 12]],
        "steps": [{"file": first.name, "sha256": hashlib.sha256(first.read_bytes()).hexdigest()}],
    }
    header = path.read_text().split('"""')[1]
    assert header.startswith(f"Net, pruned again: {between:,} -> ")
    assert f"\nThe original network: {parameters:,} parameters, " in header
    assert (
        "Generated from again_told_30.py (class Net),\n"
        "which goes back to again_told.py (class Net); edit freely." in header
    )
    assert "from again_told_30_40 import net" in header
    # A third step goes back to the same original.
    third = prune(again(path, second), wide_image(2, 3, 12, 12), 20)
    facts = manifest_of(saved(third, tmp_path))
    assert facts["pruned_before"]["kept_of"] == "again_told.py (class Net)"
    assert facts["pruned_before"]["parameters"] == parameters
    assert [s["file"] for s in facts["pruned_before"]["steps"]] == [first.name, path.name]
    stem = facts["kept"]["stem.weight"][0]
    assert torch.equal(
        third.state_dict["stem.weight"], model.state_dict()["stem.weight"][torch.tensor(stem)]
    )


def test_figures_at_another_size_are_not_compared(tmp_path: Path) -> None:
    first = prune(original(tmp_path, "again_size"), wide_image(2, 3, 12, 12), 30, name="again_s30")
    model = again(saved(first, tmp_path), first)
    header = prune(model, wide_image(2, 3, 16, 16), 40).source.split('"""')[1]
    assert re.search(r"^The original network: [\d,]+ parameters\.$", header, re.M)


def test_the_command_line_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = Outcome("stub", True, 0.0, "", "masked", 1e-5)
    monkeypatch.setattr("pruners.base.PruningResult.verified", lambda self: outcome)
    stem, arch = "resnet20_50", "resnet"
    arguments: list[str] = []
    for _ in range(3):
        assert app.main(["--arch", arch, "--prune-pct", "50", *arguments]) == 0
        arch = f"generated/{stem}.py:ResNet"
        arguments = ["--checkpoint", f"models/pruned/{stem}_pruned_v1.0.pth"]
        stem = f"{stem}_50"
    assert "warning" not in capfd.readouterr().err
    third = Path("generated/resnet20_50_50_50.py")
    source, first = third.read_text(), Path("generated/resnet20_50.py").read_text()
    for text in (source, first):
        assert text.count("\ndef ") == text.count("def resnet20(weights") == 1
        assert text.count("from pathlib import Path") == 1
        assert text.count("num_classes: int = 10, in_channels: int = 3") == 1
    # But for the header and numbers the three are one file.
    assert re.sub(r"\d+", "0", body(source)).split() == re.sub(r"\d+", "0", body(first)).split()
    facts = manifest_of(third)
    assert facts["network"] == "ResNet20"
    assert facts["pruned_before"]["kept_of"] == "models/cifar/resnet.py (class ResNet)"
    assert facts["pruned_before"]["parameters"] == 272_474
    shipped = find_network(Request("resnet")).model.state_dict()
    state = torch.load("models/pruned/resnet20_50_50_50_pruned_v1.0.pth", weights_only=True)
    for name, tensor in state.items():
        expected = shipped[name]
        for dim, indices in enumerate(facts["kept"][name]):
            expected = expected.index_select(dim, torch.tensor(indices))
        assert torch.equal(tensor, expected), name


# --- where nothing is known --------------------------------------------------------------------


def test_an_edited_file_is_not_read_through(tmp_path: Path) -> None:
    first = prune(original(tmp_path, "again_edit"), wide_image(2, 3, 12, 12), 30, name="again_e30")
    path = saved(first, tmp_path)
    path.write_text(path.read_text().replace("# Twice", "# Two times"))
    second = prune(again(path, first), wide_image(2, 3, 12, 12), 40)
    edited = re.compile(f"^again_e30.py: differs from what its manifest describes, {LOST}")
    assert [w for w in second.report.warnings if edited.search(w)]
    assert second.pruning.before is None
    facts = manifest_of(saved(second, tmp_path))
    assert "pruned_before" not in facts
    assert facts["kept"]["stem.weight"][0] == second.kept["stem.weight"][0].tolist()
    assert "original network:" not in second.source
    # What it is called is still known.
    assert second.pruning.fileName == "again_e30_40"


def test_other_arguments_are_another_network(tmp_path: Path) -> None:
    first = prune(original(tmp_path, "again_args"), wide_image(2, 3, 12, 12), 30, name="again_a30")
    model = class_from_file(saved(first, tmp_path), "Net")(num_classes=7)
    before, why = pruned_before(model)
    assert before is None
    assert re.search(rf"^again_a30\.py: fc\.weight is 7x\d+, 5x\d+ in the manifest, {LOST}", why)


def test_manifests_that_are_none(tmp_path: Path) -> None:
    first = prune(original(tmp_path, "again_none"), wide_image(2, 3, 12, 12), 30, name="again_n30")
    path = saved(first, tmp_path)
    model = again(path, first)
    found, why = pruned_before(model)
    assert found is not None
    assert why == ""
    manifest = path.with_suffix(".json")
    facts = manifest_of(path)
    for text in ("", "{", "[]", '"kept"', "{}", json.dumps({**facts, "files": {}})):
        manifest.write_text(text)
        assert pruned_before(model) == (None, "")
    manifest.unlink()
    assert pruned_before(model) == (None, "")
    # A block of the file is not the network that its manifest is about.
    manifest.write_text(json.dumps(facts))
    assert record_of(type(model)) is not None
    assert record_of(class_from_file(path, "Block")) is None
    for damage, message in (
        ({"kept": {**facts["kept"], "stem.weight": 3}}, "its manifest cannot be read (TypeError: "),
        ({"parameters": {}}, "its manifest cannot be read (KeyError: 'before'), "),
        ({"pruned_before": {}}, "its manifest cannot be read (KeyError: 'kept_of'), "),
        ({"kept": {}}, "stem.weight is not in the manifest, "),
    ):
        manifest.write_text(json.dumps(sealed({**facts, **damage})))
        before, why = pruned_before(model)
        assert before is None
        assert why.startswith(f"again_n30.py: {message}")
        assert re.search(LOST, why)
    # Names and shapes of a manifest that somebody has changed reach no file as they are.
    odd = {"network": "x(); import os", "input_shapes": [[-1]]}
    for change, write in ((odd, sealed), ({"network": "Other"}, dict)):
        manifest.write_text(json.dumps(write({**facts, **change})))
        record = record_of(type(model))
        assert record is not None
        assert (record.network, record.input_shape) == ("", None)
    assert pruned_before(model)[1].startswith(
        "again_n30.py: its manifest was changed since it was written, so what stays is told in"
    )


def test_the_shape_comes_from_the_manifest(tmp_path: Path) -> None:
    first = prune(original(tmp_path, "again_shape"), wide_image(2, 3, 12, 12), 30, name="again_h30")
    path = saved(first, tmp_path)
    network = find_network(Request(f"{path}:Net"))
    assert (network.name, network.input_shape) == ("Net", (3, 12, 12))
    assert find_network(Request(f"{path}:Net", input_shape="3,9,9")).input_shape == (3, 9, 9)
    with pytest.raises(PrunerError, match=r":Block: needs --input-shape, such as 3,32,32"):
        find_network(Request(f"{path}:Block"))


# --- the file stays as it is -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "shape"),
    [
        ("resnet", None),
        ("densenet", None),
        ("shufflenetv2", None),
        ("mnasnet", None),
        ("squeezenet", None),
        ("torchvision:resnet18", "3,64,64"),
        ("torchvision:mobilenet_v3_small", "3,64,64"),
        ("torchvision:googlenet", "3,64,64"),
        ("torchvision:efficientnet_b0", "3,64,64"),
        ("torchvision:lraspp_mobilenet_v3_large", "3,64,64"),
        ("torchvision:r3d_18", "3,4,32,32"),
    ],
)
def test_the_second_generation_is_the_first(arch: str, shape: str | None) -> None:
    network = find_network(Request(arch, input_shape=shape), shipped=False)
    inputs = network.example_inputs()

    def generation(model: nn.Module, prune_pct: float) -> PruningResult:
        return BasicPruning(model, inputs, Options(prune_pct), netName=network.name).run()

    first = generation(network.model, 30)
    second = generation(first.model, 0)
    assert body(second.source) == body(first.source)
    assert second.writer.factory == first.writer.factory


DROP_PATH = (
    BLOCK
    + '''
class DropPath(nn.Module):
    """Leaves out a branch for some of the images."""

    def forward(self, x):
        if not self.training:
            return x
        return x * torch.empty(x.shape[0], 1, 1, 1).bernoulli_(0.5)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.drop = DropPath()
        self.down = nn.Conv2d(8, 16, 3, stride=2)
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        return self.fc(self.down(self.drop(self.stem(x)).relu()).mean((2, 3)))
'''
)


def test_a_file_that_drops_paths_itself(tmp_path: Path) -> None:
    """Labels along the batch pass a strided convolution, whose positions are fewer."""
    torch.manual_seed(0)
    model = with_telling_state(user_class(tmp_path, "again_drop", DROP_PATH)())
    result = prune(model, image(2, 3, 12, 12), 30)
    assert result.report.parameters.after < result.report.parameters.before
    assert len(result.kept["down.weight"][1]) == len(result.kept["stem.weight"][0]) < 8
