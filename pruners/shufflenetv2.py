"""ShuffleNetV2 of the zoo."""

from __future__ import annotations

from pruners.base import BasicPruning


class ShuffleNetV2Pruning(BasicPruning):
    """ShuffleNetV2 for CIFAR sizes."""

    netName = "ShuffleNetV2"
