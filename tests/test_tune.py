"""Learning rate and weight decay by trial: what is chosen, how it is shown, how it is resumed."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

import app
from pruners import tuning
from pruners.datasets import DataSplits, load_dataset
from pruners.errors import DivergedError
from pruners.recipe import Recipe
from pruners.training import TrainingLog, fit
from pruners.tuning import Trial, best_of, parsed_grid, tune

NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, kernel_size=3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(128, 10)

    def forward(self, x):
        return self.fc(torch.flatten(torch.max_pool2d(self.bn(self.conv(x)).relu(), 2), 1))
"""
TUNE = ("tune", "--arch", "nets.py:Net", "--input-shape", "1,8,8", "--epochs", "2")
GRID = ("--lr-grid", "0.01,1e30,0.1", "--wd-grid", "0,5e-4")


class Untouchable(Dataset[tuple[torch.Tensor, ...]]):
    def __len__(self) -> int:
        return 5

    def __getitem__(self, position: int) -> tuple[torch.Tensor, ...]:
        raise AssertionError("the test split plays no part")


def digits() -> DataSplits:
    return dataclasses.replace(load_dataset("Digits", input_shape=(1, 8, 8)), test=Untouchable())


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


Logs = dict[tuple[float, float], tuple[float, float] | None]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Logs], list[Recipe]]:
    """Trials that come out as they are told: (validation accuracy, loss) by lr and weight decay.

    The weights after a trial are the learning rate. Returns the list that the recipes go to.
    """

    def script(outcomes: Logs) -> list[Recipe]:
        seen: list[Recipe] = []

        def scripted_fit(model: nn.Module, splits: DataSplits, recipe: Recipe, **_: Any) -> Any:
            seen.append(recipe)
            assert torch.equal(model[1].weight, network()[1].weight)  # type: ignore[index]
            nn.init.constant_(model[1].weight, recipe.lr)  # type: ignore[index]
            outcome = outcomes[recipe.lr, recipe.weight_decay]
            if outcome is None:
                raise DivergedError("the loss is nan")
            percent, loss = outcome
            return TrainingLog((9.0, loss), (1.0, percent, percent - 1), 1, 0.0)

        monkeypatch.setattr(tuning, "fit", scripted_fit)
        return seen

    return script


def test_every_combination_from_the_same_start(scripted: Callable[[Logs], list[Recipe]]) -> None:
    seen = scripted({(0.1, 0): (50, 2), (0.1, 1e-4): (70, 3), (1, 0): None, (1, 1e-4): (60, 1)})
    model = network()
    done = tune(model, digits(), Recipe(2, "adamw", seed=5), [0.1, 1], [0, 1e-4])
    assert [(r.lr, r.weight_decay) for r in seen] == [(0.1, 0), (0.1, 1e-4), (1, 0), (1, 1e-4)]
    assert {(r.epochs, r.optimizer, r.seed) for r in seen} == {(2, "adamw", 5)}
    assert done.trials[0] == Trial(0.1, 0, 50, 2, 1)
    assert done.trials[2] == Trial(1, 0, None, None, None)
    assert done.best is done.trials[1]
    assert torch.equal(model[1].weight, torch.full((10, 64), 0.1))  # type: ignore[index]


def test_of_equal_accuracies_the_lower_loss_then_the_first() -> None:
    trials = [
        Trial(lr, 0, percent, loss, 1)
        for lr, percent, loss in ((1, 60, 2), (2, 80, 3), (3, 80, 2), (4, 80, 2))
    ]
    assert best_of(trials) is trials[2]
    assert best_of([]) is None
    assert best_of([Trial(1, 0, None, None, None)]) is None


def test_all_diverge(scripted: Callable[[Logs], list[Recipe]]) -> None:
    scripted({(1, 0): None, (10, 0): None})
    with pytest.raises(
        DivergedError,
        match=r"^tuning on Digits: training diverged in all 2 trials; expected a finite loss in "
        r"one; try learning rates below 1$",
    ):
        tune(network(), digits(), Recipe(1), [10, 1], [0])


