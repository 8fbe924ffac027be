"""Batch norms computed into the layers before them, under the keys that the network has.

In eval mode a batch norm is a scale and a shift of every channel. The scale goes into the weights
of the layer before it, and the shift into that layer's bias, or, where it has none, stays as the
batch norm's own; what is left of the batch norm multiplies by one. So the tensors are those of the
fused network and yet load strictly into the class that a generated file describes, whose modules
are what they are. (Exporters then drop the operator altogether.) Such a network is for running:
statistics that training would go on with are gone.

Which layer feeds which batch norm is read from the exported graph, not from names: a layer is
folded only where the batch norm alone reads its output, and each of their tensors is used once.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from pruners.deploy.exporting import Inputs, exported

_LAYERS = frozenset(
    {
        torch.ops.aten.conv1d.default,
        torch.ops.aten.conv1d.padding,
        torch.ops.aten.conv2d.default,
        torch.ops.aten.conv2d.padding,
        torch.ops.aten.conv3d.default,
        torch.ops.aten.conv3d.padding,
        torch.ops.aten.linear.default,
    }
)
"""Output channels are the first dimension of their weights."""


@dataclass(frozen=True, slots=True)
class Folded:
    """A network that is ready to run, and to do nothing else."""

    state_dict: OrderedDict[str, Tensor]
    norms: tuple[str, ...]
    """Module paths of the batch norms that became part of the layer before them."""
    left: tuple[str, ...]
    """Those of the others."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """A layer and the batch norm behind it, as keys of the state_dict."""

    weight: str
    layer_bias: str | None
    norm_weight: str | None
    norm_bias: str | None
    mean: str
    var: str
    eps: float


def folded(model: nn.Module, inputs: Inputs) -> Folded:
    """The network's state_dict with batch norms folded, and without what only training needs.

    Counters of batches are set to zero; they stay, as loading strictly asks for them.

    Args:
        model: left as it is.
        inputs: examples of all inputs.

    Raises:
        PrunerError: torch.export cannot follow the network.
    """
    own = model.state_dict()
    state: OrderedDict[str, Tensor] = OrderedDict(
        (name, tensor.detach().cpu().clone()) for name, tensor in own.items()
    )
    state._metadata = getattr(own, "_metadata", None)  # type: ignore[attr-defined]
    norms = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    }
    done = []
    for pair in _pairs(model, inputs, own) if norms else ():
        _fold(pair, state)
        done.append(pair.mean.rpartition(".")[0])
    for path in norms:
        counter = f"{path}.num_batches_tracked".removeprefix(".")
        if counter in state:
            state[counter].zero_()
    return Folded(state, tuple(done), tuple(path for path in norms if path not in done))


def _fold(pair: _Pair, state: dict[str, Tensor]) -> None:
    """In place; in float64, so that each value is rounded once."""

    def wide(name: str | None, otherwise: float) -> Tensor:
        if name is None:
            return torch.full_like(state[pair.mean], otherwise, dtype=torch.float64)
        return state[name].double()

    def set_to(name: str | None, values: Tensor | float) -> None:
        if name is not None:
            with torch.no_grad():
                state[name].copy_(torch.as_tensor(values))

    weight = state[pair.weight].double()
    scale = wide(pair.norm_weight, 1) / (wide(pair.var, 1) + pair.eps).sqrt()
    shift = (wide(pair.layer_bias, 0) - wide(pair.mean, 0)) * scale + wide(pair.norm_bias, 0)
    set_to(pair.weight, weight * scale.view(-1, *[1] * (weight.ndim - 1)))
    set_to(pair.norm_weight, 1.0)
    set_to(pair.var, 1.0 - pair.eps)
    # The shift goes to the first of the three that there is.
    set_to(pair.layer_bias, shift)
    set_to(pair.norm_bias, 0.0 if pair.layer_bias else shift)
    set_to(pair.mean, 0.0 if pair.layer_bias or pair.norm_bias else -shift)


def _pairs(model: nn.Module, inputs: Inputs, own: dict[str, Any]) -> list[_Pair]:
    """What can be folded."""
    program = exported(model, inputs, "finalize")
    signature = program.graph_signature
    key_of = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    places = Counter(x.data_ptr() for x in own.values() if isinstance(x, Tensor) and x.numel())

    def key(node: Any, user: Node) -> str | None:
        """The key of a tensor that this operator alone reads."""
        if not isinstance(node, Node) or list(node.users) != [user]:
            return None
        name = key_of.get(node.name)
        return name if name in own and places[own[name].data_ptr()] == 1 else None

    pairs = []
    for norm in program.graph.nodes:
        if norm.target is not torch.ops.aten.batch_norm.default or norm.args[5]:
            continue
        layer = norm.args[0]
        if layer.target not in _LAYERS or list(layer.users) != [norm]:
            continue
        if layer.target is torch.ops.aten.linear.default and layer.meta["val"].ndim != 2:
            continue  # the batch norm's channels are not the Linear's
        given = [*layer.args[1:3], None][:2] + list(norm.args[1:5])
        users = [layer, layer, norm, norm, norm, norm]
        names = [None if x is None else key(x, user) for x, user in zip(given, users, strict=True)]
        if any(x is not None and name is None for x, name in zip(given, names, strict=True)):
            continue
        weight, layer_bias, norm_weight, norm_bias, mean, var = names
        if weight is None or mean is None or var is None:
            continue
        eps = float(norm.args[7])
        pairs.append(_Pair(weight, layer_bias, norm_weight, norm_bias, mean, var, eps))
    return pairs
