"""Planning: which expressions and attributes change so that every size is right."""

from __future__ import annotations

import ast
import dataclasses
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache
from inspect import signature
from typing import Any

import torch
from torch import nn

from pruners.cells import cells_of
from pruners.channel_graph import Kept
from pruners.describe import layer_base
from pruners.errors import PrunerError, WriterError
from pruners.origin import is_library, text_of
from pruners.rehearsal import edited_code
from pruners.replay import Correction, DoesNotFitError, Frame, Problem, replay, step_of
from pruners.sizes.rewrites import Edit, KeptScale, NewAttribute, NewValue, Rewrites, Span, edited
from pruners.tracing import Trace


def refused(
    model: nn.Module, trace: Trace, kept: Kept, corrections: Sequence[Correction]
) -> Problem | None:
    """What cannot be made right in the source, and why; None where all can.

    The network runs with its source edited: no size may be wrong then, in any run.
    """
    wrong = next(c for c in corrections if c.given != c.needed)
    try:
        found = rewrites(model, trace, corrections)
        texts = {name: edited(text_of(name), edits).code for name, edits in found.edits.items()}
        ran = [(f.globals["__name__"], f.code) for c in corrections for f in c.frames]
        with edited_code(texts, ran):
            for number, tape in enumerate(trace.tapes):
                again = replay(model, trace, kept, tape, meta=tape.meta, prepare=found.apply)
                for c in again.corrections:
                    c = dataclasses.replace(c, tape=number)
                    raise _no(c, "a rewrite does not reach it")
    except _RefusedError as error:
        return Problem(step_of(trace, error.correction), error.reason)
    except DoesNotFitError as error:
        return Problem(error.step, f"{error.reason} once the sizes are rewritten, {wrong.place}")
    except PrunerError as error:
        return Problem(step_of(trace, wrong), f"{wrong.place}: {error}")
    return None


def rewrites(model: nn.Module, trace: Trace, corrections: Sequence[Correction]) -> Rewrites:
    """How the source and the attributes of the network must change.

    Args:
        corrections: of all runs, right sizes too (`replay.corrections_of`).

    Raises:
        PrunerError: a size cannot be rewritten; names file, line and expression.
    """
    return _Planner(model, _ran(trace)).plan(corrections)


def _ran(trace: Trace) -> set[str]:
    """The modules in which an operator ran."""
    paths = {step.place.rpartition(": ")[0] for tape in trace.tapes for step in tape.steps}
    parts = [path.split(".") for path in paths]
    return {".".join(names[:i]) for names in parts for i in range(len(names) + 1)}


class _RefusedError(PrunerError):
    def __init__(self, correction: Correction, reason: str) -> None:
        self.correction = correction
        self.reason = reason
        super().__init__(reason)


# --- expressions and where they stand ----------------------------------------------------------


