"""The graph of one module's own forward, its children staying calls.

torch.fx records what a forward does with stand-ins for its inputs. Here every stand-in also carries
the value that it has on an example, so that a forward which asks for one (`if x.shape[-1] > 7`,
`for part in x.chunk(2)`) gets an answer; what was decided in that way is kept in `decided`, since
the written forward decides it for good. Sizes stay symbolic, and so does `self.training`.
"""

from __future__ import annotations

import inspect
import math
import operator
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from pruners.expressions import is_plain_name
from pruners.origin import is_library
from pruners.tracing import map_tensors

TRAINING = "training"
_TENSORS = (Tensor, np.ndarray)
_MISSING = object()
# Functions of torch that take no tensor, so that torch.fx would not see them.
_MAKERS = frozenset(
    {"arange", "as_tensor", "empty", "eye", "finfo", "full", "iinfo", "linspace", "ones", "rand"}
    | {"from_numpy", "randint", "randn", "randperm", "tensor", "zeros"}
)
# Functions of NumPy that take an array for what it holds, and so do not ask it to stand in.
_ARRAYS = frozenset({"array", "asarray", "ascontiguousarray"})
_FROM_NUMPY = torch.from_numpy
# What a tensor says of itself that no example changes.
_STRUCTURE = frozenset({"dim", "ndimension", "is_floating_point", "is_complex"})


@dataclass(slots=True)
class Traced:
    """The forward of one module as a graph."""

    graph: fx.Graph
    arguments: list[inspect.Parameter]
    """Those of the forward that were given."""
    decided: list[str] = field(default_factory=list)
    """What was asked of values on the way, and so holds for the examples only."""
    constants: dict[str, Tensor] = field(default_factory=dict)
    """Tensors that the forward has from elsewhere than its module's parameters and buffers."""


def trace_forward(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], training: bool
) -> Traced:
    """The graph of the forward of a module, called with these arguments in that mode.

    Child modules run, so that the caller must shield the network from what a run changes.

    Raises:
        Exception: anything that a forward raises when its inputs are stand-ins.
    """
    try:
        return _traced(module, map_tensors((args, kwargs), Tensor.clone), training, whole=False)
    except Exception as error:
        # What an installed package does with values may need real ones: its functions stay calls.
        try:
            return _traced(module, (args, kwargs), training, whole=True)
        except Exception:
            raise error from None


def _traced(module: nn.Module, given: tuple[Any, Any], training: bool, whole: bool) -> Traced:
    tracer = _Tracer(module, *given, training)
    tracer.whole = whole
    graph = tracer.trace(tracer.shadow)
    return Traced(graph, tracer.arguments, tracer.decided, tracer.constants())


class Stand(fx.Proxy):
    """A stand-in that knows the value it stands for."""

    value: Any

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        # `isinstance(x, Tensor)` in a forward is answered as for the value.
        return type(self.__dict__["value"])

    def __getattr__(self, name: str) -> Any:
        value = self.__dict__.get("value", _MISSING)
        if value is _MISSING or (name.startswith("__") and name.endswith("__")):
            raise AttributeError(name)
        if name == "ndim":
            return value.ndim
        if isinstance(value, dict):
            return getattr({key: self._item(key) for key in value}, name)
        attribute = getattr(value, name)
        if callable(attribute) and not isinstance(attribute, Tensor):
            return _Method(self, name)
        return self.tracer.create_proxy("call_function", getattr, (self, name), {})

    def __bool__(self) -> bool:
        return bool(self._decide(bool(self.value)))

    def __int__(self) -> int:
        return int(self._decide(int(self.value)))

    def __index__(self) -> int:
        return int(self._decide(self.value.__index__()))

    def __float__(self) -> float:
        return float(self._decide(float(self.value)))

    def __len__(self) -> int:
        length = len(self.value)
        return int(self._decide(length)) if isinstance(self.value, _TENSORS) else length

    def __iter__(self) -> Iterator[Any]:
        if isinstance(self.value, dict):
            return iter(list(self.value))
        return iter([self._item(i) for i in range(len(self))])

    def __round__(self, *digits: Any) -> Any:
        return self.tracer.create_proxy("call_function", round, (self, *digits), {})

    def __floor__(self) -> Any:
        return self.tracer.create_proxy("call_function", math.floor, (self,), {})

    def __ceil__(self) -> Any:
        return self.tracer.create_proxy("call_function", math.ceil, (self,), {})

    def __array_ufunc__(self, function: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        if method != "__call__" or "out" in kwargs:
            return NotImplemented
        return self.tracer.create_proxy("call_function", function, args, kwargs)

    def __array_function__(self, function: Any, _: Any, args: Any, kwargs: Any) -> Any:
        return self.tracer.create_proxy("call_function", function, args, kwargs)

    def __contains__(self, item: Any) -> bool:
        return bool(self._decide(item in self.value))

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return repr(self.value)  # in the message of an assertion

    def __format__(self, spec: str) -> str:
        return format(self.value, spec)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {})

    def _item(self, key: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.getitem, (self, key), {})

    def _decide(self, answer: Any) -> Any:
        self.tracer.decide(self, answer)  # type: ignore[attr-defined]
        return answer


