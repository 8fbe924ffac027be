"""Networks that users of other pruning tools reported as broken, each with its report.

Links: TP = VainF/Torch-Pruning, NNI = microsoft/nni, OTO = tianyic/only_train_once,
NCF = openvinotoolkit/nncf, AI = quic/aimet, DI = IntelLabs/distiller, PT = pytorch/pytorch,
TN = alibaba/TinyNeuralNetwork, DP = VainF/Diff-Pruning.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from oracle import Outcome, parity
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A first convolution of 16 channels, `body`, and a head on 1x1 features."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.bn = nn.BatchNorm2d(16)
        self.conv = nn.Conv2d(width, 12, 3, padding=1)
        self.head = nn.Linear(12, 5)

    def body(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        x = F.relu(self.conv(self.body(x)))
        return self.head(x.mean((2, 3)))


def exact(model: nn.Module, example: object = IMAGE, **options: object) -> Outcome:
    outcome = parity(model, example, **options)  # type: ignore[arg-type]
    assert outcome.error < 1e-12
    assert outcome.graph.unknown == []
    return outcome


class CatTwice(Net):
    """https://github.com/VainF/Torch-Pruning/issues/146"""

    def __init__(self) -> None:
        super().__init__(32)

    def body(self, x: Tensor) -> Tensor:
        return torch.cat([x, x], dim=1)


