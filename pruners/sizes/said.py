"""A size as an expression says it, and why it cannot be another."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pruners.errors import PrunerError
from pruners.replay import Correction, Frame
from pruners.sizes.syntax import File, file_of


@dataclass(frozen=True, slots=True)
class Size:
    """An expression that says a size, in one run of one call."""

    expr: ast.expr
    frames: tuple[Frame, ...]
    """The frame in which it stands, then those around it."""
    given: Any
    """An int, or a list of them."""
    needed: Any
    correction: Correction
    index: int = 0
    """Which of several sizes of the call."""

    @property
    def file(self) -> File:
        return file_of(self.frames[0].globals["__name__"])

    @property
    def holder(self) -> str | None:
        """Path of the module in whose method the expression runs."""
        for frame, around in zip(self.frames, (*self.frames[1:], None), strict=True):
            if frame.module is not None or around is None:
                return frame.module
            # A lambda or a comprehension belongs to the method that it stands in.
            if not frame.code.co_qualname.startswith(f"{around.code.co_qualname}.<locals>."):
                return None
        return None


class RefusedError(PrunerError):
    def __init__(self, correction: Correction, reason: str) -> None:
        self.correction = correction
        self.reason = reason
        super().__init__(reason)


def refusal(c: Correction, why: str) -> RefusedError:
    found = "" if not c.frames else f"{c.place}: "
    return RefusedError(
        c, f"{found}{c.operator} says {brief(c.given)} where {brief(c.needed)} is needed; {why}"
    )


def brief(value: Any) -> str:
    return shortened(value) if isinstance(value, list) and len(value) > 8 else str(value)


def shortened(values: Sequence[Any]) -> str:
    shown = ", ".join(map(str, values[:6]))
    return f"positions {shown}{', ...' if len(values) > 6 else ''}"
