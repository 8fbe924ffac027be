"""The one way through: from a network to a verified model description file.

    model, example inputs -> channel graph -> scores -> kept -> source, state_dict
                          -> verified -> files

Each step is a function of what came before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruners.analysis import analyse, positional_examples
from pruners.ancestry import pruned_before, record_of
from pruners.calibration import Calibration
from pruners.channel_graph import ChannelGraph, Kept, Units, kept_of
from pruners.errors import PrunerError, WriterError, did_you_mean
from pruners.given import check_examples, check_given, hooked
from pruners.graph_source import with_source
from pruners.measures import Measure
from pruners.methods import (
    USUAL_CAP,
    Budget,
    Stays,
    Target,
    ratios_of,
    select,
    short_of_ratios,
)
from pruners.metrics import count_macs
from pruners.model_writers import Writer
from pruners.registry import measure_named, method_named
from pruners.replay import corrections_of, fits, restricted
from pruners.report import Report, header, manifest, report_on
from pruners.scoring import AGGREGATES, NORMALIZERS, Scored, score_units
from pruners.sizes.plan import refused, rewrites
from pruners.sizes.rewrites import Rewrites
from pruners.tracing import Trace, nested_tensors, unwrapped
from pruners.verify import Outcome, expected_outputs, with_telling_state
from pruners.weight_transfer import slim_instance, transfer
from pruners.written import Saved, Written, checked_name

__all__ = ["BasicPruning", "Options", "PruningResult", "Saved", "checked_name", "prune"]


@dataclass(frozen=True, slots=True)
class Options:
    """What is to be removed, and how it is chosen; see `pruners.prune` for the fields."""

    prune_pct: float = 50
    target: Target = "params"
    measure: str = "ChannelNorm"
    method: str = "Global"
    min_filters: int = 2
    round_to: int = 1
    ignore: tuple[str, ...] = ()
    seed: int = 0
    exact_only: bool = False
    measure_args: Mapping[str, Any] = field(default_factory=dict)
    normalizer: str | None = None
    aggregate: str = "mean"
    max_ratio: float | None = None
    ratio: tuple[tuple[str, float], ...] = ()

    def budget(self) -> Budget:
        return Budget(
            self.prune_pct,
            self.target,
            self.min_filters,
            self.round_to,
            self.max_ratio,
            self.ratio,
        )

    def check(self) -> None:
        """PrunerError for what would otherwise fail only after long work."""
        measure_named(self.measure, self.measure_args)
        self.check_selection()

    def check_selection(self) -> None:
        """As `check`, but for the measure."""
        self.budget()
        method_named(self.method)
        for option, value, known in (
            ("--normalizer", self.normalizer, NORMALIZERS),
            ("--aggregate", self.aggregate, AGGREGATES),
        ):
            if value is not None and (not isinstance(value, str) or value not in known):
                raise PrunerError(
                    f"{option} {value}: unknown{did_you_mean(str(value), known)}; "
                    f"expected one of {', '.join(known)}"
                )


class BasicPruning:
    """Prunes one network; a family's class inherits it and sets the two names.

    Attributes:
        fileName: stem of the generated files (`resnet20_50`); by default the network's name in
            lower case and the percentage.
        netName: name of the network (`ResNet20`), by default its class's; in lower case the name
            of the generated factory.

    Args:
        model: the network; it is not changed.
        example_inputs: one tensor, a tuple of positional inputs, a dict of named ones, or a list
            of several of these; the first dimension is the batch.
        fileName: for this network alone, instead of the class's.
        netName: likewise.
        calibration: data, for measures that need activations or gradients.
        progress: show how far long work is.
        measure: one that is on no list; the options name it.

    Raises:
        PrunerError: a name cannot be that of a file or a function.
    """

    fileName: str = ""
    netName: str = ""

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        options: Options,
        *,
        fileName: str = "",
        netName: str = "",
        calibration: Calibration | None = None,
        progress: bool = False,
        measure: Measure | None = None,
    ) -> None:
        if measure is None:
            options.check()
        else:
            options.check_selection()
        model = unwrapped(model)
        check_given(model)
        self.original = model
        self.examples = positional_examples(model, example_inputs)
        check_examples(model, [nested_tensors(example) for example in self.examples])
        self.sourced = with_source(model, self.examples)
        self.model = self.sourced.network
        self.example_inputs = self.examples[0]
        self.options = options
        self.calibration = calibration
        self.own_measure = measure
        self.progress = progress
        record = record_of(type(model))
        known, stem = (record.network, record.path.stem) if record is not None else ("", "")
        self.netName = netName or self.netName or known or type(self.model).__name__
        percent = f"{options.prune_pct:g}".replace(".", "_").replace("-", "_")
        self.fileName = checked_name(
            fileName or self.fileName or f"{stem or self.netName.lower()}_{percent}"
        )
        self.before, self.unknown_before = pruned_before(model)

    def run(self) -> PruningResult:
        """Graph, scores and selection; source, weights and verification follow on request."""
        options = self.options
        if not self.model.state_dict():
            raise PrunerError(
                f"{self.netName}: has no parameters, so there is nothing to prune; expected a "
                f"network with convolutions or linear layers"
            )
        trace = self.analysis()
        graph = trace.graph
        scored: Scored | None = None
        while True:
            units = graph.units()
            if options.prune_pct and units.frozen.all():
                raise PrunerError(_nothing_to_remove(self.netName, units))
            # What does not fit is frozen; the units stay the same ones, and so do their scores.
            # Data that can be read only once is read once.
            scored = scored or self.scored(trace, units)
            stays = self.selected(graph, units, scored)
            # Half of every group fits; other widths may need two numbers where one is written.
            if fits(self.model, trace, units, stays, refused):
                kept = kept_of(graph.shapes, units, stays)
                return PruningResult(self, trace, units, kept, scored)

    def measure(self) -> Measure:
        """The measure of the options, or the one that was handed in."""
        if self.own_measure is not None:
            return self.own_measure
        return measure_named(self.options.measure, self.options.measure_args)

    def scored(self, trace: Trace, units: Units) -> Scored:
        """How much every unit matters, by the measure of the options."""
        options = self.options
        return score_units(
            self.model,
            trace.graph,
            units,
            self.measure(),
            options.aggregate,
            trace=trace,
            name=options.measure,
            calibration=self.calibration,
            normalizer=options.normalizer,
            seed=options.seed,
            progress=self.progress,
        )

    def selected(self, graph: ChannelGraph, units: Units, scored: Scored) -> Stays:
        """Shape (units,): which units stay, by the method and the budget of the options."""
        options = self.options
        return select(
            graph,
            units,
            scored.units,
            options.budget(),
            method_named(options.method),
            name=options.method,
            device=next(iter(self.model.state_dict().values())).device,
        )

    def analysis(self) -> Trace:
        """Which channels must go together, and the runs that showed it."""
        options = self.options
        return analyse(
            self.model, self.examples, ignore=options.ignore, exact_only=options.exact_only
        )


class PruningResult(Written):
    """A pruned network: what stays, its weights, its source, and how to store them.

    The oracle is the masked original; where operators count the pruned channels, it is the
    original with these operators restricted to the channels that stay.

    Attributes:
        kept: for every parameter and buffer, for every dimension, the ascending indices (int64
            arrays) that stay of the full network.
        scored: what the measure said of every layer and unit.
        state_dict: the surviving weights.
    """

    def __init__(
        self, pruning: BasicPruning, trace: Trace, units: Units, kept: Kept, scored: Scored
    ) -> None:
        self.pruning = pruning
        self.trace = trace
        self.units = units
        self.kept = kept
        self.scored = scored
        self.fileName, self.factory_name = pruning.fileName, pruning.netName.lower()
        self.given, self.examples = pruning.model, pruning.examples
        self.state_dict = transfer(pruning.model, kept)

    @property
    def graph(self) -> ChannelGraph:
        """Which channels go together."""
        return self.trace.graph

    @cached_property
    def counted(self) -> tuple[str, ...]:
        """The operators whose result depends on how many of the pruned channels there are."""
        gone = np.ones(self.units.count, dtype=bool)
        for axis in self.units.axes:
            gone[self.units.of(axis)[self.kept[axis.tensor][axis.dim]]] = False
        groups = np.unique(self.units.group_of[gone])
        return tuple(
            sorted(
                {
                    because
                    for axis, positions, because in self.graph.renormalisations()
                    if np.isin(self.units.group_of[self.units.of(axis)[positions]], groups).any()
                }
            )
        )

    @cached_property
    def rewrites(self) -> Rewrites:
        """The numbers in forwards that have to follow the widths."""
        model = self.pruning.model
        return rewrites(model, self.trace, corrections_of(model, self.trace, self.kept))

    @cached_property
    def slim(self) -> nn.Module:
        """The original classes with slim tensors on the meta device, for reading only."""
        slim = slim_instance(self.pruning.model, self.kept)
        self.rewrites.apply(slim)
        return slim

    @cached_property
    def report(self) -> Report:
        """Figures before and after, widths, and why layers kept what they kept."""
        pruning, model = self.pruning, self.pruning.model
        slim = self.model
        if all(tape.meta for tape in self.trace.tapes):
            with suppress(RuntimeError, NotImplementedError):  # tensors of a device of their own
                on_meta = self.built("meta")
                count_macs(on_meta, pruning.example_inputs)
                slim = on_meta
        unknown_before = [pruning.unknown_before] if pruning.unknown_before else []
        report = report_on(
            pruning.netName,
            (model, slim),
            pruning.example_inputs,
            asdict(pruning.options),
            (self.graph, self.units, self.kept),
            self.counted,
            (
                *pruning.sourced.notes,
                *self.writer.warnings,
                *(f"{path}: its hooks are left out" for path in hooked(pruning.original)),
                *self._beyond_the_cap(),
                *short_of_ratios(
                    self.graph, self.units, self.scored.units, pruning.options.budget(), self.kept
                ),
                *unknown_before,
            ),
        )
        return replace(report, before=pruning.before)

    def _beyond_the_cap(self) -> list[str]:
        """Layers that lose more than is usual, as the budget could not be met otherwise."""
        if self.pruning.options.max_ratio is not None:
            return []
        as_told = list(ratios_of(self.graph, self.units, self.pruning.options.ratio))
        share = {
            axis.tensor.removesuffix(".weight"): 1
            - len(self.kept[axis.tensor][axis.dim]) / self.graph.size(axis)
            for axis in self.graph.outputs()
            if not np.isin(self.units.group_of[self.units.of(axis)], as_told).any()
        }
        most = sorted((layer for layer in share if share[layer] > USUAL_CAP), key=share.__getitem__)
        if not most:
            return []
        others = f" and {len(most) - 1} more" if len(most) > 1 else ""
        return [
            f"{most[-1]}{others}: up to {share[most[-1]]:.0%} of the channels go, as the budget "
            f"cannot be met with the usual cap of {USUAL_CAP:.0%}"
        ]

    @cached_property
    def writer(self) -> Writer:
        if self.pruning.sourced.unreadable:
            raise WriterError(self.pruning.sourced.unreadable)
        return super().writer

    @property
    def precision(self) -> torch.dtype:
        # A forward that says `.float()` rounds more than its weights do.
        steps = [step for tape in self.trace.tapes for step in tape.steps]
        said = [value for s in steps for value in (*s.args, *(s.kwargs or {}).values())]
        cast = {value for value in said if isinstance(value, torch.dtype)}
        own = super().precision
        lower = [d for d in (torch.float16, torch.bfloat16, torch.float32) if d in cast]
        return min([own, *lower], key=lambda dtype: -torch.finfo(dtype).eps)

    @property
    def home(self) -> nn.Module:
        return self.pruning.original

    def oracle(self, example: int) -> tuple[str, Any]:
        if not self.counted:
            original = self.pruning.sourced.oracle or self.pruning.original
            return "masked", expected_outputs(original, self.kept, self.examples[example])
        tape = next(t for t in self.trace.tapes if t.example == example and not t.training)
        return "sliced", restricted(self.given, self.trace, self.kept, tape)

    def with_random_weights(self) -> tuple[str, Any, Mapping[str, Tensor]] | None:
        if self.counted or self.pruning.sourced.oracle is not None:
            return None  # the oracle runs in lockstep with the network that was traced
        random = with_telling_state(self.given)
        expected = expected_outputs(random, self.kept, self.examples[0])
        return "masked", expected, transfer(random, self.kept)

    def oracle_in_float64(self, example: int, random: bool) -> Any:
        if self.counted:
            return None
        original = self.pruning.sourced.oracle or self.pruning.original
        model = with_telling_state(self.given) if random else original
        return expected_outputs(model, self.kept, self.examples[example], in_float64=True)

    def header(self, weights_name: str, verified: bool) -> str:
        return header(self.report, self.fileName, self.writer.factory, weights_name, verified)

    def facts(self, contents: Mapping[str, bytes], outcome: Outcome | None) -> dict[str, Any]:
        return manifest(self.report, contents, outcome, self.kept)


def _nothing_to_remove(name: str, units: Units) -> str:
    """Why no channel of the network can go: the reasons that hold most of them."""
    reasons = [why for why, _ in Counter(units.reasons.values()).most_common(3)]
    return (
        f"{name}: has no channel that could be removed; all {units.count} stay"
        f"{': ' if reasons else ''}{'; '.join(reasons)}"
    )


def prune(
    model: nn.Module,
    example_inputs: Any,
    prune_pct: float = 50,
    *,
    target: Target = "params",
    measure: str = "ChannelNorm",
    method: str = "Global",
    min_filters: int = 2,
    round_to: int = 1,
    ignore: Sequence[str] = (),
    name: str | None = None,
    seed: int = 0,
    exact_only: bool = False,
    measure_args: Mapping[str, Any] | None = None,
    normalizer: str | None = None,
    aggregate: str = "mean",
    max_ratio: float | None = None,
    ratio: Mapping[str, float] | None = None,
    calibration: Calibration | Iterable[Any] | None = None,
    progress: bool = False,
) -> PruningResult:
    """Remove whole channels from a network.

        result = prune(model, torch.randn(1, 3, 32, 32), prune_pct=50)
        print(result.source)
        result.save("generated")

    Args:
        model: the network, in float32 or float64; it is not changed.
        example_inputs: one tensor, a tuple of positional inputs of the network's forward, a dict
            of named ones, or a list of several of these (they are analysed together, for forwards
            that branch on their input); the first dimension is the batch.
        prune_pct: percent of the target to remove, 0 <= prune_pct < 100; overshot by less than one
            unit (more with `round_to`).
        target: what is counted: "params", "macs" or "channels".
        measure: how units are scored; see `pruners.SCORING_MEASURES`.
        method: "Global" ranks all units together, "Local" within each group, "Isomorphic" among
            groups of one structure; see `pruners.PRUNING_METHODS`.
        min_filters: no layer becomes narrower than this.
        round_to: widths become a multiple of this, or stay as they are.
        ignore: globs over module paths (`"layer3.*"`); the outputs of these layers stay.
        name: stem of the generated files; by default the class's name and the percentage.
        seed: recorded, and used by measures that draw random numbers.
        exact_only: keep the channels under operators that depend on how many there are (layer
            norm, say), for which the masked original is no oracle.
        measure_args: parameters of the measure, `{"p": 2}`.
        normalizer: how the scores of layers are brought to one scale: "mean", "sum", "max",
            "standard" or "none"; by default as the measure is meant.
        aggregate: how the scores of coupled layers become one: "mean", "sum", "max", "product".
        max_ratio: no layer loses a larger share of its channels; by default 0.9, or more where
            the budget cannot be met otherwise.
        ratio: globs over module paths, and the share of their channels that matching layers lose
            whatever the budget: `{"layer3.*": 0.7}`.
        calibration: batches of inputs, or of inputs and labels (a `DataLoader`), for measures of
            activations or gradients; a `Calibration` where there is a loss of its own.
        progress: show how far long work is, on stderr.

    Raises:
        PrunerError: bad options, or a network that cannot be analysed; the message says what
            was expected.
    """
    for argument, value, such_as in (
        ("ratio", ratio, '{"layer3.*": 0.7}'),
        ("measure_args", measure_args, '{"p": 2}'),
    ):
        if value is not None and not isinstance(value, Mapping):
            raise PrunerError(f"{argument} {value!r}: expected a dict, such as {such_as}")
    options = Options(
        prune_pct,
        target,
        measure,
        method,
        min_filters,
        round_to,
        tuple(ignore),
        seed,
        exact_only,
        dict(measure_args or {}),
        normalizer,
        aggregate,
        max_ratio,
        tuple((ratio or {}).items()),
    )
    if calibration is not None and not isinstance(calibration, Calibration):
        calibration = Calibration(calibration)
    return BasicPruning(
        model,
        example_inputs,
        options,
        fileName=name or "",
        calibration=calibration,
        progress=progress,
    ).run()
