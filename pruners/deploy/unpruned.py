"""The network before all pruning, to compare with: built anew from what the manifest tells.

What a network costs does not depend on its weights, so random ones will do. It is believed only
where it has as many parameters and multiply-accumulates as the manifest says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pruners.errors import PrunerError
from pruners.libraries import OFFERED, library_network
from pruners.metrics import count_macs, count_parameters
from pruners.networks import Request, find_network, input_size
from pruners.registry import MODELS


def unpruned(
    facts: Mapping[str, Any],
    slim: nn.Module,
    inputs: Sequence[Tensor],
    request: Request | None = None,
) -> tuple[nn.Module | None, str]:
    """The original network in eval mode, or None and why there is none.

    Args:
        facts: the manifest.
        slim: the pruned network.
        inputs: examples of its inputs.
        request: where the user says which network it was.

    Raises:
        PrunerError: the request names no network.
    """
    before = facts.get("pruned_before") or {
        "parameters": facts.get("parameters", {}).get("before"),
        "macs": facts.get("macs", {}).get("before"),
    }
    if request is not None:
        found: nn.Module | None = find_network(request, shipped=False).model
        name = request.arch
    else:
        name = str(facts.get("network", ""))
        found = _by_name(name, facts, slim, inputs)
    if found is None:
        return None, f"{name}: the manifest does not tell how it is built; --arch ARCH says it"
    counts = {
        "parameters": count_parameters(found),
        "macs": count_macs(found, inputs),
    }
    for what, count in counts.items():
        if before[what] is not None and before[what] != count:
            return None, f"{name}: has {count:,} {what}, but the manifest says {before[what]:,}"
    return found.eval(), ""


def _by_name(
    name: str, facts: Mapping[str, Any], slim: nn.Module, inputs: Sequence[Tensor]
) -> nn.Module | None:
    """A network of the zoo, or of a library; None where the name is neither's."""
    outputs = _outputs(slim, inputs)
    entry = MODELS.get(name)
    if entry is not None and outputs:
        build = entry["wrapper"]
        return build(num_classes=outputs, **input_size(build, inputs[0].shape[1:]))
    kept_of = (facts.get("pruned_before") or {}).get("kept_of", facts.get("generated_from", ""))
    library = str(kept_of).partition("/")[0]
    if library not in OFFERED:
        return None
    try:
        offered = library_network(f"{library}:{name}")
    except PrunerError:
        return None
    classes = {"num_classes": outputs} if outputs else {}
    return offered.build(**{**offered.arguments, **classes})


def _outputs(slim: nn.Module, inputs: Sequence[Tensor]) -> int:
    """How many classes the network tells apart; 0 where that is not what it does."""
    with torch.no_grad():
        output = slim(*inputs)
    return output.shape[1] if isinstance(output, Tensor) and output.ndim == 2 else 0
