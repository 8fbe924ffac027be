"""What holds for all tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from pruners.blocks import BLOCK_TYPES

# A shell that is not interactive starts background jobs with SIGINT ignored, and what they start
# inherits that: tests of Ctrl-C would wait for nothing.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def own_block_types() -> Iterator[None]:
    """Block types that a test registers are gone after it."""
    before = dict(BLOCK_TYPES)
    yield
    BLOCK_TYPES.clear()
    BLOCK_TYPES.update(before)
