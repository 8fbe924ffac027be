"""`prune_mlp`: MLP-Rank's interface to the perceptrons of the zoo."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import models  # noqa: F401  registers the zoo
from pruners import (
    MLP_MODEL,
    MODELS,
    PrunerError,
    VerificationError,
    evaluate,
    prune,
    prune_mlp,
)
from pruners.base import PruningResult
from pruners.calibration import Calibration
from pruners.image_files import RawSplit, RawSplits
from pruners.loading import import_source
from pruners.measure_args import arguments_for, by_measure
from pruners.networks import Request, find_network
from pruners.registry import DATASETS
from pruners.sampling import BATCHES, sample
from pruners.verify import Outcome
from pruners.zoo import network_for, note_on_weights, splits_for

HIDDEN = {
    "TwoLayerMLP": [256],
    "ThreeLayerMLP": [256, 128],
    "SixLayerMLP": [256, 256, 128, 128, 64],
    "TwelveLayerMLP": [128] * 11,
}


def widths(metrics: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Of all layers, before and after."""
    pairs = metrics["removed"]["widths"].values()
    return [before for before, _ in pairs], [after for _, after in pairs]


@pytest.fixture
def other_data(monkeypatch: pytest.MonkeyPatch) -> str:
    """A dataset that no weights were trained on, of images of another shape."""
    labels = torch.arange(60) % 10
    images = torch.randint(256, (60, 1, 5, 6), generator=torch.Generator().manual_seed(0))
    split = RawSplit(images.to(torch.uint8), labels)
    entry = {**DATASETS["MNIST"], "wrapper": lambda folder, download: RawSplits(*[split] * 3)}
    monkeypatch.setitem(DATASETS, "Other", entry)
    return "Other"


# --- what goes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("amount", [0.3, 0.95])
def test_local_takes_the_amount_of_every_hidden_layer(name: str, amount: float) -> None:
    metrics, scores = prune_mlp(name, "Digits", amount=amount)
    before, after = widths(metrics)
    assert before == [*HIDDEN[name], 10]
    assert after == [*(n - int(amount * n + 1e-6) for n in HIDDEN[name]), 10]
    assert [len(values) for values in scores.values()] == before
    assert list(scores) == [f"fc{i + 1}" for i in range(len(before))]


@pytest.mark.parametrize("amount", [0.05, 0.3, 0.5])
def test_global_takes_the_amount_of_all_hidden_neurons(amount: float) -> None:
    for name, hidden in HIDDEN.items():
        metrics, _ = prune_mlp(name, "Digits", method_name="Global", amount=amount)
        before, after = widths(metrics)
        assert sum(before) - sum(after) == int(amount * sum(hidden) + 1e-6)
        assert after[-1] == 10


@pytest.mark.parametrize("method", ["Local", "Global"])
def test_nothing_and_almost_everything(method: str) -> None:
    nothing, scores = prune_mlp("ThreeLayerMLP", "Digits", method_name=method, amount=0)
    assert nothing["after"] == nothing["before"]
    assert len(scores) == 3
    almost, _ = prune_mlp("ThreeLayerMLP", "Digits", amount=0.999)
    assert widths(almost)[1] == [2, 2, 10]


def test_the_lowest_scores_go() -> None:
    metrics, scores = prune_mlp("TwoLayerMLP", "Digits", "ChannelNorm", amount=0.5)
    weight = find_network(Request("twolayermlp")).model.get_parameter("fc1.weight")
    torch.testing.assert_close(scores["fc1"].float(), weight.detach().abs().sum(1))
    best = scores["fc1"].argsort(descending=True)[:128].sort().values
    assert metrics["removed"]["widths"] == {"fc1": [256, 128], "fc2": [10, 10]}
    kept = prune_by_hand("ChannelNorm", {}).kept["fc1.weight"][0]
    assert kept.tolist() == best.tolist()


def prune_by_hand(measure: str, arguments: dict[str, Any]) -> PruningResult:
    """The same with `prune`: half of the hidden layer of `TwoLayerMLP`."""
    network = find_network(Request("twolayermlp"))
    splits = splits_for("TwoLayerMLP", "Digits")
    return prune(
        network.model,
        network.example_inputs(),
        0,
        ratio={"fc1": 0.5},
        measure=measure,
        measure_args=arguments,
        calibration=Calibration(sample(splits, BATCHES, 0)),
    )


# --- metrics and scores ------------------------------------------------------------------------


