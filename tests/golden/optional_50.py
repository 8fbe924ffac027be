"""optional, pruned: 9,314 -> 4,552 parameters (-51.1 %),
1.6 M -> 745.3 k multiply-accumulates at 3x16x16.

Generated from optional.py (class Net); edit freely.
Measure ChannelNorm, method Global.

    from optional_50 import optional
    model = optional(weights="optional_50_pruned_v1.0.pth")
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn


class MBConv(nn.Module):
    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        drop_prob: float = 0.0,
        expand: bool = True,
        skip: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if expand:
            layers.append(
                nn.Sequential(
                    nn.Conv2d(in_channels, hidden_channels, kernel_size=1),
                    nn.BatchNorm2d(hidden_channels),
                    nn.ReLU(),
                )
            )
        layers += [
            nn.Sequential(
                nn.Conv2d(
                    hidden_channels,
                    hidden_channels,
                    kernel_size=kernel_size,
                    padding=kernel_size // 2,
                    groups=hidden_channels,
                ),
                nn.BatchNorm2d(hidden_channels),
                nn.ReLU(),
            ),
            nn.Conv2d(hidden_channels, out_channels, kernel_size=1),
            nn.BatchNorm2d(out_channels),
        ]
        self.block = nn.Sequential(*layers)
        if skip:
            self.skip = nn.Conv2d(in_channels, out_channels, kernel_size=1)
        else:
            self.skip = nn.Identity()
        self.drop = nn.Dropout2d(p=drop_prob)

    def forward(self, x):
        return self.drop(self.block(x)) + self.skip(x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 11, kernel_size=3)
        self.a = MBConv(11, 11, 11, expand=False)
        self.b = MBConv(11, 39, 15, kernel_size=5, drop_prob=0.1, skip=True)
        self.c = MBConv(15, 29, 15, drop_prob=0.2)
        self.fc = nn.Linear(15, 10)

    def forward(self, x):
        return self.fc(self.c(self.b(self.a(self.stem(x)))).mean((2, 3)))


def optional(weights: str | Path | None = None, **kwargs) -> Net:
    """The network; given a path, with its weights."""
    model = Net(**kwargs)
    if weights is not None:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        for name in [name for name in state if f"{name}.scale" in state]:  # int8
            state[name] = state[name] * state.pop(f"{name}.scale")
        model.load_state_dict(state)
    return model
