"""Facts and charts through the templates: the bytes of one file that needs nothing else.

The page may load nothing and run only the two scripts that stand in it: its content security
policy names their digests. What it shows comes as text that jinja2 escapes, or as JSON in which
no `<` stands, so that names and source code stay what they are.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup

from pruners.model_writers import TEMPLATES
from pruners.pages.charts import (
    THEMES,
    Chart,
    amount,
    brief,
    group_title,
    less,
    run_charts,
    signed,
    trial_charts,
)
from pruners.pages.facts import RunFacts
from pruners.pages.listing import coloured, listings
from pruners.pages.placing import placed
from pruners.pages.trials import SIZES, Trials
from pruners.progress import printable
from pruners.version import __version__


def run_page(facts: RunFacts) -> bytes:
    """The page of a pruned network; the same bytes for the same facts."""
    charts = run_charts(facts)
    data = {
        "charts": {chart.name: chart.spec for chart in charts},
        "themes": THEMES,
        **_layers(facts),
    }
    return _page(
        "run.html.j2",
        data,
        facts=facts,
        charts={chart.name: chart for chart in charts},
        drawing=placed(facts.layers, facts.groups),
        groups={group.number: group for group in facts.groups},
        listings=listings(facts.parts),
        source=coloured(facts.source),
        amount=amount,
        brief=brief,
        less=less,
        signed=signed,
        group_title=group_title,
        options=_options(facts.report.options),
    )


def trials_page(trials: Trials) -> bytes:
    """The page of an experiment, or of pruning level by level."""
    charts = trial_charts(trials.panels)
    by_panel: list[list[Chart]] = [
        [chart for chart in charts if chart.name.startswith(f"tradeoff_{number}_")]
        for number in range(len(trials.panels))
    ]
    data = {"charts": {chart.name: chart.spec for chart in charts}, "themes": THEMES}
    return _page(
        "trials.html.j2",
        data,
        trials=trials,
        panels=list(zip(trials.panels, by_panel, strict=True)),
        sizes=SIZES,
        options=_options(trials.options),
    )


def _layers(facts: RunFacts) -> dict[str, Any]:
    """What the page says of a layer when it is chosen; texts that repeat stand there once."""
    texts: dict[str, int] = {}

    def number(text: str) -> int:
        return texts.setdefault(printable(text), len(texts))

    layers = [
        {
            "name": printable(layer.name),
            "kind": printable(layer.kind),
            "group": layer.group,
            "before": layer.before,
            "after": layer.after,
            "because": printable(layer.because),
            "reads": layer.reads,
            "ties": [
                [number(tie.name), number(tie.because), tie.channels, tie.of] for tie in layer.ties
            ],
        }
        for layer in facts.layers
    ]
    place = {layer.name: i for i, layer in enumerate(facts.layers)}
    groups = {
        group.number: {
            "units": group.units,
            "removed": group.removed,
            "frozen": group.frozen,
            "scored": group.scores is not None,
            "reasons": [printable(reason) for reason in group.reasons],
            "counted": [printable(text) for text in group.renormalised],
            "layers": [place[name] for name in group.layers],
            "readers": [place[name] for name in group.readers if name in place],
        }
        for group in facts.groups
    }
    return {"layers": layers, "groups": groups, "texts": list(texts)}


def _options(options: Mapping[str, Any]) -> dict[str, str]:
    """Options that say something, as a person would write them."""
    shown = {}
    for name, value in options.items():
        if value is None or value in ((), {}, [], ""):
            continue
        if isinstance(value, list | tuple):
            text = ", ".join(
                "=".join(map(str, v)) if isinstance(v, list | tuple) else str(v) for v in value
            )
        elif isinstance(value, Mapping):
            text = ", ".join(f"{k}={v}" for k, v in value.items())
        else:
            text = f"{value:g}" if isinstance(value, float) else str(value)
        shown[name.replace("_", " ")] = printable(text)
    return shown


def _page(template: str, data: Mapping[str, Any], **values: Any) -> bytes:
    scripts = [bundle(), _own("page.js")]
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {' '.join(_digest(script) for script in scripts)}",
            # Vega sets styles of single elements.
            "style-src 'unsafe-inline'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    text = (
        environment()
        .get_template(template)
        .render(
            policy=policy,
            style=Markup(_own("page.css")),
            scripts=[Markup(script) for script in scripts],
            data=inert(data),
            version=__version__,
            **values,
        )
    )
    return (text + "\n").encode()


def inert(data: Any) -> Markup:
    """JSON that may stand in a `<script>`: it has no `<`, whatever the data say."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


@cache
def bundle() -> str:
    """Vega-Embed, Vega-Lite and Vega, minified, as one script; it takes a second to make."""
    # The interpreter of Vega-Embed needs no `eval`, which the page does not allow.
    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _own(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    found = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"'sha256-{found}'"


@cache
def environment() -> jinja2.Environment:
    """For the templates of pages and of their pictures: whatever they show is escaped."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.do"],
    )
    filters: Mapping[str, Callable[..., Any]] = {
        "number": lambda value: f"{value:,}",
        "percent": lambda value: f"{value:.1f} %",
        "shown": printable,
        "some": _some,
    }
    made.filters.update(filters)
    return made


def _some(names: Sequence[str], most: int = 3) -> str:
    """`conv1, conv2, conv3 and 4 more`"""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(printable(name) for name in names[:most]) + more
