"""The transformers of torch.nn: what makes their layers alike, and how they are built.

    nn.TransformerEncoder(nn.TransformerEncoderLayer(48, 4, dim_feedforward=40), num_layers=6)

A stack has one description for all of its layers, so that the channels between their two Linears go
in all of them together (`couple_alike`). The layers keep few arguments of their constructors; the
rest is told from their parts (`arguments_of`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import nn

from pruners.channel_graph import ChannelGraph
from pruners.errors import WriterError
from pruners.expressions import Call
from pruners.layers import same, weight_axes

Layer = nn.TransformerEncoderLayer | nn.TransformerDecoderLayer
Stack = nn.TransformerEncoder | nn.TransformerDecoder

_LAYERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
_STACKS = (nn.TransformerEncoder, nn.TransformerDecoder)


def couple_alike(model: nn.Module, graph: ChannelGraph) -> None:
    """Couple the inner channels of all layers of a stack; those of `nn.Transformer`, of both."""
    seen: set[int] = set()
    for path, module in model.named_modules():
        if type(module) not in (nn.Transformer, *_STACKS) or id(module) in seen:
            continue
        seen.update(id(m) for m in module.modules())
        inner = [
            weight_axes(f"{path}.{name}.linear1".lstrip("."), layer.linear1)[0]
            for name, layer in module.named_modules()
            if type(layer) in _LAYERS and isinstance(layer.linear1, nn.Linear)
        ]
        because = f"{path}: nn.{type(module).__name__} has layers of one width"
        for one, other in pairwise(inner):
            if graph.size(one) == graph.size(other):
                graph.couple(same(one, other, graph.size(one), because))


def arguments_of(module: nn.Module, describe: Callable[[nn.Module], Call]) -> dict[str, Any] | None:
    """The arguments that its constructor is to get, plain values and calls; None for other modules.

    Args:
        describe: the expression of a layer of torch.nn.

    Raises:
        WriterError: its parts do not agree, so that no arguments make it.
    """
    if isinstance(module, _LAYERS):
        return _of_layer(module, describe)
    if isinstance(module, _STACKS):
        return _of_stack(module, describe)
    if isinstance(module, nn.Transformer):
        return _of_transformer(module, describe)
    return None


def _of_layer(layer: Layer, describe: Callable[[nn.Module], Call]) -> dict[str, Any]:
    attentions = [m for m in layer.children() if isinstance(m, nn.MultiheadAttention)]
    norms = [m for m in layer.children() if isinstance(m, nn.LayerNorm)]
    linears = [m for m in layer.children() if isinstance(m, nn.Linear)]
    dropouts = [m.p for name, m in layer.named_children() if name.startswith("dropout")]
    biases = [m.bias is not None for m in (*linears, *norms)]
    biases += [m.in_proj_bias is not None for m in attentions]
    return {
        "d_model": _one(layer, "d_model", [m.embed_dim for m in attentions]),
        "nhead": _one(layer, "nhead", [m.num_heads for m in attentions]),
        "dim_feedforward": layer.linear1.out_features,
        "dropout": _one(layer, "dropout", [*dropouts, *(m.dropout for m in attentions)]),
        "activation": _activation(layer, describe),
        "layer_norm_eps": _one(layer, "layer_norm_eps", [m.eps for m in norms]),
        "batch_first": _one(layer, "batch_first", [m.batch_first for m in attentions]),
        "norm_first": layer.norm_first,
        "bias": _one(layer, "bias", biases),
    }


def _activation(layer: Layer, describe: Callable[[nn.Module], Call]) -> Any:
    activation = layer.activation
    if activation in (F.relu, F.gelu):
        # The constructor takes the names of these two.
        return F.relu if activation is F.relu else "gelu"
    if isinstance(activation, nn.Module):
        return _described(layer, "activation", activation, describe)
    raise _unlike(layer, "activation", [getattr(activation, "__name__", repr(activation))])


def _of_stack(stack: Stack, describe: Callable[[nn.Module], Call]) -> dict[str, Any]:
    name = "encoder_layer" if isinstance(stack, nn.TransformerEncoder) else "decoder_layer"
    found: dict[str, Any] = {
        name: _one(stack, name, [_described(stack, name, m, describe) for m in stack.layers]),
        "num_layers": len(stack.layers),
        "norm": None if stack.norm is None else _described(stack, "norm", stack.norm, describe),
    }
    if isinstance(stack, nn.TransformerEncoder):
        found["enable_nested_tensor"] = stack.enable_nested_tensor
        found["mask_check"] = stack.mask_check
    return found


def _of_transformer(whole: nn.Transformer, describe: Callable[[nn.Module], Call]) -> dict[str, Any]:
    stacks = list(_stacks(whole))
    layers = [layer for stack in stacks for layer in stack.layers]
    found = [_of_layer(layer, describe) for layer in layers]
    made = {name: _one(whole, name, [each[name] for each in found]) for name in found[0]}
    norms = [getattr(stack.norm, "eps", None) for stack in stacks]
    _one(whole, "layer_norm_eps", [made["layer_norm_eps"], *norms])
    encoder, decoder = (len(stack.layers) for stack in stacks)
    numbers = {"num_encoder_layers": encoder, "num_decoder_layers": decoder}
    return {**made, **numbers, "custom_encoder": None, "custom_decoder": None}


def _stacks(whole: nn.Transformer) -> Iterator[Stack]:
    kinds: tuple[Any, ...] = _STACKS
    for name, cls in zip(("encoder", "decoder"), kinds, strict=True):
        stack = getattr(whole, name)
        if type(stack) is not cls or not len(stack.layers):
            raise _unlike(whole, f"custom_{name}", [type(stack).__name__])
        yield stack


def _described(
    module: nn.Module, name: str, part: nn.Module, describe: Callable[[nn.Module], Call]
) -> Call:
    """The expression of a part that is a layer of torch; a class of somebody else's has no place in
    one call."""
    if not type(part).__module__.startswith("torch.nn."):
        raise _unlike(module, name, [type(part).__name__])
    return describe(part)


def _one(module: nn.Module, name: str, values: list[Any]) -> Any:
    """The value that all parts agree in."""
    if any(value != values[0] for value in values):
        raise _unlike(module, name, values)
    return values[0]


def _unlike(module: nn.Module, name: str, values: list[Any]) -> WriterError:
    kinds = sorted({"a layer" if isinstance(value, Call) else str(value) for value in values})
    return WriterError(
        f"{type(module).__name__}: argument {name} of its constructor cannot be told from its "
        f"parts ({', '.join(kinds[:3])}); expected what its constructor makes of one value; make "
        f"it a class of your own"
    )
