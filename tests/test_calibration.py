"""What measures are told of data, held against a plain computation of the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import image, with_telling_state
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from pruners import Calibration, PrunerError, prune
from pruners.activations import uses_of
from pruners.analysis import analyse
from pruners.calibration import Statistics, collect
from pruners.channel_graph import Axis
from pruners.measures import ChannelActivation, WeightedPageRank
from pruners.registry import SCORING_MEASURES
from pruners.scoring import score_units

EVERYTHING = {
    "in_activations",
    "out_activations",
    "zeros",
    "ranks",
    "gradients",
    "squared_gradients",
    "hessian",
}


class Chain(nn.Module):
    """conv, batch norm, functional relu; then a linear bottleneck, flattened into a Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 4, 3, padding=1)
        self.fc1 = nn.Linear(4 * 16, 10)
        self.fc2 = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(self.conv2(x), 2).flatten(1)
        return self.fc2(torch.relu_(self.fc1(x)))


class Residual(nn.Module):
    """conv2's channels are read behind an addition, conv3's behind a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.conv3 = nn.Conv2d(6, 4, 1)
        self.bn3 = nn.BatchNorm2d(10)
        self.depthwise = nn.Conv2d(10, 10, 3, padding=1, groups=10)
        self.mix = nn.Conv2d(10, 10, 1)
        self.grouped = nn.Conv2d(10, 8, 1, groups=2)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        x = F.relu(x + self.conv2(x))
        x = F.gelu(self.bn3(torch.cat([x, self.conv3(x)], 1)))
        x = F.silu(self.mix(F.relu(self.depthwise(x))))
        x = F.relu6(self.grouped(x))
        return self.fc(x.mean((2, 3)))


def telling(cls: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return with_telling_state(cls()).double()


def batches(count: int = 3, size: int = 4) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [
        (
            image(size, 3, 8, 8, dtype=torch.float64, seed=i),
            torch.randint(5, (size,), generator=generator),
        )
        for i in range(count)
    ]


def measured(
    model: nn.Module, needed: set[str], data: Any, loss: Any = F.cross_entropy, **options: Any
) -> Statistics:
    trace = analyse(model, image(2, 3, 8, 8, dtype=torch.float64))
    return collect(model, trace, trace.graph.units(), needed, Calibration(data, loss), **options)


def of_layer(found: Statistics, kind: str, layer: str, dim: int = 0) -> Tensor:
    return found.activations[kind][Axis(f"{layer}.weight", dim)]


def magnitude(x: Tensor, dim: int = 1) -> Tensor:
    return x.abs().movedim(dim, 0).flatten(1).mean(1)


def test_activations_are_those_behind_the_activation_function() -> None:
    model: Any = telling(Chain)
    found = measured(model, EVERYTHING - {"gradients", "squared_gradients", "hessian"}, batches())
    x = torch.cat([inputs for inputs, _ in batches()])
    with torch.no_grad():
        first = F.relu(model.bn1(model.conv1(x)))
        second = model.conv2(first)
        flat = F.max_pool2d(second, 2).flatten(1)
        third = F.relu(model.fc1(flat))
        last = model.fc2(third)
    reads = {"conv1": x, "conv2": first, "fc1": flat, "fc2": third}
    # Nothing is between conv2 and what fc1 reads but the pooling.
    pooled = F.max_pool2d(second, 2)
    makes = {"conv1": first, "conv2": pooled, "fc1": third, "fc2": last}
    for layer, value in reads.items():
        got = of_layer(found, "in_activations", layer)
        torch.testing.assert_close(got, magnitude(value), msg=layer)
    for layer, value in makes.items():
        got = of_layer(found, "out_activations", layer)
        torch.testing.assert_close(got, magnitude(value), msg=layer)
        zeros = (value == 0).double().movedim(1, 0).flatten(1).mean(1)
        torch.testing.assert_close(of_layer(found, "zeros", layer), zeros)
    ranks = torch.linalg.matrix_rank(first).double().mean(0)
    torch.testing.assert_close(of_layer(found, "ranks", "conv1"), ranks)
    one_a_neuron = (third != 0).double().mean(0)
    torch.testing.assert_close(of_layer(found, "ranks", "fc1"), one_a_neuron)


def test_activations_behind_additions_and_concatenations() -> None:
    model: Any = telling(Residual)
    found = measured(model, {"in_activations", "out_activations"}, batches())
    x = torch.cat([inputs for inputs, _ in batches()])
    with torch.no_grad():
        first = F.relu(model.conv1(x))
        second = F.relu(first + model.conv2(first))
        third = F.gelu(model.bn3(torch.cat([second, model.conv3(second)], 1)))
        fourth = F.relu(model.depthwise(third))
        mixed = F.silu(model.mix(fourth))
        fifth = F.relu6(model.grouped(mixed))
    makes = {
        "conv1": first,
        "conv2": second,
        "conv3": third[:, 6:],
        "depthwise": fourth,
        "mix": mixed,
        "grouped": fifth,
        "fc": model.fc(fifth.mean((2, 3))),
    }
    for layer, value in makes.items():
        got = of_layer(found, "out_activations", layer)
        torch.testing.assert_close(got, magnitude(value).detach(), msg=layer)
    for layer, value in (("grouped", mixed), ("depthwise", third)):
        got = of_layer(found, "in_activations", layer)
        torch.testing.assert_close(got, magnitude(value))


def test_which_functions_are_behind_which_layer() -> None:
    model = telling(Residual)
    trace = analyse(model, image(2, 3, 8, 8, dtype=torch.float64))
    uses = uses_of(trace, trace.graph.units())
    assert {use.weight.removesuffix(".weight"): use.activation for use in uses} == {
        "conv1": "relu",
        "conv2": "relu",
        "conv3": "gelu",
        "depthwise": "relu",
        "mix": "silu",
        "grouped": "relu6",
        "fc": "",
    }


def test_gradients_are_means_over_the_batches() -> None:
    model: Any = telling(Chain)
    for parameter in model.parameters():
        parameter.requires_grad_(False)  # frozen ones are measured all the same
    found = measured(model, {"gradients", "squared_gradients"}, batches())
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    model.requires_grad_(True)
    weights = {"conv1.weight": model.conv1.weight, "fc1.weight": model.fc1.weight}
    each = [
        torch.autograd.grad(F.cross_entropy(model(x), y), list(weights.values()))
        for x, y in batches()
    ]
    for i, name in enumerate(weights):
        slopes = torch.stack([slopes[i] for slopes in each])
        torch.testing.assert_close(found.gradients["gradients"][name], slopes.mean(0))
        squares = slopes.square().mean(0)
        torch.testing.assert_close(found.gradients["squared_gradients"][name], squares)


def test_the_hessian_of_a_parabola_is_exact() -> None:
    """A loss of sum_n (x_n w)^2: the diagonal of its Hessian is 2 sum_n x_n^2, the rest is 0 for
    inputs of which one at a time is not 0."""
    model = nn.Sequential(nn.Linear(3, 2, bias=False)).double()
    x = torch.tensor([[1.0, 0, 0], [0, 2.0, 0], [0, 0, 3.0], [2.0, 0, 0]]).double()
    trace = analyse(model, x)

    def parabola(outputs: Tensor, labels: Tensor) -> Tensor:
        return outputs.square().sum()

    data = Calibration([(x, torch.zeros(4)), (2 * x, torch.zeros(4))], parabola)
    found = collect(model, trace, trace.graph.units(), {"hessian"}, data)
    # Mean over both batches: (1 + 4) / 2 times 2 (1 + 4), 2 * 4, 2 * 9.
    expected = 2.5 * torch.tensor([[10.0, 8.0, 18.0]] * 2).double()
    torch.testing.assert_close(found.gradients["hessian"]["0.weight"], expected)


def test_the_estimate_of_the_hessian_approaches_its_diagonal() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x, y = torch.randn(8, 3).double(), torch.randint(2, (8,))
    trace = analyse(model, x)
    data = Calibration([(x, y)] * 3000)
    found = collect(model, trace, trace.graph.units(), {"hessian"}, data)

    def loss(weight: Tensor) -> Tensor:
        state = {"0.weight": weight.view(4, 3)}
        return F.cross_entropy(torch.func.functional_call(model, state, (x,)), y)

    exact = torch.autograd.functional.hessian(loss, model[0].weight.detach().flatten()).diag()
    got = found.gradients["hessian"]["0.weight"].flatten()
    assert (got - exact).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.parametrize("cls", [Chain, Residual])
def test_the_model_stays_as_it_was(cls: Callable[[], nn.Module]) -> None:
    model = telling(cls).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    own = dict(model._modules)
    random = torch.get_rng_state()
    trace = analyse(model, image(2, 3, 8, 8, dtype=torch.float64))
    units = trace.graph.units()
    collect(model, trace, units, EVERYTHING, Calibration(batches()))
    with pytest.raises(PrunerError):
        collect(model, trace, units, EVERYTHING, Calibration([(image(2, 3, 8, 8), None)]))
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training for module in model.modules())
    assert model._modules == own
    assert all(isinstance(p, nn.Parameter) for p in model.parameters())
    assert all(p.grad is None for p in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


# --- PageRank over a network ---------------------------------------------------------------------


def test_page_rank_goes_through_a_perceptron_layer_by_layer() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 3)
    ).double()
    data = [torch.randn(16, 5).double() for _ in range(2)]
    trace = analyse(model, data[0])
    scored = score_units(
        model,
        trace.graph,
        trace.graph.units(),
        WeightedPageRank(),
        trace=trace,
        calibration=Calibration(data),
    )
    x = torch.cat(data)
    r = magnitude(x) / magnitude(x).sum()
    with torch.no_grad():
        for i in (0, 2, 4):
            weight = model[i].weight.abs()
            x = model[i](x) if i == 4 else F.relu(model[i](x))
            active = magnitude(x)
            links = weight / weight.sum(0) / 2 + torch.ones_like(weight) / len(weight) / 2
            scores = 0.9 * links @ r + 0.1 * active / active.sum()
            torch.testing.assert_close(scored.layers[f"{i}.weight"], scores)
            r = scores / scores.sum()
    assert list(scored.layers) == ["0.weight", "2.weight", "4.weight"]


def asked(model: nn.Module, *names: str) -> dict[str, dict[str, Any]]:
    """What a measure is called with, layer by layer."""
    calls: list[dict[str, Any]] = []

    def spy(
        *,
        weight: Tensor,
        filters: Tensor,
        prev_importance: Tensor,
        in_activations: Tensor,
        **rest: Any,
    ) -> Tensor:
        calls.append(
            {
                "weight": weight,
                "filters": filters,
                "prev_importance": prev_importance,
                "in_activations": in_activations,
            }
        )
        return weight.abs().sum(1)

    trace = analyse(model, image(2, 3, 8, 8, dtype=torch.float64))
    scored = score_units(
        model,
        trace.graph,
        trace.graph.units(),
        spy,
        trace=trace,
        calibration=Calibration(batches()),
    )
    return {n.removesuffix(".weight"): c for n, c in zip(scored.layers, calls, strict=True)}


def test_kernels_are_summed_and_groups_spread_out() -> None:
    model: Any = telling(Residual)
    calls = asked(model)
    assert list(calls) == ["conv1", "conv2", "conv3", "depthwise", "mix", "grouped", "fc"]
    kernels = model.conv1.weight.detach().abs().sum((2, 3))
    torch.testing.assert_close(calls["conv1"]["weight"], kernels)
    torch.testing.assert_close(calls["conv1"]["filters"], model.conv1.weight.detach().flatten(1))
    alone = torch.diag(model.depthwise.weight.detach().abs().sum((1, 2, 3)))
    torch.testing.assert_close(calls["depthwise"]["weight"], alone)
    blocks = model.grouped.weight.detach().abs().flatten(1)
    expected = torch.block_diag(blocks[:4], blocks[4:])
    torch.testing.assert_close(calls["grouped"]["weight"], expected)
    # A Linear's weight is as it is.
    torch.testing.assert_close(calls["fc"]["weight"], model.fc.weight.detach())


def test_importance_arrives_where_it_is_read() -> None:
    model: Any = telling(Residual)
    calls = asked(model)
    for call in calls.values():
        assert call["prev_importance"].shape == call["in_activations"].shape
        assert call["prev_importance"].sum().item() == pytest.approx(1)
    x = torch.cat([inputs for inputs, _ in batches()])
    inputs = magnitude(x) / magnitude(x).sum()
    torch.testing.assert_close(calls["conv1"]["prev_importance"], inputs)
    one = model.conv1.weight.detach().abs().sum((1, 2, 3))
    two = model.conv2.weight.detach().abs().sum((1, 2, 3))
    three = model.conv3.weight.detach().abs().sum((1, 2, 3))
    torch.testing.assert_close(calls["conv2"]["prev_importance"], one / one.sum())
    # What conv3 reads is conv1 and conv2 added; what the depthwise reads, that beside conv3.
    both = (one / one.sum() + two / two.sum()) / 2
    torch.testing.assert_close(calls["conv3"]["prev_importance"], both)
    beside = torch.cat([both, three / three.sum()])
    torch.testing.assert_close(calls["depthwise"]["prev_importance"], beside / 2)


@pytest.mark.parametrize("name", SCORING_MEASURES)
@pytest.mark.parametrize("cls", [Chain, Residual])
def test_every_measure_scores_every_layer(name: str, cls: Callable[[], nn.Module]) -> None:
    model = telling(cls)
    inputs = image(2, 3, 8, 8, dtype=torch.float64)
    result = prune(model, inputs, 20, measure=name, calibration=batches())
    expected = {n for n, t in model.named_parameters() if t.dim() > 1}
    if name == "BatchNormScale":
        expected = {"conv1.weight"} if cls is Chain else {"conv1", "conv2", "conv3", "depthwise"}
        assert set(result.scored.layers) <= {
            n.removesuffix(".weight") + ".weight" for n in expected
        }
        assert result.scored.layers
    else:
        assert set(result.scored.layers) == expected
    again = prune(model, inputs, 20, measure=name, calibration=batches())
    assert {k: [d.tolist() for d in v] for k, v in again.kept.items()} == {
        k: [d.tolist() for d in v] for k, v in result.kept.items()
    }
    if name == "ChannelActivation":  # a process each: what is exact for one is so for all
        assert result.verified().error < 1e-12


# --- weights that are not one call's -------------------------------------------------------------


class Attending(nn.Module):
    """`in_proj_weight` is one matrix in self-attention, three slices of it in cross-attention."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.norm = nn.LayerNorm(8)
        self.own = nn.MultiheadAttention(8, 2, batch_first=True)
        self.cross = nn.MultiheadAttention(8, 2, batch_first=True)
        self.fc1 = nn.Linear(8, 12)
        self.fc2 = nn.Linear(12, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.patch(x).flatten(2).transpose(1, 2))
        x = x + self.own(x, x, x, need_weights=False)[0]
        x = x + self.cross(x, x.flip(1), x * 2, need_weights=False)[0]
        x = x + self.fc2(F.gelu(self.fc1(x)))
        return self.head(x.mean(1))


