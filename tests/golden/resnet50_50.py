"""resnet50, pruned: 25,557,032 -> 12,777,852 parameters (-50.0 %),
335.7 M -> 159.5 M multiply-accumulates at 3x64x64.

Generated from torchvision/models/resnet.py (class ResNet); edit freely.
Measure ChannelNorm, method Global.

    from resnet50_50 import resnet50
    model = resnet50(weights="resnet50_50_pruned_v1.0.pth")
"""

from pathlib import Path

import torch
from torch import Tensor, nn


class Bottleneck(nn.Module):
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
        # Both self.conv2 and self.downsample layers downsample the input when stride != 1
        self.conv1 = nn.Conv2d(in_channels, conv1_channels, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(conv1_channels)
        self.conv2 = nn.Conv2d(
            conv1_channels, conv2_channels, kernel_size=3, stride=stride, padding=1, bias=False
        )
        self.bn2 = nn.BatchNorm2d(conv2_channels)
        self.conv3 = nn.Conv2d(conv2_channels, out_channels, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if downsample:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        identity = x

        out = self.conv1(x)
        out = self.bn1(out)
        out = self.relu(out)

        out = self.conv2(out)
        out = self.bn2(out)
        out = self.relu(out)

        out = self.conv3(out)
        out = self.bn3(out)

        if self.downsample is not None:
            identity = self.downsample(x)

        out += identity
        out = self.relu(out)

        return out


class ResNet(nn.Module):
    def __init__(self, num_classes: int = 1000, zero_init_residual: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 39, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(39)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = nn.Sequential(
            Bottleneck(39, 38, 39, 212, downsample=True),
            Bottleneck(212, 38, 39, 212),
            Bottleneck(212, 38, 39, 212),
        )
        self.layer2 = nn.Sequential(
            Bottleneck(212, 79, 77, 451, stride=2, downsample=True),
            Bottleneck(451, 75, 77, 451),
            Bottleneck(451, 78, 76, 451),
            Bottleneck(451, 77, 78, 451),
        )
        self.layer3 = nn.Sequential(
            Bottleneck(451, 154, 154, 946, stride=2, downsample=True),
            Bottleneck(946, 154, 156, 946),
            Bottleneck(946, 153, 154, 946),
            Bottleneck(946, 152, 153, 946),
            Bottleneck(946, 156, 151, 946),
            Bottleneck(946, 155, 158, 946),
        )
        self.layer4 = nn.Sequential(
            Bottleneck(946, 308, 311, 1663, stride=2, downsample=True),
            Bottleneck(1663, 309, 313, 1663),
            Bottleneck(1663, 306, 309, 1663),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(1663, num_classes)

        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(m, (nn.BatchNorm2d, nn.GroupNorm)):
                nn.init.constant_(m.weight, 1)
                nn.init.constant_(m.bias, 0)

        # Zero-initialize the last BN in each residual branch,
        # so that the residual branch starts with zeros, and each residual block behaves like an identity.
        # This improves the model by 0.2~0.3% according to https://arxiv.org/abs/1706.02677
        if zero_init_residual:
            for m in self.modules():
                if isinstance(m, Bottleneck) and m.bn3.weight is not None:
                    nn.init.constant_(m.bn3.weight, 0)  # type: ignore[arg-type]

    def _forward_impl(self, x: Tensor) -> Tensor:
        # See note [TorchScript super()]
        x = self.conv1(x)
        x = self.bn1(x)
        x = self.relu(x)
        x = self.maxpool(x)

        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        x = self.layer4(x)

        x = self.avgpool(x)
        x = torch.flatten(x, 1)
        x = self.fc(x)

        return x

    def forward(self, x: Tensor) -> Tensor:
        return self._forward_impl(x)


def resnet50(weights: str | Path | None = None, **kwargs) -> ResNet:
    """The network; given a path, with its weights."""
    model = ResNet(**kwargs)
    if weights is not None:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        for name in [name for name in state if f"{name}.scale" in state]:  # int8
            state[name] = state[name] * state.pop(f"{name}.scale")
        model.load_state_dict(state)
    return model
