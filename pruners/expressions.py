"""The expressions of a generated `__init__`, as plain values that can be compared.

An expression describes how a thing is built: `nn.Conv2d(12, 9, kernel_size=3)` is a `Call` of
`nn.Conv2d` whose arguments are `Literal`s. All arguments are present, defaults too, so that two
calls differ only where what they build differs; defaults are left out when code is made of them.
"""

from __future__ import annotations

import keyword
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import libcst as cst
import torch

from pruners.errors import WriterError


@dataclass(frozen=True, slots=True)
class Reference:
    """Something found under a dotted name, such as `nn.Conv2d`, and the import that it needs."""

    name: str
    statement: str = ""


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant."""

    value: Any
    width: bool = False
    """Whether it counts channels."""

    def __eq__(self, other: object) -> bool:
        # 1 == True and 1 == 1.0 in Python, but not in source.
        return isinstance(other, Literal) and _identity(self.value) == _identity(other.value)

    def __hash__(self) -> int:
        return hash(repr(self.value))


@dataclass(frozen=True, slots=True)
class Variable:
    """A constructor argument of the class that is being written."""

    name: str
    value: Any
    width: bool = False


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a call; left out of the code where it equals the default."""

    name: str
    value: Expr
    default: Expr | None = None
    positional: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """`function(arguments)`."""

    function: Reference
    arguments: tuple[Argument, ...] = ()
    table: bool = False
    """Whether every argument gets a line of its own."""


@dataclass(frozen=True, slots=True)
class Display:
    """A list or tuple display."""

    items: tuple[Expr, ...]
    brackets: str = "["


@dataclass(frozen=True, slots=True)
class Dictionary:
    """A dict display."""

    items: tuple[tuple[str, Expr], ...]


@dataclass(frozen=True, slots=True)
class Either:
    """`then if flag else otherwise`: what one class builds in some of its instances only."""

    flag: Expr
    then: Expr
    otherwise: Expr


@dataclass(frozen=True, slots=True)
class Sum:
    """`a + b`: the width of a concatenation."""

    items: tuple[Expr, ...]


Expr = Reference | Literal | Variable | Call | Display | Dictionary | Either | Sum

NONE = Literal(None)

ABSENT = Literal(...)
"""An attribute that an instance does not have, not even as None."""

SUPER = "super().__init__"
"""The name under which a class derived from a layer of torch records how that layer is built."""


@dataclass(slots=True)
class Imports:
    """The import statements that pieces of code ask for, by the name that they bind."""

    statements: dict[str, str] = field(default_factory=dict)

    def need(self, name: str, statement: str) -> None:
        """Raises WriterError where two statements bind one name."""
        known = self.statements.setdefault(name, statement)
        if known != statement and _meaning(known, name) != _meaning(statement, name):
            raise WriterError(
                f"name {name}: bound by both `{known}` and `{statement}` in the modules that the "
                f"network comes from; rename one of the two"
            )


def to_code(expr: Expr, imports: Imports) -> cst.BaseExpression:
    """The libcst expression; the imports that it needs are added to `imports`."""
    match expr:
        case Reference(name, statement):
            return _reference(name, statement, imports)
        case Literal(value):
            return _literal(value, imports)
        case Variable(name):
            return cst.Name(checked_identifier(name))
        case Call(function, arguments, table):
            return _call(function, arguments, table, imports)
        case Display(items, brackets):
            elements = [cst.Element(to_code(item, imports)) for item in items]
            return cst.List(elements) if brackets == "[" else cst.Tuple(elements)
        case Dictionary(items):
            return cst.Dict(
                [cst.DictElement(_literal(k, imports), to_code(v, imports)) for k, v in items]
            )
        case Sum(items):
            total, *rest = (to_code(item, imports) for item in items)
            for term in rest:
                total = cst.BinaryOperation(total, cst.Add(), term)
            return total
        case Either(flag, then, otherwise):
            return cst.IfExp(
                test=to_code(flag, imports),
                body=to_code(then, imports),
                orelse=to_code(otherwise, imports),
            )