class Upsampling(nn.Module):
    """A column of a grouped transposed convolution makes a channel of every group."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 6, 2, 2, groups=2)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.up(F.relu(self.conv(x)))).mean((2, 3)))


class SideBySide(nn.Module):
    """One convolution with the weights of two."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.two = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.fc = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, torch.cat([self.one.weight, self.two.weight]), padding=1)
        return self.fc(F.relu(x).mean((2, 3)))


class Tied(nn.Module):
    """An autoencoder whose decoder is the encoder's transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(192, 7)
        self.head = nn.Linear(192, 5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.encoder(x.flatten(1)))
        return self.head(F.relu(F.linear(hidden, self.encoder.weight.t())))


class SqueezeExcite(nn.Module):
    """The gate reads the channels before the activation function does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.squeeze = nn.Conv2d(6, 4, 1)
        self.excite = nn.Conv2d(4, 6, 1)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        gate = self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True))))
        return self.fc(F.relu(x * gate.sigmoid()).mean((2, 3)))


class WrittenOut(nn.Module):
    """GELU and swish as products."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 7, 3, padding=1)
        self.fc = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = 0.5 * x * (1 + torch.tanh(0.7978845608 * (x + 0.044715 * x * x * x)))
        x = self.conv2(x)
        return self.fc((x * torch.sigmoid(x)).mean((2, 3)))


UNUSUAL = [Attending, Upsampling, SideBySide, Tied, SqueezeExcite, WrittenOut]


@pytest.mark.parametrize("name", SCORING_MEASURES)
@pytest.mark.parametrize("cls", UNUSUAL)
def test_every_measure_scores_unusual_weights(name: str, cls: Callable[[], nn.Module]) -> None:
    model = telling(cls)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    inputs = image(2, 3, 8, 8, dtype=torch.float64)
    result = prune(
        model, inputs, 0 if name == "BatchNormScale" else 10, measure=name, calibration=batches()
    )
    if name != "BatchNormScale":
        scored = {key.partition("[")[0] for key in result.scored.layers}
        assert scored == {axis.tensor for axis in result.graph.outputs()}
    if name == "ChannelActivation":  # a process each: what is exact for one is so for all
        assert result.verified().error < 1e-12
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


def everything_of(cls: Callable[[], nn.Module]) -> tuple[Any, Statistics, Tensor]:
    model = telling(cls)
    found = measured(model, {"in_activations", "out_activations", "zeros", "ranks"}, batches())
    return model, found, torch.cat([inputs for inputs, _ in batches()])


@torch.no_grad()
def test_slices_of_a_weight_are_rows_of_it() -> None:
    model, found, x = everything_of(Attending)
    x = model.norm(model.patch(x).flatten(2).transpose(1, 2))
    axis = Axis("own.in_proj_weight", 0)
    made = F.linear(x, model.own.in_proj_weight, model.own.in_proj_bias)
    # Its channels are read as they are by the attention, which scales the queries on the way.
    scale = torch.ones(24, dtype=torch.float64)
    got = found.activations["out_activations"][axis]
    torch.testing.assert_close(got[16:], magnitude(made, 2)[16:] * scale[16:])
    x = x + model.own(x, x, x)[0]
    sources = [x, x.flip(1), x * 2]
    axis = Axis("cross.in_proj_weight", 0)
    value = F.linear(x * 2, model.cross.in_proj_weight[16:], model.cross.in_proj_bias[16:])
    got = found.activations["out_activations"][axis]
    torch.testing.assert_close(got[16:], magnitude(value, 2))
    reads = torch.stack([magnitude(source, 2) for source in sources]).mean(0)
    torch.testing.assert_close(found.activations["in_activations"][axis], reads)


@torch.no_grad()
def test_columns_of_a_grouped_transposed_convolution() -> None:
    model, found, x = everything_of(Upsampling)
    made = F.relu(model.up(F.relu(model.conv(x))))
    of_each = magnitude(made).view(2, 3).mean(0)
    torch.testing.assert_close(of_layer(found, "out_activations", "up", 1), of_each)


@torch.no_grad()
def test_two_weights_in_one_call() -> None:
    model, found, x = everything_of(SideBySide)
    for name in ("one", "two"):
        conv = getattr(model, name)
        torch.testing.assert_close(
            of_layer(found, "out_activations", name), magnitude(F.relu(conv(x)))
        )
        torch.testing.assert_close(of_layer(found, "in_activations", name), magnitude(x))


@torch.no_grad()
def test_a_weight_and_its_transpose_are_two_layers() -> None:
    model, found, x = everything_of(Tied)
    hidden = F.relu(model.encoder(x.flatten(1)))
    back = F.relu(hidden @ model.encoder.weight)
    torch.testing.assert_close(of_layer(found, "out_activations", "encoder"), magnitude(hidden))
    torch.testing.assert_close(of_layer(found, "out_activations", "encoder", 1), magnitude(back))
    torch.testing.assert_close(of_layer(found, "in_activations", "encoder", 1), magnitude(hidden))


@torch.no_grad()
def test_a_gate_does_not_end_the_way_to_the_activation_function() -> None:
    model, found, x = everything_of(SqueezeExcite)
    x = model.conv(x)
    gate = model.excite(F.relu(model.squeeze(x.mean((2, 3), keepdim=True)))).sigmoid()
    active = F.relu(x * gate)
    torch.testing.assert_close(of_layer(found, "out_activations", "conv"), magnitude(active))
    zeros = (active == 0).double().movedim(1, 0).flatten(1).mean(1)
    assert 0 < zeros.min() < zeros.max() < 1
    torch.testing.assert_close(of_layer(found, "zeros", "conv"), zeros)


@torch.no_grad()
def test_activation_functions_that_are_written_out() -> None:
    model, found, x = everything_of(WrittenOut)
    x = F.gelu(model.conv1(x), approximate="tanh")
    got = of_layer(found, "out_activations", "conv1")
    torch.testing.assert_close(got, magnitude(x), rtol=1e-6, atol=1e-9)
    x = F.silu(model.conv2(x))
    torch.testing.assert_close(of_layer(found, "out_activations", "conv2"), magnitude(x))


class ChannelsLast(nn.Module):
    """Linear layers on (batch, height, width, channels)."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(3, 6)
        self.fc2 = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(x.permute(0, 2, 3, 1))).mean((1, 2)))


