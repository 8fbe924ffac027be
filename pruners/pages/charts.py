"""Every chart as a Vega-Lite specification: the page draws them in the browser, `pictures.py` for
papers.

Colours are names (`@kept`) that the theme gives a value: `themed` here, page.js in the browser.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pruners.pages.facts import CoupledGroup, Figure, RunFacts
from pruners.pages.trials import SIZES, Panel, Point
from pruners.progress import printable

Spec = dict[str, Any]


def _series(colours: str) -> dict[str, str]:
    return {f"series{i}": colour for i, colour in enumerate(colours.split())}


_SERIES = 7
"""That differ in colour."""
THEMES: Mapping[str, Mapping[str, str]] = {
    "light": {
        "kept": "#0072B2",
        "removed": "#E9A06B",
        "frozen": "#8A8F98",
        "pale": "#E3E7ED",
        "ink": "#1B1F24",
        "muted": "#59636E",
        "line": "#D5DAE1",
        "paper": "#FFFFFF",
        **_series("#0072B2 #D55E00 #009E73 #CC79A7 #56B4E9 #E69F00 #6E6E6E"),
    },
    "dark": {
        "kept": "#56B4E9",
        "removed": "#B8673A",
        "frozen": "#7D8590",
        "pale": "#2B323B",
        "ink": "#E8EDF2",
        "muted": "#A3ADB8",
        "line": "#39424D",
        "paper": "#161B22",
        **_series("#56B4E9 #F0883E #2FC796 #E3A3CC #9BD3F5 #F2C14E #A3ADB8"),
    },
}
"""Colours of Wong, "Points of view: Color blindness", Nature Methods 8 (2011), without its yellow;
lighter on dark, and where they are large."""
FROZEN = "can never go"
_STEP, _RIDGE, _WORDS = 20, 42, 14
"""Pixels of a layer's bar, of a group's row of scores, and of the words in it."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture, and what it shows in words for who does not see it."""

    name: str
    """Of its file: `widths`."""
    about: str
    spec: Spec
    height: int
    """Pixels, about."""


def run_charts(facts: RunFacts) -> list[Chart]:
    """The charts of the page of a pruned network."""
    charts = [_costs(facts)]
    if any(not figure.is_cost for figure in facts.figures):
        charts.append(_accuracies(facts))
    charts.append(_widths(facts))
    if any(group.scores is not None for group in facts.groups):
        charts.append(_scores(facts))
    return charts


def themed(spec: Any, colours: Mapping[str, str]) -> Any:
    """The specification with values in place of names of colours; data is left alone."""
    if isinstance(spec, Mapping):
        return {k: v if k == "values" else themed(v, colours) for k, v in spec.items()}
    if isinstance(spec, list):
        return [themed(item, colours) for item in spec]
    if isinstance(spec, str) and spec.startswith("@"):
        return colours[spec[1:]]
    return spec


def config() -> Spec:
    """What all charts look like."""
    text = {"labelColor": "@muted", "titleColor": "@muted", "labelFontSize": 12}
    return {
        "font": "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif",
        "background": "@paper",
        "view": {"stroke": None},
        "axis": {
            **text,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "gridColor": "@line",
            "domainColor": "@line",
            "tickColor": "@line",
        },
        "legend": {**text, "titleFontSize": 12, "orient": "top", "symbolType": "square"},
        "text": {"color": "@ink", "fontSize": 12},
        "title": {"color": "@ink"},
        "rule": {"color": "@ink"},
    }


def _base(**more: Any) -> Spec:
    return {
        "width": "container",
        "autosize": {"type": "fit-x", "contains": "padding"},
        "config": config(),
        **more,
    }


def _letters(count: int) -> Spec:
    """How much of a name fits; the page has fewer on a phone."""
    return {"name": "letters", "value": count}


_QUERY = {"name": "query", "value": ""}
"""What the page's filter says."""
_NARROW = {"name": "narrow", "value": False}
"""Whether it is drawn on a phone."""
_SHARE = {"name": "share", "value": False}
"""Whether widths are in percent of each layer's own."""


# --- a pruned network --------------------------------------------------------------------------


def amount(figure: Figure, value: float) -> str:
    """`272,474`, `1.1 MB`, `99.7 %`, `2.76 ms`"""
    match figure.unit:
        case "%":
            return f"{value:.1f} %"
        case "ms":
            return f"{value:.2f} ms"
        case "bytes":
            for limit, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
                if value >= limit:
                    return f"{value / limit:,.3g} {unit}"
            return f"{value:.0f} bytes"
        case "count":
            return f"{value:,.0f}"


