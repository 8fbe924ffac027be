"""Images to train and test on, as three fixed splits, normalised and of one shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from pruners.errors import PrunerError
from pruners.image_files import DatasetEntry, RawSplit, RawSplits
from pruners.registry import dataset_named

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
    input_shape: tuple[int, int, int] | Literal["stored"] | None = None,
) -> DataSplits:
    """The splits of a dataset; the same on every call and every machine.

    Args:
        name: a key of `pruners.registry.DATASETS`.
        data_dir: the folder that holds (or, with `download`, gets) the files; `data` by default.
        download: fetch what is missing. Bundled datasets ignore it.
        input_shape: (channels, height, width) of the images, where the dataset's own `shape`
            will not do. Images are resized bilinearly; grey is repeated over any number of
            channels, colour is kept or averaged to one. "stored" leaves them in the shape in which
            they are published (MNIST: 1x28x28).

    Raises:
        PrunerError: unknown name; files missing, damaged or not to be had; a shape that the
            images cannot be brought to; a label out of range; a reader that raises, or returns
            what are no three splits.
    """
    entry = dataset_named(name)
    shape = _checked_shape(name, entry, None if input_shape == "stored" else input_shape)
    path = entry["path"]
    folder = None if path is None else Path("data" if data_dir is None else data_dir) / path
    raw = _read(name, entry, folder, download)
    _check_splits(name, entry, raw, None if input_shape == "stored" else shape)
    for split in raw:
        check_labels(name, split.labels, entry["num_classes"])
    if input_shape == "stored":
        _, *stored = raw.train.images.shape
        shape = (stored[0], stored[1], stored[2])
    grey = len(entry["mean"]) == 1
    return DataSplits(
        name=name,
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


def _read(name: str, entry: DatasetEntry, folder: Path | None, download: bool) -> RawSplits:
    """What the dataset's reader returns; it may be anybody's code."""
    try:
        raw = entry["wrapper"](folder, download)
    except PrunerError:
        raise
    except Exception as error:
        raise PrunerError(
            f"dataset {name}: its reader raised {type(error).__name__}: "
            f"{' '.join(str(error).split())}; called with the folder {folder} and download="
            f"{download}"
        ) from error
    if not isinstance(raw, tuple | list) or len(raw) != 3:
        count = f" of {len(raw)}" if isinstance(raw, tuple | list) else ""
        raise PrunerError(
            f"dataset {name}: its reader returned a {type(raw).__name__}{count}; expected "
            f"RawSplits(train, val, test)"
        )
    try:
        return RawSplits(*(RawSplit(*split) for split in raw))
    except TypeError:
        raise PrunerError(
            f"dataset {name}: its reader returned {', '.join(type(s).__name__ for s in raw)}; "
            f"expected three RawSplit(images, labels)"
        ) from None


def _check_splits(
    name: str, entry: DatasetEntry, raw: RawSplits, shape: tuple[int, int, int] | None
) -> None:
    """PrunerError where a split is none that can be prepared."""
    for part, (images, labels) in zip(RawSplits._fields, raw, strict=True):
        if not isinstance(images, Tensor) or images.dim() != 4:
            raise PrunerError(
                f"dataset {name}: the images of {part} are {_what(images)}; expected a tensor "
                f"(N, channels, height, width)"
            )
        if not isinstance(labels, Tensor) or labels.dim() < 1 or labels.dtype != torch.int64:
            raise PrunerError(
                f"dataset {name}: the labels of {part} are {_what(labels)}; expected a tensor "
                f"(N,) of int64"
            )
        if len(images) != len(labels):
            raise PrunerError(
                f"dataset {name}: {part} has {len(images)} images, but {len(labels)} labels; "
                f"expected a label for every image"
            )
        if not len(images):
            raise PrunerError(
                f"dataset {name}: {part} is empty; expected at least one image in every split"
            )
        channels = images.shape[1]
        for what in ("mean", "std"):
            values = entry["mean"] if what == "mean" else entry["std"]
            if len(values) not in (1, channels):
                raise PrunerError(
                    f"dataset {name}: the images of {part} have {channels} channels, but {what} "
                    f"has {len(values)} numbers; expected one for every channel"
                )
        if shape is not None and channels > 1 and shape[0] not in (1, channels):
            raise PrunerError(
                f"dataset {name}: the images of {part} have {channels} channels, which cannot be "
                f"brought to {','.join(map(str, shape))}; expected {channels} (or 1 for their mean)"
            )


def _what(value: object) -> str:
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"a tensor {tuple(value.shape)} of {dtype}"
    return f"a {type(value).__name__}"


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
    if entry["path"] is None:
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
