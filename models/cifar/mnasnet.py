"""MNASNet 0.5 for 32x32 images: Tan et al., "MnasNet: Platform-Aware Neural Architecture Search for
Mobile" (2018), figure 7 without squeeze-excite (MnasNet-B1), with two strides fewer."""

import torch
import torch.nn.functional as F
from torch import nn

from pruners.decorators import mb_conv


@mb_conv(lType="mnasnet_mb_conv", convs=["expand", "depthwise", "project"])
class InvertedResidual(nn.Module):
    """A wide depthwise convolution between two narrow ends, which a shortcut joins if it can."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        channels = in_channels * expansion
        self.expand = nn.Conv2d(in_channels, channels, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.depthwise = nn.Conv2d(
            channels,
            channels,
            kernel_size=kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            groups=channels,
            bias=False,
        )
        self.bn2 = nn.BatchNorm2d(channels)
        self.project = nn.Conv2d(channels, out_channels, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.expand(x)))
        out = F.relu(self.bn2(self.depthwise(out)))
        out = self.bn3(self.project(out))
        return x + out if self.shortcut else out


class MNASNet(nn.Module):
    """MNASNet 0.5 for 32x32 images: (N, in_channels, 32, 32) -> logits (N, num_classes)."""

    def __init__(self, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, 16, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, kernel_size=3, padding=1, groups=16, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 8, kernel_size=1, bias=False),
            nn.BatchNorm2d(8),
        )
        self.layer1 = stage(8, 16, blocks=3, kernel_size=3, stride=1, expansion=3)
        self.layer2 = stage(16, 24, blocks=3, kernel_size=5, stride=2, expansion=3)
        self.layer3 = stage(24, 40, blocks=3, kernel_size=5, stride=2, expansion=6)
        self.layer4 = stage(40, 48, blocks=2, kernel_size=3, stride=1, expansion=6)
        self.layer5 = stage(48, 96, blocks=4, kernel_size=5, stride=2, expansion=6)
        self.layer6 = stage(96, 160, blocks=1, kernel_size=3, stride=1, expansion=6)
        self.conv = nn.Conv2d(160, 1280, kernel_size=1, bias=False)
        self.bn = nn.BatchNorm2d(1280)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(1280, num_classes)

        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                # He initialisation keeps the variance of what flows through a ReLU network.
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(m, nn.Linear):
                nn.init.normal_(m.weight, std=0.01)
                nn.init.zeros_(m.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer3(self.layer2(self.layer1(self.stem(x))))
        x = self.layer6(self.layer5(self.layer4(x)))
        x = F.relu(self.bn(self.conv(x)))
        return self.fc(self.dropout(torch.flatten(self.avgpool(x), 1)))


def stage(
    in_channels: int, out_channels: int, blocks: int, kernel_size: int, stride: int, expansion: int
) -> nn.Sequential:
    """Blocks of one width in a row; the first changes shape."""
    return nn.Sequential(
        InvertedResidual(in_channels, out_channels, kernel_size, stride, expansion),
        *(
            InvertedResidual(out_channels, out_channels, kernel_size, 1, expansion)
            for _ in range(blocks - 1)
        ),
    )
