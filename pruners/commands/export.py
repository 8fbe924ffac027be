"""`python app.py export NAME --onnx`: the pruned network for other programs."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from pruners.commands.deploying import AnyWeights, Name, loaded, publish
from pruners.commands.options import AsJson, Checkpoint, Debug, Out, Seed, StoreDir, WeightsOut
from pruners.deploy.exporting import pt2_of
from pruners.deploy.extra import need
from pruners.deploy.finalizing import without_norms
from pruners.deploy.onnx_file import check_onnx, onnx_of
from pruners.deploy.torch_script import torchscript_of
from pruners.errors import PrunerError
from pruners.progress import stage
from pruners.tables import as_json, show_files

_ABOUT = {
    "onnx": "for onnxruntime and others, any number of examples",
    "pt2": "for torch.export.load, any number of examples",
    "ts": "for torch.jit.load",
    "json": "where it comes from, and what was compared",
}


def export_command(
    ctx: typer.Context,
    name: Name,
    onnx: Annotated[bool, typer.Option("--onnx", help="An ONNX file.")] = False,
    pt2: Annotated[bool, typer.Option("--pt2", help="A torch.export file.")] = False,
    torchscript: Annotated[bool, typer.Option("--torchscript", help="A TorchScript file.")] = False,
    checkpoint: Checkpoint = None,
    any_weights: AnyWeights = False,
    out: Out = Path("generated"),
    store_dir: StoreDir = Path("models"),
    weights_out: WeightsOut = None,
    seed: Seed = 0,
    json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Export a pruned network: ONNX, torch.export, TorchScript; batch norms folded."""
    if not (onnx or pt2 or torchscript):
        raise PrunerError(
            f"export {name}: no format; expected one or more of --onnx, --pt2, --torchscript"
        )
    if onnx:
        need("export --onnx", "onnx", "onnxscript", "onnxruntime")
    with redirect_stdout(sys.stderr):
        file = loaded(ctx, "export")
        inputs = file.example_inputs(seed)
        contents: dict[str, bytes] = {}
        errors: dict[str, float] = {}
        with stage(f"exporting {name}"):
            if torchscript:
                contents[".ts"] = torchscript_of(file.model, inputs)
            if onnx or pt2:
                ready, _, _, errors["folded"] = without_norms(file.model, inputs)
            if onnx:
                contents[".onnx"] = onnx_of(ready, inputs, file.metadata())
                errors["onnx"] = check_onnx(contents[".onnx"], ready, inputs)
            if pt2:
                contents[".pt2"] = pt2_of(ready, inputs)
        stored, paths = publish(ctx, "final", file, contents)
    if json:
        return print(as_json({**stored.manifest, "errors": errors, "paths": paths}))
    show_files({kind: (path, _ABOUT[kind]) for kind, path in paths.items()})
    if onnx:
        error = f"{errors['onnx']:.1e}"
        print(f"\nchecked: onnxruntime's output differs from torch's by {error} (relative)")
    return None
