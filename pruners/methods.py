"""Which units go, for a budget.

A method says which channels go for an amount, from 0 to 1; the budget's search says for which
amount. Sizes shrink multiplicatively (a filter's cost depends on how many inputs are left), so the
cost is recounted exactly at every step of a binary search, never added up from estimates.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral, Real
from typing import Literal

import networkx as nx
import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import coo_array
from torch import Tensor

from pruners.channel_graph import Axis, ChannelGraph, Indices, Kept, Units, match_layers
from pruners.errors import PrunerError, did_you_mean
from pruners.scoring import Scores

Target = Literal["params", "macs", "channels"]
TARGETS: Mapping[Target, str] = {
    "params": "parameters",
    "macs": "multiply-accumulates",
    "channels": "channels",
}


USUAL_CAP = 0.9
"""What a layer loses at most, so that a ranking of the whole network cannot empty one."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How much must go.

    Attributes:
        prune_pct: percent of the target to remove, 0 <= prune_pct < 100; overshot by less than
            one unit (more with `round_to`).
        target: what is counted.
        min_filters: no layer becomes narrower than this; channels, also where several go at once.
        round_to: widths become a multiple of this, or stay as they are.
        max_ratio: no layer loses a larger share of its channels; by default 0.9, or more where
            the budget cannot be met otherwise or `ratios` say so.
        ratios: globs over module paths, and the share of their channels that matching layers lose
            whatever the budget; it is then met by the others. The last pair that matches a layer
            holds.
    """

    prune_pct: float
    target: Target = "params"
    min_filters: int = 2
    round_to: int = 1
    max_ratio: float | None = None
    ratios: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if not (_is_number(self.prune_pct) and 0 <= self.prune_pct < 100):  # also refuses NaN
            raise PrunerError(
                f"--prune-pct {_shown(self.prune_pct)}: expected a percentage of at least 0 and "
                f"below 100"
            )
        if not isinstance(self.target, str) or self.target not in TARGETS:
            raise PrunerError(
                f"--target {self.target}: unknown{did_you_mean(str(self.target), TARGETS)}; "
                f"expected one of {', '.join(TARGETS)}"
            )
        for option, value in (
            ("--min-filters", self.min_filters),
            ("--round-to", self.round_to),
        ):
            if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
                raise PrunerError(
                    f"{option} {_shown(value)}: expected a whole number of at least 1"
                )
        most = self.max_ratio
        if most is not None and not (_is_number(most) and 0 < most <= 1):
            raise PrunerError(
                f"--max-ratio {_shown(most)}: expected a share above 0 and up to 1, such as 0.8"
            )
        for glob, ratio in self.ratios:
            if not isinstance(glob, str):
                raise PrunerError(
                    f"--ratio {glob!r}: expected a glob over module paths, such as 'layer3.*'"
                )
            if not (_is_number(ratio) and 0 <= ratio < 1):
                raise PrunerError(
                    f"--ratio {glob}={_shown(ratio)}: expected a share of at least 0 and below 1, "
                    f"such as {glob}=0.7"
                )
            if most is not None and ratio > most:
                raise PrunerError(
                    f"--ratio {glob}={ratio:g}: is more than --max-ratio {most:g} lets a layer "
                    f"lose; expected a share of at most that, or another --max-ratio"
                )


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _shown(value: object) -> str:
    """As the user would write it: 0.5, but '0.5' where that is text."""
    return f"{value:g}" if isinstance(value, float) else repr(value)


@dataclass(frozen=True)
class ScoredLayer:
    """A layer with its scores, or several layers that lose their channels together.

    Attributes:
        scores: shape (channels,), float64; channels that stay in any case are left out.
        group: the number of the group, as in `graph.groups()`.
    """

    scores: Tensor
    group: int
    _graph: ChannelGraph
    _units: Units

    @cached_property
    def name(self) -> str:
        """The layers that make these channels: `layer1.0.conv2, layer1.1.conv2`."""
        outputs = set(self._graph.outputs())
        axes = [axis for axis in axes_of(self._units, self.group) if axis in outputs]
        return ", ".join(axis.tensor.removesuffix(".weight") for axis in axes)

    @cached_property
    def structure(self) -> str:
        """Equal for layers whose channels pass through the same kinds of layers."""
        return structure_of(self._graph, self._units, self.group)


Method = Callable[[float, Sequence[ScoredLayer], torch.device], Sequence[Tensor]]
"""(amount, layer_list, device) -> for every layer which channels go, shape (channels,), bool.

