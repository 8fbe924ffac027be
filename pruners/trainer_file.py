"""A trainer of one's own, from a file: `--trainer my_trainer.py:MyTrainer`.

It is a subclass of `pruners.trainer.Trainer`, or any class with the methods of `Retrainer`. Both
are checked before any work begins.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import nn

from pruners.datasets import DataSplits
from pruners.errors import PrunerError, did_you_mean
from pruners.loading import module_from_file


class Retrainer(Protocol):
    """What retrains the network of each level of `iterate`."""

    def load_dataloaders(self, batch_size: int, collate_fn: Any) -> Any:
        """Called once, before `train`."""

    def train(
        self,
        net: nn.Module,
        parameters: Mapping[str, Any],
        name: str,
        epochs: int,
        reload: bool,
        old_net: nn.Module | None,
    ) -> nn.Module | None:
        """Train in place, or return a network with the same keys and shapes.

        Args:
            parameters: `learning_rate`, and whatever else the caller has to say.
        """

    def evaluate(self, net: nn.Module, quant_mode: bool) -> tuple[float, nn.Module]:
        """Percent of the test images that are right, and the network that was tested."""


class RetrainerType(Protocol):
    """A class of such trainers."""

    def __call__(
        self,
        *,
        pruning: bool,
        ddtype: torch.dtype,
        datasets: DataSplits,
        models_path: Path,
        cuda: str,
    ) -> Retrainer: ...


METHODS: Mapping[str, tuple[str, ...]] = {
    "load_dataloaders": ("batch_size", "collate_fn"),
    "train": ("net", "parameters", "name", "epochs", "reload", "old_net"),
    "evaluate": ("net", "quant_mode"),
}
"""The methods of a trainer, and the arguments that each is called with, in order."""

ARGUMENTS = ("pruning", "ddtype", "datasets", "models_path", "cuda")
"""What a trainer is made with, by name."""


def load_trainer(spec: str) -> RetrainerType:
    """The class that `FILE.py:CLASS` names; the file is imported and so runs.

    Raises:
        PrunerError: there is no such file or class, the file raises, or the class lacks a method
            or takes other arguments.
    """
    what = f"--trainer {spec}"
    file, colon, name = spec.rpartition(":")
    if not colon or not file or not name.isidentifier():
        raise PrunerError(f"{what}: expected FILE.py:CLASS, such as my_trainer.py:MyTrainer")
    try:
        module = module_from_file(Path(file), what, "FILE.py:CLASS, a Python file with a trainer")
    except SystemExit as error:
        raise PrunerError(
            f"{what}: importing the file called sys.exit; put that under "
            f"`if __name__ == '__main__':`"
        ) from error
    found = getattr(module, name, None)
    if not isinstance(found, type):
        known = [
            n
            for n, value in vars(module).items()
            if isinstance(value, type) and value.__module__ == module.__name__
        ]
        kind = "is not a class" if found is not None else "the file has no such class"
        raise PrunerError(
            f"{what}: {kind}{did_you_mean(name, known)}; it has {', '.join(known) or 'none'}"
        )
    _check(found, what)
    checked: RetrainerType = cast(Any, found)
    return checked


def maker(
    cls: RetrainerType, device: torch.device | str
) -> Callable[[DataSplits, Path], Retrainer]:
    """What makes trainers for `iterate`, which prunes itself."""

    def make(splits: DataSplits, folder: Path) -> Retrainer:
        return cls(
            pruning=False,
            ddtype=torch.float32,
            datasets=splits,
            models_path=folder,
            cuda=str(device),
        )

    return make


def _check(cls: type, what: str) -> None:
    """PrunerError where methods are missing, or cannot be called as they will be."""
    missing = [name for name in METHODS if not callable(getattr(cls, name, None))]
    if missing:
        raise PrunerError(
            f"{what}: lacks {', '.join(missing)}; expected a class with the methods "
            f"{', '.join(METHODS)}, or one that inherits from pruners.trainer.Trainer"
        )
    for name, arguments in METHODS.items():
        # As it is called on an instance: a static method has no self.
        method = inspect.getattr_static(cls, name)
        bound = () if isinstance(method, staticmethod | classmethod) else (None,)
        if not _takes(getattr(cls, name), (*bound, *arguments), {}):
            raise PrunerError(
                f"{what}: its {name}{_signature(getattr(cls, name))} cannot be called with "
                f"({', '.join(arguments)}); expected these arguments in this order"
            )
    if not _takes(cls, (), dict.fromkeys(ARGUMENTS)):
        raise PrunerError(
            f"{what}: {cls.__name__}{_signature(cls)} cannot be made with "
            f"({', '.join(f'{name}=...' for name in ARGUMENTS)}); expected these arguments, by name"
        )


def _takes(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        return False
    except ValueError:  # a function of C, which says nothing
        return True
    return True


def _signature(function: Any) -> str:
    return str(inspect.signature(function))
