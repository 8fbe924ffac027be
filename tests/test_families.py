"""All families of the zoo, and networks of users who mix their blocks."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from helpers import image, with_telling_state
from torch import nn

import app
import models  # noqa: F401  registers the zoo
from pruners import MODELS, Axis, PrunerError, PruningResult, fire, mb_conv, prune
from pruners.loading import class_from_file, import_source
from pruners.methods import _Cost
from pruners.networks import Request, find_network
from pruners.verify import require, verify

FAMILIES = ("resnet", "alexnet", "mobilenetv2", "squeezenet")
PERCENTAGES = (10, 30, 50, 70, 90)
X = image(1, 3, 16, 16)

every_family = pytest.mark.parametrize("family", FAMILIES)


def member(family: str, classes: int = 10, size: int = 32) -> nn.Module:
    request = Request(family, num_classes=classes, input_shape=f"3,{size},{size}")
    return with_telling_state(find_network(request, shipped=False).model)


def pruned(family: str, pct: float, method: str = "Global", **options: Any) -> PruningResult:
    name = f"{family}_{pct}_{method}"
    return prune(member(family), X, pct, method=method, name=name, **options)


# -- figures ------------------------------------------------------------------------------------


SOME = [(50, "Global"), (90, "Local")]
ALL = [(pct, method) for pct in PERCENTAGES for method in ("Global", "Local")]


@pytest.mark.parametrize(
    "figures", [SOME, pytest.param(ALL, marks=pytest.mark.zoo)], ids=["some", "all"]
)
def test_every_family_equals_the_masked_original(figures: list[tuple[int, str]]) -> None:
    """At these percentages, with these methods; one fresh process verifies them all."""
    cases = []
    for family in FAMILIES:
        for pct, method in figures:
            result = pruned(family, pct, method)
            assert result.report.parameters.removed_pct >= pct
            assert overshoots_by_less_than_a_unit(result, pct)
            cases.append(result.case())
    outcomes = verify(cases)
    require(outcomes)
    assert len(outcomes) == len(FAMILIES) * len(figures)
    assert all(outcome.error <= 1e-5 for outcome in outcomes)


def overshoots_by_less_than_a_unit(result: PruningResult, pct: float) -> bool:
    """Whether some single unit, put back, takes the result below the percentage."""
    units, graph = result.units, result.graph
    cost = _Cost(graph, units, "params")
    stays = np.ones(units.count, dtype=bool)
    for i, axis in enumerate(units.axes):
        gone = np.setdiff1d(np.arange(graph.size(axis)), result.kept[axis.tensor][axis.dim])
        stays[units.unit_of[units.starts[i] + gone]] = False
    full = cost(np.ones(units.count, dtype=bool))
    # Those with the most atoms first: they are worth most.
    atoms = np.bincount(units.unit_of, minlength=units.count)
    for unit in sorted(np.flatnonzero(~stays), key=lambda u: -atoms[u]):
        stays[unit] = True
        below = (full - cost(stays)) * 100 < pct * full
        stays[unit] = False
        if below:
            return True
    return False


@pytest.mark.zoo
@pytest.mark.parametrize("pct", PERCENTAGES)
def test_imagenet_members_equal_the_masked_original(pct: int) -> None:
    cases = []
    for family in (*FAMILIES[1:], "squeezenet1_0"):
        model, x = member(family, 1000, 224), image(1, 3, 96, 96)
        for method in ("Global", "Local"):
            result = prune(model, x, pct, method=method, name=f"{family}_{method}")
            assert overshoots_by_less_than_a_unit(result, pct)
            cases.append(result.case())
    require(verify(cases))


def test_imagenet_alexnet_equals_the_masked_original() -> None:
    result = prune(member("alexnet", 1000, 224), image(1, 3, 64, 64), 70)
    require(verify([result.case()]))
    assert "class AlexNet(nn.Module):" in result.source


@every_family
def test_two_runs_give_identical_files(family: str, tmp_path: Path) -> None:
    files = []
    for run in ("a", "b"):
        folder = tmp_path / run
        pruned(family, 50).save(folder, weights_dir=folder, verify=False)
        files.append({path.name: path.read_bytes() for path in sorted(folder.iterdir())})
    assert list(files[0]) == [
        f"{family}_50_Global.json",
        f"{family}_50_Global.py",
        f"{family}_50_Global_pruned_v1.0.json",
        f"{family}_50_Global_pruned_v1.0.pth",
    ]
    assert files[0] == files[1]


@every_family
def test_nothing_removed_is_the_network_itself(family: str) -> None:
    model = member(family)
    result = prune(model, X, 0)
    state = model.state_dict()
    assert list(result.state_dict) == list(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in result.state_dict.items())
    with torch.no_grad():
        assert torch.equal(result.model(X), model(X))


@every_family
def test_the_ends_stay_arguments(family: str) -> None:
    result = pruned(family, 50)
    module = import_source("ends", result.source)
    slim = getattr(module, result.writer.factory)(num_classes=7, in_channels=1).eval()
    assert slim(image(1, 1, 16, 16)).shape == (1, 7)
    assert not result.report.warnings


# -- which member -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"arch": "alexnet"}, "AlexNet"),
        ({"arch": "alexnet", "input_shape": "1,28,28"}, "AlexNet"),
        ({"arch": "alexnet", "input_shape": "3,224,224"}, "AlexNet_224"),
        ({"arch": "mobilenetv2", "input_shape": "3,32,32"}, "MobileNetV2"),
        ({"arch": "mobilenetv2", "input_shape": "3,192,192"}, "MobileNetV2_224"),
        ({"arch": "squeezenet", "input_shape": "3,64,64"}, "SqueezeNet"),
        ({"arch": "squeezenet", "input_shape": "3,224,224"}, "SqueezeNet1_1"),
        ({"arch": "squeezenet1_0"}, "SqueezeNet1_0"),
        ({"arch": "resnet", "input_shape": "3,224,224"}, "ResNet18"),
        ({"arch": "resnet", "input_shape": "3,224,224", "depth": 20}, "ResNet20"),
    ],
)
def test_the_size_of_images_picks_the_member(arguments: dict[str, Any], name: str) -> None:
    assert find_network(Request(**arguments), shipped=False).name == name


def test_a_family_without_depths() -> None:
    message = r"^--depth 18: no alexnet of this depth; leave --depth out$"
    with pytest.raises(PrunerError, match=message):
        find_network(Request("alexnet", depth=18))


def test_every_family_has_a_pruner_class() -> None:
    for name, entry in MODELS.items():
        net_name = app.setup_pruner(entry["family"]).netName
        assert name.startswith(net_name)


# -- bad input ----------------------------------------------------------------------------------


@every_family
@pytest.mark.parametrize("pct", [-1, 100, 101, float("nan")])
def test_a_percentage_out_of_range(family: str, pct: float) -> None:
    with pytest.raises(PrunerError, match=r"expected a percentage of at least 0 and below 100"):
        prune(member(family), X, pct)


@every_family
def test_a_percent_out_of_reach_says_what_can_be_had(family: str) -> None:
    model = member(family)
    with pytest.raises(PrunerError, match=r"at most (\d+\.?\d*) percent of the parameters") as info:
        prune(model, X, 99.9999)
    most = float(str(info.value).split("at most ")[1].split(" ")[0])
    assert prune(model, X, most).report.parameters.removed_pct >= most


@every_family
def test_an_input_that_the_network_cannot_take(family: str) -> None:
    with pytest.raises(PrunerError, match=r"its forward raised on example input 0 of shape"):
        prune(member(family), image(1, 4, 16, 16), 50)


@every_family
def test_a_checkpoint_of_another_network(family: str, tmp_path: Path) -> None:
    other = member(FAMILIES[FAMILIES.index(family) - 1])
    torch.save(other.state_dict(), tmp_path / "other.pth")
    with pytest.raises(PrunerError, match=r"other\.pth.*(missing|unexpected)"):
        find_network(Request(family, checkpoint=tmp_path / "other.pth"))


# -- networks of users --------------------------------------------------------------------------

ZOO = """
import torch
import torch.nn.functional as F
from torch import nn

