"""The traced graph: traps of real networks, and the model left as it was."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from helpers import scripted
from oracle import half, parity
from torch import Tensor, nn

from pruners.channel_graph import Axis, kept_of
from pruners.errors import PrunerError, UnsupportedNetworkError
from pruners.replay import DoesNotFitError, replay, trace, trace_graph

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def together(model: nn.Module, a: str, b: str, example: object = IMAGE) -> bool:
    """Whether axis "conv.weight[0]" and another one are the same units, position by position."""
    units = trace_graph(model, example).units()
    index = {str(axis): axis for axis in units.axes}
    return bool(np.array_equal(units.of(index[a]), units.of(index[b])))


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.out = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.drop(F.relu(self.bn(self.conv(x)))))


# --- the graph --------------------------------------------------------------------------------


def test_worked_example() -> None:
    graph = trace_graph(Small(), IMAGE)
    units = graph.units()
    rows = units.of(Axis("conv.weight", 0))
    for name, dim in [
        ("conv.bias", 0),
        ("bn.weight", 0),
        ("bn.running_var", 0),
        ("out.weight", 1),
    ]:
        assert np.array_equal(units.of(Axis(name, dim)), rows)
    assert not units.frozen[rows].any()
    assert units.frozen[units.of(Axis("out.weight", 0))].all()
    assert units.frozen[units.of(Axis("conv.weight", 1))].all()
    assert graph.outputs() == [Axis("conv.weight", 0), Axis("out.weight", 0)]
    assert graph.graph.nodes[Axis("out.weight", 1)]["role"] == "in"
    assert graph.positions == {"conv.weight": 64, "out.weight": 64}
    why = [data["because"] for _, _, data in graph.graph.edges(data=True)]
    assert "bn: batch_norm" in why
    assert "out: conv2d" in why


def test_positions_are_multiply_accumulates() -> None:
    """Products of sizes, summed over weights, are what torch's own counter finds."""
    from torch.utils.flop_counter import FlopCounterMode

    for name in ("resnet18", "mobilenet_v2", "shufflenet_v2_x0_5"):
        model = torchvision.models.get_model(name).eval()
        x = torch.randn(2, 3, 64, 64)
        graph = trace_graph(model, x)
        ours = sum(int(np.prod(graph.shapes[n])) * p for n, p in graph.positions.items())
        with FlopCounterMode(display=False) as counter:
            model(x)
        assert 2 * ours * 2 == counter.get_total_flops()


def test_transposed_convolution_has_its_outputs_along_dimension_1() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(3, 8, 2, stride=2), nn.ReLU(), nn.Conv2d(8, 4, 1))
    graph = trace_graph(model, IMAGE)
    assert Axis("0.weight", 1) in graph.outputs()
    assert graph.positions["0.weight"] == 64


def test_tied_parameters_are_one() -> None:
    model = Small()
    model.again = nn.Conv2d(8, 4, 1)
    model.again.weight = model.out.weight
    model.forward = lambda x: model.again(F.relu(model.conv(x)))  # type: ignore[method-assign]
    graph = trace_graph(model, IMAGE)
    assert graph.aliases == {"again.weight": "out.weight"}
    units = graph.units()
    kept = kept_of(graph.shapes, units, half(units))
    assert len(kept["conv.weight"][0]) < 8
    for name in ("out.weight", "again.weight"):
        assert np.array_equal(kept[name][1], kept["conv.weight"][0])


# --- traps ------------------------------------------------------------------------------------


class Auxiliary(Small):
    """https://github.com/pytorch/vision: GoogLeNet's heads exist only in training"""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> object:  # type: ignore[override]
        x = F.relu(self.bn(self.conv(x)))
        return (self.out(x), self.aux(x)) if self.training else self.out(x)


def test_training_only_heads_are_coupled() -> None:
    assert together(Auxiliary(), "conv.weight[0]", "aux.weight[1]")


def test_training_with_one_example_is_doubled() -> None:
    class Vector(Auxiliary):
        def forward(self, x: Tensor) -> object:  # type: ignore[override]
            return super().forward(F.adaptive_avg_pool2d(x, 1))

    assert together(Vector(), "conv.weight[0]", "aux.weight[1]", IMAGE[:1])


