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
the parameter of a full column that agrees there.
"""

from __future__ import annotations

import keyword
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
    Given,
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


@dataclass(frozen=True, slots=True)
class Constructor:
    """A class's `__init__`: its parameters, and what it assigns."""

    parameters: tuple[Parameter, ...]
    body: Record

    def arguments(self, instance: int) -> tuple[Argument, ...]:
        """What the constructor is called with to get this instance."""
        return tuple(
            Argument(p.name, p.values[instance], p.default, positional=p.default is None)
            for p in self.parameters
        )


def unify(records: Sequence[Record], lacking: Sequence[Collection[str]] = ()) -> Constructor:
    """Lay the instances of a class over each other.

    Args:
        lacking: for every instance, the attributes that it does not have at all; others that its
            record leaves out are None.
    """
    names = _merged_order([list(record) for record in records])
    sheet = _Sheet(len(records))
    everyone = tuple(range(len(records)))
    body: dict[str, Expr] = {}
    for name in names:
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
    shown_by: int = -1
    """Of a flag: the column of a width that only the part has that it switches on."""
    half_of: int = -1
    """The column of the kernel size whose half it is in every instance: the padding."""

    @property
    def argument(self) -> str:
        return self.path[-1]


class _Sheet:
    def __init__(self, count: int) -> None:
        self.count = count
        self.columns: list[_Column] = []

    def lay(self, exprs: Sequence[Expr], instances: tuple[int, ...], path: tuple[str, ...]) -> Expr:
        """The template that gives every expression when its slots are filled."""
        first = exprs[0]
        if any(holds_handed(expr) for expr in exprs):
            return self._slot(path, exprs, instances, part=True)
        symbolic = any(_has_variable(expr) for expr in exprs)
        # In a part that only some instances have, a constant may be a parameter of the others.
        partial = len(instances) < self.count and isinstance(first, (Literal, Call))
        if all(expr == first for expr in exprs) and not symbolic and not partial:
            return first
        if all(isinstance(expr, (Literal, Variable)) for expr in exprs):
            return self._slot(path, exprs, instances)
        shapes = dict[str, list[int]]()
        for i, expr in enumerate(exprs):
            shapes.setdefault(_skeleton(expr), []).append(i)
        if len(shapes) == 1:
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
            case Call(function, arguments, table):
                laid = []
                for k, argument in enumerate(arguments):
                    values = [e.arguments[k].value for e in exprs if isinstance(e, Call)]
                    value = self.lay(values, instances, (*path, argument.name))
                    laid.append(replace(argument, value=value))
                called = [e.function for e in exprs if isinstance(e, Call)]
                if all(other == function for other in called):
                    return replace(exprs[0], arguments=tuple(laid))
                # One parameter for all layers that change alike, as `activation_layer=nn.ReLU`.
                slot = self._slot((*path, "activation_layer"), called, instances)
                return Call(function, tuple(laid), table, chosen=slot)
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
            slot = self._slot((*path[:-1], f"with_{path[-1]}_{place}"), flags, instances, flag=True)
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
        slot = self._slot(path, flags, instances, flag=True)
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
    ) -> Expr:
        numbers = [e for e in exprs if isinstance(e, (Literal, Variable))]
        width = bool(numbers) and all(e.width for e in numbers) and not part
        self.columns.append(
            _Column(path, dict(zip(instances, exprs, strict=True)), width and not flag, flag, part)
        )
        return _Slot(len(self.columns) - 1)  # type: ignore[return-value]

    def finish(self, body: Record) -> Constructor:
        """Merge the columns, name them, and put their names into the slots."""
        self._merge()
        self._find_sums()
        self._find_paddings()
        self._find_telling_widths()
        owners = [
            i
            for i, c in enumerate(self.columns)
            if c.owner == i
            and c.constant is None
            and not c.terms
            and c.half_of < 0
            and c.shown_by < 0
        ]
        names = self._names(owners, body)
        parameters = {i: self._parameter(i, names[i]) for i in owners}
        filled = {
            name: self._fill(expr, [self._value(i, parameters) for i in range(len(self.columns))])
            for name, expr in body.items()
        }
        ordered = sorted(
            owners,
            key=lambda i: (
                parameters[i].default is not None,
                self.columns[i].flag,
                _rank(parameters[i].name),
                owners.index(i),
            ),
        )
        return Constructor(tuple(parameters[i] for i in ordered), filled)

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
            candidates.sort(reverse=not column.argument.startswith("in_"))
            values = list(column.values.values())
            if not column.width and not column.flag and column.argument not in _PASSED_ON:
                # One value wherever the part exists is its own; the block's agrees by chance.
                candidates = [] if all(v == values[0] for v in values) else candidates
            if not candidates and not column.flag and all(v == values[0] for v in values):
                column.constant = values[0]
            column.owner = candidates[0] if candidates else i

    def _find_sums(self) -> None:
        """Widths behind a concatenation: the sum of what layers in front of them make.

        Only neighbours among the layers that make channels are tried, at most six of them, and
        only where there are instances enough to tell a sum from a coincidence.
        """
        if self.count < 2:
            return
        full = [c for c in self.columns if c.width and len(c.values) == self.count]
        makers = [c.owner for c in full if c.argument.startswith("out_")]
        for i, column in enumerate(self.columns):
            makes = any(c.owner == i and c.argument.startswith("out_") for c in self.columns)
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
        """Paddings that are half of the kernel in every instance follow from it."""
        for i, column in enumerate(self.columns):
            if column.owner != i or column.argument != "padding" or column.constant is not None:
                continue
            # Every layer that shares the padding must have this kernel.
            kernels = {
                c.owner
                for p in self.columns
                if p.owner == i
                for c in self.columns
                if c.path == (*p.path[:-1], "kernel_size")
            }
            layers = sum(p.owner == i for p in self.columns)
            beside = sum(
                c.path == (*p.path[:-1], "kernel_size")
                for p in self.columns
                if p.owner == i
                for c in self.columns
            )
            if len(kernels) != 1 or layers != beside:
                continue
            kernel = self.columns[next(iter(kernels))]
            if kernel.constant is None and all(
                _is_half(column.values[k], kernel.values.get(k)) for k in column.values
            ):
                column.half_of = kernel.owner

    def _find_telling_widths(self) -> None:
        """A part with a width of its own is there where that is given: it needs no flag."""
        for i, flag in enumerate(self.columns):
            if not flag.flag or flag.owner != i or len(flag.values) < self.count:
                continue
            on = {k for k, value in flag.values.items() if value == Literal(True)}
            flag.shown_by = next(
                (
                    j
                    for j, c in enumerate(self.columns)
                    if c.owner == j
                    and c.width
                    and c.constant is None
                    and not c.terms
                    and set(c.values) == on
                    and not c.argument.startswith("in_")
                ),
                -1,
            )

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
        if column.flag:
            on = sum(value == Literal(True) for value in present)
            default: Expr | None = Literal(2 * on > self.count)
        elif any(flag.shown_by == i for flag in self.columns):
            default = NONE
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
        values = tuple(column.values.get(k, default or NONE) for k in range(self.count))
        return Parameter(name, values, default, column.width)

    def _names(self, owners: list[int], body: Record) -> dict[int, str]:
        widths = [i for i in owners if self.columns[i].width]
        members = {i: [c for c in self.columns if c.owner == i] for i in owners}
        names: dict[int, str] = {}
        taken = {"self", "nn", "torch"}  # what the body of an __init__ refers to

        def give(i: int, *choices: str) -> None:
            for choice in (*choices, *(f"{choices[-1]}_{n}" for n in range(2, 1000))):
                if choice not in taken and choice.isidentifier() and not keyword.iskeyword(choice):
                    names[i] = choice
                    taken.add(choice)
                    return

        # The block's own ends, where they differ between instances: a constant has no name.
        ends = [(n, v) for expr in body.values() for n, v in _widths(expr)]
        into = next((v for n, v in ends if n.startswith("in_")), None)
        out = next((v for n, v in reversed(ends) if n.startswith("out_")), None)
        if isinstance(into, _Slot):
            column = self.columns[into.column]
            give(column.owner, column.argument)
        if isinstance(out, _Slot):
            column = self.columns[out.column]
            lasts = [c for c in self.columns if c.width and c.argument.startswith("out_")]
            of_a_sum = any(column.owner in c.terms for c in self.columns)
            if column.owner not in names and not of_a_sum and not self._has_siblings(column, lasts):
                give(column.owner, column.argument)
        middle = [i for i in widths if i not in names]
        told_of = {i for i in middle if any(_is_telling(c) for c in members[i])}
        for i in middle:
            makers = [c for c in members[i] if c.argument.startswith("out_")] or members[i]
            layer = _spoken(makers[0].path[:-1])
            told = next((c.argument for c in members[i] if _is_telling(c)), "")
            nested = len(makers[0].path) > 2
            if told:
                give(i, told, f"{layer}_{told}" if layer else told)
            elif nested and len([j for j in middle if j not in told_of]) == 1:
                give(i, "hidden_channels", f"{layer}_channels")
            else:
                give(i, f"{layer}_channels")
        for i in owners:
            if i in names:
                continue
            column = self.columns[i]
            if column.flag or column.part or len(column.path) == 1:
                give(i, column.path[0], "_".join(column.path))
                continue
            same = [j for j in owners if self.columns[j].argument == column.argument]
            long = "_".join(column.path)
            if column.argument == "p":
                give(i, f"{_spoken(column.path[:-1])}_prob")
                continue
            give(i, *([column.argument] if same[0] == i else []), long)
        return names

    def _has_siblings(self, last: _Column, makers: Sequence[_Column]) -> bool:
        """Whether a layer beside the last one reads the same, so that what goes out is of both."""
        reads = {
            c.path[:-1]: c.owner for c in self.columns if c.width and c.argument.startswith("in_")
        }
        source = reads.get(last.path[:-1])
        return source is not None and any(
            reads.get(c.path[:-1]) == source and c.owner not in (last.owner, source) for c in makers
        )

    def _value(self, i: int, parameters: Mapping[int, Parameter]) -> Expr:
        column = self.columns[i]
        if column.constant is not None:
            return column.constant
        owner = self.columns[column.owner]
        if owner.shown_by >= 0:
            return Given(self._value(owner.shown_by, parameters))
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
            case Call(arguments=arguments, chosen=chosen):
                return replace(
                    expr,
                    arguments=tuple(
                        replace(a, value=self._fill(a.value, slots)) for a in arguments
                    ),
                    chosen=chosen and self._fill(chosen, slots),
                )
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
                filled = tuple(replace(h, value=self._fill(h.value, slots)) for h in holes)
                return Verbatim(code, before, filled)
        return expr


