"""SqueezeNet for 224x224 images: Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer
parameters" (2016), table 1 (version 1.0), and the faster version 1.1 of the authors' repository;
names and shapes are torchvision's, so its weights fit."""

import torch
import torch.nn.functional as F
from torch import nn

from pruners.decorators import fire


@fire(lType="fire", convs=["squeeze", "expand1x1", "expand3x3"])
class Fire(nn.Module):
    """A few 1x1 filters, then 1x1 and 3x3 filters side by side, concatenated."""

    def __init__(self, in_channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, squeeze, kernel_size=1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, kernel_size=1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, kernel_size=3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], dim=1)


class SqueezeNet1_0(nn.Module):  # noqa: N801 - the version is 1.0
    """SqueezeNet 1.0 for images: (N, in_channels, 224, 224) -> logits (N, num_classes)."""

    def __init__(self, num_classes: int = 1000, in_channels: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 96, kernel_size=7, stride=2),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True),
            Fire(96, squeeze=16, expand=64),
            Fire(128, squeeze=16, expand=64),
            Fire(128, squeeze=32, expand=128),
            nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True),
            Fire(256, squeeze=32, expand=128),
            Fire(256, squeeze=48, expand=192),
            Fire(384, squeeze=48, expand=192),
            Fire(384, squeeze=64, expand=256),
            nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True),
            Fire(512, squeeze=64, expand=256),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Conv2d(512, num_classes, kernel_size=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
        )
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_uniform_(m.weight)
                nn.init.zeros_(m.bias)
        nn.init.normal_(self.classifier[1].weight, std=0.01)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.flatten(self.classifier(self.features(x)), 1)


class SqueezeNet1_1(nn.Module):  # noqa: N801 - the version is 1.1
    """SqueezeNet 1.1 for images: (N, in_channels, 224, 224) -> logits (N, num_classes)."""

    def __init__(self, num_classes: int = 1000, in_channels: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 64, kernel_size=3, stride=2),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True),
            Fire(64, squeeze=16, expand=64),
            Fire(128, squeeze=16, expand=64),
            nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True),
            Fire(128, squeeze=32, expand=128),
            Fire(256, squeeze=32, expand=128),
            nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True),
            Fire(256, squeeze=48, expand=192),
            Fire(384, squeeze=48, expand=192),
            Fire(384, squeeze=64, expand=256),
            Fire(512, squeeze=64, expand=256),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Conv2d(512, num_classes, kernel_size=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
        )
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_uniform_(m.weight)
                nn.init.zeros_(m.bias)
        nn.init.normal_(self.classifier[1].weight, std=0.01)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.flatten(self.classifier(self.features(x)), 1)