@torch.no_grad()
def test_feature_maps_of_channels_last_have_ranks() -> None:
    model, found, x = everything_of(ChannelsLast)
    maps = F.relu(model.fc1(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
    ranks = torch.linalg.matrix_rank(maps).double().mean(0)
    assert ranks.max() > 1
    torch.testing.assert_close(of_layer(found, "ranks", "fc1"), ranks)


class InputsSideBySide(nn.Module):
    """One convolution whose columns are those of two weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.one = nn.Conv2d(4, 6, 1, bias=False)
        self.two = nn.Conv2d(2, 6, 1, bias=False)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        x = F.conv2d(x, torch.cat([self.one.weight, self.two.weight], 1))
        return self.fc(F.relu(x).mean((2, 3)))


def test_layers_without_statistics_stay_and_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    inputs = image(2, 3, 8, 8, dtype=torch.float64)
    model = telling(InputsSideBySide)
    result = prune(model, inputs, 10, measure="ChannelWandA", calibration=batches())
    assert capsys.readouterr().err.splitlines() == [
        "warning: measure ChannelWandA has nothing to go by for one (1 layer): no run shows what "
        "the rows or columns of its weight meet; what only they make stays"
    ]
    assert set(result.scored.layers) == {"conv.weight", "fc.weight"}
    assert len(result.kept["one.weight"][0]) == 6


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 1)
        self.conv2 = nn.Conv2d(3, 6, 1)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        y.mul_(2)  # writes to what it is given
        return self.fc(F.relu(self.conv1(x) + self.conv2(y)).mean((2, 3)))


def test_a_loader_collates_several_inputs_to_a_list() -> None:
    """`DataLoader` makes [[x1, x2], labels] of ((x1, x2), label) pairs."""
    one, two = batches(2)
    data = [[[one[0].clone(), two[0].clone()], one[1]]]
    model = telling(TwoInputs)
    example = (one[0].clone(), two[0].clone())
    trace = analyse(model, example)
    needed = {"in_activations", "squared_gradients"}
    found = collect(model, trace, trace.graph.units(), needed, Calibration(data))
    torch.testing.assert_close(of_layer(found, "in_activations", "conv1"), magnitude(one[0]))
    torch.testing.assert_close(of_layer(found, "in_activations", "conv2"), 2 * magnitude(two[0]))
    assert torch.equal(data[0][0][1], two[0])  # the user's batch is as it was


class Buffered(nn.Module):
    """A weight that is a buffer, as a frozen stem may be."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("stem", torch.randn(6, 3, 3, 3))
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(F.conv2d(x, self.stem)).mean((2, 3)))


def test_a_buffer_has_gradients_too() -> None:
    model: Any = telling(Buffered)
    found = measured(model, {"gradients"}, batches(1))
    model.stem.requires_grad_(True)
    ((x, y),) = batches(1)
    (expected,) = torch.autograd.grad(F.cross_entropy(model(x), y), model.stem)
    torch.testing.assert_close(found.gradients["gradients"]["stem"], expected)


def test_curvature_goes_through_attention() -> None:
    model = telling(Attending)
    found = measured(model, {"hessian"}, batches(1))
    assert found.gradients["hessian"]["own.in_proj_weight"].abs().sum() > 0


# --- what a function is called with --------------------------------------------------------------


def test_functions_get_what_they_name() -> None:
    def strict(weight: Tensor) -> Tensor:
        return weight.abs().sum(1)

    def loose(**context: Any) -> Tensor:
        assert {"weight", "prev_importance", "in_activations", "out_activations"} <= set(context)
        return context["out_activations"]

    model, inputs = telling(Chain), image(2, 3, 8, 8, dtype=torch.float64)
    trace = analyse(model, inputs)
    units = trace.graph.units()
    by_hand = score_units(model, trace.graph, units, strict, trace=trace)
    named = score_units(model, trace.graph, units, SCORING_MEASURES["ChannelNorm"], trace=trace)
    assert torch.equal(by_hand.layers["conv1.weight"], named.layers["conv1.weight"])
    data = Calibration(batches())
    any_ = score_units(model, trace.graph, units, loose, trace=trace, calibration=data)
    named = score_units(
        model, trace.graph, units, ChannelActivation(), trace=trace, calibration=data
    )
    assert torch.equal(any_.layers["fc1.weight"], named.layers["fc1.weight"])


def test_a_measure_that_writes_to_its_arguments_harms_nobody() -> None:
    def careless(*, weight: Tensor, filters: Tensor, **context: Any) -> Tensor:
        filters.zero_()
        return weight.abs_().sum(1)

    model, inputs = telling(Chain), image(2, 3, 8, 8, dtype=torch.float64)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trace = analyse(model, inputs)
    score_units(model, trace.graph, trace.graph.units(), careless, trace=trace)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_the_largest_of_scores_below_zero_is_below_zero() -> None:
    """`standard` makes such: their largest is not 0."""
    model: Any = telling(Residual)
    with torch.no_grad():
        for layer in (model.conv1, model.conv2, model.depthwise):
            layer.weight[0] *= 0.01
    trace = analyse(model, image(2, 3, 8, 8, dtype=torch.float64))
    units = trace.graph.units()
    norm = SCORING_MEASURES["ChannelNorm"]
    found = score_units(model, trace.graph, units, norm, "max", trace=trace, normalizer="standard")
    shares = []
    for name in ("conv1", "conv2", "depthwise"):
        scores = found.layers[f"{name}.weight"]
        shares.append(((scores - scores.mean()) / scores.std(correction=0))[:6])
    expected = torch.stack(shares).amax(0)
    assert expected[0] < 0
    got = found.units[units.of(Axis("conv1.weight", 0))]
    torch.testing.assert_close(torch.from_numpy(got), expected)


def test_scores_below_zero_are_not_multiplied() -> None:
    model, inputs = telling(Chain), image(2, 3, 8, 8, dtype=torch.float64)
    trace = analyse(model, inputs)
    norm = SCORING_MEASURES["ChannelNorm"]
    with pytest.raises(
        PrunerError,
        match=r"^--aggregate product: multiplies scores below 0, which the normalizer standard "
        r"makes; expected another normalizer, such as mean$",
    ):
        score_units(model, trace.graph, trace.graph.units(), norm, "product", normalizer="standard")


# --- what is no data -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], r"^calibration: no batches; expected at least one batch of inputs$"),
        ([(torch.empty(0, 3, 8, 8), torch.empty(0))], r"^calibration: batch 1 holds an empty tens"),
        (["text"], r"^calibration: batch 1 holds a str; expected inputs, or a pair of inputs and"),
        (
            [image(2, 3, 8, 8), image(2, 4, 8, 8)],
            r"^calibration: the forward raised RuntimeError on batch 2 of shape \(2, 4, 8, 8\): .*"
            r"; expected data like the example inputs$",
        ),
        (
            [(image(2, 3, 8, 8), image(2, 3, 8, 8), torch.tensor([0, 1]))],
            r"^calibration: batch 1 is a tuple of 3; expected inputs, or \(inputs, labels\); "
            r"several inputs are a tuple: \(\(x1, x2\), labels\)$",
        ),
    ],
)
def test_no_data(data: Any, message: str) -> None:
    with pytest.raises(PrunerError, match=message):
        measured(telling(Chain), {"in_activations"}, data)


