"""The training images of every step: drawn alike in all processes, a part for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Sampler

from pruners.datasets import Augmentation, DataSplits
from pruners.distributed import Ranks, Share


@dataclass(frozen=True, slots=True)
class Batch:
    """What one process computes in one step."""

    images: Tensor
    """(N, channels, height, width), augmented."""
    labels: Tensor
    """int64 (N,)"""
    share: Share
    """Which rows of the batch of all processes these are."""


class Batches:
    """The batches of an epoch, in a new order each time it is iterated.

    Every process draws the order of all images and the augmentation of every one from the same
    generator, and takes its rows of each batch. So the batches of two processes together are those
    of one process with twice the batch size.
    """

    def __init__(
        self, splits: DataSplits, batch_size: int, generator: torch.Generator, ranks: Ranks
    ) -> None:
        self._augmentation = splits.augmentation
        self._generator = generator
        self._ranks = ranks
        self._size = len(splits.train)  # type: ignore[arg-type]
        self._together = batch_size * ranks.size
        # Batch norm cannot train on a single image.
        drop_last = self._size > self._together and self._size % self._together == 1
        order = RandomSampler(splits.train, generator=generator)  # type: ignore[arg-type]
        self._loader = DataLoader(
            splits.train,
            batch_sampler=_Parts(BatchSampler(order, self._together, drop_last), ranks),
            generator=generator,
        )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        for number, (images, labels) in enumerate(self._loader):
            total = min(self._together, self._size - number * self._together)
            share = self._ranks.share(total)
            mirrored, offsets = _drawn(total, self._augmentation, self._generator)
            rows = share.rows
            images = _moved(images, self._augmentation, mirrored[rows], offsets[:, rows])
            yield Batch(images, labels, share)


class _Parts(Sampler[list[int]]):
    """Of each batch's positions those of this process."""

    def __init__(self, batches: BatchSampler, ranks: Ranks) -> None:
        self._batches = batches
        self._ranks = ranks

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        for positions in self._batches:
            yield positions[self._ranks.share(len(positions)).rows]


def augment(images: Tensor, how: Augmentation, generator: torch.Generator) -> Tensor:
    """Images (N, C, H, W), each shifted and mirrored at random, in the same shape."""
    return _moved(images, how, *_drawn(len(images), how, generator))


def _drawn(count: int, how: Augmentation, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Whether each image is mirrored (N,), and how far it is shifted, down and right (2, N, 1)."""
    mirrored, offsets = torch.zeros(count, dtype=torch.bool), torch.zeros(2, count, 1)
    if how.flip:
        mirrored = torch.rand(count, generator=generator) < 0.5
    if how.shift:
        offsets = torch.randint(2 * how.shift + 1, (2, count, 1), generator=generator)
    return mirrored, offsets


def _moved(images: Tensor, how: Augmentation, mirrored: Tensor, offsets: Tensor) -> Tensor:
    count, channels, height, width = images.shape
    if how.flip:
        images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
    if how.shift == 0:
        return images
    padded = F.pad(images, (how.shift,) * 4, value=how.fill)
    rows = offsets[0] + torch.arange(height)
    columns = offsets[1] + torch.arange(width)
    return padded[
        torch.arange(count).view(-1, 1, 1, 1),
        torch.arange(channels).view(1, -1, 1, 1),
        rows.view(count, 1, height, 1),
        columns.view(count, 1, 1, width),
    ]
