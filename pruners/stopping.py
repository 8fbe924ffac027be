"""Long work that is asked to stop finishes its batch, and leaves what it needs to go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from pruners.progress import note


@contextmanager
def stops() -> Iterator[Callable[[], bool]]:
    """A function that says whether SIGINT (Ctrl-C) or SIGTERM has come while the block runs.

    A second signal ends the work at once: KeyboardInterrupt. Outside of the main thread, where
    Python takes no signals, nothing is ever asked.
    """
    arrived: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        arrived.append(number)
        if len(arrived) > 1:
            raise KeyboardInterrupt
        note("stopping after this batch; again to stop at once")

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    # What is ignored (nohup, a job in the background) stays ignored.
    kinds = [
        kind
        for kind in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(kind) not in (signal.SIG_IGN, None)
    ]
    before = {kind: signal.signal(kind, remember) for kind in kinds}
    try:
        yield lambda: bool(arrived)
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
