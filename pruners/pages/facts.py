"""What the page of a pruned network says: gathered from its result, as plain values.

Nothing is computed here that the result does not hold already; layers stand in the order in which
they run, groups in the order of their first layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pruners.base import PruningResult
from pruners.channel_graph import Axis, ChannelGraph, Kept, Units
from pruners.errors import PrunerError
from pruners.evaluation import Evaluation
from pruners.explain import Group, Tied, group_numbers, tied_to
from pruners.methods import TARGETS
from pruners.report import Report
from pruners.scoring import Scores
from pruners.side_by_side import Part, compared
from pruners.verify import Outcome

BINS = 32
"""Of the distribution of scores, from the lowest of all to the highest that is shown."""
_SHOWN = 99.0
"""Percentile of all scores that the axis reaches; what is above it stands in the last bin."""

Fate = Literal["kept", "removed", "frozen"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of the network at every stage."""

    name: str
    unit: Literal["%", "count", "bytes", "ms"]
    values: tuple[float, ...]
    """In the order of `RunFacts.stages`."""
    is_cost: bool
    """The less the better; else it is what the network gets right."""

    @property
    def left_pct(self) -> float:
        """What the last stage has of the first, in percent."""
        return 100 * self.values[-1] / self.values[0] if self.values[0] else 100.0


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that makes channels."""

    name: str
    kind: str
    """Its class: `Conv2d`."""
    group: int
    before: int
    """Output channels."""
    after: int
    because: str
    """Why it lost none; empty where it did."""
    ties: tuple[Tied, ...]
    """What goes with its output channels."""
    reads: tuple[int, ...]
    """The groups that its inputs belong to."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """How the scores of a group's units are distributed, by what became of them."""

    kept: tuple[int, ...]
    """Units in every bin; `RunFacts.edges` has the bounds."""
    removed: tuple[int, ...]
    frozen: tuple[int, ...]
    cut: float | None
    """Between the highest score that went and the lowest that stayed; where they overlap, the
    highest that went. None where nothing went."""


@dataclass(frozen=True, slots=True)
class CoupledGroup:
    """Layers whose channels go together."""

    number: int
    units: int
    """The smallest things that can be removed: a channel of each of its layers."""
    removed: int
    frozen: int
    reasons: tuple[str, ...]
    """Why the frozen ones stay."""
    renormalised: tuple[str, ...]
    layers: tuple[str, ...]
    """That make its channels, as they run."""
    readers: tuple[str, ...]
    """That have its channels as inputs."""
    scores: Distribution | None
    """None where no layer has a score for its units."""


@dataclass(frozen=True, slots=True)
class Frozen:
    """Channels that stay for one reason."""

    reason: str
    units: int
    layers: tuple[str, ...]
    """That make them; empty where only inputs of the network are meant."""


@dataclass(frozen=True, slots=True)
class RunFacts:
    """The page of one pruned network."""

    network: str
    stem: str
    """Of the files: `resnet20_50`."""
    factory: str
    report: Report
    target: str
    """What the percentage is of, in words."""
    dataset: str
    """That accuracies are of; empty where none were measured."""
    stages: tuple[str, ...]
    """before, pruned, ..."""
    figures: tuple[Figure, ...]
    outcome: Outcome | None
    layers: tuple[Layer, ...]
    groups: tuple[CoupledGroup, ...]
    edges: tuple[float, ...]
    """Of the bins of all distributions."""
    frozen: tuple[Frozen, ...]
    parts: tuple[Part, ...]
    """Original and generated source, definition by definition."""
    no_original: str
    """Why there is no original beside the generated source; empty where there is."""
    source: str
    weights: str
    """The file that the network's weights are in."""

    @property
    def has_latency(self) -> bool:
        """Whether the page holds timings, which differ from run to run."""
        return any(figure.unit == "ms" for figure in self.figures)

    @property
    def channels(self) -> tuple[int, int]:
        """Output channels of all layers, before and after."""
        return sum(x.before for x in self.layers), sum(x.after for x in self.layers)


