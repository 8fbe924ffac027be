"""What decorators say of blocks, and the graph that is made of it alone."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import image, scripted, with_telling_state
from torch import Tensor, nn
from user_files import difference, wide_image

from pruners import (
    Axis,
    ChannelGraph,
    PrunerError,
    UnsupportedNetworkError,
    basic_block,
    bottleneck,
    prune,
)
from pruners.blocks import ATTRIBUTE, block_spec, block_type, register_calculator
from pruners.dependencies import LayerCalculator, ResidualCalculator, declared_graph


@basic_block(lType="deps_basic", convs=["conv1", "conv2"], downsampling=["down"])
class Basic(nn.Module):
    """Convolutions and norms defined in another order than that in which they run."""

    def __init__(self, inputs: int, outputs: int, down: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs + 2, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs + 2, outputs, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(outputs + 2)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.down = down

    def forward(self, x: Tensor) -> Tensor:
        out = self.second(F.relu(self.bn1(self.conv1(x))))
        if self.down is None:
            return F.relu(out + x)
        return F.relu(out + self.down(x))

    def second(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(x))


class Net(nn.Module):
    """A stem, the given body, a head; `width` channels go into the body and `out` come out."""

    def __init__(self, *body: nn.Module, width: int = 6, out: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(*body)
        self.fc = nn.Linear(out, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(self.stem(x)).mean((2, 3)))


def graph_of(model: nn.Module, *shape: int, ignore: Sequence[str] = ()) -> ChannelGraph:
    return declared_graph(model, (image(*(shape or (1, 3, 8, 8))),), ignore)


def together(graph: ChannelGraph, *names: str) -> bool:
    """Whether position i of all these axes is one unit, for every i; "conv.weight 0" is an axis."""
    units = graph.units()
    axes = [Axis(name.split()[0], int(name.split()[1])) for name in names]
    return all(np.array_equal(units.of(axes[0]), units.of(axis)) for axis in axes)


def apart(graph: ChannelGraph, a: str, b: str) -> bool:
    units = graph.units()
    one, other = (Axis(name.split()[0], int(name.split()[1])) for name in (a, b))
    return not set(units.of(one)) & set(units.of(other))


# -- couplings of a block -----------------------------------------------------------------------


def test_inside_of_a_block() -> None:
    graph = graph_of(Net(Basic(6, 6)))
    block = "body.0."
    assert together(
        graph,
        block + "conv1.weight 0",
        block + "bn1.weight 0",
        block + "bn1.bias 0",
        block + "bn1.running_mean 0",
        block + "bn1.running_var 0",
        block + "conv2.weight 1",
    )
    assert together(graph, block + "conv2.weight 0", block + "conv2.bias 0", block + "bn2.weight 0")
    assert apart(graph, block + "conv1.weight 0", block + "conv2.weight 0")


@pytest.mark.parametrize("down", [None, nn.Sequential()], ids=["None", "empty Sequential"])
def test_a_shortcut_without_layers_ties_the_output_to_the_input(down: nn.Module | None) -> None:
    graph = graph_of(Net(Basic(6, 6, down)))
    assert together(
        graph,
        "stem.weight 0",
        "stem.bias 0",
        "body.0.conv1.weight 1",
        "body.0.conv2.weight 0",
        "fc.weight 1",
    )


@pytest.mark.parametrize(
    "down",
    [
        lambda: nn.Conv2d(6, 5, 1),
        lambda: nn.Sequential(nn.Conv2d(6, 5, 1, bias=False), nn.BatchNorm2d(5)),
        lambda: nn.Sequential(nn.Identity(), nn.ReLU(), nn.Conv2d(6, 5, 1)),
    ],
    ids=["convolution", "convolution and norm", "behind others"],
)
def test_a_projection_sets_the_output_free(down: Callable[[], nn.Module]) -> None:
    layer = down()
    graph = graph_of(Net(Basic(6, 5, layer), out=5))
    name = next(n for n, p in layer.named_parameters() if p.dim() == 4)
    projection = f"body.0.down.{name}"
    assert together(graph, "stem.weight 0", "body.0.conv1.weight 1", f"{projection} 1")
    assert together(graph, f"{projection} 0", "body.0.conv2.weight 0", "fc.weight 1")
    assert apart(graph, "stem.weight 0", "body.0.conv2.weight 0")


def test_a_row_of_blocks_is_one_group_up_to_a_projection() -> None:
    graph = graph_of(Net(Basic(6, 6), Basic(6, 6), Basic(6, 5, nn.Conv2d(6, 5, 1)), out=5))
    units = graph.units()
    first = {units.group_of[u] for u in units.of(Axis("stem.weight", 0))}
    assert first == {units.group_of[u] for u in units.of(Axis("body.1.conv2.weight", 0))}
    assert not first & {units.group_of[u] for u in units.of(Axis("body.2.conv2.weight", 0))}


@basic_block(lType="deps_preact", convs=["conv1", "conv2"], downsampling=["short"])
class PreActivation(nn.Module):
    """The norm comes first, and the shortcut branches off behind it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.short = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        shortcut = x if self.short is None else self.short(out)
        return self.conv2(F.relu(self.bn2(self.conv1(out)))) + shortcut


