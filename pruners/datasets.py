"""Images to train and test on, as three fixed splits.

`Digits` ships with scikit-learn and needs no download; the others are read from a folder by
torchvision, which checks what it reads against the published checksums.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from pruners.errors import PrunerError, did_you_mean

Labelled = Dataset[tuple[Tensor, ...]]
"""Pairs of an image, float (channels, height, width), and a label, int64 ()."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What training may do to an image without changing what it shows."""

    shift: int = 0
    """Largest shift in pixels, up, down, left and right."""
    flip: bool = False
    """Whether the mirror image shows the same thing."""
    fill: float = 0.0
    """The value, after normalisation, of what a shift uncovers."""


@dataclass(frozen=True, slots=True)
class DataSplits:
    """A dataset in three parts that share no image."""

    name: str
    train: Labelled
    val: Labelled
    test: Labelled
    num_classes: int
    input_shape: tuple[int, int, int]
    """Channels, height and width of one image."""
    augmentation: Augmentation


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

    wrapper: Callable[[Path, bool], RawSplits]
    """Reads it: (data_dir, download) -> the three splits."""
    shape: tuple[int, int, int]
    """Channels, height and width that it is brought to where nothing else is asked for."""
    num_classes: int
    bundled: bool
    """Whether it is there without a data directory."""
    brightest: int
    """The stored value that means 1.0."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Per stored channel, of values between 0 and 1."""
    shift: int
    flip: bool
    """See `Augmentation`; `shift` is for an image of the default shape."""


class StoredImages(Dataset[tuple[Tensor, ...]]):
    """Images kept as bytes and prepared one at a time: a quarter of the memory of floats."""

    def __init__(self, raw: RawSplit, prepare: Callable[[Tensor], Tensor]) -> None:
        self.raw = raw
        self.prepare = prepare

    def __len__(self) -> int:
        return len(self.raw.labels)

    def __getitem__(self, position: int) -> tuple[Tensor, ...]:
        image = self.prepare(self.raw.images[position : position + 1])[0]
        return image, self.raw.labels[position]


def load_dataset(
    name: str,
    data_dir: str | Path | None = None,
    download: bool = False,
    input_shape: tuple[int, int, int] | None = None,
) -> DataSplits:
    """The splits of a dataset; the same on every call and every machine.

    Args:
        name: a key of `DATASETS`, in any case.
        data_dir: the folder that holds (or, with `download`, gets) the files; `data` by default.
        download: fetch what is missing. Bundled datasets ignore it.
        input_shape: (channels, height, width) of the images, where the dataset's own `shape`
            will not do. Images are resized bilinearly; grey is repeated over any number of
            channels, colour is kept or averaged to one.

    Raises:
        PrunerError: unknown name; files missing, damaged or not to be had; a shape that the
            images cannot be brought to; a label out of range.
    """
    key = {known.lower(): known for known in DATASETS}.get(name.lower())
    if key is None:
        raise PrunerError(
            f"dataset {name}: unknown{did_you_mean(name, DATASETS)} "
            f"(expected one of {', '.join(DATASETS)})"
        )
    entry = DATASETS[key]
    shape = _checked_shape(key, entry, input_shape)
    raw = entry["wrapper"](Path("data") if data_dir is None else Path(data_dir), download)
    for split in raw:
        check_labels(key, split.labels, entry["num_classes"])
    grey = len(entry["mean"]) == 1
    return DataSplits(
        name=key,
        train=_prepared(raw.train, entry, shape),
        val=_prepared(raw.val, entry, shape),
        test=_prepared(raw.test, entry, shape),
        num_classes=entry["num_classes"],
        input_shape=shape,
        augmentation=Augmentation(
            shift=round(entry["shift"] * shape[1] / entry["shape"][1]),
            flip=entry["flip"],
            # Grey images are drawn on black; on photographs the mean colour disturbs least.
            fill=-entry["mean"][0] / entry["std"][0] if grey else 0.0,
        ),
    )


def check_labels(name: str, labels: Tensor, num_classes: int) -> None:
    """PrunerError where a label (of any shape) is none of 0 to num_classes - 1."""
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if wrong.numel():
        raise PrunerError(
            f"dataset {name}: label {int(wrong[0])}, but {num_classes} classes; expected labels "
            f"from 0 to {num_classes - 1}: correct the labels, or the num_classes of the dataset"
        )


