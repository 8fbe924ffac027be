"""The state of an optimizer follows the channels, so that training goes on without a jump."""

from __future__ import annotations

import copy
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
    return {
        "state": {
            number: {
                key: _slim(value, ours[number], names[id(ours[number])], key, kept)
                for key, value in entries.items()
            }
            for number, entries in state["state"].items()
        },
        "param_groups": copy.deepcopy(state["param_groups"]),
    }


def _slim(value: Any, parameter: Tensor, name: str, key: str, kept: Kept) -> Any:
    if not isinstance(value, Tensor) or value.numel() == 1:
        return copy.deepcopy(value)
    if value.shape == parameter.shape:
        return surviving(value, kept[name])
    if all(len(kept[name][dim]) == size for dim, size in enumerate(parameter.shape)):
        return value.clone()  # nothing goes
    raise PrunerError(
        f"optimizer: {key} of {name} has the shape {tuple(value.shape)}, the parameter "
        f"{tuple(parameter.shape)}; its channels cannot be told apart; begin with a fresh optimizer"
    )


def _required(optimizer: Optimizer) -> dict[str, Any]:
    """Arguments that the optimizer's class cannot do without."""
    return {"lr": optimizer.defaults["lr"]} if "lr" in optimizer.defaults else {}
