"""A network with its source: imported, verified and stored in one way, whoever has pruned it.

`PruningResult` and `WrittenSource` differ in their figures and in their oracle; the rest is here.
"""

from __future__ import annotations

import copy
import keyword
import math
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn

from pruners.errors import PrunerError, WriterError
from pruners.loading import import_source
from pruners.model_store import ModelFile, ModelStore, Parent, StoredVersion, code_digest
from pruners.model_writers import Writer
from pruners.origin import is_library
from pruners.sizes.rewrites import Rewrites
from pruners.store import manifest_text, save_bytes, sealed
from pruners.tracing import map_tensors
from pruners.verify import Case, Outcome, require, tells, tolerance_for, verify
from pruners.verify_child import MismatchError, compare, flatten_output, train_step, widened

# More than that is no rounding: float64 would not bring it below its own tolerance.
_MOST_ROUNDING = 1e-2


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a generated network is held against."""

    example: int
    oracle: str
    expected: Any
    weights: Mapping[str, Tensor]
    """Of the generated network."""
    random: bool = False
    """Whether the weights are random ones."""
    tolerance: float = 0.0
    in_float64: bool = False
    float32_error: float | None = None
    """How far the two are apart in float32, where it is compared in float64."""
    eval_only: str = ""
    """Why no step in train mode is taken."""


_PRUNING = (
    "network",
    "generated_from",
    "pruned_before",
    "options",
    "input_shapes",
    "parameters",
    "macs",
)
"""What the manifest of the weights has of that of the model file. Whether this was verified is said
there: it is of the code, and may come later than the weights."""


@dataclass(frozen=True, slots=True)
class Saved:
    """Where the artifacts of one network lie."""

    source: Path
    manifest: Path
    weights: Path
    verification: Outcome | None
    """None where verification was switched off."""
    stored: StoredVersion
    """The weights as a version of the model store, with a manifest of their own."""


class Written(ABC):
    """A network as source, with its weights.

    Attributes:
        fileName: stem of the files: `resnet20_50`.
        factory_name: what the function that builds the network is to be called.
        given: the network that the source is made from, whose keys, device, mode and
            `requires_grad` the generated one has.
        examples: the positional inputs of every example.
        state_dict: the weights of the generated network.
    """

    fileName: str
    factory_name: str
    given: nn.Module
    examples: list[tuple[Any, ...]]
    state_dict: dict[str, Tensor]

    @property
    @abstractmethod
    def slim(self) -> nn.Module:
        """The network that is written, on the meta device, for reading only."""

    @abstractmethod
    def oracle(self, example: int) -> tuple[str, Any]:
        """What the generated network must compute on an example: the oracle's name, its output."""

    @property
    def precision(self) -> torch.dtype:
        """What the network computes in."""
        floating = [t.dtype for t in self.state_dict.values() if t.is_floating_point()]
        return floating[0] if floating else torch.float32

    @property
    def home(self) -> nn.Module:
        """The network whose modules the generated file must live without."""
        return self.given

    @property
    def untrainable(self) -> str:
        """Why the given network itself cannot run in train mode; empty where it can."""
        return ""

    @abstractmethod
    def header(self, weights_name: str, verified: bool) -> str:
        """The docstring of the file."""

    @abstractmethod
    def facts(self, contents: Mapping[str, bytes], outcome: Outcome | None) -> dict[str, Any]:
        """The manifest; `contents` are the files that it describes, by name."""

    @cached_property
    def writer(self) -> Writer:
        """The writer of the slim network; its `warnings` say what it could not keep."""
        return Writer(self.slim, self.factory_name, self.rewrites)

    @cached_property
    def rewrites(self) -> Rewrites:
        """The numbers in forwards that have to follow the widths."""
        return Rewrites()

    @property
    def source(self) -> str:
        """The text of the model description file."""
        return self._source(f"{self._name}_pruned_v1.0.pth")

    def source_for(self, weights_name: str, verified: bool = False) -> str:
        """As `source`, for weights under another name.

        Args:
            verified: say that it was compared with its oracle.
        """
        return self._source(weights_name, verified)

    def built(self, device: str) -> nn.Module:
        """An instance of the generated class, without the weights.

        Raises:
            WriterError: a statement of its `__init__` fails, such as one that copies a constant as
                wide as the channels were; the message names it.
        """
        module = import_source(self.fileName, self.writer.code)
        with torch.random.fork_rng(devices=[]), torch.device(device):
            try:
                built: nn.Module = getattr(module, self.writer.factory)()
            except Exception as error:
                last = [
                    frame
                    for frame in traceback.extract_tb(error.__traceback__)
                    if frame.filename == module.__file__
                ][-1]
                raise WriterError(
                    f"{self.fileName}: the generated class cannot be built: `{last.line}` raises "
                    f"{type(error).__name__}: {' '.join(str(error).split())}; that statement of "
                    f"{last.name} fits the original's widths only: move it out of the class, or "
                    f"keep its layer whole (--ignore LAYER)"
                ) from error
        return built

    @cached_property
    def model(self) -> nn.Module:
        """An instance built from the source, with its weights, on the given network's device."""
        built = self.built("cpu")
        built.load_state_dict(self.state_dict)
        for name, tensor in self.given.named_parameters():
            built.get_parameter(name).requires_grad_(tensor.requires_grad)
        place = next(iter(self.given.state_dict().values()), torch.empty(0)).device
        return built.to(place).train(self.given.training)

    def save(
        self,
        out: str | Path = "generated",
        weights_dir: str | Path = "models/pruned",
        verify: bool = True,
        parents: Sequence[Parent] = (),
    ) -> Saved:
        """Write source, manifest and weights with theirs: all complete and verified, or none.

        Args:
            out: folder of the model description file and its manifest.
            weights_dir: folder of the weights, `pruned/` of a model store; other content gets the
                next version.
            verify: compare with the oracle in a fresh process first.
            parents: the checkpoint that the network's weights came from, for the manifest of its
                weights: `[Parent.of("net.pth")]`.

        Raises:
            VerificationError: the generated network is not equal to its oracle.
            PrunerError: a folder cannot be written.
        """
        return self.save_weights(self.state_dict, out, weights_dir, verify, parents=parents)

    def save_weights(
        self,
        weights: Mapping[str, Tensor],
        out: str | Path,
        weights_dir: str | Path,
        verify: bool | Outcome = True,
        extra: Mapping[str, Any] | None = None,
        *,
        parents: Sequence[Parent] = (),
        training: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> Saved:
        """As `save`, with other weights of the same shapes (fine-tuned ones) in the weights file.

        Verification is of the surviving weights, in either case; `verify` may be what `verified`
        returned before. `extra` goes into the manifest; `parents`, `training` and `metrics` into
        that of the weights, see `ModelStore.add`.
        """
        stem, out = self.fileName, Path(out)
        self.keep_the_original(out / f"{stem}.py")
        outcome = verify if isinstance(verify, Outcome) else self.verified() if verify else None
        content = save_bytes(weights)

        def others(weights_stem: str) -> dict[Path, bytes]:
            name = f"{weights_stem}.pth"
            source = self._source(name, verified=outcome is not None)
            facts = self.facts({f"{stem}.py": source.encode(), name: content}, outcome)
            return {
                out / f"{stem}.json": manifest_text(sealed({**facts, **(extra or {})})).encode(),
                out / f"{stem}.py": source.encode(),
            }

        facts = self.facts({}, outcome)
        after = {name: facts[name]["after"] for name in ("parameters", "macs")}
        stored = ModelStore(Path(weights_dir).parent, pruned=weights_dir).add(
            "pruned",
            self._name,
            {".pth": content},
            parents=parents,
            model=ModelFile(f"{stem}.py", self.writer.factory, code_digest(self.source)),
            training=training,
            pruning={name: facts[name] for name in _PRUNING if name in facts},
            metrics={**after, **(metrics or {})},
            also=others,
        )
        weights_path = stored.paths[".pth"]
        return Saved(out / f"{stem}.py", out / f"{stem}.json", weights_path, outcome, stored)

    def case(self, example: int = 0) -> Case:
        """What a fresh process needs to verify this network on one of the example inputs."""
        return self._case(self._comparison(example))

    def _comparison(self, example: int) -> Comparison:
        tolerance = tolerance_for(self.precision)
        return Comparison(example, *self.oracle(example), self.state_dict, tolerance=tolerance)

    def _case(self, comparison: Comparison) -> Case:
        return Case(
            name=self.fileName,
            source=self.source,
            factory=self.writer.factory,
            weights=save_bytes(comparison.weights),
            weights_name="weights.pth",
            inputs=map_tensors(self.examples[comparison.example], Tensor.cpu),
            expected=map_tensors(comparison.expected, Tensor.cpu),
            keys=tuple(self.given.state_dict()),
            tolerance=comparison.tolerance,
            forbidden=_home_of(self.home),
            oracle=comparison.oracle,
            trains=not (self.untrainable or comparison.eval_only),
            in_float64=comparison.in_float64,
        )

    def oracle_in_float64(self, example: int, random: bool) -> Any:
        """The oracle's output with everything computed in float64; None where it cannot be.

        Args:
            random: of the weights of `with_random_weights`.
        """
        return None

    def with_random_weights(self) -> tuple[str, Any, Mapping[str, Tensor]] | None:
        """The oracle's name, its output on the first example, and the generated network's weights,
        all for random weights of the given network; None where there is no such oracle.
        """
        return None

    def verified(self) -> Outcome:
        """Compare with the oracle in a fresh process, on every example; the largest difference.

        Where the output hardly depends on the input, as in untrained networks in which signals die
        away, the two are compared with random weights through which they pass as well. Where they
        differ in float32, the same weights and inputs are compared in float64: layers that cancel
        magnify what float32 rounds, while a wrong index is as wrong there. A step in train mode is
        asked of the generated network only if the given one can take it.

        Raises:
            VerificationError: the two are not equal.
        """
        return self._judged(lambda comparisons: verify([self._case(c) for c in comparisons]))

    def _judged(self, ask: Callable[[Sequence[Comparison]], list[Outcome]]) -> Outcome:
        """The worst of all comparisons, made by `ask`; VerificationError where one fails."""
        comparisons = self._comparisons()
        outcomes = ask(comparisons)
        for second_look in (self._in_float64, self._in_eval_mode):
            again = {
                i: other
                for i, (comparison, outcome) in enumerate(zip(comparisons, outcomes, strict=True))
                if not outcome.ok and (other := second_look(comparison, outcome)) is not None
            }
            for i, outcome in zip(again, ask([*again.values()]), strict=True):
                # What fails then, too, is told of as it was at first.
                if outcome.error <= outcome.tolerance:
                    comparisons[i], outcomes[i] = again[i], outcome
        require(outcomes)
        worst = max(range(len(outcomes)), key=lambda i: outcomes[i].error / outcomes[i].tolerance)
        return replace(
            outcomes[worst],
            random_weights=any(comparison.random for comparison in comparisons),
            float32_error=comparisons[worst].float32_error,
            eval_only=next((c.eval_only for c in comparisons if c.eval_only), ""),
        )

    def _in_float64(self, comparison: Comparison, outcome: Outcome) -> Comparison | None:
        """The same in float64, for a network in float32; None where it cannot be computed."""
        rounded = outcome.tolerance < outcome.error < _MOST_ROUNDING
        if not rounded or self.precision != torch.float32:
            return None
        try:
            expected = self.oracle_in_float64(comparison.example, comparison.random)
        except Exception:
            return None  # a forward that makes float32 tensors of its own
        if expected is None:
            return None
        return replace(
            comparison,
            expected=expected,
            tolerance=tolerance_for(torch.float64),
            in_float64=True,
            float32_error=outcome.error,
        )

    def _in_eval_mode(self, comparison: Comparison, outcome: Outcome) -> Comparison | None:
        """The same without the step in train mode, where the given network cannot take one."""
        if not outcome.error <= outcome.tolerance or not self._no_training:
            return None
        return replace(comparison, eval_only=self._no_training)

    @cached_property
    def _no_training(self) -> str:
        """Why the given network cannot take a step in train mode; empty where it can."""
        for example in self.examples:
            try:
                with torch.random.fork_rng(devices=[]):
                    train_step(copy.deepcopy(self.given).cpu(), map_tensors(example, Tensor.cpu))
            except Exception as error:
                return shorten(f"{type(error).__name__}: {error}", 160, placeholder=" ...")
        return ""

    def compared(self) -> Outcome:
        """As `verified`, but in this process and in eval mode only.

        A network is built from the source, gets the weights strictly, and must compute what the
        oracle does. That is enough for figures that are read and forgotten, and takes milliseconds;
        whether a file lives without this project is what the fresh process shows.

        Raises:
            VerificationError: the two are not equal.
        """
        return self._judged(lambda comparisons: [self._compared(c) for c in comparisons])

    def _compared(self, comparison: Comparison) -> Outcome:
        error, message = self._difference(comparison)
        if not message and not error <= comparison.tolerance:
            message = "the network that is built from the source computes something else"
        return Outcome(
            self.fileName, not message, error, message, comparison.oracle, comparison.tolerance
        )

    def _difference(self, comparison: Comparison) -> tuple[float, str]:
        """How far the network that is built from the source is from the oracle; why, if it is no
        question of figures."""
        model = self.built("cpu").eval()
        model.load_state_dict(comparison.weights)
        inputs = map_tensors(self.examples[comparison.example], lambda x: x.detach().cpu().clone())
        if comparison.in_float64:
            model, inputs = model.double(), map_tensors(inputs, widened)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            try:
                actual = flatten_output(model(*inputs))
                expected = flatten_output(map_tensors(comparison.expected, Tensor.cpu))
                return compare(actual, expected), ""
            except MismatchError as mismatch:
                return math.inf, str(mismatch)

    def _comparisons(self) -> list[Comparison]:
        """All that the generated network is held against."""
        comparisons = [self._comparison(i) for i in range(len(self.examples))]
        tolerance = tolerance_for(self.precision)
        silent = not any(tells(comparison.expected, tolerance) for comparison in comparisons)
        random = self.with_random_weights() if silent else None
        if random is not None:
            comparisons.append(Comparison(0, *random, random=True, tolerance=tolerance))
        return comparisons

    def keep_the_original(
        self, path: Path, way_out: str = "--name NAME, or another folder with --out DIR"
    ) -> None:
        """PrunerError where the file is one that the network's classes come from."""
        modules = (sys.modules.get(type(m).__module__) for m in self.home.modules())
        files = {file for m in modules if (file := getattr(m, "__file__", None)) is not None}
        if path.exists() and any(path.resolve() == Path(file).resolve() for file in files):
            raise PrunerError(
                f"{path}: the network itself comes from this file; choose another {way_out}"
            )

    @property
    def _name(self) -> str:
        """What the network is called in a model store."""
        return self.fileName.removesuffix("_pruned")

    def _source(self, weights_name: str, verified: bool = False) -> str:
        return self.writer.source(self.header(weights_name, verified))


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
