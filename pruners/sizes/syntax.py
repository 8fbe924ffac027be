"""The source of a Python module: what stands where, inside of what, and who reads an attribute."""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from typing import TypeVar

from pruners.cells import cells_of
from pruners.origin import text_of
from pruners.replay import Frame
from pruners.sizes.rewrites import Span

Expr = TypeVar("Expr", bound=ast.expr)


def file_of(name: str) -> File:
    """The source of a Python module as it is now, by its name."""
    return _parsed(name, text_of(name))


@cache
def _parsed(name: str, text: str) -> File:
    return File(name, text)


class File:
    """The syntax tree of a Python module, with parents."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.lines = text.splitlines(keepends=True)
        self.tree = ast.parse(text)
        self.parents: dict[ast.AST, ast.AST] = {}
        self.ends: dict[tuple[int, int], list[ast.expr]] = defaultdict(list)
        for node in ast.walk(self.tree):
            for child in ast.iter_child_nodes(node):
                self.parents[child] = node
            if isinstance(node, (ast.Call, ast.Subscript)):
                self.ends[node.end_lineno or 0, node.end_col_offset or 0].append(node)

    def running(self, frame: Frame, kind: type[Expr]) -> Expr | None:
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

    def function(self, node: ast.AST) -> ast.AST | None:
        """The function or lambda that a node is in."""
        above = self.parents.get(node)
        while above is not None and not isinstance(
            above, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
        ):
            above = self.parents.get(above)
        return above

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

    def reads(self, qualified: str, chain: tuple[str | int, ...]) -> list[ast.expr]:
        """The expressions of a class's methods that read `self.a.b`."""
        found: list[ast.expr] = []
        for method in self._methods(qualified):
            for node in ast.walk(method):
                if isinstance(node, (ast.Attribute, ast.Subscript)):
                    here, outer = chain_of(node), self.parents.get(node)
                    # `self.sizes` as a whole reads `self.sizes[0]` as well.
                    shorter = here is not None and here == chain[: len(here)]
                    longer = isinstance(outer, (ast.Attribute, ast.Subscript)) and chain_of(outer)
                    if here == chain or (shorter and not longer):
                        found.append(node)
        return found

    def is_read_of_others(self, name: str) -> bool:
        """Whether code of the file reads an attribute of this name of anything but `self`.

        What runs before training, an `__init__`, reads what it likes.
        """
        built = {
            id(inner)
            for node in ast.walk(self.tree)
            if isinstance(node, ast.FunctionDef) and node.name == "__init__"
            for inner in ast.walk(node)
        }
        for node in ast.walk(self.tree):
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

    def _methods(self, qualified: str) -> Iterator[ast.FunctionDef]:
        node = self._class_node(qualified)
        for method in node.body if node else ():
            if isinstance(method, ast.FunctionDef) and method.name != "__init__":
                yield method

    def _class_node(self, qualified: str) -> ast.ClassDef | None:
        return next(
            (
                node
                for node in ast.walk(self.tree)
                if isinstance(node, ast.ClassDef) and self.class_path(node) == qualified
            ),
            None,
        )


def chain_of(expr: ast.expr) -> tuple[str | int, ...] | None:
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


def one_line(node: ast.AST) -> str:
    """An expression as messages quote it."""
    return " ".join(ast.unparse(node).split())
