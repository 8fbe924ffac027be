"""Residual networks with squeeze-excite for 32x32 images: Hu et al., "Squeeze-and-Excitation
Networks" (2017), figure 3, on the ResNets for CIFAR; with so few channels, the gates reduce them by
4 rather than 16."""

import torch
import torch.nn.functional as F
from torch import nn

from pruners.decorators import se_residual
from pruners.errors import PrunerError


class SqueezeExcite(nn.Module):
    """Scales every channel by a number that the means of all channels decide."""

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, channels // reduction, kernel_size=1)
        self.expand = nn.Conv2d(channels // reduction, channels, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(self.expand(F.relu(self.reduce(self.pool(x)))))


@se_residual(
    lType="se_residual",
    convs=["conv1", "conv2"],
    downsampling=["downsample"],
    gate=["gate.reduce", "gate.expand"],
)
class SEBasicBlock(nn.Module):
    """Two 3x3 convolutions, a squeeze-excite gate and a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(
            in_channels, channels, kernel_size=3, stride=stride, padding=1, bias=False
        )
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.gate = SqueezeExcite(channels)
        self.downsample = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, kernel_size=1, stride=stride, bias=False),
                nn.BatchNorm2d(channels),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.gate(self.bn2(self.conv2(out)))
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(out + shortcut)


# Three stages of n blocks: 6n + 2 layers, those of the gates not counted.
DEPTHS: dict[int, int] = {20: 3}


class SEResNet(nn.Module):
    """A residual network for 32x32 images: (N, in_channels, 32, 32) -> logits (N, num_classes)."""

    def __init__(self, depth: int = 20, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise PrunerError(f"SEResNet depth {depth}: expected one of {sorted(DEPTHS)}")
        blocks = DEPTHS[depth]
        self.conv1 = nn.Conv2d(in_channels, 16, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = stage(16, 16, blocks, stride=1)
        self.layer2 = stage(16, 32, blocks, stride=2)
        self.layer3 = stage(32, 64, blocks, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, num_classes)

        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                # He initialisation keeps the variance of what flows through a ReLU network.
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    """Blocks of one width in a row; the first changes shape."""
    return nn.Sequential(
        SEBasicBlock(in_channels, channels, stride),
        *(SEBasicBlock(channels, channels) for _ in range(blocks - 1)),
    )
