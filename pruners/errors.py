"""What can go wrong, in one family.

A message is one line: the thing, its value, what was expected, the nearest way out.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PrunerError(Exception):
    """Something the user can mend; the command line exits with 2."""


class UnsupportedNetworkError(PrunerError):
    """The network does something that the analysis cannot follow."""


class WriterError(PrunerError):
    """A part of the network cannot be written as source."""


class DivergedError(PrunerError):
    """Training ran into numbers that are not finite."""


class ResumeError(PrunerError):
    """What an interrupted run left cannot be gone on with by this one."""


class StoppedError(Exception):
    """Work was asked to stop, and what it needs to go on is stored."""


class VerificationError(Exception):
    """The slim network is not what it must be; nothing was written (exit code 1)."""


def did_you_mean(value: str, known: Iterable[str]) -> str:
    """`"; did you mean resnet?"` where a known name is near, else an empty string.

    What differs in case alone is nearest: lamp means LAMP.
    """
    names = list(known)
    same = [name for name in names if name.casefold() == value.casefold()]
    near = same or difflib.get_close_matches(value, names, n=3, cutoff=0.5)
    match = difflib.SequenceMatcher(b=value)

    def likeness(name: str) -> float:
        match.set_seq1(name)
        return match.ratio()

    # Beside a good match, a poor one only confuses.
    near = same or [name for name in near if likeness(name) > likeness(near[0]) - 0.1]
    return f"; did you mean {' or '.join(near)}?" if near else ""
