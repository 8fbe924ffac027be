"""The demonstration: one network before pruning, pruned, and fine-tuned, in one table."""

from __future__ import annotations

from pruners.errors import PrunerError
from pruners.evaluation import Evaluation
from pruners.job import Finished
from pruners.pages.of_job import figures_by_stage
from pruners.screen import Sheet, figures
from pruners.tables import percent_right


def measure(finished: Finished) -> dict[str, Evaluation]:
    """The figures of the full network, the pruned one, recalibrated and fine-tuned, by name.

    Those of the job, and the latency of one image on the device that the networks are on; one
    thread.

    Raises:
        PrunerError: the job had no dataset or did not fine-tune.
    """
    stages = finished.stages
    if stages is None or stages.recalibrated is None or stages.finetuned is None:
        raise PrunerError("demo: expected a job with a dataset and at least one epoch")
    return figures_by_stage(finished, latency=True)


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
