"""What parameters and buffers are before training: the expression of the original `__init__`.

    self.register_buffer("index", rel[..., 0] * (2 * window - 1) + rel[..., 1])

is kept with the statements that make `rel`, and `window` becomes `self.window` where `__init__`
says `self.window = window`. Other arguments take the value that the parent's `__init__` gives, or
their default. In `nn.Parameter(layer_scale * torch.ones(dim))` the size is that of the slim
tensor. Everything is tried out before it is believed: the code runs, and must give a tensor of
the shape that the instance has (of the same values, where no weights file brings them).
"""

from __future__ import annotations

import ast
import builtins
import copy
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import libcst as cst
import torch
from torch import Tensor, nn

from pruners.definitions import Node
from pruners.errors import WriterError
from pruners.expressions import HOLE, Argument, Expr, Literal, Verbatim
from pruners.initialisation import parameters_of
from pruners.origin import ModuleSource, Sources, attributes_read, code_of, init_of, text_of

_MAKERS = frozenset(
    {"ones", "zeros", "rand", "randn", "empty", "full", "Tensor", "FloatTensor", "normal"}
)
_ALSO_READ = frozenset({"self", "super"})


@dataclass(frozen=True, slots=True)
class Start:
    """How a tensor begins: the expression, and what it reads of `self`."""

    expr: Verbatim
    reads: frozenset[str]
    source: ModuleSource
    """Where the names in it are found."""

    @property
    def code(self) -> str:
        return "\n".join((*self.expr.before, self.expr.code))


