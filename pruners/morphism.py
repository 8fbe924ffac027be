"""Starts a network from the weights of one of another width, narrower or wider.

    copied = copy_weights(old_net, net, example_inputs)

Both networks are traced. Channels that go together (a *unit*: rows of one layer, columns of the
next, entries of the batch norm between, and what is added to them over shortcuts) are matched group
by group, so that one choice of channels holds in every layer:

- a narrower group takes the old units of the largest magnitude, in their order. Where all groups
  are narrower the network computes what the old one does without the other channels;
- a wider group has the old units first and keeps its own start values for the rest, but that no
  old channel reads a new one: these columns are zero. In eval mode the network computes what the
  old one does, and the new channels learn from the first step on (their columns get gradients, for
  they carry signals). Cf. Chen et al., "Net2Net: Accelerating Learning via Knowledge Transfer"
  (2016), which copies channels and divides their columns; copies stay alike unless noise is added.

One group may get narrower and another wider at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruners.analysis import analyse
from pruners.channel_graph import Axis, ChannelGraph, Indices, Units
from pruners.errors import PrunerError, UnsupportedNetworkError
from pruners.layers import is_weighted, weight_axes
from pruners.scoring import score_units
from pruners.threshold import magnitude

_SAME = "expected two networks that differ in nothing but their widths"


@dataclass(frozen=True, slots=True)
class Copied:
    """What `copy_weights` has done.

    Attributes:
        sources: by the path of every layer whose output channels are fewer or more now, shape
            (new channels,): the old channel that each one has the weights of, -1 for a new one.
        counted: operators over channels whose number has changed (a layer norm, say): with them,
            the network does not compute exactly what the old one does.
    """

    sources: Mapping[str, Indices]
    counted: tuple[str, ...]


def copy_weights(old_net: nn.Module, net: nn.Module, example_inputs: Any = None) -> Copied:
    """Start a network from the weights of one that differs in its widths, in place.

    Args:
        old_net: the weights' network; it is not changed.
        net: its parameters and buffers are overwritten, in their own dtype and place.
        example_inputs: one that both take, as for `pruners.prune`; by default zeros of the shape
            that the first layer asks for, images of 32 x 32 pixels for a convolution.

    Raises:
        PrunerError: the networks differ in more than widths (other layers, kernels, inputs or
            outputs; channels that are tied otherwise), or cannot be analysed. `net` is as it was.
    """
    old, new = old_net.state_dict(), net.state_dict()
    _check_alike(old, new)
    if all(new[name].shape == tensor.shape for name, tensor in old.items()):
        net.load_state_dict(old)
        return Copied({}, ())
    before, after = _graph(old_net, example_inputs), _graph(net, example_inputs)
    sources = _sources(old_net, before, after)
    state = {name: _filled(name, old[name], tensor, sources, after) for name, tensor in new.items()}
    net.load_state_dict(state)
    changed = {
        axis.tensor.removesuffix(".weight"): sources[axis]
        for axis in after.outputs()
        if len(sources[axis]) != before.size(axis)
    }
    return Copied(changed, _counted(before, after))


def _check_alike(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> None:
    """PrunerError where names or numbers of dimensions differ."""
    for mine, other, has, lacks in ((old, new, "old", "new"), (new, old, "new", "old")):
        odd = [name for name in mine if name not in other]
        if odd:
            more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
            raise PrunerError(
                f"copy_weights: {odd[0]}{more} of the {has} network ({_shown(mine[odd[0]])}) is "
                f"not in the {lacks} one; {_SAME}"
            )
    for name, tensor in old.items():
        if tensor.dim() != new[name].dim():
            raise _differ(name, tensor.shape, new[name].shape, "the dimensions differ")


def _graph(net: nn.Module, example_inputs: Any) -> ChannelGraph:
    inputs = _guessed(net) if example_inputs is None else _beside(net, example_inputs)
    try:
        return analyse(net, inputs).graph
    except UnsupportedNetworkError as error:
        if example_inputs is not None:
            raise
        shape = tuple(inputs.shape)
        raise PrunerError(
            f"copy_weights: {type(net).__name__} does not take an input of shape {shape} "
            f"({error}); give example_inputs=..."
        ) from error


def _guessed(net: nn.Module) -> Tensor:
    """Zeros that the first layer takes."""
    for path, module in net.named_modules():
        if is_weighted(module):
            weight = module.get_parameter("weight")
            _, columns = weight_axes(path, module)
            spatial = weight.dim() - 2
            channels = weight.shape[columns.dim] * int(getattr(module, "groups", 1))
            return torch.zeros(
                (2, channels, *[32] * spatial), dtype=weight.dtype, device=weight.device
            )
    raise PrunerError(
        f"copy_weights: {type(net).__name__} has no convolution or Linear; expected one"
    )


def _beside(net: nn.Module, example_inputs: Any) -> Any:
    """A single tensor is taken to where the network is, in its precision."""
    like = next((p for p in net.parameters() if p.is_floating_point()), None)
    if like is None or not isinstance(example_inputs, Tensor):
        return example_inputs
    dtype = like.dtype if example_inputs.is_floating_point() else example_inputs.dtype
    return example_inputs.to(like.device, dtype)


# --- which old channel each new one has ----------------------------------------------------------


def _sources(old_net: nn.Module, before: ChannelGraph, after: ChannelGraph) -> dict[Axis, Indices]:
    """For every axis of the new network, the old position of each of its own; -1 for new ones."""
    old, new = before.units(), after.units()
    scores = score_units(old_net, before, old, magnitude).units
    there, here = _groups(old), _groups(new)
    for axes in [*there, *here]:
        if axes not in there or axes not in here:
            axis = min(axes, key=str)
            old_shape, new_shape = before.shapes[axis.tensor], after.shapes[axis.tensor]
            raise _differ(axis.tensor, old_shape, new_shape, "its channels are tied in other ways")
    sources = {axis: np.full(after.size(axis), -1, dtype=np.int64) for axis in new.axes}
    for axes, mine in here.items():
        theirs = there[axes]
        fixed = old.frozen[theirs].any() or new.frozen[mine].any()
        if fixed and len(theirs) != len(mine):
            axis = _telling(axes, before, after)
            why = old.reasons.get(int(theirs[0])) or new.reasons.get(int(mine[0]), "")
            raise _differ(
                axis.tensor,
                before.shapes[axis.tensor],
                after.shapes[axis.tensor],
                f"these channels cannot change ({why})",
            )
        if len(mine) < len(theirs):
            # NaN, for units that no weight makes, sorts last: they stay first.
            best = np.argsort(-np.nan_to_num(scores[theirs], nan=np.inf), kind="stable")
            theirs = theirs[np.sort(best[: len(mine)])]
        for axis in axes:
            _match(axis, old, new, theirs, mine[: len(theirs)], (before, after), sources[axis])
    return sources


def _groups(units: Units) -> dict[frozenset[Axis], Indices]:
    """The units that touch the same axes, in the order in which they stand on the first of them."""
    axis_of = units.axis_of_atom()
    # A unit stands where its first atom does; atoms are numbered axis by axis.
    ordered, first = np.unique(units.unit_of, return_index=True)
    by_group: dict[int, list[tuple[int, int]]] = {}
    for unit, atom in zip(ordered.tolist(), first.tolist(), strict=True):
        by_group.setdefault(int(units.group_of[unit]), []).append((atom, unit))
    pairs = np.unique(np.stack([units.group_of[units.unit_of], axis_of], 1), axis=0)
    axes_of: dict[int, list[Axis]] = {}
    for group, axis in pairs.tolist():
        axes_of.setdefault(group, []).append(units.axes[axis])
    return {
        frozenset(axes_of[group]): np.array([unit for _, unit in sorted(members)], dtype=np.int64)
        for group, members in by_group.items()
    }


def _match(
    axis: Axis,
    old: Units,
    new: Units,
    theirs: Indices,
    mine: Indices,
    graphs: tuple[ChannelGraph, ChannelGraph],
    source: Indices,
) -> None:
    """Set the old positions of an axis for units that go with old ones."""
    before, counts_before = _positions(old, axis, theirs)
    after, counts = _positions(new, axis, mine)
    if not np.array_equal(counts_before, counts):
        # After a flatten, say, of images of another size.
        old_shape, new_shape = graphs[0].shapes[axis.tensor], graphs[1].shapes[axis.tensor]
        raise _differ(axis.tensor, old_shape, new_shape, "a channel has another number of entries")
    source[after] = before


def _positions(units: Units, axis: Axis, chosen: Indices) -> tuple[Indices, Indices]:
    """The positions of these units on an axis, unit by unit, and how many each one has."""
    rank = np.full(units.count, -1, dtype=np.int64)
    rank[chosen] = np.arange(len(chosen))
    ranks = rank[units.of(axis)]
    here = np.flatnonzero(ranks >= 0)
    order = np.argsort(ranks[here], kind="stable")
    return here[order], np.bincount(ranks[here], minlength=len(chosen))


def _telling(axes: frozenset[Axis], before: ChannelGraph, after: ChannelGraph) -> Axis:
    """Of the axes of a group one whose size differs, a weight's for choice."""
    differing = [axis for axis in axes if before.size(axis) != after.size(axis)]
    return min(differing or axes, key=lambda a: (not a.tensor.endswith("weight"), str(a)))


