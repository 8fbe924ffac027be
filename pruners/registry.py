"""Everything on offer, on one page: models, datasets, measures, pruning methods.

Adding one is one entry, here or from outside:

    pruners.registry.register_measure("Mine")(score)        a scoring function
    pruners.registry.register_method("Mine")(choose)        a pruning method
    pruners.registry.register_dataset("Mine", entry)        images to measure and train on
    pruners.registry.register_model("Mine", entry)          a network, with its weights

The zoo in `models/` adds itself when it is imported. `--plugin FILE.py` and packages with the entry
point `pruners.plugins` are imported before a command runs (`plugins.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, TypeVar

from torch import nn

from pruners.errors import PrunerError, did_you_mean
from pruners.image_files import DatasetEntry, read_digits, read_torchvision
from pruners.measures import (
    FPGM,
    LAMP,
    APoZ,
    BatchNormScale,
    ChannelActivation,
    ChannelNorm,
    ChannelRandom,
    ChannelWandA,
    Hessian,
    HRank,
    Measure,
    ModifiedPageRank,
    Taylor,
    WeightedPageRank,
    configured,
)
from pruners.methods import Method, global_ranking, isomorphic_ranking, local_ranking


class ModelEntry(TypedDict):
    """One network of the zoo."""

    wrapper: Callable[..., nn.Module]
    """Builds it; takes `num_classes` and `in_channels` (a multilayer perceptron `in_features`)."""
    path: Path | None
    """Trained weights that ship with the project, if any."""
    family: str
    """The name under which `--arch` finds it."""
    depth: int | None
    """Which member of the family (`--depth`); None where only the size of images tells."""
    input_shape: tuple[int, int, int]
    """Channels, height and width of one example."""
    num_classes: int


MODELS: dict[str, ModelEntry] = {}
"""By name (`ResNet20`), in the order of registration; a family's first member is its default."""

MLP_MODEL: dict[str, ModelEntry] = {}
"""The multilayer perceptrons among them, as in MLP-Rank."""

MODEL_DATA: dict[str, str] = {}
"""Which dataset the weights of a model were trained on: `{"ResNet20": "Digits"}`."""

DATASETS: dict[str, DatasetEntry] = {
    "Digits": DatasetEntry(
        wrapper=read_digits,
        path=None,
        shape=(3, 32, 32),
        num_classes=10,
        brightest=16,
        mean=(0.3053,),
        std=(0.3234,),
        shift=2,
        flip=False,
    ),
    "CIFAR10": DatasetEntry(
        wrapper=partial(read_torchvision, name="CIFAR10"),
        path=Path("cifar-10-batches-py"),
        shape=(3, 32, 32),
        num_classes=10,
        brightest=255,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        shift=4,
        flip=True,
    ),
    "CIFAR100": DatasetEntry(
        wrapper=partial(read_torchvision, name="CIFAR100"),
        path=Path("cifar-100-python"),
        shape=(3, 32, 32),
        num_classes=100,
        brightest=255,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        shift=4,
        flip=True,
    ),
    "MNIST": DatasetEntry(
        wrapper=partial(read_torchvision, name="MNIST"),
        path=Path("MNIST/raw"),
        shape=(3, 32, 32),
        num_classes=10,
        brightest=255,
        mean=(0.1307,),
        std=(0.3081,),
        shift=2,
        flip=False,
    ),
    "FashionMNIST": DatasetEntry(
        wrapper=partial(read_torchvision, name="FashionMNIST"),
        path=Path("FashionMNIST/raw"),
        shape=(3, 32, 32),
        num_classes=10,
        brightest=255,
        mean=(0.2860,),
        std=(0.3530,),
        shift=2,
        flip=True,
    ),
}
"""By name, in the order in which `--list` shows them; the first is the default."""

