"""Weights for another width: wider computes the same, narrower what the pruned network does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from helpers import image, with_telling_state
from torch import Tensor, nn

from pruners import PrunerError
from pruners.analysis import analyse
from pruners.channel_graph import all_kept
from pruners.morphism import _sources, copy_weights
from pruners.verify import expected_outputs


class Net(nn.Module):
    """A shortcut, a concatenation, a depthwise convolution, and a flatten before the Linear."""

    def __init__(self, a: int = 6, b: int = 4, c: int = 5, classes: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, a, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(a)
        self.conv2 = nn.Conv2d(a, a, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(a)
        self.left = nn.Conv2d(a, b, 1)
        self.right = nn.Conv2d(a, c, 1)
        self.depthwise = nn.Conv2d(b + c, b + c, 3, groups=b + c)
        self.fc = nn.Linear((b + c) * 4, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(x + self.bn2(self.conv2(x)))
        x = torch.cat([self.left(x), self.right(x)], 1)
        return self.fc(torch.flatten(self.depthwise(F.relu(x)), 1))


X = image(3, 3, 4, 4, dtype=torch.float64)


def network(*widths: int, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return with_telling_state(Net(*widths), seed).double()


def masked(old: nn.Module, new: nn.Module, x: Tensor) -> Tensor:
    """What the old network computes with the channels alone that the new one has."""
    kept = {
        name: list(dims)
        for name, dims in all_kept(
            {name: tuple(tensor.shape) for name, tensor in old.state_dict().items()}
        ).items()
    }
    for axis, source in _sources(old, analyse(old, x).graph, analyse(new, x).graph).items():
        kept[axis.tensor][axis.dim] = source
    result: Tensor = expected_outputs(old, {name: tuple(d) for name, d in kept.items()}, (x,))
    return result


def test_wider_computes_the_same() -> None:
    old, new = network(), network(9, 7, 6, seed=1)
    fresh = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    copied = copy_weights(old, new, X)
    torch.testing.assert_close(new(X), old(X), rtol=1e-12, atol=1e-12)
    assert copied.sources["conv1"].tolist() == [0, 1, 2, 3, 4, 5, -1, -1, -1]
    assert copied.sources["depthwise"].tolist() == [0, 1, 2, 3, -1, -1, -1, 4, 5, 6, 7, 8, -1]
    assert copied.counted == ()
    assert torch.equal(new.conv1.weight[:6], old.conv1.weight)
    # New channels have the new network's start values, and nothing old reads them.
    assert torch.equal(new.conv1.weight[6:], fresh["conv1.weight"][6:])
    assert torch.equal(new.bn1.running_var[6:], fresh["bn1.running_var"][6:])
    assert not new.conv2.weight[:6, 6:].any()
    assert torch.equal(new.conv2.weight[6:], fresh["conv2.weight"][6:])


def test_new_channels_learn() -> None:
    old, new = network(), network(9, 7, 6, seed=1)
    copy_weights(old, new, X)
    optimizer = torch.optim.SGD(new.parameters(), 0.1)
    for step in range(2):
        optimizer.zero_grad()
        F.cross_entropy(new(X), torch.tensor([0, 3, 1])).backward()
        assert new.conv2.weight.grad[:6, 6:].any()
        assert new.conv1.weight.grad[6:].any() == (step > 0)
        optimizer.step()


def test_narrower_computes_what_the_pruned_network_does() -> None:
    old, new = network(), network(4, 2, 3, seed=1)
    with torch.no_grad():
        # Coupled over the shortcut: conv1 alone would keep channel 0.
        old.conv1.weight[0] *= 1.2
        old.conv2.weight[0] *= 0.1
        old.conv2.weight[4] *= 0.1
    copied = copy_weights(old, new, X)
    torch.testing.assert_close(new(X), masked(old, new, X), rtol=1e-12, atol=1e-12)
    kept = copied.sources["conv1"]
    assert kept.tolist() == [1, 2, 3, 5]
    assert np.array_equal(copied.sources["conv2"], kept)
    assert torch.equal(new.conv1.weight, old.conv1.weight[kept])
    assert torch.equal(new.conv2.weight, old.conv2.weight[kept][:, kept])
    assert not torch.equal(new(X), old(X))


def test_there_and_back() -> None:
    old, wide, back = network(), network(12, 8, 9, seed=1), network(seed=2)
    copy_weights(old, wide, X)
    with torch.no_grad():  # the old channels are the larger ones
        for layer in (wide.conv1, wide.conv2, wide.left, wide.right):
            layer.weight[(old.get_parameter("conv1.weight").shape[0]) :] *= 1
        for layer, count in ((wide.conv1, 6), (wide.conv2, 6), (wide.left, 4), (wide.right, 5)):
            layer.weight[count:] *= 0.01
    copy_weights(wide, back, X)
    torch.testing.assert_close(back(X), old(X), rtol=1e-12, atol=1e-12)


def test_one_group_wider_and_another_narrower() -> None:
    old, new = network(), network(4, 7, 5, seed=1)
    copied = copy_weights(old, new, X)
    assert (copied.sources["conv1"] >= 0).all()
    assert copied.sources["left"].tolist() == [0, 1, 2, 3, -1, -1, -1]
    narrow = network(4, 4, 5, seed=2)
    copy_weights(old, narrow, X)
    torch.testing.assert_close(new(X), narrow(X), rtol=1e-12, atol=1e-12)


def test_the_same_width_is_a_copy_in_another_precision() -> None:
    old, new = network(), network(seed=1).float()
    assert not copy_weights(old, new).sources
    assert new.conv1.weight.dtype == torch.float32
    torch.testing.assert_close(new(X.float()), old(X).float(), rtol=1e-4, atol=1e-5)


def test_inputs_are_those_of_the_first_layer_where_none_are_given() -> None:
    def net(width: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, 2))

    old, new = net(4), net(6)
    copy_weights(old, new)
    x = torch.randn(3, 5)
    torch.testing.assert_close(new(x), old(x))
    with pytest.raises(
        PrunerError,
        match=r"^copy_weights: Net does not take an input of shape \(2, 3, 32, 32\) \(.*\); give "
        r"example_inputs=\.\.\.$",
    ):
        copy_weights(network(), network(7))
    empty = nn.Sequential(nn.BatchNorm1d(3)), nn.Sequential(nn.BatchNorm1d(4))
    with pytest.raises(PrunerError, match=r"^copy_weights: Sequential has no convolution or Lin"):
        copy_weights(*empty)


def test_a_norm_over_channels_is_said() -> None:
    def net(width: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(5, width), nn.LayerNorm(width), nn.Linear(width, 2))

    (counted,) = copy_weights(net(4), net(6)).counted
    assert "layer_norm" in counted


FAMILIES: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "MobileNetV2": (
        lambda: torchvision.models.MobileNetV2(width_mult=0.5),
        lambda: torchvision.models.MobileNetV2(width_mult=0.75),
    ),
    "ResNeXt": (
        lambda: torchvision.models.ResNet(
            torchvision.models.resnet.Bottleneck, [1, 1, 1, 1], groups=4, width_per_group=4
        ),
        lambda: torchvision.models.ResNet(
            torchvision.models.resnet.Bottleneck, [1, 1, 1, 1], groups=4, width_per_group=8
        ),
    ),
    "DenseNet": (
        lambda: torchvision.models.DenseNet(4, (2, 2), 8),
        lambda: torchvision.models.DenseNet(6, (2, 2), 12),
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_families_both_ways(name: str) -> None:
    small, large = (with_telling_state(make(), i).double() for i, make in enumerate(FAMILIES[name]))
    x = image(2, 3, 32, 32, dtype=torch.float64)
    before = {name: tensor.clone() for name, tensor in large.state_dict().items()}
    expected = small(x)
    copy_weights(small, large, x)
    torch.testing.assert_close(large(x), expected, rtol=1e-10, atol=1e-12)
    large.load_state_dict(before)
    copy_weights(large, small, x)
    torch.testing.assert_close(small(x), masked(large, small, x), rtol=1e-10, atol=1e-12)


def refused(old: nn.Module, new: nn.Module, message: str, x: Any = X) -> None:
    before = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    with pytest.raises(PrunerError, match=message):
        copy_weights(old, new, x)
    assert all(torch.equal(before[name], tensor) for name, tensor in new.state_dict().items())


def test_what_differs_in_more_than_widths() -> None:
    deeper = network()
    deeper.conv3 = nn.Conv2d(3, 3, 1)
    way_out = "expected two networks that differ in nothing but their widths$"
    refused(
        network(),
        deeper,
        rf"^copy_weights: conv3\.weight and 1 more of the new network \(\(3, 3, 1, 1\)\) is not in "
        rf"the old one; {way_out}",
    )
    refused(deeper, network(), r"^copy_weights: conv3\.weight and 1 more of the old network \(\(3,")
    kernel = network(7)
    kernel.conv1 = nn.Conv2d(3, 7, 1).double()
    refused(
        network(),
        kernel,
        rf"^copy_weights: conv1\.weight is \(6, 3, 3, 3\) in the old network and \(7, 3, 1, 1\) in "
        rf"the new one: the kernels differ; {way_out}",
    )
    refused(
        network(),
        network(7, 4, 5, 6),
        rf"^copy_weights: fc\.weight is \(4, 36\) in the old network and \(6, 36\) in the new one: "
        rf"these channels cannot change \(.*\); {way_out}",
    )
    flat = nn.Sequential(nn.Linear(4, 4)), nn.Sequential(nn.Conv1d(4, 6, 1))
    refused(
        *flat,
        r"^copy_weights: 0\.weight is \(4, 4\) in the old network and \(6, 4, 1\) in the new one: "
        r"the dimensions differ;",
    )


def test_channels_that_are_tied_in_other_ways() -> None:
    class Tied(nn.Module):
        def __init__(self, width: int, tied: bool) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, width), nn.Linear(width, width)
            self.fc, self.tied = nn.Linear(width, 2), tied

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.one(x))
            return self.fc(x + self.two(x) if self.tied else F.relu(self.two(x)))

    refused(
        Tied(4, True),
        Tied(6, False),
        r"^copy_weights: .* is .* in the old network and .* in the new one: its channels are tied "
        r"in other ways;",
        torch.zeros(2, 4),
    )
    sizes = [
        nn.Sequential(nn.Conv2d(1, c, 3), nn.Flatten(), nn.Linear(n, 2))
        for c, n in ((3, 12), (4, 36))
    ]
    with pytest.raises(PrunerError):
        copy_weights(*sizes, torch.zeros(2, 1, 4, 4))