# --- values --------------------------------------------------------------------------------------


def _filled(
    name: str, old: Tensor, new: Tensor, sources: Mapping[Axis, Indices], graph: ChannelGraph
) -> Tensor:
    """The new tensor: old values where all dimensions have a source, else zeros or its own."""
    result, old = new.detach().clone(), old.detach().to(new.device, new.dtype)
    if not old.dim():
        return old.clone()
    found: list[Tensor] = []
    for dim, size in enumerate(new.shape):
        source = sources.get(Axis(name, dim))
        if source is None:
            if size != old.shape[dim]:
                what = "the kernels differ" if old.dim() > 2 and dim > 1 else "they cannot change"
                raise _differ(name, old.shape, new.shape, what)
            source = np.arange(size, dtype=np.int64)
        found.append(torch.from_numpy(source).to(new.device))
    known = [_at(positions >= 0, dim, new.dim()) for dim, positions in enumerate(found)]
    role: dict[int, Any] = {
        dim: graph.graph.nodes[Axis(name, dim)].get("role")
        for dim in range(new.dim())
        if Axis(name, dim) in graph.graph
    }
    if len(role) > 1 or "in" in role.values():
        # What old channels read of new ones; of roles that are unknown, all that is mixed.
        read = [known[d] for d in role if role[d] != "out"]
        made = [known[d] for d in role if role[d] == "out"]
        mixed = torch.ones_like(new, dtype=torch.bool)
        for mask in made:
            mixed = mixed & mask
        complete = torch.ones_like(mixed)
        for mask in read:
            complete = complete & mask
        result[mixed & ~complete] = 0
    values = old
    for dim, positions in enumerate(found):
        values = values.index_select(dim, positions.clamp(min=0))
    whole = torch.ones_like(new, dtype=torch.bool)
    for mask in known:
        whole = whole & mask
    return torch.where(whole, values, result)


def _at(mask: Tensor, dim: int, dims: int) -> Tensor:
    shape = [1] * dims
    shape[dim] = -1
    return mask.view(shape)


def _counted(before: ChannelGraph, after: ChannelGraph) -> tuple[str, ...]:
    """The operators over axes whose size has changed."""
    return tuple(
        sorted(
            {
                because
                for axis, _, because in after.renormalisations()
                if before.size(axis) != after.size(axis)
            }
        )
    )


def _differ(
    name: str, old: tuple[int, ...] | torch.Size, new: tuple[int, ...] | torch.Size, why: str
) -> PrunerError:
    return PrunerError(
        f"copy_weights: {name} is {tuple(old)} in the old network and {tuple(new)} in the new one: "
        f"{why}; {_SAME}"
    )


def _shown(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)}"