def test_second_run_only_where_training_is_read() -> None:
    assert [t.training for t in trace(Small(), IMAGE).tapes] == [False]
    assert [t.training for t in trace(Auxiliary(), IMAGE).tapes] == [False, True]


class Branches(Small):
    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        features = self.conv(x)
        return self.wide(features) if x.shape[-1] > 8 else self.out(features)


def test_several_example_inputs_are_joined() -> None:
    both = [IMAGE, torch.randn(1, 3, 16, 16)]
    assert together(Branches(), "conv.weight[0]", "wide.weight[1]", both)
    assert Axis("wide.weight", 1) not in trace_graph(Branches(), IMAGE).graph


class Remembers(Small):
    """A forward that caches what it sees, writes buffers, draws numbers and registers hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[str, Tensor] = {}
        self.seen: list[Tensor] = []
        self.constant = torch.ones(4)
        self.register_buffer("count", torch.zeros(()))
        self.fail = False

    def forward(self, x: Tensor) -> Tensor:
        self.grid = torch.arange(x.shape[-1], device=x.device)
        self.cache["x"] = x
        self.seen.append(x)
        self.constant += 1
        self.count += 1
        random.random()
        torch.rand(3)
        y = super().forward(x)
        if self.fail and self.training:
            raise RuntimeError("no training today")
        return y


@pytest.mark.parametrize("fail", [False, True])
def test_model_is_left_as_it_was(fail: bool) -> None:
    model = Remembers()
    model.fail = fail
    model.train()
    model.bn.eval()
    model.conv.weight.grad = torch.ones_like(model.conv.weight)
    before = copy.deepcopy(model.state_dict())
    attributes = {name: dict(m.__dict__) for name, m in model.named_modules()}
    identities = {name: id(p) for name, p in model.named_parameters()}
    modes = {name: m.training for name, m in model.named_modules()}
    rng, python_rng = torch.get_rng_state(), random.getstate()
    if fail:
        with pytest.raises(PrunerError, match=r"example input 0.*RuntimeError: no training today"):
            trace_graph(model, IMAGE)
    else:
        trace_graph(model, IMAGE)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
        assert not tensor.is_meta
    for name, module in model.named_modules():
        assert module.__dict__.keys() == attributes[name].keys()
        assert all(module.__dict__[k] is v for k, v in attributes[name].items())
        assert module.training == modes[name]
    assert identities == {name: id(p) for name, p in model.named_parameters()}
    assert model.cache == {}
    assert model.seen == []
    assert torch.equal(model.constant, torch.ones(4))
    assert model.conv.weight.grad is not None
    assert torch.equal(torch.get_rng_state(), rng)
    assert random.getstate() == python_rng
    assert not hasattr(nn.Module, "training")


def test_old_style_weight_norm_keeps_its_tensors() -> None:
    model = Small()
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(model.conv)
    trace_graph(model, IMAGE)
    assert not model.conv.weight.is_meta
    assert together(model, "conv.weight_v[0]", "conv.weight_g[0]")


def test_weight_norm_parametrization() -> None:
    model = Small()
    nn.utils.parametrizations.weight_norm(model.out, dim=0)
    nn.utils.parametrizations.weight_norm(model.conv, dim=0)
    outcome = parity(model, IMAGE)
    assert outcome.error < 1e-12
    assert outcome.removed("conv.parametrizations.weight.original1", 0) > 0


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        var, mean = torch.var_mean(w, dim=[1, 2, 3], keepdim=True)
        w = (w - mean) / torch.sqrt(var + 1e-5)
        return F.conv2d(x, w, self.bias, self.stride, self.padding)


def test_weight_standardisation_counts_its_inputs() -> None:
    model = Small()
    model.out = Standardised(8, 4, 1)
    outcome = parity(model, IMAGE)
    assert outcome.error < 1e-12
    assert outcome.removed("conv.weight", 0) > 0
    assert set(outcome.units.renormalised.values()) == {"out: var_mean"}
    assert outcome.graph.positions["out.weight"] == 64


class CpuConstants(Small):
    def forward(self, x: Tensor) -> Tensor:
        ramp = torch.linspace(0, 1, 8, dtype=x.dtype)
        return self.out(self.conv(x) * torch.tensor([float(ramp[-1])], dtype=x.dtype))


def test_constants_on_another_device_than_meta() -> None:
    outcome = parity(CpuConstants(), IMAGE)
    assert outcome.error < 1e-12
    assert outcome.removed("conv.weight", 0) > 0


class NeedsValues(Small):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.out(y if y.mean().item() > -1e9 else -y)


def test_forward_that_needs_values_runs_on_real_tensors() -> None:
    model = NeedsValues()
    outcome = parity(model, IMAGE)
    assert not outcome.trace.tapes[0].meta
    assert outcome.error < 1e-12
    assert outcome.removed("conv.weight", 0) > 0
    assert "_pruner_labels" not in model.conv.weight.__dict__


class WideConstant(Small):
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.conv(x) * torch.arange(8, dtype=x.dtype).view(1, 8, 1, 1))


def test_constant_as_wide_as_the_channels_freezes() -> None:
    outcome = parity(WideConstant(), IMAGE)
    assert outcome.removed("conv.weight", 0) == 0
    assert any("no weight produces" in why for why in outcome.units.reasons.values())


class Filled(Small):
    """Zeros as wide as the channels follow; a piece of them is written to."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        wide = torch.zeros(y.shape[0], 8, *y.shape[2:], dtype=y.dtype, device=y.device)
        wide[:, :4] = y[:, :4]
        wide[:, 4:].add_(y[:, 4:], alpha=2)
        return self.out(wide)


