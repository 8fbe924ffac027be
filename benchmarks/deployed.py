"""Pruned by half and quantized: sizes and accuracies of three networks on scikit-learn's digits.

    python -m benchmarks.deployed              the networks that are missing, then the table
    python -m benchmarks.deployed --write      and the table in docs/deployment.md

ResNet-20 has the weights that ship with it; the others are trained first, on images of 16x16
(the digits are 8x8), where a quarter of the time will do. Each is pruned by 50 percent of the
parameters, recalibrated, fine-tuned, and quantized. What is finished lies in `build/deployed`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import models  # noqa: F401  registers the zoo
from pruners import prune
from pruners.datasets import load_dataset
from pruners.deploy.quantizing import quantize
from pruners.evaluation import accuracy, weights_bytes
from pruners.metrics import count_parameters
from pruners.recalibration import recalibrate
from pruners.registry import MODELS
from pruners.sampling import BATCHES, sample
from pruners.store import commit, load_checkpoint, save_bytes
from pruners.training import train

FOLDER = Path("build/deployed")
PAGE = Path("docs/deployment.md")
MARKERS = ("<!-- deployed: begin -->", "<!-- deployed: end -->")
SMALLER, WORSE = 5.0, 1.5
"""What is to be met: times smaller on disk, and percentage points of accuracy at most."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a network gets its weights."""

    size: int
    """Height and width of the images."""
    epochs: int
    """0 where weights ship with the zoo."""
    finetune_epochs: int


PLANS = {
    "ResNet20": Plan(32, 0, 4),
    "MobileNetV2": Plan(16, 20, 6),
    "SqueezeNet": Plan(16, 30, 8),
}


def compute(name: str, plan: Plan) -> dict[str, Any]:
    """The figures of one network."""
    torch.set_num_threads(1)
    splits = load_dataset("Digits", input_shape=(3, plan.size, plan.size))
    torch.manual_seed(0)
    entry = MODELS[name]
    full = entry["wrapper"](num_classes=10, in_channels=3)
    base = FOLDER / f"{name}.pth"
    if not plan.epochs:
        assert entry["path"] is not None
        load_checkpoint(full, entry["path"])
    elif base.exists():
        load_checkpoint(full, base)
    else:
        train(full, splits, plan.epochs, lr=0.05, seed=0)
        commit({base: save_bytes(full.state_dict())})
    full.eval()
    x = torch.randn(2, 3, plan.size, plan.size, generator=torch.Generator().manual_seed(0))
    slim = prune(full, x, 50).model.requires_grad_(True)
    recalibrate(slim, sample(splits, BATCHES, 0))
    train(slim, splits, plan.finetune_epochs, seed=0)
    slim.eval()
    made = quantize(slim, (x,), splits)
    return {
        "size": plan.size,
        "parameters": [count_parameters(full), count_parameters(slim)],
        "bytes": weights_bytes(full),
        "accuracy": accuracy(full, splits.test),
        "pruned": {"bytes": weights_bytes(slim), "accuracy": made.before.accuracy},
        **{
            suffix: {"bytes": len(made.contents[suffix]), "accuracy": answers.accuracy}
            for suffix, answers in made.answers.items()
        },
        "left_in_float": list(made.left_in_float),
    }


def table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown; the networks that are finished."""
    lines = [
        "| network | images | file | size | smaller by | test accuracy |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    for name, facts in found.items():
        shape = f"3x{facts['size']}x{facts['size']}"
        rows = {
            "original, float `.pth`": facts,
            "pruned, float `.pth`": facts["pruned"],
            "pruned, int8 `.onnx`": facts[".onnx"],
            "pruned, int8 weights `.pth`": facts[".pth"],
            "pruned, int8 `.pt2`": facts.get(".pt2"),
        }
        for title, row in rows.items():
            if row is not None:
                lines.append(
                    f"| {name} | {shape} | {title} | {row['bytes'] / 1000:,.0f} kB "
                    f"| {facts['bytes'] / row['bytes']:.1f} | {row['accuracy']:.2f} % |"
                )
    missing = [name for name in PLANS if name not in found]
    if missing:
        lines += ["", f"Not computed yet: {', '.join(missing)}."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write the table into {PAGE}")
    parser.add_argument("--show", action="store_true", help="what is there, nothing computed")
    parser.add_argument("--only", choices=PLANS, help="this network alone")
    options = parser.parse_args()
    for name, plan in PLANS.items():
        path = FOLDER / f"{name}.json"
        if not options.show and not path.exists() and options.only in (None, name):
            facts = compute(name, plan)
            commit({path: json.dumps(facts).encode()})
            print(f"{name}: {json.dumps(facts)}", flush=True)
    paths = {name: FOLDER / f"{name}.json" for name in PLANS}
    found = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    text = table(found)
    print(text)
    for name, facts in found.items():
        smaller = facts["bytes"] / facts[".onnx"]["bytes"]
        worse = facts["accuracy"] - facts[".onnx"]["accuracy"]
        print(
            f"{name}: {smaller:.1f} times smaller ({SMALLER} was to be met), {worse:+.2f} points "
            f"worse (at most {WORSE})"
        )
    if options.write:
        page = PAGE.read_text()
        begin, end = (page.index(marker) for marker in MARKERS)
        page = f"{page[: begin + len(MARKERS[0])]}\n\n{text}\n\n{page[end:]}"
        commit({PAGE: page.encode()})


if __name__ == "__main__":
    main()
