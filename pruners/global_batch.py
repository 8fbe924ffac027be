"""What operators must know of the other processes' images, so that they compute as if alone.

Two kinds of operator look beyond the image that they are given. Batch norm normalises by the mean
and variance of the batch; dropout and its kin draw random numbers for every image, one after the
other. Training on two processes equals training on one with twice the batch only if both see the
batch of all processes together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pruners.distributed import Ranks, Share, all_reduce
from pruners.errors import PrunerError

_DRAW_PER_ROW: frozenset[Callable[..., Any]] = frozenset(
    {
        F.dropout,
        F.dropout1d,
        F.dropout2d,
        F.dropout3d,
        F.alpha_dropout,
        F.feature_alpha_dropout,
        F.rrelu,
        torch.bernoulli,
        torch.rand_like,
        torch.randn_like,
        # In place: how torchvision and timm drop whole residual paths.
        Tensor.bernoulli_,
        Tensor.uniform_,
        Tensor.normal_,
    }
)
"""Functions that draw one random number (at most) for each element of their first argument."""


def global_batch(ranks: Ranks, share: Share) -> AbstractContextManager[Any]:
    """A block in which a network's operators see the batch of all processes.

    The network itself is not touched: calls of `torch.nn.functional` are intercepted, whichever
    module makes them, so that there is nothing to restore, and modules with a batch norm of their
    own (timm's) are covered. It serves the CPU and GPUs alike (`nn.SyncBatchNorm` knows GPUs only).

    Not seen are random numbers drawn in other ways (attention's built-in dropout, say): each
    process draws those for itself, which is right, but not what one process alone would draw.
    """
    return GlobalBatch(share) if ranks.size > 1 else nullcontext()


def check_interceptable(model: nn.Module) -> None:
    """PrunerError for modules whose calls nobody sees."""
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) or hasattr(module, "_orig_mod"):
            kind = "scripted" if isinstance(module, torch.jit.ScriptModule) else "compiled"
            raise PrunerError(
                f"{path or type(model).__name__}: is a {kind} module, whose batch norms cannot be "
                f"synchronised; train the module that it was made of, or use one process"
            )


class GlobalBatch(TorchFunctionMode):
    """See `global_batch`; collective, and for one step: `share` says which rows are here."""

    def __init__(self, share: Share) -> None:
        super().__init__()
        self.share = share

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        # Within this method the mode is off.
        if func is F.batch_norm:
            return self._batch_norm(*args, **kwargs)
        if func in _DRAW_PER_ROW and len(args) > 0:
            return self._draw(func, *args, **kwargs)
        return func(*args, **kwargs)

    def _batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """`F.batch_norm` of (N, C, *) over the batch of all processes; N may differ between them.

        Ioffe and Szegedy 2015 (arXiv:1502.03167), algorithm 1: normalised by the biased variance;
        the running one is unbiased. Two sums, not one of squares, which would cancel where the
        mean is large.
        """
        if not training:
            return F.batch_norm(
                input, running_mean, running_var, weight, bias, training, momentum, eps
            )
        others = [dim for dim in range(input.ndim) if dim != 1]
        per_channel = [-1 if dim == 1 else 1 for dim in range(input.ndim)]
        wide = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        # A row that only stands in for an empty share does not count, nor do its gradients.
        counts = 0.0 if self.share.is_empty else 1.0
        own = wide.new_tensor([counts * input.numel() / input.shape[1]])
        sums = _sum_over_ranks(torch.cat([counts * wide.sum(others), own]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = wide - mean.view(per_channel)
        variance = _sum_over_ranks(counts * centred.square().sum(others)) / count
        with torch.no_grad():
            unbiased = variance * (count / (count - 1).clamp(min=1))
            for running, new in ((running_mean, mean), (running_var, unbiased)):
                if running is not None:
                    running.mul_(1 - momentum).add_(momentum * new.to(running.dtype))
        scale = (variance + eps).rsqrt()
        if weight is not None:
            scale = scale * weight
        output = centred * scale.view(per_channel)
        if bias is not None:
            output = output + bias.view(per_channel)
        return output.to(input.dtype)

    def _draw(self, func: Callable[..., Any], input: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The rows of this process, of a draw for the rows of all.

        All processes have the same random state; so do they afterwards. The input may have several
        rows an image, one image's beside each other (windows, heads).
        """
        rows, total = self.share.rows, self.share.total
        count = rows.stop - rows.start
        others = [*args, *kwargs.values()]
        if (
            input.ndim == 0
            or len(input) % count
            or any(isinstance(other, Tensor) for other in others)
        ):
            return func(input, *args, **kwargs)
        each = len(input) // count
        first, rest = each * rows.start, each * (total - rows.stop)
        everybody = torch.cat(
            [
                input.new_zeros(first, *input.shape[1:]),
                input,
                input.new_zeros(rest, *input.shape[1:]),
            ]
        )
        output = func(everybody, *args, **kwargs)[first : first + len(input)]
        if kwargs.get("inplace") or func.__name__.endswith("_"):
            return input.copy_(output)
        return output


class _SumOverRanks(torch.autograd.Function):
    """The sum over all processes; each one's gradient is the sum of all processes' gradients.

    (`torch.distributed.nn.functional.all_reduce` is the same, and deprecated.)
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _SumOverRanks.apply(*gradients)


def _sum_over_ranks(tensor: Tensor) -> Tensor:
    return _SumOverRanks.apply(tensor)  # type: ignore[no-any-return]