def test_writes_into_slices_of_zeros() -> None:
    outcome = parity(Filled(), IMAGE)
    assert outcome.error < 1e-12
    assert outcome.removed("conv.weight", 0) > 0
    assert outcome.corrections
    assert parity(Filled(), IMAGE, rewritable=False).removed("conv.weight", 0) == 0


class Steps(Small):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.out(torch.cat([y[:, ::2], y[:, 1::2]], 1))


def test_every_other_channel_stays_every_other_channel() -> None:
    outcome = parity(Steps(), IMAGE)
    assert outcome.removed("conv.weight", 0) == 0
    assert any("sliced in steps of 2" in why for why in outcome.units.reasons.values())


class WritesToInput(Small):
    def forward(self, x: Tensor) -> Tensor:
        base = x.repeat(1, 3, 1, 1)[:, :8].clone()
        base[:, :8] += self.conv(x)
        return self.out(base)


def test_write_into_what_no_weight_produces_freezes() -> None:
    outcome = parity(WritesToInput(), IMAGE)
    assert outcome.error < 1e-12
    assert outcome.removed("conv.weight", 0) == 0


class Unreached(Small):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Conv2d(8, 8, 1)


def test_what_no_run_reaches_stays() -> None:
    outcome = parity(Unreached(), IMAGE)
    assert outcome.removed("spare.weight", 0) == outcome.removed("spare.weight", 1) == 0


class TakesOne(Small):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.out(y * y[:, 2:3])


def test_channel_that_is_taken_out_alone_stays() -> None:
    model = TakesOne()
    outcome = parity(model, IMAGE)
    assert outcome.error < 1e-12
    units = outcome.units
    frozen = units.frozen[units.of(Axis("conv.weight", 0))]
    assert frozen[2]
    assert frozen.sum() == 1


class Unknown(Small):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.out(torch.special.bessel_j0(y) + torch.cdist(y, y)[..., :1, :1].sum() * 0)


def test_unknown_operator_is_reported() -> None:
    graph = trace_graph(Unknown(), IMAGE)
    (unknown,) = graph.unknown
    assert unknown.operator == "cdist" or "cdist" in unknown.operator
    assert unknown.module == ""
    assert unknown.channels == 8
    units = graph.units()
    assert units.frozen[units.of(Axis("conv.weight", 0))].all()


