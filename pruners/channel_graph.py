"""The channel graph: which channels must go together.

Every dimension of a parameter or buffer is an *axis*, every position on it an *atom*. Two atoms
are coupled when one cannot go without the other. A *unit* is a connected component of atoms:
the smallest thing that can be removed. Units that touch the same axes form a *group*.

The pair `conv -> bn -> conv2` by example, two channels wide:

    conv.weight[0]      0   1        rows of the first convolution
                        |   |
    bn.weight[0]        0   1        and bias, running_mean, running_var likewise
                        |   |
    conv2.weight[1]     0   1        columns of the second

is one group of two units, {conv.weight[0]:0, bn.weight[0]:0, ..., conv2.weight[1]:0} and the
same with 1. The graph stores it as three axes and two edges, each edge with a pair of index
arrays that says which atom meets which; atoms become nodes only inside `units()`, in one
vectorised pass.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import networkx as nx
import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array

from pruners.components import components
from pruners.errors import PrunerError, did_you_mean
from pruners.explain import Group, explain, groups, to_dot

Indices = npt.NDArray[np.int64]

Kept = Mapping[str, tuple[Indices, ...]]
"""For every parameter and buffer, for every dimension, the ascending indices that stay."""


class Axis(NamedTuple):
    """One dimension of one parameter or buffer, named as in the `state_dict`."""

    tensor: str
    dim: int

    def __str__(self) -> str:
        return f"{self.tensor}[{self.dim}]"


@dataclass(frozen=True, slots=True)
class Coupling:
    """Atom `left[i]` of axis `a` goes together with atom `right[i]` of axis `b`."""

    a: Axis
    b: Axis
    left: Indices
    right: Indices
    because: str


@dataclass(frozen=True, slots=True)
class UnknownOperator:
    """An operator that no rule explains: whatever it touches stays."""

    operator: str
    module: str
    """Path of the module that calls it; empty for the network itself."""
    channels: int
    """Atoms that stay because of it."""


@dataclass(frozen=True, slots=True)
class Units:
    """The units of a graph, as flat arrays over all atoms of all its axes.

    Atom `p` of `axes[i]` has the number `starts[i] + p`.
    """

    axes: tuple[Axis, ...]
    starts: Indices
    """Shape (axes + 1,): where the atoms of each axis begin; the last entry is their count."""
    unit_of: Indices
    """Shape (atoms,): the unit of each atom."""
    group_of: Indices
    """Shape (units,): the group of each unit."""
    frozen: npt.NDArray[np.bool_]
    """Shape (units,): units that must stay."""
    reasons: Mapping[int, str]
    """For every frozen unit, why."""
    renormalised: Mapping[int, str] = field(default_factory=dict)
    """For every unit under an operator that counts channels, that operator's place."""

    @property
    def count(self) -> int:
        return len(self.group_of)

    def of(self, axis: Axis) -> Indices:
        """Shape (size of the axis,): the unit of every position; KeyError for an unknown axis."""
        i = self._index(axis)
        return self.unit_of[self.starts[i] : self.starts[i + 1]]

    def axis_of_atom(self) -> Indices:
        """Shape (atoms,): the index in `axes` of every atom."""
        return np.repeat(np.arange(len(self.axes)), np.diff(self.starts))

    def _index(self, axis: Axis) -> int:
        i = bisect_left(self.axes, str(axis), key=str)
        if i == len(self.axes) or self.axes[i] != axis:
            raise KeyError(str(axis))
        return i


