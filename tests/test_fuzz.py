"""The fuzzer finds what is planted, makes it small, and says where it lies."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from pruners import base
from tests import fuzz
from tests.fuzz_networks import drawn, simpler, source


def test_a_run_is_exact(tmp_path: Path) -> None:
    lines: list[str] = []
    # Small, middling and large ones of a long run.
    counts, failures = fuzz.run(0, [3, 900, 1500], 2000, tmp_path, say=lines.append)
    assert not failures
    assert counts[fuzz.EXACT] == counts.total() == 3
    assert lines[-1].startswith("3 of 3: 3 pruned, 3 exact, 0 failing, 0 with nothing to remove; ")


def test_a_wrong_index_in_the_weights_is_found_and_made_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = base.transfer

    def planted(model: Any, kept: Any) -> dict[str, Tensor]:
        state: dict[str, Tensor] = real(model, kept)
        for name, tensor in state.items():
            if name.endswith("running_mean"):
                state[name] = tensor.roll(1)
        return state

    monkeypatch.setattr(base, "transfer", planted)
    monkeypatch.setattr(fuzz, "SHRINKING", 8.0)
    number = with_a("BatchNorm2d")
    counts, failures = fuzz.run(0, [number], 2000, tmp_path, say=lambda text: None)
    (failure,) = failures
    assert counts[fuzz.INEXACT] == 1
    assert failure.verdict.message.endswith("running_mean is not the original at the kept indices")
    text = failure.path.read_text()
    assert f"# Seed 0, number {number} of 2000, made smaller: not exact.\n" in text
    assert f"--seed 0 --networks 2000 --only {number}\n" in text
    assert failure.lines < 25
    assert "BatchNorm2d" in text
    assert fuzz.main(["--again", str(failure.path)]) == 1
    monkeypatch.undo()
    assert fuzz.examine(fuzz.read_failure(failure.path), tmp_path, "mended").ok


def test_an_index_that_is_wrong_in_one_of_two_layers_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are those of the indices; only what is computed shows it."""
    real = base.kept_of

    def planted(*arguments: Any) -> dict[str, Any]:
        kept: Mapping[str, Any] = real(*arguments)
        return {name: shifted(name, dims, arguments[0]) for name, dims in kept.items()}

    def shifted(name: str, dims: Any, shapes: Any) -> Any:
        if not name.startswith("fc") or len(dims) < 2:
            return dims
        free = np.setdiff1d(np.arange(shapes[name][1]), dims[1])
        return (dims[0], np.sort([*dims[1][1:], *free[:1]]), *dims[2:]) if len(free) else dims

    monkeypatch.setattr(base, "kept_of", planted)
    _, given = fuzz.subject(0, 1, 2000)
    verdict = fuzz.examine(given, tmp_path, "planted")
    assert verdict.kind == fuzz.INEXACT
    assert verdict.message.startswith("the output differs from the oracle by ")


def test_float64_tells_rounding_from_a_wrong_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, given = fuzz.subject(0, 1, 2000)
    single = dataclasses.replace(given, dtype="float32")
    differs = fuzz.Verdict(fuzz.INEXACT, "the output differs from the oracle by 1.5e-05")
    assert fuzz.in_float64(single, differs, tmp_path, "rounded").kind == fuzz.ROUNDED
    double = dataclasses.replace(given, dtype="float64")
    assert fuzz.in_float64(double, differs, tmp_path, "double") is differs
    real = base.transfer
    monkeypatch.setattr(
        base, "transfer", lambda *a: {name: t.flip(0) for name, t in real(*a).items()}
    )
    assert fuzz.in_float64(single, differs, tmp_path, "wrong") is differs


def with_a(part: str) -> int:
    """The first network that holds it."""
    for number in range(100):
        if part in fuzz.subject(0, number, 2000)[1].text.partition("class Net")[2]:
            return number
    raise AssertionError(part)


def test_every_sketch_can_be_made_smaller_and_the_same_numbers_draw_the_same() -> None:
    for number in range(20):
        sketch = drawn(random.Random(f"0:{number}:0"), number / 20)
        assert sketch == drawn(random.Random(f"0:{number}:0"), number / 20)
        smaller = list(simpler(sketch))
        assert smaller
        assert sketch not in smaller
        assert source(sketch) == source(sketch)


def test_lines_are_taken_out_as_long_as_it_is_python() -> None:
    text = "import os\n\n\n@f\ndef a():\n    x = 1\n    return x\n"
    assert list(fuzz.fewer_lines(text)) == [
        "import os\n\n\n",
        "@f\ndef a():\n    x = 1\n    return x\n",
        "import os\n\n\n@f\ndef a():\n    return x\n",
    ]
