"""Draws the pictures of how-it-works.md anew: `python -m docs.make_pictures`."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from pruners.drawing import svg
from pruners.store import commit

FOLDER = Path(__file__).parent
PAGE = FOLDER / "how-it-works.md"


def run_page() -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The names that the page's code defines; what it says that each block prints, and what is."""
    names: dict[str, Any] = {"__name__": "how_it_works"}
    outputs = []
    text = PAGE.read_text()
    for code, said in re.findall(r"^```python\n(.*?)^```\n+```text\n(.*?)^```", text, re.M | re.S):
        printed = io.StringIO()
        with redirect_stdout(printed):
            exec(code, names)
        outputs.append((said, printed.getvalue()))
    return names, outputs


def pictures(names: dict[str, Any]) -> dict[Path, bytes]:
    """The pictures that the page shows, each of the graph of its name."""
    found = re.findall(r"\]\(pictures/(\w+)\.svg\)", PAGE.read_text())
    return {FOLDER / "pictures" / f"{name}.svg": svg(names[name]) for name in found}


if __name__ == "__main__":
    commit(pictures(run_page()[0]))
