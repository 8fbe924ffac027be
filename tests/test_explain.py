"""The channel graph for people: groups, explanations, pictures, warnings."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import image
from torch import Tensor, nn

import app
from pruners import Axis, ChannelGraph, Coupling, PrunerError, drawing, prune
from pruners.analysis import analyse
from pruners.drawing import check_format, picture, svg
from pruners.explain import Group

X = image(2, 3, 8, 8)


class Joined(nn.Module):
    """A shortcut, a concatenation, a layer norm and a layer that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.conv1 = nn.Conv2d(8, 6, 1)
        self.conv2 = nn.Conv2d(6, 8, 1)
        self.side = nn.Conv2d(8, 4, 1)
        self.bn = nn.BatchNorm2d(12)
        self.head = nn.Linear(12, 5)
        self.norm = nn.LayerNorm(5)
        self.out = nn.Linear(5, 2)
        self.idle = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.conv2(self.conv1(x).relu())
        x = self.bn(torch.cat([x, self.side(x)], 1)).mean((2, 3))
        return self.out(self.norm(self.head(x)))


@pytest.fixture(scope="module")
def graph() -> ChannelGraph:
    return analyse(Joined(), X).graph


def group_of(graph: ChannelGraph, layer: str) -> Group:
    (found,) = [
        group
        for group in graph.groups()
        if any(axis.layer == layer and axis.role == "out" for axis in group.axes)
    ]
    return found


def test_groups(graph: ChannelGraph) -> None:
    found = graph.groups()
    assert [group.number for group in found] == list(range(len(found)))
    assert sum(group.units for group in found) == graph.units().count
    stage = group_of(graph, "stem")
    assert (stage.units, stage.frozen, stage.reasons, stage.renormalised) == (8, 0, (), ())
    assert stage.layers == ("stem", "conv1", "conv2", "side", "bn", "head")
    (norm,) = (axis for axis in stage.axes if axis.tensor == "bn.weight")
    assert (norm.channels, norm.size, norm.role) == (8, 12, "")
    assert group_of(graph, "side").layers == ("side", "bn", "head")
    last = group_of(graph, "out")
    assert last.frozen == last.units == 2
    assert last.reasons == ("reaches an output of the network",)
    assert group_of(graph, "head").renormalised == ("norm: layer_norm",)


def test_explain(graph: ChannelGraph) -> None:
    assert graph.explain("conv2").splitlines() == [
        "conv2",
        "  outputs: 8 channels in 8 units, tied to",
        "    stem outputs  by add",
        "    conv1 inputs  by conv1: conv2d, with stem outputs",
        "    side inputs   by side: conv2d, with stem outputs",
        "    bn            by bn: batch_norm, with stem outputs (8 of 12 channels)",
        "    head inputs   by head: linear, with bn (8 of 12 channels)",
        "  inputs: 6 channels in 6 units, tied to",
        "    conv1 outputs  by conv2: conv2d",
    ]


def test_explain_says_what_stays_and_what_counts(graph: ChannelGraph) -> None:
    assert "all stay: reads an input of the network" in graph.explain("stem")
    assert "renormalised: norm: layer_norm depend on how many there are" in graph.explain("head")
    assert graph.explain("idle") == "idle: no run of the network reaches it, so it stays as it is"


def test_layers_that_only_meet_in_a_third_are_not_tied(graph: ChannelGraph) -> None:
    """Both are concatenated before the batch norm, but neither has a channel of the other."""
    outputs, _, inputs = graph.explain("side").partition("  inputs")
    assert "stem" not in outputs
    assert "stem" in inputs


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("conv3", r"^conv3: the network has no such layer; did you mean conv2 or conv1\?$"),
        ("xyz", r"^xyz: the network has no such layer; the layers are stem, conv1, .*, \.\.\.$"),
    ],
)
def test_unknown_layers(graph: ChannelGraph, layer: str, message: str) -> None:
    with pytest.raises(PrunerError, match=message):
        graph.explain(layer)


def test_a_block_is_no_layer() -> None:
    graph = analyse(nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1)), nn.Conv2d(4, 2, 1)), X).graph
    with pytest.raises(PrunerError, match=r"^0: has no channels of its own; its layers are 0\.0$"):
        graph.explain("0")


HOSTILE = 'a"]; evil [label=<<b>x</b>&amp;\\N</text><script>alert(1)</script>\n\x07'


@pytest.fixture
def hostile() -> ChannelGraph:
    model = nn.Sequential()
    model.add_module("one", nn.Conv2d(3, 4, 1))
    model._modules[HOSTILE] = nn.Conv2d(4, 4, 1)
    model.add_module("two", nn.Conv2d(4, 4, 1))
    return analyse(model, X).graph


def test_dot_quotes_whatever_a_layer_is_called(hostile: ChannelGraph) -> None:
    lines = hostile.to_dot().splitlines()
    assert len([line for line in lines if re.match(r"  n\d \[", line)]) == 3
    for line in lines[3:-1]:
        outside = re.sub(r'"(?:[^"\\]|\\.)*"', '""', line)
        assert re.fullmatch(r"  n\d( -> n\d)? \[[a-z]+=[a-z\"]*(, [a-z]+=[a-z\"]*)*\];", outside)
    assert "\x07" not in hostile.to_dot()
    assert "&amp;amp;" in hostile.to_dot()


def test_svg_escapes_whatever_a_layer_is_called(hostile: ChannelGraph) -> None:
    root = ElementTree.fromstring(svg(hostile))
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert tags == {"svg", "rect", "defs", "marker", "path", "title", "text"}
    shown = [element.text or "" for element in root.iter() if element.tag.endswith("text")]
    assert any("<script>alert(1)</script>" in text for text in shown)


