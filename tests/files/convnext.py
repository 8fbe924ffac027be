"""A file of the kind users write: layer scale."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x):
        return F.layer_norm(
            x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps
        ).permute(0, 3, 1, 2)


class Block(nn.Module):
    def __init__(self, dim, drop_prob, layer_scale=1e-6, norm=None):
        super().__init__()
        self.dw = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = (norm or partial(nn.LayerNorm, eps=1e-6))(dim)
        self.up = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.down = nn.Linear(4 * dim, dim)
        self.gamma = (
            nn.Parameter(layer_scale * torch.ones(dim), requires_grad=True)
            if layer_scale > 0
            else None
        )
        self.drop_prob = drop_prob

    def forward(self, x):
        y = self.norm(self.dw(x).permute(0, 2, 3, 1))
        y = self.down(self.act(self.up(y)))
        if self.gamma is not None:
            y = self.gamma * y
        return x + y.permute(0, 3, 1, 2)


class Net(nn.Module):
    def __init__(self, num_classes=10, depths=(1, 2)):
        super().__init__()
        dims = (16, 24)
        dp = [x.item() for x in torch.linspace(0, 0.1, sum(depths))]
        self.stages = nn.ModuleList()
        self.downs = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(3, 16, 4, 4), LayerNorm2d(16)),
                nn.Sequential(LayerNorm2d(16), nn.Conv2d(16, 24, 2, 2)),
            ]
        )
        cur = 0
        for i in range(2):
            self.stages.append(
                nn.Sequential(*[Block(dims[i], dp[cur + j]) for j in range(depths[i])])
            )
            cur += depths[i]
        self.head = nn.Linear(24, num_classes)
        self.apply(self._init_weights)

    def _init_weights(self, m):
        if isinstance(m, (nn.Conv2d, nn.Linear)):
            nn.init.trunc_normal_(m.weight, std=0.02)

    def forward(self, x):
        for down, stage in zip(self.downs, self.stages, strict=True):
            x = stage(down(x))
        return self.head(x.mean((-2, -1)))
