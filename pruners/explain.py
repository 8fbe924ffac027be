"""The channel graph in words: groups, what is tied to a layer and by which operator, a sketch.

`ChannelGraph.groups`, `explain` and `to_dot` are these functions as methods.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pruners.errors import PrunerError, did_you_mean
from pruners.progress import printable

if TYPE_CHECKING:
    from pruners.channel_graph import Axis, ChannelGraph, Indices, Units

_OF_LAYERS = {"weight", "bias", "running_mean", "running_var"}
"""Tensors that are called by the name of their layer; others by their own."""


@dataclass(frozen=True, slots=True)
class GroupAxis:
    """What the units of a group take from one dimension of one tensor."""

    tensor: str
    dim: int
    role: str
    """"out" for the rows of a weight, "in" for its columns, empty for other tensors."""
    channels: int
    """Positions that are in the group."""
    size: int
    """All positions."""

    @property
    def layer(self) -> str:
        return layer_of(self.tensor)


@dataclass(frozen=True, slots=True)
class Group:
    """Units that touch the same axes."""

    number: int
    units: int
    axes: tuple[GroupAxis, ...]
    """In the order of the `state_dict`."""
    frozen: int
    """Units that stay."""
    reasons: tuple[str, ...]
    """Why they stay."""
    renormalised: tuple[str, ...]
    """Places of the operators whose result depends on how many units there are."""

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(axis.layer for axis in self.axes))

    @property
    def is_trivial(self) -> bool:
        """Nothing but weights with a single channel, as depthwise ones have: nothing to choose."""
        return all(axis.size == 1 for axis in self.axes)


def layer_of(tensor: str) -> str:
    """The path of the layer that a tensor belongs to, or the tensor's own name."""
    layer, _, name = tensor.rpartition(".")
    return layer if layer and name in _OF_LAYERS else tensor


def groups(graph: ChannelGraph) -> tuple[Group, ...]:
    """The groups, in the order in which their axes stand in the `state_dict`."""
    units = graph.units()
    axes, ranked = _axes_of_groups(graph, units)
    sizes = np.bincount(units.group_of)
    frozen = np.bincount(units.group_of, weights=units.frozen).astype(int)
    reasons = _by_group(units, units.reasons.items())
    renormalised = _counting(graph, units)
    return tuple(
        Group(
            number,
            int(sizes[group]),
            tuple(axes[group]),
            int(frozen[group]),
            reasons.get(group, ()),
            renormalised.get(group, ()),
        )
        for number, group in enumerate(ranked)
    )


def group_numbers(graph: ChannelGraph) -> dict[int, int]:
    """By the number that a group has in `Units.group_of`, the one that it is shown with."""
    _, ranked = _axes_of_groups(graph, graph.units())
    return {group: number for number, group in enumerate(ranked)}


def _axes_of_groups(
    graph: ChannelGraph, units: Units
) -> tuple[dict[int, list[GroupAxis]], list[int]]:
    """The axes of every group, and the groups in the order in which they are shown."""
    order = {tensor: i for i, tensor in enumerate(graph.shapes)}
    axis_of_atom = units.axis_of_atom()
    group_of_atom = units.group_of[units.unit_of]
    pairs, counts = np.unique(
        np.stack([group_of_atom, axis_of_atom], axis=1), axis=0, return_counts=True
    )
    axes: dict[int, list[GroupAxis]] = {}
    for (group, i), count in zip(pairs.tolist(), counts.tolist(), strict=True):
        axis = units.axes[i]
        role = graph.graph.nodes[axis].get("role", "")
        described = GroupAxis(axis.tensor, axis.dim, role, count, graph.size(axis))
        axes.setdefault(group, []).append(described)
    for group in axes:
        axes[group].sort(key=lambda axis: (order[axis.tensor], axis.dim))
    ranked = sorted(axes, key=lambda g: (order[axes[g][0].tensor], axes[g][0].dim, g))
    return axes, ranked


