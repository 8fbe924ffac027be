"""What several test files share: networks with telling weights, and the oracle's comparison."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import nn


def with_telling_state(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random batch-norm statistics and affine parameters: at 0 and 1 they hide wrong indices."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor: torch.Tensor, low: float, high: float) -> None:
        values = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
        tensor.copy_(values * (high - low) + low)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                if module.affine:
                    uniform(module.weight, 0.5, 1.5)
                    uniform(module.bias, -0.5, 0.5)
                if module.running_mean is not None and module.running_var is not None:
                    uniform(module.running_mean, -0.5, 0.5)
                    uniform(module.running_var, 0.5, 1.5)
            elif isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
                uniform(module.bias, -0.5, 0.5)
    return model.eval()


def image(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def scripted(model: nn.Module) -> Any:
    """`torch.jit.script(model)`, at the second try where the first meets a dead function's id.

    TorchScript knows built-in functions by `id`, also those that are gone: now and then the list of
    paddings that every convolution holds is taken for one ("builtin cannot be used as a value").
    """
    copies = [model]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        while True:
            try:
                return torch.jit.script(copies[-1])
            except RuntimeError as error:
                if "builtin cannot be used as a value" not in str(error) or len(copies) > 3:
                    raise
                copies.append(copy.deepcopy(model))
