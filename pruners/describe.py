"""How layers of torch.nn are built, read from what they are.

A `torch.nn` layer keeps its constructor's arguments in attributes of the same names, so one
function describes nearly all of them; the `write_...` functions name it for the common kinds and
are what a block writer of your own is made of.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from pruners.errors import WriterError
from pruners.expressions import (
    Argument,
    Call,
    Dictionary,
    Display,
    Expr,
    Literal,
    Reference,
    is_writable,
)
from pruners.transformer_layers import arguments_of

NN = "from torch import nn"

# Arguments that count channels: where instances differ in them, they make the table of widths.
WIDTHS = frozenset(
    {"in_channels", "out_channels", "num_features", "in_features", "out_features", "num_channels"}
    | {"normalized_shape", "num_parameters", "embed_dim", "input_size", "hidden_size", "groups"}
    | {"d_model", "dim_feedforward"}
)
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm)
# Arguments that only say in another way what others say, and are not kept.
_OTHER_WAYS = {"Hardtanh": ("min_value", "max_value"), "Embedding": ("_weight", "_freeze")}
# Where a layer is placed and in which precision is not part of its description.
_IGNORED = frozenset({"device", "dtype"})


def nn_reference(cls: type) -> Reference:
    """`nn.Conv2d`, with its import."""
    return Reference(f"nn.{cls.__name__}", NN)


def write_layer(layer: nn.Module, base: type | None = None) -> Call:
    """Any layer of torch.nn without children, and its transformers.

    Args:
        base: the class whose constructor is called, where it is not the layer's own.

    Raises:
        WriterError: an argument of its constructor cannot be told from its attributes.
    """
    cls = type(layer) if base is None else base
    arguments = []
    parts = arguments_of(layer, write_layer) or {}
    for name, parameter in _parameters(cls).items():
        found = parts[name] if name in parts else _value_of(layer, name, parameter)
        value = (
            found
            if isinstance(found, Call)
            else Literal(_simplest(layer, name, found), name in WIDTHS)
        )
        required = parameter.default is inspect.Parameter.empty
        arguments.append(
            Argument(
                name,
                value,
                None if required else Literal(parameter.default, name in WIDTHS),
                positional=required and not (name == "kernel_size" and isinstance(layer, _ConvNd)),
            )
        )
    return Call(nn_reference(cls), tuple(arguments))


write_conv: Callable[[nn.Module], Call] = write_layer
write_batch_norm: Callable[[nn.Module], Call] = write_layer
write_linear: Callable[[nn.Module], Call] = write_layer
write_pooling: Callable[[nn.Module], Call] = write_layer
write_activation: Callable[[nn.Module], Call] = write_layer
write_dropout: Callable[[nn.Module], Call] = write_layer


def write_sequential(container: nn.Module) -> Call:
    """A Sequential, ModuleList or ModuleDict of torch.nn layers, also one within another."""
    children: dict[str, Expr] = {
        name: write_sequential(child) if is_container(child) else write_layer(child)
        for name, child in container.named_children()
    }
    return write_container(container, children)


def write_container(container: nn.Module, children: dict[str, Expr]) -> Call:
    """A Sequential, ModuleList or ModuleDict of children that are described already."""
    numbered = list(children) == [str(i) for i in range(len(children))]
    table = any(isinstance(child, Call) and not _is_plain(child) for child in children.values())
    if isinstance(container, nn.ModuleDict):
        named = Argument("modules", Dictionary(tuple(children.items())), positional=True)
        return Call(nn_reference(nn.ModuleDict), (named,))
    if isinstance(container, nn.ModuleList):
        items = Argument("modules", Display(tuple(children.values())), positional=True)
        return Call(nn_reference(nn.ModuleList), (items,) if children else ())
    if numbered:
        arguments = tuple(Argument(n, c, positional=True) for n, c in children.items())
        return Call(nn_reference(nn.Sequential), arguments, table=table)
    ordered = Call(
        Reference("OrderedDict", "from collections import OrderedDict"),
        (Argument("items", Dictionary(tuple(children.items())), positional=True),),
    )
    return Call(nn_reference(nn.Sequential), (Argument("modules", ordered, positional=True),))


def is_container(module: nn.Module) -> bool:
    """A container of torch.nn, or a subclass of one that runs as the container itself does."""
    for container in (nn.Sequential, nn.ModuleList, nn.ModuleDict):
        if isinstance(module, container):
            cls = type(module)
            return cls is container or cls.forward is container.forward
    return False


def layer_base(cls: type) -> type | None:
    """The layer of torch.nn that a class of somebody else's derives from, if any."""
    base = next(c for c in cls.__mro__ if c.__module__.startswith("torch."))
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    return None if base is nn.Module or issubclass(base, containers) else base


