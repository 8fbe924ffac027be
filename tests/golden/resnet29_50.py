"""ResNet29, pruned: 313,114 -> 156,242 parameters (-50.1 %),
47.1 M -> 23.1 M multiply-accumulates at 3x32x32.

Generated from models/cifar/resnet.py (class ResNet); edit freely.
Measure ChannelNorm, method Global.

    from resnet29_50 import resnet29
    model = resnet29(weights="resnet29_50_pruned_v1.0.pth")
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn


class Bottleneck(nn.Module):
    """Convolutions 1x1, 3x3, 1x1 and a shortcut."""

    def __init__(
        self,
        in_channels: int,
        conv1_channels: int,
        conv2_channels: int,
        out_channels: int,
        stride: int = 1,
        downsample: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, conv1_channels, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(conv1_channels)
        # The 3x3 takes the stride: a strided 1x1 would throw away three pixels in four.
        self.conv2 = nn.Conv2d(
            conv1_channels, conv2_channels, kernel_size=3, stride=stride, padding=1, bias=False
        )
        self.bn2 = nn.BatchNorm2d(conv2_channels)
        self.conv3 = nn.Conv2d(conv2_channels, out_channels, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = None
        if downsample:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(out + shortcut)


class ResNet(nn.Module):
    """A residual network for 32x32 images: (N, in_channels, 32, 32) -> logits (N, num_classes)."""

    def __init__(self, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 13, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(13)
        self.layer1 = nn.Sequential(
            Bottleneck(13, 10, 10, 57, downsample=True),
            Bottleneck(57, 9, 10, 57),
            Bottleneck(57, 9, 9, 57),
        )
        self.layer2 = nn.Sequential(
            Bottleneck(57, 23, 19, 107, stride=2, downsample=True),
            Bottleneck(107, 18, 20, 107),
            Bottleneck(107, 22, 19, 107),
        )
        self.layer3 = nn.Sequential(
            Bottleneck(107, 40, 44, 199, stride=2, downsample=True),
            Bottleneck(199, 40, 47, 199),
            Bottleneck(199, 40, 41, 199),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(199, num_classes)

        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                # He initialisation keeps the variance of what flows through a ReLU network.
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet29(weights: str | Path | None = None, **kwargs) -> ResNet:
    """The network; given a path, with its weights."""
    model = ResNet(**kwargs)
    if weights is not None:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        for name in [name for name in state if f"{name}.scale" in state]:  # int8
            state[name] = state[name] * state.pop(f"{name}.scale")
        model.load_state_dict(state)
    return model
