"""What was removed and why, as plain values: the report, the header of the file, the manifest."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruners.ancestry import Before
from pruners.cells import cells_of
from pruners.channel_graph import Axis, ChannelGraph, Kept, Units, UnknownOperator
from pruners.layers import is_weighted, weight_axes
from pruners.metrics import count_macs, count_parameters
from pruners.verify import Outcome
from pruners.version import __version__


@dataclass(frozen=True, slots=True)
class Change:
    """A figure before and after pruning."""

    before: int
    after: int

    @property
    def removed_pct(self) -> float:
        """Percent of the figure that is gone."""
        return 100 * (self.before - self.after) / self.before if self.before else 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """What pruning did to a network."""

    network: str
    """Name of the network."""
    origin: str
    """File and class that it came from."""
    options: Mapping[str, Any]
    input_shapes: tuple[tuple[int, ...], ...]
    """Of one example of every tensor input."""
    parameters: Change
    macs: Change
    """Multiply-accumulates of one example, by torch's flop counter."""
    widths: Mapping[str, Change]
    """Output channels of every convolution and Linear, by module path."""
    kept_because: Mapping[str, str]
    """For every layer that lost no channel, why."""
    unknown: tuple[UnknownOperator, ...]
    """Operators without a rule, and how many channels stay because of each."""
    renormalised: tuple[str, ...]
    """Places of the operators whose result depends on how many of the pruned channels there are."""
    warnings: tuple[str, ...]
    before: Before | None = None
    """The original network, where this is not the first step."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a network costs."""

    parameters: int
    macs: int
    """Multiply-accumulates of one example, by torch's flop counter."""
    widths: Mapping[str, int]
    """Output channels of every convolution and Linear, by module path."""


@dataclass(frozen=True, slots=True)
class SourceReport:
    """A network that was pruned elsewhere, or not at all, and is written as it is."""

    network: str
    origin: str
    """File and class that it came from."""
    input_shapes: tuple[tuple[int, ...], ...]
    """Of one example of every tensor input."""
    now: Figures
    before: Figures | None
    """Of the network that it was made from, where that is known."""
    warnings: tuple[str, ...]


def report_on(
    name: str,
    models: tuple[nn.Module, nn.Module],
    example_inputs: Sequence[Any],
    options: Mapping[str, Any],
    selection: tuple[ChannelGraph, Units, Kept],
    renormalised: Sequence[str],
    warnings: Sequence[str],
) -> Report:
    """Figures of a network before and after.

    Args:
        models: the full network and the slim one, which may be on the meta device.
        selection: the graph, its units, and what stays.
        renormalised: places of the operators that count the pruned channels.
        warnings: what else there is to say.
    """
    full, slim = models
    graph, units, kept = selection
    widths: dict[str, Change] = {}
    why: dict[str, str] = {}
    for axis in sorted(graph.outputs(), key=_position(graph)):
        layer = axis.tensor.rpartition(".")[0]
        widths[layer] = Change(graph.size(axis), len(kept[axis.tensor][axis.dim]))
        if widths[layer].before == widths[layer].after:
            why[layer] = _why(units, axis, options)
    return Report(
        network=name,
        origin=_origin(type(full)),
        options=dict(options),
        input_shapes=_input_shapes(example_inputs),
        parameters=Change(count_parameters(full), count_parameters(slim)),
        macs=Change(count_macs(full, example_inputs), count_macs(slim, example_inputs)),
        widths=widths,
        kept_because=why,
        unknown=tuple(graph.unknown),
        renormalised=tuple(renormalised),
        warnings=(
            *unknown_operators(graph),
            *_counting(renormalised),
            *_not_run(full, graph),
            *warnings,
        ),
    )


def _not_run(full: nn.Module, graph: ChannelGraph) -> list[str]:
    """Layers whose channels stay because the run in evaluation does not reach them."""
    run = {axis.tensor for axis in graph.outputs()}
    known = {id(t) for name, t in full.state_dict(keep_vars=True).items() if name in run}
    silent = [
        path
        for path, module in full.named_modules()
        if is_weighted(module)
        and isinstance(weight := module._parameters.get("weight"), Tensor)
        and id(weight) not in known
    ]
    if not silent:
        return []
    shown = ", ".join(silent[:3]) + (f" and {len(silent) - 3} more" if len(silent) > 3 else "")
    return [
        f"{shown}: not reached in evaluation on the first example input; "
        f"{'their' if len(silent) > 1 else 'its'} output channels stay"
    ]


