"""What loaders yield, as arguments of a network's forward."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pruners.errors import PrunerError
from pruners.tracing import examples_of, map_tensors, nested_tensors, state_tensors


def argument_batches(
    model: nn.Module, batches: Iterable[Any], what: str
) -> Iterator[tuple[tuple[Any, ...], dict[str, Any], Tensor | None]]:
    """Arguments of the network's forward on its device and in its precision, and labels.

    They are copies: a forward may write to its inputs.

    Args:
        batches: inputs, or pairs of inputs and labels; inputs are what `prune` takes as one example
            input, or a list of several, as a `DataLoader` makes of a tuple.
        what: is done with them, for messages.

    Raises:
        PrunerError: a batch is of another shape, is empty, or is not finite.
    """
    floating = (t for _, t in state_tensors(model) if t.is_floating_point())
    like = next(floating, torch.empty(0))

    def placed(x: Tensor) -> Tensor:
        return x.to(like.device, like.dtype if x.is_floating_point() else x.dtype, copy=True)

    for number, batch in enumerate(batches, 1):
        inputs, labels = batch, None
        if isinstance(batch, list | tuple):
            if not 1 <= len(batch) <= 2:
                raise PrunerError(
                    f"{what}: batch {number} is a {type(batch).__name__} of {len(batch)}; "
                    f"expected inputs, or (inputs, labels); several inputs are a tuple: "
                    f"((x1, x2), labels)"
                )
            inputs, labels = batch if len(batch) == 2 else (batch[0], None)
        if isinstance(inputs, list):
            inputs = tuple(inputs)
        tensors = nested_tensors(inputs)
        if not tensors or any(len(x) == 0 for x in tensors if x.dim()):
            raise PrunerError(
                f"{what}: batch {number} holds "
                f"{'an empty tensor' if tensors else f'a {type(inputs).__name__}'}; expected "
                f"inputs, or a pair of inputs and labels"
            )
        wrong = [x for x in tensors if x.is_floating_point() and not bool(x.isfinite().all())]
        if wrong:
            count = int((~wrong[0].isfinite()).sum())
            raise PrunerError(
                f"{what}: batch {number} holds {count} numbers that are not finite (NaN or "
                f"infinity); expected finite inputs"
            )
        (args, kwargs), *_ = examples_of(model, map_tensors(inputs, placed))
        yield args, kwargs, labels.to(like.device) if isinstance(labels, Tensor) else None


@contextmanager
def naming_batch(
    what: str, number: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Iterator[None]:
    """What the network raises on a batch becomes an error that says which."""
    try:
        yield
    except PrunerError:
        raise
    except Exception as error:
        shapes = ", ".join(str(tuple(x.shape)) for x in nested_tensors((args, dict(kwargs))))
        raise PrunerError(
            f"{what}: the forward raised {type(error).__name__} on batch {number} of shape "
            f"{shapes}: {' '.join(str(error).split())}; expected data like the example inputs"
        ) from error
