"""Residual networks with squeeze-excite of the zoo."""

from __future__ import annotations

from pruners.base import BasicPruning


class SEResNetPruning(BasicPruning):
    """Residual networks with squeeze-excite for CIFAR sizes."""

    netName = "SEResNet"