SCORING_MEASURES: dict[str, Measure] = {
    "ChannelNorm": ChannelNorm(),
    "ChannelRandom": ChannelRandom(),
    "WeightedPageRank": WeightedPageRank(),
    "ModifiedPageRank": ModifiedPageRank(),
    "ChannelActivation": ChannelActivation(),
    "ChannelWandA": ChannelWandA(),
    "BatchNormScale": BatchNormScale(),
    "FPGM": FPGM(),
    "LAMP": LAMP(),
    "Taylor": Taylor(),
    "Hessian": Hessian(),
    "APoZ": APoZ(),
    "HRank": HRank(),
}
"""How channels are scored; each is called as `pruners.measures` says."""

PRUNING_METHODS: dict[str, Method] = {
    "Global": global_ranking,
    "Local": local_ranking,
    "Isomorphic": isomorphic_ranking,
}
"""How scores are ranked; each is called as `method(amount, layer_list, device)`."""


# --- adding --------------------------------------------------------------------------------------

M = TypeVar("M", bound=Any)


def register_model(name: str, entry: ModelEntry, *, trained_on: str | None = None) -> None:
    """Put a network on offer under `name`, a valid identifier such as `ResNet20`.

    Args:
        trained_on: the dataset that the weights at `entry["path"]` come from.
    """
    MODELS[name] = entry
    if trained_on is not None:
        MODEL_DATA[name] = trained_on


def register_mlp(name: str, entry: ModelEntry, *, trained_on: str | None = None) -> None:
    """As `register_model`, for a multilayer perceptron; `prune_mlp` finds it, too."""
    register_model(name, entry, trained_on=trained_on)
    MLP_MODEL[name] = entry


def register_dataset(name: str, entry: DatasetEntry) -> None:
    """Put a dataset on offer; see `pruners.image_files` for what its entry says."""
    DATASETS[name] = entry


def register_measure(name: str) -> Callable[[M], M]:
    """Put a scoring function on offer, as a call or a decorator.

        @register_measure("MeanSquare")
        def mean_square(*, weight, **context):
            return weight.square().mean(1)

    A class is registered as the instance that it makes without arguments.
    """

    def add(measure: M) -> M:
        SCORING_MEASURES[name] = measure() if isinstance(measure, type) else measure
        return measure

    return add


def register_method(name: str) -> Callable[[M], M]:
    """Put a pruning method on offer, as a call or a decorator; see `pruners.methods.Method`."""

    def add(method: M) -> M:
        PRUNING_METHODS[name] = method() if isinstance(method, type) else method
        return method

    return add


# --- finding -------------------------------------------------------------------------------------

E = TypeVar("E")


def measure_named(name: str, arguments: Mapping[str, Any] | None = None) -> Measure:
    """The measure of this name with these parameters; PrunerError for what there is not."""
    return configured(name, _found("measure", name, SCORING_MEASURES), arguments or {})


def method_named(name: str) -> Method:
    """The pruning method of this name; PrunerError with near names for an unknown one."""
    return _found("method", name, PRUNING_METHODS)


def dataset_named(name: str) -> DatasetEntry:
    """The dataset of this name; PrunerError with near names for an unknown one."""
    return _found("dataset", name, DATASETS)


def mlp_named(name: str) -> ModelEntry:
    """The multilayer perceptron of this name; PrunerError with near names for an unknown one."""
    return _found("model", name, MLP_MODEL)


def _found(kind: str, name: str, offered: Mapping[str, E]) -> E:
    if not isinstance(name, str):
        shown = getattr(name, "__name__", None) or type(name).__name__
        raise PrunerError(
            f"{kind} {shown}: is no name; expected one of {', '.join(offered) or 'none'}, or the "
            f"name under which your own was registered: register_{kind}(NAME)({shown})"
        )
    if name not in offered:
        raise PrunerError(
            f"{kind} {name}: unknown{did_you_mean(name, offered)}; "
            f"on offer are {', '.join(offered) or 'none'}"
        )
    return offered[name]
