"""sixlayermlp, pruned: 173,514 -> 86,480 parameters (-50.2 %),
172.7 k -> 85.9 k multiply-accumulates at 3x8x8.

Generated from models/mlp/mlp.py (class SixLayerMLP); edit freely.
Measure ChannelNorm, method Global.

    from sixlayermlp_50 import sixlayermlp
    model = sixlayermlp(weights="sixlayermlp_50_pruned_v1.0.pth")
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn


class SixLayerMLP(nn.Module):
    """Six Linears: (N, C, H, W) where C * H * W = in_features -> logits (N, num_classes)."""

    def __init__(self, num_classes: int = 10, in_features: int = 192) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, 172)
        self.fc2 = nn.Linear(172, 165)
        self.fc3 = nn.Linear(165, 83)
        self.fc4 = nn.Linear(83, 84)
        self.fc5 = nn.Linear(84, 41)
        self.fc6 = nn.Linear(41, num_classes)
        self.apply(he_initialisation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        x = F.relu(self.fc3(x))
        x = F.relu(self.fc4(x))
        x = F.relu(self.fc5(x))
        return self.fc6(x)


def he_initialisation(module: nn.Module) -> None:
    """Weights that keep the variance of what flows through a ReLU network; biases are zero."""
    if isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.zeros_(module.bias)


def sixlayermlp(weights: str | Path | None = None, **kwargs) -> SixLayerMLP:
    """The network; given a path, with its weights."""
    model = SixLayerMLP(**kwargs)
    if weights is not None:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        for name in [name for name in state if f"{name}.scale" in state]:  # int8
            state[name] = state[name] * state.pop(f"{name}.scale")
        model.load_state_dict(state)
    return model
