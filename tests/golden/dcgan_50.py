"""dcgan, pruned: 644,219 -> 317,404 parameters (-50.7 %),
960.0 k -> 503.6 k multiply-accumulates at 3x16x16.

Generated from dcgan.py (class Net); edit freely.
Measure ChannelNorm, method Global.

    from dcgan_50 import dcgan
    model = dcgan(weights="dcgan_50_pruned_v1.0.pth")
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shape = (58, 4, 4)
        self.down = nn.Sequential(
            nn.Conv2d(3, 8, kernel_size=4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 17, kernel_size=4, stride=2, padding=1),
            nn.Flatten(),
        )
        self.lin = nn.Linear(272, 928)
        self.unflatten = nn.Unflatten(1, (14, 2, 2))
        self.lin2 = nn.Linear(928, 56)
        self.up = nn.ConvTranspose2d(14, 8, kernel_size=4, stride=2, padding=1)
        self.up2 = nn.ConvTranspose2d(58, 8, kernel_size=4, stride=2, padding=1)
        self.out = nn.Conv2d(8, 3, kernel_size=3, padding=1)

    def forward(self, x):
        z = self.lin(self.down(x))
        y = self.up2(z.view(-1, *self.shape))
        u = self.up(self.unflatten(self.lin2(z)))
        return self.out(F.interpolate(u, scale_factor=2) + y)


def dcgan(weights: str | Path | None = None, **kwargs) -> Net:
    """The network; given a path, with its weights."""
    model = Net(**kwargs)
    if weights is not None:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        for name in [name for name in state if f"{name}.scale" in state]:  # int8
            state[name] = state[name] * state.pop(f"{name}.scale")
        model.load_state_dict(state)
    return model
