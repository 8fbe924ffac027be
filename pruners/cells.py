"""The text of a notebook: what its cells define, as one file would say it.

A class that is typed into a cell has no file, but IPython keeps the text of every cell in `In`.
`text_of_cells` puts the imports, functions, classes and constants of all cells into one text;
training loops and commands stay out, and nothing is executed. Cells run in any order, fail half-way
and are run again: a definition counts only if it is the one that the session has now, so a name
that cannot be told is left out, and whoever needs it finds no source.
"""

from __future__ import annotations
import __future__

import ast
import inspect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from enum import Enum
from functools import lru_cache
from itertools import islice
from types import CodeType, FunctionType, ModuleType
from typing import Any

from pruners.freshness import codes_within, functions_of, same_code

# What a name gets of a value that is unpacked cannot be told.
_SPREAD = ast.Await(ast.Name("_", ast.Load()))
_FUTURE = __future__.annotations.compiler_flag
# What makes a constant: building it again makes the same, and touches nothing.
_PURE = frozenset(
    {"abs", "bool", "dict", "enumerate", "float", "frozenset", "int", "len", "list", "max", "min"}
    | {"range", "reversed", "round", "set", "sorted", "str", "sum", "tuple", "zip", "partial"}
    | {"torch.tensor", "torch.zeros", "torch.ones", "torch.full", "torch.eye", "torch.arange"}
    | {"torch.linspace", "torch.device", "torch.Size", "namedtuple", "collections.namedtuple"}
    | {f"math.{name}" for name in vars(math)}
)


@dataclass(slots=True)
class _Statement:
    """A statement of a cell, or several that share a line."""

    lines: list[str]
    first: int
    """The number of its first line in its cell."""
    nodes: list[ast.stmt]
    codes: dict[str, list[CodeType]] = field(default_factory=dict)
    """What its functions compile to, by qualified name: alone, as IPython compiles them, and with
    the cell, which may give other instructions for the same text."""