def test_metrics_are_those_of_the_evaluation() -> None:
    metrics, scores = prune_mlp("TwoLayerMLP", "Digits", amount=0.5, top_k=(1, 2, 5, 20))
    by_hand = prune_by_hand("WeightedPageRank", {})
    images = splits_for("TwoLayerMLP", "Digits").test
    examples = by_hand.pruning.example_inputs
    for when, model in (("before", by_hand.pruning.model), ("after", by_hand.model)):
        figures = metrics[when]
        for k in (1, 2, 5):
            expected = evaluate(model, images, examples, top_k=k).described()
            assert figures[f"top{k}_accuracy"] == expected["top_k_accuracy"]
        # There are ten classes.
        assert figures["top20_accuracy"] == 100
        for name in ("loss", "parameters", "macs", "activation_bytes", "bytes"):
            assert figures[name] == expected[name]
    assert metrics["before"]["parameters"] == 64 * 256 + 256 + 256 * 10 + 10
    assert metrics["after"]["parameters"] == 64 * 128 + 128 + 128 * 10 + 10
    assert metrics["after"]["top1_accuracy"] > 90
    assert metrics["removed"]["parameters_pct"] == 49.97
    assert metrics["verification"]["oracle"] == "masked"
    assert metrics["verification"]["max_relative_error"] <= 1e-5
    assert metrics["weights"] == "shipped"
    for name, values in by_hand.scored.layers.items():
        assert torch.equal(scores[name.removesuffix(".weight")], values)
    json.dumps(metrics)


def test_both_shapes_of_measure_args() -> None:
    def scores(arguments: Any) -> torch.Tensor:
        return prune_mlp("TwoLayerMLP", "Digits", measure_args=arguments)[1]["fc1"]

    flat = scores({"gamma": 0.5, "theta": 1})
    keyed = {"ChannelNorm": {"p": 1}, "WeightedPageRank": {"gamma": 0.5, "theta": 1}}
    assert torch.equal(flat, scores(keyed))
    assert not torch.equal(flat, scores(None))
    assert torch.equal(scores(None), scores({"ChannelNorm": {"p": 2}}))
    assert torch.equal(scores(None), scores({}))
    metrics, _ = prune_mlp("TwoLayerMLP", "Digits", measure_args=keyed)
    assert metrics["measure_args"] == {"gamma": 0.5, "theta": 1}


def test_arguments_of_several_measures() -> None:
    assert arguments_for("ChannelNorm", {"p": 2}) == {"p": 2}
    assert by_measure(["ChannelNorm", "Taylor"], {"ChannelNorm": [{"p": 1}, {"p": 2}]}) == {
        "ChannelNorm": [{"p": 1}, {"p": 2}],
        "Taylor": [{}],
    }
    with pytest.raises(PrunerError, match=r"which measure takes them\? .*\"ChannelNorm\": \{\"p\""):
        by_measure(["ChannelNorm", "Taylor"], {"p": 2})


def test_the_batch_size_is_that_of_calibration_too(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        "pruners.mlp_rank.sample", lambda *args: seen.append(args[1:]) or sample(*args)
    )
    prune_mlp("TwoLayerMLP", "Digits", batch_size=32)
    assert seen == [(16, 0, 32)]


# --- files -------------------------------------------------------------------------------------


def test_source_manifest_weights_and_scores(tmp_path: Path) -> None:
    out = tmp_path / "slim"
    metrics, scores = prune_mlp("TwoLayerMLP", "Digits", "ChannelNorm", amount=0.125, out_path=out)
    names = {
        "source": "twolayermlp_12_5.py",
        "manifest": "twolayermlp_12_5.json",
        "weights": "twolayermlp_12_5_pruned_v1.0.pth",
        "weights_manifest": "twolayermlp_12_5_pruned_v1.0.json",
        "scores": "twolayermlp_12_5_scores.json",
    }
    assert metrics["files"] == {kind: str(out / name) for kind, name in names.items()}
    assert {path.name for path in out.iterdir()} == set(names.values())
    module = import_source("slim_mlp", (out / names["source"]).read_text())
    model = module.twolayermlp(weights=str(out / names["weights"]))
    assert model.fc1.out_features == 224
    images = splits_for("TwoLayerMLP", "Digits").test
    again = evaluate(model, images, torch.zeros(1, 1, 8, 8)).described()
    assert again["accuracy"] == metrics["after"]["top1_accuracy"]
    manifest = json.loads((out / names["manifest"]).read_text())
    assert manifest["verification"] == metrics["verification"]
    assert manifest["prune_mlp"]["after"] == metrics["after"]
    stored = json.loads((out / names["scores"]).read_text())
    assert stored["measure"] == "ChannelNorm"
    assert torch.equal(torch.tensor(stored["scores"]["fc1"], dtype=torch.float64), scores["fc1"])


def test_the_same_bytes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = Outcome("stub", True, 0.0, "", "masked", 1e-5)
    monkeypatch.setattr("pruners.base.PruningResult.verified", lambda self: outcome)
    for out in ("a", "b"):
        torch.rand(1)  # the global random state does not matter
        prune_mlp("TwoLayerMLP", "Digits", "ChannelRandom", out_path=tmp_path / out)
    first, second = (sorted((tmp_path / out).iterdir()) for out in ("a", "b"))
    assert [a.read_bytes() for a in first] == [b.read_bytes() for b in second]
    assert len(first) == 5