def brief(figure: Figure, value: float) -> str:
    """As `amount`, but for a card: `4.09 G` in place of 4,089,184,256."""
    if figure.unit == "count" and value >= 10**8:
        return f"{value / 10**9:,.3g} G" if value >= 10**9 else f"{value / 10**6:,.0f} M"
    return amount(figure, value)


def less(figure: Figure) -> str:
    """What is less, in percent of before: `-50.3 %`, with a real minus sign."""
    return f"{signed(figure.left_pct - 100)} %"


def signed(change: float) -> str:
    """One digit behind the point, and a sign; `±0.0` where there is no change."""
    sign = "\N{MINUS SIGN}" if change <= -0.05 else "+" if change >= 0.05 else "±"
    return f"{sign}{abs(change):.1f}"


def _costs(facts: RunFacts) -> Chart:
    costs = [figure for figure in facts.figures if figure.is_cost]
    values = [
        {
            "figure": figure.name,
            "left": round(figure.left_pct, 2),
            "less": less(figure),
            "before": amount(figure, figure.values[0]),
            "after": amount(figure, figure.values[-1]),
        }
        for figure in costs
    ]
    y = {"field": "figure", "type": "nominal", "sort": None, "title": None}
    tooltip = [{"field": name} for name in ("figure", "before", "after", "less")]
    most = max(100.0, *(figure.left_pct for figure in costs))
    x = {
        "field": "left",
        "type": "quantitative",
        "title": "percent of before",
        "scale": {
            "domain": {"expr": f"[0, {most:.1f} * (narrow ? 1.75 : 1.3)]"},
            "nice": False,
        },
        "axis": {"values": [0, 25, 50, 75, 100]},
    }
    bar = {"type": "bar", "height": {"band": 0.62}, "cornerRadiusEnd": 3}
    spec = _base(
        data={"values": values},
        params=[_NARROW],
        height={"step": 34},
        encoding={"y": {**y, "axis": {"ticks": False, "domain": False, "labelPadding": 8}}},
        layer=[
            {"mark": {**bar, "color": "@pale"}, "encoding": {"x": {"datum": 100}}},
            {"mark": {**bar, "color": "@kept"}, "encoding": {"x": x, "tooltip": tooltip}},
            {
                "mark": {"type": "text", "align": "left", "dx": 8, "fontWeight": 600},
                "encoding": {"x": {"datum": most}, "text": {"field": "less"}},
            },
        ],
    )
    about = "; ".join(f"{v['figure']}: {v['before']} to {v['after']}, {v['less']}" for v in values)
    return Chart("costs", f"Costs after pruning. {about}", spec, 34 * len(values) + 50)


def _accuracies(facts: RunFacts) -> Chart:
    (figure, *_) = (figure for figure in facts.figures if not figure.is_cost)
    values = [
        {"stage": stage, "accuracy": value, "text": amount(figure, value)}
        for stage, value in zip(facts.stages, figure.values, strict=True)
    ]
    spec = _base(
        data={"values": values},
        height={"step": 34},
        encoding={
            "y": {
                "field": "stage",
                "type": "nominal",
                "sort": None,
                "title": None,
                "axis": {"ticks": False, "domain": False, "labelPadding": 8},
            },
            "x": {
                "field": "accuracy",
                "type": "quantitative",
                "title": "percent of the test images",
                "scale": {"domain": [0, 140], "nice": False},
                "axis": {"values": [0, 25, 50, 75, 100]},
            },
            "tooltip": [{"field": "stage"}, {"field": "text", "title": "accuracy"}],
        },
        layer=[
            {
                "mark": {
                    "type": "bar",
                    "height": {"band": 0.62},
                    "cornerRadiusEnd": 3,
                    "color": "@kept",
                }
            },
            {
                "mark": {"type": "text", "align": "left", "dx": 6, "fontWeight": 600},
                "encoding": {"text": {"field": "text"}},
            },
        ],
    )
    about = ", ".join(f"{v['stage']} {v['text']}" for v in values)
    return Chart("accuracy", f"Test accuracy: {about}", spec, 34 * len(values) + 50)


