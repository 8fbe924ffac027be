"""What retraining may minimise beside the cross-entropy: a teacher's answers, sparse channels."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruners.channel_graph import Axis, ChannelGraph
from pruners.errors import PrunerError, did_you_mean
from pruners.training import Loss

Penalty = Callable[[], Tensor]
"""A scalar of the network's parameters as they are."""


def distilled(loss: Loss, teacher: nn.Module, share: float, temperature: float = 4.0) -> Loss:
    """A part of the loss is how far the answers are from a teacher's.

        (1 - share) loss + share T^2 KL(softmax(teacher / T) || softmax(logits / T))

    Hinton et al., "Distilling the Knowledge in a Neural Network" (2015), section 2.

    Args:
        teacher: the full network; it is put into eval mode and gets no gradients.
        share: from 0 to 1.
        temperature: T, above 0.

    Raises:
        PrunerError: a number is out of range.
    """
    if not 0 <= share <= 1 or not temperature > 0:
        raise PrunerError(
            f"--distill {share:g}, temperature {temperature:g}: expected a share from 0 to 1 and a "
            f"temperature above 0"
        )
    teacher.eval()

    def both(images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            answers = teacher(images)
        soft = F.kl_div(
            F.log_softmax(logits / temperature, 1),
            F.log_softmax(answers / temperature, 1),
            reduction="batchmean",
            log_target=True,
        )
        own = loss(images, logits, labels)
        return (1 - share) * own + share * temperature**2 * soft

    return both


def penalised(loss: Loss, penalty: Penalty, weight: float) -> Loss:
    """The loss and `weight` times a penalty on the network's parameters."""

    def both(images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        return loss(images, logits, labels) + weight * penalty()

    return both


def group_lasso(model: nn.Module, graph: ChannelGraph) -> Penalty:
    """Drives whole channels to zero, with everything that is coupled in them.

        sum over units of sqrt(number of weights in it) * ||its weights||

    Wen et al., "Learning Structured Sparsity in Deep Neural Networks" (2016), equation (3), with
    the units of the channel graph as groups: rows of every filter that makes the channel and
    columns of every layer that reads it. Units that stay in any case are left out.

    Args:
        model: the network that is trained; the graph is of it.
    """
    units = graph.units()
    modules = dict(model.named_modules())
    places: list[tuple[nn.Module, str, int, Tensor]] = []
    size = torch.zeros(units.count)
    for axis in units.axes:
        path, _, name = axis.tensor.rpartition(".")
        module = modules[path]
        # A masked parameter (`weight_orig`) is read as the network reads it.
        parameter = module._parameters.get(name, module._parameters.get(f"{name}_orig"))
        if parameter is None or parameter.dim() < 2:
            continue
        unit_of = torch.from_numpy(units.of(axis)).to(parameter.device)
        places.append((module, name, axis.dim, unit_of))
        each = parameter.numel() / parameter.shape[axis.dim]
        size.index_add_(0, unit_of.cpu(), torch.full((len(unit_of),), each))
    free = torch.from_numpy(~units.frozen)
    if not places or not bool(free.any()):
        raise PrunerError("--sparse group: no channel of the network could go")
    like = next(model.parameters())
    scale = (size.sqrt() * free).to(like.device, like.dtype)

    def penalty() -> Tensor:
        squares = like.new_zeros(units.count)
        for module, name, dim, unit_of in places:
            of_rows = getattr(module, name).square().movedim(dim, 0).flatten(1).sum(1)
            squares = squares.index_add(0, unit_of, of_rows)
        # The square root has no slope at zero.
        norms = (squares + torch.finfo(squares.dtype).eps).sqrt()
        return (scale * norms).sum()

    return penalty


def norm_scales(model: nn.Module, graph: ChannelGraph) -> Penalty:
    """The sum of |scale| over all batch norms whose channels could go.

    Liu et al., "Learning Efficient Convolutional Networks through Network Slimming" (2017),
    equation (1), with g(s) = |s|.
    """
    norms = [
        module
        for path, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._NormBase)
        and module.affine
        and Axis(f"{path}.weight", 0) in graph.graph
    ]
    if not norms:
        raise PrunerError("--sparse norm: the network has no batch norm with a scale")

    def penalty() -> Tensor:
        return torch.stack([norm.weight.abs().sum() for norm in norms]).sum()

    return penalty


PENALTIES: dict[str, Callable[[nn.Module, ChannelGraph], Penalty]] = {
    "group": group_lasso,
    "norm": norm_scales,
}


def penalty_named(name: str, model: nn.Module, graph: ChannelGraph) -> Penalty:
    """The penalty of this name; PrunerError with near names for an unknown one."""
    if name not in PENALTIES:
        raise PrunerError(
            f"--sparse {name}: unknown{did_you_mean(name, PENALTIES)}; expected one of "
            f"{', '.join(PENALTIES)}"
        )
    return PENALTIES[name](model, graph)