class WidthOfAnother(Small):
    """A width computed from that of another layer, as in Swin's C // heads."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.back = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).flatten(2).transpose(1, 2)
        n, length, c = y.shape
        q, k, v = self.qkv(y).reshape(n, length, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        a = (q @ k.transpose(-2, -1) * (c // 2) ** -0.5).softmax(-1)
        y = self.back((a @ v).transpose(1, 2).flatten(2))
        return self.out(y.transpose(1, 2).reshape(n, -1, *x.shape[2:]))


def test_width_computed_from_another_width_freezes_or_is_corrected() -> None:
    free = parity(WidthOfAnother(), IMAGE)
    assert free.error < 1e-12
    assert free.removed("qkv.weight", 0) > 0
    assert free.removed("conv.weight", 0) > 0
    assert {c.argument for c in free.corrections} == {"size", "argument 1"}
    fixed = parity(WidthOfAnother(), IMAGE, rewritable=False)
    assert fixed.error < 1e-12
    assert fixed.corrections == []
    assert fixed.removed("back.weight", 0) > 0


class Attention(Small):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).flatten(2).transpose(1, 2)
        y = y + self.attention(y, y, y)[0]
        return self.out(y.transpose(1, 2).reshape(x.shape[0], -1, *x.shape[2:]))


def test_multi_head_attention_with_free_widths_equals_torch() -> None:
    model = Attention().double().eval()
    found = trace(model, IMAGE.double(), rewritable=True)
    units = found.graph.units()
    kept = kept_of(found.graph.shapes, units, np.ones(units.count, dtype=bool))
    torch.testing.assert_close(replay(model, found, kept).output, model(IMAGE.double()))


def test_multi_head_attention_is_frozen_unless_it_can_be_replaced() -> None:
    fixed = parity(Attention(), IMAGE, rewritable=False)
    assert fixed.removed("conv.weight", 0) == 0
    free = parity(Attention(), IMAGE)
    assert free.error < 1e-12
    assert free.removed("conv.weight", 0) > 0
    assert free.removed("attention.in_proj_weight", 0) > 0


class Norms(Small):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.lrn = nn.LocalResponseNorm(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        y = self.lrn(y)
        gate = torch.cat([y.mean(1, keepdim=True), y.max(1, keepdim=True)[0]], 1).mean(1)
        return self.out(y * gate[:, None] * y.softmax(1))


def test_operators_that_count_are_marked_and_exact_on_the_survivors() -> None:
    outcome = parity(Norms(), IMAGE)
    assert outcome.error < 1e-12
    assert outcome.removed("conv.weight", 0) > 0
    assert set(outcome.units.renormalised.values()) == {"norm: layer_norm"}


class LoudSum(Small):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        gate = y.sigmoid().sum(1, keepdim=True)
        return self.out(y * gate)


class QuietSum(Small):
    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x)).relu()
        return self.out(y * y.sum(1, keepdim=True) / y.norm(dim=1, keepdim=True).clamp_min(1e-6))


def test_sum_counts_only_channels_that_are_not_silent() -> None:
    """sigmoid(0) is 1/2: a removed channel would still add to the sum."""
    loud = parity(LoudSum(), IMAGE)
    assert loud.error < 1e-12
    assert set(loud.units.renormalised.values()) == {"sum"}
    quiet = parity(QuietSum(), IMAGE)
    assert quiet.error < 1e-12
    assert not quiet.units.renormalised
    assert quiet.removed("conv.weight", 0) > 0


class Made(Small):
    """What a forward puts in the place of a channel that is gone, found by `make test-fuzz`."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        y = self.change(self.bn(self.conv(x)))
        gate = y.sum(1, keepdim=True) / 8 + (y.flatten(2) @ y.flatten(2).mT).mean() / 100
        return self.out(self.bn(self.conv(x)) * gate.mean((2, 3), keepdim=True))


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        (lambda y: y + torch.ones(y.size(0), 8, 1, 1, dtype=y.dtype, device=y.device), True),
        (lambda y: y + y.new_full((8, 1, 1), 2.0), True),
        (lambda y: y + y.new_zeros(8, 1, 1), False),
        (lambda y: torch.maximum(y, torch.full((1,), 0.5, dtype=y.dtype, device=y.device)), True),
        (lambda y: torch.maximum(y, -y), False),
        (lambda y: y.masked_fill(y.isnan(), 0.0), False),
        (lambda y: y.masked_fill(torch.ones(8, 8, dtype=torch.bool, device=y.device), 1.0), True),
        (lambda y: torch.where(torch.ones(1, dtype=torch.bool, device=y.device), 1.0, y), True),
        (lambda y: F.pad(y, (1, 1, 1, 1), value=0.5), True),
        (lambda y: F.pad(y, (1, 1, 1, 1)), False),
        (lambda y: F.threshold(y, 0.5, 0.5), True),
        (lambda y: 2**y, True),
        (lambda y: y**0, True),
        (lambda y: y**2, False),
        (F.logsigmoid, True),
        (lambda y: F.hardtanh(y, 0.5, 1.0), True),
        (F.relu6, False),
        (lambda y: torch.clamp_max(y, -0.5), True),
        (lambda y: torch.clamp_max(y, 0.5), False),
        (torch.special.i0, True),
        (torch.special.i0e, True),
        (torch.special.erfcx, True),
        (lambda y: torch.heaviside(y, y.new_ones(())), True),
        (lambda y: torch.hypot(y, y.new_ones(())), True),
        (lambda y: torch.copysign(y.new_ones(()), y), True),
        (lambda y: torch.acosh(y.abs() + 2), True),
        (F.hardtanh, False),
        (lambda x: x.isfinite().to(x.dtype), True),
        (lambda x: x.isnan().to(x.dtype), False),
    ],
)
def test_channels_that_something_else_takes_the_place_of(
    change: Callable[[Tensor], Tensor], counts: bool
) -> None:
    outcome = parity(Made(change), IMAGE)
    assert outcome.error < 1e-12
    assert outcome.removed("conv.weight", 0) > 0
    assert ("sum" in outcome.units.renormalised.values()) == counts


