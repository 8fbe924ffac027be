"""mobilenet_v2, pruned: 3,504,872 -> 1,751,512 parameters (-50.0 %),
25.7 M -> 12.3 M multiply-accumulates at 3x64x64.

Generated from torchvision/models/mobilenetv2.py (class MobileNetV2); edit freely.
Measure ChannelNorm, method Global.

    from mobilenet_v2_50 import mobilenet_v2
    model = mobilenet_v2(weights="mobilenet_v2_50_pruned_v1.0.pth")
"""

from pathlib import Path

import torch
from torch import Tensor, nn


# necessary for backwards compatibility
class InvertedResidual(nn.Module):
    def __init__(
        self, inp: int, hidden_dim: int, oup: int, stride: int = 1, expand: bool = True
    ) -> None:
        super().__init__()
        self.use_res_connect = stride == 1 and inp == oup

        layers: list[nn.Module] = []
        if expand:
            layers.append(
                nn.Sequential(
                    nn.Conv2d(inp, hidden_dim, kernel_size=1, bias=False),
                    nn.BatchNorm2d(hidden_dim),
                    nn.ReLU6(inplace=True),
                )
            )
        layers += [
            nn.Sequential(
                nn.Conv2d(
                    hidden_dim,
                    hidden_dim,
                    kernel_size=3,
                    stride=stride,
                    padding=1,
                    groups=hidden_dim,
                    bias=False,
                ),
                nn.BatchNorm2d(hidden_dim),
                nn.ReLU6(inplace=True),
            ),
            nn.Conv2d(hidden_dim, oup, kernel_size=1, bias=False),
            nn.BatchNorm2d(oup),
        ]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        if self.use_res_connect:
            return x + self.conv(x)
        else:
            return self.conv(x)


class MobileNetV2(nn.Module):
    def __init__(self, num_classes: int = 1000, dropout: float = 0.2) -> None:
        super().__init__()
        # make it nn.Sequential
        self.features = nn.Sequential(
            nn.Sequential(
                nn.Conv2d(3, 20, kernel_size=3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(20),
                nn.ReLU6(inplace=True),
            ),
            InvertedResidual(20, 20, 10, expand=False),
            InvertedResidual(10, 62, 15, stride=2),
            InvertedResidual(15, 97, 15),
            InvertedResidual(15, 95, 23, stride=2),
            InvertedResidual(23, 125, 23),
            InvertedResidual(23, 124, 23),
            InvertedResidual(23, 124, 52, stride=2),
            InvertedResidual(52, 258, 52),
            InvertedResidual(52, 254, 52),
            InvertedResidual(52, 251, 52),
            InvertedResidual(52, 249, 70),
            InvertedResidual(70, 373, 70),
            InvertedResidual(70, 387, 70),
            InvertedResidual(70, 382, 119, stride=2),
            InvertedResidual(119, 629, 119),
            InvertedResidual(119, 624, 119),
            InvertedResidual(119, 624, 184),
            nn.Sequential(
                nn.Conv2d(184, 744, kernel_size=1, bias=False),
                nn.BatchNorm2d(744),
                nn.ReLU6(inplace=True),
            ),
        )

        # building classifier
        self.classifier = nn.Sequential(nn.Dropout(p=dropout), nn.Linear(744, num_classes))

        # weight initialization
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
        # This exists since TorchScript doesn't support inheritance, so the superclass method
        # (this one) needs to have a name other than `forward` that can be accessed in a subclass
        x = self.features(x)
        # Cannot use "squeeze" as batch-size can be 1
        x = nn.functional.adaptive_avg_pool2d(x, (1, 1))
        x = torch.flatten(x, 1)
        x = self.classifier(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self._forward_impl(x)


def mobilenet_v2(weights: str | Path | None = None, **kwargs) -> MobileNetV2:
    """The network; given a path, with its weights."""
    model = MobileNetV2(**kwargs)
    if weights is not None:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        for name in [name for name in state if f"{name}.scale" in state]:  # int8
            state[name] = state[name] * state.pop(f"{name}.scale")
        model.load_state_dict(state)
    return model