@dataclass(frozen=True, slots=True)
class Cells:
    """The definitions of a notebook."""

    text: str
    codes: Mapping[str, list[CodeType]]
    """What its functions compile to, by qualified name, with the lines of their cells."""
    shifts: Mapping[int, int]
    """How many lines further down the text has what a code says, by its identity."""
    classes: frozenset[str]
    """Qualified names."""

    def end_of(self, code: CodeType, at: int) -> tuple[int, int] | None:
        """Line and column in the text at which ends what a running function is about to do.

        Args:
            at: index of the instruction, as in a frame.

        Returns:
            None where the function is not in the text, or cannot be told from another one.
        """
        ends = set()
        for known in self.codes.get(code.co_qualname, ()):
            if same_code(known, code):
                _, line, _, column = next(islice(known.co_positions(), at // 2, None))
                ends.add(((line or 0) + self.shifts[id(known)], column or 0))
        return ends.pop() if len(ends) == 1 else None


def cells_of(module: ModuleType) -> Cells | None:
    """The cells of a notebook; None for a module that is none."""
    names = vars(module)
    texts = names.get("In")
    if getattr(module, "__file__", None) is not None or not isinstance(texts, list):
        return None
    own = tuple(text for text in texts if isinstance(text, str))
    now = tuple((name, id(value)) for name, value in names.items())
    return _cells(module, own, now)


def holds_class(module: ModuleType, cls: type) -> bool:
    """Whether the text of a notebook has a class as it is: not another one of its name."""
    cells = cells_of(module)
    if cells is None or cls.__qualname__ not in cells.classes:
        return False
    live = current_class(module, cls.__qualname__)
    if live is None or (live is not cls and _plain_parts(live) != _plain_parts(cls)):
        return False
    return _has_functions(cls, cells.codes, vars(module))


def current_class(module: ModuleType, qualname: str) -> type | None:
    """The class of that name that a session has now."""
    found: Any = module
    for part in qualname.split("."):
        found = vars(found).get(part)
        if not isinstance(found, type):
            return None
    return found  # type: ignore[no-any-return]


def classes_within(body: Sequence[ast.stmt], prefix: str = "") -> Iterator[str]:
    """The qualified names of classes outside of functions."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield prefix + node.name
            yield from classes_within(node.body, f"{prefix}{node.name}.")


def _plain_parts(cls: type) -> Any:
    """What a class says beside its functions."""
    plain = (int, float, str, bool, tuple, type(None))
    said = {
        name: repr(value) if isinstance(value, plain) else type(value).__name__
        for name, value in vars(cls).items()
        if name not in ("__doc__", "__firstlineno__")
    }
    return said, [base.__qualname__ for base in cls.__bases__]


@lru_cache(maxsize=8)
def _cells(module: ModuleType, texts: tuple[str, ...], _: Any) -> Cells:
    names = vars(module)
    found: dict[str, _Statement] = {}
    certain: set[str] = set()
    imports: list[_Statement] = []
    order: list[_Statement] = []
    flags = 0
    for text in texts:
        tree, text = _parsed(text)
        if tree is None:
            continue
        flags |= _FUTURE if any(map(_is_future, tree.body)) else 0
        for statement in _statements(tree, text):
            if all(map(_is_future, statement.nodes)):
                continue
            order.append(statement)
            if _imports(statement, names):
                imports.append(statement)
                continue
            _compile(statement, tree, flags)
            defined = [pair for node in statement.nodes for pair in _defined(node)]
            for name in _stored(statement.nodes) - {name for name, _ in defined}:
                found.pop(name, None)  # a loop, `+=`: who knows what it is now
                certain.discard(name)
            for name, node in defined:
                if _is_current(name, node, statement, names):
                    found[name] = statement
                    certain.discard(name)
                    if not isinstance(node, ast.expr) or _is_literal(node):
                        certain.add(name)
                elif name not in certain:
                    found.pop(name, None)  # it may have been given this value
    kept = {id(s) for s in (*found.values(), *imports)}
    lines = ["from __future__ import annotations", ""] if flags else []
    codes: dict[str, list[CodeType]] = {}
    shifts: dict[int, int] = {}
    for statement in order:
        if id(statement) in kept:
            for name, known in statement.codes.items():
                codes.setdefault(name, []).extend(known)
                shifts |= {id(code): len(lines) + 1 - statement.first for code in known}
            lines += [*statement.lines, "", ""]
    text = "\n".join(lines)
    return Cells(text, codes, shifts, frozenset(classes_within(ast.parse(text).body)))


# --- cells and their statements ----------------------------------------------------------------


def _parsed(text: str) -> tuple[ast.Module | None, str]:
    """The tree of a cell and its text; lines for IPython or the shell do nothing."""
    text = text.replace("\r\n", "\n")
    without = "\n".join(map(_without_command, text.split("\n")))
    for candidate in (text, without):
        try:
            compile(candidate, "<cell>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
            return ast.parse(candidate), candidate
        except (SyntaxError, ValueError):
            continue
    return None, text


def _without_command(line: str) -> str:
    code = line.lstrip()
    return line[: len(line) - len(code)] + "pass" if code.startswith(("%", "!")) else line


def _statements(tree: ast.Module, text: str) -> Iterator[_Statement]:
    """The statements of a cell as they stand, with the comments right above them."""
    lines = text.split("\n")
    groups: list[tuple[int, int, list[ast.stmt]]] = []
    for node in tree.body:
        decorators = getattr(node, "decorator_list", ())
        first = min((node.lineno, *(d.lineno for d in decorators)))
        last = node.end_lineno or node.lineno
        if groups and groups[-1][1] >= first:
            groups[-1] = (groups[-1][0], last, [*groups[-1][2], node])
        else:
            groups.append((first, last, [node]))
    for first, last, nodes in groups:
        while first > 1 and lines[first - 2].startswith("#"):
            first -= 1
        yield _Statement(lines[first - 1 : last], first, nodes)


def _is_future(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def _imports(statement: _Statement, names: Mapping[str, Any]) -> bool:
    """Whether it is there to import: alone, or one module or else another."""

    def only(body: Iterable[ast.stmt]) -> bool:
        for node in body:
            match node:
                case ast.Import(aliases) | ast.ImportFrom(names=aliases):
                    bound = (a.asname or a.name.split(".")[0] for a in aliases)
                    if not any(name == "*" or name in names for name in bound):
                        return False  # it failed, or never ran
                case ast.Try(tried, handlers, orelse, finalbody):
                    handled = [s for handler in handlers for s in handler.body]
                    if not only([*tried, *handled, *orelse, *finalbody]):
                        return False
                case ast.Pass():
                    pass
                case _:
                    return False
        return True

    return only(statement.nodes) and not all(isinstance(n, ast.Pass) for n in statement.nodes)


def _compile(statement: _Statement, tree: ast.Module, flags: int) -> None:
    last = statement.first + len(statement.lines)
    how = flags | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    for part in (ast.Module(statement.nodes, []), tree):
        for code in codes_within(compile(part, "<cell>", "exec", how, dont_inherit=True)):
            if statement.first <= code.co_firstlineno < last:
                statement.codes.setdefault(code.co_qualname, []).append(code)


def _defined(node: ast.stmt) -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef | ast.expr]]:
    """The names that a statement of the top level defines, as what."""
    match node:
        case ast.FunctionDef(name) | ast.ClassDef(name):
            yield name, node
        case ast.Assign(targets, value):
            for target in targets:
                if isinstance(target, ast.Name):
                    yield target.id, value
                elif isinstance(target, ast.Tuple):
                    parts = value.elts if isinstance(value, ast.Tuple) else []
                    for i, part in enumerate(target.elts):
                        if isinstance(part, ast.Name):
                            whole = len(parts) != len(target.elts)
                            yield part.id, _SPREAD if whole else parts[i]
        case ast.AnnAssign(ast.Name(name), value=value) if value is not None:
            yield name, value


def _stored(nodes: Iterable[ast.stmt]) -> set[str]:
    """The names that statements give a value to, or delete, outside of functions and classes."""
    stored: set[str] = set()
    pending: list[ast.AST] = list(nodes)
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            stored.add(node.name)
            continue
        if isinstance(node, ast.Lambda):
            continue
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            stored.add(node.id)
        pending += ast.iter_child_nodes(node)
    return stored


# --- whether a definition is what the session has ----------------------------------------------


def _is_current(
    name: str,
    node: ast.FunctionDef | ast.ClassDef | ast.expr,
    statement: _Statement,
    names: Mapping[str, Any],
) -> bool:
    if name not in names:
        return False
    live = names[name]
    match node:
        case ast.FunctionDef():
            live = inspect.unwrap(live) if callable(live) else live
            if not isinstance(live, FunctionType) or live.__globals__ is not names:
                return bool(node.decorator_list)  # a decorator made something else of it
            return any(same_code(live.__code__, c) for c in statement.codes.get(name, ()))
        case ast.ClassDef():
            return isinstance(live, type) and _has_functions(live, statement.codes, names)
    if not _is_literal(node):
        return _is_constant(node, names)
    said = ast.literal_eval(node)
    return type(said) is type(live) and repr(said) == repr(live)


def _is_literal(value: ast.expr) -> bool:
    try:
        ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError):
        return False
    return True


def _has_functions(
    cls: type, codes: Mapping[str, list[CodeType]], names: Mapping[str, Any]
) -> bool:
    """Whether the functions of a class are those of a text, none put there later."""
    for function in functions_of(cls):
        inner = inspect.unwrap(function)
        if not isinstance(inner, FunctionType) or inner.__globals__ is not names:
            continue
        code = inner.__code__
        if code.co_qualname.startswith("__create_fn__."):
            continue  # of a dataclass
        if not code.co_qualname.startswith(f"{cls.__qualname__}."):
            return False
        if not any(same_code(code, other) for other in codes.get(code.co_qualname, ())):
            return False
    return True


def _is_record(kind: Any) -> bool:
    """Whether a class only holds what it is given."""
    return isinstance(kind, type) and (is_dataclass(kind) or issubclass(kind, (tuple, Enum)))


def _is_constant(value: ast.expr, names: Mapping[str, Any]) -> bool:
    """Whether an expression may stand in a file: to evaluate it there does nothing else."""
    for node in ast.walk(value):
        if isinstance(node, (ast.Await, ast.NamedExpr, ast.Yield, ast.YieldFrom)):
            return False
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called not in _PURE and not _is_record(names.get(called)):
                return False
    return True
