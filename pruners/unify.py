"""One constructor for all instances of a class: what they agree on becomes a constant, what
differs becomes a parameter.

Every instance is a record of expressions, one for each attribute. Two residual blocks

    conv1 = Conv2d(16, 9, kernel_size=3, stride=1)    downsample = None
    conv2 = Conv2d(9, 16, kernel_size=3, stride=1)

    conv1 = Conv2d(16, 30, kernel_size=3, stride=2)   downsample = Conv2d(16, 21, 1, stride=2)
    conv2 = Conv2d(30, 21, kernel_size=3, stride=1)

are laid over each other. Places that differ become *columns*, with one value an instance: conv1's
inputs (16, 16), its outputs (9, 30), its stride (1, 2), conv2's inputs (9, 30), its outputs
(16, 21). Columns of the same kind that are equal in every instance are one parameter: (9, 30)
becomes `conv1_channels`. Where instances differ in structure, as in `downsample`, the class builds
one or the other by a flag; columns inside such a part have values only where it exists, and take
the parameter of a full column that agrees there. A part with a width of its own needs no flag: it
is built where the width is given.

Parameters are named as the original `__init__` names what it hands to the layer, where it is clear
(`naming`), else for the layer that they are read from.
"""

from __future__ import annotations

import ast
import keyword
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pruners.expressions import (
    ABSENT,
    NONE,
    SUPER,
    Argument,
    Call,
    Dictionary,
    Display,
    Either,
    Expr,
    Half,
    Literal,
    Maybe,
    Reference,
    Sum,
    Variable,
    Verbatim,
    holds_handed,
)

Record = Mapping[str, Expr]
"""The attributes of one instance, in the order in which `__init__` makes them."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of the generated constructor."""

    name: str
    values: tuple[Expr, ...]
    """One an instance."""
    default: Expr | None
    """None: required."""
    width: bool
    end: str = ""
    """`in` or `out` for the block's ends."""


@dataclass(frozen=True, slots=True)
class Constructor:
    """A class's `__init__`: its parameters, and what it assigns."""

    parameters: tuple[Parameter, ...]
    body: Record

    def arguments(self, instance: int) -> tuple[Argument, ...]:
        """What the constructor is called with to get this instance."""
        return tuple(
            Argument(p.name, p.values[instance], p.default, p.default is None, p.end)
            for p in self.parameters
        )


def unify(
    records: Sequence[Record],
    lacking: Sequence[Collection[str]] = (),
    names: Mapping[tuple[str, ...], str] | None = None,
    compared: Collection[str] = (),
) -> Constructor:
    """Lay the instances of a class over each other.

    Args:
        lacking: for every instance, the attributes that it does not have at all; others that its
            record leaves out are None.
        names: what the original calls the value at a place (attribute, then positions and argument
            names downwards).
        compared: the attributes that the original computes by comparisons.
    """
    sheet = _Sheet(len(records), names or {}, compared)
    names_in_order = _merged_order([list(record) for record in records])
    everyone = tuple(range(len(records)))
    body: dict[str, Expr] = {}
    for name in names_in_order:
        missing = [ABSENT if name in gone else NONE for gone in lacking or [()] * len(records)]
        laid = [r.get(name, m) for r, m in zip(records, missing, strict=True)]
        body[name] = sheet.lay(laid, everyone, () if name == SUPER else (name,))
    return sheet.finish(body)


@dataclass(frozen=True, slots=True)
class _Slot:
    """A place whose value differs between instances: the number of a column."""

    column: int


@dataclass(slots=True)
class _Column:
    path: tuple[str, ...]
    """Where it stands: attribute, then positions and argument names downwards."""
    values: dict[int, Expr]
    """By instance; only those that have the place."""
    width: bool = False
    flag: bool = False
    part: bool = False
    """Whether the value is more than a constant: a part of the network that is handed in."""
    default: Expr | None = None
    owner: int = field(default=-1)
    """The column whose parameter serves this one; itself unless merged."""
    constant: Expr | None = None
    """The value, where the column needs no parameter after all."""
    terms: tuple[int, ...] = ()
    """The columns whose sum it is in every instance: the width of a concatenation."""
    half_of: int = -1
    """The column of the kernel size whose half it is in every instance: the padding."""
    told_by: int = -1
    """The column of a width that exists exactly where this flag is set."""
    hint: str = ""
    """What a flag may be called."""
    end: str = ""
    """`in` or `out` for the channels that a layer reads or makes."""

    @property
    def argument(self) -> str:
        return self.path[-1]

    @property
    def variable(self) -> bool:
        """Whether it is given an argument of the network."""
        return any(isinstance(value, Variable) for value in self.values.values())


