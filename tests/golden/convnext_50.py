"""convnext, pruned: 17,634 -> 8,671 parameters (-50.8 %),
110.3 k -> 54.7 k multiply-accumulates at 3x16x16.

Generated from convnext.py (class Net); edit freely.
Measure ChannelNorm, method Global.

    from convnext_50 import convnext
    model = convnext(weights="convnext_50_pruned_v1.0.pth")
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x):
        return F.layer_norm(
            x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps
        ).permute(0, 3, 1, 2)


class Block(nn.Module):
    def __init__(self, dim: int, up_channels: int) -> None:
        super().__init__()
        self.dw = nn.Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-06)
        self.up = nn.Linear(dim, up_channels)
        self.act = nn.GELU()
        self.down = nn.Linear(up_channels, dim)
        self.gamma = nn.Parameter(1e-06 * torch.ones(dim))

    def forward(self, x):
        y = self.norm(self.dw(x).permute(0, 2, 3, 1))
        y = self.down(self.act(self.up(y)))
        if self.gamma is not None:
            y = self.gamma * y
        return x + y.permute(0, 3, 1, 2)


class Net(nn.Module):
    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            [
                nn.Sequential(
                    Block(11, 36),
                ),
                nn.Sequential(
                    Block(17, 55),
                    Block(17, 56),
                ),
            ]
        )
        self.downs = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Conv2d(3, 11, kernel_size=4, stride=4),
                    LayerNorm2d(11),
                ),
                nn.Sequential(
                    LayerNorm2d(11),
                    nn.Conv2d(11, 17, kernel_size=2, stride=2),
                ),
            ]
        )
        self.head = nn.Linear(17, num_classes)
        self.apply(self._init_weights)

    def forward(self, x):
        for down, stage in zip(self.downs, self.stages, strict=True):
            x = stage(down(x))
        return self.head(x.mean((-2, -1)))

    def _init_weights(self, m):
        if isinstance(m, (nn.Conv2d, nn.Linear)):
            nn.init.trunc_normal_(m.weight, std=0.02)


def convnext(weights: str | Path | None = None, **kwargs) -> Net:
    """The network; given a path, with its weights."""
    model = Net(**kwargs)
    if weights is not None:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        for name in [name for name in state if f"{name}.scale" in state]:  # int8
            state[name] = state[name] * state.pop(f"{name}.scale")
        model.load_state_dict(state)
    return model
