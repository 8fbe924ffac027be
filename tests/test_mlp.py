"""Multi-layer perceptrons of the zoo: what they are, what becomes of them, how large they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import image, with_telling_state
from torch import nn

import app
import models
from models.train_checkpoint import main as train_checkpoints
from models.train_checkpoint import train_checkpoint
from pruners import MODELS, PruningResult, prune
from pruners.image_files import RawSplit, RawSplits
from pruners.job import Data
from pruners.loading import import_source
from pruners.networks import Request, find_network, takes_any_image
from pruners.registry import DATASETS
from pruners.verify import Outcome, require, verify

WIDTHS = {
    "TwoLayerMLP": (256,),
    "ThreeLayerMLP": (256, 128),
    "SixLayerMLP": (256, 256, 128, 128, 64),
    "TwelveLayerMLP": (128,) * 11,
}
X = image(2, 1, 8, 8)

every_mlp = pytest.mark.parametrize("name", WIDTHS)


def shipped(name: str) -> nn.Module:
    return find_network(Request(name.lower())).model


def half(name: str) -> PruningResult:
    return prune(with_telling_state(shipped(name)), X, 50, name=name.lower())


# -- what they are ------------------------------------------------------------------------------


@every_mlp
def test_linears_with_relus_between_them(name: str) -> None:
    torch.manual_seed(0)
    model = getattr(models, name)(num_classes=7, in_features=48).double()
    assert MODELS[name]["wrapper"] is getattr(models, name)
    ends = (48, *WIDTHS[name], 7)
    layers = dict(model.named_children())
    assert list(layers) == [f"fc{i}" for i in range(1, len(ends))]
    assert tuple(m.in_features for m in layers.values()) == ends[:-1]
    assert tuple(m.out_features for m in layers.values()) == ends[1:]
    x = image(5, 3, 4, 4, dtype=torch.float64)
    by_hand = x.reshape(5, 48)
    for layer in [*layers.values()][:-1]:
        by_hand = F.relu(by_hand @ layer.weight.T + layer.bias)
    by_hand = by_hand @ model.get_submodule([*layers][-1]).weight.T
    torch.testing.assert_close(model(x), by_hand)


@every_mlp
def test_they_start_with_he_initialisation(name: str) -> None:
    torch.manual_seed(0)
    for layer in getattr(models, name)(in_features=784).children():
        assert layer.weight.std().item() == pytest.approx((2 / layer.in_features) ** 0.5, rel=0.1)
        assert not layer.bias.any()


# -- what becomes of them -----------------------------------------------------------------------


def test_at_half_they_equal_the_masked_original() -> None:
    """One fresh process verifies them all."""
    results = [half(name) for name in WIDTHS]
    outcomes = verify([result.case() for result in results])
    require(outcomes)
    assert len(outcomes) == 4
    assert all(o.oracle == "masked" and o.error <= 1e-5 for o in outcomes)
    for name, result in zip(WIDTHS, results, strict=True):
        assert result.report.parameters.removed_pct >= 50
        assert not result.report.warnings
        text = result.source
        assert f"class {name}(nn.Module):" in text
        assert "self.fc1 = nn.Linear(in_features, " in text
        assert "        x = torch.flatten(x, 1)\n        x = F.relu(self.fc1(x))\n" in text
        assert "        self.apply(he_initialisation)\n" in text


@every_mlp
def test_the_ends_stay_arguments(name: str) -> None:
    result = half(name)
    slim = getattr(import_source("ends", result.source), name.lower())
    assert slim(num_classes=7, in_features=48)(image(1, 3, 4, 4)).shape == (1, 7)
    # What one Linear loses, the next one does not read.
    layers = [m for m in result.model.modules() if isinstance(m, nn.Linear)]
    assert (layers[0].in_features, layers[-1].out_features) == (64, 10)
    assert [m.out_features for m in layers[:-1]] == [m.in_features for m in layers[1:]]


@every_mlp
def test_nothing_removed_is_the_network_itself(name: str) -> None:
    model = shipped(name)
    with torch.no_grad():
        assert torch.equal(prune(model, X, 0).model(X), model(X))


# -- from the command line ----------------------------------------------------------------------


Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line in an empty folder; what it says as JSON."""
    monkeypatch.chdir(tmp_path)

    def main(*arguments: str) -> Any:
        assert app.main(arguments) == 0, capfd.readouterr().err
        return json.loads(capfd.readouterr().out)

    return main


