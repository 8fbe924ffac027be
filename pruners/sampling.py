"""A few batches of training images, as measures and batch norms see them."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader, Subset

from pruners.datasets import DataSplits

BATCH_SIZE = 64


def sample(splits: DataSplits, batches: int, seed: int) -> DataLoader[Any]:
    """So many batches of 64 training images as they are, the same ones for the same seed.

    Fewer where the dataset has fewer images.
    """
    size = len(splits.train)  # type: ignore[arg-type]
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    chosen = order[: batches * BATCH_SIZE]
    if len(chosen) > BATCH_SIZE and len(chosen) % BATCH_SIZE == 1:
        chosen = chosen[:-1]  # batch norm refuses a single image
    # A loader without a generator of its own draws from the global random state.
    return DataLoader(
        Subset(splits.train, chosen.tolist()), BATCH_SIZE, generator=torch.Generator()
    )
