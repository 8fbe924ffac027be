"""What `quantize`, `export` and `finalize` share: options, and the model file that they take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pruners.datasets import DataSplits, load_dataset
from pruners.deploy.model_file import ModelFile, model_file
from pruners.deploy.publishing import Published
from pruners.errors import PrunerError
from pruners.progress import stage

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="Of a generated file, such as resnet20_50.")
]
Models = Annotated[Path, typer.Option(metavar="DIR", help="Folder of quantized/ and final/.")]
AnyWeights = Annotated[
    bool, typer.Option("--any-weights", help="Take weights that the manifest does not name.")
]


def loaded(ctx: typer.Context, what: str) -> ModelFile:
    """The model file that a command's options name; each is named as the argument is."""
    given = ctx.params
    with stage(f"loading {given['name']}"):
        return model_file(
            given["name"],
            given["out"],
            given["weights_out"],
            given["checkpoint"],
            given["any_weights"],
            what,
        )


def images_for(file: ModelFile, dataset: str, folder: Path, download: bool) -> DataSplits:
    """The splits of the dataset, in the shape that the network was pruned with."""
    shapes = file.facts["input_shapes"]
    if len(shapes) != 1 or len(shapes[0]) != 3:
        text = " and ".join("x".join(map(str, shape)) for shape in shapes)
        raise PrunerError(
            f"--dataset {dataset}: has images, {file.name} takes {text}; expected one input of "
            f"channels, height and width: use pruners.deploy from Python"
        )
    channels, height, width = shapes[0]
    return load_dataset(dataset, folder, download, (channels, height, width))


def paths_of(ctx: typer.Context, published: Published) -> dict[str, str]:
    """Where the files are, by kind; they are also named should Ctrl-C come now."""
    ctx.obj.extend(published.files.values())
    return {suffix.removeprefix("."): str(path) for suffix, path in published.files.items()}
