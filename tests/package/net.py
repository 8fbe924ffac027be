"""The network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from package import blocks, other
from package.blocks import Versioned, Weights


class Net(nn.Module):
    """Everything at once."""

    names = ("first", "second")

    def __init__(self, num_classes: int = 10, *, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3)
        self.first = blocks.Block(width)
        self.second = other.Block(width)
        self.third = blocks.Block(width, kernel=5)
        self.third.extra = nn.Conv2d(width, width, 1)
        self.again = self.second  # one module at two paths
        self.versioned = Versioned(width)
        self.weights = Weights(width, 1, 2)
        self.norm = nn.BatchNorm2d(width, affine=False)
        self.head = nn.Linear(width, num_classes, bias=False)
        self.tail = nn.Linear(num_classes, width, bias=False)
        self.tied = nn.Linear(width, num_classes, bias=False)
        self.tied.weight = self.head.weight
        self.steps = 3

    @classmethod
    def small(cls) -> Net:
        return cls(width=4)

    @property
    def depth(self) -> int:
        """How often the block runs."""
        return self.steps - 1

    @torch.no_grad()
    def counted(self, x: Tensor) -> Tensor:
        return self(x).sum()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for name in self.names:
            x = getattr(self, name)(x)
        x = self.third(x)
        for _ in range(self.depth):
            x = self.again(x)
        x = self.norm(self.weights(self.versioned(x))).mean((2, 3))
        return self.tied(self.tail(self.head(x)))
