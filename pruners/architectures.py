"""Which pruner class an architecture has: `setup_pruner`."""

from __future__ import annotations

from pruners.alexnet import AlexNetPruning
from pruners.base import BasicPruning
from pruners.densenet import DenseNetPruning
from pruners.dynamic import DynamicPruning
from pruners.errors import PrunerError, did_you_mean
from pruners.googlenet import GoogLeNetPruning
from pruners.libraries import is_library_network
from pruners.mlp import (
    SixLayerMLPPruning,
    ThreeLayerMLPPruning,
    TwelveLayerMLPPruning,
    TwoLayerMLPPruning,
)
from pruners.mnasnet import MNASNetPruning
from pruners.mobilenetv2 import MobileNetV2Pruning
from pruners.networks import is_file
from pruners.registry import MODELS
from pruners.resnet import ResNetPruning
from pruners.se_resnet import SEResNetPruning
from pruners.shufflenetv2 import ShuffleNetV2Pruning
from pruners.squeezenet import SqueezeNetPruning
from pruners.vgg import VGGPruning

ARCHITECTURES: dict[str, type[BasicPruning]] = {
    "resnet": ResNetPruning,
    "alexnet": AlexNetPruning,
    "mobilenetv2": MobileNetV2Pruning,
    "squeezenet": SqueezeNetPruning,
    "squeezenet1_0": SqueezeNetPruning,
    "vgg": VGGPruning,
    "mnasnet": MNASNetPruning,
    "googlenet": GoogLeNetPruning,
    "se_resnet": SEResNetPruning,
    "densenet": DenseNetPruning,
    "shufflenetv2": ShuffleNetV2Pruning,
    "dynamic": DynamicPruning,
    "twolayermlp": TwoLayerMLPPruning,
    "threelayermlp": ThreeLayerMLPPruning,
    "sixlayermlp": SixLayerMLPPruning,
    "twelvelayermlp": TwelveLayerMLPPruning,
}
"""The pruner class of every family of the zoo."""


def setup_pruner(arch: str) -> type[BasicPruning]:
    """The pruner class of an architecture; of what has none of its own, the general one.

    Raises:
        PrunerError: there is no such family; the message offers near names.
    """
    if is_file(arch) or is_library_network(arch):
        return BasicPruning
    families = {*ARCHITECTURES, *(entry["family"] for entry in MODELS.values())}
    if arch not in families:
        raise PrunerError(
            f"--arch {arch}: unknown{did_you_mean(arch, families) or ';'} "
            f"`python app.py --list` shows all"
        )
    return ARCHITECTURES.get(arch, BasicPruning)
