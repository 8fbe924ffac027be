"""Training and testing: the standard recipe, in one process or several, at one go or resumed."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import Subset

from pruners.batches import Batch, Batches
from pruners.datasets import DataSplits, Labelled, check_labels
from pruners.distributed import ALONE, Ranks
from pruners.errors import DivergedError, PrunerError, ResumeError, StoppedError
from pruners.evaluation import accuracy
from pruners.global_batch import check_interceptable, global_batch
from pruners.metrics import modes_restored
from pruners.recipe import Recipe, schedule
from pruners.training_state import Plain, TrainingState, check_same

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(images, logits, labels) -> their mean loss, a scalar.

Called in every step with the images of one process, as the network saw them. Terms that do not
depend on images (a regulariser) may be added: the processes' means are averaged with weights that
add up to one.
"""


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
    lr: float = Recipe.lr,
    batch_size: int = Recipe.batch_size,
    optimizer: str = Recipe.optimizer,
    momentum: float = Recipe.momentum,
    weight_decay: float = Recipe.weight_decay,
    label_smoothing: float = Recipe.label_smoothing,
    seed: int = Recipe.seed,
    amp: bool | None = Recipe.amp,
    device: torch.device | str | None = None,
    ranks: Ranks = ALONE,
    progress: bool = False,
) -> TrainingLog:
    """Train the network in place, by the standard recipe: see `Recipe` and `fit`."""
    recipe = Recipe(
        epochs,
        optimizer=optimizer,
        lr=lr,
        batch_size=batch_size,
        momentum=momentum,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        seed=seed,
        amp=amp,
    )
    return fit(model, splits, recipe, device=device, ranks=ranks, progress=progress)


