"""inception_v3, pruned: 23,834,568 -> 11,916,968 parameters (-50.0 %),
340.9 M -> 164.5 M multiply-accumulates at 3x96x96.

Generated from torchvision/models/inception.py (class Inception3); edit freely.
Measure ChannelNorm, method Global.

    from inception_v3_50 import inception_v3
    model = inception_v3(weights="inception_v3_50_pruned_v1.0.pth")
"""

import warnings
from collections import namedtuple
from pathlib import Path
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

InceptionOutputs = namedtuple("InceptionOutputs", ["logits", "aux_logits"])


class Inception3(nn.Module):
    def __init__(
        self, num_classes: int = 1000, dropout: float = 0.5, init_weights: bool = True
    ) -> None:
        super().__init__()
        self.aux_logits = False
        self.transform_input = False
        self.AuxLogits = None
        self.Conv2d_1a_3x3 = BasicConv2d(3, 23, kernel_size=3, stride=2)
        self.Conv2d_2a_3x3 = BasicConv2d(23, 22, kernel_size=3)
        self.Conv2d_2b_3x3 = BasicConv2d(22, 44, kernel_size=3, padding=1)
        self.maxpool1 = nn.MaxPool2d(3, stride=2)
        self.Conv2d_3b_1x1 = BasicConv2d(44, 56)
        self.Conv2d_4a_3x3 = BasicConv2d(56, 130, kernel_size=3)
        self.maxpool2 = nn.MaxPool2d(3, stride=2)
        self.Mixed_5b = InceptionA(130, 43, 34, 43, 67, 67, 22)
        self.Mixed_5c = InceptionA(177, 43, 34, 42, 66, 66, 46)
        self.Mixed_5d = InceptionA(200, 44, 33, 45, 65, 66, 45)
        self.Mixed_6a = InceptionB()
        self.Mixed_6b = InceptionC(543, 130, 88, 88, 136, 86, 88, 90, 91, 130, 132)
        self.Mixed_6c = InceptionC(528, 135, 115, 110, 133, 113, 108, 110, 112, 137, 130)
        self.Mixed_6d = InceptionC(535, 132, 113, 114, 130, 111, 113, 108, 108, 133, 137)
        self.Mixed_6e = InceptionC(532, 129, 131, 134, 137, 130, 133, 135, 138, 131, 132)
        self.Mixed_7a = InceptionD()
        self.Mixed_7b = InceptionE(874, 220, 269, 274, 261, 308, 276, 262, 132)
        self.Mixed_7c = InceptionE(1425, 226, 259, 262, 267, 318, 263, 269, 138)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout(p=dropout)
        self.fc = nn.Linear(1425, num_classes)
        if init_weights:
            for m in self.modules():
                if isinstance(m, nn.Conv2d) or isinstance(m, nn.Linear):
                    stddev = float(m.stddev) if hasattr(m, "stddev") else 0.1  # type: ignore
                    torch.nn.init.trunc_normal_(m.weight, mean=0.0, std=stddev, a=-2, b=2)
                elif isinstance(m, nn.BatchNorm2d):
                    nn.init.constant_(m.weight, 1)
                    nn.init.constant_(m.bias, 0)

    def _transform_input(self, x: Tensor) -> Tensor:
        if self.transform_input:
            x_ch0 = torch.unsqueeze(x[:, 0], 1) * (0.229 / 0.5) + (0.485 - 0.5) / 0.5
            x_ch1 = torch.unsqueeze(x[:, 1], 1) * (0.224 / 0.5) + (0.456 - 0.5) / 0.5
            x_ch2 = torch.unsqueeze(x[:, 2], 1) * (0.225 / 0.5) + (0.406 - 0.5) / 0.5
            x = torch.cat((x_ch0, x_ch1, x_ch2), 1)
        return x

    def _forward(self, x: Tensor) -> tuple[Tensor, Optional[Tensor]]:
        # N x 3 x 299 x 299
        x = self.Conv2d_1a_3x3(x)
        # N x 32 x 149 x 149
        x = self.Conv2d_2a_3x3(x)
        # N x 32 x 147 x 147
        x = self.Conv2d_2b_3x3(x)
        # N x 64 x 147 x 147
        x = self.maxpool1(x)
        # N x 64 x 73 x 73
        x = self.Conv2d_3b_1x1(x)
        # N x 80 x 73 x 73
        x = self.Conv2d_4a_3x3(x)
        # N x 192 x 71 x 71
        x = self.maxpool2(x)
        # N x 192 x 35 x 35
        x = self.Mixed_5b(x)
        # N x 256 x 35 x 35
        x = self.Mixed_5c(x)
        # N x 288 x 35 x 35
        x = self.Mixed_5d(x)
        # N x 288 x 35 x 35
        x = self.Mixed_6a(x)
        # N x 768 x 17 x 17
        x = self.Mixed_6b(x)
        # N x 768 x 17 x 17
        x = self.Mixed_6c(x)
        # N x 768 x 17 x 17
        x = self.Mixed_6d(x)
        # N x 768 x 17 x 17
        x = self.Mixed_6e(x)
        # N x 768 x 17 x 17
        aux: Optional[Tensor] = None
        if self.AuxLogits is not None:
            if self.training:
                aux = self.AuxLogits(x)
        # N x 768 x 17 x 17
        x = self.Mixed_7a(x)
        # N x 1280 x 8 x 8
        x = self.Mixed_7b(x)
        # N x 2048 x 8 x 8
        x = self.Mixed_7c(x)
        # N x 2048 x 8 x 8
        # Adaptive average pooling
        x = self.avgpool(x)
        # N x 2048 x 1 x 1
        x = self.dropout(x)
        # N x 2048 x 1 x 1
        x = torch.flatten(x, 1)
        # N x 2048
        x = self.fc(x)
        # N x 1000 (num_classes)
        return x, aux

    @torch.jit.unused
    def eager_outputs(self, x: Tensor, aux: Optional[Tensor]) -> InceptionOutputs:
        if self.training and self.aux_logits:
            return InceptionOutputs(x, aux)
        else:
            return x  # type: ignore[return-value]

    def forward(self, x: Tensor) -> InceptionOutputs:
        x = self._transform_input(x)
        x, aux = self._forward(x)
        aux_defined = self.training and self.aux_logits
        if torch.jit.is_scripting():
            if not aux_defined:
                warnings.warn("Scripted Inception3 always returns Inception3 Tuple")
            return InceptionOutputs(x, aux)
        else:
            return self.eager_outputs(x, aux)


