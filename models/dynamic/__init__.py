"""Networks that choose their path by the input; importing the package registers them."""

from pathlib import Path

from models.dynamic.dynamic import DynamicNeuralNetwork as DynamicNeuralNetwork
from models.dynamic.dynamic import complexity as complexity
from pruners.hybrid_thresholds import HybridThresholds as HybridThresholds
from pruners.registry import ModelEntry, register_model

_CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"

register_model(
    "DynamicNeuralNetwork",
    ModelEntry(
        wrapper=DynamicNeuralNetwork,
        path=_CHECKPOINTS / "dynamic_digits.safetensors",
        family="dynamic",
        depth=None,
        input_shape=(3, 32, 32),
        num_classes=10,
    ),
    trained_on="Digits",
)
