"""The network as a torch.export graph that takes any number of examples, and as a `.pt2` file."""

from __future__ import annotations

import copy
import io
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from pruners.deploy.extra import quiet
from pruners.deploy.failures import place_of, reason_of
from pruners.errors import PrunerError

Inputs = Tensor | Sequence[Any]
"""One input or all of them in order, examples along the first dimension of every tensor."""


def as_inputs(inputs: Inputs) -> tuple[Any, ...]:
    """All inputs, on the CPU."""
    whole = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    return tuple(x.detach().cpu() if isinstance(x, Tensor) else x for x in whole)


def with_batch(inputs: Sequence[Any], size: int) -> tuple[Any, ...]:
    """The inputs with so many examples: the first ones, from the start again if need be."""

    def resized(x: Any) -> Any:
        if not isinstance(x, Tensor) or x.ndim == 0:
            return x
        return x[torch.arange(size) % len(x)]

    return tuple(resized(x) for x in inputs)


def on_cpu(model: nn.Module) -> nn.Module:
    """A copy in eval mode, which tools may do with as they like."""
    return copy.deepcopy(model).cpu().eval().requires_grad_(False)


def exported(model: nn.Module, inputs: Inputs, what: str = "export") -> ExportedProgram:
    """The network's operators in eval mode, on the CPU, with a free batch size.

    Args:
        model: left as it is.
        what: names what the user asked for in messages.

    Raises:
        PrunerError: torch.export cannot follow the forward; the message names the layer.
    """
    # A batch of one would be taken for a constant.
    examples = with_batch(as_inputs(inputs), 2)
    free = tuple({0: Dim.DYNAMIC} if isinstance(x, Tensor) and x.ndim else None for x in examples)
    own = on_cpu(model)
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(own, examples, dynamic_shapes=(*free,))
    except Exception as error:
        raise PrunerError(
            f"{what}: {place_of(error, own)}: torch.export cannot follow its forward "
            f"({reason_of(error)}); expected one that does not depend on values, for any number "
            f"of examples: rewrite that line, or try --torchscript"
        ) from error


def pt2_of(model: nn.Module, inputs: Inputs) -> bytes:
    """A `.pt2` file, the same bytes for the same network and inputs.

    `torch.export.load(file).module()` is the network, for any number of examples.

    Raises:
        PrunerError: as `exported`.
    """
    return pt2_bytes(exported(model, inputs, "export --pt2"))


def pt2_bytes(program: ExportedProgram) -> bytes:
    """The file of a graph, without what tells where and by whom it was traced."""
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                for key in ("stack_trace", "from_node", "source_fn_stack"):
                    node.meta.pop(key, None)
    buffer = io.BytesIO()
    with quiet():
        torch.export.save(program, buffer)
    return buffer.getvalue()
