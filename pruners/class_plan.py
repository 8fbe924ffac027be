"""One class of a network: its instances, its constructor, and what is kept of its source."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import libcst as cst
import torch
from torch import nn

from pruners import describe, initialisation, naming, origin
from pruners.blocks import BLOCK_TYPES, block_spec
from pruners.definitions import Definitions, SourceOf, import_target
from pruners.errors import WriterError
from pruners.expressions import (
    NONE,
    SUPER,
    Argument,
    Call,
    Dictionary,
    Display,
    Expr,
    Imports,
    Literal,
    Reference,
    Variable,
    is_writable,
    with_handed,
)
from pruners.sizes.rewrites import Rewrites
from pruners.starts import Start, Starts
from pruners.unify import Constructor, unify
from pruners.values import said_of, value_expression

# A tensor that is written with its values.
_MOST_VALUES = 256
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_MODULE_INTERNALS = frozenset(nn.Module().__dict__)
# Methods that torch itself calls, whether or not the forward does.
_CALLED_BY_TORCH = frozenset(
    {"forward", "train", "eval", "extra_repr", "_load_from_state_dict", "_save_to_state_dict"}
    | {"_apply", "__getattr__", "get_extra_state", "set_extra_state", "__len__", "__iter__"}
)


@dataclass(frozen=True, slots=True)
class Context:
    """What the classes of one network share while they are written."""

    network: nn.Module
    rewrites: Rewrites
    source_of: SourceOf
    definitions: Definitions
    imports: Imports
    warnings: list[str]
    classes: Mapping[type, list[tuple[str, nn.Module]]]
    """The instances of every class, with their paths."""
    free: dict[tuple[str, str], Variable]
    """(path, argument) of layers that get an argument of the network."""
    read_of_others: frozenset[str]
    """The attributes that methods read of something else than `self`: of blocks, say."""
    given: Mapping[str, Mapping[str, Any]]
    """By path, the constants that the parent's `__init__` builds a module with."""
    defaults: Mapping[str, Any]
    """Of the network's own arguments."""
    shared: Mapping[str, str]
    """Path of a module that also stands at another one -> the first path of it."""
    child: Callable[[str, nn.Module | None], Expr]
    """The expression that builds the module at a path."""


