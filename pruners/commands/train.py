"""`python app.py train`: weights to prune."""

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
    number,
    recipe_of,
    request_of,
)
from pruners.distributed import processes
from pruners.job import SHIPPED_DATASET, Data
from pruners.plugins import load_plugins
from pruners.recipe import Recipe
from pruners.training_job import TrainingJob, run_training


def train_command(
    ctx: typer.Context,
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="Where the weights go: .safetensors or .pth.")
    ],
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
    epochs: Epochs = 30,
    optimizer: Optimizer = Recipe.optimizer,
    lr: Annotated[
        float | None,
        number("--lr", "lr", "The highest learning rate; 0.1, or 0.001 for adamw."),
    ] = None,
    weight_decay: Annotated[
        float | None,
        number("--weight-decay", "weight_decay", "Of all weights; 0.0005, or 0.01 for adamw."),
    ] = None,
    momentum: Momentum = Recipe.momentum,
    label_smoothing: LabelSmoothing = Recipe.label_smoothing,
    batch_size: BatchSize = Recipe.batch_size,
    amp: Amp = None,
    resume: Resume = False,
    plugin: Plugins = None,
    seed: Seed = 0,
    device: Device = "cpu",
    debug: Debug = False,
) -> None:
    """Train a network from scratch, or from a checkpoint; the result can be pruned."""
    with redirect_stdout(sys.stderr), processes(device) as ranks:
        load_plugins(plugin or ())
        setup_pruner(given(arch))
        job = TrainingJob(
            dataclasses.replace(request_of(ctx), device=ranks.device),
            Data(dataset or SHIPPED_DATASET, data_dir, download),
            recipe_of(
                epochs,
                optimizer,
                lr,
                weight_decay,
                momentum,
                label_smoothing,
                batch_size,
                amp,
                seed,
            ),
            out,
            resume,
        )
        trained = run_training(job, ranks, ctx.obj)
    if ranks.is_first:
        print(f"{out}  {trained.described()}")
