"""`python app.py iterate`: prune, retrain, and prune again."""

from __future__ import annotations

import dataclasses
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from pruners.architectures import setup_pruner
from pruners.commands.options import (
    Arch,
    ArchArgs,
    AsJson,
    BatchSize,
    Calibrate,
    Checkpoint,
    DataDir,
    DatasetName,
    Debug,
    Depth,
    Device,
    Download,
    Ignore,
    InputShape,
    MeasureArgs,
    MinFilters,
    NumClasses,
    Plots,
    Plugins,
    Recalibrate,
    RoundTo,
    Seed,
    TargetName,
    Weights,
    given,
    measure_args_of,
    number,
    plain_number,
    request_of,
    whole,
)
from pruners.distributed import processes
from pruners.iteration import BY_COUNT, Plan, iterate
from pruners.job import SHIPPED_DATASET, Data
from pruners.pages.of_job import check_plots
from pruners.plugins import load_plugins
from pruners.progress import note
from pruners.recipe import Recipe
from pruners.sampling import BATCHES
from pruners.stopping import stops
from pruners.tables import as_json, show_levels
from pruners.trainer_file import load_trainer, maker


def iterate_command(
    ctx: typer.Context,
    exp: Annotated[Path, typer.Option("--exp", metavar="DIR", help="Folder of the experiment.")],
    arch: Arch = None,
    depth: Depth = None,
    arch_args: ArchArgs = None,
    weights: Weights = None,
    checkpoint: Checkpoint = None,
    input_shape: InputShape = None,
    num_classes: NumClasses = None,
    dataset: DatasetName = SHIPPED_DATASET,
    data_dir: DataDir = Path("data"),
    download: Download = False,
    method: Annotated[
        str,
        typer.Option(
            help="random, low_unitmem, high_unitmem, hybrid_unitmem, mag_pruning, or a measure."
        ),
    ] = "low_unitmem",
    measure_args: MeasureArgs = None,
    ranking: Annotated[str, typer.Option(help="Global, Local or Isomorphic.")] = "Global",
    step: Annotated[
        float, plain_number("--step", "Percent of what is left that a level removes.")
    ] = 5.0,
    levels: Annotated[int, whole("--levels", 1, "How many.")] = 10,
    schedule: Annotated[
        str, typer.Option(help="exponential, linear, cosine or cubic.")
    ] = "exponential",
    final: Annotated[
        float | None,
        plain_number("--final", "Percent that is gone in the end, for other schedules."),
    ] = None,
    target: TargetName = "params",
    min_filters: MinFilters = 2,
    round_to: RoundTo = 1,
    ignore: Ignore = None,
    lvl: Annotated[
        int | None,
        whole("--lvl", -1, "-1 trains first, 0 begins with trained weights, N goes on at level N."),
    ] = None,
    epochs: Annotated[int, whole("--epochs", 0, "Of retraining, at each level.")] = 2,
    pretrain_epochs: Annotated[int, whole("--pretrain-epochs", 0, "Before pruning.")] = 20,
    lr: Annotated[
        float, number("--lr", "lr", "The highest learning rate of retraining.")
    ] = Recipe.lr,
    batch_size: BatchSize = Recipe.batch_size,
    apply: Annotated[str, typer.Option(help="remove channels, or mask them.")] = "remove",
    follow: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help=f"A finished experiment, for {BY_COUNT}."),
    ] = None,
    images: Annotated[int, whole("--images", 2, "That UnitMem is measured on.")] = 1000,
    augmentations: Annotated[int, whole("--augmentations", 1, "Of each of them.")] = 10,
    UM_batch: Annotated[
        int, typer.Option("--UM-batch", min=1, help="Images in a batch of UnitMem.")
    ] = 64,
    activations: Annotated[
        str, typer.Option(help="Mean activations are kept as npz or json, or none.")
    ] = "npz",
    recalibrate: Recalibrate = None,
    calibrate: Calibrate = BATCHES,
    keep_optimizer: Annotated[
        bool, typer.Option("--keep-optimizer", help="Its state goes on, where channels stay.")
    ] = False,
    distill: Annotated[
        float, plain_number("--distill", "Share of the loss: the unpruned network's answers.")
    ] = 0.0,
    temperature: Annotated[float, plain_number("--temperature", "Of these answers.")] = 4.0,
    sparse: Annotated[
        str, typer.Option(help="A penalty on channels while training: group or norm.")
    ] = "",
    sparse_weight: Annotated[float, plain_number("--sparse-weight", "Of that penalty.")] = 1e-4,
    trainer: Annotated[
        str | None, typer.Option(metavar="FILE.py:CLASS", help="Retrains in your own way.")
    ] = None,
    plots: Plots = None,
    plugin: Plugins = None,
    seed: Seed = 0,
    device: Device = "cpu",
    json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Prune a little, retrain, and prune again; run it once more to go on where it stands."""
    with redirect_stdout(sys.stderr), processes(device) as ranks, stops() as stop:
        load_plugins(plugin or ())
        setup_pruner(given(arch))
        request = dataclasses.replace(request_of(ctx), device=ranks.device)
        chosen = {
            field.name: ctx.params[field.name]
            for field in dataclasses.fields(Plan)
            if field.name in ctx.params
        }
        # Before any work: a class that lacks a method is said at once.
        cls = load_trainer(trainer) if trainer else None
        if plots is not None:
            check_plots(plots)
        plan = Plan(
            **{
                **chosen,
                "measure_args": measure_args_of(measure_args),
                "ignore": tuple(ignore or ()),
                "recalibrate": BATCHES if recalibrate is None else recalibrate,
                "UM_batch": UM_batch,
                "trainer": trainer or None,
            },
            request=request,
        )
        rows = iterate(
            plan,
            exp,
            lvl=lvl,
            data=Data(dataset or SHIPPED_DATASET, data_dir, download),
            trainer=None if cls is None else maker(cls, ranks.device),
            command=["app.py", *sys.argv[1:]],
            ranks=ranks,
            stop=stop,
            plots=plots,
        )
    if not ranks.is_first:
        return
    if json:
        print(as_json(rows))
    else:
        show_levels(rows, exp)
        note(f"everything is in {exp}")