@dataclass(slots=True)
class Starts:
    """The start values of the tensors of one class.

    Args:
        inits: the `__init__` of the class, then those of its bases that it runs.
        given: for every instance, the arguments that its parent's `__init__` gives it.
    """

    cls: type[nn.Module]
    instances: Sequence[nn.Module]
    inits: Sequence[tuple[cst.FunctionDef, ModuleSource]]
    given: Sequence[Mapping[str, Any]]
    defaults: Mapping[str, Any]
    """Defaults of the network's own arguments, for those that go down by their name."""
    then: Sequence[tuple[str, str]] = ()
    """(code, module) of the statements that initialise at the end of `__init__`."""

    def of(self, name: str) -> list[Start | None]:
        """For every instance, how the parameter or buffer begins; None where that is not known."""
        for init, source in self.inits:
            made = _maker_of(name, init)
            if made is None:
                continue
            for slim in (False, True):
                found = [
                    self._start(name, i, init, source, made, slim)
                    for i in range(len(self.instances))
                ]
                if all(
                    start is not None or not _has(module, name)
                    for start, module in zip(found, self.instances, strict=True)
                ):
                    return found
            return [None] * len(self.instances)
        return [None] * len(self.instances)

    def from_method(self, name: str, methods: Mapping[str, list[cst.FunctionDef]]) -> str:
        """The method that makes the tensor and that `__init__` calls without arguments, or "".

        The method is run: all tensors that it makes must have the shapes of the instance's.
        """
        for init, source in self.inits:
            for statement in init.body.body:
                match ast.parse(code_of(statement)).body:
                    case [ast.Expr(ast.Call(ast.Attribute(ast.Name("self"), called), [], []))]:
                        pass
                    case _:
                        continue
                bodies = methods.get(called, [])
                if any(_maker_of(name, body) is not None for body in bodies) and all(
                    self._method_fits(module, called, source) for module in self.instances
                ):
                    return called
        return ""

    # -- one instance

    def _start(
        self,
        name: str,
        number: int,
        init: cst.FunctionDef,
        source: ModuleSource,
        made: _Made,
        slim: bool,
    ) -> Start | None:
        module = self.instances[number]
        tensor = _tensor(module, name) if _has(module, name) else None
        if tensor is None:
            return None
        expr = _unplaced(_branch(made.expr))
        holes: list[Argument] = []
        if slim:
            sized = _with_sizes(expr, tensor, holes)
            if sized is None:
                return None
            expr = sized
        before = _slice(expr, made.before)
        if before is None:
            return None
        try:
            *lines, code = self._all_resolved(
                [*(code_of(_unplaced(s)) for s in before), code_of(expr)], number, init, holes
            )
        except _UnknownError:
            return None
        verbatim = Verbatim(code.strip(), tuple(lines), tuple(holes))
        reads = frozenset().union(*(attributes_read(c)[0] for c in (code, *lines)))
        if any(not hasattr(module, attribute) for attribute in reads):
            return None
        value = _evaluated(verbatim, module, source)
        if value is None or value.shape != tensor.shape:
            return None
        if _only_from_source(module, name) and not (
            _same(value, tensor) or _same(self._filled(name, value, module), tensor)
        ):
            return None
        return Start(verbatim, reads, source)

    def _filled(self, name: str, value: Tensor, module: nn.Module) -> Tensor | None:
        """The buffer after the statements that initialise at the end of `__init__`."""
        stand_in = _stand_in(module)
        stand_in._buffers[name] = value.clone()
        for parameter, tensor in module._parameters.items():
            # Somewhere to draw numbers into; never the network's own.
            meta = None if tensor is None else torch.empty_like(tensor, device="meta")
            stand_in._parameters[parameter] = None if meta is None else nn.Parameter(meta)
        try:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                for code, home in self.then:
                    exec(
                        compile(code, "<start values>", "exec"), {**_space(home), "self": stand_in}
                    )
        except Exception:
            return None
        return stand_in._buffers[name]

    def _all_resolved(
        self, codes: Sequence[str], number: int, init: cst.FunctionDef, holes: list[Argument]
    ) -> list[str]:
        """Statements in order; what turns an argument into something else makes it a local name."""
        local: set[str] = set()
        result: list[str] = []
        for code in codes:
            result.append(self._resolved(code, number, init, holes, local))
            stored = _stored(ast.parse(code.strip()))
            if not isinstance(ast.parse(code.strip()).body[0], (ast.Assign, ast.Expr)):
                names = {p.name.value for p in parameters_of(init)}
                if stored & names - local:
                    raise _UnknownError  # in a branch only
            local |= stored
        return result

    def _resolved(
        self,
        code: str,
        number: int,
        init: cst.FunctionDef,
        holes: list[Argument],
        local: set[str],
    ) -> str:
        """The code with the arguments of `__init__` replaced by what is known of them."""
        arguments = {p.name.value: p for p in parameters_of(init) if p.name.value not in local}
        changed = {n for s in init.body.body for n in _stored(ast.parse(code_of(s)))}
        aliases = {a: name for a, name in _aliases(init).items() if a not in changed}
        module = self.instances[number]
        names: dict[str, str] = {}
        for name in _loaded(code) & arguments.keys() - _ALSO_READ:
            alias = aliases.get(name)
            if alias is not None and alias in module.__dict__:
                names[name] = f"self.{alias}"
                continue
            value = self._value(name, number, arguments[name], init)
            known = [i for i, hole in enumerate(holes) if hole.name == name]
            if not known:
                holes.append(Argument(name, Literal(value)))
            names[name] = f"{HOLE}{known[0] if known else len(holes) - 1}"
        return _renamed(code, names)

    def _value(self, name: str, number: int, parameter: cst.Param, init: cst.FunctionDef) -> Any:
        given = self._given(number, init)
        if name in given:
            if given[name] is not UNKNOWN:
                return given[name]
            if name in self.defaults:
                return self.defaults[name]  # an argument of the network that goes down by its name
            raise _UnknownError
        if parameter.default is not None:
            try:
                return ast.literal_eval(code_of(parameter.default))
            except (ValueError, SyntaxError):
                pass
        elif name in self.defaults:
            return self.defaults[name]
        raise _UnknownError

    def _given(self, number: int, init: cst.FunctionDef) -> Mapping[str, Any]:
        """What an `__init__` is given: that of the class, or that of a base."""
        given = self.given[number]
        for (outer, _), (inner, _) in zip(self.inits, self.inits[1:], strict=False):
            if outer is init:
                break
            given = _handed_on(outer, inner, given)
        return given

    def _method_fits(self, module: nn.Module, method: str, source: ModuleSource) -> bool:
        stand_in = _stand_in(module, without=True)
        try:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                getattr(stand_in, method)()
        except Exception:
            return False
        made = {**stand_in._parameters, **stand_in._buffers}
        if not made or stand_in._modules:
            return False
        for name, value in made.items():
            actual = _tensor(module, name)
            if (value is None) != (actual is None):
                return False
            if value is None or actual is None:
                continue
            if value.shape != actual.shape:
                return False
            if _only_from_source(module, name) and not _same(value, actual):
                return False
        return True


