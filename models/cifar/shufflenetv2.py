"""ShuffleNetV2 0.5 for 32x32 images: Ma et al., "ShuffleNet V2: Practical Guidelines for Efficient
CNN Architecture Design" (2018), table 5, with two strides fewer."""

import torch
import torch.nn.functional as F
from torch import nn


class ShuffleUnit(nn.Module):
    """Half of the channels pass, the others are convolved; then both are shuffled together."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = convolved(channels // 2, channels // 2, stride=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        passed, rest = x.chunk(2, dim=1)
        return shuffled(torch.cat([passed, self.branch(rest)], dim=1))


class DownsampleUnit(nn.Module):
    """Both branches read all channels and halve height and width."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.side = nn.Sequential(
            nn.Conv2d(
                in_channels,
                in_channels,
                kernel_size=3,
                stride=2,
                padding=1,
                groups=in_channels,
                bias=False,
            ),
            nn.BatchNorm2d(in_channels),
            nn.Conv2d(in_channels, half, kernel_size=1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(),
        )
        self.branch = convolved(in_channels, half, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return shuffled(torch.cat([self.side(x), self.branch(x)], dim=1))


class ShuffleNetV2(nn.Module):
    """ShuffleNetV2 0.5 for 32x32 images: (N, in_channels, 32, 32) -> logits (N, num_classes)."""

    def __init__(self, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 24, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(24)
        self.stage2 = stage(24, 48, units=4)
        self.stage3 = stage(48, 96, units=8)
        self.stage4 = stage(96, 192, units=4)
        self.conv5 = nn.Conv2d(192, 1024, kernel_size=1, bias=False)
        self.bn5 = nn.BatchNorm2d(1024)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(1024, num_classes)

        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                # He initialisation keeps the variance of what flows through a ReLU network.
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.stage4(self.stage3(self.stage2(x)))
        x = F.relu(self.bn5(self.conv5(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def convolved(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    """Convolutions 1x1, depthwise 3x3, 1x1."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel_size=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(
            channels,
            channels,
            kernel_size=3,
            stride=stride,
            padding=1,
            groups=channels,
            bias=False,
        ),
        nn.BatchNorm2d(channels),
        nn.Conv2d(channels, channels, kernel_size=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )


def shuffled(x: torch.Tensor) -> torch.Tensor:
    """Channels of the first half and of the second half by turns."""
    return x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


def stage(in_channels: int, channels: int, units: int) -> nn.Sequential:
    """Units of one width in a row; the first changes shape."""
    return nn.Sequential(
        DownsampleUnit(in_channels, channels),
        *(ShuffleUnit(channels) for _ in range(units - 1)),
    )
