"""The number in an expression that has to change, and what it becomes.

In `256 * 6 * 6`, which says 9216 and has to say 4608, each of the three could make the product
right:

    256 -> 128    6 -> 3    6 -> 3

128 it is, as 256 is the width that a dimension at the operator had, and 128 what it has left. Where
none is such a width the first one that is a number in every instance changes; the expression as a
whole comes last. A sum or a difference is solved for each of its sides in the same way, and a name
or attribute that stands for plain numbers counts as one of them.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pruners.sizes.evaluate import computed, value_of
from pruners.sizes.names import Names
from pruners.sizes.said import Size, refusal
from pruners.sizes.syntax import one_line


@dataclass(frozen=True, slots=True)
class _Number:
    """A part of an expression that could change, and what it would become."""

    node: ast.expr
    new: Any
    rank: int
    """0 for the width of a dimension, 1 for another part, 2 for the whole expression."""


def number_in(sizes: Sequence[Size], names: Names) -> tuple[ast.expr, list[tuple[Size, Any]]]:
    """The part of an expression that is to change, with its new value for every instance.

    Args:
        sizes: that the expression says, one for every instance.

    Raises:
        RefusedError: it holds no number.
    """
    first = next(size for size in sizes if size.given != size.needed)
    candidates = sorted(
        _candidates(first.expr, first, first.given, first.needed, names), key=lambda n: n.rank
    )
    for candidate in candidates:
        values: list[tuple[Size, Any]] = []
        for size in sizes:
            mine = _candidates(size.expr, size, size.given, size.needed, names)
            found = [n for n in mine if n.node is candidate.node]
            if size.given == size.needed:
                values.append((size, value_of(candidate.node, size.frames[0])))
            elif found:
                values.append((size, found[0].new))
            else:
                break
        else:
            return candidate.node, values
    raise refusal(first.correction, f"`{one_line(first.expr)}` {_why_not(first, names)}")


def _why_not(size: Size, names: Names) -> str:
    """Why no number in an expression can be rewritten."""
    inside = [n for n in ast.walk(size.expr) if isinstance(n, ast.Name)]
    kinds = {n.id: names.definition(n, size)[0] for n in inside}
    unclear = [name for name, kind in kinds.items() if kind == "unknown"]
    if unclear:
        return f"rests on `{unclear[0]}`, which is not assigned once, as `name = value`"
    given = [name for name, kind in kinds.items() if kind == "argument"]
    if given and given != ["self"]:
        return f"rests on the argument `{given[-1]}`, and no caller says a number for it"
    return "holds no number that could say it"


def _candidates(expr: ast.expr, size: Size, given: Any, needed: Any, names: Names) -> list[_Number]:
    if not names.is_plain(expr, size):
        return _within(expr, size, given, needed, names)
    whole = _Number(expr, needed, 2)
    return [*_within(expr, size, given, needed, names), whole]


def _within(expr: ast.expr, size: Size, given: Any, needed: Any, names: Names) -> list[_Number]:
    frame = size.frames[0]
    pair = isinstance(given, int) and (given, needed) in size.correction.widths
    rank = 0 if pair else 1
    match expr:
        case ast.Constant(int()):
            return [_Number(expr, needed, rank)]
        case ast.Name() | ast.Attribute() | ast.Subscript():
            if names.is_plain(expr, size):
                return [_Number(expr, needed, rank)]
        case ast.UnaryOp(ast.USub(), inner):
            return _within(inner, size, -given, -needed, names)
        case ast.BinOp(left, op, right) if isinstance(given, int):
            found: list[_Number] = []
            a, b = value_of(left, frame), value_of(right, frame)
            # Where a factor cannot be told, it is what is left of the product.
            if isinstance(op, ast.Mult):
                a = given // b if a is None and b else a
                b = given // a if b is None and a else b
            if computed(op, a, b) != given:
                return []  # a name in it has had another value since
            for inner, old, other in ((left, a, b), (right, b, a)):
                new = _solved(op, inner is left, other, needed)
                if isinstance(old, int) and new is not None:
                    found += _within(inner, size, old, new, names)
            return found
    return []


def _solved(op: ast.operator, left: bool, other: Any, needed: int) -> int | None:
    """What one side of an operation must be so that the whole is `needed`."""
    if not isinstance(other, int):
        return None
    match op:
        case ast.Mult():
            return needed // other if other and needed % other == 0 else None
        case ast.Add():
            return needed - other
        case ast.Sub():
            return needed + other if left else other - needed
    return None
