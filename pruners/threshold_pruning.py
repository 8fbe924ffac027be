"""Pruning by thresholds: channels that hardly vary, say little and are mostly zero go.

    thresholds = HybridThresholds({"variance": 0.5, "entropy": 0.5, "sparsity": 0.5}, 2, 10)
    result = prune_by_activation(model, loader, thresholds, epoch, images)
    result.save("generated")

There is no budget: how much goes is what the thresholds of the epoch say. Variance, entropy and
sparsity are of a channel's activations, behind its activation function, over all images of the
loader and all positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pruners.activations import Place, Use, uses_of
from pruners.analysis import analyse
from pruners.argument_batches import argument_batches
from pruners.base import BasicPruning, Options, PruningResult
from pruners.calibration import Follower, of_rows
from pruners.calls import tensors_in
from pruners.channel_graph import Axis, ChannelGraph, Units
from pruners.errors import PrunerError
from pruners.methods import Stays, select_below
from pruners.scoring import Scored
from pruners.tracing import Trace, untouched

BINS = 16
"""Of the histogram of a channel's activations."""
NAMES = ("variance", "entropy", "sparsity")


class Annealed(Protocol):
    """Thresholds that depend on the epoch, such as `HybridThresholds`."""

    def anneal(self, epoch: int) -> Mapping[str, float]:
        """Those of an epoch, by name: variance, entropy and sparsity."""


@dataclass(frozen=True, slots=True)
class ChannelActivity:
    """Of every output channel of one layer, each of shape (channels,), float64.

    NaN for a layer that no image reached.

    Attributes:
        variance: of its activations.
        entropy: of their histogram in `BINS` equal bins from the channel's lowest activation to its
            highest, as a share of the largest entropy, log2(BINS) bits.
        sparsity: the share of them that is 0.
    """

    variance: npt.NDArray[np.float64]
    entropy: npt.NDArray[np.float64]
    sparsity: npt.NDArray[np.float64]

    def below(self, thresholds: Mapping[str, float]) -> npt.NDArray[np.bool_]:
        """Which channels are to go: shape (channels,)."""
        flat = self.variance < thresholds["variance"]
        plain = self.entropy < thresholds["entropy"]
        result: npt.NDArray[np.bool_] = flat & plain & (self.sparsity > thresholds["sparsity"])
        return result


def channel_activity(
    model: nn.Module, loader: Iterable[Any], example_inputs: Any
) -> dict[str, ChannelActivity]:
    """Variance, entropy and sparsity of all channels, by the layer's path: what thresholds meet.

    Args:
        model: in eval mode for the time of the passes; left as it was.
        loader: batches of inputs, or of inputs and labels, such as a `DataLoader`. It is gone
            through twice (the first pass finds the range of every channel), and no map is kept.
        example_inputs: as for `prune`.

    Raises:
        PrunerError: there is no batch, or the loader cannot be gone through twice.
    """
    trace = analyse(model, example_inputs)
    return {
        axis.tensor.removesuffix(".weight"): found
        for axis, found in _measured(model, loader, trace, trace.graph.units()).items()
    }


def prune_by_activation(
    model: nn.Module,
    loader: Iterable[Any],
    thresholds: Annealed,
    epoch: int,
    example_inputs: Any,
    min_filters: int = 2,
    *,
    ignore: Sequence[str] = (),
    name: str | None = None,
    exact_only: bool = False,
) -> PruningResult:
    """Remove the channels whose variance and entropy lie below the thresholds of an epoch and whose
    sparsity lies above.

    Channels of coupled layers (a stage of a ResNet) go when those of all these layers say so. What
    has no activation function behind it is hardly ever zero, and stays.

    Args:
        model: it is not changed.
        loader: what the activations are measured on; see `channel_activity`.
        thresholds: what has a method `anneal(epoch)` that returns a dict of the three.
        epoch: counted from 0.
        example_inputs: as for `prune`.
        min_filters: no layer becomes narrower; those of its channels that vary most stay.
        ignore: globs over module paths; the outputs of these layers stay.
        name: stem of the generated files; by default the class's name and "thresholds".
        exact_only: keep channels under operators that count them.

    Returns:
        As `prune` does; the report's `prune_pct` is the share of the parameters that went, which
        may be 0.

    Raises:
        PrunerError: as `prune`, and as `channel_activity`; or thresholds or epoch are none.
    """
    if not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 0:
        raise PrunerError(f"epoch {epoch!r}: expected a whole number, 0 or more")
    anneal = getattr(thresholds, "anneal", None)
    known = anneal(epoch) if anneal is not None else None
    if not isinstance(known, Mapping) or not all(key in known for key in NAMES):
        raise PrunerError(
            f"thresholds: a {type(thresholds).__name__}; expected what has a method anneal(epoch) "
            f"that returns {', '.join(NAMES)}, such as a HybridThresholds"
        )
    options = Options(
        prune_pct=0,
        measure="HybridThresholds",
        min_filters=min_filters,
        ignore=tuple(ignore),
        exact_only=exact_only,
        measure_args={**{key: float(known[key]) for key in NAMES}, "epoch": epoch},
    )
    options.budget()
    pruning = _ByThresholds(
        model, example_inputs, options, fileName=name or "", measure=_no_measure
    )
    if not name:
        pruning.fileName = f"{pruning.fileName.removesuffix('_0')}_thresholds"
    pruning.options = replace(options, method="Thresholds")
    pruning.loader = loader
    result = pruning.run()
    full = {name: p.numel() for name, p in pruning.model.named_parameters()}
    left = sum(result.state_dict[name].numel() for name in full)
    gone = 100 * (1 - left / sum(full.values()))
    pruning.options = replace(pruning.options, prune_pct=round(gone, 2))
    return result


