"""Where layers are drawn: data flows down, and a deep network is folded into columns.

A layer stands one row below the last layer that it reads. What it reads are groups; the deepest
layer of a group that ran before the reader stands for it, so that a residual stage, whose layers
all make the same channels, becomes the chain that people know.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pruners.pages.facts import CoupledGroup, Layer
from pruners.progress import printable

_LETTER, _MARGIN, _BOX, _ROW, _GAP, _COLUMN = 6.7, 18, 36, 60, 26, 84
"""Pixels: of a letter, around the words of a box, its height, from row to row, between boxes,
between columns."""
_LETTERS = 26
"""That a box shows of a layer's name, the last ones."""
_ASPECT = 1.4
"""Width over height of a picture that fits a screen."""


@dataclass(frozen=True, slots=True)
class Box:
    """A layer."""

    name: str
    label: str
    """The end of its name."""
    widths: str
    """`16 → 11`"""
    group: int
    colour: int
    """A number that neighbours do not share: which of the colours."""
    frozen: bool
    lossless: bool
    """It lost no channel."""
    x: float
    y: float
    width: float
    height: float = _BOX


@dataclass(frozen=True, slots=True)
class Tie:
    """Two boxes: one reads the other's channels, or both lose the same ones."""

    a: int
    b: int
    """Numbers of the boxes."""
    reads: bool
    path: str
    """Of an SVG."""


@dataclass(frozen=True, slots=True)
class Drawing:
    width: float
    height: float
    boxes: tuple[Box, ...]
    ties: tuple[Tie, ...]


def placed(layers: Sequence[Layer], groups: Sequence[CoupledGroup]) -> Drawing:
    """The layers as boxes, and what ties them."""
    number = {layer.name: i for i, layer in enumerate(layers)}
    made_by: dict[int, list[int]] = {}
    for group in groups:
        made_by[group.number] = [number[name] for name in group.layers]
    shared = {group for group, makers in made_by.items() if len(makers) > 1}
    rows, reads = _rows(layers, made_by)
    lanes = _lanes(layers, rows, shared)
    width = max((_width(layer) for layer in layers), default=0.0)
    folded = _folded(rows, lanes, width)
    left = _lefts(rows, lanes, folded, width)
    colour = {group.number: i for i, group in enumerate(groups)}
    frozen = {group.number for group in groups if group.frozen == group.units}
    boxes = tuple(
        Box(
            name=printable(layer.name),
            label=_label(layer),
            widths=_widths(layer),
            group=layer.group,
            colour=colour.get(layer.group, 0),
            frozen=layer.group in frozen,
            lossless=layer.before == layer.after,
            x=left[rows[i] // folded] + lanes[i] * (width + _GAP),
            y=_GAP + rows[i] % folded * _ROW,
            width=width,
        )
        for i, layer in enumerate(layers)
    )
    same = [
        (a, b)
        for group in shared
        for a, b in pairwise(sorted(made_by[group], key=rows.__getitem__))
    ]
    ties = [Tie(a, b, True, _path(boxes[a], boxes[b], True)) for a, b in reads]
    ties += [Tie(a, b, False, _path(boxes[a], boxes[b], False)) for a, b in sorted(same)]
    return Drawing(
        max((box.x + box.width for box in boxes), default=0.0) + _GAP,
        max((box.y + box.height for box in boxes), default=0.0) + _GAP,
        boxes,
        tuple(ties),
    )


def _rows(
    layers: Sequence[Layer], made_by: dict[int, list[int]]
) -> tuple[list[int], list[tuple[int, int]]]:
    """The row of every layer, and which layer stands for what another one reads."""
    rows: list[int] = []
    reads: list[tuple[int, int]] = []
    for place, layer in enumerate(layers):
        sources = []
        for group in layer.reads:
            before = [maker for maker in made_by.get(group, ()) if maker < place]
            if before:
                sources.append(max(before, key=lambda maker: (rows[maker], maker)))
        rows.append(max((rows[source] + 1 for source in sources), default=0))
        reads += [(source, place) for source in sources]
    return rows, reads


def _lanes(layers: Sequence[Layer], rows: Sequence[int], shared: set[int]) -> list[int]:
    """Which of the boxes of a row is first: layers that share their channels, then the others."""
    lanes, taken = [], set()
    for row, layer in zip(rows, layers, strict=True):
        lane = 0 if layer.group in shared or not shared else 1
        while (row, lane) in taken:
            lane += 1
        taken.add((row, lane))
        lanes.append(lane)
    return lanes


def _folded(rows: Sequence[int], lanes: Sequence[int], width: float) -> int:
    """Rows in a column, so that the whole is about as wide as a screen."""
    count = max(rows, default=0) + 1

    def off(columns: int) -> float:
        per = math.ceil(count / columns)
        left = _lefts(rows, lanes, per, width)
        return abs(math.log(left[-1] / (per * _ROW + _GAP) / _ASPECT))

    return math.ceil(count / min(range(1, max(2, count // 4 + 1)), key=off))


def _lefts(rows: Sequence[int], lanes: Sequence[int], per: int, width: float) -> list[float]:
    """Where each column begins, and where the last one ends."""
    most = [0] * (max(rows, default=0) // per + 1)
    for row, lane in zip(rows, lanes, strict=True):
        most[row // per] = max(most[row // per], lane + 1)
    left = [float(_COLUMN - _GAP)]
    for lanes_here in most:
        left.append(left[-1] + lanes_here * (width + _GAP) + _COLUMN - _GAP)
    return left


def _label(layer: Layer) -> str:
    name = printable(layer.name)
    return name if len(name) <= _LETTERS else f"…{name[1 - _LETTERS :]}"


def _widths(layer: Layer) -> str:
    if layer.before == layer.after:
        return f"{layer.before:,}"
    return f"{layer.before:,} → {layer.after:,}"


def _width(layer: Layer) -> float:
    # The group's number stands beside the widths.
    return max(len(_label(layer)), len(_widths(layer)) + 7) * _LETTER + _MARGIN


def _path(a: Box, b: Box, reads: bool) -> str:
    """Down from one box to the other; around what stands between; from column to column."""
    if 0 < b.y - a.y <= _ROW and abs(b.x - a.x) < 3 * a.width:
        x1, x2 = (box.x + (box.width / 2 if reads else 14) for box in (a, b))
        y1, y2 = a.y + a.height, b.y
        middle = (y1 + y2) / 2
        return _curve(x1, y1, x1, middle, x2, middle, x2, y2)
    y1, y2 = a.y + a.height / 2, b.y + b.height / 2
    if a.x == b.x:
        # Around: to the right where channels are read, to the left where they are the same.
        out = 10 + 4 * math.sqrt(abs(y2 - y1))
        x = a.x + a.width if reads else a.x
        beside = x + out if reads else x - out
        return _curve(x, y1, beside, y1, beside, y2, x, y2)
    x1, x2 = (a.x + a.width, b.x) if b.x > a.x else (a.x, b.x + b.width)
    out = math.copysign(max(24.0, abs(x2 - x1) / 2), b.x - a.x)
    return _curve(x1, y1, x1 + out, y1, x2 - out, y2, x2, y2)


def _curve(*at: float) -> str:
    """A cubic curve through x and y of its start, its two control points and its end."""
    points = [f"{x:.0f},{y:.0f}" for x, y in zip(at[::2], at[1::2], strict=True)]
    return f"M{points[0]}C{' '.join(points[1:])}"
