"""Pruning half of a network, against torch-pruning's step on the same network, in one process.

    python -m benchmarks.bench_tracing                  20 networks, a table
    python -m benchmarks.bench_tracing resnet50 vgg16   these

Both start from the network in memory and end with the smaller one: ours with graph, scores,
selection, kept indices and a slim `state_dict` (exactly what `pruners.prune` does), theirs with
the sliced modules. Repeats alternate on one thread; the times are medians of the processor's
seconds, so that other work on the machine disturbs both alike. The peer, which cannot see which
layer is the network's output, is told. What takes a process beyond 14 GB fails.
A geometric mean of at most 0.5 was to be met, no ratio over 1.2, and 0.03 on DenseNet-201.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version

import torch
import torchvision
from torch import Tensor, nn

from benchmarks.peers import limit_memory, short, torch_pruning_step
from pruners import prune

NETWORKS = (  # noqa: SIM905 - twenty-three lines otherwise
    "alexnet vgg11_bn vgg16 resnet18 resnet34 resnet50 resnet101 resnext50_32x4d"
    " wide_resnet50_2 densenet121 densenet201 googlenet squeezenet1_1 mobilenet_v2"
    " mobilenet_v3_small mobilenet_v3_large mnasnet1_0 efficientnet_b0 regnet_y_400mf"
    " regnet_x_800mf shufflenet_v2_x1_0 swin_t maxvit_t"
).split()
"""Twenty for the ratio, and three on which the peer is expected to fail."""

REPEATS = 5
LONG = 5.0
"""Seconds above which a network is measured once."""


def ours(model: nn.Module, x: Tensor) -> Callable[[], object]:
    return lambda: prune(model, x, 50).state_dict


def theirs(model: nn.Module, x: Tensor) -> Callable[[], object]:
    return torch_pruning_step(model, x, 0.5)


def seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def build(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(name, **options).eval(), torch.randn(1, 3, 224, 224)


def measure(model: nn.Module, x: Tensor) -> tuple[float, float]:
    """Medians, ours and theirs; the first run of each warms up unless it is long."""
    first = seconds(ours(model, x)), seconds(theirs(model, x))
    if max(first) > LONG:
        return seconds(ours(model, x)), first[1]
    pairs = [(seconds(ours(model, x)), seconds(theirs(model, x))) for _ in range(REPEATS)]
    mine, peers = zip(*pairs, strict=True)
    return statistics.median(mine), statistics.median(peers)


def main(names: Sequence[str]) -> None:
    torch.set_num_threads(1)
    limit_memory()
    print(f"Seconds for pruning half, medians of {REPEATS} alternating runs on one thread")
    print(
        f"{'network':22}{'pruners':>9}{'torch-pruning ' + version('torch-pruning'):>21}{'ratio':>8}"
    )
    ratios = []
    for name in names:
        model, x = build(name)
        failure = ""
        try:
            theirs(model, x)()
        except Exception as error:
            failure = short(error)
        if failure:  # with the exception gone, and what its frames hold
            gc.collect()
            mine = statistics.median(seconds(ours(model, x)) for _ in range(3))
            print(f"{name:22}{mine:9.3f}  fails: {failure}", flush=True)
            continue
        mine, peers = measure(model, x)
        ratios.append(mine / peers)
        print(f"{name:22}{mine:9.3f}{peers:21.3f}{ratios[-1]:8.3f}", flush=True)
    if ratios:
        mean = statistics.geometric_mean(ratios)
        print(f"geometric mean of the ratio over {len(ratios)} networks: {mean:.3f}")
        print(f"largest ratio: {max(ratios):.3f}")


if __name__ == "__main__":
    main(sys.argv[1:] or NETWORKS)
