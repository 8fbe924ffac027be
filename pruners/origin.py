"""What the original source says: methods, helpers, constants, imports, initialisation.

Source is read once a module, as a libcst tree; nothing is executed. Names are resolved in the
module in which they stand, so a helper that lives in another file of the user's is found there.
"""

from __future__ import annotations

import ast
import builtins
import importlib.util
import inspect
import re
import symtable
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType

import libcst as cst

from pruners.cells import cells_of
from pruners.errors import WriterError
from pruners.freshness import Stamp, check_current, stamp

# This project's packages: nothing of theirs may be imported by a generated file.
OWN_PACKAGES = frozenset({"pruners", "models", "app"})

_CELL_MARK = re.compile(r"#\s*%%")


@dataclass(slots=True)
class ModuleSource:
    """The top level of one source file."""

    name: str
    imports: dict[str, str] = field(default_factory=dict)
    """Bound name -> the import statement that binds it, one name a statement."""
    definitions: dict[str, cst.BaseStatement] = field(default_factory=dict)
    position: dict[str, int] = field(default_factory=dict)
    """Where in the file each definition stands."""
    future_annotations: bool = False
    stars: list[str] = field(default_factory=list)
    """Modules of which everything is imported."""

    def class_node(self, cls: type) -> cst.ClassDef:
        node: cst.CSTNode | None = self.definitions.get(cls.__qualname__.split(".")[0])
        for part in cls.__qualname__.split(".")[1:]:
            body = node.body.body if isinstance(node, cst.ClassDef) else ()
            node = next(
                (n for n in body if isinstance(n, cst.ClassDef) and n.name.value == part), None
            )
        if not isinstance(node, cst.ClassDef):
            raise WriterError(
                f"class {cls.__qualname__}: not at the top level of {self.name}, so its source may "
                f"use names of the function around it; move it to the top level of a file"
            )
        check_current(cls)
        return node


def module_source(name: str) -> ModuleSource:
    """The source of an imported module.

    Raises:
        WriterError: there is no source (a class typed into an interactive session).
    """
    module = sys.modules.get(name)
    if module is None:
        raise WriterError(f"module {name}: not imported, so its source cannot be read")
    return _parse(module, text_of(name))


def text_of(name: str) -> str:
    """The text of an imported module; errors as for `module_source`."""
    module = sys.modules.get(name)
    if module is None:
        raise WriterError(f"module {name}: not imported, so its source cannot be read")
    cells = cells_of(module)
    if cells is not None and cells.text:
        return cells.text
    return _text(module, stamp(getattr(module, "__file__", None)))


@cache
def _text(module: ModuleType, _: Stamp) -> str:
    try:
        return inspect.getsource(module)
    except (OSError, TypeError) as error:
        raise WriterError(
            f"module {module.__name__}: has no source file; put its classes into a .py file"
        ) from error


class Sources:
    """The sources of a network's modules, some of them edited.

    Args:
        edited: syntax trees that stand for those of the files, by module name.
    """

    def __init__(self, edited: Mapping[str, cst.Module] | None = None) -> None:
        self._edited = {
            name: _read(sys.modules[name], tree) for name, tree in (edited or {}).items()
        }

    def of(self, name: str) -> ModuleSource:
        """As `module_source`."""
        return self._edited.get(name) or module_source(name)


@cache
def _parse(module: ModuleType, text: str) -> ModuleSource:
    try:
        tree = cst.parse_module(text)
    except cst.ParserSyntaxError as error:
        raise WriterError(
            f"module {module.__name__}: its source cannot be read as Python (line "
            f"{error.raw_line}); expected the file that was imported"
        ) from error
    return _read(module, tree)


def _read(module: ModuleType, tree: cst.Module) -> ModuleSource:
    source = ModuleSource(module.__name__)
    for place, statement in enumerate(tree.body):
        for name in defined_names(statement):
            source.definitions[name] = statement
            source.position[name] = place
    package = module.__package__ or ""
    for node in _module_level(ast.parse(text_of(module.__name__)).body):
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.asname or alias.name.split(".")[0]
                source.imports[bound] = ast.unparse(ast.Import([alias]))
        elif isinstance(node, ast.ImportFrom):
            if node.module == "__future__":
                source.future_annotations |= any(a.name == "annotations" for a in node.names)
                continue
            target = node.module or ""
            if node.level:
                target = importlib.util.resolve_name("." * node.level + target, package)
            for alias in node.names:
                if alias.name == "*":
                    source.stars.append(target)
                    continue
                single = ast.ImportFrom(target, [alias], 0)
                source.imports[alias.asname or alias.name] = ast.unparse(single)
    return source


