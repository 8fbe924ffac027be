"""`python app.py diff`: original and generated source, side by side."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from pruners.architectures import setup_pruner
from pruners.commands.options import (
    SELECTION,
    AggregateName,
    Arch,
    ArchArgs,
    Checkpoint,
    Debug,
    Depth,
    Device,
    ExactOnly,
    Ignore,
    InputShape,
    MaxRatio,
    Measure,
    MeasureArgs,
    Method,
    MinFilters,
    Normalizer,
    NumClasses,
    Plugins,
    PrunePct,
    Ratio,
    RoundTo,
    Seed,
    TargetName,
    Weights,
    given,
    options_of,
    refuse_given,
    request_of,
    whole,
)
from pruners.networks import find_network
from pruners.plugins import load_plugins
from pruners.progress import note, stage
from pruners.screen import show_compared
from pruners.side_by_side import compared, read_generated


def diff_command(
    ctx: typer.Context,
    arch: Arch = None,
    depth: Depth = None,
    arch_args: ArchArgs = None,
    weights: Weights = None,
    checkpoint: Checkpoint = None,
    input_shape: InputShape = None,
    num_classes: NumClasses = None,
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
    file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A generated file, instead of pruning."),
    ] = None,
    context: Annotated[int, whole("--context", 0, "Lines alike around those that differ.")] = 3,
    plugin: Plugins = None,
    seed: Seed = 0,
    device: Device = "cpu",
    debug: Debug = False,
) -> None:
    """Show the original source and the generated one side by side; write nothing."""
    load_plugins(plugin or ())
    pruner_class = setup_pruner(given(arch))
    request, options = request_of(ctx), options_of(ctx)
    if file is not None:
        refuse_given(ctx, SELECTION, f"has no effect beside --file {file}, which is pruned already")
    with redirect_stdout(sys.stderr):
        text = read_generated(file) if file is not None else None
        with stage(f"loading {request.arch}"):
            network = find_network(request)
        if file is None or text is None:
            with stage(f"pruning {network.name} by {prune_pct:g} percent"):
                pruner = pruner_class(
                    network.model, network.examples(seed), options, netName=network.name
                )
                text = pruner.run().source
            file = Path(f"{pruner.fileName}.py")
        parts = compared(network.model, text, file.name)
    show_compared(parts, context)
    if all(part.alike for part in parts):
        note("nothing differs")
