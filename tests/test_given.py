"""Models as people hand them over: wrapped, compiled, hooked, shared. Right, or one clear line."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import scripted, with_telling_state
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils import prune as torch_prune
from user_files import BASIC_BLOCK, difference, user_class, wide_image

from pruners import PrunerError, UnsupportedNetworkError, prune

NET = """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        return self.fc(F.relu(self.conv2(x)).mean((2, 3)))
"""

X = wide_image(2, 3, 8, 8)


@pytest.fixture(scope="module")
def cls(tmp_path_factory: pytest.TempPathFactory) -> type[nn.Module]:
    return user_class(tmp_path_factory.mktemp("given"), "given_net", NET)


def old_weight_norm(model: Any) -> nn.Module:
    with pytest.warns(FutureWarning):
        torch.nn.utils.weight_norm(model.conv2)
    return model


def new_weight_norm(model: Any) -> nn.Module:
    parametrizations.weight_norm(model.conv2)
    return model


def masked(model: Any) -> nn.Module:
    torch_prune.l1_unstructured(model.conv2, "weight", 0.5)
    return model


def lazy(model: Any) -> nn.Module:
    model.conv2 = nn.LazyConv2d(8, 3)
    return model


def compiled_inside(model: Any) -> nn.Module:
    model.conv2.compile()
    return model


def scripted_inside(model: Any) -> nn.Module:
    model.conv2 = scripted(model.conv2)
    return model


def tied(model: Any) -> nn.Module:
    model.conv2.bias = model.conv1.bias
    return model


def at_two_paths(model: Any) -> nn.Module:
    model.head = model.fc
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (compiled_inside, r"conv2: compiled in place; prune first, then call \.compile\(\)"),
        (
            scripted,
            r"a ScriptModule has no Python source; give the module that it was scripted from",
        ),
        (scripted_inside, r"conv2: a TorchScript module"),
        (lazy, r"conv2: a lazy LazyConv2d that has not run yet; call the network once"),
        (old_weight_norm, r"conv2: its weight is computed at every call .* remove_weight_norm"),
        (new_weight_norm, r"conv2: its weight is computed at every call"),
        (masked, r"conv2: its weight is computed at every call .* prune\.remove"),
    ],
)
def test_one_clear_line(
    cls: type[nn.Module], change: Callable[[nn.Module], nn.Module], message: str
) -> None:
    model = change(cls().double())
    with pytest.raises(UnsupportedNetworkError, match=message) as info:
        prune(model, X, 50)
    assert "\n" not in str(info.value)


class Recorder:
    """What a feature extractor does: it keeps activations, with their history."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.seen.append(output)


def test_hooks_are_left_alone_and_said_to_be_left_out(cls: type[nn.Module]) -> None:
    model: Any = cls().double()
    recorder = Recorder()
    handle = model.conv1.register_forward_hook(recorder)
    model(X)
    result = prune(model, X, 50)
    assert difference(result) < 1e-12
    assert "conv1: its hooks are left out" in result.report.warnings
    assert list(model.conv1._forward_hooks) == [handle.id]
    assert not result.model.conv1._forward_hooks


def test_an_attribute_that_cannot_be_copied(cls: type[nn.Module]) -> None:
    model: Any = cls().double()
    model.lock = threading.Lock()
    result = prune(model, X, 50)
    with pytest.raises(PrunerError, match=r"Net: cannot be copied \(.*lock.*\); expected modules"):
        result.source  # noqa: B018


def test_training_mode_and_one_example(cls: type[nn.Module]) -> None:
    model = cls().double().train()
    result = prune(model, X[:1], 50)
    assert result.model.training
    assert model.training
    assert difference(result) < 1e-12


def test_several_inputs_and_a_tuple_as_one(tmp_path: Path) -> None:
    text = NET.replace("self.conv1 = nn.Conv2d(3,", "self.conv1 = nn.Conv2d(6,")
    two = user_class(
        tmp_path,
        "given_two",
        text.replace("forward(self, x):", "forward(self, x, y):\n        x = torch.cat([x, y], 1)"),
    )
    assert difference(prune(two().double(), (X, X + 1), 50)) < 1e-12
    result = prune(two().double(), [(X, X + 1), (X + 1, X)], 50)
    assert difference(result) < 1e-12
    assert result.verified().error < 1e-12