class ClassPlan:
    """One class of the network: its instances, its constructor, what is kept of its source."""

    def __init__(
        self, context: Context, cls: type[nn.Module], instances: Sequence[tuple[str, nn.Module]]
    ) -> None:
        self.context = context
        self.cls = cls
        self.paths = [path for path, _ in instances]
        self.instances = [module for _, module in instances]
        torch_classes = (c for c in cls.__mro__ if c.__module__.startswith("torch."))
        self.base = next(c for c in torch_classes if issubclass(c, nn.Module))
        self._children = {name for module in self.instances for name in module._modules}
        self.source = context.source_of(cls.__module__)
        self.node = self.source.class_node(cls)
        self.name = context.definitions.claim(cls)
        self.lineage = self._lineage()
        self._methods = self._all_methods()
        self._holders = {name: c for name, (_, _, c) in self._methods.items()}
        self.methods = self._kept_methods()
        self._follow_super()
        # A class that only derives from a layer is built as the layer is, without an __init__.
        self.layer = describe.layer_base(cls)
        self.inits = self._inits()
        self.init_statements, self.init_arguments = self._initialisation()
        self.starts: dict[str, list[Start | None]] = {}
        self.made_by: dict[str, str] = {}
        self._find_starts()
        self.own_reads, self.other_reads = self._attributes_read()
        if self._assigned_in_source() or self.init_statements:
            self.layer = None  # it needs an __init__ of its own
        self.constructor = self._constructor()

    def call(self, path: str) -> Call:
        """How the instance at this path is built."""
        index = self.paths.index(path)
        arguments = tuple(
            replace(a, value=with_handed(a.value, self._handed))
            for a in self.constructor.arguments(index)
        )
        if self.holds_layers:
            layers = self._layers(path, self.instances[index])
            named = tuple(replace(a, positional=False) for a in arguments)
            rows = not any(isinstance(a.value, Dictionary) for a in layers.arguments)
            layers = replace(layers, function=Reference(self.name), table=rows)
            return replace(layers, arguments=layers.arguments + named)
        return Call(Reference(self.name), arguments)

    def _handed(self, path: str) -> Expr:
        return self.context.child(path, self.context.network.get_submodule(path))

    # -- what is kept of the source

    def _lineage(self) -> list[tuple[type, origin.ModuleSource]]:
        """The user's classes of the method resolution order, nearest first, with their source."""
        found: list[tuple[type, origin.ModuleSource]] = []
        for cls in self.cls.__mro__:
            top = cls.__module__.split(".")[0]
            if top == "torch" or top in sys.stdlib_module_names:
                continue
            try:
                source = self.context.source_of(cls.__module__)
                source.class_node(cls)
            except WriterError:
                if issubclass(cls, nn.Module):
                    raise
                continue  # a mixin without source, such as an extension type
            found.append((cls, source))
        return found

    def _all_methods(self) -> dict[str, tuple[list[cst.FunctionDef], origin.ModuleSource, type]]:
        found: dict[str, tuple[list[cst.FunctionDef], origin.ModuleSource, type]] = {}
        for cls, source in self.lineage:
            for name, methods in origin.methods_of(source.class_node(cls)).items():
                found.setdefault(name, (methods, source, cls))
        return found

    def _kept_methods(self) -> dict[str, tuple[list[cst.FunctionDef], origin.ModuleSource]]:
        reads = {
            name: set().union(*(origin.attributes_read(origin.code_of(m))[0] for m in methods))
            for name, (methods, _, _) in self._methods.items()
        }
        of_init = _closure({"__init__"}, reads) if "__init__" in reads else set()
        wanted = {
            name
            for name, (methods, _, cls) in self._methods.items()
            if name in _CALLED_BY_TORCH
            or (
                name not in of_init
                and not name.startswith("_")
                and not _is_static(methods)
                and self._is_own(cls)
            )
        }
        live = _closure(wanted, reads)
        return {n: v[:2] for n, v in self._methods.items() if n in live and n != "__init__"}

    def _is_own(self, cls: type) -> bool:
        """Whether a base class is of the same hand as the class: not of another library."""
        home = self.cls.__module__.split(".")[0]
        return cls.__module__.split(".")[0] == home or not origin.is_library(cls.__module__)

    def _follow_super(self) -> None:
        """`super().forward(x)` as `self._base_forward(x)`: a generated class stands alone."""
        pending = list(self.methods)
        while pending:
            name = pending.pop()
            nodes, source = self.methods[name]
            holder = self._holders[name]
            after = self.lineage[[c for c, _ in self.lineage].index(holder) + 1 :]
            renames: dict[str, str] = {}
            for called in set().union(*(origin.super_calls(origin.code_of(n)) for n in nodes)):
                for base, text in after:
                    methods = origin.methods_of(text.class_node(base)).get(called)
                    if methods is None:
                        continue
                    renames[called] = new = f"_{_snake(base.__name__)}_{called.strip('_')}"
                    if new not in self.methods:
                        named = [m.with_changes(name=cst.Name(new)) for m in methods]
                        self.methods[new] = (named, text)
                        self._holders[new] = base
                        pending.append(new)
                        for method in methods:
                            for other in origin.attributes_read(origin.code_of(method))[0]:
                                if self._keep_method(other):
                                    pending.append(other)
                    break
            if renames:
                changed = [n.visit(_WithoutSuper(renames)) for n in nodes]
                self.methods[name] = (
                    [cst.ensure_type(n, cst.FunctionDef) for n in changed],
                    source,
                )

    def _inits(self) -> list[tuple[cst.FunctionDef, origin.ModuleSource]]:
        """The `__init__` of the class, then those of its bases that it runs."""
        found: list[tuple[cst.FunctionDef, origin.ModuleSource]] = []
        for cls, source in self.lineage:
            init = origin.init_of(source.class_node(cls))
            if init is not None:
                found.append((init, source))
                if "__init__" not in origin.super_calls(origin.code_of(init)):
                    break
        return found

    def _initialisation(
        self,
    ) -> tuple[list[tuple[cst.BaseStatement, origin.ModuleSource]], dict[str, cst.BaseExpression]]:
        """The statements of `__init__` that initialise, and the arguments that they need."""
        methods = {name: nodes for name, (nodes, _, _) in self._methods.items()}
        kept: list[tuple[cst.BaseStatement, origin.ModuleSource]] = []
        needed: dict[str, cst.BaseExpression] = {}
        present = {cls.__name__ for cls in self.context.classes}
        originals = [
            (statement, init, source)
            for init, source in reversed(self.inits)
            for statement in initialisation.initialising_statements(init, methods, source)
        ]
        for original, init, source in originals:
            statement = _without_absent_classes(original, present, source)
            if statement is None:
                continue
            arguments, local = initialisation.names_from_arguments(statement, init)
            defaults = {a: initialisation.default_of(init, a, source) for a in arguments}
            missing = sorted(
                (local - arguments) | {a for a, default in defaults.items() if default is None}
            )
            if missing:
                self.context.warnings.append(
                    f"{self.cls.__name__}: the initialisation `{_first_line(statement)}` is left "
                    f"out, for it uses {', '.join(missing)}, which only the original __init__ has"
                )
                continue
            needed.update({a: d for a, d in sorted(defaults.items()) if d is not None})
            kept.append((statement, source))
            for name in origin.attributes_read(origin.code_of(statement))[0]:
                self._keep_method(name)
        return kept, needed

    def _find_starts(self) -> None:
        """How the tensors begin that the class's own `__init__` makes."""
        given = [self.context.given.get(path, {}) for path in self.paths]
        then = [(origin.code_of(s), source.name) for s, source in self.init_statements]
        starts = Starts(self.cls, self.instances, self.inits, given, self.context.defaults, then)
        methods = {name: nodes for name, (nodes, _, _) in self._methods.items()}
        of_layer = self._of_layer()
        for module in self.instances:
            for name in (*module._parameters, *module._buffers, *_listed(module)):
                if name in self.starts or name in self.made_by or name in of_layer:
                    continue
                found = [start and self._localised(start) for start in starts.of(name)]
                if any(found):
                    self.starts[name] = found
                    continue
                method = starts.from_method(name, methods)
                if method:
                    self.made_by[name] = method
                    self._keep_method(method)

    def _localised(self, start: Start) -> Start:
        """With the names that things have in the file."""

        def local(code: str) -> str:
            module = cst.parse_module(code)
            return self.context.definitions.localised(module, start.source).code

        expr = start.expr
        code, *before = (local(piece) for piece in (expr.code, *expr.before))
        return replace(start, expr=replace(expr, code=code, before=tuple(before)))

    def _of_layer(self) -> set[str]:
        """The tensors that the layer of torch makes which the class derives from."""
        if self.base is nn.Module or issubclass(self.base, _CONTAINERS):
            return set()
        tensors = {n for m in self.instances for n in (*m._parameters, *m._buffers)}
        return tensors - self._assigned_in_source()

    def _start(self, path: str, name: str) -> Expr | None:
        found = self.starts.get(name)
        start = found[self.paths.index(path)] if found else None
        return None if start is None else start.expr

    def _keep_method(self, name: str) -> bool:
        """Keep a method and what it calls; whether it is new."""
        if name not in self._methods or name in self.methods or name == "__init__":
            return False
        nodes, source, _ = self._methods[name]
        self.methods[name] = (nodes, source)
        for node in nodes:
            for other in origin.attributes_read(origin.code_of(node))[0]:
                self._keep_method(other)
        return True

    def _attributes_read(self) -> tuple[set[str], set[str]]:
        own, other, stored, loaded = set[str](), set[str](), set[str](), set[str]()
        for code, _ in self.kept_code():
            mine, others = origin.attributes_read(code)
            own |= mine
            other |= others
            stored |= origin.attributes_stored(code)
            loaded |= mine - origin.attributes_stored(code)
        # What is only ever stored, such as an activation, needs no value to start from.
        own -= stored - loaded
        # Inside of a class, Python knows __name as _Class__name.
        prefix = f"_{self.cls.__name__.lstrip('_')}"
        return own | {prefix + n for n in own if n.startswith("__") and n[-2:] != "__"}, other

    def kept_code(self) -> list[tuple[str, origin.ModuleSource]]:
        """All kept pieces of code, with the module in which their names are resolved."""
        pieces = [
            (origin.code_of(node), source)
            for nodes, source in self.methods.values()
            for node in nodes
        ]
        pieces += [
            (origin.code_of(statement), source) for statement, source in self.init_statements
        ]
        pieces += [
            (start.code, start.source)
            for found in self.starts.values()
            for start in {s.code: s for s in found if s is not None}.values()
        ]
        return pieces

    # -- the constructor

    def _constructor(self) -> Constructor:
        if self.layer is not None:
            return Constructor((), {})
        records = [
            self._record(path, module)
            for path, module in zip(self.paths, self.instances, strict=True)
        ]
        if self.instances == [self.context.network]:
            return Constructor((), records[0])
        # `hasattr(self, "shortcut")` tells None from nothing at all.
        lacking = [self._children - vars(m).keys() - m._modules.keys() for m in self.instances]
        inits = [(naming.parsed(init), source) for init, source in self.inits]
        names = naming.given_names(self.instances, inits, self.context.source_of)
        return unify(records, lacking, names, naming.compared_attributes(inits))

    def _record(self, path: str, module: nn.Module) -> dict[str, Expr]:
        spec = block_spec(module)
        custom = BLOCK_TYPES[spec.lType].writer if spec else None
        if spec is not None and custom is not None:
            own = _record_of_own(custom, spec.lType, path, module)
            return {name: self._opened(f"{path}.{name}", expr) for name, expr in own.items()}
        record: dict[str, Expr] = {}
        of_base: set[str] = set()
        if self.base is not nn.Module:
            made, of_base = self._made_by_base(path, module)
            record.update(made)
        widths = self.context.rewrites.names(path)
        for name, value in module.__dict__.items():
            # A child that only some instances have takes its place from those.
            absent = value is None and name in self._children
            if name in _MODULE_INTERNALS or absent or name in of_base:
                continue
            free = None if path else self.context.free.get(("", name))
            if name in self.own_reads:
                record[name] = free or self._plain(path, name, value)
                if name in widths and type(value) in (int, tuple):
                    record[name] = Literal(value, width=True)
                for attribute, *chain in self.context.rewrites.attributes.get(path, ()):
                    if attribute == name and chain:
                        record[name] = _as_width(record[name], chain)
            elif name in self.context.read_of_others and is_writable(value):
                record[name] = free or Literal(value)
        for name in (*module._parameters, *module._buffers):
            if name in self.made_by:
                method = self.made_by[name]
                record[f"{method}()"] = Call(Reference(f"self.{method}"))
            elif name in of_base:
                continue
            elif name in module._parameters:
                record[name] = self._parameter(path, name, module._parameters[name])
            else:
                record[name] = self._buffer(path, name, module._buffers[name], module)
        for name, child in module._modules.items():
            if isinstance(child, (nn.ParameterList, nn.ParameterDict)):
                record[name] = self._parameters(path, name, child)
            elif name not in of_base:
                here = f"{path}.{name}" if path else name
                first = self.context.shared.get(here, "")
                if first and first.rpartition(".")[0] == path:
                    record[name] = Reference(f"self.{first.rpartition('.')[2]}")
                else:
                    record[name] = self.context.child(here, child)
        return record

    def _opened(self, path: str, expr: Expr) -> Expr:
        """A layer with the arguments of the network that go into it."""
        if not isinstance(expr, Call):
            return expr
        free = self.context.free
        opened = tuple(replace(a, value=free.get((path, a.name), a.value)) for a in expr.arguments)
        return replace(expr, arguments=opened)

    @property
    def holds_layers(self) -> bool:
        """Whether the class derives from a container of torch and gets its layers handed in.

        A network that is a container itself builds its layers: it takes no arguments.
        """
        return issubclass(self.base, _CONTAINERS) and self.instances != [self.context.network]

    def _made_by_base(self, path: str, module: nn.Module) -> tuple[dict[str, Expr], set[str]]:
        """How the layer of torch that the class derives from is built, and what it then has."""
        if self.holds_layers:
            return {}, set(module._modules)
        if issubclass(self.base, _CONTAINERS):
            if all(name.isidentifier() for name in module._modules):
                return {}, set()  # its layers are attributes
            call = self._layers(path, module)
            return {SUPER: replace(call, function=Reference(SUPER))}, set(module._modules)
        call = describe.write_layer(module, self.base)
        has = {*module._parameters, *module._buffers, *module._modules, *module.__dict__}
        made = replace(call, function=Reference(SUPER))
        return {SUPER: made}, has - self._assigned_in_source()

    def _layers(self, path: str, module: nn.Module) -> Call:
        children = {
            name: self.context.child(f"{path}.{name}" if path else name, child)
            for name, child in module._modules.items()
        }
        return describe.write_container(module, children)

    def _assigned_in_source(self) -> set[str]:
        """The attributes that the class's own `__init__`s give to `self`."""
        return {name for init, _ in self.inits for name in initialisation.assigned_attributes(init)}

    def _plain(self, path: str, name: str, value: Any) -> Expr:
        if isinstance(value, types.MethodType) and value.__self__ in self.instances:
            self._keep_method(value.__name__)
        module = self.instances[self.paths.index(path)]
        found = value_expression(value, self.context.definitions.mention, module)
        if found is not None:
            return found
        where = f"{self.cls.__name__}.{name} at {path or 'the network itself'}"
        if callable(value):
            raise WriterError(
                f"{where}: {said_of(value)}, which no file can import, but {self._reader(name)} "
                f"reads it; expected a plain value or something importable: make it an nn.Module, "
                f"or a function at the top level of a file"
            )
        raise WriterError(
            f"{where}: value {' '.join(repr(value).split())[:200]} of type {type(value).__name__} "
            f"cannot be written, but {self._reader(name)} reads it; expected a plain value "
            f"(numbers, strings, tuples, None) or something importable"
        )

    def _reader(self, name: str) -> str:
        for method, (nodes, _) in self.methods.items():
            if any(name in origin.attributes_read(origin.code_of(n))[0] for n in nodes):
                return method
        return "the initialisation"

    def _parameter(self, path: str, name: str, value: nn.Parameter | None) -> Expr:
        if value is None:
            return Call(
                Reference("self.register_parameter"),
                (Argument("name", Literal(name), positional=True), _positional("param", NONE)),
            )
        return self._made_parameter(name, value, self._start(path, name))

    def _made_parameter(self, name: str, value: nn.Parameter, tensor: Expr | None) -> Expr:
        if tensor is None:
            self._warn(
                f"{self.cls.__name__}.{name}: its start values are not known from the source; "
                f"load the weights before use"
            )
            sizes = tuple(
                Argument(f"size{i}", Literal(n, width=True), positional=True)
                for i, n in enumerate(value.shape)
            )
            tensor = Call(Reference("torch.empty", "import torch"), sizes)
        return Call(
            Reference("nn.Parameter", describe.NN),
            (
                _positional("data", tensor),
                Argument("requires_grad", Literal(value.requires_grad), Literal(True)),
            ),
        )

    def _parameters(
        self, path: str, name: str, holder: nn.ParameterList | nn.ParameterDict
    ) -> Expr:
        """A list or dict of parameters, with what they are before training."""
        items = {k: self._parameter(path, f"{name}.{k}", p) for k, p in holder._parameters.items()}
        whole = isinstance(holder, nn.ParameterDict) or list(items) == [
            str(i) for i in range(len(holder))
        ]
        if type(holder) not in (nn.ParameterList, nn.ParameterDict) or len(items) != len(holder):
            whole = False
        if not whole:
            raise WriterError(
                f"{self.cls.__name__}.{name} at {path or 'the network itself'}: a "
                f"{type(holder).__name__} of more than parameters cannot be written; expected an "
                f"nn.ParameterList or nn.ParameterDict of parameters"
            )
        shown: Expr = (
            Dictionary(tuple(items.items()))
            if isinstance(holder, nn.ParameterDict)
            else Display(tuple(items.values()))
        )
        return Call(describe.nn_reference(type(holder)), (_positional("values", shown),))

    def _warn(self, line: str) -> None:
        if line not in self.context.warnings:
            self.context.warnings.append(line)

    def _buffer(self, path: str, name: str, value: torch.Tensor | None, module: nn.Module) -> Expr:
        persistent = name not in module._non_persistent_buffers_set
        start = self._start(path, name)
        if value is None:
            tensor: Expr = NONE
        elif start is not None:
            tensor = start
        elif value.is_meta or (persistent and value.numel() > _MOST_VALUES):
            if persistent:
                self._warn(
                    f"{self.cls.__name__}.{name}: its values are those of the weights file; load "
                    f"it before use"
                )
            sizes = tuple(
                _positional(f"size{i}", Literal(n, True)) for i, n in enumerate(value.shape)
            )
            dtype = Argument("dtype", Literal(value.dtype), Literal(torch.float32))
            tensor = Call(Reference("torch.zeros", "import torch"), (*sizes, dtype))
        elif value.numel() <= _MOST_VALUES:
            tensor = Call(
                Reference("torch.tensor", "import torch"),
                (
                    _positional("data", Literal(value.tolist())),
                    Argument("dtype", Literal(value.dtype), Literal(torch.float32)),
                ),
            )
        else:
            raise WriterError(
                f"{self.cls.__name__}.{name} at {path}: a buffer of {value.numel()} values that "
                f"the state_dict does not hold; expected persistent=True or at most 256 values"
            )
        return Call(
            Reference("self.register_buffer"),
            (
                _positional("name", Literal(name)),
                _positional("tensor", tensor),
                Argument("persistent", Literal(persistent), Literal(True)),
            ),
        )


