"""Channels below a threshold: which go, what is left, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import image, with_telling_state
from torch import Tensor, nn

from pruners import PrunerError
from pruners.threshold import prune_net, rising
from pruners.verify import expected_outputs


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return self.fc((x + self.conv2(x)).mean((2, 3)))


X = image(2, 3, 8, 8, dtype=torch.float64)


def network() -> Any:
    """Magnitudes, mean over the two coupled layers: 1, 0.5, 0.3, 0.1, 0.05, 1."""
    torch.manual_seed(0)
    model: Any = with_telling_state(Net()).double()
    with torch.no_grad():
        for conv, shares in (
            (model.conv1, [1, 0.8, 0.3, 0.1, 0.05, 1]),
            (model.conv2, [3, 0.6, 0.9, 0.3, 0.15, 3]),
        ):
            scale = torch.tensor(shares).double().view(-1, 1, 1, 1)
            conv.weight.copy_(conv.weight.sign() * scale)
    return model


@pytest.mark.parametrize(
    ("threshold", "gone"),
    [(0, []), (0.05, []), (0.06, [4]), (0.2, [3, 4]), (0.45, [2, 3, 4]), (0.9, [1, 2, 3, 4])],
)
def test_what_is_below_goes_from_all_coupled_layers(threshold: float, gone: list[int]) -> None:
    model = network()
    thinned = prune_net(model, threshold, X)
    assert thinned.removed == ({"conv1": gone, "conv2": gone} if gone else {})
    assert (thinned.model is model) == (not gone) == (thinned.result is None)
    expected = expected_outputs(model, thinned.kept, (X,))
    torch.testing.assert_close(thinned.model(X), expected, rtol=1e-12, atol=1e-12)
    # The largest stays the measure: there is nothing more to find.
    again = prune_net(thinned.model, threshold, X)
    assert not again.removed


def test_a_layer_keeps_its_largest_filters() -> None:
    thinned = prune_net(network(), 0.9, X, min_filters=4)
    assert thinned.removed["conv1"] == [3, 4]


def test_a_threshold_rises_in_equal_steps() -> None:
    assert rising(0.1, 4) == (0.01, 0.04, 0.07, 0.1)
    assert rising(0.5, 1) == (0.5,)
    assert rising(0.01, 3) == (0.01, 0.01, 0.01)
    assert rising(0.5, 0) == ()


def test_numbers_that_are_none() -> None:
    for threshold in (-0.1, 1, float("nan"), True, "0.5"):
        with pytest.raises(
            PrunerError, match=rf"^threshold {threshold}: expected a share of a layer's largest m"
        ):
            prune_net(network(), threshold, X)  # type: ignore[arg-type]
    with pytest.raises(PrunerError, match=r"^min_filters 0: expected a whole number of at least 1"):
        prune_net(network(), 0.1, X, min_filters=0)