from pruners import basic_block, bottleneck, fire, mb_conv, skip


@basic_block(lType="plain_res", convs=["first", "second"], downsampling=["fit"])
class Residual(nn.Module):
    '''No batch norm; the shortcut is fitted where it must be.'''

    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.fit = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.fit = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x):
        return F.relu(self.second(F.relu(self.first(x))) + self.fit(x))


@bottleneck(lType="pre_act", convs=["a.1", "b.1", "c.1"])
class PreActivation(nn.Module):
    '''Norm and activation come before each convolution (He et al., 2016).'''

    def __init__(self, channels, inner):
        super().__init__()
        self.a = nn.Sequential(nn.BatchNorm2d(channels), nn.Conv2d(channels, inner, 1))
        self.b = nn.Sequential(nn.BatchNorm2d(inner), nn.Conv2d(inner, inner, 3, padding=1))
        self.c = nn.Sequential(nn.BatchNorm2d(inner), nn.Conv2d(inner, channels, 1))

    def forward(self, x):
        out = self.c[1](F.relu(self.c[0](self.b(F.relu(self.a(x))))))
        return x + out


@mb_conv(lType="inverted", convs=["widen", "spatial", "narrow"], downsampling=["side"])
class Inverted(nn.Module):
    '''A depthwise convolution between two 1x1.'''

    def __init__(self, inputs, outputs, stride=1, side=False):
        super().__init__()
        self.stride = stride
        self.widen = nn.Conv2d(inputs, 3 * inputs, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(3 * inputs)
        self.spatial = nn.Conv2d(3 * inputs, 3 * inputs, 3, stride, 1, groups=3 * inputs)
        self.norm2 = nn.BatchNorm2d(3 * inputs)
        self.narrow = nn.Conv2d(3 * inputs, outputs, 1)
        self.side = nn.Conv2d(inputs, outputs, 1) if side else None

    def forward(self, x):
        out = F.relu6(self.norm1(self.widen(x)))
        out = self.narrow(F.relu6(self.norm2(self.spatial(out))))
        if self.side is not None:
            return out + self.side(x)
        if self.stride == 1 and x.shape[1] == out.shape[1]:
            return out + x
        return out


@fire(lType="flame", convs=["press", "small", "large", "larger"])
@skip(convs=["press"])
class Flame(nn.Module):
    '''Three unequal expansions, and a norm behind their concatenation.'''

    def __init__(self, inputs, press, *expand):
        super().__init__()
        self.press = nn.Conv2d(inputs, press, 1)
        self.small = nn.Conv2d(press, expand[0], 1)
        self.large = nn.Conv2d(press, expand[1], 3, padding=1)
        self.larger = nn.Conv2d(press, expand[2], 5, padding=2)
        self.norm = nn.BatchNorm2d(sum(expand))

    def forward(self, x):
        x = F.relu(self.press(x))
        return F.relu(self.norm(torch.cat([self.small(x), self.large(x), self.larger(x)], dim=1)))


class Mixed(nn.Module):
    '''Four kinds of block in one network.'''

    def __init__(self, num_classes=5, in_channels=3):
        super().__init__()
        self.entry = nn.Conv2d(in_channels, 12, 3, padding=1)
        self.one = nn.Sequential(Residual(12, 12), Residual(12, 16, stride=2))
        self.two = nn.Sequential(PreActivation(16, 8), PreActivation(16, 6))
        self.three = nn.Sequential(
            Inverted(16, 16),
            Inverted(16, 20, stride=2),
            Inverted(20, 24, side=True),
        )
        self.four = Flame(24, 6, 8, 10, 4)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.exit = nn.Linear(22 * 4, num_classes)

    def forward(self, x):
        x = self.two(self.one(F.relu(self.entry(x))))
        return self.exit(torch.flatten(self.pool(self.four(self.three(x))), 1))


class Row(nn.Module):
    '''One block between two convolutions.'''

    def __init__(self, block, inputs, outputs):
        super().__init__()
        self.entry = nn.Conv2d(3, inputs, 1)
        self.block = block
        self.exit = nn.Conv2d(outputs, 4, 1)

    def forward(self, x):
        return self.exit(self.block(self.entry(x)))
"""


@pytest.fixture
def nets(tmp_path: Path, own_block_types: None) -> Any:
    """The module of the networks above, in a file of its own."""
    path = tmp_path / "users_networks.py"
    path.write_text(ZOO)
    return sys.modules[class_from_file(path, "Mixed").__module__]


def told(model: nn.Module) -> nn.Module:
    return with_telling_state(model)


def kept(result: PruningResult, name: str, dim: int = 0) -> list[int]:
    return result.kept[f"{name}.weight"][dim].tolist()


def test_four_kinds_of_block_in_one_network(nets: ModuleType) -> None:
    torch.manual_seed(0)
    model, x = told(nets.Mixed()), image(2, 3, 12, 12)
    results = []
    for pct, method in ((10, "Global"), (50, "Local"), (80, "Global")):
        result = prune(model, x, pct, method=method, name=f"mixed_{pct}_{method}")
        assert overshoots_by_less_than_a_unit(result, pct)
        results.append(result)
    require(verify([result.case() for result in results]))
    source = results[1].source
    for docstring in ("No batch norm; the", "Norm and activation come before", "Four kinds"):
        assert docstring in source
    assert "pruners" not in source
    assert kept(results[2], "four.press") == list(range(6))


def test_blocks_couple_what_their_kind_says(nets: ModuleType) -> None:
    """The widest of the claims, one block at a time."""
    x = image(2, 3, 8, 8)

    def of(block: nn.Module, inputs: int, outputs: int, name: str) -> PruningResult:
        result = prune(told(nets.Row(block, inputs, outputs)), x, 60, name=name)
        cases.append(result.case())
        return result

    cases: list[Any] = []
    torch.manual_seed(0)

    strided = of(nets.Inverted(8, 8, stride=2), 8, 8, "strided")
    assert kept(strided, "entry") != kept(strided, "block.narrow")

    same = of(nets.Inverted(8, 8), 8, 8, "same")
    assert kept(same, "entry") == kept(same, "block.narrow") == kept(same, "exit", 1)

    wider = of(nets.Inverted(8, 9), 8, 9, "wider")
    entry, narrow = (wider.units.of(Axis(f"{n}.weight", 0)) for n in ("entry", "block.narrow"))
    assert not set(entry) & set(narrow)

    side = of(nets.Inverted(8, 9, side=True), 8, 9, "side")
    assert kept(side, "block.side") == kept(side, "block.narrow")
    assert kept(side, "block.side", 1) == kept(side, "entry") == kept(side, "block.widen", 1)
    assert kept(side, "block.spatial") == kept(side, "block.norm1") == kept(side, "block.widen")

    flame = of(nets.Flame(8, 4, 3, 6, 5), 8, 14, "flame")
    small, large, larger = (kept(flame, f"block.{name}") for name in ("small", "large", "larger"))
    behind = small + [3 + i for i in large] + [9 + i for i in larger]
    assert kept(flame, "block.norm") == kept(flame, "exit", 1) == behind
    assert kept(flame, "block.press") == list(range(4))
    assert flame.report.kept_because["block.press"] == "@skip"

    pre = of(nets.PreActivation(8, 5), 8, 8, "pre")
    assert kept(pre, "block.a.0") == kept(pre, "block.c.1") == kept(pre, "entry")
    assert kept(pre, "block.b.0") == kept(pre, "block.a.1")
    require(verify(cases))


@pytest.mark.parametrize(
    ("decorator", "block", "convs", "message"),
    [
        (
            mb_conv,
            "Inverted",
            ["widen", "deep", "narrow"],
            r"^block \(Inverted\): @mb_conv names 'deep' in convs, which the block lacks; its "
            r"convolutions are: widen, spatial, narrow$",
        ),
        (
            mb_conv,
            "Inverted",
            ["widen", "spatial"],
            r"^block \(Inverted\): @mb_conv does not name the convolution 'narrow'; name all",
        ),
        (
            fire,
            "Flame",
            ["press", "large", "small", "larger"],
            r"^block \(Flame\): @fire names convs in the order press, large, small, larger, but "
            r"they run in the order press, small, large, larger$",
        ),
        (
            fire,
            "Flame",
            ["press", "norm", "small", "large", "larger"],
            r"^block \(Flame\): @fire names 'norm' in convs, which is no convolution; its",
        ),
    ],
)
def test_a_decorator_that_names_wrong_layers(
    nets: ModuleType, decorator: Any, block: str, convs: list[str], message: str
) -> None:
    cls = decorator(lType=f"wrong_{block}", convs=convs)(getattr(nets, block))
    made = cls(8, 8) if block == "Inverted" else cls(8, 4, 3, 6, 5)
    with pytest.raises(PrunerError, match=message):
        prune(nets.Row(made, 8, 8 if block == "Inverted" else 14), X, 50)


def test_a_side_layer_that_is_not_there(nets: ModuleType) -> None:
    described = mb_conv(lType="wrong", convs=["widen", "spatial", "narrow"], downsampling=["sied"])
    described(nets.Inverted)
    with pytest.raises(PrunerError, match=r"@mb_conv names 'sied' in downsampling, which the bloc"):
        prune(nets.Row(nets.Inverted(8, 8), 8, 8), X, 50)
