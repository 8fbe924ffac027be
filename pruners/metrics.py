"""What a network costs: parameters, multiply-accumulates, bytes, milliseconds."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

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
    inputs = _as_tuple(example_inputs)
    batch = next((len(x) for x in inputs if isinstance(x, Tensor) and x.ndim > 0), 0)
    if batch == 0:
        raise PrunerError(
            "example_inputs: no tensor with at least one example; "
            "expected inputs such as torch.zeros(1, 3, 32, 32)"
        )
    try:
        flops = _flops(model, inputs, device="meta")
    except (RuntimeError, TypeError):  # a TypeError where NumPy is to have the values
        flops = _flops(model, inputs, device=None)
    return flops // 2 // batch


class WithoutNorms(TorchFunctionMode):
    """Passes over batch norms: they count nothing, and take most of the time on meta tensors."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.nn.functional.batch_norm or func is torch.batch_norm:
            return args[0]
        return func(*args, **(kwargs or {}))


def _flops(model: nn.Module, inputs: tuple[Any, ...], device: str | None) -> int:
    """Flops of one call with copies of every tensor, on `device` or where they are."""

    def copied(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.detach().clone() if device is None else value.detach().to(device)

    copies: dict[int, Tensor] = {}
    # Every module once: functional_call would swap a module at two paths twice, and put its own
    # stand-ins back.
    tensors = {
        f"{path}.{name}".removeprefix("."): copies.setdefault(id(tensor), copied(tensor))
        for path, module in model.named_modules()
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None
    }
    counter = FlopCounterMode(display=False)
    # What the forward makes without naming a device is to lie where the rest does.
    place = torch.device(device) if device else nullcontext()
    idle = WithoutNorms() if device == "meta" else nullcontext()
    with attributes_restored(model), torch.no_grad(), place, counter, idle:
        model.eval()
        torch.func.functional_call(
            model,
            tensors,
            tuple(copied(value) for value in inputs),
            tie_weights=False,
        )
    return int(counter.get_total_flops())


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


def _wait(inputs: tuple[Any, ...]) -> None:
    # A GPU answers before it is done.
    if any(isinstance(x, Tensor) and x.is_cuda for x in inputs):
        torch.cuda.synchronize()


def _as_tuple(example_inputs: Tensor | Sequence[Any]) -> tuple[Any, ...]:
    return (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