def fit(
    model: nn.Module,
    splits: DataSplits,
    recipe: Recipe,
    *,
    loss: Loss | None = None,
    device: torch.device | str | None = None,
    ranks: Ranks = ALONE,
    resume: TrainingState | None = None,
    keep: Callable[[TrainingState], None] | None = None,
    settings: Mapping[str, Plain] | None = None,
    optimizer: Mapping[str, Any] | None = None,
    stop: Callable[[], bool] | None = None,
    progress: bool = False,
) -> TrainingLog:
    """Train the network in place; it ends with the weights that were best on the validation split.

    The same seed gives the same weights on the same machine and number of threads; torch's global
    random state is left as it was.

    Args:
        model: maps images (N, *splits.input_shape) to logits (N, at least splits.num_classes).
            Every module ends in the mode it had. If it has a method `on_epoch(epoch, epochs)`,
            that is called before every epoch, counted from 0; what it changes must be in the
            `state_dict`, so that a resumed training goes on with it.
        splits: the data; `splits.augmentation` is applied to the training images.
        recipe: the optimizer and all numbers.
        loss: cross-entropy with the recipe's label smoothing by default.
        device: the network is moved there and stays there; by default it is left where it is.
        ranks: the processes that train together; each computes `recipe.batch_size` images a step,
            and all end with the same weights: those that one process with a batch of all would
            have, within rounding. It begins with the first process's.
        resume: go on from this state of the same training; on a CPU it ends with the same weights,
            bit by bit, as if it had never stopped.
        keep: called after every epoch, in the first process, with the state. Its tensors change as
            training goes on.
        settings: what else must be the same for `resume`, by name.
        optimizer: the state that the optimizer begins with (`state_dict()` of one for the same
            parameters), such as that of training before pruning.
        stop: asked after every batch whether to stop: `keep` is then called with a state in the
            middle of the epoch, which `resume` takes.
        progress: show a bar on stderr, or a line an epoch where stderr is no terminal (in the first
            process).

    Raises:
        DivergedError: the loss is not finite.
        StoppedError: `stop` said so.
        ResumeError: `resume` is of another training.
        PrunerError: the network has too few outputs for the labels, or nothing to train; a label
            is out of range.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise PrunerError(
            f"{type(model).__name__}: nothing to train; expected a parameter with requires_grad"
        )
    if ranks.size > 1:
        check_interceptable(model)
    place = parameters[0].device if device is None else torch.device(device)
    model.to(place)
    amp = place.type == "cuda" if recipe.amp is None else recipe.amp
    recipe = replace(recipe, amp=amp)
    run = _Run(model, parameters, splits, recipe, loss or cross_entropy(recipe), place, ranks)
    run.settings |= settings or {}
    # Dropout and the like draw from the global random state.
    with (
        torch.random.fork_rng(devices=[place] if place.type == "cuda" else []),
        modes_restored(model),
        _reporter(recipe.epochs, len(run.batches), progress and ranks.is_first) as report,
    ):
        torch.manual_seed(recipe.seed)
        run.start(resume, optimizer)
        try:
            for _ in range(run.epoch, recipe.epochs):
                stopped = not run.train_epoch(report, stop)
                if keep is not None and ranks.is_first:
                    keep(run.state())
                if stopped:
                    raise StoppedError(f"stopped in epoch {run.epoch + 1} of {recipe.epochs}")
        finally:
            model.load_state_dict(run.best)
    return TrainingLog(tuple(run.losses), tuple(run.accuracies), run.best_epoch, run.seconds)


class _Run:
    """Training from epoch to epoch: what goes into a `TrainingState` and comes out of one."""

    def __init__(
        self,
        model: nn.Module,
        parameters: list[nn.Parameter],
        splits: DataSplits,
        recipe: Recipe,
        loss: Loss,
        device: torch.device,
        ranks: Ranks,
    ) -> None:
        self.model = model
        self.parameters = parameters
        self.splits = splits
        self.recipe = recipe
        self.loss = loss
        self.device = device
        self.ranks = ranks
        self.order = torch.Generator().manual_seed(recipe.seed)
        self.batches = Batches(splits, recipe.batch_size, self.order, ranks)
        self.optimizer = recipe.optimizer_of(parameters)
        self.amp_dtype = _amp_dtype(device) if recipe.amp else None
        # The gradients of half precision vanish unless they are scaled up (Micikevicius et al.
        # 2018, arXiv:1710.03740, section 3.2); those of bfloat16 do not.
        scaled = self.amp_dtype == torch.float16
        self.scaler = torch.amp.GradScaler(device.type, enabled=scaled)
        self.begun = self.order.get_state()
        """The order's state when the epoch began."""
        self.batch, self.total = 0, 0.0
        """Batches of the epoch that are done, and the sum of their losses."""
        self.losses: list[float] = []
        self.accuracies: list[float] = []
        self.best_epoch = 0
        self.best: dict[str, Any] = {}
        self.began = time.perf_counter()
        self.settings = settings_of(recipe, splits, device, ranks)

    @property
    def epoch(self) -> int:
        """How many are done."""
        return len(self.losses)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def start(self, resume: TrainingState | None, optimizer: Mapping[str, Any] | None) -> None:
        """Before the first epoch, or where the state stands."""
        if resume is None:
            if optimizer is not None:
                self.optimizer.load_state_dict(dict(optimizer))
            self.ranks.agree(self.model)
            self._validate()
            return
        check_same(resume.settings, self.settings)
        before = copy.deepcopy(self.model.state_dict())
        try:
            self.model.load_state_dict(resume.weights)
            self.optimizer.load_state_dict(resume.optimizer)
            self.scaler.load_state_dict(resume.scaler)
            self.order.set_state(resume.random["order"])
            torch.set_rng_state(resume.random["cpu"])
            if self.device.type == "cuda":
                torch.cuda.set_rng_state(resume.random["cuda"], self.device)
            self.losses, self.accuracies = list(resume.losses), list(resume.val_accuracies)
            self.best_epoch, self.best = resume.best_epoch, resume.best
            self.batch, self.total = resume.batch, resume.total
            self.began -= resume.seconds
        except Exception as error:
            self.model.load_state_dict(before)
            why = " ".join(str(error).split())
            raise ResumeError(
                f"the run was of another network ({why}); give the same again"
            ) from error

    def state(self) -> TrainingState:
        return TrainingState(
            settings=self.settings,
            losses=self.losses,
            val_accuracies=self.accuracies,
            best_epoch=self.best_epoch,
            seconds=self.seconds,
            weights=self.model.state_dict(),
            best=self.best,
            optimizer=self.optimizer.state_dict(),
            scaler=self.scaler.state_dict(),
            random={
                # An epoch that is done has drawn its order; the next one begins where it ended.
                "order": self.begun if self.batch else self.order.get_state(),
                **self._random_states(),
            },
            batch=self.batch,
            total=self.total,
        )

    def train_epoch(self, report: Report, stop: Callable[[], bool] | None) -> bool:
        """The rest of the epoch; False where it was stopped before its end."""
        self.model.train()
        self.begun = self.order.get_state()
        on_epoch = getattr(self.model, "on_epoch", None)
        if on_epoch is not None and self.batch == 0:  # not again where an epoch is resumed
            on_epoch(self.epoch, self.recipe.epochs)
        epoch, count = self.epoch + 1, len(self.batches)
        for number, batch in enumerate(self.batches, 1):
            if number <= self.batch:  # done before training was resumed
                continue
            step = self.epoch * count + number - 1
            for group in self.optimizer.param_groups:
                group["lr"] = self.recipe.lr * schedule(step, self.recipe.epochs * count)
            self.total += self._step(batch, f"epoch {epoch}, batch {number}")
            self.batch = number
            report(epoch, number, self.total / number, None)
            if stop is not None and self.ranks.sum(torch.tensor(int(stop()))).item():
                return False
        self._agree()
        self.losses.append(self.total / count)
        self.batch, self.total = 0, 0.0
        self._validate()
        report(epoch, count, self.losses[-1], self.accuracies[-1])
        return True

    def _step(self, batch: Batch, where: str) -> float:
        """One step of the optimizer; the mean loss over the images of all processes."""
        check_labels(self.splits.name, batch.labels, self.splits.num_classes)
        images = batch.images.to(self.device, self.parameters[0].dtype)
        labels = batch.labels.to(self.device)
        with (
            self._autocast(),
            global_batch(self.ranks, batch.share),
        ):
            logits = self.model(images)
            _check_outputs(logits, self.splits)
            loss = self.loss(images, logits, labels) * batch.share.weight
        value = self.ranks.sum(loss.detach()).item()
        if not math.isfinite(value):
            lr = self.recipe.lr
            raise DivergedError(
                f"training on {self.splits.name}: the loss is {value} in {where}; expected a "
                f"finite number; try a learning rate below {lr:g}, such as lr={lr / 10:g}"
            )
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.ranks.sum_gradients(self.parameters)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return value

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.amp_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.amp_dtype)

    def _validate(self) -> None:
        """Test the network as it is; keep its weights where they are the best so far."""
        percent = shared_accuracy(
            self.model, self.splits.val, self.ranks, self.device, self.recipe.batch_size
        )
        self.accuracies.append(percent)
        # Of equals the later: its learning rate was lower.
        if percent >= self.accuracies[self.best_epoch]:
            self.best_epoch, self.best = self.epoch, copy.deepcopy(self.model.state_dict())

    def _agree(self) -> None:
        """What operators have left in buffers and random states, the first process's in all."""
        self.ranks.agree(self.model)
        states = {name: self.ranks.from_first(s) for name, s in self._random_states().items()}
        if self.ranks.size > 1:
            torch.set_rng_state(states["cpu"])
            if "cuda" in states:
                torch.cuda.set_rng_state(states["cuda"], self.device)

    def _random_states(self) -> dict[str, Tensor]:
        states = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        return states


