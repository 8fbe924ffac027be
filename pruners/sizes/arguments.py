"""From a call to the expressions of its sizes.

The call is known by the position of the running instruction, its argument by the operator:

    x.view(-1, 256 * 6 * 6)       `256 * 6 * 6`
    x.view(*shape)                `shape`, or the items of the tuple that it was assigned
    x.split(self.sizes, 1)        `self.sizes`, which says several sizes at once
    x[:, :16]                     `16`
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from pruners.errors import WriterError
from pruners.replay import Correction, Frame
from pruners.sizes.evaluate import value_of
from pruners.sizes.said import Size, refusal, shortened
from pruners.sizes.syntax import file_of, one_line

_SIZES = frozenset(
    {"view", "reshape", "expand", "zeros", "ones", "full", "empty"}
    | {"new_zeros", "new_ones", "new_full", "new_empty"}
)
_SPLITS = frozenset({"split", "split_with_sizes", "tensor_split"})
_WITH_SCALARS = frozenset({"conv1d", "conv2d", "conv3d", "layer_norm", "rms_norm", "group_norm"})
_SCALARS = {"groups": 6, "normalized_shape": 1, "num_groups": 1}
"""Arguments of these by name, and at which position they are."""


def sizes_of(c: Correction) -> Iterator[Size]:
    """The expressions that say the sizes of a call, with what they say and what they must say."""
    if not c.frames:
        return
    frame = c.frames[0]
    try:
        file = file_of(frame.globals["__name__"])
    except WriterError:
        raise refusal(c, "there is no source of it") from None
    subscript = file.running(frame, ast.Subscript) if c.argument == "positions" else None
    if subscript is not None:
        yield from _of_slice(c, subscript)
        return
    call = file.running(frame, ast.Call)
    if call is None:
        raise refusal(c, "no call is found there")
    callee = call.func.attr if isinstance(call.func, ast.Attribute) else one_line(call.func)
    method = _is_method(call, frame)
    if c.argument in ("size", "sizes") and callee in _SIZES:
        given = _argument(call, 1 if not method and callee == "reshape" else 0, ("size", "shape"))
        spread = call.args[0 if method or callee != "reshape" else 1 :]
        one = callee in ("full", "new_full") or _is_sequence(given, frame)
        yield from _aligned(c, [given] if one else spread, c.given, c.needed, whole=one)
    elif c.argument == "sizes" and callee == "unflatten":
        shape = _argument(call, 1 if method else 2, ("sizes", "unflattened_size"))
        end = c.dim + len(value_of(shape, frame) or ())
        yield from _aligned(c, [shape], c.given[c.dim : end], c.needed[c.dim : end], whole=True)
    elif c.argument == "sizes" and callee in _SPLITS:
        at = 0 if method else 1
        amount = _argument(call, at, ("split_size_or_sections", "split_size", "split_sizes"))
        if isinstance(value_of(amount, frame), int):
            step = c.needed[0]
            total = sum(c.needed)
            if [min(step, total - i) for i in range(0, total, max(step, 1))] != c.needed:
                raise refusal(c, f"`{one_line(amount)}` would have to be {c.needed}")
            yield Size(amount, c.frames, c.given[0], step, c)
        else:
            yield from _aligned(c, [amount], c.given, c.needed, whole=True)
    elif c.argument == "positions" and callee in ("narrow", "select"):
        at = 1 if method else 2
        if not _is_run(c.needed):
            raise refusal(c, f"it would have to take {c.needed}")
        start = _argument(call, at, ("start", "index"))
        yield Size(start, c.frames, c.given[0] if c.given else 0, c.needed[0], c)
        if callee == "narrow":
            length = _argument(call, at + 1, ("length",))
            yield Size(length, c.frames, len(c.given), len(c.needed), c)
    elif c.argument == "amounts" and callee == "pad":
        yield from _aligned(c, [_argument(call, 1, ("pad",))], c.given, c.needed, whole=True)
    elif c.argument in _SCALARS and callee in _WITH_SCALARS:
        expr = _argument(call, _SCALARS[c.argument], (c.argument,))
        if isinstance(c.needed, list):
            yield from _aligned(c, [expr], c.given, c.needed, whole=True)
        else:
            yield Size(expr, c.frames, c.given, c.needed, c)
    elif c.given != c.needed and not (
        c.argument == "scale" and callee == "scaled_dot_product_attention"
    ):
        raise refusal(c, f"`{one_line(call)}` is no call whose sizes can be rewritten")


def _of_slice(c: Correction, subscript: ast.Subscript) -> Iterator[Size]:
    """`x[:, :16]`: the bounds of the dimension."""
    index = subscript.slice
    items = index.elts if isinstance(index, ast.Tuple) else [index]
    frame = c.frames[0]
    dim = 0
    found: list[ast.expr] = []
    for item in items:
        # The dimension is that of the tensor as the items before have left it.
        if isinstance(item, ast.Constant) and item.value is ...:
            value = value_of(subscript.value, frame)
            rank = value.dim() if isinstance(value, torch.Tensor) else None
            if rank is None:
                break
            dim += rank - sum(1 for i in items if not _is_new_axis(i)) + 1
        elif _is_new_axis(item) or isinstance(item, ast.Slice):
            if dim == c.dim and isinstance(item, ast.Slice) and c.operator != "select":
                found.append(item)
            dim += 1
        elif isinstance(value_of(item, frame), int):
            if dim == c.dim and c.operator == "select":
                found.append(item)
        else:
            break
    if len(found) == 1:
        yield from _bounds(c, found[0])
    elif c.given != c.needed:
        raise refusal(c, f"`{one_line(subscript)}` would have to take {shortened(c.needed)}")


def _is_new_axis(item: ast.expr) -> bool:
    return isinstance(item, ast.Constant) and item.value is None


def _bounds(c: Correction, item: ast.expr) -> Iterator[Size]:
    frame = c.frames[0]
    if c.given == c.needed:
        # It may have to be something else in another run.
        bounds = [item.lower, item.upper] if isinstance(item, ast.Slice) else [item]
        for bound in bounds:
            value = None if bound is None else value_of(bound, frame)
            if bound is not None and isinstance(value, int):
                yield Size(bound, c.frames, value, value, c)
        return
    if not isinstance(item, ast.Slice):
        yield Size(item, c.frames, value_of(item, frame), c.needed[0], c)
        return
    if item.step is not None or not _is_run(c.needed):
        raise refusal(c, f"`{one_line(item)}` would have to take {shortened(c.needed)}")
    size = next((slim for _, slim in sorted(c.widths, reverse=True)), 0)
    for bound, position in ((item.lower, c.needed[0]), (item.upper, c.needed[-1] + 1)):
        if bound is not None:
            value = value_of(bound, frame)
            if isinstance(value, int) and value < 0:
                position -= size
            yield Size(bound, c.frames, value, position, c)


def _is_run(positions: Sequence[int]) -> bool:
    return bool(positions) and list(positions) == list(
        range(positions[0], positions[0] + len(positions))
    )


def _aligned(
    c: Correction,
    exprs: Sequence[ast.expr],
    given: Sequence[Any],
    needed: Sequence[Any],
    whole: bool,
) -> Iterator[Size]:
    """Every expression with the sizes that it says; `whole`: the one expression says them all."""
    frame = c.frames[0]
    if whole:
        expr = _behind(exprs[0], frame)
        if isinstance(expr, (ast.Tuple, ast.List)):
            yield from _aligned(c, expr.elts, given, needed, False)
        elif isinstance(expr, ast.BinOp) and isinstance(expr.op, ast.Add):
            length = len(value_of(expr.left, frame) or ())
            yield from _aligned(c, [expr.left], given[:length], needed[:length], True)
            yield from _aligned(c, [expr.right], given[length:], needed[length:], True)
        else:
            says = value_of(expr, frame)
            if isinstance(says, int):
                yield Size(expr, c.frames, given[0], needed[0], c)
                return
            said = list(given) if says is None else list(says)
            wanted = [-1 if s == -1 else n for s, n in zip(said, needed, strict=False)]
            yield Size(expr, c.frames, said, wanted, c)
        return
    at = 0
    for expr in exprs:
        if isinstance(expr, ast.Starred):
            length = len(needed) - len(exprs) + 1
            if sum(isinstance(e, ast.Starred) for e in exprs) > 1:
                says = value_of(expr.value, frame)
                if says is None:
                    return  # how many sizes it says cannot be told
                length = len(says)
            part = slice(at, at + length)
            if given[part] != needed[part] or value_of(expr.value, frame) is not None:
                yield from _aligned(c, [expr.value], given[part], needed[part], True)
            at += length
            continue
        if at >= len(needed):
            return
        if value_of(expr, frame) != -1:
            yield Size(expr, c.frames, given[at], needed[at], c, at)
        at += 1


def _behind(expr: ast.expr, frame: Frame) -> ast.expr:
    """The sizes that a local name stands for, where it is read here alone."""
    if not isinstance(expr, ast.Name) or expr.id not in frame.values:
        return expr
    file = file_of(frame.globals["__name__"])
    function = file.function(expr)
    names = [n for n in ast.walk(function or expr) if isinstance(n, ast.Name) and n.id == expr.id]
    stored = [n for n in names if isinstance(n.ctx, ast.Store)]
    if len(names) != 2 or len(stored) != 1:
        return expr
    match file.parents.get(stored[0]):
        case ast.Assign([ast.Name()], ast.Tuple() | ast.List() | ast.BinOp() as sizes):
            return sizes
    return expr


def _argument(call: ast.Call, at: int, names: Sequence[str]) -> ast.expr:
    for keyword in call.keywords:
        if keyword.arg in names:
            return keyword.value
    if at < len(call.args):
        return call.args[at]
    return ast.copy_location(ast.Constant(None), call)


def _is_method(call: ast.Call, frame: Frame) -> bool:
    """Whether a tensor is what the function is called of, not a module such as `torch` or `F`."""
    if not isinstance(call.func, ast.Attribute):
        return False
    holder = call.func.value
    if isinstance(holder, ast.Name) and holder.id not in frame.values:
        return type(frame.globals.get(holder.id)).__name__ != "module"
    text = one_line(holder)
    return not text.startswith("torch.") and text not in ("torch", "F")


def _is_sequence(expr: ast.expr, frame: Frame) -> bool:
    return isinstance(expr, (ast.Tuple, ast.List)) or isinstance(
        value_of(expr, frame), (tuple, list)
    )
