"""Source for networks that have none: a class from `exec` or a function, a `GraphModule`.

`with_source` gives every such class a forward that is written from its traced graph. What it
returns has the tensors, the module paths and the children of the original, and classes whose source
can be read; from there on it is a network like any other.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import linecache
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from types import ModuleType
from typing import Any

import libcst as cst
import torch
from torch import Tensor, fx, nn

from pruners.blocks import block_spec
from pruners.cells import cells_of, classes_within, current_class, holds_class
from pruners.describe import is_container
from pruners.errors import WriterError
from pruners.expressions import is_plain_name, is_writable
from pruners.formatting import format_source
from pruners.freshness import Stamp, check_current, functions_of, stamp
from pruners.graph_text import Forward, GraphError, forward_of
from pruners.graph_trace import is_guard, trace_forward
from pruners.loading import import_source
from pruners.origin import code_of, global_names, init_of, module_source
from pruners.tracing import (
    State,
    map_tensors,
    nested_tensors,
    stand_ins,
    swap_tensors,
    untouched,
)

MARK = "Written from the traced graph (torch.fx), as the class has no source file."
BARE = "Layers that the forward of the network calls; its graph has no class for them."
_INTERNALS = frozenset(nn.Module().__dict__)
_BLOCK = "__pruner_block__"
# Methods that torch calls, and that a class written from its forward does not have.
_CALLED_BY_TORCH = ("train", "_load_from_state_dict", "_save_to_state_dict", "get_extra_state")


@dataclass(frozen=True, slots=True)
class Sourced:
    """A network that can be read, as far as it can."""

    network: nn.Module
    notes: tuple[str, ...] = ()
    """What is to be said of classes that were written from their graph, a line each."""
    unreadable: str = ""
    """Why a class has no source and cannot be given one; then the network is the original."""
    oracle: nn.Module | None = None
    """What a verification compares with, where it cannot be the original."""


@dataclass(slots=True)
class _Class:
    """A class that is to be written."""

    original: type
    base: type
    name: str = ""
    forward: Forward | None = None
    constants: dict[str, Tensor] = field(default_factory=dict)
    trained: Forward | None = None
    """The forward in training mode, where it is another one."""


def with_source(network: nn.Module, examples: Sequence[tuple[Any, ...]]) -> Sourced:
    """The network itself where all its classes have source; else one that has, on the same tensors.

    Args:
        network: left as it was.
        examples: the positional arguments of its forward, for every example.
    """
    try:
        older = _older_ones(network)
        lacking = {
            path: m
            for path, m in network.named_modules()
            if type(m) in older or _lacks_source(path, m)
        }
        return _written(network, lacking, examples) if lacking else Sourced(network)
    except (_UnwritableError, WriterError) as error:
        return Sourced(network, (), str(error))


class _UnwritableError(Exception):
    """Why a class cannot be given source."""


# --- which classes have source -----------------------------------------------------------------


def _lacks_source(path: str, module: nn.Module) -> bool:
    """Whether the file that a class says it is from does not hold it."""
    cls = type(module)
    if is_guard(module):
        return False
    if isinstance(module, fx.GraphModule) or "forward" in vars(module):
        return True
    if cls is nn.Module:
        return True  # torch.fx puts its modules into bare ones
    if cls.__module__.split(".")[0] == "torch" or (path and is_container(module)):
        return False
    own = (c for c in cls.__mro__ if issubclass(c, nn.Module) and not _is_torch(c))
    return not all(_is_in_its_file(c) for c in own)


def _is_torch(cls: type) -> bool:
    return cls.__module__.startswith("torch.")


def _is_in_its_file(cls: type) -> bool:
    module = sys.modules.get(cls.__module__)
    path = getattr(module, "__file__", None)
    if path is None:
        return module is not None and _is_in_cells(module, cls)
    if cls.__qualname__ not in _classes_in(path, stamp(path)):
        check_current(cls)  # it may have been there
        return False
    # A class of that name may have come out of `exec` since.
    files = {function.__code__.co_filename for function in functions_of(cls)}
    return not files or path in files or any(not name.startswith("<") for name in files)


def _is_in_cells(module: ModuleType, cls: type) -> bool:
    """Whether the cells of a notebook hold a class, and all that its methods mention."""
    own = [c for c in cls.__mro__ if c.__module__ == cls.__module__]
    if not all(holds_class(module, c) for c in own):
        return False
    source = module_source(module.__name__)
    pending = [_without_init(source.definitions[c.__qualname__.split(".")[0]]) for c in own]
    seen: set[str] = set()
    while pending:
        for name in global_names(code_of(pending.pop())) - seen:
            seen.add(name)
            if name in source.definitions:
                pending.append(_without_init(source.definitions[name]))
            elif name in vars(module) and name not in source.imports:
                stars = (sys.modules.get(star) for star in source.stars)
                if not any(hasattr(star, name) for star in stars):
                    return False
    return True


def _without_init(node: cst.BaseStatement) -> cst.BaseStatement:
    """A class without its `__init__`, which is written anew."""
    init = init_of(node) if isinstance(node, cst.ClassDef) else None
    if init is None:
        return node
    return cst.ensure_type(node.deep_remove(init), cst.ClassDef)


def _older_ones(network: nn.Module) -> set[type]:
    """Classes of a notebook that share their name with one that was defined after them."""
    names: dict[tuple[str, str], set[type]] = {}
    for cls in map(type, network.modules()):
        names.setdefault((cls.__module__, cls.__qualname__), set()).add(cls)
    return {
        cls
        for (name, qualname), classes in names.items()
        if len(classes) > 1 and (module := sys.modules.get(name)) is not None
        for cls in classes
        if cells_of(module) is not None and current_class(module, qualname) is not cls
    }


@lru_cache(maxsize=256)
def _classes_in(path: str, _: Stamp) -> frozenset[str]:
    """The qualified names of the classes of a file outside of functions."""
    linecache.checkcache(path)
    try:
        tree = ast.parse("".join(linecache.getlines(path)))
    except (SyntaxError, ValueError):
        return frozenset()

    return frozenset(classes_within(tree.body))


# --- writing those that have none --------------------------------------------------------------


def _written(
    network: nn.Module, lacking: Mapping[str, nn.Module], examples: Sequence[tuple[Any, ...]]
) -> Sourced:
    kinds: dict[int, type] = {id(m): _kind(m) for m in lacking.values()}

    def kind(module: nn.Module) -> type:
        return kinds.get(id(module), type(module))

    notes: list[str] = []
    classes: dict[int, _Class] = {}
    calls = _calls(network, lacking, examples)
    state = State.of(network)
    for path, module in lacking.items():
        cls = type(module)
        if kinds[id(module)] in (nn.ModuleList, nn.ModuleDict) and cls is nn.Module:
            continue
        entry = classes[id(module)] = _Class(cls, kinds[id(module)])
        if id(module) not in calls or (path and is_container(module)) or _runs_as_torch(module):
            continue
        where = f"{path} ({_said(cls)})" if path else f"class {_said(cls)}"
        args, kwargs = calls[id(module)]
        try:
            forwards, decided = _forwards(network, state, module, args, kwargs, kind, entry)
        except Exception as error:
            raise _UnwritableError(
                f"{where}: has no source file, and its forward cannot be written from its graph "
                f"({type(error).__name__}: {' '.join(str(error).split())[:300]}); put the class "
                f"into a .py file and import it from there"
            ) from error
        entry.forward, entry.trained = forwards
        notes += [f"{where}: its forward decides {d} for good" for d in dict.fromkeys(decided)]
        notes += [
            f"{where}: its own {name} is left out"
            for name in _CALLED_BY_TORCH
            if not _is_torch(_owner_of(cls, name))
        ]
    _name(classes, lacking, network)
    made = _made(classes)
    result = _rebuilt(network, classes, made, kinds, {})
    _compare(network, result, examples)
    said = dict.fromkeys(c.name for c in classes.values() if c.forward is not None)
    head = [f"{name}: written from the traced graph, as the class has no source" for name in said]
    # An exported network cannot be set to evaluation; it was compared above as it is.
    return Sourced(result, (*head, *notes), oracle=result if "eval" in vars(network) else None)


def _kind(module: nn.Module) -> type:
    """The class of torch from which the written class derives, or that takes its place."""
    names = list(module._modules)
    cls = type(module)
    bare = cls is nn.Module
    if bare and names and not module._parameters and not module._buffers:
        if names == [str(i) for i in range(len(names))]:
            return nn.ModuleList
        if not all(is_plain_name(name) for name in names):
            return nn.ModuleDict
    if bare or isinstance(module, fx.GraphModule):
        plain = all(is_plain_name(name) for name in names)
        return nn.Module if plain or not names else nn.Sequential
    return next(c for c in cls.__mro__ if issubclass(c, nn.Module) and _is_torch(c))


def _runs_as_torch(module: nn.Module) -> bool:
    """Whether the forward is that of the layer of torch that the class derives from."""
    if "forward" in vars(module) or isinstance(module, fx.GraphModule):
        return False
    return _is_torch(_owner_of(type(module), "forward"))


def _owner_of(cls: type, name: str) -> type:
    return next(c for c in cls.__mro__ if name in vars(c))


Call = tuple[tuple[Any, ...], dict[str, Any]]


def _calls(
    network: nn.Module, lacking: Mapping[str, nn.Module], examples: Sequence[tuple[Any, ...]]
) -> dict[int, Call]:
    """How every module without source is called first, in evaluation or else in training."""
    calls: dict[int, Call] = {}

    def record(module: nn.Module, args: Any, kwargs: Any) -> None:
        copied = map_tensors((args, kwargs), Tensor.clone)
        calls.setdefault(id(module), copied)

    state = State.of(network)
    for training in (False, True):
        for example in examples:
            if all(id(module) in calls for module in lacking.values()):
                return calls
            with _shielded(network, state, training):
                for module in lacking.values():
                    module.register_forward_pre_hook(record, with_kwargs=True)
                try:
                    network(*map_tensors(example, Tensor.clone))
                except Exception:
                    break  # the analysis tells what is wrong with the example
    return calls


@contextmanager
def _shielded(network: nn.Module, state: State, training: bool) -> Iterator[None]:
    """For runs that leave no trace: not in the modules, not in the random state."""
    with untouched(state.modules), torch.no_grad():
        swap_tensors(state.modules, stand_ins(state, False))
        for module in state.modules:
            module.training = training
        yield


def _forwards(
    network: nn.Module,
    state: State,
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    kind: Any,
    entry: _Class,
) -> tuple[tuple[Forward, Forward | None], list[str]]:
    """The forward in evaluation, the one in training where it differs, and what was decided."""

    def traced(training: bool) -> tuple[Forward, list[str]]:
        with _shielded(network, state, training):
            inputs = map_tensors((args, kwargs), Tensor.clone)
            found = trace_forward(module, inputs[0], inputs[1], training)
            entry.constants |= {n: t.detach().clone() for n, t in found.constants.items()}
            return forward_of(found, module, kind), found.decided

    evaluated, decided = traced(False)
    try:
        trained, more = traced(True)
    except Exception as error:
        # Batch norm refuses to train on one value, say; the analysis will say so if it matters.
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return (evaluated, None), [*decided, f"to run in training as in evaluation ({why})"]
    return (evaluated, None if evaluated.same(trained) else trained), [*decided, *more]


# --- text --------------------------------------------------------------------------------------


def _name(
    classes: Mapping[int, _Class], lacking: Mapping[str, nn.Module], network: nn.Module
) -> None:
    """A name of its own for every class that is written; equal ones share theirs."""
    kept = {type(m).__name__ for m in network.modules() if id(m) not in classes}
    taken = kept | {"torch", "nn", "F", "math", "Path", "OrderedDict"} | set(dir(builtins))
    taken |= {n for c in classes.values() for f in (c.forward, c.trained) if f for n in f.imports}
    names: dict[tuple[Any, ...], str] = {}
    for path, module in lacking.items():
        entry = classes.get(id(module))
        if entry is None:
            continue
        text = tuple(_dumped(f) for f in (entry.forward, entry.trained))
        key: tuple[Any, ...] = (entry.original, entry.base, text, block_spec(module))
        if entry.forward is None:  # without one, what it holds says what it is
            tensors = (*module._parameters.items(), *module._buffers.items())
            key += tuple((name, tensor is None or tensor.dim()) for name, tensor in tensors)
            # A class cannot hold itself, and what begins differently is something else.
            first = next(iter(module._modules.items()), ("", None))
            key += (_height(module, classes), first[0], _skeleton(first[1]))
        if key not in names:
            last = path.rpartition(".")[2]
            own = entry.original.__name__
            if entry.original is nn.Module or not is_plain_name(own):
                own = last.title().replace("_", "").rstrip("0123456789") if path else "Network"
            if own.startswith("GraphModule") or hasattr(nn, own):
                own = "Network" if not path else "Block"
            own = own if is_plain_name(own) else "Block"
            free = (own, *(f"{own}{n}" for n in range(2, 10_000)))
            names[key] = next(name for name in free if name not in taken)
            taken.add(names[key])
        entry.name = names[key]


def _height(module: nn.Module, classes: Mapping[int, _Class]) -> int:
    """How many written classes stand below a module, one within the other."""
    below = max((_height(child, classes) for child in module.children()), default=0)
    return below + (id(module) in classes)


def _skeleton(module: nn.Module | None) -> Any:
    """Which layers a module holds, and how."""
    if module is None:
        return None
    return type(module), tuple((n, _skeleton(child)) for n, child in module._modules.items())


def _dumped(forward: Forward | None) -> str:
    if forward is None:
        return ""
    return ast.dump(ast.Module([*forward.body, ast.Expr(ast.Lambda(forward.arguments, _NONE))], []))


_NONE = ast.Constant(None)


def _made(classes: Mapping[int, _Class]) -> dict[str, type]:
    """The classes, imported from text."""
    tree: list[ast.stmt] = [
        ast.Expr(ast.Constant("Classes that have no source file of their own.")),
        *ast.parse("import torch\nimport torch.nn.functional as F\nfrom torch import nn").body,
    ]
    imports: dict[str, str] = {}
    by_name = {entry.name: entry for entry in classes.values()}
    for entry in by_name.values():
        for forward in (entry.forward, entry.trained):
            for name, statement in (forward.imports if forward else {}).items():
                if imports.setdefault(name, statement) != statement:
                    raise _UnwritableError(f"name {name}: two functions of that name; rename one")
    tree += [s for statement in imports.values() for s in ast.parse(statement).body]
    tree += [_definition(entry) for entry in by_name.values()]
    module = ast.fix_missing_locations(ast.Module(tree, []))
    text = format_source(ast.unparse(module))
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    imported = import_source(f"graph_{digest}", text)
    made: dict[str, type] = {}
    for name, entry in by_name.items():
        made[name] = getattr(imported, name)
        said = getattr(entry.original, _BLOCK, None)
        if said is not None:
            setattr(made[name], _BLOCK, said)
    return made


def _definition(entry: _Class) -> ast.ClassDef:
    body: list[ast.stmt] = []
    if entry.forward is not None:
        statements = entry.forward.body
        if entry.trained is not None:
            statements = _by_mode(entry.trained.body, entry.forward.body)
        body.append(ast.FunctionDef("forward", entry.forward.arguments, statements, []))
    doc = ast.Expr(ast.Constant(_docstring(entry.original)))
    base = ast.parse(f"nn.{entry.base.__name__}", mode="eval").body
    if getattr(nn, entry.base.__name__, None) is not entry.base:
        raise _UnwritableError(
            f"class {_said(entry.original)}: derives from {entry.base.__name__}, which torch.nn "
            f"does not name; put the class into a .py file"
        )
    return ast.ClassDef(entry.name, [base], [], [doc, *body], [])


def _by_mode(trained: list[ast.stmt], evaluated: list[ast.stmt]) -> list[ast.stmt]:
    """Statements that do the one or the other, what both begin and end with written once."""
    a, b = ([ast.dump(statement) for statement in body] for body in (trained, evaluated))
    shorter = min(len(a), len(b))
    head = next((i for i in range(shorter) if a[i] != b[i]), shorter)
    tail = next((i for i in range(shorter - head) if a[-1 - i] != b[-1 - i]), shorter - head)
    training = ast.Attribute(ast.Name("self", ast.Load()), "training", ast.Load())
    then, otherwise = (body[head : len(body) - tail] for body in (trained, evaluated))
    if tail == 0 and then:  # it returns
        return [*evaluated[:head], ast.If(training, then, []), *otherwise]
    test = training if then else ast.UnaryOp(ast.Not(), training)
    branch = ast.If(test, then or otherwise, otherwise if then else [])
    return [*evaluated[:head], branch, *evaluated[len(evaluated) - tail :]]


def _docstring(cls: type) -> str:
    """The class's own docstring, and the mark."""
    if cls is nn.Module:
        return BARE
    own = vars(cls).get("__doc__")
    if type(own) is not str or not own.strip() or not own.isprintable() or issubclass(cls, _FX):
        return MARK
    return f"{own.strip()}\n\n    {MARK}\n    "


