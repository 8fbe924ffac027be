"""A verification that could not fail is none: outputs that do not depend on the input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.cifar.resnet import ResNet
from pruners import prune, write_source
from pruners.errors import VerificationError
from pruners.verify import Case, Outcome, require, tells, verify, with_telling_state
from pruners.weight_transfer import transfer
from pruners.written import Comparison


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (torch.ones(2, 3), False),
        (torch.tensor([[1.0, 2.0], [1.0, 2.1]]), True),
        (torch.tensor([[1.0, 2.0], [1.0, 2.0 + 1e-7]]), False),
        ({"a": torch.ones(2, 3), "b": [torch.randn(2, 3)]}, True),
        (torch.ones(1, 3), True),
        ((torch.ones(2, dtype=torch.int64), 3), True),
    ],
    ids=["equal", "different", "by rounding", "nested", "one example", "no floats"],
)
def test_whether_an_output_tells(output: object, expected: bool) -> None:
    assert tells(output, 1e-6) is expected


def silent() -> tuple[nn.Module, Tensor]:
    """A network whose weights are all zero: it says its bias whatever goes in."""
    model = ResNet(20).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.fc.bias.copy_(torch.arange(10.0))
    return model, torch.randn(2, 3, 16, 16)


def test_a_network_that_says_nothing_is_compared_with_random_weights() -> None:
    model, x = silent()
    result = prune(model, x, 50)
    outcome = result.verified()
    assert outcome.random_weights
    assert 0 < outcome.error < 1e-5
    assert write_source(model, x).verified().random_weights


def test_wrong_weights_of_such_a_network_are_found() -> None:
    model, x = silent()
    result = prune(model, x, 50)
    # The order of the kept channels is wrong in one tensor: with zeros, nobody would know.
    wrong = dict(result.kept)
    tensors = model.state_dict()
    pruned = next(n for n, dims in wrong.items() if 1 < len(dims[0]) < len(tensors[n]))
    wrong[pruned] = (wrong[pruned][0][::-1].copy(), *wrong[pruned][1:])
    random = with_telling_state(model)
    given = result.with_random_weights()
    assert given is not None
    oracle, expected, _ = given
    comparison = Comparison(0, oracle, expected, transfer(random, wrong), tolerance=1e-5)
    case = result._case(comparison)
    with pytest.raises(VerificationError, match="not equal to the masked oracle"):
        require(verify([case]))


def test_a_trained_network_is_compared_once() -> None:
    torch.manual_seed(0)
    model = with_telling_state(ResNet(20)).eval()
    assert not prune(model, torch.randn(2, 3, 16, 16), 50).verified().random_weights


class Rounding(nn.Module):
    """Computes in float32 for a while, whatever its weights are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).float().tanh()
        return self.fc(y.mean((2, 3)).to(self.fc.weight.dtype))


def test_the_tolerance_is_that_of_the_lowest_precision() -> None:
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    result = prune(with_telling_state(Rounding().double()).eval(), x, 40)
    assert result.precision is torch.float32
    assert result.verified().tolerance == 1e-5
    assert prune(ResNet(20).double().eval(), x.repeat(1, 1, 2, 2), 40).precision is torch.float64


class Overwrites(nn.Module):
    """Writes over what its own backward pass reads, as FasterNet does for inference."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3)
        self.part = nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x)).clone()
        x[:, :4] = self.part(x[:, :4])
        return self.fc(x.mean((2, 3)))


def test_what_cannot_be_trained_itself_is_compared_in_eval_mode() -> None:
    model = with_telling_state(Overwrites()).eval()
    x = torch.randn(2, 3, 8, 8)
    for result in (prune(model, x, 40), write_source(model, x)):
        outcome = result.verified()
        assert outcome.ok
        assert outcome.eval_only.startswith("RuntimeError: one of the variables needed for")
        assert outcome.described()["eval_only"] == outcome.eval_only
        assert not result.compared().eval_only


def test_what_can_be_trained_must_be_trainable(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(cases: list[Case]) -> list[Outcome]:
        return [Outcome(c.name, False, 0.0, "boom", c.oracle, c.tolerance) for c in cases]

    monkeypatch.setattr("pruners.written.verify", failing)
    model = with_telling_state(ResNet(20)).eval()
    with pytest.raises(VerificationError, match="boom"):
        prune(model, torch.randn(2, 3, 16, 16), 50).verified()


class Cancels(nn.Module):
    """Two layers that agree but for some thousandths: rounding counts hundreds of times."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 64, 3)
        self.fc = nn.Linear(64 * 36, 10)
        self.nearly = nn.Linear(64 * 36, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x)).flatten(1)
        return self.fc(x) - self.nearly(x)


def cancelling() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = Cancels().eval()
    with torch.no_grad():
        for name, tensor in model.nearly.state_dict().items():
            noise = 1 + 3e-3 * torch.randn(tensor.shape)
            tensor.copy_(model.fc.state_dict()[name] * noise)
    return model, torch.randn(2, 3, 8, 8)


def test_rounding_that_is_magnified_is_compared_in_float64() -> None:
    model, x = cancelling()
    result = prune(model, x, 50)
    for outcome in (result.verified(), result.compared(), write_source(model, x).verified()):
        # Nothing is summed in another order where nothing was removed.
        magnified = outcome.float32_error or 2e-5 * (outcome.error == 0)
        assert magnified > 1e-5
        assert outcome.error < outcome.tolerance <= 1e-5
    outcome = result.verified()
    assert outcome.float32_error is not None
    assert outcome.tolerance == 1e-12
    said = outcome.described()
    assert said["float32_error"] == float(f"{outcome.float32_error:.1e}")
    assert said["max_relative_error"] < 1e-12
    assert result.model.fc.weight.dtype == torch.float32


def test_wrong_weights_of_such_a_network_differ_in_float64_too() -> None:
    model, x = cancelling()
    result = prune(model, x, 50)
    with torch.no_grad():
        result.state_dict["fc.bias"][0] += 1e-5
    (comparison,) = result._comparisons()
    assert 1e-5 < result._compared(comparison).error < 1e-2  # which rounding might do as well
    for compared in (result.verified, result.compared):
        # The message is of the network's own precision.
        with pytest.raises(VerificationError, match=r"tolerance 1e-05\)"):
            compared()


def test_what_cannot_be_computed_in_float64_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = cancelling()
    monkeypatch.setattr(Cancels, "forward", _half_way)
    with pytest.raises(VerificationError, match=r"tolerance 1e-05\)"):
        prune(model, x, 50).compared()


def _half_way(self: Cancels, x: Tensor) -> Tensor:
    """One whose own rounding is no question of the weights' precision."""
    x = torch.relu(self.conv(x)).flatten(1).float()
    return self.fc(x.to(self.fc.weight.dtype)) - self.nearly(x.to(self.fc.weight.dtype))
