"""The state of an optimizer follows the channels, so that training goes on without a jump."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from pruners.channel_graph import Kept
from pruners.errors import PrunerError
from pruners.weight_transfer import surviving


def slim_optimizer(optimizer: Optimizer, full: nn.Module, slim: nn.Module, kept: Kept) -> Optimizer:
    """An optimizer for the slim network, with the surviving state of the full network's.

        slim = result.model
        optimizer = slim_optimizer(optimizer, model, slim, result.kept)

    Momentum, Adam's moments and whatever else has the shape of its parameter is taken at the
    indices that stay, like the parameter itself; step counts and learning rates are kept.

    Args:
        optimizer: of parameters of `full`, in any groups.
        full: the network before pruning.
        slim: the pruned network, with the same parameter names.
        kept: of `full`, for every parameter the ascending indices that stay in every dimension.

    Raises:
        PrunerError: the optimizer has parameters that are not the network's, or state that cannot
            be divided among channels.
    """
    state = slim_state(optimizer, full, kept)
    names = {id(parameter): name for name, parameter in full.named_parameters()}
    parameters = dict(slim.named_parameters())
    groups = [
        {
            **{k: v for k, v in group.items() if k != "params"},
            "params": [parameters[names[id(p)]] for p in group["params"]],
        }
        for group in optimizer.param_groups
    ]
    made = type(optimizer)(groups, **_required(optimizer))
    made.load_state_dict(state)
    return made


def follow(optimizer: Optimizer, full: nn.Module, slim: nn.Module, kept: Kept) -> None:
    """As `slim_optimizer`, but the given optimizer itself goes on with the slim network.

    What holds the optimizer (a learning-rate scheduler, a loop) need not know that channels went.
    """
    state = slim_state(optimizer, full, kept)
    names = {id(parameter): name for name, parameter in full.named_parameters()}
    parameters = dict(slim.named_parameters())
    for group in optimizer.param_groups:
        group["params"] = [parameters[names[id(p)]] for p in group["params"]]
    optimizer.state.clear()
    optimizer.load_state_dict(state)


def slim_state(optimizer: Optimizer, full: nn.Module, kept: Kept) -> dict[str, Any]:
    """`optimizer.state_dict()`, with every tensor at the indices that stay.

    It fits an optimizer that has the slim network's parameters in the same order.
    """
    names = {id(parameter): name for name, parameter in full.named_parameters()}
    ours = [p for group in optimizer.param_groups for p in group["params"]]
    for parameter in ours:
        if id(parameter) not in names:
            raise PrunerError(
                f"optimizer: has a parameter of shape {tuple(parameter.shape)} that is not the "
                f"network's; expected an optimizer of the network's own parameters"
            )
    state = optimizer.state_dict()
    shapes = {name: tuple(parameter.shape) for name, parameter in full.named_parameters()}
    named = {names[id(ours[number])]: entries for number, entries in state["state"].items()}
    slim = sliced(named, shapes, kept)
    return {
        "state": {number: slim[names[id(ours[number])]] for number in state["state"]},
        "param_groups": copy.deepcopy(state["param_groups"]),
    }


Named = Mapping[str, Mapping[str, Any]]
"""The state of an optimizer, by the name of the parameter."""


def sliced(
    state: Named, shapes: Mapping[str, tuple[int, ...]], kept: Kept
) -> dict[str, dict[str, Any]]:
    """The state at the indices that stay.

    Args:
        shapes: of the full network's parameters.
    """

    def slim(name: str, key: str, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.numel() == 1:
            return copy.deepcopy(value)
        if value.shape == shapes[name]:
            return surviving(value, kept[name])
        if all(len(kept[name][dim]) == size for dim, size in enumerate(shapes[name])):
            return value.clone()  # nothing goes
        raise PrunerError(
            f"optimizer: {key} of {name} has the shape {tuple(value.shape)}, the parameter "
            f"{shapes[name]}; its channels cannot be told apart; begin with a fresh optimizer"
        )

    return {
        name: {key: slim(name, key, value) for key, value in entries.items()}
        for name, entries in state.items()
    }


def named_state(state: Mapping[str, Any], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What `optimizer.state_dict()` holds, by the names of the optimizer's parameters in order.

    A masked parameter (`weight_orig`, as torch calls it) goes by its own name.
    """
    return {
        names[number].removesuffix("_orig"): dict(entries)
        for number, entries in state["state"].items()
    }


def state_for(optimizer: Optimizer, names: Sequence[str], state: Named) -> dict[str, Any]:
    """A `state_dict` for this optimizer, whose parameters have these names; see `named_state`."""
    plain = [name.removesuffix("_orig") for name in names]
    return {
        "state": {i: dict(state[name]) for i, name in enumerate(plain) if name in state},
        "param_groups": optimizer.state_dict()["param_groups"],
    }


def _required(optimizer: Optimizer) -> dict[str, Any]:
    """Arguments that the optimizer's class cannot do without."""
    return {"lr": optimizer.defaults["lr"]} if "lr" in optimizer.defaults else {}
