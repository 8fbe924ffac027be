"""Pointwise: labels meet element by element, and the result carries them on.

Shortcuts, squeeze-excite gates and layer scale are all this one rule (`met`).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pruners.calls import Call
from pruners.labels import Labels, varies
from pruners.notes import Notes


def pointwise(n: Notes, call: Call) -> Labels | list[Labels]:
    inputs = call.tensors()
    outs = [call.out] if isinstance(call.out, Tensor) else list(call.out)
    shape = outs[0].shape
    if len(inputs) == 1 and inputs[0].shape == shape:
        result = n.of(inputs[0])
    else:
        result = met(n, inputs, shape)
    return result if isinstance(call.out, Tensor) else [result for _ in outs]


def met(n: Notes, inputs: Sequence[Tensor], shape: Sequence[int]) -> Labels:
    """Labels of tensors that are broadcast against each other and meet element by element.

    A tensor without labels that is wider than 1 where another has them is a constant as wide as
    the channels: those stay.
    """
    own = [[layer.expand(shape) for layer in n.of(x)] for x in inputs]
    merged = n.merge(layer for layers in own for layer in layers)
    for layer in merged:
        dims = varies(layer)
        for x, layers in zip(inputs, own, strict=True):
            if any(d in dims for known in layers for d in varies(known)):
                continue
            lead = len(shape) - x.dim()
            wide = [d for d in dims if d >= lead and x.shape[d - lead] > 1]
            n.without(layer, wide, "meets a tensor of its width that no weight produces")
    return tuple(merged)


def in_place(n: Notes, call: Call) -> Labels:
    """As pointwise, but the labels of what is written to never change: other views see it too."""
    before = n.of(call.x)
    if len(call.tensors()) > 1:
        known = [d for layer in before for d in varies(layer)]
        for layer in met(n, call.tensors(), call.x.shape):
            if not any(d in known for d in varies(layer)):
                n.freeze(layer, "is written into a tensor that no weight produces")
    return before


def prelu(n: Notes, call: Call) -> Labels:
    slope = n.channels(call.args[1], 0)
    if slope is not None:
        n.meet(n.channels(call.x, 1), slope, "scales an input of the network")
    return n.of(call.x)


def glu(n: Notes, call: Call) -> Labels:
    dim = call.arg(1, -1) % call.x.dim()
    result = []
    for layer in n.of(call.x):
        a, b = layer.chunk(2, dim)
        if dim in varies(layer):
            n.couple(a, b)
        if varies(a):
            result.append(a)
    return tuple(result)
