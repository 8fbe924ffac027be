"""What the page of many networks says: accuracy over size, and which of them are worth a look.

A network is on the *Pareto front* of a panel where no other one is at most as large and more
accurate, or smaller and at least as accurate.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pruners.experiments.cells import Cell
from pruners.experiments.grid import AMOUNTS_OF, Setting

SIZES: Mapping[str, str] = {
    "parameters": "parameters",
    "macs": "multiply-accumulates",
    "bytes": "bytes of the weights file",
}
"""What accuracy is shown over, and what it is called."""


@dataclass(frozen=True, slots=True)
class Point:
    """One network."""

    what: str
    """What tells it from the others of its series: `level 3`, `50 % of parameters, seed 1`."""
    series: str
    """Of one colour: the measure, or what was done last."""
    sizes: Mapping[str, int]
    """By the keys of `SIZES`."""
    accuracy: float
    """Percent of the test images."""
    method: str = ""
    seed: int = 0
    amount: float = 0.0
    """Percent that is gone, or number of the level: the order in a series."""
    unpruned: bool = False
    contends: bool = True
    """Whether it may be on the front: networks between two steps may not."""
    fronts: tuple[str, ...] = ()
    """The sizes whose front it is on."""


@dataclass(frozen=True, slots=True)
class Panel:
    """Networks that compare: of one model and one dataset."""

    title: str
    dataset: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Trials:
    """The page of an experiment, or of pruning level by level."""

    title: str
    kind: str
    """`experiment` or `iterate`."""
    panels: tuple[Panel, ...]
    options: Mapping[str, Any]
    failed: tuple[tuple[str, str], ...] = ()
    """What has no figures, and why."""

    @property
    def series(self) -> tuple[str, ...]:
        """All series, as they come."""
        found = (p.series for panel in self.panels for p in panel.points if not p.unpruned)
        return tuple(dict.fromkeys(found))


def with_front(points: Sequence[Point]) -> tuple[Point, ...]:
    """The points, with the fronts that each of them is on."""
    fronts: dict[int, list[str]] = {i: [] for i in range(len(points))}
    for size in SIZES:
        there = [i for i, p in enumerate(points) if p.contends and size in p.sizes]
        # From small to large; of equal size the most accurate first.
        there.sort(key=lambda i: (points[i].sizes[size], -points[i].accuracy))
        best: tuple[float, int] | None = None
        for i in there:
            here = points[i].accuracy, points[i].sizes[size]
            if best is None or here[0] > best[0] or here == best:
                fronts[i].append(size)
                best = here
    return tuple(replace(p, fronts=tuple(fronts[i])) for i, p in enumerate(points))


# --- level by level ----------------------------------------------------------------------------

_OF_LEVELS = {
    "accuracy": "retrained",
    "accuracy_recalibrated": "pruned, recalibrated",
    "accuracy_pruned": "pruned",
}


def of_levels(
    title: str, dataset: str, rows: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
) -> Trials:
    """The page of an iterative experiment.

    Args:
        rows: metrics of the network before pruning, then of every level.
        options: of the experiment, as it stores them.
    """
    points = [
        Point(
            "before pruning" if row["level"] < 0 else f"level {row['level']}",
            series,
            {size: row[size] for size in SIZES if size in row},
            row[name],
            amount=row["level"],
            unpruned=row["level"] < 0,
            contends=name == "accuracy",
        )
        for row in rows
        for name, series in _OF_LEVELS.items()
        if row.get(name) is not None
    ]
    return Trials(title, "iterate", (Panel(title, dataset, with_front(points)),), options)


# --- an experiment -----------------------------------------------------------------------------


def of_cells(cells: Iterable[Cell]) -> Trials:
    """The page of an experiment: a panel for every model and dataset.

    Args:
        cells: in the order in which they are to be shown.
    """
    cells = list(cells)
    panels: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        if not cell.error:
            panels.setdefault((cell.setting.model, cell.setting.dataset), []).append(cell)
    drawn = [
        Panel(f"{model} on {dataset}", dataset, with_front(_points(found, cells)))
        for (model, dataset), found in panels.items()
    ]
    settings = [cell.setting for cell in cells]
    options = {
        name: _listed(getattr(setting, name) for setting in settings)
        for name in ("model", "dataset", "method", "measure", "target", "amount", "seed")
    }
    failed = tuple((_told(c.setting, settings, True), c.error) for c in cells if c.error)
    return Trials(", ".join(options["model"]), "experiment", tuple(drawn), options, failed)


def _points(cells: Sequence[Cell], others: Sequence[Cell]) -> list[Point]:
    settings = [cell.setting for cell in others]
    before: dict[str, Point] = {}
    points = []
    for cell in cells:
        figures = cell.figures["before"]
        # With other weights it is another network.
        known = json.dumps([figures.get(size) for size in (*SIZES, "accuracy")])
        before.setdefault(
            known,
            Point(
                "before pruning", "unpruned", _sizes(figures), figures["accuracy"], unpruned=True
            ),
        )
        points.append(
            Point(
                _told(cell.setting, settings, False),
                cell.setting.scored_by,
                _sizes(cell.last),
                cell.last["accuracy"],
                cell.setting.method,
                cell.setting.seed,
                100 * cell.setting.amount,
            )
        )
    return [*before.values(), *points]


def _sizes(figures: Mapping[str, Any]) -> dict[str, int]:
    return {size: figures[size] for size in SIZES if size in figures}


def _told(setting: Setting, others: Sequence[Setting], whole: bool) -> str:
    """What tells a cell from the others of its panel and series; of all others where `whole`."""
    words = [f"{100 * setting.amount:g} % of {AMOUNTS_OF[setting.target]}"]
    if whole:
        words = [f"{setting.model} on {setting.dataset}", setting.scored_by, *words]
    for name, text in (
        ("method", setting.method),
        ("seed", f"seed {setting.seed}"),
        ("recalibrate", f"{setting.recalibrate} batches to recalibrate"),
        ("finetune_epochs", f"fine-tuned {setting.finetune_epochs} epochs"),
        ("calibrate", f"{setting.calibrate} batches to calibrate"),
        ("device", setting.device),
    ):
        if len({getattr(other, name) for other in others}) > 1:
            words.append(text)
    return ", ".join(words)


def _listed(values: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(f"{v:g}" if isinstance(v, float) else str(v) for v in values))
