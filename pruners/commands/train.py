"""`python app.py train`: weights to prune."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer
from safetensors.torch import save as safetensors_bytes

from pruners.architectures import setup_pruner
from pruners.commands.options import (
    Arch,
    ArchArgs,
    Checkpoint,
    DataDir,
    DatasetName,
    Debug,
    Depth,
    Device,
    Download,
    InputShape,
    NumClasses,
    Seed,
    Weights,
    given,
    request_of,
    whole,
)
from pruners.errors import PrunerError
from pruners.evaluation import accuracy
from pruners.job import SHIPPED_DATASET, Data, noted
from pruners.networks import find_network
from pruners.store import check_writable, commit, save_bytes
from pruners.training import train


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
    epochs: Annotated[int, whole("--epochs", 1, "Passes over the training images.")] = 30,
    lr: Annotated[float, typer.Option(help="The highest learning rate.")] = 0.1,
    seed: Seed = 0,
    device: Device = "cpu",
    debug: Debug = False,
) -> None:
    """Train a network from scratch, or from a checkpoint; the result can be pruned."""
    if out.suffix not in (".safetensors", ".pth"):
        raise PrunerError(f"--out {out}: expected a file that ends in .safetensors or .pth")
    check_writable(out.parent)
    setup_pruner(given(arch))
    request = request_of(ctx)
    with redirect_stdout(sys.stderr):
        splits = Data(dataset or SHIPPED_DATASET, data_dir, download).load(request)
        network = find_network(request, splits, shipped=False)
        train(network.model, splits, epochs, lr=lr, seed=seed, progress=True)
        percent = accuracy(network.model, splits.test)
        state = network.model.state_dict()
        pickled = out.suffix == ".pth"
        content = save_bytes(state) if pickled else safetensors_bytes(state)
        with noted(out, ctx.obj):
            commit({out: content})
    print(f"{out}  {network.name}, {percent:.2f} % of the test images of {splits.name}")
