"""Generated files as they are kept in the repository: what changes in them is seen in a review."""

from __future__ import annotations

import difflib

import pytest
from accept_golden import DIGEST, FOLDER, GOLDEN, TORCHVISION, digest, generated

COMMAND = "python -m tests.accept_golden"


@pytest.mark.parametrize("stem", GOLDEN)
def test_generated_files_are_the_golden_ones(stem: str) -> None:
    if stem in TORCHVISION and digest() != DIGEST.read_text("utf-8").strip():
        pytest.skip("holds text of another torchvision, whose networks are written differently")
    path = FOLDER / f"{stem}.py"
    golden = path.read_text("utf-8") if path.exists() else ""
    text = generated(stem)
    if text != golden:
        lines = (golden.splitlines(keepends=True), text.splitlines(keepends=True))
        diff = "".join(difflib.unified_diff(*lines, f"golden/{stem}.py", "generated"))
        pytest.fail(f"{diff}\nIf this is what it should be now: {COMMAND}", pytrace=False)


def test_there_are_no_other_golden_files() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == set(GOLDEN)
