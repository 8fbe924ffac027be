"""The pages in a real browser: charts are drawn, the filter and the graph answer, nothing is said
on the console, nothing is loaded, and a phone shows all of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from browser import Browser, browser
from pages import EVIL, cells, evil_result, figures, levels
from torch import nn

import models  # noqa: F401 - registers the zoo
from pruners import prune
from pruners.networks import Request, find_network
from pruners.pages.facts import RunFacts, facts_of
from pruners.pages.render import run_page, trials_page
from pruners.pages.trials import of_cells, of_levels
from pruners.progress import printable


@pytest.fixture(scope="session")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def facts() -> RunFacts:
    network = find_network(Request("resnet", depth=20))
    result = prune(network.model, network.examples(0)[0], 50, name="resnet20_50")
    return facts_of(result, figures(), dataset="Digits")


@pytest.fixture(scope="module")
def page(facts: RunFacts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "resnet20_50.html"
    path.write_bytes(run_page(facts))
    return path


BARS = "#chart-widths .mark-rect path"
NAMES = "#chart-widths .role-axis-label text"


def test_charts_are_drawn_and_nothing_is_loaded(
    window: Browser, page: Path, facts: RunFacts
) -> None:
    window.open(page)
    assert window.complaints() == []
    assert window.run("return performance.getEntriesByType('resource').length") == 0
    assert window.run("return [...document.querySelectorAll('[data-chart]')].map((e) => e.id)") == [
        *("chart-costs", "chart-accuracy", "chart-widths", "chart-scores"),
    ]
    assert window.count(BARS) == sum(1 + (x.before > x.after) for x in facts.layers)
    said = window.run(
        "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", NAMES
    )
    assert set(said) >= {layer.name for layer in facts.layers}
    assert window.count("#chart-scores .mark-rect path") > 100
    assert "99.7 %" in window.text("#chart-accuracy")
    # The page allows no script but its own two.
    window.run(
        "const s = document.createElement('script'); s.textContent = 'window.hit = 1';"
        "document.body.append(s)"
    )
    assert window.run("return window.hit") is None
    assert any("Content Security Policy" in said for said in window.complaints())


def test_filter(window: Browser, page: Path, facts: RunFacts) -> None:
    window.open(page)
    window.click("#layers summary")
    window.click("#scores summary")
    window.type("#filter", "Layer2.")
    found = [layer for layer in facts.layers if "layer2." in layer.name]
    assert window.text("#matches") == f"{len(found)} of {len(facts.layers)} layers"
    assert window.count("tr[data-layer]") == len(found)
    window.until(
        "return document.querySelectorAll(arguments[0]).length === arguments[1]",
        BARS,
        sum(1 + (layer.before > layer.after) for layer in found),
    )
    groups = [g for g in facts.groups if any("layer2." in name for name in g.layers)]
    assert window.count("tr[data-layers]") == len(groups)
    window.until(
        "return [...document.querySelectorAll('#chart-scores .mark-text text')]"
        ".filter((e) => e.textContent.startsWith('group')).length === arguments[0]",
        len(groups),
    )
    assert window.run("return document.querySelectorAll('.box:not(.faint)').length") == len(found)
    window.type("#filter", "\b" * 10)
    assert window.count("tr[data-layer]") == len(facts.layers)
    assert window.complaints() == []


def test_a_layer_is_chosen_in_the_graph(window: Browser, page: Path, facts: RunFacts) -> None:
    window.open(page)
    place = [layer.name for layer in facts.layers].index("layer1.0.conv2")
    window.click(f".box[data-layer='{place}'] rect")
    assert window.text("#why h3") == "layer1.0.conv2"
    said = window.text("#why")
    group = next(g for g in facts.groups if "layer1.0.conv2" in g.layers)
    assert f"Group {group.number}: {group.units} units, {group.removed} removed." in said
    assert "conv1, by" not in said.split("All that goes")[0]
    assert "layer1.0.bn2, by layer1.0.bn2: batch_norm" in said
    chosen = window.run(
        "return [...document.querySelectorAll('.box.mate')].map((e) => +e.dataset.layer)"
    )
    assert {facts.layers[i].name for i in chosen} == set(group.layers)
    # A layer in the panel leads on, and the list does what the boxes do.
    window.click("#why button")
    assert window.text("#why h3") == "conv1"
    window.click("#together summary")
    window.click(".names button[data-layer='1']")
    assert window.text("#why h3") == facts.layers[1].name
    assert window.count(".names button[aria-pressed=true]") == 1
    assert window.complaints() == []


def test_the_graph_zooms_by_keyboard_and_buttons(window: Browser, page: Path) -> None:
    window.open(page)

    def seen() -> list[float]:
        box = window.run("return document.getElementById('graph').getAttribute('viewBox')")
        return [float(n) for n in box.split()]

    whole = seen()
    window.click("[data-zoom=in]")
    near = seen()
    assert near[2] < whole[2]
    window.type("#stage", "\ue014")  # the right arrow
    assert seen()[0] > near[0]
    window.type("#stage", "-")
    assert seen()[2] > near[2]
    window.type("#stage", "0")
    assert seen() == whole
    # Everything that answers a click is reached by the Tab key.
    loose = window.run(
        "return [...document.querySelectorAll('button, a, input, summary')]"
        ".filter((e) => e.tabIndex < 0).length"
    )
    assert loose == 0
    assert window.complaints() == []


def test_folded_lines_open(window: Browser, page: Path) -> None:
    window.open(page)
    window.run("document.querySelector('#source summary').click()")
    before, folds = window.count(".diff td.code"), window.count("[data-fold]")
    assert folds
    window.click("[data-fold]")
    assert window.count("[data-fold]") == folds - 1
    assert window.count(".diff td.code") > before


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_all_of_it(window: Browser, page: Path, dark: bool) -> None:
    window.open(page, 375, 812, dark)
    window.until("return document.documentElement.scrollWidth === 375")
    wide = window.run(
        "return [...document.querySelectorAll('section, figure, .canvas svg, .stage, .why')]"
        ".filter((e) => e.getBoundingClientRect().right > 375.5)"
        ".map((e) => e.outerHTML.slice(0, 80))"
    )
    assert wide == []
    ground = window.run("return getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(13, 17, 23)") is dark
    paper = window.run("return document.querySelector('#chart-costs svg').style.backgroundColor")
    assert (paper == "rgb(22, 27, 34)") is dark
    assert window.complaints() == []


def test_names_and_sources_stay_what_they_are(window: Browser, tmp_path: Path) -> None:
    """Of layers, classes, keys and comments: https://owasp.org/www-community/attacks/xss/"""
    result = evil_result(tmp_path)
    path = tmp_path / "evil.html"
    path.write_bytes(run_page(facts_of(result, figures())))
    window.open(path)
    assert window.run("return window.hit") is None
    assert window.complaints() == []
    names = [layer.name for layer in facts_of(result, figures()).layers]
    for name in EVIL:
        (place,) = (i for i, known in enumerate(names) if known == f"layers.{name}")
        window.run(f"document.querySelectorAll('.box')[{place}].dispatchEvent(new Event('click'))")
        said = window.run("return document.querySelector('#why h3').textContent")
        assert said == printable(names[place])
    window.type("#filter", "<")
    window.until("return document.querySelectorAll('.box.faint').length > 0")
    assert window.run("return window.hit") is None
    assert window.complaints() == []