def _widths(facts: RunFacts) -> Chart:
    values: list[Spec] = []
    layers = {layer.name: layer for layer in facts.layers}
    order = 0
    for group in facts.groups:
        for place, name in enumerate(group.layers):
            layer = layers[name]
            values.append(
                {
                    "layer": printable(name),
                    "order": order,
                    "group": f"group {group.number}",
                    "first": place == 0,
                    "before": layer.before,
                    "kept": layer.after,
                    "removed": layer.before - layer.after,
                    "note": (
                        f"{layer.before:,} → {layer.after:,}"
                        if layer.after != layer.before
                        else f"{layer.before:,}"
                    ),
                    "because": printable(layer.because),
                }
            )
            order += 1
    widest = max((value["before"] for value in values), default=1)
    y = {
        "field": "layer",
        "type": "nominal",
        "sort": {"field": "order", "op": "min"},
        "title": None,
        "axis": {
            "ticks": False,
            "domain": False,
            "labelLimit": 320,
            "labelExpr": "truncate(datum.label, letters, 'left')",
        },
    }
    ends = {"x": {"value": 0}, "x2": {"value": "width"}}
    part = " * (share && datum.before ? 100 / datum.before : 1)"
    spec = _base(
        data={"values": values},
        params=[_QUERY, _letters(40), _NARROW, _SHARE],
        transform=[{"filter": "!query || indexof(lower(datum.layer), query) >= 0"}],
        height={"step": _STEP},
        layer=[
            {
                "transform": [{"filter": "datum.first"}],
                "mark": {"type": "rule", "color": "@line", "strokeWidth": 1},
                "encoding": {"y": {**y, "bandPosition": 0}, **ends},
            },
            {
                "transform": [
                    {"fold": ["kept", "removed"], "as": ["part", "count"]},
                    {"filter": "datum.count > 0"},
                    {"calculate": f"datum.count{part}", "as": "channels"},
                ],
                "mark": {"type": "bar", "height": {"band": 0.66}},
                "encoding": {
                    "y": y,
                    "x": {
                        "field": "channels",
                        "type": "quantitative",
                        "title": None,
                        "scale": {
                            "domain": {
                                "expr": f"[0, (share ? 100 : {widest}) * (narrow ? 1.75 : 1.3)]"
                            },
                            "nice": False,
                        },
                        "axis": {
                            "orient": "top",
                            "tickCount": {"expr": "narrow ? 3 : 6"},
                            "grid": False,
                        },
                    },
                    "order": {"field": "part"},
                    "color": {
                        "field": "part",
                        "type": "nominal",
                        "title": None,
                        "scale": {
                            "domain": ["kept", "removed"],
                            "range": ["@kept", "@removed"],
                        },
                    },
                    "tooltip": [
                        {"field": "layer"},
                        {"field": "group"},
                        {"field": "before"},
                        {"field": "kept"},
                        {"field": "removed"},
                        {"field": "because", "title": "why it stays"},
                    ],
                },
            },
            {
                "transform": [{"calculate": f"datum.before{part}", "as": "end"}],
                "mark": {"type": "text", "align": "left", "dx": 6, "fontSize": 11},
                "encoding": {
                    "y": y,
                    "x": {"field": "end", "type": "quantitative"},
                    "text": {"field": "note"},
                },
            },
            {
                "transform": [{"filter": "datum.first && !narrow"}],
                "mark": {
                    "type": "text",
                    "align": "right",
                    "dx": -2,
                    "color": "@muted",
                    "fontSize": 11,
                },
                "encoding": {"y": y, "x": {"value": "width"}, "text": {"field": "group"}},
            },
        ],
    )
    lost = sum(1 for value in values if value["removed"])
    about = (
        f"Output channels of {len(values)} layers, kept and removed; {lost} layers lost channels. "
        f"The same figures stand in the table below."
    )
    return Chart("widths", about, spec, _STEP * len(values) + 70)


def group_title(group: CoupledGroup, names: int = 2) -> str:
    """`group 3: conv1, layer1.0.conv2 and 2 more`"""
    shown = ", ".join(printable(name) for name in group.layers[:names])
    more = f" and {len(group.layers) - names} more" if len(group.layers) > names else ""
    return f"group {group.number}: {shown}{more}" if shown else f"group {group.number}"


