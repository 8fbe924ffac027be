"""Statistics of batch norms, estimated anew."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import image, with_telling_state
from torch import Tensor, nn

from pruners import PrunerError, prune
from pruners.recalibration import recalibrate


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.bn1 = nn.BatchNorm2d(8, momentum=0.3)
        self.drop = nn.Dropout(0.5)
        self.conv2 = nn.Conv2d(8, 8, 3)
        self.bn2 = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(torch.relu(self.bn1(self.conv(x))))
        return self.fc(torch.relu(self.bn2(self.conv2(x))).mean((2, 3)))


def test_statistics_are_the_means_over_the_batches() -> None:
    model = with_telling_state(Net()).double()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batches = [image(8, 3, 9, 9, dtype=torch.float64, seed=i) for i in range(3)]
    random = torch.get_rng_state()
    assert recalibrate(model, batches) == 2
    assert torch.equal(torch.get_rng_state(), random), "dropout stays off"
    with torch.no_grad():
        outs = [model.conv(x) for x in batches]
    mean = torch.stack([out.mean((0, 2, 3)) for out in outs]).mean(0)
    var = torch.stack([out.movedim(1, 0).flatten(1).var(1) for out in outs]).mean(0)
    torch.testing.assert_close(model.bn1.running_mean, mean)
    torch.testing.assert_close(model.bn1.running_var, var)
    for name, tensor in model.state_dict().items():
        assert ("running" in name or "num_batches" in name) or torch.equal(tensor, before[name])
    assert not any(module.training for module in model.modules())
    assert model.bn1.momentum == 0.3
    # Labels are passed over, and the same batches give the same statistics.
    again = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    assert recalibrate(model, [(x, None) for x in batches]) == 2
    assert all(module.training for module in model.modules())
    assert all(torch.equal(t, again[n]) for n, t in model.state_dict().items())


def test_it_mends_what_pruning_shifts() -> None:
    """Behind a pruned layer, statistics of the full network are off; anew they are right."""
    torch.manual_seed(0)
    model = Net().train()
    batches = [image(32, 3, 9, 9, seed=i) for i in range(4)]
    recalibrate(model, batches)
    slim: Any = prune(model.eval(), batches[0], 60, ignore=["conv2"]).model

    def off() -> float:
        """How far what bn2 normalises is from mean 0."""
        with torch.no_grad():
            x = slim.conv2(torch.relu(slim.bn1(slim.conv(torch.cat(batches)))))
        centred = (x.mean((0, 2, 3)) - slim.bn2.running_mean) / slim.bn2.running_var.sqrt()
        return float(centred.abs().max())

    assert off() > 0.1
    recalibrate(slim, batches)
    assert off() < 0.01


def test_a_network_without_batch_norms_stays() -> None:
    assert recalibrate(nn.Sequential(nn.Conv2d(3, 4, 1)), []) == 0
    untracked = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    assert recalibrate(untracked, []) == 0


class Heads(nn.Module):
    """A second head, which runs in training alone; embeds whole numbers; writes to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 8)
        self.fc = nn.Linear(3, 8)
        self.bn = nn.BatchNorm1d(8)
        self.extra = nn.BatchNorm1d(8)

    def forward(self, x: Tensor, which: Tensor) -> Tensor:
        x = self.bn(self.fc(x.mul_(2)) + self.table(which))
        return self.extra(x) if self.training else x


def stored(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def unchanged(model: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_norms_that_see_no_batch_keep_their_statistics() -> None:
    model = with_telling_state(Heads())
    model.extra.num_batches_tracked.fill_(5)
    before = stored(model)
    x, which = image(6, 3), torch.arange(6)
    kept = x.clone()
    assert recalibrate(model, [((x, which), which)]) == 1
    assert torch.equal(x, kept), "the user's batch is no place to work in"
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"bn.running_mean", "bn.running_var", "bn.num_batches_tracked"}
    with torch.no_grad():
        inside = model.fc(2 * kept) + model.table(which)
    torch.testing.assert_close(model.bn.running_mean, inside.mean(0))


def test_inputs_in_every_shape_that_loaders_give() -> None:
    x, which = image(6, 3), torch.arange(6)
    results = []
    for batch in (
        ((x, which), None),
        ([x, which], None),
        [[x, which], which],
        ((x.double(), which),),
        {"x": x, "which": which},
        ({"x": x, "which": which}, None),
    ):
        model = with_telling_state(Heads())
        torch.manual_seed(0)
        nn.init.normal_(model.table.weight)
        nn.init.normal_(model.fc.weight)
        assert recalibrate(model, [batch]) == 1
        results.append(model.bn.running_mean)
    assert all(torch.equal(mean, results[0]) for mean in results)

    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(7, 8)
            self.bn = nn.BatchNorm1d(8)

        def forward(self, which: Tensor) -> Tensor:
            return self.bn(self.table(which))

    assert recalibrate(Words(), [which, which[:3]]) == 1


def test_what_is_no_data() -> None:
    model = with_telling_state(Net())
    model.bn1.eval()
    model.bn2.train()
    before = stored(model)

    def refused(batches: Any, message: str) -> None:
        with pytest.raises(PrunerError, match=message):
            recalibrate(model, batches)
        assert unchanged(model, before)
        assert model.bn1.momentum == 0.3
        assert (model.bn1.training, model.bn2.training) == (False, True)

    x = image(2, 3, 9, 9)
    refused([], r"^recalibration: no batches; expected at least one batch of inputs$")
    refused([x, "x"], r"^recalibration: batch 2 holds a str; expected inputs, or a pair of inputs")
    refused(
        [x, image(2, 4, 9, 9)],
        r"^recalibration: the forward raised RuntimeError on batch 2 of shape .*: Given groups=1,"
        r" .*; expected data like the example inputs$",
    )
    refused(
        [image(1, 3, 5, 5)],
        r"raised ValueError on batch 1 of shape .*: Expected more than 1 value per ch",
    )
    refused(
        [x * 1e38],
        r"^recalibration: the statistics of bn1 are not finite; expected finite images and w",
    )

    def interrupted() -> Any:
        yield x
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recalibrate(model, interrupted())
    assert unchanged(model, before)
    assert model.bn1.momentum == 0.3