@pytest.mark.parametrize(
    ("data", "loss", "message"),
    [
        (
            [image(2, 3, 8, 8)],
            F.cross_entropy,
            r"^calibration: batch 1 has no labels; gradients of",
        ),
        (
            [(image(2, 3, 8, 8), torch.tensor([0, 5]))],
            F.cross_entropy,
            r"^calibration: batch 1 has the label 5; Chain has 5 outputs, expected labels from 0 t",
        ),
        (
            [(image(2, 3, 8, 8), torch.tensor([-1, 0]))],
            F.cross_entropy,
            r"^calibration: batch 1 has the label -1; Chain has 5 outputs",
        ),
        (
            [(image(2, 3, 8, 8) * float("nan"), torch.tensor([1, 0]))],
            F.cross_entropy,
            r"^calibration: batch 1 holds 384 numbers that are not finite \(NaN or infinity\); ex",
        ),
        (
            [(image(2, 3, 8, 8), torch.tensor([1, 0]))],
            lambda outputs, labels: outputs.sum() / 0,
            r"^calibration: the loss of batch 1 is -?(inf|nan); expected one finite number$",
        ),
        (
            [(image(2, 3, 8, 8), torch.tensor([1, 0]))],
            lambda outputs, labels: 1 / 0,
            r"^calibration: the loss raised ZeroDivisionError on batch 1: division by zero; it is ",
        ),
        (
            [(image(2, 3, 8, 8), torch.tensor([1, 0]))],
            lambda outputs, labels: outputs,
            r"^calibration: the loss of batch 1 is of shape \(2, 5\); expected one finite number$",
        ),
    ],
)
def test_data_without_a_loss(data: Any, loss: Any, message: str) -> None:
    with pytest.raises(PrunerError, match=message):
        measured(telling(Chain), {"gradients"}, data, loss)