class InceptionA(nn.Module):
    def __init__(
        self,
        in_channels: int,
        branch1x1_channels: int,
        branch5x5_1_channels: int,
        branch3x3dbl_1_channels: int,
        branch3x3dbl_2_channels: int,
        branch3x3dbl_3_channels: int,
        pool_features: int,
    ) -> None:
        super().__init__()
        self.branch1x1 = BasicConv2d(in_channels, branch1x1_channels)

        self.branch5x5_1 = BasicConv2d(in_channels, branch5x5_1_channels)
        self.branch5x5_2 = BasicConv2d(branch5x5_1_channels, 45, kernel_size=5, padding=2)

        self.branch3x3dbl_1 = BasicConv2d(in_channels, branch3x3dbl_1_channels)
        self.branch3x3dbl_2 = BasicConv2d(
            branch3x3dbl_1_channels, branch3x3dbl_2_channels, kernel_size=3, padding=1
        )
        self.branch3x3dbl_3 = BasicConv2d(
            branch3x3dbl_2_channels, branch3x3dbl_3_channels, kernel_size=3, padding=1
        )

        self.branch_pool = BasicConv2d(in_channels, pool_features)

    def _forward(self, x: Tensor) -> list[Tensor]:
        branch1x1 = self.branch1x1(x)

        branch5x5 = self.branch5x5_1(x)
        branch5x5 = self.branch5x5_2(branch5x5)

        branch3x3dbl = self.branch3x3dbl_1(x)
        branch3x3dbl = self.branch3x3dbl_2(branch3x3dbl)
        branch3x3dbl = self.branch3x3dbl_3(branch3x3dbl)

        branch_pool = F.avg_pool2d(x, kernel_size=3, stride=1, padding=1)
        branch_pool = self.branch_pool(branch_pool)

        outputs = [branch1x1, branch5x5, branch3x3dbl, branch_pool]
        return outputs

    def forward(self, x: Tensor) -> Tensor:
        outputs = self._forward(x)
        return torch.cat(outputs, 1)


