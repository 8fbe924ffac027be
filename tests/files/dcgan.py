"""A file of the kind users write: shapes behind a Linear."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.Flatten()
        )
        self.lin = nn.Linear(32 * 4 * 4, 64 * 4 * 4)
        self.shape = (64, 4, 4)
        self.unflatten = nn.Unflatten(1, (24, 2, 2))
        self.lin2 = nn.Linear(64 * 4 * 4, 24 * 2 * 2)
        self.up = nn.ConvTranspose2d(24, 8, 4, 2, 1)
        self.up2 = nn.ConvTranspose2d(64, 8, 4, 2, 1)
        self.out = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x):
        z = self.lin(self.down(x))
        y = self.up2(z.view(-1, *self.shape))
        u = self.up(self.unflatten(self.lin2(z)))
        return self.out(F.interpolate(u, scale_factor=2) + y)
