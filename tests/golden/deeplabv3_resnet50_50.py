"""deeplabv3_resnet50, pruned: 39,638,869 -> 19,811,060 parameters (-50.0 %),
2.6 G -> 1.3 G multiply-accumulates at 3x64x64.

Generated from torchvision/models/segmentation/deeplabv3.py (class DeepLabV3); edit freely.
Measure ChannelNorm, method Global.

    from deeplabv3_resnet50_50 import deeplabv3_resnet50
    model = deeplabv3_resnet50(weights="deeplabv3_resnet50_50_pruned_v1.0.pth")
"""

from collections import OrderedDict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Bottleneck(nn.Module):
    def __init__(
        self,
        in_channels: int,
        conv1_channels: int,
        conv2_channels: int,
        out_channels: int,
        stride: int = 1,
        dilation: int = 1,
        downsample: bool = False,
    ) -> None:
        super().__init__()
        # Both self.conv2 and self.downsample layers downsample the input when stride != 1
        self.conv1 = nn.Conv2d(in_channels, conv1_channels, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(conv1_channels)
        self.conv2 = nn.Conv2d(
            conv1_channels,
            conv2_channels,
            kernel_size=3,
            stride=stride,
            padding=dilation,
            dilation=dilation,
            bias=False,
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


class IntermediateLayerGetter(nn.ModuleDict):
    """
    Module wrapper that returns intermediate layers from a model

    It has a strong assumption that the modules have been registered
    into the model in the same order as they are used.
    This means that one should **not** reuse the same nn.Module
    twice in the forward if you want this to work.

    Additionally, it is only able to query submodules that are directly
    assigned to the model. So if `model` is passed, `model.feature1` can
    be returned, but not `model.feature1.layer2`.
    Examples::

        >>> m = torchvision.models.resnet18(weights=ResNet18_Weights.DEFAULT)
        >>> # extract layer1 and layer3, giving as names `feat1` and feat2`
        >>> new_m = torchvision.models._utils.IntermediateLayerGetter(m,
        >>>     {'layer1': 'feat1', 'layer3': 'feat2'})
        >>> out = new_m(torch.rand(1, 3, 224, 224))
        >>> print([(k, v.shape) for k, v in out.items()])
        >>>     [('feat1', torch.Size([1, 64, 56, 56])),
        >>>      ('feat2', torch.Size([1, 256, 14, 14]))]
    """

    _version = 2

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.return_layers = {"layer4": "out"}

    def forward(self, x):
        out = OrderedDict()
        for name, module in self.items():
            x = module(x)
            if name in self.return_layers:
                out_name = self.return_layers[name]
                out[out_name] = x
        return out


class DeepLabV3(nn.Module):
    """
    Implements DeepLabV3 model from
    `"Rethinking Atrous Convolution for Semantic Image Segmentation"
    <https://arxiv.org/abs/1706.05587>`_.
    """

    def __init__(self) -> None:
        super().__init__()
        self.aux_classifier = None
        self.backbone = IntermediateLayerGetter(
            {
                "conv1": nn.Conv2d(3, 40, kernel_size=7, stride=2, padding=3, bias=False),
                "bn1": nn.BatchNorm2d(40),
                "relu": nn.ReLU(inplace=True),
                "maxpool": nn.MaxPool2d(3, stride=2, padding=1),
                "layer1": nn.Sequential(
                    Bottleneck(40, 39, 40, 220, downsample=True),
                    Bottleneck(220, 39, 40, 220),
                    Bottleneck(220, 38, 39, 220),
                ),
                "layer2": nn.Sequential(
                    Bottleneck(220, 80, 78, 461, stride=2, downsample=True),
                    Bottleneck(461, 77, 78, 461),
                    Bottleneck(461, 80, 77, 461),
                    Bottleneck(461, 79, 80, 461),
                ),
                "layer3": nn.Sequential(
                    Bottleneck(461, 156, 158, 966, downsample=True),
                    Bottleneck(966, 157, 158, 966, dilation=2),
                    Bottleneck(966, 156, 157, 966, dilation=2),
                    Bottleneck(966, 155, 155, 966, dilation=2),
                    Bottleneck(966, 159, 154, 966, dilation=2),
                    Bottleneck(966, 158, 161, 966, dilation=2),
                ),
                "layer4": nn.Sequential(
                    Bottleneck(966, 314, 318, 1728, dilation=2, downsample=True),
                    Bottleneck(1728, 315, 319, 1728, dilation=4),
                    Bottleneck(1728, 312, 315, 1728, dilation=4),
                ),
            }
        )
        self.classifier = nn.Sequential(
            ASPP(),
            nn.Conv2d(157, 159, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(159),
            nn.ReLU(),
            nn.Conv2d(159, 21, kernel_size=1),
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        input_shape = x.shape[-2:]
        # contract: features is a dict of tensors
        features = self.backbone(x)

        result = OrderedDict()
        x = features["out"]
        x = self.classifier(x)
        x = F.interpolate(x, size=input_shape, mode="bilinear", align_corners=False)
        result["out"] = x

        if self.aux_classifier is not None:
            x = features["aux"]
            x = self.aux_classifier(x)
            x = F.interpolate(x, size=input_shape, mode="bilinear", align_corners=False)
            result["aux"] = x

        return result


class ASPPPooling(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = x.shape[-2:]
        for mod in self:
            x = mod(x)
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class ASPP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Conv2d(1728, 155, kernel_size=1, bias=False), nn.BatchNorm2d(155), nn.ReLU()
                ),
                nn.Sequential(
                    nn.Conv2d(1728, 156, kernel_size=3, padding=12, dilation=12, bias=False),
                    nn.BatchNorm2d(156),
                    nn.ReLU(),
                ),
                nn.Sequential(
                    nn.Conv2d(1728, 159, kernel_size=3, padding=24, dilation=24, bias=False),
                    nn.BatchNorm2d(159),
                    nn.ReLU(),
                ),
                nn.Sequential(
                    nn.Conv2d(1728, 153, kernel_size=3, padding=36, dilation=36, bias=False),
                    nn.BatchNorm2d(153),
                    nn.ReLU(),
                ),
                ASPPPooling(
                    nn.AdaptiveAvgPool2d(1),
                    nn.Conv2d(1728, 155, kernel_size=1, bias=False),
                    nn.BatchNorm2d(155),
                    nn.ReLU(),
                ),
            ]
        )

        self.project = nn.Sequential(
            nn.Conv2d(778, 157, kernel_size=1, bias=False),
            nn.BatchNorm2d(157),
            nn.ReLU(),
            nn.Dropout(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _res = []
        for conv in self.convs:
            _res.append(conv(x))
        res = torch.cat(_res, dim=1)
        return self.project(res)


def deeplabv3_resnet50(weights: str | Path | None = None, **kwargs) -> DeepLabV3:
    """The network; given a path, with its weights."""
    model = DeepLabV3(**kwargs)
    if weights is not None:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        for name in [name for name in state if f"{name}.scale" in state]:  # int8
            state[name] = state[name] * state.pop(f"{name}.scale")
        model.load_state_dict(state)
    return model