class DividedByItsNorm(Small):
    def forward(self, x: Tensor) -> Tensor:
        w = self.conv.weight
        w = w / w.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return self.out(F.conv2d(x, w, self.conv.bias, padding=1))


def test_division_by_a_silent_channel_is_not_nan() -> None:
    outcome = parity(DividedByItsNorm(), IMAGE)
    assert outcome.error < 1e-12
    assert set(outcome.units.renormalised.values()) == {"div"}
    assert outcome.removed("conv.weight", 0) > 0


def test_replay_reports_another_path() -> None:
    class Fickle(Small):
        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.out(y.relu() if y.shape[1] == 8 else y.tanh())

    model = Fickle()
    found = trace(model, IMAGE, last_word=False)
    units = found.graph.units()
    kept = kept_of(found.graph.shapes, units, half(units))
    with pytest.raises(DoesNotFitError, match="relu: tanh runs in its place"):
        replay(model, found, kept)
    assert parity(model, IMAGE).removed("conv.weight", 0) == 0


# --- bad input --------------------------------------------------------------------------------


def test_forward_that_raises() -> None:
    with pytest.raises(PrunerError, match=r"example input 1.*RuntimeError"):
        trace_graph(Small(), [IMAGE, torch.randn(2, 4, 8, 8)])


def test_wrappers_are_taken_off_and_scripts_refused() -> None:
    assert trace_graph(nn.DataParallel(Small()), IMAGE).positions.keys() == {
        "conv.weight",
        "out.weight",
    }
    with pytest.raises(UnsupportedNetworkError, match="ScriptModule has no Python source"):
        trace_graph(scripted(nn.Conv2d(3, 4, 1)), IMAGE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_dtype(dtype: torch.dtype) -> None:
    graph = trace_graph(Small().to(dtype), IMAGE.to(dtype))
    assert len(graph.units().frozen) == 15


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_torchvision(name: str) -> None:
    model = torchvision.models.get_model(name)
    outcome = parity(model, torch.randn(1, 3, 64, 64))
    assert outcome.error < 1e-12
    assert outcome.graph.unknown == []


class Queries(nn.Module):
    """A batch made of parameters, through a convolution that makes images smaller."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(4, 1, 1, 1))
        self.conv = nn.Conv2d(3, 6, 3, stride=2)
        self.head = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.scale * x.mean(0, keepdim=True)
        return self.head(self.conv(x).mean((2, 3)))


def test_labels_along_the_batch_survive_a_convolution_with_a_stride() -> None:
    """FocalNet of timm, in train mode, has such."""
    outcome = parity(Queries(), torch.randn(2, 3, 9, 9))
    assert outcome.error < 1e-12
    assert outcome.removed("conv.weight", 0) > 0
