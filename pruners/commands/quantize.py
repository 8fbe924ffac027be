"""`python app.py quantize NAME`: int8, calibrated and compared on real images."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from pruners.commands.deploying import AnyWeights, Name, images_for, loaded, publish
from pruners.commands.options import (
    AsJson,
    Checkpoint,
    DataDir,
    DatasetName,
    Debug,
    Download,
    Out,
    Seed,
    StoreDir,
    WeightsOut,
    whole,
)
from pruners.deploy.extra import need
from pruners.deploy.quantizing import SAMPLES, Quantized, quantize
from pruners.errors import PrunerError
from pruners.evaluation import weights_bytes
from pruners.job import SHIPPED_DATASET
from pruners.progress import note, stage
from pruners.screen import figures, show
from pruners.tables import as_json, show_files

_ABOUT = {
    "onnx": "int8 weights and activations (QDQ), for onnxruntime",
    "pth": "int8 weights, which the generated file loads",
    "pt2": "int8 weights and activations, for torch.export.load",
    "json": "where it comes from, accuracy before and after",
}


def quantize_command(
    ctx: typer.Context,
    name: Name,
    dataset: DatasetName = None,
    data_dir: DataDir = Path("data"),
    download: Download = False,
    samples: Annotated[
        int, whole("--samples", 1, "Training images to calibrate with, 32 to 2000.")
    ] = SAMPLES,
    checkpoint: Checkpoint = None,
    any_weights: AnyWeights = False,
    out: Out = Path("generated"),
    store_dir: StoreDir = Path("models"),
    weights_out: WeightsOut = None,
    seed: Seed = 0,
    json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Quantize a pruned network to int8, calibrated on real images."""
    need("quantize", "onnx", "onnxscript", "onnxruntime")
    if dataset is None:
        raise PrunerError(
            f"quantize {name}: needs --dataset, whose images it is calibrated and tested on, such "
            f"as {SHIPPED_DATASET}"
        )
    with redirect_stdout(sys.stderr):
        file = loaded(ctx, "quantize")
        splits = images_for(file, dataset, data_dir, download)
        with stage(f"quantizing {name}"):
            made = quantize(
                file.model,
                file.example_inputs(seed),
                splits,
                samples=samples,
                seed=seed,
                metadata=file.metadata(),
            )
        for warning in made.warnings:
            note(f"warning: {warning}")
        stored, paths = publish(
            ctx,
            "quantized",
            file,
            made.contents,
            quantization={**made.described(dataset), "seed": seed},
            metrics={"accuracy": round(made.answers[".onnx"].accuracy, 4)},
        )
    if json:
        return print(as_json({**stored.manifest, "paths": paths}))
    show_files({kind: (path, _ABOUT[kind]) for kind, path in paths.items()})
    print()
    return _show(made, weights_bytes(file.model))


def _show(made: Quantized, before: int) -> None:
    table = figures("", "test accuracy", "loss", "file")
    kinds = {"": "float .pth", **{suffix: f"int8 {suffix}" for suffix in made.contents}}
    for suffix, title in kinds.items():
        answers = made.answers[suffix] if suffix else made.before
        size = len(made.contents[suffix]) if suffix else before
        table.add_row(
            title, f"{answers.accuracy:.2f} %", f"{answers.loss:.4f}", f"{size / 1000:,.0f} kB"
        )
    show(table)
