"""The expressions of a generated `__init__`, as plain values that can be compared.

An expression describes how a thing is built: `nn.Conv2d(12, 9, kernel_size=3)` is a `Call` of
`nn.Conv2d` whose arguments are `Literal`s. All arguments are present, defaults too, so that two
calls differ only where what they build differs; defaults are left out when code is made of them.
"""

from __future__ import annotations

import ast
import keyword
import math
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    end: str = ""
    """`in` or `out` for channels that come into a block or go out of it, whatever the name."""


@dataclass(frozen=True, slots=True)
class Call:
    """`function(arguments)`."""

    function: Reference
    arguments: tuple[Argument, ...] = ()
    table: bool = False
    """Whether every argument gets a line of its own."""
    value: bool = False
    """Whether it makes a value, such as a configuration, and no module."""


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
class Maybe:
    """An item of a container that only some instances of a class have."""

    flag: Expr
    item: Expr


@dataclass(frozen=True, slots=True)
class Handed:
    """The module at a path, in a class that is built of instances of itself: it is handed in."""

    path: str


HOLE = "_hole_"
"""The start of the names in a `Verbatim` that stand for expressions."""


@dataclass(frozen=True, slots=True)
class Verbatim:
    """Code of the original, with names `_hole_0`, `_hole_1` ... where expressions go."""

    code: str
    before: tuple[str, ...] = ()
    """Statements that go in front of it."""
    holes: tuple[Argument, ...] = ()


@dataclass(frozen=True, slots=True)
class Half:
    """`a // 2`: the padding that keeps the size under a kernel of a."""

    item: Expr


@dataclass(frozen=True, slots=True)
class Sum:
    """`a + b`: the width of a concatenation."""

    items: tuple[Expr, ...]


Expr = (
    Reference
    | Literal
    | Variable
    | Call
    | Display
    | Dictionary
    | Either
    | Handed
    | Half
    | Maybe
    | Sum
    | Verbatim
)

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
            elements = [
                cst.StarredElement(to_code(item, imports))
                if isinstance(item, Maybe)
                else cst.Element(to_code(item, imports))
                for item in items
            ]
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
        case Handed(path):
            raise AssertionError(f"{path} was not handed in")
        case Verbatim(code, _, holes):
            expression: cst.BaseExpression = filled(cst.parse_expression(code), holes, imports)
            return expression
        case Half(item):
            halved = to_code(item, imports)
            return cst.BinaryOperation(halved, cst.FloorDivide(), cst.Integer("2"))
        case Maybe(flag, item):  # unpacked where it stands
            return cst.IfExp(
                test=to_code(flag, imports),
                body=cst.List([cst.Element(to_code(item, imports))]),
                orelse=cst.List([]),
                lpar=[cst.LeftParen()],
                rpar=[cst.RightParen()],
            )
        case Either(flag, then, otherwise):
            return cst.IfExp(
                test=to_code(flag, imports),
                body=to_code(then, imports),
                orelse=to_code(otherwise, imports),
            )


def with_handed(expr: Expr, build: Callable[[str], Expr]) -> Expr:
    """The expression with the modules that are handed in built by `build(path)`."""
    match expr:
        case Handed(path):
            return build(path)
        case Call(_, arguments):
            built = tuple(replace(a, value=with_handed(a.value, build)) for a in arguments)
            return replace(expr, arguments=built)
        case Display(items):
            return replace(expr, items=tuple(with_handed(i, build) for i in items))
        case Dictionary(items):
            return Dictionary(tuple((k, with_handed(v, build)) for k, v in items))
    return expr


def holds_handed(expr: Expr) -> bool:
    """Whether an expression has a module that is handed in."""
    found: list[str] = []
    with_handed(expr, lambda path: found.append(path) or NONE)  # type: ignore[func-returns-value]
    return bool(found)


def filled(node: Any, holes: Sequence[Argument], imports: Imports) -> Any:
    """Code of a `Verbatim` with the expressions in its holes."""

    class Fill(cst.CSTTransformer):
        def leave_Name(  # noqa: N802 - libcst's name
            self, original_node: cst.Name, updated_node: cst.Name
        ) -> cst.BaseExpression:
            if not original_node.value.startswith(HOLE):
                return updated_node
            return to_code(holes[int(original_node.value.removeprefix(HOLE))].value, imports)

    return node.visit(Fill()) if holes else node


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
        if isinstance(argument.value, Maybe):
            args.append(cst.Arg(value, star="*"))
        elif argument.positional and positional:
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


def _meaning(statement: str, name: str) -> object:
    """What an import statement binds to the name: the object, or where it would be found."""
    node = ast.parse(statement).body[0]
    if isinstance(node, ast.ImportFrom):
        alias = node.names[0]
        found = getattr(sys.modules.get(node.module or ""), alias.name, None)
        return f"{node.module}.{alias.name}" if found is None else id(found)
    if isinstance(node, ast.Import):
        alias = node.names[0]
        return alias.name if alias.asname else alias.name.split(".")[0]
    return (statement, name)
