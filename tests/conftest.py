"""What holds for all tests."""

from __future__ import annotations

import signal

# A shell that is not interactive starts background jobs with SIGINT ignored, and what they start
# inherits that: tests of Ctrl-C would wait for nothing.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
