"""Where images come from: readers, each of which yields a dataset in three fixed splits.

`Digits` ships with scikit-learn and needs no download; the others are read from a folder by
torchvision, which checks what it reads against the published checksums.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
import torch
from torch import Tensor

from pruners.errors import PrunerError


class RawSplit(NamedTuple):
    """Images as they are stored, (N, channels, height, width), and their labels, int64 (N,)."""

    images: Tensor
    labels: Tensor


class RawSplits(NamedTuple):
    train: RawSplit
    val: RawSplit
    test: RawSplit


class DatasetEntry(TypedDict):
    """One dataset on offer."""

    wrapper: Callable[[Path | None, bool], RawSplits]
    """Reads it: (its folder, download) -> the three splits."""
    path: Path | None
    """Its folder, within the folder of all data; None where it needs none."""
    shape: tuple[int, int, int]
    """Channels, height and width that it is brought to where nothing else is asked for."""
    num_classes: int
    brightest: int
    """The stored value that means 1.0."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Per stored channel, of values between 0 and 1."""
    shift: int
    flip: bool
    """See `Augmentation`; `shift` is for an image of the default shape."""


def read_digits(folder: Path | None, download: bool) -> RawSplits:
    """The 1,797 digits of scikit-learn: 1,257 to train, 180 to validate, 360 to test."""
    # Imported here: scikit-learn takes a second, and most uses of the pruner need no data.
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    digits = RawSplit(
        torch.from_numpy(images).to(torch.uint8).view(-1, 1, 8, 8),
        torch.from_numpy(labels).to(torch.int64),
    )
    rest, test = _stratified(digits, 360)
    train, val = _stratified(rest, 180)
    return RawSplits(train, val, test)


def read_torchvision(folder: Path | None, download: bool, *, name: str) -> RawSplits:
    """A dataset that torchvision reads from a folder; a tenth of train validates."""
    from torchvision import datasets as torchvision_datasets

    reader = getattr(torchvision_datasets, name)
    place = folder if folder is not None else Path(name)
    # torchvision wants the folder that all its datasets lie in: MNIST/raw is two below it.
    root = place.parent.parent if place.name == "raw" else place.parent
    expected = f"expected in it the files of {_source(reader)}"
    if not download and not place.is_dir():
        raise PrunerError(
            f"dataset {name}: {place} is missing; {expected} "
            f"(--data-dir says where to look, --download fetches them)"
        )
    try:
        # Some versions of torchvision report on stdout, which belongs to results.
        with contextlib.redirect_stdout(sys.stderr):
            parts = [reader(root, train=part, download=download) for part in (True, False)]
        stored, test = (_raw_split(part.data, part.targets) for part in parts)
    except (RuntimeError, OSError, ValueError, TypeError, AssertionError) as error:
        what = "could not be downloaded" if download else "is incomplete or damaged"
        reason = " ".join(str(error).split()) or type(error).__name__
        way_out = "" if download else "; remove it and use --download"
        raise PrunerError(
            f"dataset {name}: {place} {what} ({reason}); {expected}{way_out}"
        ) from error
    train, val = _stratified(stored, max(1, len(stored.labels) // 10))
    return RawSplits(train, val, test)


def _source(reader: type) -> str:
    """Where the published files are: an archive, or a folder and the names in it."""
    url = getattr(reader, "url", None)
    if url is not None:
        return str(url)
    # torchvision's readers of the MNIST family list files and mirrors instead.
    names = [name for name, _ in getattr(reader, "resources", [])]
    return " ".join([*getattr(reader, "mirrors", [])[:1], *names])


def _raw_split(data: np.ndarray | Tensor, targets: list[int] | Tensor) -> RawSplit:
    """Bytes (N, H, W) or (N, H, W, C) and N labels."""
    images = torch.as_tensor(data)
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
    if len(images) != len(targets):
        raise ValueError(f"{len(images)} images but {len(targets)} labels")
    return RawSplit(images, torch.as_tensor(targets, dtype=torch.int64))


def _stratified(split: RawSplit, second: int) -> tuple[RawSplit, RawSplit]:
    """Two parts with the same share of every class; the second has `second` images.

    The seed is fixed: an image that was trained on must never turn up in a later run's test.
    """
    from sklearn.model_selection import train_test_split

    first_positions, second_positions = train_test_split(
        np.arange(len(split.labels)),
        test_size=second,
        stratify=split.labels.numpy(),
        random_state=0,
    )
    first, rest = torch.from_numpy(first_positions), torch.from_numpy(second_positions)
    return (
        RawSplit(split.images[first], split.labels[first]),
        RawSplit(split.images[rest], split.labels[rest]),
    )
