"""How results look on stdout: the one place that knows what a terminal is.

Commands hand over plain data (a `Sheet`, a `Branch`, the parts of a comparison). On a terminal it
becomes tables with colours and small bars, as wide as the window; elsewhere, and where `TERM=dumb`
says that the terminal can do nothing, it is plain text as programs read it. `NO_COLOR` takes the
colours away and nothing else: whatever a colour says, a sign says too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from pruners.side_by_side import Part, Row, rows, unified

_WIDE = 200
"""Columns where there is no terminal, if names and numbers need no more; words may be broken."""
_BARS = (16, 8)
"""Widths of a bar, the first that there is room for; a window with room for neither has none."""
_WORDS = 16
"""What words need at least to stand beside numbers."""
_GAP = 2
"""Between two columns."""

Kind = Literal["name", "number", "words", "bar"]
"""Of a column: names and numbers stay whole, words may be broken, bars may be left out."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A share as a picture; on a terminal only."""

    kept: float
    of: float
    largest: float = 0.0
    """The `of` that takes the whole width, where bars of one column have different lengths."""

    def widths(self, width: int) -> tuple[int, int]:
        """Columns for what is kept and for what is not, of `width` at most.

        What there is has at least one: no rounding says that all of a layer went, or nothing.
        """
        length = width if not self.largest else round(width * self.of / self.largest)
        length = max(length, 1 if self.of > 0 else 0)
        kept = round(length * self.kept / self.of) if self.of > 0 else 0
        if length > 1:
            kept = min(max(kept, int(self.kept > 0)), length - int(self.kept < self.of))
        return kept, length - kept


Cell = str | Bar


@dataclass(frozen=True, slots=True)
class Column:
    """What stands in one column."""

    title: str
    kind: Kind = "name"
    colours: Mapping[str, str] = field(default_factory=dict)
    """Of certain words, on a terminal."""
    optional: bool = False
    """Left out of a window that is too narrow; bars are in any case."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table as plain data."""

    columns: tuple[Column, ...]
    titled: bool = True
    rows: list[tuple[Cell, ...]] = field(default_factory=list)

    def add_row(self, *cells: Cell) -> None:
        """One row, a cell a column; cells that are left out at the end are empty."""
        self.rows.append((*cells, *("" for _ in self.columns[len(cells) :])))


@dataclass(frozen=True, slots=True)
class Branch:
    """A line and what hangs from it."""

    text: str
    colour: str = ""
    """On a terminal."""
    children: tuple[Branch, ...] = ()


def figures(*titles: str) -> Sheet:
    """An empty table: names on the left, numbers on the right."""
    return Sheet(tuple(Column(t, "number" if i else "name") for i, t in enumerate(titles)))


def terminal() -> Console | None:
    """The terminal that stdout is; None where it is none, or one that can do nothing."""
    console = Console(file=sys.stdout, highlight=False)
    return console if console.is_terminal and not console.is_dumb_terminal else None


def show(shown: Sheet | Branch, console: Console | None = None) -> None:
    """The table or tree on stdout; plain text where that is no terminal."""
    console = console or terminal()
    if console is not None:
        console.print(_fitted(shown, console.width) if isinstance(shown, Sheet) else _tree(shown))
        return
    plain = Console(file=sys.stdout, width=_plain_width(shown), force_terminal=False)
    with plain.capture() as captured:
        plain.print(_plain(shown) if isinstance(shown, Sheet) else _tree(shown, plain=True))
    for line in captured.get().splitlines():
        print(line.rstrip())


def _plain_width(shown: Sheet | Branch) -> int:
    """As wide as a program needs it that reads names and numbers: none is cut off or broken."""
    if isinstance(shown, Branch):
        return max(_WIDE, _longest(shown))
    places = [i for i, column in enumerate(shown.columns) if column.kind != "bar"]
    return max(_WIDE, sum(_least(shown, place, 0) + _GAP for place in places))


