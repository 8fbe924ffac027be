"""One small network an operator: no unknown operator, channels removed, the result exact."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from oracle import parity
from torch import Tensor, nn

from pruners import labels, meta_shapes
from pruners.labels import fold, settle, spread, varies
from pruners.operators import RULES

Body = Callable[[Tensor], Tensor]


class Around(nn.Module):
    """A convolution of 16 channels, some operators, and a convolution that reads `width`."""

    def __init__(self, body: Body, width: int, dims: int) -> None:
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        self.stem = conv(3, 16, 3, padding=1)
        self.norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1](16)
        self.body = body
        self.head = conv(width, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.norm(self.stem(x))))


PRUNED: dict[str, tuple[Body, int, int]] = {
    # movement
    "permute": (lambda x: x.permute(0, 2, 3, 1).movedim(-1, 1).contiguous(), 16, 2),
    "unbind_stack": (lambda x: torch.stack(x.unbind(-1), -1), 16, 2),
    "stack_flatten": (lambda x: torch.stack([x, x.relu()], 2).flatten(1, 2), 32, 2),
    "stack_in_front": (lambda x: torch.stack([x, x.relu()]).sum(0), 16, 2),
    "flip_space": (lambda x: x.flip(-1), 16, 2),
    "flip_channels": (lambda x: x.flip(1), 16, 2),
    "roll_space": (lambda x: x.roll((1, 2), (2, 3)), 16, 2),
    "repeat_channels": (lambda x: x.repeat(1, 2, 1, 1), 32, 2),
    "repeat_interleave": (lambda x: torch.stack([x, x], 2).flatten(1, 2), 32, 2),
    "expand": (lambda x: x * x.mean((2, 3), keepdim=True).expand(-1, -1, 8, 8), 16, 2),
    "gather_space": (lambda x: x[..., torch.tensor([3, 1, 2])], 16, 2),
    "index_select_space": (lambda x: x.index_select(2, torch.tensor([0, 5])), 16, 2),
    "unfold": (lambda x: F.unfold(x, 3, padding=1).view(x.shape[0], -1, 8, 8), 144, 2),
    "fold": (lambda x: F.fold(F.unfold(x, 2, stride=2), (8, 8), 2, stride=2), 16, 2),
    "unfold_tensor": (lambda x: x.unfold(2, 2, 2).amax(-1), 16, 2),
    "pixel_unshuffle": (lambda x: F.pixel_unshuffle(x, 2), 64, 2),
    "channel_shuffle": (lambda x: F.channel_shuffle(x, 4), 16, 2),
    "reflect": (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), 16, 2),
    "replicate": (lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate"), 16, 2),
    "circular": (lambda x: F.pad(x, (1, 1, 1, 1), mode="circular"), 16, 2),
    "zeros": (lambda x: F.pad(x, (1, 2, 0, 1)), 16, 2),
    "negative_pad": (lambda x: F.pad(x, (-1, -1, 0, 0)), 16, 2),
    "windows": (
        lambda x: (
            x.view(x.shape[0], -1, 2, 4, 2, 4)
            .permute(0, 2, 4, 3, 5, 1)
            .reshape(-1, 4, 4, x.shape[1])
            .permute(0, 3, 1, 2)
        ),
        16,
        2,
    ),
    "channels_as_batch": (
        lambda x: F.avg_pool2d(x.reshape(-1, 1, 8, 8), 3, 1, 1).view(x.shape[0], -1, 8, 8),
        16,
        2,
    ),
    # pointwise
    "where": (lambda x: torch.where(x > 0, x, 0.1 * x), 16, 2),
    "masked_fill": (lambda x: x.masked_fill(x < 0, 0.5), 16, 2),
    "addcmul": (lambda x: torch.addcmul(x, x, x.sigmoid()), 16, 2),
    "lerp": (lambda x: torch.lerp(x, x.tanh(), 0.3), 16, 2),
    "maximum": (lambda x: torch.maximum(x, x.neg()), 16, 2),
    "clamp": (lambda x: x.clamp(-1, 1).erf(), 16, 2),
    "glu": (lambda x: F.glu(x, 1), 8, 2),
    "in_place": (lambda x: x.clone().relu_().add_(1).mul_(x), 16, 2),
    "new_zeros": (lambda x: x + x.new_zeros(1, 1, 8, 8), 16, 2),
    "ones_like": (lambda x: x * torch.ones_like(x), 16, 2),
    "hardswish": (lambda x: F.hardswish(x, inplace=True), 16, 2),
    # contraction
    "gram": (lambda x: x * torch.einsum("nchw,nchw->nhw", x, x)[:, None], 16, 2),
    "einsum_space": (
        lambda x: torch.einsum("nchw,ngwv->nchv", x, x[:, :, :, :].mean(1, True)),
        16,
        2,
    ),
    "non_local": (
        lambda x: (
            x
            + torch.bmm(
                x.flatten(2), torch.bmm(x.flatten(2).transpose(1, 2), x.flatten(2)).softmax(-1)
            ).view_as(x)
        ),
        16,
        2,
    ),
    # reduction, pooling, normalisation
    "pooling": (lambda x: F.max_pool2d(F.avg_pool2d(x, 2), 2, ceil_mode=True), 16, 2),
    "adaptive": (lambda x: F.adaptive_max_pool2d(F.adaptive_avg_pool2d(x, 4), 2), 16, 2),
    "lp_pool": (lambda x: F.lp_pool2d(x, 2, 2), 16, 2),
    "interpolate": (lambda x: F.interpolate(x, scale_factor=0.5, mode="bicubic"), 16, 2),
    "grid_sample": (
        lambda x: F.grid_sample(x, torch.zeros(x.shape[0], 4, 4, 2, dtype=x.dtype)),
        16,
        2,
    ),
    "mean_channels": (lambda x: x - x.mean(1, keepdim=True), 16, 2),
    "spatial_softmax": (lambda x: x.flatten(2).softmax(-1).view_as(x), 16, 2),
    "channel_softmax": (lambda x: x.softmax(1), 16, 2),
    "normalize": (lambda x: F.normalize(x, dim=1), 16, 2),
    "instance_norm": (lambda x: F.instance_norm(x), 16, 2),
    "layer_norm_space": (lambda x: F.layer_norm(x, (8, 8)), 16, 2),
    "group_norm": (lambda x: F.group_norm(x, 4), 16, 2),
    "lrn": (nn.LocalResponseNorm(3), 16, 2),
    "group_norm_by_hand": (
        lambda x: (lambda y: (y - y.mean((2, 3, 4), keepdim=True)).flatten(1, 2))(
            x.view(x.shape[0], 4, -1, 8, 8)
        ),
        16,
        2,
    ),
    "var_std": (lambda x: x / (x.var((2, 3), keepdim=True) + x.std(1, keepdim=True) + 1), 16, 2),
    "cbam": (
        lambda x: x * (x.max(1, keepdim=True)[0] + x.mean(1, keepdim=True)).sigmoid(),
        16,
        2,
    ),
    "cumsum_space": (lambda x: x.cumsum(-1), 16, 2),
    # modules
    "transposed_grouped": (nn.ConvTranspose2d(16, 8, 2, stride=2, groups=4), 8, 2),
    "transposed_depthwise": (nn.ConvTranspose2d(16, 16, 2, stride=2, groups=16), 16, 2),
    "dilated_grouped": (nn.Conv2d(16, 32, 3, padding=2, dilation=2, groups=8), 32, 2),
    "prelu": (nn.PReLU(16), 16, 2),
    "prelu_one": (nn.PReLU(), 16, 2),
    "conv1d": (nn.Sequential(nn.Conv1d(16, 16, 3, groups=16), nn.MaxPool1d(2)), 16, 1),
    "transposed1d": (nn.ConvTranspose1d(16, 8, 4, stride=2), 8, 1),
    "conv3d": (nn.Sequential(nn.Conv3d(16, 12, (1, 3, 3)), nn.AvgPool3d(2)), 12, 3),
    "transposed3d": (nn.ConvTranspose3d(16, 8, 2, stride=2), 8, 3),
    "upsample3d": (nn.Upsample(scale_factor=2, mode="trilinear"), 16, 3),
    "same_padding": (nn.Conv2d(16, 16, 3, padding="same", padding_mode="circular"), 16, 2),
    "rms_norm": (lambda x: F.rms_norm(x.movedim(1, -1), (x.shape[1],)).movedim(-1, 1), 16, 2),
}


@pytest.mark.parametrize("name", PRUNED)
def test_operator_is_followed_exactly(name: str) -> None:
    torch.manual_seed(0)
    body, width, dims = PRUNED[name]
    x = torch.randn(2, 3, *[8] * dims)
    outcome = parity(Around(body, width, dims), x)
    assert outcome.graph.unknown == []
    assert outcome.error < 1e-12
    assert outcome.removed("stem.weight", 0) > 0


KEPT: dict[str, tuple[Body, int, int]] = {
    "roll_channels": (lambda x: x.roll(1, 1), 16, 2),
    "index_channels": (lambda x: x[:, torch.tensor([1, 0, 3])], 3, 2),
    "cumsum_channels": (lambda x: x.cumsum(1), 16, 2),
    "sort_channels": (lambda x: x.sort(1)[0], 16, 2),
    "argmax": (lambda x: x * x.argmax(1, keepdim=True), 16, 2),
    "bilinear_in_channels": (
        lambda x: F.interpolate(x.transpose(1, 2), size=(16, 8)).transpose(1, 2),
        16,
        2,
    ),
    "arange": (lambda x: x * torch.arange(16.0, dtype=x.dtype)[:, None, None], 16, 2),
}


@pytest.mark.parametrize("name", KEPT)
def test_operator_that_needs_all_channels_keeps_them(name: str) -> None:
    body, width, dims = KEPT[name]
    outcome = parity(Around(body, width, dims), torch.randn(2, 3, *[8] * dims))
    assert outcome.removed("stem.weight", 0) == 0
    assert outcome.error < 1e-12
    assert outcome.units.reasons


class Tables(nn.Module):
    """An embedding, positions, and layers over them."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 8)
        self.positions = nn.Parameter(torch.rand(1, 6, 8))
        self.first = nn.Parameter(torch.rand(1, 1, 8))
        self.fc = nn.Linear(8, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, words: Tensor) -> Tensor:
        x = self.words(words)
        x = torch.cat([self.first.expand(len(x), -1, -1), x], 1) + self.positions
        return self.out(x + self.fc(x))[:, 0]


