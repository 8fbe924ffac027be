"""Networks that choose their path, the thresholds they choose by, and pruning by them."""

from __future__ import annotations

import copy
import io
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import with_telling_state
from torch import nn

from models.dynamic import DynamicNeuralNetwork, complexity
from pruners import HybridThresholds, PrunerError, PruningResult, channel_activity, prune
from pruners.calibration import Calibration
from pruners.datasets import load_dataset
from pruners.networks import Request, find_network
from pruners.recalibration import recalibrate
from pruners.recipe import Recipe
from pruners.threshold_pruning import prune_by_activation
from pruners.training import fit
from pruners.training_state import read_state, state_bytes
from pruners.unitmem import get_unitmem

SHAPE = (3, 32, 32)
INITIAL = {"variance": 1.0, "entropy": 0.8, "sparsity": 0.4}


def network(**arguments: Any) -> DynamicNeuralNetwork:
    torch.manual_seed(0)
    model = DynamicNeuralNetwork(**arguments)
    thresholds = {n: b.clone() for n, b in model.named_buffers() if n.endswith("_threshold")}
    with_telling_state(model)
    model.load_state_dict(thresholds, strict=False)
    return model


def mixed(model: DynamicNeuralNetwork) -> torch.Tensor:
    """Seven images of both kinds, in no order."""
    (both, far, near) = model.example_batches(SHAPE)
    noise = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(3)) * 2
    return torch.cat([far, near, noise[:1], near * 2, both.flip(0), noise[1:]])


@pytest.fixture(scope="module")
def pruned() -> PruningResult:
    model = network()
    return prune(model, model.example_batches(SHAPE), 50, name="dynamic_50")


# --- thresholds ----------------------------------------------------------------------------------


def test_thresholds_hold_and_then_follow_a_cosine() -> None:
    final = {"variance": 0.2, "entropy": 0.4, "sparsity": 0.8}
    thresholds = HybridThresholds(INITIAL, 2, 6, final)
    assert thresholds.anneal(0) == thresholds.anneal(2) == INITIAL
    assert thresholds.anneal(6) == thresholds.anneal(100) == final
    # A quarter of the way in time: (1 - cos 45 degrees) / 2 of the way in value.
    share = (1 - math.sqrt(0.5)) / 2
    assert thresholds.anneal(3)["variance"] == pytest.approx(1 - 0.8 * share)
    assert thresholds.anneal(4) == pytest.approx({"variance": 0.6, "entropy": 0.6, "sparsity": 0.6})


def test_final_thresholds_are_half_as_easy_to_meet() -> None:
    thresholds = HybridThresholds(
        initial_thresholds=INITIAL, annealing_start_epoch=0, total_epochs=10
    )
    expected = {"variance": 0.5, "entropy": 0.4, "sparsity": 0.7}
    assert thresholds.anneal(10) == pytest.approx(expected)