def _as_width(expr: Expr, chain: Sequence[str | int]) -> Expr:
    """The expression with the number counted as a width that the chain leads to."""
    match expr:
        case Literal(int(value)) if not chain:
            return Literal(value, width=True)
        case Call(_, arguments) if chain:
            inner = tuple(
                replace(a, value=_as_width(a.value, chain[1:])) if a.name == chain[0] else a
                for a in arguments
            )
            return replace(expr, arguments=inner)
    return expr


def _record_of_own(
    writer: Callable[[nn.Module], Mapping[str, Any]], lType: str, path: str, module: nn.Module
) -> dict[str, Expr]:
    """What a registered writer says of a block; WriterError where parts are missing or odd."""
    where = f"{path} ({type(module).__name__}): the writer of block type '{lType}'"
    said = writer(module)
    missing = [
        n for n in (*module._parameters, *module._buffers, *module._modules) if n not in said
    ]
    if missing:
        raise WriterError(f"{where} says nothing about {', '.join(missing)}")
    record: dict[str, Expr] = {}
    for name, value in said.items():
        if not isinstance(value, Expr) and not is_writable(value):
            raise WriterError(
                f"{where} returned {' '.join(repr(value).split())} for {name}; expected an "
                f"expression, such as write_conv(block.{name}), or a plain value"
            )
        record[name] = value if isinstance(value, Expr) else Literal(value)
    return record


