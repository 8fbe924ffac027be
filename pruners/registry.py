"""Everything on offer, on one page: models and datasets.

The zoo in `models/` adds itself when it is imported; so can anybody's own code.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

from torch import nn


class ModelEntry(TypedDict):
    """One network of the zoo."""

    wrapper: Callable[..., nn.Module]
    """Builds it; takes `num_classes` and `in_channels`."""
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


def register_model(name: str, entry: ModelEntry) -> None:
    """Put a network on offer under `name`, a valid identifier such as `ResNet20`."""
    MODELS[name] = entry
