"""What the user is told while work goes on, on stderr: stdout belongs to results."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


@contextmanager
def stage(text: str) -> Iterator[None]:
    """Says what goes on in its block: a spinner on a terminal, else a line."""
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(text):
            yield
    else:
        note(text)
        yield


def note(text: str) -> None:
    """One line."""
    print(text, file=sys.stderr, flush=True)
