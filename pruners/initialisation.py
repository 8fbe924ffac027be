"""What a generated `__init__` keeps of the original one.

The modules that it makes are known from the instance. What the instance cannot tell is kept from
the source: how weights are initialised, which arguments are free (`num_classes`), and the
comments in front of an attribute.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import libcst as cst
from torch import nn

from pruners.describe import WIDTHS
from pruners.expressions import is_writable
from pruners.origin import (
    ModuleSource,
    Sources,
    attributes_read,
    code_of,
    global_names,
    init_of,
    is_library,
    methods_of,
    module_source,
)

# Arguments of a network that say how wide its input and output are: never pruned, always free.
_ENDS = frozenset(
    {"num_classes", "n_classes", "nclasses", "classes", "num_outputs", "out_dim"}
    | {"in_channels", "in_chans", "input_channels", "num_input_channels", "in_features"}
)
_REGISTER = frozenset({"add_module", "register_module", "register_buffer", "register_parameter"})
_GROW = frozenset({"append", "extend", "insert", "update", "add_module"})
_FILLS = frozenset(
    {
        "fill_",
        "zero_",
        "normal_",
        "uniform_",
        "copy_",
        "bernoulli_",
        "exponential_",
        "trunc_normal_",
        *("mul_", "div_", "add_", "sub_", "clamp_"),
    }
)


@dataclass(frozen=True, slots=True)
class FreeArgument:
    """An argument of the original constructor that goes straight into layers."""

    name: str
    value: Any
    uses: tuple[tuple[str, str], ...]
    """Module path (relative to the network) and constructor argument of every layer it feeds."""


def initialising_statements(
    init: cst.FunctionDef, methods: Mapping[str, list[cst.FunctionDef]], source: ModuleSource
) -> list[cst.BaseStatement]:
    """The top-level statements of `__init__` that initialise weights and do nothing else."""
    kept: list[cst.BaseStatement] = []
    for statement in init.body.body:
        if isinstance(statement, cst.BaseStatement) and _initialises(statement, methods, source):
            kept.append(statement)
    return kept


def _initialises(
    statement: cst.CSTNode, methods: Mapping[str, list[cst.FunctionDef]], source: ModuleSource
) -> bool:
    tree = ast.parse(code_of(statement))
    if _makes(tree, methods, set()):
        return False
    match tree.body[0]:
        case ast.AugAssign(target=target):  # self.fc.bias.data *= 0
            return ast.unparse(target).startswith("self.")
        case ast.Expr(ast.Call(func=ast.Name(id=name), args=[ast.Name(id="self"), *_])):
            if _is_initialising_function(name, source):  # init_weights(self)
                return True
    return any(
        _is_initialiser(node, methods, source, set())
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    )


def _makes(tree: ast.AST, methods: Mapping[str, list[cst.FunctionDef]], seen: set[str]) -> bool:
    """Whether code gives `self` an attribute other than a constant, also through its methods."""
    for node in ast.walk(tree):
        if (
            isinstance(node, (ast.Assign, ast.AnnAssign))
            and not _is_literal(node.value)
            and any(_is_self_attribute(target) for target in _targets(node))
        ):
            return True
        match node:
            case ast.Assign([ast.Subscript(ast.Attribute(ast.Name("self")))]):
                return True
            case ast.Call(ast.Attribute(ast.Attribute(ast.Name("self")), name)) if name in _GROW:
                return True
            case ast.Call(ast.Name("setattr"), [ast.Name("self"), *_]):
                return True
            case ast.Call(func=ast.Attribute(value=ast.Name(id="self"), attr=name)):
                if name in _REGISTER:
                    return True
                if name in methods and name not in seen:
                    seen.add(name)
                    if any(_makes(ast.parse(code_of(m)), methods, seen) for m in methods[name]):
                        return True
    return False


def _is_literal(value: ast.expr | None) -> bool:
    """A constant, or an empty cache: nothing that a network is made of."""
    try:
        ast.literal_eval(value or ast.Constant(None))
    except (ValueError, TypeError, SyntaxError):
        return False
    return True


def _is_initialising_function(name: str, source: ModuleSource) -> bool:
    """Whether a function of the user's initialises weights, here or in another file of theirs."""
    if name in source.imports:
        node = ast.parse(source.imports[name]).body[0]
        if not isinstance(node, ast.ImportFrom) or is_library(node.module or ""):
            return False
        name, source = node.names[0].name, module_source(node.module or "")
    function = source.definitions.get(name)
    return isinstance(function, cst.FunctionDef) and any(
        _is_initialiser(call, {}, source, set())
        for call in ast.walk(ast.parse(code_of(function)))
        if isinstance(call, ast.Call)
    )


