"""What the rules of operators write down while the network runs.

`Notes` takes down which atoms are coupled, which stay, which operators count them and what must
remain a rectangle, in the order of the run; `tracing` makes the graph of it. Labels are looked up
here as well: a parameter that no operator has changed carries a `Param`, whose layers are made
when somebody asks, and every other tensor carries its layers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pruners.calls import Call
from pruners.labels import LABELS, NONE, Labels, Layer, collapse, spread, varies


@dataclass(slots=True)
class Param:
    """A parameter or buffer that no operator has changed: the atoms of each of its axes."""

    name: str
    shape: tuple[int, ...]
    starts: tuple[int, ...]
    """Per dimension, the number of the first atom; numbers begin with 1."""
    ids: dict[int, Tensor] = field(default_factory=dict)

    def along(self, dim: int) -> Tensor | None:
        """Shape (size,): the atoms of an axis; None for an axis with a single position."""
        if self.shape[dim] == 1:
            return None
        found = self.ids.get(dim)
        if found is None:
            start = self.starts[dim]
            found = self.ids[dim] = torch.arange(start, start + self.shape[dim])
        return found


@dataclass(slots=True)
class Weight:
    """A use of a convolution's or linear layer's weight."""

    param: Param
    out_dim: int
    in_dim: int
    positions: float
    """Output positions, those of all examples together."""


class Notes:
    """Couplings, frozen atoms, counting operators and size demands, in the order of the run."""

    def __init__(self, params: Sequence[Param], atoms: int) -> None:
        self.params = params
        self.real = atoms
        self.atoms = atoms
        """Atoms that exist so far; numbers above those of the axes are *virtual* (see `fresh`)."""
        self.place = ""
        self.couplings: list[tuple[Tensor, Tensor, str]] = []
        self.frozen: list[tuple[Tensor, str]] = []
        self.counting: list[tuple[Tensor, str]] = []
        self.rectangles: list[tuple[Layer, str]] = []
        self.weights: list[Weight] = []

    # where labels are kept

    def of(self, x: Tensor) -> Labels:
        found = x.__dict__.get(LABELS, NONE)
        if isinstance(found, Param):
            ids = [(found.along(d), d) for d in range(len(found.shape))]
            return tuple([spread(i, d, found.shape) for i, d in ids if i is not None])
        labels: Labels = found
        return labels

    def param(self, x: Tensor) -> Param | None:
        found = x.__dict__.get(LABELS)
        return found if isinstance(found, Param) else None

    # what is said of atoms

    def couple(self, a: Tensor, b: Tensor) -> None:
        """Element by element, broadcast against each other."""
        if a is b:
            return
        a, b = collapse(a), collapse(b)
        if a.shape != b.shape:
            a, b = torch.broadcast_tensors(a, b)  # type: ignore[no-untyped-call]
        self.couplings.append((a.reshape(-1), b.reshape(-1), self.place))

    def meet(self, a: Tensor | None, b: Tensor | None, why: str) -> None:
        """Couple; where one side has no labels, the other one stays."""
        if a is not None and b is not None:
            self.couple(a, b)
        elif a is not None:
            self.freeze(a, why)
        elif b is not None:
            self.freeze(b, why)

    def freeze(self, layer: Tensor, why: str) -> None:
        self.frozen.append((collapse(layer).reshape(-1), f"{why} ({self.place})"))

    def count(self, layer: Tensor) -> None:
        self.counting.append((collapse(layer).reshape(-1), self.place))

    def fresh(self, size: int) -> Tensor:
        """Virtual atoms, owned by no tensor: padding and filled tensors, as wide as others want."""
        self.atoms += size
        return torch.arange(self.atoms - size + 1, self.atoms + 1)

    def filled(self, shape: Sequence[int]) -> Labels:
        """Labels of a tensor that holds one value: any part of it is as good as any other."""
        return tuple([spread(self.fresh(n), d, shape) for d, n in enumerate(shape) if n > 1])

    # layers that vary along more than one dimension

    def along(self, layer: Layer, dim: int) -> Tensor:
        """Shape (size,): the labels along one dimension; other variation is coupled away."""
        others = [d for d in varies(layer) if d != dim]
        if others:
            first = collapse(layer, others)
            self.couple(layer, first)
            layer = first
        return collapse(layer).reshape(-1)

    def channels(self, x: Tensor, dim: int) -> Tensor | None:
        """Shape (size,): the labels of x along `dim`, or None; x's other layers are left alone."""
        param = self.param(x)
        if param is not None:
            return param.along(dim % len(param.shape))
        dim %= x.dim()
        found = None
        for layer in self.of(x):
            if dim in varies(layer):
                found = self.along(layer, dim)
        return found

    def others(self, x: Tensor, dim: int) -> list[Layer]:
        """The layers of x that do not vary along `dim`."""
        return [layer for layer in self.of(x) if dim % x.dim() not in varies(layer)]

    def without(self, layer: Layer, dims: Sequence[int], why: str) -> Layer | None:
        """The layer with its variation along `dims` coupled away; frozen if it has no other."""
        varying = varies(layer)
        inside = [d for d in varying if d in dims]
        if not inside:
            return layer
        if len(inside) == len(varying):
            self.freeze(layer, why)
            return None
        first = collapse(layer, inside)
        self.couple(layer, first)
        return first.expand(layer.shape)

    def rectangle(self, layer: Layer) -> Layer:
        """Note a layer that varies along several dimensions: what stays of it must be a rectangle.

        Which way is settled at the end (`Trace`), when operators further on have had their say.
        """
        if len(varies(layer)) > 1:
            self.rectangles.append((layer, self.place))
        return layer

    def columns(self, ids: Tensor | None, parts: int) -> None:
        """Equal parts lose the same positions: j of part 1 goes with j of part 2."""
        if ids is not None and parts > 1:
            rows = ids.reshape(parts, -1)
            self.couple(rows[1:], rows[:1])

    def merge(self, layers: Iterable[Layer]) -> list[Layer]:
        """Layers of one shape; those that vary along a common dimension are coupled into one."""
        result: list[Layer] = []
        for layer in layers:
            dims = varies(layer)
            if not dims:
                continue
            for i, known in enumerate(result):
                shared = varies(known)
                if any(d in dims for d in shared):
                    self.couple(known, layer)
                    if len(dims) < len(shared):
                        result[i] = layer
                    break
            else:
                result.append(layer)
        return result

    def uses(self, weight: Tensor, out_dim: int, in_dim: int, positions: float) -> None:
        """Note where a weight, or what was computed from one, is used as rows and columns."""
        param = self.param(weight)
        if param is not None:
            if len(param.shape) == weight.dim():
                self.weights.append(Weight(param, out_dim, in_dim, positions))
            return
        outs, ins = self.channels(weight, out_dim), self.channels(weight, in_dim)
        if outs is None:
            return
        # It may be several parameters side by side, or the transpose of one.
        into = None if ins is None else self.axis(int(ins[0]))
        made = outs.tolist()
        last: tuple[Param, int] | None = None
        for atom in made:
            if last is not None and 0 <= atom - last[0].starts[last[1]] < last[0].shape[last[1]]:
                continue
            last = self.axis(atom)
            if last is None or len(last[0].shape) != weight.dim():
                continue
            param, dim = last
            column = in_dim
            if into is not None and into[0] is param:
                column = into[1]
            elif dim != out_dim:
                column = out_dim
            if dim != column:
                self.weights.append(Weight(param, dim, column, positions))

    def axis(self, atom: int) -> tuple[Param, int] | None:
        """Whose atom it is, and of which of its dimensions."""
        param = self.owner(atom)
        if param is None:
            return None
        for dim, start in enumerate(param.starts):
            if start <= atom < start + param.shape[dim]:
                return param, dim
        return None

    def owner(self, atom: int) -> Param | None:
        i = bisect_right(self.params, atom, key=lambda p: p.starts[0] if p.starts else 0) - 1
        while i >= 0 and not self.params[i].starts:
            i -= 1
        return self.params[i] if 0 < atom <= self.real and i >= 0 else None


Rule = Callable[[Notes, Call], Labels | list[Labels]]
"""What an operator does: it writes couplings down and returns the labels of the result."""