def settings_of(
    recipe: Recipe, splits: DataSplits, device: torch.device, ranks: Ranks
) -> dict[str, Plain]:
    """What must be the same when a run is resumed, by name."""
    return {
        **asdict(recipe),
        "dataset": splits.name,
        "training images": len(splits.train),  # type: ignore[arg-type]
        "device": device.type,
        "processes": ranks.size,
    }


def cross_entropy(recipe: Recipe) -> Loss:
    """With the recipe's label smoothing."""

    def loss(images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)

    return loss


def _amp_dtype(device: torch.device) -> torch.dtype:
    """bfloat16, but for GPUs that are too old for it."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


def shared_accuracy(
    model: nn.Module,
    dataset: Labelled,
    ranks: Ranks,
    device: torch.device | str | None = None,
    batch_size: int = 256,
) -> float:
    """`accuracy`, each process testing a part of the images; the same figure in all."""
    if ranks.size == 1:
        return accuracy(model, dataset, device, batch_size)
    size = len(dataset)  # type: ignore[arg-type]
    share = ranks.share(size)
    right = 0
    if not share.is_empty:
        own = Subset(dataset, range(share.start, share.stop))
        percent = accuracy(model, own, device, batch_size)
        right = round(percent / 100 * (share.stop - share.start))
    return 100.0 * int(ranks.sum(torch.tensor(right))) / size


def _check_outputs(logits: Any, splits: DataSplits) -> None:
    if not isinstance(logits, Tensor):
        raise PrunerError(
            f"{splits.name}: in training, the network's output is a {type(logits).__name__}; "
            f"expected a tensor of logits: build it without further outputs, such as "
            f"--arch-args '{{\"aux_logits\": false}}'"
        )
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
