"""The definitions of a generated file, and the names in it.

Kept code mentions classes, functions and constants of its module, and what that module imports.
Each is looked up in the module in which the code stands and brought into the file: definitions of
the user's by their text, parts of installed packages by an import. One object has one name in the
file, whatever path leads to it; where two objects have one name, the second gets another, and the
code that mentions it follows.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

import libcst as cst

from pruners.errors import WriterError
from pruners.expressions import Imports
from pruners.origin import ModuleSource, code_of, global_names, is_library, without_cell_marks

Node = TypeVar("Node", bound=cst.CSTNode)
SourceOf = Callable[[str], ModuleSource]

# Names that the generated file itself uses; nothing else may have them.
RESERVED: Mapping[str, str] = {
    "torch": "torch",
    "nn": "torch.nn",
    "F": "torch.nn.functional",
    "super": "",
}


@dataclass(frozen=True, slots=True)
class _Found:
    """What a name in a module stands for."""

    source: ModuleSource | None
    """The module whose text defines it; None for something to import."""
    name: str
    """Its name there."""
    statement: str = ""
    """The import, for something to import."""
    module: str = ""
    """A module of the user's: what it holds is mentioned as `module.NAME`."""


class Definitions:
    """Names and definitions of one file.

    Args:
        source_of: the source of a module by its name.
        imports: collects the import statements.
    """

    def __init__(self, source_of: SourceOf, imports: Imports) -> None:
        self.source_of = source_of
        self.imports = imports
        self.future_annotations = False
        self._names: dict[tuple[str, str], str] = {}
        self._homes: dict[str, str] = {}
        self._bound: dict[str, str] = {}
        """Imported name -> statement."""
        self._order: dict[tuple[str, int], str] = {}
        self._needs: dict[str, dict[str, None]] = {}
        """Module -> the modules whose definitions its code mentions."""
        self._classes: dict[int, tuple[str, str]] = {}

    # -- names

    def claim(self, cls: type) -> str:
        """The name in the file of a class of the network."""
        key = (cls.__module__, cls.__qualname__)
        self._classes[id(cls)] = key
        return self._named(key, cls.__name__)

    def names(self) -> set[str]:
        """The names that the file defines."""
        return set(self._homes)

    def _named(self, key: tuple[str, str], wanted: str) -> str:
        """The name of a definition: the one it has, or with a number where that is taken."""
        if key not in self._names:
            choices = (wanted, *(f"{wanted}_{n}" for n in range(2, 1000)))
            taken = {*self._homes, *self._bound, *RESERVED}
            self._names[key] = name = next(c for c in choices if c not in taken)
            self._homes[name] = key[0]
        return self._names[key]

    def _imported(self, name: str, statement: str, found: object) -> str:
        """The name of something imported; one object has one, wherever it is imported from."""
        for known, other in self._bound.items():
            one = found is not None and _value_of(other) is found
            if one or (other == statement and known == name):
                return known
        if RESERVED.get(name) and found is sys.modules.get(RESERVED[name]):
            self._bound[name] = statement
            self.imports.need(name, _statement(RESERVED[name], name))
            return name
        choice = name
        number = 1
        while choice in self._homes or choice in self._bound or choice in RESERVED:
            number += 1
            choice = f"{name}_{number}"
        if choice != name:
            node = ast.parse(statement).body[0]
            assert isinstance(node, (ast.Import, ast.ImportFrom))
            node.names[0].asname = choice
            statement = ast.unparse(node)
        self._bound[choice] = statement
        self.imports.need(choice, statement)
        return choice

    # -- definitions

    def place(self, source: ModuleSource, name: str, node: cst.CSTNode) -> None:
        """Put a definition where the definition `name` of its module stands."""
        self._needs.setdefault(source.name, {})
        self._order[(source.name, source.position[name])] = code_of(without_cell_marks(node))
        self.future_annotations |= source.future_annotations

    def depends(self, module: str, other: str) -> None:
        """What one module defines stands behind what the other does."""
        self._needs.setdefault(module, {})[other] = None

    def in_order(self) -> list[str]:
        """Modules in the order in which they depend on each other, each in its own order."""
        order: list[str] = []
        seen: set[str] = set()

        def visit(module: str) -> None:
            if module not in seen:
                seen.add(module)
                for other in self._needs.get(module, ()):
                    visit(other)
                order.append(module)

        for module in self._needs:
            visit(module)
        rank = {name: i for i, name in enumerate(order)}
        keys = sorted(self._order, key=lambda key: (rank[key[0]], key[1]))
        return [self._order[key] for key in keys]

    def mention(self, name: str, module: str) -> str:
        """Bring in a definition that an expression mentions; its name in the file."""
        return self._bring(name, self.source_of(module)) or name

    def localised(self, node: Node, source: ModuleSource) -> Node:
        """A piece of code as it has to read in the file; what it mentions is brought in."""
        renames: dict[str, str] = {}
        modules: dict[str, str] = {}
        for name in sorted(global_names(code_of(node))):
            found = self._find(name, source)
            if found is not None and found.module:
                modules[name] = found.module
                continue
            here = self._bring(name, source)
            if here is not None and here != name:
                renames[name] = here
        if not renames and not modules:
            return node
        result = node.visit(_Rename(renames, modules, self.mention))
        assert isinstance(result, cst.CSTNode)
        return result

    def _bring(self, name: str, source: ModuleSource) -> str | None:
        """Bring in what a name stands for; its name in the file, None for what is unknown."""
        found = self._find(name, source)
        if found is None:
            return None  # the linter names it if it is really undefined
        if found.source is None:
            return self._imported(name, found.statement, _value_of(found.statement))
        self.depends(source.name, found.source.name)
        value = vars(sys.modules[found.source.name]).get(found.name)
        if id(value) in self._classes:
            return self._names[self._classes[id(value)]]
        key = (found.source.name, found.name)
        known = key in self._names
        here = self._named(key, found.name)
        if not known:
            text = found.source.definitions[found.name]
            if isinstance(text, cst.ClassDef):
                text = without_foreign_decorators(text, found.source)
            text = self.localised(text, found.source)
            if here != found.name:
                text = text.visit(_Rename({found.name: here}, {}, self.mention, definition=True))  # type: ignore[assignment]
            self.place(found.source, found.name, text)
        return here

    def _find(self, name: str, source: ModuleSource) -> _Found | None:
        if name in source.definitions:
            return _Found(source, name)
        statement = source.imports.get(name)
        if statement is None:
            return self._of_star(name, source)
        target, imported = import_target(statement)
        value = vars(sys.modules[source.name]).get(name)
        if id(value) in self._classes:
            module, qualified = self._classes[id(value)]
            return _Found(self.source_of(module), qualified)
        if is_library(target):
            return _Found(None, name, statement)
        if target.split(".")[0] == "pruners":
            raise WriterError(
                f"{source.name}: the kept code uses {name} from {target}, which a generated file "
                f"must not import; use something else in the methods of the network"
            )
        if isinstance(value, ModuleType):
            return _Found(None, name, module=value.__name__)
        if not imported:
            return _Found(None, name, module=target)
        return self._find(imported, self.source_of(target))

    def _of_star(self, name: str, source: ModuleSource) -> _Found | None:
        """What `from module import *` brings."""
        for target in source.stars:
            module = sys.modules.get(target)
            if module is None or not hasattr(module, name):
                continue
            if is_library(target):
                return _Found(None, name, f"from {target} import {name}")
            return self._find(name, self.source_of(target))
        return None


