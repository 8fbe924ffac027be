"""`python app.py finalize NAME`: ready for a device, and what a device needs for it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from pruners.commands.deploying import AnyWeights, Name, images_for, loaded, publish
from pruners.commands.options import (
    ArchArgs,
    AsJson,
    Checkpoint,
    DataDir,
    DatasetName,
    Debug,
    Depth,
    Download,
    InputShape,
    NumClasses,
    Out,
    Seed,
    StoreDir,
    WeightsOut,
    request_of,
)
from pruners.deploy.calibration import examples_of
from pruners.deploy.extra import need
from pruners.deploy.finalizing import Final, finalize
from pruners.deploy.model_file import SlimNetwork
from pruners.deploy.needs import Needs, forms_of, needs_of
from pruners.deploy.runtime import OnnxNetwork
from pruners.deploy.unpruned import unpruned
from pruners.evaluation import accuracy
from pruners.progress import note, stage
from pruners.sampling import sample
from pruners.screen import figures, show
from pruners.tables import as_json, show_files
from pruners.verify import Case, require, tolerance_for, verify

_ABOUT = {
    "pth": "folded weights, which the generated file loads",
    "onnx": "for onnxruntime and others, any number of examples",
    "json": "where it comes from, what was compared, what it needs",
}


def finalize_command(
    ctx: typer.Context,
    name: Name,
    dataset: DatasetName = None,
    data_dir: DataDir = Path("data"),
    download: Download = False,
    arch: Annotated[
        str | None,
        typer.Option(metavar="ARCH", help="The unpruned network, if the manifest does not tell."),
    ] = None,
    depth: Depth = None,
    arch_args: ArchArgs = None,
    input_shape: InputShape = None,
    num_classes: NumClasses = None,
    checkpoint: Checkpoint = None,
    any_weights: AnyWeights = False,
    out: Out = Path("generated"),
    store_dir: StoreDir = Path("models"),
    weights_out: WeightsOut = None,
    seed: Seed = 0,
    json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Fold batch norms, export, check everything, and show what a device needs."""
    need("finalize", "onnx", "onnxscript", "onnxruntime")
    with redirect_stdout(sys.stderr):
        file = loaded(ctx, "finalize")
        inputs = file.example_inputs(seed)
        splits = images_for(file, dataset, data_dir, download) if dataset else None
        real = examples_of(sample(splits, 1, seed), len(inputs)) if splits else []
        with stage(f"folding batch norms of {name}, exporting it"):
            final = finalize(file.model, inputs, real, file.metadata())
        with stage("loading the weights in a fresh process"):
            errors = {**final.errors, "fresh_process": _loads(file, final)}
        accuracies: dict[str, float] = {}
        if splits is not None:
            with stage(f"testing on {splits.name}"):
                accuracies = {
                    "float": accuracy(file.model, splits.test),
                    "final": accuracy(OnnxNetwork(final.contents[".onnx"]), splits.test),
                }
        with stage("measuring what a device needs"):
            request = request_of(ctx) if arch is not None else None
            full, why = unpruned(file.facts, file.model, inputs, request)
            if full is None:
                note(f"note: no figures of the unpruned network: {why}")
            forms = [forms_of(final.model, inputs, final.contents[".onnx"])]
            forms += [] if full is None else [forms_of(full, inputs)]
            slim, *before = needs_of(forms, inputs)
            needs = dict(zip(("final", "unpruned"), (slim, *before), strict=False))
        metrics: dict[str, Any] = {
            **({"accuracy": round(accuracies["final"], 4), "dataset": dataset} if splits else {}),
            "parameters": slim.parameters,
            "macs": slim.macs,
            "batch_norms_folded": list(final.folded),
            "batch_norms_left": list(final.left),
            "needs": {which: n.described() for which, n in needs.items()},
        }
        stored, paths = publish(ctx, "final", file, final.contents, metrics=metrics)
    if json:
        latency = {
            which: {"float": n.latency_ms, "int8": n.int8_latency_ms} for which, n in needs.items()
        }
        found = {**stored.manifest, "latency_ms": latency, "errors": errors, "paths": paths}
        return print(as_json(found))
    show_files({kind: (path, _ABOUT[kind]) for kind, path in paths.items()})
    print()
    _show(slim, before)
    return _show_checks(file, final, errors, accuracies, dataset)


def _loads(file: SlimNetwork, final: Final) -> float:
    """Load the final weights with the generated file in a fresh process; how far its output is
    from the network's before batch norms were folded. VerificationError where it is too far."""
    inputs = file.example_inputs(seed=1)
    with torch.no_grad():
        expected = file.model(*inputs)
    floating = [p.dtype for p in file.model.parameters() if p.is_floating_point()]
    outcomes = verify(
        [
            Case(
                name=file.name,
                source=file.source,
                factory=file.factory,
                weights=final.contents[".pth"],
                weights_name="weights.pth",
                inputs=inputs,
                expected=expected,
                keys=tuple(file.model.state_dict()),
                tolerance=tolerance_for(floating[0] if floating else torch.float32),
                forbidden=(),
                oracle="unfolded",
                trains=False,
            )
        ]
    )
    require(outcomes)
    return outcomes[0].error


def _show(slim: Needs, before: Sequence[Needs]) -> None:
    table = figures("", *(["unpruned"] if before else []), "final", *(["ratio"] if before else []))

    def row(title: str, field: str, unit: str = "", per: float = 1, digits: int = 0) -> None:
        values = [getattr(needs, field) for needs in (*before, slim)]
        cells = ["" if v is None else f"{v / per:,.{digits}f}{unit}" for v in values]
        if before:
            known = None not in values
            cells.append(f"{values[0] / values[1]:.2f}" if known and values[1] else "")
        table.add_row(title, *cells)

    row("parameters", "parameters")
    row("MACs", "macs")
    row("peak activation memory", "activation_bytes", " kB", 1000)
    row("size on disk, .pth", "pth_bytes", " kB", 1000)
    row("size on disk, .onnx", "onnx_bytes", " kB", 1000)
    row("size on disk, int8 .onnx", "int8_onnx_bytes", " kB", 1000)
    row("latency, float", "latency_ms", " ms", digits=2)
    row("latency, int8", "int8_latency_ms", " ms", digits=2)
    show(table)


def _show_checks(
    file: SlimNetwork,
    final: Final,
    errors: dict[str, float],
    accuracies: dict[str, float],
    dataset: str | None,
) -> None:
    count = len(final.folded)
    print(f"\nchecked: {file.weights.name} belongs to {file.path.name}")
    print(
        f"checked: {count} of {count + len(final.left)} batch norms folded; differs from before by "
        f"{errors['folded']:.1e} (relative)"
    )
    print(f"checked: the file loads in a fresh process; differs by {errors['fresh_process']:.1e}")
    print(f"checked: onnxruntime's output differs from torch's by {errors['onnx']:.1e}")
    if accuracies:
        print(
            f"checked: test accuracy on {dataset} {accuracies['float']:.2f} %, as ONNX "
            f"{accuracies['final']:.2f} %"
        )
