"""What the original calls the values that it builds its layers with.

`nn.Conv2d(in_channels, ch3x3red, kernel_size=1)` in an `__init__` tells the name of a width. Read
are the calls that make the attributes of `self`, and those inside of their containers; a value is
told by a name, by the attribute of a configuration (`config.hidden_dim`), or not at all.
"""

from __future__ import annotations

import ast
import inspect
import sys
import types
from collections import Counter
from collections.abc import Iterator, Sequence

import libcst as cst
from torch import nn

from pruners import describe, initialisation
from pruners.definitions import SourceOf
from pruners.errors import WriterError
from pruners.expressions import is_plain_name
from pruners.origin import ModuleSource, code_of, init_of

Path = tuple[str, ...]

# Shorter ones say less than where the value goes.
_SHORTEST = 3


def given_names(
    instances: Sequence[nn.Module],
    inits: Sequence[tuple[ast.FunctionDef, ModuleSource]],
    source_of: SourceOf,
) -> dict[Path, str]:
    """By place (attribute, positions downwards, argument), the name of what is given there."""
    names: dict[Path, str] = {}
    for init, source in inits:
        known = _local_names(init)
        for attribute, value in _made(init):
            # Of instances that differ, the one with the most layers has all places.
            module = max(
                (m._modules.get(attribute) for m in instances),
                key=lambda m: -1 if m is None else len(m._modules),
            )
            if module is None:
                continue
            for path, name in _told(value, module, init, source, source_of):
                if name in known or name.startswith("."):
                    plain = name.lstrip(".")
                    if len(plain) >= _SHORTEST and is_plain_name(plain) and plain != "self":
                        names.setdefault((attribute, *path), plain)
    return names


def compared_attributes(inits: Sequence[tuple[ast.FunctionDef, ModuleSource]]) -> set[str]:
    """The attributes that an `__init__` computes by comparisons alone: `stride == 1 and i == o`."""
    found: set[str] = set()
    for init, _ in inits:
        for node in ast.walk(init):
            match node:
                case ast.Assign([ast.Attribute(ast.Name("self"), name)], value) | ast.AnnAssign(
                    ast.Attribute(ast.Name("self"), name), _, value
                ) if value is not None and _compares(value):
                    found.add(name)
    return found


def parsed(init: cst.FunctionDef) -> ast.FunctionDef:
    """The syntax tree of a libcst function."""
    tree = ast.parse(code_of(init)).body[0]
    assert isinstance(tree, ast.FunctionDef)
    return tree


def _compares(node: ast.expr) -> bool:
    if isinstance(node, ast.BoolOp):
        return all(_compares(value) for value in node.values)
    return isinstance(node, ast.Compare)


def _local_names(init: ast.FunctionDef) -> set[str]:
    """The arguments, and the local names that have one value throughout."""
    stores = Counter(
        n.id for n in ast.walk(init) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    )
    arguments = {a.arg for a in (*init.args.posonlyargs, *init.args.args, *init.args.kwonlyargs)}
    once = {name for name, count in stores.items() if count == 1}
    return once | {a for a in arguments if a not in stores}


def _made(init: ast.FunctionDef) -> Iterator[tuple[str, ast.expr]]:
    """`self.NAME = value` anywhere in an `__init__`, as (NAME, value)."""
    for node in ast.walk(init):
        match node:
            case ast.Assign([ast.Attribute(ast.Name("self"), name)], value):
                yield name, value
            case ast.AnnAssign(ast.Attribute(ast.Name("self"), name), _, value) if value:
                yield name, value


