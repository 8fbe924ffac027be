"""Multi-layer perceptrons of the zoo."""

from __future__ import annotations

from pruners.base import BasicPruning


class TwoLayerMLPPruning(BasicPruning):
    """Two Linears."""

    netName = "TwoLayerMLP"


class ThreeLayerMLPPruning(BasicPruning):
    """Three Linears."""

    netName = "ThreeLayerMLP"


class SixLayerMLPPruning(BasicPruning):
    """Six Linears."""

    netName = "SixLayerMLP"


class TwelveLayerMLPPruning(BasicPruning):
    """Twelve Linears."""

    netName = "TwelveLayerMLP"