class _Sheet:
    def __init__(
        self, count: int, names: Mapping[tuple[str, ...], str], compared: Collection[str]
    ) -> None:
        self.count = count
        self.given_names = names
        self.compared = compared
        self.columns: list[_Column] = []
        self.constants: set[tuple[str, ...]] = set()
        """Where all instances agree."""

    def lay(
        self,
        exprs: Sequence[Expr],
        instances: tuple[int, ...],
        path: tuple[str, ...],
        end: str = "",
    ) -> Expr:
        """The template that gives every expression when its slots are filled."""
        first = exprs[0]
        if any(holds_handed(expr) for expr in exprs):
            return self._slot(path, exprs, instances, part=True)
        symbolic = any(_has_variable(expr) for expr in exprs)
        # In a part that only some instances have, a constant may be a parameter of the others.
        partial = len(instances) < self.count and (
            isinstance(first, (Literal, Call)) or _is_activation(first)
        )
        if all(expr == first for expr in exprs) and not symbolic and not partial:
            self.constants.add(path)
            return first
        if all(isinstance(expr, (Literal, Variable)) for expr in exprs):
            return self._slot(path, exprs, instances, end=end)
        if all(_is_activation(expr) for expr in exprs):
            return self._slot(path, exprs, instances)
        shapes = dict[str, list[int]]()
        for i, expr in enumerate(exprs):
            shapes.setdefault(_skeleton(expr), []).append(i)
        if len(shapes) == 1 or _are_rows(exprs):
            return self._descend(exprs, instances, path)
        merged = _merged_items(exprs)
        if merged is not None:
            return self._with_optional_items(exprs, instances, path, merged)
        if len(shapes) == 2:
            return self._either(exprs, instances, path, list(shapes.values()))
        return self._slot(path, exprs, instances, part=True)

    def _descend(
        self, exprs: Sequence[Expr], instances: tuple[int, ...], path: tuple[str, ...]
    ) -> Expr:
        match exprs[0]:
            case Call(function, arguments):
                laid = []
                for k, argument in enumerate(arguments):
                    values = [e.arguments[k].value for e in exprs if isinstance(e, Call)]
                    value = self.lay(values, instances, (*path, argument.name), _end_of(argument))
                    laid.append(replace(argument, value=value))
                functions = [e.function for e in exprs if isinstance(e, Call)]
                if _is_activation(function) and (
                    len(instances) < self.count or any(f != function for f in functions)
                ):
                    function = self._slot(  # type: ignore[assignment]
                        (*path, "activation_layer"), functions, instances
                    )
                return replace(exprs[0], function=function, arguments=tuple(laid))
            case Verbatim(code, before, holes):
                laid = []
                for k, hole in enumerate(holes):
                    values = [e.holes[k].value for e in exprs if isinstance(e, Verbatim)]
                    value = self.lay(values, instances, (*path, hole.name))
                    laid.append(replace(hole, value=value))
                return Verbatim(code, before, tuple(laid))
            case Display(items, brackets):
                columns = zip(*(e.items for e in exprs if isinstance(e, Display)), strict=True)
                return Display(
                    tuple(self.lay(c, instances, (*path, str(k))) for k, c in enumerate(columns)),
                    brackets,
                )
            case Dictionary(items):
                return Dictionary(
                    tuple(
                        (
                            key,
                            self.lay(
                                [e.items[k][1] for e in exprs if isinstance(e, Dictionary)],
                                instances,
                                (*path, key),
                            ),
                        )
                        for k, (key, _) in enumerate(items)
                    )
                )
        return self._slot(path, exprs, instances, part=True)

    def _with_optional_items(
        self,
        exprs: Sequence[Expr],
        instances: tuple[int, ...],
        path: tuple[str, ...],
        merged: Sequence[Sequence[int | None]],
    ) -> Expr:
        """One container for all: items that only some have are switched on by a flag."""
        laid: list[Expr] = []
        for place in range(len(merged[0])):
            has = [i for i in range(len(exprs)) if merged[i][place] is not None]
            items = [_items(exprs[i])[merged[i][place] or 0] for i in has]
            there = (*path, str(place))
            if len(has) == len(exprs):
                laid.append(self.lay(items, instances, there))
                continue
            flags = [Literal(i in has) for i in range(len(exprs))]
            hint = _name_of_optional(items, place, len(merged[0]), path[-1])
            slot = self._slot((*path[:-1], hint), flags, instances, flag=True, hint=hint)
            laid.append(Maybe(slot, self.lay(items, tuple(instances[i] for i in has), there)))
        match exprs[0]:
            case Call(function, _, table):
                numbered = (Argument(str(k), e, positional=True) for k, e in enumerate(laid))
                return Call(function, tuple(numbered), table)
            case Display(_, brackets):
                return Display(tuple(laid), brackets)
        raise AssertionError("no container")

    def _either(
        self,
        exprs: Sequence[Expr],
        instances: tuple[int, ...],
        path: tuple[str, ...],
        parts: list[list[int]],
    ) -> Expr:
        # The larger structure is the one that the flag switches on; an Identity stands for none.
        parts.sort(key=lambda part: _size_of(exprs[part[0]]), reverse=True)
        on, off = parts
        flags = [Literal(i in on) for i in range(len(exprs))]
        layer = exprs[on[0]]
        hint = ""
        if path[-1].isdigit() and isinstance(layer, Call):
            hint = _name_of_layer(layer.function.name)
        slot = self._slot(path, flags, instances, flag=True, hint=hint)
        then, otherwise = (
            self.lay([exprs[i] for i in part], tuple(instances[i] for i in part), path)
            for part in (on, off)
        )
        return Either(slot, then, otherwise)

    def _slot(
        self,
        path: tuple[str, ...],
        exprs: Sequence[Expr],
        instances: tuple[int, ...],
        flag: bool = False,
        part: bool = False,
        hint: str = "",
        end: str = "",
    ) -> Expr:
        counts = all(isinstance(e, (Literal, Variable)) and e.width for e in exprs)
        values = dict(zip(instances, exprs, strict=True))
        self.columns.append(
            _Column(path, values, counts and not part, flag, part, hint=hint, end=end)
        )
        return _Slot(len(self.columns) - 1)  # type: ignore[return-value]

    def finish(self, body: Record) -> Constructor:
        """Merge the columns, name them, and put their names into the slots."""
        self._merge()
        self._find_sums()
        self._find_paddings()
        into, out = self._ends(body)
        self._find_told_flags((into, out))
        owners = [
            i
            for i, c in enumerate(self.columns)
            if c.owner == i
            and c.constant is None
            and not c.terms
            and c.half_of < 0
            and c.told_by < 0
        ]
        names = self._names(owners, body, into, out)
        sides = {out: "out", into: "in"}
        parameters = {
            i: replace(self._parameter(i, names[i]), end=sides.get(i, "")) for i in owners
        }
        computed = self._comparisons(parameters, into, out)
        values = [
            computed.get(self.columns[i].owner) or self._value(i, parameters)
            for i in range(len(self.columns))
        ]
        filled = {name: self._fill(expr, values) for name, expr in body.items()}

        def place(i: int) -> tuple[bool, bool, int, int]:
            # What comes in first, what goes out last among the widths, then the options.
            rank = 0 if i == into else 2 if i == out else 1 if parameters[i].width else 3
            last = parameters[i].default is not None
            return last, self.columns[i].flag, rank if not last else 0, owners.index(i)

        ordered = sorted((i for i in owners if i not in computed), key=place)
        return Constructor(tuple(parameters[i] for i in ordered), filled)

    def _ends(self, body: Record) -> tuple[int, int]:
        """The columns of the block's own ends, -1 where they do not differ between instances."""
        ends = [(n, v) for expr in body.values() for n, v in _widths(expr)]
        into = next((v for n, v in ends if n == "in"), None)
        out = next((v for n, v in reversed(ends) if n == "out"), None)
        first = self.columns[into.column].owner if isinstance(into, _Slot) else -1
        last = -1
        if isinstance(out, _Slot):
            column = self.columns[out.column]
            makers = [c for c in self.columns if c.width and c.end == "out"]
            of_a_sum = any(column.owner in c.terms for c in self.columns)
            if not of_a_sum and not self._has_siblings(column, makers):
                last = column.owner
        return first, last

    def _find_told_flags(self, ends: Collection[int]) -> None:
        """A part with a width of its own is built where the width is given."""
        for flag in self.columns:
            if not flag.flag or len(flag.values) < self.count:
                continue
            on = {k for k, value in flag.values.items() if value == Literal(True)}
            owner = self.columns[flag.owner]
            switched = {c.path[0] for c in self.columns if c.flag and c.owner == flag.owner}
            if owner is not flag or (len(switched) > 1 and not flag.hint):
                continue
            for i, column in enumerate(self.columns):
                if (
                    column.width
                    and column.owner == i
                    and (flag.hint or switched == {column.path[0]})
                    and i not in ends
                    and column.constant is None
                    and not column.terms
                    and set(column.values) == on
                    and all(isinstance(v, Literal) for v in column.values.values())
                ):
                    flag.told_by = i
                    break

    def _comparisons(
        self, parameters: Mapping[int, Parameter], into: int, out: int
    ) -> dict[int, Expr]:
        """`stride == 1 and in_channels == out_channels`, where the original compares, too."""
        found: dict[int, Expr] = {}
        if into not in parameters or out not in parameters or into == out:
            return found
        strides = [i for i, p in parameters.items() if self.columns[i].argument == "stride"]
        same = [parameters[into].values[k] == parameters[out].values[k] for k in range(self.count)]
        ends = (Variable(parameters[into].name, None), Variable(parameters[out].name, None))
        for i, parameter in parameters.items():
            column = self.columns[i]
            if len(column.path) > 1 or column.path[0] not in self.compared:
                continue
            if any(c.owner == i and len(c.path) > 1 for c in self.columns):
                continue
            values = list(parameter.values)
            if not strides and values == [Literal(s) for s in same]:
                found[i] = _code("_hole_0 == _hole_1", *ends)
            elif strides:
                stride = parameters[strides[0]]
                one = [value == Literal(1) for value in stride.values]
                if values == [Literal(a and b) for a, b in zip(one, same, strict=True)]:
                    steps = Variable(stride.name, None)
                    found[i] = _code("_hole_0 == 1 and _hole_1 == _hole_2", steps, *ends)
        return found

    def _merge(self) -> None:
        full = [i for i, c in enumerate(self.columns) if len(c.values) == self.count]
        for i in full:
            column = self.columns[i]
            column.owner = next(
                j
                for j in full
                if _kind(self.columns[j]) == _kind(column)
                and self.columns[j].values == column.values
            )
        for i in full:
            self._join_width(i)
        for i, column in enumerate(self.columns):
            if column.owner >= 0:
                continue
            candidates = [
                j
                for j, other in enumerate(self.columns)
                if other.owner == j
                and other.constant is None
                and _kind(other) == _kind(column)
                and all(other.values.get(k) == v for k, v in column.values.items())
            ]
            # A shortcut reads what the block reads and makes what the block makes.
            candidates.sort(reverse=column.end != "in")
            values = list(column.values.values())
            if not column.width and not column.flag and column.argument not in _PASSED_ON:
                # One value wherever the part exists is its own; the block's agrees by chance.
                candidates = [] if all(v == values[0] for v in values) else candidates
            if not candidates and not column.flag and all(v == values[0] for v in values):
                column.constant = values[0]
            column.owner = candidates[0] if candidates else i

    def _join_width(self, i: int) -> None:
        """A number that is kept is the width that the original calls the same, where equal."""
        column = self.columns[i]
        name = self.given_names.get(column.path) or column.argument
        if column.owner != i or column.width or len(column.path) > 1 or _kind(column) == "flag":
            return
        for j, other in enumerate(self.columns):
            told = self.given_names.get(_place(other.path))
            if other.width and told == name and other.values == column.values:
                for same in (c for c in self.columns if c.owner == i):
                    same.owner = other.owner if other.owner >= 0 else j
                return

    def _find_sums(self) -> None:
        """Widths behind a concatenation: the sum of what layers in front of them make.

        Only neighbours among the layers that make channels are tried, at most six of them, and
        only where there are instances enough to tell a sum from a coincidence.
        """
        if self.count < 2:
            return
        full = [c for c in self.columns if c.width and len(c.values) == self.count]
        makers = [c.owner for c in full if c.end == "out"]
        for i, column in enumerate(self.columns):
            makes = any(c.owner == i and c.end == "out" for c in self.columns)
            if column.owner != i or not column.width or makes or column not in full:
                continue
            earlier = [j for j in dict.fromkeys(makers) if j < i]
            runs = (
                tuple(earlier[start:end])
                for end in range(len(earlier), 1, -1)
                for start in range(end - 2, max(-1, end - 7), -1)
            )
            column.terms = next((run for run in runs if self._is_sum(column, run)), ())

    def _find_paddings(self) -> None:
        """Paddings that are half of the kernel in every instance follow from it, and those that
        are the dilation.
        """
        for i, column in enumerate(self.columns):
            if column.owner != i or column.argument != "padding" or column.constant is not None:
                continue
            paddings = [c for c in self.columns if c.owner == i]
            beside = [self._beside(c, "dilation") for c in paddings]
            if len({c.owner for c in beside if c is not None}) == 1 and all(
                c is not None and c.constant is None and c.values == p.values
                for c, p in zip(beside, paddings, strict=True)
            ):
                for padding, dilation in zip(paddings, beside, strict=True):
                    padding.owner = dilation.owner if dilation is not None else padding.owner
                continue
            # Every layer that shares the padding must have this kernel.
            kernels = {
                c.owner
                for p in self.columns
                if p.owner == i
                for c in self.columns
                if c.path == (*p.path[:-1], "kernel_size")
            }
            told = sum(self._beside(p, "kernel_size") is not None for p in paddings)
            if len(kernels) != 1 or len(paddings) != told:
                continue
            kernel = self.columns[next(iter(kernels))]
            if kernel.constant is None and all(
                _is_half(column.values[k], kernel.values.get(k)) for k in column.values
            ):
                column.half_of = kernel.owner

    def _beside(self, column: _Column, argument: str) -> _Column | None:
        """The column of another argument of the same layer."""
        path = (*column.path[:-1], argument)
        return next((c for c in self.columns if c.path == path), None)

    def _is_sum(self, column: _Column, terms: tuple[int, ...]) -> bool:
        def number(expr: Expr) -> int | None:
            value = expr.value if isinstance(expr, Literal) else None
            return value if isinstance(value, int) else None

        for k in range(self.count):
            whole = number(column.values[k])
            parts = [number(self.columns[j].values[k]) for j in terms]
            if whole is None or None in parts or sum(p for p in parts if p is not None) != whole:
                return False
        return True

    def _parameter(self, i: int, name: str) -> Parameter:
        column = self.columns[i]
        present = list(column.values.values())
        if any(flag.told_by == i for flag in self.columns):
            default: Expr | None = NONE
        elif column.flag:
            on = sum(value == Literal(True) for value in present)
            default = Literal(2 * on > self.count)
        elif len(column.values) < self.count and column.width:
            # Where the part is missing nothing reads it: the width that comes in passes through.
            full = next((c for c in self.columns if c.width and len(c.values) == self.count), None)
            if full is not None:
                filled = {**full.values, **column.values}
                return Parameter(name, tuple(filled[k] for k in range(self.count)), None, True)
            default = Literal(0, width=True)
        elif len(column.values) < self.count:
            default = present[0]
        elif column.width or column.part:
            default = None
            if column.part and NONE in present:
                default = NONE
        elif any(isinstance(v, Variable) for v in present):
            default = None
        else:
            counts = Counter(present)
            default = max(counts, key=lambda v: (counts[v], -present.index(v)))
            if _is_mutable(default):
                default = None
        values = tuple(column.values.get(k, default or NONE) for k in range(self.count))
        return Parameter(name, values, default, column.width)

    def _names(self, owners: list[int], body: Record, into: int, out: int) -> dict[int, str]:
        widths = [i for i in owners if self.columns[i].width]
        members = {i: [c for c in self.columns if c.owner == i] for i in owners}
        names: dict[int, str] = {}
        # What the body of an __init__ refers to, or binds.
        taken = {"self", "nn", "torch"}.union(*map(_names_in, body.values()))
        if any(c.hint for c in self.columns):
            taken.add("layers")  # the list that optional layers are put into

        def give(i: int, *choices: str) -> None:
            for choice in (*choices, *(f"{choices[-1]}_{n}" for n in range(2, 1000))):
                if choice not in taken and choice.isidentifier() and not keyword.iskeyword(choice):
                    names[i] = choice
                    taken.add(choice)
                    return

        said = self._said(owners, members)
        # One vocabulary for both ends: `inputs, conv1_channels, out_channels` would be neither.
        if out in members and into in members and into not in said.keys() & {out}:
            said = {i: name for i, name in said.items() if i not in (into, out)} | (
                said if {into, out} <= said.keys() else {}
            )
        for i, name in said.items():
            if name not in taken:
                give(i, name)
        for end in (into, out):
            if end in members and end not in names:
                side = "in" if end == into else "out"
                give(end, next(c.argument for c in members[end] if c.end == side))
        middle = [i for i in widths if i not in names]
        told_of = {i for i in middle if any(_is_telling(c) for c in members[i])}
        for i in middle:
            makers = [c for c in members[i] if c.end == "out"] or members[i]
            layer = _spoken(makers[0].path[:-1])
            told = next((c.argument for c in members[i] if _is_telling(c)), "")
            nested = len(makers[0].path) > 2
            if told:
                give(i, told, f"{layer}_{told}" if layer else told)
            elif all(c.argument == "groups" for c in members[i]):
                give(i, "groups", f"{layer}_groups")
            elif nested and len([j for j in middle if j not in told_of]) == 1:
                give(i, "hidden_channels", f"{layer}_channels")
            else:
                give(i, f"{layer}_channels")
        for i in owners:
            if i in names:
                continue
            column = self.columns[i]
            variables = {v.name for v in column.values.values() if isinstance(v, Variable)}
            if column.hint:
                give(i, column.hint)
                continue
            if column.flag or column.part or len(column.path) == 1:
                give(i, column.path[0], "_".join(column.path))
                continue
            if len(variables) == 1 and len(set(column.values.values())) == 1:
                give(i, *variables)
                continue
            same = [j for j in owners if self.columns[j].argument == column.argument]
            long = f"{_spoken(column.path[:-1])}_{column.argument}"
            if column.argument == "p":
                give(i, f"{_spoken(column.path[:-1])}_prob")
                continue
            give(i, *([column.argument] if same[0] == i else []), long)
        return names

    def _said(self, owners: list[int], members: Mapping[int, Sequence[_Column]]) -> dict[int, str]:
        """What the original calls a column; nothing where one name is of several columns."""
        claims: dict[int, list[str]] = {}
        for i in owners:
            column = self.columns[i]
            if not column.flag and not column.part:
                telling = column.width or column.argument in _SAYING_NOTHING or column.variable
                found = (self.given_names.get(_place(c.path)) for c in members[i] if telling)
                claims[i] = [name for name in dict.fromkeys(found) if name]
        claimed = Counter(name for names in claims.values() for name in names)
        # What is a constant now at another place is not what the name said.
        constants = {_place(path) for path in self.constants}
        claimed.update(
            name
            for path, name in self.given_names.items()
            if any(path[:n] in constants for n in range(1, len(path) + 1))
        )
        single = {i: [n for n in names if claimed[n] == 1] for i, names in claims.items()}
        return {i: names[0] for i, names in single.items() if names}

    def _has_siblings(self, last: _Column, makers: Sequence[_Column]) -> bool:
        """Whether a layer beside the last one reads the same, so that what goes out is of both."""
        reads = {c.path[:-1]: c.owner for c in self.columns if c.width and c.end == "in"}
        source = reads.get(last.path[:-1])
        return source is not None and any(
            reads.get(c.path[:-1]) == source and c.owner not in (last.owner, source) for c in makers
        )

    def _value(self, i: int, parameters: Mapping[int, Parameter]) -> Expr:
        column = self.columns[i]
        if column.constant is not None:
            return column.constant
        owner = self.columns[column.owner]
        if owner.told_by >= 0:
            return _code("_hole_0 is not None", self._value(owner.told_by, parameters))
        if owner.half_of >= 0:
            return Half(self._value(owner.half_of, parameters))
        if owner.terms:
            return Sum(tuple(self._value(j, parameters) for j in owner.terms))
        parameter = parameters[column.owner]
        return Variable(parameter.name, None, parameter.width)

    def _fill(self, expr: Expr, slots: Sequence[Expr]) -> Expr:
        match expr:
            case _Slot(column):
                return slots[column]
            case Call(function, arguments):
                if isinstance(function, _Slot):
                    chosen = slots[function.column]
                    assert isinstance(chosen, (Reference, Variable))
                    function = chosen if isinstance(chosen, Reference) else Reference(chosen.name)
                filled = tuple(replace(a, value=self._fill(a.value, slots)) for a in arguments)
                return replace(expr, function=function, arguments=filled)
            case Display(items, brackets):
                return Display(tuple(self._fill(item, slots) for item in items), brackets)
            case Dictionary(items):
                return Dictionary(tuple((k, self._fill(v, slots)) for k, v in items))
            case Either(flag, then, otherwise):
                return Either(
                    self._fill(flag, slots),
                    self._fill(then, slots),
                    self._fill(otherwise, slots),
                )
            case Maybe(flag, item):
                return Maybe(self._fill(flag, slots), self._fill(item, slots))
            case Verbatim(code, before, holes):
                whole = tuple(replace(h, value=self._fill(h.value, slots)) for h in holes)
                return Verbatim(code, before, whole)
        return expr


