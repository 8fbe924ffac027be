"""Multi-layer perceptrons; importing the package registers them."""

from pathlib import Path

from models.mlp.mlp import SixLayerMLP, ThreeLayerMLP, TwelveLayerMLP, TwoLayerMLP
from pruners.registry import ModelEntry, register_mlp

_CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"

for _network in (TwoLayerMLP, ThreeLayerMLP, SixLayerMLP, TwelveLayerMLP):
    _family = _network.__name__.lower()
    register_mlp(
        _network.__name__,
        ModelEntry(
            wrapper=_network,
            path=_CHECKPOINTS / f"{_family}_digits.safetensors",
            family=_family,
            depth=None,
            input_shape=(1, 8, 8),
            num_classes=10,
        ),
        trained_on="Digits",
    )
