"""The network as it leaves: batch norms folded, exported, and held against what it was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pruners.deploy.exporting import on_cpu, with_batch
from pruners.deploy.folding import folded
from pruners.deploy.onnx_file import check_onnx, difference, onnx_of
from pruners.errors import VerificationError
from pruners.store import save_bytes
from pruners.verify import tolerance_for
from pruners.verify_child import MismatchError


@dataclass(frozen=True, slots=True)
class Final:
    """A network that is ready for a device."""

    model: nn.Module
    """The network with folded batch norms."""
    contents: Mapping[str, bytes]
    """`.pth`, which the generated file loads, and `.onnx`."""
    folded: tuple[str, ...]
    """Batch norms that became part of the layer before them."""
    left: tuple[str, ...]
    """Those that did not."""
    errors: Mapping[str, float]
    """The largest difference of every comparison, relative to the largest value."""


def without_norms(
    model: nn.Module, inputs: Sequence[Tensor], real: Iterable[tuple[Any, ...]] = ()
) -> tuple[nn.Module, tuple[str, ...], tuple[str, ...], float]:
    """A copy with folded batch norms; which were folded, which not, and how far it is from before.

    Args:
        model: left as it is.
        inputs: random examples of all inputs.
        real: batches of real ones, which are compared as well.

    Raises:
        VerificationError: it computes something else (more than 1e-5 in float32, relative).
        PrunerError: torch.export cannot follow the network.
    """
    own, ready = on_cpu(model), on_cpu(model)
    made = folded(own, inputs)
    ready.load_state_dict(made.state_dict)
    floating = [p.dtype for p in own.parameters() if p.is_floating_point()]
    tolerance = tolerance_for(floating[0]) if floating else 0.0
    error = 0.0
    for examples in (with_batch(inputs, 2), with_batch(inputs, 5), *real):
        try:
            error = max(error, difference(ready, own, examples))
        except MismatchError as mismatch:
            raise VerificationError(
                f"finalize: {type(model).__name__} with folded batch norms: {mismatch}"
            ) from mismatch
    if not error <= tolerance:
        raise VerificationError(
            f"finalize: {type(model).__name__} with folded batch norms differs from the network "
            f"by {error:.1e}, relative; expected at most {tolerance:.0e}"
        )
    return ready, made.norms, made.left, error


def finalize(
    model: nn.Module,
    inputs: Sequence[Tensor],
    real: Iterable[tuple[Any, ...]] = (),
    metadata: Mapping[str, str] | None = None,
) -> Final:
    """The files of the last stage; arguments and errors as `without_norms` and `onnx_of`."""
    ready, norms, left, error = without_norms(model, inputs, real)
    content = onnx_of(ready, inputs, metadata)
    errors = {"folded": error, "onnx": check_onnx(content, ready, inputs)}
    contents = {".pth": save_bytes(ready.state_dict()), ".onnx": content}
    return Final(ready, contents, norms, left, errors)
