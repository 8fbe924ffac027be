"""The real readers, on folders laid out as the publishers do."""

import dataclasses
import hashlib
import pickle
import struct
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset

from pruners.datasets import load_dataset, prepare_images
from pruners.errors import PrunerError
from pruners.image_files import RawSplit, RawSplits
from pruners.registry import DATASETS

RNG = np.random.default_rng(0)


def lay_out_cifar(root: Path, reader: type, label_key: str, classes: int, monkeypatch) -> None:
    """Pickled batches of 20 images a class, with the checksums that they really have."""
    folder = root / reader.base_folder
    folder.mkdir(parents=True)

    def write(name: str, content: object) -> str:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    def batch() -> dict[str, object]:
        labels = list(range(classes)) * 20
        images = RNG.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
        # The first red pixel tells the class.
        images[:, 0] = labels
        return {"data": images, label_key: labels}

    for files in ("train_list", "test_list"):
        written = [[name, write(name, batch())] for name, _ in getattr(reader, files)]
        monkeypatch.setattr(reader, files, written)
    names = {reader.meta["key"]: [str(i) for i in range(classes)]}
    monkeypatch.setattr(
        reader, "meta", reader.meta | {"md5": write(reader.meta["filename"], names)}
    )


def lay_out_mnist(root: Path, name: str) -> Path:
    """Four idx files: 200 images to train and 50 to test, all of one brightness per class."""
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    for part, count in (("train", 200), ("t10k", 50)):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = np.broadcast_to(labels[:, None, None] * 20, (count, 28, 28)).astype(np.uint8)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(
            struct.pack(">II", 0x801, count) + labels.tobytes()
        )
        (folder / f"{part}-images-idx3-ubyte").write_bytes(
            struct.pack(">IIII", 0x803, count, 28, 28) + images.tobytes()
        )
    return folder


def test_digits_are_all_there_once():
    splits = load_dataset("Digits", input_shape=(1, 8, 8))
    parts = [splits.train, splits.val, splits.test]
    assert [len(part) for part in parts] == [1257, 180, 360]
    stored = torch.from_numpy(load_digits().data).float()
    ours = torch.cat([part.tensors[0].flatten(1) for part in parts])
    mean, std = DATASETS["Digits"]["mean"][0], DATASETS["Digits"]["std"][0]
    ours = ((ours * std + mean) * 16).round()
    assert sorted(map(tuple, ours.tolist())) == sorted(map(tuple, stored.tolist()))


def test_digits_are_upscaled_normalised_and_stratified():
    splits = load_dataset("Digits")
    assert (splits.name, splits.num_classes, splits.input_shape) == ("Digits", 10, (3, 32, 32))
    for part in (splits.train, splits.val, splits.test):
        assert isinstance(part, TensorDataset)
        images, labels = part.tensors
        assert images.shape[1:] == (3, 32, 32)
        assert images.dtype == torch.float32
        shares = torch.bincount(labels) / len(labels)
        assert shares.sub(0.1).abs().max() < 0.015
    images = splits.train.tensors[0]
    assert images.mean().abs() < 0.02
    assert images.std() == pytest.approx(1, abs=0.02)
    assert splits.augmentation.fill == pytest.approx(images.min().item())


def test_digits_are_the_same_every_time():
    first, again = load_dataset("Digits"), load_dataset("Digits")
    for part in ("train", "val", "test"):
        for a, b in zip(getattr(first, part).tensors, getattr(again, part).tensors, strict=True):
            assert torch.equal(a, b)


def test_splits_are_frozen():
    splits = load_dataset("Digits", input_shape=(1, 8, 8))
    with pytest.raises(dataclasses.FrozenInstanceError):
        splits.name = "other"


def test_shift_grows_with_the_image():
    assert load_dataset("Digits").augmentation.shift == 2
    assert load_dataset("Digits", input_shape=(3, 64, 64)).augmentation.shift == 4