def test_without_a_folder_nothing_is_written_but_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pruners.base.PruningResult.verified", None)  # no fresh process
    prune_mlp("TwoLayerMLP", "Digits")
    assert list(tmp_path.iterdir()) == []
    oracle = PruningResult.oracle

    def wrong(self: PruningResult, example: int) -> tuple[str, Any]:
        name, expected = oracle(self, example)
        return name, expected + 1

    monkeypatch.setattr(PruningResult, "oracle", wrong)
    with pytest.raises(VerificationError, match=r"not equal to the masked oracle .* something"):
        prune_mlp("TwoLayerMLP", "Digits")


# --- other data --------------------------------------------------------------------------------


def test_data_that_no_weights_fit(other_data: str) -> None:
    with pytest.warns(
        UserWarning,
        match=r"TwoLayerMLP has random weights for Other \(images of 1x5x6\): those that come with "
        r"it were trained on Digits",
    ) as caught:
        metrics, _ = prune_mlp("TwoLayerMLP", other_data, amount=0.5)
    assert caught[0].filename == __file__
    assert metrics["weights"] == "random"
    assert metrics["before"]["parameters"] == 30 * 256 + 256 + 256 * 10 + 10
    assert widths(metrics) == ([256, 10], [128, 10])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert prune_mlp("TwoLayerMLP", other_data, amount=0.5)[0] == metrics


def test_convolutional_networks_take_the_default_shape(other_data: str) -> None:
    splits = splits_for("ResNet20", other_data)
    assert splits.input_shape == (3, 32, 32)
    before = torch.get_rng_state()
    network = network_for("ResNet56", splits, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert note_on_weights(network, other_data) == (
        "ResNet56 has random weights for Other (images of 3x32x32): none come with it"
    )
    shipped = network_for("ResNet20", splits_for("ResNet20", "Digits"))
    assert shipped.weights == "shipped"
    assert note_on_weights(shipped, "Digits") is None


def test_a_network_that_cannot_be_built(other_data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {**MLP_MODEL["TwoLayerMLP"], "wrapper": lambda in_features: None}
    monkeypatch.setitem(MLP_MODEL, "Odd", entry)
    monkeypatch.setitem(MODELS, "Odd", entry)
    with pytest.raises(
        PrunerError,
        match=r"model Odd: building it raised TypeError: .*num_classes.*; expected it to take "
        r"num_classes and in_features",
    ):
        prune_mlp("Odd", other_data)


# --- refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model_name": "TwoLayerMPL"}, r"model TwoLayerMPL: unknown; did you mean TwoLayerMLP.*"),
        ({"model_name": "ResNet20"}, r"model ResNet20: unknown; on offer are TwoLayerMLP, .*"),
        ({"dataset_name": "Digit"}, r"dataset Digit: unknown; did you mean Digits\?"),
        ({"measure_name": "PageRank"}, r"measure PageRank: unknown; did you mean .*PageRank"),
        ({"method_name": "local"}, r"method local: unknown; did you mean Local"),
        ({"measure_args": {"gama": 1}}, r"WeightedPageRank takes no argument 'gama'; did you mean"),
        ({"measure_args": {"gamma": 2}}, r"WeightedPageRank: gamma=2; expected a number from 0"),
        (
            {"measure_args": {"ChanelNorm": {"p": 1}}},
            r"--measure-args: ChanelNorm is no measure; did you mean ChannelNorm\?",
        ),
        (
            {"measure_args": {"ChannelNorm": 2}},
            r"--measure-args: ChannelNorm has 2; expected its arguments by name, such as",
        ),
        (
            {"measure_args": {"ChannelNorm": {"p": 1}, "gamma": 1}},
            r"--measure-args: gamma is no measure",
        ),
        ({"amount": 1}, r"amount 1: expected a share of at least 0 and below 1, such as 0\.3 for"),
        ({"amount": -0.1}, r"amount -0\.1: expected a share"),
        ({"amount": 30}, r"amount 30: expected a share"),
        ({"amount": float("nan")}, r"amount nan: expected a share"),
        ({"top_k": ()}, r"top_k \(\): expected whole numbers of at least 1, such as \(1, 5\)"),
        ({"top_k": (0,)}, r"top_k \(0,\): expected whole numbers"),
        ({"top_k": 5}, r"top_k 5: expected whole numbers"),
        ({"batch_size": 0}, r"batch_size 0: expected 1 or more"),
        ({"device": "gpu"}, r"--device gpu: unknown"),
        ({"dataset_name": "MNIST"}, r"dataset MNIST: .* is missing"),
    ],
)
def test_bad_arguments(
    arguments: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PrunerError, match=message):
        prune_mlp(**{"model_name": "TwoLayerMLP", "dataset_name": "Digits", **arguments})


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(PrunerError, match="taken: is a file, expected a directory"):
        prune_mlp("TwoLayerMLP", "Digits", out_path=tmp_path / "taken")


def test_without_the_zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    known = dict(MLP_MODEL)
    MLP_MODEL.clear()
    try:
        with pytest.raises(
            PrunerError,
            match=re.escape("model TwoLayerMLP: none is registered; `import models` first"),
        ):
            prune_mlp("TwoLayerMLP", "Digits")
    finally:
        MLP_MODEL.update(known)