class _UnknownError(Exception):
    """The value of an argument is not known."""


@dataclass(frozen=True, slots=True)
class _Made:
    expr: cst.BaseExpression
    before: Sequence[cst.BaseStatement]
    """The statements in front of the one that makes the tensor."""


def _maker_of(name: str, function: cst.FunctionDef) -> _Made | None:
    """The expression that a function gives to `self.NAME`, anywhere in it.

    `ws.0` is an item of the list or dict of parameters `self.ws`. None where several expressions
    may have made it, or where the branch that makes it does more with it: which of it ran is not
    known.
    """
    if not isinstance(function.body, cst.IndentedBlock):
        return None
    made: list[_Made] = []
    for i, statement in enumerate(function.body.body):
        finder = _FindMaker(name)
        statement.visit(finder)
        if not finder.found or not isinstance(statement, cst.BaseStatement):
            continue
        if isinstance(statement, cst.BaseCompoundStatement):
            tensor = f"self.{name.partition('.')[0]}"
            mentions = [
                node
                for node in ast.walk(ast.parse(code_of(statement)))
                if isinstance(node, ast.Attribute) and ast.unparse(node) == tensor
            ]
            if len(mentions) > finder.mentions:
                return None
        before = [s for s in function.body.body[:i] if isinstance(s, cst.BaseStatement)]
        made += [_Made(expr, before) for expr in finder.found]
    return made[0] if len({code_of(m.expr).strip() for m in made}) == 1 else None


class _FindMaker(cst.CSTVisitor):
    def __init__(self, name: str) -> None:
        self.name, _, self.key = name.partition(".")
        self.found: list[cst.BaseExpression] = []
        self.mentions = 0
        """How often the code that makes it says `self.NAME`."""

    def visit_Assign(self, node: cst.Assign) -> None:  # noqa: N802 - libcst's name
        for target in node.targets:
            self._assigned(target.target, node.value)

    def visit_AnnAssign(self, node: cst.AnnAssign) -> None:  # noqa: N802
        if node.value is not None:
            self._assigned(node.target, node.value)

    def _assigned(self, target: cst.BaseExpression, value: cst.BaseExpression) -> None:
        match ast.parse(code_of(target).strip(), mode="eval").body:
            case ast.Attribute(ast.Name("self"), self.name):
                self.mentions += 1
                if not isinstance(value, cst.Name) or value.value != "None":
                    self.found += _items(value, self.key) if self.key else [value]
            case ast.Subscript(ast.Attribute(ast.Name("self"), self.name), ast.Constant(key)):
                self.mentions += 1
                self.found += [value] if str(key) == self.key else []

    def visit_Call(self, node: cst.Call) -> None:  # noqa: N802
        match ast.parse(code_of(node).strip(), mode="eval").body:
            case ast.Call(
                ast.Attribute(ast.Name("self"), "register_buffer" | "register_parameter"),
                [ast.Constant(self.name), _, *_],
            ) if not self.key:
                if code_of(node.args[1].value) != "None":
                    self.found.append(node.args[1].value)
            case ast.Call(
                ast.Attribute(ast.Attribute(ast.Name("self"), self.name), "append"), [_]
            ) if self.key:
                self.mentions += 1
                self.found.append(node.args[0].value)


def _items(value: cst.BaseExpression, key: str) -> list[cst.BaseExpression]:
    """What `nn.ParameterList([...])` or `nn.ParameterDict({...})` has at a key."""
    if not isinstance(value, cst.Call) or not value.args:
        return []
    match value.args[0].value:
        case cst.List(elements=elements) | cst.Tuple(elements=elements):
            at = int(key) if key.isdigit() else len(elements)
            starred = any(isinstance(e, cst.StarredElement) for e in elements)
            return [elements[at].value] if at < len(elements) and not starred else []
        case cst.ListComp(elt=item) | cst.GeneratorExp(elt=item):
            return [item]
        case cst.Dict(elements=pairs):
            return [
                pair.value
                for pair in pairs
                if isinstance(pair, cst.DictElement) and code_of(pair.key).strip("'\"") == key
            ]
        case cst.DictComp(value=item):
            return [item]
    return []