def _longest(branch: Branch) -> int:
    """Columns of the longest line of a tree; a level is as far in as its guides are wide."""
    return max(cell_len(branch.text), *(4 + _longest(b) for b in branch.children), 0)


# --- tables ------------------------------------------------------------------------------------


def _plain(sheet: Sheet) -> Table:
    """Columns side by side without lines; no bars."""
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), show_header=sheet.titled)
    places = [i for i, column in enumerate(sheet.columns) if column.kind != "bar"]
    for column in (sheet.columns[place] for place in places):
        _add_column(table, column)
    for row in sheet.rows:
        table.add_row(*(Text(str(row[place])) for place in places))
    return table


def _add_column(table: Table, column: Column, style: str = "") -> None:
    table.add_column(
        Text(column.title),
        justify="right" if column.kind == "number" else "left",
        no_wrap=column.kind != "words",
        overflow="fold" if column.kind == "words" else "ellipsis",
        style=style,
    )


def _fitted(sheet: Sheet, width: int) -> RenderableType:
    """The table as the window allows: whole, with less in it, or a few lines for every row."""
    for bar, everything in ((_BARS[0], True), (_BARS[1], True), (_BARS[1], False), (0, False)):
        shown = [
            place
            for place, column in enumerate(sheet.columns)
            if (bar or column.kind != "bar") and (everything or not column.optional)
        ]
        least = sum(_least(sheet, place, bar) for place in shown)
        if least + _GAP * (len(shown) - 1) <= width:
            return _table(sheet, shown, bar)
    return _cards(sheet, width)


def _least(sheet: Sheet, place: int, bar: int) -> int:
    """What a column needs."""
    column = sheet.columns[place]
    cells = [str(row[place]) for row in sheet.rows if column.kind != "bar"]
    natural = max((cell_len(text) for text in cells), default=0)
    # Words may be broken, their title may not.
    natural = {"words": min(natural, _WORDS), "bar": bar}.get(column.kind, natural)
    return max(natural, cell_len(column.title) if sheet.titled else 0)


def _table(sheet: Sheet, shown: Sequence[int], bar: int) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD if sheet.titled else None,
        show_edge=False,
        pad_edge=False,
        # A box has a column of its own between two others.
        padding=(0, _GAP - int(sheet.titled), 0, 0),
        show_header=sheet.titled,
        header_style="bold",
        border_style="dim",
    )
    for column in (sheet.columns[place] for place in shown):
        _add_column(table, column, "dim" if column.kind == "words" and sheet.titled else "")
    for row in sheet.rows:
        table.add_row(*(_cell(row[place], sheet.columns[place], bar) for place in shown))
    return table


def _cell(cell: Cell, column: Column, bar: int) -> RenderableType:
    if isinstance(cell, Bar):
        return _Drawn(cell, bar)
    return Text(cell, column.colours.get(cell, ""))


