"""Charts as PNG and SVG, for papers: on white, in a width of their own."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

import vl_convert

from pruners.pages.charts import THEMES, Chart, themed
from pruners.pages.facts import RunFacts
from pruners.pages.placing import placed
from pruners.pages.render import environment

_WIDTH = 640
_SCALE = 2.0
"""Pixels of a PNG for one of the page's."""


def chart_pictures(charts: Sequence[Chart]) -> dict[str, bytes]:
    """Every chart as `NAME.svg` and `NAME.png`; the same bytes for the same charts."""
    found: dict[str, bytes] = {}
    for chart in charts:
        spec = printed(chart.spec)
        svg = _numbered(vl_convert.vegalite_to_svg(spec))
        found[f"{chart.name}.svg"] = svg.encode()
        found[f"{chart.name}.png"] = vl_convert.svg_to_png(svg, scale=_SCALE)
    return found


def graph_pictures(facts: RunFacts) -> dict[str, bytes]:
    """The graph of layers as `graph.svg` and `graph.png`."""
    drawing = placed(facts.layers, facts.groups)
    svg = (
        environment()
        .get_template("graph_alone.svg.j2")
        .render(drawing=drawing, colours=THEMES["light"])
    )
    return {
        "graph.svg": (svg + "\n").encode(),
        "graph.png": vl_convert.svg_to_png(svg, scale=_SCALE),
    }


def _numbered(svg: str) -> str:
    """The picture with its own numbers of clip paths: they are counted through a whole process."""
    known: dict[str, str] = {}

    def renamed(found: re.Match[str]) -> str:
        return found[1] + known.setdefault(found[2], f"clip{len(known)}")

    return re.sub(r'((?:\bid="|\burl\(#))(clip\d+)(?=["\)])', renamed, svg)


def printed(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The specification of a chart of fixed width, in colours for paper."""
    own: dict[str, Any] = copy.deepcopy(themed(spec, THEMES["light"]))
    own["width"] = _WIDTH
    own["autosize"] = {"type": "pad"}
    # What browsers call their own font is not known here.
    own["config"]["font"] = "Helvetica, Arial, sans-serif"
    return own
