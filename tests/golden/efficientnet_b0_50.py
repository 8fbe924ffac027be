"""efficientnet_b0, pruned: 5,288,548 -> 2,643,302 parameters (-50.0 %),
33.2 M -> 16.4 M multiply-accumulates at 3x64x64.

Generated from torchvision/models/efficientnet.py (class EfficientNet); edit freely.
Measure ChannelNorm, method Global.

    from efficientnet_b0_50 import efficientnet_b0
    model = efficientnet_b0(weights="efficientnet_b0_50_pruned_v1.0.pth")
"""

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth


class SqueezeExcitation(nn.Module):
    """
    This block implements the Squeeze-and-Excitation block from https://arxiv.org/abs/1709.01507 (see Fig. 1).
    Parameters ``activation``, and ``scale_activation`` correspond to ``delta`` and ``sigma`` in eq. 3.

    Args:
        input_channels (int): Number of channels in the input image
        squeeze_channels (int): Number of squeeze channels
    """

    def __init__(self, input_channels: int, squeeze_channels: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(input_channels, squeeze_channels, kernel_size=1)
        self.fc2 = nn.Conv2d(squeeze_channels, input_channels, kernel_size=1)
        self.activation = nn.SiLU(inplace=True)
        self.scale_activation = nn.Sigmoid()

    def _scale(self, input: Tensor) -> Tensor:
        scale = self.avgpool(input)
        scale = self.fc1(scale)
        scale = self.activation(scale)
        scale = self.fc2(scale)
        return self.scale_activation(scale)

    def forward(self, input: Tensor) -> Tensor:
        scale = self._scale(input)
        return scale * input


class MBConv(nn.Module):
    def __init__(
        self,
        input_channels: int,
        expanded_channels: int,
        squeeze_channels: int,
        out_channels: int,
        kernel_size: int = 5,
        stride: int = 1,
        stochastic_depth_prob: float = 0.0,
        expand: bool = True,
    ) -> None:
        super().__init__()
        self.use_res_connect = stride == 1 and input_channels == out_channels

        layers: list[nn.Module] = []
        if expand:
            layers.append(
                nn.Sequential(
                    nn.Conv2d(input_channels, expanded_channels, kernel_size=1, bias=False),
                    nn.BatchNorm2d(expanded_channels),
                    nn.SiLU(inplace=True),
                )
            )
        layers += [
            nn.Sequential(
                nn.Conv2d(
                    expanded_channels,
                    expanded_channels,
                    kernel_size=kernel_size,
                    stride=stride,
                    padding=kernel_size // 2,
                    groups=expanded_channels,
                    bias=False,
                ),
                nn.BatchNorm2d(expanded_channels),
                nn.SiLU(inplace=True),
            ),
            SqueezeExcitation(expanded_channels, squeeze_channels),
            nn.Sequential(
                nn.Conv2d(expanded_channels, out_channels, kernel_size=1, bias=False),
                nn.BatchNorm2d(out_channels),
            ),
        ]
        self.block = nn.Sequential(*layers)
        self.stochastic_depth = StochasticDepth(stochastic_depth_prob, "row")

    def forward(self, input: Tensor) -> Tensor:
        result = self.block(input)
        if self.use_res_connect:
            result = self.stochastic_depth(result)
            result += input
        return result


class EfficientNet(nn.Module):
    def __init__(self, dropout: float = 0.2, num_classes: int = 1000) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Sequential(
                nn.Conv2d(3, 25, kernel_size=3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(25),
                nn.SiLU(inplace=True),
            ),
            nn.Sequential(
                MBConv(25, 25, 5, 10, kernel_size=3, expand=False),
            ),
            nn.Sequential(
                MBConv(10, 69, 3, 16, kernel_size=3, stride=2, stochastic_depth_prob=0.0125),
                MBConv(16, 107, 4, 16, kernel_size=3, stochastic_depth_prob=0.025),
            ),
            nn.Sequential(
                MBConv(16, 107, 3, 26, stride=2, stochastic_depth_prob=0.037500000000000006),
                MBConv(26, 174, 6, 26, stochastic_depth_prob=0.05),
            ),
            nn.Sequential(
                MBConv(26, 179, 6, 48, kernel_size=3, stride=2, stochastic_depth_prob=0.0625),
                MBConv(48, 359, 12, 48, kernel_size=3, stochastic_depth_prob=0.07500000000000001),
                MBConv(48, 349, 12, 48, kernel_size=3, stochastic_depth_prob=0.08750000000000001),
            ),
            nn.Sequential(
                MBConv(48, 356, 12, 67, stochastic_depth_prob=0.1),
                MBConv(67, 504, 17, 67, stochastic_depth_prob=0.1125),
                MBConv(67, 488, 17, 67, stochastic_depth_prob=0.125),
            ),
            nn.Sequential(
                MBConv(67, 492, 17, 124, stride=2, stochastic_depth_prob=0.1375),
                MBConv(124, 866, 29, 124, stochastic_depth_prob=0.15000000000000002),
                MBConv(124, 838, 29, 124, stochastic_depth_prob=0.1625),
                MBConv(124, 845, 29, 124, stochastic_depth_prob=0.17500000000000002),
            ),
            nn.Sequential(
                MBConv(124, 865, 29, 191, kernel_size=3, stochastic_depth_prob=0.1875),
            ),
            nn.Sequential(
                nn.Conv2d(191, 770, kernel_size=1, bias=False),
                nn.BatchNorm2d(770),
                nn.SiLU(inplace=True),
            ),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Dropout(p=dropout, inplace=True), nn.Linear(770, num_classes)
        )

        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out")
                if m.bias is not None:
                    nn.init.zeros_(m.bias)
            elif isinstance(m, (nn.BatchNorm2d, nn.GroupNorm)):
                nn.init.ones_(m.weight)
                nn.init.zeros_(m.bias)
            elif isinstance(m, nn.Linear):
                init_range = 1.0 / math.sqrt(m.out_features)
                nn.init.uniform_(m.weight, -init_range, init_range)
                nn.init.zeros_(m.bias)

    def _forward_impl(self, x: Tensor) -> Tensor:
        x = self.features(x)

        x = self.avgpool(x)
        x = torch.flatten(x, 1)

        x = self.classifier(x)

        return x

    def forward(self, x: Tensor) -> Tensor:
        return self._forward_impl(x)


def efficientnet_b0(weights: str | Path | None = None, **kwargs) -> EfficientNet:
    """The network; given a path, with its weights."""
    model = EfficientNet(**kwargs)
    if weights is not None:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        for name in [name for name in state if f"{name}.scale" in state]:  # int8
            state[name] = state[name] * state.pop(f"{name}.scale")
        model.load_state_dict(state)
    return model