def report_on_source(
    name: str,
    network: nn.Module,
    before: Figures | None,
    example_inputs: Sequence[Any],
    warnings: Sequence[str],
) -> SourceReport:
    """Figures of a network that is written as it is.

    Args:
        network: it, or a copy on the meta device.
        before: of the network that it was made from, where that is known.
    """
    return SourceReport(
        network=name,
        origin=_origin(type(network)),
        input_shapes=_input_shapes(example_inputs),
        now=figures_of(network, example_inputs),
        before=before,
        warnings=tuple(warnings),
    )


def figures_of(network: nn.Module, example_inputs: Sequence[Any]) -> Figures:
    """What a network costs."""
    widths = {}
    for path, module in network.named_modules():
        if is_weighted(module) and isinstance(weight := module._parameters.get("weight"), Tensor):
            widths[path] = weight.shape[weight_axes(path, module)[0].dim]
            # Of a grouped transposed convolution the axis holds one group.
            widths[path] *= module.groups if getattr(module, "transposed", False) else 1
    return Figures(count_parameters(network), count_macs(network, example_inputs), widths)


def unknown_operators(graph: ChannelGraph) -> list[str]:
    """A line for every operator that no rule explains."""
    return [
        f"{found.module or 'the network'}: {found.operator} has no rule, so the "
        f"{found.channels} channels that it touches stay"
        for found in graph.unknown
    ]


def _counting(places: Sequence[str]) -> list[str]:
    """One line for all operators that count: a transformer has dozens."""
    if not places:
        return []
    shown = ", ".join(places[:3]) + (f" and {len(places) - 3} more" if len(places) > 3 else "")
    return [
        f"{shown}: the result depends on how many channels there are, and some are gone; compare "
        f"with the network restricted to the rest, or keep them with exact_only"
    ]


def header(
    report: Report, stem: str, factory: str, weights_name: str, verified: bool = False
) -> str:
    """The docstring of a generated file: what it is, from what, how much smaller, how to load."""
    options, first = report.options, report.before is None
    compared = "the original" if first else "the network before this step"
    return "\n".join(
        (
            *_smaller(
                f"{report.network}, {'pruned' if first else 'pruned again'}",
                *(report.parameters, report.macs, report.input_shapes),
            ),
            *_original(report),
            "",
            *_generated_from(report),
            f"Measure {options['measure']}, method {options['method']}.",
            *([f"Verified against {compared}: see {stem}.json."] if verified else []),
            *_usage(stem, factory, weights_name),
        )
    )


def _original(report: Report) -> list[str]:
    """Figures of the original network, where this is not the first step."""
    before = report.before
    if before is None:
        return []
    # Multiply-accumulates of images of another size would be no comparison.
    macs = f", {_si(before.macs)} multiply-accumulates"
    compares = before.input_shapes == report.input_shapes
    return [f"The original network: {before.parameters:,} parameters{macs if compares else ''}."]


def _generated_from(report: Report) -> list[str]:
    if report.before is None:
        return [f"Generated from {report.origin}; edit freely."]
    return [
        f"Generated from {report.origin},",
        f"which goes back to {report.before.original}; edit freely.",
    ]


def source_header(
    report: SourceReport, stem: str, factory: str, weights_name: str, verified: bool = False
) -> str:
    """The docstring of the file of a network that is written as it is."""
    now, before = report.now, report.before
    if before is None:
        first = [
            f"{report.network}: {now.parameters:,} parameters,",
            f"{_si(now.macs)} multiply-accumulates at {_shapes(report.input_shapes)}.",
        ]
    else:
        parameters = Change(before.parameters, now.parameters)
        macs = Change(before.macs, now.macs)
        first = _smaller(f"{report.network}, pruned", parameters, macs, report.input_shapes)
    return "\n".join(
        (
            *first,
            "",
            f"Generated from an instance of {report.origin}; edit freely.",
            *([f"Verified against that instance: see {stem}.json."] if verified else []),
            *_usage(stem, factory, weights_name),
        )
    )


def _smaller(
    network: str, parameters: Change, macs: Change, shapes: Sequence[Sequence[int]]
) -> list[str]:
    return [
        f"{network}: {parameters.before:,} -> {parameters.after:,} parameters "
        f"({-parameters.removed_pct:+.1f} %),",
        f"{_si(macs.before)} -> {_si(macs.after)} multiply-accumulates at {_shapes(shapes)}.",
    ]


