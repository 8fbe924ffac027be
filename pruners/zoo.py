"""Registered networks by their names, each beside a dataset: images that fit it, weights that fit.

The weights of a network belong to the dataset that they were trained on (`MODEL_DATA`), and to
images of the network's own `input_shape`. On any other dataset it is built for the images and
starts with random weights, and whoever asks is told (`note_on_weights`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch

from pruners.datasets import DataSplits, load_dataset
from pruners.errors import PrunerError, did_you_mean
from pruners.networks import Network, checked_device, input_size
from pruners.registry import DATASETS, MODEL_DATA, MODELS, ModelEntry
from pruners.store import load_checkpoint


def model_named(name: str, offered: Mapping[str, ModelEntry] = MODELS) -> ModelEntry:
    """The entry of this name; PrunerError with near names for an unknown one.

    Args:
        offered: `MODELS`, or the part of it that will do (`MLP_MODEL`).
    """
    if not offered:
        raise PrunerError(
            f"model {name}: none is registered; `import models` first, which registers the zoo "
            f"(or register your own: pruners.register_model, pruners.register_mlp)"
        )
    if name not in offered:
        raise PrunerError(
            f"model {name}: unknown{did_you_mean(name, offered)}; on offer are "
            f"{', '.join(offered)}; --plugin FILE.py registers others"
        )
    return offered[name]


def dataset_of(name: str) -> str:
    """The dataset that the weights of a registered network were trained on, or the default."""
    return MODEL_DATA.get(name, next(iter(DATASETS)))


def has_weights_for(name: str, dataset: str) -> bool:
    """Whether the weights that come with a registered network were trained on this dataset."""
    return model_named(name)["path"] is not None and dataset_of(name) == dataset


def splits_for(
    name: str, dataset: str, data_dir: str | Path | None = None, download: bool = False
) -> DataSplits:
    """A dataset as a registered network takes it; errors as those of `load_dataset`.

    Where its weights fit, in the network's own input shape. Else in the dataset's default shape,
    or, for a network that is built for any number of values (`in_features`), as it is stored.
    """
    entry = model_named(name)
    shape: tuple[int, int, int] | Literal["stored"] | None = None
    if has_weights_for(name, dataset):
        shape = entry["input_shape"]
    elif "in_features" in input_size(entry["wrapper"], entry["input_shape"]):
        shape = "stored"
    return load_dataset(dataset, data_dir, download, shape)


def network_for(name: str, splits: DataSplits, *, seed: int = 0, device: str = "cpu") -> Network:
    """A registered network for the images of a dataset.

    Args:
        seed: of its weights, where none fit; torch's global random state is left as it was.

    Raises:
        PrunerError: it cannot be built, there is no such device, or its weights cannot be read.
    """
    entry, place = model_named(name), checked_device(device)
    sizes = input_size(entry["wrapper"], splits.input_shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = entry["wrapper"](num_classes=splits.num_classes, **sizes)
        except PrunerError:
            raise
        except Exception as error:
            raise PrunerError(
                f"model {name}: building it raised {type(error).__name__}: "
                f"{' '.join(str(error).split())}; expected it to take num_classes and "
                f"{' and '.join(sizes)}"
            ) from error
    weights: Literal["random", "shipped"] = "random"
    if entry["path"] is not None and has_weights_for(name, splits.name):
        load_checkpoint(model, entry["path"])
        weights = "shipped"
    return Network(name, model.to(place), splits.input_shape, weights, place)


def note_on_weights(network: Network, dataset: str) -> str | None:
    """What the user may not expect of the weights that a registered network has, in one line."""
    if network.weights == "shipped":
        return None
    shape = "x".join(map(str, network.input_shape))
    why = "none come with it"
    if model_named(network.name)["path"] is not None:
        why = f"those that come with it were trained on {dataset_of(network.name)}"
    return f"{network.name} has random weights for {dataset} (images of {shape}): {why}"
