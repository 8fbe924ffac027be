"""Batches of training images for what looks at data without learning from it.

Measures of activations and gradients, and the statistics of batch norms, take a few of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader, Subset

from pruners.datasets import DataSplits

BATCH_SIZE = 64
BATCHES = 16
"""Batches of training images that measures and batch norms see, where the options say no other."""

_UNUSED = torch.Generator()


def sample(
    splits: DataSplits, batches: int, seed: int, batch_size: int = BATCH_SIZE
) -> DataLoader[Any]:
    """So many batches of training images as they are, the same ones for the same seed.

    Fewer where there are fewer images. None holds a single image, which batch norm refuses, unless
    there is but one.
    """
    size = len(splits.train)  # type: ignore[arg-type]
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    chosen = order[: batches * batch_size]
    if len(chosen) > batch_size and len(chosen) % batch_size == 1:
        chosen = chosen[:-1]
    # A loader without a generator of its own draws from the global random state.
    return DataLoader(Subset(splits.train, chosen.tolist()), batch_size, generator=_UNUSED)