def _scores(facts: RunFacts) -> Chart:
    """A row a group: words above, and a histogram that stands on the next row."""
    bars: list[Spec] = []
    rows: list[Spec] = []
    high = 1 - (_WORDS + 4) / _RIDGE
    """Of a row's height, what the histogram may take."""
    shown = [group for group in facts.groups if group.scores is not None]
    for order, group in enumerate(shown):
        found = group.scores
        assert found is not None
        title, search = group_title(group), printable(" ".join(group.layers)).lower()
        counts = f"{group.removed} of {group.units} removed"
        row = {"order": order, "title": title, "search": search, "counts": counts}
        rows.append({**row, "cut": None if found.cut is None else min(found.cut, facts.edges[-1])})
        columns = zip(found.removed, found.kept, found.frozen, strict=True)
        stacks = [*columns]
        most = max(sum(stack) for stack in stacks)
        for place, stack in enumerate(stacks):
            top = 0
            for fate, count in zip(("removed", "kept", FROZEN), stack, strict=True):
                if count:
                    bars.append(
                        {
                            **row,
                            "fate": fate,
                            "units": count,
                            "x0": float(f"{facts.edges[place]:.4g}"),
                            "x1": float(f"{facts.edges[place + 1]:.4g}"),
                            "y0": round(1 - high * top / most, 4),
                            "y1": round(1 - high * (top + count) / most, 4),
                        }
                    )
                top += count
    measure = facts.report.options["measure"]
    domain = [facts.edges[0], facts.edges[-1]]
    within = [
        {"filter": "!query || indexof(datum.search, query) >= 0"},
        {"window": [{"op": "dense_rank", "as": "row"}], "sort": [{"field": "order"}]},
    ]
    y_axis = {"type": "quantitative", "axis": None}
    y_scale = {"domain": {"expr": "[0, rows]"}, "reverse": True, "nice": False}

    def at(name: str, plus: str) -> list[Spec]:
        return [{"calculate": f"datum.row - 1 + {plus}", "as": name}]

    fates = {"kept": "kept", "removed": "removed"}
    if any(bar["fate"] == FROZEN for bar in bars):
        fates[FROZEN] = "frozen"
    y = {"field": "ya", "scale": y_scale, **y_axis}
    spec = _base(
        params=[_QUERY, _letters(60), {"name": "rows", "value": len(rows)}],
        height=_RIDGE * len(rows),
        layer=[
            {
                "data": {"values": rows},
                "transform": [*within, *at("ya", "1")],
                "mark": {"type": "rule", "color": "@line"},
                "encoding": {"y": y},
            },
            {
                "data": {"values": bars},
                "transform": [*within, *at("ya", "datum.y0"), *at("yb", "datum.y1")],
                "mark": {"type": "rect"},
                "encoding": {
                    "x": {
                        "field": "x0",
                        "type": "quantitative",
                        "scale": {"domain": domain, "nice": False},
                        "title": f"score of a unit ({printable(str(measure))})",
                        "axis": {"orient": "top", "grid": False, "tickCount": 6},
                    },
                    "x2": {"field": "x1"},
                    "y": y,
                    "y2": {"field": "yb"},
                    "color": {
                        "field": "fate",
                        "type": "nominal",
                        "title": None,
                        "scale": {
                            "domain": list(fates),
                            "range": [f"@{colour}" for colour in fates.values()],
                        },
                    },
                    "tooltip": [
                        {"field": "title", "title": "group"},
                        {"field": "fate"},
                        {"field": "units"},
                        {"field": "x0", "title": "score from"},
                        {"field": "x1", "title": "to"},
                    ],
                },
            },
            {
                "data": {"values": rows},
                "transform": [
                    *within,
                    {"filter": "isValid(datum.cut)"},
                    *at("ya", f"{1 - high - 0.04:.3f}"),
                    *at("yb", "1"),
                ],
                "mark": {"type": "rule", "strokeWidth": 2, "strokeDash": [4, 2]},
                "encoding": {
                    "x": {"field": "cut", "type": "quantitative"},
                    "y": y,
                    "y2": {"field": "yb"},
                },
            },
            {
                "data": {"values": rows},
                "transform": [
                    *within,
                    *at("ya", "0.18"),
                    {
                        "calculate": "truncate(datum.title, letters) + '  ·  ' + datum.counts",
                        "as": "words",
                    },
                ],
                "mark": {
                    "type": "text",
                    "align": "left",
                    "baseline": "middle",
                    "fontSize": 11,
                    "limit": 0,
                },
                "encoding": {"x": {"value": 0}, "y": y, "text": {"field": "words"}},
            },
        ],
    )
    about = (
        f"Scores of the units of {len(rows)} groups as histograms, a row a group, with a dashed "
        f"line where the cut is. The table below has the cuts."
    )
    return Chart("scores", about, spec, _RIDGE * len(rows) + 70)


# --- many networks -----------------------------------------------------------------------------


def trial_charts(panels: Sequence[Panel]) -> list[Chart]:
    """Accuracy over every size, a chart a panel and size."""
    return [
        _tradeoff(panel, f"tradeoff_{number}_{size}", size, words)
        for number, panel in enumerate(panels)
        for size, words in SIZES.items()
        if all(size in point.sizes for point in panel.points)
    ]