@pytest.mark.parametrize(
    ("name", "label_key", "classes"), [("CIFAR10", "labels", 10), ("CIFAR100", "fine_labels", 100)]
)
def test_cifar_is_read_and_split(tmp_path, monkeypatch, name, label_key, classes):
    reader = getattr(torchvision.datasets, name)
    lay_out_cifar(tmp_path, reader, label_key, classes, monkeypatch)
    splits = load_dataset(name, tmp_path)
    count = 20 * classes * len(reader.train_list)
    assert (len(splits.train), len(splits.val)) == (count - count // 10, count // 10)
    assert len(splits.test) == 20 * classes
    assert splits.num_classes == classes
    assert splits.augmentation.flip
    entry = DATASETS[name]
    for part in (splits.train, splits.val, splits.test):
        image, label = part[3]
        assert image.shape == (3, 32, 32)
        assert label.dtype == torch.int64
        assert image[0, 0, 0] * entry["std"][0] + entry["mean"][0] == pytest.approx(
            label.item() / 255, abs=1e-5
        )


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
def test_mnist_is_read_resized_and_repeated(tmp_path, name):
    lay_out_mnist(tmp_path, name)
    splits = load_dataset(name, tmp_path)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (180, 20, 50)
    entry = DATASETS[name]
    for part in (splits.train, splits.val, splits.test):
        image, label = part[7]
        assert image.shape == (3, 32, 32)
        expected = torch.full_like(image, label.item() * 20 / 255)
        torch.testing.assert_close(image * entry["std"][0] + entry["mean"][0], expected)
    assert load_dataset(name, tmp_path, input_shape=(1, 28, 28)).train[0][0].shape == (1, 28, 28)


def test_images_as_they_are_stored(tmp_path, monkeypatch):
    lay_out_mnist(tmp_path, "MNIST")
    lay_out_cifar(tmp_path, torchvision.datasets.CIFAR10, "labels", 10, monkeypatch)
    for name, shape in (("Digits", (1, 8, 8)), ("MNIST", (1, 28, 28)), ("CIFAR10", (3, 32, 32))):
        splits = load_dataset(name, tmp_path, input_shape="stored")
        assert splits.input_shape == shape
        assert splits.test[0][0].shape == shape
        same = load_dataset(name, tmp_path, input_shape=shape)
        assert torch.equal(same.test[0][0], splits.test[0][0])
        assert splits.augmentation == same.augmentation


def test_files_that_are_there_are_not_fetched_again(tmp_path):
    lay_out_mnist(tmp_path, "MNIST")
    assert len(load_dataset("MNIST", tmp_path, download=True).test) == 50


def test_colour_becomes_grey_by_its_mean():
    images = torch.tensor([0, 100, 200], dtype=torch.uint8).view(1, 3, 1, 1)
    grey = prepare_images(images, (1, 1, 1), 200, (0.0,) * 3, (1.0,) * 3)
    assert grey.item() == pytest.approx(0.5)


def test_unknown_dataset():
    with pytest.raises(
        PrunerError,
        match=r"^dataset CIFAR11: unknown; did you mean CIFAR10.*on offer are Digits",
    ):
        load_dataset("CIFAR11")


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_label_out_of_range(monkeypatch, part):
    def broken(data_dir, download):
        splits = DATASETS["Digits"]["wrapper"](data_dir, download)
        split = getattr(splits, part)
        return splits._replace(**{part: split._replace(labels=split.labels + 1)})

    monkeypatch.setitem(DATASETS, "Mine", DATASETS["Digits"] | {"wrapper": broken})
    with pytest.raises(
        PrunerError,
        match=r"^dataset Mine: label 10, but 10 classes; expected labels from 0 to 9: correct the "
        r"labels, or the num_classes of the dataset$",
    ):
        load_dataset("Mine")


def images_of(count, channels=1):
    return torch.zeros(count, channels, 8, 8, dtype=torch.uint8)


GOOD = RawSplit(images_of(4), torch.tensor([0, 1, 2, 3]))


def reading(train):
    return lambda folder, download: RawSplits(train, GOOD, GOOD)


def raising(folder, download):
    raise KeyError("two\nlines")


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        (raising, r"its reader raised KeyError: 'two\\nlines'; called with the folder None and do"),
        (
            lambda *_: None,
            r"its reader returned a NoneType; expected RawSplits\(train, val, test\)",
        ),
        (lambda *_: (GOOD, GOOD), r"its reader returned a tuple of 2; expected RawSplits\(train"),
        (lambda *_: (1, 2, 3), r"its reader returned int, int, int; expected three RawSplit\(ima"),
        (reading((1, 2, 3)), r"its reader returned tuple, RawSplit, RawSplit; expected three Raw"),
        (reading((np.zeros((4, 1, 8, 8)), 0)), r"the images of train are a ndarray; expected a t"),
        (
            reading(RawSplit(images_of(4)[:, 0], GOOD.labels)),
            r"the images of train are a tensor \(4, 8, 8\) of uint8; expected a tensor \(N, chann",
        ),
        (
            reading(RawSplit(images_of(4), GOOD.labels.float())),
            r"the labels of train are a tensor \(4,\) of float32; expected a tensor \(N,\) of int",
        ),
        (reading(RawSplit(images_of(4), [0, 1, 2, 3])), r"the labels of train are a list; expect"),
        (
            reading(RawSplit(images_of(5), GOOD.labels)),
            r"train has 5 images, but 4 labels; expected a label for every image$",
        ),
        (
            reading(RawSplit(images_of(0), GOOD.labels[:0])),
            r"train is empty; expected at least one image in every split$",
        ),
        (
            reading(RawSplit(images_of(4, 2), GOOD.labels)),
            r"the images of train have 2 channels, which cannot be brought to 3,32,32; expected 2",
        ),
    ],
)
def test_a_reader_that_returns_no_splits(monkeypatch, reader, message):
    monkeypatch.setitem(DATASETS, "Mine", DATASETS["Digits"] | {"wrapper": reader})
    with pytest.raises(PrunerError, match=rf"^dataset Mine: {message}") as e:
        load_dataset("Mine")
    assert "\n" not in str(e.value)


