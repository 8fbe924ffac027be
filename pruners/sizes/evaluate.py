"""What an expression is in a frame, as far as that can be told without running code of others.

Attributes and items are read, numbers are computed; of calls only `x.size()`, `int`, `len`, `max`
and `min` are known.
"""

from __future__ import annotations

import ast
from typing import Any

import torch

from pruners.replay import Frame

_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod, ast.Pow, ast.Div)


def value_of(expr: ast.expr, frame: Frame) -> Any:
    """What an expression without calls is in a frame; None where it cannot be told."""
    match expr:
        case ast.Constant(value):
            return value
        case ast.Name(name):
            if name in frame.values:
                return frame.values[name]
            return frame.globals.get(name)
        case ast.Attribute(inner, name):
            holder = value_of(inner, frame)
            return None if holder is None else getattr(holder, name, None)
        case ast.Subscript(inner, index):
            holder, key = value_of(inner, frame), value_of(index, frame)
            if holder is None or key is None or isinstance(holder, torch.Tensor):
                return None
            try:
                return holder[key]
            except (KeyError, IndexError, TypeError):
                return None
        case ast.Slice(lower, upper, step):
            bounds = [None if b is None else value_of(b, frame) for b in (lower, upper, step)]
            unknown = any(
                value is None and bound is not None
                for value, bound in zip(bounds, (lower, upper, step), strict=True)
            )
            return None if unknown else slice(*bounds)
        case ast.Call(ast.Attribute(inner, "size"), args, []) if len(args) < 2:
            holder, dims = value_of(inner, frame), [value_of(a, frame) for a in args]
            known = isinstance(holder, torch.Tensor) and all(isinstance(d, int) for d in dims)
            return holder.size(*dims) if known else None
        case ast.UnaryOp(ast.USub(), inner):
            value = value_of(inner, frame)
            return -value if isinstance(value, (int, float)) else None
        case ast.BinOp(left, op, right) if isinstance(op, _ARITHMETIC):
            a, b = value_of(left, frame), value_of(right, frame)
            return computed(op, a, b)
        case ast.Tuple(elts) | ast.List(elts):
            return [value_of(e, frame) for e in elts]
        case ast.Call(ast.Name("int" | "len" | "max" | "min" as name), args, []):
            values = [value_of(a, frame) for a in args]
            if None in values:
                return None
            try:
                return {"int": int, "len": len, "max": max, "min": min}[name](*values)  # type: ignore[operator]
            except (TypeError, ValueError):
                return None
    return None


def computed(op: ast.operator, a: Any, b: Any) -> Any:
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
