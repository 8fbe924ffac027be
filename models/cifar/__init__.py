"""Networks for 32x32 images; importing the package registers them."""

from functools import partial
from pathlib import Path

from models.cifar.alexnet import AlexNet
from models.cifar.mobilenetv2 import MobileNetV2
from models.cifar.resnet import DEPTHS, ResNet
from models.cifar.squeezenet import SqueezeNet
from pruners.registry import ModelEntry, register_model

RESNET20_CHECKPOINT = Path(__file__).parent.parent / "checkpoints" / "resnet20_digits.safetensors"

for _depth in DEPTHS:
    register_model(
        f"ResNet{_depth}",
        ModelEntry(
            wrapper=partial(ResNet, _depth),
            path=RESNET20_CHECKPOINT if _depth == 20 else None,
            family="resnet",
            depth=_depth,
            input_shape=(3, 32, 32),
            num_classes=10,
        ),
    )

for _network in (AlexNet, MobileNetV2, SqueezeNet):
    register_model(
        _network.__name__,
        ModelEntry(
            wrapper=_network,
            path=None,
            family=_network.__name__.lower(),
            depth=None,
            input_shape=(3, 32, 32),
            num_classes=10,
        ),
    )
