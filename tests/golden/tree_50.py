"""tree, pruned: 3,754 -> 1,848 parameters (-50.8 %),
686.9 k -> 322.9 k multiply-accumulates at 3x16x16.

Generated from tree.py (class Net); edit freely.
Measure ChannelNorm, method Global.

    from tree_50 import tree
    model = tree(weights="tree_50_pruned_v1.0.pth")
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn


class Tree(nn.Module):
    def __init__(self, left: nn.Module) -> None:
        super().__init__()
        self.left = left
        self.right = nn.Conv2d(9, 13, kernel_size=1)

    def forward(self, x):
        return F.relu(self.left(x)) + self.right(x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 9, kernel_size=3)
        self.tree = Tree(Tree(Tree(nn.Conv2d(9, 13, kernel_size=3, padding=1))))
        self.fc = nn.Linear(13, 10)

    def forward(self, x):
        return self.fc(self.tree(self.stem(x)).mean((2, 3)))


def tree(weights: str | Path | None = None, **kwargs) -> Net:
    """The network; given a path, with its weights."""
    model = Net(**kwargs)
    if weights is not None:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        for name in [name for name in state if f"{name}.scale" in state]:  # int8
            state[name] = state[name] * state.pop(f"{name}.scale")
        model.load_state_dict(state)
    return model
