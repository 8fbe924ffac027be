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

from pruners.errors import PrunerError
from pruners.metrics import modes_restored
from pruners.tracing import examples_of, map_tensors, nested_tensors


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

    Batch norms that see no batch (of heads that run in training only) keep what they have; after
    an error all of them do.

    Args:
        model: in place; its weights stay, and every module ends in the mode it had.
        batches: inputs, or pairs of inputs and labels (which are not used), of at least two
            examples each; inputs are what `prune` takes as one example input, and stay as they are.

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
                norm.train()
            _run(model, batches)
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
    """The forward of every batch, on copies: it may write to its inputs."""
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))

    def placed(x: Tensor) -> Tensor:
        return x.to(like.device, like.dtype if x.is_floating_point() else x.dtype, copy=True)

    number = 0
    for number, batch in enumerate(batches, 1):
        inputs = batch
        if isinstance(batch, list | tuple) and len(batch) in (1, 2):
            inputs = batch[0]
        if isinstance(inputs, list):  # a loader makes lists of what were tuples
            inputs = tuple(inputs)
        if not nested_tensors(inputs):
            raise PrunerError(
                f"recalibration: batch {number} holds a {type(inputs).__name__}; expected inputs, "
                f"or a pair of inputs and labels"
            )
        (args, kwargs), *_ = examples_of(model, map_tensors(inputs, placed))
        try:
            model(*args, **kwargs)
        except Exception as error:
            raise PrunerError(
                f"recalibration: the forward of {type(model).__name__} raised "
                f"{type(error).__name__} on batch {number}: {' '.join(str(error).split())}; "
                f"expected inputs as it takes them, of at least two examples"
            ) from error
    if not number:
        raise PrunerError("recalibration: no batches; expected at least one batch of inputs")


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
