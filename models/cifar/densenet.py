"""Densely connected networks for 32x32 images: Huang et al., "Densely Connected Convolutional
Networks" (2016), section 3, without bottlenecks and compression."""

import torch
import torch.nn.functional as F
from torch import nn

from pruners.errors import PrunerError


class DenseLayer(nn.Module):
    """Adds the channels of one 3x3 convolution to those that come in."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, growth, kernel_size=3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.conv(F.relu(self.bn(x)))], dim=1)


class Transition(nn.Module):
    """Between two dense blocks: a 1x1 convolution, and half the height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels, kernel_size=1, bias=False)
        self.pool = nn.AvgPool2d(kernel_size=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(self.conv(F.relu(self.bn(x))))


# Three dense blocks of n layers: 3n + 4 layers.
DEPTHS: dict[int, int] = {40: 12}


class DenseNet(nn.Module):
    """A dense network for 32x32 images: (N, in_channels, 32, 32) -> logits (N, num_classes)."""

    def __init__(
        self, depth: int = 40, num_classes: int = 10, in_channels: int = 3, growth: int = 12
    ) -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise PrunerError(f"DenseNet depth {depth}: expected one of {sorted(DEPTHS)}")
        layers = DEPTHS[depth]
        widths = [16 + i * layers * growth for i in range(4)]
        self.conv = nn.Conv2d(in_channels, 16, kernel_size=3, padding=1, bias=False)
        self.block1 = dense_block(widths[0], layers, growth)
        self.transition1 = Transition(widths[1])
        self.block2 = dense_block(widths[1], layers, growth)
        self.transition2 = Transition(widths[2])
        self.block3 = dense_block(widths[2], layers, growth)
        self.bn = nn.BatchNorm2d(widths[3])
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[3], num_classes)

        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                # He initialisation keeps the variance of what flows through a ReLU network.
                nn.init.kaiming_normal_(m.weight, nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.transition1(self.block1(self.conv(x)))
        x = self.transition2(self.block2(x))
        x = F.relu(self.bn(self.block3(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def dense_block(in_channels: int, layers: int, growth: int) -> nn.Sequential:
    """Layers in a row, each of which reads the channels of all before it."""
    return nn.Sequential(*(DenseLayer(in_channels + i * growth, growth) for i in range(layers)))