def test_the_best_weights_are_those_that_training_gives() -> None:
    model, alone = network(), network()
    done = tune(model, digits(), Recipe(2), [0.001, 0.03], [0, 5e-4])
    assert done.best.lr == 0.03
    fit(alone, digits(), Recipe(2, lr=0.03, weight_decay=done.best.weight_decay))
    assert torch.equal(model[1].weight, alone[1].weight)  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "values"), [("0.1", (0.1,)), ("0.01, 0.03,1e-1", (0.01, 0.03, 0.1))]
)
def test_grids(text: str, values: tuple[float, ...]) -> None:
    assert parsed_grid("--lr-grid", "lr", text) == values


# --- the command -------------------------------------------------------------------------------


Run = Callable[..., SimpleNamespace]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "nets.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    return tmp_path


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def main(*arguments: str) -> SimpleNamespace:
        code = app.main(arguments)
        out, err = capsys.readouterr()
        return SimpleNamespace(code=code, out=out, err=err, error=err.splitlines()[-1])

    return main


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name not in ("nets.py", "__pycache__"))


def test_tune(run: Run, folder: Path) -> None:
    done = run(*TUNE, *GRID, "--out", "best.pth")
    assert done.code == 0
    header, *rows, empty, last = done.out.splitlines()
    assert re.split(r" {2,}", header.strip()) == [
        *("lr", "weight decay", "validation", "training loss", "best epoch")
    ]
    assert len(rows) == 6
    assert re.match(r"best +0\.1 ", rows[0])
    assert re.fullmatch(r" +1e\+30 +0\.0005 +diverged", rows[-1])
    percents = [float(row) for row in re.findall(r"(\d+\.\d\d) %  ", done.out)]
    assert len(percents) == 4
    assert percents == sorted(percents, reverse=True)
    assert empty == ""
    assert re.fullmatch(r"best\.pth  Net, \d\d\.\d\d % of the test images of Digits", last)
    assert "trial 3/6: lr 1e+30, weight decay 0\n" in done.err
    assert "diverged: training on Digits: the loss is" in done.err
    assert files(folder) == ["best.pth"]


def test_tune_as_json_without_a_file(run: Run, folder: Path) -> None:
    done = run(*TUNE, "--lr-grid", "0.01,1e30", "--wd-grid", "0", "--json", "--optimizer", "adamw")
    assert done.code == 0
    facts = json.loads(done.out)
    assert facts["network"] == "Net"
    assert facts["dataset"] == "Digits"
    assert facts["best"] == {"lr": 0.01, "weight_decay": 0}
    assert facts["weights"] is None
    first, second = facts["trials"]
    assert first["lr"] == 0.01
    assert first["val_accuracy"] > 50
    assert first["best_epoch"] == 2
    assert second == {
        **{"lr": 1e30, "weight_decay": 0, "val_accuracy": None, "loss": None, "best_epoch": None}
    }
    assert files(folder) == []


def test_a_grid_that_diverges_leaves_nothing_to_resume(run: Run, folder: Path) -> None:
    done = run(*TUNE, "--lr-grid", "1e30,1e29", "--wd-grid", "0", "--out", "best.pth")
    assert done.code == 2
    assert done.error.startswith("error: tuning on Digits: training diverged in all 2 trials; ")
    assert files(folder) == []