_ACTIVATIONS = frozenset(
    f"nn.{name}"
    for name in ("ReLU", "ReLU6", "SiLU", "Hardswish", "Mish", "GELU", "Sigmoid", "Hardsigmoid")
)

# What a block hands on to its shortcut.
_PASSED_ON = frozenset({"stride", "dilation"})

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
            return sum(
                2 * (x.value == y.value and not _is_width(x.value))
                + ((x.value == x.default) == (y.value == y.default))
                + _likeness(x.value, y.value)
                for x, y in zip(first, second, strict=False)
            )
    return 0


def _is_width(expr: Expr) -> bool:
    return isinstance(expr, (Literal, Variable)) and expr.width


def _widths(expr: Expr) -> Iterator[tuple[str, Expr]]:
    """The arguments of layers that all instances have, with their names, in order."""
    match expr:
        case Call(_, arguments):
            for argument in arguments:
                if isinstance(argument.value, (Literal, Variable, _Slot)):
                    yield argument.name, argument.value
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


def _is_half(padding: Expr, kernel: Expr | None) -> bool:
    match padding, kernel:
        case Literal(int(p)), Literal(int(k)):
            return k == 2 * p + 1
    return False


def _spoken(path: Sequence[str]) -> str:
    """`block_conv` for block.0.conv: positions tell a reader nothing."""
    words = [part for part in path if not part.isdigit() and part != "data"]
    return "_".join(words or path)


def _is_telling(column: _Column) -> bool:
    """Whether the name of the argument says more than that it counts channels."""
    return column.width and (len(column.path) == 1 or column.argument not in _SAY_LITTLE)


_SAY_LITTLE = frozenset(
    {"in_channels", "out_channels", "num_features", "in_features", "out_features", "groups"}
    | {"num_channels", "normalized_shape", "num_parameters", "embed_dim", "input_size"}
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


def _rank(name: str) -> int:
    """What comes in first, what goes out last among the widths."""
    if name.startswith("in_"):
        return 0
    return 2 if name.startswith("out_") else 1


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
            # Activations that are built alike stand for each other.
            name = "activation" if function.name in _ACTIVATIONS else function.name
            return f"{name}({inner})"
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
