"""Accuracy after pruning and equal fine-tuning, measure by measure, ours and torch-pruning's.

    python -m benchmarks.accuracy              every cell that is missing, then the table
    python -m benchmarks.accuracy --write      and docs/accuracy.md

ResNet-20 on scikit-learn's digits (3x32x32, 1,257 images to train). Per seed a network is trained
from scratch; all measures prune that network to the same multiply-accumulates: those that are left
when our default has removed 50 (75) percent of the parameters. Then batch norms are recalibrated
and the network is trained for five epochs, all alike. Finished cells lie in `build/accuracy` and
are not computed again.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import textwrap
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torch_pruning as tp
from torch import nn
from torch.utils.data import DataLoader, Subset

from models.cifar.resnet import ResNet
from pruners import PrunerError, prune
from pruners.datasets import DataSplits, load_dataset
from pruners.evaluation import accuracy
from pruners.metrics import count_macs, count_parameters
from pruners.recalibration import recalibrate
from pruners.registry import SCORING_MEASURES
from pruners.store import commit, load_checkpoint, save_bytes
from pruners.training import train

FOLDER = Path("build/accuracy")
PAGE = Path("docs/accuracy.md")
SEEDS = range(5)
PERCENTS = (50, 75)
BASE_EPOCHS = 20
EPOCHS = 5
X = torch.zeros(1, 3, 32, 32)

OURS: dict[str, dict[str, Any]] = {
    **{name: {"measure": name} for name in SCORING_MEASURES},
    "ChannelNorm, p=2": {"measure": "ChannelNorm", "measure_args": {"p": 2}},
    "ChannelNorm, Local": {"measure": "ChannelNorm", "method": "Local"},
    "ChannelNorm, Isomorphic": {"measure": "ChannelNorm", "method": "Isomorphic"},
}
"""What the options of `prune` are; the first is the default."""

LAST = ("ChannelNorm, p=2", "ChannelNorm, Local", "ChannelNorm, Isomorphic")
"""Other settings of our default: interesting, but not what the table is for."""

THEIRS: dict[str, Callable[[], Any]] = {
    "L1": lambda: tp.importance.GroupMagnitudeImportance(p=1),
    "L2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
    "BN scale": lambda: tp.importance.BNScaleImportance(),
    "Taylor": lambda: tp.importance.GroupTaylorImportance(),
    "random": lambda: tp.importance.RandomImportance(),
}
"""All with global ranking."""


def sample(splits: DataSplits, seed: int) -> list[Any]:
    """The same 1,024 training images for every measure."""
    order = torch.randperm(len(splits.train), generator=torch.Generator().manual_seed(seed))  # type: ignore[arg-type]
    loader = DataLoader(Subset(splits.train, order[:1024].tolist()), 64)
    return list(loader)


def base(seed: int, splits: DataSplits) -> nn.Module:
    """The network of a seed, trained once."""
    path = FOLDER / f"base_{seed}.pth"
    torch.manual_seed(seed)
    network = ResNet(20)
    if path.exists():
        load_checkpoint(network, path)
        return network.eval()
    train(network, splits, BASE_EPOCHS, lr=0.1, seed=seed)
    commit({path: save_bytes(network.state_dict())})
    return network.eval()


def ours(network: nn.Module, options: dict[str, Any], left: int, data: list[Any], seed: int) -> Any:
    """The network with no more than `left` MACs."""
    percent = 100 * (1 - left / count_macs(network, X))
    result = prune(
        network, torch.cat([X, X]), percent, target="macs", calibration=data, seed=seed, **options
    )
    return result.model


def theirs(
    network: nn.Module, importance: Callable[[], Any], left: int, data: list[Any], seed: int
) -> nn.Module:
    """As `ours`, with the smallest ratio (of a binary search) that leaves no more than `left`."""

    scored = copy.deepcopy(network)
    if isinstance(importance(), tp.importance.GroupTaylorImportance):
        for images, labels in data:
            F.cross_entropy(scored(images), labels).backward()

    def pruned(ratio: float) -> nn.Module:
        fresh: Any = copy.deepcopy(scored)
        for own, known in zip(fresh.parameters(), scored.parameters(), strict=True):
            own.grad = None if known.grad is None else known.grad.clone()
        torch.manual_seed(seed)
        pruner = tp.pruner.BasePruner(
            fresh,
            X,
            importance(),
            global_pruning=True,
            pruning_ratio=ratio,
            ignored_layers=[fresh.fc],
        )
        pruner.step()
        slim: nn.Module = fresh
        return slim

    low, high = 0.0, 0.99
    for _ in range(8):
        middle = (low + high) / 2
        if count_macs(pruned(middle), X) <= left:
            high = middle
        else:
            low = middle
    return pruned(high)


def cell(
    make: Callable[[], nn.Module], splits: DataSplits, data: list[Any], seed: int
) -> dict[str, Any]:
    slim = make().eval()
    facts: dict[str, Any] = {
        "parameters": count_parameters(slim),
        "macs": count_macs(slim, X),
        "pruned": accuracy(slim, splits.test),
    }
    recalibrate(slim, data)
    facts["recalibrated"] = accuracy(slim, splits.test)
    slim.requires_grad_(True)
    train(slim, splits, EPOCHS, seed=seed)
    facts["finetuned"] = accuracy(slim, splits.test)
    return facts


def cells() -> Iterator[tuple[int, int, str, str]]:
    """(seed, percent, tool, name), in the order in which they are computed."""
    measures = [name for name in OURS if name not in LAST]
    for seed in SEEDS:
        for percent in PERCENTS:
            yield from ((seed, percent, "pruners", name) for name in measures)
            yield from ((seed, percent, "torch-pruning", name) for name in THEIRS)
    for seed in SEEDS:
        for percent in PERCENTS:
            yield from ((seed, percent, "pruners", name) for name in LAST)


def path_of(seed: int, percent: int, tool: str, name: str) -> Path:
    plain = "".join(c if c.isalnum() else "_" for c in f"{tool}_{name}")
    return FOLDER / f"{plain}_{percent}_{seed}.json"


def compute(seeds: Sequence[int] = SEEDS) -> None:
    """Every cell of these seeds that is missing."""
    splits = load_dataset("Digits")
    torch.set_num_threads(1)
    networks: dict[int, tuple[nn.Module, list[Any], float, dict[int, int]]] = {}
    for seed, percent, tool, name in cells():
        path = path_of(seed, percent, tool, name)
        if seed not in seeds or path.exists():
            continue
        if seed not in networks:
            network, data = base(seed, splits), sample(splits, seed)
            images = torch.cat([X, X])
            left = {
                p: count_macs(prune(network, images, p, calibration=data).model, X)
                for p in PERCENTS
            }
            networks[seed] = network, data, accuracy(network, splits.test), left
        network, data, before, left = networks[seed]
        prune_it, how = (ours, OURS) if tool == "pruners" else (theirs, THEIRS)
        make = partial(prune_it, network, how[name], left[percent], data, seed)  # type: ignore[operator,index]
        try:
            facts = cell(make, splits, data, seed)
        except PrunerError as error:
            facts = {"failed": str(error)}
        text = json.dumps({"before": before, "macs_left": left[percent], **facts})
        commit({path: text.encode()})
        print(f"{seed} {percent} {tool} {name}: {text}", flush=True)


def load() -> dict[tuple[int, int, str, str], dict[str, Any]]:
    return {c: json.loads(p.read_text()) for c in cells() if (p := path_of(*c)).exists()}


def spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2f} ± {deviation:.2f}"


def table(percent: int) -> Iterator[str]:
    found = {c: facts for c, facts in load().items() if c[1] == percent and "failed" not in facts}
    yield "| tool | measure | parameters | MACs | recalibrated | fine-tuned | worst seed |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: |"
    rows: list[tuple[float, str]] = []
    for tool, names in (("pruners", OURS), ("torch-pruning", THEIRS)):
        for name in names:
            of_cell = [facts for c, facts in found.items() if c[2:] == (tool, name)]
            if not of_cell:
                continue

            def column(key: str, of_cell: list[dict[str, Any]] = of_cell) -> list[float]:
                return [facts[key] for facts in of_cell]

            tuned = column("finetuned")
            short = "" if len(of_cell) == len(SEEDS) else f" ({len(of_cell)} of {len(SEEDS)} seeds)"
            rows.append(
                (
                    -statistics.mean(tuned),
                    f"| {tool} | {name}{short} | {statistics.mean(column('parameters')):,.0f} "
                    f"| {statistics.mean(column('macs')) / 1e6:.2f} M "
                    f"| {spread(column('recalibrated'))} | {spread(tuned)} | {min(tuned):.2f} |",
                )
            )
    yield from (row for _, row in sorted(rows, key=lambda row: row[0]))


def page() -> str:
    found = load()
    before = [
        facts["before"] for c, facts in found.items() if c[1:] == (50, "pruners", "ChannelNorm")
    ]
    network = ResNet(20)
    about = f"""
        Does it matter how channels are chosen? ResNet-20 on scikit-learn's digits, {len(SEEDS)}
        seeds: a network is trained from scratch ({BASE_EPOCHS} epochs), pruned once, its batch
        norms are recalibrated on 1,024 training images, and it is fine-tuned for {EPOCHS} epochs;
        all measures alike, on the same network. For each seed every measure, ours and
        torch-pruning's, leaves the same multiply-accumulates (at most, and within a channel or
        two): those that are left when our default, `ChannelNorm` with `Global`, has removed 50 or
        75 percent of the parameters. Percent of the 360 test images, mean ± standard deviation
        over the seeds; one image is 0.28 percent.
    """
    made = f"""
        Made by `python -m benchmarks.accuracy --write`, with torch {version("torch")} and
        torch-pruning {version("torch-pruning")}, one thread. Before pruning:
        {count_parameters(network):,} parameters, {count_macs(network, X) / 1e6:.1f} M MACs,
        {spread(before)} percent.
    """
    paragraphs = [textwrap.fill(" ".join(text.split()), 100) for text in (about, made)]
    text = "\n\n".join(paragraphs)
    lines = ["# Accuracy", "", *text.splitlines()]
    for percent in PERCENTS:
        lines += ["", f"## {percent} percent of the parameters", "", *table(percent)]
    failed = [(c, facts["failed"]) for c, facts in found.items() if "failed" in facts]
    if failed:
        lines += ["", "Not done:", "", *(f"- {' '.join(map(str, c))}: {why}" for c, why in failed)]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="compute these")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE}")
    parser.add_argument("--show", action="store_true", help="what is there, nothing computed")
    options = parser.parse_args()
    if not options.show:
        compute(options.seeds)
    text = page()
    print(text)
    if options.write:
        commit({PAGE: text.encode()})


if __name__ == "__main__":
    main()