def _by_group(units: Units, said: Iterable[tuple[int, str]]) -> dict[int, tuple[str, ...]]:
    found: dict[int, dict[str, None]] = {}
    for unit, text in said:
        found.setdefault(int(units.group_of[unit]), {})[text] = None
    return {group: tuple(sorted(texts)) for group, texts in found.items()}


def _counting(graph: ChannelGraph, units: Units) -> dict[int, tuple[str, ...]]:
    """By group the places of all operators that count its units, in the order of the run."""
    places: dict[int, dict[str, None]] = {}
    for axis, positions, because in graph.renormalisations():
        for group in np.unique(units.group_of[units.of(axis)[positions]]).tolist():
            places.setdefault(group, {})[because] = None
    return {group: tuple(found) for group, found in places.items()}


# --- one layer ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Tie:
    """One axis that goes with another, and the last operator on the way there."""

    axis: Axis
    because: str
    parent: Axis


def explain(graph: ChannelGraph, layer: str) -> str:
    """What goes together with the channels of a layer, and which operator ties each of it.

    Raises:
        PrunerError: there is no such layer; the message offers near names.
    """
    tensors = [tensor for tensor in graph.shapes if layer in (layer_of(tensor), tensor)]
    if not tensors:
        raise PrunerError(_unknown_layer(graph, layer))
    axes = sorted(axis for axis in graph.graph if axis.tensor in tensors)
    if not axes:
        return f"{layer}: no run of the network reaches it, so it stays as it is"
    sides: dict[str, Axis] = {}
    for axis in sorted(axes, key=lambda axis: graph.graph.nodes[axis].get("role", "") != "out"):
        name = _called(graph, axis)
        # Of a layer's tensors the first speaks for all: a bias has the channels of its weight.
        sides.setdefault(name.removeprefix(layer_of(axis.tensor)).strip() or "channels", axis)
    lines = [layer]
    for side, axis in sides.items():
        lines += _explained(graph, axis, side)
    return "\n".join(lines)


def _unknown_layer(graph: ChannelGraph, layer: str) -> str:
    layers = _layers(graph)
    inside = [name for name in layers if name.startswith(f"{layer}.")]
    if inside:
        more = ", ..." if len(inside) > 5 else ""
        return f"{layer}: has no channels of its own; its layers are {', '.join(inside[:5])}{more}"
    shown = f"; the layers are {', '.join(layers[:5])}{', ...' if len(layers) > 5 else ''}"
    return f"{layer}: the network has no such layer{did_you_mean(layer, layers) or shown}"


@dataclass(frozen=True, slots=True)
class Tied:
    """What goes with the channels of a layer."""

    name: str
    """`layer1.0.conv2 inputs`"""
    because: str
    """The operator that ties it, and the neighbour through which it is reached, if any."""
    channels: int
    """Of it that are tied."""
    of: int
    """All its channels."""


def tied_to(graph: ChannelGraph, axis: Axis) -> tuple[Tied, ...]:
    """What goes with the channels of an axis, nearest first."""
    units, layer = graph.units(), layer_of(axis.tensor)
    own = np.unique(units.of(axis))
    ties: dict[str, Tied] = {}
    for tie in _ties(graph, units, axis):
        name = _called(graph, tie.axis)
        if name == _called(graph, axis):
            continue
        neighbour = _called(graph, tie.parent)
        named = layer, tie.because.rpartition(": ")[0]
        via = "" if layer_of(tie.parent.tensor) in named else f", with {neighbour}"
        count = int(np.isin(units.of(tie.axis), own).sum())
        ties.setdefault(name, Tied(name, f"{tie.because}{via}", count, graph.size(tie.axis)))
    return tuple(ties.values())


