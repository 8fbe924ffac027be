"""A file of the kind users write: widths in slices, zeros and a view."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

HALF = 16


def take(x: torch.Tensor, width: int) -> torch.Tensor:
    return x[:, :width]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3)
        self.a = nn.Conv2d(16, 32, 1)
        self.b = nn.Conv2d(16, 32, 1)
        self.c = nn.Conv2d(8, 32, 1)
        self.c2 = nn.Conv2d(32, 48, 1)
        self.out_size = 4
        self.fc = nn.Linear(48 * 4 * 4, 10)

    def forward(self, x):
        x = F.relu(self.stem(x))
        low, high = x[:, :HALF], x[:, HALF:]
        y = self.a(low) + self.b(high) + self.c(take(x, 8)) + F.relu(self.c(x[:, -8:]))
        extra = torch.zeros(x.shape[0], 32, *x.shape[2:], dtype=x.dtype, device=x.device)
        y = self.c2(F.relu(y + extra))
        y = F.adaptive_avg_pool2d(y, self.out_size)
        return self.fc(y.view(y.size(0), 48 * self.out_size**2))
