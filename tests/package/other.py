"""A second `Block` and a second `scale`."""

import torch.nn.functional as F
from torch import Tensor, nn

from .ops import *  # noqa: F403

EPS = 0.5


def scale(x: Tensor) -> Tensor:
    return x * EPS


class Block(nn.Module):
    """Pointwise."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.point = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + scale(F.relu(self.point(swish(x))))  # noqa: F405