def _listed(module: nn.Module) -> list[str]:
    """The parameters in lists and dicts of a module: `ws.0`."""
    return [
        f"{name}.{key}"
        for name, child in module._modules.items()
        if isinstance(child, (nn.ParameterList, nn.ParameterDict))
        for key in child._parameters
    ]


def _positional(name: str, value: Expr) -> Argument:
    return Argument(name, value, positional=True)


def _closure(start: Iterable[str], reads: Mapping[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    pending = list(start)
    while pending:
        name = pending.pop()
        if name not in seen and name in reads:
            seen.add(name)
            pending.extend(reads[name])
    return seen


def _is_static(methods: Sequence[cst.FunctionDef]) -> bool:
    return any(
        isinstance(d.decorator, cst.Name) and d.decorator.value in ("staticmethod", "classmethod")
        for method in methods
        for d in method.decorators
    )


def _without_absent_classes(
    statement: cst.BaseStatement, present: set[str], source: origin.ModuleSource
) -> cst.BaseStatement | None:
    """The statement without branches for instances of classes that the network does not hold."""
    own = {n for n, node in source.definitions.items() if isinstance(node, cst.ClassDef)}
    own |= {
        name
        for name, text in source.imports.items()
        if not origin.is_library(import_target(text)[0]) and name[:1].isupper()
    }
    result = statement.visit(_DropBranches(own - present))
    if not isinstance(result, cst.BaseStatement) or _is_idle(result):
        return None
    return result


class _DropBranches(cst.CSTTransformer):
    """Removes `if isinstance(m, Absent)` branches."""

    def __init__(self, absent: set[str]) -> None:
        self.absent = absent

    def leave_If(  # noqa: N802 - libcst's name
        self, original_node: cst.If, updated_node: cst.If
    ) -> cst.If | cst.RemovalSentinel | cst.BaseStatement:
        if not self._is_dead(original_node.test):
            return updated_node
        if updated_node.orelse is None:
            return cst.RemoveFromParent()
        if isinstance(updated_node.orelse, cst.If):
            return updated_node.orelse
        return cst.If(test=cst.Name("True"), body=updated_node.orelse.body)

    def _is_dead(self, test: cst.BaseExpression) -> bool:
        if isinstance(test, cst.BooleanOperation) and isinstance(test.operator, cst.And):
            return self._is_dead(test.left) or self._is_dead(test.right)
        if (
            isinstance(test, cst.Call)
            and isinstance(test.func, cst.Name)
            and test.func.value == "isinstance"
            and len(test.args) == 2
        ):
            kinds = test.args[1].value
            names = [e.value for e in kinds.elements] if isinstance(kinds, cst.Tuple) else [kinds]
            return all(isinstance(n, cst.Name) and n.value in self.absent for n in names)
        return False


def _is_idle(node: cst.CSTNode) -> bool:
    """Whether only empty loops and branches are left."""
    if isinstance(node, (cst.For, cst.If, cst.With)):
        inner = node.body.body if isinstance(node.body, cst.IndentedBlock) else ()
        return all(_is_idle(statement) for statement in inner)
    return False


def _first_line(statement: cst.BaseStatement) -> str:
    return origin.code_of(statement).strip().splitlines()[0]


def shared_modules(network: nn.Module) -> dict[str, str]:
    """Second paths of modules, with the first; not those that lie inside of such a one."""
    first: dict[int, str] = {}
    shared: dict[str, str] = {}
    for path, module in network.named_modules(remove_duplicate=False):
        known = first.setdefault(id(module), path)
        if known != path and not any(path.startswith(f"{other}.") for other in shared):
            shared[path] = known
    return shared


def is_container_path(network: nn.Module, path: str) -> bool:
    """Whether a module is an item of a container, not an attribute of a class."""
    return describe.is_container(network.get_submodule(path.rpartition(".")[0]))


def _snake(name: str) -> str:
    """`ConvBlock` as `conv_block`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


class _WithoutSuper(cst.CSTTransformer):
    """`super().forward` becomes `self._base_forward`."""

    def __init__(self, names: Mapping[str, str]) -> None:
        super().__init__()
        self.names = names

    def leave_Attribute(  # noqa: N802 - libcst's name
        self, original_node: cst.Attribute, updated_node: cst.Attribute
    ) -> cst.Attribute:
        match original_node.value:
            case cst.Call(func=cst.Name("super")) if original_node.attr.value in self.names:
                new = self.names[original_node.attr.value]
                return cst.Attribute(cst.Name("self"), cst.Name(new))
        return updated_node