def _module_level(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements outside of functions and classes, also those under `if` and `try`."""
    for node in body:
        yield node
        if isinstance(node, ast.If):
            yield from _module_level((*node.body, *node.orelse))
        elif isinstance(node, ast.Try):
            handlers = (s for handler in node.handlers for s in handler.body)
            yield from _module_level((*node.body, *handlers, *node.orelse, *node.finalbody))


def defined_names(statement: cst.BaseStatement | cst.SimpleStatementLine) -> Iterator[str]:
    if isinstance(statement, (cst.ClassDef, cst.FunctionDef)):
        yield statement.name.value
    elif isinstance(statement, cst.SimpleStatementLine):
        for small in statement.body:
            targets: list[cst.BaseExpression] = []
            if isinstance(small, cst.Assign):
                targets = [t.target for t in small.targets]
            elif isinstance(small, cst.AnnAssign):
                targets = [small.target]
            for target in targets:
                if isinstance(target, cst.Name):
                    yield target.value
                elif isinstance(target, cst.Tuple):
                    for element in target.elements:
                        if isinstance(element.value, cst.Name):
                            yield element.value.value


def is_library(module_name: str) -> bool:
    """Whether a module comes with Python or is installed, and not the user's own file or ours."""
    top = module_name.split(".")[0]
    if top in OWN_PACKAGES:
        return False
    if top in sys.stdlib_module_names or top == "torch":
        return True
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return False
    origin = spec.origin if spec else None
    return origin is not None and bool({"site-packages", "dist-packages"} & set(Path(origin).parts))


@lru_cache(maxsize=4096)  # nodes are compared by identity, and never changed
def code_of(node: cst.CSTNode) -> str:
    """The text of a statement, without the indentation of where it stood."""
    return textwrap.dedent(cst.Module([]).code_for_node(node))


def without_cell_marks(node: cst.CSTNode) -> cst.CSTNode:
    """A statement without what tells cells apart in a notebook that is kept as a script.

    What stands above the last mark (`# %%`) is of other cells: their text, as a rule.
    """
    lines: Sequence[cst.EmptyLine] = getattr(node, "leading_lines", ())
    for place in reversed(range(len(lines))):
        comment = lines[place].comment
        if comment is not None and _CELL_MARK.match(comment.value):
            return node.with_changes(leading_lines=lines[place + 1 :])
    return node


def global_names(code: str) -> set[str]:
    """The names that a piece of code takes from its module, annotations included."""
    found: set[str] = set()

    def visit(table: symtable.SymbolTable, top: bool) -> None:
        for symbol in table.get_symbols():
            bound_here = top and (symbol.is_assigned() or symbol.is_imported())
            if symbol.is_referenced() and not bound_here and (top or symbol.is_global()):
                found.add(symbol.get_name())
        for child in table.get_children():
            visit(child, False)

    visit(symtable.symtable(code, "<source>", "exec"), True)
    for text in _quoted_annotations(code):
        with suppress(SyntaxError):  # a string that is no type, as in Literal["a b"]
            found |= {n.id for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Name)}
    return {name for name in found if not hasattr(builtins, name)}


def _quoted_annotations(code: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(code)):
        annotation = getattr(node, "annotation", None) or getattr(node, "returns", None)
        for inner in ast.walk(annotation) if annotation is not None else ():
            if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                yield inner.value


def super_calls(code: str) -> set[str]:
    """The methods that code calls of `super()`."""
    return {
        node.attr
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Call)
        and ast.unparse(node.value.func) == "super"
    }


def attributes_stored(code: str) -> set[str]:
    """The attributes of `self` that code assigns and does not read."""
    stored: set[str] = set()
    read: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.AugAssign(target=ast.Attribute(value=ast.Name(id="self"), attr=name)):
                read.add(name)
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                stored.add(name)
            case ast.Attribute(value=ast.Name(id="self"), attr=name):
                read.add(name)
    return stored - read


def attributes_read(code: str) -> tuple[set[str], set[str]]:
    """The attributes that code reads: those of `self` (or `cls`), and those of anything else."""
    own: set[str] = set()
    other: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name):
                own.add(name)
            case ast.Attribute(attr=name):
                other.add(name)
            case ast.Call(
                func=ast.Name(id="getattr" | "hasattr"),
                args=[ast.Name(id=holder), ast.Constant(value=str(name)), *_],
            ):
                (own if holder in ("self", "cls") else other).add(name)
    return own, other


def methods_of(node: cst.ClassDef) -> dict[str, list[cst.FunctionDef]]:
    """The methods of a class by name; a property's getter and setter share theirs."""
    methods: dict[str, list[cst.FunctionDef]] = {}
    for statement in node.body.body:
        if isinstance(statement, cst.FunctionDef):
            methods.setdefault(statement.name.value, []).append(statement)
    return methods


def init_of(node: cst.ClassDef) -> cst.FunctionDef | None:
    methods = methods_of(node).get("__init__")
    return methods[0] if methods else None
