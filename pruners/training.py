"""Training and testing, as much of it as a pruned network needs to recover."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pruners.datasets import Augmentation, DataSplits
from pruners.errors import PrunerError
from pruners.evaluation import accuracy
from pruners.metrics import modes_restored


@dataclass(frozen=True, slots=True)
class TrainingLog:
    """What happened, epoch by epoch."""

    losses: tuple[float, ...]
    """Mean training loss of each epoch."""
    val_accuracies: tuple[float, ...]
    """Percent right on the validation split, before training and after each epoch."""
    best_epoch: int
    """Whose weights the network now has; 0 means that training did not improve on the start."""
    seconds: float


def train(
    model: nn.Module,
    splits: DataSplits,
    epochs: int,
    *,
    lr: float = 0.03,
    batch_size: int = 64,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    label_smoothing: float = 0.05,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> TrainingLog:
    """Train the network in place; it ends with the weights that were best on the validation split.

    Stochastic gradient descent with Nesterov momentum; the learning rate warms up and then
    follows a cosine to zero, step by step. The defaults suit three to five epochs of fine-tuning
    after pruning. The same seed gives the same weights on the same machine and number of threads;
    torch's global random state is left as it was.

    Args:
        model: maps images (N, *splits.input_shape) to logits (N, at least splits.num_classes).
            Every module ends in the mode it had.
        splits: the data; `splits.augmentation` is applied to the training images.
        epochs: passes over the training split; 0 only measures.
        lr: the highest learning rate.
        batch_size: images a step.
        momentum: of the gradient.
        weight_decay: L2 penalty on all parameters.
        label_smoothing: probability taken from the right class and spread over all.
        seed: of the order of images, the augmentation and dropout.
        device: the network is moved there and stays there; by default it is left where it is.
        progress: show a bar on stderr, or a line an epoch where stderr is no terminal.

    Raises:
        PrunerError: the loss is not finite; the network has too few outputs for the labels or
            nothing to train; a negative number of epochs.
    """
    if epochs < 0:
        raise PrunerError(f"epochs {epochs}: expected 0 or more")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise PrunerError(
            f"{type(model).__name__}: nothing to train; expected a parameter with requires_grad"
        )
    device = parameters[0].device if device is None else torch.device(device)
    model.to(device)
    generator = torch.Generator().manual_seed(seed)
    size = len(splits.train)  # type: ignore[arg-type]
    loader = DataLoader(
        splits.train,
        batch_size,
        shuffle=True,
        generator=generator,
        # Batch norm cannot train on a single image.
        drop_last=size > batch_size and size % batch_size == 1,
    )
    optimizer = torch.optim.SGD(
        parameters, lr, momentum=momentum, weight_decay=weight_decay, nesterov=momentum > 0
    )
    start = time.perf_counter()
    losses: list[float] = []
    accuracies = [accuracy(model, splits.val, device, batch_size)]
    best_epoch, best = 0, copy.deepcopy(model.state_dict())
    # Dropout and the like draw from the global random state.
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        modes_restored(model),
        _reporter(epochs, len(loader), progress) as report,
    ):
        torch.manual_seed(seed)
        try:
            for epoch in range(1, epochs + 1):
                model.train()
                total = 0.0
                for batch, (images, labels) in enumerate(loader):
                    step = (epoch - 1) * len(loader) + batch
                    for group in optimizer.param_groups:
                        group["lr"] = lr * _schedule(step, epochs * len(loader))
                    images = augment(images, splits.augmentation, generator)
                    logits = model(images.to(device, parameters[0].dtype))
                    _check_outputs(logits, splits)
                    loss = F.cross_entropy(
                        logits, labels.to(device), label_smoothing=label_smoothing
                    )
                    value = loss.item()
                    if not math.isfinite(value):
                        raise PrunerError(
                            f"training on {splits.name}: the loss is {value} in epoch {epoch}, "
                            f"batch {batch + 1}; expected a finite number; "
                            f"try a learning rate below {lr:g}, such as lr={lr / 10:g}"
                        )
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                    total += value
                    report(epoch, batch + 1, total / (batch + 1), None)
                losses.append(total / len(loader))
                accuracies.append(accuracy(model, splits.val, device, batch_size))
                # Of equals the later: its learning rate was lower.
                if accuracies[-1] >= accuracies[best_epoch]:
                    best_epoch, best = epoch, copy.deepcopy(model.state_dict())
                report(epoch, len(loader), losses[-1], accuracies[-1])
        finally:
            model.load_state_dict(best)
    return TrainingLog(tuple(losses), tuple(accuracies), best_epoch, time.perf_counter() - start)


def augment(images: Tensor, how: Augmentation, generator: torch.Generator) -> Tensor:
    """Images (N, C, H, W), each shifted and mirrored at random, in the same shape."""
    count, channels, height, width = images.shape
    if how.flip:
        mirrored = torch.rand(count, generator=generator) < 0.5
        images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
    if how.shift == 0:
        return images
    padded = F.pad(images, (how.shift,) * 4, value=how.fill)
    offsets = torch.randint(2 * how.shift + 1, (2, count, 1), generator=generator)
    rows = offsets[0] + torch.arange(height)
    columns = offsets[1] + torch.arange(width)
    return padded[
        torch.arange(count).view(-1, 1, 1, 1),
        torch.arange(channels).view(1, -1, 1, 1),
        rows.view(count, 1, height, 1),
        columns.view(count, 1, 1, width),
    ]


def _schedule(step: int, steps: int) -> float:
    """Share of the highest learning rate: a tenth of the way up, then a cosine down to zero."""
    warm_up = min(1.0, (step + 1) / max(1, steps // 10))
    return warm_up * (1 + math.cos(math.pi * step / steps)) / 2


def _check_outputs(logits: Tensor, splits: DataSplits) -> None:
    if logits.ndim != 2 or logits.shape[1] < splits.num_classes:
        raise PrunerError(
            f"{splits.name}: {splits.num_classes} classes, but the network's output is "
            f"{tuple(logits.shape)}; expected (batch, {splits.num_classes}): build it with "
            f"--num-classes {splits.num_classes}"
        )


Report = Callable[[int, int, float, float | None], None]
"""(epoch, batches done, mean loss so far, validation accuracy at the end of an epoch)."""


@contextmanager
def _reporter(epochs: int, batches: int, shown: bool) -> Iterator[Report]:
    """What tells the user how far training is: a bar, a line an epoch, or nothing."""
    console = Console(stderr=True)
    if not shown or epochs == 0:
        yield lambda epoch, batch, loss, percent: None
    elif not console.is_terminal:

        def line(epoch: int, batch: int, loss: float, percent: float | None) -> None:
            if percent is not None:
                console.print(
                    f"epoch {epoch}/{epochs}  loss {loss:.3f}  validation {percent:.1f} %",
                    highlight=False,
                )

        yield line
    else:
        with Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("batches  loss {task.fields[loss]:.3f}"),
            TimeRemainingColumn(),
            console=console,
        ) as bar:
            task = bar.add_task("", total=epochs * batches, epoch=1, epochs=epochs, loss=math.nan)

            def update(epoch: int, batch: int, loss: float, percent: float | None) -> None:
                done = (epoch - 1) * batches + batch
                bar.update(task, completed=done, epoch=epoch, loss=loss)

            yield update
