"""Batch norms after pruning: their running statistics, estimated anew on data.

What flows through a network changes when channels go, but the mean and variance by which batch
norms normalise are still those of the full network. A few batches without labels mend that, and
often most of the accuracy with it (Li et al., "EagleEye: Fast Sub-net Evaluation for Efficient
Neural Network Pruning", 2020, section 3.3, "adaptive batch normalization").
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pruners.argument_batches import argument_batches, naming_batch
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

    Where a network chooses its path by the data, a norm counts the batches of which it sees images.
    One that sees none (of a head that runs in training only, too) keeps what it has; after an
    error all of them do.

    Args:
        model: in place; its weights stay, and every module ends in the mode it had.
        batches: inputs, or pairs of inputs and labels (which are not used), of at least two
            examples each (`pruners.argument_batches`).

    Returns:
        How many batch norms were recalibrated; 0 where the network has none with statistics.

    Raises:
        PrunerError: there is no batch, the forward raises on one, or what comes out is not finite.
    """
    norms = _norms(model)
    if not norms:
        return 0
    momenta = {path: norm.momentum for path, norm in norms.items()}
    before = {path: _statistics(norm) for path, norm in norms.items()}
    try:
        with modes_restored(model), torch.no_grad():
            model.eval()
            for norm in norms.values():
                norm.reset_running_stats()
                norm.momentum = None  # a plain average over all batches
            hooks = [norm.register_forward_pre_hook(_learn_from_some) for norm in norms.values()]
            try:
                _run(model, batches)
            finally:
                for hook in hooks:
                    hook.remove()
        seen = [path for path, norm in norms.items() if _batches_of(norm)]
        for path in seen:
            if not all(bool(torch.isfinite(t).all()) for t in _statistics(norms[path])):
                raise PrunerError(
                    f"recalibration: the statistics of {path} are not finite; expected finite "
                    f"images and weights"
                )
    except BaseException:
        seen = []
        raise
    finally:
        for path, norm in norms.items():
            norm.momentum = momenta[path]
            if path not in seen:
                _restore(norm, before[path])
    return len(seen)


def _run(model: nn.Module, batches: Iterable[Any]) -> None:
    """The forward of every batch."""
    number = 0
    for number, (args, kwargs, _) in enumerate(
        argument_batches(model, batches, "recalibration"), 1
    ):
        with naming_batch("recalibration", number, args, kwargs):
            model(*args, **kwargs)
    if not number:
        raise PrunerError("recalibration: no batches; expected at least one batch of inputs")


def _learn_from_some(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
    """The mean over no images is NaN: a norm on a path without any only passes them on."""
    norm.train(inputs[0].numel() > 0)


def _tracked(norm: _BatchNorm) -> list[Tensor]:
    tensors = (norm.running_mean, norm.running_var, norm.num_batches_tracked)
    return [tensor for tensor in tensors if tensor is not None]


def _statistics(norm: _BatchNorm) -> list[Tensor]:
    """Copies of mean, variance and count."""
    return [tensor.clone() for tensor in _tracked(norm)]


def _restore(norm: _BatchNorm, statistics: list[Tensor]) -> None:
    with torch.no_grad():
        for tensor, value in zip(_tracked(norm), statistics, strict=True):
            tensor.copy_(value)


def _batches_of(norm: _BatchNorm) -> int:
    count = norm.num_batches_tracked
    return 0 if count is None else int(count)
