"""Experiments: the grid, what is stored, how a run goes on where another has ended."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import matplotlib
import pytest
import torch
from matplotlib.figure import Figure
from torch.utils.data import Subset

import app
from pruners import (
    Experiment,
    PrunerError,
    PruningResult,
    VerificationError,
    evaluate,
    prune,
    prune_mlp,
    run_experiment,
)
from pruners.commands.experiment import spread
from pruners.experiments import results
from pruners.experiments.cells import Cell, read_cell
from pruners.experiments.compute import Bench
from pruners.experiments.grid import Setting
from pruners.networks import Request, find_network
from pruners.plots import Line, Panel, Pictures, line_plot
from pruners.registry import DATASETS, SCORING_MEASURES
from pruners.sampling import sample
from pruners.verify import Outcome
from pruners.zoo import splits_for

ROOT = Path(app.__file__).parent
MLP = ("experiment", "--model-name", "TwoLayerMLP")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves the second that pictures take, where a test is about something else."""
    monkeypatch.setattr(results, "line_plot", lambda panels, **options: Pictures(b"svg", b"png"))


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws them after all."""
    monkeypatch.setattr(results, "line_plot", line_plot)


Run = Callable[..., SimpleNamespace]


@pytest.fixture
def run(folder: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line in this process: code, out, err, and the lines of err."""

    def main(*arguments: str) -> SimpleNamespace:
        code = app.main(arguments)
        out, err = capfd.readouterr()
        return SimpleNamespace(code=code, out=out, err=err, lines=err.strip().splitlines())

    return main


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[Setting]:
    """The settings of the cells that were computed, as they are."""
    seen: list[Setting] = []
    compute = Bench.cell

    def cell(self: Bench, setting: Setting) -> Cell:
        seen.append(setting)
        return compute(self, setting)

    monkeypatch.setattr(Bench, "cell", cell)
    return seen


