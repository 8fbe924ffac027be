"""How a network is trained, as plain values: optimizer, numbers, course of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from pruners.errors import PrunerError, did_you_mean

OPTIMIZERS = ("sgd", "adamw")

FROM_SCRATCH = {"sgd": (0.1, 5e-4), "adamw": (0.001, 0.01)}
"""Learning rate and weight decay that suit training from random weights, by optimizer."""

_ALLOWED: dict[str, tuple[Callable[[float], bool], str]] = {
    "lr": (lambda value: 0 < value < math.inf, "a number above 0"),
    "weight_decay": (lambda value: 0 <= value < math.inf, "a number of at least 0"),
    "momentum": (lambda value: 0 <= value < 1, "a number of at least 0 and below 1"),
    "label_smoothing": (lambda value: 0 <= value < 1, "a number of at least 0 and below 1"),
    "epochs": (lambda value: value >= 0, "0 or more"),
    "batch_size": (lambda value: value >= 1, "1 or more"),
}


@dataclass(frozen=True)
class Recipe:
    """The standard recipe: SGD or AdamW, a warm-up and a cosine, label smoothing.

    The defaults suit three to five epochs of fine-tuning after pruning.

    Raises:
        PrunerError: a number out of range, or an unknown optimizer.
    """

    epochs: int
    """Passes over the training split; 0 only measures."""
    optimizer: str = "sgd"
    """`sgd`: stochastic gradient descent with Nesterov momentum; `adamw`: Adam with decoupled
    weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101)."""
    lr: float = 0.03
    """The highest learning rate."""
    batch_size: int = 64
    """Images a step, of each process."""
    momentum: float = 0.9
    """Of the gradient; AdamW's first beta (its second is 0.999)."""
    weight_decay: float = 5e-4
    """Penalty on all parameters: added to the gradient (L2) by SGD, to the step by AdamW."""
    label_smoothing: float = 0.05
    """Probability taken from the right class and spread over all (Szegedy et al. 2016,
    arXiv:1512.00567, section 7)."""
    seed: int = 0
    """Of the order of images, the augmentation and dropout."""
    amp: bool | None = None
    """Mixed precision; None: on a GPU only."""

    def __post_init__(self) -> None:
        for name in _ALLOWED:
            checked(name, getattr(self, name))
        if self.optimizer not in OPTIMIZERS:
            raise PrunerError(
                f"optimizer {self.optimizer}: unknown{did_you_mean(self.optimizer, OPTIMIZERS)} "
                f"(expected {' or '.join(OPTIMIZERS)})"
            )

    def optimizer_of(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        """A new optimizer for these parameters, at the highest learning rate."""
        if self.optimizer == "adamw":
            betas = (self.momentum, 0.999)
            return torch.optim.AdamW(parameters, self.lr, betas, weight_decay=self.weight_decay)
        return torch.optim.SGD(
            parameters,
            self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.momentum > 0,
        )


def checked(name: str, value: float, shown: str | None = None) -> float:
    """The value of this field of a recipe; PrunerError, naming it as `shown`, if out of range."""
    allowed, expected = _ALLOWED[name]
    if not allowed(value):
        raise PrunerError(f"{shown or f'{name} {value}'}: expected {expected}")
    return value


def schedule(step: int, steps: int) -> float:
    """Share of the highest learning rate at a step, counted from 0.

    Linear over the first tenth of the steps (Goyal et al. 2017, arXiv:1706.02677, section 2.2),
    times a cosine down to zero (Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5).
    """
    warm_up = min(1.0, (step + 1) / max(1, steps // 10))
    return warm_up * (1 + math.cos(math.pi * step / steps)) / 2
