"""mobilenet_v3_small, pruned: 2,542,856 -> 1,270,675 parameters (-50.0 %),
6.5 M -> 3.3 M multiply-accumulates at 3x64x64.

Generated from torchvision/models/mobilenetv3.py (class MobileNetV3); edit freely.
Measure ChannelNorm, method Global.

    from mobilenet_v3_small_50 import mobilenet_v3_small
    model = mobilenet_v3_small(weights="mobilenet_v3_small_50_pruned_v1.0.pth")
"""

from pathlib import Path

import torch
from torch import Tensor, nn


class SqueezeExcitation(nn.Module):
    """
    This block implements the Squeeze-and-Excitation block from https://arxiv.org/abs/1709.01507 (see Fig. 1).
    Parameters ``activation``, and ``scale_activation`` correspond to ``delta`` and ``sigma`` in eq. 3.
    """

    def __init__(self, in_channels: int, fc1_channels: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(in_channels, fc1_channels, kernel_size=1)
        self.fc2 = nn.Conv2d(fc1_channels, in_channels, kernel_size=1)
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
    def __init__(self, block: nn.Module, use_res_connect: bool = True) -> None:
        super().__init__()
        self.use_res_connect = use_res_connect
        self.block = block

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
                nn.Conv2d(3, 12, kernel_size=3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(12, eps=0.001, momentum=0.01),
                nn.Hardswish(inplace=True),
            ),
            InvertedResidual(
                nn.Sequential(
                    nn.Sequential(
                        nn.Conv2d(
                            12, 12, kernel_size=3, stride=2, padding=1, groups=12, bias=False
                        ),
                        nn.BatchNorm2d(12, eps=0.001, momentum=0.01),
                        nn.ReLU(inplace=True),
                    ),
                    SqueezeExcitation(12, 5),
                    nn.Sequential(
                        nn.Conv2d(12, 10, kernel_size=1, bias=False),
                        nn.BatchNorm2d(10, eps=0.001, momentum=0.01),
                    ),
                ),
                use_res_connect=False,
            ),
            InvertedResidual(
                nn.Sequential(
                    nn.Sequential(
                        nn.Conv2d(10, 51, kernel_size=1, bias=False),
                        nn.BatchNorm2d(51, eps=0.001, momentum=0.01),
                        nn.ReLU(inplace=True),
                    ),
                    nn.Sequential(
                        nn.Conv2d(
                            51, 51, kernel_size=3, stride=2, padding=1, groups=51, bias=False
                        ),
                        nn.BatchNorm2d(51, eps=0.001, momentum=0.01),
                        nn.ReLU(inplace=True),
                    ),
                    nn.Sequential(
                        nn.Conv2d(51, 17, kernel_size=1, bias=False),
                        nn.BatchNorm2d(17, eps=0.001, momentum=0.01),
                    ),
                ),
                use_res_connect=False,
            ),
            InvertedResidual(
                nn.Sequential(
                    nn.Sequential(
                        nn.Conv2d(17, 60, kernel_size=1, bias=False),
                        nn.BatchNorm2d(60, eps=0.001, momentum=0.01),
                        nn.ReLU(inplace=True),
                    ),
                    nn.Sequential(
                        nn.Conv2d(60, 60, kernel_size=3, padding=1, groups=60, bias=False),
                        nn.BatchNorm2d(60, eps=0.001, momentum=0.01),
                        nn.ReLU(inplace=True),
                    ),
                    nn.Sequential(
                        nn.Conv2d(60, 17, kernel_size=1, bias=False),
                        nn.BatchNorm2d(17, eps=0.001, momentum=0.01),
                    ),
                )
            ),
            InvertedResidual(
                nn.Sequential(
                    nn.Sequential(
                        nn.Conv2d(17, 71, kernel_size=1, bias=False),
                        nn.BatchNorm2d(71, eps=0.001, momentum=0.01),
                        nn.Hardswish(inplace=True),
                    ),
                    nn.Sequential(
                        nn.Conv2d(
                            71, 71, kernel_size=5, stride=2, padding=2, groups=71, bias=False
                        ),
                        nn.BatchNorm2d(71, eps=0.001, momentum=0.01),
                        nn.Hardswish(inplace=True),
                    ),
                    SqueezeExcitation(71, 14),
                    nn.Sequential(
                        nn.Conv2d(71, 24, kernel_size=1, bias=False),
                        nn.BatchNorm2d(24, eps=0.001, momentum=0.01),
                    ),
                ),
                use_res_connect=False,
            ),
            InvertedResidual(
                nn.Sequential(
                    nn.Sequential(
                        nn.Conv2d(24, 172, kernel_size=1, bias=False),
                        nn.BatchNorm2d(172, eps=0.001, momentum=0.01),
                        nn.Hardswish(inplace=True),
                    ),
                    nn.Sequential(
                        nn.Conv2d(172, 172, kernel_size=5, padding=2, groups=172, bias=False),
                        nn.BatchNorm2d(172, eps=0.001, momentum=0.01),
                        nn.Hardswish(inplace=True),
                    ),
                    SqueezeExcitation(172, 39),
                    nn.Sequential(
                        nn.Conv2d(172, 24, kernel_size=1, bias=False),
                        nn.BatchNorm2d(24, eps=0.001, momentum=0.01),
                    ),
                )
            ),
            InvertedResidual(
                nn.Sequential(
                    nn.Sequential(
                        nn.Conv2d(24, 175, kernel_size=1, bias=False),
                        nn.BatchNorm2d(175, eps=0.001, momentum=0.01),
                        nn.Hardswish(inplace=True),
                    ),
                    nn.Sequential(
                        nn.Conv2d(175, 175, kernel_size=5, padding=2, groups=175, bias=False),
                        nn.BatchNorm2d(175, eps=0.001, momentum=0.01),
                        nn.Hardswish(inplace=True),
                    ),
                    SqueezeExcitation(175, 38),
                    nn.Sequential(
                        nn.Conv2d(175, 24, kernel_size=1, bias=False),
                        nn.BatchNorm2d(24, eps=0.001, momentum=0.01),
                    ),
                )
            ),
            InvertedResidual(
                nn.Sequential(
                    nn.Sequential(
                        nn.Conv2d(24, 89, kernel_size=1, bias=False),
                        nn.BatchNorm2d(89, eps=0.001, momentum=0.01),
                        nn.Hardswish(inplace=True),
                    ),
                    nn.Sequential(
                        nn.Conv2d(89, 89, kernel_size=5, padding=2, groups=89, bias=False),
                        nn.BatchNorm2d(89, eps=0.001, momentum=0.01),
                        nn.Hardswish(inplace=True),
                    ),
                    SqueezeExcitation(89, 20),
                    nn.Sequential(
                        nn.Conv2d(89, 31, kernel_size=1, bias=False),
                        nn.BatchNorm2d(31, eps=0.001, momentum=0.01),
                    ),
                ),
                use_res_connect=False,
            ),
            InvertedResidual(
                nn.Sequential(
                    nn.Sequential(
                        nn.Conv2d(31, 103, kernel_size=1, bias=False),
                        nn.BatchNorm2d(103, eps=0.001, momentum=0.01),
                        nn.Hardswish(inplace=True),
                    ),
                    nn.Sequential(
                        nn.Conv2d(103, 103, kernel_size=5, padding=2, groups=103, bias=False),
                        nn.BatchNorm2d(103, eps=0.001, momentum=0.01),
                        nn.Hardswish(inplace=True),
                    ),
                    SqueezeExcitation(103, 25),
                    nn.Sequential(
                        nn.Conv2d(103, 31, kernel_size=1, bias=False),
                        nn.BatchNorm2d(31, eps=0.001, momentum=0.01),
                    ),
                )
            ),
            InvertedResidual(
                nn.Sequential(
                    nn.Sequential(
                        nn.Conv2d(31, 211, kernel_size=1, bias=False),
                        nn.BatchNorm2d(211, eps=0.001, momentum=0.01),
                        nn.Hardswish(inplace=True),
                    ),
                    nn.Sequential(
                        nn.Conv2d(
                            211, 211, kernel_size=5, stride=2, padding=2, groups=211, bias=False
                        ),
                        nn.BatchNorm2d(211, eps=0.001, momentum=0.01),
                        nn.Hardswish(inplace=True),
                    ),
                    SqueezeExcitation(211, 42),
                    nn.Sequential(
                        nn.Conv2d(211, 57, kernel_size=1, bias=False),
                        nn.BatchNorm2d(57, eps=0.001, momentum=0.01),
                    ),
                ),
                use_res_connect=False,
            ),
            InvertedResidual(
                nn.Sequential(
                    nn.Sequential(
                        nn.Conv2d(57, 425, kernel_size=1, bias=False),
                        nn.BatchNorm2d(425, eps=0.001, momentum=0.01),
                        nn.Hardswish(inplace=True),
                    ),
                    nn.Sequential(
                        nn.Conv2d(425, 425, kernel_size=5, padding=2, groups=425, bias=False),
                        nn.BatchNorm2d(425, eps=0.001, momentum=0.01),
                        nn.Hardswish(inplace=True),
                    ),
                    SqueezeExcitation(425, 86),
                    nn.Sequential(
                        nn.Conv2d(425, 57, kernel_size=1, bias=False),
                        nn.BatchNorm2d(57, eps=0.001, momentum=0.01),
                    ),
                )
            ),
            InvertedResidual(
                nn.Sequential(
                    nn.Sequential(
                        nn.Conv2d(57, 412, kernel_size=1, bias=False),
                        nn.BatchNorm2d(412, eps=0.001, momentum=0.01),
                        nn.Hardswish(inplace=True),
                    ),
                    nn.Sequential(
                        nn.Conv2d(412, 412, kernel_size=5, padding=2, groups=412, bias=False),
                        nn.BatchNorm2d(412, eps=0.001, momentum=0.01),
                        nn.Hardswish(inplace=True),
                    ),
                    SqueezeExcitation(412, 88),
                    nn.Sequential(
                        nn.Conv2d(412, 57, kernel_size=1, bias=False),
                        nn.BatchNorm2d(57, eps=0.001, momentum=0.01),
                    ),
                )
            ),
            nn.Sequential(
                nn.Conv2d(57, 348, kernel_size=1, bias=False),
                nn.BatchNorm2d(348, eps=0.001, momentum=0.01),
                nn.Hardswish(inplace=True),
            ),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(348, 628),
            nn.Hardswish(inplace=True),
            nn.Dropout(p=dropout, inplace=True),
            nn.Linear(628, num_classes),
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


def mobilenet_v3_small(weights: str | Path | None = None, **kwargs) -> MobileNetV3:
    """The network; given a path, with its weights."""
    model = MobileNetV3(**kwargs)
    if weights is not None:
        model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return model
