"""Removes the channels whose magnitude is below a threshold, however many they are.

    thinned = prune_net(model, 0.1, example_inputs)
    thinned.removed  # {"layer1.0.conv1": [3, 11], ...}
    model = thinned.model

A filter's magnitude is the mean of its absolute weights, as a share of the largest in its layer:
from 0 to 1, whatever the width of the layer and the scale of its weights. Channels that are coupled
over several layers have the mean of theirs. The largest filter never goes by this, so that it stays
the measure of the others: the same threshold a second time finds (nearly) nothing, and a threshold
that rises while the network is trained removes what has shrunk since.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from pruners.base import BasicPruning, Options, PruningResult
from pruners.channel_graph import ChannelGraph, Kept, Units
from pruners.errors import PrunerError
from pruners.methods import Stays, select_below
from pruners.scoring import Scored

FIRST = 0.01
"""Where a rising threshold begins."""


@dataclass(frozen=True, slots=True)
class Thinned:
    """What `prune_net` has made.

    Attributes:
        model: the network without the channels, of a generated class with the same names and keys,
            with its weights; the given network itself where nothing went.
        kept: for every parameter and buffer, for every dimension, the ascending indices that stay
            of the given network.
        removed: by the path of each layer that lost output channels, their ascending indices in
            the given network.
        result: its source and report; None where nothing went.
    """

    model: nn.Module
    kept: Kept
    removed: Mapping[str, list[int]]
    result: PruningResult | None


def prune_net(
    model: nn.Module,
    threshold: float,
    example_inputs: Any,
    *,
    min_filters: int = 2,
    name: str = "",
) -> Thinned:
    """Remove the channels whose magnitude is below the threshold, with all that is coupled.

    Args:
        model: the network; it is not changed.
        threshold: share of the largest magnitude in a layer, 0 (nothing goes) to below 1.
        example_inputs: as for `pruners.prune`.
        min_filters: no layer becomes narrower than this; its largest filters stay.
        name: stem of the generated file, for `Thinned.result`.

    Raises:
        PrunerError: the threshold is out of range, or the network cannot be analysed.
        VerificationError: the thinner network does not compute what the given one does without
            these channels.
    """
    check_threshold("threshold", threshold, 0)
    if min_filters < 1:
        raise PrunerError(f"min_filters {min_filters}: expected a whole number of at least 1")
    pruning = _Below(model, example_inputs, threshold, min_filters, name)
    result = pruning.run()
    removed = removed_channels(result.graph, result.kept)
    if not removed:
        return Thinned(model, result.kept, {}, None)
    result.compared()
    return Thinned(result.model, result.kept, removed, result)


def rising(threshold: float, epochs: int) -> tuple[float, ...]:
    """The threshold of each epoch: in equal steps from 0.01 to the given one.

    >>> rising(0.1, 4)
    (0.01, 0.04, 0.07, 0.1)
    """
    if epochs == 1:
        return (threshold,)
    step = (threshold - FIRST) / max(1, epochs - 1)
    return tuple(round(FIRST + step * epoch, 12) for epoch in range(epochs))


def check_threshold(name: str, value: float, least: float) -> None:
    """PrunerError, with the name, for what is no share of the largest magnitude."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < 1:
        raise PrunerError(
            f"{name} {value}: expected a share of a layer's largest magnitude, {least:g} or more "
            f"and below 1"
        )
    assert math.isfinite(value)


def removed_channels(graph: ChannelGraph, kept: Kept) -> dict[str, list[int]]:
    """The output channels that go, by the path of their layer, in the order of the state_dict."""
    order = {name: number for number, name in enumerate(graph.shapes)}
    removed = {}
    for axis in sorted(graph.outputs(), key=lambda a: order[a.tensor]):
        gone = np.setdiff1d(np.arange(graph.size(axis)), kept[axis.tensor][axis.dim])
        if len(gone):
            removed[axis.tensor.removesuffix(".weight")] = gone.tolist()
    return removed


def magnitude(*, filters: Tensor, **context: Any) -> Tensor:
    """The measure: shape (channels,), the mean absolute weight of each filter."""
    return filters.abs().mean(1)


magnitude.normalizer = "max"  # type: ignore[attr-defined]  # see the head of the file


class _Below(BasicPruning):
    """Selects by a threshold in place of a budget."""

    def __init__(
        self, model: nn.Module, example_inputs: Any, threshold: float, min_filters: int, name: str
    ) -> None:
        options = Options(prune_pct=0, measure="magnitude", min_filters=min_filters)
        super().__init__(model, example_inputs, options, fileName=name, measure=magnitude)
        self.threshold = threshold

    def selected(self, graph: ChannelGraph, units: Units, scored: Scored) -> Stays:
        return select_below(graph, units, scored.units, self.threshold, self.options.min_filters)
