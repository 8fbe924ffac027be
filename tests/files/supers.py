"""A file of the kind users write: inheritance and a mixin."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Base(nn.Module):
    """Base of blocks."""

    scale = 0.5

    def __init__(self, c):
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, padding=1)

    def forward(self, x):
        return F.relu(self.conv(x)) * self.scale

    @property
    def width(self):
        return self.conv.out_channels

    @staticmethod
    def join(a, b):
        return a + b


class Mixin:
    def gate(self, x):
        return torch.sigmoid(x)


class Child(Mixin, Base):
    def __init__(self, c, *, k=3):
        super().__init__(c)
        self.conv2 = nn.Conv2d(c, c, k, padding=k // 2)

    def forward(self, x):
        y = super().forward(x)
        return self.join(x, self.gate(self.conv2(y)))


class Grand(Child):
    def forward(self, x, *args):
        return super().forward(x) * 2


class Net(nn.Module):
    def __init__(self, *blocks):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3)
        self.blocks = nn.ModuleDict({"base": Base(16), "child": Child(16), "grand": Grand(16, k=5)})
        self.fc = nn.Linear(16, 10)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks.values():
            x = block(x)
        return self.fc(x.mean((2, 3)))