def _tradeoff(panel: Panel, name: str, size: str, words: str) -> Chart:
    series = list(dict.fromkeys(point.series for point in panel.points if not point.unpruned))
    methods = list(dict.fromkeys(point.method for point in panel.points if not point.unpruned))
    values = [_described(point, size) for point in panel.points]
    front = sorted(
        (value for value in values if size in value["fronts"]), key=lambda value: value["x"]
    )
    for value in values:
        del value["fronts"]
    x = {
        "field": "x",
        "type": "quantitative",
        "title": words,
        "scale": {"zero": False, "padding": 16},
        "axis": {"format": "~s", "tickCount": {"expr": "narrow ? 4 : 8"}},
    }
    y = {
        "field": "accuracy",
        "type": "quantitative",
        "title": f"test accuracy{f' on {printable(panel.dataset)}' if panel.dataset else ''} (%)",
        "scale": {"zero": False, "padding": 12, "nice": False},
    }
    colour = {
        "field": "series",
        "type": "nominal",
        "title": None,
        "scale": {
            "domain": [printable(name) for name in series],
            "range": [f"@series{i % _SERIES}" for i in range(len(series))],
        },
        "legend": {
            "symbolType": "circle",
            "symbolOpacity": 1,
            "columns": {"expr": "narrow ? 1 : 4"},
            "labelLimit": 220,
        },
    }
    shape = (
        {"shape": {"field": "method", "type": "nominal", "title": None}} if len(methods) > 1 else {}
    )
    wanted = {"filter": "!shown || indexof(shown, datum.series) >= 0"}
    tooltip = [
        {"field": "what"},
        {"field": "series"},
        {"field": "x", "title": words, "format": ","},
        {"field": "accuracy", "format": ".2f"},
        {"field": "front", "title": "on the Pareto front"},
    ]
    pruned = [value for value in values if not value["unpruned"]]
    first = [value for value in values if value["unpruned"]]
    layers: list[Spec] = [
        {
            "data": {"values": front},
            "mark": {
                "type": "line",
                "interpolate": "step-after",
                "color": "@muted",
                "strokeWidth": 2,
                "strokeDash": [5, 3],
            },
            "encoding": {"x": x, "y": y},
        },
        {
            "data": {"values": pruned},
            "transform": [wanted],
            "mark": {"type": "line", "strokeWidth": 1.5, "opacity": 0.55},
            "encoding": {
                "x": x,
                "y": y,
                "color": colour,
                "detail": [{"field": "method"}, {"field": "seed"}],
                "order": {"field": "amount", "type": "quantitative"},
            },
        },
        {
            "data": {"values": pruned},
            "transform": [wanted],
            "mark": {"type": "point", "filled": True, "size": 75, "opacity": 1},
            "encoding": {
                "x": x,
                "y": y,
                "color": colour,
                **shape,
                "stroke": {
                    "condition": {"test": "datum.front == 'yes'", "value": "@ink"},
                    "value": None,
                },
                "tooltip": tooltip,
            },
        },
        {
            "data": {"values": first},
            "mark": {
                "type": "point",
                "shape": "diamond",
                "filled": True,
                "size": 130,
                "opacity": 1,
                "color": "@ink",
            },
            "encoding": {"x": x, "y": y, "tooltip": tooltip},
        },
        {
            "data": {"values": first[:1]},
            "mark": {"type": "text", "align": "right", "dx": -10, "dy": -10, "color": "@ink"},
            "encoding": {"x": x, "y": y, "text": {"value": "unpruned"}},
        },
    ]
    spec = _base(
        height=340,
        params=[{"name": "shown", "value": None}, _NARROW],
        layer=layers,
    )
    about = (
        f"{panel.title}: test accuracy over {words} of {len(pruned)} pruned networks; "
        f"{len(front)} networks are on the Pareto front, drawn as a dashed line. The table below "
        f"has the figures."
    )
    return Chart(name, about, spec, 400)


def _described(point: Point, size: str) -> Spec:
    return {
        "what": printable(point.what),
        "series": printable(point.series),
        "method": printable(point.method),
        "seed": point.seed,
        "amount": point.amount,
        "x": point.sizes[size],
        "accuracy": round(point.accuracy, 3),
        "unpruned": point.unpruned,
        "front": "yes" if size in point.fronts else "no",
        "fronts": point.fronts,
    }
