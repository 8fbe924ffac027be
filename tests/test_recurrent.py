"""Convolutions before recurrent layers: what those read goes, what they remember stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import image
from oracle import silenced
from torch import Tensor, nn

from pruners import metrics, prune
from pruners.verify import with_telling_state

X = image(2, 1, 8, 12).double()


class Reader(nn.Module):
    """Columns of an image as the steps of a sequence."""

    def __init__(self, rnn: nn.Module, width: int, packed: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 24, (8, 3), padding=(0, 1))
        self.rnn = rnn
        self.fc = nn.Linear(width, 5)
        self.packed = packed

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x)).squeeze(2)
        x = x.transpose(1, 2) if self.rnn.batch_first else x.permute(2, 0, 1)
        if self.packed:
            pack = nn.utils.rnn.pack_padded_sequence(x, [12, 7], self.rnn.batch_first)
            y, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(pack)[0], self.rnn.batch_first)
        else:
            y, _ = self.rnn(x)
        return self.fc(y)


CASES: dict[str, tuple[Any, int, str]] = {
    "lstm": (nn.LSTM(24, 6), 6, "nn.LSTM({}, 6)"),
    "both directions": (
        nn.LSTM(24, 6, 2, batch_first=True, dropout=0.1, bidirectional=True),
        12,
        "nn.LSTM({}, 6, num_layers=2, batch_first=True, dropout=0.1, bidirectional=True)",
    ),
    "projected": (
        nn.LSTM(24, 6, 2, bias=False, proj_size=4, bidirectional=True),
        8,
        "nn.LSTM({}, 6, num_layers=2, bias=False, bidirectional=True, proj_size=4)",
    ),
    "gru": (
        nn.GRU(24, 6, 2, bidirectional=True),
        12,
        "nn.GRU({}, 6, num_layers=2, bidirectional=True)",
    ),
    "rnn": (nn.RNN(24, 6), 6, "nn.RNN({}, 6)"),
    "relu": (nn.RNN(24, 6, 3, nonlinearity="relu"), 6, "nn.RNN({}, 6, num_layers=3, "),
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_recurrent_layer_reads_goes(name: str) -> None:
    rnn, width, expected = CASES[name]
    model = with_telling_state(Reader(rnn, width).double()).eval()
    result = prune(model, X, 20)
    assert result.verified().error < 1e-12
    kept = result.kept["conv.weight"][0]
    assert len(kept) < 24
    assert " ".join(expected.format(len(kept)).split()) in " ".join(result.source.split())
    for key, dims in result.kept.items():
        if key.startswith("rnn.weight_ih_l0"):
            assert dims[1].tolist() == kept.tolist()
        elif key.startswith("rnn."):
            # What it remembers stays.
            assert [len(d) for d in dims] == list(model.state_dict()[key].shape)
    with torch.no_grad():
        expected_output, output = silenced(model, result.kept)(X), result.model(X)
    assert (output - expected_output).abs().max() < 1e-12 * expected_output.abs().max()


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.reader = Reader(nn.LSTM(24, 6), 6, packed=True)
        self.more = nn.Sequential(nn.Linear(5, 64), nn.Linear(64, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.more(self.reader(x))


def test_packed_sequences_keep_their_features() -> None:
    result = prune(with_telling_state(Packed().double()).eval(), X, 20)
    assert result.report.widths["reader.conv"].after == 24
    because = result.report.kept_because["reader.conv"]
    assert because == "meets an operator without a rule (reader: _pack_padded_sequence)"
    assert result.verified().error < 1e-12


@pytest.mark.parametrize("name", CASES)
def test_multiply_accumulates_are_those_of_every_step(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rnn, width, _ = CASES[name]
    model = Reader(rnn, width).double()
    short = metrics.count_macs(model, X)
    matrices = sum(w.numel() for w in rnn.parameters() if w.dim() == 2)
    assert short == 24 * 8 * 3 * 12 + 12 * matrices + 12 * 5 * width
    # torch's own count, of the operators that a kernel for meta tensors is made of.
    monkeypatch.setattr("pruners.meta_shapes.RECURRENT", frozenset())
    assert metrics.count_macs(model, X) == short
