"""The one way through: from a network to a verified model description file.

    model, example inputs -> channel graph -> scores -> kept -> source, state_dict
                          -> verified -> files

Each step is a function of what came before it.
"""

from __future__ import annotations

import keyword
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruners.analysis import analyse, positional_examples
from pruners.ancestry import pruned_before, record_of
from pruners.channel_graph import ChannelGraph, Kept, Units, kept_of
from pruners.errors import PrunerError, WriterError
from pruners.given import check_examples, check_given, hooked
from pruners.graph_source import with_source
from pruners.loading import import_source
from pruners.methods import Budget, Target, select
from pruners.model_writers import Writer
from pruners.origin import is_library
from pruners.replay import corrections_of, fits, restricted
from pruners.report import Report, header, manifest, report_on
from pruners.scoring import measure_named, score_units
from pruners.sizes import Rewrites, refused, rewrites
from pruners.store import manifest_text, publish, save_bytes
from pruners.tracing import Trace, map_tensors, nested_tensors, unwrapped
from pruners.verify import Case, Outcome, expected_outputs, require, tolerance_for, verify
from pruners.weight_transfer import slim_instance, transfer


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

    def budget(self) -> Budget:
        return Budget(self.prune_pct, self.target, self.min_filters, self.round_to)


@dataclass(frozen=True, slots=True)
class Saved:
    """Where the artifacts of one network lie."""

    source: Path
    manifest: Path
    weights: Path
    verification: Outcome | None
    """None where verification was switched off."""


