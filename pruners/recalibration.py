"""Batch norms after pruning: their running statistics, estimated anew on data.

What flows through a network changes when channels go, but the mean and variance by which batch
norms normalise are still those of the full network. A few batches without labels mend that, and
often most of the accuracy with it (Li et al., "EagleEye: Fast Sub-net Evaluation for Efficient
Neural Network Pruning", 2020, section 3.3, "adaptive batch normalization").
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pruners.errors import PrunerError
from pruners.metrics import modes_restored


def has_statistics(model: nn.Module) -> bool:
    """Whether there is a batch norm to recalibrate."""
    return bool(_norms(model))


def _norms(model: nn.Module) -> dict[str, _BatchNorm]:
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }


def recalibrate(model: nn.Module, batches: Iterable[Any]) -> int:
    """Set running means and variances to their averages over the batches; nothing else changes.

    Where a network chooses its path by the data, a norm counts the batches of which it sees images;
    one that sees none keeps its statistics.

    Args:
        model: in place; its weights stay, and every module ends in the mode it had.
        batches: inputs, or inputs and labels (which are not used), of at least two examples each.

    Returns:
        How many batch norms were recalibrated; 0 where the network has none with statistics.

    Raises:
        PrunerError: there is no batch, or what comes out is not finite.
    """
    norms = _norms(model)
    if not norms:
        return 0
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    momenta = {path: norm.momentum for path, norm in norms.items()}
    count = 0
    before = {path: copy.deepcopy(norm.state_dict()) for path, norm in norms.items()}
    with modes_restored(model), torch.no_grad():
        model.eval()
        for norm in norms.values():
            norm.reset_running_stats()
            norm.momentum = None  # a plain average over all batches
        hooks = [norm.register_forward_pre_hook(_learn_from_some) for norm in norms.values()]
        try:
            for batch in batches:
                count += 1
                inputs = batch[0] if isinstance(batch, list | tuple) else batch
                model(inputs.to(like.device, like.dtype) if isinstance(inputs, Tensor) else inputs)
        finally:
            for path, norm in norms.items():
                norm.momentum = momenta[path]
                if norm.num_batches_tracked is not None and not norm.num_batches_tracked:
                    norm.load_state_dict(before[path])
            for hook in hooks:
                hook.remove()
    if not count:
        raise PrunerError("recalibration: no batches; expected at least one batch of inputs")
    for path, norm in norms.items():
        for tensor in (norm.running_mean, norm.running_var):
            if tensor is not None and not bool(torch.isfinite(tensor).all()):
                raise PrunerError(
                    f"recalibration: the statistics of {path} are not finite; expected finite "
                    f"images and weights"
                )
    return len(norms)


def _learn_from_some(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
    """The mean over no images is NaN: a norm on a path without any only passes them on."""
    norm.train(inputs[0].numel() > 0)
