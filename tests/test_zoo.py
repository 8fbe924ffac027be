"""Every registered network is under test by being registered."""

import copy
import pickle

import pytest
import torch
import torchvision
from helpers import scripted
from safetensors.torch import load_file
from torch import nn

import models  # noqa: F401  (registers the zoo)
from models.cifar.resnet import ResNet as CifarResNet
from models.imagenet.resnet import ResNet as ImageNetResNet
from pruners.datasets import load_dataset
from pruners.dependencies import find_blocks
from pruners.errors import PrunerError
from pruners.evaluation import accuracy
from pruners.metrics import count_parameters
from pruners.registry import MODELS

# The deep networks only repeat what the others have; `make test-zoo` runs them too.
DEEP = {"ResNet110", "ResNet164", "ResNet101"}
ONE_OF_EACH = {
    *("ResNet20", "ResNet29", "ResNet18", "ResNet50"),
    *("AlexNet", "MobileNetV2", "SqueezeNet"),
    *("VGG11", "MNASNet", "GoogLeNet", "SEResNet20", "DenseNet40", "ShuffleNetV2"),
    "SixLayerMLP",
}

MLPS = {name for name in MODELS if name.endswith("MLP")}

UNDECORATED = {"alexnet", "vgg", "densenet", "shufflenetv2", *(name.lower() for name in MLPS)}


def parametrize_models(quick: set[str]) -> pytest.MarkDecorator:
    rest = pytest.mark.zoo
    names = [pytest.param(name, marks=() if name in quick else rest) for name in MODELS]
    return pytest.mark.parametrize("name", names)


every_model = parametrize_models(MODELS.keys() - DEEP)
compiled_model = parametrize_models(ONE_OF_EACH)


def build(name: str, **arguments: int) -> nn.Module:
    """On meta tensors: structure and shapes without the arithmetic."""
    with torch.device("meta"):
        return MODELS[name]["wrapper"](**arguments)


def example(name: str, channels: int | None = None) -> torch.Tensor:
    shape = MODELS[name]["input_shape"]
    return torch.zeros(2, channels or shape[0], *shape[1:], device="meta")


def first(family: str) -> str:
    return next(name for name, entry in MODELS.items() if entry["family"] == family)


def layers(model: nn.Module) -> list[str]:
    """Convolutions and Linears in the order of definition."""
    return [n for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]


def test_the_first_of_a_family_is_small():
    assert [first(family) for family in ("resnet", "alexnet", "mobilenetv2", "squeezenet")] == [
        "ResNet20",
        "AlexNet",
        "MobileNetV2",
        "SqueezeNet",
    ]


@every_model
def test_entry_says_what_the_network_is(name):
    entry = MODELS[name]
    model = build(name)
    assert name.isidentifier()
    assert model(example(name)).shape == (2, entry["num_classes"])
    if entry["depth"] is not None:
        assert name.endswith(str(entry["depth"]))
        sides = [n for n in layers(model) if "downsample" in n or ".gate." in n]
        assert len(layers(model)) - len(sides) == entry["depth"]


@every_model
def test_classes_and_input_channels_are_arguments(name):
    x = example(name, channels=2)
    size = {"in_features": x[0].numel()} if name in MLPS else {"in_channels": 2}
    model = build(name, num_classes=7, **size)
    assert model(x).shape == (2, 7)
    default = build(name).state_dict()
    differ = {key for key, value in model.state_dict().items() if value.shape != default[key].shape}
    ends = layers(model)
    assert differ == {f"{ends[0]}.weight", f"{ends[-1]}.weight", f"{ends[-1]}.bias"}


@every_model
def test_modules_are_defined_in_the_order_in_which_they_run(name):
    model = build(name)
    ran: list[str] = []
    for path, module in model.named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda *_, path=path: ran.append(path))
    model(example(name))
    assert ran == [path for path, module in model.named_modules() if not list(module.children())]


