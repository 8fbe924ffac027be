"""Which layer of a network a tool stumbled over, and at which operator.

Exporters raise long texts that name files of theirs. The layer is in the error all the same: a
node of the graph that was being translated, or the frame of the forward that was running.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
from torch import nn

_LONGEST = 200


def place_of(error: BaseException, model: nn.Module) -> str:
    """`layer1.0 (BasicBlock)`, or the network's class where no layer of it is in the error."""
    node = _node(error)
    path = "" if node is None else _path_of(node)
    paths = {id(module): name for name, module in model.named_modules()}
    modules = dict(model.named_modules())
    if not path:
        running = [
            paths[id(found)]
            for frame in _frames(error)
            if id(found := frame.f_locals.get("self")) in paths
        ]
        path = running[-1] if running else ""
    if not path or path not in modules:
        return path or type(model).__name__
    return f"{path} ({type(modules[path]).__name__})"


def operator_of(error: BaseException) -> str | None:
    """`aten.linalg_eig`: the operator that was being translated, where the error has one."""
    node = _node(error)
    if node is None:
        return None
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return str(target).removesuffix(".default")
    return getattr(target, "__name__", str(target))


def reason_of(error: BaseException) -> str:
    """One line of the error that the others were made from, not too long."""
    first = error
    while first.__cause__ is not None:
        first = first.__cause__
    lines = [line.strip() for line in str(first).splitlines() if line.strip()]
    text = lines[0] if lines else type(first).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _path_of(node: torch.fx.Node) -> str:
    """The path of the module whose forward made this node; empty for the network itself."""
    stack: dict[str, Any] = node.meta.get("nn_module_stack") or {}
    paths = [entry[0] for entry in stack.values() if isinstance(entry, tuple) and entry[0]]
    return str(paths[-1]).removeprefix("L['self'].") if paths else ""


def _node(error: BaseException) -> torch.fx.Node | None:
    for one in _chain(error):
        for frame in _frames_of(one):
            node = frame.f_locals.get("node")
            if isinstance(node, torch.fx.Node) and node.op == "call_function":
                return node
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that it was made from."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__


def _frames(error: BaseException) -> Iterator[FrameType]:
    for one in _chain(error):
        yield from _frames_of(one)


def _frames_of(error: BaseException) -> Iterator[FrameType]:
    traceback = error.__traceback__
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next