def test_annealing_that_takes_no_time_is_a_step() -> None:
    thresholds = HybridThresholds(INITIAL, 3, 3, dict.fromkeys(INITIAL, 0.5))
    assert thresholds.anneal(2) == INITIAL
    assert thresholds.anneal(3) == dict.fromkeys(INITIAL, 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([[0.5], 0, 1], r"initial_thresholds: a list; expected a dict of variance, entropy, spars"),
        ([{"variance": 1}, 0, 1], r"initial_thresholds: entropy is missing; expected variance, en"),
        ([INITIAL | {"mean": 1}, 0, 1], r"initial_thresholds: mean is unknown; expected variance"),
        ([INITIAL | {"entropy": 2}, 0, 1], r"entropy is 2; expected a number, 0 to 1"),
        ([INITIAL | {"variance": -1}, 0, 1], r"variance is -1; expected a number, 0 or more"),
        ([INITIAL | {"variance": math.inf}, 0, 1], r"variance is inf; expected a number"),
        ([INITIAL | {"sparsity": math.nan}, 0, 1], r"sparsity is nan; expected a number, 0 to 1"),
        ([INITIAL | {"sparsity": "x"}, 0, 1], r"sparsity is 'x'; expected a number, 0 to 1"),
        ([INITIAL, 0, 1, {"variance": 1}], r"final_thresholds: entropy is missing"),
        ([INITIAL, -1, 1], r"annealing_start_epoch -1: expected a whole number, 0 or more"),
        ([INITIAL, 0, 1.5], r"total_epochs 1.5: expected a whole number, 0 or more"),
        ([INITIAL, 5, 4], r"annealing_start_epoch 5: is after total_epochs 4"),
    ],
)
def test_thresholds_that_are_none(arguments: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HybridThresholds(*arguments)


# --- routing -------------------------------------------------------------------------------------


def test_complexity_by_hand() -> None:
    images = torch.zeros(3, 1, 4, 4)
    images[1, 0, :2] = 1  # half and half: one bit of four
    images[2, 0] = torch.arange(16.0).view(4, 4)  # one value a bin
    variance, entropy, sparsity = complexity(images)
    torch.testing.assert_close(variance, torch.tensor([0, 0.25, (16**2 - 1) / 12]))
    torch.testing.assert_close(entropy, torch.tensor([0, 0.25, 1]))
    torch.testing.assert_close(sparsity, torch.tensor([1, 0.5, 1 / 16]))


def test_entropy_and_sparsity_do_not_depend_on_how_images_are_normalised() -> None:
    images = torch.randint(0, 17, (4, 1, 8, 8), generator=torch.Generator().manual_seed(0)).double()
    for mine, other in zip(complexity(images)[1:], complexity(images * 4 - 8)[1:], strict=True):
        torch.testing.assert_close(mine, other)


def test_every_image_takes_its_own_path() -> None:
    model = network()
    x = mixed(model)
    simple = model.is_simple(x)
    assert simple.tolist() == [False, True, False, True, True, False, False]
    seen: dict[str, int] = {}
    for name in ("shallow", "deep"):
        path = getattr(model, name)
        path.register_forward_hook(lambda _, x, __, name=name: seen.update({name: len(x[0])}))
    logits = model(x)
    assert seen == {"shallow": 3, "deep": 4}
    alone = torch.cat([model(image) for image in x.split(1)])
    torch.testing.assert_close(logits, alone)
    stem = torch.relu(model.bn1(model.conv1(x)))
    for i, near in enumerate(simple.tolist()):
        path = model.shallow if near else model.deep
        torch.testing.assert_close(logits[i], model.fc(path(stem[i : i + 1]))[0])


def test_a_path_without_images_computes_nothing() -> None:
    model = network()
    for batch, path in zip(model.example_batches(SHAPE)[1:], ("shallow", "deep"), strict=True):
        rows: list[int] = []
        getattr(model, path).register_forward_hook(
            lambda _, x, __, rows=rows: rows.append(len(x[0]))
        )
        assert model(batch).isfinite().all()
        assert rows == [0]


def test_training_and_evaluation_agree_on_the_path() -> None:
    model = network()
    x = mixed(model)
    both = copy.deepcopy(model)
    both.training = True  # the norms stay in evaluation
    torch.testing.assert_close(model(x), both(x))


def test_examples_take_both_paths_at_every_stage_of_annealing() -> None:
    for epoch in (0, 100):
        model = DynamicNeuralNetwork()
        model.epoch.fill_(epoch)
        model.on_epoch(0, 1)
        for shape in (SHAPE, (1, 8, 8), (3, 224, 224)):
            both, far, near = (model.is_simple(x).tolist() for x in model.example_batches(shape))
            assert (both, far, near) == ([False, True], [False], [True])


def test_a_loaded_network_routes_as_the_one_that_was_trained(tmp_path: Path) -> None:
    model = network()
    for _ in range(30):
        model.on_epoch(0, 30)
    folder = tmp_path / "models" / "quantized"
    folder.mkdir(parents=True)
    torch.save(model.state_dict(), folder / "dynamic.pth")
    loaded = DynamicNeuralNetwork().eval()
    loaded.load_state_dict(torch.load(folder / "dynamic.pth", weights_only=True))
    assert loaded.entropy_threshold == model.hybrid_thresholds.anneal(100)["entropy"]
    assert loaded.entropy_threshold != DynamicNeuralNetwork().entropy_threshold
    assert torch.equal(loaded(mixed(model)), model(mixed(model)))


# --- pruning -------------------------------------------------------------------------------------


def test_both_paths_are_pruned_and_equal_the_masked_original(pruned: PruningResult) -> None:
    widths = pruned.report.widths
    for layer in ("conv1", "shallow.0", "shallow.3", "deep.0.conv1", "deep.5.conv2"):
        assert widths[layer].after < widths[layer].before
    # The classifier that both paths share ties their ends.
    ends = [pruned.kept[f"{layer}.weight"][0] for layer in ("shallow.3", "deep.5.conv2")]
    assert np.array_equal(*ends)
    assert pruned.report.parameters.removed_pct >= 50
    assert pruned.report.warnings == ()
    assert list(pruned.report.kept_because) == ["fc"]
    outcome = pruned.verified()  # every example, in a fresh process
    assert outcome.ok
    assert outcome.oracle == "masked"


def test_a_batch_of_one_kind_shows_both_paths(pruned: PruningResult) -> None:
    model = network()
    for batch in model.example_batches(SHAPE)[1:]:
        alone = prune(model, batch, 50)
        assert {n: [d.tolist() for d in dims] for n, dims in alone.kept.items()} == {
            n: [d.tolist() for d in dims] for n, dims in pruned.kept.items()
        }


def test_the_generated_file_stands_alone(pruned: PruningResult, tmp_path: Path) -> None:
    saved = pruned.save(tmp_path, weights_dir=tmp_path)
    assert "import pruners" not in pruned.source
    assert "from pruners" not in pruned.source
    script = (
        "import torch\n"
        "from dynamic_50 import DynamicNeuralNetwork, HybridThresholds, dynamicneuralnetwork\n"
        f"model = dynamicneuralnetwork(weights={str(saved.weights)!r}).eval()\n"
        "assert model(torch.cat(model.example_batches((3, 32, 32)))).shape == (4, 10)\n"
        "model.on_epoch(0, 1)\n"
        "assert isinstance(model.hybrid_thresholds, HybridThresholds)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)


def test_a_pruned_network_is_pruned_again(pruned: PruningResult) -> None:
    slim = pruned.model
    again = prune(slim, slim.example_batches(SHAPE), 30)
    assert again.compared().ok
    assert again.report.parameters.removed_pct >= 30


def test_a_network_brings_its_own_examples_to_the_command_line() -> None:
    found = find_network(Request("dynamic", input_shape="1,16,16"), shipped=False)
    assert [tuple(x.shape) for x in found.examples()] == [(n, 1, 16, 16) for n in (2, 1, 1)]
    plain = find_network(Request("resnet", input_shape="3,16,16"), shipped=False)
    assert [tuple(x.shape) for x in plain.examples()] == [(2, 3, 16, 16)]


@pytest.mark.parametrize("measure", ["ChannelActivation", "HRank", "Taylor"])
def test_measures_of_data_see_both_paths(measure: str) -> None:
    model = network()
    labels = torch.tensor([0, 1, 2, 3, 4, 5, 6])
    one_kind = (model.example_batches(SHAPE)[1], labels[:1])
    data = [(mixed(model), labels), one_kind]
    result = prune(
        model, model.example_batches(SHAPE), 30, measure=measure, calibration=Calibration(data)
    )
    assert all(scores.isfinite().all() for scores in result.scored.layers.values())
    assert result.scored.layers["shallow.0.weight"].any()
    assert result.compared().ok


def test_recalibration_counts_the_batches_that_a_norm_sees() -> None:
    model = network()
    both, far, _ = model.example_batches(SHAPE)
    before = copy.deepcopy(model.state_dict())
    assert recalibrate(model, [far.repeat(2, 1, 1, 1)]) > 0
    assert torch.equal(model.shallow[1].running_var, before["shallow.1.running_var"])
    assert not torch.equal(model.deep[0].bn1.running_var, before["deep.0.bn1.running_var"])
    near = both[1:].repeat(2, 1, 1, 1)
    recalibrate(model, [near])
    alone = model.shallow[1].running_var.clone()
    recalibrate(model, [far.repeat(2, 1, 1, 1), near])
    torch.testing.assert_close(model.shallow[1].running_var, alone)
    assert not model.training


def test_unitmem_leaves_out_paths_that_only_some_images_take() -> None:
    model = network()
    images = [(image, 0) for image in mixed(model)]
    memory = get_unitmem(model, images, augmentations=1, augment=lambda x, _: x)  # type: ignore[arg-type]
    assert list(memory) == ["conv1"]


# --- training ------------------------------------------------------------------------------------


def small_splits() -> Any:
    splits = load_dataset("Digits", input_shape=(3, 8, 8))
    few = [torch.utils.data.Subset(s, range(96)) for s in (splits.train, splits.val)]
    return type(splits)(
        **{
            **{f: getattr(splits, f) for f in splits.__dataclass_fields__},
            "train": few[0],
            "val": few[1],
        }
    )


def fast(start: int = 1, total: int = 3) -> DynamicNeuralNetwork:
    torch.manual_seed(0)
    return DynamicNeuralNetwork(HybridThresholds(INITIAL, start, total))


def test_training_anneals_and_resumes_to_the_same_bytes() -> None:
    splits = small_splits()
    thresholds: list[float] = []
    states: list[bytes] = []

    def keep(state: Any) -> None:
        thresholds.append(state.weights["entropy_threshold"].item())
        states.append(state_bytes(state))

    model = fast()
    fit(model, splits, Recipe(3), keep=keep)
    expected = [model.hybrid_thresholds.anneal(epoch)["entropy"] for epoch in range(3)]
    assert thresholds == pytest.approx(expected)
    # The best epoch's thresholds belong to its weights.
    assert model.entropy_threshold.item() in thresholds
    resumed = fast()
    fit(resumed, splits, Recipe(3), resume=read_state(states[0], Path("x")))
    for name, value in model.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_fine_tuning_does_not_begin_anew() -> None:
    model = fast(0, 2)
    for epoch in range(3):
        model.on_epoch(epoch, 3)
    final = model.hybrid_thresholds.anneal(2)
    model.on_epoch(0, 5)
    for name, value in final.items():
        assert getattr(model, f"{name}_threshold").item() == pytest.approx(value)


def test_digits_take_the_shallow_path_at_first_and_both_in_the_end() -> None:
    splits = load_dataset("Digits", input_shape=SHAPE)
    images = torch.stack([splits.test[i][0] for i in range(len(splits.test))])
    model = DynamicNeuralNetwork()
    assert model.is_simple(images).float().mean() > 0.9
    for _ in range(12):
        model.on_epoch(0, 12)
    assert 0.3 < model.is_simple(images).float().mean() < 0.7


# --- export --------------------------------------------------------------------------------------


def test_exported_it_routes_as_it_does_here(pruned: PruningResult) -> None:
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = pruned.model.eval()
    both, far, near = model.example_batches(SHAPE)
    batches = [both, far, near, mixed(model)]
    batch = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(model, (both,), dynamic_shapes=batch)
    exported = program.module()
    onnx = torch.onnx.export(program, dynamo=True, verbose=False)
    content = io.BytesIO()
    onnx.save(content)
    session = ort.InferenceSession(content.getvalue())
    (name,) = [x.name for x in session.get_inputs()]
    for x in batches:
        expected = model(x).detach()
        torch.testing.assert_close(exported(x), expected, rtol=1e-5, atol=1e-5)
        (found,) = session.run(None, {name: x.numpy()})
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_int8_weights_keep_the_paths(pruned: PruningResult) -> None:
    quantization = pytest.importorskip("torchao.quantization")
    model = copy.deepcopy(pruned.model).eval()
    x = mixed(model)
    expected, paths = model(x), model.is_simple(x)
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    assert torch.equal(model.is_simple(x), paths)
    assert (model(x) - expected).abs().max() < 0.05 * expected.abs().max()


# --- pruning by thresholds -----------------------------------------------------------------------


class Plain(nn.Module):
    """A convolution behind which a ReLU is, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 1)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


def plain() -> Plain:
    """Channels that are never active; constant; active at 15 alone; as the input."""
    model = Plain().eval()
    with torch.no_grad():
        model.conv.weight.copy_(torch.tensor([-1.0, 0, 1, 1]).view(4, 1, 1, 1))
        model.conv.bias.copy_(torch.tensor([0.0, 2, -14, 0]))
    return model


RAMP = torch.arange(16.0).view(1, 1, 4, 4)
STRICT = {"variance": 1.0, "entropy": 0.5, "sparsity": 0.5}


class Fixed:
    def __init__(self, **thresholds: float) -> None:
        self.thresholds = thresholds

    def anneal(self, epoch: int) -> dict[str, float]:
        return self.thresholds


def test_activity_by_hand() -> None:
    found = channel_activity(plain(), [RAMP[:, :, :2], RAMP[:, :, 2:]], RAMP)["conv"]
    rare = (15 / 16) * math.log2(16 / 15) + math.log2(16) / 16
    assert found.variance == pytest.approx([0, 0, 15 / 256, (16**2 - 1) / 12])
    assert found.entropy == pytest.approx([0, 0, rare / 4, 1])
    assert found.sparsity == pytest.approx([1, 0, 15 / 16, 1 / 16])
    assert found.below(STRICT).tolist() == [True, False, True, False]


def test_channels_below_the_thresholds_go() -> None:
    model = plain()
    result = prune_by_activation(model, [RAMP], Fixed(**STRICT), 0, RAMP)
    assert result.kept["conv.weight"][0].tolist() == [1, 3]
    assert result.kept["fc.weight"][1].tolist() == [1, 3]
    assert result.verified().ok
    assert result.fileName == "plain_thresholds"
    options = result.report.options
    assert options["measure_args"] == {**STRICT, "epoch": 0}
    assert options["prune_pct"] == pytest.approx(100 * 8 / 18, abs=0.01)
    assert "Measure HybridThresholds, method Thresholds." in result.source


def test_thresholds_follow_the_epoch() -> None:
    model, gone = plain(), []
    thresholds = HybridThresholds(STRICT, 0, 2, {"variance": 0.01, "entropy": 0.5, "sparsity": 0.5})
    for epoch in (0, 2):
        result = prune_by_activation(model, [RAMP], thresholds, epoch, RAMP, name="plain")
        gone.append(4 - len(result.kept["conv.weight"][0]))
    assert gone == [2, 1]


def test_two_filters_stay_those_that_vary_most() -> None:
    lenient = Fixed(variance=100.0, entropy=2.0, sparsity=-1.0)
    result = prune_by_activation(plain(), [RAMP], lenient, 0, RAMP)
    assert result.kept["conv.weight"][0].tolist() == [2, 3]
    result = prune_by_activation(plain(), [RAMP], lenient, 0, RAMP, min_filters=3)
    assert result.kept["conv.weight"][0].tolist() == [1, 2, 3]


def test_nothing_goes_where_no_channel_is_below() -> None:
    strict = Fixed(variance=0.0, entropy=0.0, sparsity=1.0)
    result = prune_by_activation(plain(), [RAMP], strict, 0, RAMP)
    assert result.report.options["prune_pct"] == 0
    assert result.report.kept_because["conv"] == "nothing was to be removed"


class Coupled(nn.Module):
    """Two layers whose channels are added to each other behind their ReLUs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 1), nn.Conv2d(1, 4, 1)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc((torch.relu(self.a(x)) + torch.relu(self.b(x))).mean((2, 3)))


def test_coupled_channels_go_when_all_their_layers_say_so() -> None:
    model = Coupled().eval()
    with torch.no_grad():
        for layer, signs in ((model.a, [-1.0, -1, 1, 1]), (model.b, [-1.0, 1, -1, 1])):
            layer.weight.copy_(torch.tensor(signs).view(4, 1, 1, 1))
            layer.bias.zero_()
    result = prune_by_activation(model, [RAMP], Fixed(**STRICT), 0, RAMP)
    assert result.kept["a.weight"][0].tolist() == result.kept["b.weight"][0].tolist() == [1, 2, 3]
    assert result.compared().ok


def test_a_path_that_no_image_reached_stays() -> None:
    model = network()
    examples = model.example_batches(SHAPE)
    lenient = Fixed(variance=1e9, entropy=2.0, sparsity=-1.0)
    activity = channel_activity(model, [examples[1]], examples)
    assert np.isnan(activity["shallow.0"].variance).all()
    result = prune_by_activation(model, [examples[1]], lenient, 0, examples, min_filters=4)
    assert len(result.kept["shallow.0.weight"][0]) == 32
    assert len(result.kept["deep.0.conv1.weight"][0]) == 4
    assert len(result.kept["deep.5.conv2.weight"][0]) == 64  # with the end of the shallow path
    assert result.compared().ok


def test_the_pruned_network_is_trained_and_pruned_again() -> None:
    model: nn.Module = plain()
    thresholds = HybridThresholds(STRICT, 0, 2)
    for epoch in range(2):
        model = prune_by_activation(model, [RAMP], thresholds, epoch, RAMP).model
    assert isinstance(model.conv, nn.Conv2d)
    assert model.conv.out_channels == 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epoch": -1}, r"^epoch -1: expected a whole number, 0 or more$"),
        ({"epoch": 0.5}, r"^epoch 0.5: expected a whole number"),
        (
            {"thresholds": {"variance": 1}},
            r"^thresholds: a dict; expected what has a method anneal",
        ),
        ({"thresholds": Fixed(variance=1)}, r"^thresholds: a Fixed; expected .* such as a Hybrid"),
        ({"loader": []}, r"^loader: no batches; expected at least one batch of inputs$"),
        ({"loader": iter([RAMP])}, r"^loader: a list_iterator can be gone through once; expected"),
        ({"min_filters": 0}, r"^--min-filters 0: expected a whole number of at least 1$"),
    ],
)
def test_what_cannot_be_pruned_by(changed: dict[str, Any], message: str) -> None:
    usual = {"loader": [RAMP], "thresholds": Fixed(**STRICT), "epoch": 0, "example_inputs": RAMP}
    with pytest.raises(PrunerError, match=message):
        prune_by_activation(plain(), **(usual | changed))