# What a block hands on to its shortcut.
_PASSED_ON = frozenset({"stride", "dilation", "activation_layer"})

# Layers that take the same arguments, and of which a network uses now one, now another.
_ACTIVATIONS = frozenset(
    f"nn.{name}" for name in ("ReLU", "ReLU6", "SiLU", "Mish", "Hardswish", "Hardsigmoid")
)

_MOST_OPTIONAL = 2


def _items(expr: Expr) -> tuple[Expr, ...]:
    """The items of a Sequential or of a list."""
    match expr:
        case Call(_, arguments):
            return tuple(a.value for a in arguments)
        case Display(items):
            return items
    return ()


def _merged_items(exprs: Sequence[Expr]) -> list[list[int | None]] | None:
    """Containers of one kind as the rows of a table: for every place in it, which of its items an
    instance has there. None where they are too different to be one.
    """
    kinds = {
        ("call", e.function.name)
        if isinstance(e, Call) and e.function.name == "nn.Sequential"
        else ("display", e.brackets)
        if isinstance(e, Display)
        else None
        for e in exprs
    }
    if len(kinds) != 1 or None in kinds or any(not _is_numbered(e) for e in exprs):
        return None
    order = sorted(range(len(exprs)), key=lambda i: -len(_items(exprs[i])))
    columns: list[Expr] = list(_items(exprs[order[0]]))
    rows: dict[int, list[int | None]] = {order[0]: list(range(len(columns)))}
    for i in order[1:]:
        row = _placed(_items(exprs[i]), columns)
        if row is None:
            return None
        rows[i] = row
    optional = [k for k in range(len(columns)) if any(row[k] is None for row in rows.values())]
    if len(optional) > _MOST_OPTIONAL or len(optional) == len(columns):
        return None
    return [rows[i] for i in range(len(exprs))]


