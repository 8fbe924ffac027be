"""Prunes convolutional networks and writes the slimmer network as source code.

from pruners import prune

result = prune(model, example_inputs, prune_pct=50)
result.save("generated")

`write_source` does the same for a network that another tool has pruned; `load` builds a network
that a model store holds.
"""

from pruners.base import BasicPruning, Options, PruningResult, Saved, prune
from pruners.blocks import register_calculator, register_transfer_func, register_writer
from pruners.calibration import Calibration
from pruners.channel_graph import Axis, ChannelGraph, Coupling, Kept, Units
from pruners.decorators import (
    basic_block,
    block_decorator,
    bottleneck,
    fire,
    inception,
    mb_conv,
    se_residual,
    skip,
)
from pruners.dependencies import (
    Backbone,
    BackboneCalculator,
    Block,
    DependencyCalculator,
    Interface,
    residual_backbone,
    split_and_aggregate_backbone,
)
from pruners.errors import PrunerError, UnsupportedNetworkError, VerificationError, WriterError
from pruners.evaluation import Evaluation, evaluate, evaluate_all
from pruners.experiments.grid import Experiment
from pruners.experiments.run import run_experiment
from pruners.hybrid_thresholds import HybridThresholds
from pruners.measures import ScoringMeasure
from pruners.methods import ScoredLayer
from pruners.mlp_rank import prune_mlp
from pruners.model_store import ModelFile, ModelStore, Parent, StoredVersion
from pruners.model_writers import (
    Writer,
    write_activation,
    write_batch_norm,
    write_container,
    write_conv,
    write_dropout,
    write_layer,
    write_linear,
    write_pooling,
    write_sequential,
)
from pruners.registry import (
    DATASETS,
    MLP_MODEL,
    MODEL_DATA,
    MODELS,
    PRUNING_METHODS,
    SCORING_MEASURES,
    register_dataset,
    register_measure,
    register_method,
    register_mlp,
    register_model,
)
from pruners.stored_network import load
from pruners.threshold_pruning import ChannelActivity, channel_activity, prune_by_activation
from pruners.version import __version__
from pruners.weight_transfer import WeightTransferUnit
from pruners.write_source import WrittenSource, write_source

__all__ = [
    "DATASETS",
    "MLP_MODEL",
    "MODELS",
    "MODEL_DATA",
    "PRUNING_METHODS",
    "SCORING_MEASURES",
    "Axis",
    "Backbone",
    "BackboneCalculator",
    "BasicPruning",
    "Block",
    "Calibration",
    "ChannelActivity",
    "ChannelGraph",
    "Coupling",
    "DependencyCalculator",
    "Evaluation",
    "Experiment",
    "HybridThresholds",
    "Interface",
    "Kept",
    "ModelFile",
    "ModelStore",
    "Options",
    "Parent",
    "PrunerError",
    "PruningResult",
    "Saved",
    "ScoredLayer",
    "ScoringMeasure",
    "StoredVersion",
    "Units",
    "UnsupportedNetworkError",
    "VerificationError",
    "WeightTransferUnit",
    "Writer",
    "WriterError",
    "WrittenSource",
    "__version__",
    "basic_block",
    "block_decorator",
    "bottleneck",
    "channel_activity",
    "evaluate",
    "evaluate_all",
    "fire",
    "inception",
    "load",
    "mb_conv",
    "prune",
    "prune_by_activation",
    "prune_mlp",
    "register_calculator",
    "register_dataset",
    "register_measure",
    "register_method",
    "register_mlp",
    "register_model",
    "register_transfer_func",
    "register_writer",
    "residual_backbone",
    "run_experiment",
    "se_residual",
    "skip",
    "split_and_aggregate_backbone",
    "write_activation",
    "write_batch_norm",
    "write_container",
    "write_conv",
    "write_dropout",
    "write_layer",
    "write_linear",
    "write_pooling",
    "write_sequential",
    "write_source",
]
