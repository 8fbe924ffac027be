"""MNASNet of the zoo."""

from __future__ import annotations

from pruners.base import BasicPruning


class MNASNetPruning(BasicPruning):
    """MNASNet for CIFAR sizes."""

    netName = "MNASNet"
