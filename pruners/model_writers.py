"""Writes a network as source.

`__init__` of every class is regenerated from what the instances are (`describe`, `unify`);
everything else is the original's text (`origin`, `initialisation`). The writer depends on the
instance alone and takes no weights: it also serves for a network that somebody else has pruned.
"""

from __future__ import annotations

import functools
import keyword
import re
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import libcst as cst
import torch
from torch import nn

from pruners import describe, initialisation, origin
from pruners.blocks import BLOCK_TYPES, block_spec, register_writer
from pruners.describe import (
    write_activation,
    write_batch_norm,
    write_container,
    write_conv,
    write_dropout,
    write_layer,
    write_linear,
    write_pooling,
    write_sequential,
)
from pruners.errors import WriterError
from pruners.expressions import (
    ABSENT,
    NONE,
    SUPER,
    Argument,
    Call,
    Either,
    Expr,
    Imports,
    Literal,
    Reference,
    Variable,
    checked_identifier,
    is_writable,
    to_code,
)
from pruners.formatting import format_source
from pruners.unify import Constructor, unify

__all__ = [
    "TEMPLATES",
    "Writer",
    "register_writer",
    "write_activation",
    "write_batch_norm",
    "write_container",
    "write_conv",
    "write_dropout",
    "write_layer",
    "write_linear",
    "write_pooling",
    "write_sequential",
]

_HERE = Path(__file__).parent
# An installed package holds the templates; in a checkout they lie beside it.
TEMPLATES = next(p for p in (_HERE / "templates", _HERE.parent / "templates") if p.is_dir())

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_MODULE_INTERNALS = frozenset(nn.Module().__dict__)
# Methods that torch itself calls, whether or not the forward does.
_CALLED_BY_TORCH = frozenset(
    {"forward", "train", "eval", "extra_repr", "_load_from_state_dict", "_save_to_state_dict"}
    | {"_apply", "__getattr__", "get_extra_state", "set_extra_state", "__len__", "__iter__"}
)


