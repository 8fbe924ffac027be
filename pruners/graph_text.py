"""A traced forward as statements that a person could have written.

Every operator of the graph becomes an expression. One that is used once stands inside the
expression that uses it, as long as the order in which things run stays what it was and the line
stays readable; the others get variables. A variable whose value is not needed any more gives its
name to what is made of it (`x = self.conv1(x)`).
"""

from __future__ import annotations

import ast
import builtins
import inspect
import keyword
import math
import operator
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from pruners.definitions import public_home
from pruners.expressions import is_plain_name, is_writable
from pruners.graph_trace import Traced
from pruners.origin import is_library

# Longer expressions, and calls nested deeper, get a variable.
_LONGEST = 80
_DEEPEST = 4

_BINARY: dict[Any, type[ast.operator]] = {
    operator.add: ast.Add,
    operator.sub: ast.Sub,
    operator.mul: ast.Mult,
    operator.truediv: ast.Div,
    operator.floordiv: ast.FloorDiv,
    operator.mod: ast.Mod,
    operator.pow: ast.Pow,
    operator.matmul: ast.MatMult,
    operator.and_: ast.BitAnd,
    operator.or_: ast.BitOr,
    operator.xor: ast.BitXor,
    operator.lshift: ast.LShift,
    operator.rshift: ast.RShift,
}
_IN_PLACE: dict[Any, type[ast.operator]] = {
    getattr(operator, f"i{f.__name__}"): kind
    for f, kind in _BINARY.items()
    if hasattr(operator, f"i{f.__name__}")
}
_COMPARE: dict[Any, type[ast.cmpop]] = {
    operator.eq: ast.Eq,
    operator.ne: ast.NotEq,
    operator.lt: ast.Lt,
    operator.le: ast.LtE,
    operator.gt: ast.Gt,
    operator.ge: ast.GtE,
}
_UNARY: dict[Any, type[ast.unaryop]] = {
    operator.neg: ast.USub,
    operator.pos: ast.UAdd,
    operator.invert: ast.Invert,
}
_SIZES = {4: ("batch", "channels", "height", "width"), 3: ("batch", "length", "features")}
_PURE_METHODS = frozenset({"size", "numel", "item", "dim", "stride", "new_tensor"})
# What the body of a forward refers to.
_TAKEN = frozenset({"self", "torch", "nn", "F", "math", "np", *keyword.kwlist, *dir(builtins)})


class GraphError(Exception):
    """The graph holds something that cannot be written."""


@dataclass(slots=True)
class Forward:
    """A forward as text."""

    arguments: ast.arguments
    body: list[ast.stmt]
    imports: dict[str, str] = field(default_factory=dict)
    """Bound name -> import statement."""

    def same(self, other: Forward) -> bool:
        return [ast.dump(s) for s in self.body] == [ast.dump(s) for s in other.body]


Node = Any
"""A node of torch.fx, whose own types say that any argument may be anything."""

Kinds = Callable[[nn.Module], type]
"""How a module of the network is written: as a list, a dict, or with attributes."""


def forward_of(traced: Traced, module: nn.Module, kind: Kinds) -> Forward:
    """The forward that a graph describes.

    Raises:
        GraphError: a value or a function in it has no name that a file could use.
    """
    return _Writing(traced, module, kind).written()


def place(root: nn.Module, path: str, kind: Kinds) -> ast.expr:
    """`self.layer1[0].conv1` for the path `layer1.0.conv1`."""
    expr: ast.expr = ast.Name("self", ast.Load())
    owner: Any = root
    for name in path.split("."):
        how = kind(owner) if isinstance(owner, nn.Module) else nn.Module
        if issubclass(how, (nn.Sequential, nn.ModuleList)) and name in owner._modules:
            index = list(owner._modules).index(name)
            expr = ast.Subscript(expr, ast.Constant(index), ast.Load())
        elif issubclass(how, nn.ModuleDict) and name in owner._modules:
            expr = ast.Subscript(expr, ast.Constant(name), ast.Load())
        elif _is_plain_name(name):
            expr = ast.Attribute(expr, name, ast.Load())
        else:
            expr = _called(ast.Name("getattr", ast.Load()), [expr, ast.Constant(name)])
        owner = getattr(owner, name, None)
    return expr