def is_torch_layer(module: nn.Module) -> bool:
    """Whether the class comes with torch."""
    return type(module).__module__.split(".")[0] == "torch"


def _is_plain(call: Call) -> bool:
    return call.function.statement == NN and call.function.name != "nn.Sequential"


@cache
def _parameters(cls: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    parameters = list(inspect.signature(cls).parameters.values())
    if cls in (nn.RNN, nn.LSTM, nn.GRU):
        # Theirs are those of the class that they derive from, and one that RNN alone has.
        idle = {"mode"} if cls is nn.LSTM else {"mode", "proj_size"}
        base = inspect.signature(nn.RNNBase).parameters.values()
        parameters = [p for p in base if p.name not in idle]
    if cls is nn.RNN:
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters.append(inspect.Parameter("nonlinearity", kind, default="tanh"))
    return {
        p.name: p
        for p in parameters
        if p.name not in _IGNORED and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }


def _value_of(layer: nn.Module, name: str, parameter: inspect.Parameter) -> Any:
    if name == "bias" and "bias" in layer._parameters:
        # A norm without affine parameters has no bias whatever its argument says.
        idle = layer._parameters.get("weight", layer.bias) is None and layer.bias is None
        return parameter.default if idle and isinstance(layer, _NORMS) else layer.bias is not None
    if name == "init" and isinstance(layer, nn.PReLU):
        return 0.25  # only a start value, which the weights overwrite
    if isinstance(layer, nn.MultiheadAttention):
        if name in ("bias", "add_bias_kv"):
            return (layer.in_proj_bias if name == "bias" else layer.bias_k) is not None
        if name in ("kdim", "vdim") and getattr(layer, name) == layer.embed_dim:
            return None  # the default
    if name in _OTHER_WAYS.get(type(layer).__name__, ()):
        return parameter.default  # other ways to say what other arguments say
    if isinstance(layer, _NormBase) and name == "track_running_stats":
        return layer.track_running_stats
    value = getattr(layer, name, inspect.Parameter.empty)
    if value is inspect.Parameter.empty or not is_writable(value):
        raise WriterError(
            f"{type(layer).__name__}: argument {name} of its constructor is "
            f"{'not kept by the layer' if value is inspect.Parameter.empty else repr(value)}; "
            f"expected a plain value; register a writer for the block (register_writer)"
        )
    return value


def _simplest(layer: nn.Module, name: str, value: Any) -> Any:
    """(3, 3) as 3 where the layer takes either, and the stride of a pool only where it matters."""
    if name == "normalized_shape" and isinstance(value, tuple) and len(value) == 1:
        return value[0]
    if name == "stride" and value == getattr(layer, "kernel_size", None) and _is_pool(layer):
        return None
    repeated = isinstance(value, tuple) and len(set(value)) == 1
    if repeated and name in ("kernel_size", "stride", "padding", "dilation", "output_padding"):
        return value[0]
    return tuple(value) if isinstance(value, torch.Size) else value


def _is_pool(layer: nn.Module) -> bool:
    return type(layer).__module__ == "torch.nn.modules.pooling"