class BasicPruning:
    """Prunes one network; a family's class inherits it and sets the two names.

    Attributes:
        fileName: stem of the generated files (`resnet20_50`); by default the network's name in
            lower case and the percentage (`resnet20_50_30` for what comes from `resnet20_50.py`).
        netName: name of the network (`ResNet20`), by default its class's, or what the manifest
            beside its generated file says; in lower case the name of the generated factory.
        before: the original network, where the class comes from a generated file; `unknown_before`
            says why nothing is known although there is a manifest.

    Args:
        model: the network; it is not changed.
        example_inputs: one tensor, a tuple of positional inputs, a dict of named ones, or a list
            of several of these; the first dimension is the batch.
        fileName, netName: for this network alone, instead of the class's.

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
    ) -> None:
        model = unwrapped(model)
        check_given(model)
        self.original = model
        self.examples = positional_examples(model, example_inputs)
        check_examples(model, [nested_tensors(example) for example in self.examples])
        self.sourced = with_source(model, self.examples)
        self.model = self.sourced.network
        self.example_inputs = self.examples[0]
        self.options = options
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
        options, budget = self.options, self.options.budget()
        measure = measure_named(options.measure)
        trace = self.analysis()
        graph = trace.graph
        while True:
            units = graph.units()
            if options.prune_pct and units.frozen.all():
                raise PrunerError(_nothing_to_remove(self.netName, units))
            scores = score_units(self.model, graph, units, measure)
            stays = select(graph, units, scores, budget, options.method)
            # Half of every group fits; other widths may need two numbers where one is written.
            if fits(self.model, trace, units, stays, refused):
                return PruningResult(self, trace, units, kept_of(graph.shapes, units, stays))

    def analysis(self) -> Trace:
        """Which channels must go together, and the runs that showed it."""
        options = self.options
        return analyse(
            self.model, self.examples, ignore=options.ignore, exact_only=options.exact_only
        )


class PruningResult:
    """A pruned network: what stays, its weights, its source, and how to store them.

    Attributes:
        kept: for every parameter and buffer, for every dimension, the ascending indices (int64
            arrays) that stay of the full network.
        state_dict: the surviving weights.
    """

    def __init__(self, pruning: BasicPruning, trace: Trace, units: Units, kept: Kept) -> None:
        self.pruning = pruning
        self.trace = trace
        self.units = units
        self.kept = kept
        self.state_dict: dict[str, Tensor] = transfer(pruning.model, kept)

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
        return rewrites(model, corrections_of(model, self.trace, self.kept))

    @cached_property
    def slim(self) -> nn.Module:
        """The original classes with slim tensors on the meta device, for reading only."""
        slim = slim_instance(self.pruning.model, self.kept)
        self.rewrites.apply(slim)
        return slim

    @property
    def source(self) -> str:
        """The text of the model description file."""
        return self._source(f"{self.pruning.fileName}_pruned_v1.0.pth")

    def _built(self, device: str) -> nn.Module:
        """An instance of the generated class, without the surviving weights."""
        module = import_source(self.pruning.fileName, self.writer.code)
        with torch.random.fork_rng(devices=[]), torch.device(device):
            built: nn.Module = getattr(module, self.writer.factory)()
        return built

    @cached_property
    def model(self) -> nn.Module:
        """An instance built from the source, with the surviving weights, on the model's device."""
        original = self.pruning.model
        built = self._built("cpu")
        built.load_state_dict(self.state_dict)
        for name, tensor in original.named_parameters():
            built.get_parameter(name).requires_grad_(tensor.requires_grad)
        place = next(iter(original.state_dict().values()), torch.empty(0)).device
        return built.to(place).train(original.training)

    @cached_property
    def report(self) -> Report:
        """Figures before and after, widths, and why layers kept what they kept."""
        pruning, model = self.pruning, self.pruning.model
        on_meta = all(tape.meta for tape in self.trace.tapes)
        unknown_before = [pruning.unknown_before] if pruning.unknown_before else []
        report = report_on(
            pruning.netName,
            (model, self._built("meta") if on_meta else self.model),
            pruning.example_inputs,
            asdict(pruning.options),
            (self.graph, self.units, self.kept),
            self.counted,
            (
                *pruning.sourced.notes,
                *self.writer.warnings,
                *(f"{path}: its hooks are left out" for path in hooked(pruning.original)),
                *unknown_before,
            ),
        )
        return replace(report, before=pruning.before)

    def save(
        self,
        out: str | Path = "generated",
        weights_dir: str | Path = "models/pruned",
        verify: bool = True,
    ) -> Saved:
        """Write source, manifest and weights: all three, complete and verified, or none.

        Args:
            out: folder of the model description file and its manifest.
            weights_dir: folder of the weights; other content gets the next version.
            verify: compare with the masked original in a fresh process first.

        Raises:
            VerificationError: the slim network is not equal to the masked original.
            PrunerError: a folder cannot be written.
        """
        return self.save_weights(self.state_dict, out, weights_dir, verify)

    def save_weights(
        self,
        weights: Mapping[str, Tensor],
        out: str | Path,
        weights_dir: str | Path,
        verify: bool | Outcome = True,
        extra: Mapping[str, Any] | None = None,
    ) -> Saved:
        """As `save`, with other weights of the same shapes (fine-tuned ones) in the weights file.

        Verification is of the surviving weights, in either case; `verify` may be what `verified`
        returned before. `extra` goes into the manifest.
        """
        stem, out = self.pruning.fileName, Path(out)
        outcome = verify if isinstance(verify, Outcome) else self.verified() if verify else None
        content = save_bytes(weights)

        def others(weights_name: str) -> dict[Path, bytes]:
            source = self._source(weights_name, verified=outcome is not None)
            contents = {f"{stem}.py": source.encode(), weights_name: content}
            facts = manifest(self.report, contents, outcome, self.kept)
            return {
                out / f"{stem}.json": manifest_text({**facts, **(extra or {})}).encode(),
                out / f"{stem}.py": source.encode(),
            }

        path = publish(weights_dir, f"{stem}_pruned", content, others)
        return Saved(out / f"{stem}.py", out / f"{stem}.json", path, outcome)

    def case(self, example: int = 0) -> Case:
        """What a fresh process needs to verify this network on one of the example inputs.

        The oracle is the masked original; where operators count the pruned channels, it is the
        original with these operators restricted to the channels that stay.
        """
        model, pruning = self.pruning.model, self.pruning
        inputs = pruning.examples[example]
        floating = [t.dtype for t in self.state_dict.values() if t.is_floating_point()]
        if self.counted:
            tape = next(t for t in self.trace.tapes if t.example == example and not t.training)
            expected = restricted(model, self.trace, self.kept, tape)
        else:
            expected = expected_outputs(
                pruning.sourced.oracle or pruning.original, self.kept, inputs
            )
        return Case(
            name=pruning.fileName,
            source=self.source,
            factory=self.writer.factory,
            weights=save_bytes(self.state_dict),
            weights_name="weights.pth",
            inputs=map_tensors(inputs, Tensor.cpu),
            expected=map_tensors(expected, Tensor.cpu),
            keys=tuple(model.state_dict()),
            tolerance=tolerance_for(floating[0] if floating else torch.float32),
            forbidden=_home_of(pruning.original),
            oracle="sliced" if self.counted else "masked",
        )

    def verified(self) -> Outcome:
        """Compare with the oracle in a fresh process, on every example; the largest difference.

        Raises:
            VerificationError: the two are not equal.
        """
        outcomes = verify([self.case(i) for i in range(len(self.pruning.examples))])
        require(outcomes)
        return max(outcomes, key=lambda outcome: outcome.error)

    @cached_property
    def writer(self) -> Writer:
        """The writer of the slim network; its `warnings` say what it could not keep."""
        if self.pruning.sourced.unreadable:
            raise WriterError(self.pruning.sourced.unreadable)
        return Writer(self.slim, self.pruning.netName.lower(), self.rewrites)

    def _source(self, weights_name: str, verified: bool = False) -> str:
        stem = self.pruning.fileName
        return self.writer.source(
            header(self.report, stem, self.writer.factory, weights_name, verified)
        )