class Writer:
    """Writes one network.

    Args:
        network: the slim network; meta tensors do.
        factory: name of the function that builds it.

    Attributes:
        warnings: what could not be kept of the original, a line each.
        factory: the function's name in the file: `build_NAME` where the file has NAME already.

    Raises:
        WriterError: a part of the network cannot be written; names it.
    """

    register_writer = staticmethod(register_writer)

    def __init__(self, network: nn.Module, factory: str) -> None:
        self.network = network
        self.warnings: list[str] = []
        self._imports = Imports()
        self._plans: dict[type, _ClassPlan] = {}
        self._planning: list[type] = []
        self._classes: dict[type, list[tuple[str, nn.Module]]] = {}
        for path, module in network.named_modules(remove_duplicate=False):
            self._classes.setdefault(type(module), []).append((path, module))
        self._free: dict[tuple[str, str], Variable] = {}
        self.read_of_others = self._read_of_others()

        root = type(network)
        if describe.is_torch_layer(network):
            raise WriterError(
                f"the network is a bare {root.__name__}; expected a class of your own with a "
                f"forward, so that the generated file has a class to name"
            )
        self._open_arguments()
        self._plan(root)
        self._definitions = _Definitions(self)
        self._definitions.collect()
        defined = self._definitions.names()
        imported = {"torch", "Path", "super", *self._imports.statements}
        for name in sorted(defined & imported):
            raise WriterError(
                f"name {name}: defined in {self._definitions.home(name)}, but a generated file "
                f"imports something else under it; rename it in the network"
            )
        taken = factory in defined | imported or keyword.iskeyword(factory)
        self.factory = checked_identifier(f"build_{factory}" if taken else factory)

    def source(self, header: str) -> str:
        """The text of the model description file; `header` becomes its docstring."""
        imports = Imports(dict(self._imports.statements))
        imports.need("torch", "import torch")
        imports.need("Path", "from pathlib import Path")
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(TEMPLATES),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            autoescape=False,  # Python, not HTML; values are code from libcst or checked names
        )
        code = environment.get_template("model.py.j2").render(
            docstring=_docstring(header),
            future_annotations=self._definitions.future_annotations,
            imports=sorted(imports.statements.values()),
            definitions=self._definitions.in_order(),
            factory=self.factory,
            root=checked_identifier(type(self.network).__name__),
            dtype=self._dtype(),
        )
        return format_source(code)

    def describe(self, path: str, module: nn.Module) -> Expr:
        """The expression that builds a module of the network."""
        if describe.is_container(module):
            children = {n: self._child(f"{path}.{n}", c) for n, c in module._modules.items()}
            return describe.write_container(module, children)
        if describe.is_torch_layer(module):
            call = describe.write_layer(module)
            return replace(
                call,
                arguments=tuple(
                    replace(a, value=self._free.get((path, a.name), a.value))
                    for a in call.arguments
                ),
            )
        plan = self._plan(type(module))
        if plan.layer is not None:
            call = describe.write_layer(module, plan.layer)
            return replace(call, function=Reference(plan.cls.__name__))
        return plan.call(path)

    def _child(self, path: str, child: nn.Module | None) -> Expr:
        return NONE if child is None else self.describe(path, child)

    def _open_arguments(self) -> None:
        """Arguments of the original network that stay arguments of the generated one."""
        first: set[str] | None = None
        for cls in type(self.network).__mro__:
            if not issubclass(cls, nn.Module) or cls.__module__.startswith("torch."):
                continue
            source = origin.module_source(cls.__module__)
            init = origin.init_of(source.class_node(cls))
            if init is None:
                continue
            names = initialisation.argument_names(init)
            # A base's argument is the network's where its own __init__ has one of that name.
            first = names if first is None else first
            for argument in initialisation.free_arguments(self.network, cls, init, source):
                if argument.name in first:
                    for use in argument.uses:
                        self._free[use] = Variable(argument.name, argument.value)

    def _read_of_others(self) -> set[str]:
        """The attributes that methods read of something else than `self`: of blocks, say."""
        read: set[str] = set()
        for cls, instances in self._classes.items():
            if describe.is_torch_layer(instances[0][1]) or describe.is_container(instances[0][1]):
                continue
            for name, methods in origin.methods_of(
                origin.module_source(cls.__module__).class_node(cls)
            ).items():
                if name != "__init__":
                    for method in methods:
                        read |= origin.attributes_read(origin.code_of(method))[1]
        return read

    def _plan(self, cls: type) -> _ClassPlan:
        if cls in self._plans:
            return self._plans[cls]
        if cls in self._planning:
            chain = " -> ".join(c.__name__ for c in [*self._planning, cls])
            raise WriterError(f"class {cls.__name__}: contains itself ({chain}); not supported yet")
        self._planning.append(cls)
        try:
            self._plans[cls] = _ClassPlan(self, cls, self._classes[cls])
        finally:
            self._planning.pop()
        return self._plans[cls]

    def _dtype(self) -> str:
        kinds = {t.dtype for t in self.network.state_dict().values() if t.is_floating_point()}
        if len(kinds) > 1:
            raise WriterError(
                f"the network has tensors of {' and '.join(sorted(map(str, kinds)))}; expected one "
                f"floating dtype: convert it first, as with model.float()"
            )
        return str(kinds.pop()) if len(kinds) == 1 and kinds != {torch.float32} else ""

    @property
    def imports(self) -> Imports:
        return self._imports

    @property
    def plans(self) -> Mapping[type, _ClassPlan]:
        return self._plans


