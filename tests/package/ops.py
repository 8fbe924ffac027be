"""Helpers; `scale` is also the name of something else elsewhere."""

import torch
from torch import Tensor

EPS = 1e-3


def scale(x: Tensor) -> Tensor:
    """By one and a bit."""
    return x * (1 + EPS)


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def _private(x: Tensor) -> Tensor:
    return scale(x) - x


def residue(x: Tensor) -> Tensor:
    return _private(x)
