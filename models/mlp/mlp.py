"""Multi-layer perceptrons, for small images of any size: Linears with ReLUs between them."""

import torch
import torch.nn.functional as F
from torch import nn


class TwoLayerMLP(nn.Module):
    """Two Linears: (N, C, H, W) where C * H * W = in_features -> logits (N, num_classes)."""

    def __init__(self, num_classes: int = 10, in_features: int = 64) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, 256)
        self.fc2 = nn.Linear(256, num_classes)
        self.apply(he_initialisation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x))
        return self.fc2(x)


class ThreeLayerMLP(nn.Module):
    """Three Linears: (N, C, H, W) where C * H * W = in_features -> logits (N, num_classes)."""

    def __init__(self, num_classes: int = 10, in_features: int = 64) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, 256)
        self.fc2 = nn.Linear(256, 128)
        self.fc3 = nn.Linear(128, num_classes)
        self.apply(he_initialisation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


class SixLayerMLP(nn.Module):
    """Six Linears: (N, C, H, W) where C * H * W = in_features -> logits (N, num_classes)."""

    def __init__(self, num_classes: int = 10, in_features: int = 64) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, 256)
        self.fc2 = nn.Linear(256, 256)
        self.fc3 = nn.Linear(256, 128)
        self.fc4 = nn.Linear(128, 128)
        self.fc5 = nn.Linear(128, 64)
        self.fc6 = nn.Linear(64, num_classes)
        self.apply(he_initialisation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        x = F.relu(self.fc3(x))
        x = F.relu(self.fc4(x))
        x = F.relu(self.fc5(x))
        return self.fc6(x)


class TwelveLayerMLP(nn.Module):
    """Twelve Linears: (N, C, H, W) where C * H * W = in_features -> logits (N, num_classes)."""

    def __init__(self, num_classes: int = 10, in_features: int = 64) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, 128)
        self.fc2 = nn.Linear(128, 128)
        self.fc3 = nn.Linear(128, 128)
        self.fc4 = nn.Linear(128, 128)
        self.fc5 = nn.Linear(128, 128)
        self.fc6 = nn.Linear(128, 128)
        self.fc7 = nn.Linear(128, 128)
        self.fc8 = nn.Linear(128, 128)
        self.fc9 = nn.Linear(128, 128)
        self.fc10 = nn.Linear(128, 128)
        self.fc11 = nn.Linear(128, 128)
        self.fc12 = nn.Linear(128, num_classes)
        self.apply(he_initialisation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        x = F.relu(self.fc3(x))
        x = F.relu(self.fc4(x))
        x = F.relu(self.fc5(x))
        x = F.relu(self.fc6(x))
        x = F.relu(self.fc7(x))
        x = F.relu(self.fc8(x))
        x = F.relu(self.fc9(x))
        x = F.relu(self.fc10(x))
        x = F.relu(self.fc11(x))
        return self.fc12(x)


def he_initialisation(module: nn.Module) -> None:
    """Weights that keep the variance of what flows through a ReLU network; biases are zero."""
    if isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.zeros_(module.bias)
