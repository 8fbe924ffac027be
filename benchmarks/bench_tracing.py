"""Analysis, scores, selection and slicing against torch-pruning 1.6.1, in one process.

    python benchmarks/bench_tracing.py                  20 networks, a table
    python benchmarks/bench_tracing.py resnet50 vgg16   these
    python benchmarks/bench_tracing.py --growth         time over depth, 18 to 1001 layers
    python benchmarks/bench_tracing.py --memory         extra memory for ResNet-152 at 224x224

Both prune half of the channels by their L1 norm. Times are the best of three runs (one run of the
peer where it takes more than five seconds), on one thread.
"""

from __future__ import annotations

import copy
import math
import sys
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from pruners.channel_graph import Axis, kept_of
from pruners.replay import slice_tensor, trace_graph

NETWORKS = tuple(
    "alexnet vgg11_bn vgg16 resnet18 resnet34 resnet50 resnet101 resnext50_32x4d"
    " wide_resnet50_2 densenet121 densenet201 googlenet squeezenet1_1 mobilenet_v2"
    " mobilenet_v3_small mobilenet_v3_large mnasnet1_0 efficientnet_b0 regnet_y_400mf"
    " regnet_x_800mf"
)


def ours(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """A local selection by mean L1 norm, as short as it can be; the real ones are in `methods`."""
    graph = trace_graph(model, x)
    units = graph.units()
    state = model.state_dict()
    score, atoms = np.zeros(units.count), np.zeros(units.count)
    for axis in units.axes:
        weight = state[axis.tensor]
        if weight.dim() > 1:
            norm = weight.detach().transpose(0, axis.dim).flatten(1).abs().sum(1).double().numpy()
            np.add.at(score, units.of(axis), norm)
            np.add.at(atoms, units.of(axis), 1)
    score /= np.maximum(atoms, 1)
    stays = units.frozen.copy()
    order = np.lexsort((score, units.group_of))
    group = units.group_of[order]
    start = np.flatnonzero(np.diff(group, prepend=-1))
    sizes = np.diff([*start, len(group)])
    rank = np.arange(len(group)) - np.repeat(start, sizes)
    stays[order[rank >= np.repeat(sizes // 2, sizes)]] = True
    kept = kept_of(graph.shapes, units, stays)
    return {name: slice_tensor(tensor, kept[name]) for name, tensor in state.items()}


def peer(model: nn.Module, x: Tensor) -> None:
    import torch_pruning as tp

    heads = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == 1000]
    importance = tp.importance.GroupMagnitudeImportance(p=1)
    tp.pruner.BasePruner(model, x, importance, pruning_ratio=0.5, ignored_layers=heads).step()


def best(run: Callable[[], object], times: int = 3) -> float:
    found = math.inf
    for _ in range(times):
        start = time.process_time()
        run()
        found = min(found, time.process_time() - start)
        if found > 5:
            break
    return found


def build(name: str) -> nn.Module:
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(name, **options).eval()


def compare(names: list[str]) -> None:
    ratios = []
    print(f"{'network':22}{'ours s':>9}{'peer s':>9}{'ratio':>8}")
    for name in names:
        model, x = build(name), torch.randn(1, 3, 224, 224)
        mine = best(lambda model=model, x=x: ours(model, x))
        try:
            copies = [copy.deepcopy(model) for _ in range(3)]
            theirs = best(lambda copies=copies, x=x: peer(copies.pop(), x))
        except Exception as error:
            print(f"{name:22}{mine:9.3f}  peer fails: {type(error).__name__}", flush=True)
            continue
        ratios.append(mine / theirs)
        print(f"{name:22}{mine:9.3f}{theirs:9.3f}{ratios[-1]:8.3f}", flush=True)
    mean = math.exp(sum(map(math.log, ratios)) / max(len(ratios), 1))
    print(f"geometric mean of the ratio over {len(ratios)} networks: {mean:.3f}")


class Chain(nn.Module):
    """Residual blocks of two convolutions, as many as asked for."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(16, 16, 3, padding=1),
                nn.BatchNorm2d(16),
                nn.ReLU(),
                nn.Conv2d(16, 16, 3, padding=1),
                nn.BatchNorm2d(16),
            )
            for _ in range((layers - 2) // 2)
        )
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean((2, 3)))


def growth() -> None:
    for layers in (18, 34, 101, 201, 501, 1001):
        model, x = Chain(layers), torch.randn(1, 3, 32, 32)
        seconds = best(lambda model=model, x=x: trace_graph(model, x))
        print(f"{layers:5} layers {seconds:8.3f} s {1e3 * seconds / layers:7.3f} ms a layer")


def memory() -> None:
    import resource

    model, x = build("resnet152"), torch.randn(1, 3, 224, 224)
    trace_graph(build("resnet18"), x)  # imports and caches
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    graph = trace_graph(model, x)
    graph.units()
    traced = tracemalloc.get_traced_memory()[1]
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"resident set grows by {(after - before) / 1024:.0f} MB")
    print(f"Python objects: {traced / 2**20:.0f} MB")
    assert Axis("fc.weight", 1) in graph.graph


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "--growth" in sys.argv:
        growth()
    elif "--memory" in sys.argv:
        memory()
    else:
        compare(sys.argv[1:] or NETWORKS)
