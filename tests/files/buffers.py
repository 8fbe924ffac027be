"""A file of the kind users write: tensors that are computed."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn


def make_kernel(size: int, sigma: float) -> torch.Tensor:
    """A Gaussian."""
    x = torch.arange(size) - (size - 1) / 2
    return torch.exp(-(x**2) / (2 * sigma**2))


class Blur(nn.Module):
    def __init__(self, size=3, sigma=1.0):
        super().__init__()
        self.size = size
        kernel = make_kernel(size, sigma)
        kernel = kernel[:, None] * kernel[None]
        self.register_buffer("kernel", kernel / kernel.sum(), persistent=False)

    def forward(self, x):
        k = self.kernel.expand(x.shape[1], 1, self.size, self.size).to(x.dtype)
        return F.conv2d(x, k, padding=self.size // 2, groups=x.shape[1])


class Window(nn.Module):
    def __init__(self, dim, window):
        super().__init__()
        self.window = window
        self.lin = nn.Conv2d(dim, dim, 1)
        coords = torch.stack(
            torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
        ).flatten(1)
        rel = coords[:, :, None] - coords[:, None, :]
        rel = rel.permute(1, 2, 0).contiguous() + window - 1
        self.register_buffer("index", rel[..., 0] * (2 * window - 1) + rel[..., 1])
        self.table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, 1))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, x):
        y = self.lin(x)
        n, c, h, w = y.shape
        y = F.adaptive_avg_pool2d(y, self.window).flatten(2)
        bias = self.table[self.index.view(-1)].view(self.window**2, self.window**2)
        y = (y @ bias).view(n, c, self.window, self.window)
        return x + F.interpolate(y, size=(h, w))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3)
        self.blur = Blur()
        self.blur2 = Blur(5, 2.0)
        self.w1 = Window(16, 4)
        self.w2 = Window(16, 7)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        pe = torch.zeros(100, 16)
        pos = torch.arange(100).unsqueeze(1)
        div = torch.exp(torch.arange(0, 16, 2) * (-math.log(10000.0) / 16))
        pe[:, 0::2] = torch.sin(pos * div)
        pe[:, 1::2] = torch.cos(pos * div)
        self.register_buffer("pe", pe)
        self.scale = nn.Parameter(torch.full((16, 1, 1), 0.5))
        self.bias = nn.Parameter(torch.Tensor(16))
        nn.init.uniform_(self.bias, -1, 1)
        self.fc = nn.Linear(16, 10)

    def forward(self, x):
        x = self.stem(x - self.mean)
        x = self.w2(self.w1(self.blur2(self.blur(x))))
        x = x * self.scale + self.bias[:, None, None] + self.pe[3][:, None, None]
        return self.fc(x.mean((2, 3)))