def test_embedding_and_position_tables() -> None:
    outcome = parity(Tables(), torch.arange(10).view(2, 5))
    assert outcome.error < 1e-12
    removed = outcome.removed("words.weight", 1)
    assert removed > 0
    assert outcome.removed("positions", 2) == outcome.removed("first", 2) == removed
    assert outcome.removed("words.weight", 0) == outcome.removed("positions", 1) == 0


def test_fused_attention_keeps_heads_equally_wide() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(6, 48)
            self.out = nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).view(*x.shape[:2], 3, 4, -1).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v)
            return self.out(y.transpose(1, 2).flatten(2))

    outcome = parity(Heads(), torch.randn(2, 5, 6))
    assert outcome.error < 1e-12
    kept = outcome.kept["qkv.weight"][0]
    assert len(kept) % 12 == 0
    assert 0 < len(kept) < 48


def test_layers() -> None:
    layer = spread(torch.tensor([3, 4, 5]), 1, (2, 3, 4))
    assert varies(layer) == (1,)
    assert fold(layer, (2, 12)).stride() == (0, 1)
    assert fold(layer, (2, 12))[0].tolist() == [3] * 4 + [4] * 4 + [5] * 4
    assert varies(settle(torch.ones(2, 2))) == ()


@pytest.mark.parametrize("module", [labels, meta_shapes])
def test_examples_in_docstrings(module: ModuleType) -> None:
    found = doctest.testmod(module, extraglobs={"torch": torch})
    assert found.failed == 0
    assert found.attempted > 0


def test_table_names_operators_that_exist() -> None:
    """A typing error in the table would leave an operator without its rule."""
    known = {name.split("::")[1].split(".")[0] for name in torch._C._dispatch_get_all_op_names()}
    functions = {"local_response_norm"}
    assert {name for name in RULES if name not in known | functions} == set()
