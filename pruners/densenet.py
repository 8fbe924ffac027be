"""DenseNet of the zoo."""

from __future__ import annotations

from pruners.base import BasicPruning


class DenseNetPruning(BasicPruning):
    """DenseNet for CIFAR sizes."""

    netName = "DenseNet"
