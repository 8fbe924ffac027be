"""slices, pruned: 11,546 -> 5,672 parameters (-50.9 %),
779.1 k -> 294.0 k multiply-accumulates at 3x16x16.

Generated from slices.py (class Net); edit freely.
Measure ChannelNorm, method Global.

    from slices_50 import slices
    model = slices(weights="slices_50_pruned_v1.0.pth")
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn


def take(x: torch.Tensor, width: int) -> torch.Tensor:
    return x[:, :width]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out_size = 4
        self.stem = nn.Conv2d(3, 17, kernel_size=3)
        self.a = nn.Conv2d(8, 20, kernel_size=1)
        self.b = nn.Conv2d(9, 20, kernel_size=1)
        self.c = nn.Conv2d(4, 20, kernel_size=1)
        self.c2 = nn.Conv2d(20, 26, kernel_size=1)
        self.fc = nn.Linear(416, 10)

    def forward(self, x):
        x = F.relu(self.stem(x))
        low, high = x[:, :8], x[:, 8:]
        y = self.a(low) + self.b(high) + self.c(take(x, 4)) + F.relu(self.c(x[:, -4:]))
        extra = torch.zeros(x.shape[0], 20, *x.shape[2:], dtype=x.dtype, device=x.device)
        y = self.c2(F.relu(y + extra))
        y = F.adaptive_avg_pool2d(y, self.out_size)
        return self.fc(y.view(y.size(0), 26 * self.out_size**2))


def slices(weights: str | Path | None = None, **kwargs) -> Net:
    """The network; given a path, with its weights."""
    model = Net(**kwargs)
    if weights is not None:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        for name in [name for name in state if f"{name}.scale" in state]:  # int8
            state[name] = state[name] * state.pop(f"{name}.scale")
        model.load_state_dict(state)
    return model
