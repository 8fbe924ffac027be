"""MobileNetV2 of the zoo."""

from __future__ import annotations

from pruners.base import BasicPruning


class MobileNetV2Pruning(BasicPruning):
    """MobileNetV2 for CIFAR sizes and for ImageNet sizes."""

    netName = "MobileNetV2"
