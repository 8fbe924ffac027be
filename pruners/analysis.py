"""Both ways to the channel graph, and what they must agree on.

The trace finds the couplings of any network by watching it run; the calculators of decorated
blocks find theirs from the names in the decorators. The graph that is used comes from the trace;
what a decorator says of its block is held against it.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from pruners.blocks import calculator_of
from pruners.channel_graph import Axis, ChannelGraph, Coupling, Indices, Units, match_layers
from pruners.components import components
from pruners.dependencies import (
    Block,
    check_axes,
    declared_graph,
    find_blocks,
    meet,
    skipped_layers,
)
from pruners.errors import PrunerError, UnsupportedNetworkError
from pruners.layers import is_weighted, weight_axes
from pruners.metrics import no_collection
from pruners.replay import freeze_what_breaks, trace
from pruners.sizes.plan import refused
from pruners.tracing import Trace, examples_of, watch
from pruners.transformer_layers import couple_alike


# What a trace is made of stays until its end; looking through it for garbage, again and again, is
# half of the time in networks of a thousand layers.
@no_collection()
def analyse(
    model: nn.Module,
    example_inputs: Any,
    *,
    ignore: Sequence[str] = (),
    exact_only: bool = False,
) -> Trace:
    """The channel graph of any network, and the runs that it was found in.

    Args:
        model: left exactly as it was.
        example_inputs: one tensor, a tuple of positional inputs, a dict, or a list of several.
        ignore: globs over module paths; the output channels of matching layers stay.
        exact_only: freeze the groups under operators that count channels (layer norm, say), for
            which only the restricted network, not the masked one, is an oracle.

    Raises:
        PrunerError: a decorator names a wrong or missing layer, or says something of its block
            that the block does not do; a glob matches no layer.
        UnsupportedNetworkError: the forward raised on an example input.
    """
    blocks = [block for block in find_blocks(model).values() if block.spec.decorator]
    for block in blocks:
        block.check()
    found = watch(model, example_inputs)
    graph = found.graph
    graph.parameters = frozenset(name for name, _ in model.named_parameters())
    weighted = {path: m for path, m in model.named_modules() if is_weighted(m)}
    for path in sorted(match_layers(ignore, weighted)):
        graph.freeze(weight_axes(path, weighted[path])[0], "--ignore")
    _keep_skipped(model, graph)
    couple_alike(model, graph)
    if exact_only:
        for axis, positions, because in graph.renormalisations():
            graph.freeze(axis, f"--exact-only: {because} counts channels", positions)
    if blocks:
        units = graph.units()
        for block in blocks:
            check_against_trace(block, graph, units)
    freeze_what_breaks(model, found, refused)
    return found


def _keep_skipped(model: nn.Module, graph: ChannelGraph) -> None:
    """What `@skip` names stays; no run of the network could show that."""
    weighted = {path: m for path, m in model.named_modules() if is_weighted(m)}
    for path in skipped_layers(model, weighted):
        graph.freeze(weight_axes(path, weighted[path])[0], "@skip")


def positional_examples(model: nn.Module, example_inputs: Any) -> list[tuple[Any, ...]]:
    """Every example as the positional arguments of forward.

    Raises:
        PrunerError: a named input can only be given by name.
    """
    examples = []
    for number, (args, kwargs) in enumerate(examples_of(model, example_inputs)):
        try:
            bound = inspect.signature(model.forward).bind(*args, **kwargs)
        except TypeError as error:
            raise UnsupportedNetworkError(
                f"{type(model).__name__}: its forward cannot take example input {number}: {error}; "
                f"expected a tensor, a tuple of positional inputs or a dict of named ones"
            ) from error
        if bound.kwargs:
            raise PrunerError(
                f"example input {', '.join(bound.kwargs)}: {type(model).__name__}.forward takes it "
                f"by name only; expected arguments that can be given by position"
            )
        examples.append(bound.args)
    return examples


def check_against_trace(block: Block, graph: ChannelGraph, units: Units) -> None:
    """Raises PrunerError where a decorator ties channels of its block that run independently.

    The message has both answers side by side.
    """
    calculator = calculator_of(block.path, block.spec)
    interface, couplings = calculator.interface(block), list(calculator.internal(block))
    check_axes(graph, block, type(calculator).__name__, interface, couplings)
    for read in interface.reads:
        first = interface.reads[0]
        if read.groups == first.groups == 1 and not (read.spread or first.spread):
            couplings += meet((first.axis,), read, graph.size, block.path)
    for coupling in couplings:
        if coupling.a not in graph.graph or coupling.b not in graph.graph:
            continue
        here = units.of(coupling.a)[coupling.left]
        there = units.of(coupling.b)[coupling.right]
        apart = (here != there) & ~(units.frozen[here] & units.frozen[there])
        if apart.any():
            i = int(np.flatnonzero(apart)[0])
            raise PrunerError(_both_answers(block, graph, units, coupling, i))


def _both_answers(
    block: Block, graph: ChannelGraph, units: Units, coupling: Coupling, i: int
) -> str:
    position, other = int(coupling.left[i]), int(coupling.right[i])
    mates = _mates(units, coupling.a, position)
    if mates is None:
        shows = "it stays as it is"
    else:
        # What it meets on the axis that the decorator names comes first.
        near = sorted(mates, key=lambda mate: (mate[0] != coupling.b, mate))
        named = [f"channel {at} of {axis}" for axis, at in near]
        shows = f"it goes with {', '.join(named[:4]) or 'nothing'}"
    return (
        f"{block.path} ({type(block.module).__name__}): @{block.spec.decorator} says that channel "
        f"{position} of {coupling.a} goes with channel {other} of {coupling.b}, but running the "
        f"block shows that {shows}; correct the decorator, or leave it out"
    )


def compare_sources(
    model: nn.Module, example_inputs: Sequence[Any]
) -> tuple[ChannelGraph, ChannelGraph, list[str]]:
    """Declared graph, traced graph, and the differences between their units, a line each.

    For a network that is a chain of decorated blocks and layers.
    """
    declared = declared_graph(model, example_inputs)
    traced = trace(model, tuple(example_inputs)).graph
    _keep_skipped(model, traced)
    return declared, traced, differences(declared.units(), traced.units())


def differences(declared: Units, traced: Units) -> list[str]:
    """Where two partitions of the same atoms into units differ, a line an axis."""
    lines = [f"{axis}: only {who}" for axis, who in _only_one(declared, traced)]
    differ = _differing(declared, traced)
    return lines + [f"{axis}: declared and traced units differ" for axis, _ in differ]


def side_by_side(declared: Units, traced: Units) -> list[str]:
    """What `differences` finds, with both answers for the first channel that differs, as lines."""
    lines = [f"{axis}: only {who}" for axis, who in _only_one(declared, traced)]
    for axis, position in _differing(declared, traced):
        says, shows = (_mates(units, axis, position) for units in (declared, traced))
        lines += [
            f"channel {position} of {axis}",
            f"  decorators: {_listed(says, says - (shows or set()) if says else says)}",
            f"  trace:      {_listed(shows, shows - (says or set()) if shows else shows)}",
        ]
    return lines


def _only_one(declared: Units, traced: Units) -> list[tuple[Axis, str]]:
    """Axes that one has channels to remove from and that the other does not know."""
    found = []
    for axis in sorted(set(declared.axes) ^ set(traced.axes)):
        who, units = ("declared", declared) if axis in declared.axes else ("traced", traced)
        if not units.frozen[units.of(axis)].all():
            found.append((axis, who))
    return found


def _differing(declared: Units, traced: Units) -> list[tuple[Axis, int]]:
    """Axes whose channels are in other units, with the first such channel."""
    shared = [axis for axis in declared.axes if axis in set(traced.axes)]
    if not shared:
        return []
    a = np.concatenate([_live(declared, axis) for axis in shared])
    b = np.concatenate([_live(traced, axis) for axis in shared])
    sizes = [len(declared.of(axis)) for axis in shared]
    of_axis = np.repeat(np.arange(len(shared)), sizes)
    joined = _joined(a, b)
    # Two partitions are the same where joining them merges nothing.
    atoms = np.flatnonzero(_merged(a, joined) | _merged(b, joined))
    axes, first = np.unique(of_axis[atoms], return_index=True)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return [(shared[i], int(atoms[at] - starts[i])) for i, at in zip(axes, first, strict=True)]


def _mates(units: Units, axis: Axis, position: int) -> set[tuple[Axis, int]] | None:
    """The channels that go together with one; None where it stays."""
    unit = units.of(axis)[position]
    if units.frozen[unit]:
        return None
    atoms = np.flatnonzero(units.unit_of == unit)
    owners = units.axis_of_atom()[atoms]
    mates = {
        (units.axes[i], int(atom - units.starts[i])) for i, atom in zip(owners, atoms, strict=True)
    }
    return mates - {(axis, position)}


def _listed(mates: set[tuple[Axis, int]] | None, shown: set[tuple[Axis, int]] | None) -> str:
    if mates is None or shown is None:
        return "it stays"
    names = [f"channel {position} of {axis}" for axis, position in sorted(shown)]
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"goes with {', '.join(names[:4])}{more}" if names else "goes with none of those"


def check_decorators(model: nn.Module, example_inputs: Any) -> tuple[int, list[str]]:
    """How many blocks are decorated, and where decorators and trace differ (see `side_by_side`).

    Raises:
        PrunerError: a decorator names a wrong or missing layer, or ties channels that run
            independently; the network is no chain of layers and decorated blocks, so that there
            is no declared answer as a whole.
    """
    blocks = [block for block in find_blocks(model).values() if block.spec.decorator]
    if not blocks:
        return 0, []
    analyse(model, example_inputs)
    (example, *_) = positional_examples(model, example_inputs)
    declared, traced, _ = compare_sources(model, example)
    return len(blocks), side_by_side(declared.units(), traced.units())


def _live(units: Units, axis: Axis) -> Indices:
    """The units of an axis, all frozen ones as one."""
    of_axis = units.of(axis)
    return np.where(units.frozen[of_axis], -1, of_axis)


def _joined(a: Indices, b: Indices) -> Indices:
    _, left = np.unique(a, return_inverse=True)
    _, right = np.unique(b, return_inverse=True)
    count = left.max() + right.max() + 2
    return components(left, right + left.max() + 1, count)[left]


def _merged(part: Indices, joined: Indices) -> Any:
    """Shape (atoms,): whether the atom's class was joined with another class of its partition."""
    pairs = np.unique(np.stack([joined, part], 1), axis=0)
    classes, counts = np.unique(pairs[:, 0], return_counts=True)
    return np.isin(joined, classes[counts > 1])
