"""Scoring every unit of a network with ChannelNorm, against one read of its weights.

    python -m benchmarks.bench_scoring

One read is `sum(p.abs().sum() for p in model.parameters())`. The graph is there already; medians of
the processor's seconds in alternating runs on one thread. A ratio of at most 4 was to be met.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
import torchvision
from torch import nn

from pruners.analysis import analyse
from pruners.measures import ChannelNorm
from pruners.scoring import score_units

NETWORKS = ("resnet50", "densenet201")
REPEATS = 15


def seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def read(model: nn.Module) -> float:
    with torch.no_grad():
        return float(sum(p.abs().sum() for p in model.parameters()))


def main() -> None:
    torch.set_num_threads(1)
    print(f"Scoring against one read of the weights, medians of {REPEATS} alternating runs")
    print(f"{'network':12}  {'scoring':>9}  {'one read':>9}  {'ratio':>6}")
    for name in sys.argv[1:] or NETWORKS:
        model = torchvision.models.get_model(name).eval()
        trace = analyse(model, torch.zeros(2, 3, 224, 224))
        units = trace.graph.units()

        def score(model: nn.Module = model, trace: object = trace, units: object = units) -> object:
            return score_units(model, trace.graph, units, ChannelNorm(), trace=trace)  # type: ignore[attr-defined,arg-type]

        score()
        pairs = [(seconds(score), seconds(lambda model=model: read(model))) for _ in range(REPEATS)]  # type: ignore[misc]
        ours, theirs = (statistics.median(times) for times in zip(*pairs, strict=True))
        print(f"{name:12}  {ours:7.4f} s  {theirs:7.4f} s  {ours / theirs:6.2f}")


if __name__ == "__main__":
    main()
