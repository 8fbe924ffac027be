"""Which networks come out working, and equal to the masked original.

    python -m benchmarks.bench_peers                    torchvision's classification networks
    python -m benchmarks.bench_peers resnet50 vgg16     these

Half of the channels of every layer go (ours: half of the parameters). The original's weights and
statistics are random and all different, in float64; so the tensors of the smaller network tell by
their values which channels stayed, whichever tool made it. "equal" is equal to the original in
which the other channels are silenced (or, where operators count channels, restricted to those that
stay), and trained for a step; the figure is the largest difference relative to the largest output,
below 1e-9. Every tool has a time limit for each network, and what takes more than 14 GB fails.
"""

from __future__ import annotations

import gc
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn

from benchmarks.coverage_networks import build, torchvision_networks
from benchmarks.peers import Inputs, Tool, Verdict, distinct, judged, limit_memory, tools

SHARE = 0.5
LIMIT_S = 120
"""For one network and one tool; ours takes seconds."""
LARGEST = 150_000_000
"""Parameters above which a network is left out: two of them in float64 and a graph of gradients."""


class OutOfTimeError(BaseException):
    """A tool took longer than `LIMIT_S`; no `Exception`, which a tool might swallow."""


def limited(model: nn.Module, x: Inputs, tool: Tool) -> Verdict:
    """The verdict, or that there was no time for it."""

    def stop(*_: object) -> None:
        raise OutOfTimeError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT_S)
    try:
        return judged(model, x, tool, SHARE)
    except OutOfTimeError:
        return Verdict(f"more than {LIMIT_S} s")
    finally:
        signal.alarm(0)


def compare_tools(name: str, model: nn.Module, x: Inputs, known: Mapping[str, Tool]) -> list[str]:
    """Print what every tool makes of a network; those that get it right."""
    print(name)
    good = []
    for title, tool in known.items():
        verdict = limited(model, x, tool)
        if verdict.good:
            good.append(title)
        print(f"    {title:22}{verdict}", flush=True)
        gc.collect()
    return good


def print_totals(titles: Iterable[str], good: Mapping[str, int]) -> None:
    for title in titles:
        print(f"    {title:22}{good[title]:4}")


def main(names: Sequence[str]) -> None:
    torch.set_num_threads(1)
    limit_memory()
    known = tools()
    good: Counter[str] = Counter()
    count = 0
    left_out = []
    for name in names:
        model, x = build("classification", name)
        if sum(p.numel() for p in model.parameters()) > LARGEST:
            left_out.append(name)
            continue
        model, x = distinct(model), x.double()
        count += 1
        good.update(compare_tools(name, model, x, known))
    print(f"\nequal to the masked original, of {count} networks:")
    print_totals(known, good)
    if left_out:
        print(f"left out, above {LARGEST // 10**6} M parameters: {', '.join(left_out)}")


if __name__ == "__main__":
    main(sys.argv[1:] or torchvision_networks()["classification"])