def test_many_networks(window: Browser, tmp_path: Path) -> None:
    path = tmp_path / "experiment.html"
    path.write_bytes(trials_page(of_cells(cells())))
    window.open(path)
    points = "#chart-tradeoff_0_parameters .mark-symbol.layer_2_marks path"
    assert window.count(points) == 6
    assert window.count("tr[data-series]") == 6
    window.click("[name=series]")
    window.until(f"return document.querySelectorAll('{points}').length === 3")
    assert window.count("tr[data-series]") == 3
    fronts = "return [...document.querySelectorAll('.front')].map((e) => e.innerText).join()"
    before = window.run(fronts)
    window.click("[name=size]", 1)
    window.until(
        "return document.querySelector('[data-chart]').innerText.includes('multiply-accumulates')"
    )
    assert window.run(fronts) != before
    window.look(375, 812)
    window.until("return document.documentElement.scrollWidth === 375")
    path.write_bytes(trials_page(of_levels("Net, random", "Digits", levels(), {"step": 5})))
    window.open(path)
    assert window.count("[data-chart] .mark-symbol path") >= 4
    assert window.complaints() == []


# --- large networks ----------------------------------------------------------------------------


def large(name: str) -> RunFacts:
    import torchvision

    torch.manual_seed(0)
    model: nn.Module = torchvision.models.get_model(name).eval()
    return facts_of(prune(model, torch.randn(1, 3, 224, 224), 50), figures(), dataset="ImageNet")


@pytest.mark.zoo
def test_resnet50_is_at_most_3_megabytes() -> None:
    content = run_page(large("resnet50"))
    assert 1_000_000 < len(content) <= 3_000_000


@pytest.mark.zoo
def test_densenet201_opens_in_2_seconds(window: Browser, tmp_path: Path) -> None:
    facts = large("densenet201")
    path = tmp_path / "densenet201.html"
    path.write_bytes(run_page(facts))
    window.open(path)
    times = []
    for _ in range(3):
        began = time.monotonic()
        window.open(path)
        times.append(time.monotonic() - began)
    assert min(times) < 2
    assert window.count(".box") == len(facts.layers) == 201
    assert window.complaints() == []