def _value_of(statement: str) -> object:
    """What an import statement binds; None where it cannot be told without running more code."""
    target, imported = import_target(statement)
    module = sys.modules.get(target)
    if module is None:
        return None
    if imported:
        return getattr(module, imported, sys.modules.get(f"{target}.{imported}"))
    node = ast.parse(statement).body[0]
    assert isinstance(node, ast.Import)
    return module if node.names[0].asname else sys.modules.get(target.split(".")[0])


def _statement(module: str, name: str) -> str:
    parent, _, last = module.rpartition(".")
    if not parent:
        return f"import {module}"
    return f"from {parent} import {last}" if last == name else f"import {module} as {name}"


def import_target(statement: str) -> tuple[str, str]:
    """(module, imported name) of an import of one name; the name is empty for `import x`."""
    if not statement:
        return "", ""
    node = ast.parse(statement).body[0]
    if isinstance(node, ast.ImportFrom):
        return node.module or "", node.names[0].name
    assert isinstance(node, ast.Import)
    return node.names[0].name, ""


def public_home(cls: Any) -> str:
    """The shortest package that offers a class or function of a library under its name."""
    parts = cls.__module__.split(".")
    for end in range(1, len(parts)):
        package = sys.modules.get(".".join(parts[:end]))
        if getattr(package, cls.__name__, None) is cls:
            return ".".join(parts[:end])
    return str(cls.__module__)


