"""How much each unit matters: a measure's scores of single layers, brought together.

Layers are scored in the order in which they run. A layer's scores are brought to the scale of the
others (`NORMALIZERS`), and a unit's score aggregates those of its channels over all layers that are
coupled in it (`AGGREGATES`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pruners.calibration import Calibration, Statistics, collect
from pruners.channel_graph import Axis, ChannelGraph, Indices, Units
from pruners.errors import PrunerError
from pruners.measures import (
    CALIBRATED,
    OF_ACTIVATIONS,
    OF_GRADIENTS,
    Measure,
    ScoringMeasure,
    accepted,
    needs,
)
from pruners.progress import note
from pruners.tracing import Trace

Scores = npt.NDArray[np.float64]


def _divided_by(of: Callable[[Scores], Any]) -> Callable[[Scores], Scores]:
    def normalised(scores: Scores) -> Scores:
        by = of(scores)
        return scores / by if by > 0 else scores

    return normalised


NORMALIZERS: Mapping[str, Callable[[Scores], Scores]] = {
    "mean": _divided_by(np.mean),
    "sum": _divided_by(np.sum),
    "max": _divided_by(np.max),
    "standard": lambda scores: (scores - scores.mean()) / (scores.std() or 1.0),
    "none": lambda scores: scores,
}
"""What is done to the scores of a layer before they meet those of others: divided by their mean,
sum or maximum; brought to mean 0 and deviation 1; nothing."""

AGGREGATES = ("mean", "sum", "max", "product")
"""How the scores of the channels of a unit become one."""


_WITH_INPUTS = frozenset({"prev_importance", "in_activations"})
"""What has a number for every input of a layer, also where a group sees few of them."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What a measure says of a network."""

    units: Scores
    """Shape (units,): the importance of every unit; NaN for one that no layer has a score for."""
    layers: Mapping[str, Tensor]
    """Scores as the measure gave them, float64, shape (n_neurons,), by the name of the weight (of
    one that is used both ways, the second by its axis, too); in the order in which the layers
    run."""


