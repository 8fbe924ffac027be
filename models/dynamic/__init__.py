"""Networks that choose their path by the input; importing the package registers them."""

from models.dynamic.dynamic import DynamicNeuralNetwork as DynamicNeuralNetwork
from models.dynamic.dynamic import complexity as complexity
from pruners.hybrid_thresholds import HybridThresholds as HybridThresholds
from pruners.registry import ModelEntry, register_model

register_model(
    "DynamicNeuralNetwork",
    ModelEntry(
        wrapper=DynamicNeuralNetwork,
        path=None,
        family="dynamic",
        depth=None,
        input_shape=(3, 32, 32),
        num_classes=10,
    ),
)
