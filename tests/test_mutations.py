"""Spoiled checkpoints, manifests, model files and command lines (`mutations.py`)."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path

import pytest
import torch

from pruners import store
from tests import mutations
from tests.mutations import KINDS, Bench, Payload, Ran, run


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("spoiled").resolve())


@pytest.mark.parametrize("kind", KINDS)
def test_a_clear_error_or_a_correct_result(bench: Bench, kind: str) -> None:
    counts, complaints = run(kind, range(12), bench)
    assert complaints == []
    assert counts["errors"]


@pytest.mark.zoo
@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_of_them(bench: Bench, kind: str) -> None:
    counts, complaints = run(kind, range(1000), bench)
    assert complaints == []
    assert counts["errors"]
    assert counts["results"]


# --- what is looked at can be seen ----------------------------------------------------------------


def test_a_payload_would_be_seen(bench: Bench) -> None:
    pickle.loads(pickle.dumps(Payload(bench.canary)))
    assert bench.damage() == "EXECUTED: a payload has run"
    assert bench.damage() == ""
    (bench.work / "elsewhere").touch()
    assert bench.damage() == "changed outside its folder: ['work/elsewhere']"
    (bench.work / "elsewhere").unlink()
    assert bench.damage()


def test_a_wrong_result_would_be_seen(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the checksums a flipped bit is taken for a weight; without seals, for a figure."""

    def flipped(rng: random.Random, content: bytes) -> tuple[str, bytes]:
        weights = bench.state["fc.bias"].numpy().tobytes()
        return "flip", content.replace(weights[:16], bytes([weights[0] ^ 1]) + weights[1:16])

    def other_figure(rng: random.Random, content: bytes) -> tuple[str, bytes]:
        return "figure", content.replace(b"860", b"861")

    monkeypatch.setattr(store, "_check_sums", lambda path: None)
    monkeypatch.setattr(mutations, "corrupted", flipped)
    _, complaints = run("checkpoints", range(20), bench)
    assert any("WRONG: fc.bias is not what" in complaint for complaint in complaints)
    monkeypatch.setattr("pruners.model_store.is_intact", lambda facts: True)
    monkeypatch.setattr(mutations, "spoiled_json", other_figure)
    monkeypatch.setattr(mutations, "_of_a_level", mutations._beside_weights)
    _, complaints = run("manifests", range(6), bench)
    assert any("WRONG: models verify says 0" in complaint for complaint in complaints)


@pytest.mark.parametrize(
    ("ran", "complaint"),
    [
        (Ran(2, "", "error: a: b\n"), ""),
        (Ran(0, "", "note\n"), ""),
        (Ran(2, "", ""), "not one line"),
        (Ran(2, "", "error: a\nb\n"), "not one line"),
        (Ran(1, "", "Traceback (most recent call last)\n"), "a traceback"),
        (Ran(1, "", "error: unexpected KeyError: 'a' (--debug shows where)\n"), "taken for a bug"),
        (Ran(-9, "", ""), "exit code -9"),
        (Ran(0, "", "error: a\n"), "an error with exit code 0"),
        (Ran(0, "", "", ("a",)), "a warning of Python's: a"),
        (Ran(2, "", "error: \x1b[31m\n"), "control characters"),
    ],
)
def test_what_is_unclear(ran: Ran, complaint: str) -> None:
    assert ran.unclear().startswith(complaint)
    assert bool(ran.unclear()) == bool(complaint)


def test_the_same_number_is_the_same_mutation(tmp_path: Path) -> None:
    content = json.dumps({"a": [1, {"b": "c"}]}).encode() * 9
    for spoil in (mutations.corrupted, mutations.spoiled_json):
        text = content if spoil is mutations.corrupted else content[: len(content) // 9]
        found = [spoil(random.Random(f"0:{n}"), text) for n in range(60)]
        assert found == [spoil(random.Random(f"0:{n}"), text) for n in range(60)]
        assert sum(spoiled != text for _, spoiled in found) > 50
    state = {"a": torch.ones(2, 3, 1, 1), "b": torch.tensor(3)}
    for n in range(40):
        what, content, said = mutations._other_dtype(random.Random(n), state)
        assert what
        assert content
        assert said is None or list(said) == list(state)
