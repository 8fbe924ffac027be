"""Train the checkpoint that ships with the zoo: ResNet-20 on Digits.

    python -m models.train_checkpoint

takes about three minutes on two cores, writes `models/checkpoints/resnet20_digits.safetensors`
and prints the test accuracy. The test split plays no part in training. Another machine or torch
version rounds differently and ends with slightly different weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save

from models.cifar import RESNET20_CHECKPOINT
from models.cifar.resnet import ResNet
from pruners.datasets import load_dataset
from pruners.evaluation import accuracy
from pruners.store import commit
from pruners.training import train

SEED = 0
COMMAND = "python -m models.train_checkpoint"


def train_checkpoint(out: Path, epochs: int) -> float:
    """Train from scratch, write the weights to `out`, return the test accuracy in percent."""
    torch.manual_seed(SEED)
    # The number of threads decides the order of sums, and so the last digits.
    torch.set_num_threads(2)
    model = ResNet(depth=20, num_classes=10)
    splits = load_dataset("Digits")
    train(model, splits, epochs, lr=0.1, seed=SEED, progress=True)
    percent = accuracy(model, splits.test)
    # One entry: safetensors writes several in an order that changes from run to run.
    about = f"ResNet20 on Digits, {percent:.2f} % of the test split; made by {COMMAND}"
    content = save(model.state_dict(), metadata={"about": about})
    commit({out: content})
    return percent


def main() -> None:
    parser = argparse.ArgumentParser(description="Train ResNet-20 on Digits.")
    parser.add_argument("--out", type=Path, default=RESNET20_CHECKPOINT, metavar="FILE")
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args()
    percent = train_checkpoint(options.out, options.epochs)
    print(f"{options.out.name}: {percent:.2f} % of the test split")


if __name__ == "__main__":
    main()
