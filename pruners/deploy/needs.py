"""What a device needs for a network: size on disk, memory, work and time, float and int8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruners.deploy.calibration import FEWEST
from pruners.deploy.exporting import with_batch
from pruners.deploy.onnx_file import onnx_of
from pruners.deploy.onnx_int8 import onnx_int8
from pruners.deploy.runtime import OnnxNetwork, side_by_side_ms
from pruners.errors import PrunerError
from pruners.evaluation import weights_bytes
from pruners.metrics import activation_memory, count_macs, count_parameters


@dataclass(frozen=True, slots=True)
class Needs:
    """Of one network; what int8 has no form for is None there."""

    parameters: int
    macs: int
    """Multiply-accumulates of one example."""
    activation_bytes: int
    """The most that the activations of one example need at once, in float."""
    pth_bytes: int
    """Of the weights file."""
    onnx_bytes: int
    int8_onnx_bytes: int | None
    latency_ms: float
    """Of one example in onnxruntime, one thread: a median (`side_by_side_ms`)."""
    int8_latency_ms: float | None

    def described(self) -> dict[str, Any]:
        """Plain values for files, which hold no times."""
        facts = asdict(self)
        return {name: value for name, value in facts.items() if not name.endswith("latency_ms")}


@dataclass(frozen=True, slots=True)
class Forms:
    """A network and its ONNX files."""

    model: nn.Module
    onnx: bytes
    int8: bytes | None


def forms_of(model: nn.Module, inputs: Sequence[Tensor], onnx: bytes | None = None) -> Forms:
    """The ONNX files of a network whose figures are asked for, its answers are not.

    int8 is calibrated with random inputs: what they are changes no size and no time. None where
    there is no int8 form.

    Args:
        onnx: the float file, where there is one.
    """
    content = onnx_of(model, inputs) if onnx is None else onnx
    generator = torch.Generator().manual_seed(0)
    random = tuple(
        torch.randn(x.shape, generator=generator) if x.is_floating_point() else x
        for x in with_batch(inputs, FEWEST)
    )
    try:
        int8 = onnx_int8(content, [random]).content
    except PrunerError:
        int8 = None
    return Forms(model, content, int8)


def needs_of(networks: Sequence[Forms], inputs: Sequence[Tensor], repeats: int = 50) -> list[Needs]:
    """The figures of each network, side by side: they take turns when time is measured.

    Args:
        inputs: examples of all inputs; time is of the first one alone.
        repeats: calls of which the latency is the median.
    """
    one = with_batch(inputs, 1)
    files = [file for forms in networks for file in (forms.onnx, forms.int8) if file is not None]
    times = iter(side_by_side_ms([OnnxNetwork(file) for file in files], one, repeats))
    return [
        Needs(
            parameters=count_parameters(forms.model),
            macs=count_macs(forms.model, one),
            activation_bytes=activation_memory(forms.model, one),
            pth_bytes=weights_bytes(forms.model),
            onnx_bytes=len(forms.onnx),
            int8_onnx_bytes=None if forms.int8 is None else len(forms.int8),
            latency_ms=next(times),
            int8_latency_ms=None if forms.int8 is None else next(times),
        )
        for forms in networks
    ]
