"""The inputs that int8 is calibrated with: real ones, neither too few nor too many."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from pruners.deploy.exporting import as_inputs, with_batch
from pruners.errors import PrunerError

FEWEST, MOST = 32, 2000
"""Examples: with fewer, ranges are those of a few images; more change nothing but the time."""


def examples_of(batches: Iterable[Any], inputs: int = 1, most: int = MOST) -> list[tuple[Any, ...]]:
    """Batches of inputs for the network.

    Args:
        batches: of inputs, or of inputs and what follows them (labels), which is left out.
        inputs: how many the network takes.
        most: examples, of which no more are taken.

    Raises:
        PrunerError: fewer than `FEWEST` examples, or a batch with fewer inputs.
    """
    found: list[tuple[Any, ...]] = []
    count = 0
    for batch in batches:
        given = as_inputs(batch)[:inputs]
        if len(given) < inputs or not isinstance(given[0], Tensor):
            raise PrunerError(
                f"quantize: a calibration batch has {len(given)} inputs; the network takes {inputs}"
            )
        given = with_batch(given, min(len(given[0]), most - count))
        count += len(given[0])
        found.append(given)
        if count == most:
            break
    if count < FEWEST:
        raise PrunerError(
            f"quantize: {count} calibration samples; expected {FEWEST} to {MOST}: take more "
            f"images (--samples), or another --dataset"
        )
    return found