def facts_of(
    result: PruningResult,
    evaluations: Mapping[str, Evaluation],
    *,
    outcome: Outcome | None = None,
    dataset: str = "",
    source: str | None = None,
    weights: str | None = None,
) -> RunFacts:
    """All that the page of a pruned network says.

    Args:
        evaluations: figures by stage, at least of two: `{"before": ..., "pruned": ...}`.
        outcome: of the verification.
        dataset: that accuracies are of.
        source: text of the generated file, where it was saved with other weights than the
            result's own.
        weights: name of the weights file.
    """
    if len(evaluations) < 2:
        raise PrunerError(
            f"page of {result.fileName}: figures of {', '.join(evaluations) or 'no stage'}; "
            f"expected those before and after pruning"
        )
    pruning, graph = result.pruning, result.graph
    options = pruning.options
    source = result.source if source is None else source
    numbers = group_numbers(graph)
    groups, edges = _groups(graph, result.units, result.kept, result.scored.units, numbers)
    parts, no_original = _parts(result, source)
    return RunFacts(
        network=pruning.netName,
        stem=result.fileName,
        factory=result.writer.factory,
        report=result.report,
        target=TARGETS[options.target],
        dataset=dataset,
        stages=tuple(evaluations),
        figures=_figures([*evaluations.values()]),
        outcome=outcome,
        layers=_layers(result, numbers),
        groups=groups,
        edges=edges,
        frozen=_frozen(graph, result.units),
        parts=parts,
        no_original=no_original,
        source=source,
        weights=weights or f"{result.fileName}_pruned_v1.0.pth",
    )


def _figures(stages: Sequence[Evaluation]) -> tuple[Figure, ...]:
    """What was measured at every stage; the most telling first."""
    found = []
    k = stages[0].top_k
    for name, of, unit, is_cost in (
        ("Test accuracy", "accuracy", "%", False),
        (f"Top-{k} accuracy", "top_k_accuracy", "%", False),
        ("Parameters", "parameters", "count", True),
        ("Multiply-accumulates", "macs", "count", True),
        ("Activation memory", "activation_bytes", "bytes", True),
        ("Weights file", "bytes", "bytes", True),
        ("Latency", "latency_ms", "ms", True),
    ):
        values = [getattr(stage, of) for stage in stages]
        if any(value is None for value in values) or (of == "top_k_accuracy" and (k or 0) < 2):
            continue
        found.append(Figure(name, unit, tuple(map(float, values)), is_cost))  # type: ignore[arg-type]
    return tuple(found)


# --- layers and groups -------------------------------------------------------------------------


def _in_order(graph: ChannelGraph) -> list[Axis]:
    """The axes of output channels, in the order in which their layers run."""
    run = {weight: i for i, weight in enumerate(graph.positions)}
    written = {tensor: i for i, tensor in enumerate(graph.shapes)}
    return sorted(
        graph.outputs(), key=lambda a: (run.get(a.tensor, len(run)), written[a.tensor], a.dim)
    )


def _layers(result: PruningResult, numbers: Mapping[int, int]) -> tuple[Layer, ...]:
    graph, units, kept = result.graph, result.units, result.kept
    inputs: dict[str, list[Axis]] = {}
    for axis, role in graph.graph.nodes(data="role"):
        if role == "in":
            inputs.setdefault(axis.tensor, []).append(axis)
    found: dict[str, Layer] = {}
    for axis in _in_order(graph):
        name = _layer_of(axis)
        read = [units.group_of[np.unique(units.of(a))] for a in inputs.get(axis.tensor, [])]
        reads = np.unique(np.concatenate(read)) if read else np.empty(0, dtype=np.int64)
        found.setdefault(
            name,
            Layer(
                name,
                _kind(result, name),
                # One of a single channel may be in a group that is not among those of the page.
                numbers[_group_of(units, axis)],
                graph.size(axis),
                len(kept[axis.tensor][axis.dim]),
                result.report.kept_because.get(name, ""),
                tied_to(graph, axis),
                tuple(sorted(numbers[group] for group in reads.tolist())),
            ),
        )
    return tuple(found.values())


def _layer_of(axis: Axis) -> str:
    """The layer that has the axis; a parameter of the network itself goes by its own name."""
    return axis.tensor.rpartition(".")[0] or axis.tensor


def _group_of(units: Units, axis: Axis) -> int:
    """The group that a layer is shown in: that of most of its channels."""
    return int(np.bincount(units.group_of[units.of(axis)]).argmax())


def _kind(result: PruningResult, layer: str) -> str:
    try:
        return type(result.pruning.model.get_submodule(layer)).__name__
    except AttributeError:  # a parameter of its own
        return "Parameter"