def _is_initialiser(
    call: ast.Call,
    methods: Mapping[str, list[cst.FunctionDef]],
    source: ModuleSource,
    seen: set[str],
) -> bool:
    name = ast.unparse(call.func)
    head, _, last = name.rpartition(".")
    if head == "self" and last == "apply":
        return True
    if head == "self" and last in methods and last not in seen:
        bodies = [ast.parse(code_of(method)) for method in methods[last]]
        return any(
            _is_initialiser(node, methods, source, seen | {last})
            for body in bodies
            for node in ast.walk(body)
            if isinstance(node, ast.Call)
        )
    if head.startswith("self.") and last in ("reset_parameters", "init_weights"):
        return True
    if last in _FILLS:
        return True
    root = name.split(".")[0]
    statement = source.imports.get(root, "")
    return (
        name.startswith(("nn.init.", "torch.nn.init."))
        or "torch.nn.init" in statement
        or (head == "init" and "import init" in statement)
    )


def names_from_arguments(
    statement: cst.BaseStatement, init: cst.FunctionDef
) -> tuple[set[str], set[str]]:
    """The arguments and the other local names of `__init__` that a statement uses."""
    arguments = {p.name.value for p in parameters_of(init)}
    used = {
        node.id
        for node in ast.walk(ast.parse(code_of(statement)))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    outside = global_names(code_of(statement))
    local = _assigned_names(init)
    return used & arguments - {"self"}, (used & outside & local) - arguments


def default_of(
    init: cst.FunctionDef, argument: str, source: ModuleSource
) -> cst.BaseExpression | None:
    """The default value of an argument, if it is a plain literal.

    Where `__init__` turns it into another first, as in `if init_weights is None: init_weights =
    True`, what it turns it into.
    """
    defaults: dict[str, Any] = {}
    found: cst.BaseExpression | None = None
    for parameter in parameters_of(init):
        if parameter.default is not None:
            try:
                defaults[parameter.name.value] = ast.literal_eval(code_of(parameter.default))
            except (ValueError, SyntaxError):
                continue
            if parameter.name.value == argument:
                found = parameter.default
    if found is None:
        return None
    changes = [s for s in init.body.body if argument in _stored_names(s)]
    if not changes:
        return found
    space = {**vars(sys.modules[source.name]), **defaults}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec("\n".join(code_of(s) for s in changes), space)
    except Exception:
        return None
    value = space[argument]
    return cst.parse_expression(repr(value)) if type(value) in _PLAIN else None


_PLAIN = (bool, int, float, str, type(None))


def _stored_names(statement: cst.CSTNode) -> set[str]:
    return {
        node.id
        for node in ast.walk(ast.parse(code_of(statement)))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


@dataclass(frozen=True, slots=True)
class Layout:
    """How the statement that makes an attribute stands in an `__init__`."""

    leading: tuple[cst.EmptyLine, ...]
    """An empty line and comments in front of it."""
    trailing: cst.Comment | None
    """A comment behind it."""


def layouts(init: cst.FunctionDef) -> dict[str, Layout]:
    """The layout of the statements that make an attribute, at the top level of an `__init__`."""
    found: dict[str, Layout] = {}
    apart = False  # whether an empty line stands in front of the locals that it is made of
    for statement in init.body.body:
        if not isinstance(statement, (cst.SimpleStatementLine, cst.If)):
            apart = False
            continue
        apart |= any(line.comment is None for line in statement.leading_lines)
        code = code_of(statement)
        names = set(_attributes_made(ast.parse(code).body))
        if len(names) == 1:
            lines = tuple(line for line in statement.leading_lines if _is_told(line.comment))
            behind = None
            if isinstance(statement, cst.SimpleStatementLine):
                behind = statement.trailing_whitespace.comment
            behind = behind if _is_told(behind) and not _counts(behind) else None
            blank = (cst.EmptyLine(indent=False),) if apart else ()
            found.setdefault(names.pop(), Layout((*blank, *lines), behind))
            apart = False
        if names or "super().__init__" in code:  # several attributes, or none yet
            apart = False
    return found


def order_of_attributes(init: cst.FunctionDef) -> list[str]:
    """The attributes that an `__init__` makes, as they come in the source."""
    names = _attributes_made(ast.parse(code_of(init)).body)
    return list(dict.fromkeys(names))


def _attributes_made(body: Sequence[ast.stmt]) -> Iterator[str]:
    """`self.NAME = ...` and `self.register_buffer("NAME", ...)`, in the order of the source."""
    for statement in body:
        match statement:
            case ast.Assign() | ast.AnnAssign(value=ast.expr()):
                for target in _targets(statement):
                    if isinstance(target, ast.Attribute) and _is_self_attribute(target):
                        yield target.attr
            case ast.Expr(
                ast.Call(
                    ast.Attribute(ast.Name("self"), "register_buffer" | "register_parameter"),
                    [ast.Constant(str(name)), *_],
                )
            ):
                yield name
            case ast.FunctionDef() | ast.If() | ast.For() | ast.With():
                yield from _attributes_made(statement.body)
                if isinstance(statement, (ast.If, ast.For)):
                    yield from _attributes_made(statement.orelse)


def _is_told(comment: cst.Comment | None) -> bool:
    """Whether it is a comment for people, not for a tool."""
    tools = ("# type:", "# noqa", "# pragma", "# fmt", "# pylint", "# pyright", "# mypy")
    return comment is not None and not comment.value.startswith(tools)


def _counts(comment: cst.Comment | None) -> bool:
    """Whether a comment has numbers, which may be widths that are others now."""
    return comment is not None and re.search(r"\b\d{2,}\b|\d[x*]\d", comment.value) is not None


def assigned_attributes(init: cst.FunctionDef) -> set[str]:
    """The attributes of `self` that an `__init__` assigns."""
    return {
        node.attr
        for node in ast.walk(ast.parse(code_of(init)))
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and _is_self_attribute(node)
    }


def argument_names(init: cst.FunctionDef) -> set[str]:
    """The names of the arguments of an `__init__`."""
    return {p.name.value for p in parameters_of(init)} - {"self"}


def free_arguments(
    network: nn.Module, cls: type, init: cst.FunctionDef, sources: Sources
) -> list[FreeArgument]:
    """The arguments of the network that go straight, and only, into arguments of its layers.

    `self.fc = nn.Linear(64, num_classes)` makes `num_classes` free: the layer `fc` has it as
    `out_features`. Behind `self.num_classes = num_classes`, so does `nn.Linear(64,
    self.num_classes)`; the attribute is then one of the uses, with an empty path. A block that
    hands it on to its own layers, `self.aux = Aux(512, num_classes)`, is followed. An argument that
    is used in any other way is not free, and so is a width that is not one of the network's ends.
    """
    found: list[FreeArgument] = []
    for name in (p.name.value for p in parameters_of(init)):
        here = _uses(network, cls, init, sources, name, 0)
        if here is None:
            continue
        into_layers = [use for use in here if _is_torch(network, use[0])]
        if not into_layers:
            continue
        if name not in _ENDS and any(argument in WIDTHS for _, argument in into_layers):
            continue
        values = [_layer_value(network, path, argument) for path, argument in here]
        if all(is_writable(v) and v is not None and v == values[0] for v in values):
            found.append(FreeArgument(name, values[0], tuple(here)))
    return found


def _is_torch(network: nn.Module, path: str) -> bool:
    module = network.get_submodule(path)
    return bool(path) and type(module).__module__.startswith("torch.")


_Uses = list[tuple[str, str]]


def _uses(
    module: nn.Module, cls: type, init: cst.FunctionDef, sources: Sources, name: str, depth: int
) -> _Uses | None:
    """(path, argument) of all layers that an argument goes into; None where it goes elsewhere."""
    tree = ast.parse(code_of(init)).body[0]
    assert isinstance(tree, ast.FunctionDef)
    source = sources.of(cls.__module__)
    assignments = list(_assignments(tree))
    aliases = {a for a, value in assignments if isinstance(value, ast.Name) and value.id == name}
    if aliases & _read_while_building(cls, tree, source):
        return None
    uses: _Uses = [("", attribute) for attribute in sorted(aliases)]
    followed = len(aliases)
    for attribute, value in assignments:
        for path, call in _layer_calls(attribute, value):
            child = _at(module, path)
            for argument, given in _given(call, child, sources):
                match given:
                    case ast.Name(id=other) if other == name:
                        pass
                    case ast.Attribute(ast.Name("self"), attr) if attr in aliases:
                        pass
                    case _:
                        continue
                followed += 1
                if child is None:
                    continue  # of a branch that was not taken
                inner = _uses_of_child(child, argument, sources, depth)
                if inner is None:
                    return None
                uses += [(f"{path}.{p}".rstrip("."), a) for p, a in inner]
    return uses if _mentions(tree, name, aliases) == followed else None


def _uses_of_child(child: nn.Module, argument: str, sources: Sources, depth: int) -> _Uses | None:
    if type(child).__module__.startswith("torch."):
        return [("", argument)]
    init = init_of(sources.of(type(child).__module__).class_node(type(child)))
    if init is None or depth > 4:
        return None
    return _uses(child, type(child), init, sources, argument, depth + 1)


def _assignments(tree: ast.FunctionDef) -> Iterator[tuple[str, ast.expr]]:
    """`self.NAME = value` anywhere in an `__init__`, as (NAME, value); and of a dictionary that
    becomes a Sequential, `layers["head"] = value` as (NAME.head, value).
    """
    dictionaries: dict[str, str] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Assign([ast.Attribute(ast.Name("self"), name)], value):
                yield name, value
                match value:
                    case ast.Call(ast.Attribute(_, "Sequential"), [ast.Name(layers)], []):
                        dictionaries[layers] = name
    for node in ast.walk(tree):
        match node:
            case ast.Assign([ast.Subscript(ast.Name(layers), ast.Constant(str(key)))], value) if (
                layers in dictionaries
            ):
                yield f"{dictionaries[layers]}.{key}", value


def _at(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _mentions(tree: ast.AST, name: str, attributes: set[str]) -> int:
    """How often the argument, or an attribute that only repeats it, is read."""
    return sum(
        (isinstance(node, ast.Name) and node.id == name)
        or (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Load)
            and _is_self_attribute(node)
            and node.attr in attributes
        )
        for node in ast.walk(tree)
    )


def _read_while_building(cls: type, init: ast.AST, source: ModuleSource) -> set[str]:
    """The attributes that methods read which `__init__` calls."""
    methods = methods_of(source.class_node(cls))
    read: set[str] = set()
    pending = list(attributes_read(ast.unparse(init))[0] & set(methods))
    seen: set[str] = set()
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        for method in methods[name]:
            own = attributes_read(code_of(method))[0]
            read |= own
            pending += own & set(methods)
    return read


def _layer_calls(path: str, expr: ast.expr) -> list[tuple[str, ast.Call]]:
    """The calls that build the module at `path`, and its children where it is a Sequential."""
    if not isinstance(expr, ast.Call):
        return []
    if ast.unparse(expr.func) in ("nn.Sequential", "torch.nn.Sequential"):
        if any(isinstance(arg, ast.Starred) for arg in expr.args):
            return []
        return [c for i, arg in enumerate(expr.args) for c in _layer_calls(f"{path}.{i}", arg)]
    return [(path, expr)]


def _given(call: ast.Call, child: nn.Module | None, sources: Sources) -> list[tuple[str, ast.expr]]:
    """(argument of the constructor, expression given) for the call that built a module."""
    if any(isinstance(a, ast.Starred) for a in call.args):
        return []
    if child is None:
        names = [f"argument{i}" for i in range(len(call.args))]
    elif type(child).__module__.startswith("torch."):
        if ast.unparse(call.func).rpartition(".")[2] != type(child).__name__:
            return []
        names = list(inspect.signature(type(child)).parameters)
    else:
        init = init_of(sources.of(type(child).__module__).class_node(type(child)))
        names = [] if init is None else [p.name.value for p in parameters_of(init)][1:]
    pairs = list(zip(names, call.args, strict=False))
    pairs += [(k.arg, k.value) for k in call.keywords if k.arg is not None]
    return pairs


def _layer_value(network: nn.Module, path: str, argument: str) -> Any:
    try:
        layer = network.get_submodule(path)
    except AttributeError:
        return None
    return getattr(layer, argument, None)


def parameters_of(init: cst.FunctionDef) -> list[cst.Param]:
    """All named parameters of an `__init__`."""
    return [*init.params.posonly_params, *init.params.params, *init.params.kwonly_params]


def _targets(node: ast.Assign | ast.AnnAssign) -> list[ast.expr]:
    return node.targets if isinstance(node, ast.Assign) else [node.target]


def _is_self_attribute(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self"


def _assigned_names(init: cst.FunctionDef) -> set[str]:
    return {
        node.id
        for node in ast.walk(ast.parse(code_of(init)))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