def _is_numbered(expr: Expr) -> bool:
    return isinstance(expr, Display) or (
        isinstance(expr, Call)
        and [a.name for a in expr.arguments] == [str(k) for k in range(len(expr.arguments))]
    )


def _placed(items: Sequence[Expr], columns: Sequence[Expr]) -> list[int | None] | None:
    """Where the items of a shorter container stand in a longer one, the most alike together."""
    best: list[list[tuple[int, tuple[int | None, ...]] | None]] = [
        [None] * (len(columns) + 1) for _ in range(len(items) + 1)
    ]
    for column in range(len(columns) + 1):
        best[0][column] = (0, (None,) * column)
    for i in range(1, len(items) + 1):
        for column in range(1, len(columns) + 1):
            choices = []
            skipped = best[i][column - 1]
            if skipped is not None:
                choices.append((skipped[0], (*skipped[1], None)))
            before = best[i - 1][column - 1]
            if before is not None and _skeleton(items[i - 1]) == _skeleton(columns[column - 1]):
                alike = _likeness(items[i - 1], columns[column - 1])
                choices.append((before[0] + alike, (*before[1], i - 1)))
            best[i][column] = max(choices, key=lambda c: c[0], default=None)
    found = best[len(items)][len(columns)]
    return None if found is None else list(found[1])


