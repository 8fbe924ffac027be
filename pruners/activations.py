"""Where the channels of every layer are in a run: what it reads, and what becomes of its outputs.

A layer's activation is not its own output but what its channels are behind the activation
function that they reach first: in `conv -> bn -> relu` the result of the relu, also where that is
a call of `F.relu` or follows an addition or a concatenation. Where the next layer reads them as
they are (a linear bottleneck), they count as it reads them. The steps of a traced run say all this:
which step every tensor came from, and, by its labels, which unit every position belongs to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pruners.calls import words
from pruners.channel_graph import Axis, Indices, Units
from pruners.labels import Labels, collapse, varies
from pruners.notes import Weight
from pruners.tracing import Step, Tape, Trace, name_of

RELU_LIKE = frozenset(
    words(
        "relu relu6 hardtanh leaky_relu elu selu celu gelu silu mish softplus hardswish rrelu "
        "rrelu_with_noise prelu _prelu_kernel threshold clamp_min"
    )
)
"""Activation functions that are zero, or nearly so, on one side."""
ACTIVATIONS = RELU_LIKE | set(words("sigmoid tanh hardsigmoid log_sigmoid softsign glu clamp"))
_CONTRACTIONS = frozenset(
    words("mm bmm matmul addmm baddbmm addmv mv einsum scaled_dot_product_attention")
)


@dataclass(frozen=True, slots=True)
class Place:
    """A dimension of a tensor in a run."""

    step: int
    operand: int
    """Which of the tensors that go into the step; -1 for its (first) result."""
    dim: int
    units: Indices
    """Shape (size of the dimension,): the unit of every position; -1 where nobody's."""


@dataclass(frozen=True, slots=True)
class Use:
    """One call of a layer."""

    axis: Axis
    """The output channels of its weight."""
    size: int
    """How many they are. A call may make some of them only, or each of them several times."""
    reads: Place
    """Its input channels."""
    groups: int
    """How often the input columns of the weight go into what it reads; 0 where they do not."""
    makes: Place
    """Its output channels, as they leave the layer."""
    behind: Place
    """Its output channels behind the activation function."""
    positions: Indices
    rows: Indices
    """Shape (pairs,) both: position `positions[i]` of `behind` holds output channel `rows[i]` of
    the weight."""
    activation: str
    """Name of the function; empty where there is none."""

    @property
    def weight(self) -> str:
        """Name of its weight."""
        return self.axis.tensor


def uses_of(trace: Trace, units: Units, tape: Tape | None = None) -> list[Use]:
    """The calls of all layers in a run (the first one by default), in their order."""
    tape = trace.tapes[0] if tape is None else tape
    unit_of = _units_of_atoms(trace, units)
    layers = [
        (number, weight, ports)
        for number, step in enumerate(tape.steps)
        for weight in step.weights
        if (ports := _ports(step, weight)) is not None
    ]
    behind = _behind(tape.steps, [number for number, _, _ in layers])
    uses = []
    for (number, weight, (operand, in_dim, out_dim)), end in zip(layers, behind, strict=True):
        step = tape.steps[number]
        atoms = _along(step.ins[operand], step.in_shapes[operand], in_dim)
        reads = Place(number, operand, in_dim, unit_of[atoms])
        made = _along(step.outs[0], step.out_shapes[0], out_dim)
        makes = Place(number, -1, out_dim, unit_of[made])
        row_of = _rows(weight, made, unit_of)
        if row_of is None:
            continue
        found = None if end == number else _where(tape.steps[end], end, made, unit_of)
        if found is None:
            every = np.arange(len(made))
            found = makes, every, every
            end = number
        place, positions, rows = found
        rows = row_of[rows]
        axis, size = Axis(weight.param.name, weight.out_dim), weight.param.shape[weight.out_dim]
        uses.append(
            Use(
                axis,
                size,
                reads,
                _groups(step, weight, len(atoms)),
                makes,
                place,
                positions[rows >= 0],
                rows[rows >= 0],
                _activation(tape.steps[end]),
            )
        )
    return uses


def _rows(weight: Weight, made: Indices, unit_of: Indices) -> Indices | None:
    """For every channel of a call the row of the weight that makes it, -1 for one of another's.

    The weight of a call may be a slice of a parameter (the projections of an attention), several
    parameters side by side, or one whose columns make a channel of every group.
    """
    param, dim = weight.param, weight.out_dim
    row = made - param.starts[dim]
    own = (row >= 0) & (row < param.shape[dim])
    if own.any():
        return np.where(own, row, -1)
    # A sum of parameters carries the atoms of one of them.
    atoms = param.starts[dim] + np.arange(param.shape[dim])
    if len(made) == len(atoms) and np.array_equal(unit_of[made], unit_of[atoms]):
        return np.arange(len(made))
    return None


def _groups(step: Step, weight: Weight, inputs: int) -> int:
    """How often the weight's input columns go into the inputs of a call."""
    columns = weight.param.shape[weight.in_dim]
    if inputs == columns:
        return 1
    alone = len({other.param.name for other in step.weights}) == 1
    grouped = len(weight.param.shape) > 2 and inputs % columns == 0
    return inputs // columns if alone and grouped else 0


