"""optiona, pruned: 93,834 -> 45,545 parameters (-51.5 %),
4.2 M -> 2.2 M multiply-accumulates at 3x16x16.

Generated from optiona.py (class Net); edit freely.
Measure ChannelNorm, method Global.

    from optiona_50 import optiona
    model = optiona(weights="optiona_50_pruned_v1.0.pth")
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(
        self,
        in_channels: int,
        conv1_channels: int,
        out_channels: int,
        stride: int = 1,
        padding_before: int | None = None,
        padding_after: int | None = None,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.padding_before = padding_before
        self.padding_after = padding_after
        self.conv1 = nn.Conv2d(
            in_channels, conv1_channels, kernel_size=3, stride=stride, padding=1, bias=False
        )
        self.bn1 = nn.BatchNorm2d(conv1_channels)
        self.conv2 = nn.Conv2d(conv1_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.stride != 1:
            x = F.pad(
                x[:, :, ::2, ::2],
                (0, 0, 0, 0, self.padding_before, self.padding_after),
                "constant",
                0,
            )
        return F.relu(out + x)


class Net(nn.Module):
    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 15, kernel_size=3, padding=1)
        self.layers = nn.Sequential(
            Block(15, 10, 15),
            Block(15, 19, 27, stride=2, padding_before=7, padding_after=5),
            Block(27, 18, 27),
            Block(27, 39, 46, stride=2, padding_before=10, padding_after=9),
        )
        self.fc = nn.Linear(46, num_classes)

    def forward(self, x):
        x = self.layers(F.relu(self.stem(x)))
        return self.fc(x.mean((2, 3)))


def optiona(weights: str | Path | None = None, **kwargs) -> Net:
    """The network; given a path, with its weights."""
    model = Net(**kwargs)
    if weights is not None:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        for name in [name for name in state if f"{name}.scale" in state]:  # int8
            state[name] = state[name] * state.pop(f"{name}.scale")
        model.load_state_dict(state)
    return model
