"""An int8 version of a network, for figures: torch's PT2E quantization with torchao.

The network is exported (`torch.export`), observers are put where 8 bits are to be, batches of
training data show them their ranges, and what they saw becomes scales. Weights are quantized per
channel, activations per tensor, as the int8 kernels of x86 have it.
https://docs.pytorch.org/ao/stable/pt2e_quantization/pt2e_quant_x86_inductor.html
"""

from __future__ import annotations

import copy
import importlib
import warnings
from collections.abc import Iterable
from types import ModuleType
from typing import Any, Self

import torch
from torch import Tensor, nn

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
    pt2e, quantizer_module = _torchao()
    plain = copy.deepcopy(net).to("cpu", torch.float32).eval()
    quantizer = quantizer_module.X86InductorQuantizer()
    quantizer.set_global(quantizer_module.get_default_x86_inductor_quantization_config())
    example = example_inputs.detach().to("cpu", torch.float32)
    # The libraries warn of each other's coming versions.
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            # Any number of examples; of one, export would make a constant.
            exported = torch.export.export(
                plain, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
            )
        except Exception as error:
            raise PrunerError(
                f"quant_mode: {type(net).__name__} cannot be exported "
                f"({' '.join(str(error).split())[:200]}); expected a forward that torch.export "
                f"can follow: https://docs.pytorch.org/docs/stable/export.html"
            ) from error
        prepared = pt2e.prepare_pt2e(exported.module(), quantizer)
        count = 0
        for batch in batches:
            prepared(batch.to("cpu", torch.float32))
            count += 1
        if not count:
            raise PrunerError(
                "quant_mode: no batch to calibrate with; expected at least one training image"
            )
        return Quantized(pt2e.convert_pt2e(prepared))


def _torchao() -> tuple[ModuleType, ModuleType]:
    """The package and its quantizer for x86, whose import takes seconds."""
    try:
        return (
            importlib.import_module("torchao.quantization.pt2e.quantize_pt2e"),
            importlib.import_module("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer"),
        )
    except ImportError as error:
        raise PrunerError(
            f"quant_mode: needs torchao ({error}); install it with `pip install '.[deploy]'`"
        ) from error