def _usage(stem: str, factory: str, weights_name: str) -> list[str]:
    return [
        "",
        f"    from {stem} import {factory}",
        f'    model = {factory}(weights="{weights_name}")',
    ]


def _shapes(shapes: Sequence[Sequence[int]]) -> str:
    return ", ".join("x".join(str(n) for n in shape) for shape in shapes)


def manifest(
    report: Report, contents: Mapping[str, bytes], outcome: Outcome | None, kept: Kept
) -> dict[str, Any]:
    """The manifest of a pruned network; no times, no dates, no paths.

    Args:
        contents: the files that it describes, by name.
        kept: indices in the network that was pruned; where that was a generated file, the manifest
            has those in the original network.
    """
    before = report.before
    if before is not None:
        kept = before.composed(kept)
    return {
        **_provenance(report),
        **({} if before is None else {"pruned_before": before.described()}),
        "options": {k: list(v) if isinstance(v, tuple) else v for k, v in report.options.items()},
        "input_shapes": [list(shape) for shape in report.input_shapes],
        "files": _digests(contents),
        "parameters": _figures(report.parameters),
        "macs": _figures(report.macs),
        "verification": outcome.described() if outcome is not None else None,
        "widths": {name: [w.before, w.after] for name, w in report.widths.items()},
        "kept_because": dict(report.kept_because),
        "unknown_operators": [
            {"operator": found.operator, "module": found.module, "channels": found.channels}
            for found in report.unknown
        ],
        "renormalised": list(report.renormalised),
        "warnings": list(report.warnings),
        "kept": {name: [dim.tolist() for dim in dims] for name, dims in kept.items()},
    }


def home_of(module: str) -> str:
    """`models/cifar/resnet.py`: the file of a module within its package, never a whole path."""
    package = module.rpartition(".")[0].replace(".", "/")
    home = sys.modules.get(module)
    cells = home is not None and cells_of(home) is not None
    lacking = "a notebook" if cells else "a script"
    file = Path(getattr(home, "__file__", None) or lacking).name
    if file.startswith("<generated graph_"):
        file = "its traced graph"
    return f"{package}/{file}" if package else file


def source_manifest(
    report: SourceReport, contents: Mapping[str, bytes], outcome: Outcome | None
) -> dict[str, Any]:
    """The manifest of a network that is written as it is; as `manifest`, where both say it.

    Without a network that it was made from, figures have no `before`, and a width is one number.
    """
    now, before = report.now, report.before
    return {
        **_provenance(report),
        "input_shapes": [list(shape) for shape in report.input_shapes],
        "files": _digests(contents),
        "parameters": _of_both(before.parameters if before else None, now.parameters),
        "macs": _of_both(before.macs if before else None, now.macs),
        "verification": outcome.described() if outcome is not None else None,
        "widths": {
            name: [before.widths[name], width] if before and name in before.widths else width
            for name, width in now.widths.items()
        },
        "warnings": list(report.warnings),
    }


def _provenance(report: Report | SourceReport) -> dict[str, Any]:
    return {
        "network": report.network,
        "generated_from": report.origin,
        "versions": {"pruners": __version__, "torch": torch.__version__},
    }


def _digests(contents: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}


def _of_both(before: int | None, after: int) -> dict[str, Any]:
    return {"after": after} if before is None else _figures(Change(before, after))


def _input_shapes(example_inputs: Sequence[Any]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(x.shape[1:]) for x in example_inputs if isinstance(x, Tensor))


def _origin(cls: type) -> str:
    """`models/cifar/resnet.py (class ResNet)`"""
    return f"{home_of(cls.__module__)} (class {cls.__qualname__})"


def _figures(change: Change) -> dict[str, Any]:
    return {
        "before": change.before,
        "after": change.after,
        "removed_pct": round(change.removed_pct, 2),
    }


def _why(units: Units, axis: Axis, options: Mapping[str, Any]) -> str:
    of_layer = np.unique(units.of(axis))
    frozen = of_layer[units.frozen[of_layer]]
    if len(frozen):
        return units.reasons[int(frozen[0])]
    if options["prune_pct"] == 0:
        return "nothing was to be removed"
    if len(units.of(axis)) <= options["min_filters"]:
        return f"is no wider than min_filters={options['min_filters']}"
    return "its channels rank above the cut"


def _position(graph: ChannelGraph) -> Any:
    order = {name: i for i, name in enumerate(graph.shapes)}
    return lambda axis: order[axis.tensor]


def _si(count: int) -> str:
    """40,813,184 as 40.8 M."""
    for limit, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return f"{count} "
