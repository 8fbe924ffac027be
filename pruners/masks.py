"""Pruned channels as zeros: the network keeps its size, and the masks hold while it is trained."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from pruners.channel_graph import Kept


class ChannelMask(torch_prune.BasePruningMethod):
    """Zeros at all positions but those that stay: whole rows and columns of one parameter."""

    PRUNING_TYPE = "structured"

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """Shape of the parameter: 1 where it stays, 0 elsewhere."""
        return default_mask * self.mask.to(default_mask)


def apply_masks(model: nn.Module, kept: Kept) -> None:
    """Mask every parameter that loses positions, with `torch.nn.utils.prune`, in place.

    The masked network computes what the pruned one does: a channel whose filter, bias and
    batch-norm entries are 0 is 0 wherever it is read. Parameters become `NAME_orig`, as that module
    does it; `without_masks` makes them plain again.

    Args:
        kept: for every parameter and buffer, for every dimension, the indices that stay.
    """
    for path, module in model.named_modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            full = f"{path}.{name}" if path else name
            dims = kept.get(full)
            if dims is None or all(
                len(indices) == size for indices, size in zip(dims, parameter.shape, strict=True)
            ):
                continue
            mask = torch.ones_like(parameter.detach())
            for dim, indices in enumerate(dims):
                stays = torch.zeros(parameter.shape[dim], dtype=mask.dtype, device=mask.device)
                stays[torch.as_tensor(indices, device=mask.device)] = 1
                shape = [1] * parameter.dim()
                shape[dim] = -1
                mask *= stays.view(shape)
            ChannelMask.apply(module, name, mask)  # type: ignore[no-untyped-call]


def without_masks(masked: nn.Module, like: nn.Module) -> nn.Module:
    """A network with plain parameters, zeros where they are masked, in the mode of the masked one.

    Args:
        masked: a network with masks, or without.
        like: the same network before it was masked, whose classes and order of keys the result has.
    """
    plain = copy.deepcopy(like)
    state = masked.state_dict()
    for name in plain.state_dict():
        if f"{name}_orig" in state:
            state[name] = state.pop(f"{name}_orig") * state.pop(f"{name}_mask")
    plain.load_state_dict(state)
    return plain.train(masked.training)
