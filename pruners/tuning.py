"""Learning rate and weight decay by trial: every combination, judged on the validation split."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from pruners.datasets import DataSplits
from pruners.distributed import ALONE, Ranks
from pruners.errors import DivergedError, PrunerError
from pruners.progress import note
from pruners.recipe import Recipe, checked
from pruners.training import fit


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of one combination."""

    lr: float
    weight_decay: float
    val_accuracy: float | None
    """Percent right on the validation split after the best epoch; None where training diverged."""
    loss: float | None
    """Mean training loss of the last epoch."""
    best_epoch: int | None


@dataclass(frozen=True, slots=True)
class Tuned:
    """What was tried, in the order of the grid, and what was best."""

    trials: tuple[Trial, ...]
    best: Trial


Keep = Callable[[Sequence[Trial], Mapping[str, Any] | None], None]
"""(trials so far, the network's `state_dict` where the last of them is the best so far)."""


def parsed_grid(option: str, field: str, text: str) -> tuple[float, ...]:
    """The numbers of `0.01,0.03,0.1`, each in the range of this field of a recipe.

    Raises:
        PrunerError: something else, or a number that stands twice.
    """
    values: list[float] = []
    for part in text.split(","):
        try:
            value = float(part)
        except ValueError:
            raise PrunerError(
                f"{option} {text}: {part.strip() or 'an empty place'} is not a number; expected "
                f"numbers with commas between them, such as 0.01,0.03,0.1"
            ) from None
        checked(field, value, f"{option} {text}: {part.strip()} is out of range")
        if value in values:
            raise PrunerError(f"{option} {text}: {part.strip()} stands twice; expected it once")
        values.append(value)
    return tuple(values)


def tune(
    model: nn.Module,
    splits: DataSplits,
    recipe: Recipe,
    lrs: Sequence[float],
    weight_decays: Sequence[float],
    *,
    done: Sequence[Trial] = (),
    weights: Mapping[str, Any] | None = None,
    keep: Keep | None = None,
    ranks: Ranks = ALONE,
    progress: bool = False,
) -> Tuned:
    """Train the network with every combination; it ends with the weights of the best.

    Each trial starts from the network as it came, with the same seed. The best has the highest
    validation accuracy; of equals, the lowest training loss; of those, the first. The test split
    plays no part.

    Args:
        recipe: all but learning rate and weight decay.
        lrs, weight_decays: the grid; the weight decay changes fastest.
        done: trials of an interrupted run, the first of the grid; they are not repeated.
        weights: the `state_dict` after the best of those (in the first process).
        keep: called after every trial, in the first process.
        ranks, progress: see `fit`.

    Raises:
        DivergedError: training diverged in every trial.
        PrunerError: as `fit`.
    """
    trials = list(done)
    grid = list(itertools.product(lrs, weight_decays))
    for number, (lr, weight_decay) in enumerate(grid[len(trials) :], len(trials) + 1):
        if progress and ranks.is_first:
            note(f"trial {number}/{len(grid)}: lr {lr:g}, weight decay {weight_decay:g}")
        candidate = copy.deepcopy(model)
        tried = replace(recipe, lr=lr, weight_decay=weight_decay)
        trials.append(_trial(candidate, splits, tried, ranks, progress))
        is_best = best_of(trials) is trials[-1]
        if is_best:
            weights = candidate.state_dict()
        if keep is not None and ranks.is_first:
            keep(trials, weights if is_best else None)
    best = best_of(trials)
    if best is None:
        raise DivergedError(
            f"tuning on {splits.name}: training diverged in all {len(trials)} trials; "
            f"expected a finite loss in one; try learning rates below {min(lrs):g}"
        )
    if weights is not None:
        model.load_state_dict(weights)
    ranks.agree(model)
    return Tuned(tuple(trials), best)


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The best that did not diverge."""
    return min((trial for trial in trials if trial.loss is not None), key=rank_of, default=None)


def rank_of(trial: Trial) -> tuple[float, float]:
    """Smaller is better; `sorted` and `min` leave the first of equals in front."""
    if trial.val_accuracy is None or trial.loss is None:
        return 1.0, 0.0
    return -trial.val_accuracy, trial.loss


def _trial(
    model: nn.Module, splits: DataSplits, recipe: Recipe, ranks: Ranks, progress: bool
) -> Trial:
    try:
        log = fit(model, splits, recipe, ranks=ranks, progress=progress)
    except DivergedError as error:
        if progress and ranks.is_first:
            note(f"diverged: {error}")
        return Trial(recipe.lr, recipe.weight_decay, None, None, None)
    percent = log.val_accuracies[log.best_epoch]
    return Trial(recipe.lr, recipe.weight_decay, percent, log.losses[-1], log.best_epoch)
