"""Residual networks of the zoo."""

from __future__ import annotations

from pruners.base import BasicPruning


class ResNetPruning(BasicPruning):
    """ResNet-20 to ResNet-164 for CIFAR sizes, ResNet-18 to ResNet-101 for ImageNet sizes."""

    netName = "ResNet"
