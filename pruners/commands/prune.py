"""`python app.py --arch resnet --prune-pct 50`: a slimmer network, as source."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from pruners import analysis
from pruners.architectures import setup_pruner
from pruners.commands.options import (
    AggregateName,
    Arch,
    ArchArgs,
    AsJson,
    Calibrate,
    Checkpoint,
    DataDir,
    DatasetName,
    Debug,
    Depth,
    Device,
    Download,
    ExactOnly,
    Ignore,
    InputShape,
    Latency,
    MaxRatio,
    Measure,
    MeasureArgs,
    Method,
    MinFilters,
    Normalizer,
    NumClasses,
    Out,
    Plots,
    Plugins,
    PrunePct,
    Ratio,
    Recalibrate,
    Report,
    RoundTo,
    Seed,
    StoreDir,
    TargetName,
    Weights,
    WeightsOut,
    options_of,
    refuse_options,
    request_of,
    whole,
)
from pruners.errors import PrunerError
from pruners.job import Data, Job, run_job
from pruners.networks import find_network
from pruners.pages.of_job import Shown, save_shown
from pruners.plugins import load_plugins
from pruners.progress import note
from pruners.sampling import BATCHES
from pruners.tables import as_json, described, offer, show_files, show_offer, show_result
from pruners.version import __version__


def prune_command(
    ctx: typer.Context,
    arch: Arch = None,
    depth: Depth = None,
    arch_args: ArchArgs = None,
    weights: Weights = None,
    checkpoint: Checkpoint = None,
    input_shape: InputShape = None,
    num_classes: NumClasses = None,
    dataset: DatasetName = None,
    data_dir: DataDir = Path("data"),
    download: Download = False,
    prune_pct: PrunePct = 50,
    target: TargetName = "params",
    measure: Measure = "ChannelNorm",
    measure_args: MeasureArgs = None,
    method: Method = "Global",
    normalizer: Normalizer = None,
    aggregate: AggregateName = "mean",
    max_ratio: MaxRatio = None,
    ratio: Ratio = None,
    min_filters: MinFilters = 2,
    round_to: RoundTo = 1,
    ignore: Ignore = None,
    exact_only: ExactOnly = False,
    finetune_epochs: Annotated[
        int, whole("--finetune-epochs", 0, "Train the pruned network on the dataset.")
    ] = 0,
    calibrate: Calibrate = BATCHES,
    recalibrate: Recalibrate = None,
    plugin: Plugins = None,
    out: Out = Path("generated"),
    store_dir: StoreDir = Path("models"),
    weights_out: WeightsOut = None,
    name: Annotated[str, typer.Option(help="Stem of the files, such as resnet20_50.")] = "",
    seed: Seed = 0,
    device: Device = "cpu",
    report: Report = False,
    latency: Latency = False,
    plots: Plots = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Compute everything, write nothing.")
    ] = False,
    check_decorators: Annotated[
        bool,
        typer.Option("--check-decorators", help="Hold the decorators against a run; do no more."),
    ] = False,
    json: AsJson = False,
    listing: Annotated[bool, typer.Option("--list", help="Show everything on offer.")] = False,
    debug: Debug = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Remove whole channels from a network; write the slimmer network as source code."""
    if ctx.invoked_subcommand is not None:
        return refuse_options(ctx)
    if version:
        return print(f"pruners {__version__}")
    load_plugins(plugin or ())
    if listing:
        return print(as_json(offer())) if json else show_offer()
    job = Job(
        request_of(ctx),
        options_of(ctx),
        Data(dataset, data_dir, download) if dataset is not None else None,
        finetune_epochs,
        calibrate,
        recalibrate,
        out,
        store_dir,
        weights_out,
        name,
        dry_run,
    )
    if check_decorators:
        return _check_decorators(job)
    shown = Shown(report, latency, plots)
    shown.check()
    # A user's network may print.
    with redirect_stdout(sys.stderr):
        finished = run_job(job, setup_pruner(job.request.arch), ctx.obj)
        pages = save_shown(finished, job, shown, ctx.obj)
    if json:
        facts = described(finished)
        facts["files"] |= {kind: path for kind, (path, _) in pages.items()}
        return print(as_json(facts))
    show_result(finished)
    if pages:
        print()
        show_files(pages)
    if dry_run:
        note("dry run: nothing was written")
    return None


def _check_decorators(job: Job) -> None:
    """Print whether what the decorators say and what a run shows are the same."""
    setup_pruner(job.request.arch)
    with redirect_stdout(sys.stderr):
        splits = job.data.load(job.request) if job.data is not None else None
        network = find_network(job.request, splits, shipped=False)
        inputs = network.examples(job.options.seed)
        count, lines = analysis.check_decorators(network.model, inputs)
    if lines:
        print("\n".join(lines))
        differ = sum(not line.startswith(" ") for line in lines)
        raise PrunerError(
            f"{network.name}: decorators and trace differ on {differ} axes; correct the "
            f"decorators, or leave them out"
        )
    blocks = f"{count} decorated block{'s' if count > 1 else ''}"
    print(f"{network.name}: {blocks if count else 'no decorated blocks'}", end="")
    print("; decorators and trace agree" if count else "; the trace alone finds what goes together")
