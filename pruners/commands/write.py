"""`python app.py write`: source of a network that was pruned elsewhere."""

from __future__ import annotations

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
    Checkpoint,
    Debug,
    Depth,
    Device,
    InputShape,
    NumClasses,
    Out,
    Plugins,
    Seed,
    StoreDir,
    Weights,
    WeightsOut,
    given,
    request_of,
)
from pruners.errors import PrunerError
from pruners.job import noted, pruned_folder
from pruners.model_store import Parent
from pruners.networks import find_network, unpickled_network
from pruners.plugins import load_plugins
from pruners.progress import note, stage
from pruners.store import check_writable
from pruners.tables import as_json, described_written, show_written
from pruners.write_source import write_source
from pruners.written import checked_name


def write_command(
    ctx: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="A module saved whole; needs --trust-pickle."),
    ] = None,
    arch: Arch = None,
    depth: Depth = None,
    arch_args: ArchArgs = None,
    weights: Weights = None,
    checkpoint: Checkpoint = None,
    input_shape: InputShape = None,
    num_classes: NumClasses = None,
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Load FILE, which runs the code in it.")
    ] = False,
    out: Out = Path("generated"),
    store_dir: StoreDir = Path("models"),
    weights_out: WeightsOut = None,
    name: Annotated[str, typer.Option(help="Stem of the files, such as resnet18_half.")] = "",
    plugin: Plugins = None,
    seed: Seed = 0,
    device: Device = "cpu",
    json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write source and weights of a network as it is, pruned elsewhere or by hand."""
    load_plugins(plugin or ())
    if (file is None) == (arch is None):
        raise PrunerError(
            f"write: got {'neither' if file is None else 'both'}; expected either FILE, a module "
            f"saved whole, or --arch, such as --arch FILE.py:FUNCTION"
        )
    if name:
        checked_name(name)
    weights_dir = pruned_folder(store_dir, weights_out)
    for folder in (out, weights_dir):
        check_writable(folder)
    with redirect_stdout(sys.stderr):
        if file is not None:
            for option in ("depth", "arch_args", "weights", "checkpoint", "num_classes"):
                if ctx.params[option] is not None:
                    raise PrunerError(f"--{option.replace('_', '-')}: only with --arch")
            with stage(f"loading {file}"):
                network = unpickled_network(file, input_shape, device, trust_pickle)
        else:
            setup_pruner(given(arch))
            request = request_of(ctx)
            with stage(f"loading {arch}"):
                network = find_network(request)
        with stage(f"writing {network.name}"):
            name = name or f"{network.name.lower()}_pruned"
            result = write_source(network.model, network.examples(seed), name=name)
            for warning in result.report.warnings:
                note(f"warning: {warning}")
        with (
            stage("verifying it in a fresh process"),
            noted(out / f"{result.fileName}.json", ctx.obj),
        ):
            parents = () if network.checkpoint is None else (Parent.of(network.checkpoint),)
            saved = result.save(out, weights_dir, parents=parents)
    if json:
        return print(as_json(described_written(result, saved)))
    return show_written(result, saved)
