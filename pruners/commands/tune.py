"""`python app.py tune`: learning rate and weight decay, by trial."""

from __future__ import annotations

import dataclasses
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from pruners.architectures import setup_pruner
from pruners.commands.options import (
    Amp,
    Arch,
    ArchArgs,
    AsJson,
    BatchSize,
    Checkpoint,
    DataDir,
    DatasetName,
    Debug,
    Depth,
    Device,
    Download,
    Epochs,
    InputShape,
    LabelSmoothing,
    Momentum,
    NumClasses,
    Optimizer,
    Plugins,
    Resume,
    Seed,
    Weights,
    given,
    recipe_of,
    request_of,
)
from pruners.distributed import processes
from pruners.job import SHIPPED_DATASET, Data
from pruners.plugins import load_plugins
from pruners.recipe import Recipe
from pruners.tables import as_json, described_trials, show_trials
from pruners.training_job import TrainingJob, run_tuning
from pruners.tuning import parsed_grid

LR_GRIDS = {"sgd": "0.01,0.03,0.1", "adamw": "0.0003,0.001,0.003"}
WD_GRIDS = {"sgd": "0,0.0001,0.0005", "adamw": "0.001,0.01,0.1"}


def tune_command(
    ctx: typer.Context,
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
    lr_grid: Annotated[
        str | None, typer.Option(metavar="NUMBERS", help="Learning rates, such as 0.01,0.03,0.1.")
    ] = None,
    wd_grid: Annotated[
        str | None, typer.Option(metavar="NUMBERS", help="Weight decays, such as 0,1e-4,5e-4.")
    ] = None,
    epochs: Epochs = 10,
    optimizer: Optimizer = Recipe.optimizer,
    momentum: Momentum = Recipe.momentum,
    label_smoothing: LabelSmoothing = Recipe.label_smoothing,
    batch_size: BatchSize = Recipe.batch_size,
    amp: Amp = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Where the best weights go: .safetensors or .pth; for --resume."
        ),
    ] = None,
    resume: Resume = False,
    plugin: Plugins = None,
    seed: Seed = 0,
    device: Device = "cpu",
    json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train with every combination of a grid; the best is chosen on the validation images."""
    with redirect_stdout(sys.stderr), processes(device) as ranks:
        load_plugins(plugin or ())
        setup_pruner(given(arch))
        job = TrainingJob(
            dataclasses.replace(request_of(ctx), device=ranks.device),
            Data(dataset or SHIPPED_DATASET, data_dir, download),
            recipe_of(
                epochs,
                optimizer,
                None,
                None,
                momentum,
                label_smoothing,
                batch_size,
                amp,
                seed,
            ),
            out,
            resume,
        )
        lrs = parsed_grid("--lr-grid", "lr", LR_GRIDS[optimizer] if lr_grid is None else lr_grid)
        decays = parsed_grid(
            "--wd-grid", "weight_decay", WD_GRIDS[optimizer] if wd_grid is None else wd_grid
        )
        tuned, trained = run_tuning(job, lrs, decays, ranks, ctx.obj)
    if not ranks.is_first:
        return
    if json:
        print(as_json(described_trials(tuned, trained, out)))
    else:
        show_trials(tuned, trained, out)
