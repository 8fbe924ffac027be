"""Blocks; `other` has a `Block` as well."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from . import ops
from .decorators import doubled
from .ops import swish as act


class Block(nn.Module):
    """A convolution and its residue."""

    def __init__(self, channels: int, *, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2)
        self.extra = None

    def forward(self, x: Tensor) -> Tensor:
        y = act(self.conv(x))
        if self.extra is not None:
            y = self.extra(y)
        return y + ops.residue(x)


class Versioned(nn.Module):
    """Renames an old key when it loads."""

    _version = 2
    old_names: ClassVar[dict[str, str]] = {"kernel": "weight"}

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))

    @doubled
    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local: Any, *rest: Any) -> None:
        if local.get("version", None) is None:
            for old, new in self.old_names.items():
                if prefix + old in state_dict:
                    state_dict[prefix + new] = state_dict.pop(prefix + old)
        super()._load_from_state_dict(state_dict, prefix, local, *rest)


class Weights(nn.Module):
    """Lists and dictionaries of parameters."""

    def __init__(self, channels: int, *depths: int) -> None:
        super().__init__()
        self.gains = nn.ParameterList([nn.Parameter(torch.ones(channels, 1, 1)) for _ in depths])
        self.shifts = nn.ParameterDict({"low": nn.Parameter(torch.zeros(channels, 1, 1))})

    def forward(self, x: Tensor) -> Tensor:
        for gain in self.gains:
            x = x * gain
        return x + self.shifts["low"]