def _explained(graph: ChannelGraph, axis: Axis, side: str) -> Iterator[str]:
    units = graph.units()
    own = np.unique(units.of(axis))
    ties = tied_to(graph, axis)
    size = graph.size(axis)
    yield f"  {side}: {_many(size, 'channel')} in {_many(len(own), 'unit')}" + (
        ", tied to" if ties else ", tied to nothing else"
    )
    width = max((len(tied.name) for tied in ties), default=0)
    for tied in ties:
        part = f" ({tied.channels} of {tied.of} channels)" if tied.channels != tied.of else ""
        yield f"    {tied.name:{width}}  by {tied.because}{part}"
    counts = Counter(units.reasons[unit] for unit in own.tolist() if unit in units.reasons)
    for why, count in counts.items():
        whole = "all" if count == len(own) else f"{count} of {len(own)}"
        yield f"    {whole} stay: {why}"
    counting = _counting(graph, units)
    places = {p: None for g in np.unique(units.group_of[own]) for p in counting.get(int(g), ())}
    if places:
        more = f" and {len(places) - 3} more" if len(places) > 3 else ""
        yield f"    renormalised: {', '.join([*places][:3])}{more} depend on how many there are"


def _called(graph: ChannelGraph, axis: Axis) -> str:
    """The layer, with the side of it that is meant where it has two."""
    layer = layer_of(axis.tensor)
    role = graph.graph.nodes[axis].get("role", "")
    if not role and any(_role(graph, f"{layer}.weight", dim) == "out" for dim in (0, 1)):
        role = "out"  # the bias
    return layer + {"out": " outputs", "in": " inputs", "": ""}[role]


def _role(graph: ChannelGraph, tensor: str, dim: int) -> str:
    role: str = graph.graph.nodes.get((tensor, dim), {}).get("role", "")
    return role


def _layers(graph: ChannelGraph) -> list[str]:
    """All that has channels, reached or not."""
    return list(dict.fromkeys(layer_of(tensor) for tensor, shape in graph.shapes.items() if shape))


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _ties(graph: ChannelGraph, units: Units, start: Axis) -> Iterator[_Tie]:
    """Everything that shares a unit with an axis, nearest first, by shortest paths of couplings.

    The way from axis to axis must carry the unit: two layers that are concatenated both lead to
    the batch norm behind them, but not to each other. Units of one group touch the same axes, so
    one of each group tells the way for all.
    """
    own = np.unique(units.of(start))
    _, first = np.unique(units.group_of[own], return_index=True)
    index = {axis: i for i, axis in enumerate(units.axes)}
    found: set[Axis] = {start}
    for unit in own[np.sort(first)].tolist():
        # The ways that this unit takes, walked over afresh: an axis may be known by another unit.
        seen, queue = {start}, deque([start])
        while queue:
            here = queue.popleft()
            for _, there, data in graph.graph.edges(here, data=True):
                if there in seen or not _carries(units, index, data["pair"], unit):
                    continue
                seen.add(there)
                queue.append(there)
                if there not in found:
                    found.add(there)
                    yield _Tie(there, data["because"], here)


def _carries(
    units: Units, index: dict[Axis, int], pair: tuple[Axis, Indices, Indices], unit: int
) -> bool:
    axis, positions, _ = pair
    here = units.unit_of[units.starts[index[axis]] + positions]
    return bool((here == unit).any())


# --- a sketch ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SketchedLayer:
    """A layer as a box."""

    name: str
    colour: str
    about: str


@dataclass(frozen=True, slots=True)
class SketchedTie:
    """Two layers and the operator that ties their channels."""

    a: str
    b: str
    reads: bool
    """`b` has the channels of `a` as its inputs; else the two have the same ones."""
    because: str
    label: str
    """The operator's name, where it is in neither layer."""
    colour: str


@dataclass(frozen=True, slots=True)
class Sketch:
    layers: tuple[SketchedLayer, ...]
    ties: tuple[SketchedTie, ...]


STAYS = "#d0d0d0"
"""Colour of what stays."""


