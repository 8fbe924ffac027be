"""The demonstration: one network before pruning, pruned, and fine-tuned, in one table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from rich.table import Table
from torch import Tensor, nn

from pruners.errors import PrunerError
from pruners.job import Finished
from pruners.metrics import compare_latency, count_macs, count_parameters, state_dict_bytes
from pruners.tables import figures


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of one network."""

    name: str
    accuracy: float
    """Percent of the test images."""
    parameters: int
    macs: int
    bytes: int
    """Of its weights file."""
    latency_ms: float
    """Of one image, on the device that the networks are on; one thread."""


@contextmanager
def _one_thread() -> Iterator[None]:
    """One image of a small network leaves nothing to share: threads would measure each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def measure(finished: Finished) -> list[Row]:
    """A row for the full network, the pruned one and the fine-tuned one.

    Raises:
        PrunerError: the job had no dataset or did not fine-tune.
    """
    accuracy, result, finetuned = finished.accuracy, finished.result, finished.finetuned
    if accuracy is None or accuracy.finetuned is None or finetuned is None:
        raise PrunerError("demo: expected a job with a dataset and at least one epoch")
    models: list[nn.Module] = [result.pruning.model, result.model, finetuned]
    inputs: tuple[Tensor, ...] = tuple(x[:1] for x in result.pruning.example_inputs)
    with torch.no_grad(), _one_thread():
        latencies = compare_latency(models, inputs)
    percents = (accuracy.before, accuracy.pruned, accuracy.finetuned)
    return [
        Row(
            name,
            percent,
            count_parameters(model),
            count_macs(model, inputs),
            state_dict_bytes(model.state_dict()),
            latency,
        )
        for name, model, percent, latency in zip(
            ("before", "pruned", "fine-tuned"), models, percents, latencies, strict=True
        )
    ]


def table_of(rows: list[Row]) -> Table:
    """The rows as a table."""
    table = figures("", "test accuracy", "parameters", "MACs", "file size", "CPU latency")
    for row in rows:
        table.add_row(
            row.name,
            f"{row.accuracy:.1f} %",
            f"{row.parameters:,}",
            f"{row.macs:,}",
            f"{row.bytes / 1000:,.0f} kB",
            f"{row.latency_ms:.2f} ms",
        )
    return table