`amount` is the share of all channels that is to go, from 0 to 1; a larger amount takes more."""


def global_ranking(
    amount: float, layer_list: Sequence[ScoredLayer], device: torch.device
) -> list[Tensor]:
    """The least important channels of the whole network."""
    return _lowest(amount, layer_list, device, lambda layer: "")


def local_ranking(
    amount: float, layer_list: Sequence[ScoredLayer], device: torch.device
) -> list[Tensor]:
    """The least important channels of every layer, the same share of each."""
    return _lowest(amount, layer_list, device, lambda layer: str(layer.group))


def isomorphic_ranking(
    amount: float, layer_list: Sequence[ScoredLayer], device: torch.device
) -> list[Tensor]:
    """The least important channels among those of layers of the same structure.

    Fang et al., "Isomorphic Pruning for Vision Models" (2024, arXiv 2407.04616): scores of unlike
    sub-structures (the inside of a bottleneck, a residual stream, a gate) do not compare, so every
    kind is ranked by itself and loses the same share.
    """
    return _lowest(amount, layer_list, device, lambda layer: layer.structure)


def _lowest(
    amount: float,
    layer_list: Sequence[ScoredLayer],
    device: torch.device,
    pool_of: Callable[[ScoredLayer], str],
) -> list[Tensor]:
    """Of every pool of layers the share `amount` that scores lowest; of equals, the first go."""
    pools: dict[str, list[int]] = {}
    for i, layer in enumerate(layer_list):
        pools.setdefault(pool_of(layer), []).append(i)
    result: list[Tensor] = [torch.empty(0)] * len(layer_list)
    for members in pools.values():
        scores = torch.cat([layer_list[i].scores.to(device) for i in members])
        goes = torch.zeros(len(scores), dtype=torch.bool, device=device)
        # A share such as 3 / 48 of 16 channels is one of them, whatever the last bit says.
        goes[scores.argsort(stable=True)[: int(amount * len(scores) + 1e-6)]] = True
        sizes = [len(layer_list[i].scores) for i in members]
        for i, mask in zip(members, torch.split(goes, sizes), strict=True):
            result[i] = mask
    return result


def axes_of(units: Units, group: int) -> list[Axis]:
    """The axes that the units of a group touch."""
    atoms = units.group_of[units.unit_of] == group
    return [units.axes[i] for i in np.unique(units.axis_of_atom()[atoms])]


def structure_of(graph: ChannelGraph, units: Units, group: int) -> str:
    """A name for what the units of a group are made of: layers, their kinds, and who feeds whom.

    The Weisfeiler-Lehman hash of the group's part of the channel graph. Nodes are labelled by the
    tensor (`weight`, `running_mean`), its rank, the dimension and its role; widths play no part.
    """
    axes = axes_of(units, group)
    part = nx.Graph()
    for axis in axes:
        leaf, rank = axis.tensor.rpartition(".")[2], len(graph.shapes[axis.tensor])
        kernel = graph.shapes[axis.tensor][2:]
        role = graph.graph.nodes[axis].get("role", "")
        part.add_node(axis, kind=f"{leaf} {rank} {axis.dim} {role} {kernel}")
    part.add_edges_from(graph.graph.subgraph(axes).edges())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that hashes differ between versions
        return str(nx.weisfeiler_lehman_graph_hash(part, node_attr="kind"))


Stays = npt.NDArray[np.bool_]


def select(
    graph: ChannelGraph,
    units: Units,
    scores: Scores,
    budget: Budget,
    method: Method,
    *,
    name: str = "",
    device: torch.device | str = "cpu",
) -> Stays:
    """Shape (units,): which units stay.

    Args:
        scores: shape (units,); a unit whose score is NaN stays.
        name: of the method, for messages.
        device: where the method computes.

    Raises:
        PrunerError: the budget cannot be met (the message says how much can be removed), ratios
            contradict each other, or the method returned what is no selection.
    """
    made = np.zeros(units.count, dtype=bool)
    for axis in graph.outputs():
        made[units.of(axis)] = True
    # Only channels that a layer of the network makes can go.
    free = made & ~units.frozen & ~np.isnan(scores)
    ratios = ratios_of(graph, units, budget.ratios)
    cost = _Cost(graph, units, budget.target)
    full = cost(np.ones(units.count, dtype=bool))

    def removed(gone: Stays) -> int:
        return full - cost(~gone)

    def reached(gone: Stays) -> bool:
        return removed(gone) * 100 >= budget.prune_pct * full

    # Without a cap of the user's own, the usual one gives way before the budget does.
    caps = [budget.max_ratio] if budget.max_ratio is not None else [USUAL_CAP, 1.0]
    too_few: Stays | None = None
    for cap in caps:
        floors = Floors(graph, units, scores, budget.min_filters, cap, list(ratios))
        selection = _Selection(graph, units, scores, budget, floors, method, name, device)
        fixed = selection.by_ratio(ratios, free)
        searched = free & ~np.isin(units.group_of, list(ratios))
        most = selection.allowed(fixed | searched)
        if reached(most):
            gone = selection.search(fixed, searched, reached)
            if reached(gone):
                return ~gone
            too_few = gone

    def percent(gone: Stays) -> str:
        return f"{math.floor(removed(gone) * 1000 / full) / 10 if full else 0:g}"

    if too_few is not None:
        raise PrunerError(
            f"method {selection.name}: removes {percent(too_few)} percent of the "
            f"{TARGETS[budget.target]} at amount 1, but --prune-pct {budget.prune_pct:g} asks for "
            f"more and {percent(most)} could go; expected a method that takes more for a larger "
            f"amount, and all channels at 1"
        )
    capped = f", max_ratio={budget.max_ratio:g}" if budget.max_ratio is not None else ""
    if ratios and removed(selection.allowed(free)) > removed(most):
        capped += f", ratio {', '.join(f'{glob}={ratio:g}' for glob, ratio in budget.ratios)}"
    unscored = int((made & ~units.frozen & np.isnan(scores)).sum())
    raise PrunerError(
        f"--prune-pct {budget.prune_pct:g}: at most {percent(most)} percent of "
        f"the {TARGETS[budget.target]} can be removed with min_filters={budget.min_filters}, "
        f"round_to={budget.round_to}{capped} and {int(units.frozen.sum())} of {units.count} units "
        f"frozen{f', {unscored} without a score' if unscored else ''}"
    )


def select_below(
    graph: ChannelGraph, units: Units, scores: Scores, threshold: float, min_filters: int = 2
) -> Stays:
    """Shape (units,): the units that stay when all that score below the threshold go.

    Args:
        scores: shape (units,); a unit whose score is NaN stays.
        min_filters: a layer that would get thinner keeps its best ones.
    """
    made = np.zeros(units.count, dtype=bool)
    for axis in graph.outputs():
        made[units.of(axis)] = True
    gone = made & ~units.frozen & (scores < threshold)
    return ~Floors(graph, units, scores, min_filters, 1.0).kept(gone)


class _Selection:
    """What goes for an amount, within what may go."""

    def __init__(
        self,
        graph: ChannelGraph,
        units: Units,
        scores: Scores,
        budget: Budget,
        floors: Floors,
        method: Method,
        name: str,
        device: torch.device | str,
    ) -> None:
        self.graph, self.units, self.scores, self.budget = graph, units, scores, budget
        self.floors, self.method, self.device = floors, method, torch.device(device)
        self.name = name or getattr(method, "__name__", type(method).__name__)
        self.widths = np.bincount(units.group_of, minlength=1)
        self.rounding = _Rounding(graph, units, budget.round_to)

    def layers(self, free: Stays) -> tuple[list[Indices], list[ScoredLayer]]:
        """The units of every group that may go, and the group with their scores."""
        here = np.flatnonzero(free)
        order = here[np.argsort(self.units.group_of[here], kind="stable")]
        groups, first = np.unique(self.units.group_of[order], return_index=True)
        members = np.split(order, first[1:]) if len(order) else []
        layers = [
            ScoredLayer(torch.from_numpy(self.scores[units]), int(group), self.graph, self.units)
            for group, units in zip(groups, members, strict=True)
        ]
        return members, layers

    def by_ratio(self, ratios: Mapping[int, float], removable: Stays) -> Stays:
        """What goes of the groups whose ratio the user has given: their least important units."""
        gone = np.zeros(self.units.count, dtype=bool)
        for group, ratio in ratios.items():
            of_group = np.flatnonzero((self.units.group_of == group) & removable)
            count = int(ratio * self.widths[group] + 1e-6)
            gone[of_group[np.argsort(self.scores[of_group], kind="stable")[:count]]] = True
        return gone

    def search(self, fixed: Stays, searched: Stays, reached: Callable[[Stays], bool]) -> Stays:
        """The smallest selection, beyond what is fixed, that meets the budget."""
        members, layers = self.layers(searched)
        total = sum(len(units) for units in members)

        def gone(step: int) -> Stays:
            mask = fixed.copy()
            if step:
                masks = self._asked(step / total, layers)
                for units, goes in zip(members, masks, strict=True):
                    mask[units[goes]] = True
            return mask

        low, high = 0, total
        while low < high:
            middle = (low + high) // 2
            if reached(self.allowed(gone(middle))):
                high = middle
            else:
                low = middle + 1
        if low == 0:
            return self.allowed(gone(0))
        # One step may take a unit of each of several layers: no more of them than needed.
        before, after = gone(low - 1), gone(low)
        last = np.flatnonzero(after & ~before)
        last = last[np.argsort(self.scores[last], kind="stable")]
        if (before & ~after).any():
            return self.allowed(after)
        low, high = 1, max(len(last), 1)
        while low < high:
            middle = (low + high) // 2
            tried = before.copy()
            tried[last[:middle]] = True
            low, high = (low, middle) if reached(self.allowed(tried)) else (middle + 1, high)
        before[last[:low]] = True
        return self.allowed(before)

    def _asked(self, amount: float, layers: Sequence[ScoredLayer]) -> list[Stays]:
        """What the method says, checked."""
        try:
            masks = self.method(amount, layers, self.device)
        except PrunerError:
            raise
        except Exception as error:
            raise PrunerError(
                f"method {self.name}: raised {type(error).__name__} for amount {amount:.3g}: "
                f"{' '.join(str(error).split())}"
            ) from error
        found = list(masks) if isinstance(masks, list | tuple) else []
        fits = len(found) == len(layers) and all(
            isinstance(mask, Tensor)
            and mask.dtype == torch.bool
            and mask.shape == layer.scores.shape
            for mask, layer in zip(found, layers, strict=False)
        )
        if not fits:
            raise PrunerError(
                f"method {self.name}: returned what is no selection; expected a list with a bool "
                f"tensor for each of the {len(layers)} layers, of the shape of its scores"
            )
        return [mask.cpu().numpy() for mask in found]

    def allowed(self, gone: Stays) -> Stays:
        """Of the units that go, those that may: no layer gets too thin, widths are rounded."""
        return self._rounded(self.floors.kept(gone))

    def _rounded(self, gone: Stays) -> Stays:
        """Of the units that go, those that go when groups keep a multiple of channels.

        The number that stays is rounded up: the budget's search then takes more until it is met.
        """
        if self.budget.round_to == 1:
            return gone
        here = np.flatnonzero(gone)
        order = here[np.lexsort((self.scores[here], self.units.group_of[here]))]
        groups = self.units.group_of[order]
        removed = np.bincount(groups, minlength=len(self.widths))
        multiple = self.rounding.multiples
        stay = np.minimum(self.widths, -(-(self.widths - removed) // multiple) * multiple)
        rank = np.arange(len(order)) - (np.cumsum(removed) - removed)[groups]
        result = np.zeros_like(gone)
        result[order[rank < (self.widths - stay)[groups]]] = True
        for group in self.rounding.mixed:
            in_group = order[groups == group]
            result[in_group] = False
            result[in_group[: self.rounding.most(group, in_group)]] = True
        return result


class _Rounding:
    """How many units of a group make a multiple of `round_to` channels in all of its layers.

    A unit of a grouped convolution is a row of every group: 32 channels in a ResNeXt.
    """

    def __init__(self, graph: ChannelGraph, units: Units, round_to: int) -> None:
        self.round_to = round_to
        self.multiples: Indices = np.ones(int(units.group_of.max(initial=0)) + 1, dtype=np.int64)
        """Shape (groups,): the number of units that stay is a multiple of this."""
        self.mixed: set[int] = set()
        """Groups whose units do not all hold the same number of a layer's channels."""
        self.rows: dict[int, list[tuple[Indices, Indices]]] = {}
        """Of those, for every layer: its units, ascending, and how many channels each holds."""
        if round_to == 1:
            return
        for axis in graph.outputs():
            of_layer, rows = np.unique(units.of(axis), return_counts=True)
            groups = units.group_of[of_layer]
            for group in np.unique(groups).tolist():
                here = groups == group
                each = rows[here]
                self.rows.setdefault(group, []).append((of_layer[here], each))
                if (each != each[0]).any():
                    self.mixed.add(group)
                needed = round_to // math.gcd(round_to, int(each[0]))
                self.multiples[group] = math.lcm(int(self.multiples[group]), needed)
        self.rows = {group: self.rows[group] for group in self.mixed}

    def most(self, group: int, in_order: Indices) -> int:
        """How many of these units of a mixed group, from the first, may go."""
        for count in range(len(in_order), 0, -1):
            gone = in_order[:count]
            left = [rows[~np.isin(members, gone)].sum() for members, rows in self.rows[group]]
            if not any(width % self.round_to for width in left):
                return count
        return 0


