"""shufflenet_v2_x1_0, pruned: 2,278,604 -> 1,122,732 parameters (-50.7 %),
12.8 M -> 6.5 M multiply-accumulates at 3x64x64.

Generated from torchvision/models/shufflenetv2.py (class ShuffleNetV2); edit freely.
Measure ChannelNorm, method Global.

    from shufflenet_v2_x1_0_50 import shufflenet_v2_x1_0
    model = shufflenet_v2_x1_0(weights="shufflenet_v2_x1_0_50_pruned_v1.0.pth")
"""

from pathlib import Path

import torch
from torch import Tensor, nn


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    batchsize, num_channels, height, width = x.size()
    channels_per_group = num_channels // groups

    # reshape
    x = x.view(batchsize, groups, channels_per_group, height, width)

    x = torch.transpose(x, 1, 2).contiguous()

    # flatten
    x = x.view(batchsize, num_channels, height, width)

    return x


class InvertedResidual(nn.Module):
    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        stride: int = 1,
        branch1: bool = False,
    ) -> None:
        super().__init__()
        self.stride = stride

        if branch1:
            self.branch1 = nn.Sequential(
                nn.Conv2d(
                    in_channels,
                    in_channels,
                    kernel_size=3,
                    stride=stride,
                    padding=1,
                    groups=in_channels,
                    bias=False,
                ),
                nn.BatchNorm2d(in_channels),
                nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False),
                nn.BatchNorm2d(out_channels),
                nn.ReLU(inplace=True),
            )
        else:
            self.branch1 = nn.Sequential()

        self.branch2 = nn.Sequential(
            nn.Conv2d(in_channels, hidden_channels, kernel_size=1, bias=False),
            nn.BatchNorm2d(hidden_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(
                hidden_channels,
                hidden_channels,
                kernel_size=3,
                stride=stride,
                padding=1,
                groups=hidden_channels,
                bias=False,
            ),
            nn.BatchNorm2d(hidden_channels),
            nn.Conv2d(hidden_channels, out_channels, kernel_size=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            x1, x2 = x.chunk(2, dim=1)
            out = torch.cat((x1, self.branch2(x2)), dim=1)
        else:
            out = torch.cat((self.branch1(x), self.branch2(x)), dim=1)

        out = channel_shuffle(out, 2)

        return out


class ShuffleNetV2(nn.Module):
    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, 13, kernel_size=3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(13),
            nn.ReLU(inplace=True),
        )

        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stage2 = nn.Sequential(
            InvertedResidual(13, 31, 58, stride=2, branch1=True),
            InvertedResidual(58, 32, 58),
            InvertedResidual(58, 32, 58),
            InvertedResidual(58, 32, 58),
        )
        self.stage3 = nn.Sequential(
            InvertedResidual(116, 64, 116, stride=2, branch1=True),
            InvertedResidual(116, 63, 116),
            InvertedResidual(116, 63, 116),
            InvertedResidual(116, 62, 116),
            InvertedResidual(116, 62, 116),
            InvertedResidual(116, 64, 116),
            InvertedResidual(116, 64, 116),
            InvertedResidual(116, 64, 116),
        )
        self.stage4 = nn.Sequential(
            InvertedResidual(232, 128, 176, stride=2, branch1=True),
            InvertedResidual(176, 127, 176),
            InvertedResidual(176, 127, 176),
            InvertedResidual(176, 124, 176),
        )

        self.conv5 = nn.Sequential(
            nn.Conv2d(352, 537, kernel_size=1, bias=False),
            nn.BatchNorm2d(537),
            nn.ReLU(inplace=True),
        )

        self.fc = nn.Linear(537, num_classes)

    def _forward_impl(self, x: Tensor) -> Tensor:
        # See note [TorchScript super()]
        x = self.conv1(x)
        x = self.maxpool(x)
        x = self.stage2(x)
        x = self.stage3(x)
        x = self.stage4(x)
        x = self.conv5(x)
        x = x.mean([2, 3])  # globalpool
        x = self.fc(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self._forward_impl(x)


def shufflenet_v2_x1_0(weights: str | Path | None = None, **kwargs) -> ShuffleNetV2:
    """The network; given a path, with its weights."""
    model = ShuffleNetV2(**kwargs)
    if weights is not None:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        for name in [name for name in state if f"{name}.scale" in state]:  # int8
            state[name] = state[name] * state.pop(f"{name}.scale")
        model.load_state_dict(state)
    return model