def _branch(expr: cst.BaseExpression) -> cst.BaseExpression:
    """Of `a if there else None`, a: the instance has the tensor. `nn.Parameter(a)` as a."""
    match expr:
        case cst.IfExp(body=body, orelse=cst.Name("None")):
            return _branch(body)
        case cst.IfExp(body=cst.Name("None"), orelse=orelse):
            return _branch(orelse)
        case cst.Call(func=func, args=[first, *_]) if code_of(func) in (
            *("nn.Parameter", "torch.nn.Parameter", "Parameter", "nn.parameter.Parameter"),
            *("nn.Buffer", "torch.nn.Buffer", "torch.nn.parameter.Parameter"),
        ):
            return _branch(first.value)
    return expr


def _unplaced(node: Node) -> Node:
    """Without `device=device` and `dtype=dtype`: where a network lies is not part of its source."""
    placed = node.visit(_DropPlaces())
    assert isinstance(placed, cst.CSTNode)
    return placed


class _DropPlaces(cst.CSTTransformer):
    def leave_Arg(  # noqa: N802 - libcst's name
        self, original_node: cst.Arg, updated_node: cst.Arg
    ) -> cst.Arg | cst.RemovalSentinel:
        match original_node:
            case cst.Arg(keyword=cst.Name("device" | "dtype" as name), value=cst.Name(given)):
                if given == name:
                    return cst.RemoveFromParent()
            case cst.Arg(star="**", value=cst.Name("dd" | "factory_kwargs")):
                return cst.RemoveFromParent()
        return updated_node


def _slice(
    expr: cst.BaseExpression, before: Sequence[cst.BaseStatement]
) -> list[cst.BaseStatement] | None:
    """The statements that make the local names of an expression; None where they do more."""
    needed = set(_loaded(code_of(expr)))
    kept: list[cst.BaseStatement] = []
    for statement in reversed(before):
        tree = ast.parse(code_of(statement))
        stored = _stored(tree)
        changes = stored & needed or _calls_on(tree) & needed & _assigned_anywhere(before)
        if not changes:
            continue
        if _touches_self(tree):
            return None
        needed |= _loaded(code_of(statement))
        kept.insert(0, statement)
    return kept


def _assigned_anywhere(statements: Sequence[cst.BaseStatement]) -> set[str]:
    return set().union(*(_stored(ast.parse(code_of(s))) for s in statements))


def _stored(tree: ast.AST) -> set[str]:
    """The names that code assigns, also in part: `pe[:, 0::2] = ...`."""
    found: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(name, ast.Store()):
                found.add(name)
            case ast.Subscript(value, ctx=ast.Store()):
                while isinstance(value, (ast.Subscript, ast.Attribute)):
                    value = value.value
                if isinstance(value, ast.Name) and value.id != "self":
                    found.add(value.id)
    return found


def _calls_on(tree: ast.Module) -> set[str]:
    """The names that calls made for their effect work on: `nn.init.zeros_(table)`."""
    return {
        name.id
        for statement in ast.walk(tree)
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
        for name in ast.walk(statement)
        if isinstance(name, ast.Name)
    }