def without_foreign_decorators(node: cst.ClassDef, source: ModuleSource) -> cst.ClassDef:
    """Without decorators that come from neither Python nor torch: they speak to other programs."""
    kept = []
    for decorator in node.decorators:
        root = code_of(decorator.decorator).split("(")[0].split(".")[0]
        target = import_target(source.imports.get(root, ""))[0]
        top = target.split(".")[0]
        if top == "torch" or top in sys.stdlib_module_names:
            kept.append(decorator)
    return node.with_changes(decorators=kept)


class _Rename(cst.CSTTransformer):
    """Gives names their names in the file; `layers.swish` of a user's module becomes `swish`."""

    def __init__(
        self,
        names: Mapping[str, str],
        modules: Mapping[str, str],
        mention: Callable[[str, str], str],
        definition: bool = False,
    ) -> None:
        super().__init__()
        self.names = names
        self.modules = modules
        self.mention = mention
        self.definition = definition

    def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> cst.Name:  # noqa: N802 - libcst's name
        new = self.names.get(original_node.value)
        return updated_node if new is None else updated_node.with_changes(value=new)

    def leave_Arg(self, original_node: cst.Arg, updated_node: cst.Arg) -> cst.Arg:  # noqa: N802
        return updated_node.with_changes(keyword=original_node.keyword)

    def leave_Param(self, original_node: cst.Param, updated_node: cst.Param) -> cst.Param:  # noqa: N802
        return updated_node.with_changes(name=original_node.name)

    def leave_FunctionDef(  # noqa: N802
        self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef
    ) -> cst.FunctionDef:
        return (
            updated_node if self.definition else updated_node.with_changes(name=original_node.name)
        )

    def leave_ClassDef(  # noqa: N802
        self, original_node: cst.ClassDef, updated_node: cst.ClassDef
    ) -> cst.ClassDef:
        return (
            updated_node if self.definition else updated_node.with_changes(name=original_node.name)
        )

    def leave_Attribute(  # noqa: N802
        self, original_node: cst.Attribute, updated_node: cst.Attribute
    ) -> cst.BaseExpression:
        module = self._module(original_node.value)
        if module is None:
            return updated_node.with_changes(attr=original_node.attr)
        name = original_node.attr.value
        if isinstance(getattr(sys.modules[module], name, None), ModuleType):
            return updated_node.with_changes(attr=original_node.attr)
        return cst.Name(self.mention(name, module))

    def _module(self, node: cst.BaseExpression) -> str | None:
        """The user's module that an expression such as `layers` or `pkg.layers` means."""
        match node:
            case cst.Name(value):
                return self.modules.get(value)
            case cst.Attribute(value=inner, attr=cst.Name(last)):
                outer = self._module(inner)
                found = getattr(sys.modules[outer], last, None) if outer else None
                return found.__name__ if isinstance(found, ModuleType) else None
        return None
