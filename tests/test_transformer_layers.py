"""The transformers of torch.nn: their layers stay alike, and are written by few arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import image
from torch import Tensor, nn

from pruners import prune
from pruners.describe import write_layer
from pruners.errors import WriterError
from pruners.verify import with_telling_state

X = image(2, 3, 8, 8).double()


class Hybrid(nn.Module):
    """A convolution, tokens, and a transformer over them."""

    def __init__(self, encoder: nn.Module, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, stride=2, padding=1)
        self.embed = nn.Conv2d(24, width, 1)
        self.encoder = encoder
        self.fc = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(torch.relu(self.stem(x))).flatten(2).transpose(1, 2)
        if isinstance(self.encoder, nn.TransformerEncoder | nn.TransformerEncoderLayer):
            return self.fc(self.encoder(tokens).mean(1))
        return self.fc(self.encoder(tokens, tokens.tanh()).mean(1))


def layer(cls: Any = nn.TransformerEncoderLayer, **options: Any) -> nn.Module:
    return cls(16, 4, **{"dim_feedforward": 32, "batch_first": True, **options})


CASES = {
    "layer": (layer(), "nn.TransformerEncoderLayer(16, 4, dim_feedforward={}, batch_first=True)"),
    "options": (
        layer(dropout=0.3, activation="gelu", layer_norm_eps=1e-3, norm_first=True, bias=False),
        "nn.TransformerEncoderLayer(16, 4, dim_feedforward={}, dropout=0.3, activation='gelu', "
        "layer_norm_eps=0.001, batch_first=True, norm_first=True, bias=False)",
    ),
    "module": (
        layer(activation=nn.LeakyReLU(0.2)),
        "nn.TransformerEncoderLayer(16, 4, dim_feedforward={}, "
        "activation=nn.LeakyReLU(negative_slope=0.2), batch_first=True)",
    ),
    "encoder": (
        nn.TransformerEncoder(layer(), 3, nn.LayerNorm(16)),
        "nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, dim_feedforward={}, "
        "batch_first=True), 3, norm=nn.LayerNorm(16))",
    ),
    "decoder": (
        nn.TransformerDecoder(layer(nn.TransformerDecoderLayer, activation=F.gelu), 2),
        "nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 4, dim_feedforward={}, "
        "activation='gelu', batch_first=True), 2)",
    ),
    "both": (
        nn.Transformer(16, 4, 2, 1, 32, batch_first=True),
        "nn.Transformer(d_model=16, nhead=4, num_encoder_layers=2, num_decoder_layers=1, "
        "dim_feedforward={}, batch_first=True)",
    ),
}


def plain(text: str) -> str:
    """Code without its layout."""
    text = "".join(text.split()).replace('"', "'").replace("torch.nn.", "nn.")
    return text.replace(",)", ")")


@pytest.mark.parametrize("name", CASES)
def test_transformers_of_torch_are_pruned_and_written(name: str) -> None:
    encoder, expected = CASES[name]
    model = with_telling_state(Hybrid(encoder).double()).eval()
    result = prune(model, X, 30)
    assert result.verified().error < 1e-12
    inner = {len(dims[0]) for key, dims in result.kept.items() if key.endswith("linear1.weight")}
    assert len(inner) == 1
    (width,) = inner
    assert width < 32
    assert f"self.encoder={plain(expected.format(width))}" in plain(result.source)


def test_layers_of_a_stack_lose_the_same_channels() -> None:
    model = with_telling_state(Hybrid(nn.TransformerEncoder(layer(), 2)).double()).eval()
    kept = prune(model, X, 30).kept
    one, other = (kept[f"encoder.layers.{i}.linear1.weight"][0] for i in range(2))
    assert one.tolist() == other.tolist()


class Own(nn.TransformerEncoderLayer):
    """Somebody else's."""


class Swish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.sigmoid()


def changed(encoder: nn.Module, name: str, value: object) -> nn.Module:
    path, _, attribute = name.rpartition(".")
    setattr(encoder.get_submodule(path), attribute, value)
    return encoder


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            changed(layer(), "dropout1.p", 0.5),
            r"TransformerEncoderLayer: argument dropout of its constructor cannot be told from its "
            r"parts \(0\.1, 0\.5\); expected what its constructor makes of one value",
        ),
        (layer(activation=torch.tanh), r"argument activation .* \(tanh\)"),
        (
            changed(nn.TransformerEncoder(layer(), 2), "layers.1.norm1.eps", 0.1),
            r"argument layer_norm_eps .* \(0\.1, 1e-05\)",
        ),
        (
            changed(nn.TransformerEncoder(layer(), 2), "layers.1.norm_first", True),
            r"TransformerEncoder: argument encoder_layer .* \(a layer\)",
        ),
        (
            nn.Transformer(16, 4, 1, 1, 32, custom_encoder=nn.Identity()),
            r"Transformer: argument custom_encoder .* \(Identity\)",
        ),
        (
            nn.TransformerEncoder(Own(16, 4), 2, enable_nested_tensor=False),
            r"argument encoder_layer .* \(Own\); expected",
        ),
        (layer(activation=Swish()), r"argument activation .* \(Swish\); expected"),
    ],
    ids=["dropout", "activation", "parts of a layer", "layers", "custom", "own", "own activation"],
)
def test_what_no_arguments_make_is_refused(module: nn.Module, message: str) -> None:
    with pytest.raises(WriterError, match=message):
        write_layer(module)
