"""One network by other generators of code and by ours, for docs/coverage.md."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import torch

from models.cifar.resnet import ResNet
from pruners import prune

TEXT = Path(__file__).with_name("coverage_comparison.md")
"""What is known of a generator that cannot be installed, and from where."""

BLOCK, OPERATORS = "BasicBlock", 14
"""What is shown: one class of ours, and so many statements of a flat forward."""


def side_by_side() -> Iterator[str]:
    """The section, as lines of Markdown; both sources are made as it is written."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ResNet(20).eval()
    ours = prune(network, torch.zeros(2, 3, 32, 32), 50, name="resnet20_50").source
    flat = torch.fx.symbolic_trace(network)
    statements = flat.code.strip().splitlines()
    yield from TEXT.read_text("utf-8").splitlines()
    yield from (
        "",
        "What a flat file looks like can be seen with `torch.fx`, which comes with torch: the",
        f"`forward` of ResNet-20, from `torch.fx.symbolic_trace`, has {len(statements)} lines, of",
        f"which these are the first {OPERATORS}:",
        "",
        "```python",
        *(line.partition(";")[0].rstrip() for line in statements[:OPERATORS]),
        "```",
        "",
        f"Ours, of the same network with half of its parameters gone, has {len(ours.splitlines())}",
        "lines, all classes and comments included. One class, and the first layers:",
        "",
        "```python",
        *_class(ours, BLOCK),
        "",
        "",
        *_layers(ours, "ResNet"),
        "```",
    )


def _class(source: str, name: str) -> list[str]:
    node = next(n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == name)
    return source.splitlines()[node.lineno - 1 : node.end_lineno]


def _layers(source: str, name: str) -> list[str]:
    """The class up to the end of the layers that its constructor makes."""
    found = _class(source, name)
    end = next(i for i, line in enumerate(found) if "self.layer2" in line)
    return [*found[:end], "        ..."]
