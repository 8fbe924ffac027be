"""In which order a block calls its layers, read from the source of its forward.

Nothing is run: the calls `self.NAME(...)` are collected in the order in which Python evaluates
them, innermost first, so `self.bn1(self.conv1(x))` gives conv1, bn1. Both branches of an `if`
count. Methods that forward calls are followed.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from functools import cache

from torch import nn


def layers_in_order(block: nn.Module) -> list[tuple[str, nn.Module]]:
    """The childless layers of a block, named relative to it, each once, in the order of calls.

    A child whose forward is its own (not a container) is read in the same way. Layers that the
    source does not name, or all of them where there is no source, keep the order in which they
    are defined.
    """
    called = called_names(type(block))  # type: ignore[arg-type]
    position = {name: i for i, name in enumerate(called)}
    children = [(name, child) for name, child in block.named_children()]
    if all(name in position for name, child in children if list(child.parameters())):
        children.sort(key=lambda item: position.get(item[0], len(position)))
    layers: list[tuple[str, nn.Module]] = []
    for name, child in children:
        if next(child.children(), None) is None:
            if not _is_container(child):
                layers.append((name, child))
        else:
            layers.extend((f"{name}.{inner}", layer) for inner, layer in layers_in_order(child))
    return layers


def _is_container(module: nn.Module) -> bool:
    return isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict))


@cache
def called_names(cls: Callable[..., nn.Module]) -> list[str]:
    """Names N of all calls `self.N(...)` that forward makes, in the order of evaluation."""
    calls = _Calls()
    pending, seen = ["forward"], set[str]()
    while pending:
        method = getattr(cls, pending.pop(), None)
        if not inspect.isfunction(method) or method.__name__ in seen:
            continue
        seen.add(method.__name__)
        if method.__module__.startswith("torch.nn."):
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
        except (OSError, SyntaxError):
            continue
        before = len(calls.names)
        calls.visit(tree)
        pending.extend(calls.names[before:])
    return list(dict.fromkeys(calls.names))


class _Calls(ast.NodeVisitor):
    def __init__(self) -> None:
        self.names: list[str] = []

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        match node.func:
            case ast.Attribute(value=ast.Name(id="self"), attr=name):
                self.names.append(name)
