"""How results look: on terminals of every width, without colours, and in pipes."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from helpers import image
from rich.cells import cell_len
from rich.console import Console
from torch import nn

import app
from pruners import ModelStore, Parent, PruningResult, prune, screen, tables
from pruners.job import Finished
from pruners.screen import Bar, Branch, Column, Sheet, figures, show, show_compared
from pruners.side_by_side import Part
from pruners.tables import layers_of, show_files, show_groups, show_levels, show_result, show_store
from pruners.verify import Outcome

WIDTHS = (20, 40, 80, 120, 200)
COLOUR = re.compile(r"\x1b\[[\d;]*\b(3[0-7]|4[0-7]|9[0-7])[;m]")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal as most have it; what the tests themselves run in plays no part."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS", "LINES", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def sheet() -> Sheet:
    """One column of every kind."""
    columns = (
        Column("layer"),
        Column("stage", colours={"pruned": "yellow"}),
        Column("channels", "number"),
        Column("kept", "bar"),
        Column("elsewhere", optional=True),
        Column("because", "words"),
    )
    made = Sheet(columns)
    made.add_row("layer1.0.conv1", "pruned", "64", Bar(16, 64, 128), "also below", "of two reasons")
    made.add_row("[bold]:smile:[/]", "final", "128", Bar(128, 128, 128))
    return made


def shown(item: Sheet | Branch, width: int, **options: Any) -> str:
    """What a terminal of this width gets."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True, **options)
    show(item, console)
    return cast(io.StringIO, console.file).getvalue()


def bare(text: str) -> str:
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", text)


def widest(text: str) -> int:
    return max(cell_len(line.rstrip("\r")) for line in bare(text).split("\n"))


def joined(text: str) -> str:
    """All letters and digits: whatever was broken into lines is whole again."""
    return re.sub(r"\s+", "", bare(text))


# --- bars --------------------------------------------------------------------------------------


