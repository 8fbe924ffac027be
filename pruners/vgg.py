"""VGG of the zoo."""

from __future__ import annotations

from pruners.base import BasicPruning


class VGGPruning(BasicPruning):
    """VGG for CIFAR sizes."""

    netName = "VGG"
