"""Distillation and penalties by hand; masks that compute what the pruned network does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import image, with_telling_state
from torch import Tensor, nn

from pruners import PrunerError, prune
from pruners.analysis import analyse
from pruners.losses import distilled, group_lasso, norm_scales, penalised, penalty_named
from pruners.masks import apply_masks, without_masks


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(x + self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))


def network() -> Any:
    torch.manual_seed(0)
    return with_telling_state(Net()).double()


X = image(3, 3, 8, 8, dtype=torch.float64)
LABELS = torch.tensor([0, 3, 1])


def plain(images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels)


def test_distillation_by_hand() -> None:
    """With logits (0, 0) and a teacher's (2 ln 3, 0) at T = 2: KL of (3/4, 1/4) from (1/2, 1/2)."""
    teacher = nn.Linear(1, 2, bias=False).double()
    with torch.no_grad():
        teacher.weight.copy_(torch.tensor([[2.0], [0.0]]).double() * torch.log(torch.tensor(3.0)))
    images, logits = torch.ones(1, 1).double(), torch.zeros(1, 2).double()
    loss = distilled(lambda *_: torch.tensor(5.0).double(), teacher.train(), 0.25, temperature=2)
    divergence = 0.75 * torch.log(torch.tensor(1.5)) + 0.25 * torch.log(torch.tensor(0.5))
    expected = 0.75 * 5 + 0.25 * 4 * divergence
    assert loss(images, logits, torch.tensor([0])).item() == pytest.approx(expected.item())
    assert not teacher.training


def test_a_teacher_gets_no_gradients_and_agrees_with_itself() -> None:
    teacher, student = network(), network()
    loss = distilled(plain, teacher, 1.0)
    logits = student(X)
    value = loss(X, logits, LABELS)
    assert value.item() == pytest.approx(0, abs=1e-12)
    value.backward()
    assert all(p.grad is None for p in teacher.parameters())


def test_the_lasso_is_over_coupled_channels() -> None:
    model = network()
    graph = analyse(model, X).graph
    by_hand = torch.zeros((), dtype=torch.float64)
    # A channel is a row of conv1, one of conv2, a column of conv2 and one of fc: all are coupled.
    for i in range(6):
        parts = [
            model.conv1.weight[i],
            model.conv2.weight[i],
            model.conv2.weight[:, i],
            model.fc.weight[:, i],
        ]
        count = sum(part.numel() for part in parts)
        squares = sum(part.square().sum() for part in parts)
        by_hand = by_hand + count**0.5 * squares.sqrt()
    penalty = group_lasso(model, graph)
    torch.testing.assert_close(penalty(), by_hand)
    loss = penalised(plain, penalty, 0.1)
    expected = F.cross_entropy(model(X), LABELS) + 0.1 * by_hand
    torch.testing.assert_close(loss(X, model(X), LABELS), expected)
    # A channel that is zero already has a slope that is a number.
    with torch.no_grad():
        model.conv1.weight[0] = 0
        model.conv2.weight[0] = 0
        model.conv2.weight[:, 0] = 0
        model.fc.weight[:, 0] = 0
    penalty().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_the_scales_of_batch_norms() -> None:
    model = network()
    penalty = norm_scales(model, analyse(model, X).graph)
    expected = model.bn1.weight.abs().sum() + model.bn2.weight.abs().sum()
    torch.testing.assert_close(penalty(), expected)


def test_training_with_the_lasso_thins_channels_out() -> None:
    model = network()
    penalty = group_lasso(model, analyse(model, X).graph)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = penalty().item()
    for _ in range(30):
        optimizer.zero_grad()
        penalised(plain, penalty, 0.05)(X, model(X), LABELS).backward()
        optimizer.step()
    assert penalty().item() < 0.8 * before


def test_what_cannot_be_penalised() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(256, 2)).double()
    graph = analyse(model, X).graph
    with pytest.raises(PrunerError, match=r"^--sparse norm: the network has no batch norm with a"):
        penalty_named("norm", model, graph)
    with pytest.raises(
        PrunerError, match=r"^--sparse lasso: unknown; expected one of group, norm$"
    ):
        penalty_named("lasso", model, graph)
    single = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).double()
    with pytest.raises(PrunerError, match=r"^--sparse group: no channel of the network could go$"):
        penalty_named("group", single, analyse(single, X).graph)
    with pytest.raises(PrunerError, match=r"^--distill 1\.5, temperature 4: expected a share from"):
        distilled(plain, model, 1.5)
    with pytest.raises(
        PrunerError, match=r"temperature 0: expected a share from 0 to 1 and a temp"
    ):
        distilled(plain, model, 0.5, temperature=0)


# --- masks ---------------------------------------------------------------------------------------


def test_a_masked_network_computes_what_the_pruned_one_does() -> None:
    model = network()
    result = prune(model, X, 50)
    masked = network()
    apply_masks(masked, result.kept)
    torch.testing.assert_close(masked(X), result.model(X), rtol=1e-12, atol=1e-12)
    # Training leaves what is masked at zero.
    masked.train()
    optimizer = torch.optim.SGD(masked.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        plain(X, masked(X), LABELS).backward()
        optimizer.step()
    clean = without_masks(masked, model)
    assert list(clean.state_dict()) == list(model.state_dict())
    assert type(clean) is Net
    assert clean.training
    rows = set(range(6)) - set(result.kept["conv1.weight"][0].tolist())
    assert not clean.conv1.weight[sorted(rows)].any()
    assert not clean.conv1.bias[sorted(rows)].any()
    assert not clean.bn2.weight[sorted(rows)].any()
    assert not clean.fc.weight[:, sorted(rows)].any()
    torch.testing.assert_close(clean.eval()(X), masked.eval()(X), rtol=1e-12, atol=1e-12)
    assert not torch.equal(clean.fc.weight, model.fc.weight)


@pytest.mark.parametrize("name", ["group", "norm"])
def test_penalties_of_a_masked_network_are_those_of_what_it_computes_with(name: str) -> None:
    model = network()
    result = prune(model, X, 50)
    masked = network()
    apply_masks(masked, result.kept)
    masked(X)
    graph = analyse(model, X).graph
    penalty = penalty_named(name, masked, graph)
    expected = penalty_named(name, without_masks(masked, model), graph)
    torch.testing.assert_close(penalty(), expected())
    (plain(X, masked(X), LABELS) + penalty()).backward()
    assert masked.bn1.weight_orig.grad.abs().sum() > 0


def test_nothing_to_mask() -> None:
    model = network()
    result = prune(model, X, 0)
    apply_masks(model, result.kept)
    assert "weight" in dict(model.conv1.named_parameters())
    torch.testing.assert_close(without_masks(model, network())(X), model(X))