def _ports(step: Step, weight: Weight) -> tuple[int, int, int] | None:
    """Which tensor is the layer's input, and the dimension of channels in it and in the result."""
    if not step.out_shapes:
        return None
    name, rank = name_of(step.func), len(weight.param.shape)
    if name.startswith(("conv", "_conv")):
        dim = len(step.in_shapes[0]) - (rank - 1)
        ports = (0, dim, dim)
    elif name == "linear":
        ports = (0, len(step.in_shapes[0]) - 1, len(step.out_shapes[0]) - 1)
    elif weight.out_dim == 1:  # activations @ weight
        operand = len(step.ins) - 2
        ports = (operand, len(step.in_shapes[operand]) - 1, len(step.out_shapes[0]) - 1)
    else:  # weight @ activations
        operand = len(step.ins) - 1
        ports = (operand, len(step.in_shapes[operand]) - 2, len(step.out_shapes[0]) - 2)
    operand, in_dim, out_dim = ports
    fits = 0 <= in_dim < len(step.in_shapes[operand]) and 0 <= out_dim < len(step.out_shapes[0])
    return ports if fits else None


def _behind(steps: Sequence[Step], layers: Sequence[int]) -> list[int]:
    """For every call of a layer the step whose result its channels are read as.

    That is the activation function which they reach first, on any path that no other layer is on:
    a squeeze-excite gate reads them before that. A product of the channels with what an activation
    function made of them (`x * sigmoid(x)`, the written-out GELU) is one activation function.
    """
    found: dict[int, int] = {}
    read: dict[int, int] = {}
    """What the first layer reads that comes behind a call: where there is no function."""
    raw: list[frozenset[int]] = []
    """For every step, the calls whose channels it hands on with no activation function so far."""
    active: list[frozenset[int]] = []
    """The same, with one."""
    own = set(layers)
    nobody: frozenset[int] = frozenset()
    for number, step in enumerate(steps):
        name = name_of(step.func).rstrip("_")
        sources = [source for source in step.sources if source >= 0]
        waiting = nobody.union(*(raw[source] for source in sources))
        behind = nobody.union(*(active[source] for source in sources))
        if number in own or name in _CONTRACTIONS:
            for source in sources:
                for call in raw[source]:
                    read.setdefault(call, source)
            waiting = behind = nobody
        elif name in ACTIVATIONS:
            for call in waiting:
                found.setdefault(call, number)
            waiting, behind = nobody, waiting
        elif name == "mul" and len(sources) == 2:
            one, other = sources
            gated = (raw[one] & active[other]) | (raw[other] & active[one])
            found |= dict.fromkeys(gated, number)
            waiting, behind = waiting - gated, behind | gated
        raw.append(waiting | {number} if number in own else waiting)
        active.append(behind)
    return [found.get(call, read.get(call, call)) for call in layers]


def _activation(step: Step) -> str:
    name = name_of(step.func).rstrip("_")
    return name if name in ACTIVATIONS else ""


def _where(
    step: Step, number: int, made: Indices, unit_of: Indices
) -> tuple[Place, Indices, Indices] | None:
    """Where in a step's result the channels of a layer are: the place, positions and rows.

    Args:
        made: shape (rows,): the atoms that the layer's result carries.
    """
    shape = step.out_shapes[0]
    for dim in range(len(shape)):
        atoms = _along(step.outs[0], shape, dim)
        units, mine = unit_of[atoms], unit_of[made]
        if not np.isin(mine, units[units >= 0]).all():
            continue
        place = Place(number, -1, dim, units)
        if np.isin(made, atoms).all():
            return place, *_pairs(atoms, made)
        # Behind an addition the labels are those of the other side, position by position.
        if np.array_equal(units, mine):
            return place, np.arange(len(made)), np.arange(len(made))
        return place, *_pairs(units, mine)
    return None


def _pairs(there: Indices, rows: Indices) -> tuple[Indices, Indices]:
    """All (position, row) with `there[position] == rows[row]`."""
    order = np.argsort(there, kind="stable")
    first = np.searchsorted(there[order], rows, side="left")
    count = np.searchsorted(there[order], rows, side="right") - first
    row = np.repeat(np.arange(len(rows)), count)
    at = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return order[first[row] + at], row


def _along(labels: Labels, shape: Sequence[int], dim: int) -> Indices:
    """Shape (size,): the atom of every position along a dimension, 0 where nobody's."""
    found = np.zeros(shape[dim], dtype=np.int64)
    for layer in labels:
        if varies(layer) == (dim,):
            found = np.maximum(found, collapse(layer).reshape(-1).numpy())
    return found


def _units_of_atoms(trace: Trace, units: Units) -> Indices:
    """Shape (atoms + 1,): the unit of every atom, -1 for those of no axis of the graph."""
    unit_of = np.full(len(trace.owners), -1, dtype=np.int64)
    known = set(units.axes)
    for param in trace.state.params:
        for dim, start in enumerate(param.starts):
            axis = Axis(param.name, dim)
            if axis in known:
                unit_of[start : start + param.shape[dim]] = units.of(axis)
    result: Indices = unit_of[trace.owners]
    result[0] = -1
    return result
