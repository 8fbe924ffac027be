"""Networks of the zoo whose path depends on the data."""

from __future__ import annotations

from pruners.base import BasicPruning


class DynamicPruning(BasicPruning):
    """DynamicNeuralNetwork: a deep path for complex images, a shallow one for simple ones."""

    netName = "DynamicNeuralNetwork"
