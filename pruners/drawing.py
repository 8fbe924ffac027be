"""The sketch of a channel graph as a file: DOT, or SVG and PNG through Graphviz.

Where Graphviz is not installed, an SVG is laid out here: a layer stands below all that come
before it in the `state_dict` and are tied to it.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import jinja2
import networkx as nx

from pruners.channel_graph import ChannelGraph
from pruners.errors import PrunerError
from pruners.explain import Sketch, sketch
from pruners.model_writers import TEMPLATES
from pruners.progress import printable

FORMATS = (".svg", ".dot", ".png")

_TIMEOUT_S = 120
_ROW, _BOX, _LETTER, _GAP = 56, 26, 7, 28
"""Pixels from row to row, height of a box, width of a letter, between boxes."""


@dataclass(frozen=True, slots=True)
class _Box:
    name: str
    about: str
    colour: str
    x: int
    y: int
    width: int
    height: int = _BOX


@dataclass(frozen=True, slots=True)
class _Line:
    path: str
    colour: str
    because: str
    label: str
    x: int
    y: int
    reads: bool


def check_format(path: Path) -> None:
    """PrunerError for a file that cannot be drawn, before any work is done."""
    if path.suffix not in FORMATS:
        raise PrunerError(f"--out {path}: expected a file that ends in .svg, .dot or .png")
    if path.suffix == ".png" and shutil.which("dot") is None:
        raise PrunerError(
            f"--out {path}: a PNG needs Graphviz, whose `dot` is not installed; "
            f"expected a file that ends in .svg or .dot"
        )


def picture(graph: ChannelGraph, path: Path) -> bytes:
    """The content of the file, in the format that its name ends in.

    Raises:
        PrunerError: a format that is not on offer, or Graphviz fails.
    """
    check_format(path)
    if path.suffix == ".dot":
        return graph.to_dot().encode()
    if shutil.which("dot") is not None:
        return _by_graphviz(graph.to_dot(), path)
    return svg(graph)


def _by_graphviz(dot: str, path: Path) -> bytes:
    try:
        done = subprocess.run(
            ["dot", f"-T{path.suffix[1:]}"],
            input=dot.encode(),
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=True,
        )
    except subprocess.TimeoutExpired:
        why = f"took longer than {_TIMEOUT_S} s"
    except subprocess.CalledProcessError as error:
        why = f"failed ({' '.join(error.stderr.decode(errors='replace').split())[:200]})"
    except OSError as error:
        why = f"cannot be run ({error.strerror})"
    else:
        return done.stdout
    raise PrunerError(
        f"--out {path}: Graphviz's `dot` {why}; expected it to draw the graph; a "
        f"file that ends in .dot can be drawn later"
    )


def svg(graph: ChannelGraph) -> bytes:
    """The sketch as SVG; the same bytes for the same graph."""
    drawn = sketch(graph)
    boxes = _boxes(drawn)
    lines = _lines(drawn, boxes)
    right = max([box.x + box.width for box in boxes.values()] + [line.x + 60 for line in lines])
    bottom = max(box.y + box.height for box in boxes.values())
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    text = environment.get_template("graph.svg.j2").render(
        width=right + _GAP, height=bottom + _GAP, boxes=list(boxes.values()), lines=lines
    )
    return (text + "\n").encode()


def _boxes(drawn: Sketch) -> dict[str, _Box]:
    order = {layer.name: i for i, layer in enumerate(drawn.layers)}
    before: nx.DiGraph[str] = nx.DiGraph()
    before.add_nodes_from(order)
    for tie in drawn.ties:
        before.add_edge(*sorted((tie.a, tie.b), key=order.__getitem__))
    named = {layer.name: layer for layer in drawn.layers}
    boxes = {}
    for row, names in enumerate(nx.topological_generations(before)):
        x = _GAP
        for name in sorted(names, key=order.__getitem__):
            layer, shown = named[name], printable(name)
            width = _LETTER * len(shown) + 18
            boxes[name] = _Box(
                shown, printable(layer.about), layer.colour, x, _GAP + row * _ROW, width
            )
            x += width + _GAP
    return boxes


def _lines(drawn: Sketch, boxes: dict[str, _Box]) -> list[_Line]:
    """Neighbouring rows are joined straight; a line that passes rows goes around to the right."""
    rows: dict[int, int] = {}
    for box in boxes.values():
        rows[box.y] = max(rows.get(box.y, 0), box.x + box.width)
    lines = []
    for tie in drawn.ties:
        a, b = boxes[tie.a], boxes[tie.b]
        up, down = (a, b) if a.y < b.y else (b, a)
        between = [end for y, end in rows.items() if up.y < y < down.y]
        x1, x2 = (box.x + min(box.width // 2, _BOX) for box in (a, b))
        if not between:
            y1, y2 = (a.y + a.height, b.y) if a.y < b.y else (a.y, b.y + b.height)
            path, x, y = f"M{x1},{y1} L{x2},{y2}", (x1 + x2) // 2 + 6, (y1 + y2) // 2 + 4
        else:
            x1, x2 = a.x + a.width, b.x + b.width
            y1, y2 = a.y + a.height // 2, b.y + b.height // 2
            span = abs(y2 - y1) // _ROW
            # A cubic curve comes three quarters of the way to its control points.
            out = max(*between, x1, x2) + 10 * span
            control = out + (out - min(x1, x2)) // 3
            path = f"M{x1},{y1} C{control},{y1} {control},{y2} {x2},{y2}"
            x, y = (x1 + x2 + 6 * control) // 8 + 4, (y1 + y2) // 2 + 4
        lines.append(
            _Line(
                path,
                tie.colour,
                printable(tie.because),
                printable(tie.label),
                x,
                y,
                tie.reads,
            )
        )
    return lines
