"""What the user is told while work goes on, on stderr: stdout belongs to results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def printable(text: str) -> str:
    """Control characters and the like as Python writes them: no file of text may hold them, and
    no terminal shall obey them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@contextmanager
def stage(text: str) -> Iterator[None]:
    """Says what goes on in its block: a spinner on a terminal, else a line."""
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(escape(printable(text))):
            yield
    else:
        note(text)
        yield


def note(text: str) -> None:
    """One line."""
    print(printable(text), file=sys.stderr, flush=True)


@contextmanager
def bar(text: str, total: int | None, shown: bool) -> Iterator[Callable[[], None]]:
    """A function to call after every step of long work: a bar on a terminal, else one line."""
    console = Console(stderr=True)
    if not shown or not console.is_terminal:
        if shown:
            note(f"{text}{f' ({total} batches)' if total else ''}")
        yield lambda: None
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    ) as progress:
        task = progress.add_task(escape(printable(text)), total=total)
        yield lambda: progress.advance(task)
