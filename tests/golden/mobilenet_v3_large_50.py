"""mobilenet_v3_large, pruned: 5,483,032 -> 2,741,313 parameters (-50.0 %),
21.4 M -> 11.7 M multiply-accumulates at 3x64x64.

Generated from torchvision/models/mobilenetv3.py (class MobileNetV3); edit freely.
Measure ChannelNorm, method Global.

    from mobilenet_v3_large_50 import mobilenet_v3_large
    model = mobilenet_v3_large(weights="mobilenet_v3_large_50_pruned_v1.0.pth")
"""

from pathlib import Path

import torch
from torch import Tensor, nn


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
        self.activation = nn.ReLU()
        self.scale_activation = nn.Hardsigmoid()

    def _scale(self, input: Tensor) -> Tensor:
        scale = self.avgpool(input)
        scale = self.fc1(scale)
        scale = self.activation(scale)
        scale = self.fc2(scale)
        return self.scale_activation(scale)

    def forward(self, input: Tensor) -> Tensor:
        scale = self._scale(input)
        return scale * input


class InvertedResidual(nn.Module):
    def __init__(
        self,
        input_channels: int,
        expanded_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        activation_layer: type[nn.Module] = nn.Hardswish,
        squeeze_channels: int | None = None,
        expand: bool = True,
    ) -> None:
        super().__init__()
        self.use_res_connect = stride == 1 and input_channels == out_channels

        layers: list[nn.Module] = []
        if expand:
            layers.append(
                nn.Sequential(
                    nn.Conv2d(input_channels, expanded_channels, kernel_size=1, bias=False),
                    nn.BatchNorm2d(expanded_channels, eps=0.001, momentum=0.01),
                    activation_layer(inplace=True),
                )
            )
        layers.append(
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
                nn.BatchNorm2d(expanded_channels, eps=0.001, momentum=0.01),
                activation_layer(inplace=True),
            )
        )
        if squeeze_channels is not None:
            layers.append(SqueezeExcitation(expanded_channels, squeeze_channels))
        layers.append(
            nn.Sequential(
                nn.Conv2d(expanded_channels, out_channels, kernel_size=1, bias=False),
                nn.BatchNorm2d(out_channels, eps=0.001, momentum=0.01),
            )
        )
        self.block = nn.Sequential(*layers)

    def forward(self, input: Tensor) -> Tensor:
        result = self.block(input)
        if self.use_res_connect:
            result += input
        return result


class MobileNetV3(nn.Module):
    def __init__(self, num_classes: int = 1000, dropout: float = 0.2) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Sequential(
                nn.Conv2d(3, 13, kernel_size=3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(13, eps=0.001, momentum=0.01),
                nn.Hardswish(inplace=True),
            ),
            InvertedResidual(13, 13, 13, activation_layer=nn.ReLU, expand=False),
            InvertedResidual(13, 47, 17, stride=2, activation_layer=nn.ReLU),
            InvertedResidual(17, 55, 17, activation_layer=nn.ReLU),
            InvertedResidual(
                17, 55, 26, kernel_size=5, stride=2, activation_layer=nn.ReLU, squeeze_channels=15
            ),
            InvertedResidual(
                26, 91, 26, kernel_size=5, activation_layer=nn.ReLU, squeeze_channels=20
            ),
            InvertedResidual(
                26, 93, 26, kernel_size=5, activation_layer=nn.ReLU, squeeze_channels=20
            ),
            InvertedResidual(26, 176, 77, stride=2),
            InvertedResidual(77, 145, 77),
            InvertedResidual(77, 132, 77),
            InvertedResidual(77, 133, 77),
            InvertedResidual(77, 366, 73, squeeze_channels=73),
            InvertedResidual(73, 518, 73, squeeze_channels=104),
            InvertedResidual(73, 502, 102, kernel_size=5, stride=2, squeeze_channels=106),
            InvertedResidual(102, 737, 102, kernel_size=5, squeeze_channels=147),
            InvertedResidual(102, 741, 102, kernel_size=5, squeeze_channels=148),
            nn.Sequential(
                nn.Conv2d(102, 587, kernel_size=1, bias=False),
                nn.BatchNorm2d(587, eps=0.001, momentum=0.01),
                nn.Hardswish(inplace=True),
            ),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(587, 793),
            nn.Hardswish(inplace=True),
            nn.Dropout(p=dropout, inplace=True),
            nn.Linear(793, num_classes),
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
                nn.init.normal_(m.weight, 0, 0.01)
                nn.init.zeros_(m.bias)

    def _forward_impl(self, x: Tensor) -> Tensor:
        x = self.features(x)

        x = self.avgpool(x)
        x = torch.flatten(x, 1)

        x = self.classifier(x)

        return x

    def forward(self, x: Tensor) -> Tensor:
        return self._forward_impl(x)


def mobilenet_v3_large(weights: str | Path | None = None, **kwargs) -> MobileNetV3:
    """The network; given a path, with its weights."""
    model = MobileNetV3(**kwargs)
    if weights is not None:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        for name in [name for name in state if f"{name}.scale" in state]:  # int8
            state[name] = state[name] * state.pop(f"{name}.scale")
        model.load_state_dict(state)
    return model