def _no_measure(**context: Any) -> Tensor | None:
    return None


class _ByThresholds(BasicPruning):
    """Prunes what the thresholds say, in place of a budget."""

    loader: Iterable[Any]

    def scored(self, trace: Trace, units: Units) -> Scored:
        """Variance as the score: it decides what stays of a layer that would get too thin."""
        total, count = np.zeros(units.count), np.zeros(units.count)
        self.stay = np.zeros(units.count, dtype=bool)
        layers: dict[str, Tensor] = {}
        for axis, activity in _measured(self.model, self.loader, trace, units).items():
            layers[axis.tensor] = torch.from_numpy(activity.variance)
            of_row = units.of(axis)
            np.add.at(total, of_row, activity.variance)
            np.add.at(count, of_row, 1)
            self.stay[of_row[~activity.below(self.options.measure_args)]] = True
        self.stay[units.frozen | (count == 0)] = True
        return Scored(np.where(count, total / np.maximum(count, 1), np.nan), layers)

    def selected(self, graph: ChannelGraph, units: Units, scored: Scored) -> Stays:
        goes_last = np.where(self.stay, np.inf, scored.units)
        return select_below(graph, units, goes_last, np.inf, self.options.min_filters)


# --- measuring -----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Spread:
    """Of one dimension of one tensor; all of shape (size of it,)."""

    low: Tensor
    high: Tensor
    total: Tensor
    zeros: Tensor
    squares: Tensor
    """Of the distances from the mean; the second pass."""
    shares: Tensor
    """Shape (size, BINS): the histogram; the second pass."""
    elements: int = 0


class _Activity(Follower):  # type: ignore[no-untyped-call]
    """Two passes: range and mean of every channel, then its variance and histogram."""

    def __init__(self, trace: Trace, uses: Iterable[Use]) -> None:
        super().__init__(trace)
        self.dims: dict[int, set[int]] = {}
        for use in uses:
            self.dims.setdefault(use.behind.step, set()).add(use.behind.dim)
        self.found: dict[tuple[int, int], _Spread] = {}
        self.second = False

    def made(self, step: int, out: Any) -> None:
        for dim in self.dims.get(step, ()):
            values = tensors_in([out])[0].movedim(dim, 0)
            rows = values.reshape(len(values), -1).double()
            if not rows.shape[1]:
                continue
            if self.second:
                self._spread(self.found[step, dim], rows)
            else:
                self._range(step, dim, rows)

    def _range(self, step: int, dim: int, rows: Tensor) -> None:
        low, high = rows.aminmax(dim=1)
        known = self.found.get((step, dim))
        if known is None:
            zero = torch.zeros_like(low)
            shares = low.new_zeros(len(low), BINS)
            known = _Spread(low, high, zero, zero.clone(), zero.clone(), shares)
            self.found[step, dim] = known
        known.low, known.high = torch.minimum(known.low, low), torch.maximum(known.high, high)
        known.total += rows.sum(1)
        known.zeros += (rows == 0).sum(1)
        known.elements += rows.shape[1]

    def _spread(self, known: _Spread, rows: Tensor) -> None:
        mean = known.total / known.elements
        known.squares += (rows - mean.unsqueeze(1)).square().sum(1)
        # A channel that never changes is all in the first bin.
        width = (known.high - known.low).clamp(min=torch.finfo(rows.dtype).tiny) / BINS
        bins = ((rows - known.low.unsqueeze(1)) / width.unsqueeze(1)).floor().clamp(0, BINS - 1)
        first = torch.arange(len(rows), device=rows.device).unsqueeze(1) * BINS
        counts = torch.bincount((bins.long() + first).flatten(), minlength=len(rows) * BINS)
        known.shares += counts.view(-1, BINS) / known.elements

    def of(self, place: Place) -> tuple[Tensor, Tensor, Tensor] | None:
        """Variance, entropy and sparsity of every position."""
        known = self.found.get((place.step, place.dim))
        if known is None:
            return None
        entropy = -torch.special.xlogy(known.shares, known.shares).sum(1) / math.log(BINS)
        variance, sparsity = known.squares / known.elements, known.zeros / known.elements
        return variance.cpu(), entropy.cpu(), sparsity.cpu()


def _measured(
    model: nn.Module, loader: Iterable[Any], trace: Trace, units: Units
) -> dict[Axis, ChannelActivity]:
    """The activity of every layer."""
    if isinstance(loader, Iterator):
        raise PrunerError(
            f"loader: a {type(loader).__name__} can be gone through once; expected a list or a "
            f"DataLoader, which can be gone through twice"
        )
    by_layer: dict[Axis, list[Use]] = {}
    for use in uses_of(trace, units):
        by_layer.setdefault(use.axis, []).append(use)
    watch = _Activity(trace, [use for uses in by_layer.values() for use in uses])
    with untouched(trace.state.modules):
        model.eval()
        for watch.second in (False, True):
            count = 0
            for args, kwargs, _ in argument_batches(model, loader, "loader"):
                watch.run(model, args, kwargs)
                count += 1
            if not count:
                raise PrunerError("loader: no batches; expected at least one batch of inputs")
    result = {}
    for axis, uses in by_layer.items():
        # A layer that is called several times: the mean of its calls.
        called = [(found, use) for use in uses if (found := watch.of(use.behind)) is not None]
        each = [of_rows([(found[i], use) for found, use in called]) for i in range(3)]
        nothing = torch.full((uses[0].size,), torch.nan, dtype=torch.float64)
        result[axis] = ChannelActivity(*((nothing if e is None else e).numpy() for e in each))
    return result