def stopped_after(trials: int, monkeypatch: pytest.MonkeyPatch, run: Run) -> SimpleNamespace:
    """`tune`, interrupted when so many trials are done."""
    count = 0

    def fit_or_stop(*arguments: Any, **named: Any) -> TrainingLog:
        nonlocal count
        count += 1
        if count > trials:
            raise KeyboardInterrupt
        return fit(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(tuning, "fit", fit_or_stop)
        return run(*TUNE, *GRID, "--out", "best.pth")


@pytest.mark.parametrize("trials", [1, 5])
def test_trials_that_are_done_are_not_repeated(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, trials: int
) -> None:
    whole = run(*TUNE, *GRID, "--out", "whole.pth")
    done = stopped_after(trials, monkeypatch, run)
    assert done.code == 130
    assert done.out == ""
    assert done.err.splitlines()[-2:] == [
        "best.pth.tuning: what is done so far; --resume goes on from there",
        "interrupted; written before: best.pth.tuning",
    ]
    # The results, and the weights of the best of them.
    best = {1: 0, 5: 4}[trials]
    assert files(folder) == ["best.pth.tuning", f"best.pth.tuning-{best}.pth", "whole.pth"]
    kept = json.loads(Path("best.pth.tuning").read_text())
    assert len(kept["trials"]) == trials
    # A kill between two renames leaves weights that nobody speaks of; or a run that was done.
    Path("best.pth.tuning-5.pth").write_bytes(b"")
    done = run(*TUNE, *GRID, "--out", "best.pth", "--resume")
    assert done.code == 0
    assert re.findall(r"trial (\d)/6", done.err) == list("123456"[trials:])
    assert done.out == whole.out.replace("whole.pth", "best.pth")
    assert files(folder) == ["best.pth", "whole.pth"]
    assert Path("best.pth").read_bytes() == Path("whole.pth").read_bytes()


def test_resuming_otherwise(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped_after(1, monkeypatch, run)
    resume = (*TUNE, *GRID, "--out", "best.pth", "--resume")
    assert run(*resume[:-1]).error == (
        "error: best.pth.tuning: left by an interrupted run; expected --resume, which goes on "
        "with it, or remove it to start anew"
    )
    done = run(*resume, "--lr-grid", "0.1", "--batch-size", "32", "--momentum", "0.8")
    assert done.code == 2
    assert done.error == (
        "error: best.pth.tuning: the run was started with other options: batch-size 32 (was 64), "
        "momentum 0.8 (was 0.9), lr grid 0.1 (was 0.01,1e+30,0.1); give the same again, or "
        "remove it to start anew"
    )
    Path("best.pth.tuning-0.pth").unlink()
    assert run(*resume).error == (
        "error: checkpoint best.pth.tuning-0.pth: no such file; did you mean best.pth.tuning?; "
        "remove best.pth.tuning to start anew"
    )
    Path("best.pth.tuning").write_text('{"settings": {}, "trials": [{}]}')
    assert re.fullmatch(
        r"error: best\.pth\.tuning: damaged, or not the results of trials \(.*\); remove it to "
        r"start anew",
        run(*resume).error,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--lr-grid", "0.1,x"],
            r"--lr-grid 0\.1,x: x is not a number; expected numbers with commas between them, "
            r"such as 0\.01,0\.03,0\.1",
        ),
        (["--lr-grid", ""], "--lr-grid : an empty place is not a number; .*"),
        (["--lr-grid", "0.1,,1"], "--lr-grid 0.1,,1: an empty place is not a number; .*"),
        (
            ["--lr-grid", "0.1,0"],
            r"--lr-grid 0\.1,0: 0 is out of range: expected a number above 0",
        ),
        (["--lr-grid", "nan"], "--lr-grid nan: nan is out of range: expected a number above 0"),
        (
            ["--wd-grid", "0,-1"],
            "--wd-grid 0,-1: -1 is out of range: expected a number of at least 0",
        ),
        (
            ["--wd-grid", "0.1,1e-1"],
            r"--wd-grid 0\.1,1e-1: 1e-1 stands twice; expected it once",
        ),
        (["--optimizer", "adam"], r"optimizer adam: unknown; did you mean adamw\? .*"),
        (["--resume"], "--resume: needs --out FILE, beside which results are kept"),
        (["--out", "x.bin"], r"--out x\.bin: expected a file that ends in \.safetensors or \.pth"),
        (["--arch", "resent"], r"--arch resent: unknown; did you mean resnet\? .*"),
    ],
)
def test_bad_options(run: Run, folder: Path, options: list[str], message: str) -> None:
    done = run(*TUNE, *options)
    assert done.code == 2
    assert re.fullmatch(f"error: {message}\n", done.err)
    assert files(folder) == []
