"""How much is gone after each level of an iterative experiment.

    cumulative("exponential", step=5, levels=3)   (5.0, 9.75, 14.2625)

Percent of the target of the original network that is removed after levels 0, 1, 2, ...
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from pruners.errors import PrunerError, did_you_mean


def _exponential(step: float, levels: int, final: float) -> list[float]:
    """Every level removes `step` percent of what is left."""
    return [100 * (1 - (1 - step / 100) ** (level + 1)) for level in range(levels)]


def _linear(step: float, levels: int, final: float) -> list[float]:
    """Every level removes the same share of the original network."""
    return [final * (level + 1) / levels for level in range(levels)]


def _cosine(step: float, levels: int, final: float) -> list[float]:
    """Little at first, most in the middle, little at the end: half a period of a cosine."""
    return [final * (1 - math.cos(math.pi * (level + 1) / levels)) / 2 for level in range(levels)]


def _cubic(step: float, levels: int, final: float) -> list[float]:
    """Most at first: final (1 - (1 - t)^3) with t from 0 to 1.

    Zhu and Gupta, "To prune, or not to prune" (2017), equation (1), from an initial sparsity of 0.
    """
    return [final * (1 - (1 - (level + 1) / levels) ** 3) for level in range(levels)]


SCHEDULES: Mapping[str, Callable[[float, int, float], list[float]]] = {
    "exponential": _exponential,
    "linear": _linear,
    "cosine": _cosine,
    "cubic": _cubic,
}
"""By name; the first is the default."""


def cumulative(
    schedule: str, step: float, levels: int, final: float | None = None
) -> tuple[float, ...]:
    """Percent of the target that is gone after each level, ascending, below 100.

    Args:
        schedule: a key of `SCHEDULES`.
        step: percent of what is left that a level removes ("exponential").
        levels: how many there are.
        final: what is gone in the end, for the other schedules; by default as much as with
            "exponential".

    Raises:
        PrunerError: there is no such schedule, or a number is out of range.
    """
    if schedule not in SCHEDULES:
        raise PrunerError(
            f"--schedule {schedule}: unknown{did_you_mean(schedule, SCHEDULES)}; expected one of "
            f"{', '.join(SCHEDULES)}"
        )
    if not 0 < step < 100:
        raise PrunerError(f"--step {step:g}: expected percent, above 0 and below 100")
    if levels < 1:
        raise PrunerError(f"--levels {levels}: expected 1 or more")
    if final is not None and schedule == "exponential":
        raise PrunerError(
            f"--final {final:g}: only for the schedules {', '.join(list(SCHEDULES)[1:])}; with "
            f"exponential, --step and --levels say it"
        )
    if final is not None and not 0 < final < 100:
        raise PrunerError(f"--final {final:g}: expected percent, above 0 and below 100")
    end = _exponential(step, levels, 0)[-1] if final is None else final
    return tuple(SCHEDULES[schedule](step, levels, end))
