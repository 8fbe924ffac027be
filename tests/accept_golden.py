"""The generated files that are kept under tests/golden, to be read in a review.

python -m tests.accept_golden       write them anew, after a change that is meant
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torchvision
from torch import nn
from torchvision import models

from models.cifar.resnet import ResNet
from models.imagenet.resnet import ResNet as ImageNetResNet
from models.mlp import SixLayerMLP
from pruners import BasicPruning, Options
from pruners.loading import class_from_file

HERE = Path(__file__).parent
FOLDER = HERE / "golden"
# The torchvision whose text is in the files of its networks, by digest.
DIGEST = FOLDER / "torchvision.txt"

# Stem of the file -> how the network is made, size of the input.
ZOO: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet20_50": (partial(ResNet, 20), 32),
    "resnet29_50": (partial(ResNet, 29), 32),
    "resnet18_50": (partial(ImageNetResNet, 18), 64),
}
MLPS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "sixlayermlp_50": (partial(SixLayerMLP, in_features=3 * 8 * 8), 8),
}
OPTIONS = {
    "vit_b_16": {"image_size": 64},
    "googlenet": {"init_weights": False},
    "inception_v3": {"init_weights": False, "aux_logits": False},
    "deeplabv3_resnet50": {"weights_backbone": None},
}
TORCHVISION: dict[str, tuple[Callable[[], nn.Module], int]] = {
    f"{name}_50": (partial(models.get_model, name, weights=None, **OPTIONS.get(name, {})), size)
    for name, size in {
        "convnext_tiny": 64,
        "deeplabv3_resnet50": 64,
        "densenet121": 64,
        "efficientnet_b0": 64,
        "googlenet": 64,
        "inception_v3": 96,
        "mobilenet_v2": 64,
        "mobilenet_v3_large": 64,
        "mobilenet_v3_small": 64,
        "resnet50": 64,
        "shufflenet_v2_x1_0": 64,
        "vit_b_16": 64,
    }.items()
}


def _users(name: str) -> nn.Module:
    network: nn.Module = class_from_file(HERE / "files" / f"{name}.py", "Net")()
    return network


USERS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    f"{path.stem}_50": (partial(_users, path.stem), 16)
    for path in sorted((HERE / "files").glob("*.py"))
}
GOLDEN = {**ZOO, **MLPS, **TORCHVISION, **USERS}


def digest() -> str:
    """Of the text of the installed torchvision's networks, which releases seldom change."""
    package = Path(torchvision.__file__).parent
    files = sorted([*(package / "models").rglob("*.py"), *(package / "ops").glob("*.py")])
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def generated(stem: str) -> str:
    """The text that is generated for one of the golden networks."""
    build, size = GOLDEN[stem]
    model = build()
    fill(model, even=stem not in ZOO)
    name = f"ResNet{stem[6:8]}" if stem in ZOO else stem.removesuffix("_50")
    example = torch.zeros(1, 3, size, size)
    return BasicPruning(model, example, Options(), fileName=stem, netName=name).run().source


def fill(model: nn.Module, even: bool = False) -> None:
    """Weights by a formula, so that no change of a random generator changes a file.

    Filter i of layer k is 1 + spread(k) * frac(i * golden ratio + k * sqrt(2)): well apart, and
    more so in some layers than in others.
    """
    with torch.no_grad():
        for k, parameter in enumerate(p for p in model.parameters() if p.dim() > 1):
            spread = (1 if even else 0.5) + (0.5 if even else 3) * math.modf(k * math.sqrt(3))[0]
            for i, row in enumerate(parameter):
                place = math.modf(i * (1 + math.sqrt(5)) / 2 + k * math.sqrt(2))[0]
                row.fill_(1 + spread * place)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    DIGEST.write_text(f"{digest()}\n", encoding="utf-8")
    for stem in GOLDEN:
        (FOLDER / f"{stem}.py").write_text(generated(stem), encoding="utf-8")


if __name__ == "__main__":
    main()