class ConcatLast(Net):
    """https://github.com/VainF/Torch-Pruning/issues/532"""

    def __init__(self) -> None:
        super().__init__(32)

    def body(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        return torch.cat([x, x.sigmoid()], dim=-1).permute(0, 3, 1, 2)


class ChannelShuffle(Net):
    """https://github.com/VainF/Torch-Pruning/issues/14 and OTO#39"""

    def body(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w)


class PixelShuffle(Net):
    """https://github.com/VainF/Torch-Pruning/issues/420"""

    def __init__(self) -> None:
        super().__init__(4)

    def body(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(x, 2)


class PixelShuffleByViews(Net):
    """https://github.com/VainF/Torch-Pruning/issues/420, written out"""

    def __init__(self) -> None:
        super().__init__(4)

    def body(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.view(n, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3)
        return x.reshape(n, c // 4, 2 * h, 2 * w)


class SpaceToDepth(Net):
    """https://github.com/quic/aimet/issues/356"""

    def __init__(self) -> None:
        super().__init__(64)

    def body(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4)
        return x.reshape(n, c * 4, h // 2, w // 2)


class SpaceToDepthBySlices(Net):
    """https://github.com/quic/aimet/issues/356, as YOLOv5's Focus"""

    def __init__(self) -> None:
        super().__init__(64)

    def body(self, x: Tensor) -> Tensor:
        corners = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
        return torch.cat(corners, 1)


class ChunkHalfTwice(Net):
    """https://github.com/VainF/Torch-Pruning/issues/147: YOLOv8's C2f"""

    def __init__(self) -> None:
        super().__init__(24)
        self.inner = nn.Conv2d(8, 8, 3, padding=1)

    def body(self, x: Tensor) -> Tensor:
        parts = list(x.chunk(2, 1))
        parts.append(self.inner(parts[-1]))
        return torch.cat(parts, 1)


class DepthwiseMultiplier(Net):
    """https://github.com/openvinotoolkit/nncf/issues/986: 16 -> 32"""

    def __init__(self) -> None:
        super().__init__(32)
        self.depthwise = nn.Conv2d(16, 32, 3, padding=1, groups=16)

    def body(self, x: Tensor) -> Tensor:
        return self.depthwise(x)


class FourGroups(Net):
    """https://github.com/VainF/Torch-Pruning/issues/9"""

    def __init__(self) -> None:
        super().__init__(8)
        self.grouped = nn.Conv2d(16, 8, 3, padding=1, groups=4)

    def body(self, x: Tensor) -> Tensor:
        return self.grouped(x)


class OneModuleTwice(Net):
    """https://github.com/alibaba/TinyNeuralNetwork/issues/272 and OTO#50"""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(16, 10, 1)
        self.b = nn.Conv2d(16, 10, 3, padding=1)
        self.shared = nn.Conv2d(10, 16, 3, padding=1)

    def body(self, x: Tensor) -> Tensor:
        return self.shared(self.a(x)) + self.shared(self.b(x))


class OneChannelMask(Net):
    """https://github.com/VainF/Torch-Pruning/issues/510: B1HW times BCHW"""

    def __init__(self) -> None:
        super().__init__()
        self.mask = nn.Conv2d(16, 1, 1)

    def body(self, x: Tensor) -> Tensor:
        return x * self.mask(x).sigmoid()


class Frozen(Net):
    """https://github.com/VainF/Torch-Pruning/issues/211: requires_grad=False"""

    def __init__(self) -> None:
        super().__init__()
        self.requires_grad_(False)


class Checkpointed(Net):
    """https://github.com/VainF/Diff-Pruning/issues/8: reentrant checkpointing"""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(16, 16, 3, padding=1)

    def body(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner, x, use_reentrant=True)


class ParameterView(Net):
    """https://github.com/VainF/Torch-Pruning/issues/356: param.view(1, -1, 1, 1)"""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(16))

    def body(self, x: Tensor) -> Tensor:
        return x * self.scale.view(1, -1, 1, 1)


class FrozenBias(Net):
    """https://github.com/pytorch/pytorch/issues/38598: biases on removed channels are not zero"""

    def body(self, x: Tensor) -> Tensor:
        return x.sigmoid() + 1


class OneOutput(Net):
    """https://github.com/VainF/Torch-Pruning/issues/179: a convolution with one output"""

    def __init__(self) -> None:
        super().__init__(1)
        self.one = nn.Conv2d(16, 1, 1)

    def body(self, x: Tensor) -> Tensor:
        return self.one(x)


class WithGroupNorm(Net):
    """https://github.com/quic/aimet/issues/415"""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, 16)

    def body(self, x: Tensor) -> Tensor:
        return self.norm(x)


class WithInstanceNorm(Net):
    """https://github.com/VainF/Torch-Pruning/issues/200"""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(16, affine=True, track_running_stats=True)

    def body(self, x: Tensor) -> Tensor:
        return self.norm(x)


class DeprecatedSigmoid(Net):
    """https://github.com/quic/aimet/issues/964: F.sigmoid"""

    def body(self, x: Tensor) -> Tensor:
        return F.sigmoid(x)


class ReshapeTo3d(Net):
    """https://github.com/alibaba/TinyNeuralNetwork/issues/65"""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv1d(16, 16, 3, padding=1)

    def body(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return self.inner(x.reshape(n, c, h * w)).view(n, -1, h, w)


class Interpolate(Net):
    """https://github.com/alibaba/TinyNeuralNetwork/issues/122"""

    def body(self, x: Tensor) -> Tensor:
        small = F.max_pool2d(x, 2)
        return x + F.interpolate(small, size=x.shape[-2:], mode="bilinear", align_corners=False)


class Aspp(Net):
    """https://github.com/IntelLabs/distiller/issues/86: ASPP concatenation"""

    def __init__(self) -> None:
        super().__init__(24)
        self.a = nn.Conv2d(16, 8, 1)
        self.b = nn.Conv2d(16, 8, 3, padding=2, dilation=2)
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 8, 1), nn.ReLU())

    def body(self, x: Tensor) -> Tensor:
        pooled = F.interpolate(self.pooled(x), size=x.shape[-2:], mode="bilinear")
        return torch.cat([self.a(x), self.b(x), pooled], 1)


class Fpn(Net):
    """https://github.com/microsoft/nni/issues/5738: feature pyramid"""

    def __init__(self) -> None:
        super().__init__(10)
        self.down = nn.Conv2d(16, 20, 3, stride=2, padding=1)
        self.lateral = nn.ModuleList([nn.Conv2d(16, 10, 1), nn.Conv2d(20, 10, 1)])

    def body(self, x: Tensor) -> Tensor:
        low = self.lateral[1](self.down(x))
        return self.lateral[0](x) + F.interpolate(low, scale_factor=2.0, mode="nearest")


class MeshgridHead(Net):
    """https://github.com/microsoft/nni/issues/4885: coordinates joined to the features"""

    def __init__(self) -> None:
        super().__init__(18)

    def body(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        grid = torch.stack([rows, columns]).to(x).expand(x.shape[0], -1, -1, -1)
        return torch.cat([x, grid], 1)


class RandnInForward(Net):
    """https://github.com/microsoft/nni/issues/4998: randn in forward"""

    def body(self, x: Tensor) -> Tensor:
        noise = torch.randn(x.shape[0], 1, *x.shape[2:], device=x.device, dtype=x.dtype)
        return x + 0 * noise


class ControlFlow(Net):
    """https://github.com/pytorch/pytorch/issues/54602: control flow"""

    def body(self, x: Tensor) -> Tensor:
        for i in range(2):
            x = x * 2 if i else x + 1
        return x if x.shape[-1] > 4 else -x


class ConcatGroups(Net):
    """https://github.com/VainF/Torch-Pruning/issues/481: groups that meet in a cat stay apart"""

    def __init__(self) -> None:
        super().__init__(24)
        self.a = nn.Conv2d(16, 8, 1)
        self.b = nn.Conv2d(16, 8, 1)

    def body(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        return torch.cat([a, b, a + b], 1)


PRUNED = [
    (CatTwice, "stem.weight"),
    (ConcatLast, "stem.weight"),
    (ChannelShuffle, "stem.weight"),
    (PixelShuffle, "stem.weight"),
    (PixelShuffleByViews, "stem.weight"),
    (SpaceToDepth, "stem.weight"),
    (SpaceToDepthBySlices, "stem.weight"),
    (ChunkHalfTwice, "stem.weight"),
    (DepthwiseMultiplier, "depthwise.weight"),
    (FourGroups, "grouped.weight"),
    (OneModuleTwice, "shared.weight"),
    (OneChannelMask, "stem.weight"),
    (Frozen, "stem.weight"),
    (Checkpointed, "inner.weight"),
    (ParameterView, "scale"),
    (FrozenBias, "stem.weight"),
    (OneOutput, "stem.weight"),
    (WithGroupNorm, "norm.weight"),
    (WithInstanceNorm, "norm.weight"),
    (DeprecatedSigmoid, "stem.weight"),
    (ReshapeTo3d, "inner.weight"),
    (Interpolate, "stem.weight"),
    (Aspp, "pooled.1.weight"),
    (Fpn, "lateral.1.weight"),
    (MeshgridHead, "stem.weight"),
    (RandnInForward, "stem.weight"),
    (ControlFlow, "stem.weight"),
    (ConcatGroups, "a.weight"),
]


@pytest.mark.parametrize(("net", "pruned"), PRUNED, ids=lambda v: getattr(v, "__name__", ""))
@pytest.mark.parametrize("rewritable", [False, True], ids=["fixed", "rewritable"])
def test_reported_network_is_pruned_exactly(
    net: type[nn.Module], pruned: str, rewritable: bool
) -> None:
    torch.manual_seed(0)
    outcome = exact(net(), rewritable=rewritable)
    assert outcome.removed(pruned, 0) > 0
    assert outcome.corrections == []


# Widths that are written as numbers: right once the number follows, left alone until then.


class OptionA(Net):
    """https://github.com/alibaba/TinyNeuralNetwork/issues/72 and NNI#4687: padded shortcut"""

    def __init__(self) -> None:
        super().__init__(32)
        self.main = nn.Conv2d(16, 32, 3, stride=2, padding=1)

    def body(self, x: Tensor) -> Tensor:
        return self.main(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))


class LiteralSplit(Net):
    """https://github.com/tianyic/only_train_once/issues/50: split(x, 4)"""

    def body(self, x: Tensor) -> Tensor:
        a, b, c, d = torch.split(x, 4, dim=1)
        return torch.cat([d, a + b, c, a], 1)


class LiteralSizes(Net):
    """https://github.com/tianyic/only_train_once/issues/50, with unequal parts"""

    def body(self, x: Tensor) -> Tensor:
        a, b = torch.split(x, [10, 6], dim=1)
        return torch.cat([b.relu(), a], 1)


class LiteralSlice(Net):
    """https://github.com/tianyic/only_train_once/issues/59: x[:, :6]"""

    def body(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, 6:], x[:, :6].sigmoid()], 1)


class LiteralView(nn.Module):
    """https://github.com/VainF/Torch-Pruning/issues/50 and TP#2: view(-1, 1024)"""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.fc = nn.Linear(16 * 8 * 8, 20)
        self.head = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu().view(-1, 1024)
        return self.head(self.fc(x).relu())


class LiteralParameterView(Net):
    """https://github.com/VainF/Torch-Pruning/issues/356: param.view(1, 16, 1, 1)"""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(16))

    def body(self, x: Tensor) -> Tensor:
        return x * self.scale.view(1, 16, 1, 1)


