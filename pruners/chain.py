"""Whether a network runs its layers one after the other, in the order of their definition.

The declared calculators know what happens inside a block; between the blocks they rely on this
order. One forward pass checks it. Behind every step (a block or a single layer) the tensor is
replaced by a fresh leaf of the autograd graph; the leaves that a step's input leads back to are
then exactly the steps that it reads, and the nodes on the way are the operators in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruners.errors import UnsupportedNetworkError
from pruners.layers import is_weighted
from pruners.metrics import attributes_restored

# Operators that treat every channel alike and alone, as autograd names them (without "Backward0").
_PASS_THROUGH = {
    *("Relu", "Hardtanh", "Hardswish", "Hardsigmoid", "Silu", "Mish", "Gelu", "Elu", "LeakyRelu"),
    *("Sigmoid", "Tanh", "Softplus", "Threshold", "Clamp", "ClampMin", "Neg", "Clone", "ToCopy"),
    *("MaxPool2DWithIndices", "MaxPool3DWithIndices", "AvgPool2D", "AvgPool3D"),
    *("AdaptiveAvgPool2D", "AdaptiveAvgPool3D", "AdaptiveMaxPool2D", "AdaptiveMaxPool3D"),
    *("MkldnnAdaptiveAvgPool2D", "Mean", "View", "ReshapeAlias", "UnsafeView", "Squeeze", "Alias"),
    *("UpsampleNearest2D", "UpsampleBilinear2D", "UpsampleBicubic2D", "NativeDropout", "Detach"),
    *("ConstantPadNd", "ReflectionPad2D", "ReplicationPad2D", "Contiguous"),
}


INPUT, OUTPUT = "the network's input", "the network's output"


@dataclass(frozen=True, slots=True)
class Run:
    """What one forward pass showed."""

    steps: tuple[str, ...]
    """The steps that ran, in order; those that did not run are left out."""
    positions: Mapping[str, int]
    """For every convolution and Linear that ran, by module path: output positions per example."""


def follow(model: nn.Module, example_inputs: Sequence[Any], steps: Mapping[str, nn.Module]) -> Run:
    """Run the network once and check that its steps form a chain.

    Args:
        example_inputs: positional arguments of forward; the first dimension is the batch.
        steps: blocks and layers by module path, in the order of their definition.

    Raises:
        UnsupportedNetworkError: a step reads something else than the one before it, or the
            forward raised.
    """
    watch = _Watch(model, steps)
    inputs = tuple(_map(_leaf, x) for x in example_inputs)
    for x in _tensors(inputs):
        if x.requires_grad:
            watch.begin(x, INPUT)
    devices = [x.device for x in _tensors(inputs) if x.is_cuda][:1]
    untouched = (attributes_restored(model), _buffers_restored(model))
    with untouched[0], untouched[1], watch.attached(), torch.enable_grad():
        try:
            with torch.random.fork_rng(devices):
                model.eval()
                output = model(*(_map(Tensor.clone, x) for x in inputs))
        except UnsupportedNetworkError:
            raise
        except Exception as error:
            shapes = ", ".join(str(tuple(x.shape)) for x in _tensors(inputs))
            reason = " ".join(str(error).split())
            raise UnsupportedNetworkError(
                f"{type(model).__name__}: its forward raised on example inputs of shape {shapes}: "
                f"{type(error).__name__}: {reason}"
            ) from error
    for tensor in _tensors(output):
        watch.expect(tensor, OUTPUT)
    return Run(tuple(watch.order), watch.positions)


class _Watch:
    """The hooks of one run, and what they saw."""

    def __init__(self, model: nn.Module, steps: Mapping[str, nn.Module]) -> None:
        self.model = model
        self.steps = steps
        self.place = {name: i for i, name in enumerate(steps)}
        self.order: list[str] = []
        self.positions: dict[str, int] = {}
        self.sources: dict[int, str] = {}
        self.last = ""
        self._alive: list[Any] = []

    @contextmanager
    def attached(self) -> Iterator[None]:
        hooks = []
        for path, module in self.model.named_modules():
            if is_weighted(module):
                hooks.append(module.register_forward_hook(self._count(path)))
        for path, module in self.steps.items():
            hooks.append(module.register_forward_pre_hook(self._enter(path)))
            hooks.append(module.register_forward_hook(self._leave(path)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def begin(self, leaf: Tensor, source: str) -> None:
        """From here on, whatever leads back to this leaf reads `source`."""
        self.sources[id(leaf)] = source
        self._alive.append(leaf)  # keeps the id from being given to another tensor
        self.last = source

    def expect(self, tensor: Tensor, reader: str) -> None:
        """The tensor must come from the last step alone, through known operators."""
        sources, operators = self._trace_back(tensor)
        # What comes in and what goes out keep all their channels: any operator does there.
        free = self.last == INPUT or reader == OUTPUT
        unknown = [] if free else sorted(operators - _PASS_THROUGH)
        if sources != {self.last} or unknown:
            reads = " and ".join(sorted(sources)) or "nothing that can be followed"
            through = f" through {', '.join(unknown)}" if unknown else ""
            raise UnsupportedNetworkError(
                f"{reader} reads {reads}{through}, expected {self.last} alone: outside of "
                f"decorated blocks, layers must run one after the other in the order of their "
                f"definition; "
                f"decorate the block that {reader} belongs to (@basic_block, @bottleneck)"
            )

    def _trace_back(self, tensor: Tensor) -> tuple[set[str], set[str]]:
        sources: set[str] = set()
        operators: set[str] = set()
        pending: list[Any] = [tensor.grad_fn]
        seen: set[int] = set()
        while pending:
            node = pending.pop()
            if node is None or id(node) in seen:
                continue
            seen.add(id(node))
            self._alive.append(node)
            if hasattr(node, "variable"):
                sources.add(self.sources.get(id(node.variable)) or self._parameter(node.variable))
                continue
            operators.add(type(node).__name__.split("Backward")[0])
            if getattr(node, "_saved_dim", None) is not None and "Mean" in type(node).__name__:
                dims: Any = node._saved_dim
                rank = len(node._saved_self_sym_sizes)
                # Dimensions counted from the end are kept as unsigned 64-bit numbers.
                if any((d + rank) % 2**64 % rank in (0, 1) for d in dims):
                    operators.add("mean over channels")
            pending.extend(parent for parent, _ in node.next_functions)
        return sources, operators

    def _parameter(self, variable: Tensor) -> str:
        for name, parameter in self.model.named_parameters():
            if parameter is variable:
                return f"the parameter {name}"
        return "a tensor of its own"

    def _enter(self, path: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            if path in self.order:
                raise UnsupportedNetworkError(
                    f"{path}: runs twice; expected every layer with weights to run once"
                )
            if self.order and self.place[path] < self.place[self.order[-1]]:
                raise UnsupportedNetworkError(
                    f"{path}: defined before {self.order[-1]} but runs after it; outside of "
                    f"decorated blocks, define layers in the order in which they run"
                )
            tensors = list(_tensors(args))
            if len(tensors) != 1:
                raise UnsupportedNetworkError(
                    f"{path}: called with {len(tensors)} tensors, expected one"
                )
            self.expect(tensors[0], path)
            self.order.append(path)

        return hook

    def _leave(self, path: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor:
            if not isinstance(output, Tensor):
                raise UnsupportedNetworkError(
                    f"{path}: returns {type(output).__name__}, expected one tensor"
                )
            leaf = _leaf(output)
            self.begin(leaf, path)
            return leaf.clone()  # in-place operators may not touch a leaf

        return hook

    def _count(self, path: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            channels = output.shape[-1] if isinstance(module, nn.Linear) else output.shape[1]
            per_example = output.numel() // max(1, output.shape[0] * channels)
            self.positions[path] = self.positions.get(path, 0) + per_example

        return hook


def _leaf(tensor: Tensor) -> Tensor:
    copy = tensor.detach()
    return copy.requires_grad_() if copy.is_floating_point() or copy.is_complex() else copy


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, (tuple, list)):
        for inner in value:
            yield from _tensors(inner)


def _map(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The value with every tensor in it changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: _map(change, inner) for key, inner in value.items()}
    if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        return type(value)(_map(change, inner) for inner in value)
    return value


@contextmanager
def _buffers_restored(model: nn.Module) -> Iterator[None]:
    """Give buffers that a forward writes into, or replaces (a counter, say), their values back."""
    registered = [(module, dict(module._buffers)) for module in model.modules()]
    before = [(buffer, buffer._version, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for module, buffers in registered:
            module._buffers.update(buffers)
        for buffer, version, values in before:
            if buffer._version != version:
                with torch.no_grad():
                    buffer.copy_(values)
