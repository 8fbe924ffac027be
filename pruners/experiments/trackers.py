"""Experiment trackers: every cell as a run of its own, under a name that stays the same.

Cells of earlier runs are logged, too, so that a tracker that was asked for late, or that was killed
between a cell and its log, has them all; the same cell always goes to the same run. The packages
are extras, imported only where they are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from pruners.errors import PrunerError
from pruners.experiments.cells import Cell


class Tracker(Protocol):
    """What `run_experiment` tells of its cells."""

    name: str
    """For messages."""

    def log(self, cell: Cell) -> None:
        """A finished cell; the same one may come again in a later run."""


class WandbTracker:
    """Weights & Biases: a run a cell, in a group of the experiment's name.

    Args:
        project: of wandb; who is logged in, and where to, is wandb's own (`wandb login`,
            `WANDB_MODE=offline`).
        folder: of the experiment; its name is the group's, and wandb's own files lie in it.

    Raises:
        PrunerError: the package is not installed.
    """

    name = "wandb"

    def __init__(self, project: str, folder: Path) -> None:
        try:
            from wandb import init  # a folder of that name that wandb has left is no package
        except ImportError as error:
            raise _missing(f"--wandb {project}", "wandb") from error
        self.init: Any = init
        self.project, self.folder = project, folder.resolve()

    def log(self, cell: Cell) -> None:
        run = self.init(
            project=self.project,
            group=self.folder.name,
            dir=str(self.folder),
            name=cell.setting.key,
            id=cell.setting.key,
            resume="allow",
            config={**_options(cell), "weights": cell.weights, "made_by": dict(cell.made_by)},
        )
        run.log(_metrics(cell))
        run.finish(exit_code=1 if cell.error else 0)


class TensorBoardTracker:
    """TensorBoard: the options and figures of every cell, for its HPARAMS page.

    Args:
        folder: every cell has a folder of its own in it, whose event files are written anew.

    Raises:
        PrunerError: the package is not installed.
    """

    name = "tensorboard"

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise _missing("--tensorboard", "tensorboard") from error
        self.writer: Any = SummaryWriter
        self.folder = folder

    def log(self, cell: Cell) -> None:
        if cell.error:
            return  # there is nothing to draw, and no word for it
        own = self.folder / cell.setting.key
        for old in own.glob("events.out.tfevents.*"):
            with suppress(OSError):
                old.unlink()
        writer = self.writer(log_dir=str(own))
        try:
            writer.add_hparams(_options(cell), _metrics(cell), run_name=".")
        finally:
            writer.close()


def _missing(option: str, package: str) -> PrunerError:
    return PrunerError(
        f"{option}: needs the package {package}, which is not installed; "
        f"pip install 'pruners[{package}]'"
    )


def _options(cell: Cell) -> dict[str, Any]:
    """The setting, with the measure's arguments as text: trackers compare plain values."""
    return {**asdict(cell.setting), "measure_args": cell.setting.arguments}


def _metrics(cell: Cell) -> dict[str, float]:
    """`before/accuracy`, `pruned/loss`, ..., `accuracy` of the last stage; all that are numbers."""
    stages: Mapping[str, Mapping[str, Any]] = {**cell.figures}
    named = {
        f"{stage}/{name}": value for stage, found in stages.items() for name, value in found.items()
    }
    if cell.last:
        named["accuracy"] = cell.last["accuracy"]
    return {name: value for name, value in named.items() if isinstance(value, int | float)}
