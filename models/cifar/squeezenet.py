"""SqueezeNet for 32x32 images: Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer
parameters" (2016), version 1.1 with fewer strides and with batch norms."""

import torch
import torch.nn.functional as F
from torch import nn

from pruners.decorators import fire


@fire(lType="fire", convs=["squeeze", "expand1x1", "expand3x3"])
class Fire(nn.Module):
    """A few 1x1 filters, then 1x1 and 3x3 filters side by side, concatenated."""

    def __init__(self, in_channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, squeeze, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(squeeze)
        self.expand1x1 = nn.Conv2d(squeeze, expand, kernel_size=1, bias=False)
        self.expand3x3 = nn.Conv2d(squeeze, expand, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * expand)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.squeeze(x)))
        return F.relu(self.bn2(torch.cat([self.expand1x1(x), self.expand3x3(x)], dim=1)))


class SqueezeNet(nn.Module):
    """SqueezeNet for 32x32 images: (N, in_channels, 32, 32) -> logits (N, num_classes)."""

    def __init__(self, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.fire2 = Fire(64, squeeze=16, expand=64)
        self.fire3 = Fire(128, squeeze=16, expand=64)
        self.pool3 = nn.MaxPool2d(kernel_size=2)
        self.fire4 = Fire(128, squeeze=32, expand=128)
        self.fire5 = Fire(256, squeeze=32, expand=128)
        self.pool5 = nn.MaxPool2d(kernel_size=2)
        self.fire6 = Fire(256, squeeze=48, expand=192)
        self.fire7 = Fire(384, squeeze=48, expand=192)
        self.fire8 = Fire(384, squeeze=64, expand=256)
        self.fire9 = Fire(512, squeeze=64, expand=256)
        self.dropout = nn.Dropout()
        self.conv10 = nn.Conv2d(512, num_classes, kernel_size=1)
        self.avgpool = nn.AdaptiveAvgPool2d(1)

        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                # He initialisation keeps the variance of what flows through a ReLU network.
                nn.init.kaiming_normal_(m.weight, nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.pool3(self.fire3(self.fire2(x)))
        x = self.pool5(self.fire5(self.fire4(x)))
        x = self.fire9(self.fire8(self.fire7(self.fire6(x))))
        return torch.flatten(self.avgpool(self.conv10(self.dropout(x))), 1)
