"""An int8 version of a network, for figures: torch's PT2E quantization with torchao.

The network is exported (`torch.export`), observers are put where 8 bits are to be, batches of
training data show them their ranges, and what they saw becomes scales. Weights are quantized per
channel, activations per tensor, as the int8 kernels of x86 have it.
https://docs.pytorch.org/ao/stable/pt2e_quantization/pt2e_quant_x86_inductor.html
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, Self

import torch
from torch import Tensor, nn

from pruners.deploy.exporting import exported
from pruners.deploy.extra import need, quiet
from pruners.deploy.torch_int8 import int8_graph
from pruners.errors import PrunerError


class Quantized(nn.Module):
    """A quantized network: images (N, ...) in, logits out, on the CPU.

    Attributes:
        graph: the exported program with its quantize and dequantize operators.
    """

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.graph = graph
        self.training = False

    def forward(self, *inputs: Tensor) -> Any:
        return self.graph(*inputs)

    def train(self, mode: bool = True) -> Self:
        """It stays as it is: an exported program has no other mode."""
        return self


def quantized(net: nn.Module, example_inputs: Tensor, batches: Iterable[Tensor]) -> Quantized:
    """An int8 version of the network, calibrated on the batches.

    Args:
        net: it is not changed; what is quantized is a copy of it on the CPU, in eval mode and
            float32.
        example_inputs: shape (N, ...), two examples or more; the result takes any number.
        batches: inputs alone, shape (n, ...), which show the ranges of activations.

    Raises:
        PrunerError: torchao is missing, the network cannot be exported, or there is no batch.
    """
    need("quant_mode", "torchao")
    plain = copy.deepcopy(net).to("cpu", torch.float32).eval()
    program = exported(plain, example_inputs.detach().to(torch.float32), "quant_mode")
    calibration = [(batch.to("cpu", torch.float32),) for batch in batches]
    if not calibration:
        raise PrunerError(
            "quant_mode: no batch to calibrate with; expected at least one training image"
        )
    with quiet(), torch.no_grad():
        return Quantized(int8_graph(program, calibration))