def contents(folder: Path) -> dict[str, bytes]:
    """Everything that an experiment has written, but for the lists that it was started with."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "experiment.json"
    }


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# --- the grid ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("pictures")
def test_the_product_of_the_lists(run: Run, folder: Path) -> None:
    done = run(
        *MLP,
        *("--measure-name", "ChannelNorm", "WeightedPageRank", "--method-name", "Global,Local"),
        *("--amount", "0.3", "--amount", "0.6", "--seed", "1", "--out-path", "exp"),
    )
    assert done.code == 0
    rows = rows_of(folder / "exp")
    names = ("method", "measure", "amount")
    assert [tuple(row[name] for name in names) for row in rows] == [
        (method, measure, amount)
        for method in ("Global", "Local")
        for measure in ("ChannelNorm", "WeightedPageRank")
        for amount in ("0.3", "0.6")
    ]
    assert {row["model"] for row in rows} == {"TwoLayerMLP"}
    assert {(row["dataset"], row["weights"], row["seed"]) for row in rows} == {
        ("Digits", "shipped", "1")
    }
    assert {path.name for path in (folder / "exp").iterdir()} == {
        *("experiment.json", "cells", "results.csv", "accuracy.svg", "accuracy.png", "report.html"),
    }
    assert len(list((folder / "exp/cells").iterdir())) == 8
    assert len(done.lines) == 8
    assert re.fullmatch(
        r"\[2/8\] TwoLayerMLP on Digits, Global, ChannelNorm, 0\.6, seed 1: \d+\.\d % "
        r"\(\d+\.\d s; about \d+ s left\)",
        done.lines[1],
    )
    assert "left" not in done.lines[-1]
    table = done.out.splitlines()
    assert re.split("  +", table[0]) == [
        *("model", "method", "measure", "amount", "parameters", "MACs", "accuracy before", "after"),
    ]
    assert len(table) == 1 + 8 + 1 + 4
    assert re.match(r"TwoLayerMLP +Global +ChannelNorm +0\.3 +-30\.\d %", table[1])
    assert "\x1b" not in done.out
    assert table[-4] == "exp/results.csv   all figures, a row a cell"


def test_figures_are_those_of_pruning_by_hand(folder: Path) -> None:
    """And do not depend on the cells beside, with which scores are shared."""
    measures = ["Taylor", "ChannelNorm"]
    experiment = Experiment(["TwoLayerMLP"], measures=measures, amounts=[0.2, 0.5], seeds=[3])
    done = run_experiment(experiment, "exp")
    splits = splits_for("TwoLayerMLP", "Digits")
    network = find_network(Request("twolayermlp"))
    examples = network.example_inputs(3)
    for cell in done.cells:
        result = prune(
            network.model,
            examples,
            100 * cell.setting.amount,
            measure=cell.setting.measure,
            seed=3,
            calibration=sample(splits, 16, 3),
        )
        assert cell.figures["pruned"] == evaluate(result.model, splits.test, examples).described()
        assert cell.last["parameters"] == result.report.parameters.after
    by_hand = evaluate(network.model, splits.test, examples).described()
    assert all(cell.figures["before"] == by_hand for cell in done.cells)
    assert all(cell.verification["oracle"] == "masked" for cell in done.cells)
    assert all(cell.verification["max_relative_error"] <= 1e-5 for cell in done.cells)
    row = rows_of(folder / "exp")[0]
    cell = next(c for c in done.cells if c.setting.measure == "ChannelNorm")
    assert row["accuracy_before"] == str(by_hand["accuracy"])
    assert row["accuracy_pruned"] == str(cell.figures["pruned"]["accuracy"])
    assert (row["accuracy_recalibrated"], row["accuracy_finetuned"]) == ("", "")
    assert row["top_k"] == "5"
    assert row["loss_after"] == str(cell.last["loss"])
    assert row["parameters_after"] == str(cell.last["parameters"])
    assert row["oracle"] == "masked"
    assert float(row["oracle_error"]) == cell.verification["max_relative_error"]


def test_json(run: Run) -> None:
    done = run(*MLP, "--amount", "0.5", "--json")
    facts = json.loads(done.out)
    assert facts["files"] == {
        kind: f"experiment/{name}.{kind}"
        for kind, name in (
            ("csv", "results"),
            ("svg", "accuracy"),
            ("png", "accuracy"),
            ("html", "report"),
        )
    }
    (cell,) = facts["cells"]
    assert cell["setting"]["amount"] == 0.5
    assert cell["figures"]["pruned"]["accuracy"] < cell["figures"]["before"]["accuracy"]
    assert cell["error"] == ""


def test_settings_of_a_measure(run: Run, folder: Path) -> None:
    arguments = '{"ChannelNorm": [{"p": 1}, {"p": 2}]}'
    names = ("--measure-name", "ChannelNorm", "ChannelRandom")
    assert run(*MLP, *names, "--measure-args", arguments, "--amount", "0.5").code == 0
    rows = rows_of(folder / "experiment")
    assert [(row["measure"], row["measure_args"]) for row in rows] == [
        ("ChannelNorm", '{"p": 1}'),
        ("ChannelNorm", '{"p": 2}'),
        ("ChannelRandom", "{}"),
    ]
    # Without the measure's name, where there is one.
    one = run(*MLP, "--measure-args", '{"p": 2}', "--amount", "0.5")
    assert one.lines == ["1 of 1 cell is there already"]
    assert " ChannelNorm (p=2) " in one.out


@pytest.mark.parametrize("method", ["Local", "Global"])
def test_amounts_of_neurons_are_those_of_prune_mlp(method: str, folder: Path) -> None:
    experiment = Experiment(
        ["SixLayerMLP"],
        ["WeightedPageRank"],
        [method],
        [0.4],
        target="neurons",
        measure_args={"gamma": 0.7},
    )
    (cell,) = run_experiment(experiment, "exp").cells
    metrics, _ = prune_mlp(
        "SixLayerMLP", "Digits", method_name=method, measure_args={"gamma": 0.7}, amount=0.4
    )
    assert cell.last["accuracy"] == metrics["after"]["top1_accuracy"]
    assert cell.last["parameters"] == metrics["after"]["parameters"]


def test_lists_in_every_way() -> None:
    words = ["--amount", "0.1", "0.2,0.3", "--json", "--out-path", "x", "--seed", "1", "2"]
    spread_out = ["--amount", "0.1", "--amount", "0.2,0.3", "--json", "--out-path", "x"]
    assert spread(words) == [*spread_out, "--seed", "1", "--seed", "2"]
    assert spread(["--amount", "--seed", "1"]) == ["--amount", "--seed", "1"]
    assert spread(["--out-path", "x", "y"]) == ["--out-path", "x", "y"]


def test_a_convolutional_network_is_recalibrated_and_fine_tuned(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small part of the images will do."""

    def few(*arguments: Any) -> Any:
        splits = splits_for(*arguments)
        first = {part: Subset(getattr(splits, part), range(40)) for part in ("val", "test")}
        return replace(splits, **first, train=Subset(splits.train, range(64)))

    monkeypatch.setattr("pruners.experiments.compute.splits_for", few)
    experiment = Experiment(["ResNet20"], amounts=[0.4], recalibrate=1, finetune_epochs=1)
    (cell,) = run_experiment(experiment, "exp").cells
    assert list(cell.figures) == ["before", "pruned", "recalibrated", "finetuned"]
    assert cell.last == cell.figures["finetuned"]
    (row,) = rows_of(folder / "exp")
    assert row["accuracy_recalibrated"] == str(cell.figures["recalibrated"]["accuracy"])
    assert row["accuracy_finetuned"] == str(cell.last["accuracy"])
    (line,) = results._drawn([cell], [cell.setting]).lines
    assert list(line.y) == [cell.last["accuracy"]]


