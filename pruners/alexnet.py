"""AlexNets of the zoo."""

from __future__ import annotations

from pruners.base import BasicPruning


class AlexNetPruning(BasicPruning):
    """AlexNet for CIFAR sizes and for ImageNet sizes."""

    netName = "AlexNet"