class _ClassPlan:
    """One class of the network: its instances, its constructor, what is kept of its source."""

    def __init__(
        self, writer: Writer, cls: type[nn.Module], instances: Sequence[tuple[str, nn.Module]]
    ) -> None:
        self.writer = writer
        self.cls = cls
        self.paths = [path for path, _ in instances]
        self.instances = [module for _, module in instances]
        torch_classes = (c for c in cls.__mro__ if c.__module__.startswith("torch."))
        self.base = next(c for c in torch_classes if issubclass(c, nn.Module))
        self._children = {name for module in self.instances for name in module._modules}
        self.source = origin.module_source(cls.__module__)
        self.node = self.source.class_node(cls)
        # Own classes of the method resolution order, nearest first, with their source.
        self.lineage = [
            (c, origin.module_source(c.__module__))
            for c in cls.__mro__
            if issubclass(c, nn.Module) and not c.__module__.startswith("torch.")
        ]
        self._methods = self._all_methods()
        self.methods = self._kept_methods()
        self._refuse_super()
        # A class that only derives from a layer is built as the layer is, without an __init__.
        self.layer = describe.layer_base(cls)
        self.inits = self._inits()
        self.init_statements, self.init_arguments = self._initialisation()
        self.own_reads, self.other_reads = self._attributes_read()
        if self._assigned_in_source() or self.init_statements:
            self.layer = None  # it needs an __init__ of its own
        self.constructor = self._constructor()

    def call(self, path: str) -> Call:
        """How the instance at this path is built."""
        index = self.paths.index(path)
        arguments = self.constructor.arguments(index)
        if self.holds_layers:
            layers = self._layers(path, self.instances[index])
            named = tuple(replace(a, positional=False) for a in arguments)
            layers = replace(layers, function=Reference(self.cls.__name__), table=True)
            return replace(layers, arguments=layers.arguments + named)
        return Call(Reference(self.cls.__name__), arguments)

    # -- what is kept of the source

    def _all_methods(self) -> dict[str, tuple[list[cst.FunctionDef], origin.ModuleSource]]:
        found: dict[str, tuple[list[cst.FunctionDef], origin.ModuleSource]] = {}
        for cls, source in self.lineage:
            for name, methods in origin.methods_of(source.class_node(cls)).items():
                found.setdefault(name, (methods, source))
        return found

    def _kept_methods(self) -> dict[str, tuple[list[cst.FunctionDef], origin.ModuleSource]]:
        reads = {
            name: set().union(*(origin.attributes_read(origin.code_of(m))[0] for m in methods))
            for name, (methods, _) in self._methods.items()
        }
        of_init = _closure({"__init__"}, reads) if "__init__" in reads else set()
        wanted = {
            name
            for name, (methods, _) in self._methods.items()
            if name in _CALLED_BY_TORCH
            or (name not in of_init and not name.startswith("_") and not _is_static(methods))
        }
        live = _closure(wanted, reads)
        return {n: v for n, v in self._methods.items() if n in live and n != "__init__"}

    def _refuse_super(self) -> None:
        """WriterError where a kept method calls one of a base class that the file will not have."""
        for name, (nodes, _) in self.methods.items():
            holders = [c for c, s in self.lineage if name in origin.methods_of(s.class_node(c))]
            after = self.lineage[[c for c, _ in self.lineage].index(holders[0]) + 1 :]
            for called in set().union(*(origin.super_calls(origin.code_of(n)) for n in nodes)):
                for base, source in after:
                    if called in origin.methods_of(source.class_node(base)):
                        raise WriterError(
                            f"{self.cls.__name__}.{name}: calls super().{called} of "
                            f"{base.__name__}, but a generated class has no base of your own; "
                            f"write both methods as one"
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
        methods = {name: nodes for name, (nodes, _) in self._methods.items()}
        kept: list[tuple[cst.BaseStatement, origin.ModuleSource]] = []
        needed: dict[str, cst.BaseExpression] = {}
        present = {cls.__name__ for cls in self.writer._classes}
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
            defaults = {a: initialisation.default_of(init, a) for a in arguments}
            missing = sorted(local | {a for a, default in defaults.items() if default is None})
            if missing:
                self.writer.warnings.append(
                    f"{self.cls.__name__}: the initialisation `{_first_line(statement)}` is left "
                    f"out, for it uses {', '.join(missing)}, which only the original __init__ has"
                )
                continue
            needed.update({a: d for a, d in sorted(defaults.items()) if d is not None})
            kept.append((statement, source))
            for name in origin.attributes_read(origin.code_of(statement))[0]:
                self._keep_method(name)
        return kept, needed

    def _keep_method(self, name: str) -> None:
        if name in self._methods and name not in self.methods and name != "__init__":
            nodes, source = self._methods[name]
            self.methods[name] = (nodes, source)
            for node in nodes:
                for other in origin.attributes_read(origin.code_of(node))[0]:
                    self._keep_method(other)

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
        return pieces

    # -- the constructor

    def _constructor(self) -> Constructor:
        if self.layer is not None:
            return Constructor((), {})
        records = [
            self._record(path, module)
            for path, module in zip(self.paths, self.instances, strict=True)
        ]
        if self.instances == [self.writer.network]:
            return Constructor((), records[0])
        # `hasattr(self, "shortcut")` tells None from nothing at all.
        lacking = [self._children - vars(m).keys() - m._modules.keys() for m in self.instances]
        return unify(records, lacking)

    def _record(self, path: str, module: nn.Module) -> dict[str, Expr]:
        spec = block_spec(module)
        custom = BLOCK_TYPES[spec.lType].writer if spec else None
        if spec is not None and custom is not None:
            return _record_of_own(custom, spec.lType, path, module)
        record: dict[str, Expr] = {}
        of_base: set[str] = set()
        if self.base is not nn.Module:
            made, of_base = self._made_by_base(path, module)
            record.update(made)
        for name, value in module.__dict__.items():
            # A child that only some instances have takes its place from those.
            absent = value is None and name in self._children
            if name in _MODULE_INTERNALS or absent or name in of_base:
                continue
            free = None if path else self.writer._free.get(("", name))
            if name in self.own_reads:
                record[name] = free or self._plain(path, name, value)
            elif name in self.writer.read_of_others and is_writable(value):
                record[name] = free or Literal(value)
        for name, parameter in module._parameters.items():
            if name not in of_base:
                record[name] = self._parameter(path, name, parameter)
        for name, buffer in module._buffers.items():
            if name not in of_base:
                record[name] = self._buffer(path, name, buffer, module)
        for name, child in module._modules.items():
            if name not in of_base:
                record[name] = self.writer._child(f"{path}.{name}" if path else name, child)
        return record

    @property
    def holds_layers(self) -> bool:
        """Whether the class derives from a container of torch and gets its layers handed in.

        A network that is a container itself builds its layers: it takes no arguments.
        """
        return issubclass(self.base, _CONTAINERS) and self.instances != [self.writer.network]

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
            name: self.writer._child(f"{path}.{name}" if path else name, child)
            for name, child in module._modules.items()
        }
        return describe.write_container(module, children)

    def _assigned_in_source(self) -> set[str]:
        """The attributes that the class's own `__init__`s give to `self`."""
        return {name for init, _ in self.inits for name in initialisation.assigned_attributes(init)}

    def _plain(self, path: str, name: str, value: Any) -> Expr:
        if is_writable(value):
            return Literal(value)
        module, qualified = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
        name_in_torch = getattr(value, "__name__", "")
        if name_in_torch.isidentifier() and getattr(torch, name_in_torch, None) is value:
            return Reference(f"torch.{name_in_torch}", "import torch")
        found = getattr(sys.modules.get(str(module)), str(qualified), None) is value
        if module and found and qualified.isidentifier() and origin.is_library(module):
            for binding, statement in self.source.imports.items():
                if statement.endswith(f"import {qualified}") and binding == qualified:
                    return Reference(qualified, statement)
            return Reference(qualified, f"from {module} import {qualified}")
        where = f"{self.cls.__name__}.{name} at {path or 'the network itself'}"
        if callable(value):
            raise WriterError(
                f"{where}: {_said_of(value)}, which no file can import, but {self._reader(name)} "
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
        maker = self._maker(name)
        if maker is None:
            self.writer.warnings.append(
                f"{self.cls.__name__}.{name}: its start values are not known from the source; "
                f"load the weights before use"
            )
        sizes = tuple(
            Argument(f"size{i}", Literal(n, width=True), positional=True)
            for i, n in enumerate(value.shape)
        )
        tensor = Call(Reference(f"torch.{maker or 'empty'}", "import torch"), sizes)
        return Call(
            Reference("nn.Parameter", describe.NN),
            (
                _positional("data", tensor),
                Argument("requires_grad", Literal(value.requires_grad), Literal(True)),
            ),
        )

    def _maker(self, name: str) -> str | None:
        """`ones` where the original says `self.NAME = nn.Parameter(torch.ones(...))`."""
        import ast

        trees = [ast.parse(origin.code_of(init)) for init, _ in self.inits]
        for node in (node for tree in trees for node in ast.walk(tree)):
            match node:
                case ast.Assign(
                    targets=[ast.Attribute(value=ast.Name(id="self"), attr=attribute)],
                    value=ast.Call(args=[ast.Call(func=function)]),
                ) if attribute == name:
                    maker = ast.unparse(function).removeprefix("torch.")
                    return maker if maker in ("ones", "zeros", "randn", "rand", "empty") else None
        return None

    def _buffer(self, path: str, name: str, value: torch.Tensor | None, module: nn.Module) -> Expr:
        persistent = name not in module._non_persistent_buffers_set
        if value is None:
            tensor: Expr = NONE
        elif value.is_meta:
            if persistent:
                self.writer.warnings.append(
                    f"{self.cls.__name__}.{name}: its values are those of the weights file; load "
                    f"it before use"
                )
            sizes = tuple(
                _positional(f"size{i}", Literal(n, True)) for i, n in enumerate(value.shape)
            )
            dtype = Argument("dtype", Literal(value.dtype), Literal(torch.float32))
            tensor = Call(Reference("torch.zeros", "import torch"), (*sizes, dtype))
        elif value.numel() <= 256:
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


class _Definitions:
    """The definitions of a generated file: classes of the network, and what their code uses."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self._order: dict[tuple[str, int], str] = {}
        self._names: dict[str, str] = {}
        self.modules: list[str] = []
        self.future_annotations = False

    def collect(self) -> None:
        for plan in self.writer.plans.values():
            self._claim(plan.cls.__name__, plan.cls.__module__)
        for plan in self.writer.plans.values():
            node = self._class(plan)
            self._place(plan.source, plan.cls.__qualname__.split(".")[0], origin.code_of(node))
            for code, source in plan.kept_code():
                self._resolve(code, source)
            self._resolve(_class_attributes_code(node), plan.source)
            for decorator in node.decorators:
                self._resolve(origin.code_of(decorator.decorator), plan.source)

    def names(self) -> set[str]:
        return set(self._names)

    def home(self, name: str) -> str:
        """The module that defines the name."""
        return self._names[name]

    def in_order(self) -> list[str]:
        """Modules in the order in which they depend on each other, each in its own order."""
        rank = {name: i for i, name in enumerate(self.modules)}
        keys = sorted(self._order, key=lambda key: (-rank[key[0]], key[1]))
        return [self._order[key] for key in keys]

    def _claim(self, name: str, module: str) -> bool:
        """Whether the name is new; WriterError where another module's definition has it."""
        known = self._names.setdefault(name, module)
        if known != module:
            raise WriterError(
                f"name {name}: defined in both {known} and {module}; rename one of the two"
            )
        return True

    def _place(self, source: origin.ModuleSource, name: str, code: str) -> None:
        if source.name not in self.modules:
            self.modules.append(source.name)
        self._order[(source.name, source.position[name])] = code
        self.future_annotations |= source.future_annotations

    def _resolve(self, code: str, source: origin.ModuleSource) -> None:
        """Bring in what the code takes from its module."""
        for name in sorted(origin.global_names(code)):
            self._bring(name, source)

    def _bring(self, name: str, source: origin.ModuleSource) -> None:
        if name in source.definitions:
            if name in self._names and self._names[name] == source.name:
                return
            self._claim(name, source.name)
            node = source.definitions[name]
            if isinstance(node, cst.ClassDef):
                node = _without_own_decorators(node, source)
            text = origin.code_of(node)
            self._place(source, name, text)
            self._resolve(text, source)
            return
        statement = source.imports.get(name)
        if statement is None:
            return  # the linter names it if it is really undefined
        target, imported = _import_target(statement)
        if origin.is_library(target):
            self.writer.imports.need(name, statement)
            return
        if target.split(".")[0] == "pruners":
            raise WriterError(
                f"{source.name}: the kept code uses {name} from {target}, which a generated file "
                f"must not import; use something else in the methods of the network"
            )
        if not imported or imported != name:
            raise WriterError(
                f"{source.name}: `{statement}` brings in a module, or a name under another one; "
                f"expected `from {target} import {imported or '...'}`"
            )
        self._bring(name, origin.module_source(target))

    # -- one class

    def _class(self, plan: _ClassPlan) -> cst.ClassDef:
        reference = to_code(describe.nn_reference(plan.base), self.writer.imports)
        body: list[cst.BaseStatement] = []
        first = plan.node.body.body[0]
        if _is_docstring(first):
            body.append(cst.ensure_type(first, cst.SimpleStatementLine))
        body += self._class_attributes(plan)
        init = self._init(plan)
        if init is not None:
            body.append(init)
        for nodes, _ in plan.methods.values():
            body += [_spaced(node) for node in nodes]
        comments = [line for line in plan.node.leading_lines if line.comment is not None]
        kept = _without_own_decorators(plan.node, plan.source)
        return cst.ClassDef(
            name=plan.node.name,
            bases=[cst.Arg(reference)],
            decorators=kept.decorators,
            leading_lines=comments,
            body=cst.IndentedBlock(body or [cst.parse_statement("pass")]),
        )

    def _class_attributes(self, plan: _ClassPlan) -> list[cst.BaseStatement]:
        """The assignments in the class body that kept code reads."""
        read: set[str] = set()
        for other in self.writer.plans.values():
            read |= other.other_reads
        read |= plan.own_reads
        found: dict[str, cst.BaseStatement] = {}
        for cls, source in plan.lineage:
            for statement in source.class_node(cls).body.body:
                if isinstance(statement, cst.SimpleStatementLine):
                    for name in origin.defined_names(statement):
                        if name in read and name not in plan.instances[0].__dict__:
                            found.setdefault(name, statement)
        return list(found.values())

    def _init(self, plan: _ClassPlan) -> cst.FunctionDef | None:
        constructor = plan.constructor
        params = [cst.Param(cst.Name("self"))]
        for parameter in constructor.parameters:
            annotation, needs = _annotation(parameter.values, parameter.default)
            if needs:
                self.writer.imports.need(*needs)
            default = parameter.default
            params.append(
                cst.Param(
                    cst.Name(checked_identifier(parameter.name)),
                    annotation=cst.Annotation(cst.parse_expression(annotation)),
                    default=None if default is None else to_code(default, self.writer.imports),
                )
            )
        if plan.instances == [self.writer.network]:
            params += self._root_parameters(plan)
        taken = {p.name.value for p in params}
        for name, value in plan.init_arguments.items():
            if name not in taken:
                params.append(cst.Param(cst.Name(name), default=value, annotation=_of(plan, name)))
        comments: dict[str, list[cst.EmptyLine]] = {}
        for original, _ in plan.inits:
            comments = initialisation.comments_before(original) | comments
        made = constructor.body.get(SUPER, Call(Reference(SUPER)))
        body: list[cst.BaseStatement] = self._assignment(SUPER, made)
        signature = cst.Parameters(params)
        if plan.holds_layers:
            body = [cst.parse_statement("super().__init__(*layers)")]
            layers = cst.Param(
                cst.Name("layers"), annotation=cst.Annotation(cst.parse_expression("nn.Module"))
            )
            signature = cst.Parameters(params[:1], star_arg=layers, kwonly_params=params[1:])
            self.writer.imports.need("nn", describe.NN)
        for name, expr in constructor.body.items():
            if name == SUPER:
                continue
            statements = self._assignment(name, expr)
            if name in comments:
                statements[0] = statements[0].with_changes(leading_lines=comments[name])
            body += statements
        if plan.instances == [self.writer.network]:
            body += self._ties()
        body += [statement for statement, _ in plan.init_statements]
        if len(body) == 1 and SUPER not in constructor.body:
            return None
        return cst.FunctionDef(
            name=cst.Name("__init__"),
            params=signature,
            body=cst.IndentedBlock(body),
            returns=cst.Annotation(cst.Name("None")),
            leading_lines=[cst.EmptyLine()],
        )

    def _root_parameters(self, plan: _ClassPlan) -> list[cst.Param]:
        variables = {v.name: v for v in self.writer._free.values()}
        params = []
        for variable in variables.values():
            annotation, _ = _annotation((Literal(variable.value),), None)
            params.append(
                cst.Param(
                    cst.Name(checked_identifier(variable.name)),
                    annotation=cst.Annotation(cst.parse_expression(annotation)),
                    default=to_code(Literal(variable.value), self.writer.imports),
                )
            )
        return params

    def _ties(self) -> list[cst.BaseStatement]:
        """`self.head.weight = self.embedding.weight` for tensors that layers share."""
        statements: list[cst.BaseStatement] = []
        first: dict[int, str] = {}
        for name, tensor in self.writer.network.state_dict(keep_vars=True).items():
            known = first.setdefault(id(tensor), name)
            if known != name:
                target = cst.AssignTarget(_place(name))
                statements.append(cst.SimpleStatementLine([cst.Assign([target], _place(known))]))
        return statements

    def _assignment(self, name: str, expr: Expr) -> list[cst.BaseStatement]:
        imports = self.writer.imports
        if isinstance(expr, Call) and expr.function.name.startswith(("self.", "super()")):
            return [cst.SimpleStatementLine([cst.Expr(to_code(expr, imports))])]
        target = cst.AssignTarget(
            cst.Attribute(cst.Name("self"), cst.Name(checked_identifier(name)))
        )

        def assign(value: Expr) -> cst.SimpleStatementLine:
            return cst.SimpleStatementLine([cst.Assign([target], to_code(value, imports))])

        if isinstance(expr, Either) and isinstance(expr.then, Call):
            switched = cst.If(
                test=to_code(expr.flag, imports), body=cst.IndentedBlock([assign(expr.then)])
            )
            return [switched] if expr.otherwise == ABSENT else [assign(expr.otherwise), switched]
        return [assign(expr)]


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


def _said_of(value: Any) -> str:
    """What kind of callable it is, for somebody who is to replace it."""
    if isinstance(value, types.MethodType):
        return "a method bound to an object"
    if isinstance(value, functools.partial):
        return "a functools.partial"
    if not isinstance(value, (type, types.FunctionType)):
        return f"a {type(value).__name__}"
    if value.__name__ == "<lambda>":
        return "a lambda"
    kind = "class" if isinstance(value, type) else "function"
    local = "<locals>" in value.__qualname__
    return f"a {kind} inside a function" if local else f"the {kind} {value.__qualname__!r}"


def _place(path: str) -> cst.Attribute | cst.Subscript:
    """`self.blocks[0].weight` for the path `blocks.0.weight`."""
    node: cst.Name | cst.Attribute | cst.Subscript = cst.Name("self")
    for part in path.split("."):
        if part.isdigit():
            index = cst.SubscriptElement(cst.Index(cst.Integer(str(int(part)))))
            node = cst.Subscript(node, [index])
        else:
            node = cst.Attribute(node, cst.Name(checked_identifier(part)))
    assert not isinstance(node, cst.Name)
    return node


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


def _is_docstring(statement: cst.CSTNode) -> bool:
    return (
        isinstance(statement, cst.SimpleStatementLine)
        and isinstance(statement.body[0], cst.Expr)
        and isinstance(statement.body[0].value, (cst.SimpleString, cst.ConcatenatedString))
    )


def _spaced(node: cst.FunctionDef) -> cst.FunctionDef:
    comments = [line for line in node.leading_lines if line.comment is not None]
    return node.with_changes(leading_lines=[cst.EmptyLine(), *comments])


def _without_own_decorators(node: cst.ClassDef, source: origin.ModuleSource) -> cst.ClassDef:
    """Without decorators that come from neither Python nor torch: they speak to other programs."""
    kept = []
    for decorator in node.decorators:
        root = origin.code_of(decorator.decorator).split("(")[0].split(".")[0]
        target = _import_target(source.imports.get(root, ""))[0]
        if target and target.split(".")[0] != "pruners" and origin.is_library(target):
            kept.append(decorator)
    return node.with_changes(decorators=kept)


def _import_target(statement: str) -> tuple[str, str]:
    """(module, imported name) of an import of one name; the name is empty for `import x`."""
    import ast

    if not statement:
        return "", ""
    node = ast.parse(statement).body[0]
    if isinstance(node, ast.ImportFrom):
        return node.module or "", node.names[0].name
    assert isinstance(node, ast.Import)
    return node.names[0].name, ""


def _without_absent_classes(
    statement: cst.BaseStatement, present: set[str], source: origin.ModuleSource
) -> cst.BaseStatement | None:
    """The statement without branches for instances of classes that the network does not hold."""
    own = {n for n, node in source.definitions.items() if isinstance(node, cst.ClassDef)}
    own |= {
        name
        for name, text in source.imports.items()
        if not origin.is_library(_import_target(text)[0]) and name[:1].isupper()
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


def _class_attributes_code(node: cst.ClassDef) -> str:
    """The statements of a class body outside of its methods, for the names that they use."""
    lines = [s for s in node.body.body if not isinstance(s, cst.FunctionDef)]
    return "\n".join(origin.code_of(s) for s in lines)


def _of(plan: _ClassPlan, argument: str) -> cst.Annotation | None:
    """The original annotation of an argument, where it is a builtin type."""
    for parameter in (p for init, _ in plan.inits for p in initialisation._parameters(init)):
        if parameter.name.value == argument and parameter.annotation is not None:
            code = origin.code_of(parameter.annotation.annotation)
            return parameter.annotation if code in ("bool", "int", "float", "str") else None
    return None


def _annotation(values: Sequence[Expr], default: Expr | None) -> tuple[str, tuple[str, str] | None]:
    """The type of a parameter, and the import that it needs."""
    kinds: set[str] = set()
    needs: tuple[str, str] | None = None
    for value in (*values, *(() if default is None else (default,))):
        if isinstance(value, (Literal, Variable)):
            kinds.add(_type_of(value.value))
        else:
            kinds.add("nn.Module")
            needs = ("nn", describe.NN)
    if {"int", "float"} <= kinds:
        kinds.discard("int")
    return " | ".join(sorted(kinds - {"None"}) + (["None"] if "None" in kinds else [])), needs


def _type_of(value: Any) -> str:
    if isinstance(value, tuple) and value:
        return f"tuple[{', '.join(_type_of(item) for item in value)}]"
    return "None" if value is None else type(value).__name__


def _docstring(text: str) -> str:
    """The text as a docstring, whatever it holds."""
    safe = text.replace("\\", "\\\\")
    # Quotes that would end it: three or more in a row, and those at its end.
    safe = re.sub(r'"{3,}|"+\Z', lambda quotes: '\\"' * len(quotes[0]), safe)
    return f'"""{safe}\n"""' if "\n" in safe else f'"""{safe}"""'
