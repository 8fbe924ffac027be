"""The shape of a result, for the operators that nearly all of a network consists of.

A meta kernel would say it as well, but these kernels are written in Python and take most of the
time of a run. What is not plain (mixed types, sizes that do not fit, a rounding mode) gets no
answer here, and the kernel is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pruners.calls import words

_SAME_SHAPE = frozenset(
    words(
        "relu relu6 hardtanh hardswish hardsigmoid silu gelu sigmoid tanh elu leaky_relu"
        " mish softplus dropout feature_dropout"
    )
)

IN_PLACE = frozenset(
    words(
        "relu_ relu6_ hardtanh_ hardswish_ hardsigmoid_ silu_ sigmoid_ tanh_ elu_"
        " leaky_relu_ mish_ dropout_ feature_dropout_ add_ mul_ sub_ div_"
    )
)
"""Operators whose result is their first argument, which a meta tensor has no need to compute."""


def output_shape(name: str, call_args: tuple[Any, ...]) -> Sequence[int] | None:
    """The shape of the result, None where the kernel has to be asked.

    >>> x, weight = torch.empty(1, 3, 8, 8), torch.empty(4, 3, 3, 3)
    >>> output_shape("conv2d", (x, weight, None, [2, 2], [1, 1]))
    [1, 4, 4, 4]
    """
    if name == "cat":
        return _joined(call_args[0], call_args[1] if len(call_args) > 1 else 0)
    x: Tensor = call_args[0]
    if name in _SAME_SHAPE:
        return x.shape
    if name in ("batch_norm", "instance_norm", "group_norm"):
        widths = [a.shape[0] for a in call_args[1:5] if isinstance(a, Tensor)]
        return x.shape if all(n == x.shape[1] for n in widths) else None
    if name == "layer_norm":
        fits = list(x.shape[-len(call_args[1]) :]) == list(call_args[1])
        affine = [a for a in call_args[2:4] if isinstance(a, Tensor)]
        fits = fits and all(list(a.shape) == list(call_args[1]) for a in affine)
        return x.shape if fits else None
    if name in ("conv1d", "conv2d", "conv3d"):
        return _convolved(*call_args)
    if name in ("add", "mul", "sub", "div"):
        other = call_args[1]
        if isinstance(other, Tensor) and x.dtype == other.dtype and x.is_floating_point():
            return _broadcast(x.shape, other.shape)
        number = isinstance(other, (int, float)) and x.is_floating_point()
        return x.shape if number else None
    if name == "linear":
        weight = call_args[1]
        fits = weight.dim() == 2 and x.dim() > 1 and x.shape[-1] == weight.shape[1]
        return [*x.shape[:-1], weight.shape[0]] if fits else None
    if name == "adaptive_avg_pool2d" and x.dim() == 4:
        height, width = call_args[1]
        return [*x.shape[:2], height, width]
    if name in ("max_pool2d", "avg_pool2d") and x.dim() == 4:
        return _pooled(name, *call_args)
    return None


RECURRENT = frozenset(words("lstm gru rnn_tanh rnn_relu"))
"""Operators with several results, which a kernel would compute step by step."""


def recurrent_result(call_args: tuple[Any, ...]) -> tuple[Tensor, ...] | None:
    """The output and the last states, on meta; None for packed sequences, and where the first layer
    does not read as many features as there are."""
    x, states = call_args[0], call_args[1]
    states = [states] if isinstance(states, Tensor) else states
    packed = not isinstance(call_args[2], (list, tuple)) or not isinstance(call_args[4], int)
    if packed or isinstance(call_args[4], bool) or x.dim() != 3:
        return None
    if call_args[2][0].shape[1] != x.shape[-1]:
        return None
    directions = 2 if call_args[7] else 1
    output = [*x.shape[:2], directions * states[0].shape[-1]]
    shapes = [output, *(state.shape for state in states)]
    return tuple(torch.empty(shape, dtype=x.dtype, device="meta") for shape in shapes)


def agrees(call_args: tuple[Any, ...]) -> bool:
    """Whether the second argument is a number or a tensor of the first one's shape."""
    if len(call_args) < 2 or not isinstance(call_args[1], Tensor):
        return True
    return bool(call_args[0].shape == call_args[1].shape)


def _broadcast(a: Sequence[int], b: Sequence[int]) -> Sequence[int] | None:
    if a == b:
        return a
    if len(a) < len(b):
        a, b = b, a
    shape = list(a)
    for d, n in enumerate(b, len(a) - len(b)):
        if shape[d] != n:
            if shape[d] != 1 and n != 1:
                return None
            shape[d] = max(n, shape[d]) if min(n, shape[d]) else 0
    return shape


def _joined(pieces: Sequence[Tensor], dim: int) -> Sequence[int] | None:
    first = pieces[0]
    shape = list(first.shape)
    for x in pieces[1:]:
        sizes = list(x.shape)
        if len(sizes) != len(shape) or x.dtype != first.dtype or not x.is_meta:
            return None
        sizes[dim], shape[dim] = shape[dim] + sizes[dim], shape[dim] + sizes[dim]
        if sizes != shape:
            return None
    return shape if shape else None


def _convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Sequence[int] | None:
    k = weight.dim() - 2
    if x.dim() != k + 2 or isinstance(padding, str) or x.shape[1] != weight.shape[1] * groups:
        return None
    s, p, d = (
        list(v) * (k // len(v)) if isinstance(v, (list, tuple)) else [v] * k
        for v in (stride, padding, dilation)
    )
    shape = [x.shape[0], weight.shape[0]]
    for i in range(k):
        size = (x.shape[2 + i] + 2 * p[i] - d[i] * (weight.shape[2 + i] - 1) - 1) // s[i] + 1
        if size < 1:
            return None
        shape.append(size)
    return shape


def _pooled(
    name: str, x: Tensor, kernel: Any, stride: Any = None, *more: Any
) -> Sequence[int] | None:
    padding, *rest = more or (0,)
    dilation = rest[0] if name == "max_pool2d" and rest else 1
    rounds_up = rest[1:2] if name == "max_pool2d" else rest[:1]
    if any(rounds_up):
        return None
    k, p, d = (list(v) * (2 // len(v)) if isinstance(v, (list, tuple)) else [v, v]
               for v in (kernel, padding, dilation))  # fmt: skip
    s = stride if stride else k
    s = list(s) * (2 // len(s)) if isinstance(s, (list, tuple)) else [s, s]
    sizes = [(x.shape[2 + i] + 2 * p[i] - d[i] * (k[i] - 1) - 1) // s[i] + 1 for i in range(2)]
    return [*x.shape[:2], *sizes] if min(sizes) > 0 and 2 * max(p) <= min(k) else None
