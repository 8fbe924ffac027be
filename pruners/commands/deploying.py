"""What `quantize`, `export` and `finalize` share: options, and the model file that they take."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pruners.datasets import DataSplits, load_dataset
from pruners.deploy.model_file import SlimNetwork, model_file
from pruners.errors import PrunerError
from pruners.model_store import ModelStore, StoredVersion
from pruners.progress import stage

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="Of a generated file, such as resnet20_50.")
]
AnyWeights = Annotated[
    bool, typer.Option("--any-weights", help="Take weights that the manifest does not name.")
]


def loaded(ctx: typer.Context, what: str) -> SlimNetwork:
    """The model file that a command's options name; each is named as the argument is."""
    given = ctx.params
    # Older versions of typer make paths of them in the arguments of a command only.
    checkpoint = given["checkpoint"] and Path(given["checkpoint"])
    with stage(f"loading {given['name']}"):
        return model_file(
            given["name"],
            Path(given["out"]),
            store_of(ctx),
            checkpoint,
            given["any_weights"],
            what,
        )


def images_for(file: SlimNetwork, dataset: str, folder: Path, download: bool) -> DataSplits:
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


def store_of(ctx: typer.Context) -> ModelStore:
    """The store that a command's options name."""
    pruned = ctx.params["weights_out"]
    return ModelStore(Path(ctx.params["store_dir"]), pruned=pruned and Path(pruned))


def publish(
    ctx: typer.Context,
    stage: str,
    file: SlimNetwork,
    contents: Mapping[str, bytes],
    **record: Mapping[str, Any],
) -> tuple[StoredVersion, dict[str, str]]:
    """Store the contents as a version; it, and where its files are, by kind.

    Args:
        record: as for `ModelStore.add`: quantization, metrics.
    """
    stored = store_of(ctx).add(
        stage,
        file.name,
        contents,
        parents=[file.parent],
        model=file.belongs_to,
        pruning=file.pruning,
        **record,  # type: ignore[arg-type]
    )
    paths = {**stored.paths, ".json": stored.manifest_path}
    # They are also named should Ctrl-C come now.
    ctx.obj.extend(paths.values())
    return stored, {suffix.removeprefix("."): str(path) for suffix, path in paths.items()}
