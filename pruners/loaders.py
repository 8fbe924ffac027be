"""The data of a `Trainer`: three datasets by name, and the loaders that read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset, default_collate

from pruners.batches import augment
from pruners.datasets import Augmentation, DataSplits, Labelled, load_dataset
from pruners.errors import PrunerError, did_you_mean

SPLITS = ("train", "val", "test")

Collate = Callable[[list[Any]], Any]
"""Items of a dataset -> a batch."""


def datasets_of(
    datasets: DataSplits | str | Mapping[str, Labelled],
) -> tuple[dict[str, Labelled], Augmentation]:
    """The datasets by split, and what training may do to an image.

    Args:
        datasets: splits, the name of a registered dataset, or a dict with train, val and test,
            whose images are taken as they are.

    Raises:
        PrunerError: it is none of these, a split is missing, unknown, empty or without a length.
    """
    if isinstance(datasets, str):
        datasets = load_dataset(datasets)
    if isinstance(datasets, DataSplits):
        named: dict[str, Labelled] = {split: getattr(datasets, split) for split in SPLITS}
        return named, datasets.augmentation
    if not isinstance(datasets, Mapping):
        raise PrunerError(
            f"datasets: a {type(datasets).__name__}; expected a DataSplits, the name of a dataset, "
            f"or a dict with train, val and test"
        )
    for split in datasets:
        if split not in SPLITS:
            raise PrunerError(
                f"datasets: has {split!r}{did_you_mean(str(split), SPLITS)}; expected "
                f"{', '.join(SPLITS)}"
            )
    for split in SPLITS:
        if split not in datasets:
            raise PrunerError(f"datasets: lacks {split!r}; expected {', '.join(SPLITS)}")
        dataset = datasets[split]
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise PrunerError(
                f"datasets[{split!r}]: a {type(dataset).__name__} without a length; expected a "
                f"torch Dataset of pairs of an image and a label"
            )
        if not len(dataset):
            raise PrunerError(f"datasets[{split!r}]: is empty; expected at least one image")
    return {split: datasets[split] for split in SPLITS}, Augmentation()


def loaders_of(
    datasets: Mapping[str, Labelled],
    batch_size: int,
    collate_fn: Collate | None,
    augmentation: Augmentation,
    seed: int,
) -> dict[str, DataLoader[Any]]:
    """A loader for each split; the training images come in a new order every epoch.

    Order and augmentation are the same for the same seed, whatever else draws random numbers.

    Args:
        collate_fn: makes batches of all splits, without augmentation; by default images and labels
            are stacked, and training images augmented.

    Raises:
        PrunerError: the batch size is below 1.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise PrunerError(f"batch_size {batch_size}: expected a whole number of at least 1")
    order = torch.Generator().manual_seed(seed)
    size = len(datasets["train"])  # type: ignore[arg-type]

    def augmented(items: list[Any]) -> Any:
        images, *rest = default_collate(items)
        return [augment(images, augmentation, order), *rest]

    loaders = {
        "train": DataLoader(
            datasets["train"],
            batch_size,
            shuffle=True,
            # Batch norm cannot train on a single image.
            drop_last=size > batch_size and size % batch_size == 1,
            collate_fn=collate_fn or augmented,
            generator=order,
        )
    }
    for split in ("val", "test"):
        # A loader without a generator of its own draws from the global random state.
        loaders[split] = DataLoader(
            datasets[split], batch_size, collate_fn=collate_fn, generator=torch.Generator()
        )
    return loaders


def first_images(dataset: Labelled, count: int) -> Tensor:
    """Shape (count or fewer, ...): the first images, as an example input."""
    size = len(dataset)  # type: ignore[arg-type]
    return torch.stack([dataset[position][0] for position in range(min(count, size))])


def drawn(dataset: Labelled, count: int, seed: int) -> Subset[Any]:
    """At most so many items, drawn with the seed."""
    order = torch.randperm(
        len(dataset),  # type: ignore[arg-type]
        generator=torch.Generator().manual_seed(seed),
    )
    return Subset(dataset, order[:count].tolist())
