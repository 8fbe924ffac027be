"""GoogLeNet of the zoo."""

from __future__ import annotations

from pruners.base import BasicPruning


class GoogLeNetPruning(BasicPruning):
    """GoogLeNet for CIFAR sizes."""

    netName = "GoogLeNet"