class LinearToTransposed(nn.Module):
    """https://github.com/VainF/Torch-Pruning/issues/125: Linear, view, ConvTranspose"""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 16 * 4 * 4)
        self.up = nn.ConvTranspose2d(16, 8, 4, stride=2, padding=1)
        self.out = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = F.relu(self.fc(z)).view(-1, 16, 4, 4)
        return self.out(F.relu(self.up(x)))


NUMBERS = [
    (OptionA, "stem.weight", IMAGE),
    (LiteralSplit, "stem.weight", IMAGE),
    (LiteralSizes, "stem.weight", IMAGE),
    (LiteralSlice, "stem.weight", IMAGE),
    (LiteralView, "stem.weight", IMAGE),
    (LiteralParameterView, "stem.weight", IMAGE),
    (LinearToTransposed, "fc.weight", torch.randn(2, 6)),
]


@pytest.mark.parametrize(
    ("net", "pruned", "example"), NUMBERS, ids=lambda v: getattr(v, "__name__", "")
)
def test_number_in_a_forward_follows_or_freezes(
    net: type[nn.Module], pruned: str, example: Tensor
) -> None:
    torch.manual_seed(0)
    free = exact(net(), example, rewritable=True)
    assert free.removed(pruned, 0) > 0
    assert free.corrections
    assert {c.frames[0].code.co_filename for c in free.corrections} == {__file__}
    fixed = exact(net(), example, rewritable=False)
    assert fixed.corrections == []
    assert fixed.removed(pruned, 0) == 0
    assert any("written as a number" in why for why in fixed.units.reasons.values())


