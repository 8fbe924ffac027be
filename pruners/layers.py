"""What each layer of torch.nn does to the channels that pass through it.

One table, by layer type: which axes of the layer's tensors meet the channels that come in, and
which axis holds the channels that go out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from pruners.channel_graph import Axis, Coupling

Stream = tuple[Axis, ...]
"""The channels of an activation: those of the first axis, then those of the second, ..."""


@dataclass(frozen=True, slots=True)
class Read:
    """An axis that meets incoming channels.

    With one group, channel i meets position i; where `spread`, it meets `size / channels`
    neighbours (height x width for a Linear after a flatten, the multiplier for a depthwise
    convolution). With g groups the axis has `channels / g` positions, each met by one channel of
    every group.
    """

    axis: Axis
    groups: int = 1
    spread: bool = False


@dataclass(frozen=True, slots=True)
class Ports:
    """How a layer, or a row of them, is tied to what comes before and what comes after."""

    reads: tuple[Read, ...] = ()
    couplings: tuple[Coupling, ...] = ()
    output: Stream | None = None
    """The channels that go out; None where those that came in pass through."""
    unknown: str = ""
    """Why nothing is known of the layer; it then freezes what it touches."""


# Layers without parameters that treat every channel alike and alone.
_PASS_THROUGH: tuple[type[nn.Module], ...] = (
    nn.Identity,
    nn.Flatten,
    nn.Upsample,
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.LogSigmoid),
    *(nn.Softsign, nn.Tanhshrink, nn.Hardshrink, nn.Softshrink, nn.Threshold, nn.RReLU),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout),
    *(nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ReflectionPad1d, nn.ReflectionPad2d),
    *(nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ConstantPad1d, nn.ConstantPad2d),
)


def holds_state(module: nn.Module) -> bool:
    """Whether the module itself owns a parameter or buffer."""
    return any(p is not None for p in module._parameters.values()) or any(
        b is not None for b in module._buffers.values()
    )


def is_weighted(module: nn.Module) -> bool:
    """Whether the layer makes new channels: a convolution or a Linear."""
    return isinstance(module, (_ConvNd, nn.Linear))


def weight_axes(path: str, module: nn.Module) -> tuple[Axis, Axis]:
    """The axes (output channels, input channels) of the weight of a convolution or Linear."""
    weight = f"{path}.weight" if path else "weight"
    if isinstance(module, _ConvTransposeNd):
        return Axis(weight, 1), Axis(weight, 0)
    return Axis(weight, 0), Axis(weight, 1)


def ports(path: str, module: nn.Module) -> Ports:
    """The ports of a layer that has no children."""
    base = next(c for c in type(module).__mro__ if c.__module__.startswith("torch."))
    if base is not nn.Module and any(
        getattr(type(module), name, None) is not getattr(base, name, None)
        for name in ("forward", "_conv_forward")
    ):
        return Ports(unknown=f"{path}: no rule for the forward of {type(module).__name__}")
    if isinstance(module, _ConvNd):
        return _convolution(path, module)
    if isinstance(module, nn.Linear):
        rows, columns = weight_axes(path, module)
        return Ports((Read(columns, spread=True),), tuple(_bias(path, module, rows)), (rows,))
    if isinstance(module, _NormBase):
        if _counts_nothing(module):
            return Ports(tuple(Read(axis) for axis in _own_axes(path, module)))
    elif isinstance(module, nn.PReLU):
        if module.num_parameters == 1:
            return Ports()
        return Ports(tuple(Read(axis) for axis in _own_axes(path, module)))
    elif isinstance(module, _PASS_THROUGH):
        return Ports()
    return Ports(unknown=f"{path}: no rule for {type(module).__name__}")


def same(a: Axis, b: Axis, size: int, because: str) -> Coupling:
    """Position i of one axis goes together with position i of the other."""
    everywhere = np.arange(size)
    return Coupling(a, b, everywhere, everywhere, because)


def _convolution(path: str, module: _ConvNd) -> Ports:
    rows, columns = weight_axes(path, module)
    groups, into, out = module.groups, module.in_channels, module.out_channels
    bias = tuple(_bias(path, module, rows))
    if groups == 1:
        return Ports((Read(columns),), bias, (rows,))
    if isinstance(module, _ConvTransposeNd):
        return Ports(unknown=f"{path}: no rule for a grouped transposed convolution")
    if groups == into:
        # Depthwise: row i filters channel i // multiplier, and there are no columns to lose.
        # The rows of one channel go together, so that every channel keeps its multiplier.
        return Ports((Read(rows, spread=True),), bias, (rows,))
    # The groups must stay equally wide: row j of every group goes together, and so does column j.
    positions = np.arange(out)
    equal = Coupling(rows, rows, positions, positions % (out // groups), f"{path}: equal groups")
    return Ports((Read(columns, groups),), (*bias, equal), (rows,))


def _bias(path: str, module: _ConvNd | nn.Linear, rows: Axis) -> Iterator[Coupling]:
    if module.bias is not None:
        yield same(
            rows, Axis(rows.tensor.removesuffix("weight") + "bias", 0), len(module.bias), path
        )


def _own_axes(path: str, module: nn.Module) -> Iterator[Axis]:
    """The first axis of every vector that the layer owns."""
    prefix = f"{path}." if path else ""
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None and tensor.dim() == 1:
            yield Axis(prefix + name, 0)


def _counts_nothing(module: nn.Module) -> bool:
    """Batch and instance norm look at one channel at a time."""
    return isinstance(module, _NormBase)


def follow_widths(modules: Iterable[nn.Module]) -> None:
    """Let every layer of torch.nn say the widths that its tensors have."""
    for module in modules:
        for name, value in widths(module).items():
            module.__dict__[name] = value


def widths(module: nn.Module, runs: bool = False) -> dict[str, Any]:
    """The attributes of a `torch.nn` layer that its tensors determine, as they ought to be.

    Args:
        runs: the layer works as it is, so that its groups are right; the channels that it says
            need not be, for it computes nothing with those.

    >>> widths(nn.Conv2d(4, 8, 1, groups=4))
    {'in_channels': 4, 'out_channels': 8, 'groups': 4}
    """
    weight = module._parameters.get("weight")
    own = module.__dict__
    if isinstance(module, _ConvNd) and weight is not None:
        rows, columns = weight.shape[:2]
        groups, transposed = module.groups, module.transposed
        if groups > 1 and module.in_channels == groups and not runs:
            # Depthwise: groups go with channels.
            groups = rows if transposed else rows // (module.out_channels // groups)
        ins, outs = (rows, columns * groups) if transposed else (columns * groups, rows)
        return {"in_channels": ins, "out_channels": outs, "groups": groups}
    if isinstance(module, nn.Linear) and weight is not None:
        return {"in_features": weight.shape[1], "out_features": weight.shape[0]}
    if isinstance(module, _NormBase):
        known = weight if weight is not None else module._buffers.get("running_mean")
        return {} if known is None else {"num_features": known.shape[0]}
    if isinstance(module, nn.LayerNorm) and weight is not None:
        return {"normalized_shape": tuple(weight.shape)}
    if isinstance(module, nn.GroupNorm) and weight is not None:
        full = own["num_channels"]
        alone = module.num_groups == full and not runs
        groups = weight.shape[0] if alone else module.num_groups
        return {"num_channels": weight.shape[0], "num_groups": groups}
    reads = module._parameters.get("weight_ih_l0")
    if isinstance(module, nn.RNNBase) and reads is not None:
        return {"input_size": reads.shape[1]}
    if isinstance(module, nn.Embedding) and weight is not None:
        return {"num_embeddings": weight.shape[0], "embedding_dim": weight.shape[1]}
    if isinstance(module, nn.PReLU) and weight is not None:
        return {"num_parameters": weight.shape[0]}
    return {}
