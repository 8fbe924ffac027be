"""Training goes on without a jump: the optimizer's state at the indices that stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import image, with_telling_state
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from pruners import PrunerError, prune
from pruners.optimizer_state import slim_optimizer, slim_state


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 6, 3)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv2(F.relu(self.bn1(self.conv1(x))))).mean((2, 3)))


def step(model: nn.Module, optimizer: Optimizer, seed: int) -> None:
    optimizer.zero_grad()
    model(image(4, 3, 8, 8, seed=seed)).square().mean().backward()
    optimizer.step()


def two_groups(model: Any) -> list[dict[str, Any]]:
    return [
        {"params": [model.fc.weight, model.fc.bias], "lr": 0.5},
        {"params": [*model.conv2.parameters(), *model.conv1.parameters()], "weight_decay": 0.1},
    ]


@pytest.mark.parametrize(
    "make",
    [
        lambda model: SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True),
        lambda model: SGD(two_groups(model), lr=0.1, momentum=0.9),
        lambda model: AdamW(model.parameters(), lr=0.01, amsgrad=True),
        lambda model: AdamW(two_groups(model), lr=0.01),
    ],
)
def test_the_state_is_taken_where_the_weights_are(make: Callable[[nn.Module], Optimizer]) -> None:
    torch.manual_seed(0)
    model = with_telling_state(Net())
    optimizer = make(model)
    for seed in range(3):
        step(model, optimizer, seed)
    result = prune(model, image(2, 3, 8, 8), 50)
    slim = result.model
    carried = slim_optimizer(optimizer, model, slim, result.kept)
    assert type(carried) is type(optimizer)
    full, own = dict(model.named_parameters()), dict(slim.named_parameters())
    seen = 0
    for name, parameter in own.items():
        if full[name] not in optimizer.state:
            continue
        before, after = optimizer.state[full[name]], carried.state[parameter]
        assert set(before) == set(after)
        for key, value in before.items():
            if isinstance(value, Tensor) and value.numel() > 1:
                for dim, indices in enumerate(result.kept[name]):
                    value = value.index_select(dim, torch.from_numpy(indices))
                assert torch.equal(after[key], value)
                assert after[key].shape == parameter.shape
                seen += 1
            else:
                assert float(after[key]) == float(value)
    assert seen >= 6
    for mine, theirs in zip(carried.param_groups, optimizer.param_groups, strict=True):
        assert {k: v for k, v in mine.items() if k != "params"} == {
            k: v for k, v in theirs.items() if k != "params"
        }
    # It works on: the slim network's parameters move, and the full one's stay.
    weight = model.conv1.weight.detach().clone()
    moved = own["conv1.weight"].detach().clone()
    step(slim, carried, 9)
    assert torch.equal(model.conv1.weight, weight)
    assert not torch.equal(own["conv1.weight"], moved)


def test_a_step_of_the_slim_network_is_the_full_ones_where_nothing_was_lost() -> None:
    """Pruned channels that are zero all along: both networks go on alike."""
    torch.manual_seed(0)
    model = Net()
    with torch.no_grad():
        for tensor in (model.conv2.weight, model.conv2.bias):
            tensor[[1, 4]] = 0
        model.fc.weight[:, [1, 4]] = 0
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    for seed in range(2):
        step(model, optimizer, seed)
    result = prune(model, image(2, 3, 8, 8), 0, ratio={"conv2": 0.34}, min_filters=1)
    assert result.kept["conv2.weight"][0].tolist() == [0, 2, 3, 5]
    slim = result.model.train()
    carried = slim_optimizer(optimizer, model, slim, result.kept)
    fresh = SGD(slim.parameters(), lr=0.1, momentum=0.9)
    assert not fresh.state
    model.train()
    step(model, optimizer, 5)
    step(slim, carried, 5)
    own = dict(slim.named_parameters())
    for name, parameter in model.named_parameters():
        for dim, indices in enumerate(result.kept[name]):
            parameter = parameter.index_select(dim, torch.from_numpy(indices))
        torch.testing.assert_close(own[name], parameter)


def test_before_the_first_step_there_is_no_state() -> None:
    model = Net()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    result = prune(model, image(2, 3, 8, 8), 50)
    carried = slim_optimizer(optimizer, model, result.model, result.kept)
    assert not carried.state
    assert carried.param_groups[0]["lr"] == 0.1


def test_an_optimizer_of_other_parameters() -> None:
    model = Net()
    result = prune(model, image(2, 3, 8, 8), 50)
    other = SGD([nn.Parameter(torch.zeros(3, 5))], lr=0.1)
    with pytest.raises(
        PrunerError,
        match=r"^optimizer: has a parameter of shape \(3, 5\) that is not the network's; expected",
    ):
        slim_state(other, model, result.kept)


def test_state_that_channels_share() -> None:
    model = Net()
    optimizer = SGD(model.parameters(), lr=0.1)
    optimizer.state[model.conv1.weight] = {"factored": torch.zeros(5)}
    optimizer.state[model.fc.bias] = {"factored": torch.ones(5)}
    result = prune(model, image(2, 3, 8, 8), 50)
    with pytest.raises(
        PrunerError,
        match=r"^optimizer: factored of conv1\.weight has the shape \(5,\), the parameter \(8, 3, "
        r"3, 3\); its channels cannot be told apart; begin with a fresh optimizer$",
    ):
        slim_optimizer(optimizer, model, result.model, result.kept)
    del optimizer.state[model.conv1.weight]
    carried = slim_optimizer(optimizer, model, result.model, result.kept)
    # What loses no channel keeps what it has.
    (state,) = carried.state.values()
    assert state["factored"].tolist() == [1] * 5
