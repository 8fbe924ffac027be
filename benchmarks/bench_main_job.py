"""Analysis, scores, selection and slicing, against torch-pruning's step on the same networks.

    python -m benchmarks.bench_main_job

Both start from the network in memory and end with the smaller one: ours with kept indices and a
slim `state_dict`, theirs with the sliced modules. The repeats alternate, and the ratio is of the
medians.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

import torch
import torch_pruning as tp
from rich.console import Console
from rich.table import Table
from torch import nn

import models  # noqa: F401 - fills the registry
from pruners import MODELS, prune

NETWORKS = ("ResNet20", "ResNet56", "ResNet110", "ResNet18", "ResNet50")
REPEATS = 5


def ours(model: nn.Module, x: torch.Tensor) -> Callable[[], object]:
    return lambda: prune(model, x, 50).state_dict


def theirs(model: nn.Module, x: torch.Tensor) -> Callable[[], object]:
    fresh = copy.deepcopy(model)

    def step() -> None:
        importance = tp.importance.GroupMagnitudeImportance(p=1)
        outputs = [m for m in fresh.modules() if isinstance(m, nn.Linear)]
        tp.pruner.BasePruner(fresh, x, importance, pruning_ratio=0.5, ignored_layers=outputs).step()

    return step


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    table = Table(title=f"seconds, median of {REPEATS} alternating runs")
    for column in ("network", "this project", f"torch-pruning {version('torch-pruning')}", "ratio"):
        table.add_column(column, justify="left" if column == "network" else "right")
    ratios = []
    for name in NETWORKS:
        entry = MODELS[name]
        torch.manual_seed(0)
        model = entry["wrapper"]().eval()
        x = torch.randn(1, *entry["input_shape"])
        ours(model, x)()  # warm
        theirs(model, x)()
        pairs = [(seconds(ours(model, x)), seconds(theirs(model, x))) for _ in range(REPEATS)]
        a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratios.append(a / b)
        table.add_row(name, f"{a:.3f}", f"{b:.3f}", f"{a / b:.2f}")
    table.add_section()
    table.add_row("geometric mean", "", "", f"{statistics.geometric_mean(ratios):.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