def _cards(sheet: Sheet, width: int) -> RenderableType:
    """A line a figure, where a row of them is too long for the window."""
    lines: list[RenderableType] = []
    first, *others = range(len(sheet.columns))
    indent = 2 if width > 2 * _WORDS else 1
    titles = max((cell_len(sheet.columns[i].title) for i in others), default=0)
    titles = min(titles, width // 2) if sheet.titled else 0
    for row in sheet.rows:
        lines.append(Text(str(row[first]), "bold", overflow="fold"))
        card = Table.grid(padding=(0, _GAP, 0, 0), pad_edge=False)
        if titles:
            card.add_column(width=titles, overflow="fold")
        card.add_column(overflow="fold")
        for place in others:
            column, cell = sheet.columns[place], row[place]
            if cell:
                left = max(width - indent - titles - _GAP, 1)
                value = _cell(cell, column, min(_BARS[0], left))
                card.add_row(*([Text(column.title, "dim")] if titles else []), value)
        lines.append(Padding(card, (0, 0, 0, indent)))
    return Group(*lines)


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A bar, in the signs that the terminal's encoding has."""

    bar: Bar
    width: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        filled, rest = ("#", ".") if options.ascii_only else ("█", "░")
        kept, gone = self.bar.widths(min(self.width, options.max_width))
        yield Segment(filled * kept, Style(color="green"))
        yield Segment(rest * gone, Style(color="bright_black"))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(self.width, self.width)


# --- trees -------------------------------------------------------------------------------------


def _tree(branch: Branch, plain: bool = False) -> Tree:
    tree = Tree(_leaf(branch, plain), guide_style="" if plain else "dim")
    _grow(tree, branch.children, plain)
    return tree


def _grow(tree: Tree, branches: Iterable[Branch], plain: bool) -> None:
    for branch in branches:
        _grow(tree.add(_leaf(branch, plain)), branch.children, plain)


def _leaf(branch: Branch, plain: bool) -> Text:
    return Text(branch.text, "" if plain else branch.colour)


# --- two sources beside each other -------------------------------------------------------------

_SIDES: dict[str, tuple[str, str, str]] = {
    " ": ("", "", ""),
    "|": ("red", "yellow", "green"),
    "<": ("red", "red", ""),
    ">": ("", "green", "green"),
}
"""Colours of the line on the left, of the sign between, and of the line on the right."""
_SIGNS = {"<": "-", ">": "+"}
_MARKED = "bold reverse"


def show_compared(parts: Sequence[Part], context: int = 3, console: Console | None = None) -> None:
    """In two columns on a terminal; as a unified diff where stdout is none."""
    console = console or terminal()
    if console is None:
        for line in unified(parts, context):
            print(line)
        return
    # A column of signs and a space on either side of it.
    width = max((console.width - 3) // 2, 8)
    for part in parts:
        console.print(_beside(part, context, width, console))
        console.print()
    if parts:
        show(_changes(parts), console)


def _changes(parts: Sequence[Part]) -> Sheet:
    """How many lines went and came, a definition a line."""
    sheet = Sheet(
        (
            Column("definition"),
            Column("-", "number"),
            Column("+", "number"),
            Column("lines kept", "bar"),
        )
    )
    for part in parts:
        found = [row for row in rows(part, 0) if isinstance(row, Row)]
        gone = sum(row.kind in "|<" for row in found)
        came = sum(row.kind in "|>" for row in found)
        total = len(part.left) + came
        name = part.right_title.rpartition(": ")[2]
        sheet.add_row(name, str(gone), str(came), Bar(total - gone - came, total))
    return sheet


def _beside(part: Part, context: int, width: int, console: Console) -> Table:
    table = Table.grid(padding=(0, 1, 0, 0), pad_edge=False)
    for size in (width, 1, width):
        table.add_column(width=size, overflow="fold")
    left = part.left_title or "(no original)"
    table.add_row(Text(left, "bold"), "", Text(part.right_title, "bold"))
    for row in rows(part, context):
        if isinstance(row, int):
            alike = Text(f"... {row} line{'s' if row > 1 else ''} alike", "dim")
            table.add_row(alike, "", alike)
        else:
            colours = _SIDES[row.kind]
            table.add_row(
                _line(row.left, colours[0], row.left_marks, width, console),
                Text(_SIGNS.get(row.kind, row.kind), f"bold {colours[1]}".strip()),
                _line(row.right, colours[2], row.right_marks, width, console),
            )
    return table


def _line(
    line: str, style: str, marks: Sequence[tuple[int, int]], width: int, console: Console
) -> RenderableType:
    """One line of code; where it is too long, its rest stands under it, further to the right."""
    text = Text(line, style)
    for start, end in marks:
        text.stylize(_MARKED, start, end)
    if text.cell_len <= width:
        return text
    # Where code is nested deeper than a narrow terminal is wide, it starts further left.
    indent = min(len(line) - len(line.lstrip(" ")), width // 2)
    further = indent + (4 if width > 50 else 2)
    code = text[len(line) - len(line.lstrip(" ")) :]
    first, *more = code.wrap(console, width - further, overflow="fold")
    return Group(
        Padding(first, (0, 0, 0, indent)),
        *(Padding(part, (0, 0, 0, further)) for part in more),
    )
