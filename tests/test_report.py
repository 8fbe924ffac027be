"""What a page says, and that its bytes say the same in every run: facts, placing, charts, files."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pages import EVIL, cells, evil_result, figures, levels
from torch import nn

import app
import models  # noqa: F401 - registers the zoo
from pruners import PrunerError, PruningResult, prune
from pruners.networks import Request, find_network
from pruners.pages.charts import Chart, amount, brief, run_charts, signed, themed, trial_charts
from pruners.pages.facts import Distribution, Figure, RunFacts, _distribution, facts_of
from pruners.pages.listing import coloured, listings
from pruners.pages.of_job import Shown, save_shown
from pruners.pages.pictures import chart_pictures, printed
from pruners.pages.placing import placed
from pruners.pages.render import inert, run_page, trials_page
from pruners.pages.trials import Point, of_cells, of_levels, with_front
from pruners.side_by_side import Part


@pytest.fixture(scope="module")
def result() -> PruningResult:
    network = find_network(Request("resnet", depth=20))
    return prune(network.model, network.examples(0)[0], 50, name="resnet20_50")


@pytest.fixture(scope="module")
def facts(result: PruningResult) -> RunFacts:
    return facts_of(result, figures(), dataset="Digits")


# --- facts -------------------------------------------------------------------------------------


def test_layers_are_those_of_the_report(facts: RunFacts, result: PruningResult) -> None:
    widths = {layer.name: (layer.before, layer.after) for layer in facts.layers}
    assert widths == {n: (w.before, w.after) for n, w in result.report.widths.items()}
    assert [layer.name for layer in facts.layers][:3] == [
        *("conv1", "layer1.0.conv1", "layer1.0.conv2"),
    ]
    assert {layer.kind for layer in facts.layers} == {"Conv2d", "Linear"}
    last = facts.layers[-1]
    assert (last.name, last.because) == ("fc", "reaches an output of the network")
    named = {layer.name: layer for layer in facts.layers}
    ties = {tie.name: tie.because for tie in named["layer1.0.conv2"].ties}
    assert ties["layer1.0.bn2"] == "layer1.0.bn2: batch_norm"
    assert "conv1 outputs" in ties
    assert named["layer1.0.conv2"].reads == (named["layer1.0.conv1"].group,)


class Gray(nn.Module):
    """Its first layer makes a single channel, which no other group of the page holds."""

    def __init__(self) -> None:
        super().__init__()
        self.gray = nn.Conv2d(3, 1, 1)
        self.conv = nn.Conv2d(1, 8, 3)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(self.gray(x)).relu().mean((2, 3)))


def test_a_layer_of_one_channel_stands_on_the_page() -> None:
    result = prune(Gray(), torch.zeros(1, 3, 8, 8), 30, name="gray_30")
    facts = facts_of(result, figures())
    assert [layer.name for layer in facts.layers] == ["gray", "conv", "fc"]
    assert facts.layers[0].group not in {group.number for group in facts.groups}
    assert b"gray" in run_page(facts)


def test_groups_hold_every_unit_once(facts: RunFacts, result: PruningResult) -> None:
    layers = {layer.name: layer for layer in facts.layers}
    assert sorted(n for g in facts.groups for n in g.layers) == sorted(layers)
    for group in facts.groups:
        scores = group.scores
        assert scores is not None
        assert sum(scores.removed) == group.removed
        assert sum(scores.frozen) == group.frozen
        assert sum(scores.kept) == group.units - group.removed - group.frozen
        for name in group.layers:
            assert layers[name].before - layers[name].after == group.removed
    stage = next(group for group in facts.groups if "conv1" in group.layers)
    assert stage.layers == ("conv1", "layer1.0.conv2", "layer1.1.conv2", "layer1.2.conv2")
    assert "layer2.0.conv1" in stage.readers
    (out,) = (f for f in facts.frozen if f.reason == "reaches an output of the network")
    assert (out.units, out.layers) == (10, ("fc",))


def test_the_cut_lies_between_what_went_and_what_stays() -> None:
    edges = np.linspace(0.0, 1.0, 5)
    scores = np.array([0.1, 0.3, 0.5, 0.9, 7.0, np.nan])
    members = np.ones(6, dtype=bool)

    def found(gone: list[int], frozen: tuple[int, ...] = ()) -> Distribution:
        stays, never = np.ones(6, dtype=bool), np.zeros(6, dtype=bool)
        stays[gone], never[list(frozen)] = False, True
        distribution = _distribution(scores, members, stays, never, edges)
        assert distribution is not None
        return distribution

    split = found([0, 1])
    assert split.cut == pytest.approx(0.4)
    # What is above the axis stands in its last bin; what has no score stands nowhere.
    assert split == Distribution((0, 0, 1, 2), (1, 1, 0, 0), (0, 0, 0, 0), split.cut)
    assert found([1, 3]).cut == pytest.approx(0.9)  # they overlap
    assert found([]).cut is None
    assert found([0, 1], frozen=(2,)).cut == pytest.approx(0.6)
    assert _distribution(scores, scores != scores, members, members, edges) is None


def test_figures_are_those_that_were_measured(result: PruningResult) -> None:
    named = {figure.name: figure for figure in facts_of(result, figures()).figures}
    assert "Latency" not in named
    assert named["Test accuracy"].values == (99.7, 9.7, 99.2)
    assert named["Parameters"].left_pct == 50
    with_latency = {
        name: replace(stage, latency_ms=2.0 + len(name), accuracy=None)
        for name, stage in figures().items()
    }
    facts = facts_of(result, with_latency)
    assert [figure.name for figure in facts.figures][-1] == "Latency"
    assert "Test accuracy" not in {figure.name for figure in facts.figures}
    assert facts.has_latency
    assert b"differ from run to run" in run_page(facts)
    assert b"differ from run to run" not in run_page(facts_of(result, figures()))


def test_a_page_needs_figures_of_two_stages(result: PruningResult) -> None:
    with pytest.raises(
        PrunerError,
        match=r"^page of resnet20_50: figures of before; expected those before and after pruning$",
    ):
        facts_of(result, {"before": figures()["before"]})


# --- where layers are drawn --------------------------------------------------------------------


def test_boxes_do_not_overlap_and_data_flow_on(facts: RunFacts) -> None:
    drawing = placed(facts.layers, facts.groups)
    boxes = drawing.boxes
    assert [box.name for box in boxes] == [layer.name for layer in facts.layers]
    for i, a in enumerate(boxes):
        assert 0 < a.x < a.x + a.width < drawing.width
        assert 0 < a.y < a.y + a.height < drawing.height
        for b in boxes[:i]:
            beside = a.x + a.width <= b.x or b.x + b.width <= a.x
            assert beside or a.y + a.height <= b.y or b.y + b.height <= a.y
    reads = [tie for tie in drawing.ties if tie.reads]
    for tie in reads:
        a, b = boxes[tie.a], boxes[tie.b]
        assert (b.x > a.x + a.width) or b.y > a.y
    joined = {(boxes[tie.a].name, boxes[tie.b].name) for tie in reads}
    # The layer of a stage that ran last stands for the stage.
    assert ("layer1.0.conv2", "layer1.1.conv1") in joined
    assert ("conv1", "layer1.1.conv1") not in joined
    same = {boxes[tie.a].group for tie in drawing.ties if not tie.reads}
    assert same == {group.number for group in facts.groups if len(group.layers) > 1}
    assert max(drawing.width / drawing.height, drawing.height / drawing.width) < 3


# --- charts ------------------------------------------------------------------------------------


def test_charts_hold_the_figures(facts: RunFacts) -> None:
    charts = {chart.name: chart for chart in run_charts(facts)}
    assert list(charts) == ["costs", "accuracy", "widths", "scores"]
    rows = charts["widths"].spec["data"]["values"]
    assert {row["layer"]: row["kept"] for row in rows} == {x.name: x.after for x in facts.layers}
    # Group by group: a layer's neighbours are of its group.
    assert sum(row["first"] for row in rows) == len({row["group"] for row in rows})
    assert "Parameters: 1,000 to 500, \N{MINUS SIGN}50.0 %" in charts["costs"].about
    bars = charts["scores"].spec["layer"][1]["data"]["values"]
    units = sum(group.units for group in facts.groups)
    assert sum(bar["units"] for bar in bars) == units
    assert all(0 <= bar["y1"] < bar["y0"] <= 1 for bar in bars)


def test_amounts_are_written_as_people_read_them() -> None:
    def written(unit: Any, value: float) -> tuple[str, str]:
        figure = Figure("", unit, (value, value), True)
        return amount(figure, value), brief(figure, value)

    assert written("count", 272_474) == ("272,474", "272,474")
    assert written("count", 4_089_184_256) == ("4,089,184,256", "4.09 G")
    assert written("count", 122_733_568) == ("122,733,568", "123 M")
    assert written("bytes", 12) == ("12 bytes", "12 bytes")
    assert written("bytes", 1_136_000)[0] == "1.14 MB"
    assert written("bytes", 5_300_000_000)[0] == "5.3 GB"
    assert written("%", 99.72)[0] == "99.7 %"
    assert written("ms", 2.756)[0] == "2.76 ms"
    assert [signed(n) for n in (-50.26, 0.04, 3.0)] == ["\N{MINUS SIGN}50.3", "±0.0", "+3.0"]


def test_themes_leave_data_alone() -> None:
    spec = {"color": "@kept", "data": {"values": [{"layer": "@kept"}]}, "layer": [["@ink"]]}
    assert themed(spec, {"kept": "blue", "ink": "black"}) == {
        "color": "blue",
        "data": {"values": [{"layer": "@kept"}]},
        "layer": [["black"]],
    }


def test_pictures_of_charts(facts: RunFacts) -> None:
    charts = [chart for chart in run_charts(facts) if chart.name in ("costs", "widths")]
    found = chart_pictures(charts)
    assert list(found) == ["costs.svg", "costs.png", "widths.svg", "widths.png"]
    assert found == chart_pictures(charts)
    assert b"layer3.2.conv1" in found["widths.svg"]
    assert found["costs.png"].startswith(b"\x89PNG")
    assert "@" not in re.sub(r'"values":.*?\]', "", json.dumps(printed(charts[0].spec)))


# --- the page ----------------------------------------------------------------------------------


class Parsed(HTMLParser):
    """The tags and scripts of a page."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.scripts: list[str] = []
        self.policy = self.inside = ""
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        self.attributes |= set(given)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"] or ""
        self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data


