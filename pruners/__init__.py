"""Prunes convolutional networks and writes the slimmer network as source code.

from pruners import prune

result = prune(model, example_inputs, prune_pct=50)
result.save("generated")
"""

from pruners.base import BasicPruning, Options, PruningResult, Saved, prune
from pruners.blocks import register_calculator, register_transfer_func, register_writer
from pruners.channel_graph import Axis, ChannelGraph, Coupling, Kept, Units
from pruners.decorators import basic_block, bottleneck
from pruners.dependencies import DependencyCalculator
from pruners.errors import PrunerError, UnsupportedNetworkError, VerificationError, WriterError
from pruners.model_writers import Writer
from pruners.registry import MODELS, register_model
from pruners.scoring import SCORING_MEASURES
from pruners.version import __version__
from pruners.weight_transfer import WeightTransferUnit

__all__ = [
    "MODELS",
    "SCORING_MEASURES",
    "Axis",
    "BasicPruning",
    "ChannelGraph",
    "Coupling",
    "DependencyCalculator",
    "Kept",
    "Options",
    "PrunerError",
    "PruningResult",
    "Saved",
    "Units",
    "UnsupportedNetworkError",
    "VerificationError",
    "WeightTransferUnit",
    "Writer",
    "WriterError",
    "__version__",
    "basic_block",
    "bottleneck",
    "prune",
    "register_calculator",
    "register_model",
    "register_transfer_func",
    "register_writer",
]
