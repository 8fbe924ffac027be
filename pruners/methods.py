"""Which units go, for a budget.

A method turns scores into the order in which units go; the budget says where in that order to
stop. Sizes shrink multiplicatively (a filter's cost depends on how many inputs are left), so the
cost is recounted exactly at every step of a binary search, never added up from estimates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array

from pruners.channel_graph import ChannelGraph, Indices, Units
from pruners.errors import PrunerError, did_you_mean
from pruners.scoring import Scores

Target = Literal["params", "macs", "channels"]
TARGETS: Mapping[Target, str] = {
    "params": "parameters",
    "macs": "multiply-accumulates",
    "channels": "channels",
}


@dataclass(frozen=True, slots=True)
class Budget:
    """How much must go.

    Attributes:
        prune_pct: percent of the target to remove, 0 <= prune_pct < 100; overshot by less than
            one unit (more with `round_to`).
        target: what is counted.
        min_filters: no layer becomes narrower than this.
        round_to: widths become a multiple of this, or stay as they are.
    """

    prune_pct: float
    target: Target = "params"
    min_filters: int = 2
    round_to: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.prune_pct < 100:  # also refuses NaN
            raise PrunerError(
                f"--prune-pct {self.prune_pct:g}: expected a percentage of at least 0 and below 100"
            )
        if self.target not in TARGETS:
            raise PrunerError(
                f"--target {self.target}: unknown{did_you_mean(self.target, TARGETS)}; "
                f"expected one of {', '.join(TARGETS)}"
            )
        for option, value in (
            ("--min-filters", self.min_filters),
            ("--round-to", self.round_to),
        ):
            if value < 1:
                raise PrunerError(f"{option} {value}: expected a whole number of at least 1")


def global_order(scores: Scores, units: Units) -> Indices:
    """All units, the least important of the whole network first."""
    return np.argsort(scores, kind="stable")


def local_order(scores: Scores, units: Units) -> Indices:
    """All units, so that every prefix takes the same share of the removable units of each group."""
    share = np.ones(units.count)
    free = np.flatnonzero(~units.frozen)
    by_group = free[np.lexsort((scores[free], units.group_of[free]))]
    _, first, size = np.unique(units.group_of[by_group], return_index=True, return_counts=True)
    rank = np.arange(len(by_group)) - np.repeat(first, size)
    share[by_group] = (rank + 1) / np.repeat(size, size)
    return np.lexsort((scores, share))


PRUNING_METHODS: dict[str, Callable[[Scores, Units], Indices]] = {
    "Global": global_order,
    "Local": local_order,
}


def select(
    graph: ChannelGraph, units: Units, scores: Scores, budget: Budget, method: str
) -> npt.NDArray[np.bool_]:
    """Shape (units,): which units stay.

    Raises:
        PrunerError: the method is unknown, or the budget cannot be met (the message says how much
            can be removed).
    """
    if method not in PRUNING_METHODS:
        raise PrunerError(
            f"method {method}: unknown{did_you_mean(method, PRUNING_METHODS)}; "
            f"on offer are {', '.join(PRUNING_METHODS)}"
        )
    made = np.zeros(units.count, dtype=bool)
    for axis in graph.outputs():
        made[units.of(axis)] = True
    # Only channels that a layer of the network makes can go.
    removable = made & ~units.frozen & ~_floor(graph, units, scores, budget.min_filters)
    order = PRUNING_METHODS[method](scores, units)
    order = order[removable[order]]
    cost = _Cost(graph, units, budget.target)
    full = cost(np.ones(units.count, dtype=bool))
    widths = np.bincount(units.group_of, minlength=1)

    def stays(count: int) -> npt.NDArray[np.bool_]:
        gone = order[:count]
        if budget.round_to > 1:
            gone = _rounded(gone, units.group_of, widths, budget.round_to)
        mask = np.ones(units.count, dtype=bool)
        mask[gone] = False
        return mask

    def reached(count: int) -> bool:
        return (full - cost(stays(count))) * 100 >= budget.prune_pct * full

    if not reached(len(order)):
        most = (full - cost(stays(len(order)))) * 100 / full if full else 0.0
        raise PrunerError(
            f"--prune-pct {budget.prune_pct:g}: at most {math.floor(most * 10) / 10:g} percent of "
            f"the {TARGETS[budget.target]} can be removed with min_filters={budget.min_filters}, "
            f"round_to={budget.round_to} and {int(units.frozen.sum())} of {units.count} units "
            f"frozen"
        )
    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle + 1, high)
    return stays(low)


def count_target(graph: ChannelGraph, units: Units, target: Target) -> int:
    """The target's count with all units in place."""
    return _Cost(graph, units, target)(np.ones(units.count, dtype=bool))


def _floor(
    graph: ChannelGraph, units: Units, scores: Scores, min_filters: int
) -> npt.NDArray[np.bool_]:
    """Shape (units,): the best `min_filters` units of every layer, which stay."""
    protected = np.zeros(units.count, dtype=bool)
    for axis in graph.outputs():
        of_layer = np.unique(units.of(axis))
        # Frozen units stay anyway; they count towards the floor. Of equals, the first go first.
        best = np.lexsort((-of_layer, -scores[of_layer], ~units.frozen[of_layer]))
        protected[of_layer[best[:min_filters]]] = True
    return protected


def _rounded(gone: Indices, group_of: Indices, widths: Indices, multiple: int) -> Indices:
    """Of the units that go (in order), those that go when groups keep a multiple of channels.

    The number that stays is rounded up: the budget's search then takes more units until it is met.
    """
    groups = group_of[gone]
    removed = np.bincount(groups, minlength=len(widths))
    stay = np.minimum(widths, -(-(widths - removed) // multiple) * multiple)
    allowed = widths - stay
    by_group = np.argsort(groups, kind="stable")
    first = np.cumsum(removed) - removed
    rank = np.empty(len(gone), dtype=np.int64)
    rank[by_group] = np.arange(len(gone)) - first[groups[by_group]]
    fits: Indices = gone[rank < allowed[groups]]
    return fits


class _Cost:
    """Counts the target for a set of units that stay."""

    def __init__(self, graph: ChannelGraph, units: Units, target: Target) -> None:
        atoms = np.ones(len(units.unit_of), dtype=np.int64)
        self.atoms = coo_array(
            (atoms, (units.axis_of_atom(), units.unit_of)), (len(units.axes), units.count)
        ).tocsr()
        """Shape (axes, units): how many positions of an axis belong to a unit."""
        axes_of: dict[str, dict[int, int]] = {}
        for i, axis in enumerate(units.axes):
            axes_of.setdefault(axis.tensor, {})[axis.dim] = i
        # Every term is factor x the product of the widths of some axes; other axes are constant.
        self.terms: list[tuple[int, list[int]]] = []
        outputs = set(graph.outputs())
        for tensor in sorted(graph.parameters):
            dims = axes_of.get(tensor, {})
            shape = graph.shapes[tensor]
            constant = math.prod(size for d, size in enumerate(shape) if d not in dims)
            match target:
                case "params":
                    self.terms.append((constant, list(dims.values())))
                case "macs":
                    if tensor in graph.positions:
                        factor = constant * graph.positions[tensor]
                        self.terms.append((factor, list(dims.values())))
                case "channels":
                    rows = [i for i in dims.values() if units.axes[i] in outputs]
                    if rows:
                        self.terms.append((1, rows))

    def __call__(self, stays: npt.NDArray[np.bool_]) -> int:
        widths = (self.atoms @ stays.astype(np.int64)).tolist()
        return sum(factor * math.prod([widths[i] for i in axes]) for factor, axes in self.terms)
