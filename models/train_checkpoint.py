"""Train the checkpoints that ship with the zoo, on Digits.

    python -m models.train_checkpoint                 all: three minutes on two cores
    python -m models.train_checkpoint TwoLayerMLP     those that are named: seconds

writes them to `models/checkpoints` and prints the test accuracies. The test split plays no part in
training. Another machine or torch version rounds differently and ends with slightly different
weights.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save

import models  # noqa: F401  registers the zoo
from pruners.datasets import load_dataset
from pruners.evaluation import accuracy
from pruners.registry import MODELS
from pruners.store import commit
from pruners.training import train

SEED = 0
COMMAND = "python -m models.train_checkpoint"
SHIPPED = {name: entry["path"] for name, entry in MODELS.items() if entry["path"] is not None}
"""Where the weights lie that ship with the project, by the network's name."""


@dataclass(frozen=True)
class Settings:
    """How a network is trained."""

    epochs: int
    lr: float
    threads: int
    """The number of threads decides the order of sums, and so the last digits."""


# Twelve Linears without a norm diverge at 0.1.
OF_MLPS = Settings(epochs=60, lr=0.05, threads=1)
SETTINGS = {"ResNet20": Settings(epochs=30, lr=0.1, threads=2)}


def train_checkpoint(name: str, out: Path, epochs: int | None = None) -> float:
    """Train from scratch, write the weights to `out`, return the test accuracy in percent."""
    settings, entry = SETTINGS.get(name, OF_MLPS), MODELS[name]
    torch.manual_seed(SEED)
    torch.set_num_threads(settings.threads)
    model = entry["wrapper"]()
    splits = load_dataset("Digits", input_shape=entry["input_shape"])
    train(model, splits, epochs or settings.epochs, lr=settings.lr, seed=SEED, progress=True)
    percent = accuracy(model, splits.test)
    # One entry: safetensors writes several in an order that changes from run to run.
    about = f"{name} on Digits, {percent:.2f} % of the test split; made by {COMMAND}"
    commit({out: save(model.state_dict(), metadata={"about": about})})
    return percent


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=COMMAND, description="Train what ships, on Digits.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SHIPPED))
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: models/checkpoints")
    parser.add_argument("--epochs", type=int)
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in SHIPPED:
            parser.error(f"{name}: no weights of it ship; expected among {', '.join(SHIPPED)}")
    for name in options.names or SHIPPED:
        path = SHIPPED[name]
        out = path if options.out is None else options.out / path.name
        percent = train_checkpoint(name, out, options.epochs)
        print(f"{out.name}: {percent:.2f} % of the test split", flush=True)


if __name__ == "__main__":
    main()