def test_a_norm_in_front_reads_the_input() -> None:
    graph = graph_of(Net(PreActivation(6, 6), PreActivation(6, 5), out=5))
    assert together(graph, "stem.weight 0", "body.0.bn1.weight 0", "body.0.conv1.weight 1")
    assert together(graph, "body.0.conv2.weight 0", "body.1.bn1.running_var 0")
    assert together(graph, "body.1.short.weight 0", "body.1.conv2.weight 0", "fc.weight 1")


@bottleneck(lType="deps_bottleneck", convs=["reduce", "grouped", "expand"])
class Bottleneck(nn.Module):
    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(width, 8, 1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=groups)
        self.expand = nn.Conv2d(8, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.expand(F.relu(self.grouped(F.relu(self.reduce(x))))) + x


def test_groups_stay_equally_wide() -> None:
    graph = graph_of(Net(Bottleneck(6, groups=2)))
    units = graph.units()
    rows = units.of(Axis("body.0.grouped.weight", 0))
    assert rows[:4].tolist() == rows[4:].tolist()
    assert len(set(rows)) == 4
    into = units.of(Axis("body.0.reduce.weight", 0))
    assert into[:4].tolist() == into[4:].tolist()
    assert units.of(Axis("body.0.grouped.weight", 1)).tolist() == into[:4].tolist()


def test_a_depthwise_convolution_passes_channels_on() -> None:
    graph = graph_of(Net(Bottleneck(6, groups=8)))
    assert together(
        graph,
        "body.0.reduce.weight 0",
        "body.0.grouped.weight 0",
        "body.0.grouped.bias 0",
        "body.0.expand.weight 1",
    )
    units = graph.units()
    assert not units.frozen[units.of(Axis("body.0.grouped.weight", 0))].any()


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(6, 12, 3, groups=6), nn.Conv2d(12, 6, 1)],
        [nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 1)],
        [nn.Conv2d(6, 8, 3, groups=2), nn.PReLU(8), nn.Conv2d(8, 6, 3, groups=2, bias=False)],
        [nn.ConvTranspose2d(6, 8, 2), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 1)],
        [nn.Conv2d(6, 8, 1), nn.InstanceNorm2d(8, affine=True), nn.GELU(), nn.Conv2d(8, 6, 1)],
        [nn.BatchNorm2d(6, affine=False), nn.PReLU(), nn.Dropout(0.5), nn.AvgPool2d(2)],
    ],
    ids=["multiplier", "depthwise", "grouped", "transposed", "instance norm", "no parameters"],
)
def test_layers_in_a_chain(layers: list[nn.Module]) -> None:
    """The slim network equals the masked original, to float64's rounding."""
    model = with_telling_state(Net(*layers)).double()
    result = prune(model, wide_image(2, 3, 8, 8), 40, min_filters=1)
    assert result.report.parameters.removed_pct >= 40
    assert difference(result) < 1e-12


def test_a_flatten_spreads_every_channel_over_its_positions() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(3 * 4, 5), nn.Linear(5, 2))
    graph = graph_of(model, 1, 1, 4, 4)
    units = graph.units()
    rows = units.of(Axis("0.weight", 0))
    assert units.of(Axis("2.weight", 1)).tolist() == np.repeat(rows, 4).tolist()


# -- the network --------------------------------------------------------------------------------


def test_the_ends_of_a_network_stay() -> None:
    units = graph_of(Net(Basic(6, 6))).units()
    assert units.frozen[units.of(Axis("stem.weight", 1))].all()
    assert units.frozen[units.of(Axis("fc.weight", 0))].all()
    assert not units.frozen[units.of(Axis("stem.weight", 0))].any()


