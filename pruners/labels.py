"""Labels: which atom owns every element of an activation.

A *layer* is an integer tensor of the shape of an activation, expanded with stride 0 along the
dimensions in which it does not vary. Entry (n, c, h, w) names the atom that owns the element; 0
means that nobody does and that the element always stays. A tensor carries any number of layers,
each varying along dimensions of its own: none (an input, a constant), one (an ordinary
activation), one a dimension (a weight).

    x        (1, 3, H, W)   atoms 1 2 3 along dimension 1   strides (0, 1, 0, 0)
    weight   (2, 3, 3, 3)   rows 7 8 and columns 9 10 11    strides (1, 0, 0, 0), (0, 1, 0, 0)

So the layer of an ordinary activation holds a number a channel, however large the activation is.
Strides alone say where a layer varies; what an operator has copied is looked at once (`settle`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

LABELS = "_pruner_labels"
"""The attribute of a tensor under which its labels are kept."""

Layer = Tensor
Labels = tuple[Layer, ...]
NONE: Labels = ()


def varies(layer: Layer) -> tuple[int, ...]:
    """The dimensions along which the layer varies."""
    return tuple(
        [d for d, (n, s) in enumerate(zip(layer.shape, layer.stride(), strict=True)) if s and n > 1]
    )


def collapse(layer: Layer, dims: Iterable[int] | None = None) -> Layer:
    """The layer with size 1 along `dims` (by default: along those in which it does not vary)."""
    shape, strides = list(layer.shape), layer.stride()
    flat = [d for d in range(len(shape)) if not strides[d]] if dims is None else dims
    for d in flat:
        shape[d] = 1
    return layer.as_strided(shape, strides)


def settle(layer: Layer) -> Layer:
    """A materialised layer with stride 0 where its values turn out not to vary.

    >>> settle(torch.tensor([[5, 5], [6, 6]])).stride()
    (2, 0)
    """
    for d in varies(layer):
        first = layer.narrow(d, 0, 1)
        if bool((layer == first).all()):
            layer = first.expand(layer.shape)
    return layer


def spread(ids: Tensor, dim: int, shape: Sequence[int]) -> Layer:
    """The layer of that shape that varies along one dimension as `ids` does."""
    strides = [0] * len(shape)
    strides[dim] = ids.stride(0)
    return ids.as_strided(tuple(shape), strides, ids.storage_offset())


def fold(layer: Layer, shape: Sequence[int]) -> Layer:
    """`layer.reshape(shape)` that copies as little as it can.

    Leading and trailing dimensions that do not vary are left out of the copy. They are found on
    both sides: the varying part of (N, C, H, W) -> (N, C*H*W) is copied once, not N times.

    >>> fold(torch.tensor([1, 2]).view(1, 2, 1).expand(9, 2, 3), (9, 6)).stride()
    (0, 1)
    """
    shape = tuple(shape)
    if layer.shape == shape:
        return layer
    dims = varies(layer)
    if not dims:
        return layer.as_strided(shape, [0] * len(shape))
    lead = 0
    while lead < min(dims[0], len(shape)) and layer.shape[lead] == shape[lead]:
        lead += 1
    inner = layer.as_strided(layer.shape[lead:], layer.stride()[lead:], layer.storage_offset())
    folded = inner.reshape(shape[lead:])
    if folded.untyped_storage()._cdata != inner.untyped_storage()._cdata:
        folded = settle(folded)
    return folded.expand(shape)
