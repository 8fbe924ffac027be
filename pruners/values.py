"""Attributes that are no modules, as expressions: numbers, functions, classes, configurations."""

from __future__ import annotations

import argparse
import dataclasses
import enum
import functools
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from pruners.definitions import public_home
from pruners.expressions import (
    Argument,
    Call,
    Dictionary,
    Display,
    Expr,
    Literal,
    Reference,
    is_plain_name,
    is_writable,
)
from pruners.origin import is_library

# A constant of the source; a longer tensor belongs into a buffer.
_MOST_VALUES = 256

Needs = Callable[[str, str], str]
"""Told (name, module) of every definition of the user's that an expression mentions; says what
it is called in the file."""


def value_expression(value: Any, needs: Needs, owner: nn.Module | None = None) -> Expr | None:
    """The expression that makes a value; None where there is none.

    Args:
        owner: the module whose attribute it is; its own methods are `self.NAME`.
    """
    if is_writable(value):
        return Literal(value)
    if isinstance(value, enum.Enum):
        cls, name = _named(type(value), needs), value.name
        return (
            Reference(f"{cls.name}.{name}", cls.statement) if cls and is_plain_name(name) else None
        )
    if isinstance(value, (np.integer, np.floating, np.bool_)):
        return Literal(value.item())
    if isinstance(value, types.MethodType):
        own = owner is not None and value.__self__ is owner
        return Reference(f"self.{value.__name__}") if own else None
    if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
        return _named(value, needs)
    if type(value) is torch.Tensor and value.numel() <= _MOST_VALUES and not value.is_meta:
        data = _positional("data", Literal(value.tolist()))
        dtype = Argument("dtype", Literal(value.dtype), Literal(torch.float32))
        return Call(Reference("torch.tensor", "import torch"), (data, dtype))
    return _composed(value, lambda inner: value_expression(inner, needs, owner), needs)


def _composed(value: Any, inner: Callable[[Any], Expr | None], needs: Needs) -> Expr | None:
    """An expression of a value that is made of others."""
    if isinstance(value, functools.partial):
        function = inner(value.func)
        if function is None:
            return None
        parts = [(f"argument{i}", v, True) for i, v in enumerate(value.args)]
        parts += [(name, v, False) for name, v in value.keywords.items()]
        first = (_positional("function", function),)
        return _call(Reference("partial", "from functools import partial"), first, parts, inner)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        cls = _named(type(value), needs)
        fields = [f for f in dataclasses.fields(value) if f.init]
        parts = [(f.name, getattr(value, f.name), False) for f in fields if not _default(f, value)]
        return None if cls is None else _call(cls, (), parts, inner)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        cls = _named(type(value), needs)
        parts = [(name, getattr(value, name), False) for name in value._fields]
        return None if cls is None else _call(cls, (), parts, inner)
    if type(value) in (types.SimpleNamespace, argparse.Namespace):
        cls = _named(type(value), needs)
        parts = [(name, v, False) for name, v in vars(value).items()]
        return None if cls is None else _call(cls, (), parts, inner)
    if type(value) in (list, tuple):
        items = [inner(item) for item in value]
        if any(item is None for item in items):
            return None
        kept = tuple(item for item in items if item is not None)
        return Display(kept, "[" if type(value) is list else "(")
    if type(value) is dict and all(isinstance(key, (str, int)) for key in value):
        entries = [(key, inner(item)) for key, item in value.items()]
        if any(item is None for _, item in entries):
            return None
        return Dictionary(tuple((key, item) for key, item in entries if item is not None))
    return None


def _call(
    function: Reference,
    first: tuple[Argument, ...],
    parts: list[tuple[str, Any, bool]],
    inner: Callable[[Any], Expr | None],
) -> Expr | None:
    arguments = list(first)
    for name, value, positional in parts:
        expr = inner(value)
        if expr is None:
            return None
        arguments.append(Argument(name, expr, positional=positional))
    return Call(function, tuple(arguments), value=True)


def _default(field: dataclasses.Field[Any], value: Any) -> bool:
    """Whether a field has its default value, and so need not be said."""
    given = getattr(value, field.name)
    if field.default is not dataclasses.MISSING:
        return type(given) is type(field.default) and bool(given == field.default)
    return False


def _named(value: Any, needs: Needs) -> Reference | None:
    """A function or class by the name under which it can be imported, or is defined."""
    name, module = getattr(value, "__qualname__", ""), getattr(value, "__module__", "") or ""
    plain = getattr(value, "__name__", "")
    if not is_plain_name(plain):
        return None
    if getattr(torch, plain, None) is value:
        return Reference(f"torch.{plain}", "import torch")
    if isinstance(value, type) and getattr(nn, plain, None) is value:
        return Reference(f"nn.{plain}", "from torch import nn")
    if getattr(torch.nn.functional, plain, None) is value:
        return Reference(f"F.{plain}", "import torch.nn.functional as F")
    if not is_plain_name(name) or getattr(sys.modules.get(module), name, None) is not value:
        return None  # a lambda, something within a function, or not what the name leads to
    if module == "builtins":
        return Reference(name)
    if is_library(module):
        home = public_home(value) if isinstance(value, type) else module
        return Reference(name, f"from {home} import {name}")
    return Reference(needs(name, module))


def said_of(value: Any) -> str:
    """What kind of callable it is, for somebody who is to replace it."""
    if isinstance(value, types.MethodType):
        return "a method bound to an object"
    if isinstance(value, functools.partial):
        return "a functools.partial"
    if not isinstance(value, (type, types.FunctionType)):
        return f"a {type(value).__name__}"
    if value.__name__ == "<lambda>":
        return "a lambda"
    kind = "class" if isinstance(value, type) else "function"
    local = "<locals>" in value.__qualname__
    return f"a {kind} inside a function" if local else f"the {kind} {value.__qualname__!r}"


def _positional(name: str, value: Expr) -> Argument:
    return Argument(name, value, positional=True)