class _File:
    """The syntax tree of a Python module, with parents."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = text_of(name)
        self.lines = self.text.splitlines(keepends=True)
        self.tree = ast.parse(self.text)
        self.parents: dict[ast.AST, ast.AST] = {}
        self.ends: dict[tuple[int, int], list[ast.expr]] = defaultdict(list)
        for node in ast.walk(self.tree):
            for child in ast.iter_child_nodes(node):
                self.parents[child] = node
            if isinstance(node, (ast.Call, ast.Subscript)):
                self.ends[node.end_lineno or 0, node.end_col_offset or 0].append(node)

    def running(self, frame: Frame, kind: type[ast.expr]) -> ast.expr | None:
        """The call or subscript that a frame is in; two never end at one place."""
        cells = cells_of(sys.modules[self.name])
        if cells is not None:
            end = cells.end_of(frame.code, frame.at)
        else:
            _, line, _, column = frame.span
            end = line, column
        if end is None:
            return None
        return next((n for n in self.ends.get(end, ()) if isinstance(n, kind)), None)

    def around(self, node: ast.AST, *kinds: type[ast.AST]) -> ast.AST | None:
        """The nearest node of these kinds around another."""
        above = self.parents.get(node)
        while above is not None and not isinstance(above, kinds):
            above = self.parents.get(above)
        return above

    def function(self, node: ast.AST) -> ast.AST | None:
        return self.around(node, ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)

    def class_path(self, node: ast.AST) -> str:
        """`Outer.Inner` for a node in a method of that class; empty outside of classes."""
        names: list[str] = []
        above: ast.AST | None = node
        while above is not None:
            if isinstance(above, ast.ClassDef):
                names.insert(0, above.name)
            above = self.parents.get(above)
        return ".".join(names)

    def span(self, node: ast.expr) -> Span:
        """In characters; the tree counts bytes."""

        def column(line: int, offset: int) -> int:
            return len(self.lines[line - 1].encode()[:offset].decode())

        if isinstance(node, ast.Tuple) and node.elts:
            first, last = self.span(node.elts[0]), self.span(node.elts[-1])
            return ("tuple", *first[1:3], *last[3:])
        end = node.end_lineno or node.lineno
        return (
            "",
            node.lineno,
            column(node.lineno, node.col_offset),
            end,
            column(end, node.end_col_offset or 0),
        )


@cache
def _parsed(name: str, text: str) -> _File:
    return _File(name)


def _file(name: str) -> _File:
    return _parsed(name, text_of(name))


@dataclass(frozen=True, slots=True)
class _Size:
    """An expression that says a size, in one run of one call."""

    expr: ast.expr
    frames: tuple[Frame, ...]
    """The frame in which it stands, then those around it."""
    given: Any
    """An int, or a list of them."""
    needed: Any
    correction: Correction
    index: int = 0
    """Which of several sizes of the call."""

    @property
    def file(self) -> _File:
        return _file(self.frames[0].globals["__name__"])

    @property
    def holder(self) -> str | None:
        """Path of the module in whose method the expression runs."""
        for frame, around in zip(self.frames, (*self.frames[1:], None), strict=True):
            if frame.module is not None or around is None:
                return frame.module
            # A lambda or a comprehension belongs to the method that it stands in.
            if not frame.code.co_qualname.startswith(f"{around.code.co_qualname}.<locals>."):
                return None
        return None


# --- from a call to the expressions of its sizes -------------------------------------------------

_SIZES = frozenset(
    {"view", "reshape", "expand", "zeros", "ones", "full", "empty"}
    | {"new_zeros", "new_ones", "new_full", "new_empty"}
)
_SPLITS = frozenset({"split", "split_with_sizes", "tensor_split"})
_SCALARS = {
    "groups": ("groups", 6),
    "normalized_shape": ("normalized_shape", 1),
    "num_groups": ("num_groups", 1),
}


def _sizes(c: Correction) -> Iterator[_Size]:
    """The expressions that say the sizes of a call, with what they say and what they must say."""
    if not c.frames:
        return
    frame = c.frames[0]
    try:
        file = _file(frame.globals["__name__"])
    except WriterError:
        raise _no(c, "there is no source of it") from None
    if c.argument == "positions" and isinstance(file.running(frame, ast.Subscript), ast.Subscript):
        subscript = file.running(frame, ast.Subscript)
        assert isinstance(subscript, ast.Subscript)
        yield from _of_slice(c, subscript)
        return
    call = file.running(frame, ast.Call)
    if not isinstance(call, ast.Call):
        raise _no(c, "no call is found there")
    callee = call.func.attr if isinstance(call.func, ast.Attribute) else _text(call.func)
    method = _is_method(call, frame)
    if c.argument in ("size", "sizes") and callee in _SIZES:
        given = _argument(call, 1 if not method and callee == "reshape" else 0, ("size", "shape"))
        spread = call.args[0 if method or callee != "reshape" else 1 :]
        one = callee in ("full", "new_full") or _is_sequence(given, frame)
        yield from _aligned(c, [given] if one else spread, c.given, c.needed, whole=one)
    elif c.argument == "sizes" and callee == "unflatten":
        shape = _argument(call, 1 if method else 2, ("sizes", "unflattened_size"))
        end = c.dim + len(_value(shape, frame) or ())
        yield from _aligned(c, [shape], c.given[c.dim : end], c.needed[c.dim : end], whole=True)
    elif c.argument == "sizes" and callee in _SPLITS:
        at = 0 if method else 1
        amount = _argument(call, at, ("split_size_or_sections", "split_size", "split_sizes"))
        if isinstance(_value(amount, frame), int):
            step = c.needed[0]
            total = sum(c.needed)
            if [min(step, total - i) for i in range(0, total, max(step, 1))] != c.needed:
                raise _no(c, f"`{_text(amount)}` would have to be {c.needed}")
            yield _Size(amount, c.frames, c.given[0], step, c)
        else:
            yield from _aligned(c, [amount], c.given, c.needed, whole=True)
    elif c.argument == "positions" and callee in ("narrow", "select"):
        at = 1 if method else 2
        if not _is_run(c.needed):
            raise _no(c, f"it would have to take {c.needed}")
        start = _argument(call, at, ("start", "index"))
        yield _Size(start, c.frames, c.given[0] if c.given else 0, c.needed[0], c)
        if callee == "narrow":
            length_ = _argument(call, at + 1, ("length",))
            yield _Size(length_, c.frames, len(c.given), len(c.needed), c)
    elif c.argument == "amounts" and callee == "pad":
        yield from _aligned(c, [_argument(call, 1, ("pad",))], c.given, c.needed, whole=True)
    elif c.argument in _SCALARS and callee in (
        *("conv1d", "conv2d", "conv3d", "layer_norm", "rms_norm", "group_norm"),
    ):
        name, at = _SCALARS[c.argument]
        expr = _argument(call, at, (name,))
        if isinstance(c.needed, list):
            yield from _aligned(c, [expr], c.given, c.needed, whole=True)
        else:
            yield _Size(expr, c.frames, c.given, c.needed, c)
    elif c.given != c.needed and not (
        c.argument == "scale" and callee == "scaled_dot_product_attention"
    ):
        raise _no(c, f"`{_text(call)}` is no call whose sizes can be rewritten")


def _of_slice(c: Correction, subscript: ast.Subscript) -> Iterator[_Size]:
    """`x[:, :16]`: the bounds of the dimension."""
    index = subscript.slice
    items = index.elts if isinstance(index, ast.Tuple) else [index]
    frame = c.frames[0]
    dim = 0
    found: list[ast.expr] = []
    for item in items:
        # The dimension is that of the tensor as the items before have left it.
        if isinstance(item, ast.Constant) and item.value is ...:
            value = _value(subscript.value, frame)
            rank = value.dim() if isinstance(value, torch.Tensor) else None
            if rank is None:
                break
            dim += rank - sum(1 for i in items if not _is_new_axis(i)) + 1
        elif _is_new_axis(item) or isinstance(item, ast.Slice):
            if dim == c.dim and isinstance(item, ast.Slice) and c.operator != "select":
                found.append(item)
            dim += 1
        elif isinstance(_value(item, frame), int):
            if dim == c.dim and c.operator == "select":
                found.append(item)
        else:
            break
    if len(found) == 1:
        yield from _bounds(c, found[0])
    elif c.given != c.needed:
        raise _no(c, f"`{_text(subscript)}` would have to take {_short(c.needed)}")


def _is_new_axis(item: ast.expr) -> bool:
    return isinstance(item, ast.Constant) and item.value is None


def _bounds(c: Correction, item: ast.expr) -> Iterator[_Size]:
    frame = c.frames[0]
    if c.given == c.needed:
        # It may have to be something else in another run.
        bounds = [item.lower, item.upper] if isinstance(item, ast.Slice) else [item]
        for bound in bounds:
            value = None if bound is None else _value(bound, frame)
            if bound is not None and isinstance(value, int):
                yield _Size(bound, c.frames, value, value, c)
        return
    if not isinstance(item, ast.Slice):
        yield _Size(item, c.frames, _value(item, frame), c.needed[0], c)
        return
    if item.step is not None or not _is_run(c.needed):
        raise _no(c, f"`{_text(item)}` would have to take {_short(c.needed)}")
    size = next((slim for _, slim in sorted(c.widths, reverse=True)), 0)
    for bound, position in ((item.lower, c.needed[0]), (item.upper, c.needed[-1] + 1)):
        if bound is not None:
            value = _value(bound, frame)
            if isinstance(value, int) and value < 0:
                position -= size
            yield _Size(bound, c.frames, value, position, c)


def _is_run(positions: Sequence[int]) -> bool:
    return bool(positions) and list(positions) == list(
        range(positions[0], positions[0] + len(positions))
    )


def _short(values: Sequence[Any]) -> str:
    shown = ", ".join(map(str, values[:6]))
    return f"positions {shown}{', ...' if len(values) > 6 else ''}"


def _aligned(
    c: Correction,
    exprs: Sequence[ast.expr],
    given: Sequence[Any],
    needed: Sequence[Any],
    whole: bool,
) -> Iterator[_Size]:
    """Every expression with the sizes that it says; `whole`: the one expression says them all."""
    frame = c.frames[0]
    if whole:
        expr = _behind(exprs[0], frame)
        if isinstance(expr, (ast.Tuple, ast.List)):
            yield from _aligned(c, expr.elts, given, needed, False)
        elif isinstance(expr, ast.BinOp) and isinstance(expr.op, ast.Add):
            length = len(_value(expr.left, frame) or ())
            yield from _aligned(c, [expr.left], given[:length], needed[:length], True)
            yield from _aligned(c, [expr.right], given[length:], needed[length:], True)
        else:
            says = _value(expr, frame)
            if isinstance(says, int):
                yield _Size(expr, c.frames, given[0], needed[0], c)
                return
            said = list(given) if says is None else list(says)
            wanted = [-1 if s == -1 else n for s, n in zip(said, needed, strict=False)]
            yield _Size(expr, c.frames, said, wanted, c)
        return
    at = 0
    for expr in exprs:
        if isinstance(expr, ast.Starred):
            length = len(needed) - len(exprs) + 1
            if sum(isinstance(e, ast.Starred) for e in exprs) > 1:
                says = _value(expr.value, frame)
                if says is None:
                    return  # how many sizes it says cannot be told
                length = len(says)
            part = slice(at, at + length)
            if given[part] != needed[part] or _value(expr.value, frame) is not None:
                yield from _aligned(c, [expr.value], given[part], needed[part], True)
            at += length
            continue
        if at >= len(needed):
            return
        if _value(expr, frame) != -1:
            yield _Size(expr, c.frames, given[at], needed[at], c, at)
        at += 1


def _behind(expr: ast.expr, frame: Frame) -> ast.expr:
    """The sizes that a local name stands for, where it is read here alone."""
    if not isinstance(expr, ast.Name) or expr.id not in frame.values:
        return expr
    file = _file(frame.globals["__name__"])
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
    text = _text(holder)
    return not text.startswith("torch.") and text not in ("torch", "F")


def _is_sequence(expr: ast.expr, frame: Frame) -> bool:
    return isinstance(expr, (ast.Tuple, ast.List)) or isinstance(_value(expr, frame), (tuple, list))


def _text(node: ast.AST) -> str:
    return " ".join(ast.unparse(node).split())


def _no(c: Correction, why: str) -> _RefusedError:
    found = "" if not c.frames else f"{c.place}: "
    return _RefusedError(
        c, f"{found}{c.operator} says {_brief(c.given)} where {_brief(c.needed)} is needed; {why}"
    )


def _brief(value: Any) -> str:
    return _short(value) if isinstance(value, list) and len(value) > 8 else str(value)


# --- values ---------------------------------------------------------------------------------------

_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod, ast.Pow, ast.Div)


def _value(expr: ast.expr, frame: Frame) -> Any:
    """What an expression without calls is in a frame; None where it cannot be told."""
    match expr:
        case ast.Constant(value):
            return value
        case ast.Name(name):
            if name in frame.values:
                return frame.values[name]
            return frame.globals.get(name)
        case ast.Attribute(inner, name):
            holder = _value(inner, frame)
            return None if holder is None else getattr(holder, name, None)
        case ast.Subscript(inner, index):
            holder, key = _value(inner, frame), _value(index, frame)
            if holder is None or key is None or isinstance(holder, torch.Tensor):
                return None
            try:
                return holder[key]
            except (KeyError, IndexError, TypeError):
                return None
        case ast.Slice(lower, upper, step):
            bounds = [None if b is None else _value(b, frame) for b in (lower, upper, step)]
            unknown = any(
                value is None and bound is not None
                for value, bound in zip(bounds, (lower, upper, step), strict=True)
            )
            return None if unknown else slice(*bounds)
        case ast.Call(ast.Attribute(inner, "size"), args, []) if len(args) < 2:
            holder, dims = _value(inner, frame), [_value(a, frame) for a in args]
            known = isinstance(holder, torch.Tensor) and all(isinstance(d, int) for d in dims)
            return holder.size(*dims) if known else None
        case ast.UnaryOp(ast.USub(), inner):
            value = _value(inner, frame)
            return -value if isinstance(value, (int, float)) else None
        case ast.BinOp(left, op, right) if isinstance(op, _ARITHMETIC):
            a, b = _value(left, frame), _value(right, frame)
            return _computed(op, a, b)
        case ast.Tuple(elts) | ast.List(elts):
            return [_value(e, frame) for e in elts]
        case ast.Call(ast.Name("int" | "len" | "max" | "min" as name), args, []):
            values = [_value(a, frame) for a in args]
            if None in values:
                return None
            try:
                return {"int": int, "len": len, "max": max, "min": min}[name](*values)  # type: ignore[operator]
            except (TypeError, ValueError):
                return None
    return None


def _computed(op: ast.operator, a: Any, b: Any) -> Any:
    if isinstance(op, ast.Add) and isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return [*a, *b]
    if not isinstance(a, (int, float)) or not isinstance(b, (int, float)):
        return None
    try:
        match op:
            case ast.Add():
                return a + b
            case ast.Sub():
                return a - b
            case ast.Mult():
                return a * b
            case ast.FloorDiv():
                return a // b
            case ast.Mod():
                return a % b
            case ast.Div():
                return a / b
    except ZeroDivisionError:
        return None
    return a**b if abs(b) < 64 else None


def _chain(expr: ast.expr) -> tuple[str | int, ...] | None:
    """`("cfg", "dim")` for `self.cfg.dim`, `("sizes", 0)` for `self.sizes[0]`."""
    parts: list[str | int] = []
    while True:
        match expr:
            case ast.Attribute(ast.Name("self"), name):
                return (name, *reversed(parts))
            case ast.Attribute(inner, name):
                parts.append(name)
                expr = inner
            case ast.Subscript(inner, ast.Constant(int() | str() as key)):
                parts.append(key)
                expr = inner
            case _:
                return None


# --- from an expression to the number in it -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Number:
    """A part of an expression that could change, and what it would become."""

    node: ast.expr
    new: Any
    rank: int


class _Planner:
    def __init__(self, model: nn.Module, ran: Set[str]) -> None:
        self.model = model
        self.ran = ran
        self.sizes: dict[int, list[_Size]] = {}
        """By the id of the expression that says them."""
        self.modules = dict(model.named_modules())
        self.types = {type(module) for module in self.modules.values()}
        self.homes = {c.__module__ for t in self.types for c in t.__mro__}
        self.result = Rewrites()

    def plan(self, corrections: Sequence[Correction]) -> Rewrites:
        nodes: dict[int, ast.expr] = {}
        for c in corrections:
            if self._of_layer(c):
                continue
            for size in self._sizes(c):
                nodes[id(size.expr)] = size.expr
                self.sizes.setdefault(id(size.expr), []).append(size)
        self._keep_scales([c for c in corrections if c.argument == "scale"])
        pending = {key: found for key, found in self.sizes.items() if _wrong(found)}
        while pending:
            further = self._settle(pending)
            for key, found in further.items():
                self.sizes.setdefault(key, []).extend(found)
            pending = {key: found for key, found in further.items() if _wrong(found)}
        return self.result

    def _sizes(self, c: Correction) -> Iterator[_Size]:
        if c.given == c.needed:
            try:
                yield from _sizes(c)
            except _RefusedError:
                return  # nothing to do there, nothing to know of it
        else:
            found = list(_sizes(c))
            if c.argument != "scale" and all(s.given == s.needed for s in found):
                raise _no(c, "no number says so")
            yield from found

    def _of_layer(self, c: Correction) -> bool:
        """Sizes that a layer of torch says itself follow its attribute."""
        layer = self.modules.get(c.module)
        if not isinstance(layer, nn.Unflatten):
            return False
        if c.given != c.needed:
            shape = layer.unflattened_size
            if not all(isinstance(n, int) for n in shape):
                raise _no(c, f"{c.module} names its dimensions")
            new = tuple(c.needed[c.dim : c.dim + len(shape)])
            self._set(c, c.module, ("unflattened_size",), new)
        return True

    def _set(self, c: Correction, path: str, chain: tuple[str | int, ...], value: Any) -> None:
        known = self.result.attributes.setdefault(path, {})
        if chain in known and known[chain] != value:
            raise _no(c, f"{path}.{chain[0]} runs twice and would need both")
        known[chain] = value

    def _edit(self, size: _Size, node: ast.expr, edit: Edit) -> None:
        file = size.file
        if is_library(file.name) and file.name not in self.homes:
            raise _no(size.correction, f"{file.name} is a library")
        self.result.edits.setdefault(file.name, {})[file.span(node)] = edit

    def _keep_scales(self, corrections: Sequence[Correction]) -> None:
        """Attentions without a scale of their own go on with that of their full width."""
        calls: dict[int, tuple[ast.expr, list[_Size]]] = {}
        for c in corrections:
            file = _file(c.frames[0].globals["__name__"]) if c.frames else None
            call = file.running(c.frames[0], ast.Call) if file else None
            if not isinstance(call, ast.Call) or not _text(call.func).endswith(
                "scaled_dot_product_attention"
            ):
                raise _no(c, "the scale of the attention cannot be kept")
            found = calls.setdefault(id(call), (call, []))[1]
            found.append(_Size(call, c.frames, c.given, c.needed, c))
        for call, sizes in calls.values():
            if not _wrong(sizes):
                continue
            full = {size.holder: size.needed for size in sizes}
            if len(set(full.values())) == 1:
                self._edit(sizes[0], call, KeptScale(sizes[0].needed))
                continue
            holders = self._holders(sizes[0].file, call)
            if any(path not in holders for path in full):
                raise _no(sizes[0].correction, "the scales of the attention differ")
            name = "scale"
            if any(getattr(self.modules[p or ""], name, 0) != n**-0.5 for p, n in full.items()):
                name = self._free_name("attention_scale", holders)
                for path in holders:
                    scale = full[path] ** -0.5 if path in full else None
                    self._set(sizes[0].correction, path, (name,), scale)
            self._edit(sizes[0], call, KeptScale(0, name))

    def _settle(self, pending: Mapping[int, list[_Size]]) -> dict[int, list[_Size]]:
        """Decide for every expression which number changes; what is left is one definition on."""
        chosen: dict[int, tuple[ast.expr, list[tuple[_Size, Any]]]] = {}
        further: dict[int, list[_Size]] = {}
        moved: set[int] = set()
        for key, sizes in pending.items():
            if key in moved:
                continue
            at_callers = self._to_callers(sizes[0].expr, sizes[0])
            if at_callers is not None:
                moved.update(at_callers[0])
                for size in at_callers[1]:
                    further.setdefault(id(size.expr), []).append(size)
                continue
            sizes = _once_an_instance(sizes)
            for node, values in self._numbers(sizes):
                if id(node) in chosen:
                    _, more = chosen[id(node)]
                    more += values
                else:
                    chosen[id(node)] = (node, values)
        done: set[int] = set()
        for key, (node, values) in chosen.items():
            if key in done:
                continue
            uses = self._all_uses(node, values)
            if uses and all(id(use) in chosen for use in uses):
                together = [v for use in uses for v in chosen[id(use)][1]]
                if _agree(together) and self._define(node, together, further):
                    done |= {id(use) for use in uses}
                    continue
            if not all(self._is_fixed(node, size, 0) for size, _ in values):
                raise _no(
                    values[0][0].correction,
                    f"`{_text(node)}` rests on an argument that says more than this size",
                )
            self._replace(node, values)
            done.add(key)
        return further

    # -- which number

    def _numbers(self, sizes: Sequence[_Size]) -> list[tuple[ast.expr, list[tuple[_Size, Any]]]]:
        """The part of an expression that is to change, with its new value for every instance."""
        first = next(size for size in sizes if size.given != size.needed)
        candidates = sorted(
            self._candidates(first.expr, first, first.given, first.needed), key=lambda n: n.rank
        )
        for candidate in candidates:
            values: list[tuple[_Size, Any]] = []
            for size in sizes:
                mine = self._candidates(size.expr, size, size.given, size.needed)
                found = [n for n in mine if n.node is candidate.node]
                if size.given == size.needed:
                    values.append((size, _value(candidate.node, size.frames[0])))
                elif found:
                    values.append((size, found[0].new))
                else:
                    break
            else:
                return [(candidate.node, values)]
        raise _no(first.correction, f"`{_text(first.expr)}` {self._why_not(first)}")

    def _why_not(self, size: _Size) -> str:
        """Why no number in an expression can be rewritten."""
        names = [n for n in ast.walk(size.expr) if isinstance(n, ast.Name)]
        kinds = {n.id: self._definition(n, size)[0] for n in names}
        unclear = [name for name, kind in kinds.items() if kind == "unknown"]
        if unclear:
            return f"rests on `{unclear[0]}`, which is not assigned once, as `name = value`"
        given = [name for name, kind in kinds.items() if kind == "argument"]
        if given and given != ["self"]:
            return f"rests on the argument `{given[-1]}`, and no caller says a number for it"
        return "holds no number that could say it"

    def _candidates(self, expr: ast.expr, size: _Size, given: Any, needed: Any) -> list[_Number]:
        if not self._is_plain(expr, size, 0):
            return self._within(expr, size, given, needed)
        whole = _Number(expr, needed, 3)
        return [*self._within(expr, size, given, needed), whole]

    def _within(self, expr: ast.expr, size: _Size, given: Any, needed: Any) -> list[_Number]:
        frame = size.frames[0]
        pair = isinstance(given, int) and (given, needed) in size.correction.widths
        rank = 0 if pair else 1
        match expr:
            case ast.Constant(int()):
                return [_Number(expr, needed, rank)]
            case ast.Name() | ast.Attribute() | ast.Subscript():
                if self._is_plain(expr, size, 0):
                    return [_Number(expr, needed, rank)]
            case ast.UnaryOp(ast.USub(), inner):
                return self._within(inner, size, -given, -needed)
            case ast.BinOp(left, op, right) if isinstance(given, int):
                found: list[_Number] = []
                a, b = _value(left, frame), _value(right, frame)
                # Where a factor cannot be told, it is what is left of the product.
                if isinstance(op, ast.Mult):
                    a = given // b if a is None and b else a
                    b = given // a if b is None and a else b
                if _computed(op, a, b) != given:
                    return []  # a name in it has had another value since
                for inner, old, other in ((left, a, b), (right, b, a)):
                    new = _solved(op, inner is left, other, needed)
                    if isinstance(old, int) and new is not None:
                        found += self._within(inner, size, old, new)
                return found
        return []

    def _is_plain(self, expr: ast.expr, size: _Size, depth: int) -> bool:
        """Whether an expression is made of numbers alone, and not of what tensors are."""
        if depth > 8:
            return False
        match expr:
            case ast.Constant(int() | float()):
                return True
            case ast.UnaryOp(_, inner):
                return self._is_plain(inner, size, depth + 1)
            case ast.BinOp(left, _, right):
                return self._is_plain(left, size, depth) and self._is_plain(right, size, depth)
            case ast.Tuple(elts) | ast.List(elts):
                return all(self._is_plain(e, size, depth + 1) for e in elts)
            case ast.Call(ast.Name("int" | "len" | "max" | "min"), args, []):
                return all(self._is_plain(a, size, depth + 1) for a in args)
            case ast.Name(name):
                kind, node, frames = self._definition(expr, size)
                if kind == "global":
                    return isinstance(size.frames[0].globals.get(name), (int, tuple, list))
                if node is None or not frames:
                    return False
                there = dataclasses.replace(size, expr=node, frames=frames)
                return self._is_plain(node, there, depth + 1)
            case ast.Attribute() | ast.Subscript():
                chain = _chain(expr)
                return chain is not None and self._is_own(chain, size)
        return False

    def _is_own(self, chain: tuple[str | int, ...], size: _Size) -> bool:
        """Whether `self.a.b` leads through plain values only, to a number or a list of them."""
        value: Any = self.modules.get(size.holder or "") if size.holder is not None else None
        for part in chain:
            if value is None or (isinstance(value, nn.Module) and part in value._modules):
                return False
            if isinstance(value, nn.Module) and isinstance(
                getattr(type(value), str(part), None), property
            ):
                return False
            value = value[part] if isinstance(part, int) else _member(value, part)
        numbers = value if isinstance(value, (tuple, list)) else [value]
        return all(isinstance(n, int) for n in numbers) and bool(numbers)

    # -- what defines a name

    def _definition(
        self, name: ast.expr, size: _Size
    ) -> tuple[str, ast.expr | None, tuple[Frame, ...]]:
        """What a name stands for: ("local", the assigned expression, its frames), ("argument",
        the expression that the caller gives, the caller's frames) or ("global", None, ())."""
        assert isinstance(name, ast.Name)
        file = size.file
        function = file.function(name)
        if function is None:
            return "global", None, ()
        assigned = [
            n
            for n in ast.walk(function)
            if isinstance(n, ast.Name) and n.id == name.id and isinstance(n.ctx, ast.Store)
        ]
        arguments = _arguments(function)
        if assigned:
            statement = file.parents.get(assigned[0])
            if len(assigned) == 1 and name.id not in arguments:
                match statement:
                    case ast.Assign([ast.Name()], value) | ast.AnnAssign(ast.Name(), value=value):
                        return ("local" if value else "unknown"), value, size.frames
                    case ast.Tuple() | ast.List() if found := self._unpacked(file, statement, name):
                        return "local", found, size.frames
            return "unknown", None, ()
        if name.id in arguments:
            return "argument", *self._given(name.id, function, size)
        if name.id in size.frames[0].values and file.function(function) is not None:
            return "unknown", None, ()  # of a function around
        return "global", None, ()

    @staticmethod
    def _unpacked(file: _File, targets: ast.Tuple | ast.List, name: ast.Name) -> ast.expr | None:
        """`a, b = 16, 32` gives 32 for b."""
        places = [
            i for i, t in enumerate(targets.elts) if isinstance(t, ast.Name) and t.id == name.id
        ]
        if any(isinstance(t, ast.Starred) for t in targets.elts):
            return None
        match file.parents.get(targets):
            case ast.Assign([ast.Tuple() | ast.List()], ast.Tuple(values) | ast.List(values)):
                return values[places[0]] if len(values) == len(targets.elts) else None
        return None

    def _given(
        self, name: str, function: ast.AST, size: _Size
    ) -> tuple[ast.expr | None, tuple[Frame, ...]]:
        """The expression that the caller gives for an argument."""
        outer = size.frames[1:]
        if not outer or isinstance(function, ast.Lambda):
            return None, ()
        assert isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        try:
            caller = _file(outer[0].globals["__name__"])
        except WriterError:
            return None, ()
        call = caller.running(outer[0], ast.Call)
        if not isinstance(call, ast.Call) or any(isinstance(a, ast.Starred) for a in call.args):
            return None, ()
        if not self._calls(call, outer[0], function.name, size):
            return None, ()  # a decorator, say, hands the arguments on
        names = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
        if names and names[0] in ("self", "cls") and size.file.class_path(function):
            names = names[1:]
        for keyword in call.keywords:
            if keyword.arg == name:
                return keyword.value, outer
        if name in names and names.index(name) < len(call.args):
            return call.args[names.index(name)], outer
        return None, ()

    def _calls(self, call: ast.Call, frame: Frame, function: str, size: _Size) -> bool:
        """Whether a call is one of the function by its name, or of the module with its forward."""
        if _text(call.func).rpartition(".")[2] == function:
            return True
        module = self._module_called(call.func, frame)
        known = self.modules.get(size.holder or "") if size.holder is not None else None
        return function == "forward" and module is not None and module is known

    def _module_called(self, func: ast.expr, frame: Frame) -> Any:
        chain = _chain(func)
        if chain is None:
            return _value(func, frame)
        value: Any = frame.values.get("self")
        for part in chain:
            try:
                value = value[part] if isinstance(part, int) else getattr(value, part, None)
            except (KeyError, IndexError, TypeError):
                return None
        return value

    def _to_callers(self, expr: ast.expr, size: _Size) -> tuple[list[int], list[_Size]] | None:
        """Where all that a function does with an argument is to say a size: the places in it, and
        the sizes as its callers say them.
        """
        if not isinstance(expr, ast.Name):
            return None
        uses = self._uses(expr, size)
        if not uses or any(id(use) not in self.sizes for use in uses):
            return None
        moved: list[_Size] = []
        for said in (said for use in uses for said in self.sizes[id(use)]):
            kind, definition, frames = self._definition(said.expr, said)
            if kind != "argument" or definition is None:
                return None
            moved.append(dataclasses.replace(said, expr=definition, frames=frames))
        return [id(use) for use in uses], moved

    # -- where it changes

    def _is_fixed(self, expr: ast.expr, size: _Size, depth: int) -> bool:
        """Whether an expression says the same in every call: a constant may stand for it."""
        for node in ast.walk(expr):
            if not isinstance(node, ast.Name) or node.id == "self" or depth > 8:
                continue
            kind, definition, frames = self._definition(node, size)
            if kind == "argument":
                return False
            if definition is not None:
                there = dataclasses.replace(size, expr=definition, frames=frames)
                if not self._is_fixed(definition, there, depth + 1):
                    return False
        return depth <= 8

    def _all_uses(self, node: ast.expr, values: Sequence[tuple[_Size, Any]]) -> list[ast.expr]:
        """Of all modules that read it; empty where some of them are not known."""
        found: dict[int, ast.expr] = {}
        kinds = {type(self.modules.get(s.holder or "")): s for s, _ in values}
        for size in kinds.values():
            uses = self._uses(node, size)
            if not uses:
                return []
            found.update((id(use), use) for use in uses)
        return list(found.values())

    def _uses(self, node: ast.expr, size: _Size) -> list[ast.expr]:
        """All places that read the name or attribute; empty for a number that stands alone."""
        file = size.file
        if isinstance(node, ast.Name):
            function = file.function(node)
            kind, definition, _ = self._definition(node, size)
            if function is None or definition is None or kind == "global":
                return []
            return [
                n
                for n in ast.walk(function)
                if isinstance(n, ast.Name) and n.id == node.id and isinstance(n.ctx, ast.Load)
            ]
        chain = _chain(node)
        if chain is None:
            return []
        if self._is_of_layer(chain, size):
            return [node]  # torch's own methods read it as well, and mean the same
        found: list[ast.expr] = []
        holder = self.modules.get(size.holder or "")
        for cls in type(holder).__mro__:
            if not issubclass(cls, nn.Module) or cls.__module__.startswith("torch."):
                continue
            found += _reads(_file(cls.__module__), cls.__qualname__, chain)
        if self._read_elsewhere(str(chain[0])):
            return []
        return found

    def _is_of_layer(self, chain: tuple[str | int, ...], size: _Size) -> bool:
        """Whether the attribute is one that a layer of torch is built with."""
        holder = self.modules.get(size.holder or "")
        base = layer_base(type(holder)) if holder is not None else None
        return base is not None and len(chain) == 1 and chain[0] in signature(base).parameters

    def _read_elsewhere(self, name: str) -> bool:
        """Whether methods of the network read an attribute of this name of anything but `self`."""
        homes = {
            cls.__module__
            for kind in self.types
            for cls in kind.__mro__
            if issubclass(cls, nn.Module) and not cls.__module__.startswith("torch.")
        }
        return any(_reads_of_others(_file(home), name) for home in homes)

    def _define(
        self,
        node: ast.expr,
        values: Sequence[tuple[_Size, Any]],
        further: dict[int, list[_Size]],
    ) -> bool:
        """Change what all uses read: the attribute's value, or the definition of the name."""
        chain = _chain(node) if not isinstance(node, ast.Name) else None
        if chain is not None:
            for size, new in values:
                old = _value(node, size.frames[0])
                value = type(old)(new) if isinstance(old, (tuple, list)) else new
                if new != old and not (isinstance(old, (tuple, list)) and list(old) == list(new)):
                    self._set(size.correction, size.holder or "", chain, value)
            return True
        moved: list[_Size] = []
        for size, new in values:
            kind, definition, frames = self._definition(node, size)
            if definition is None or kind not in ("local", "argument"):
                return False
            old = _value(node, size.frames[0])
            moved.append(
                dataclasses.replace(size, expr=definition, frames=frames, given=old, needed=new)
            )
        for size in moved:
            further.setdefault(id(size.expr), []).append(size)
        return True

    def _replace(self, node: ast.expr, values: Sequence[tuple[_Size, Any]]) -> None:
        """Put a constant, or an attribute where instances differ, in the place of a number."""
        size = values[0][0]
        new = [_plain_value(v) for _, v in values]
        file = size.file
        holders = self._holders(file, node)
        # A module that does not run keeps the number that it has; one that runs and does not come
        # by needs none.
        others = set(holders) - {s.holder for s, _ in values}
        absent = {path: self._said(node, path, size) for path in others - self.ran}
        if all(v == new[0] for v in (*new, *absent.values())):
            same = tuple(new[0]) if isinstance(_value(node, size.frames[0]), tuple) else new[0]
            self._edit(size, node, NewValue(same))
            return
        if not holders or any(s.holder not in holders for s, _ in values):
            raise _no(
                size.correction,
                f"`{_text(node)}` would need {' and '.join(map(str, sorted(set(map(str, new)))))} "
                f"in a function that several modules call",
            )
        name = self._free_name(_name_for(size, node), holders)
        unknown = [path for path, value in absent.items() if value is None]
        if unknown:
            why = f"`{_text(node)}` stands in {unknown[0]}, too, which does not run"
            raise _no(size.correction, why)
        known = {s.holder: v for (s, _), v in zip(values, new, strict=True)}
        for path in holders:
            self._set(size.correction, path, (name,), known.get(path, absent.get(path)))
        self._edit(size, node, NewAttribute(name))

    def _said(self, node: ast.expr, path: str, size: _Size) -> Any:
        """What a number is in a module whose method did not run; None where it cannot be told."""
        frame = dataclasses.replace(size.frames[0], values={"self": self.modules[path]})
        return _plain_value(_value(node, frame))

    def _holders(self, file: _File, node: ast.expr) -> list[str]:
        """The modules of the network that have the method in which a node stands."""
        qualified = file.class_path(node)
        return [
            path
            for path, module in self.modules.items()
            if qualified
            and any(
                c.__module__ == file.name and c.__qualname__ == qualified
                for c in type(module).__mro__
            )
        ]

    def _free_name(self, name: str, holders: Sequence[str]) -> str:
        number = 1
        while True:
            choice = name if number == 1 else f"{name}_{number}"
            taken = any(
                hasattr(self.modules[p], choice) or (choice,) in self.result.attributes.get(p, {})
                for p in holders
            )
            if not taken:
                return choice
            number += 1


def _wrong(sizes: Sequence[_Size]) -> bool:
    return any(size.given != size.needed for size in sizes)


def _once_an_instance(sizes: Sequence[_Size]) -> list[_Size]:
    """One size for every module that runs the expression; they must need one number each."""
    found: dict[str | None, _Size] = {}
    for size in sizes:
        known = found.setdefault(size.holder, size)
        if known.needed != size.needed:
            wrong, other = (size, known) if size.given != size.needed else (known, size)
            raise _no(
                wrong.correction,
                f"`{_text(size.expr)}` runs twice and would have to be {_brief(other.needed)}, too",
            )
        if known.given != size.given:
            raise _no(size.correction, f"`{_text(size.expr)}` changes from run to run")
    return list(found.values())


def _agree(values: Sequence[tuple[_Size, Any]]) -> bool:
    """Whether every module needs one new value at all uses."""
    known: dict[str | None, Any] = {}
    return all(
        known.setdefault(size.holder, _plain_value(new)) == _plain_value(new)
        for size, new in values
    )


def _plain_value(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _member(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else getattr(value, name, None)


def _solved(op: ast.operator, left: bool, other: Any, needed: int) -> int | None:
    """What one side of an operation must be so that the whole is `needed`."""
    if not isinstance(other, int):
        return None
    match op:
        case ast.Mult():
            return needed // other if other and needed % other == 0 else None
        case ast.Add():
            return needed - other
        case ast.Sub():
            return needed + other if left else other - needed
    return None


def _arguments(function: ast.AST) -> set[str]:
    assert isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    args = function.args
    return {a.arg for a in (*args.posonlyargs, *args.args, *args.kwonlyargs)}


def _class_node(file: _File, qualified: str) -> ast.ClassDef | None:
    return next(
        (
            node
            for node in ast.walk(file.tree)
            if isinstance(node, ast.ClassDef) and file.class_path(node) == qualified
        ),
        None,
    )


def _methods(file: _File, qualified: str) -> Iterator[ast.FunctionDef]:
    node = _class_node(file, qualified)
    for method in node.body if node else ():
        if isinstance(method, ast.FunctionDef) and method.name != "__init__":
            yield method


def _reads(file: _File, qualified: str, chain: tuple[str | int, ...]) -> list[ast.expr]:
    """The expressions of a class's methods that read `self.a.b`."""
    found: list[ast.expr] = []
    for method in _methods(file, qualified):
        for node in ast.walk(method):
            if isinstance(node, (ast.Attribute, ast.Subscript)):
                here = _chain(node)
                # `self.sizes` as a whole reads `self.sizes[0]` as well.
                shorter = here is not None and here == chain[: len(here)]
                inside = isinstance(file.parents.get(node), (ast.Attribute, ast.Subscript)) and (
                    _chain(file.parents[node]) is not None  # type: ignore[arg-type]
                )
                if here == chain or (shorter and not inside):
                    found.append(node)
    return found


def _reads_of_others(file: _File, name: str) -> bool:
    """Whether code of a file reads an attribute of this name of anything but `self`.

    What runs before training, an `__init__`, reads what it likes.
    """
    built = {
        id(inner)
        for node in ast.walk(file.tree)
        if isinstance(node, ast.FunctionDef) and node.name == "__init__"
        for inner in ast.walk(node)
    }
    for node in ast.walk(file.tree):
        if id(node) in built:
            continue
        match node:
            case ast.Attribute(ast.Name("self")):
                continue
            case ast.Attribute(attr=attribute, ctx=ast.Load()) if attribute == name:
                return True
            case ast.Call(ast.Name("getattr" | "hasattr"), [_, ast.Constant(said), *_]) if (
                said == name
            ):
                return True
    return False


_NAMES = {
    "view": "view_channels",
    "reshape": "view_channels",
    "expand": "expanded_channels",
    "unflatten": "unflattened_channels",
    "split": "split_size",
    "slice": "slice_channels",
    "narrow": "slice_channels",
}


def _name_for(size: _Size, node: ast.expr) -> str:
    """What a person would call the number."""
    if size.correction.operator in ("view", "reshape") and node is not size.expr:
        return "channels"
    if size.correction.operator in ("view", "reshape") and isinstance(node, ast.Constant):
        return "flat_features"
    operator = size.correction.operator
    if operator in ("pad", "constant_pad_nd"):
        return "padding_after" if size.index % 2 else "padding_before"
    return _NAMES.get(operator, f"{operator.strip('_')}_channels")
