"""Every network of torchvision, and many of timm: pruned, written, imported and compared.

The table is docs/coverage.md, made by `python -m benchmarks.coverage --family all --write`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import coverage
from benchmarks.coverage import Row, document, finished, one_line, prepare, read_rows, sweep
from benchmarks.coverage_networks import networks, torchvision_networks
from pruners.verify import Outcome, verify

SMALL = [
    ("classification", "mnasnet0_5"),
    ("classification", "shufflenet_v2_x0_5"),
    ("classification", "squeezenet1_1"),
    ("segmentation", "lraspp_mobilenet_v3_large"),
]
ALL = [(family, name) for family, names in torchvision_networks().items() for name in names]


def check(row: Row) -> None:
    assert row.ok, row.reason
    assert row.error <= row.tolerance
    assert 0.4 * row.before < row.after <= 0.5 * row.before
    assert not row.export.startswith("no:"), row.export


def test_small_networks() -> None:
    rows = [row for found in sweep(SMALL) for row in found]
    assert [(row.family, row.name) for row in rows] == SMALL
    for row in rows:
        check(row)
        assert row.tolerance == 1e-12


@pytest.mark.zoo
@pytest.mark.parametrize(("family", "name"), ALL, ids=[name for _, name in ALL])
def test_a_network_of_torchvision(family: str, name: str) -> None:
    row, case = prepare(family, name)
    assert case is not None, row.reason
    check(finished(row, verify([case])[0]))


class Opaque(nn.Module):
    """Its channels are normalised by an operator without a rule."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.qr(x)[0]


def test_a_network_that_cannot_be_pruned_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), Opaque())
    monkeypatch.setattr(coverage, "build", lambda *_: (network, torch.randn(1, 3, 4, 4)))
    row, case = prepare("classification", "opaque")
    assert case is None
    assert row.reason.startswith("PrunerError: Sequential: has no channel that could be removed;")
    assert not row.ok


def test_an_exception_says_where_it_was_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("key")

    monkeypatch.setattr("pruners.base.analyse", broken)
    row, _ = prepare("classification", "squeezenet1_1")
    assert row.reason == "KeyError: 'key' (base.py, in analysis)"


def test_a_failed_verification_is_the_reason() -> None:
    row = Row("classification", "resnet18")
    bad = Outcome("resnet18", False, float("inf"), "differs; printed last: x", "masked", 1e-12)
    assert finished(row, bad).reason == "verification: differs"
    good = replace(bad, ok=True, error=1e-15, message="")
    assert finished(row, good).ok


def test_messages_lose_the_folders_of_a_machine() -> None:
    assert one_line("in /home/me/x.py:\n  line 2") == "in x.py:"
    assert one_line("a/b stays, 1/2 too") == "a/b stays, 1/2 too"


def test_rows_survive_and_the_newest_counts(tmp_path: Path) -> None:
    path = tmp_path / "rows" / "rows.jsonl"
    assert read_rows(path) == []
    last, first = Row("video", "s3d", ""), Row("classification", "resnet18", "bad")
    coverage.append_rows(path, [last, first])
    coverage.append_rows(path, [replace(first, reason="")])
    assert [(row.name, row.ok) for row in read_rows(path)] == [("resnet18", True), ("s3d", True)]


def test_the_document_counts_and_lists_failures() -> None:
    good = Row("segmentation", "fcn_resnet50", "", 100, 50, 70, 1, "masked", 2e-15, 1e-12, 0.5)
    rows = [
        replace(good, export="yes"),
        replace(good, name="fcn_resnet101", after=75, tolerance=1e-5, export="no: a|b"),
        Row("segmentation", "deeplabv3_resnet50", "WriterError: no"),
    ]
    text = document(rows)
    total = len(networks()["segmentation"])
    assert f"| torchvision, segmentation | 2/{total} | 1/{total} | 1/{total} |" in text
    assert "| fcn_resnet50 | 100 → 50 | 50.0 % | 70 | 1 | masked | 2.0e-15 | 0.50 s | yes |" in text
    assert "| 2.0e-15 (float32) | 0.50 s | no: a\\|b |" in text
    assert "| deeplabv3_resnet50 | WriterError: no |" in text


def test_a_run_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def stub(family: str, name: str) -> tuple[Row, None]:
        asked.append(name)
        return Row(family, name, "bad" if name == "resnet18" else ""), None

    monkeypatch.setattr(coverage, "prepare", stub)
    arguments = ["--only", "resnet18", "alexnet", "--rows", str(tmp_path / "rows.jsonl")]
    warm = "squeezenet1_1"
    coverage.main(arguments)
    assert asked == [warm, "alexnet", "resnet18"]
    asked.clear()
    coverage.main([*arguments, "--resume"])
    assert asked == []
    coverage.main([*arguments, "--retry"])
    assert asked == [warm, "resnet18"]
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["alexnet", "resnet18", "resnet18"]


def test_rows_of_other_code_are_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, page = tmp_path / "rows.jsonl", tmp_path / "coverage.md"
    monkeypatch.setattr(coverage, "DOCUMENT", page)
    rows = [Row("video", name, "", code=coverage.code_digest()) for name in ("r3d_18", "s3d")]
    arguments = ["--only", "s3d", "--resume", "--write", "--rows", str(path)]
    coverage.append_rows(path, rows)
    coverage.main(arguments)
    assert "note:" not in capsys.readouterr().err
    assert "| r3d_18 |" in page.read_text()
    coverage.append_rows(path, [replace(rows[1], code="other")])
    coverage.main(arguments)
    assert "note: 1 of 2 rows (s3d, ...) were made by other code" in capsys.readouterr().err


def test_a_name_that_is_unknown_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        coverage.main(["--only", "resnet1"])
    assert "--only resnet1: no such network in --family torchvision" in capsys.readouterr().err


def test_every_listed_network_of_timm_exists() -> None:
    timm = pytest.importorskip("timm", "1.0.31", reason="the list is of a newer timm")
    from benchmarks.coverage_networks import HYBRID, TIMM

    assert set(TIMM + HYBRID) <= set(timm.list_models())
    assert len({timm.models.model_entrypoint(name).__module__ for name in TIMM}) > 40
    assert len(TIMM) == len(set(TIMM)) > 60