def ratios_of(
    graph: ChannelGraph, units: Units, ratios: Sequence[tuple[str, float]]
) -> dict[int, float]:
    """The share of its channels that each group loses, where the user has said it.

    Args:
        ratios: pairs of a glob over module paths and a share; of several that match a layer, the
            last one holds. What a layer loses goes from all layers that are coupled with it.

    Raises:
        PrunerError: a glob matches no layer, or two layers of one group get different shares.
    """
    layers = {axis.tensor.removesuffix(".weight"): axis for axis in graph.outputs()}
    share: dict[str, float] = {}
    for glob, ratio in ratios:
        for layer in match_layers([glob], layers, option="--ratio"):
            share[layer] = ratio
    result: dict[int, float] = {}
    by_whom: dict[int, str] = {}
    for layer, ratio in sorted(share.items()):
        unit_of = units.of(layers[layer])
        for group in np.unique(units.group_of[unit_of[~units.frozen[unit_of]]]).tolist():
            if result.setdefault(group, ratio) != ratio:
                raise PrunerError(
                    f"--ratio: {by_whom[group]} is to lose {result[group]:g} and {layer} "
                    f"{ratio:g} of their channels, but they lose them together; give both the "
                    f"same ratio"
                )
            by_whom.setdefault(group, layer)
    return result


