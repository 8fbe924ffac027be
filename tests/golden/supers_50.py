"""supers, pruned: 16,314 -> 7,786 parameters (-52.3 %),
3.1 M -> 1.5 M multiply-accumulates at 3x16x16.

Generated from supers.py (class Net); edit freely.
Measure ChannelNorm, method Global.

    from supers_50 import supers
    model = supers(weights="supers_50_pruned_v1.0.pth")
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn


class Base(nn.Module):
    """Base of blocks."""

    scale = 0.5

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(10, 12, kernel_size=3, padding=1)

    def forward(self, x):
        return F.relu(self.conv(x)) * self.scale

    @property
    def width(self):
        return self.conv.out_channels


class Child(nn.Module):
    scale = 0.5

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(12, 10, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(10, 12, kernel_size=3, padding=1)

    def forward(self, x):
        y = self._base_forward(x)
        return self.join(x, self.gate(self.conv2(y)))

    def gate(self, x):
        return torch.sigmoid(x)

    @property
    def width(self):
        return self.conv.out_channels

    @staticmethod
    def join(a, b):
        return a + b

    def _base_forward(self, x):
        return F.relu(self.conv(x)) * self.scale


class Grand(nn.Module):
    scale = 0.5

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(12, 10, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(10, 12, kernel_size=5, padding=2)

    def forward(self, x, *args):
        return self._child_forward(x) * 2

    def gate(self, x):
        return torch.sigmoid(x)

    @property
    def width(self):
        return self.conv.out_channels

    def _child_forward(self, x):
        y = self._base_forward(x)
        return self.join(x, self.gate(self.conv2(y)))

    @staticmethod
    def join(a, b):
        return a + b

    def _base_forward(self, x):
        return F.relu(self.conv(x)) * self.scale


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 10, kernel_size=3)
        self.blocks = nn.ModuleDict({"base": Base(), "child": Child(), "grand": Grand()})
        self.fc = nn.Linear(12, 10)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks.values():
            x = block(x)
        return self.fc(x.mean((2, 3)))


def supers(weights: str | Path | None = None, **kwargs) -> Net:
    """The network; given a path, with its weights."""
    model = Net(**kwargs)
    if weights is not None:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        for name in [name for name in state if f"{name}.scale" in state]:  # int8
            state[name] = state[name] * state.pop(f"{name}.scale")
        model.load_state_dict(state)
    return model