def sketch(graph: ChannelGraph) -> Sketch:
    """Layers in the colour of the group of their outputs, and what ties them."""
    colour: dict[str, str] = {}
    about: dict[str, str] = {}
    best: dict[str, tuple[bool, int]] = {}
    of_group: dict[tuple[str, int], str] = {}
    for group in groups(graph):
        shade = STAYS if group.frozen == group.units else _shade(group.number)
        for axis in group.axes:
            layer, rank = axis.layer, (axis.role != "in", axis.channels)
            if rank > best.get(layer, (False, 0)):
                best[layer], colour[layer] = rank, shade
                about[layer] = f"group {group.number}: {_many(group.units, 'unit')}" + (
                    f", {group.frozen} stay: {group.reasons[0]}" if group.frozen else ""
                )
            of_group.setdefault((axis.tensor, axis.dim), shade)
    order = {tensor: i for i, tensor in enumerate(graph.shapes)}
    ties: dict[tuple[str, str, bool, str], SketchedTie] = {}
    for a, b, data in graph.graph.edges(data=True):
        roles = [graph.graph.nodes[axis].get("role", "") for axis in (a, b)]
        if "in" in roles:
            a, b = (b, a) if roles[0] == "in" else (a, b)
        elif order[a.tensor] > order[b.tensor]:
            a, b = b, a
        one, other = layer_of(a.tensor), layer_of(b.tensor)
        if one == other:
            continue
        reads, because = roles.count("in") == 1, data["because"]
        place, _, operator = because.rpartition(": ")
        label = "" if place in (one, other) or because == "the same tensor" else operator
        shade = of_group[(a.tensor, a.dim)]
        tie = SketchedTie(one, other, reads, because, label, shade)
        ties.setdefault((one, other, reads, because), tie)
    names = _layers(graph)
    layers = [SketchedLayer(name, colour[name], about[name]) for name in names if name in colour]
    place_of = {name: i for i, name in enumerate(names)}
    ordered = sorted(ties.values(), key=lambda t: (place_of[t.a], place_of[t.b], t.because))
    return Sketch(tuple(layers), tuple(ordered))


def _shade(number: int) -> str:
    """Light colours, far from their neighbours': every step is the golden angle."""
    hue = (number * 137.508 + 200) % 360
    # The way from HSL to RGB with a saturation of 70 % and a lightness of 78 %.
    parts = []
    for n in (0, 8, 4):
        k = (n + hue / 30) % 12
        parts.append(round(255 * (0.78 - 0.154 * max(-1.0, min(k - 3, 9 - k, 1.0)))))
    return "#" + "".join(f"{part:02x}" for part in parts)


def to_dot(graph: ChannelGraph) -> str:
    """The sketch as Graphviz DOT: arrows lead to the layers that read, lines tie equals."""
    drawn = sketch(graph)
    number = {layer.name: f"n{i}" for i, layer in enumerate(drawn.layers)}
    lines = [
        "digraph channels {",
        '  node [shape=box, style="filled,rounded", fontname="Helvetica", fontsize=11];',
        '  edge [fontname="Helvetica", fontsize=9, penwidth=2];',
    ]
    for layer in drawn.layers:
        lines.append(
            f"  {number[layer.name]} [label={_quoted(layer.name)}, "
            f'fillcolor="{layer.colour}", tooltip={_quoted(layer.about)}];'
        )
    for tie in drawn.ties:
        ends = f"{number[tie.a]} -> {number[tie.b]}"
        direction = "forward" if tie.reads else "none"
        lines.append(
            f'  {ends} [color="{tie.colour}", dir={direction}, label={_quoted(tie.label)}, '
            f"tooltip={_quoted(tie.because)}];"
        )
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    """A DOT string that shows the text and nothing else, whatever it looks like.

    In quotes a `<b>` is no HTML; Graphviz still knows `\\N` and `&amp;` there, and has no escape
    for control characters, which Python's own escapes stand for.
    """
    shown = printable(text).replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{shown}"'