def score_units(
    model: nn.Module,
    graph: ChannelGraph,
    units: Units,
    measure: Measure,
    aggregate: str = "mean",
    *,
    trace: Trace | None = None,
    name: str = "",
    calibration: Calibration | None = None,
    normalizer: str | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Scored:
    """The importance of every unit.

    Args:
        measure: see `pruners.measures`.
        aggregate: one of `AGGREGATES`.
        trace: the runs in which the graph was found; without them, only measures of weights alone
            work, and every layer is the first one to `prev_importance`.
        name: of the measure, for messages.
        calibration: data, for measures that need it.
        normalizer: a key of `NORMALIZERS`; by default the measure's own, else "mean": most scores
            grow with the number of inputs, and layers that are ranked together must compare.
        seed: for measures that draw random numbers.
        progress: show how far the pass over the data is.

    Raises:
        PrunerError: a weight is not finite, the measure raised or returned what is no score,
            there is no calibration data for a measure that needs it, or scores below 0 (of the
            normalizer "standard") are to be multiplied.
    """
    name = name or getattr(measure, "__name__", type(measure).__name__)
    needed = needs(measure)
    asked = needed & CALIBRATED
    if "prev_importance" in needed and calibration is not None:
        asked = asked | {"in_activations"}
    if asked and calibration is None:
        raise PrunerError(
            f"measure {name}: needs calibration data for {', '.join(sorted(asked))}; expected "
            f"--dataset NAME (from Python: calibration=Calibration(loader)), or a measure of "
            f"weights alone, such as ChannelNorm"
        )
    statistics = Statistics({})
    if trace is not None and (asked or needed & _WITH_INPUTS):
        statistics = collect(model, trace, units, asked, calibration, seed=seed, progress=progress)
    # A measure of somebody else's may write to what it is given.
    trusted = type(measure).__module__ == ScoringMeasure.__module__
    context = _Context(model, graph, units, statistics, needed, seed, trusted)
    own: str = getattr(measure, "normalizer", "mean")
    normalizer = normalizer or own
    if aggregate == "product" and normalizer == "standard":
        raise PrunerError(
            "--aggregate product: multiplies scores below 0, which the normalizer standard makes; "
            "expected another normalizer, such as mean"
        )
    normalise = NORMALIZERS[normalizer]
    total = np.full(units.count, {"product": 1.0, "max": -np.inf}.get(aggregate, 0.0))
    rows = np.zeros(units.count)
    layers: dict[str, Tensor] = {}
    silent: list[str] = []
    for axis in _in_order(graph):
        offered = context.of(axis)
        if offered is None:
            silent.append(axis.tensor.removesuffix(".weight"))
            continue
        scores = _checked(name, axis, context.weight(axis), measure, offered)
        if scores is None:
            continue
        layers[axis.tensor if axis.tensor not in layers else str(axis)] = scores
        values = scores.numpy()
        unit_of = units.of(axis)
        context.scored(unit_of, values)
        share = normalise(values)
        match aggregate:
            case "max":
                np.maximum.at(total, unit_of, share)
            case "product":
                np.multiply.at(total, unit_of, share)
            case _:
                np.add.at(total, unit_of, share)
        np.add.at(rows, unit_of, 1)
    if aggregate == "mean":
        total = total / np.maximum(rows, 1)
    made = np.zeros(units.count, dtype=bool)
    for axis in graph.outputs():
        made[units.of(axis)] = True
    total[made & (rows == 0)] = np.nan
    total[~made & (rows == 0)] = 0
    if silent:
        shown = ", ".join(silent[:3]) + (", ..." if len(silent) > 3 else "")
        note(
            f"warning: measure {name} has nothing to go by for {shown} ({len(silent)} "
            f"{'layers' if len(silent) > 1 else 'layer'}): no run shows what the rows or columns "
            f"of {'their weights' if len(silent) > 1 else 'its weight'} meet; what only they make "
            f"stays"
        )
    return Scored(total, layers)


def _in_order(graph: ChannelGraph) -> list[Axis]:
    """The axes of output channels, in the order in which their layers run."""
    order = {weight: i for i, weight in enumerate(graph.positions)}
    return sorted(graph.outputs(), key=lambda a: (order.get(a.tensor, len(order)), a))


def _checked(
    name: str, axis: Axis, weight: Tensor, measure: Measure, context: Mapping[str, Any]
) -> Tensor | None:
    """The scores of a layer on the CPU, shape (n_neurons,), float64."""
    size = weight.shape[axis.dim]
    try:
        scores = measure(**accepted(measure, context))
    except PrunerError:
        raise
    except Exception as error:
        raise PrunerError(
            f"measure {name}: raised {type(error).__name__} on {axis.tensor}: "
            f"{' '.join(str(error).split())}"
        ) from error
    if scores is None:
        return None
    if not isinstance(scores, Tensor) or scores.shape != (size,):
        shown = (
            f"shape {tuple(scores.shape)}"
            if isinstance(scores, Tensor)
            else f"a {type(scores).__name__}"
        )
        raise PrunerError(
            f"measure {name}: returned {shown} for {axis.tensor}; expected a tensor of shape "
            f"({size},), a score for every output channel"
        )
    values = scores.detach().to("cpu", torch.float64)
    wrong = ~torch.isfinite(values)
    if bool(wrong.any()):
        if not bool(torch.isfinite(weight).all()):
            raise PrunerError(
                f"{axis.tensor}: {int(wrong.sum())} of {size} filters have a score that is not a "
                f"finite number; expected finite weights (NaN or infinity in the checkpoint?)"
            )
        raise PrunerError(
            f"measure {name}: returned {values[wrong][0].item()} for {int(wrong.sum())} of {size} "
            f"channels of {axis.tensor}; expected finite numbers"
        )
    if bool((values < 0).any()):
        raise PrunerError(
            f"measure {name}: returned {values.min().item():g} for a channel of {axis.tensor}; "
            f"expected scores of at least 0, the larger the more important"
        )
    return values


class _Context:
    """What a measure is called with, layer by layer."""

    def __init__(
        self,
        model: nn.Module,
        graph: ChannelGraph,
        units: Units,
        statistics: Statistics,
        needed: frozenset[str],
        seed: int,
        trusted: bool,
    ) -> None:
        self.trusted = trusted
        self.tensors: Mapping[str, Tensor] = model.state_dict(keep_vars=True)
        self.graph, self.units, self.statistics = graph, units, statistics
        self.needed = needed
        self.generator = torch.Generator().manual_seed(seed)
        self.scales = _norm_scales(model, graph) if "norm_scale" in needed else {}
        self.importance = np.zeros(units.count)
        """Of every unit, the sum over the layers scored so far of its share of the layer."""
        self.times = np.zeros(units.count)

    def weight(self, axis: Axis) -> Tensor:
        return self.tensors[axis.tensor].detach()

    def of(self, axis: Axis) -> dict[str, Any] | None:
        """None where the measure needs what was not measured of this layer."""
        for kind in OF_ACTIVATIONS & self.needed:
            if axis not in self.statistics.activations[kind]:
                return None
        if OF_GRADIENTS & self.needed and axis not in self.statistics.uses:
            return None
        weight = self.weight(axis)
        rows = (weight if self.trusted else weight.clone()).movedim(axis.dim, 0)
        filters = rows.flatten(1)
        given: dict[str, Any] = {"weight": filters, "filters": filters}
        if "weight" in self.needed or "filters" not in self.needed:
            given["weight"] = self._matrix(axis, rows)
        if "generator" in self.needed:
            given["generator"] = self.generator
        if "layer" in self.needed:
            given["layer"] = axis.tensor.removesuffix(".weight")
        if "norm_scale" in self.needed:
            given["norm_scale"] = self._norm_scale(axis)
        if "prev_importance" in self.needed:
            given["prev_importance"] = self._prev_importance(axis).to(filters)
        for kind in OF_ACTIVATIONS & self.needed:
            given[kind] = self.statistics.activations[kind][axis].to(filters)
        for kind in OF_GRADIENTS & self.needed:
            slopes = self.statistics.gradients[kind][axis.tensor]
            given[kind] = slopes.movedim(axis.dim, 0).flatten(1)
        return given

    def scored(self, unit_of: Indices, scores: Scores) -> None:
        """Remember what these layers' neurons hand on to those that read them."""
        if "prev_importance" not in self.needed:
            return
        total = scores.sum()
        share = scores / total if total > 0 else np.full(len(scores), 1 / len(scores))
        np.add.at(self.importance, unit_of, share)
        np.add.at(self.times, unit_of, 1)

    def _matrix(self, axis: Axis, rows: Tensor) -> Tensor:
        """(n_neurons, n_inputs): kernels summed; a grouped layer's columns in their places."""
        kernel = rows.dim() > 2
        matrix = rows.abs().flatten(2).sum(2) if kernel else rows
        uses = self.statistics.uses.get(axis)
        groups = uses[0].groups if uses and _WITH_INPUTS & self.needed else 1
        if groups <= 1:
            return matrix
        columns = matrix.shape[1]
        full = matrix.new_zeros(groups, len(matrix) // groups, groups, columns)
        each = torch.arange(groups, device=matrix.device)
        full[each, :, each] = matrix.view(groups, -1, columns)
        return full.view(len(matrix), groups * columns)

    def _prev_importance(self, axis: Axis) -> Tensor:
        """Shape (n_inputs,): sums to 1. Inputs that no scored layer makes count by activity."""
        uses = self.statistics.uses.get(axis)
        if not uses or not uses[0].groups:
            size = self.tensors[axis.tensor].shape[1 - axis.dim]
            return torch.full((size,), 1 / size)
        inputs = uses[0].reads.units
        mean = self.importance / np.maximum(self.times, 1)
        made = (inputs >= 0) & (self.times[inputs] > 0)
        active = self.statistics.activations.get("in_activations", {}).get(axis)
        share = np.ones(len(inputs)) if active is None else active.numpy()
        share = share / share.sum() if share.sum() > 0 else np.full(len(inputs), 1 / len(inputs))
        importance = np.where(made, mean[inputs], share)
        total = importance.sum()
        if not total > 0:
            importance, total = np.ones(len(inputs)), len(inputs)
        return torch.from_numpy(importance / total)

    def _norm_scale(self, axis: Axis) -> Tensor | None:
        """Shape (n_neurons,): |scale| of the norms right behind the layer, else of its units'."""
        norms = [n for n in self.graph.graph.neighbors(axis) if n in self.scales]
        here = np.zeros(self.units.count, dtype=bool)
        rows = self.units.of(axis)
        here[rows] = True
        if not norms:
            norms = [n for n in self.scales if here[self.units.of(n)].any()]
        total, count = np.zeros(self.units.count), np.zeros(self.units.count)
        for norm in norms:
            unit_of = self.units.of(norm)
            scale = self.scales[norm].detach().abs().to("cpu", torch.float64).numpy()
            total += np.bincount(unit_of, scale, self.units.count)
            count += np.bincount(unit_of, minlength=self.units.count)
        if not norms or not (count[rows] > 0).all():
            return None
        return torch.from_numpy(total[rows] / count[rows])


def _norm_scales(model: nn.Module, graph: ChannelGraph) -> dict[Axis, Tensor]:
    """The scales of all batch and instance norms that the graph knows."""
    found = {}
    for path, module in model.named_modules():
        scale = getattr(module, "weight", None)
        axis = Axis(f"{path}.weight" if path else "weight", 0)
        norm = isinstance(module, nn.modules.batchnorm._NormBase)
        if norm and isinstance(scale, Tensor) and axis in graph.graph:
            found[axis] = scale
    return found
