"""Movement: the same operator, applied to the labels.

Flatten before a Linear, `cat([x, x])` and window partition need nothing more. What does are
operators whose meaning depends on how many channels there are (`roll` over channels, a slice in
steps) and parts that must lose the same positions (`chunk`, what is joined).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from pruners.calls import Call, normal_dims
from pruners.labels import LABELS, NONE, Labels, Layer, collapse, fold, settle, spread, varies
from pruners.notes import Notes

_LARGEST = 2**22
"""Elements of a materialised layer; a bigger one is simplified by coupling first."""


def same(n: Notes, call: Call) -> Labels:
    return n.of(call.x)


def movement(n: Notes, call: Call) -> Labels | list[Labels]:
    outs = [call.func(alias(layer), *call.args[1:], **call.kwargs) for layer in n.of(call.x)]
    if isinstance(call.out, Tensor):
        return moved(n, outs)
    return [moved(n, [out[i] for out in outs]) for i in range(len(call.out))]


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
                across.append(collapse(layer, [dim]))  # of no example, too: size 0 becomes 1
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
    """`gather`, `take_along_dim`: along one dimension, by an index tensor."""
    dim = call.args[1] % max(call.x.dim(), 1)
    zero = torch.zeros((), dtype=torch.int64).expand(call.args[2].shape)
    return _picked(n, call, [dim], lambda layer: call.func(layer, dim, zero))


def index_selected(n: Notes, call: Call) -> Labels:
    """Labels stay, also where nothing is selected: a path that no example of a batch takes."""
    dim = call.args[1] % max(call.x.dim(), 1)
    left = [n.without(layer, [dim], "is picked by index") for layer in n.of(call.x)]
    found = [collapse(layer, [dim]).expand(call.out.shape) for layer in left if layer is not None]
    return tuple([n.rectangle(layer) for layer in found if varies(layer)])


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


# --- no movement: tensors that are made, and operators that are left alone ----------------------


def filled(n: Notes, call: Call) -> Labels:
    return n.filled(call.out.shape)


def constant(n: Notes, call: Call) -> Labels:
    return NONE


def frozen(n: Notes, call: Call) -> Labels:
    """Operators that are known and left alone."""
    for x in call.tensors():
        for layer in n.of(x):
            n.freeze(layer, "is kept whole by this operator")
    return NONE
