"""A verification that could not fail is none: outputs that do not depend on the input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.cifar.resnet import ResNet
from pruners import prune, write_source
from pruners.errors import VerificationError
from pruners.verify import require, tells, verify, with_telling_state
from pruners.weight_transfer import transfer


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
    case = result._case(0, oracle, expected, transfer(random, wrong))
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