class _Writing:
    def __init__(self, traced: Traced, module: nn.Module, kind: Kinds) -> None:
        self.traced, self.module, self.kind = traced, module, kind
        self.nodes = list(traced.graph.nodes)
        self.imports: dict[str, str] = {}
        self.body: list[ast.stmt] = []
        self.exprs: dict[Node, ast.expr] = {}
        self.names: dict[Node, str] = {}
        self.pending: list[Node] = []
        self.transparent: set[Node] = set()
        self.first = ""
        self._sizes_to_elements()
        self._drop_idle()
        self.nodes = list(traced.graph.nodes)
        self.unpacked = {n for n in self.nodes if self._is_unpacked(n)}
        self.transparent = {n for n in self.nodes if self._is_transparent(n)}
        self.last_use = self._last_uses()

    def written(self) -> Forward:
        for at, node in enumerate(self.nodes):
            self._write(at, node)
        return Forward(self._arguments(), self.body or [ast.Pass()], self.imports)

    # -- the graph, simplified

    def _sizes_to_elements(self) -> None:
        """`x.shape[0]` wherever one element of a shape is taken, so that no shape is kept."""
        for node in self.nodes:
            if _is_element(node) and _is_shape(node.args[0]):
                shape = node.args[0]
                with self.traced.graph.inserting_before(node):
                    again = self.traced.graph.call_function(getattr, (shape.args[0], "shape"))
                again.meta = dict(shape.meta)
                node.args = (again, node.args[1])

    def _drop_idle(self) -> None:
        for node in reversed(list(self.traced.graph.nodes)):
            if not node.users and _is_pure(node):
                self.traced.graph.erase_node(node)

    def _is_unpacked(self, node: Node) -> bool:
        """Whether all that happens to a tuple is that its items are taken."""
        length = node.meta.get("length")
        return (
            node.op in ("call_function", "call_method", "call_module")
            and length is not None
            and 0 < length <= 8
            and not _is_shape(node)
            and len(node.users) > 1
            and all(_is_element(u) and bool(-length <= u.args[1] < length) for u in node.users)
        )

    def _is_transparent(self, node: Node) -> bool:
        """Whether an expression is nothing but another way to name something."""
        if node.op == "get_attr" or _is_shape(node):
            return True
        if node.op == "call_function" and node.target is getattr:
            return True
        return _is_element(node) and (_is_shape(node.args[0]) or node.args[0] in self.unpacked)

    def _last_uses(self) -> dict[Node, int]:
        position = {node: i for i, node in enumerate(self.nodes)}

        def last(node: Node) -> int:
            return max(
                (last(user) if user in self.transparent else position[user] for user in node.users),
                default=-1,
            )

        return {node: last(node) for node in self.nodes}

    # -- statements

    def _write(self, at: int, node: Node) -> None:
        if node.op == "placeholder":
            self._bind(node, str(node.target))
            self.first = self.first or str(node.target)
            return
        if node in self.transparent:
            if not (_is_element(node) and node.args[0] in self.unpacked):
                self.exprs[node] = self._expression(node)
            return
        operands = [n for n in _operands(node) if n in self.pending]
        whole = self.pending[len(self.pending) - len(operands) :] == operands
        held = node.target in _IN_PLACE and bool(operands) and operands[0] is node.args[0]
        expr = self._expression(node) if whole and not held else None
        if expr is None or (operands and not _is_readable(expr)):
            self._flush(at)
            operands = []
            expr = self._expression(node)
        if node.op == "output":
            self._flush_but(operands, at)
            self.body.append(ast.Return(expr))
            return
        if node.target is operator.setitem:
            self._flush_but(operands, at)
            target, key, value = (self._value(a) for a in node.args)
            slot = ast.Subscript(target, key, ast.Store())
            self.body.append(ast.Assign([slot], value))
            return
        if node.target in _IN_PLACE and node.meta.get("tensor"):
            self._add_to(at, node, operands)
            return
        if not node.users:
            self._flush_but(operands, at)
            self.body.append(ast.Expr(expr))
            return
        if node in self.unpacked:
            self._flush_but(operands, at)
            self._unpack(at, node, expr)
            return
        self.pending = self.pending[: len(self.pending) - len(operands)]
        self.pending.append(node)
        self.exprs[node] = expr
        if self._uses(node) > 1 or not _is_readable(expr):
            self._flush(at + 1)  # what it reads for the last time may give it its name

    def _uses(self, node: Node) -> int:
        return sum(
            self._uses(user)
            if user in self.transparent
            else sum(operand is node or operand in node.users for operand in _operands(user))
            for user in node.users
        )

    def _flush(self, at: int) -> None:
        """Give every expression that waits for its use a variable."""
        self._flush_but([], at)

    def _flush_but(self, operands: list[Node], at: int) -> None:
        waiting = self.pending[: len(self.pending) - len(operands)]
        self.pending = []
        for i, node in enumerate(waiting):
            expr = self.exprs[node]
            reserved = {n for other in waiting[i + 1 :] for n in _read(self.exprs[other])}
            reserved |= {n for other in operands for n in _read(self.exprs[other])}
            name = self._name(at, node, expr, reserved)
            self._bind(node, name)
            self.body.append(ast.Assign([ast.Name(name, ast.Store())], expr))

    def _add_to(self, at: int, node: Node, operands: list[Node]) -> None:
        """`x += y`: what it makes is x itself."""
        self._flush_but(operands, at)
        target, other = node.args
        held = self.names.get(target) if isinstance(target, fx.Node) else None
        if held is None:
            raise GraphError(f"{node.name} changes in place what has no name")
        place = ast.Name(held, ast.Store())
        self.body.append(ast.AugAssign(place, _IN_PLACE[node.target](), self._value(other)))
        self._bind(node, held)
        # Both names mean one tensor.
        self.last_use[node] = max(self.last_use[node], self.last_use[target])

    def _unpack(self, at: int, node: Node, expr: ast.expr) -> None:
        taken: dict[int, Node] = {}
        length = node.meta["length"]
        for user in node.users:
            index = user.args[1] % length
            if index in taken:
                user.replace_all_uses_with(taken[index])
                self.last_use[taken[index]] = max(self.last_use[taken[index]], self.last_use[user])
            else:
                taken[index] = user
        names: list[str] = []
        for i in range(length):
            if i in taken and self.last_use[taken[i]] >= 0:
                name = self._fresh(at, (f"{_stem(node)}{i + 1}",), set(names))
                self._bind(taken[i], name)
                names.append(name)
            else:
                names.append("_")
        target = ast.Tuple([ast.Name(n, ast.Store()) for n in names], ast.Store())
        self.body.append(ast.Assign([target], expr))

    # -- names

    def _bind(self, node: Node, name: str) -> None:
        self.names[node] = name
        self.exprs[node] = ast.Name(name, ast.Load())

    def _living(self, at: int) -> set[str]:
        """The variables whose value is needed at this node or later."""
        return {name for node, name in self.names.items() if self.last_use[node] >= at}

    def _name(self, at: int, node: Node, expr: ast.expr, reserved: set[str]) -> str:
        if not node.meta.get("tensor") and _is_element(node) and _is_shape(node.args[0]):
            rank = node.args[0].args[0].meta.get("rank")
            index = node.args[1]
            names = _SIZES.get(rank, ())
            return self._fresh(
                at, (names[index] if -len(names) <= index < len(names) else "size",), reserved
            )
        if not node.meta.get("tensor"):
            return self._fresh(at, (_stem(node),), reserved)
        read = _read(expr)
        living = self._living(at) | reserved
        dying = [
            name
            for name in dict.fromkeys(read)
            if name not in living and name in self._tensor_names()
        ]
        if dying:
            return self.first if self.first in dying else dying[0]
        others = () if node.op == "call_module" else ("y", "z")
        return self._fresh(at, ("out", self.first or "out", *others, _stem(node)), reserved)

    def _tensor_names(self) -> set[str]:
        return {name for node, name in self.names.items() if node.meta.get("tensor")}

    def _fresh(self, at: int, choices: tuple[str, ...], reserved: set[str]) -> str:
        taken = self._living(at) | reserved | _TAKEN | set(self.imports)
        for choice in (*choices, *(f"{choices[-1]}_{n}" for n in range(2, 10_000))):
            if choice not in taken and choice.isidentifier():
                return choice
        raise AssertionError("ten thousand variables")

    # -- expressions

    def _expression(self, node: Node) -> ast.expr:
        args = node.args
        if node.op == "output":
            return self._value(args[0])
        if node.op == "get_attr":
            return place(self.module, str(node.target), self.kind)
        if node.op == "call_module":
            function = place(self.module, str(node.target), self.kind)
            return self._call(function, args, node.kwargs)
        if node.op == "call_method":
            name = str(node.target)
            if not _is_plain_name(name):
                raise GraphError(f"the method {name!r} has no plain name")
            method = ast.Attribute(self._value(args[0]), name, ast.Load())
            return self._call(method, args[1:], node.kwargs)
        target = node.target
        if target is getattr:
            if not _is_plain_name(str(args[1])):
                raise GraphError(f"the attribute {args[1]!r} has no plain name")
            return ast.Attribute(self._value(args[0]), str(args[1]), ast.Load())
        if target is operator.getitem:
            return ast.Subscript(self._value(args[0]), self._value(args[1]), ast.Load())
        if target is operator.setitem:
            return ast.Constant(None)
        if target in _BINARY or target in _IN_PLACE:
            kind = _BINARY.get(target) or _IN_PLACE[target]
            return ast.BinOp(self._value(args[0]), kind(), self._value(args[1]))
        if target in _COMPARE:
            return ast.Compare(self._value(args[0]), [_COMPARE[target]()], [self._value(args[1])])
        if target in _UNARY:
            return ast.UnaryOp(_UNARY[target](), self._value(args[0]))
        kwargs = _without_defaults(target, node.kwargs)
        return self._call(self._function(target), args, kwargs)

    def _call(self, function: ast.expr, args: Any, kwargs: Mapping[str, Any]) -> ast.Call:
        return _called(
            function,
            [self._value(a) for a in args],
            {name: self._value(value) for name, value in kwargs.items()},
        )

    def _function(self, target: Any) -> ast.expr:
        if isinstance(target, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
            dotted = f"torch.ops.{target}"
            if not dotted.startswith(("torch.ops.aten.", "torch.ops.prims.")):
                raise GraphError(f"the operator {target} is none of torch's own")
            return _dotted(dotted)
        if target in (int, float):  # torch has other names for these
            return ast.Name(target.__name__, ast.Load())
        known = _functions_of_torch().get(id(target))
        if known is not None:
            return _dotted(known)
        name, module = getattr(target, "__name__", ""), getattr(target, "__module__", None)
        if target in vars(math).values():
            self._import("math", "import math")
            return _dotted(f"math.{name}")
        known = _functions_of_numpy().get(id(target))
        if known is not None:
            self._import("np", "import numpy as np")
            return _dotted(known)
        if module == "builtins" and getattr(builtins, name, None) is target:
            return ast.Name(name, ast.Load())
        home = sys.modules.get(module or "")
        if home is not None and _is_plain_name(name) and getattr(home, name, None) is target:
            known_to_all = is_library(str(module))
            dotted = public_home(target) if known_to_all else str(module)
            importable = known_to_all or getattr(home, "__spec__", None) is not None
            if importable and all(_is_plain_name(part) for part in dotted.split(".")):
                self._import(name, f"from {dotted} import {name}")
                return ast.Name(name, ast.Load())
        raise GraphError(f"the function {name or target!r} cannot be imported by name")

    def _import(self, name: str, statement: str) -> None:
        if self.imports.setdefault(name, statement) != statement or name in _TAKEN - {"math", "np"}:
            raise GraphError(f"the name {name} means two things")

    def _value(self, value: Any) -> ast.expr:
        if isinstance(value, fx.Node):
            return self.exprs[value]
        if value is Ellipsis:
            return ast.Constant(Ellipsis)
        kind = type(value)
        if kind is slice:
            parts = (value.start, value.stop, value.step)
            return ast.Slice(*(None if part is None else self._value(part) for part in parts))
        if kind is range:
            numbers = [self._value(n) for n in (value.start, value.stop, value.step)]
            return _called(ast.Name("range", ast.Load()), numbers)
        if isinstance(value, (tuple, torch.Size)):
            if kind not in (tuple, torch.Size):
                return self._call(self._function(kind), value, {})
            return ast.Tuple([self._value(item) for item in value], ast.Load())
        if isinstance(value, list):  # torch.fx has its own kinds of list and dict
            return ast.List([self._value(item) for item in value], ast.Load())
        if isinstance(value, dict):
            keys = [self._value(key) for key in value]
            return ast.Dict([*keys], [self._value(item) for item in value.values()])
        if isinstance(value, np.dtype) and getattr(np, value.name, None) is value.type:
            self._import("np", "import numpy as np")
            return _dotted(f"np.{value.name}")
        if kind in (torch.layout, torch.memory_format):
            return _dotted(str(value))
        if not is_writable(value):
            raise GraphError(f"a {kind.__name__} is no value that a file could hold")
        if kind is torch.dtype:
            return _dotted(str(value))
        if kind is torch.device:
            return _called(_dotted("torch.device"), [ast.Constant(str(value))])
        if kind is float and not math.isfinite(value):
            return _called(ast.Name("float", ast.Load()), [ast.Constant(str(value))])
        if kind in (int, float) and value < 0:
            return ast.UnaryOp(ast.USub(), ast.Constant(-value))
        return ast.Constant(value)

    def _arguments(self) -> ast.arguments:
        result = ast.arguments([], [ast.arg("self")], None, [], [], None, [])
        for parameter in self.traced.arguments:
            default = parameter.default
            has_default = default is not parameter.empty and is_writable(default)
            argument = ast.arg(parameter.name)
            if parameter.kind is parameter.VAR_POSITIONAL:
                result.vararg = argument
            elif parameter.kind is parameter.KEYWORD_ONLY:
                result.kwonlyargs.append(argument)
                result.kw_defaults.append(self._value(default) if has_default else None)
            else:
                result.args.append(argument)
                if has_default:
                    result.defaults.append(self._value(default))
        return result


def _operands(node: Node) -> Iterator[Node]:
    """The nodes that an expression evaluates, in that order, through what only names others."""

    def visit(value: Any) -> Iterator[Node]:
        if isinstance(value, fx.Node):
            yield value
            if value.op == "call_function" and (
                value.target is getattr or (_is_element(value) and _is_shape(value.args[0]))
            ):
                for inner in value.args:
                    yield from visit(inner)
        elif isinstance(value, (tuple, list)):
            for item in value:
                yield from visit(item)
        elif isinstance(value, dict):
            for item in value.values():
                yield from visit(item)
        elif isinstance(value, slice):
            for item in (value.start, value.stop, value.step):
                yield from visit(item)

    yield from visit(node.args)
    yield from visit(node.kwargs)


def _is_shape(node: Any) -> bool:
    if not isinstance(node, fx.Node):
        return False
    if node.op == "call_function" and node.target is getattr:
        return str(node.args[1]) == "shape"
    return node.op == "call_method" and node.target == "size" and len(node.args) == 1


def _is_element(node: Node) -> bool:
    return (
        node.op == "call_function"
        and node.target is operator.getitem
        and isinstance(node.args[0], fx.Node)
        and type(node.args[1]) is int
    )


def _is_pure(node: Node) -> bool:
    """Whether a value that nobody uses need not be made."""
    if node.op == "get_attr":
        return True
    if node.op == "call_method":
        return node.target in _PURE_METHODS
    numbers = (int, float, round, *vars(math).values())
    known = (getattr, operator.getitem, *numbers, *_BINARY, *_COMPARE, *_UNARY)
    return node.op == "call_function" and any(node.target is f for f in known)


def _is_readable(expr: ast.expr) -> bool:
    return len(ast.unparse(expr)) <= _LONGEST and _depth(expr) <= _DEEPEST


def _depth(node: ast.AST) -> int:
    inner = max((_depth(child) for child in ast.iter_child_nodes(node)), default=0)
    return inner + isinstance(node, ast.Call)


def _read(expr: ast.expr) -> list[str]:
    """The variables that an expression reads."""
    return [n.id for n in ast.walk(expr) if isinstance(n, ast.Name) and n.id != "self"]


def _stem(node: Node) -> str:
    """A name for what a node makes, from the layer or function that makes it."""
    if node.target in _COMPARE:
        return "check"
    if node.target in _BINARY and not node.meta.get("tensor"):
        return "size"
    if node.target in (int, float, round):
        return "number"
    target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    parts = [part for part in target.split(".") if part.isidentifier()]
    return parts[-1].strip("_").lower() or "value" if parts else "value"


def _is_plain_name(name: str) -> bool:
    """Whether `x.name` means that attribute, also inside of a class."""
    mangled = name.startswith("__") and not name.endswith("__")
    return is_plain_name(name) and not mangled


def _dotted(name: str) -> ast.expr:
    first, *rest = name.split(".")
    expr: ast.expr = ast.Name(first, ast.Load())
    for part in rest:
        if not part.isidentifier() or keyword.iskeyword(part):
            raise GraphError(f"{name!r} is no dotted name")
        expr = ast.Attribute(expr, part, ast.Load())
    return expr


def _called(
    function: ast.expr, args: list[ast.expr], kwargs: Mapping[str, ast.expr] | None = None
) -> ast.Call:
    for name in kwargs or {}:
        if not name.isidentifier() or keyword.iskeyword(name):
            raise GraphError(f"the argument {name!r} has no plain name")
    return ast.Call(function, args, [ast.keyword(n, v) for n, v in (kwargs or {}).items()])


def _without_defaults(function: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments that say anything: torch.fx records every default."""
    # `F.max_pool2d` and its like choose between two functions of the same arguments.
    function = getattr(nn.functional, f"_{getattr(function, '__name__', '')}", function)
    try:
        parameters = dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        parameters = {}
    kept = {}
    for name, value in kwargs.items():
        if name.startswith("_"):
            continue
        default = parameters[name].default if name in parameters else None
        if isinstance(value, fx.Node) or type(value) is not type(default) or value != default:
            kept[name] = value
    return kept


@cache
def _functions_of_torch() -> dict[int, str]:
    """The names under which a file that imports torch finds its functions."""
    found: dict[int, str] = {}
    for prefix, module in (
        ("F", nn.functional),
        ("torch", torch),
        ("torch.linalg", torch.linalg),
        ("torch.fft", torch.fft),
        ("torch.special", torch.special),
    ):
        for name, value in vars(module).items():
            if callable(value) and _is_plain_name(name) and not name.startswith("__"):
                found.setdefault(id(value), f"{prefix}.{name}")
    return found


@cache
def _functions_of_numpy() -> dict[int, str]:
    found: dict[int, str] = {}
    for prefix, module in (("np", np), ("np.linalg", np.linalg), ("np.fft", np.fft)):
        for name, value in vars(module).items():
            if callable(value) and not isinstance(value, type) and not name.startswith("_"):
                found.setdefault(id(value), f"{prefix}.{name}")
    return found
