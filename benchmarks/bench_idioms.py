"""Networks in the words of their users: tests/idioms, written to find where this project breaks.

    python -m benchmarks.bench_idioms                   all of them
    python -m benchmarks.bench_idioms YOLO CRNN         these

Detectors, attention, speech, sensors, restoration, pose. As above, half of the channels go, and
the smaller network is held against the original in float64. torch-pruning is told which layers make
the output, as far as there are such.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version

import torch

from benchmarks.bench_peers import compare_tools, print_totals
from benchmarks.peers import Tool, distinct, layers, limit_memory, ours, torch_pruning
from pruners.analysis import analyse
from pruners.layers import weight_axes
from tests.test_idioms import NETWORKS, network


def ends(model: torch.nn.Module, x: tuple[torch.Tensor, ...]) -> list[str]:
    """The layers whose channels are numbers of the output."""
    graph = analyse(model, x).graph
    units = graph.units()
    known = set(units.axes)
    axes = {name: weight_axes(name, layer)[0] for name, layer in layers(model)}
    return [
        name
        for name, axis in axes.items()
        if axis in known
        and any("output of the net" in units.reasons.get(int(u), "") for u in units.of(axis))
    ]


def main(names: Sequence[str]) -> None:
    torch.set_num_threads(1)
    limit_memory()
    good: Counter[str] = Counter()
    theirs = f"torch-pruning {version('torch-pruning')}"
    count = 0
    for file, networks in NETWORKS.items():
        for name in networks:
            if names and name not in names:
                continue
            model, x = network(file, name)
            model = distinct(model)
            tools: dict[str, Tool] = {
                "pruners": ours,
                theirs: partial(torch_pruning, ends=ends(model, x)),
            }
            count += 1
            good.update(compare_tools(name, model, x, tools))
    print(f"\nequal to the original, of {count} networks:")
    print_totals(("pruners", theirs), good)


if __name__ == "__main__":
    main(sys.argv[1:])