def _likeness(a: Expr, b: Expr) -> int:
    """In how many arguments two calls of one skeleton are alike: equal, or neither the default."""
    match a, b:
        case Call(_, first), Call(_, second):
            # A depthwise convolution has three times the same width, whichever it is.
            same = _pattern(first) == _pattern(second)
            return 4 * same * any(_is_width(x.value) for x in first) + sum(
                2 * (x.value == y.value and not _is_width(x.value))
                + ((x.value == x.default) == (y.value == y.default))
                + _likeness(x.value, y.value)
                for x, y in zip(first, second, strict=False)
            )
    return 0


def _pattern(arguments: Sequence[Argument]) -> list[int]:
    """Which widths of a layer are equal, and which are 1."""
    widths = [a.value.value for a in arguments if isinstance(a.value, Literal) and a.value.width]
    return [-1 if w == 1 else widths.index(w) for w in widths]


def _is_activation(expr: Expr) -> bool:
    return isinstance(expr, Reference) and expr.name in _ACTIVATIONS


def _end_of(argument: Argument) -> str:
    if argument.end or not argument.name.startswith(("in_", "out_")):
        return argument.end
    return argument.name.partition("_")[0]


def _code(code: str, *holes: Expr) -> Verbatim:
    return Verbatim(code, (), tuple(Argument(f"hole{i}", h) for i, h in enumerate(holes)))