def checked_identifier(name: str) -> str:
    """The name itself; WriterError where it is no identifier and so could smuggle code in."""
    if not is_plain_name(name):
        raise WriterError(f"name {name!r}: not a Python identifier; rename it in the network")
    return name


def is_plain_name(name: object) -> bool:
    """Whether a name can stand in source as it is, and be read back as the same name."""
    return (
        type(name) is str
        and name.isidentifier()
        and not keyword.iskeyword(name)
        # Python reads the ligature in `\ufb01eld` as two letters.
        and unicodedata.normalize("NFKC", name) == name
    )


def dotted(name: str) -> cst.Attribute | cst.Name:
    """The libcst node of a dotted name, every part checked."""
    first, *rest = (checked_identifier(part) for part in name.split("."))
    node: cst.Attribute | cst.Name = cst.Name(first)
    for part in rest:
        node = cst.Attribute(node, cst.Name(part))
    return node


def is_writable(value: Any) -> bool:
    """Whether a plain value can be written as a literal."""
    if value is None or isinstance(
        value, (bool, int, float, str, bytes, torch.dtype, torch.device)
    ):
        return type(value) in _SCALARS
    if type(value) in (tuple, list, set, torch.Size):
        return all(is_writable(item) for item in value)
    if type(value) is dict:
        return all(is_writable(k) and is_writable(v) for k, v in value.items())
    return False


_SCALARS = (type(None), bool, int, float, str, bytes, torch.dtype, torch.device)


def _reference(name: str, statement: str, imports: Imports) -> cst.BaseExpression:
    if name == SUPER:
        return cst.parse_expression(SUPER)
    if statement:
        imports.need(name.split(".")[0], statement)
    return dotted(name)


def _call(
    function: Reference, arguments: tuple[Argument, ...], table: bool, imports: Imports
) -> cst.Call:
    args: list[cst.Arg] = []
    positional = True
    for argument in arguments:
        if argument.default is not None and argument.value == argument.default:
            positional = False
            continue
        value = to_code(argument.value, imports)
        if argument.positional and positional:
            args.append(cst.Arg(value))
        else:
            args.append(cst.Arg(value, keyword=cst.Name(checked_identifier(argument.name))))
    if table and args:
        # The formatter keeps one argument a line where a comma stands behind the last.
        args[-1] = args[-1].with_changes(comma=cst.Comma())
    return cst.Call(_reference(function.name, function.statement, imports), args)


def _literal(value: Any, imports: Imports) -> cst.BaseExpression:
    if isinstance(value, (torch.dtype, torch.device)):
        imports.need("torch", "import torch")
        code = str(value) if isinstance(value, torch.dtype) else f"torch.device({str(value)!r})"
        return cst.parse_expression(code)
    if isinstance(value, float) and not math.isfinite(value):
        return cst.parse_expression(f'float("{value}")')
    if isinstance(value, (tuple, torch.Size)):
        return cst.Tuple([cst.Element(_literal(item, imports)) for item in value])
    if isinstance(value, list):
        return cst.List([cst.Element(_literal(item, imports)) for item in value])
    if isinstance(value, Mapping):
        return cst.Dict(
            [cst.DictElement(_literal(k, imports), _literal(v, imports)) for k, v in value.items()]
        )
    if not is_writable(value):
        raise WriterError(f"value {value!r} of type {type(value).__name__}: cannot be written")
    return cst.parse_expression(repr(value))


def _identity(value: Any) -> Any:
    if isinstance(value, (tuple, list, torch.Size)):
        return (type(value).__name__, tuple(_identity(item) for item in value))
    if isinstance(value, dict):
        return ("dict", tuple((_identity(k), _identity(v)) for k, v in value.items()))
    return (type(value).__name__, repr(value))


def _meaning(statement: str, name: str) -> tuple[str, str]:
    """Which module and attribute an import statement binds to the name."""
    import ast

    node = ast.parse(statement).body[0]
    if isinstance(node, ast.ImportFrom):
        alias = node.names[0]
        return (f"{node.module}.{alias.name}", "")
    if isinstance(node, ast.Import):
        alias = node.names[0]
        return (alias.name if alias.asname else alias.name.split(".")[0], "")
    return (statement, name)