def checked_name(name: str) -> str:
    """The stem of generated files; PrunerError where Python could not import such a file."""
    taken = name in sys.stdlib_module_names or name in ("torch", "torchvision", "numpy")
    if not name.isidentifier() or keyword.iskeyword(name) or taken:
        why = "is the name of another module" if taken else "cannot be imported as a Python module"
        raise PrunerError(
            f"--name {name!r}: {why}; expected letters, digits and underscores, as in resnet20_50"
        )
    return name


def _nothing_to_remove(name: str, units: Units) -> str:
    """Why no channel of the network can go: the reasons that hold most of them."""
    reasons = [why for why, _ in Counter(units.reasons.values()).most_common(3)]
    return (
        f"{name}: has no channel that could be removed; all {units.count} stay"
        f"{': ' if reasons else ''}{'; '.join(reasons)}"
    )


def _home_of(model: nn.Module) -> tuple[str, ...]:
    """What the generated file must live without: the modules of the network's own classes."""
    modules = {type(m).__module__ for m in model.modules()}
    return tuple(sorted(m.split(".")[0] for m in modules if not is_library(m)))


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
        measure: how units are scored; see `pruners.scoring.SCORING_MEASURES`.
        method: "Global" ranks all units together, "Local" within each group.
        min_filters: no layer becomes narrower than this.
        round_to: widths become a multiple of this, or stay as they are.
        ignore: globs over module paths (`"layer3.*"`); the outputs of these layers stay.
        name: stem of the generated files; by default the class's name and the percentage.
        seed: recorded, and used by measures that draw random numbers.
        exact_only: keep the channels under operators that depend on how many there are (layer
            norm, say), for which the masked original is no oracle.

    Raises:
        PrunerError: bad options, or a network that cannot be analysed; the message says what
            was expected.
    """
    options = Options(
        prune_pct, target, measure, method, min_filters, round_to, tuple(ignore), seed, exact_only
    )
    return BasicPruning(model, example_inputs, options, fileName=name or "").run()
