"""The demonstration: one network before pruning, pruned, and fine-tuned, in one table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from pruners.errors import PrunerError
from pruners.evaluation import Evaluation
from pruners.job import Finished
from pruners.metrics import compare_latency
from pruners.screen import Sheet, figures
from pruners.tables import percent_right


@contextmanager
def _one_thread() -> Iterator[None]:
    """One image of a small network leaves nothing to share: threads would measure each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def measure(finished: Finished) -> dict[str, Evaluation]:
    """The figures of the full network, the pruned one, recalibrated and fine-tuned, by name.

    Those of the job, and the latency of one image on the device that the networks are on; one
    thread.

    Raises:
        PrunerError: the job had no dataset or did not fine-tune.
    """
    stages, result, tuned = finished.stages, finished.result, finished.tuned
    if stages is None or stages.recalibrated is None or stages.finetuned is None or tuned is None:
        raise PrunerError("demo: expected a job with a dataset and at least one epoch")
    models: list[nn.Module] = [result.pruning.model, result.model, tuned]
    with _one_thread():
        full, slim, last = compare_latency(
            models, tuple(x[:1] for x in result.pruning.example_inputs)
        )
    # Other statistics do not change what a network costs.
    latencies = (full, slim, slim, last)
    names = ("before", "pruned", "recalibrated", "fine-tuned")
    measured = (stages.before, stages.pruned, stages.recalibrated, stages.finetuned)
    return {
        name: replace(stage, latency_ms=latency)
        for name, stage, latency in zip(names, measured, latencies, strict=True)
    }


def table_of(rows: dict[str, Evaluation]) -> Sheet:
    """The figures as a table, a row each."""
    columns = ("test accuracy", "parameters", "MACs", "memory", "file", "latency")
    table = figures("", *columns)
    for name, row in rows.items():
        table.add_row(
            name,
            percent_right(row),
            f"{row.parameters:,}",
            f"{row.macs:,}",
            f"{row.activation_bytes / 1000:,.0f} kB",
            f"{row.bytes / 1000:,.0f} kB",
            f"{row.latency_ms:.2f} ms",
        )
    return table
