"""densenet121, pruned: 7,978,856 -> 3,989,418 parameters (-50.0 %),
232.3 M -> 111.8 M multiply-accumulates at 3x64x64.

Generated from torchvision/models/densenet.py (class DenseNet); edit freely.
Measure ChannelNorm, method Global.

    from densenet121_50 import densenet121
    model = densenet121(weights="densenet121_50_pruned_v1.0.pth")
"""

from collections import OrderedDict
from pathlib import Path

import torch
import torch.nn.functional as F
import torch.utils.checkpoint as cp
from torch import Tensor, nn


class _DenseLayer(nn.Module):
    def __init__(self, num_input_features: int, conv1_channels: int, growth_rate: int) -> None:
        super().__init__()
        self.drop_rate = 0.0
        self.memory_efficient = False
        self.norm1 = nn.BatchNorm2d(num_input_features)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(num_input_features, conv1_channels, kernel_size=1, bias=False)

        self.norm2 = nn.BatchNorm2d(conv1_channels)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(conv1_channels, growth_rate, kernel_size=3, padding=1, bias=False)

    def bn_function(self, inputs: list[Tensor]) -> Tensor:
        concated_features = torch.cat(inputs, 1)
        bottleneck_output = self.conv1(self.relu1(self.norm1(concated_features)))  # noqa: T484
        return bottleneck_output

    # todo: rewrite when torchscript supports any
    def any_requires_grad(self, input: list[Tensor]) -> bool:
        for tensor in input:
            if tensor.requires_grad:
                return True
        return False

    @torch.jit.unused  # noqa: T484
    def call_checkpoint_bottleneck(self, input: list[Tensor]) -> Tensor:
        def closure(*inputs):
            return self.bn_function(inputs)

        return cp.checkpoint(closure, *input, use_reentrant=False)

    @torch.jit._overload_method  # noqa: F811
    def forward(self, input: list[Tensor]) -> Tensor:  # noqa: F811
        pass

    @torch.jit._overload_method  # noqa: F811
    def forward(self, input: Tensor) -> Tensor:  # noqa: F811
        pass

    # torchscript does not yet support *args, so we overload method
    # allowing it to take either a List[Tensor] or single Tensor
    def forward(self, input: Tensor) -> Tensor:  # noqa: F811
        if isinstance(input, Tensor):
            prev_features = [input]
        else:
            prev_features = input

        if self.memory_efficient and self.any_requires_grad(prev_features):
            if torch.jit.is_scripting():
                raise Exception("Memory Efficient not supported in JIT")

            bottleneck_output = self.call_checkpoint_bottleneck(prev_features)
        else:
            bottleneck_output = self.bn_function(prev_features)

        new_features = self.conv2(self.relu2(self.norm2(bottleneck_output)))
        if self.drop_rate > 0:
            new_features = F.dropout(new_features, p=self.drop_rate, training=self.training)
        return new_features


class _DenseBlock(nn.ModuleDict):
    _version = 2

    def forward(self, init_features: Tensor) -> Tensor:
        features = [init_features]
        for name, layer in self.items():
            new_features = layer(features)
            features.append(new_features)
        return torch.cat(features, 1)


