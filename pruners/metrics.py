"""What a network costs: parameters, multiply-accumulates, bytes and milliseconds."""

from __future__ import annotations

import gc
import io
import statistics
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from pruners import meta_shapes
from pruners.errors import PrunerError


@contextmanager
def modes_restored(*models: nn.Module) -> Iterator[None]:
    """Put every module back into the mode it had, train or eval, also after an exception."""
    before = [(module, module.training) for model in models for module in model.modules()]
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


@contextmanager
def attributes_restored(model: nn.Module) -> Iterator[None]:
    """Give every module its plain attributes and modes back, also after an exception.

    A forward that caches a tensor on `self` would otherwise keep one of another device.
    """
    before = [(module, dict(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes in before:
            vars(module).clear()
            vars(module).update(attributes)


def count_parameters(model: nn.Module) -> int:
    """How many numbers the network learns; a parameter that layers share counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, example_inputs: Tensor | Sequence[Any]) -> int:
    """Multiply-accumulates of one example in eval mode: torch's count of flops, halved.

    Convolutions, matrix products and attention count; what works on single elements does not.
    The network runs on meta tensors, so no arithmetic is done; one whose forward needs real
    values is run on copies of its parameters instead.

    Args:
        model: left as it is: parameters, buffers, modes, attributes.
        example_inputs: one input or all of them in order, examples along the first dimension.

    Raises:
        PrunerError: there is no tensor with a batch dimension among the inputs.
    """
    return _of_one_example(_flops, model, example_inputs) // 2


def activation_memory(model: nn.Module, example_inputs: Tensor | Sequence[Any]) -> int:
    """Bytes of the activations that one example needs at once: their peak in a forward pass.

    The pass is in eval mode and without gradients. Counted is what is alive: the inputs, to the
    end, and every tensor that the forward makes, for as long as it or a view of it is held. A
    view takes nothing, nor does an operator in place. Parameters and buffers do not count, nor
    other tensors that were there before, nor constants (`torch.tensor([1, 2])`), nor the
    workspace that a kernel takes and gives back.

    The network runs on meta tensors, so the figure is the same on every device; one whose forward
    needs real values is run on copies of its parameters instead. It runs with the examples that
    are given, and the peak is divided by their number: what does not grow with it (a grid of
    positions that the forward makes) counts in full for one example only.

    Args:
        model: left as it is: parameters, buffers, modes, attributes.
        example_inputs: one input or all of them in order, examples along the first dimension.

    Raises:
        PrunerError: there is no tensor with a batch dimension among the inputs.
    """
    return _of_one_example(_peak_bytes, model, example_inputs)


def _of_one_example(
    count: Callable[[nn.Module, tuple[Any, ...], str | None], int],
    model: nn.Module,
    example_inputs: Tensor | Sequence[Any],
) -> int:
    """What is counted on meta tensors or, where they will not do, on real ones; a batch's share."""
    inputs = _as_tuple(example_inputs)
    batch = next((len(x) for x in inputs if isinstance(x, Tensor) and x.ndim > 0), 0)
    if batch == 0:
        raise PrunerError(
            "example_inputs: no tensor with at least one example; "
            "expected inputs such as torch.zeros(1, 3, 32, 32)"
        )
    try:
        total = count(model, inputs, "meta")
    except (RuntimeError, TypeError):  # a TypeError where NumPy is to have the values
        total = count(model, inputs, None)
    return total // batch


class Shortened(TorchFunctionMode):
    """Passes over what takes most of the time on meta tensors.

    Batch norms count nothing. Recurrent layers apply every matrix once a step; their kernels are
    taken apart into operators of single steps.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        """Of the recurrent layers."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.nn.functional.batch_norm or func is torch.batch_norm:
            return args[0]
        if getattr(func, "__name__", "") in meta_shapes.RECURRENT:
            outputs = meta_shapes.recurrent_result(args)
            if outputs is not None and args[0].is_meta:
                steps = args[0].shape[:2].numel()
                self.flops += 2 * steps * sum(w.numel() for w in args[2] if w.dim() == 2)
                return outputs
        return func(*args, **(kwargs or {}))


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the memory of the tensors that operators make, until nobody holds it any more.

    A storage counts once, whatever tensors look at it. What an operator reads without anybody
    having made it under this mode was there before, and does not count.
    """

    def __init__(self, inputs: Iterable[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive = 0
        """Bytes that are held now."""
        self.peak = 0
        """The most bytes that were held at once."""
        self._followed: dict[int, _Followed] = {}
        self._made(inputs)  # which count, although they were there before

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        for storage in _storages((args, kwargs)):
            self._follow(storage, counts=False)
        result = func(*args, **(kwargs or {}))
        # Statistics of the batch: empty in eval mode, but for meta tensors.
        norm_in_eval = func is torch.ops.aten.native_batch_norm.default and not args[5]
        self._made(result[:1] if norm_in_eval else result)
        return result

    def _made(self, values: Any) -> None:
        for storage in _storages(values):
            self._follow(storage, counts=True)
        self.peak = max(self.peak, self.alive)

    def _follow(self, storage: torch.UntypedStorage, counts: bool) -> None:
        """Take note of a storage: of one that is new, to the end of its life; of its size."""
        key = storage._cdata
        if key not in self._followed:
            ended = weakref.ref(storage, lambda _: self._freed(key))
            self._followed[key] = _Followed(ended, counts)
        known = self._followed[key]
        if known.counts:
            # The size of one that is known differs where an operator has resized it.
            self.alive += storage.nbytes() - known.bytes
            known.bytes = storage.nbytes()

    def _freed(self, key: int) -> None:
        self.alive -= self._followed.pop(key).bytes


@dataclass(slots=True)
class _Followed:
    """A storage that somebody holds."""

    ended: weakref.ref[torch.UntypedStorage]
    """Lives as long as it is to be told of the end."""
    counts: bool
    bytes: int = 0
    """How many of them are counted."""


def _storages(values: Any) -> Iterator[torch.UntypedStorage]:
    """The memory behind the tensors among the values; sparse ones have none of this kind."""
    for value in tree_leaves(values):
        if isinstance(value, Tensor) and value.layout == torch.strided:
            yield value.untyped_storage()


@contextmanager
def no_collection() -> Iterator[None]:
    """The collector of garbage waits: what refers to itself is freed after the end, not within."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _flops(model: nn.Module, inputs: tuple[Any, ...], device: str | None) -> int:
    """Flops of one call with copies of every tensor, on `device` or where they are."""
    counter = FlopCounterMode(display=False)
    shortened = Shortened()
    short = [shortened] if device == "meta" else []
    _call(model, _copies(model, device), _copied(inputs, device), device, [counter, *short])
    return int(counter.get_total_flops()) + shortened.flops


def _peak_bytes(model: nn.Module, inputs: tuple[Any, ...], device: str | None) -> int:
    """Most bytes alive at once in one call with copies of every tensor, on `device` or not."""
    inputs = _copied(inputs, device)
    live = LiveBytes(inputs)
    _call(model, _copies(model, device), inputs, device, [no_collection(), live])
    return live.peak


def _copied(inputs: tuple[Any, ...], device: str | None) -> tuple[Any, ...]:
    return tuple(_copy(value, device) if isinstance(value, Tensor) else value for value in inputs)


def _copy(tensor: Tensor, device: str | None) -> Tensor:
    return tensor.detach().clone() if device is None else tensor.detach().to(device)


def _copies(model: nn.Module, device: str | None) -> dict[str, Tensor]:
    """A copy of every parameter and buffer, by name."""
    copies: dict[int, Tensor] = {}
    # Every module once: functional_call would swap a module at two paths twice, and put its own
    # stand-ins back.
    return {
        f"{path}.{name}".removeprefix("."): copies.setdefault(id(tensor), _copy(tensor, device))
        for path, module in model.named_modules()
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None
    }


def _call(
    model: nn.Module,
    tensors: dict[str, Tensor],
    inputs: tuple[Any, ...],
    device: str | None,
    contexts: Iterable[AbstractContextManager[Any]],
) -> None:
    """Run the network in eval mode, with other tensors than its own, in the contexts."""
    # What the forward makes without naming a device is to lie where the rest does.
    place = torch.device(device) if device else nullcontext()
    with attributes_restored(model), torch.no_grad(), place, ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        model.eval()
        torch.func.functional_call(model, tensors, inputs, tie_weights=False)


def state_dict_bytes(state_dict: Mapping[str, Any]) -> int:
    """Size in bytes of the file that `torch.save` makes of it."""
    buffer = io.BytesIO()
    torch.save(state_dict, buffer)
    return buffer.getbuffer().nbytes


def latency_ms(
    model: nn.Module, example_inputs: Tensor | Sequence[Any], repeats: int = 30
) -> float:
    """Milliseconds that one call takes: the median of `repeats` warm ones, eval, no gradients."""
    return compare_latency([model], example_inputs, repeats)[0]


def compare_latency(
    models: Sequence[nn.Module], example_inputs: Tensor | Sequence[Any], repeats: int = 30
) -> list[float]:
    """Milliseconds that one call takes, for each of the models on the same inputs.

    The models take turns, so that whatever else the machine does slows all of them alike.
    Medians of `repeats` rounds after three that warm up; each model and the inputs must be on
    one device. The models' modes are left as they were.

    Raises:
        PrunerError: fewer than one repeat.
    """
    if repeats < 1:
        raise PrunerError(f"repeats {repeats}: expected 1 or more")
    inputs = _as_tuple(example_inputs)
    times: list[list[float]] = [[] for _ in models]
    with modes_restored(*models), torch.no_grad():
        for model in models:
            model.eval()
        for turn in range(-3, repeats):
            for model, measured in zip(models, times, strict=True):
                _wait(inputs)
                start = time.perf_counter()
                model(*inputs)
                _wait(inputs)
                if turn >= 0:
                    measured.append((time.perf_counter() - start) * 1e3)
    return [statistics.median(measured) for measured in times]


@contextmanager
def one_thread() -> Iterator[None]:
    """One image of a small network leaves nothing to share: threads would measure each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _wait(inputs: tuple[Any, ...]) -> None:
    # A GPU answers before it is done.
    if any(isinstance(x, Tensor) and x.is_cuda for x in inputs):
        torch.cuda.synchronize()


def _as_tuple(example_inputs: Tensor | Sequence[Any]) -> tuple[Any, ...]:
    return (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