def test_the_page_loads_nothing_and_allows_its_own_scripts_only(facts: RunFacts) -> None:
    page = Parsed(run_page(facts))
    assert all(link.startswith(("#", "data:")) for link in page.links)
    data, *scripts = page.scripts
    assert json.loads(data)["layers"][0]["name"] == "conv1"
    digests = [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts
    ]
    assert len(digests) == 2
    assert page.policy.startswith("default-src 'none'; script-src 'sha256-")
    assert [d in page.policy for d in digests] == [True, True]
    assert "unsafe-eval" not in page.policy
    assert "unsafe-inline" not in page.policy.split("style-src")[0]


def test_the_same_run_gives_the_same_bytes(result: PruningResult, tmp_path: Path) -> None:
    network = find_network(Request("resnet", depth=20))
    again = prune(network.model, network.examples(0)[0], 50, name="resnet20_50")
    one, other = (run_page(facts_of(r, figures(), dataset="Digits")) for r in (result, again))
    assert one == other
    for place in (str(Path.home()), str(Path.cwd()), str(Path(app.__file__).parent), "0x7f"):
        assert place.encode() not in one.replace(b"0x7fffffff", b""), place
    assert trials_page(of_cells(cells())) == trials_page(of_cells(cells()))


def test_names_and_sources_cannot_leave_their_places(tmp_path: Path) -> None:
    """https://owasp.org/www-community/attacks/xss/"""
    facts = facts_of(evil_result(tmp_path), figures())
    names = {layer.name for layer in facts.layers}
    assert names >= {f"layers.{name}" for name in EVIL}
    page = Parsed(run_page(facts))
    plain = Parsed(run_page(replace(facts, layers=(), groups=(), parts=(), source="")))
    assert len(page.scripts) == len(plain.scripts) == 3
    assert set(page.tags) - set(plain.tags) <= {"col", "colgroup", "g", "i", "mark", "rect", "text"}
    assert not {name for name in page.attributes if name.startswith("on")}
    assert "img" not in page.tags
    data = json.loads(page.scripts[0])
    assert {layer["name"] for layer in data["layers"]} >= {f"layers.{EVIL[0]}", f"layers.{EVIL[2]}"}


