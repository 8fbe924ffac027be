"""A file of the kind users write: one number that is a width twice and a divisor once."""

from __future__ import annotations

from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3)
        self.b = nn.Conv2d(32, 32, 3)
        self.dim = 32
        self.fc = nn.Linear(32, 10)

    def forward(self, x):
        c = self.dim
        x = self.stem(x)
        x = x.view(x.shape[0], c, -1).relu().view(x.shape)
        x = self.b(x)
        x = x.view(x.shape[0], c, -1) / self.dim
        return self.fc(x.mean(2))