def _names_in(expr: Expr) -> set[str]:
    """The names that an expression refers to, or that the original's code in it binds."""
    match expr:
        case Verbatim(code, before, holes):
            nodes = (n for text in (code, *before) for n in ast.walk(ast.parse(text.strip())))
            own = {n.id for n in nodes if isinstance(n, ast.Name)}
            return own.union(*(_names_in(h.value) for h in holes))
        case Reference(name):
            return {name.partition(".")[0]}
        case Call(function, arguments):
            called = _names_in(function)
            return called.union(*(_names_in(a.value) for a in arguments))
        case Either(_, then, otherwise):
            return _names_in(then) | _names_in(otherwise)
        case Maybe(_, item):
            return _names_in(item)
        case Display(items):
            return set[str]().union(*map(_names_in, items))
        case Dictionary(items):
            return set[str]().union(*(_names_in(v) for _, v in items))
    return set()


def _name_of_optional(items: Sequence[Expr], place: int, count: int, of: str) -> str:
    """What the flag is called that switches on an item of a container."""
    match items[0]:
        case Call(Reference(name)) if name not in ("nn.Sequential", "nn.Conv2d", "nn.Linear"):
            return _name_of_layer(name)
    if all(_widens(item) for item in items):
        return "expand"
    ordinals = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
    which = "last" if place == count - 1 else ordinals[place] if place < 8 else f"item{place}"
    return f"with_{which}_layer" if of.isdigit() else f"with_{which}_{of}"


