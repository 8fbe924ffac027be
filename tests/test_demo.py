"""The demonstration, whole: it is the first thing that a user sees."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import app


def test_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert app.main(["demo"]) == 0
    out, err = capsys.readouterr()
    assert out.count("test accuracy") == 1
    assert max(map(len, out.splitlines()[:5])) <= 80
    rows = {
        line.split("  ")[0]: [float(n.replace(",", "")) for n in re.findall(r"[\d,.]*\d", line)]
        for line in out.splitlines()[1:5]
    }
    assert list(rows) == ["before", "pruned", "recalibrated", "fine-tuned"]
    for accuracy, parameters, macs, memory, kilobytes, milliseconds in rows.values():
        assert 0 < accuracy <= 100
        assert parameters <= 272_474
        assert macs <= 40_813_184
        assert 100 < memory <= 340
        assert 500 < kilobytes < 1200
        assert milliseconds > 0
    before, pruned, recalibrated, finetuned = rows.values()
    assert recalibrated[0] > pruned[0] + 20
    assert recalibrated[1:] == pruned[1:]
    # The promise: within one point of the full network, with half of its parameters.
    assert finetuned[0] >= before[0] - 1
    assert finetuned[1] <= before[1] / 2
    assert "epoch 4/4" in err
    files = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert files == [
        "generated/resnet20_50.html",
        "generated/resnet20_50.json",
        "generated/resnet20_50.py",
        "models/pruned/resnet20_50_pruned_v1.0.json",
        "models/pruned/resnet20_50_pruned_v1.0.pth",
        "models/pruned/resnet20_50_pruned_v1.1.json",
        "models/pruned/resnet20_50_pruned_v1.1.pth",
    ]
    assert all(name in out for name in files)
    page = (tmp_path / files.pop(0)).read_text()
    assert "It holds latencies, as was asked for" in page
    assert f"{finetuned[0]:.1f} %" in page
    manifest = json.loads((tmp_path / files[0]).read_text())
    assert manifest["test_accuracy"]["finetuned"] == pytest.approx(finetuned[0], abs=0.1)
    # The same numbers wherever they stand, and none that another run would not give.
    before, pruned, recalibrated, finetuned = manifest["evaluation"].values()
    stages = ["before", "pruned", "recalibrated", "finetuned"]
    assert list(manifest["evaluation"]) == stages
    for figure in ("parameters", "macs"):
        assert (before[figure], pruned[figure]) == (
            manifest[figure]["before"],
            manifest[figure]["after"],
        )
    assert before["accuracy"] == manifest["test_accuracy"]["before"]
    assert pruned["bytes"] == (tmp_path / files[3]).stat().st_size
    assert finetuned["bytes"] == (tmp_path / files[5]).stat().st_size
    assert finetuned["loss"] < pruned["loss"]
    assert "latency_ms" not in finetuned