class InceptionB(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch3x3 = BasicConv2d(200, 276, kernel_size=3, stride=2)

        self.branch3x3dbl_1 = BasicConv2d(200, 43)
        self.branch3x3dbl_2 = BasicConv2d(43, 67, kernel_size=3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(67, 67, kernel_size=3, stride=2)

    def _forward(self, x: Tensor) -> list[Tensor]:
        branch3x3 = self.branch3x3(x)

        branch3x3dbl = self.branch3x3dbl_1(x)
        branch3x3dbl = self.branch3x3dbl_2(branch3x3dbl)
        branch3x3dbl = self.branch3x3dbl_3(branch3x3dbl)

        branch_pool = F.max_pool2d(x, kernel_size=3, stride=2)

        outputs = [branch3x3, branch3x3dbl, branch_pool]
        return outputs

    def forward(self, x: Tensor) -> Tensor:
        outputs = self._forward(x)
        return torch.cat(outputs, 1)


class InceptionC(nn.Module):
    def __init__(
        self,
        in_channels: int,
        branch1x1_channels: int,
        branch7x7_1_channels: int,
        branch7x7_2_channels: int,
        branch7x7_3_channels: int,
        branch7x7dbl_1_channels: int,
        branch7x7dbl_2_channels: int,
        branch7x7dbl_3_channels: int,
        branch7x7dbl_4_channels: int,
        branch7x7dbl_5_channels: int,
        branch_pool_channels: int,
    ) -> None:
        super().__init__()
        self.branch1x1 = BasicConv2d(in_channels, branch1x1_channels)

        self.branch7x7_1 = BasicConv2d(in_channels, branch7x7_1_channels)
        self.branch7x7_2 = BasicConv2d(
            branch7x7_1_channels, branch7x7_2_channels, kernel_size=(1, 7), padding=(0, 3)
        )
        self.branch7x7_3 = BasicConv2d(
            branch7x7_2_channels, branch7x7_3_channels, kernel_size=(7, 1), padding=(3, 0)
        )

        self.branch7x7dbl_1 = BasicConv2d(in_channels, branch7x7dbl_1_channels)
        self.branch7x7dbl_2 = BasicConv2d(
            branch7x7dbl_1_channels, branch7x7dbl_2_channels, kernel_size=(7, 1), padding=(3, 0)
        )
        self.branch7x7dbl_3 = BasicConv2d(
            branch7x7dbl_2_channels, branch7x7dbl_3_channels, kernel_size=(1, 7), padding=(0, 3)
        )
        self.branch7x7dbl_4 = BasicConv2d(
            branch7x7dbl_3_channels, branch7x7dbl_4_channels, kernel_size=(7, 1), padding=(3, 0)
        )
        self.branch7x7dbl_5 = BasicConv2d(
            branch7x7dbl_4_channels, branch7x7dbl_5_channels, kernel_size=(1, 7), padding=(0, 3)
        )

        self.branch_pool = BasicConv2d(in_channels, branch_pool_channels)

    def _forward(self, x: Tensor) -> list[Tensor]:
        branch1x1 = self.branch1x1(x)

        branch7x7 = self.branch7x7_1(x)
        branch7x7 = self.branch7x7_2(branch7x7)
        branch7x7 = self.branch7x7_3(branch7x7)

        branch7x7dbl = self.branch7x7dbl_1(x)
        branch7x7dbl = self.branch7x7dbl_2(branch7x7dbl)
        branch7x7dbl = self.branch7x7dbl_3(branch7x7dbl)
        branch7x7dbl = self.branch7x7dbl_4(branch7x7dbl)
        branch7x7dbl = self.branch7x7dbl_5(branch7x7dbl)

        branch_pool = F.avg_pool2d(x, kernel_size=3, stride=1, padding=1)
        branch_pool = self.branch_pool(branch_pool)

        outputs = [branch1x1, branch7x7, branch7x7dbl, branch_pool]
        return outputs

    def forward(self, x: Tensor) -> Tensor:
        outputs = self._forward(x)
        return torch.cat(outputs, 1)


class InceptionD(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1 = BasicConv2d(529, 136)
        self.branch3x3_2 = BasicConv2d(136, 216, kernel_size=3, stride=2)

        self.branch7x7x3_1 = BasicConv2d(529, 130)
        self.branch7x7x3_2 = BasicConv2d(130, 133, kernel_size=(1, 7), padding=(0, 3))
        self.branch7x7x3_3 = BasicConv2d(133, 136, kernel_size=(7, 1), padding=(3, 0))
        self.branch7x7x3_4 = BasicConv2d(136, 129, kernel_size=3, stride=2)

    def _forward(self, x: Tensor) -> list[Tensor]:
        branch3x3 = self.branch3x3_1(x)
        branch3x3 = self.branch3x3_2(branch3x3)

        branch7x7x3 = self.branch7x7x3_1(x)
        branch7x7x3 = self.branch7x7x3_2(branch7x7x3)
        branch7x7x3 = self.branch7x7x3_3(branch7x7x3)
        branch7x7x3 = self.branch7x7x3_4(branch7x7x3)

        branch_pool = F.max_pool2d(x, kernel_size=3, stride=2)
        outputs = [branch3x3, branch7x7x3, branch_pool]
        return outputs

    def forward(self, x: Tensor) -> Tensor:
        outputs = self._forward(x)
        return torch.cat(outputs, 1)


class InceptionE(nn.Module):
    def __init__(
        self,
        in_channels: int,
        branch1x1_channels: int,
        branch3x3_1_channels: int,
        branch3x3_2a_channels: int,
        branch3x3_2b_channels: int,
        branch3x3dbl_1_channels: int,
        branch3x3dbl_3a_channels: int,
        branch3x3dbl_3b_channels: int,
        branch_pool_channels: int,
    ) -> None:
        super().__init__()
        self.branch1x1 = BasicConv2d(in_channels, branch1x1_channels)

        self.branch3x3_1 = BasicConv2d(in_channels, branch3x3_1_channels)
        self.branch3x3_2a = BasicConv2d(
            branch3x3_1_channels, branch3x3_2a_channels, kernel_size=(1, 3), padding=(0, 1)
        )
        self.branch3x3_2b = BasicConv2d(
            branch3x3_1_channels, branch3x3_2b_channels, kernel_size=(3, 1), padding=(1, 0)
        )

        self.branch3x3dbl_1 = BasicConv2d(in_channels, branch3x3dbl_1_channels)
        self.branch3x3dbl_2 = BasicConv2d(
            branch3x3dbl_1_channels, branch3x3_1_channels, kernel_size=3, padding=1
        )
        self.branch3x3dbl_3a = BasicConv2d(
            branch3x3_1_channels, branch3x3dbl_3a_channels, kernel_size=(1, 3), padding=(0, 1)
        )
        self.branch3x3dbl_3b = BasicConv2d(
            branch3x3_1_channels, branch3x3dbl_3b_channels, kernel_size=(3, 1), padding=(1, 0)
        )

        self.branch_pool = BasicConv2d(in_channels, branch_pool_channels)

    def _forward(self, x: Tensor) -> list[Tensor]:
        branch1x1 = self.branch1x1(x)

        branch3x3 = self.branch3x3_1(x)
        branch3x3 = [
            self.branch3x3_2a(branch3x3),
            self.branch3x3_2b(branch3x3),
        ]
        branch3x3 = torch.cat(branch3x3, 1)

        branch3x3dbl = self.branch3x3dbl_1(x)
        branch3x3dbl = self.branch3x3dbl_2(branch3x3dbl)
        branch3x3dbl = [
            self.branch3x3dbl_3a(branch3x3dbl),
            self.branch3x3dbl_3b(branch3x3dbl),
        ]
        branch3x3dbl = torch.cat(branch3x3dbl, 1)

        branch_pool = F.avg_pool2d(x, kernel_size=3, stride=1, padding=1)
        branch_pool = self.branch_pool(branch_pool)

        outputs = [branch1x1, branch3x3, branch3x3dbl, branch_pool]
        return outputs

    def forward(self, x: Tensor) -> Tensor:
        outputs = self._forward(x)
        return torch.cat(outputs, 1)


class BasicConv2d(nn.Module):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            bias=False,
        )
        self.bn = nn.BatchNorm2d(out_channels, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = self.bn(x)
        return F.relu(x, inplace=True)


def inception_v3(weights: str | Path | None = None, **kwargs) -> Inception3:
    """The network; given a path, with its weights."""
    model = Inception3(**kwargs)
    if weights is not None:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        for name in [name for name in state if f"{name}.scale" in state]:  # int8
            state[name] = state[name] * state.pop(f"{name}.scale")
        model.load_state_dict(state)
    return model
