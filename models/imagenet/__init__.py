"""Networks for 224x224 images; importing the package registers them."""

from functools import partial

from models.imagenet.resnet import DEPTHS, ResNet
from pruners.registry import ModelEntry, register_model

for _depth in DEPTHS:
    register_model(
        f"ResNet{_depth}",
        ModelEntry(
            wrapper=partial(ResNet, _depth),
            path=None,
            family="resnet",
            depth=_depth,
            input_shape=(3, 224, 224),
            num_classes=1000,
        ),
    )
