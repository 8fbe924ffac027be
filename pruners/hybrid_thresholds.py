"""Thresholds of variance, entropy and sparsity that change while a network is trained.

    thresholds = HybridThresholds({"variance": 1.0, "entropy": 0.6, "sparsity": 0.4}, 5, 20)
    thresholds.anneal(0)   # as they were given
    thresholds.anneal(20)  # final

What has less variance and less entropy than the thresholds, and more zeros, is simple: an image,
which then takes the shallow path of a `DynamicNeuralNetwork` (`models/dynamic`), or a channel,
which `prune_by_activation` then removes.

This class stands here once; a generated file of a network that has one carries its own copy, so it
needs nothing but the standard library.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class HybridThresholds:
    """Thresholds that hold until an epoch, and then go over to final ones along half a cosine.

    Attributes:
        initial_thresholds: under "variance" (of any unit, squared), "entropy" (of a histogram, as
            a share of the largest that it can have) and "sparsity" (a share of zeros).
        annealing_start_epoch: the last epoch, counted from 0, with the initial thresholds.
        total_epochs: the first epoch with the final ones.
        final_thresholds: by default what is half as easy to meet: half the variance, half the
            entropy, and half the way from the sparsity to 1.

    Raises:
        ValueError: a threshold is missing, unknown or out of range, or the epochs are.
    """

    initial_thresholds: Mapping[str, float]
    annealing_start_epoch: int
    total_epochs: int
    final_thresholds: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        names = ("variance", "entropy", "sparsity")
        for what in ("initial_thresholds", "final_thresholds"):
            thresholds = getattr(self, what)
            if thresholds is None and what == "final_thresholds":
                continue
            if not isinstance(thresholds, Mapping):
                raise ValueError(
                    f"{what}: a {type(thresholds).__name__}; expected a dict of "
                    f"{', '.join(names)}, such as {{'variance': 0.5, 'entropy': 0.5, "
                    f"'sparsity': 0.5}}"
                )
            for name in [*thresholds, *names]:
                if name not in names or name not in thresholds:
                    problem = "missing" if name in names else "unknown"
                    raise ValueError(f"{what}: {name} is {problem}; expected {', '.join(names)}")
                value, highest = thresholds[name], math.inf if name == "variance" else 1
                number = isinstance(value, int | float) and not isinstance(value, bool)
                if not number or not 0 <= value <= highest or math.isinf(value):
                    limits = "0 or more" if name == "variance" else "0 to 1"
                    raise ValueError(f"{what}: {name} is {value!r}; expected a number, {limits}")
        start, total = self.annealing_start_epoch, self.total_epochs
        for what, epoch in (("annealing_start_epoch", start), ("total_epochs", total)):
            if not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 0:
                raise ValueError(f"{what} {epoch!r}: expected a whole number, 0 or more")
        if start > total:
            raise ValueError(
                f"annealing_start_epoch {start}: is after total_epochs {total}, when annealing ends"
            )

    def anneal(self, epoch: int) -> dict[str, float]:
        """The thresholds of an epoch, counted from 0.

        With t from 0 at `annealing_start_epoch` to 1 at `total_epochs`, the way from initial to
        final is (1 - cos(pi t)) / 2 done: slow, fast, slow.
        """
        start, total = self.annealing_start_epoch, self.total_epochs
        done = float(epoch >= total)
        if start < epoch < total:
            done = (epoch - start) / (total - start)
        share = (1 - math.cos(math.pi * done)) / 2
        initial, final = self.initial_thresholds, self.final_thresholds
        if final is None:
            final = {name: value / 2 for name, value in initial.items()}
            final["sparsity"] = (1 + initial["sparsity"]) / 2
        return {name: (1 - share) * initial[name] + share * final[name] for name in initial}
