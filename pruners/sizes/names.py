"""What a name or attribute in a forward stands for, and who else reads it.

A local name leads to the expression that it was assigned, an argument to the one that the caller
gives, in the frames of the call that ran. Whatever is not as plain as that (assigned twice, passed
on by a decorator, of a function around) is "unknown", and nothing that rests on it changes.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterable, Mapping
from inspect import signature
from typing import Any

from torch import nn

from pruners.describe import layer_base
from pruners.errors import WriterError
from pruners.replay import Frame
from pruners.sizes.evaluate import value_of
from pruners.sizes.said import Size
from pruners.sizes.syntax import File, chain_of, file_of, one_line


class Names:
    """The names in the forwards of a network.

    Args:
        modules: of the network, by path.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.modules = modules
        self.types = {type(module) for module in modules.values()}

    # -- what it is defined by

    def definition(
        self, name: ast.expr, size: Size
    ) -> tuple[str, ast.expr | None, tuple[Frame, ...]]:
        """What a name stands for: ("local", the assigned expression, its frames), ("argument",
        the expression that the caller gives, the caller's frames) or ("global", None, ())."""
        assert isinstance(name, ast.Name)
        file = size.file
        function = file.function(name)
        if function is None:
            return "global", None, ()
        assigned = [
            n
            for n in ast.walk(function)
            if isinstance(n, ast.Name) and n.id == name.id and isinstance(n.ctx, ast.Store)
        ]
        arguments = _arguments(function)
        if assigned:
            statement = file.parents.get(assigned[0])
            if len(assigned) == 1 and name.id not in arguments:
                match statement:
                    case ast.Assign([ast.Name()], value) | ast.AnnAssign(ast.Name(), value=value):
                        return ("local" if value else "unknown"), value, size.frames
                    case ast.Tuple() | ast.List() if found := self._unpacked(file, statement, name):
                        return "local", found, size.frames
            return "unknown", None, ()
        if name.id in arguments:
            return "argument", *self._given(name.id, function, size)
        if name.id in size.frames[0].values and file.function(function) is not None:
            return "unknown", None, ()  # of a function around
        return "global", None, ()

    @staticmethod
    def _unpacked(file: File, targets: ast.Tuple | ast.List, name: ast.Name) -> ast.expr | None:
        """`a, b = 16, 32` gives 32 for b."""
        places = [
            i for i, t in enumerate(targets.elts) if isinstance(t, ast.Name) and t.id == name.id
        ]
        if any(isinstance(t, ast.Starred) for t in targets.elts):
            return None
        match file.parents.get(targets):
            case ast.Assign([ast.Tuple() | ast.List()], ast.Tuple(values) | ast.List(values)):
                return values[places[0]] if len(values) == len(targets.elts) else None
        return None

    def _given(
        self, name: str, function: ast.AST, size: Size
    ) -> tuple[ast.expr | None, tuple[Frame, ...]]:
        """The expression that the caller gives for an argument."""
        outer = size.frames[1:]
        if not outer or isinstance(function, ast.Lambda):
            return None, ()
        assert isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        try:
            caller = file_of(outer[0].globals["__name__"])
        except WriterError:
            return None, ()
        call = caller.running(outer[0], ast.Call)
        if call is None or any(isinstance(a, ast.Starred) for a in call.args):
            return None, ()
        if not self._calls(call, outer[0], function.name, size):
            return None, ()  # a decorator, say, hands the arguments on
        names = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
        if names and names[0] in ("self", "cls") and size.file.class_path(function):
            names = names[1:]
        for keyword in call.keywords:
            if keyword.arg == name:
                return keyword.value, outer
        if name in names and names.index(name) < len(call.args):
            return call.args[names.index(name)], outer
        return None, ()

    def _calls(self, call: ast.Call, frame: Frame, function: str, size: Size) -> bool:
        """Whether a call is one of the function by its name, or of the module with its forward."""
        if one_line(call.func).rpartition(".")[2] == function:
            return True
        module = self._module_called(call.func, frame)
        known = self.modules.get(size.holder or "") if size.holder is not None else None
        return function == "forward" and module is not None and module is known

    def _module_called(self, func: ast.expr, frame: Frame) -> Any:
        chain = chain_of(func)
        if chain is None:
            return value_of(func, frame)
        value: Any = frame.values.get("self")
        for part in chain:
            try:
                value = value[part] if isinstance(part, int) else getattr(value, part, None)
            except (KeyError, IndexError, TypeError):
                return None
        return value

    # -- what stands behind an expression

    def is_plain(self, expr: ast.expr, size: Size, depth: int = 0) -> bool:
        """Whether an expression is made of numbers alone, and not of what tensors are."""
        if depth > 8:
            return False
        match expr:
            case ast.Constant(int() | float()):
                return True
            case ast.UnaryOp(_, inner):
                return self.is_plain(inner, size, depth + 1)
            case ast.BinOp(left, _, right):
                return self.is_plain(left, size, depth) and self.is_plain(right, size, depth)
            case ast.Tuple(elts) | ast.List(elts):
                return all(self.is_plain(e, size, depth + 1) for e in elts)
            case ast.Call(ast.Name("int" | "len" | "max" | "min"), args, []):
                return all(self.is_plain(a, size, depth + 1) for a in args)
            case ast.Name(name):
                kind, node, frames = self.definition(expr, size)
                if kind == "global":
                    return isinstance(size.frames[0].globals.get(name), (int, tuple, list))
                if node is None or not frames:
                    return False
                there = dataclasses.replace(size, expr=node, frames=frames)
                return self.is_plain(node, there, depth + 1)
            case ast.Attribute() | ast.Subscript():
                chain = chain_of(expr)
                return chain is not None and self._is_own(chain, size)
        return False

    def _is_own(self, chain: tuple[str | int, ...], size: Size) -> bool:
        """Whether `self.a.b` leads through plain values only, to a number or a list of them."""
        value: Any = self.modules.get(size.holder or "") if size.holder is not None else None
        for part in chain:
            if value is None or (isinstance(value, nn.Module) and part in value._modules):
                return False
            if isinstance(value, nn.Module) and isinstance(
                getattr(type(value), str(part), None), property
            ):
                return False
            value = value[part] if isinstance(part, int) else _member(value, part)
        numbers = value if isinstance(value, (tuple, list)) else [value]
        return all(isinstance(n, int) for n in numbers) and bool(numbers)

    def is_fixed(self, expr: ast.expr, size: Size, depth: int = 0) -> bool:
        """Whether an expression says the same in every call: a constant may stand for it."""
        for node in ast.walk(expr):
            if not isinstance(node, ast.Name) or node.id == "self" or depth > 8:
                continue
            kind, definition, frames = self.definition(node, size)
            if kind == "argument":
                return False
            if definition is not None:
                there = dataclasses.replace(size, expr=definition, frames=frames)
                if not self.is_fixed(definition, there, depth + 1):
                    return False
        return depth <= 8

    # -- who reads it

    def all_uses(self, node: ast.expr, sizes: Iterable[Size]) -> list[ast.expr]:
        """The `uses` in all modules that the sizes are said in; empty where some are not known."""
        found: dict[int, ast.expr] = {}
        kinds = {type(self.modules.get(size.holder or "")): size for size in sizes}
        for size in kinds.values():
            uses = self.uses(node, size)
            if not uses:
                return []
            found.update((id(use), use) for use in uses)
        return list(found.values())

    def uses(self, node: ast.expr, size: Size) -> list[ast.expr]:
        """All places that read the name or attribute; empty for a number that stands alone."""
        file = size.file
        if isinstance(node, ast.Name):
            function = file.function(node)
            kind, definition, _ = self.definition(node, size)
            if function is None or definition is None or kind == "global":
                return []
            return [
                n
                for n in ast.walk(function)
                if isinstance(n, ast.Name) and n.id == node.id and isinstance(n.ctx, ast.Load)
            ]
        chain = chain_of(node)
        if chain is None:
            return []
        if self._is_of_layer(chain, size):
            return [node]  # torch's own methods read it as well, and mean the same
        found: list[ast.expr] = []
        holder = self.modules.get(size.holder or "")
        for cls in type(holder).__mro__:
            if not issubclass(cls, nn.Module) or cls.__module__.startswith("torch."):
                continue
            found += file_of(cls.__module__).reads(cls.__qualname__, chain)
        if self._read_elsewhere(str(chain[0])):
            return []
        return found

    def _is_of_layer(self, chain: tuple[str | int, ...], size: Size) -> bool:
        """Whether the attribute is one that a layer of torch is built with."""
        holder = self.modules.get(size.holder or "")
        base = layer_base(type(holder)) if holder is not None else None
        return base is not None and len(chain) == 1 and chain[0] in signature(base).parameters

    def _read_elsewhere(self, name: str) -> bool:
        """Whether methods of the network read an attribute of this name of anything but `self`."""
        homes = {
            cls.__module__
            for kind in self.types
            for cls in kind.__mro__
            if issubclass(cls, nn.Module) and not cls.__module__.startswith("torch.")
        }
        return any(file_of(home).is_read_of_others(name) for home in homes)


def _arguments(function: ast.AST) -> set[str]:
    assert isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    args = function.args
    return {a.arg for a in (*args.posonlyargs, *args.args, *args.kwonlyargs)}


def _member(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else getattr(value, name, None)
