"""attention, pruned: 10,410 -> 5,088 parameters (-51.1 %),
188.7 k -> 98.0 k multiply-accumulates at 3x16x16.

Generated from attention.py (class Net); edit freely.
Measure ChannelNorm, method Global.

    from attention_50 import attention
    model = attention(weights="attention_50_pruned_v1.0.pth")
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    def __init__(
        self,
        head_dim: int,
        qkv_channels: int,
        proj_channels: int,
        heads: int = 4,
        scale: float = 0.3535533905932738,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = head_dim
        self.scale = scale
        self.qkv = nn.Linear(20, qkv_channels)
        self.proj = nn.Linear(proj_channels, 20)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        y = y.transpose(1, 2).reshape(b, n, self.heads * self.head_dim)
        return self.proj(y)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 20, kernel_size=4, stride=4)
        self.a1 = Attention(6, 72, 24)
        self.a2 = Attention(11, 66, 22, heads=2, scale=0.25)
        self.norm = nn.LayerNorm(20)
        self.fc = nn.Linear(20, 10)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.a1(x)
        x = x + self.a2(x)
        return self.fc(self.norm(x).mean(1))


def attention(weights: str | Path | None = None, **kwargs) -> Net:
    """The network; given a path, with its weights."""
    model = Net(**kwargs)
    if weights is not None:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        for name in [name for name in state if f"{name}.scale" in state]:  # int8
            state[name] = state[name] * state.pop(f"{name}.scale")
        model.load_state_dict(state)
    return model
