"""GoogLeNet for 32x32 images: Szegedy et al., "Going Deeper with Convolutions" (2014), table 1,
with a shorter stem, batch norms and no auxiliary heads."""

import torch
import torch.nn.functional as F
from torch import nn

from pruners.decorators import inception


class ConvNormReLU(nn.Module):
    """A convolution that keeps the size of the image, batch norm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False
        )
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(x)))


@inception(
    lType="inception",
    branches=[
        ["branch1.conv"],
        ["branch2.0.conv", "branch2.1.conv"],
        ["branch3.0.conv", "branch3.1.conv"],
        ["branch4.1.conv"],
    ],
)
class Inception(nn.Module):
    """1x1, 3x3 and 5x5 convolutions and a pooling side by side, concatenated."""

    def __init__(
        self,
        in_channels: int,
        ones: int,
        threes_from: int,
        threes: int,
        fives_from: int,
        fives: int,
        pooled: int,
    ) -> None:
        super().__init__()
        self.branch1 = ConvNormReLU(in_channels, ones, 1)
        self.branch2 = nn.Sequential(
            ConvNormReLU(in_channels, threes_from, 1), ConvNormReLU(threes_from, threes, 3)
        )
        self.branch3 = nn.Sequential(
            ConvNormReLU(in_channels, fives_from, 1), ConvNormReLU(fives_from, fives, 5)
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(kernel_size=3, stride=1, padding=1), ConvNormReLU(in_channels, pooled, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branches = [self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)]
        return torch.cat(branches, dim=1)


class GoogLeNet(nn.Module):
    """GoogLeNet for 32x32 images: (N, in_channels, 32, 32) -> logits (N, num_classes)."""

    def __init__(self, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.stem = ConvNormReLU(in_channels, 192, 3)
        self.inception3a = Inception(192, 64, 96, 128, 16, 32, 32)
        self.inception3b = Inception(256, 128, 128, 192, 32, 96, 64)
        self.pool3 = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.inception4a = Inception(480, 192, 96, 208, 16, 48, 64)
        self.inception4b = Inception(512, 160, 112, 224, 24, 64, 64)
        self.inception4c = Inception(512, 128, 128, 256, 24, 64, 64)
        self.inception4d = Inception(512, 112, 144, 288, 32, 64, 64)
        self.inception4e = Inception(528, 256, 160, 320, 32, 128, 128)
        self.pool4 = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.inception5a = Inception(832, 256, 160, 320, 32, 128, 128)
        self.inception5b = Inception(832, 384, 192, 384, 48, 128, 128)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.4)
        self.fc = nn.Linear(1024, num_classes)

        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                # He initialisation keeps the variance of what flows through a ReLU network.
                nn.init.kaiming_normal_(m.weight, nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool3(self.inception3b(self.inception3a(self.stem(x))))
        x = self.inception4c(self.inception4b(self.inception4a(x)))
        x = self.pool4(self.inception4e(self.inception4d(x)))
        x = self.inception5b(self.inception5a(x))
        return self.fc(self.dropout(torch.flatten(self.avgpool(x), 1)))
