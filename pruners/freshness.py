"""Whether the text that can be read of a class is the text that runs.

A file may change after its import; the writer would then copy methods that never ran. Text and
running code are compared by what the text compiles to, so that comments, blank lines and
modification times do not matter, and `importlib.reload` makes all well again.
"""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Iterator
from functools import lru_cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from pruners.errors import WriterError

Stamp = tuple[int, int] | None
"""Time of modification and size of a file; None where there is none."""


def stamp(path: str | None) -> Stamp:
    """What tells two states of a file apart without reading it."""
    try:
        status = os.stat(path or "")
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size


def check_current(cls: type) -> None:
    """Raises WriterError where the file of a class, or of a function it uses, has changed.

    Only code that the plain file loader made is compared: other loaders may rewrite it.
    """
    for function in _used_by(cls):
        module = sys.modules.get(function.__module__ or "")
        path = getattr(module, "__file__", None)
        code = function.__code__
        if module is None or path is None or code.co_filename != path or not _is_plain(module):
            continue
        known = codes_in(path)
        if known is not None and not any(
            same_code(code, other) for other in known.get(code.co_qualname, ())
        ):
            raise WriterError(
                f"{code.co_qualname}: {Path(path).name} has changed on disk since it was imported, "
                f"so what runs is not what can be read; import the file again and build the "
                f"network anew (importlib.reload, or a fresh Python)"
            )


def codes_in(path: str) -> dict[str, list[CodeType]] | None:
    """What the functions of a file compile to, by qualified name; None where it does not."""
    return _codes_in(path, stamp(path))


@lru_cache(maxsize=256)
def _codes_in(path: str, _: Stamp) -> dict[str, list[CodeType]] | None:
    linecache.checkcache(path)
    text = "".join(linecache.getlines(path))
    if not text:
        return None
    try:
        top = compile(text, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return {}
    found: dict[str, list[CodeType]] = {}
    for code in codes_within(top):
        found.setdefault(code.co_qualname, []).append(code)
    return found


def codes_within(code: CodeType) -> Iterator[CodeType]:
    """The code of the functions and classes in a piece of code."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from codes_within(constant)


def same_code(a: CodeType, b: CodeType) -> bool:
    """Whether two pieces of code do the same, wherever they stand in their files."""
    return (
        (a.co_code, a.co_names, a.co_varnames, a.co_freevars, a.co_cellvars)
        == (b.co_code, b.co_names, b.co_varnames, b.co_freevars, b.co_cellvars)
        and (a.co_argcount, a.co_kwonlyargcount) == (b.co_argcount, b.co_kwonlyargcount)
        and len(a.co_consts) == len(b.co_consts)
        and all(_same_constant(x, y) for x, y in zip(a.co_consts, b.co_consts, strict=True))
    )


def _same_constant(a: Any, b: Any) -> bool:
    if isinstance(a, CodeType) and isinstance(b, CodeType):
        return same_code(a, b)
    if isinstance(a, frozenset):
        return bool(a == b)  # in whatever order
    # 1 == True and 0.0 == -0.0 in Python, but not in source.
    return type(a) is type(b) and repr(a) == repr(b)


def functions_of(cls: type) -> Iterator[FunctionType]:
    """The functions that stand in the body of a class, behind properties and the like too."""
    for value in vars(cls).values():
        for inner in (
            value,
            *(getattr(value, name, None) for name in ("fget", "fset", "fdel", "__func__")),
        ):
            if isinstance(inner, FunctionType):
                yield inner


def _used_by(cls: type) -> Iterator[FunctionType]:
    """The functions of a class, and those that they find among the names of their module."""
    pending, seen = list(functions_of(cls)), set[FunctionType]()
    while pending:
        function = pending.pop()
        if function in seen:
            continue
        seen.add(function)
        yield function
        named = (function.__globals__.get(name) for name in function.__code__.co_names)
        pending += [
            other
            for other in named
            if isinstance(other, FunctionType) and other.__globals__ is function.__globals__
        ]


def _is_plain(module: ModuleType) -> bool:
    return type(getattr(module, "__loader__", None)) is SourceFileLoader
