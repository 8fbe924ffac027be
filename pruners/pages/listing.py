"""Source code as lines of coloured words, the original beside the generated.

Whatever a line says reaches the page escaped: only the tags around its words are made here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape
from pygments.lexers import PythonLexer
from pygments.token import Token, _TokenType

from pruners.side_by_side import Kind, Part, Row, rows

_AROUND = 3
"""Lines alike that stay visible beside those that differ."""

_CLASSES = (
    (Token.Comment, "c"),
    (Token.Literal.String.Doc, "c"),
    (Token.Literal.String, "s"),
    (Token.Literal.Number, "m"),
    (Token.Keyword, "k"),
    (Token.Operator.Word, "k"),
    (Token.Name.Function, "f"),
    (Token.Name.Class, "f"),
    (Token.Name.Decorator, "f"),
    (Token.Name.Builtin, "b"),
)
"""The colour of a word; what comes first holds."""

Marks = Sequence[tuple[int, int]]
_Words = list[tuple[str, str]]
"""Class and text of every word of a line."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of one side; its number is that in its definition."""

    number: int
    code: Markup


@dataclass(frozen=True, slots=True)
class Pair:
    """Two lines beside each other."""

    kind: Kind
    left: Line | None
    right: Line | None


@dataclass(frozen=True, slots=True)
class Stretch:
    """Lines that are shown, or that are alike and folded away."""

    folded: bool
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True)
class Listing:
    """One definition on both sides."""

    left_title: str
    right_title: str
    stretches: tuple[Stretch, ...]
    changed: int
    """Lines that differ."""


def listings(parts: Iterable[Part]) -> list[Listing]:
    """Every definition, those that differ first."""
    found = []
    for part in parts:
        pairs = tuple(_pairs(part))
        changed = sum(pair.kind != " " for pair in pairs)
        found.append(Listing(part.left_title, part.right_title, tuple(_stretches(pairs)), changed))
    return sorted(found, key=lambda listing: listing.changed == 0)


def coloured(source: str) -> list[Markup]:
    """The lines of a file."""
    return [_html(words, ()) for words in _lines(source.splitlines())]


def _pairs(part: Part) -> Iterator[Pair]:
    left, right = _lines(part.left), _lines(part.right)
    at = [0, 0]

    def line(side: int, words: list[_Words], marks: Marks) -> Line:
        at[side] += 1
        return Line(at[side], _html(words[at[side] - 1], marks))

    if part.alike:
        for _ in part.left:
            yield Pair(" ", line(0, left, ()), line(1, right, ()))
        return
    for row in rows(part, len(part.left) + len(part.right)):
        assert isinstance(row, Row)
        yield Pair(
            row.kind,
            line(0, left, row.left_marks) if row.kind != ">" else None,
            line(1, right, row.right_marks) if row.kind != "<" else None,
        )


def _stretches(pairs: Sequence[Pair]) -> Iterator[Stretch]:
    near: set[int] = set()
    for place, pair in enumerate(pairs):
        if pair.kind != " ":
            near.update(range(place - _AROUND, place + _AROUND + 1))
    start = 0
    for place in range(1, len(pairs) + 1):
        if place == len(pairs) or (place in near) != (start in near):
            # A fold of two lines would take as much room as they do.
            folded = start not in near and place - start > 2
            yield Stretch(folded, tuple(pairs[start:place]))
            start = place


def _lines(lines: Sequence[str]) -> list[_Words]:
    """The words of every line; a string over several lines keeps its colour."""
    found: list[_Words] = [[]]
    for kind, text in PythonLexer(stripnl=False, ensurenl=False).get_tokens("\n".join(lines)):
        first, *more = text.split("\n")
        name = _class(kind)
        if first:
            found[-1].append((name, first))
        for line in more:
            found.append([(name, line)] if line else [])
    # Control characters that Pygments takes for ends of lines: then without colours.
    if ["".join(text for _, text in words) for words in found] != list(lines):
        return [[("", line)] for line in lines]
    return found


def _class(kind: _TokenType) -> str:
    return next((name for of, name in _CLASSES if kind in of), "")


def _html(words: _Words, marks: Marks) -> Markup:
    """A line; what is between the columns of a mark is marked."""
    html = []
    column = 0
    for name, text in words:
        cuts = {column, column + len(text)}
        cuts |= {c for mark in marks for c in mark if column < c < column + len(text)}
        bounds = sorted(cuts)
        for start, end in pairwise(bounds):
            piece = escape(text[start - column : end - column])
            if name:
                piece = Markup(f'<i class="{name}">') + piece + Markup("</i>")
            if any(first <= start and end <= last for first, last in marks):
                piece = Markup("<mark>") + piece + Markup("</mark>")
            html.append(piece)
        column += len(text)
    return Markup("").join(html)
