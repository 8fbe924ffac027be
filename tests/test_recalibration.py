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


def test_what_is_no_data() -> None:
    with pytest.raises(PrunerError, match=r"^recalibration: no batches; expected at least one ba"):
        recalibrate(Net(), [])
    model = Net()
    with pytest.raises(
        PrunerError,
        match=r"^recalibration: the statistics of bn1 are not finite; expected finite images and w",
    ):
        recalibrate(model, [image(2, 3, 9, 9) * float("nan")])
    assert model.bn1.momentum == 0.3
