"""What every operator does to channel labels: one rule an operator, in four kinds.

Two channels of a convolution with rows 7 and 8 (weight[0]) that reads atoms 1, 2, 3:

    x        (1, 3, H, W)   layer 1 2 3 along dimension 1, stride 0 elsewhere
    weight   (2, 3, 3, 3)   rows 7 8, columns 9 10 11
    conv2d                  couples 1-9, 2-10, 3-11; the result carries 7 8 along dimension 1
    flatten                 the result (1, 2*H*W) carries 7 7 ... 7 8 8 ... 8

Rules get a `Notes` (where couplings are written down) and a `Call` (operator, arguments, result)
and return the labels of the result. The tables at the end say which operator has which rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from pruners.calls import Call, normal_dims, words
from pruners.labels import LABELS, NONE, Labels, Layer, collapse, fold, settle, spread, varies
from pruners.notes import Notes, Rule

_LARGEST = 2**22
"""Elements of a materialised layer; a bigger one is simplified by coupling first."""


# --- movement: the same operator, applied to the labels ---------------------------------------


def same(n: Notes, call: Call) -> Labels:
    return n.of(call.x)


def movement(n: Notes, call: Call) -> Labels | list[Labels]:
    outs = [call.func(alias(layer), *call.args[1:], **call.kwargs) for layer in n.of(call.x)]
    if isinstance(call.out, Tensor):
        return moved(n, outs)
    return [moved(n, [out[i] for out in outs]) for i in range(len(call.out))]


def expanded(n: Notes, call: Call) -> Labels:
    """Copies of one element are as many as others want: virtual atoms where x has size 1."""
    shape = call.out.shape
    lead = len(shape) - call.x.dim()
    layers = [layer.expand(shape) for layer in n.of(call.x)]
    for d, size in enumerate(shape):
        if size > 1 and (d < lead or call.x.shape[d - lead] == 1):
            layers.append(spread(n.fresh(size), d, shape))
    return tuple(layers)


def sliced(n: Notes, call: Call) -> Labels:
    """`x[:, a:b]` moves; every other channel of fewer channels is another selection: frozen."""
    dim, step = call.arg(1, 0) % max(call.x.dim(), 1), call.arg(4, 1)
    for layer in n.of(call.x) if step != 1 else ():
        if dim in varies(layer):
            n.freeze(layer, f"is sliced in steps of {step}")
    labels = movement(n, call)
    assert isinstance(labels, tuple)
    return labels


def moved(n: Notes, layers: Iterable[Layer]) -> Labels:
    """Layers after a movement; one that no longer varies is a channel taken out alone: it stays."""
    result = []
    for layer in layers:
        if varies(layer):
            result.append(n.rectangle(layer))
        elif layer.numel():
            n.freeze(layer, "is taken out alone")
    return tuple(result)


def alias(layer: Layer) -> Layer:
    """A new tensor object: an operator like `squeeze_` must not change the labels of others."""
    return layer.as_strided(layer.shape, layer.stride(), layer.storage_offset())


def reshape(n: Notes, call: Call) -> Labels:
    shape = call.out.shape
    result = []
    for layer in n.of(call.x):
        dims = varies(layer)
        if layer.numel() > _LARGEST and len(dims) > 1:
            keep = max(dims, key=lambda d: layer.shape[d])
            layer = spread(n.along(layer, keep), keep, layer.shape)
        result.append(n.rectangle(fold(layer, shape)))
    return tuple([layer for layer in result if varies(layer)])


def cat(n: Notes, call: Call) -> Labels:
    pieces = [x for x in call.args[0] if x.numel() or x.dim() > 1]
    rank = call.out.dim()
    dim = call.arg(1, 0) % rank
    if call.func.overloadpacket.__name__ == "stack":
        pieces = [_unsqueezed(n, x, dim) for x in pieces]
    return join(n, pieces, dim, call.out.shape)


def _unsqueezed(n: Notes, x: Tensor, dim: int) -> Tensor:
    out = x.unsqueeze(dim)
    out.__dict__[LABELS] = tuple([layer.unsqueeze(dim) for layer in n.of(x)])
    return out


def join(n: Notes, pieces: Sequence[Tensor], dim: int, shape: Sequence[int]) -> Labels:
    """Labels of `pieces` laid end to end along `dim`.

    Along `dim` they are laid end to end like the values. Along every other dimension the pieces
    must lose the same positions, so there their labels are coupled.
    """
    along: list[Tensor] = []
    across: list[Layer] = []
    labelled = False
    for x in pieces:
        ids = None
        for layer in n.of(x):
            if dim in varies(layer):
                ids = n.along(layer, dim)
            else:
                across.append(layer.narrow(dim, 0, 1))
        labelled = labelled or ids is not None
        along.append(torch.zeros(x.shape[dim], dtype=torch.int64) if ids is None else ids)
    result = [spread(torch.cat(along), dim, shape)] if labelled else []
    if across:
        one = list(shape)
        one[dim] = 1
        merged = n.merge(layer.expand(one) for layer in across)
        for layer in merged:
            dims = varies(layer)
            for x in pieces:
                own = [d for known in n.of(x) for d in varies(known)]
                if not any(d in own for d in dims):
                    n.freeze(layer, "joined with a tensor that no weight produces")
                    break
        result += [layer.expand(shape) for layer in merged]
    return tuple(result)


def chunk(n: Notes, call: Call) -> list[Labels]:
    """Equal parts stay equal: j of part 1 goes with j of part 2."""
    dim = call.arg(2, 0) % call.x.dim()
    sizes = [out.shape[dim] for out in call.out]
    result: list[list[Layer]] = [[] for _ in sizes]
    for layer in n.of(call.x):
        parts = torch.split(layer, sizes, dim)
        if dim in varies(layer) and len(sizes) > 1:
            if len(set(sizes)) > 1:
                n.freeze(layer, "is split into parts that are nearly equal")
            else:
                n.couple(torch.stack(parts[1:]), parts[0])
        for mine, part in zip(result, parts, strict=True):
            mine.extend(moved(n, [part]))
    return [tuple(layers) for layers in result]


def pad(n: Notes, call: Call) -> Labels:
    """Padding with a constant adds virtual atoms, other modes move what is there."""
    amounts, mode = list(call.args[1]), call.named("mode", "constant")
    shape, rank = call.out.shape, call.x.dim()
    result = []
    for layer in n.of(call.x):
        for i in range(len(amounts) // 2):
            dim, before, after = rank - 1 - i, amounts[2 * i], amounts[2 * i + 1]
            if not (before or after):
                continue
            if dim not in varies(layer):
                wide = list(layer.shape)
                wide[dim] += before + after
                layer = collapse(layer, [dim]).expand(wide)
            elif mode == "constant":
                ids = n.along(layer, dim)
                lead, trail = n.fresh(max(before, 0)), n.fresh(max(after, 0))
                ids = torch.cat([lead, ids[max(-before, 0) : len(ids) + min(after, 0)], trail])
                wide = list(layer.shape)
                wide[dim] = len(ids)
                layer = spread(ids, dim, wide)
            else:
                n.freeze(layer, f"is padded in mode {mode}")
                break
        else:
            result.append(layer.expand(shape))
    return tuple(result)


def repeat(n: Notes, call: Call) -> Labels:
    outs = []
    for layer in n.of(call.x):
        times = list(call.args[1])
        small = collapse(layer)
        lead = len(times) - layer.dim()
        wide = [n_ * t for n_, t in zip((1,) * lead + tuple(layer.shape), times, strict=True)]
        flat = [t if lead <= d and d - lead in varies(layer) else 1 for d, t in enumerate(times)]
        outs.append(n.rectangle(settle(small.repeat(flat)).expand(wide)))
    return tuple(outs)


def roll(n: Notes, call: Call) -> Labels:
    """Only unlabelled dimensions may roll: a shift by channels has another meaning when fewer."""
    dims = normal_dims(call.arg(2, ()), call.x.dim())
    kept = [n.without(layer, dims, "is rolled") for layer in n.of(call.x)]
    return tuple([layer for layer in kept if layer is not None])


def indexed(n: Notes, call: Call) -> Labels:
    """`x[:, i, j]` with index tensors: what varies along an indexed dimension stays."""
    indices = call.args[1]
    dims = [d for d, index in enumerate(indices) if index is not None]
    if any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices):
        return frozen(n, call)
    zeros = [
        None if i is None else torch.zeros((), dtype=torch.int64).expand(i.shape) for i in indices
    ]
    return _picked(n, call, dims, lambda layer: call.func(layer, zeros))


def selected(n: Notes, call: Call) -> Labels:
    """`index_select`, `gather`, `take_along_dim`: along one dimension, by an index tensor."""
    dim = call.args[1] % max(call.x.dim(), 1)
    zero = torch.zeros((), dtype=torch.int64).expand(call.args[2].shape)
    return _picked(n, call, [dim], lambda layer: call.func(layer, dim, zero))


def _picked(n: Notes, call: Call, dims: Sequence[int], pick: Callable[[Layer], Layer]) -> Labels:
    result = []
    for layer in n.of(call.x):
        left = n.without(layer, dims, "is picked by index")
        if left is not None:
            result.append(settle(pick(left)))
    return tuple([n.rectangle(layer) for layer in result if varies(layer)])


def embedding(n: Notes, call: Call) -> Labels:
    table, rows, columns = call.args[0], n.channels(call.args[0], 0), n.channels(call.args[0], 1)
    if rows is not None:
        n.freeze(rows, "is looked up by index")
    n.uses(table, 1, 0, 0.0)
    return NONE if columns is None else (spread(columns, call.out.dim() - 1, call.out.shape),)


def pixel_shuffle(n: Notes, call: Call) -> Labels:
    """(C*r*r, H, W) -> (C, H*r, W*r): the r*r channels of a pixel go together."""
    ids, dim = n.channels(call.x, -3), call.x.dim() - 3
    if ids is None:
        return NONE
    rows = ids.reshape(-1, call.args[1] ** 2)
    n.couple(rows, rows[:, :1])
    return _placed(rows[:, 0], dim, call.out.shape)


def pixel_unshuffle(n: Notes, call: Call) -> Labels:
    ids, dim = n.channels(call.x, -3), call.x.dim() - 3
    if ids is None:
        return NONE
    return _placed(ids.repeat_interleave(call.args[1] ** 2), dim, call.out.shape)


def channel_shuffle(n: Notes, call: Call) -> Labels:
    ids = n.channels(call.x, 1)
    if ids is None:
        return NONE
    n.columns(ids, call.args[1])
    return _placed(ids.view(call.args[1], -1).t().reshape(-1), 1, call.out.shape)


def im2col(n: Notes, call: Call) -> Labels:
    ids, dim = n.channels(call.x, -3), call.x.dim() - 3
    window = call.args[1][0] * call.args[1][1]
    return NONE if ids is None else _placed(ids.repeat_interleave(window), dim, call.out.shape)


def col2im(n: Notes, call: Call) -> Labels:
    ids, dim = n.channels(call.x, -2), call.x.dim() - 2
    if ids is None:
        return NONE
    rows = ids.reshape(-1, call.args[2][0] * call.args[2][1])
    n.couple(rows, rows[:, :1])
    return _placed(rows[:, 0], dim, call.out.shape)


def _placed(ids: Tensor, dim: int, shape: Sequence[int]) -> Labels:
    return (spread(ids, dim, shape),) if len(ids) > 1 else NONE


def filled(n: Notes, call: Call) -> Labels:
    return n.filled(call.out.shape)


def constant(n: Notes, call: Call) -> Labels:
    return NONE


# --- pointwise: coupled element by element ----------------------------------------------------


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


# --- contraction: coupled along the contracted dimension --------------------------------------

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


# --- reduction, pooling, normalisation: labels survive where dimensions do --------------------


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


def frozen(n: Notes, call: Call) -> Labels:
    """Operators that are known and left alone."""
    for x in call.tensors():
        for layer in n.of(x):
            n.freeze(layer, "is kept whole by this operator")
    return NONE


# --- is a removed channel silent? ---------------------------------------------------------------


def loud(call: Call, name: str, labels: Labels) -> bool:
    """Whether channels of the result are other than zero after everything of theirs is zero.

    Silencing a channel (its rows and biases zero) makes it zero behind a convolution or a batch
    norm and keeps it so through a relu, but sigmoid(0) is 1/2. The next convolution does not mind:
    its columns are zero too. A sum over such channels does, so it counts them.
    """
    if not labels or name in _SILENT:
        return False
    inputs = [x for x in call.tensors() if x.dim()]
    if name.rstrip("_") in ("mul", "multiply"):
        return all(is_loud(x) for x in inputs)
    if name.rstrip("_") in ("add", "sub", "rsub"):
        return len(inputs) < 2 or any(is_loud(x) or LABELS not in x.__dict__ for x in inputs)
    return name.rstrip("_") in _LOUD or any(is_loud(x) for x in inputs)


def is_loud(x: Tensor) -> bool:
    return "_pruner_loud" in x.__dict__


def count_silent_divisors(n: Notes, call: Call, name: str) -> None:
    """A silent channel would be 0/0: the operator is only right on the surviving ones."""
    at = {"div": 1, "divide": 1, "reciprocal": 0, "rsqrt": 0, "log": 0}.get(name.rstrip("_"))
    x = None if at is None else call.arg(at)
    if isinstance(x, Tensor) and not is_loud(x):
        for layer in n.of(x):
            n.count(layer)


_SILENT = frozenset(
    words(
        "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear"
        " batch_norm layer_norm group_norm embedding"
    )
)
_LOUD = frozenset(
    words(
        "sigmoid hardsigmoid exp exp2 cos cosh softplus log_sigmoid softmax log_softmax"
        " reciprocal rsqrt log log2 logical_not eq ne le ge lt gt clamp clamp_min fill"
        " zeros_like ones_like full_like rand_like randn_like acos erfc"
    )
)


# --- the table --------------------------------------------------------------------------------


def _table(**kinds: tuple[Rule, str]) -> dict[str, Rule]:
    return {name: rule for rule, names in kinds.values() for name in words(names)}


RULES: dict[str, Rule] = _table(
    # movement
    same=(
        same,
        "clone contiguous detach alias lift_fresh lift to _to_copy type_as view_as_real_copy"
        " positive resolve_conj resolve_neg requires_grad_ detach_ dropout feature_dropout"
        " alpha_dropout feature_alpha_dropout zeros_like ones_like full_like empty_like rand_like"
        " randn_like bernoulli _conj _neg_view data nan_to_num"
        " zero_ fill_ bernoulli_ normal_ uniform_ dropout_ feature_dropout_ exponential_",
    ),
    movement=(
        movement,
        "permute transpose t squeeze unsqueeze select narrow split_with_sizes unbind"
        " movedim moveaxis swapaxes swapdims diagonal unfold as_strided flip numpy_T"
        " transpose_ t_ squeeze_ unsqueeze_ adjoint mT hsplit vsplit tensor_split"
        " unsafe_split_with_sizes",
    ),
    expanded=(expanded, "expand expand_as"),
    sliced=(sliced, "slice"),
    reshape=(reshape, "view reshape _unsafe_view flatten unflatten _reshape_alias view_as ravel"),
    cat=(cat, "cat stack concat concatenate"),
    chunk=(chunk, "chunk split unsafe_split unsafe_chunk"),
    pad=(pad, "pad constant_pad_nd"),
    repeat=(repeat, "repeat"),
    roll=(roll, "roll"),
    indexed=(indexed, "index _unsafe_index"),
    selected=(selected, "index_select gather"),
    embedding=(embedding, "embedding"),
    pixel_shuffle=(pixel_shuffle, "pixel_shuffle"),
    pixel_unshuffle=(pixel_unshuffle, "pixel_unshuffle"),
    channel_shuffle=(channel_shuffle, "channel_shuffle native_channel_shuffle"),
    im2col=(im2col, "im2col"),
    col2im=(col2im, "col2im"),
    filled=(
        filled,
        "zeros ones full empty new_zeros new_ones new_full new_empty empty_strided"
        " new_empty_strided",
    ),
    constant=(
        constant,
        "arange linspace logspace eye rand randn randint randperm scalar_tensor tril_indices"
        " triu_indices hann_window one_hot",
    ),
    # pointwise: and whatever else PyTorch tags so
    pointwise=(
        pointwise,
        "where masked_fill lerp addcmul addcdiv add sub mul div clamp tril triu relu relu6 hardtanh"
        " hardswish hardsigmoid leaky_relu elu selu celu gelu silu mish softplus "
        " log_sigmoid_forward rrelu rrelu_with_noise softshrink hardshrink threshold sigmoid tanh"
        " fake_quantize_per_tensor_affine",
    ),
    in_place=(in_place, "copy_"),
    prelu=(prelu, "prelu _prelu_kernel"),
    glu=(glu, "glu"),
    # contraction
    convolution=(
        convolution,
        "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution"
        " _convolution",
    ),
    linear=(linear, "linear"),
    matmul=(matmul, "matmul mm bmm mv dot "),
    addmm=(addmm, "addmm baddbmm addmv"),
    attention=(
        attention,
        "scaled_dot_product_attention _scaled_dot_product_flash_attention_for_cpu",
    ),
    # reduction, pooling, normalisation
    total=(total, "sum nansum linalg_vector_norm norm"),
    statistic=(
        statistic,
        "mean amax amin aminmax var std var_mean std_mean prod logsumexp any all nanmean"
        " median max min",
    ),
    arg_statistic=(arg_statistic, "argmax argmin mode kthvalue"),
    softmax=(softmax, "softmax _softmax log_softmax _log_softmax"),
    ordered=(ordered, "cumsum cumprod sort topk argsort cummax cummin logcumsumexp"),
    pool1=(
        pool(1),
        "max_pool1d avg_pool1d adaptive_avg_pool1d adaptive_max_pool1d upsample_nearest1d"
        " upsample_linear1d _upsample_nearest_exact1d reflection_pad1d replication_pad1d"
        " max_pool1d_with_indices",
    ),
    pool2=(
        pool(2),
        "max_pool2d max_pool2d_with_indices avg_pool2d adaptive_avg_pool2d _adaptive_avg_pool2d"
        " adaptive_max_pool2d upsample_nearest2d upsample_bilinear2d upsample_bicubic2d"
        " _upsample_nearest_exact2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa"
        " reflection_pad2d replication_pad2d grid_sampler grid_sampler_2d fractional_max_pool2d"
        " max_unpool2d ",
    ),
    pool3=(
        pool(3),
        "max_pool3d max_pool3d_with_indices avg_pool3d adaptive_avg_pool3d _adaptive_avg_pool3d"
        " adaptive_max_pool3d upsample_nearest3d upsample_trilinear3d _upsample_nearest_exact3d"
        " reflection_pad3d replication_pad3d",
    ),
    batch_norm=(batch_norm, "batch_norm native_batch_norm _native_batch_norm_legit instance_norm"),
    layer_norm=(layer_norm, "layer_norm rms_norm"),
    group_norm=(group_norm, "group_norm"),
    local_response_norm=(local_response_norm, "local_response_norm"),
    weight_norm=(weight_norm, "_weight_norm _weight_norm_interface"),
    frozen=(
        frozen,
        "lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell bilinear"
        " nonzero _unique2 index_put index_put_ scatter scatter_ scatter_add scatter_add_"
        " masked_select _local_scalar_dense item bincount multi_margin_loss",
    ),
)


SIZE_FREE = frozenset(
    {
        *(same, cat, pointwise, in_place, prelu, linear, total, statistic, softmax, batch_norm),
        *(local_response_norm, RULES["max_pool1d"], RULES["max_pool2d"], RULES["max_pool3d"]),
    }
)
"""Rules of operators whose arguments say nothing about how many channels there are."""
SIZE_FREE_NAMES = frozenset(words("flatten permute transpose t unsqueeze movedim"))


def rule_of(func: Any) -> Rule | None:
    """The rule for an operator's overload; None where there is none."""
    name = func._schema.name.split("::")[1]
    found = RULES.get(name)
    if found is None and name.endswith("_") and not name.startswith("_"):
        base = RULES.get(name[:-1])
        tagged = torch.Tag.pointwise in func.tags
        if base in (same, softmax) or (base is prelu):
            return base
        if base is pointwise or tagged:
            return in_place
        return None
    if found is None and torch.Tag.pointwise in func.tags:
        return in_place if func._schema.is_mutable else pointwise
    if name in ("max", "min") and func._overloadname == "other":
        return pointwise
    return found
