"""SqueezeNets of the zoo."""

from __future__ import annotations

from pruners.base import BasicPruning


class SqueezeNetPruning(BasicPruning):
    """SqueezeNet for CIFAR sizes, SqueezeNet 1.0 and 1.1 for ImageNet sizes."""

    netName = "SqueezeNet"
