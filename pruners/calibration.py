"""What measures need to know of data: activations and gradients, from one pass over it.

All layers are watched together. The run is held against the traced one step by step, so that it is
known where the channels of every layer are (`activations.py`), whatever the forward is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pruners.activations import Place, Use, uses_of
from pruners.argument_batches import argument_batches, naming_batch
from pruners.calls import tensors_in
from pruners.channel_graph import Axis, Units
from pruners.errors import PrunerError
from pruners.measures import OF_ACTIVATIONS, OF_GRADIENTS
from pruners.notes import Rule
from pruners.progress import bar
from pruners.tracing import (
    UNRECORDED,
    Tape,
    Trace,
    Watch,
    fills,
    map_tensors,
    name_of,
    state_tensors,
    swap_tensors,
    untouched,
)

Loss = Callable[[Any, Tensor], Tensor]
"""(what the network returns, labels) -> a number to be small."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Data to measure a network on.

    Attributes:
        batches: what a `DataLoader` yields: inputs, or inputs and labels; labels are only needed
            for gradients.
        loss: by default the cross entropy with labels (N,) of classes.
        total: how many batches there are, where `len` does not say so.
    """

    batches: Iterable[Any]
    loss: Loss = F.cross_entropy
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Statistics:
    """What was measured, layer by layer; see `pruners.measures` for the fields.

    A layer is the axis of its output channels: a weight that is tied to another one's transpose
    makes two.
    """

    uses: Mapping[Axis, Sequence[Use]]
    activations: Mapping[str, Mapping[Axis, Tensor]] = field(default_factory=dict)
    """`activations["in_activations"][Axis("conv1.weight", 0)]`"""
    gradients: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """`gradients["hessian"]["conv1.weight"]`, of the weight's own shape."""


def collect(
    model: nn.Module,
    trace: Trace,
    units: Units,
    needed: Collection[str],
    calibration: Calibration | None,
    *,
    seed: int = 0,
    progress: bool = False,
) -> Statistics:
    """Everything that a measure needs, in eval mode; the model is left as it was.

    Args:
        needed: names of `pruners.measures.CALIBRATED`; without any, no data is read.
        seed: of the random signs for the diagonal of the Hessian.

    Raises:
        PrunerError: there is no data, or not what is needed: labels out of range, a loss that is
            not finite, a network whose forward takes another way than on the example inputs.
    """
    uses = uses_of(trace, units)
    by_layer: dict[Axis, list[Use]] = {}
    for use in uses:
        by_layer.setdefault(use.axis, []).append(use)
    wanted = OF_ACTIVATIONS & set(needed), OF_GRADIENTS & set(needed)
    if not any(wanted):
        return Statistics(by_layer)
    if calibration is None:
        raise PrunerError(
            f"calibration: missing; {', '.join(sorted({*wanted[0], *wanted[1]}))} are measured on "
            f"data (--dataset NAME, or calibration=Calibration(loader) from Python)"
        )
    watch = _Activations(trace, uses, wanted[0])
    count = 0
    # Tensors that a measuring run writes to are copies.
    with untouched(trace.state.modules), bar("calibrating", _total(calibration), progress) as tick:
        model.eval()
        buffers = {id(b): b.clone() for m in trace.state.modules for b in _buffers(m)}
        swap_tensors(trace.state.modules, buffers)
        weights = dict.fromkeys(use.weight for use in uses)
        slopes = _Gradients(model, list(weights), wanted[1], calibration.loss, seed)
        for count, (args, kwargs, labels) in enumerate(
            argument_batches(model, calibration.batches, "calibration"), 1
        ):
            if wanted[0]:
                with naming_batch("calibration", count, args, kwargs):
                    watch.run(model, args, kwargs)
            if wanted[1]:
                slopes.run(count, args, kwargs, labels)
            tick()
    if not count:
        raise PrunerError("calibration: no batches; expected at least one batch of inputs")
    return Statistics(by_layer, watch.means(by_layer), slopes.means(count))


