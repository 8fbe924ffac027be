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
                nn.Conv2d(3, 13, kernel_size=3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(13, eps=0.001, momentum=0.01),
                nn.Hardswish(inplace=True),
            ),
            InvertedResidual(
                nn.Sequential(
                    nn.Sequential(
                        nn.Conv2d(13, 13, kernel_size=3, padding=1, groups=13, bias=False),
                        nn.BatchNorm2d(13, eps=0.001, momentum=0.01),
                        nn.ReLU(inplace=True),
                    ),
                    nn.Sequential(
                        nn.Conv2d(13, 13, kernel_size=1, bias=False),
                        nn.BatchNorm2d(13, eps=0.001, momentum=0.01),
                    ),
                )
            ),
            InvertedResidual(
                nn.Sequential(
                    nn.Sequential(
                        nn.Conv2d(13, 47, kernel_size=1, bias=False),
                        nn.BatchNorm2d(47, eps=0.001, momentum=0.01),
                        nn.ReLU(inplace=True),
                    ),
                    nn.Sequential(
                        nn.Conv2d(
                            47, 47, kernel_size=3, stride=2, padding=1, groups=47, bias=False
                        ),
                        nn.BatchNorm2d(47, eps=0.001, momentum=0.01),
                        nn.ReLU(inplace=True),
                    ),
                    nn.Sequential(
                        nn.Conv2d(47, 17, kernel_size=1, bias=False),
                        nn.BatchNorm2d(17, eps=0.001, momentum=0.01),
                    ),
                ),
                use_res_connect=False,
            ),
            InvertedResidual(
                nn.Sequential(
                    nn.Sequential(
                        nn.Conv2d(17, 55, kernel_size=1, bias=False),
                        nn.BatchNorm2d(55, eps=0.001, momentum=0.01),
                        nn.ReLU(inplace=True),
                    ),
                    nn.Sequential(
                        nn.Conv2d(55, 55, kernel_size=3, padding=1, groups=55, bias=False),
                        nn.BatchNorm2d(55, eps=0.001, momentum=0.01),
                        nn.ReLU(inplace=True),
                    ),
                    nn.Sequential(
                        nn.Conv2d(55, 17, kernel_size=1, bias=False),
                        nn.BatchNorm2d(17, eps=0.001, momentum=0.01),
                    ),
                )
            ),
            InvertedResidual(
                nn.Sequential(
                    nn.Sequential(
                        nn.Conv2d(17, 55, kernel_size=1, bias=False),
                        nn.BatchNorm2d(55, eps=0.001, momentum=0.01),
                        nn.ReLU(inplace=True),
                    ),
                    nn.Sequential(
                        nn.Conv2d(
                            55, 55, kernel_size=5, stride=2, padding=2, groups=55, bias=False
                        ),
                        nn.BatchNorm2d(55, eps=0.001, momentum=0.01),
                        nn.ReLU(inplace=True),
                    ),
                    SqueezeExcitation(55, 15),
                    nn.Sequential(
                        nn.Conv2d(55, 26, kernel_size=1, bias=False),
                        nn.BatchNorm2d(26, eps=0.001, momentum=0.01),
                    ),
                ),
                use_res_connect=False,
            ),
            InvertedResidual(
                nn.Sequential(
                    nn.Sequential(
                        nn.Conv2d(26, 91, kernel_size=1, bias=False),
                        nn.BatchNorm2d(91, eps=0.001, momentum=0.01),
                        nn.ReLU(inplace=True),
                    ),
                    nn.Sequential(
                        nn.Conv2d(91, 91, kernel_size=5, padding=2, groups=91, bias=False),
                        nn.BatchNorm2d(91, eps=0.001, momentum=0.01),
                        nn.ReLU(inplace=True),
                    ),
                    SqueezeExcitation(91, 20),
                    nn.Sequential(
                        nn.Conv2d(91, 26, kernel_size=1, bias=False),
                        nn.BatchNorm2d(26, eps=0.001, momentum=0.01),
                    ),
                )
            ),
            InvertedResidual(
                nn.Sequential(
                    nn.Sequential(
                        nn.Conv2d(26, 93, kernel_size=1, bias=False),
                        nn.BatchNorm2d(93, eps=0.001, momentum=0.01),
                        nn.ReLU(inplace=True),
                    ),
                    nn.Sequential(
                        nn.Conv2d(93, 93, kernel_size=5, padding=2, groups=93, bias=False),
                        nn.BatchNorm2d(93, eps=0.001, momentum=0.01),
                        nn.ReLU(inplace=True),
                    ),
                    SqueezeExcitation(93, 20),
                    nn.Sequential(
                        nn.Conv2d(93, 26, kernel_size=1, bias=False),
                        nn.BatchNorm2d(26, eps=0.001, momentum=0.01),
                    ),
                )
            ),
            InvertedResidual(
                nn.Sequential(
                    nn.Sequential(
                        nn.Conv2d(26, 176, kernel_size=1, bias=False),
                        nn.BatchNorm2d(176, eps=0.001, momentum=0.01),
                        nn.Hardswish(inplace=True),
                    ),
                    nn.Sequential(
                        nn.Conv2d(
                            176, 176, kernel_size=3, stride=2, padding=1, groups=176, bias=False
                        ),
                        nn.BatchNorm2d(176, eps=0.001, momentum=0.01),
                        nn.Hardswish(inplace=True),
                    ),
                    nn.Sequential(
                        nn.Conv2d(176, 77, kernel_size=1, bias=False),
                        nn.BatchNorm2d(77, eps=0.001, momentum=0.01),
                    ),
                ),
                use_res_connect=False,
            ),
            InvertedResidual(
                nn.Sequential(
                    nn.Sequential(
                        nn.Conv2d(77, 145, kernel_size=1, bias=False),
                        nn.BatchNorm2d(145, eps=0.001, momentum=0.01),
                        nn.Hardswish(inplace=True),
                    ),
                    nn.Sequential(
                        nn.Conv2d(145, 145, kernel_size=3, padding=1, groups=145, bias=False),
                        nn.BatchNorm2d(145, eps=0.001, momentum=0.01),
                        nn.Hardswish(inplace=True),
                    ),
                    nn.Sequential(
                        nn.Conv2d(145, 77, kernel_size=1, bias=False),
                        nn.BatchNorm2d(77, eps=0.001, momentum=0.01),
                    ),
                )
            ),
            InvertedResidual(
                nn.Sequential(
                    nn.Sequential(
                        nn.Conv2d(77, 132, kernel_size=1, bias=False),
                        nn.BatchNorm2d(132, eps=0.001, momentum=0.01),
                        nn.Hardswish(inplace=True),
                    ),
                    nn.Sequential(
                        nn.Conv2d(132, 132, kernel_size=3, padding=1, groups=132, bias=False),
                        nn.BatchNorm2d(132, eps=0.001, momentum=0.01),
                        nn.Hardswish(inplace=True),
                    ),
                    nn.Sequential(
                        nn.Conv2d(132, 77, kernel_size=1, bias=False),
                        nn.BatchNorm2d(77, eps=0.001, momentum=0.01),
                    ),
                )
            ),
            InvertedResidual(
                nn.Sequential(
                    nn.Sequential(
                        nn.Conv2d(77, 133, kernel_size=1, bias=False),
                        nn.BatchNorm2d(133, eps=0.001, momentum=0.01),
                        nn.Hardswish(inplace=True),
                    ),
                    nn.Sequential(
                        nn.Conv2d(133, 133, kernel_size=3, padding=1, groups=133, bias=False),
                        nn.BatchNorm2d(133, eps=0.001, momentum=0.01),
                        nn.Hardswish(inplace=True),
                    ),
                    nn.Sequential(
                        nn.Conv2d(133, 77, kernel_size=1, bias=False),
                        nn.BatchNorm2d(77, eps=0.001, momentum=0.01),
                    ),
                )
            ),
            InvertedResidual(
                nn.Sequential(
                    nn.Sequential(
                        nn.Conv2d(77, 366, kernel_size=1, bias=False),
                        nn.BatchNorm2d(366, eps=0.001, momentum=0.01),
                        nn.Hardswish(inplace=True),
                    ),
                    nn.Sequential(
                        nn.Conv2d(366, 366, kernel_size=3, padding=1, groups=366, bias=False),
                        nn.BatchNorm2d(366, eps=0.001, momentum=0.01),
                        nn.Hardswish(inplace=True),
                    ),
                    SqueezeExcitation(366, 73),
                    nn.Sequential(
                        nn.Conv2d(366, 73, kernel_size=1, bias=False),
                        nn.BatchNorm2d(73, eps=0.001, momentum=0.01),
                    ),
                ),
                use_res_connect=False,
            ),
            InvertedResidual(
                nn.Sequential(
                    nn.Sequential(
                        nn.Conv2d(73, 518, kernel_size=1, bias=False),
                        nn.BatchNorm2d(518, eps=0.001, momentum=0.01),
                        nn.Hardswish(inplace=True),
                    ),
                    nn.Sequential(
                        nn.Conv2d(518, 518, kernel_size=3, padding=1, groups=518, bias=False),
                        nn.BatchNorm2d(518, eps=0.001, momentum=0.01),
                        nn.Hardswish(inplace=True),
                    ),
                    SqueezeExcitation(518, 104),
                    nn.Sequential(
                        nn.Conv2d(518, 73, kernel_size=1, bias=False),
                        nn.BatchNorm2d(73, eps=0.001, momentum=0.01),
                    ),
                )
            ),
            InvertedResidual(
                nn.Sequential(
                    nn.Sequential(
                        nn.Conv2d(73, 502, kernel_size=1, bias=False),
                        nn.BatchNorm2d(502, eps=0.001, momentum=0.01),
                        nn.Hardswish(inplace=True),
                    ),
                    nn.Sequential(
                        nn.Conv2d(
                            502, 502, kernel_size=5, stride=2, padding=2, groups=502, bias=False
                        ),
                        nn.BatchNorm2d(502, eps=0.001, momentum=0.01),
                        nn.Hardswish(inplace=True),
                    ),
                    SqueezeExcitation(502, 106),
                    nn.Sequential(
                        nn.Conv2d(502, 102, kernel_size=1, bias=False),
                        nn.BatchNorm2d(102, eps=0.001, momentum=0.01),
                    ),
                ),
                use_res_connect=False,
            ),
            InvertedResidual(
                nn.Sequential(
                    nn.Sequential(
                        nn.Conv2d(102, 737, kernel_size=1, bias=False),
                        nn.BatchNorm2d(737, eps=0.001, momentum=0.01),
                        nn.Hardswish(inplace=True),
                    ),
                    nn.Sequential(
                        nn.Conv2d(737, 737, kernel_size=5, padding=2, groups=737, bias=False),
                        nn.BatchNorm2d(737, eps=0.001, momentum=0.01),
                        nn.Hardswish(inplace=True),
                    ),
                    SqueezeExcitation(737, 147),
                    nn.Sequential(
                        nn.Conv2d(737, 102, kernel_size=1, bias=False),
                        nn.BatchNorm2d(102, eps=0.001, momentum=0.01),
                    ),
                )
            ),
            InvertedResidual(
                nn.Sequential(
                    nn.Sequential(
                        nn.Conv2d(102, 741, kernel_size=1, bias=False),
                        nn.BatchNorm2d(741, eps=0.001, momentum=0.01),
                        nn.Hardswish(inplace=True),
                    ),
                    nn.Sequential(
                        nn.Conv2d(741, 741, kernel_size=5, padding=2, groups=741, bias=False),
                        nn.BatchNorm2d(741, eps=0.001, momentum=0.01),
                        nn.Hardswish(inplace=True),
                    ),
                    SqueezeExcitation(741, 148),
                    nn.Sequential(
                        nn.Conv2d(741, 102, kernel_size=1, bias=False),
                        nn.BatchNorm2d(102, eps=0.001, momentum=0.01),
                    ),
                )
            ),
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
        model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return model