@pytest.fixture
def mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    """MNIST's shape and number of classes, and no more."""
    labels = torch.arange(40) % 10
    split = RawSplit(torch.zeros(40, 1, 28, 28, dtype=torch.uint8), labels)
    entry = {**DATASETS["MNIST"], "wrapper": lambda folder, download: RawSplits(*[split] * 3)}
    monkeypatch.setitem(DATASETS, "MNIST", entry)


def test_shipped_weights_are_tested_on_digits_as_they_are_stored(run: Run) -> None:
    facts = run("--arch", "twolayermlp", "--prune-pct", "50", "--dry-run", "--json")
    assert (facts["network"], facts["weights"]) == ("TwoLayerMLP", "shipped")
    assert facts["input_shapes"] == [[1, 8, 8]]
    assert facts["test_accuracy"]["before"] >= 95
    assert facts["evaluation"]["before"]["macs"] == 64 * 256 + 256 * 10
    # Input, hidden values, those behind the ReLU.
    assert facts["evaluation"]["before"]["activation_bytes"] == 4 * (64 + 256 + 256)
    # The same where the dataset is named, and fine-tuning is asked for.
    named = ("--dataset", "Digits", "--finetune-epochs", "1")
    again = run("--arch", "twolayermlp", "--prune-pct", "50", *named, "--json")
    assert again["weights"] == "shipped"
    assert again["test_accuracy"]["before"] == facts["test_accuracy"]["before"]
    assert again["test_accuracy"]["finetuned"] > again["test_accuracy"]["pruned"]


@pytest.mark.usefixtures("mnist")
@pytest.mark.parametrize(
    ("options", "shape"),
    [
        (["--dataset", "MNIST"], [1, 28, 28]),
        (["--dataset", "MNIST", "--input-shape", "1,14,14"], [1, 14, 14]),
        (["--input-shape", "3,32,32", "--num-classes", "100"], [3, 32, 32]),
    ],
)
def test_the_size_of_the_input_is_that_of_the_images(
    run: Run, monkeypatch: pytest.MonkeyPatch, options: list[str], shape: list[int]
) -> None:
    outcome = Outcome("stub", True, 0.0, "", "masked", 1e-5)
    monkeypatch.setattr("pruners.base.PruningResult.verified", lambda self: outcome)
    facts = run("--arch", "twolayermlp", "--dry-run", "--json", *options)
    assert facts["weights"] == "random"
    assert facts["input_shapes"] == [shape]
    inputs, classes = torch.Size(shape).numel(), 100 if "--num-classes" in options else 10
    assert facts["parameters"]["before"] == inputs * 256 + 256 + 256 * classes + classes


@pytest.mark.usefixtures("mnist")
def test_who_takes_any_image() -> None:
    for name, entry in MODELS.items():
        assert takes_any_image(entry["family"]) == (name in WIDTHS)
    assert not takes_any_image("mlp.py:Net")
    assert Data("MNIST").load(Request("twolayermlp")).input_shape == (1, 28, 28)
    assert Data("MNIST").load(Request("resnet")).input_shape == (3, 32, 32)
    assert Data("MNIST").load().input_shape == (3, 32, 32)


def test_trained_anew_by_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        train_checkpoints(["TwoLayerMLP", "--epochs", "2", "--out", str(tmp_path)])
        percent = train_checkpoint("TwoLayerMLP", tmp_path / "again.safetensors", 2)
    finally:
        torch.set_num_threads(threads)
    line = f"twolayermlp_digits.safetensors: {percent:.2f} % of the test split\n"
    assert capsys.readouterr().out == line
    first, second = (tmp_path / f"{stem}.safetensors" for stem in (line.split(".")[0], "again"))
    assert first.read_bytes() == second.read_bytes()


def test_trained_anew_of_another_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train_checkpoints(["ResNet56"])
    expected = "ResNet56: no weights of it ship; expected among ResNet20, TwoLayerMLP, "
    assert expected in capsys.readouterr().err
