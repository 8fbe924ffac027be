"""What all cells say together: rows of a table, and accuracy over amount as a picture."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from statistics import fmean
from typing import Any

from pruners.experiments.cells import STAGES, Cell
from pruners.experiments.grid import AMOUNTS_OF, Setting
from pruners.plots import Line, Panel, Pictures, line_plot
from pruners.progress import printable
from pruners.screen import Column, Sheet

_COSTS = ("parameters", "macs", "activation_bytes", "bytes")
COLUMNS = (
    *("model", "dataset", "weights", "method", "measure", "measure_args", "target", "amount"),
    *("seed", "recalibrate", "finetune_epochs", "calibrate", "device"),
    *(f"{cost}_{when}" for cost in _COSTS for when in ("before", "after")),
    *(f"accuracy_{stage}" for stage in STAGES),
    *("top_k", "top_k_accuracy_before", "top_k_accuracy_after", "loss_before", "loss_after"),
    *("oracle", "oracle_error", "pruners", "torch", "error"),
)
"""Of `results.csv`. Amounts are shares, accuracies percent of the test images, losses mean cross
entropies in nats; `..._after` is of the last stage."""


def in_order(cells: Iterable[Cell]) -> list[Cell]:
    """An order that does not depend on when the cells were made."""
    return sorted(cells, key=lambda cell: _order(cell.setting))


def _order(setting: Setting) -> tuple[Any, ...]:
    arguments = json.dumps(setting.measure_args, sort_keys=True)
    what = setting.model, setting.dataset, setting.method, setting.target, setting.measure
    how = setting.recalibrate, setting.finetune_epochs, setting.calibrate, setting.device
    return *what, arguments, setting.amount, setting.seed, *how


def csv_text(cells: Iterable[Cell]) -> str:
    """One row a cell, those of failed cells with their message in place of figures."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for cell in in_order(cells):
        writer.writerow(_row(cell))
    return text.getvalue()


def _row(cell: Cell) -> dict[str, Any]:
    setting, before, after = cell.setting, cell.figures.get("before", {}), cell.last
    row: dict[str, Any] = {field.name: getattr(setting, field.name) for field in fields(Setting)}
    row["measure_args"] = json.dumps(setting.measure_args, sort_keys=True)
    row |= {"weights": cell.weights, "error": cell.error}
    row |= {name: cell.made_by[name] for name in ("pruners", "torch")}
    if cell.error:
        return row
    for name in (*_COSTS, "top_k_accuracy", "loss"):
        row |= {f"{name}_before": before.get(name), f"{name}_after": after.get(name)}
    row["top_k"] = after.get("top_k")
    for stage, found in cell.figures.items():
        row[f"accuracy_{stage}"] = found.get("accuracy")
    row["oracle"] = cell.verification["oracle"]
    row["oracle_error"] = cell.verification["max_relative_error"]
    return row


# --- the table ---------------------------------------------------------------------------------


def table_of(cells: Sequence[Cell]) -> Sheet:
    """The cells in the order given, with what tells them apart."""
    shown: dict[str, Callable[[Setting], str]] = {
        "model": lambda s: s.model,
        "dataset": lambda s: s.dataset,
        "method": lambda s: s.method,
        "measure": lambda s: s.scored_by,
        "seed": lambda s: str(s.seed),
    }
    always = {"model", "measure"}
    columns = {
        name: of
        for name, of in shown.items()
        if name in always or len({of(cell.setting) for cell in cells}) > 1
    }
    numbers = ("amount", "parameters", "MACs", "accuracy before", "after")
    table = Sheet(
        (
            *(Column(name) for name in columns),
            *(Column(name, "number") for name in numbers),
            Column("", "words"),
        )
    )
    for cell in cells:
        names = [printable(of(cell.setting)) for of in columns.values()]
        table.add_row(*names, f"{cell.setting.amount:g}", *_shown(cell))
    return table


def _shown(cell: Cell) -> Sequence[str]:
    if cell.error:
        return "", "", "", "", f"failed: {printable(cell.error)}"
    before, after = cell.figures["before"], cell.last
    return (
        _removed(before, after, "parameters"),
        _removed(before, after, "macs"),
        percent(before["accuracy"]),
        percent(after["accuracy"]),
        "",
    )


def percent(accuracy: float) -> str:
    return f"{accuracy:.1f} %"


def _removed(before: Mapping[str, Any], after: Mapping[str, Any], name: str) -> str:
    """`-51.2 %`"""
    share = 100 * (before[name] - after[name]) / before[name] if before[name] else 0.0
    return f"{-share:+.1f} %" if share else "0.0 %"


# --- the picture -------------------------------------------------------------------------------


def accuracy_plot(cells: Iterable[Cell]) -> Pictures | None:
    """Accuracy of the last stage over amount: a panel for every model and method, a line a measure.

    Over several seeds a line is the mean and its band goes from the lowest to the highest. None
    where no cell has figures.
    """
    panels: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in in_order(cells):
        if not cell.error:
            panels.setdefault(_panel(cell.setting), []).append(cell)
    if not panels:
        return None
    settings = [found[0].setting for found in panels.values()]
    methods = len({setting.method for setting in settings})
    seeds = len({cell.setting.seed for found in panels.values() for cell in found})
    targets = list(dict.fromkeys(AMOUNTS_OF[setting.target] for setting in settings))
    return line_plot(
        [_drawn(found, settings) for found in panels.values()],
        x_label=f"amount (% of {' or '.join(targets)})",
        y_label="test accuracy (%)",
        about=f"lines: mean of {seeds} seeds, bands: lowest to highest" if seeds > 1 else "",
        columns=methods if methods in (2, 3) and len(panels) % methods == 0 else 0,
    )


def _panel(setting: Setting) -> tuple[Any, ...]:
    """What tells the panels apart; all but measure, amount and seed."""
    what = setting.model, setting.dataset, setting.target
    how = setting.recalibrate, setting.finetune_epochs, setting.calibrate, setting.device
    return *what, *how, setting.method


def _drawn(cells: Sequence[Cell], others: Sequence[Setting]) -> Panel:
    lines: dict[str, dict[float, list[float]]] = {}
    for cell in cells:
        points = lines.setdefault(cell.setting.scored_by, {})
        points.setdefault(100 * cell.setting.amount, []).append(cell.last["accuracy"])
    return Panel(
        _title(cells[0].setting, others),
        [_line(label, points) for label, points in lines.items()],
        level=fmean(cell.figures["before"]["accuracy"] for cell in cells),
    )


def _line(label: str, points: Mapping[float, Sequence[float]]) -> Line:
    x = sorted(points)
    several = any(len(values) > 1 for values in points.values())
    return Line(
        label,
        x,
        [fmean(points[amount]) for amount in x],
        [min(points[amount]) for amount in x] if several else (),
        [max(points[amount]) for amount in x] if several else (),
    )


def _title(setting: Setting, others: Sequence[Setting]) -> str:
    """`ResNet20 on Digits, Global`, and what else tells it from the other panels."""
    more = {
        "target": f"of {AMOUNTS_OF[setting.target]}",
        "recalibrate": f"{setting.recalibrate} batches to recalibrate",
        "finetune_epochs": f"fine-tuned {setting.finetune_epochs} epochs",
        "calibrate": f"{setting.calibrate} batches to calibrate",
        "device": setting.device,
    }
    told = [
        text for name, text in more.items() if len({getattr(other, name) for other in others}) > 1
    ]
    return ", ".join([f"{setting.model} on {setting.dataset}, {setting.method}", *told])
