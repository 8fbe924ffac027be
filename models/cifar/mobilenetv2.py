"""MobileNetV2 for 32x32 images: Sandler et al., "MobileNetV2: Inverted Residuals and Linear
Bottlenecks" (2018), table 2, with three strides fewer."""

import torch
import torch.nn.functional as F
from torch import nn

from pruners.decorators import mb_conv


@mb_conv(lType="mb_conv", convs=["expand.0", "depthwise.0", "project.0"])
class InvertedResidual(nn.Module):
    """A wide depthwise convolution between two narrow ends, which a shortcut joins if it can."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        channels = in_channels * expansion
        self.expand = None
        if expansion > 1:
            self.expand = nn.Sequential(
                nn.Conv2d(in_channels, channels, kernel_size=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU6(),
            )
        self.depthwise = nn.Sequential(
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
            nn.ReLU6(),
        )
        # No activation behind it: in few channels, a ReLU would lose too much.
        self.project = nn.Sequential(
            nn.Conv2d(channels, out_channels, kernel_size=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = x if self.expand is None else self.expand(x)
        out = self.project(self.depthwise(out))
        return x + out if self.shortcut else out


class MobileNetV2(nn.Module):
    """MobileNetV2 for 32x32 images: (N, in_channels, 32, 32) -> logits (N, num_classes)."""

    def __init__(self, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 32, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.layer1 = stage(32, 16, blocks=1, stride=1, expansion=1)
        self.layer2 = stage(16, 24, blocks=2, stride=1)
        self.layer3 = stage(24, 32, blocks=3, stride=2)
        self.layer4 = stage(32, 64, blocks=4, stride=2)
        self.layer5 = stage(64, 96, blocks=3, stride=1)
        self.layer6 = stage(96, 160, blocks=3, stride=2)
        self.layer7 = stage(160, 320, blocks=1, stride=1)
        self.conv2 = nn.Conv2d(320, 1280, kernel_size=1, bias=False)
        self.bn2 = nn.BatchNorm2d(1280)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(1280, num_classes)

        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out")
            elif isinstance(m, nn.Linear):
                nn.init.normal_(m.weight, std=0.01)
                nn.init.zeros_(m.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu6(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = self.layer7(self.layer6(self.layer5(x)))
        x = F.relu6(self.bn2(self.conv2(x)))
        return self.fc(self.dropout(torch.flatten(self.avgpool(x), 1)))


def stage(
    in_channels: int, out_channels: int, blocks: int, stride: int, expansion: int = 6
) -> nn.Sequential:
    """Blocks of one width in a row; the first changes shape."""
    return nn.Sequential(
        InvertedResidual(in_channels, out_channels, stride, expansion),
        *(InvertedResidual(out_channels, out_channels, 1, expansion) for _ in range(blocks - 1)),
    )