class ByValue(nn.Module):
    """Takes another way for bright images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if x.shape[-1] > 8:
            x = torch.sigmoid(x)
        return self.fc(F.relu(x).mean((2, 3)))


def test_a_forward_that_takes_another_way() -> None:
    model = telling(ByValue)
    with pytest.raises(
        PrunerError,
        match=r"^calibration: the operator sigmoid runs in its forward other than on the example "
        r"inputs; expected data that takes the same way: give a batch of it as example_inputs$",
    ):
        measured(model, {"in_activations"}, [image(2, 3, 16, 16)])


def test_measures_that_need_data_say_so() -> None:
    model = telling(Chain)
    with pytest.raises(
        PrunerError,
        match=r"^measure ChannelActivation: needs calibration data for out_activations; expected "
        r"--dataset NAME \(from Python: calibration=Calibration\(loader\)\), or a measure of weig",
    ):
        prune(model, image(2, 3, 8, 8, dtype=torch.float64), 50, measure="ChannelActivation")
    loader = DataLoader(TensorDataset(*batches(1)[0]), 2)
    result = prune(
        model,
        image(2, 3, 8, 8, dtype=torch.float64),
        50,
        measure="ChannelActivation",
        calibration=loader,
    )
    assert isinstance(SCORING_MEASURES["ChannelActivation"], ChannelActivation)
    assert set(result.scored.layers) == {f"{n}.weight" for n in ("conv1", "conv2", "fc1", "fc2")}