def test_random_weights_are_said(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATASETS, "Other", DATASETS["Digits"])
    done = run(
        *MLP, "--dataset", "Digits", "Other", "--seed", "0", "1", "--amount", "0.3",
        "--finetune-epochs", "1",
    )  # fmt: skip
    told = [line for line in done.lines if line.startswith("note: ")]
    assert told == [
        "note: TwoLayerMLP has random weights for Other (images of 1x8x8): those that come with it "
        "were trained on Digits"
    ]
    rows = {(row["dataset"], row["seed"]): row for row in rows_of(folder / "experiment")}
    assert [row["weights"] for row in rows.values()] == ["shipped", "shipped", "random", "random"]
    other = rows["Other", "0"]
    assert other["accuracy_before"] != rows["Other", "1"]["accuracy_before"]
    assert float(other["accuracy_finetuned"]) > float(other["accuracy_pruned"]) + 20


# --- going on ----------------------------------------------------------------------------------

GRID = ("--measure-name", "ChannelNorm", "ChannelRandom", "--amount", "0.3", "0.6", "--seed", "0")


@pytest.mark.usefixtures("pictures")
def test_the_same_bytes_in_whatever_order(folder: Path, computed: list[Setting]) -> None:
    """At once, or in three runs: other lists in a folder extend it, and repeat nothing."""
    experiment = Experiment(["TwoLayerMLP"], ["ChannelNorm", "ChannelRandom"], amounts=[0.3, 0.6])
    run_experiment(experiment, "a")
    del computed[:]
    run_experiment(replace(experiment, amounts=[0.6], measures=["ChannelRandom"]), "b")
    torch.rand(1)  # the global random state does not matter
    run_experiment(replace(experiment, amounts=[0.6]), "b")
    run_experiment(replace(experiment, amounts=[0.6, 0.3]), "b")
    run_experiment(replace(experiment, amounts=[0.3]), "b")
    assert len(computed) == len({setting.key for setting in computed}) == 4
    assert contents(folder / "a") == contents(folder / "b")
    assert {"accuracy.png", "accuracy.svg", "results.csv"} < set(contents(folder / "a"))
    runs = json.loads((folder / "b/experiment.json").read_text())["runs"]
    assert [run["amounts"] for run in runs] == [[0.6], [0.6], [0.6, 0.3], [0.3]]
    run_experiment(replace(experiment, amounts=[0.3]), "b")
    assert len(json.loads((folder / "b/experiment.json").read_text())["runs"]) == 4


STUCK = """
import time
from pruners.methods import global_ranking
from pruners.registry import register_method

@register_method("Stuck")
def stuck(amount, layer_list, device):
    print("stuck", flush=True)
    time.sleep(600)
"""


def test_a_killed_run_goes_on(run: Run, folder: Path, computed: list[Setting]) -> None:
    (folder / "stuck.py").write_text(STUCK)
    methods = ("--method-name", "Local", "Stuck", "Global")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "app.py"), *MLP, *GRID, *methods, "--plugin", "stuck.py"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if line == "stuck\n":
            break
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(said) == 5
    cells = contents(folder / "experiment/cells")
    assert len(cells) == len(rows_of(folder / "experiment")) == 4
    done = run(*MLP, *GRID, "--method-name", "Local", "Global")
    assert done.lines[0] == "4 of 8 cells are there already"
    assert [setting.method for setting in computed] == ["Global"] * 4
    # What was stored is as it was, and all is as if nothing had happened.
    assert cells.items() <= contents(folder / "experiment/cells").items()
    assert run(*MLP, *GRID, "--method-name", "Local", "Global", "--out-path", "again").code == 0
    assert contents(folder / "experiment") == contents(folder / "again")


def press(*arguments: object) -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.1)


def swallow(*arguments: object) -> None:
    """What Ctrl-C hits may make another exception of it, which may pass for the user's."""
    try:
        try:
            press()
        except KeyboardInterrupt:
            raise RuntimeError("operator failed") from None
    except RuntimeError as error:
        raise PrunerError("measure Mine: raised RuntimeError") from error


@pytest.mark.parametrize("pressed", [press, swallow])
def test_ctrl_c(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, pressed: Callable[..., None]
) -> None:
    with monkeypatch.context() as patch:
        stages = Bench._stages
        calls: list[Setting] = []

        def second(self: Bench, setting: Setting, *rest: Any) -> Any:
            calls.append(setting)
            if len(calls) == 2:
                pressed()
            return stages(self, setting, *rest)

        patch.setattr(Bench, "_stages", second)
        done = run(*MLP, "--amount", "0.3", "0.6")
    assert done.code == 130
    assert done.out == ""
    assert done.lines[1:] == [
        "1 of 2 cells are in experiment; the same command goes on from there",
        "interrupted; written before: experiment/results.csv",
    ]
    assert len(contents(folder / "experiment/cells")) == 1
    assert run(*MLP, "--amount", "0.3", "0.6").code == 0
    assert len(rows_of(folder / "experiment")) == 2


