"""`python app.py demo`: the main job, fine-tuned and measured."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from pruners.architectures import setup_pruner
from pruners.base import Options
from pruners.commands.options import (
    Debug,
    Out,
    Plots,
    Report,
    Seed,
    StoreDir,
    WeightsOut,
    whole,
)
from pruners.demo import measure as measure_demo
from pruners.demo import table_of
from pruners.job import SHIPPED_DATASET, Data, Job, run_job
from pruners.networks import Request
from pruners.pages.of_job import Shown, save_shown
from pruners.progress import stage
from pruners.screen import show
from pruners.tables import files_of, show_files


def demo_command(
    ctx: typer.Context,
    epochs: Annotated[int, whole("--epochs", 1, "To fine-tune.")] = 4,
    out: Out = Path("generated"),
    store_dir: StoreDir = Path("models"),
    weights_out: WeightsOut = None,
    seed: Seed = 0,
    report: Report = True,
    plots: Plots = None,
    debug: Debug = False,
) -> None:
    """Prune ResNet-20 by half, fine-tune it on real digits, and measure it at every stage."""
    job = Job(
        Request("resnet", depth=20, seed=seed),
        Options(prune_pct=50, seed=seed),
        Data(SHIPPED_DATASET),
        epochs,
        out=out,
        store_dir=store_dir,
        weights_out=weights_out,
    )
    shown = Shown(report, report, plots)
    shown.check()
    with redirect_stdout(sys.stderr):
        finished = run_job(job, setup_pruner("resnet"), ctx.obj)
        with stage("measuring latency"):
            rows = measure_demo(finished)
        pages = save_shown(finished, job, shown, ctx.obj, rows)
    show(table_of(rows))
    print()
    show_files({**files_of(finished), **pages})
