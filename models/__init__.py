"""The zoo: importing this package puts every network in it on offer (`pruners.registry.MODELS`)."""

from models import cifar as cifar
from models import imagenet as imagenet
from models.dynamic import DynamicNeuralNetwork as DynamicNeuralNetwork
from models.dynamic import HybridThresholds as HybridThresholds
from models.mlp import SixLayerMLP as SixLayerMLP
from models.mlp import ThreeLayerMLP as ThreeLayerMLP
from models.mlp import TwelveLayerMLP as TwelveLayerMLP
from models.mlp import TwoLayerMLP as TwoLayerMLP