def test_bars_never_lie() -> None:
    """What there is can be seen, however little it is; nothing else can."""
    for width in (1, 2, 3, 8, 16):
        for of in (1, 2, 7, 100, 4096):
            for kept in {0, 1, of // 2, of - 1, of}:
                left, gone = Bar(kept, of).widths(width)
                assert left + gone == width
                if width > 1:
                    assert bool(left) == bool(kept)
                    assert bool(gone) == (kept < of)
    assert Bar(1, 2).widths(16) == (8, 8)
    assert Bar(5, 10, 20).widths(16) == (4, 4)
    assert Bar(1, 1, 10**6).widths(16) == (1, 0)
    assert Bar(0, 0).widths(16) == (0, 16)
    assert Bar(0, 0, 5).widths(16) == (0, 0)


# --- tables ------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", WIDTHS)
def test_every_width(width: int) -> None:
    text = shown(sheet(), width)
    assert widest(text) <= width
    for word in ("layer1.0.conv1", "pruned", "64", "128", "oftworeasons", "[bold]:smile:[/]"):
        assert word in joined(text)
    assert "█" in text
    assert "░" in text
    assert COLOUR.search(text)


def test_the_window_decides_what_is_shown() -> None:
    """Long bars, short ones, less text, none, and a few lines for every row."""
    made = sheet()
    lengths = []
    for width in range(120, 20, -1):
        text = bare(shown(made, width))
        table = "──" in text
        bar = max((len(found) for found in re.findall("█+", text)), default=0)
        look = (table, bar, "also below" in text)
        if not lengths or lengths[-1] != look:
            lengths.append(look)
        if not table:
            break
    assert lengths[:4] == [
        (True, 16, True),
        (True, 8, True),
        (True, 8, False),
        (True, 0, False),
    ]
    assert lengths[4][0] is False
    lines = [line.rstrip() for line in bare(shown(made, 40)).splitlines()]
    assert lines[:7] == [
        "layer1.0.conv1",
        "  stage      pruned",
        "  channels   64",
        "  kept       ██░░░░░░",
        "  elsewhere  also below",
        "  because    of two reasons",
        "[bold]:smile:[/]",
    ]


def test_long_names_take_no_column_from_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    sheet = Sheet((Column("name"), Column("size", "number"), Column("what", "words")))
    sheet.add_row("n" * 300, "1,234", "a file")
    show(sheet)
    show(Branch("root", children=(Branch("a " * 150 + "end"),)))
    _, row, root, child = capsys.readouterr().out.splitlines()
    assert row.split(maxsplit=2) == ["n" * 300, "1,234", "a file"]
    assert (root, child[-3:]) == ("root", "end")


def test_plain_text_has_neither_bars_nor_colours(capsys: pytest.CaptureFixture[str]) -> None:
    show(sheet())
    show(Branch("a", "green", (Branch("b [red]", "red"),)))
    assert capsys.readouterr().out == (
        "layer             stage   channels  elsewhere   because\n"
        "layer1.0.conv1    pruned        64  also below  of two reasons\n"
        "[bold]:smile:[/]  final        128\n"
        "a\n"
        "└── b [red]\n"
    )


def test_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same text, bars told apart by their signs."""
    for item in (sheet(), Branch("a", "green", (Branch("b", "red"),))):
        coloured = shown(item, 80)
        assert COLOUR.search(coloured)
        monkeypatch.setenv("NO_COLOR", "1")
        assert not COLOUR.search(shown(item, 80))
        assert bare(shown(item, 80)) == bare(coloured)
        monkeypatch.delenv("NO_COLOR")


def test_an_encoding_without_blocks() -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    show(sheet(), Console(file=file, width=120, force_terminal=True))
    file.flush()
    text = bare(raw.getvalue().decode("ascii"))
    assert "##......" in text
    assert "################" in text


def test_numbers_stand_below_each_other() -> None:
    table = figures("", "before", "after")
    table.add_row("parameters", "1,000", "10")
    table.add_row("MACs", "2")
    lines = bare(shown(table, 60)).splitlines()
    assert [line.rstrip() for line in lines[2:]] == [
        "parameters   1,000     10",
        "MACs             2",
    ]


# --- what the commands show --------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3)
        self.conv = nn.Conv2d(16, 32, 3)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(self.stem(x).relu()).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def result() -> PruningResult:
    torch.manual_seed(0)
    return prune(Net(), image(2, 3, 12, 12), 50)


@pytest.fixture
def window(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What a function shows on a terminal of a width."""

    def call(function: Callable[..., Any], *arguments: Any, width: int = 80) -> str:
        out = io.StringIO()
        console = Console(file=out, width=width, force_terminal=True, record=True, highlight=False)
        for module in (screen, tables):
            monkeypatch.setattr(module, "terminal", lambda: console)
        with redirect_stdout(out):
            function(*arguments)
        return out.getvalue()

    return call


@pytest.mark.parametrize("width", WIDTHS)
def test_layers(result: PruningResult, width: int) -> None:
    """A line a layer, with what is kept over what went; why one lost nothing."""
    text = shown(layers_of(result.report), width)
    assert widest(text) <= width
    for layer, change in result.report.widths.items():
        assert layer in joined(text)
        assert f"{change.after}" in text
    if width >= 80:
        (stem,) = (line for line in bare(text).splitlines() if line.startswith("stem"))
        assert stem.count("█") + stem.count("░") == 16
        kept = result.report.widths["stem"].after
        assert stem.count("█") == kept
        assert "reaches an output of the network" in " ".join(bare(text).split())


@pytest.mark.parametrize("width", WIDTHS)
def test_prune(result: PruningResult, window: Callable[..., str], width: int) -> None:
    outcome = Outcome("net", True, 1e-7, "", "masked", 1e-5)
    finished = Finished(cast(Any, None), result, outcome, None, None)
    text = window(show_result, finished, width=width)
    tables_only = text.partition("verified:")[0]
    assert widest(tables_only) <= width
    parameters = result.report.parameters
    for word in ("stem", f"{parameters.before:,}", f"{parameters.after:,}", "verified:", "masked"):
        assert word in joined(text)
    # The figures come last, where the eye is.
    assert bare(text).index("stem") < bare(text).index("parameters")


@pytest.mark.parametrize("width", WIDTHS)
def test_graph(result: PruningResult, window: Callable[..., str], width: int) -> None:
    graph = result.trace.graph
    text = window(show_groups, graph, width=width)
    assert widest(text) <= width
    assert "reachesanoutputofthenetwork" in joined(text) or width < 120
    if width == 80:
        lines = bare(text).splitlines()
        (conv,) = (line for line in lines if re.match(r"\d+ +32 ", line))
        (stem,) = (line for line in lines if re.match(r"\d+ +16 ", line))
        # As long as the group is large.
        assert (conv.count("█"), stem.count("█")) == (16, 8) or (
            conv.count("█"),
            stem.count("█"),
        ) == (8, 4)
        assert any("░" in line for line in lines)


@pytest.mark.parametrize("width", WIDTHS)
def test_models(tmp_path: Path, window: Callable[..., str], width: int) -> None:
    store = ModelStore(tmp_path)
    base = Parent("base.pth", "0" * 64)
    slim = store.add("pruned", "slim", {".pth": b"a" * 8000}, parents=[base])
    parent = Parent(slim.paths[".pth"].name, slim.digests[".pth"])
    store.add("quantized", "slim", {".pth": b"b" * 2000, ".onnx": b"c"}, parents=[parent])
    text = window(show_store, store, width=width)
    assert widest(text) <= width
    assert "\x1b[33mpruned" in text
    assert "\x1b[36mquan" in text
    # The tree tells what was made from what, also where the table has no room for it.
    assert "└──slim_pruned_v1.0" in joined(text)
    if width == 80:
        sizes = [line.count("█") for line in bare(text).splitlines() if "slim " in line]
        assert sizes in ([16, 4], [8, 2])


@pytest.mark.parametrize("width", WIDTHS)
def test_levels(window: Callable[..., str], width: int) -> None:
    rows = [
        {"level": -1, "removed_pct": None, "parameters": 10, "macs": 20, "accuracy": 99.0},
        {"level": 0, "removed_pct": 50.0, "parameters": 5, "macs": 10, "accuracy": 98.0},
    ]
    text = window(show_levels, rows, Path("runs"), width=width)
    assert widest(text) <= width
    assert "█" in text
    assert "98.0%" in joined(text)


def test_files(window: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    files = {"a": ("generated/net.py", "the slim network, imports torch only"), "b": ("x", "y")}
    show_files(files)
    assert capsys.readouterr().out == (
        "generated/net.py  the slim network, imports torch only\nx                 y\n"
    )
    text = window(show_files, files, width=40)
    assert widest(text) <= 40
    assert "generated/net.py" in text


def test_diff_counts_lines(result: PruningResult) -> None:
    """Lines that went and came, by definition, in red and green."""
    parts = [
        Part("a.py: f", "b.py: f", ("same", "x = 1", "old"), ("same", "x = 2")),
        Part("", "b.py: g", (), ("new",)),
    ]
    out = io.StringIO()
    show_compared(parts, 3, Console(file=out, width=80, force_terminal=True, highlight=False))
    text = out.getvalue()
    assert re.search(r"\x1b\[1;31m-", text)
    assert re.search(r"\x1b\[1;32m\+", text)
    lines = [line.rstrip() for line in bare(text).splitlines()]
    assert lines[-4].split() == ["definition", "-", "+", "lines", "kept"]
    assert [line.split()[:3] for line in lines[-2:]] == [["f", "2", "1"], ["g", "0", "1"]]
    assert "░" * 16 in lines[-1]
    assert "█" not in lines[-1]


# --- terminals, pipes and dumb ones ------------------------------------------------------------


@contextmanager
def pseudo_terminal(columns: int = 80) -> Iterator[tuple[int, Callable[[], str]]]:
    """A terminal's end for a program, and what was written to it until it is closed."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    read: list[bytes] = []

    def drain() -> None:
        # Linux ends with an error, others with nothing.
        try:
            while data := os.read(ours, 4096):
                read.append(data)
        except OSError:
            pass

    reader = threading.Thread(target=drain)
    reader.start()
    closed = False

    def text() -> str:
        nonlocal closed
        os.close(theirs)
        closed = True
        reader.join(10)
        return b"".join(read).decode()

    try:
        yield theirs, text
    finally:
        if not closed:
            os.close(theirs)
        reader.join(10)
        os.close(ours)


def on_terminal(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """What a command of this process writes to a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    with pseudo_terminal() as (end, text):
        with os.fdopen(os.dup(end), "w", encoding="utf-8") as out, redirect_stdout(out):
            assert app.main(list(arguments)) == 0
        return text()


@pytest.fixture
def stored(tmp_path: Path) -> str:
    ModelStore(tmp_path / "models").add("pruned", "slim", {".pth": b"a" * 8000})
    return str(tmp_path / "models")


def test_a_terminal(monkeypatch: pytest.MonkeyPatch, stored: str) -> None:
    text = on_terminal(monkeypatch, "models", "--store-dir", stored)
    assert COLOUR.search(text)
    assert "█" * 16 in text
    assert widest(text) <= 80


def test_a_terminal_without_colours(monkeypatch: pytest.MonkeyPatch, stored: str) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    text = on_terminal(monkeypatch, "models", "--store-dir", stored)
    assert not COLOUR.search(text)
    assert "█" * 16 in text


def test_a_terminal_that_can_do_nothing(monkeypatch: pytest.MonkeyPatch, stored: str) -> None:
    monkeypatch.setenv("TERM", "dumb")
    text = on_terminal(monkeypatch, "models", "--store-dir", stored)
    assert "\x1b" not in text
    assert "█" not in text
    assert text.splitlines()[0].split()[:3] == ["name", "stage", "version"]
    # What differs is a unified diff there.
    part = Part("a.py: f", "b.py: f", ("a",), ("b",))
    with pseudo_terminal() as (end, written):
        with os.fdopen(os.dup(end), "w") as out, redirect_stdout(out):
            show_compared([part])
        assert written().splitlines() == ["--- a.py: f", "+++ b.py: f", "@@ -1 +1 @@", "-a", "+b"]


def test_a_pipe(capfd: pytest.CaptureFixture[str], stored: str) -> None:
    assert app.main(["models", "--store-dir", stored]) == 0
    out = capfd.readouterr().out
    assert "\x1b" not in out
    assert "█" not in out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines == [
        "name stage version size parameters accuracy files from",
        "slim pruned 1.0 8 kB .pth",
        "",
        "slim",
        "└── slim_pruned_v1.0",
    ]


def test_a_process_of_its_own(stored: str) -> None:
    """As a user runs it: the window says how wide it is."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "app.py", "models", "--store-dir", stored]
    with pseudo_terminal(36) as (end, text):
        done = subprocess.run(
            command,
            cwd=Path(app.__file__).parent,
            env=environment,
            stdin=end,
            stdout=end,
            stderr=subprocess.PIPE,
            check=False,
        )
        out = text()
    assert (done.returncode, done.stderr) == (0, b"")
    assert widest(out) <= 36
    assert "█" in out
    assert "slim_pruned_v1.0" in out


def test_a_report_of_nothing_that_stays(result: PruningResult) -> None:
    """Where every layer lost channels there is nothing to give reasons for."""
    sheet = layers_of(replace(result.report, kept_because={}))
    assert [column.title for column in sheet.columns] == ["layer", "channels", "kept", ""]
