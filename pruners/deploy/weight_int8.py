"""Weights as int8, a scale for every output channel: a quarter of the file, the same keys.

A weight `conv1.weight` is stored as int8, and beside it `conv1.weight.scale`, shaped to be
multiplied with it: (out, 1, 1, 1) for a convolution. No state_dict has such a key of its own, as a
tensor has no tensors inside. The factory of a generated file multiplies the two as it loads, so
that the network computes in float again; what is smaller is the file.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from pruners.errors import PrunerError

SCALE = ".scale"
"""What the key of a scale has behind the key of its weight."""

_LARGEST = 127


def int8_weights(model: nn.Module) -> OrderedDict[str, Tensor]:
    """The network's state_dict with every floating parameter of two or more dimensions as int8.

    Raises:
        PrunerError: a weight is not finite.
    """
    state: OrderedDict[str, Tensor] = OrderedDict()
    own = model.state_dict()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    transposed = {
        f"{path}.weight".removeprefix(".")
        for path, module in model.named_modules()
        if isinstance(module, _ConvTransposeNd)
    }
    for name, tensor in own.items():
        if name not in parameters or not tensor.is_floating_point() or tensor.ndim < 2:
            state[name] = tensor.detach()
            continue
        # (in, out / groups, ...) where a convolution is transposed.
        state[name], scale = _quantized(name, tensor.detach(), 1 if name in transposed else 0)
        state[f"{name}{SCALE}"] = scale
    # Module versions, which some classes refuse to load without.
    state._metadata = getattr(own, "_metadata", None)  # type: ignore[attr-defined]
    return state


def _quantized(name: str, weight: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """int8 values in [-127, 127], and the scale that gives the weight back when multiplied."""
    if not bool(weight.isfinite().all()):
        raise PrunerError(f"quantize: {name} has values that are not finite; expected numbers")
    others = [dim for dim in range(weight.ndim) if dim != axis]
    scale = weight.abs().amax(dim=others, keepdim=True) / _LARGEST
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return (weight / scale).round().clamp(-_LARGEST, _LARGEST).to(torch.int8), scale


def dequantized(state: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Float weights again, as the factory of a generated file has them."""
    plain = OrderedDict(
        (name, tensor * state[f"{name}{SCALE}"] if f"{name}{SCALE}" in state else tensor)
        for name, tensor in state.items()
        if not (name.endswith(SCALE) and name.removesuffix(SCALE) in state)
    )
    plain._metadata = getattr(state, "_metadata", None)  # type: ignore[attr-defined]
    return plain