def _buffers(module: nn.Module) -> list[Tensor]:
    return [buffer for buffer in module._buffers.values() if buffer is not None]


def _total(calibration: Calibration) -> int | None:
    if calibration.total is not None:
        return calibration.total
    try:
        return len(calibration.batches)  # type: ignore[arg-type]
    except TypeError:
        return None


# --- activations -------------------------------------------------------------------------------


@dataclass(slots=True)
class _Sum:
    """Of one dimension of one tensor, over all batches; float64, shape (size of it,)."""

    magnitude: Tensor
    zeros: Tensor
    ranks: Tensor
    elements: int = 0
    examples: int = 0


class Follower(Watch):  # type: ignore[no-untyped-call]
    """Runs the network on data beside the traced run, so that every step is known by its number."""

    def __init__(self, trace: Trace) -> None:
        super().__init__(trace.state, False)
        self.tape: Tape = trace.tapes[0]
        self.at = 0

    def run(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """PrunerError where the forward takes another way than on the example inputs."""
        self.at = 0
        with torch.inference_mode():  # a forward may write to its inputs
            args = map_tensors(args, Tensor.clone)
            kwargs = map_tensors(dict(kwargs), Tensor.clone)
        with self.watching():
            model(*args, **kwargs)
        if self.at < len(self.tape.steps):
            raise _another_way(name_of(self.tape.steps[self.at].func), "is not reached")

    def step(self, func: Any, rule: Rule | None, args: tuple[Any, ...], kwargs: Any) -> Any:
        if name_of(func) in UNRECORDED:
            return func(*args, **kwargs)
        if number := fills(func, self.tape.steps, self.at):
            self.at += number
            return func(*args, **kwargs)
        if self.at >= len(self.tape.steps) or self.tape.steps[self.at].func != func:
            raise _another_way(name_of(func), "runs")
        with self.unwatched():
            self.reads(self.at, args, kwargs)
        out = func(*args, **kwargs)
        with self.unwatched():
            self.made(self.at, out)
        self.at += 1
        return out

    def reads(self, step: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Called with the arguments of every step, before it runs."""

    def made(self, step: int, out: Any) -> None:
        """Called with the result of every step."""


Key = tuple[int, int, int]
"""(step, operand, dimension) as in a `Place`."""


class _Activations(Follower):  # type: ignore[no-untyped-call]
    """Sums up what it is asked to."""

    def __init__(self, trace: Trace, uses: Sequence[Use], wanted: Collection[str]) -> None:
        super().__init__(trace)
        self.wanted = frozenset(wanted)
        self.sums: dict[Key, _Sum] = {}
        self.inputs: dict[int, set[Key]] = {}
        self.outputs: dict[int, set[Key]] = {}
        for use in uses:
            if "in_activations" in self.wanted:
                self.inputs.setdefault(use.reads.step, set()).add(_key(use.reads))
            if self.wanted - {"in_activations"}:
                self.outputs.setdefault(use.behind.step, set()).add(_key(use.behind))

    def reads(self, step: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        keys = self.inputs.get(step)
        if keys:
            tensors = tensors_in((*args, *kwargs.values()))
            for key in keys:
                self._add(key, tensors[key[1]])

    def made(self, step: int, out: Any) -> None:
        for key in self.outputs.get(step, ()):
            self._add(key, tensors_in([out])[0])

    def _add(self, key: Key, x: Tensor) -> None:
        dim = key[2]
        values = x.movedim(dim, 0)
        size = len(values)
        found = self.sums.get(key)
        if found is None:
            nothing = torch.zeros(size, dtype=torch.float64, device=x.device)
            found = self.sums[key] = _Sum(nothing, nothing.clone(), nothing.clone())
        rows = values.reshape(size, -1)
        found.magnitude += rows.abs().sum(1, dtype=torch.float64)
        found.elements += rows.shape[1]
        if key[1] < 0 and "zeros" in self.wanted:
            found.zeros += (rows == 0).sum(1)
        if key[1] < 0 and "ranks" in self.wanted:
            # (channels, batch, height, width); without an image, one number is a map.
            maps = values if values.dim() == 4 else values.reshape(size, -1, 1, 1)
            found.ranks += torch.linalg.matrix_rank(maps.float()).sum(1)
            found.examples += maps.shape[1]

    def means(self, by_layer: Mapping[Axis, Sequence[Use]]) -> dict[str, dict[Axis, Tensor]]:
        """For every statistic and layer one number a channel, float64 on the CPU."""
        result: dict[str, dict[Axis, Tensor]] = {name: {} for name in self.wanted}
        for axis, uses in by_layer.items():
            if "in_activations" in self.wanted:
                groups = uses[0].groups
                alike = [self._mean(u.reads, "in_activations") for u in uses if u.groups == groups]
                if groups:
                    result["in_activations"][axis] = torch.stack(alike).mean(0)
            for name in self.wanted - {"in_activations"}:
                found = of_rows([(self._mean(use.behind, name), use) for use in uses])
                if found is not None:
                    result[name][axis] = found
        return result

    def _mean(self, place: Place, name: str) -> Tensor:
        found = self.sums[_key(place)]
        match name:
            case "zeros":
                total, count = found.zeros, found.elements
            case "ranks":
                total, count = found.ranks, found.examples
            case _:
                total, count = found.magnitude, found.elements
        return (total / max(count, 1)).cpu()


def _key(place: Place) -> Key:
    return place.step, place.operand, place.dim


def of_rows(uses: Sequence[tuple[Tensor, Use]]) -> Tensor | None:
    """Shape (rows of the weight,): of every row the mean over the calls that make it, each the mean
    over the positions that hold it; None where no call makes one of the rows."""
    if not uses:
        return None
    size = uses[0][1].size
    total, calls = np.zeros(size), np.zeros(size)
    for values, use in uses:
        count = np.bincount(use.rows, minlength=size)
        summed = np.bincount(use.rows, values.numpy()[use.positions], size)
        total += summed / np.maximum(count, 1)
        calls += count > 0
    return torch.from_numpy(total / calls) if calls.all() else None


def _another_way(name: str, what: str) -> PrunerError:
    return PrunerError(
        f"calibration: the operator {name} {what} in its forward other than on the example "
        f"inputs; expected data that takes the same way: give a batch of it as example_inputs"
    )


# --- gradients ---------------------------------------------------------------------------------


class _Gradients:
    """Gradients of the loss with respect to the weights, whether they are to be trained or not."""

    def __init__(
        self,
        model: nn.Module,
        names: Sequence[str],
        wanted: Collection[str],
        loss: Loss,
        seed: int,
    ) -> None:
        self.model, self.loss, self.wanted = model, loss, frozenset(wanted)
        tensors = dict(state_tensors(model))
        self.names = list(names) if wanted else []
        self.own = {name: tensors[name] for name in self.names}
        self.generator = torch.Generator().manual_seed(seed)
        self.sums = {
            kind: {name: torch.zeros_like(t.detach()) for name, t in self.own.items()}
            for kind in self.wanted
        }

    def run(
        self, number: int, args: tuple[Any, ...], kwargs: Mapping[str, Any], labels: Tensor | None
    ) -> None:
        if labels is None:
            raise PrunerError(
                f"calibration: batch {number} has no labels; gradients of the loss need pairs of "
                f"inputs and labels"
            )
        weights = {n: t.detach().requires_grad_() for n, t in self.own.items()}
        second = "hessian" in self.wanted
        # The fused attention kernels have no second derivatives.
        plain = sdpa_kernel(SDPBackend.MATH) if second else nullcontext()
        with torch.enable_grad(), _swapped(self.model, self.own, weights), plain:
            with naming_batch("calibration", number, args, kwargs):
                outputs = self.model(*map_tensors(args, Tensor.clone), **kwargs)
            value = self._value(number, outputs, labels)
            slopes = torch.autograd.grad(
                value, list(weights.values()), create_graph=second, allow_unused=True
            )
            known = {n: g for n, g in zip(weights, slopes, strict=True) if g is not None}
            for name, slope in known.items():
                if "gradients" in self.wanted:
                    self.sums["gradients"][name] += slope.detach()
                if "squared_gradients" in self.wanted:
                    self.sums["squared_gradients"][name] += slope.detach().square()
            if second:
                self._curvature(weights, known)

    def _curvature(self, weights: Mapping[str, Tensor], slopes: Mapping[str, Tensor]) -> None:
        """Hutchinson's estimate of the diagonal: z * (H z) with random signs z."""
        signs = {
            name: (torch.randint(2, slope.shape, generator=self.generator) * 2 - 1).to(slope)
            for name, slope in slopes.items()
        }
        alive = [name for name, slope in slopes.items() if slope.requires_grad]
        if not alive:  # the loss is linear in every weight
            return
        try:
            products = torch.autograd.grad(
                [slopes[name] for name in alive],
                [weights[name] for name in alive],
                [signs[name] for name in alive],
                allow_unused=True,
            )
        except RuntimeError as error:
            raise PrunerError(
                f"{type(self.model).__name__}: has no second derivatives "
                f"({' '.join(str(error).split())[:200]}); choose another measure, such as Taylor"
            ) from error
        for name, product in zip(alive, products, strict=True):
            if product is not None:
                self.sums["hessian"][name] += signs[name] * product

    def _value(self, number: int, outputs: Any, labels: Tensor) -> Tensor:
        if self.loss is F.cross_entropy:
            _check_labels(number, self.model, outputs, labels)
        try:
            value = self.loss(outputs, labels)
        except Exception as error:
            raise PrunerError(
                f"calibration: the loss raised {type(error).__name__} on batch {number}: "
                f"{' '.join(str(error).split())}; it is called with what the network returns and "
                f"the labels"
            ) from error
        if not isinstance(value, Tensor) or value.numel() != 1 or not bool(value.isfinite().all()):
            shown: Any = f"a {type(value).__name__}"
            if isinstance(value, Tensor):
                shown = value.item() if value.numel() == 1 else f"of shape {tuple(value.shape)}"
            raise PrunerError(
                f"calibration: the loss of batch {number} is {shown}; expected one finite number"
            )
        return value

    def means(self, count: int) -> dict[str, dict[str, Tensor]]:
        return {
            kind: {name: total / count for name, total in sums.items()}
            for kind, sums in self.sums.items()
        }


def _check_labels(number: int, model: nn.Module, outputs: Any, labels: Tensor) -> None:
    if not isinstance(outputs, Tensor) or outputs.dim() < 2:
        raise PrunerError(
            f"calibration: {type(model).__name__} returns a {type(outputs).__name__}; expected "
            f"logits (batch, classes), or a loss of your own: Calibration(loader, loss=...)"
        )
    if not labels.is_floating_point() and labels.numel():
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= outputs.shape[1]:
            raise PrunerError(
                f"calibration: batch {number} has the label {low if low < 0 else high}; "
                f"{type(model).__name__} has {outputs.shape[1]} outputs, expected labels from 0 "
                f"to {outputs.shape[1] - 1}"
            )


@contextmanager
def _swapped(
    model: nn.Module, own: Mapping[str, Tensor], others: Mapping[str, Tensor]
) -> Iterator[None]:
    modules = list(model.modules())
    there = {id(tensor): others[name] for name, tensor in own.items()}
    back = {id(others[name]): tensor for name, tensor in own.items()}
    swap_tensors(modules, there)
    try:
        yield
    finally:
        swap_tensors(modules, back)