def short_of_ratios(
    graph: ChannelGraph, units: Units, scores: Scores, budget: Budget, kept: Kept
) -> list[str]:
    """A line for every ratio whose layers lose less than it says, and why."""
    layers = {axis.tensor.removesuffix(".weight"): axis for axis in graph.outputs()}
    holds: dict[str, int] = {}
    for number, (glob, _) in enumerate(budget.ratios):
        for layer in match_layers([glob], layers, option="--ratio"):
            holds[layer] = number
    widths = np.bincount(units.group_of, minlength=1)
    short: dict[int, list[str]] = {}
    for layer, number in sorted(holds.items()):
        axis = layers[layer]
        unit_of = units.of(axis)
        groups, rows = np.unique(units.group_of[unit_of], return_counts=True)
        asked = (budget.ratios[number][1] * widths[groups] + 1e-6).astype(np.int64)
        lost = len(unit_of) - len(kept[axis.tensor][axis.dim])
        if lost < int((asked * (rows / widths[groups])).sum() + 0.5):
            frozen = unit_of[units.frozen[unit_of]]
            if len(frozen):
                why = units.reasons[int(frozen[0])]
            elif np.isnan(scores[unit_of]).any():
                why = "the measure has no score for it"
            else:
                why = f"min_filters={budget.min_filters}, round_to={budget.round_to}"
            short.setdefault(number, []).append(
                f"{layer} loses {lost} of its {len(unit_of)} channels ({why})"
            )
    return [
        f"--ratio {glob}={ratio:g}: {short[number][0]}"
        + (f", and {len(short[number]) - 1} more lose less" if len(short[number]) > 1 else "")
        for number, (glob, ratio) in enumerate(budget.ratios)
        if number in short
    ]


