import time

import pytest
import torch
from torch import nn

from models.cifar.resnet import ResNet
from pruners.errors import PrunerError
from pruners.metrics import (
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
def test_macs_without_an_example(inputs):
    with pytest.raises(PrunerError, match=r"^example_inputs: no tensor with at least one example"):
        count_macs(nn.Identity(), inputs)


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