@every_model
def test_blocks_are_described_and_their_layers_exist(name):
    blocks = [b for b in find_blocks(build(name)).values() if b.spec.decorator]
    assert bool(blocks) == (MODELS[name]["family"] not in UNDECORATED)
    for block in blocks:
        block.check()


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("ResNet20", 272_474),  # 0.27 M in table 6 of the paper
        ("ResNet32", 466_906),  # 0.46 M
        ("ResNet44", 661_338),  # 0.66 M
        ("ResNet56", 855_770),  # 0.85 M
        ("ResNet110", 1_730_714),  # 1.7 M
        ("ResNet164", 1_704_154),  # 1.7 M in "Identity Mappings in Deep Residual Networks"
        ("DenseNet40", 1_019_722),  # 1.0 M in table 2 of the paper
        # By hand: inputs times outputs, and as many biases as outputs.
        ("TwoLayerMLP", 64 * 256 + 256 * 10 + 266),
        ("ThreeLayerMLP", 64 * 256 + 256 * 128 + 128 * 10 + 394),
        ("SixLayerMLP", (64 + 256) * 256 + (256 + 128) * 128 + 128 * 64 + 64 * 10 + 842),
        ("TwelveLayerMLP", (64 + 10 * 128 + 10) * 128 + 11 * 128 + 10),
        ("ResNet18", 11_689_512),
        ("ResNet34", 21_797_672),
        ("ResNet50", 25_557_032),
        ("ResNet101", 44_549_160),
        ("AlexNet_224", 61_100_840),
        ("MobileNetV2_224", 3_504_872),
        ("SqueezeNet1_0", 1_248_424),
        ("SqueezeNet1_1", 1_235_496),
    ],
)
def test_parameters_are_as_published(name, parameters):
    assert count_parameters(build(name)) == parameters


TORCHVISION = {
    **{f"ResNet{depth}": f"resnet{depth}" for depth in (18, 34, 50, 101)},
    "AlexNet_224": "alexnet",
    "SqueezeNet1_0": "squeezenet1_0",
    "SqueezeNet1_1": "squeezenet1_1",
    "MobileNetV2_224": "mobilenet_v2",
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_imagenet_networks_have_torchvisions_keys_and_shapes(name):
    with torch.device("meta"):
        theirs = getattr(torchvision.models, TORCHVISION[name])().state_dict()
    ours = build(name).state_dict()
    assert [value.shape for value in ours.values()] == [value.shape for value in theirs.values()]
    if name != "MobileNetV2_224":  # which calls its layers by names of its own
        assert list(ours) == list(theirs)


@pytest.mark.parametrize("name", ["ResNet18", "ResNet50", "SqueezeNet1_0", "MobileNetV2_224"])
def test_imagenet_networks_compute_what_torchvisions_do(name):
    torch.manual_seed(0)
    ours = MODELS[name]["wrapper"]().double().eval()
    theirs = getattr(torchvision.models, TORCHVISION[name])().double().eval()
    state = ours.state_dict()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), state.values(), strict=True)))
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)


def test_convolutions_start_with_he_initialisation():
    torch.manual_seed(0)
    weight = CifarResNet(20).layer3[1].conv1.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)


@compiled_model
@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_scriptable(name):
    assert scripted(build(name))(example(name)).shape[0] == 2


@compiled_model
def test_exportable(name):
    program = torch.export.export(build(name).eval(), (example(name),))
    assert program.module()(example(name)).shape == (2, MODELS[name]["num_classes"])


@compiled_model
def test_compilable_without_graph_breaks(name):
    compiled = torch.compile(build(name).eval(), backend="eager", fullgraph=True)
    assert compiled(example(name)).shape == (2, MODELS[name]["num_classes"])
    torch._dynamo.reset()


@pytest.mark.parametrize("network", [CifarResNet, ImageNetResNet])
def test_stays_picklable_and_copyable(network):
    model = network()
    assert type(pickle.loads(pickle.dumps(model))) is network
    assert type(copy.deepcopy(model)) is network


@pytest.mark.parametrize(
    ("network", "depths"),
    [(CifarResNet, r"20, 29, 32, 44, 56, 110, 164"), (ImageNetResNet, r"18, 34, 50, 101")],
)
def test_depth_that_does_not_exist(network, depths):
    with pytest.raises(PrunerError, match=rf"^ResNet depth 21: expected one of \[{depths}\]$"):
        network(21)


@pytest.mark.parametrize("name", [n for n, entry in MODELS.items() if entry["path"]])
def test_shipped_weights_fit_and_are_trained(name):
    entry = MODELS[name]
    assert entry["path"].stat().st_size <= 1.5e6
    model = entry["wrapper"]()
    model.load_state_dict(load_file(entry["path"]))
    digits = load_dataset("Digits", input_shape=entry["input_shape"])
    assert accuracy(model, digits.test) >= (95 if name in MLPS else 98.5)