def test_pictures_repeat(graph: ChannelGraph) -> None:
    again = analyse(Joined(), X).graph
    assert svg(graph) == svg(again)
    assert graph.to_dot() == again.to_dot()
    assert b">add<" in svg(graph)


def test_graphviz_draws_where_it_is_installed(
    graph: ChannelGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draws(command: list[str], **given: Any) -> subprocess.CompletedProcess[bytes]:
        assert command == ["dot", "-Tpng"]
        assert given["input"] == graph.to_dot().encode()
        return subprocess.CompletedProcess(command, 0, b"PNG", b"")

    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(subprocess, "run", draws)
    assert picture(graph, Path("g.png")) == b"PNG"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (subprocess.CalledProcessError(1, "dot", b"", b"out of\nink"), r"failed \(out of ink\)"),
        (subprocess.TimeoutExpired("dot", 1), r"took longer than 120 s"),
        (PermissionError(13, "Permission denied"), r"cannot be run \(Permission denied\)"),
    ],
)
def test_graphviz_that_fails(
    graph: ChannelGraph, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(drawing.subprocess, "run", fails)
    with pytest.raises(PrunerError, match=rf"^--out g\.svg: Graphviz's `dot` {message}; expected"):
        picture(graph, Path("g.svg"))


def test_formats_that_cannot_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PrunerError, match=r"^--out g\.txt: expected a file that ends in \.svg, "):
        check_format(Path("g.txt"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(PrunerError, match=r"^--out g\.png: a PNG needs Graphviz, whose `dot` is"):
        check_format(Path("g.png"))


# --- the command line --------------------------------------------------------------------------


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "graph.dot"
    assert app.main(["graph", "--arch", "resnet", "--depth", "20", "--out", str(out)]) == 0
    shown, said = capsys.readouterr()
    assert shown.splitlines()[0].split() == ["group", "units", "stay", "layers", "because"]
    assert "layer3.2.conv1, layer3.2.bn1, layer3.2.conv2 (inputs)" in shown
    assert "reaches an output of the network" in shown
    assert str(out) in shown
    assert "\x1b" not in shown + said
    assert out.read_text().startswith("digraph channels {")
    assert [path.name for path in out.parent.iterdir()] == ["graph.dot"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--explain", "layer1.0.convl"], "layer1.0.convl: the network has no such layer; did you"),
        (["--out", "graph.pdf"], "--out graph.pdf: expected a file that ends in"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(["graph", "--arch", "resnet", "--depth", "20", *arguments]) == 2
    shown, said = capsys.readouterr()
    assert shown == ""
    (line,) = (line for line in said.splitlines() if line.startswith("error: "))
    assert message in line


# --- warnings ----------------------------------------------------------------------------------


class Sorting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.conv = nn.Conv2d(6, 4, 1)
        self.fc = nn.Linear(4, 8)
        self.norm = nn.LayerNorm(8)
        self.out = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.stem(x).relu())
        x = x.mean((2, 3))
        x = x + 0 * torch.cdist(x, x).sum()
        return self.out(self.norm(self.fc(x)))


class Chain(nn.Sequential):
    pass


def test_unknown_operators_and_those_that_count_are_reported(tmp_path: Path) -> None:
    result = prune(Sorting(), X, 40, name="sorting")
    (unknown,) = result.report.unknown
    assert (unknown.operator, unknown.module, unknown.channels) == ("_cdist_forward", "", 4)
    assert result.report.renormalised == ("norm: layer_norm",)
    assert result.report.warnings[:2] == (
        "the network: _cdist_forward has no rule, so the 4 channels that it touches stay",
        "norm: layer_norm: the result depends on how many channels there are, and some are gone; "
        "compare with the network restricted to the rest, or keep them with exact_only",
    )
    saved = result.save(tmp_path, tmp_path, verify=False)
    facts = json.loads(saved.manifest.read_text())
    assert facts["unknown_operators"] == [
        {"operator": "_cdist_forward", "module": "", "channels": 4}
    ]
    assert facts["renormalised"] == ["norm: layer_norm"]
    assert facts["warnings"][:2] == list(result.report.warnings[:2])


def test_a_plain_network_has_nothing_to_warn_of() -> None:
    result = prune(Chain(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)), X, 40)
    assert result.report.unknown == result.report.renormalised == result.report.warnings == ()


def test_many_operators_that_count_are_one_line() -> None:
    layers = [m for _ in range(5) for m in (nn.Linear(8, 8), nn.LayerNorm(8))]
    report = prune(Chain(*layers, nn.Linear(8, 3)), image(2, 8), 40).report
    (line,) = report.warnings
    assert line.startswith("1: layer_norm, 3: layer_norm, 5: layer_norm and 2 more: the result")
    assert len(report.renormalised) == 5


def test_units_reached_by_different_ways_are_all_explained() -> None:
    """Half of an axis goes one way, half another: each unit is followed on its own."""
    graph = ChannelGraph({"a.weight": (4,), "b.weight": (2,), "c.weight": (2,)})
    a, b, c = (Axis(f"{name}.weight", 0) for name in "abc")
    half = torch.arange(2).numpy()
    graph.couple(Coupling(a, b, half, half, "split"))
    graph.couple(Coupling(a, c, half + 2, half, "split"))
    assert graph.explain("a").splitlines()[1:] == [
        "  channels: 4 channels in 4 units, tied to",
        "    b  by split",
        "    c  by split",
    ]
    assert graph.explain("b").splitlines()[1:] == [
        "  channels: 2 channels in 2 units, tied to",
        "    a  by split (2 of 4 channels)",
    ]