def _groups(
    graph: ChannelGraph, units: Units, kept: Kept, scores: Scores, numbers: Mapping[int, int]
) -> tuple[tuple[CoupledGroup, ...], tuple[float, ...]]:
    """The groups that some layer makes the channels of, and the bins of their distributions."""
    stays = np.zeros(units.count, dtype=bool)
    for axis in units.axes:
        stays[units.of(axis)[kept[axis.tensor][axis.dim]]] = True
    makers: dict[int, dict[str, None]] = {}
    readers: dict[int, dict[str, None]] = {}
    most: dict[str, int] = {}
    for axis in _in_order(graph):
        name = _layer_of(axis)
        most.setdefault(name, _group_of(units, axis))
        for group in np.unique(units.group_of[units.of(axis)]).tolist():
            makers.setdefault(group, {})[name] = None
    for axis, role in graph.graph.nodes(data="role"):
        if role == "in":
            name = _layer_of(axis)
            for group in np.unique(units.group_of[units.of(axis)]).tolist():
                readers.setdefault(group, {})[name] = None
    order = {name: i for i, name in enumerate(most)}
    told: dict[int, Group] = {group.number: group for group in graph.groups()}
    edges = _edges(scores[[group in makers for group in units.group_of.tolist()]])
    found = []
    for group in sorted(makers, key=lambda g: min(order[name] for name in makers[g])):
        members = units.group_of == group
        described = told[numbers[group]]
        if described.is_trivial:
            continue
        found.append(
            CoupledGroup(
                number=described.number,
                units=described.units,
                removed=int((members & ~stays).sum()),
                frozen=described.frozen,
                reasons=described.reasons,
                renormalised=described.renormalised,
                layers=tuple(name for name in makers[group] if most[name] == group),
                readers=tuple(sorted(readers.get(group, ()), key=lambda n: order.get(n, -1))),
                scores=_distribution(scores, members, stays, units.frozen, edges),
            )
        )
    return tuple(found), tuple(edges.tolist())


def _edges(scores: Scores) -> npt.NDArray[np.float64]:
    """Bounds of the bins, shape (BINS + 1,)."""
    finite = scores[np.isfinite(scores)]
    if not len(finite):
        return np.linspace(0.0, 1.0, BINS + 1)
    low, high = float(finite.min()), float(np.percentile(finite, _SHOWN))
    return np.linspace(low, high if high > low else low + 1.0, BINS + 1)


def _distribution(
    scores: Scores,
    members: npt.NDArray[np.bool_],
    stays: npt.NDArray[np.bool_],
    frozen: npt.NDArray[np.bool_],
    edges: npt.NDArray[np.float64],
) -> Distribution | None:
    members = members & np.isfinite(scores)
    if not members.any():
        return None

    def counted(which: npt.NDArray[np.bool_]) -> tuple[int, ...]:
        values = np.clip(scores[members & which], edges[0], edges[-1])
        return tuple(np.histogram(values, edges)[0].tolist())

    gone, left = scores[members & ~stays], scores[members & stays & ~frozen]
    cut = None
    if len(gone):
        highest = float(gone.max())
        lowest = float(left.min()) if len(left) else highest
        cut = (highest + lowest) / 2 if lowest >= highest else highest
    return Distribution(counted(stays & ~frozen), counted(~stays), counted(stays & frozen), cut)


def _frozen(graph: ChannelGraph, units: Units) -> tuple[Frozen, ...]:
    """By reason, the units that stay and the layers that make them; most units first."""
    counts = Counter(units.reasons.values())
    layers: dict[str, dict[str, None]] = {reason: {} for reason in counts}
    for axis in _in_order(graph):
        of_axis = np.unique(units.of(axis))
        for unit in of_axis[units.frozen[of_axis]].tolist():
            name = _layer_of(axis)
            layers[units.reasons[unit]][name] = None
    return tuple(
        Frozen(reason, count, tuple(layers[reason]))
        for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )


def _parts(result: PruningResult, source: str) -> tuple[tuple[Part, ...], str]:
    try:
        parts: list[Any] = compared(result.pruning.model, source, f"{result.fileName}.py")
    except PrunerError as error:
        return (), str(error)
    return tuple(parts), ""