def _touches_self(tree: ast.AST) -> bool:
    """Whether code gives `self` something, or calls its methods."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(ast.Name("self"), ctx=ast.Store()):
                return True
            case ast.Call(ast.Attribute(ast.Name("self"))):
                return True
    return False


def _loaded(code: str) -> set[str]:
    return {
        node.id
        for node in ast.walk(ast.parse(code.strip()))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }


def _handed_on(
    outer: cst.FunctionDef, inner: cst.FunctionDef, given: Mapping[str, Any]
) -> dict[str, Any]:
    """What the `__init__` of a base is given by that of a derived class."""
    tree = ast.parse(code_of(outer))
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "__init__"
    ]
    names = [p.name.value for p in parameters_of(inner)]
    if len(calls) != 1:
        return dict.fromkeys(names, UNKNOWN)
    own = {p.name.value: p for p in parameters_of(outer)}
    changed = _stored(tree)
    passed = _passed(calls[0], [n for n in names if n != "self"])
    if passed is None:
        return dict.fromkeys(names, UNKNOWN)

    def value_of(expr: ast.expr) -> Any:
        if isinstance(expr, ast.Name) and expr.id in own and expr.id not in changed:
            if expr.id in given:
                return given[expr.id]
            default = own[expr.id].default
            return UNKNOWN if default is None else _literal(ast.parse(code_of(default)).body[0])
        return _literal(expr)

    return {name: value_of(expr) for name, expr in passed.items()}


def _passed(call: ast.Call, names: Sequence[str]) -> dict[str, ast.expr] | None:
    """The expressions that a call gives for arguments; None where it spreads some."""
    if any(isinstance(a, ast.Starred) for a in call.args) or any(
        k.arg is None for k in call.keywords
    ):
        return None
    return dict(zip(names, call.args, strict=False)) | {
        k.arg: k.value for k in call.keywords if k.arg is not None
    }


def _literal(node: ast.AST) -> Any:
    inner = node.value if isinstance(node, ast.Expr) else node
    try:
        return ast.literal_eval(inner)
    except (ValueError, SyntaxError):
        return UNKNOWN


def _aliases(init: cst.FunctionDef) -> dict[str, str]:
    """Arguments that `__init__` keeps as they are: `self.window = window_size`."""
    found: dict[str, str] = {}
    stored = Counter(
        node.attr
        for node in ast.walk(ast.parse(code_of(init)))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    )
    for statement in init.body.body:
        match ast.parse(code_of(statement)).body:
            case [ast.Assign([ast.Attribute(ast.Name("self"), attribute)], ast.Name(name))] if (
                stored[attribute] == 1
            ):
                found.setdefault(name, attribute)
    return found


def _with_sizes(
    expr: cst.BaseExpression, tensor: Tensor, holes: list[Argument]
) -> cst.BaseExpression | None:
    """The expression with the sizes of its one `torch.ones(...)` replaced by the tensor's."""
    finder = _FindSizes(tensor.dim())
    expr.visit(finder)
    if len(finder.found) != 1:
        return None
    (call,) = finder.found
    sizes = [cst.Arg(cst.Name(f"{HOLE}{len(holes) + i}")) for i in range(tensor.dim())]
    holes += [Argument(f"size{i}", Literal(n, width=True)) for i, n in enumerate(tensor.shape)]
    name = _last(call.func)
    rest = call.args[1:] if name == "full" else [a for a in call.args if a.keyword is not None]
    if name == "full":
        shape = cst.Tuple([cst.Element(size.value) for size in sizes])
        sizes = [cst.Arg(shape)]
    new = call.with_changes(args=[*sizes, *rest])
    if name in ("Tensor", "FloatTensor"):
        new = new.with_changes(func=cst.parse_expression("torch.empty"))
    return expr.deep_replace(call, new) if call is not expr else new


class _FindSizes(cst.CSTVisitor):
    """Calls such as `torch.ones(1, dim, 1)` that make a tensor of so many dimensions."""

    def __init__(self, dims: int) -> None:
        self.dims = dims
        self.found: list[cst.Call] = []

    def visit_Call(self, node: cst.Call) -> None:  # noqa: N802 - libcst's name
        if _last(node.func) not in _MAKERS or _last(node.func) == "normal":
            return
        given = [a.value for a in node.args if a.keyword is None]
        if given and isinstance(given[0], (cst.Tuple, cst.List)):
            given = [e.value for e in given[0].elements]
        elif _last(node.func) == "full":
            given = given[:1]
        if len(given) == self.dims and self.dims:
            self.found.append(node)


def _last(func: cst.BaseExpression) -> str:
    match func:
        case cst.Attribute(value=cst.Name("torch"), attr=cst.Name(name)):
            return name
    return ""


