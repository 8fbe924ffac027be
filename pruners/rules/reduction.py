"""Reduction, pooling, normalisation: labels survive along the dimensions that do.

Over channels a mean, a softmax or a layer norm depends on how many there are: it *counts* them. A
sum does not, if what is gone was silent (`silence.py`).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from pruners.calls import Call, normal_dims
from pruners.labels import NONE, Labels, Layer, collapse, spread, varies
from pruners.notes import Notes, Rule
from pruners.rules.pointwise import met
from pruners.rules.silence import is_loud


def total(n: Notes, call: Call) -> Labels | list[Labels]:
    """Sums and norms: a channel that is silent adds nothing."""
    return _reduced(n, call, n.count if is_loud(call.x) else lambda layer: None)


def statistic(n: Notes, call: Call) -> Labels | list[Labels]:
    """Means, maxima, variances: over channels they depend on how many there are."""
    return _reduced(n, call, n.count)


def arg_statistic(n: Notes, call: Call) -> Labels | list[Labels]:
    """What returns positions: over channels they would be other numbers."""
    return _reduced(n, call, lambda layer: n.freeze(layer, "is searched for a position"))


def _reduced(n: Notes, call: Call, over: Callable[[Layer], None]) -> Labels | list[Labels]:
    rank = call.x.dim()
    dims = normal_dims(call.named("dim"), rank)
    outs = [call.out] if isinstance(call.out, Tensor) else list(call.out)
    shape = outs[0].shape
    keepdim = len(shape) == rank
    result = []
    for layer in n.of(call.x):
        inside = [d for d in varies(layer) if d in dims]
        if inside:
            over(layer)
            outside = [d for d in varies(layer) if d not in dims]
            if outside:  # every surviving row loses the same positions
                n.couple(layer, collapse(layer, outside))
            continue
        layer = collapse(layer, dims)
        if not keepdim:
            layer = layer.squeeze(dims)
        result.append(layer.expand(shape))
    labels = tuple(result)
    return labels if isinstance(call.out, Tensor) else [labels for _ in outs]


def softmax(n: Notes, call: Call) -> Labels:
    dim = call.args[1] % max(call.x.dim(), 1)
    for layer in n.of(call.x):
        if dim in varies(layer):
            n.count(layer)
    return n.of(call.x)


def ordered(n: Notes, call: Call) -> Labels | list[Labels]:
    """cumsum, sort, topk: the order along the dimension matters, so its channels stay."""
    dim = call.named("dim", -1) % max(call.x.dim(), 1)
    kept = [n.without(layer, [dim], "is put in order or added up") for layer in n.of(call.x)]
    outs = [call.out] if isinstance(call.out, Tensor) else list(call.out)
    labels = tuple([collapse(k, [dim]).expand(outs[0].shape) for k in kept if k is not None])
    return labels if isinstance(call.out, Tensor) else [labels for _ in outs]


def pool(spatial: int) -> Rule:
    """Windows over the last `spatial` dimensions: labels survive along the others."""

    def rule(n: Notes, call: Call) -> Labels | list[Labels]:
        outs = [call.out] if isinstance(call.out, Tensor) else list(call.out)
        shape, rank = outs[0].shape, call.x.dim()
        window = range(rank - spatial, rank)
        result = []
        for layer in n.of(call.x):
            left = n.without(layer, window, "is pooled or resized over")
            if left is not None:
                result.append(collapse(left, window).expand(shape))
        labels = tuple(result)
        return labels if isinstance(call.out, Tensor) else [labels for _ in outs]

    return rule


def batch_norm(n: Notes, call: Call) -> Labels | list[Labels]:
    """Affine parameters and running statistics go with the channel; the result carries theirs."""
    x = call.x
    ids = n.channels(x, 1)
    carried = ids
    first = True
    for scale in call.args[1:5]:
        if isinstance(scale, Tensor):
            own = n.channels(scale, 0)
            if first:
                n.meet(ids, own, "normalises an input of the network")
                carried = own
                first = False
            else:
                n.meet(carried, own, "normalises an input of the network")
    others = n.others(x, 1)
    for layer in others:
        # The statistics of a channel are over these: a standardised weight, say.
        if any(dim != 1 for dim in varies(layer)):
            n.count(layer)
    result = [] if carried is None else [spread(carried, 1, x.shape)]
    labels = (*result, *others)
    return labels if isinstance(call.out, Tensor) else [labels, NONE, NONE][: len(call.out)]


def layer_norm(n: Notes, call: Call) -> Labels:
    x, rank = call.x, len(call.args[1])
    affine = [a for a in (call.arg(2), call.arg(3)) if isinstance(a, Tensor)]
    for layer in n.of(x):
        if any(d >= x.dim() - rank for d in varies(layer)):
            n.count(layer)
    met(n, [x, *affine], x.shape)
    return n.of(x)


def group_norm(n: Notes, call: Call) -> Labels:
    x, groups = call.x, call.args[1]
    ids = n.channels(x, 1)
    if ids is not None and x.shape[1] > groups:
        n.columns(ids, groups)
        n.count(ids)
    for scale in call.args[2:4]:
        if isinstance(scale, Tensor):
            n.meet(ids, n.channels(scale, 0), "normalises an input of the network")
    return n.of(x)


def local_response_norm(n: Notes, call: Call) -> Labels:
    ids = n.channels(call.x, 1)
    if ids is not None:
        n.count(ids)
    return n.of(call.x)


def weight_norm(n: Notes, call: Call) -> Labels | list[Labels]:
    """g * v / |v|: the norm runs over every dimension but one."""
    v, g = call.args[:2]
    dim = call.arg(2, 0) % v.dim()
    n.meet(n.channels(v, dim), n.channels(g, dim), "is scaled by a constant")
    for layer in n.of(v):
        n.count(layer)
    return n.of(v) if isinstance(call.out, Tensor) else [n.of(v), n.of(g)]
