"""A file of the kind users write: widths in a dataclass."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn


@dataclass
class Config:
    """Widths."""

    dim: int = 16
    hidden: int = 32
    heads: int = 2


class Mixer(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.up = nn.Conv2d(config.dim, config.hidden, 1)
        self.down = nn.Conv2d(config.hidden, config.dim, 1)

    def forward(self, x):
        y = self.up(x).flatten(2)
        y = y.reshape(-1, self.config.hidden, *x.shape[2:])
        return self.down(F.gelu(y))


class Net(nn.Module):
    def __init__(self, config: Config | None = None):
        super().__init__()
        config = config or Config()
        self.stem = nn.Conv2d(3, config.dim, 3)
        self.mixers = nn.ModuleList(Mixer(config) for _ in range(3))
        self.fc = nn.Linear(config.dim, 10)

    def forward(self, x):
        x = self.stem(x)
        for mixer in self.mixers:
            x = x + mixer(x)
        return self.fc(x.mean((2, 3)))