def _renamed(code: str, names: Mapping[str, str]) -> str:
    if not names:
        return code

    class Rename(cst.CSTTransformer):
        def leave_Name(self, original: cst.Name, updated: cst.Name) -> cst.BaseExpression:  # noqa: N802
            return (
                cst.parse_expression(names[original.value]) if original.value in names else updated
            )

        def visit_AssignTarget(self, node: cst.AssignTarget) -> bool:  # noqa: N802
            return not isinstance(node.target, cst.Name)

        def leave_Arg(self, original: cst.Arg, updated: cst.Arg) -> cst.Arg:  # noqa: N802
            return updated.with_changes(keyword=original.keyword)

        def leave_Attribute(  # noqa: N802
            self, original: cst.Attribute, updated: cst.Attribute
        ) -> cst.Attribute:
            return updated.with_changes(attr=original.attr)

    return cst.parse_module(code).visit(Rename()).code


# --- trying it out --------------------------------------------------------------------------------


def _evaluated(start: Verbatim, module: nn.Module, source: ModuleSource) -> Tensor | None:
    """The tensor that the code makes for an instance."""
    names = {f"{HOLE}{i}": _constant(hole.value) for i, hole in enumerate(start.holes)}
    space = {**_space(source.name), **names, "self": _stand_in(module)}
    program = "\n".join((*start.before, f"_made = ({start.code})"))
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            exec(compile(program, "<start values>", "exec"), space)
    except Exception:
        return None
    made = space["_made"]
    return made if isinstance(made, Tensor) else None


def _space(module: str) -> dict[str, Any]:
    return dict(vars(sys.modules[module]))


def _constant(expr: Expr) -> Any:
    return expr.value if isinstance(expr, Literal) else None


def _stand_in(module: nn.Module, without: bool = False) -> nn.Module:
    """A module with the plain attributes of another; it may be changed."""
    cls = type(module)
    stand_in = cls.__new__(cls)
    nn.Module.__init__(stand_in)
    kept = {k: copy.copy(v) for k, v in vars(module).items() if k not in vars(stand_in)}
    vars(stand_in).update(kept)
    if not without:
        stand_in._buffers.update(module._buffers)
    return stand_in


def _tensor(module: nn.Module, name: str) -> Tensor | None:
    holder, _, key = name.rpartition(".")
    if holder:
        module, name = module._modules[holder] or nn.Module(), key
    tensor = module._parameters.get(name)
    return module._buffers.get(name) if tensor is None else tensor


def _has(module: nn.Module, name: str) -> bool:
    """Whether the module has such a tensor; `ws.0` is an item of a list."""
    if "." in name and name.rpartition(".")[0] not in module._modules:
        return False
    return _tensor(module, name) is not None


def _only_from_source(module: nn.Module, name: str) -> bool:
    """Whether no `state_dict` brings the values."""
    return name in module._non_persistent_buffers_set


def _same(a: Tensor | None, b: Tensor) -> bool:
    if a is None or b.is_meta or a.shape != b.shape:
        return False
    # The network may have been converted since: to float64, say.
    return torch.equal(a.to(b.dtype), b)


# --- what a parent gives its children ------------------------------------------------------------