def _name_of_layer(name: str) -> str:
    """`with_max_pool` for `nn.MaxPool2d`."""
    return f"with_{re.sub(r'[123]d$', '', _snake(name.removeprefix('nn.')))}"


def _are_rows(exprs: Sequence[Expr]) -> bool:
    """Whether they are Sequentials with the same layers but for a few, such as an Identity."""
    if any(
        not isinstance(e, Call) or e.function.name != "nn.Sequential" or not _is_numbered(e)
        for e in exprs
    ):
        return False
    rows = [_items(e) for e in exprs]
    if len({len(row) for row in rows}) > 1:
        return False
    kinds = [len({_skeleton(item) for item in column}) for column in zip(*rows, strict=True)]
    return max(kinds, default=0) == 2 and 2 * kinds.count(1) > len(kinds)


def _widens(expr: Expr) -> bool:
    """Whether the first layer makes more channels than it reads."""
    ends = dict(reversed(list(_widths(expr))))
    match ends.get("in"), ends.get("out"):
        case Literal(int(inputs)), Literal(int(outputs)):
            return outputs > inputs
    return False


def _snake(name: str) -> str:
    """`max_pool` for MaxPool, `leaky_relu` for LeakyReLU."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.replace("LU", "lu")).lower()


def _is_width(expr: Expr) -> bool:
    return isinstance(expr, (Literal, Variable)) and expr.width


def _widths(expr: Expr) -> Iterator[tuple[str, Expr]]:
    """The arguments of layers that all instances have, with the ends that they are, in order."""
    match expr:
        case Call(_, arguments):
            for argument in arguments:
                if isinstance(argument.value, (Literal, Variable, _Slot)):
                    yield _end_of(argument), argument.value
                else:
                    yield from _widths(argument.value)
        case Maybe(_, item):
            yield from _widths(item)
        case Display(items):
            for item in items:
                yield from _widths(item)
        case Dictionary(items):
            for _, item in items:
                yield from _widths(item)


def _is_mutable(expr: Expr) -> bool:
    match expr:
        case Literal(value):
            return isinstance(value, (list, dict, set))
        case Display(_, brackets):
            return brackets == "["
    return isinstance(expr, Dictionary)


def _is_half(padding: Expr, kernel: Expr | None) -> bool:
    match padding, kernel:
        case Literal(int(p)), Literal(int(k)):
            return k == 2 * p + 1
    return False


def _spoken(path: Sequence[str]) -> str:
    """`block_conv` for block.0.conv: positions tell a reader nothing."""
    words = [part for part in _place(path) if not part.isdigit()]
    return "_".join(words or path)


def _place(path: Sequence[str]) -> tuple[str, ...]:
    """The path without the arguments in which containers and parameters hold what they hold."""
    return tuple(part for part in path if part not in ("data", "modules", "items"))


def _is_telling(column: _Column) -> bool:
    """Whether the name of the argument says more than that it counts channels."""
    return column.width and (len(column.path) == 1 or column.argument not in _SAY_LITTLE)


# `nn.Dropout(p)`, as against `kernel_size`, which nobody calls better.
_SAYING_NOTHING = frozenset({"p", "num_heads", "eps", "negative_slope"})

_SAY_LITTLE = frozenset(
    {"in_channels", "out_channels", "num_features", "in_features", "out_features", "groups"}
    | {
        "input_channels",
        "output_channels",
        "num_channels",
        "normalized_shape",
        "num_parameters",
        "embed_dim",
        "input_size",
    }
    | {"hidden_size", "hidden_channels", "in_chans"}
    | {f"size{i}" for i in range(8)}
)


def _kind(column: _Column) -> str:
    """Columns of different kinds are different parameters, also where their values agree."""
    if column.flag:
        return "flag"
    if column.part:
        return "part"
    return "width" if column.width else f"argument {column.argument}"


def _skeleton(expr: Expr) -> str:
    """Two expressions can be laid over each other where their skeletons are equal."""
    match expr:
        case Literal(None):
            return "None"
        case Literal(value) if value is ...:
            return "absent"
        case Literal() | Variable():
            return "."
        case Reference(name):
            return name
        case Call(function, arguments):
            inner = ", ".join(f"{a.name}={_skeleton_of_argument(a.value)}" for a in arguments)
            return f"{'activation' if _is_activation(function) else function.name}({inner})"
        case Display(items, brackets):
            return brackets + ", ".join(_skeleton(item) for item in items)
        case Dictionary(items):
            return "{" + ", ".join(f"{k}: {_skeleton(v)}" for k, v in items)
        case Maybe(_, item):
            return f"maybe {_skeleton(item)}"
        case Verbatim(code, before):
            return "\n".join((*before, code))
        case Either(flag, then, otherwise):
            return f"{_skeleton(then)} if {_skeleton(flag)} else {_skeleton(otherwise)}"
    return "slot"


def _skeleton_of_argument(expr: Expr) -> str:
    # An argument may be None here and a number there; a layer may not.
    if _is_activation(expr):
        return "activation"
    return "." if isinstance(expr, Literal) else _skeleton(expr)


def _size_of(expr: Expr) -> int:
    identity = isinstance(expr, Call) and expr.function.name == "nn.Identity"
    return 0 if identity else len(_skeleton(expr))


def _has_variable(expr: Expr) -> bool:
    match expr:
        case Variable():
            return True
        case Call(_, arguments):
            return any(_has_variable(a.value) for a in arguments)
        case Display(items):
            return any(_has_variable(item) for item in items)
        case Dictionary(items):
            return any(_has_variable(v) for _, v in items)
        case Maybe(_, item):
            return _has_variable(item)
        case Either(_, then, otherwise):
            return _has_variable(then) or _has_variable(otherwise)
    return False


def _merged_order(orders: Sequence[list[str]]) -> list[str]:
    """One order of all names that keeps, for every instance, the order of its own."""
    merged: list[str] = []
    for order in orders:
        at = 0
        for name in order:
            if name in merged:
                at = merged.index(name) + 1
            else:
                merged.insert(at, name)
                at += 1
    return merged
