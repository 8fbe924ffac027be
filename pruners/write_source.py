"""Source and weights of a network that somebody else has pruned.

The writer depends on the instance alone, so it does not matter who made it smaller: another
tool, a person with a text editor, or nobody.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruners.analysis import positional_examples
from pruners.channel_graph import Kept
from pruners.errors import PrunerError, WriterError
from pruners.given import check_examples, check_given, hooked
from pruners.graph_source import with_source
from pruners.layers import widths
from pruners.model_writers import Writer
from pruners.report import (
    Figures,
    SourceReport,
    figures_of,
    report_on_source,
    source_header,
    source_manifest,
)
from pruners.tracing import map_tensors, nested_tensors, unwrapped
from pruners.verify import Outcome, expected_outputs, with_telling_state
from pruners.weight_transfer import slim_instance
from pruners.written import Written, checked_name


class WrittenSource(Written):
    """A network as source, with its weights, as `write_source` returns it.

    The oracle is the network itself: the generated one must compute what it computes.
    """

    def __init__(
        self, module: nn.Module, example_inputs: Any, original: nn.Module | None, name: str
    ) -> None:
        module = unwrapped(module)
        check_given(module)
        self.examples = positional_examples(module, example_inputs)
        check_examples(module, [nested_tensors(example) for example in self.examples])
        self.sourced = with_source(module, self.examples)
        self.home_network, self.given = module, self.sourced.network
        self.netName = type(self.given).__name__
        self.fileName = checked_name(name or f"{self.netName.lower()}_pruned")
        self.factory_name = self.netName.lower()
        self.original = None if original is None else unwrapped(original)
        self.state_dict = copy.deepcopy(module.state_dict())
        self._outputs = [self._run(number) for number in range(len(self.examples))]

    @property
    def home(self) -> nn.Module:
        return self.home_network

    @cached_property
    def writer(self) -> Writer:
        if self.sourced.unreadable:
            raise WriterError(self.sourced.unreadable)
        return super().writer

    @cached_property
    def slim(self) -> nn.Module:
        copied = slim_instance(self.given, _everything(self.given))
        for ours, theirs in zip(self.given.modules(), copied.modules(), strict=True):
            # Who gave a layer a smaller weight may not have told its attributes.
            theirs.__dict__.update(widths(ours, runs=True))
        return copied

    @cached_property
    def report(self) -> SourceReport:
        """Figures, those of the original too where it is known, and what could not be kept."""
        lost = list(self.sourced.notes)
        lost += [f"{path}: its hooks are left out" for path in hooked(self.home)]
        if self.untrainable:
            lost.append(
                f"{self.netName}: does not run in train mode ({self.untrainable}), and neither "
                f"does what is written; compared in eval mode only"
            )
        return report_on_source(
            self.netName,
            self.slim,
            self._before(),
            self.examples[0],
            (*self.writer.warnings, *lost),
        )

    def _before(self) -> Figures | None:
        if self.original is None:
            return None
        try:
            return figures_of(self.original, self.examples[0])
        except Exception as error:
            raise PrunerError(
                f"original: {type(self.original).__name__} does not run on the example inputs "
                f"({_one_line(error)}); expected the network that {self.netName} was made from"
            ) from error

    @cached_property
    def untrainable(self) -> str:
        # A tool that looks at eval mode only breaks what runs in train mode: auxiliary heads.
        for number, example in enumerate(self.examples):
            why = self._train_failure(example, _doubled)
            if why and self._train_failure(example, Tensor.clone):
                return f"example input {number}: {why}"
        return ""

    def _train_failure(self, example: tuple[Any, ...], change: Callable[[Tensor], Tensor]) -> str:
        try:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                copy.deepcopy(self.given).train()(*map_tensors(example, change))
        except Exception as error:
            return _one_line(error)
        return ""

    def oracle(self, example: int) -> tuple[str, Any]:
        return "module", self._outputs[example]

    def with_random_weights(self) -> tuple[str, Any, Mapping[str, Tensor]] | None:
        random = with_telling_state(self.given)
        expected = expected_outputs(random, _everything(random), self.examples[0])
        return "module", expected, random.state_dict()

    def oracle_in_float64(self, example: int, random: bool) -> Any:
        model = with_telling_state(self.given) if random else self.given
        return expected_outputs(model, _everything(model), self.examples[example], in_float64=True)

    def header(self, weights_name: str, verified: bool) -> str:
        return source_header(
            self.report, self.fileName, self.writer.factory, weights_name, verified
        )

    def facts(self, contents: Mapping[str, bytes], outcome: Outcome | None) -> dict[str, Any]:
        return source_manifest(self.report, contents, outcome)

    def _run(self, example: int) -> Any:
        try:
            return expected_outputs(self.given, _everything(self.given), self.examples[example])
        except PrunerError:
            raise
        except Exception as error:
            raise PrunerError(
                f"{self.netName}: does not run on example input {example} "
                f"({_one_line(error)}); expected a network that works as it is, and inputs that "
                f"it takes"
            ) from error


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _doubled(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, tensor]) if tensor.dim() else tensor.clone()


def _everything(module: nn.Module) -> Kept:
    """Of every tensor all indices: nothing is removed here."""
    return {
        name: tuple(np.arange(size) for size in tensor.shape)
        for name, tensor in module.state_dict().items()
        if isinstance(tensor, Tensor)
    }


def write_source(
    module: nn.Module,
    example_inputs: Any,
    original: nn.Module | None = None,
    *,
    name: str | None = None,
) -> WrittenSource:
    """The class definition and the state_dict of a network as it is in memory.

        torch_pruning.pruner.BasePruner(model, x, importance, pruning_ratio=0.5).step()
        result = write_source(model, x, name="resnet18_half")
        print(result.source)
        result.save("generated")

    Args:
        module: the network, pruned by whatever means, in float32 or float64; it is not changed.
            Where a layer of torch says other widths than its tensors have, the tensors are right.
        example_inputs: as for `prune`; the generated network must compute on them, in a fresh
            process, what the module computes.
        original: the network that it was made from; the figures then have a before and an after.
        name: stem of the generated files; by default `CLASS_pruned`.

    Raises:
        PrunerError: the module does not run on the inputs, or cannot be read.
        WriterError: a part of it cannot be written as source (when the source is asked for).
    """
    for what, given in (("module", module), ("original", original)):
        if given is not None and not isinstance(given, nn.Module):
            raise PrunerError(
                f"{what}: a {type(given).__name__}, expected a torch.nn.Module; a state_dict alone "
                f"does not say which class it is of"
            )
    return WrittenSource(module, example_inputs, original, name or "")
