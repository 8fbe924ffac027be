"""`python app.py graph`: which channels go together."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from pruners.analysis import analyse
from pruners.architectures import setup_pruner
from pruners.commands.options import (
    Arch,
    ArchArgs,
    Checkpoint,
    Debug,
    Depth,
    Device,
    InputShape,
    NumClasses,
    Plugins,
    Seed,
    Weights,
    given,
    request_of,
)
from pruners.drawing import check_format, picture
from pruners.job import noted
from pruners.networks import find_network
from pruners.plugins import load_plugins
from pruners.progress import note, stage
from pruners.report import unknown_operators
from pruners.store import check_writable, commit
from pruners.tables import show_groups


def graph_command(
    ctx: typer.Context,
    arch: Arch = None,
    depth: Depth = None,
    arch_args: ArchArgs = None,
    weights: Weights = None,
    checkpoint: Checkpoint = None,
    input_shape: InputShape = None,
    num_classes: NumClasses = None,
    layer: Annotated[
        str | None,
        typer.Option("--explain", metavar="LAYER", help="What goes with this layer's channels."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A picture: .svg, .dot or .png.")
    ] = None,
    plugin: Plugins = None,
    seed: Seed = 0,
    device: Device = "cpu",
    debug: Debug = False,
) -> None:
    """Show which layers lose channels together, and which operator ties them."""
    load_plugins(plugin or ())
    if out is not None:
        check_format(out)
        check_writable(out.parent)
    setup_pruner(given(arch))
    request = request_of(ctx)
    with redirect_stdout(sys.stderr), stage(f"analysing {request.arch}"):
        network = find_network(request, shipped=False)
        graph = analyse(network.model, network.examples(seed)).graph
    for warning in unknown_operators(graph):
        note(f"warning: {warning}")
    if layer is not None:
        print(graph.explain(layer))
    else:
        show_groups(graph)
    if out is not None:
        with noted(out, ctx.obj):
            commit({out: picture(graph, out)})
        print(f"\n{out}  the layers in the colours of their groups")