def count_target(
    graph: ChannelGraph, units: Units, target: Target, stays: Stays | None = None
) -> int:
    """The target's count when these units stay (all of them by default)."""
    every = np.ones(units.count, dtype=bool)
    return _Cost(graph, units, target)(every if stays is None else stays)


class Floors:
    """How many channels every layer keeps: `min_filters`, and no less than `max_ratio` leaves.

    What reads a part of a layer's channels (behind a split, a slice) keeps one of them at least:
    torch has no layers of no channels.

    Args:
        of_ratios: groups whose share the user has said, which `max_ratio` does not cut.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        units: Units,
        scores: Scores,
        min_filters: int,
        max_ratio: float,
        of_ratios: Sequence[int] = (),
    ) -> None:
        self.layers: list[tuple[Indices, Indices, int]] = []
        """The units of a layer, the last to go first; how many of its channels each of them
        holds; and how many channels stay."""
        for axis in graph.outputs():
            of_layer, rows = np.unique(units.of(axis), return_counts=True)
            capped = int(rows[~np.isin(units.group_of[of_layer], of_ratios)].sum())
            count = max(min_filters, math.ceil((1 - max_ratio) * capped - 1e-6))
            # Of equals, the first go first.
            best = np.lexsort((-of_layer, -scores[of_layer]))
            self.layers.append((of_layer[best], rows[best], count))
        for members in _parts(graph, units):
            best = np.lexsort((-members, -scores[members]))
            self.layers.append((members[best], np.ones(len(members), dtype=np.int64), 1))

    def kept(self, gone: Stays) -> Stays:
        """Of the units that go, those that may; layers that got too thin keep their best ones."""
        result = gone.copy()
        for of_layer, rows, count in self.layers:
            goes = result[of_layer]
            lacking = count - int(rows[~goes].sum())
            if lacking > 0:
                back = np.searchsorted(np.cumsum(rows[goes]), lacking) + 1
                result[of_layer[goes][:back]] = False
        return result


def _parts(graph: ChannelGraph, units: Units) -> list[Indices]:
    """The units of every axis that no layer's floor keeps from being empty, each set once."""
    atoms = np.ones(len(units.unit_of), dtype=np.int64)
    shape = (len(units.axes), units.count)
    found = coo_array((atoms, (units.axis_of_atom(), units.unit_of)), shape).tocsr()
    found.data[:] = 1
    place = {axis: i for i, axis in enumerate(units.axes)}
    outputs = found[[place[axis] for axis in graph.outputs()]]
    common = (outputs @ found.T).tocoo()
    whole = np.asarray(outputs.sum(axis=1)).reshape(-1)
    # An axis that holds all channels of a layer has those that the layer keeps.
    kept = np.unique(common.col[common.data == whole[common.row]])
    free = np.setdiff1d(np.arange(len(units.axes)), kept)
    parts = {found.indices[found.indptr[i] : found.indptr[i + 1]].tobytes(): i for i in free}
    return [
        np.sort(found.indices[found.indptr[i] : found.indptr[i + 1]]).astype(np.int64)
        for i in parts.values()
        if found.indptr[i + 1] > found.indptr[i]
    ]


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