_FX = (fx.GraphModule,)


def _said(cls: type) -> str:
    """The name of a class for a message, whatever it is."""
    name = cls.__name__
    return name if is_plain_name(name) else repr(str(name))[:60]


# --- the network -------------------------------------------------------------------------------


def _rebuilt(
    module: nn.Module,
    classes: Mapping[int, _Class],
    made: Mapping[str, type],
    kinds: Mapping[int, type],
    done: dict[int, nn.Module],
) -> nn.Module:
    """The module with written classes below it; itself where there are none."""
    if id(module) in done:
        return done[id(module)]
    children = {
        name: None if child is None else _rebuilt(child, classes, made, kinds, done)
        for name, child in module._modules.items()
        if not is_guard(child)
    }
    entry = classes.get(id(module))
    same = all(child is module._modules[name] for name, child in children.items())
    if entry is None and id(module) not in kinds and same:
        done[id(module)] = module
        return module
    own = vars(module)
    if entry is not None:
        cls = made[entry.name]
        if entry.base is nn.Module or isinstance(module, fx.GraphModule):
            fx_own = isinstance(module, fx.GraphModule)
            own = {
                name: value
                for name, value in own.items()
                if name in _INTERNALS or (is_writable(value) and not fx_own)
            }
            if fx_own:  # those of torch.export speak to the class that is replaced
                own |= {n: OrderedDict() for n in own if n.endswith(("_hooks", "_with_kwargs"))}
        own = {name: value for name, value in own.items() if name != "forward"}
    else:
        cls = kinds.get(id(module), type(module))
    new: nn.Module = object.__new__(cls)
    new.__dict__.update(own)
    new.__dict__["_modules"] = children
    for name in ("_parameters", "_buffers", "_non_persistent_buffers_set"):
        new.__dict__[name] = own[name].copy()
    for name, tensor in (entry.constants if entry else {}).items():
        new.__dict__.pop(name, None)
        new.register_buffer(name, tensor, persistent=False)
    done[id(module)] = new
    return new


def _compare(network: nn.Module, written: nn.Module, examples: Sequence[tuple[Any, ...]]) -> None:
    """Raises _UnwritableError where the written network does not compute what the original does."""
    for number, example in enumerate(examples):
        outputs = []
        for module in (network, written):
            with _shielded(module, State.of(module), False):
                try:
                    outputs.append(nested_tensors(module(*map_tensors(example, Tensor.clone))))
                except Exception as error:
                    if module is network:
                        return  # the analysis tells what is wrong with the example
                    raise _UnwritableError(_differs(network, number, f"raises {error}")) from error
        if len(outputs[0]) != len(outputs[1]):
            raise _UnwritableError(_differs(network, number, "returns something else"))
        for a, b in zip(*outputs, strict=True):
            if a.shape != b.shape or not torch.allclose(a, b, 1e-4, 1e-6, equal_nan=True):
                raise _UnwritableError(_differs(network, number, "computes something else"))


def _differs(network: nn.Module, number: int, what: str) -> str:
    return (
        f"class {_said(type(network))}: has no source file, and what is written from its graph "
        f"{' '.join(what.split())[:200]} on example input {number}; put the class into a .py file "
        f"and import it from there"
    )


__all__ = ["MARK", "GraphError", "Sourced", "with_source"]
