"""The generated files that are kept under tests/golden, to be read in a review.

python -m tests.accept_golden       write them anew, after a change that is meant
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import nn

from models.cifar.resnet import ResNet
from models.imagenet.resnet import ResNet as ImageNetResNet
from pruners import BasicPruning, Options

FOLDER = Path(__file__).parent / "golden"

# Stem of the file -> network, depth, size of the input.
GOLDEN: dict[str, tuple[type[nn.Module], int, int]] = {
    "resnet20_50": (ResNet, 20, 32),
    "resnet29_50": (ResNet, 29, 32),
    "resnet18_50": (ImageNetResNet, 18, 64),
}


def generated(stem: str) -> str:
    """The text that is generated for one of the golden networks."""
    cls, depth, size = GOLDEN[stem]
    model = cls(depth)
    fill(model)
    name = f"ResNet{depth}"
    example = torch.zeros(1, 3, size, size)
    return BasicPruning(model, example, Options(), fileName=stem, netName=name).run().source


def fill(model: nn.Module) -> None:
    """Weights by a formula, so that no change of a random generator changes a file.

    Filter i of layer k is 1 + spread(k) * frac(i * golden ratio + k * sqrt(2)): well apart, and
    more so in some layers than in others.
    """
    with torch.no_grad():
        for k, parameter in enumerate(p for p in model.parameters() if p.dim() > 1):
            spread = 0.5 + 3 * math.modf(k * math.sqrt(3))[0]
            for i, row in enumerate(parameter):
                place = math.modf(i * (1 + math.sqrt(5)) / 2 + k * math.sqrt(2))[0]
                row.fill_(1 + spread * place)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for stem in GOLDEN:
        (FOLDER / f"{stem}.py").write_text(generated(stem), encoding="utf-8")


if __name__ == "__main__":
    main()