def _told(
    value: ast.expr,
    module: nn.Module,
    init: ast.FunctionDef,
    source: ModuleSource,
    source_of: SourceOf,
) -> Iterator[tuple[Path, str]]:
    """The names in the call that makes a module, and in those that make its layers."""
    match value:
        case ast.IfExp(_, body, orelse):
            yield from _told(
                body if isinstance(body, ast.Call) else orelse, module, init, source, source_of
            )
            return
        case ast.Call(callee, arguments, keywords):
            pass
        case _:
            return
    function = _function(callee, source)
    if function is not None:
        yield from _told_to_function(function, arguments, module)
        return
    if describe.is_container(module) and ast.unparse(callee).endswith(type(module).__name__):
        items = _items(arguments, init) if type(module) in _CONTAINERS else None
        if items is not None:
            if len(items) == len(module._modules):
                for item, (name, child) in zip(items, module._modules.items(), strict=True):
                    for path, said in _told(item, child, init, source, source_of) if child else ():
                        yield (name, *path), said
            return
    names = _argument_names(module, source_of)
    given = list(zip(names, arguments, strict=False))
    given += [(k.arg, k.value) for k in keywords if k.arg is not None]
    for argument, expression in given:
        said = "" if argument == "groups" else _name_of(expression)
        if said and describe.is_container(module):
            within = _first_layer_with(argument, module)
            if within is not None:
                yield (*within, argument), said
        elif said:
            yield (argument,), said


_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def _name_of(expression: ast.expr) -> str:
    """`hidden` for `hidden`, `.hidden` for `config.hidden`."""
    match expression:
        case ast.Name(name):
            return name
        case ast.Attribute(ast.Name(), name):
            return f".{name}"
    return ""


def _items(arguments: Sequence[ast.expr], init: ast.FunctionDef) -> list[ast.expr] | None:
    """The calls that make what a container holds, in order, also of a list that is filled first."""
    match arguments:
        case [ast.Starred(ast.Name(name))] | [ast.Name(name)]:
            return list(_filled(name, init.body))
        case [ast.List(elements)]:
            return elements
    return None if any(isinstance(a, ast.Starred) for a in arguments) else list(arguments)


def _filled(name: str, body: Sequence[ast.stmt]) -> Iterator[ast.expr]:
    for statement in body:
        match statement:
            case ast.Assign([ast.Name(target)], ast.List(elements)) if target == name:
                yield from elements
            case ast.AnnAssign(ast.Name(target), _, ast.List(elements)) if target == name:
                yield from elements
            case ast.AugAssign(ast.Name(target), ast.Add(), ast.List(elements)) if target == name:
                yield from elements
            case ast.Expr(ast.Call(ast.Attribute(ast.Name(target), "append"), [element])) if (
                target == name
            ):
                yield element
            case ast.Expr(
                ast.Call(ast.Attribute(ast.Name(target), "extend"), [ast.List(elements)])
            ) if target == name:
                yield from elements
            case ast.If(_, then, otherwise):
                yield from _filled(name, (*then, *otherwise))


def _function(callee: ast.expr, source: ModuleSource) -> types.FunctionType | None:
    """The function that a name of the module's is, where it is none of the local ones."""
    if isinstance(callee, ast.Name):
        found = getattr(sys.modules.get(source.name), callee.id, None)
        return found if isinstance(found, types.FunctionType) else None
    return None


def _told_to_function(
    function: types.FunctionType, arguments: Sequence[ast.expr], module: nn.Module
) -> Iterator[tuple[Path, str]]:
    """Of `conv1x1(in_planes, out_planes)`, the two ends."""
    wanted = [n for n in _layer_arguments(module) if n.startswith(("in_", "out_"))]
    for parameter, expression in zip(
        inspect.signature(function).parameters, arguments, strict=False
    ):
        said = _name_of(expression)
        end = next((n for n in wanted if parameter.startswith(n.partition("_")[0])), None)
        if said and end is not None:
            yield (end,), said


def _layer_arguments(module: nn.Module) -> list[str]:
    cls = type(module)
    return list(inspect.signature(cls).parameters) if cls.__module__.startswith("torch.") else []


def _argument_names(module: nn.Module, source_of: SourceOf) -> list[str]:
    if describe.is_torch_layer(module):
        return _layer_arguments(module)
    cls = type(module)
    try:
        init = init_of(source_of(cls.__module__).class_node(cls))
    except WriterError:
        init = None
    if init is None:
        return list(inspect.signature(cls).parameters)
    return [p.name.value for p in initialisation.parameters_of(init)][1:]


def _first_layer_with(argument: str, container: nn.Module) -> Path | None:
    """Where the first layer stands that has the argument."""
    for name, child in container._modules.items():
        if child is None:
            continue
        if describe.is_container(child):
            within = _first_layer_with(argument, child)
            if within is not None:
                return (name, *within)
        elif argument in inspect.signature(type(child)).parameters:
            return (name,)
    return None
