"""examples/ are notebooks kept as scripts; each runs from top to bottom, and ends as it says."""

from __future__ import annotations

import re
import runpy
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "examples"
NOTEBOOKS = sorted(FOLDER.glob("[0-9]*.py"))


pytestmark = pytest.mark.usefixtures("own_block_types")


@pytest.fixture
def ran(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """What a notebook leaves behind: its names, and its files in OUT."""
    threads = torch.get_num_threads()
    monkeypatch.setenv("EXAMPLE_OUT", str(tmp_path / "out"))
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    try:
        # As a script: a class of a notebook is one of `__main__`.
        names = runpy.run_path(str(FOLDER / f"{request.param}.py"), run_name="__main__")
    finally:
        torch.set_num_threads(threads)
    # Nothing lies outside of the folder that was given.
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    return names


def files(names: dict[str, Any]) -> set[str]:
    return {path.name for path in names["OUT"].iterdir()}


def test_all_are_there() -> None:
    """Each of them has a test below."""
    text = Path(__file__).read_text()
    assert len(NOTEBOOKS) == 5
    assert all(f'"{path.stem}"' in text for path in NOTEBOOKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_is_a_notebook(path: Path) -> None:
    """Cells of prose and of code, a heading first; no cell is empty."""
    text = path.read_text()
    cells = re.split(r"^# %%(.*)\n", text, flags=re.M)
    assert cells[0] == ""
    kinds, bodies = cells[1::2], cells[2::2]
    assert kinds[0] == " [markdown]"
    assert bodies[0].startswith("# # ")
    assert set(kinds) == {" [markdown]", ""}
    for kind, body in zip(kinds, bodies, strict=True):
        prose = all(line.startswith("#") for line in body.split("\n") if line)
        assert body.strip()
        assert prose == bool(kind)


@pytest.mark.parametrize("ran", ["01_own_network"], indirect=True)
def test_own_network(ran: dict[str, Any]) -> None:
    report, saved = ran["report"], ran["saved"]
    assert 50 <= report.parameters.removed_pct < 55
    assert ran["same"]
    assert saved.verification.oracle == "masked"
    assert saved.verification.error < 1e-6
    assert files(ran) == {
        "net_50.py",
        "net_50.json",
        saved.weights.name,
        saved.weights.stem + ".json",
    }
    # The number in the view has followed.
    width = report.widths["stem"].after + report.widths["side"].after
    assert f"x.view(-1, {width} * 4 * 4)" in saved.source.read_text()


@pytest.mark.parametrize("ran", ["02_decorate_a_block"], indirect=True)
def test_decorate_a_block(ran: dict[str, Any]) -> None:
    assert (ran["blocks"], ran["differences"]) == (2, [])
    widths = ran["result"].report.widths
    assert widths["stem"].before == widths["stem"].after == 16
    assert widths["block2.conv1"].after < 32
    source = ran["saved"].source.read_text()
    assert "pruners" not in source
    assert "%%" not in source
    assert "names 'conv3' in convs, which the block lacks" in ran["refused"]


@pytest.mark.parametrize("ran", ["03_torchvision_network"], indirect=True)
def test_torchvision_network(ran: dict[str, Any]) -> None:
    widths = ran["result"].report.widths
    assert ran["after"].macs <= ran["before"].macs / 2
    assert all(w.after % 8 == 0 for w in widths.values())
    assert widths["layer4.1.conv2"].after == 256
    assert ran["saved"].verification.error < 1e-5


@pytest.mark.parametrize("ran", ["04_continue_training"], indirect=True)
def test_continue_training(ran: dict[str, Any]) -> None:
    elsewhere = ran["elsewhere"]
    assert elsewhere["imports_pruners"] is False
    assert elsewhere["accuracy"] > ran["pruned"] + 20
    assert elsewhere["accuracy"] > 90
    assert elsewhere["parameters"] == ran["result"].report.parameters.after
    assert ran["accuracy"](ran["result"].model) == pytest.approx(elsewhere["accuracy"], abs=0.3)


@pytest.mark.parametrize("ran", ["05_export"], indirect=True)
def test_export(ran: dict[str, Any]) -> None:
    assert ran["error"] < 1e-6
    # The development installation has the extra.
    assert ran["onnx_error"] is not None
    assert ran["onnx_error"] < 1e-5
    assert {"exported_50.pt2", "exported_50.onnx"} <= files(ran)


def test_without_a_folder_a_temporary_one_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EXAMPLE_OUT", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    names = runpy.run_path(str(FOLDER / "02_decorate_a_block.py"), run_name="__main__")
    assert names["OUT"].parent == tmp_path
    assert "decorated_40.py" in files(names)