def given_arguments(
    network: nn.Module, sources: Sources, defaults: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """For every module of the user's, the constants that its parent's `__init__` gives it.

    `self.blur = Blur(5, sigma=2.0)` gives `{"blur": {"size": 5, "sigma": 2.0}}`. Where the call
    that built a module is not found, in a loop say, what calls in the files give is UNKNOWN, but
    for what all of them give alike, and an argument of the network that goes down by its name.
    """
    found: dict[str, dict[str, Any]] = {}
    homes: dict[str, ast.Module] = {}
    for path, module in network.named_modules():
        if type(module).__module__.startswith("torch."):
            continue
        try:
            source = sources.of(type(module).__module__)
            init = init_of(source.class_node(type(module)))
            homes[source.name] = ast.parse(text_of(source.name))
        except WriterError:
            continue
        if init is None:
            continue
        for attribute, call in _calls(ast.parse(code_of(init))):
            child = _descendant(module, attribute)
            own = child is not None and not type(child).__module__.startswith("torch.")
            if child is not None and own and _called(call) == type(child).__name__:
                here = f"{path}.{attribute}".removeprefix(".")
                found[here] = _bound(type(child), call, sources)
    anywhere: dict[type, dict[str, Any]] = {}
    for path, module in network.named_modules():
        cls = type(module)
        if not path or path in found or cls.__module__.startswith("torch."):
            continue
        if cls not in anywhere:
            anywhere[cls] = _given_anywhere(cls, list(homes.values()), sources, defaults)
        found[path] = anywhere[cls]
    return found


def _given_anywhere(
    cls: type, files: Sequence[ast.Module], sources: Sources, defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """What any call that may build an instance of a class gives; UNKNOWN where they differ."""
    try:
        init = init_of(sources.of(cls.__module__).class_node(cls))
    except WriterError:
        return {}
    if init is None:
        return {}
    names = [p.name.value for p in parameters_of(init)][1:]
    calls = [n for tree in files for n in ast.walk(tree) if isinstance(n, ast.Call)]
    functions = {id(c.func) for c in calls}
    # The class goes by other names where it is handed on: `self._make_layer(Block, ...)`.
    handed_on = any(
        isinstance(n, ast.Name)
        and n.id == cls.__name__
        and isinstance(n.ctx, ast.Load)
        and id(n) not in functions
        for tree in files
        for n in ast.walk(tree)
    )
    nodes = [n for tree in files for n in ast.walk(tree)]
    defined = {n.name for n in nodes if isinstance(n, (ast.ClassDef, ast.FunctionDef))}
    defined |= {a.asname or a.name for n in nodes if isinstance(n, ast.ImportFrom) for a in n.names}
    found: dict[str, Any] = {}
    for call in calls:
        mine = _called(call) == cls.__name__
        other = isinstance(call.func, ast.Name) and call.func.id not in defined | _BUILTINS
        if not mine and not (handed_on and (other or _called(call) == "partial")):
            continue
        arguments = call.args[1:] if _called(call) == "partial" else call.args
        passed = _passed(ast.Call(call.func, arguments, call.keywords), names)
        if passed is None:
            return dict.fromkeys(names, UNKNOWN)
        for name, expr in passed.items():
            value = _literal(expr)
            by_name = isinstance(expr, ast.Name) and expr.id == name and name in defaults
            if by_name:
                value = defaults[name]
            same = name not in found or found[name] is value or found[name] == value
            # What some calls leave out has its default there.
            found[name] = value if same and (by_name or (mine and not handed_on)) else UNKNOWN
    counts = Counter(
        n for c in calls if _called(c) == cls.__name__ for n in _passed(c, names) or ()
    )
    total = sum(_called(c) == cls.__name__ for c in calls)
    return {n: v if counts[n] == total else UNKNOWN for n, v in found.items()}


_BUILTINS = frozenset(dir(builtins))


def _called(call: ast.Call) -> str:
    return ast.unparse(call.func).rpartition(".")[2]


def _descendant(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """`self.NAME = Call(...)`, and the calls within a Sequential."""
    for node in ast.walk(tree):
        match node:
            case ast.Assign([ast.Attribute(ast.Name("self"), name)], ast.Call() as call):
                yield from _nested(name, call)


def _nested(path: str, call: ast.Call) -> Iterator[tuple[str, ast.Call]]:
    yield path, call
    if _called(call) == "Sequential" and not any(isinstance(a, ast.Starred) for a in call.args):
        for i, argument in enumerate(call.args):
            if isinstance(argument, ast.Call):
                yield from _nested(f"{path}.{i}", argument)


def _bound(cls: type, call: ast.Call, sources: Sources) -> dict[str, Any]:
    try:
        init = init_of(sources.of(cls.__module__).class_node(cls))
    except WriterError:
        return {}
    if init is None or any(isinstance(a, ast.Starred) for a in call.args):
        return {}
    names = [p.name.value for p in (*init.params.posonly_params, *init.params.params)][1:]
    pairs = [*zip(names, call.args, strict=False)]
    pairs += [(k.arg, k.value) for k in call.keywords if k.arg is not None]
    found: dict[str, Any] = {}
    for name, value in pairs:
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = UNKNOWN
    return found


UNKNOWN = object()
"""An argument that is given, but not as a constant."""
