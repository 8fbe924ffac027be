"""Networks for 32x32 images; importing the package registers them."""

from functools import partial
from pathlib import Path

from models.cifar import densenet, resnet, se_resnet, vgg
from models.cifar.alexnet import AlexNet
from models.cifar.googlenet import GoogLeNet
from models.cifar.mnasnet import MNASNet
from models.cifar.mobilenetv2 import MobileNetV2
from models.cifar.shufflenetv2 import ShuffleNetV2
from models.cifar.squeezenet import SqueezeNet
from pruners.registry import ModelEntry, register_model

_FOLDER = Path(__file__).parent.parent / "checkpoints"
_CHECKPOINTS = {"ResNet20": _FOLDER / "resnet20_digits.safetensors"}

for _name, _class, _family, _depths in (
    ("ResNet", resnet.ResNet, "resnet", resnet.DEPTHS),
    ("VGG", vgg.VGG, "vgg", vgg.DEPTHS),
    ("SEResNet", se_resnet.SEResNet, "se_resnet", se_resnet.DEPTHS),
    ("DenseNet", densenet.DenseNet, "densenet", densenet.DEPTHS),
):
    for _depth in _depths:
        register_model(
            f"{_name}{_depth}",
            ModelEntry(
                wrapper=partial(_class, _depth),
                path=_CHECKPOINTS.get(f"{_name}{_depth}"),
                family=_family,
                depth=_depth,
                input_shape=(3, 32, 32),
                num_classes=10,
            ),
            trained_on="Digits" if f"{_name}{_depth}" in _CHECKPOINTS else None,
        )

for _network in (AlexNet, MobileNetV2, SqueezeNet, MNASNet, GoogLeNet, ShuffleNetV2):
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