def test_inert() -> None:
    text = inert({"a": "</script><!--&\u2028"})
    assert json.loads(text) == {"a": "</script><!--&\u2028"}
    assert not set("<>&\u2028") & set(text)
    with pytest.raises(ValueError, match="not JSON compliant"):
        inert(float("nan"))


def test_listing_marks_what_differs_and_folds_what_is_alike() -> None:
    alike = tuple(f"    x{i} = {i}" for i in range(12))
    left = ("def f(a):", '    """<b>', '    & so on"""', *alike, "    return conv(16)")
    right = (*left[:-1], "    return conv(11)")
    same = Part("a.py: def g", "b.py: def g", ("x = 1",), ("x = 1",))
    first, second = listings([same, Part("a.py: def f", "b.py: def f", left, right)])
    assert (first.right_title, first.changed, second.changed) == ("b.py: def f", 1, 0)
    assert [stretch.folded for stretch in first.stretches] == [True, False]
    last = first.stretches[-1].pairs[-1]
    assert last.left is not None
    assert last.right is not None
    assert "<mark>" in last.left.code
    assert "conv(<mark>" in re.sub("</?i[^>]*>", "", last.right.code)
    assert [len(stretch.pairs) for stretch in first.stretches] == [12, 4]
    lines = coloured("\n".join(left))
    # A string over several lines keeps its colour, and stays text.
    assert '<i class="c">&#34;&#34;&#34;&lt;b&gt;</i>' in lines[1]
    assert lines[2].startswith('<i class="c">')
    assert "&amp; so on" in lines[2]


