"""Writes a network as source.

`__init__` of every class is regenerated from what the instances are (`describe`, `unify`);
everything else is the original's text (`origin`, `initialisation`). The writer depends on the
instance alone and takes no weights: it also serves for a network that somebody else has pruned.
"""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import libcst as cst
import torch
from torch import nn

from pruners import describe, initialisation, origin
from pruners.blocks import register_writer
from pruners.class_plan import ClassPlan, Context, shared_modules
from pruners.class_text import ClassText
from pruners.definitions import RESERVED, Definitions, public_home
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
    NONE,
    Call,
    Expr,
    Handed,
    Imports,
    Reference,
    Variable,
    checked_identifier,
    to_code,
)
from pruners.formatting import format_source
from pruners.origin import Sources, code_of, is_library
from pruners.sizes.rewrites import Rewrites
from pruners.starts import given_arguments

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


class Writer:
    """Writes one network.

    Args:
        network: the slim network; meta tensors do.
        factory: name of the function that builds it.
        rewrites: numbers in its forwards that have to become others.

    Attributes:
        warnings: what could not be kept of the original, a line each.
        factory: the function's name in the file: `build_NAME` where the file has NAME already.

    Raises:
        WriterError: a part of the network cannot be written; names it.
    """

    register_writer = staticmethod(register_writer)

    def __init__(self, network: nn.Module, factory: str, rewrites: Rewrites | None = None) -> None:
        root = type(network)
        if describe.is_torch_layer(network):
            raise WriterError(
                f"the network is a bare {root.__name__}; expected a class of your own with a "
                f"forward, so that the generated file has a class to name"
            )
        self.network = network
        self.warnings: list[str] = []
        rewrites = rewrites or Rewrites()
        sources = rewrites.sources()
        classes: dict[type, list[tuple[str, nn.Module]]] = {}
        for path, module in network.named_modules(remove_duplicate=False):
            classes.setdefault(type(module), []).append((path, module))
        imports = Imports()
        definitions = Definitions(sources.of, imports)
        definitions.claim(root)
        defaults = _defaults(root, sources)
        self._context = Context(
            network=network,
            rewrites=rewrites,
            source_of=sources.of,
            definitions=definitions,
            imports=imports,
            warnings=self.warnings,
            classes=classes,
            free=open_arguments(network, sources),
            read_of_others=_read_of_others(classes, sources),
            given=given_arguments(network, sources, defaults),
            defaults=defaults,
            shared=shared_modules(network),
            child=self._child,
        )
        self._plans: dict[type, ClassPlan] = {}
        self._planning: list[type] = []
        self._plan(root)
        text = ClassText(self._context, self._plans)
        for plan in self._plans.values():
            name = plan.cls.__qualname__.split(".")[0]
            definitions.place(plan.source, name, text.definition(plan))
            for child in {type(m) for module in plan.instances for m in module.modules()}:
                if child in self._plans:
                    definitions.depends(plan.source.name, child.__module__)
        taken = factory in definitions.names() or factory in {
            "Path",
            *RESERVED,
            *imports.statements,
        }
        taken = taken or keyword.iskeyword(factory)
        self.factory = checked_identifier(f"build_{factory}" if taken else factory)

    def source(self, header: str) -> str:
        """The text of the model description file; `header` becomes its docstring."""
        return f"{_docstring(header)}\n\n{self.code}"

    @cached_property
    def code(self) -> str:
        """The text of the model description file without its header."""
        definitions = self._context.definitions
        imports = Imports(dict(self._context.imports.statements))
        imports.need("torch", "import torch")
        path_type = "Path"
        if "Path" in definitions.names() or "Path" in imports.statements:
            imports.need("os", "import os")
            path_type = "os.PathLike[str]"
        else:
            imports.need("Path", "from pathlib import Path")
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(TEMPLATES),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            autoescape=False,  # Python, not HTML; values are code from libcst or checked names
        )
        code = environment.get_template("model.py.j2").render(
            future_annotations=definitions.future_annotations,
            imports=sorted(imports.statements.values()),
            definitions=definitions.in_order(),
            factory=self.factory,
            root=self._plans[type(self.network)].name,
            path_type=path_type,
            arguments=self._root_arguments(imports),
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
                    replace(a, value=self._context.free.get((path, a.name), a.value))
                    for a in call.arguments
                ),
            )
        cls = type(module)
        if cls in self._planning:
            return Handed(path)  # a tree: the class is built of instances of itself
        part = self._library_part(module)
        if part is not None:
            return part
        plan = self._plan(cls)
        if plan.layer is not None:
            call = describe.write_layer(module, plan.layer)
            return replace(call, function=Reference(plan.name))
        return plan.call(path)

    def _library_part(self, module: nn.Module) -> Call | None:
        """A module of an installed package that holds no tensors, built through its import."""
        cls = type(module)
        holds = module._parameters or module._buffers or module._modules
        if holds or not is_library(cls.__module__) or cls is type(self.network):
            return None
        if cls.__module__ in self._context.rewrites.edits or "." in cls.__qualname__:
            return None
        try:
            call = describe.write_layer(module)
        except WriterError:
            return None
        name, home = cls.__name__, public_home(cls)
        return replace(call, function=Reference(name, f"from {home} import {name}"))

    def _child(self, path: str, child: nn.Module | None) -> Expr:
        return NONE if child is None else self.describe(path, child)

    def _plan(self, cls: type) -> ClassPlan:
        if cls not in self._plans:
            self._planning.append(cls)
            try:
                self._plans[cls] = ClassPlan(self._context, cls, self._context.classes[cls])
            finally:
                self._planning.pop()
        return self._plans[cls]

    def _root_arguments(self, imports: Imports) -> str:
        """What the network's own class is called with, where it also builds a part of it."""
        plan = self._plans[type(self.network)]
        if plan.instances == [self.network]:
            return ""
        arguments = (to_code(a.value, imports) for a in plan.call("").arguments)
        named = (
            code_of(cst.Arg(code, keyword=cst.Name(checked_identifier(p.name))))
            for code, p in zip(arguments, plan.constructor.parameters, strict=True)
        )
        return "".join(f"{argument}, " for argument in named)

    def _dtype(self) -> str:
        kinds = {t.dtype for t in self.network.state_dict().values() if t.is_floating_point()}
        if len(kinds) > 1:
            raise WriterError(
                f"the network has tensors of {' and '.join(sorted(map(str, kinds)))}; expected one "
                f"floating dtype: convert it first, as with model.float()"
            )
        return str(kinds.pop()) if len(kinds) == 1 and kinds != {torch.float32} else ""


