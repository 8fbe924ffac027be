"""convnext_tiny, pruned: 28,589,128 -> 14,283,420 parameters (-50.0 %),
364.4 M -> 181.4 M multiply-accumulates at 3x64x64.

Generated from torchvision/models/convnext.py (class ConvNeXt); edit freely.
Measure ChannelNorm, method Global.

    from convnext_tiny_50 import convnext_tiny
    model = convnext_tiny(weights="convnext_tiny_50_pruned_v1.0.pth")
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import Permute, StochasticDepth


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        x = x.permute(0, 3, 1, 2)
        return x


class CNBlock(nn.Module):
    def __init__(self, dim: int, hidden_channels: int, stochastic_depth_prob: float = 0.0) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim),
            Permute([0, 2, 3, 1]),
            nn.LayerNorm(dim, eps=1e-06),
            nn.Linear(dim, hidden_channels),
            nn.GELU(),
            nn.Linear(hidden_channels, dim),
            Permute([0, 3, 1, 2]),
        )
        self.layer_scale = nn.Parameter(torch.ones(dim, 1, 1) * 1e-06)
        self.stochastic_depth = StochasticDepth(stochastic_depth_prob, "row")

    def forward(self, input: Tensor) -> Tensor:
        result = self.layer_scale * self.block(input)
        result = self.stochastic_depth(result)
        result += input
        return result


class ConvNeXt(nn.Module):
    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Sequential(
                nn.Conv2d(3, 75, kernel_size=4, stride=4),
                LayerNorm2d(75, eps=1e-06),
            ),
            nn.Sequential(
                CNBlock(75, 213),
                CNBlock(75, 214, stochastic_depth_prob=0.0058823529411764705),
                CNBlock(75, 214, stochastic_depth_prob=0.011764705882352941),
            ),
            nn.Sequential(
                LayerNorm2d(75, eps=1e-06),
                nn.Conv2d(75, 149, kernel_size=2, stride=2),
            ),
            nn.Sequential(
                CNBlock(149, 422, stochastic_depth_prob=0.017647058823529415),
                CNBlock(149, 422, stochastic_depth_prob=0.023529411764705882),
                CNBlock(149, 422, stochastic_depth_prob=0.029411764705882353),
            ),
            nn.Sequential(
                LayerNorm2d(149, eps=1e-06),
                nn.Conv2d(149, 367, kernel_size=2, stride=2),
            ),
            nn.Sequential(
                CNBlock(367, 853, stochastic_depth_prob=0.03529411764705883),
                CNBlock(367, 855, stochastic_depth_prob=0.0411764705882353),
                CNBlock(367, 855, stochastic_depth_prob=0.047058823529411764),
                CNBlock(367, 858, stochastic_depth_prob=0.052941176470588235),
                CNBlock(367, 839, stochastic_depth_prob=0.058823529411764705),
                CNBlock(367, 840, stochastic_depth_prob=0.06470588235294118),
                CNBlock(367, 842, stochastic_depth_prob=0.07058823529411766),
                CNBlock(367, 843, stochastic_depth_prob=0.07647058823529412),
                CNBlock(367, 843, stochastic_depth_prob=0.0823529411764706),
            ),
            nn.Sequential(
                LayerNorm2d(367, eps=1e-06),
                nn.Conv2d(367, 600, kernel_size=2, stride=2),
            ),
            nn.Sequential(
                CNBlock(600, 1700, stochastic_depth_prob=0.08823529411764706),
                CNBlock(600, 1703, stochastic_depth_prob=0.09411764705882353),
                CNBlock(600, 1707, stochastic_depth_prob=0.1),
            ),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)

        self.classifier = nn.Sequential(
            LayerNorm2d(600, eps=1e-06),
            nn.Flatten(),
            nn.Linear(600, num_classes),
        )

        for m in self.modules():
            if isinstance(m, (nn.Conv2d, nn.Linear)):
                nn.init.trunc_normal_(m.weight, std=0.02)
                if m.bias is not None:
                    nn.init.zeros_(m.bias)

    def _forward_impl(self, x: Tensor) -> Tensor:
        x = self.features(x)
        x = self.avgpool(x)
        x = self.classifier(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self._forward_impl(x)


def convnext_tiny(weights: str | Path | None = None, **kwargs) -> ConvNeXt:
    """The network; given a path, with its weights."""
    model = ConvNeXt(**kwargs)
    if weights is not None:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        for name in [name for name in state if f"{name}.scale" in state]:  # int8
            state[name] = state[name] * state.pop(f"{name}.scale")
        model.load_state_dict(state)
    return model
