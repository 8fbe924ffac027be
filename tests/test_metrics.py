import gc
import time
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.cifar.googlenet import GoogLeNet
from models.cifar.mobilenetv2 import MobileNetV2
from models.cifar.resnet import ResNet
from pruners.errors import PrunerError
from pruners.metrics import (
    _peak_bytes,
    activation_memory,
    compare_latency,
    count_macs,
    count_parameters,
    latency_ms,
    state_dict_bytes,
)


class Sleeper(nn.Module):
    """Takes a known time, and says in which mode it ran."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.modes: list[tuple[bool, bool]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.modes.append((self.training, torch.is_grad_enabled()))
        time.sleep(self.seconds)
        return x


class Caching(nn.Module):
    """A forward that makes a tensor of its own and keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.grid = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.grid = torch.ones(1, device=x.device)
        return self.conv(x) * self.grid


class NeedsValues(nn.Module):
    """A forward that meta tensors cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.conv(x) if x.sum().item() == 0 else x


def test_parameters_that_are_shared_count_once():
    first, second = nn.Linear(3, 5), nn.Linear(3, 5)
    second.weight = first.weight
    assert count_parameters(nn.Sequential(first, second)) == 15 + 5 + 5


def test_macs_by_hand():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8),
        nn.Flatten(),
        nn.Linear(8 * 16, 10),
    )
    by_hand = 8 * 3 * 9 * 64 + 8 * 9 * 16 + 8 * 16 * 10
    assert count_macs(model, torch.zeros(1, 3, 8, 8)) == by_hand
    assert count_macs(model, (torch.zeros(5, 3, 8, 8),)) == by_hand


def test_macs_of_resnet20_are_as_published():
    # 40.55 million in the paper's form, without projections; those are 16*32*256 + 32*64*64.
    macs = count_macs(ResNet(20), torch.zeros(1, 3, 32, 32))
    assert macs == 40_551_040 + 16 * 32 * 256 + 32 * 64 * 64


def test_macs_leave_the_model_as_it_was():
    model = ResNet(20).train()
    model.bn1.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    identities = [id(parameter) for parameter in model.parameters()]
    count_macs(model, torch.zeros(1, 3, 32, 32))
    assert [module.training for module in model.modules()] == modes
    assert [id(parameter) for parameter in model.parameters()] == identities
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_macs_do_no_arithmetic():
    # An input without values would fail beside real parameters.
    assert count_macs(ResNet(20), torch.empty(4096, 3, 32, 32, device="meta")) > 40e6


def test_macs_leave_no_meta_tensor_behind():
    model = Caching()
    assert count_macs(model, torch.zeros(1, 3, 4, 4)) == 4 * 3 * 9 * 16
    assert model.grid is None


def test_macs_where_the_forward_needs_values():
    model = NeedsValues()
    assert count_macs(model, torch.zeros(1, 3, 4, 4)) == 4 * 3 * 9 * 16
    assert model.calls == 0
    assert model.training


def test_macs_of_an_input_that_does_not_fit_fail_as_the_model_does():
    model = ResNet(20)
    with pytest.raises(RuntimeError, match="channels"):
        count_macs(model, torch.zeros(1, 4, 32, 32))
    assert model.training


@pytest.mark.parametrize("inputs", [(), (3,), torch.zeros(0, 3, 8, 8), torch.tensor(1.0)])
@pytest.mark.parametrize("count", [count_macs, activation_memory])
def test_counts_without_an_example(count, inputs):
    with pytest.raises(PrunerError, match=r"^example_inputs: no tensor with at least one example"):
        count(nn.Identity(), inputs)


# -- memory of activations ----------------------------------------------------------------------

X = torch.zeros(1, 4, 8, 8)
"""256 numbers, which are there from the first operator to the last."""


class Forward(nn.Module):
    """A forward to count, with a convolution at hand that makes 256 numbers of 256."""

    def __init__(self, forward: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.register_buffer("buffer", torch.zeros(4, 8, 8))
        self.constant = torch.zeros(4, 8, 8, device="meta")
        self.does = forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.does(self, x)


def numbers(model: nn.Module, x: torch.Tensor = X) -> float:
    """How many float32 numbers are alive at once."""
    return activation_memory(model, x) / 4


@pytest.mark.parametrize(
    ("inplace", "expected"),
    [
        # Input, first convolution and ReLU; a Sequential holds what its layer reads.
        (False, 192 + 256 + 256),
        # Input, first convolution and second: the ReLU takes nothing.
        (True, 192 + 256 + 128),
    ],
)
def test_activations_of_a_chain(inplace, expected):
    chain = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=inplace), nn.Conv2d(4, 2, 3, padding=1)
    )
    assert numbers(chain, torch.zeros(1, 3, 8, 8)) == expected
    assert numbers(nn.Sequential(chain, nn.Identity()), torch.zeros(1, 3, 8, 8)) == expected


def residual(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x = self.conv(x)
    out = self.conv(F.relu_(self.conv(x)))
    return x + out


def longest_kept(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    kept = []
    for _ in range(5):
        x = self.conv(x)
        kept.append(x)
    return x


def let_go(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    for _ in range(5):
        x = self.conv(x)
    return x


def written_into(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    out = x.new_empty(1, 8, 8, 8)
    out[:, :4].fill_(1)
    out[:, 4:].copy_(x)
    return out.mul_(2)


def resized(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return torch.empty(256).resize_(1024).resize_(256)


@pytest.mark.parametrize(
    ("forward", "expected"),
    [
        (residual, 256 * 4),  # input, what the block reads, what it adds, the sum
        (longest_kept, 256 * 6),
        (let_go, 256 * 3),
        (lambda self, x: x.view(4, 64).t()[1:].unsqueeze(0).expand(9, 63, 4), 256),
        (lambda self, x: x.transpose(1, 2).contiguous(), 256 * 2),
        (lambda self, x: torch.cat([x, self.conv(x)], dim=1), 256 * 4),
        (lambda self, x: self.conv(x).view(4, -1).relu_().mean(), 256 * 2 + 1),
        (written_into, 256 + 512),
        (resized, 256 + 1024),
        (lambda self, x: self.buffer.view(-1).relu_(), 256),
        (lambda self, x: self.constant.view(-1).relu_(), 256),
        (lambda self, x: x * torch.tensor([1.0] * 8), 256 * 2),
        (lambda self, x: x.to_sparse(), 256),
    ],
)
def test_activations_by_hand(forward, expected):
    assert numbers(Forward(forward)) == expected


def test_activations_are_bytes_of_their_type():
    assert activation_memory(Forward(residual).double(), X.double()) == 256 * 4 * 8


def test_activations_of_batch_norm_in_eval_mode():
    # Without the statistics of a batch, which eval mode has not; and with them.
    assert numbers(nn.BatchNorm2d(4)) == 256 * 2
    assert numbers(nn.BatchNorm2d(4, track_running_stats=False)) == 256 * 2 + 4 + 4


def test_activations_of_one_example_of_several():
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
    assert numbers(model, X.repeat(7, 1, 1, 1)) == numbers(model) == 256 * 3
    needs_two = Forward(lambda self, x: self.conv(x).view(len(x) // 2, 2, -1).relu())
    assert numbers(needs_two, X.repeat(2, 1, 1, 1)) == 256 * 3


def test_activations_of_several_inputs_and_of_nested_ones():
    class Sum(nn.Module):
        def forward(self, x: torch.Tensor, more: list[torch.Tensor]) -> torch.Tensor:
            return x + more[0] + more[1]

    more = [torch.zeros(1, 64, device="meta"), torch.zeros(1, 64, device="meta")]
    x = torch.zeros(1, 64, device="meta")
    # Three inputs and two sums.
    assert activation_memory(Sum(), (x, more)) == 5 * 64 * 4


def test_activations_of_resnet20():
    """In the second block of the first stage, of images of 16 channels, 32x32:

    the network's input, to the end; what the stem made, which the network's forward holds until
    all stages are done; what the block reads; behind its second norm `out`, the sum, and its ReLU.
    """
    image = 16 * 32 * 32
    assert numbers(ResNet(20), torch.zeros(1, 3, 32, 32)) == 3 * 32 * 32 + 5 * image


@pytest.mark.parametrize("network", [ResNet, MobileNetV2, GoogLeNet])
def test_activations_without_values_and_with_them_are_the_same(network):
    model, x = network().eval(), torch.zeros(1, 3, 32, 32)
    assert activation_memory(model, x) == _peak_bytes(model, (x,), None)


def test_activations_where_the_forward_needs_values():
    model, x = NeedsValues(), torch.zeros(1, 3, 4, 4)
    # The input and its convolution; the sum is gone by then.
    assert numbers(model, x) == 3 * 16 + 4 * 16
    assert model.calls == 0
    assert model.training


def test_activations_leave_the_model_as_it_was():
    model = Caching()
    assert numbers(model, torch.zeros(1, 3, 4, 4)) == 48 + 64 + 1 + 64
    assert model.grid is None
    assert model.training


def test_activations_do_not_depend_on_when_garbage_is_collected():
    def cycle(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        held = [self.conv(x)]
        for _ in range(10_000):
            held.append(held)
            held = []
        return self.conv(x)

    assert numbers(Forward(cycle)) == 256 * 3
    assert gc.isenabled()
    gc.disable()
    try:
        assert numbers(Forward(cycle)) == 256 * 3
        assert not gc.isenabled()
    finally:
        gc.enable()


# -- on disk, and in time -----------------------------------------------------------------------


def test_state_dict_bytes_is_the_size_of_the_file(tmp_path):
    state_dict = ResNet(20).state_dict()
    torch.save(state_dict, tmp_path / "weights.pth")
    size = (tmp_path / "weights.pth").stat().st_size
    # The archive holds the file's stem once an entry; nothing else may differ.
    assert state_dict_bytes(state_dict) == pytest.approx(size, rel=0.05)
    assert state_dict_bytes(state_dict) > 4 * 272_474


def test_latency_is_in_milliseconds_and_leaves_the_modes():
    model = Sleeper(0.005).train()
    assert 5 <= latency_ms(model, torch.zeros(1), repeats=5) < 500
    assert model.training
    assert set(model.modes) == {(False, False)}
    assert len(model.modes) == 5 + 3


def test_compare_latency_takes_turns():
    order: list[str] = []
    slow, fast = Sleeper(0.02), Sleeper(0.001)
    slow.register_forward_hook(lambda *_: order.append("slow"))
    fast.register_forward_hook(lambda *_: order.append("fast"))
    slow_ms, fast_ms = compare_latency([slow, fast], (torch.zeros(1),), repeats=4)
    assert slow_ms > fast_ms > 1
    assert order == ["slow", "fast"] * (4 + 3)


def test_latency_leaves_the_mode_after_an_exception():
    model = nn.Linear(3, 3).train()
    with pytest.raises(RuntimeError):
        latency_ms(model, torch.zeros(1, 4))
    assert model.training


def test_latency_of_no_repeats():
    with pytest.raises(PrunerError, match=r"^repeats 0: expected 1 or more"):
        latency_ms(nn.Identity(), torch.zeros(1), repeats=0)


def test_buffers_of_a_training_model_are_not_updated_by_latency():
    model = nn.BatchNorm1d(2).train()
    latency_ms(model, torch.randn(4, 2), repeats=1)
    assert model.num_batches_tracked == 0
    assert torch.equal(model.running_mean, torch.zeros(2))