class WithEnds(Net):
    """Arithmetic in front of the first layer and behind the last one."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x[:, :1], (x[:, 1:] - 0.5) / 0.25], 1)
        return F.log_softmax(super().forward(x) * 2, dim=1)


def test_what_comes_in_and_what_goes_out_may_pass_any_operator() -> None:
    graph = graph_of(WithEnds(Basic(6, 6)))
    assert together(graph, "stem.weight 0", "fc.weight 1")


def test_ignored_layers_keep_their_outputs_and_what_hangs_on_them() -> None:
    graph = graph_of(Net(Basic(6, 6)), ignore=["body.*.conv2"])
    units = graph.units()
    assert units.frozen[units.of(Axis("stem.weight", 0))].all()
    assert not units.frozen[units.of(Axis("body.0.conv1.weight", 0))].any()
    with pytest.raises(PrunerError, match=r"--ignore body\.0: matches no layer"):
        graph_of(Net(Basic(6, 6)), ignore=["body.0"])


class Unknown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, 6, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def test_an_unknown_layer_freezes_what_it_touches() -> None:
    model = Net(nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1), Unknown(), nn.Conv2d(6, 6, 1))
    units = graph_of(model).units()
    assert not units.frozen[units.of(Axis("body.0.weight", 0))].any()
    assert units.frozen[units.of(Axis("body.1.weight", 0))].all()
    frozen = int(units.of(Axis("body.1.weight", 0))[0])
    assert units.reasons[frozen] == "body.2: no rule for Unknown"
    assert units.frozen[units.of(Axis("body.3.weight", 1))].all()
    assert not units.frozen[units.of(Axis("body.3.weight", 0))].any()


def test_a_forward_of_the_users_own_is_unknown() -> None:
    """Weight standardisation, say, looks at all inputs of a filter at once."""

    class Standardised(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return F.conv2d(x, weight, self.bias)

    units = graph_of(Net(Standardised(6, 6, 1))).units()
    reason = units.reasons[int(units.of(Axis("stem.weight", 0))[0])]
    assert reason == "body.0: no rule for the forward of Standardised"
    assert units.frozen[units.of(Axis("body.0.weight", 0))].all()


def test_layers_that_do_not_run_stay_as_they_are() -> None:
    class Idle(Net):
        def __init__(self) -> None:
            super().__init__(Basic(6, 6))
            self.idle = nn.Conv2d(9, 9, 1)

    graph = graph_of(Idle())
    assert Axis("idle.weight", 0) not in graph.graph


class Chain(nn.Module):
    """Three layers; `order` is what forward makes of them."""

    def __init__(self, order: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.order = order
        self.a = nn.Conv2d(3, 3, 3, padding=1)
        self.b = nn.Conv2d(3, 3, 3, padding=1)
        self.c = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.order(self, x)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (lambda m, x: m.c(m.a(m.b(x))), r"a: defined before b but runs after it"),
        (lambda m, x: m.c(m.b(m.a(m.a(x)))), r"a: runs twice; expected every layer"),
        (lambda m, x: m.c(m.a(x) + m.b(x)), r"b reads the network's input, expected a alone"),
        (
            lambda m, x: (lambda y: m.c(y + m.b(y)))(m.a(x)),
            r"c reads a and b through Add, expected b alone.*decorate the block that c belongs to",
        ),
        (lambda m, x: m.c(m.b(torch.roll(m.a(x), 1, 1))), r"b reads a through Roll"),
        (lambda m, x: m.c(m.b(F.softmax(m.a(x), 1))), r"b reads a through Softmax"),
        (
            lambda m, x: m.c(m.b(m.a(x).mean(-3, True).expand(-1, 3, -1, -1))),
            r"b reads a through Expand, mean over channels",
        ),
        (lambda m, x: m.c(m.b(m.a(x).detach())), r"b reads nothing that can be followed"),
        (
            lambda m, x: m.c(m.b(m.a(x) * m.c.weight[0, 0, 0, 0])),
            r"b reads a and the parameter c\.",
        ),
        (lambda m, x: (m.c(m.b(m.a(x))), x), r"the network's output reads the network's input"),
        (lambda m, x: [m.b(m.a(x)), m.c(x)], r"c reads the network's input, expected b alone"),
        (lambda m, x: m.a(x.flatten()), r"Chain: its forward raised on example inputs of shape"),
    ],
)
def test_a_network_that_is_no_chain(order: Callable[[Any, Tensor], Tensor], message: str) -> None:
    model = Chain(order)
    with pytest.raises(UnsupportedNetworkError, match=message):
        graph_of(model)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_layer_with_two_inputs_and_one_with_two_outputs() -> None:
    class Odd(Chain):
        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x), x)

    class Two(nn.BatchNorm2d):
        def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
            return super().forward(x), x

    odd = Odd(lambda m, x: x)
    odd.b = Two(3)
    with pytest.raises(UnsupportedNetworkError, match=r"b: called with 2 tensors, expected one"):
        graph_of(odd)
    pair = Chain(lambda m, x: m.a(x)[0])
    pair.a = Two(3)
    with pytest.raises(UnsupportedNetworkError, match=r"a: returns tuple, expected one tensor"):
        graph_of(pair)


def test_the_run_leaves_nothing_behind() -> None:
    """A forward that counts its calls and caches what it saw."""

    class Counting(Chain):
        def __init__(self) -> None:
            super().__init__(lambda m, x: m.c(m.b(m.a(x))))
            self.register_buffer("calls", torch.zeros(()))
            self.register_buffer("last", torch.zeros(()))
            self.seen: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.last = self.last + 1
            self.seen = super().forward(x)
            return self.seen

    model = Counting().train()
    last = model.last
    graph_of(model)
    assert model.seen is None
    assert model.calls.item() == 0
    assert model.last is last
    assert model.training


# -- decorators ---------------------------------------------------------------------------------


def block_with(convs: Sequence[str], downsampling: Sequence[str] = ()) -> type[nn.Module]:
    class Blocky(Basic):
        pass

    basic_block(lType="deps_blocky", convs=convs, downsampling=downsampling)(Blocky)
    return Blocky


@pytest.mark.parametrize(
    ("convs", "downsampling", "message"),
    [
        (
            ["conv1", "conv3"],
            ["down"],
            r"body\.0 \(Blocky\): @basic_block names 'conv3' in convs, which the block lacks; "
            r"its convolutions are: conv1, conv2",
        ),
        (["conv1", "bn1"], ["down"], r"names 'bn1' in convs, which is no convolution"),
        (["conv1"], ["down"], r"does not name the convolution 'conv2'; name all of them in convs"),
        (["conv2", "conv1"], ["down"], r"in the order conv2, conv1, but they run in the order con"),
        (
            ["conv1", "conv2"],
            ["down", "short"],
            r"names 'short' in downsampling, which the block lacks",
        ),
        (["conv1", "conv2"], [], r"does not name the convolution 'down\.0'"),
    ],
)
def test_a_decorator_that_does_not_fit_its_block(
    convs: list[str], downsampling: list[str], message: str
) -> None:
    block = block_with(convs, downsampling)(6, 6, nn.Sequential(nn.Conv2d(6, 6, 1)))
    with pytest.raises(PrunerError, match=message):
        graph_of(Net(block))


@pytest.mark.parametrize(
    ("convs", "message"),
    [
        ([], r"@basic_block\(convs=\[\]\): name at least one convolution"),
        (["conv1", "conv1"], r"a name appears twice"),
        ([""], r"'' is not the name of a layer; expected names such as 'conv1'"),
        (["a..b"], r"'a\.\.b' is not the name of a layer"),
        ([nn.Conv2d], r"is not the name of a layer"),
    ],
)
def test_names_that_are_none(convs: list[Any], message: str) -> None:
    with pytest.raises(PrunerError, match=message):
        basic_block(lType="deps_bad", convs=convs)


@pytest.mark.parametrize("thing", [int, "Basic", Basic(6, 6)])
def test_only_modules_are_decorated(thing: Any) -> None:
    with pytest.raises(PrunerError, match=r"expected a subclass of torch\.nn\.Module"):
        basic_block(lType="deps_basic", convs=["conv1"])(thing)


def test_a_decorator_attaches_a_description_and_nothing_else() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(1, 1, 1)

    before = dict(vars(Plain))
    decorated = basic_block(lType="deps_plain", convs=["conv1"])(Plain)
    assert decorated is Plain
    assert set(vars(Plain)) - set(before) == {ATTRIBUTE}
    assert all(vars(Plain)[name] is value for name, value in before.items())
    spec = block_spec(Plain())
    assert spec is not None
    assert (spec.lType, spec.convs, spec.downsampling) == ("deps_plain", ("conv1",), ())
    with pytest.raises(AttributeError):
        spec.convs = ()  # type: ignore[misc]


def test_one_name_instead_of_a_list_of_one() -> None:
    assert basic_block(lType="deps_plain", convs="conv1") is not None


def test_decorated_blocks_are_copied_pickled_and_scripted() -> None:
    block = Basic(6, 6, nn.Conv2d(6, 6, 1)).eval()
    x = image(1, 6, 5, 5)
    for other in (copy.deepcopy(block), pickle.loads(pickle.dumps(block)), scripted(block)):
        assert torch.equal(other(x), block(x))


def test_two_block_types_may_not_share_a_name() -> None:
    register_calculator("deps_taken", ResidualCalculator())
    register_calculator("deps_taken", ResidualCalculator())
    with pytest.raises(
        PrunerError, match=r"block type 'deps_taken': already registered with .*Resid"
    ):
        register_calculator("deps_taken", LayerCalculator())


def test_an_unknown_block_type() -> None:
    with pytest.raises(PrunerError, match=r"block type 'deps_basi': not registered; did you mean"):
        block_type("deps_basi")


def test_blocks_of_unlike_width_cannot_be_added() -> None:
    class Broken(Basic):
        def forward(self, x: Tensor) -> Tensor:
            return self.bn2(self.conv2(self.bn1(self.conv1(x)))) + x[:, :5]

    with pytest.raises(UnsupportedNetworkError, match=r"6 channels of stem\.weight\[0\] meet 5 of"):
        graph_of(Net(Broken(6, 5), out=5))