def _docstring(text: str) -> str:
    """The text as a docstring, whatever it holds."""
    safe = text.replace("\\", "\\\\")
    # Quotes that would end it: three or more in a row, and those at its end.
    safe = "\n".join(line.rstrip() for line in safe.splitlines())
    safe = re.sub(r'"{3,}|"+\Z', lambda quotes: '\\"' * len(quotes[0]), safe)
    return f'"""{safe}\n"""' if "\n" in safe else f'"""{safe}"""'


def open_arguments(network: nn.Module, sources: Sources) -> dict[tuple[str, str], Variable]:
    """Arguments of the original network that stay arguments of the generated one.

    By (path, argument) of the layers that they go into.
    """
    found: dict[tuple[str, str], Variable] = {}
    first: set[str] | None = None
    for cls in type(network).__mro__:
        if not issubclass(cls, nn.Module) or cls.__module__.startswith("torch."):
            continue
        source = sources.of(cls.__module__)
        init = origin.init_of(source.class_node(cls))
        if init is None:
            continue
        names = initialisation.argument_names(init)
        # A base's argument is the network's where its own __init__ has one of that name.
        first = names if first is None else first
        for argument in initialisation.free_arguments(network, cls, init, sources):
            if argument.name in first:
                for use in argument.uses:
                    found[use] = Variable(argument.name, argument.value)
    return found


def _defaults(cls: type, sources: Sources) -> dict[str, Any]:
    """The defaults of the network's own arguments that are constants."""
    init = origin.init_of(sources.of(cls.__module__).class_node(cls))
    found: dict[str, Any] = {}
    for parameter in initialisation.parameters_of(init) if init else ():
        if parameter.default is not None:
            with suppress(ValueError, SyntaxError):
                found[parameter.name.value] = ast.literal_eval(origin.code_of(parameter.default))
    return found


def _read_of_others(
    classes: Mapping[type, list[tuple[str, nn.Module]]], sources: Sources
) -> frozenset[str]:
    """The attributes that methods read of something else than `self`: of blocks, say."""
    read: set[str] = set()
    for cls, instances in classes.items():
        if describe.is_torch_layer(instances[0][1]) or describe.is_container(instances[0][1]):
            continue
        node = sources.of(cls.__module__).class_node(cls)
        for name, methods in origin.methods_of(node).items():
            if name != "__init__":
                for method in methods:
                    read |= origin.attributes_read(origin.code_of(method))[1]
    return frozenset(read)