class DenseNet(nn.Module):
    r"""Densenet-BC model class, based on
    `"Densely Connected Convolutional Networks" <https://arxiv.org/pdf/1608.06993.pdf>`_.

    Args:
        num_classes (int) - number of classification classes
    """

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        # First convolution
        self.features = nn.Sequential(
            OrderedDict(
                {
                    "conv0": nn.Conv2d(3, 45, kernel_size=7, stride=2, padding=3, bias=False),
                    "norm0": nn.BatchNorm2d(45),
                    "relu0": nn.ReLU(inplace=True),
                    "pool0": nn.MaxPool2d(3, stride=2, padding=1),
                    "denseblock1": _DenseBlock(
                        {
                            "denselayer1": _DenseLayer(45, 86, 22),
                            "denselayer2": _DenseLayer(67, 90, 21),
                            "denselayer3": _DenseLayer(88, 87, 23),
                            "denselayer4": _DenseLayer(111, 91, 21),
                            "denselayer5": _DenseLayer(132, 88, 22),
                            "denselayer6": _DenseLayer(154, 91, 21),
                        }
                    ),
                    "transition1": nn.Sequential(
                        OrderedDict(
                            {
                                "norm": nn.BatchNorm2d(175),
                                "relu": nn.ReLU(inplace=True),
                                "conv": nn.Conv2d(175, 88, kernel_size=1, bias=False),
                                "pool": nn.AvgPool2d(2),
                            }
                        )
                    ),
                    "denseblock2": _DenseBlock(
                        {
                            "denselayer1": _DenseLayer(88, 89, 21),
                            "denselayer2": _DenseLayer(109, 86, 22),
                            "denselayer3": _DenseLayer(131, 90, 22),
                            "denselayer4": _DenseLayer(153, 86, 22),
                            "denselayer5": _DenseLayer(175, 91, 22),
                            "denselayer6": _DenseLayer(197, 87, 22),
                            "denselayer7": _DenseLayer(219, 91, 21),
                            "denselayer8": _DenseLayer(240, 87, 22),
                            "denselayer9": _DenseLayer(262, 85, 22),
                            "denselayer10": _DenseLayer(284, 88, 22),
                            "denselayer11": _DenseLayer(306, 86, 22),
                            "denselayer12": _DenseLayer(328, 89, 23),
                        }
                    ),
                    "transition2": nn.Sequential(
                        OrderedDict(
                            {
                                "norm": nn.BatchNorm2d(351),
                                "relu": nn.ReLU(inplace=True),
                                "conv": nn.Conv2d(351, 173, kernel_size=1, bias=False),
                                "pool": nn.AvgPool2d(2),
                            }
                        )
                    ),
                    "denseblock3": _DenseBlock(
                        {
                            "denselayer1": _DenseLayer(173, 88, 22),
                            "denselayer2": _DenseLayer(195, 91, 22),
                            "denselayer3": _DenseLayer(217, 88, 23),
                            "denselayer4": _DenseLayer(240, 86, 21),
                            "denselayer5": _DenseLayer(261, 89, 23),
                            "denselayer6": _DenseLayer(284, 85, 22),
                            "denselayer7": _DenseLayer(306, 89, 22),
                            "denselayer8": _DenseLayer(328, 86, 22),
                            "denselayer9": _DenseLayer(350, 89, 21),
                            "denselayer10": _DenseLayer(371, 86, 22),
                            "denselayer11": _DenseLayer(393, 90, 21),
                            "denselayer12": _DenseLayer(414, 86, 22),
                            "denselayer13": _DenseLayer(436, 91, 22),
                            "denselayer14": _DenseLayer(458, 88, 23),
                            "denselayer15": _DenseLayer(481, 91, 22),
                            "denselayer16": _DenseLayer(503, 88, 22),
                            "denselayer17": _DenseLayer(525, 86, 22),
                            "denselayer18": _DenseLayer(547, 88, 22),
                            "denselayer19": _DenseLayer(569, 85, 22),
                            "denselayer20": _DenseLayer(591, 89, 23),
                            "denselayer21": _DenseLayer(614, 86, 22),
                            "denselayer22": _DenseLayer(636, 89, 22),
                            "denselayer23": _DenseLayer(658, 86, 22),
                            "denselayer24": _DenseLayer(680, 89, 21),
                        }
                    ),
                    "transition3": nn.Sequential(
                        OrderedDict(
                            {
                                "norm": nn.BatchNorm2d(701),
                                "relu": nn.ReLU(inplace=True),
                                "conv": nn.Conv2d(701, 346, kernel_size=1, bias=False),
                                "pool": nn.AvgPool2d(2),
                            }
                        )
                    ),
                    "denseblock4": _DenseBlock(
                        {
                            "denselayer1": _DenseLayer(346, 88, 23),
                            "denselayer2": _DenseLayer(369, 85, 22),
                            "denselayer3": _DenseLayer(391, 89, 23),
                            "denselayer4": _DenseLayer(414, 87, 22),
                            "denselayer5": _DenseLayer(436, 89, 23),
                            "denselayer6": _DenseLayer(459, 86, 22),
                            "denselayer7": _DenseLayer(481, 90, 22),
                            "denselayer8": _DenseLayer(503, 86, 22),
                            "denselayer9": _DenseLayer(525, 91, 22),
                            "denselayer10": _DenseLayer(547, 88, 22),
                            "denselayer11": _DenseLayer(569, 91, 22),
                            "denselayer12": _DenseLayer(591, 87, 22),
                            "denselayer13": _DenseLayer(613, 85, 22),
                            "denselayer14": _DenseLayer(635, 88, 23),
                            "denselayer15": _DenseLayer(658, 85, 22),
                            "denselayer16": _DenseLayer(680, 89, 23),
                        }
                    ),
                    "norm5": nn.BatchNorm2d(703),
                }
            )
        )

        # Linear layer
        self.classifier = nn.Linear(703, num_classes)

        # Official init from torch repo.
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight)
            elif isinstance(m, nn.BatchNorm2d):
                nn.init.constant_(m.weight, 1)
                nn.init.constant_(m.bias, 0)
            elif isinstance(m, nn.Linear):
                nn.init.constant_(m.bias, 0)

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        out = F.relu(features, inplace=True)
        out = F.adaptive_avg_pool2d(out, (1, 1))
        out = torch.flatten(out, 1)
        out = self.classifier(out)
        return out


def densenet121(weights: str | Path | None = None, **kwargs) -> DenseNet:
    """The network; given a path, with its weights."""
    model = DenseNet(**kwargs)
    if weights is not None:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        for name in [name for name in state if f"{name}.scale" in state]:  # int8
            state[name] = state[name] * state.pop(f"{name}.scale")
        model.load_state_dict(state)
    return model