def damage(path: Path, how: str) -> str:
    """Why it is no cell then."""
    content = path.read_bytes()
    match how:
        case "cut":
            path.write_bytes(content[: len(content) // 2])
        case "empty":
            path.write_bytes(b"")
        case "other":
            path.write_text("[1]")
        case "noise":
            path.write_bytes(b"\xff\xfe")
        case "changed":
            path.write_bytes(content.replace(b'"accuracy": 9', b'"accuracy": 8'))
            return "changed since it was stored"
        case "moved":
            renamed = path.with_name("Another.json")
            path.rename(renamed)
            path.write_bytes(renamed.read_bytes())
            return "holds the cell"
    return "no whole cell"


@pytest.mark.parametrize("how", ["cut", "empty", "other", "noise", "changed"])
def test_a_damaged_cell_is_computed_again(
    run: Run, folder: Path, computed: list[Setting], how: str
) -> None:
    assert run(*MLP, "--amount", "0.3", "0.6").code == 0
    before = contents(folder / "experiment")
    path = sorted((folder / "experiment/cells").iterdir())[0]
    why = damage(path, how)
    del computed[:]
    done = run(*MLP, "--amount", "0.3", "0.6")
    assert done.lines[:2] == [
        f"1 cell is computed again: experiment/cells/{path.name}: damaged ({why})",
        "1 of 2 cells are there already",
    ]
    assert len(computed) == 1
    assert contents(folder / "experiment") == before


def test_a_damaged_cell_of_other_lists_is_left_out(run: Run, folder: Path) -> None:
    assert run(*MLP, "--amount", "0.3", "0.6").code == 0
    first, second = sorted((folder / "experiment/cells").iterdir())
    second.write_text("{}")
    first.with_name("copy.json").write_bytes(first.read_bytes())
    done = run(*MLP, "--amount", "0.3")
    assert done.code == 0
    assert sorted(done.lines[:2]) == [
        f"left out: experiment/cells/{second.name} is damaged (no whole cell)",
        f"left out: experiment/cells/copy.json is damaged (holds the cell {first.stem})",
    ]
    assert [row["amount"] for row in rows_of(folder / "experiment")] == ["0.3"]


def test_cells_of_other_versions_are_computed_again(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(*MLP, "--amount", "0.3", "0.6").code == 0
    monkeypatch.setattr("pruners.experiments.cells.__version__", "9.9")
    done = run(*MLP, "--amount", "0.3")
    assert done.lines[0] == "1 cell is computed again: made with pruners 0.1.0, now 9.9"
    assert [row["pruners"] for row in rows_of(folder / "experiment")] == ["9.9", "0.1.0"]


PLUGIN = """
from pruners.registry import register_measure

@register_measure("Mine")
def mine(*, weight, **context):
    return weight.square().mean(1)
"""


def test_cells_of_another_plugin_are_computed_again(
    run: Run, folder: Path, computed: list[Setting], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SCORING_MEASURES, "Mine", lambda **context: None)
    (folder / "mine.py").write_text(PLUGIN)
    command = (*MLP, "--plugin", "mine.py", "--measure-name", "Mine", "ChannelNorm")
    assert run(*command, "--amount", "0.3").code == 0
    first = computed[:]
    del computed[:], sys.modules["mine"]
    (folder / "mine.py").write_text(PLUGIN.replace("square", "abs"))
    done = run(*command, "--amount", "0.3")
    assert re.fullmatch(
        r"1 cell is computed again: made with measure \w{12}, now \w{12}", done.lines[0]
    )
    assert computed == first[:1]
    del sys.modules["mine"]


def test_every_option_is_part_of_what_a_cell_is() -> None:
    (setting,) = Experiment(["TwoLayerMLP"], amounts=[0.3]).settings()
    others: dict[str, Any] = {
        "model": "SixLayerMLP", "dataset": "MNIST", "method": "Local", "measure": "Taylor",
        "measure_args": {"p": 2}, "target": "macs", "amount": 0.31, "seed": 1, "recalibrate": 0,
        "finetune_epochs": 1, "calibrate": 1, "device": "cuda",
    }  # fmt: skip
    assert set(others) == {field.name for field in fields(Setting)}
    keys = [replace(setting, **{name: value}).key for name, value in others.items()]
    assert len({setting.key, *keys}) == len(keys) + 1
    assert re.fullmatch(r"TwoLayerMLP-Digits-Global-ChannelNorm-0\.3-0-\w{10}", setting.key)
    odd = replace(setting, model="../../a b" * 50, measure="é:*?")
    assert re.fullmatch(r"[\w.-]{30,128}", odd.key, re.ASCII)
    # The same ones twice are one, and 0.30 is 0.3.
    assert len(Experiment(["TwoLayerMLP"] * 2, amounts=[0.3, 0.30]).settings()) == 1


# --- cells that fail ---------------------------------------------------------------------------


def test_an_amount_out_of_reach_stops_no_other(
    run: Run, folder: Path, computed: list[Setting]
) -> None:
    done = run(*MLP, "--amount", "0.999", "0.3")
    assert done.code == 0
    message = r"--prune-pct 99\.9: at most 99\.1 percent of the parameters can be removed .*"
    assert re.search(rf"0\.999, seed 0: failed: {message} \(\d", done.lines[0])
    assert re.search(r" 0\.999 +failed: --prune-pct", done.out)
    first, second = rows_of(folder / "experiment")
    assert (first["error"], second["accuracy_pruned"]) == ("", "")
    assert re.fullmatch(message, second["error"])
    # It would fail again.
    again = run(*MLP, "--amount", "0.999", "0.3")
    assert again.out == done.out
    assert len(computed) == 2
    failed = run(*MLP, "--amount", "0.999")
    assert failed.code == 2
    assert re.fullmatch(
        f"error: no cell has figures; the first failed: {message}", failed.lines[-1]
    )


def test_without_figures_there_is_no_plot(run: Run, folder: Path) -> None:
    assert run(*MLP, "--amount", "0.999").code == 2
    assert {path.name for path in (folder / "experiment").iterdir()} == {
        *("experiment.json", "cells", "results.csv"),
    }


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (VerificationError("x: not equal; nothing was written"), "error: x: not equal; nothing .*"),
        (KeyError("x"), r"error: unexpected KeyError: 'x' \(--debug shows where\)"),
    ],
)
def test_a_bug_in_a_cell_is_said_at_the_end(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    compared = PruningResult.compared

    def fails(self: PruningResult) -> Outcome:
        if self.pruning.options.prune_pct == 30:
            raise error
        return compared(self)

    with monkeypatch.context() as patch:
        patch.setattr(PruningResult, "compared", fails)
        done = run(*MLP, "--amount", "0.3", "0.6")
    assert done.code == 1
    assert f"0.3, seed 0: {type(error).__name__}: " in done.lines[0]
    assert done.lines[-2].startswith("1 of 2 cells are in experiment; ")
    assert re.fullmatch(message, done.lines[-1])
    # Nothing is handed over that was not shown to be exact.
    assert [row["amount"] for row in rows_of(folder / "experiment")] == ["0.6"]
    assert run(*MLP, "--amount", "0.3", "0.6").code == 0
    assert len(rows_of(folder / "experiment")) == 2


def test_figures_of_a_network_that_is_not_its_oracle() -> None:
    """Compared in this process as in a fresh one: source, weights, and where both are silent."""
    network = find_network(Request("twolayermlp"))
    result = prune(network.model, network.example_inputs(), 50)
    outcome = result.compared()
    assert (outcome.oracle, outcome.ok, outcome.random_weights) == ("masked", True, False)
    assert 0 <= outcome.error <= 1e-5
    result.state_dict["fc1.weight"] = result.state_dict["fc1.weight"].flip(0)
    with pytest.raises(VerificationError, match=r"not equal to the masked oracle \(\d\.\d\de.*\)"):
        result.compared()
    result.state_dict["fc1.weight"] = result.state_dict["fc1.weight"] * torch.nan
    with pytest.raises(VerificationError, match="NaN in the output of the slim network"):
        result.compared()
    with torch.no_grad():
        network.model.get_parameter("fc2.weight").zero_()
    silent = prune(network.model, network.example_inputs(), 50)
    assert silent.compared().random_weights


# --- files -------------------------------------------------------------------------------------


def test_files_are_kept_on_request(run: Run, folder: Path, computed: list[Setting]) -> None:
    assert run(*MLP, "--amount", "0.5").code == 0
    done = run(*MLP, "--amount", "0.5", "0.999", "--keep-files")
    assert done.code == 0
    assert done.lines[0] == "1 cell is computed again: no files were kept of them"
    (name,) = (path.name for path in (folder / "experiment/files").iterdir())
    cell = read_cell(folder / f"experiment/cells/{name}.json")
    assert cell.files == tuple(
        f"files/{name}/twolayermlp_50{rest}"
        for rest in (".py", ".json", "_pruned_v1.0.pth", "_pruned_v1.0.json")
    )
    manifest = json.loads((folder / "experiment" / cell.files[1]).read_text())
    assert manifest["verification"] == cell.verification
    assert manifest["evaluation"] == cell.figures
    del computed[:]
    assert run(*MLP, "--amount", "0.5", "0.999", "--keep-files").code == 0
    assert run(*MLP, "--amount", "0.5").code == 0
    assert computed == []


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_folder_of_something_else(run: Run, folder: Path, what: str) -> None:
    (folder / "exp").mkdir()
    name = "notes.txt" if what == "file" else "experiment.json"
    (folder / "exp" / name).write_text('{"kind": "shopping"}')
    done = run(*MLP, "--out-path", "exp")
    assert done.code == 2
    assert done.lines == [
        "error: --out-path exp: holds something else; expected a new or an empty folder, or that "
        "of an experiment"
    ]
    assert len(list((folder / "exp").iterdir())) == 1


# --- refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "--model-name: missing; expected registered networks, such as .*"),
        ("--model-name TwoLayrMLP", r"model TwoLayrMLP: unknown; did you mean TwoLayerMLP\?; .*"),
        ("--model-name ,", "--model-name: the list is empty; expected at least one"),
        ("--measure-name Tailor", r"measure Tailor: unknown; did you mean Taylor\?.*"),
        ("--method-name Globl", r"method Globl: unknown; did you mean Global.*"),
        ("--dataset Digit", r"dataset Digit: unknown; did you mean Digits\?.*"),
        ("--dataset CIFAR10", "dataset CIFAR10: .* is missing; .*"),
        ("--amount 1", "--amount 1.0: expected a share of at least 0 and below 1, such as 0.3 .*"),
        ("--amount 30", "--amount 30.0: expected a share .*"),
        ("--amount -0.1", "--amount -0.1: expected a share .*"),
        ("--amount nan", "--amount nan: expected a share .*"),
        ("--amount 0.3 half", "--amount half: expected a share .*"),
        ("--seed 0 x", "--seed x: expected a whole number of at least 0"),
        ("--seed -1", "--seed -1: expected a whole number of at least 0"),
        ("--calibrate 0", "--calibrate 0: expected a whole number of at least 1"),
        ("--finetune-epochs -1", "--finetune-epochs -1: expected a whole number of at least 0"),
        ("--target parms", r"--target parms: unknown; did you mean params\?; expected one of .*"),
        (
            "--target neurons --model-name ResNet20",
            "--target neurons: ResNet20 is no multilayer perceptron; expected --target .*",
        ),
        ("--measure-args {", r"--measure-args {: is not JSON .*"),
        ('--measure-args {"q":1}', "--measure-args: ChannelNorm takes no argument 'q'; .*"),
        ('--measure-args {"p":-1}', "measure ChannelNorm: p=-1; expected a number above 0"),
        (
            '--measure-args {"Taylor":{}}',
            r"--measure-args: Taylor is not in the list of measures \(ChannelNorm\); add "
            "--measure-name Taylor, or leave its arguments out",
        ),
        (
            '--measure-name ChannelNorm Taylor --measure-args {"p":1}',
            r'--measure-args {"p": 1}: which measure takes them\? .*',
        ),
        ('--measure-args {"ChannelNorm":[]}', r"--measure-args: ChannelNorm has \[\]; expected .*"),
        ("--out-path taken", r"--out-path taken: cannot be written \(.*\); choose another folder"),
        ("--device gpu", "--device gpu: unknown; expected such as cpu, .*"),
        ("--plugin none.py", "--plugin none.py: no such file; .*"),
        ("--out-path x y", r"Got unexpected extra argument.*\(y\).*"),
        ("--tensorboard", r"--tensorboard: needs the package tensorboard, which is not installed; "
                          r"pip install 'pruners\[tensorboard\]'"),
        ("--wandb me", r"--wandb me: needs the package wandb, .* install 'pruners\[wandb\]'"),
    ],
)  # fmt: skip
def test_bad_options(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, message: str
) -> None:
    for name in ("wandb", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]
    (folder / "taken").write_text("")
    model = () if not arguments or "--model-name" in arguments else MLP[1:]
    done = run("experiment", *model, *arguments.split())
    assert done.code == 2
    assert re.fullmatch(f"error: {message}", done.lines[-1]), done.lines
    assert len(done.lines) == 1
    assert done.out == ""
    assert [path.name for path in folder.iterdir()] == ["taken"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"models": "TwoLayerMLP"}, r"models 'TwoLayerMLP': expected a list, such as \['TwoLay"),
        ({"seeds": 3}, r"seeds 3: expected a list, such as \[3\]"),
        ({"amounts": ["0.3"]}, r"--amount 0\.3: expected a share"),
        ({"amounts": []}, r"--amount: the list is empty"),
        ({"seeds": [0.5]}, r"--seed 0\.5: expected a whole number"),
        ({"measure_args": {"p": {1}}}, r"--measure-args: cannot be stored \(.*\); expected plain"),
    ],
)
def test_bad_fields(folder: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(PrunerError, match=message):
        run_experiment(Experiment(**{"models": ["TwoLayerMLP"], **wrong}), "exp")
    assert not (folder / "exp").exists()


# --- trackers ----------------------------------------------------------------------------------


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The runs that a stand-in for wandb was told of."""
    runs: list[dict[str, Any]] = []

    def init(**options: Any) -> SimpleNamespace:
        run = {**options, "logged": [], "exit": None}
        runs.append(run)
        return SimpleNamespace(
            log=run["logged"].append, finish=lambda exit_code: run.update(exit=exit_code)
        )

    module = ModuleType("wandb")
    module.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    return runs


def test_wandb(run: Run, folder: Path, wandb: list[dict[str, Any]]) -> None:
    assert run(*MLP, "--amount", "0.3").code == 0
    named = ("--wandb", "pruning", "--out-path", "experiment")
    assert run(*MLP, "--amount", "0.3", "0.999", *named).code == 0
    # Also the cell that was there already.
    first, second = wandb
    stems = {path.stem for path in (folder / "experiment/cells").iterdir()}
    assert {first["id"], second["id"]} == stems
    assert first["id"] == first["name"]
    assert (first["project"], first["group"], first["resume"]) == ("pruning", "experiment", "allow")
    assert first["dir"] == str(folder / "experiment")
    assert first["config"]["amount"] == 0.3
    assert first["config"]["measure"] == "ChannelNorm"
    assert first["config"]["weights"] == "shipped"
    (figures,) = first["logged"]
    assert figures["accuracy"] == figures["pruned/accuracy"] < figures["before/accuracy"]
    assert figures["pruned/parameters"] < figures["before/parameters"]
    assert second["logged"] == [{}]
    assert (first["exit"], second["exit"]) == (0, 1)
    # The same cell is the same run.
    run(*MLP, "--amount", "0.3", *named)
    assert wandb[2]["id"] == first["id"]
    assert wandb[2]["logged"] == first["logged"]


def test_a_tracker_that_fails_costs_no_cell(
    run: Run, folder: Path, wandb: list[dict[str, Any]]
) -> None:
    def offline(**options: Any) -> None:
        raise OSError("no\nnetwork")

    sys.modules["wandb"].init = offline  # type: ignore[attr-defined]
    done = run(*MLP, "--amount", "0.3", "0.6", "--wandb", "pruning")
    assert done.code == 0
    assert [line for line in done.lines if line.startswith("warning: ")] == [
        "warning: wandb: OSError: no network; nothing more is logged there; the same command logs "
        "all cells once it works"
    ]
    assert len(rows_of(folder / "experiment")) == 2


def test_tensorboard(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[tuple[str, dict[str, Any], dict[str, float]]] = []

    class SummaryWriter:
        def __init__(self, log_dir: str) -> None:
            self.folder = Path(log_dir)
            self.folder.mkdir(parents=True, exist_ok=True)

        def add_hparams(
            self, options: dict[str, Any], metrics: dict[str, float], run_name: str
        ) -> None:
            assert run_name == "."
            # What add_hparams takes.
            assert all(isinstance(value, int | float | str) for value in options.values())
            assert all(isinstance(value, int | float) for value in metrics.values())
            logged.append((self.folder.name, options, metrics))
            number = len(list(self.folder.iterdir()))
            (self.folder / f"events.out.tfevents.{time.time_ns()}.{number}").write_text("")

        def close(self) -> None:
            pass

    module = ModuleType("tensorboard")
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    arguments = ("--measure-args", '{"p": 2}', "--amount", "0.3", "0.999", "--tensorboard")
    for _ in range(2):
        assert run(*MLP, *arguments).code == 0
    (own,) = (folder / "experiment/tensorboard").iterdir()
    assert [name for name, *_ in logged] == [own.name] * 2
    assert len(list(own.iterdir())) == 1
    _, options, metrics = logged[0]
    assert (options["amount"], options["measure_args"]) == (0.3, "p=2")
    assert metrics["accuracy"] == metrics["pruned/accuracy"]


# --- the picture -------------------------------------------------------------------------------


def cells_of(experiment: Experiment, accuracies: Sequence[float | None]) -> list[Cell]:
    """Cells without networks; None for one that failed."""
    settings = experiment.settings()
    return [
        Cell(setting, {}, "shipped", error="no")
        if accuracy is None
        else Cell(
            setting,
            {},
            "shipped",
            {"before": {"accuracy": 99.0}, "pruned": {"accuracy": accuracy}},
        )
        for setting, accuracy in zip(settings, accuracies, strict=True)
    ]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[list[Panel], dict[str, Any]]]:
    """What is drawn of cells."""

    def of(cells: Sequence[Cell]) -> tuple[list[Panel], dict[str, Any]]:
        seen: list[Any] = []
        monkeypatch.setattr(
            results, "line_plot", lambda panels, **options: seen.extend((panels, options))
        )
        results.accuracy_plot(cells)
        return seen[0], seen[1]

    return of


def test_a_line_a_measure_a_panel_a_method(drawn: Any) -> None:
    experiment = Experiment(
        ["TwoLayerMLP"], ["ChannelNorm", "ChannelRandom"], ["Local", "Global"], [0.3, 0.1, 0.5]
    )
    accuracies = [*(70.0, 90.0, None), *(71.0, 91.0, 51.0), *(72.0, 92.0, 52.0), *[None] * 3]
    panels, options = drawn(cells_of(experiment, accuracies))
    assert [panel.title for panel in panels] == [
        "TwoLayerMLP on Digits, Global",
        "TwoLayerMLP on Digits, Local",
    ]
    norm = Line("ChannelNorm", [10, 30], [90, 70])
    random = Line("ChannelRandom", [10, 30, 50], [91, 71, 51])
    assert [line.label for line in panels[0].lines] == ["ChannelNorm"]
    assert panels[1].lines == [norm, random]
    assert [panel.level for panel in panels] == [99, 99]
    assert options["x_label"] == "amount (% of parameters)"
    assert options["y_label"] == "test accuracy (%)"
    assert (options["columns"], options["about"]) == (2, "")


def test_a_band_over_seeds(drawn: Any) -> None:
    experiment = Experiment(["TwoLayerMLP"], amounts=[0.1, 0.3], seeds=[0, 1, 2], target="macs")
    ((panel,), options) = drawn(cells_of(experiment, [90, 70, 91, 60, 95, None]))
    assert panel.lines == [Line("ChannelNorm", [10, 30], [92, 65], [90, 60], [95, 70])]
    assert options["about"] == "lines: mean of 3 seeds, bands: lowest to highest"
    assert options["x_label"] == "amount (% of multiply-accumulates)"


def test_what_cannot_be_compared_is_in_panels_of_its_own(drawn: Any) -> None:
    one = Experiment(["TwoLayerMLP"], amounts=[0.1])
    others = [replace(one, finetune_epochs=3), replace(one, target="macs")]
    cells = [cell for e in (one, *others) for cell in cells_of(e, [90.0])]
    panels, options = drawn(cells)
    assert [panel.title for panel in panels] == [
        "TwoLayerMLP on Digits, Global, of multiply-accumulates, fine-tuned 0 epochs",
        "TwoLayerMLP on Digits, Global, of parameters, fine-tuned 0 epochs",
        "TwoLayerMLP on Digits, Global, of parameters, fine-tuned 3 epochs",
    ]
    assert options["x_label"] == "amount (% of multiply-accumulates or parameters)"


def test_pictures_repeat_whatever_the_users_settings() -> None:
    lines = [
        Line("a line", [10, 30], [90, 60], [88, 50], [91, 70]),
        Line("another <line>", [10, 20, 30], [80, 60, 50]),
    ]

    def draw() -> Pictures:
        panels = [Panel("first", lines, level=95), Panel("second", lines[:1])]
        return line_plot(panels, x_label="x (%)", y_label="y (%)", about="of two")

    first = draw()
    with matplotlib.rc_context({"font.size": 20, "svg.hashsalt": None, "axes.grid": False}):
        assert draw() == first
        assert matplotlib.rcParams["font.size"] == 20
    assert first.svg.startswith(b"<?xml")
    assert b"<dc:date>" not in first.svg
    assert first.png.startswith(b"\x89PNG")


def test_the_plot_shows_every_line_once(monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **options: figures.append(self))
    labels = [f"measure {i}" for i in range(56)]
    lines = [Line(label, [1, 2], [i, i + 1]) for i, label in enumerate(labels)]
    panels = [Panel(f"panel {i}", lines, level=3) for i in range(4)]
    line_plot(panels, x_label="amount (%)", y_label="accuracy (%)")
    figure = figures[0]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["unpruned", *labels]
    used = [axes for axes in figure.axes if axes.lines]
    assert [axes.get_title(loc="left") for axes in used] == [f"panel {i}" for i in range(4)]
    looks = {(line.get_color(), line.get_marker()) for line in used[0].lines[1:]}
    assert len(looks) == 56
    # The same label looks alike everywhere; a row's last panels tell the unit.
    assert {(line.get_color(), line.get_marker()) for line in used[3].lines[1:]} == looks
    assert [axes.get_xlabel() for axes in used] == ["", "amount (%)", "amount (%)", "amount (%)"]
    assert [axes.get_ylabel() for axes in used] == ["accuracy (%)", "", "", "accuracy (%)"]


def test_nothing_to_draw() -> None:
    assert results.accuracy_plot([]) is None
