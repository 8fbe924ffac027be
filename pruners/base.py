"""The one way through: from a network to a verified model description file.

    model, example inputs -> channel graph -> scores -> kept -> source, state_dict
                          -> verified -> files

Each step is a function of what came before it.
"""

from __future__ import annotations

import keyword
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruners.channel_graph import ChannelGraph, Kept, Units
from pruners.dependencies import declared_graph
from pruners.errors import PrunerError
from pruners.given import check_given, hooked
from pruners.loading import import_source
from pruners.methods import Budget, Target, kept_after, select
from pruners.model_writers import Writer
from pruners.origin import is_library
from pruners.report import Report, header, manifest, report_on
from pruners.scoring import measure_named, score_units
from pruners.store import manifest_text, publish, save_bytes
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
            lower case and the percentage.
        netName: name of the network (`ResNet20`), by default its class's; in lower case the name
            of the generated factory.

    Args:
        model: the network; it is not changed.
        example_inputs: one tensor, or all positional inputs; the first dimension is the batch.
        fileName, netName: for this network alone, instead of the class's.

    Raises:
        PrunerError: a name cannot be that of a file or a function.
    """

    fileName: str = ""
    netName: str = ""

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Tensor | Sequence[Any],
        options: Options,
        *,
        fileName: str = "",
        netName: str = "",
    ) -> None:
        check_given(model)
        self.model = model
        self.example_inputs = (
            (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
        )
        self.options = options
        self.netName = netName or self.netName or type(model).__name__
        percent = f"{options.prune_pct:g}".replace(".", "_").replace("-", "_")
        self.fileName = checked_name(
            fileName or self.fileName or f"{self.netName.lower()}_{percent}"
        )

    def run(self) -> PruningResult:
        """Graph, scores and selection; source, weights and verification follow on request."""
        options, budget = self.options, self.options.budget()
        measure = measure_named(options.measure)
        graph = self.graph()
        units = graph.units()
        scores = score_units(self.model, graph, units, measure)
        kept = kept_after(graph, units, select(graph, units, scores, budget, options.method))
        return PruningResult(self, graph, units, kept)

    def graph(self) -> ChannelGraph:
        """Which channels must go together."""
        return declared_graph(self.model, self.example_inputs, self.options.ignore)


class PruningResult:
    """A pruned network: what stays, its weights, its source, and how to store them.

    Attributes:
        kept: for every parameter and buffer, for every dimension, the ascending indices (int64
            arrays) that stay of the full network.
        state_dict: the surviving weights.
    """

    def __init__(
        self, pruning: BasicPruning, graph: ChannelGraph, units: Units, kept: Kept
    ) -> None:
        self.pruning = pruning
        self.graph = graph
        self.units = units
        self.kept = kept
        self.state_dict: dict[str, Tensor] = transfer(pruning.model, kept)

    @cached_property
    def slim(self) -> nn.Module:
        """The original classes with slim tensors on the meta device, for reading only."""
        return slim_instance(self.pruning.model, self.kept)

    @property
    def source(self) -> str:
        """The text of the model description file."""
        return self._source(f"{self.pruning.fileName}_pruned_v1.0.pth")

    @cached_property
    def model(self) -> nn.Module:
        """An instance built from the source, with the surviving weights, on the model's device."""
        original = self.pruning.model
        module = import_source(self.pruning.fileName, self.source)
        with torch.random.fork_rng(devices=[]):
            built: nn.Module = getattr(module, self.writer.factory)()
        built.load_state_dict(self.state_dict)
        for name, tensor in original.named_parameters():
            built.get_parameter(name).requires_grad_(tensor.requires_grad)
        place = next(iter(original.state_dict().values()), torch.empty(0)).device
        return built.to(place).train(original.training)

    @cached_property
    def report(self) -> Report:
        """Figures before and after, widths, and why layers kept what they kept."""
        pruning, model = self.pruning, self.pruning.model
        return report_on(
            pruning.netName,
            (model, self.slim),
            pruning.example_inputs,
            asdict(pruning.options),
            (self.graph, self.units, self.kept),
            (*self.writer.warnings, *(f"{path}: its hooks are left out" for path in hooked(model))),
        )

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
            source = self._source(weights_name)
            contents = {f"{stem}.py": source.encode(), weights_name: content}
            facts = manifest(self.report, contents, outcome, self.kept)
            return {
                out / f"{stem}.json": manifest_text({**facts, **(extra or {})}).encode(),
                out / f"{stem}.py": source.encode(),
            }

        path = publish(weights_dir, f"{stem}_pruned", content, others)
        return Saved(out / f"{stem}.py", out / f"{stem}.json", path, outcome)

    def case(self) -> Case:
        """What a fresh process needs to verify this network."""
        model, pruning = self.pruning.model, self.pruning
        floating = [t.dtype for t in self.state_dict.values() if t.is_floating_point()]
        return Case(
            name=pruning.fileName,
            source=self.source,
            factory=self.writer.factory,
            weights=save_bytes(self.state_dict),
            weights_name="weights.pth",
            inputs=tuple(x.cpu() if isinstance(x, Tensor) else x for x in pruning.example_inputs),
            expected=expected_outputs(model, self.kept, pruning.example_inputs),
            keys=tuple(model.state_dict()),
            tolerance=tolerance_for(floating[0] if floating else torch.float32),
            forbidden=_home_of(model),
        )

    def verified(self) -> Outcome:
        """Compare with the masked original in a fresh process; else VerificationError."""
        outcomes = verify([self.case()])
        require(outcomes)
        return outcomes[0]

    @cached_property
    def writer(self) -> Writer:
        """The writer of the slim network; its `warnings` say what it could not keep."""
        return Writer(self.slim, self.pruning.netName.lower())

    def _source(self, weights_name: str) -> str:
        stem = self.pruning.fileName
        return self.writer.source(header(self.report, stem, self.writer.factory, weights_name))


def checked_name(name: str) -> str:
    """The stem of generated files; PrunerError where Python could not import such a file."""
    taken = name in sys.stdlib_module_names or name in ("torch", "torchvision", "numpy")
    if not name.isidentifier() or keyword.iskeyword(name) or taken:
        why = "is the name of another module" if taken else "cannot be imported as a Python module"
        raise PrunerError(
            f"--name {name!r}: {why}; expected letters, digits and underscores, as in resnet20_50"
        )
    return name


def _home_of(model: nn.Module) -> tuple[str, ...]:
    """What the generated file must live without: the modules of the network's own classes."""
    modules = {type(m).__module__ for m in model.modules()}
    return tuple(sorted(m.split(".")[0] for m in modules if not is_library(m)))


def prune(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Any],
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
) -> PruningResult:
    """Remove whole channels from a network.

        result = prune(model, torch.randn(1, 3, 32, 32), prune_pct=50)
        print(result.source)
        result.save("generated")

    Args:
        model: the network, in float32 or float64; it is not changed.
        example_inputs: one tensor, or all positional inputs of the network's forward; the first
            dimension is the batch.
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

    Raises:
        PrunerError: bad options, or a network that cannot be analysed; the message says what
            was expected.
    """
    options = Options(
        prune_pct, target, measure, method, min_filters, round_to, tuple(ignore), seed
    )
    return BasicPruning(model, example_inputs, options, fileName=name or "").run()
