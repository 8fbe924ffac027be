"""The original source and the generated one, side by side."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
import torch
from helpers import image
from rich.console import Console
from user_files import write

import app
import models
from pruners import PrunerError, prune
from pruners.loading import class_from_file
from pruners.networks import Request, find_network
from pruners.screen import show_compared
from pruners.side_by_side import Part, Row, compared, read_generated, rows, unified

assert models  # registers the zoo

HELPERS = '''
SLOPE = 0.1


def squash(x):
    """Keeps it small."""
    return F.leaky_relu(x, SLOPE)
'''
NET = '''
from {helpers} import squash


class Base(nn.Module):
    def forward(self, x):
        # From the base.
        return self.fc(self.features(x).mean((2, 3)))


def unused():
    pass


class Net(Base):
    """Two convolutions,
    and a head."""

    def __init__(self, num_classes: int=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.conv2 = nn.Conv2d(8, 16, 3)
        self.fc = nn.Linear(16, num_classes)

    def features(self, x):
        return self.conv2(squash(self.conv1(x)))
'''


def parts_of(folder: Path, name: str) -> list[Part]:
    """What `diff` shows of a network whose helper is in another file than its class."""
    write(folder, f"{name}_helpers", HELPERS)
    path = write(folder, name, NET.format(helpers=f"{name}_helpers"))
    torch.manual_seed(0)
    model = class_from_file(path, "Net")()
    result = prune(model, image(2, 3, 12, 12), 50)
    return compared(model, result.source, "net_50.py")


def part(left: str, right: str) -> Part:
    return Part("a.py: f", "b.py: f", tuple(left.splitlines()), tuple(right.splitlines()))


def on_terminal(parts: list[Part], width: int, context: int = 3) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, highlight=False)
    show_compared(parts, context, console)
    return out.getvalue()


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


# --- what is compared --------------------------------------------------------------------------


def test_definitions_and_their_homes(tmp_path: Path) -> None:
    found = parts_of(tmp_path, "diff_homes")
    assert [(p.left_title, p.right_title) for p in found] == [
        ("diff_homes.py: class Net", "net_50.py: class Net"),
        ("diff_homes_helpers.py: SLOPE", "net_50.py: SLOPE"),
        ("diff_homes_helpers.py: def squash", "net_50.py: def squash"),
        ("", "net_50.py: def net"),
    ]
    net, slope, squash, factory = found
    assert slope.alike
    assert squash.alike
    assert factory.left == ()
    # Formatted as the generated one, and with the methods of the base.
    assert "    def __init__(self, num_classes: int = 10):" in net.left
    assert "        # From the base." in net.left
    assert "        # From the base." in net.right
    assert not any("unused" in line for line in net.left)


def test_files_that_are_not_of_the_network(tmp_path: Path) -> None:
    model = find_network(Request("resnet")).model
    with pytest.raises(PrunerError, match=r"^x\.py: is not Python \(line 1: .*\); expected a gen"):
        compared(model, "class", "x.py")
    with pytest.raises(PrunerError, match=r"^x\.py: has no class ResNet; expected a file that was"):
        compared(model, "class Net:\n    pass\n", "x.py")
    (tmp_path / "net_50.py").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(
        PrunerError, match=r"^--file .*net_50\.py: cannot be read \(is not text\); "
    ):
        read_generated(tmp_path / "net_50.py")
    with pytest.raises(PrunerError, match=r"^--file .*: cannot be read \(Is a directory\); expect"):
        read_generated(tmp_path)
    with pytest.raises(
        PrunerError, match=r"net_51\.py: no such file; did you mean net_50\.py\? leave --file out"
    ):
        read_generated(tmp_path / "net_51.py")


# --- rows --------------------------------------------------------------------------------------


def test_lines_of_one_purpose_stand_beside_each_other() -> None:
    before = """\
        super().__init__()
        self.layer1 = stage(block, 16, 16)
        self.layer2 = stage(block, 16, 32)
        self.fc = nn.Linear(64, num_classes)"""
    after = """\
        super().__init__()
        self.layer1 = nn.Sequential(
            BasicBlock(11, 12, 11),
        )
        self.layer2 = nn.Sequential(
            BasicBlock(11, 10, 11),
        )
        self.fc = nn.Linear(46, num_classes)"""
    shown = [
        (row.kind, row.left.strip(), row.right.strip())
        for row in rows(part(before, after), 3)
        if isinstance(row, Row)
    ]
    assert shown == [
        (" ", "super().__init__()", "super().__init__()"),
        ("|", "self.layer1 = stage(block, 16, 16)", "self.layer1 = nn.Sequential("),
        (">", "", "BasicBlock(11, 12, 11),"),
        (">", "", ")"),
        ("|", "self.layer2 = stage(block, 16, 32)", "self.layer2 = nn.Sequential("),
        (">", "", "BasicBlock(11, 10, 11),"),
        (">", "", ")"),
        ("|", "self.fc = nn.Linear(64, num_classes)", "self.fc = nn.Linear(46, num_classes)"),
    ]


def test_the_words_that_differ_are_marked() -> None:
    (row,) = rows(part("x = conv(16, 32, bias=True)", "x = conv(9, 32)"), 3)
    assert isinstance(row, Row)
    assert [row.left[a:b] for a, b in row.left_marks] == ["16", ", bias=True"]
    assert [row.right[a:b] for a, b in row.right_marks] == ["9"]
    (row,) = rows(part("return projection(in_channels)", "if downsample: x"), 3)
    assert isinstance(row, Row)
    assert (row.kind, row.left_marks, row.right_marks) == ("|", (), ())


@pytest.mark.parametrize("context", [0, 1, 3, 100])
def test_stretches_alike_collapse(tmp_path: Path, context: int) -> None:
    for found in parts_of(tmp_path, f"diff_collapse{context}"):
        everything = [row for row in rows(found, 10**6) if isinstance(row, Row)]
        if not found.alike:
            assert tuple(r.left for r in everything if r.kind != ">") == found.left
            assert tuple(r.right for r in everything if r.kind != "<") == found.right
        shown = list(rows(found, context))
        hidden = sum(row for row in shown if isinstance(row, int))
        seen = [row for row in shown if isinstance(row, Row)]
        total = len(everything) if not found.alike else len(found.left)
        assert len(seen) + hidden == total
        assert [r for r in seen if r.kind != " "] == [r for r in everything if r.kind != " "]
        changes = [place for place, r in enumerate(everything) if r.kind != " "]
        near = {p for c in changes for p in range(c - context, c + context + 1)}
        assert seen == [r for place, r in enumerate(everything) if place in near]


# --- on a terminal, and not --------------------------------------------------------------------


@pytest.mark.parametrize("width", [20, 40, 80, 120, 160])
def test_every_width(tmp_path: Path, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    found = parts_of(tmp_path, f"diff_width{width}")
    text = on_terminal(found, width)
    assert "\x1b[31m" in text
    assert "\x1b[32m" in text
    lines = plain(text).splitlines()
    assert max(map(len, lines)) <= width
    # Both columns hold all the words, however they are broken.
    half = (width - 3) // 2
    sides = ("".join(line[:half] for line in lines), "".join(line[half + 3 :] for line in lines))
    for side, said in zip(sides, ("diff_width", "net_50.py"), strict=True):
        joined = re.sub(r"\s", "", side)
        assert said in joined
        assert "classNet(" in joined
    assert "self.conv1=nn.Conv2d(3,8,kernel_size=3)" not in re.sub(r"\s", "", sides[0])
    assert "self.conv1=nn.Conv2d(3,8,3)" in re.sub(r"\s", "", sides[0])


def test_long_lines_go_on_further_to_the_right() -> None:
    found = [part("    self.first = some_function(argument)", "    self.first = None")]
    lines = [line.rstrip() for line in plain(on_terminal(found, 63)).splitlines()]
    assert lines[:3] == [
        "a.py: f                          b.py: f",
        "    self.first =               |     self.first = None",
        "      some_function(argument)",
    ]


def test_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [part("x = 1\ny = 2", "x = 3\ny = 2")]
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = on_terminal(found, 80)
    monkeypatch.setenv("NO_COLOR", "1")
    text = on_terminal(found, 80)
    assert re.search(r"\x1b\[[0-9;]*3[12]", coloured)
    assert not re.search(r"\x1b\[[0-9;]*3[12]", text)
    assert plain(text) == plain(coloured)
    # What differs is told by a sign between the columns, too.
    assert re.search(r"x = 1 +\| +x = 3", plain(text))


def test_markup_in_source_is_only_text() -> None:
    found = [part("x = '[bold]a[/bold] :smile:'", "x = '[/]'")]
    text = plain(on_terminal(found, 120))
    assert "'[bold]a[/bold] :smile:'" in text
    assert "'[/]'" in text


def test_a_unified_diff_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    found = [part("a = 1\nb = 2", "a = 1\nb = 3"), part("same", "same")]
    expected = "--- a.py: f\n+++ b.py: f\n@@ -1,2 +1,2 @@\n a = 1\n-b = 2\n+b = 3\n"
    assert "".join(f"{line}\n" for line in unified(found)) == expected
    show_compared(found)
    assert capsys.readouterr().out == expected
    assert [*unified([Part("", "b.py: f", (), ("x",))], 0)][:2] == [
        "--- (no original)",
        "+++ b.py: f",
    ]


# --- the command line --------------------------------------------------------------------------


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert app.main(["diff", "--arch", "resnet", "--prune-pct", "40", "--context", "0"]) == 0
    out = capfd.readouterr().out
    assert out.startswith("--- models/cifar/resnet.py: class BasicBlock\n+++ resnet20_40.py: ")
    assert (
        "\n-        self.fc = nn.Linear(64 * block.expansion, num_classes)\n+        self.fc" in out
    )
    assert "\x1b" not in out
    assert list(tmp_path.iterdir()) == []
    # The same from a file, which is pruned no further.
    model = find_network(Request("resnet")).model
    saved = prune(model, image(2, 3, 32, 32), 40, name="resnet20_40").save(verify=False)
    arguments = ["diff", "--arch", "resnet", "--file", str(saved.source)]
    assert app.main([*arguments, "--context", "0"]) == 0
    again = capfd.readouterr().out
    assert (
        again.replace("def resnet(", "def resnet20(").replace("def resnet\n", "def resnet20\n")
        == out
    )
    for option, value in (("--prune-pct", "40"), ("--ignore", "layer1.*"), ("--round-to", "8")):
        assert app.main([*arguments, option, value]) == 2
        said = f"error: {option}: has no effect beside --file generated/resnet20_40.py, which is"
        assert said in capfd.readouterr().err
    assert app.main(["diff", "--arch", "resnet", "--prune-pct", "100"]) == 2
    assert "--prune-pct 100: expected a percentage" in capfd.readouterr().err
    assert app.main(["diff", "--arch", "resnet", "--file", "none.py"]) == 2
    assert "error: --file none.py: no such file; leave --file out" in capfd.readouterr().err
    # A generated file beside itself.
    arch = f"{saved.source}:ResNet"
    assert app.main(["diff", "--arch", arch, "--prune-pct", "0"]) == 0
    done = capfd.readouterr()
    assert "nothing differs" not in done.out
    assert "nothing differs" in done.err
    assert done.out == ""
