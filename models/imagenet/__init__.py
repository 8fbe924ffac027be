"""Networks for 224x224 images; importing the package registers them."""

from functools import partial

from models.imagenet.alexnet import AlexNet
from models.imagenet.mobilenetv2 import MobileNetV2
from models.imagenet.resnet import DEPTHS, ResNet
from models.imagenet.squeezenet import SqueezeNet1_0, SqueezeNet1_1
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

for _name, _network, _family in (
    ("AlexNet_224", AlexNet, "alexnet"),
    ("MobileNetV2_224", MobileNetV2, "mobilenetv2"),
    ("SqueezeNet1_1", SqueezeNet1_1, "squeezenet"),
    ("SqueezeNet1_0", SqueezeNet1_0, "squeezenet1_0"),
):
    register_model(
        _name,
        ModelEntry(
            wrapper=_network,
            path=None,
            family=_family,
            depth=None,
            input_shape=(3, 224, 224),
            num_classes=1000,
        ),
    )