def test_wrappers_are_taken_off(cls: type[nn.Module]) -> None:
    model = cls().double()
    for wrapped in (nn.DataParallel(model), torch.compile(model)):
        assert difference(prune(wrapped, X, 50)) < 1e-12


def test_inputs_that_do_not_fit(cls: type[nn.Module]) -> None:
    for inputs in ((X, X), (X[:, :2],), ()):
        with pytest.raises(PrunerError, match=r"its forward (raised on|cannot take) example"):
            prune(cls().double(), inputs, 50)


CIFAR = (
    BASIC_BLOCK
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.in_planes = 6
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.layer1 = self._make_layer(Block, 6, 2, stride=1)
        self.layer2 = self._make_layer(Block, 9, 2, stride=2)
        self.linear = nn.Linear(9, 10)

    def _make_layer(self, block, planes, num_blocks, stride):
        strides = [stride] + [1] * (num_blocks - 1)
        layers = []
        for stride in strides:
            layers.append(block(self.in_planes, planes, stride))
            self.in_planes = planes
        return nn.Sequential(*layers)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer2(self.layer1(out))
        out = F.avg_pool2d(out, 4)
        out = out.view(out.size(0), -1)
        return F.log_softmax(self.linear(out), dim=1)
"""
)


def test_a_residual_network_as_pytorch_cifar_writes_it(tmp_path: Path) -> None:
    model = with_telling_state(user_class(tmp_path, "given_cifar", CIFAR)()).double()
    result = prune(model, X, 60)
    assert difference(result) < 1e-12
    assert "in_planes" not in result.source
    assert "_make_layer" not in result.source


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "resnext50_32x4d",
        pytest.param("resnet50", marks=pytest.mark.zoo),
        pytest.param("wide_resnet50_2", marks=pytest.mark.zoo),
    ],
)
def test_torchvisions_networks_decorated_from_outside(name: str) -> None:
    from torchvision.models import resnet

    from pruners import basic_block, bottleneck

    basic_block("given_tv", ["conv1", "conv2"], ["downsample"])(resnet.BasicBlock)
    bottleneck("given_tv", ["conv1", "conv2", "conv3"], ["downsample"])(resnet.Bottleneck)
    try:
        torch.manual_seed(0)
        network = getattr(resnet, name)(num_classes=7, zero_init_residual=True)
        model = with_telling_state(network).double()
        result = prune(model, wide_image(1, 3, 32, 32), 50)
        assert difference(result) < 1e-12
        assert "zero_init_residual: bool = False" in result.source
        assert "_log_api_usage_once" not in result.source
        assert result.model.fc.out_features == 7
    finally:
        del resnet.BasicBlock.__pruner_block__
        del resnet.Bottleneck.__pruner_block__


@pytest.mark.parametrize("change", [tied, at_two_paths])
def test_shared_tensors_stay_shared(
    cls: type[nn.Module], change: Callable[[nn.Module], nn.Module]
) -> None:
    model: Any = change(cls().double())
    result = prune(model, X, 30)
    assert difference(result) < 1e-12
    assert result.verified().error < 1e-12
    slim: Any = result.model
    if change is tied:
        assert "        self.conv2.bias = self.conv1.bias\n" in result.source
        assert slim.conv1.bias is slim.conv2.bias
        assert result.kept["conv1.bias"][0].tolist() == result.kept["conv2.bias"][0].tolist()
    else:
        assert slim.head.weight is slim.fc.weight
    # What one layer keeps of a shared tensor, the other keeps.
    assert list(result.state_dict) == list(model.state_dict())
    assert sum(p.numel() for p in slim.parameters()) == result.report.parameters.after


def test_what_is_no_module() -> None:
    with pytest.raises(
        UnsupportedNetworkError, match=r"model: a str, expected a torch\.nn\.Module"
    ):
        prune("resnet18", X, 50)  # type: ignore[arg-type]