def test_a_network_without_an_original_source(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    exec(
        "import torch\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)\n"
        "    def forward(self, x):\n        return self.b(self.a(x).relu()).mean((2, 3))\n",
        names,
    )
    pruned = prune(names["Net"](), torch.randn(1, 3, 8, 8), 40)
    page = run_page(facts_of(pruned, figures())).decode()
    assert "class Net" in re.sub("<[^>]+>", "", page)


# --- many networks -----------------------------------------------------------------------------


def test_pareto_front() -> None:
    def point(parameters: int, accuracy: float, contends: bool = True) -> Point:
        return Point("", "", {"parameters": parameters}, accuracy, contends=contends)

    points = with_front(
        [
            point(100, 99.0),
            point(50, 99.0),  # as good and smaller
            point(50, 98.0),  # as large and worse
            point(50, 99.0),  # equal: both are on it
            point(10, 60.0),
            point(20, 59.0),
            point(5, 99.9, contends=False),
        ]
    )
    assert [bool(p.fronts) for p in points] == [False, True, False, True, True, False, False]


def test_page_of_an_experiment() -> None:
    trials = of_cells(cells())
    (panel,) = trials.panels
    assert panel.title == "Net on Digits"
    assert trials.series == ("ChannelNorm", "Taylor")
    unpruned, *points = panel.points
    assert unpruned.unpruned
    assert [p.what for p in points][:2] == ["20 % of parameters", "40 % of parameters"]
    on = {(p.series, p.amount) for p in points if "parameters" in p.fronts}
    assert on == {("ChannelNorm", 20.0), ("Taylor", 40.0), ("Taylor", 60.0)}
    assert "macs" in next(p for p in points if p.series == "ChannelNorm" and p.amount == 40).fronts
    charts = trial_charts(trials.panels)
    assert [chart.name for chart in charts] == [
        *("tradeoff_0_parameters", "tradeoff_0_macs", "tradeoff_0_bytes"),
    ]
    page = trials_page(trials).decode()
    assert "Net on Digits, Taylor, 90 % of parameters: cannot be met: &lt;b&gt;" in page
    nothing = trials_page(of_cells([cell for cell in cells() if cell.error])).decode()
    assert "Without figures" in nothing


def test_page_of_levels() -> None:
    trials = of_levels("Net, random", "Digits", levels(), {"method": "random"})
    (panel,) = trials.panels
    assert trials.series == ("retrained", "pruned")
    assert [p.what for p in panel.points if "parameters" in p.fronts] == ["level 1"]
    chart: Chart = trial_charts(trials.panels)[0]
    assert "2 networks" not in chart.about
    assert "1 networks are on the Pareto front" in chart.about or "1 network" in chart.about
    assert b"Pruning level by level" in trials_page(trials)


# --- the command line --------------------------------------------------------------------------

ARCH = ("--arch", "resnet", "--depth", "20", "--recalibrate", "0")


def test_report_and_plots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert app.main([*ARCH, "--report", "--plots", "charts", "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert (files["report"], files["plots"]) == ("generated/resnet20_50.html", "charts")
    first = Path("generated/resnet20_50.html").read_bytes()
    page = first.decode()
    shown = re.sub("<[^>]+>", "", page.split("The whole generated file")[2].split("</pre>")[0])
    source = Path("generated/resnet20_50.py").read_text()
    for line in source.splitlines()[:12]:
        assert line.replace('"', "&#34;").replace("<", "&lt;").replace(">", "&gt;") in shown
    assert "resnet20_50_pruned_v1.0.pth" in page
    assert "Test accuracy on Digits" in page
    assert "Latency" not in page.split("<script")[0]
    assert sorted(path.name for path in Path("charts").iterdir()) == [
        f"resnet20_50_{chart}.{kind}"
        for chart in ("accuracy", "costs", "graph", "scores", "widths")
        for kind in ("png", "svg")
    ]
    assert app.main([*ARCH]) == 0
    out, err = capsys.readouterr()
    assert "note: generated/resnet20_50.html is of an earlier run; --report makes it anew" in err
    assert ".html" not in out
    assert Path("generated/resnet20_50.html").read_bytes() == first


def test_nothing_is_written_where_the_run_wrote_nothing(tmp_path: Path) -> None:
    finished: Any = SimpleNamespace(saved=None, result=SimpleNamespace(fileName="net_50"))
    job: Any = SimpleNamespace(out=tmp_path)
    written: list[Path] = []
    assert save_shown(finished, job, Shown(True, True, tmp_path / "charts"), written) == {}
    assert list(tmp_path.iterdir()) == written == []


def test_what_cannot_be_shown_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert app.main([*ARCH, "--latency"]) == 2
    assert capsys.readouterr().err == (
        "error: --latency: is shown on the page of the run, which was not asked for; expected "
        "--report beside it\n"
    )
    Path("taken").write_text("")
    for command in (
        [*ARCH],
        ["experiment", "--model-name", "TwoLayerMLP"],
        ["iterate", "--arch", "resnet", "--exp", "exp"],
        ["demo"],
    ):
        assert app.main([*command, "--plots", "taken/charts"]) == 2
        assert "choose another with --plots DIR" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
