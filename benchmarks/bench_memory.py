"""Extra memory of pruning ResNet-152 at 224x224, beside torch-pruning.

    python -m benchmarks.bench_memory

The analysis alone, ours; then graph, L1 scores, selection and slicing, as `bench_tracing` times
them. Each runs in a process of its own, as the largest resident set never shrinks. What grows is
counted from the network in memory to the smaller network beside it.
"""

from __future__ import annotations

import multiprocessing
import resource
import tracemalloc
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn

from benchmarks.bench_tracing import ours, theirs
from pruners.analysis import analyse

Run = Callable[[nn.Module, Tensor], object]


def peak() -> float:
    """The largest resident set so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def network() -> nn.Module:
    return torchvision.models.resnet152().eval()


def analysis(model: nn.Module, x: Tensor) -> object:
    return analyse(model, x).graph.units()


def pruning(model: nn.Module, x: Tensor) -> object:
    return ours(model, x)()


def peers_pruning(model: nn.Module, x: Tensor) -> object:
    return theirs(model, x)()


def grown(run: Run) -> float:
    """MB by which the largest resident set grows; to be called in a new process."""
    torch.set_num_threads(1)
    x = torch.randn(1, 3, 224, 224)
    run(torchvision.models.resnet18().eval(), x)  # imports and caches
    model = network()
    before = peak()
    run(model, x)
    return peak() - before


def objects() -> float:
    """MB of Python objects that the analysis holds at most."""
    torch.set_num_threads(1)
    model, x = network(), torch.randn(1, 3, 224, 224)
    analysis(model, x)
    tracemalloc.start()
    analysis(model, x)
    return tracemalloc.get_traced_memory()[1] / 2**20


def main() -> None:
    weights = sum(t.numel() * t.element_size() for t in network().state_dict().values()) / 2**20
    print(f"ResNet-152 at 224x224, {weights:.0f} MB of weights: the resident set grows by")
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        found = {run: pool.apply(grown, (run,)) for run in (analysis, pruning, peers_pruning)}
        print(f"analysis, pruners             {found[analysis]:6.0f} MB (100 were to be met)")
        print(f"    Python objects of these   {pool.apply(objects):6.0f} MB at most")
    print(f"pruning half, pruners         {found[pruning]:6.0f} MB")
    print(f"pruning half, torch-pruning   {found[peers_pruning]:6.0f} MB")
    print(f"ratio                         {found[pruning] / found[peers_pruning]:6.2f}")


if __name__ == "__main__":
    main()