class ChannelGraph:
    """Axes and their couplings, a `networkx.MultiGraph` in the attribute `graph`.

    Args:
        shapes: the shape of every parameter and buffer, by its name in the `state_dict`.
        parameters: the names among them that count as parameters, tied ones once (default: all).
    """

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], parameters: Iterable[str] | None = None
    ) -> None:
        self.shapes = dict(shapes)
        self.parameters = frozenset(shapes if parameters is None else parameters)
        self.graph: nx.MultiGraph[Axis] = nx.MultiGraph()
        self.positions: dict[str, int] = {}
        """Multiply-accumulates per weight element and example: the output positions of each
        convolution or linear weight."""
        self.aliases: dict[str, str] = {}
        """Further names of tied tensors, and the name that stands for them in `positions`."""
        self.unknown: list[UnknownOperator] = []
        self._frozen: list[tuple[Axis, Indices, str]] = []
        self._renormalised: list[tuple[Axis, Indices, str]] = []
        self._units: Units | None = None
        """What `units` found; None again after every change."""

    def size(self, axis: Axis) -> int:
        return self.shapes[axis.tensor][axis.dim]

    def add(self, axis: Axis, role: str = "") -> None:
        """Make the axis known; `role` is "out" for the rows of a weight, "in" for its columns.

        An axis that is either (a weight and its transpose are both used) is "out".
        """
        if axis in self.graph:
            if role and self.graph.nodes[axis].get("role") != "out":
                self.graph.nodes[axis]["role"] = role
            return
        self._units = None
        if axis.tensor not in self.shapes or axis.dim >= len(self.shapes[axis.tensor]):
            raise PrunerError(
                f"axis {axis}: the network has no such tensor"
                f"{did_you_mean(axis.tensor, self.shapes)}"
            )
        self.graph.add_node(axis, size=self.size(axis))
        if role:
            self.graph.nodes[axis]["role"] = role

    def couple(self, coupling: Coupling) -> None:
        self.add(coupling.a)
        self.add(coupling.b)
        self._units = None
        self.graph.add_edge(
            coupling.a,
            coupling.b,
            pair=(coupling.a, coupling.left, coupling.right),
            because=coupling.because,
        )

    def freeze(self, axis: Axis, because: str, positions: Indices | None = None) -> None:
        """Whatever is coupled to these positions of the axis (all of them by default) stays."""
        self.add(axis)
        where = np.arange(self.size(axis)) if positions is None else positions
        self._units = None
        self._frozen.append((axis, where, because))

    def renormalise(self, axis: Axis, because: str, positions: Indices | None = None) -> None:
        """An operator over these positions (layer norm, say) depends on how many there are."""
        self.add(axis)
        where = np.arange(self.size(axis)) if positions is None else positions
        self._units = None
        self._renormalised.append((axis, where, because))

    def renormalisations(self) -> list[tuple[Axis, Indices, str]]:
        """All that `renormalise` was told."""
        return list(self._renormalised)

    def outputs(self) -> list[Axis]:
        """The axes that hold the output channels (rows) of a weight, sorted."""
        return sorted(a for a, role in self.graph.nodes(data="role") if role == "out")

    def units(self) -> Units:
        """Connected components of atoms, found for all axes at once."""
        if self._units is None:
            self._units = self._components()
        return self._units

    def _components(self) -> Units:
        axes = tuple(sorted(self.graph.nodes, key=str))
        index = {axis: i for i, axis in enumerate(axes)}
        starts = np.zeros(len(axes) + 1, dtype=np.int64)
        np.cumsum([self.size(axis) for axis in axes], out=starts[1:])
        atoms = int(starts[-1])

        rows: list[Indices] = [np.empty(0, dtype=np.int64)]
        columns: list[Indices] = [np.empty(0, dtype=np.int64)]
        for a, b, data in self.graph.edges(data=True):
            first, left, right = data["pair"]
            second = b if first == a else a
            rows.append(starts[index[first]] + left)
            columns.append(starts[index[second]] + right)
        row, column = np.concatenate(rows), np.concatenate(columns)
        unit_of = components(row, column, atoms)
        n_units = int(unit_of.max(initial=-1)) + 1

        frozen = np.zeros(n_units, dtype=bool)
        reasons: dict[int, str] = {}
        for axis, positions, because in self._frozen:
            hit = unit_of[starts[index[axis]] + positions]
            for unit in np.unique(hit[~frozen[hit]]):
                reasons[int(unit)] = because
            frozen[hit] = True
        renormalised: dict[int, str] = {}
        for axis, positions, because in self._renormalised:
            for unit in np.unique(unit_of[starts[index[axis]] + positions]):
                renormalised.setdefault(int(unit), because)
        axis_of_atom = np.repeat(np.arange(len(axes)), np.diff(starts))
        return Units(
            axes=axes,
            starts=starts,
            unit_of=unit_of,
            group_of=_groups(unit_of, axis_of_atom, n_units, len(axes)),
            frozen=frozen,
            reasons=reasons,
            renormalised=renormalised,
        )

    def groups(self) -> tuple[Group, ...]:
        """The groups: how many units, which axes of which layers, what keeps or counts them."""
        return groups(self)

    def explain(self, layer: str) -> str:
        """In words: what goes together with the outputs and inputs of a layer, and why.

            print(graph.explain("layer2.0.conv1"))

        Raises:
            PrunerError: there is no such layer; the message offers near names.
        """
        return explain(self, layer)

    def to_dot(self) -> str:
        """The layers coloured by group, and what ties them, for Graphviz."""
        return to_dot(self)


def _groups(unit_of: Indices, axis_of_atom: Indices, n_units: int, n_axes: int) -> Indices:
    """Shape (units,): units that touch the same set of axes get the same number.

    A set of axes is compared by the sum of one random 63-bit number an axis: two different sets
    among n collide with a probability of about n^2 / 2^64.
    """
    ones = np.ones(len(unit_of), dtype=np.int8)
    touches = coo_array((ones, (unit_of, axis_of_atom)), (n_units, n_axes)).tocsr()
    key_of_axis = np.random.default_rng(0).integers(0, 2**63, size=n_axes, dtype=np.uint64)
    keys = np.zeros(n_units, dtype=np.uint64)
    unit = np.repeat(np.arange(n_units), np.diff(touches.indptr))
    np.add.at(keys, unit, key_of_axis[touches.indices])
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    # Number the groups in the order in which they first appear, not by their random keys.
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def match_layers(globs: Sequence[str], layers: Iterable[str], option: str = "--ignore") -> set[str]:
    """The layers whose whole module path matches one of the globs; an error for an idle glob."""
    known = list(layers)
    found: set[str] = set()
    for glob in globs:
        hits = [name for name in known if fnmatchcase(name, glob)]
        if not hits:
            raise PrunerError(
                f"{option} {glob}: matches no layer{did_you_mean(glob, known)}; "
                f"globs match whole module paths, as in 'layer3.*' or '*.conv1'"
            )
        found.update(hits)
    return found


def all_kept(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[Indices, ...]]:
    """Every index of every dimension: nothing is removed."""
    return {
        name: tuple(np.arange(size, dtype=np.int64) for size in shape)
        for name, shape in shapes.items()
    }


def kept_of(
    shapes: Mapping[str, tuple[int, ...]], units: Units, stays: npt.NDArray[Any]
) -> dict[str, tuple[Indices, ...]]:
    """The indices that stay in every dimension of every tensor when the units `stays` stay.

    Args:
        stays: shape (units,), bool.
    """
    kept = {name: list(dims) for name, dims in all_kept(shapes).items()}
    atom_stays = stays[units.unit_of]
    for i, axis in enumerate(units.axes):
        kept[axis.tensor][axis.dim] = np.flatnonzero(
            atom_stays[units.starts[i] : units.starts[i + 1]]
        ).astype(np.int64)
    return {name: tuple(dims) for name, dims in kept.items()}
