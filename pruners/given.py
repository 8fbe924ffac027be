"""Whether a given model can be read at all: it must be the network itself, as its classes say.

Modules compiled in place or scripted, and layers whose weight is computed at every call hide
what the source says; each is refused in one line that names the way out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pruners.errors import PrunerError, UnsupportedNetworkError
from pruners.layers import is_weighted


def check_given(model: nn.Module) -> None:
    """Raises UnsupportedNetworkError for a model that is not, or does not hold, plain modules."""
    for path, module in model.named_modules():
        where = path or "the network"
        if isinstance(module, torch.jit.ScriptModule):
            raise UnsupportedNetworkError(
                f"{where}: a TorchScript module, which has no Python source; pass the network "
                f"that it was made from"
            )
        if module._compiled_call_impl is not None:
            raise UnsupportedNetworkError(
                f"{where}: compiled in place; prune first, then call .compile() on the result"
            )
        if any(is_lazy(tensor) for tensor in (*module._parameters.values(),)):
            raise UnsupportedNetworkError(
                f"{where}: a lazy {type(module).__name__} that has not run yet; call the network "
                f"once before pruning"
            )
        if is_weighted(module) and "weight" not in module._parameters:
            raise UnsupportedNetworkError(
                f"{where}: its weight is computed at every call (weight_norm, spectral_norm, "
                f"torch.nn.utils.prune, a parametrization); make it a plain parameter first, as "
                f"with remove_weight_norm, prune.remove or parametrize.remove_parametrizations"
            )


def check_examples(model: nn.Module, examples: Sequence[Sequence[Tensor]]) -> None:
    """Raises PrunerError without an example, or where one is on another device than the network.

    Args:
        examples: the tensors of each example.
    """
    if not examples:
        raise PrunerError("example_inputs: an empty list; expected at least one example input")
    devices = {str(tensor.device): None for tensor in model.state_dict(keep_vars=True).values()}
    for number, tensors in enumerate(examples):
        for tensor in tensors:
            if devices and str(tensor.device) not in devices:
                raise PrunerError(
                    f"example input {number} of shape {tuple(tensor.shape)} is on {tensor.device}, "
                    f"{type(model).__name__} is on {' and '.join(devices)}; expected both on one "
                    f"device: move the input with .to({next(iter(devices))!r})"
                )


def hooked(model: nn.Module) -> list[str]:
    """The modules with forward hooks, which a generated file does not have, by path."""
    return [
        path or "the network"
        for path, module in model.named_modules()
        if module._forward_hooks or module._forward_pre_hooks
    ]