def _checked_shape(
    name: str, entry: DatasetEntry, shape: tuple[int, int, int] | None
) -> tuple[int, int, int]:
    if shape is None:
        return entry["shape"]
    if len(shape) != 3 or min(shape) < 1:
        raise PrunerError(
            f"input shape {','.join(map(str, shape))}: expected channels, height and width, "
            f"such as {','.join(map(str, entry['shape']))}"
        )
    stored = len(entry["mean"])
    if stored > 1 and shape[0] not in (1, stored):
        raise PrunerError(
            f"input shape {','.join(map(str, shape))}: {name} has {stored} channels; "
            f"expected {stored} (or 1 for their mean)"
        )
    return shape


def _prepared(raw: RawSplit, entry: DatasetEntry, shape: tuple[int, int, int]) -> Labelled:
    prepare = partial(
        prepare_images,
        shape=shape,
        brightest=entry["brightest"],
        mean=entry["mean"],
        std=entry["std"],
    )
    if entry["bundled"]:
        return TensorDataset(prepare(raw.images), raw.labels)
    return StoredImages(raw, prepare)


def prepare_images(
    images: Tensor,
    shape: tuple[int, int, int],
    brightest: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Tensor:
    """Stored images (N, C, H, W) as normalised float32 ones (N, *shape)."""
    per_channel = (1, -1, 1, 1)
    images = images.to(torch.float32) / brightest
    images = (images - torch.tensor(mean).view(per_channel)) / torch.tensor(std).view(per_channel)
    channels, height, width = shape
    if images.shape[2:] != (height, width):
        images = F.interpolate(
            images, size=(height, width), mode="bilinear", align_corners=False, antialias=True
        )
    if images.shape[1] == channels:
        return images
    if channels == 1:
        return images.mean(dim=1, keepdim=True)
    return images.repeat(1, channels, 1, 1)


def _digits(data_dir: Path, download: bool) -> RawSplits:
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


def _torchvision(data_dir: Path, download: bool, *, name: str, folder: str) -> RawSplits:
    """A dataset that torchvision reads from `data_dir/folder`; a tenth of train validates."""
    from torchvision import datasets as torchvision_datasets

    reader = getattr(torchvision_datasets, name)
    place = data_dir / folder
    expected = f"expected in it the files of {_source(reader)}"
    if not download and not place.is_dir():
        raise PrunerError(
            f"dataset {name}: {place} is missing; {expected} "
            f"(--data-dir says where to look, --download fetches them)"
        )
    try:
        # Some versions of torchvision report on stdout, which belongs to results.
        with contextlib.redirect_stdout(sys.stderr):
            parts = [reader(data_dir, train=part, download=download) for part in (True, False)]
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


DATASETS: dict[str, DatasetEntry] = {
    "Digits": DatasetEntry(
        wrapper=_digits,
        shape=(3, 32, 32),
        num_classes=10,
        bundled=True,
        brightest=16,
        mean=(0.3053,),
        std=(0.3234,),
        shift=2,
        flip=False,
    ),
    "CIFAR10": DatasetEntry(
        wrapper=partial(_torchvision, name="CIFAR10", folder="cifar-10-batches-py"),
        shape=(3, 32, 32),
        num_classes=10,
        bundled=False,
        brightest=255,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        shift=4,
        flip=True,
    ),
    "CIFAR100": DatasetEntry(
        wrapper=partial(_torchvision, name="CIFAR100", folder="cifar-100-python"),
        shape=(3, 32, 32),
        num_classes=100,
        bundled=False,
        brightest=255,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        shift=4,
        flip=True,
    ),
    "MNIST": DatasetEntry(
        wrapper=partial(_torchvision, name="MNIST", folder="MNIST/raw"),
        shape=(3, 32, 32),
        num_classes=10,
        bundled=False,
        brightest=255,
        mean=(0.1307,),
        std=(0.3081,),
        shift=2,
        flip=False,
    ),
    "FashionMNIST": DatasetEntry(
        wrapper=partial(_torchvision, name="FashionMNIST", folder="FashionMNIST/raw"),
        shape=(3, 32, 32),
        num_classes=10,
        bundled=False,
        brightest=255,
        mean=(0.2860,),
        std=(0.3530,),
        shift=2,
        flip=True,
    ),
}
"""By name, in the order in which `--list` shows them; the first is the default."""
