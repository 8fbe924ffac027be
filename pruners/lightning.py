"""A trainer whose steps are those of a Lightning module; Lightning itself is not needed.

    # my_trainer.py
    from pruners.lightning import LightningTrainer

    class MyTrainer(LightningTrainer):
        def module(self, net):
            return MyLightningModule(net)

    python app.py iterate --trainer my_trainer.py:MyTrainer ...

Of the module, `training_step(batch, batch_idx)` and `configure_optimizers()` are called, as
Lightning's own loop does with automatic optimization
(https://lightning.ai/docs/pytorch/stable/common/lightning_module.html); its other hooks are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pruners.errors import PrunerError
from pruners.progress import note
from pruners.threshold import rising
from pruners.trainer import Trainer

METHODS = ("training_step", "configure_optimizers")


class LightningTrainer(Trainer):
    """Trains with the loss and the optimizer of a Lightning module."""

    def module(self, net: nn.Module) -> Any:
        """A Lightning module around this very network, whose parameters it trains; to override.

        It is made anew where channels have gone.
        """
        raise PrunerError(
            f"{type(self).__name__}: has no module(net); expected a method that returns a "
            f"Lightning module around the network"
        )

    def train_loop(
        self,
        net: nn.Module,
        optimizer: Optimizer,
        scheduler: Any,
        name: str,
        epochs: int,
        threshold: float,
    ) -> nn.Module:
        """As `Trainer.train_loop`; the module's optimizer and schedule replace those given.

        Raises:
            DivergedError: the loss is not finite.
            PrunerError: the module lacks a method, optimizes by hand, has several optimizers, or
                its step returns no loss.
        """
        module = self._checked(net)
        optimizer, after_step, after_epoch = _configured(module)
        for epoch, below in enumerate(rising(threshold, epochs), 1):
            if self.pruning:
                thinner = self.thinner(net, optimizer, below, name)
                if thinner is not net:
                    net, module = thinner, self._checked(thinner)
            loss = self._epoch(module, net, optimizer, after_step, (name, epoch))
            after_epoch()
            self.save(net, name)
            note(f"{name}: epoch {epoch}/{epochs}  loss {loss:.3f}")
        return net

    def _epoch(
        self,
        module: Any,
        net: nn.Module,
        optimizer: Optimizer,
        after_step: Callable[[], None],
        where: tuple[str, int],
    ) -> float:
        name, epoch = where
        total = 0.0
        module.train()
        net.train()
        for number, batch in enumerate(self.dataloader["train"]):
            loss = _loss(module, module.training_step(self._placed(batch), number))
            total += loss.item()
            if not math.isfinite(total):
                what = f"the loss is {loss.item()} in epoch {epoch}, batch {number + 1}"
                raise self.diverged(name, what, optimizer)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            after_step()
        self.check_finite(net, name, epoch, optimizer)
        return total / len(self.dataloader["train"])

    def _placed(self, batch: Any) -> Any:
        """Tensors on the device; floating ones in the trainer's dtype."""
        if isinstance(batch, Tensor):
            return batch.to(self.devicy, self.dtype if batch.is_floating_point() else batch.dtype)
        if isinstance(batch, list | tuple):
            return [self._placed(item) for item in batch]
        if isinstance(batch, Mapping):
            return {key: self._placed(item) for key, item in batch.items()}
        return batch

    def _checked(self, net: nn.Module) -> Any:
        module = self.module(net)
        what = f"{type(self).__name__}.module: {type(module).__name__}"
        missing = [name for name in METHODS if not callable(getattr(module, name, None))]
        if missing or not isinstance(module, nn.Module):
            lacks = f"lacks {', '.join(missing)}" if missing else "is no torch.nn.Module"
            raise PrunerError(f"{what} {lacks}; expected a Lightning module")
        if getattr(module, "automatic_optimization", True) is not True:
            raise PrunerError(
                f"{what} optimizes by hand (automatic_optimization=False); expected a "
                f"training_step that returns the loss, or a train_loop of your own"
            )
        ours = {id(parameter) for parameter in net.parameters()}
        if not ours & {id(parameter) for parameter in module.parameters()}:
            raise PrunerError(
                f"{what} does not hold the network that it was made for; expected one that trains "
                f"the given network, not a copy"
            )
        return module


def _loss(module: Any, output: Any) -> Tensor:
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise PrunerError(
            f"{type(module).__name__}: training_step returned a {type(output).__name__}; expected "
            f"the loss, a scalar tensor, or a dict with it as 'loss'"
        )
    return loss


def _configured(module: Any) -> tuple[Optimizer, Callable[[], None], Callable[[], None]]:
    """The optimizer, and what is to be called after every step and after every epoch."""
    answer = module.configure_optimizers()
    schedulers: list[Any] = []
    if isinstance(answer, Mapping):
        found = [answer.get("optimizer")]
        schedulers = [answer["lr_scheduler"]] if "lr_scheduler" in answer else []
    elif isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[0], list | tuple):
        found, schedulers = list(answer[0]), list(answer[1])
    else:
        found = list(answer) if isinstance(answer, list | tuple) else [answer]
    if len(found) != 1 or not isinstance(found[0], Optimizer):
        kind = f"{len(found)} optimizers" if len(found) != 1 else f"a {type(found[0]).__name__}"
        raise PrunerError(
            f"{type(module).__name__}: configure_optimizers returned {kind}; expected one "
            f"optimizer, alone or with its learning-rate schedulers as Lightning takes them"
        )
    by_interval: dict[str, list[Any]] = {"step": [], "epoch": []}
    for entry in schedulers:
        plain = entry["scheduler"] if isinstance(entry, Mapping) else entry
        interval = entry.get("interval", "epoch") if isinstance(entry, Mapping) else "epoch"
        if interval not in by_interval:
            raise PrunerError(
                f"{type(module).__name__}: a scheduler's interval is {interval!r}; expected step "
                f"or epoch"
            )
        if isinstance(plain, ReduceLROnPlateau):
            raise PrunerError(
                f"{type(module).__name__}: its ReduceLROnPlateau follows a logged figure, and "
                f"there is none; expected a schedule over steps or epochs"
            )
        by_interval[interval].append(plain)

    def after(interval: str) -> Callable[[], None]:
        def step() -> None:
            for each in by_interval[interval]:
                each.step()

        return step

    return found[0], after("step"), after("epoch")