# Inputs and outputs of other kinds.


class TwoInputs(nn.Module):
    """https://github.com/VainF/Torch-Pruning/issues/172"""

    def __init__(self) -> None:
        super().__init__()
        self.image = Net()
        self.vector = nn.Linear(4, 12)
        self.mix = nn.Linear(17, 3)

    def forward(self, image: Tensor, vector: Tensor) -> Tensor:
        return self.mix(torch.cat([self.image(image), self.vector(vector).relu()], 1))


def test_two_inputs() -> None:
    outcome = exact(TwoInputs(), (IMAGE, torch.randn(2, 4)))
    assert outcome.removed("vector.weight", 0) > 0
    assert outcome.removed("image.head.weight", 0) > 0


def test_dict_of_keyword_arguments() -> None:
    exact(TwoInputs(), {"image": IMAGE, "vector": torch.randn(2, 4)})


@dataclass
class Found:
    boxes: Tensor
    scores: list[Tensor]


class OddOutput(Net):
    def forward(self, batch: dict[str, Tensor]) -> dict[str, object]:  # type: ignore[override]
        x = self.bn(self.stem(batch["image"]))
        y = self.conv(x)
        return {"found": Found(y, [self.head(y.mean((2, 3)))]), "n": 3}


def test_dict_in_and_dataclass_out_freeze_what_they_hold() -> None:
    outcome = exact(OddOutput(), {"image": IMAGE})
    assert outcome.removed("stem.weight", 0) > 0
    assert outcome.removed("conv.weight", 0) == 0
    assert outcome.removed("head.weight", 0) == 0


class Recurrent(nn.Module):
    """https://github.com/VainF/Torch-Pruning/issues/404: an LSTM remembers as much as before"""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(3, 16, 3, padding=1)
        self.mid = nn.Conv1d(16, 12, 3, padding=1)
        self.lstm = nn.LSTM(12, 7, batch_first=True)
        self.head = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(F.relu(self.stem(x)))
        return self.head(self.lstm(x.transpose(1, 2))[0][:, -1])


def test_recurrent_layer_reads_less() -> None:
    outcome = exact(Recurrent(), torch.randn(2, 3, 9))
    assert outcome.removed("stem.weight", 0) > 0
    assert outcome.removed("mid.weight", 0) > 0
    assert outcome.removed("lstm.weight_ih_l0", 1) == outcome.removed("mid.weight", 0)
    assert outcome.removed("lstm.weight_ih_l0", 0) == 0
    assert outcome.removed("lstm.weight_hh_l0", 0) == 0
