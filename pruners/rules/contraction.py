"""Contraction: coupled along the contracted dimension; the result carries those of the others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pruners.calls import Call
from pruners.labels import LABELS, NONE, Labels, Layer, collapse, fold, spread, varies
from pruners.notes import Notes
from pruners.rules.pointwise import met
from pruners.rules.silence import is_loud

_READS = "reads an input of the network or a constant"


def convolution(n: Notes, call: Call) -> Labels:
    """Rows, columns, groups.

    groups = 1: column j goes with input channel j; the result carries the rows.
    depthwise (one column): all rows of a group go with its input channel.
    grouped: column j goes with channel j of every group, row j with row j of every group.
    A transposed convolution has its input along dimension 0 and the outputs of one group along 1.
    """
    x, weight, bias = call.args[:3] if len(call.args) > 2 else (*call.args[:2], None)
    groups: int = call.named("groups", 1)
    transposed = "transpose" in call.func._schema.name or bool(call.named("transposed", False))
    dim = x.dim() - (weight.dim() - 1)
    read = n.channels(x, dim)
    rows, columns = n.channels(weight, 0), n.channels(weight, 1)
    for layer in n.of(weight):
        if n.param(weight) is None and any(d > 1 for d in varies(layer)):
            n.freeze(layer, "is a kernel position")

    if transposed:
        out = _transposed(n, read, rows, columns, groups, weight)
    elif groups == 1:
        n.meet(read, columns, _READS)
        out = rows
    elif weight.shape[1] == 1:
        grid = None if rows is None else rows.reshape(groups, -1)
        n.meet(None if read is None else read[:, None], grid, _READS)
        out = rows
    else:
        n.meet(None if read is None else read.reshape(groups, -1), columns, _READS)
        n.columns(rows, groups)
        out = rows
    if bias is not None:
        n.meet(n.channels(bias, 0), out, "has a bias that no weight produces")

    out_dim = 1 if transposed and not (groups > 1 and weight.shape[0] == groups) else 0
    spatial = (x if transposed else call.out).shape[dim + 1 :].numel()
    n.uses(weight, out_dim, 1 - out_dim, spatial * (x.shape[0] if dim else 1))
    result = [] if out is None else [spread(out, dim, call.out.shape)]
    for layer in n.others(x, dim):
        left = n.without(layer, range(dim, x.dim()), "is convolved over")
        if left is not None:
            # Its positions are not those of the input: it has neither, until it is expanded.
            result.append(collapse(left, range(dim, x.dim())).expand(call.out.shape))
    return tuple(result)


def _transposed(
    n: Notes,
    read: Tensor | None,
    rows: Tensor | None,
    columns: Tensor | None,
    groups: int,
    weight: Tensor,
) -> Tensor | None:
    n.meet(read, rows, _READS)
    if groups == 1:
        return columns
    if weight.shape[0] == groups:
        if columns is not None:
            n.freeze(columns, "multiplies the channels of a depthwise convolution")
        return None if rows is None else rows.repeat_interleave(weight.shape[1])
    n.columns(rows, groups)
    return None if columns is None else columns.repeat(groups)


def linear(n: Notes, call: Call) -> Labels:
    x, weight, bias = call.args[0], call.args[1], call.arg(2)
    rows, columns = n.channels(weight, 0), n.channels(weight, weight.dim() - 1)
    n.meet(n.channels(x, -1), columns, _READS)
    if bias is not None:
        n.meet(n.channels(bias, 0), rows, "has a bias that no weight produces")
    n.uses(weight, 0, 1, x.numel() / x.shape[-1])
    last = call.out.dim() - 1
    result = [] if rows is None else [spread(rows, last, call.out.shape)]
    result += [layer.narrow(-1, 0, 1).expand(call.out.shape) for layer in n.others(x, -1)]
    return tuple(result)


def recurrent(n: Notes, call: Call) -> Labels:
    """`lstm`, `gru`, `rnn`: the first layer reads features as a Linear does, everything else stays.

    Its weights stand in one list: w_ih, w_hh and what else there is, of one layer and direction
    after the other. Of packed sequences, whose weights come later, nothing goes.
    """
    x, weights = call.args[0], call.args[2]
    read: set[int] = set()
    if call.func._overloadname == "input":
        directions = 2 if call.args[7] else 1
        each = len(weights) // (call.args[4] * directions)
        for weight in weights[: each * directions : each]:
            n.meet(n.channels(x, -1), n.channels(weight, 1), _READS)
            read |= {id(x), id(weight)}
    for tensor in call.tensors():
        for layer in n.others(tensor, -1) if id(tensor) in read else n.of(tensor):
            n.freeze(layer, "is kept whole by this operator")
    return NONE


def matmul(n: Notes, call: Call) -> Labels:
    return product(n, call.args[0], call.args[1], call.out.shape)


def addmm(n: Notes, call: Call) -> Labels:
    """`addmm`, `baddbmm`, `addmv`: a product and something added to it."""
    layers = [*product(n, call.args[1], call.args[2], call.out.shape)]
    total = torch.empty(call.out.shape, device="meta")
    total.__dict__[LABELS] = tuple(layers)
    return met(n, [total, call.args[0]], call.out.shape)


def product(n: Notes, a: Tensor, b: Tensor, shape: Sequence[int]) -> Labels:
    """`a @ b` with labels: contracted along a's last and b's last but one dimension.

    Labels of a's rows and b's columns go on. What varies along batch dimensions too (heads) is
    coupled across them: every head loses the same positions.
    """
    k = -2 if b.dim() > 1 else -1
    contracted_ids = n.channels(a, -1)
    if contracted_ids is not None and is_loud(a) and is_loud(b):
        n.count(contracted_ids)
    n.meet(n.channels(a, -1), n.channels(b, k), "is multiplied by a tensor that no weight produces")
    for weight, out_dim in ((b, 1), (a, 0)):
        if weight.dim() == 2:
            other = a if weight is b else b
            n.uses(weight, out_dim, 1 - out_dim, other.numel() / max(weight.shape[1 - out_dim], 1))
    full = list(shape)
    if a.dim() == 1:
        full.insert(len(full) if b.dim() == 1 else len(full) - 1, 1)
    if b.dim() == 1:
        full.append(1)
    own: list[list[Layer]] = []
    for x, contracted in ((a, -1), (b, k)):
        mine = []
        for layer in n.others(x, contracted):
            layer = layer.narrow(contracted, 0, 1)
            if x.dim() == 1:
                continue
            inner = layer.dim() - (2 if contracted == -1 else 1)
            batch = [d for d in varies(layer) if d != inner]
            if batch and inner in varies(layer):
                n.couple(layer, collapse(layer, batch))
            mine.append(layer.expand(full))
        own.append(mine)
    for x, mine, theirs in ((a, own[1], own[0]), (b, own[0], own[1])):
        for layer in mine:
            if any(d in varies(known) for known in theirs for d in varies(layer)):
                continue
            lead = len(full) - x.dim()
            batch = [d for d in varies(layer) if d < len(full) - 2]
            inner_too = len(batch) < len(varies(layer))
            if not inner_too and any(d >= lead and x.shape[d - lead] > 1 for d in batch):
                n.freeze(layer, "is multiplied by a tensor that no weight produces")
    merged = n.merge([*own[0], *own[1]])
    return tuple([n.rectangle(fold(layer, shape)) for layer in merged])


def attention(n: Notes, call: Call) -> Labels:
    """softmax(q k^T) v: q and k contracted, then the keys; the columns of v go on.

    Every head loses the same positions. The implicit scale counts the width of q.
    """
    q, k, v = call.args[:3]
    a, b = n.channels(q, -1), n.channels(k, -1)
    n.meet(a, b, "is multiplied by a tensor that no weight produces")
    if call.kwargs.get("scale") is None and a is not None:
        n.count(a)
    for x in (q, k, v):
        for layer in n.others(x, -1):
            n.freeze(layer, "is a position or head that attention keeps")
    return _placed_last(n, v, call.out.shape)


def _placed_last(n: Notes, x: Tensor, shape: Sequence[int]) -> Labels:
    """The layer of x that varies along its last dimension, as it is; heads coupled."""
    last = x.dim() - 1
    for layer in n.of(x):
        if last in varies(layer):
            n.along(layer, last)
            if x.shape == tuple(shape):
                return (layer,)
            gaps = [d for d in range(last) if x.shape[d] != shape[d]]
            return (collapse(layer, gaps).expand(shape),)
    return NONE