def test_a_mean_for_other_channels(monkeypatch):
    entry = DATASETS["Digits"] | {"wrapper": reading(GOOD), "mean": (0.1, 0.2, 0.3)}
    monkeypatch.setitem(DATASETS, "Mine", entry)
    with pytest.raises(
        PrunerError,
        match=r"^dataset Mine: the images of train have 1 channels, but mean has 3 numbers; expect",
    ):
        load_dataset("Mine")


@pytest.mark.parametrize("name", [n for n, entry in DATASETS.items() if entry["path"] is not None])
def test_missing_folder_says_what_goes_where(tmp_path, name):
    with pytest.raises(PrunerError, match=rf"^dataset {name}: .* is missing; expected in it") as e:
        load_dataset(name, tmp_path)
    message = str(e.value)
    assert str(tmp_path) in message
    assert "http" in message
    assert "--download" in message
    assert "\n" not in message


def test_default_folder_is_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PrunerError, match=r"dataset CIFAR10: data/cifar-10-batches-py is missing"):
        load_dataset("CIFAR10")


def test_damaged_cifar_is_refused_before_it_is_unpickled(tmp_path, monkeypatch):
    reader = torchvision.datasets.CIFAR10
    lay_out_cifar(tmp_path, reader, "labels", 10, monkeypatch)
    (tmp_path / reader.base_folder / "test_batch").write_bytes(b"cos\nabort\n(tR.")
    with pytest.raises(PrunerError, match=r"cifar-10-batches-py is incomplete or damaged .*remove"):
        load_dataset("CIFAR10", tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is incomplete or damaged"),
        (b"junk that is no idx file", "is incomplete or damaged"),
        (struct.pack(">II", 0x801, 3) + bytes(3), r"\(200 images but 3 labels\)"),
    ],
)
def test_damaged_mnist(tmp_path, content, reason):
    (lay_out_mnist(tmp_path, "MNIST") / "train-labels-idx1-ubyte").write_bytes(content)
    with pytest.raises(PrunerError, match=reason):
        load_dataset("MNIST", tmp_path)


def test_download_that_fails(tmp_path, monkeypatch, capsys):
    def refuse(*args, **kwargs):
        print("Downloading")
        raise URLError("no network")

    monkeypatch.setattr(torchvision.datasets.cifar, "download_and_extract_archive", refuse)
    with pytest.raises(PrunerError, match=r"could not be downloaded \(.*no network.*\); expected"):
        load_dataset("CIFAR10", tmp_path, download=True)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("shape", [(3, 32), (3, 0, 32)])
def test_shape_that_is_none(shape):
    with pytest.raises(PrunerError, match=r"^input shape 3,.*expected channels, height and width"):
        load_dataset("Digits", input_shape=shape)


def test_colour_in_another_number_of_channels(tmp_path):
    with pytest.raises(PrunerError, match=r"^input shape 4,32,32: CIFAR10 has 3 channels"):
        load_dataset("CIFAR10", tmp_path, input_shape=(4, 32, 32))