def _in_place(name: str) -> Any:
    def method(self: Stand, other: Any) -> Any:
        # Of a number, `x += 1` makes another one; of a tensor, it changes it.
        kind = f"i{name}" if isinstance(self.value, _TENSORS) else name
        return self.tracer.create_proxy("call_function", getattr(operator, kind), (self, other), {})

    return method


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    setattr(Stand, f"__i{_name}__", _in_place(_name))


class _Method:
    """A method of a stand-in, until it is called."""

    def __init__(self, of: Stand, name: str) -> None:
        self.of, self.name = of, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.name in _STRUCTURE:
            return getattr(self.of.value, self.name)()
        return self.of.tracer.create_proxy("call_method", self.name, (self.of, *args), kwargs)


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True

    def __init__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], training: bool
    ) -> None:
        super().__init__(autowrap_modules=(math,))
        self.module = module
        self.arguments: list[inspect.Parameter] = []
        self.decided: list[str] = []
        self._given = (args, kwargs)
        self._training = training
        self._evaluating = 0
        self.whole = False
        self._proxies: dict[str, Any] = {}
        self._modules = dict(module.named_modules())
        self._tensor_paths: dict[int, str] = {}
        for path, owner in self._modules.items():
            for name, tensor in (*owner._parameters.items(), *owner._buffers.items()):
                if tensor is not None:
                    full = f"{path}.{name}" if path else name
                    self._tensor_paths.setdefault(id(tensor), full)
        self.shadow = self._shadow()

    def _shadow(self) -> nn.Module:
        """The module with a forward for torch.fx to call, and with `training` as a stand-in."""
        tracer, cls = self, type(self.module)

        def forward(*args: Any, **kwargs: Any) -> Any:
            raise NotImplementedError  # create_args_for_root says what is called

        def training(self: nn.Module) -> Any:
            return tracer._training if tracer._evaluating else tracer.training_mode()

        body = {"forward": forward, TRAINING: property(training)}
        shadow: nn.Module = object.__new__(type.__new__(type(cls), cls.__name__, (cls,), body))
        own = {k: v for k, v in vars(self.module).items() if k not in (TRAINING, "forward")}
        shadow.__dict__.update(own)
        return shadow

    def training_mode(self) -> Any:
        return self._cached(TRAINING)

    def constants(self) -> dict[str, Tensor]:
        names = {n.target for n in self.graph.nodes if n.op == "get_attr"}
        return {
            name: value
            for name, value in vars(self.shadow).items()
            if name in names and isinstance(value, Tensor)
        }

    def decide(self, proxy: Stand, answer: Any) -> None:
        if proxy.node.op != "get_attr" or proxy.node.target != TRAINING:
            self.decided.append(f"{_said(proxy.node)} as {answer!r}")

    # -- what torch.fx asks for

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        args, kwargs = self._given
        own = vars(self.module).get("forward")
        if own is None:
            call = type(self.module).forward.__get__(self.shadow)
        elif getattr(own, "__self__", None) is self.module:
            call = own.__func__.__get__(self.shadow)
        else:
            call = own
        bound = inspect.signature(self.module.forward).bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            parameter = bound.signature.parameters[name]
            self.arguments.append(parameter)
            if parameter.kind is parameter.VAR_KEYWORD:
                self.arguments.pop()
                bound.arguments[name] = {key: self._keyword(key, v) for key, v in value.items()}
                continue
            if type(value) in (bool, str) or value is None:
                self.decided.append(f"{name} as {value!r}")
                continue
            stand = self._value_proxy("placeholder", name, value)
            many = parameter.kind is parameter.VAR_POSITIONAL
            bound.arguments[name] = tuple(stand) if many else stand

        def run() -> Any:
            with (
                self._makers_recorded(),
                self._packages_recorded(),
                self._conversions_recorded(),
            ):
                return call(*bound.args, **bound.kwargs)

        return run, []

    def _keyword(self, name: str, value: Any) -> Any:
        """What `**kwargs` gets under a name, which becomes an argument of its own."""
        if not is_plain_name(name):
            raise TypeError(f"its forward is given {name!r} by name")
        self.arguments.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY))
        if type(value) in (bool, str) or value is None:
            self.decided.append(f"{name} as {value!r}")
            return value
        return self._value_proxy("placeholder", name, value)

    @contextmanager
    def _packages_recorded(self) -> Iterator[None]:
        """The functions of packages that the forward's module names stay calls, where asked."""

        def recorded(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                if self._evaluating or not _holds_stand((args, kwargs)):
                    return function(*args, **kwargs)
                return self.create_proxy("call_function", function, args, kwargs)

            return call

        spaces = [function.__globals__ for function in self._functions()]
        spaces += [
            vars(value)
            for names in spaces
            for value in names.values()
            if isinstance(value, ModuleType) and _is_package(value.__name__)
        ]
        changed: list[tuple[dict[str, Any], str, Any]] = []
        try:
            for names in spaces if self.whole else ():
                for name, value in list(names.items()):
                    function = isinstance(value, (FunctionType, BuiltinFunctionType))
                    if function and _is_package(value.__module__ or ""):
                        changed.append((names, name, value))
                        names[name] = recorded(value)
            yield
        finally:
            for names, name, value in reversed(changed):
                names[name] = value

    def _functions(self) -> list[FunctionType]:
        """The user's own among the methods of the module."""
        own = vars(self.module).get("forward")
        found = [getattr(own, "__func__", own)]
        for cls in type(self.module).__mro__:
            found += vars(cls).values()
        return [
            function
            for function in found
            if isinstance(function, FunctionType) and not is_library(function.__module__ or "")
        ]

    @contextmanager
    def _conversions_recorded(self) -> Iterator[None]:
        """`int(x)` and `float(x)` of a stand-in stay calls, although Python wants numbers of them.

        Not where code asks for the type of anything, as it would see another one.
        """

        def recorded(kind: Any) -> Any:
            class Meta(type):
                def __instancecheck__(cls, instance: Any) -> bool:
                    return isinstance(instance, kind)

                def __call__(cls, *args: Any) -> Any:
                    if tracer._evaluating or not any(type(a) is Stand for a in args):
                        return kind(*args)
                    return tracer.create_proxy("call_function", kind, args, {})

            return Meta(kind.__name__, (), {})

        tracer = self
        functions = self._functions()
        asks = any("type" in function.__code__.co_names for function in functions)
        changed: list[tuple[dict[str, Any], str]] = []
        try:
            for names in () if asks else (function.__globals__ for function in functions):
                for kind in (int, float):
                    if kind.__name__ not in names:
                        names[kind.__name__] = recorded(kind)
                        changed.append((names, kind.__name__))
            yield
        finally:
            for names, name in changed:
                del names[name]

    @contextmanager
    def _makers_recorded(self) -> Iterator[None]:
        """A tensor that the forward makes from numbers alone is made again by the written one."""

        def recorded(maker: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                numbers_only = maker.__module__ == "numpy" and not _holds_stand((args, kwargs))
                if self._evaluating or numbers_only:
                    return maker(*args, **kwargs)
                return self.create_proxy("call_function", maker, args, kwargs)

            return call

        originals = [(torch, name, getattr(torch, name)) for name in _MAKERS]
        originals += [(np, name, getattr(np, name)) for name in _ARRAYS]
        try:
            for home, name, maker in originals:
                setattr(home, name, recorded(maker))
            yield
        finally:
            for home, name, maker in originals:
                setattr(home, name, maker)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Any
    ) -> Any:
        if self._evaluating:
            return forward(*args, **kwargs)
        if is_guard(m):
            return None
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        path = None if self._evaluating else self._tensor_paths.get(id(attr_val))
        return attr_val if path is None else self._cached(path, attr_val)

    def create_arg(self, a: Any) -> Any:
        if type(a) is Stand:
            return a.node
        if isinstance(a, Tensor) and id(a) in self._tensor_paths:
            return self._cached(self._tensor_paths[id(a)], a).node
        if isinstance(a, np.ndarray):
            held = super().create_arg(_FROM_NUMPY(a.copy()))
            return self.create_node("call_method", "numpy", (held,), {})
        if isinstance(a, np.generic):
            return a.item()
        if isinstance(a, np.dtype) or (isinstance(a, type) and issubclass(a, np.generic)):
            return np.dtype(a)
        return super().create_arg(a)

    def proxy(self, node: fx.Node) -> Stand:
        return Stand(node, self)

    def create_proxy(
        self, kind: str, target: Any, args: Any, kwargs: Any, *_: Any, **__: Any
    ) -> Any:
        stand = super().create_proxy(kind, target, args, kwargs)
        values, named = _concrete(args), _concrete(kwargs)
        self._evaluating += 1
        try:
            if kind == "call_function":
                value = target(*values, **named)
            elif kind == "call_method":
                value = getattr(values[0], target)(*values[1:], **named)
            elif kind == "call_module":
                value = self._modules[target](*values, **named)
            else:
                raise AssertionError(f"{kind} has a value of its own")
        finally:
            self._evaluating -= 1
        return self._with_value(stand, value)

    def _value_proxy(self, kind: str, target: str, value: Any) -> Any:
        node = self.create_node(kind, target, (), {})
        return self._with_value(self.proxy(node), value)

    def _with_value(self, stand: Any, value: Any) -> Any:
        stand.__dict__["value"] = value
        node = stand.node
        node.meta["tensor"] = isinstance(value, _TENSORS)
        node.meta["rank"] = value.dim() if isinstance(value, Tensor) else None
        node.meta["length"] = len(value) if isinstance(value, (tuple, list)) else None
        return stand

    def _cached(self, path: str, value: Any = None) -> Any:
        if path not in self._proxies:
            value = self._training if path == TRAINING else value
            self._proxies[path] = self._value_proxy("get_attr", path, value)
        return self._proxies[path]


def is_guard(module: nn.Module | None) -> bool:
    """Whether a module only holds the checks that torch.export has put before a graph."""
    return type(module).__module__ == "torch.export._unlift"


def _is_package(name: str) -> bool:
    """Whether a module is of an installed package that torch.fx knows nothing of."""
    top = name.split(".")[0]
    known = top in sys.stdlib_module_names or top in ("torch", "numpy")
    return not known and is_library(name)


def _holds_stand(value: Any) -> bool:
    kind: Any = type(value)
    if kind is Stand:
        return True
    items = value.values() if kind is dict else value if kind in (tuple, list) else ()
    return any(map(_holds_stand, items))


def _concrete(value: Any) -> Any:
    """The value with every stand-in replaced by what it stands for."""
    if type(value) is Stand:
        return value.value
    if isinstance(value, tuple):
        items = [_concrete(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, list):
        return [_concrete(item) for item in value]
    if isinstance(value, dict):
        return {key: _concrete(item) for key, item in value.items()}
    if isinstance(value, slice):
        return slice(_concrete(value.start), _concrete(value.stop), _concrete(value.step))
    return value


def _said(node: fx.Node) -> str:
    """`gt(size(x, 0), 7)`: how a value came about, in short."""
    if node.op in ("placeholder", "get_attr"):
        return str(node.target)
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "?")
    if name == "getattr":
        return f"{_said(node.args[0])}.{node.args[1]}"  # type: ignore[arg-type]
    inner = (_said(a) if isinstance(a, fx.Node) else repr(a) for a in node.args)
    return f"{name}({', '.join(inner)})" if len(name) < 40 else "a value"
