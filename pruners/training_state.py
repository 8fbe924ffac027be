"""Training that stands still: what it needs to go on as if it had never stopped, and its file."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruners.errors import PrunerError, ResumeError

Plain = str | int | float | bool | None

_FORMAT = "pruners training state 2"


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Training after an epoch, or in the middle of one.

    Tensors are on the device that they were on; a file's are on the CPU.
    """

    settings: dict[str, Plain]
    """What must be the same when training goes on: the recipe, the data, the processes, ..."""
    losses: list[float]
    """Mean training loss of each epoch so far."""
    val_accuracies: list[float]
    """Percent right on the validation split, before training and after each epoch."""
    best_epoch: int
    seconds: float
    """That training has taken so far."""
    weights: dict[str, Any]
    """The network's `state_dict`; so is `best`, after the best epoch."""
    best: dict[str, Any]
    optimizer: dict[str, Any]
    """`state_dict` of the optimizer, and of the scaler of mixed precision."""
    scaler: dict[str, Any]
    random: dict[str, Tensor]
    """States (bytes) of the generators: of the order of images, as it was when the epoch began, and
    torch's own for each device."""
    batch: int = 0
    """How many batches of the epoch are done."""
    total: float = 0.0
    """Sum of their losses."""

    @property
    def epoch(self) -> int:
        """How many are done."""
        return len(self.losses)


def state_bytes(state: TrainingState) -> bytes:
    """The content of a file that `torch.load(..., weights_only=True)` and `read_state` read."""
    buffer = io.BytesIO()
    content = {field.name: getattr(state, field.name) for field in fields(state)}
    torch.save({"format": _FORMAT, **content}, buffer)
    return buffer.getvalue()


def read_state(content: bytes, path: Path) -> TrainingState:
    """The state in the content of this file; nothing found in it is executed.

    Raises:
        PrunerError: it is damaged, or something else.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            # torch.load does not look at the checksums.
            broken = archive.testzip()
        if broken is not None:
            raise ValueError(f"{broken} is not what was written")
        # Without mmap, and from memory: the file is replaced after every epoch.
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        if not isinstance(loaded, dict) or loaded.pop("format", None) != _FORMAT:
            raise ValueError(f"it is no {_FORMAT}")
        return TrainingState(**loaded)
    except Exception as error:
        why = (" ".join(str(error).split()) or type(error).__name__).split(". ")[0]
        raise PrunerError(
            f"{path}: damaged, or not the state of a training ({len(content)} bytes; {why}); "
            f"remove it to start anew"
        ) from error


def check_same(then: Mapping[str, Plain], now: Mapping[str, Plain]) -> None:
    """ResumeError that lists the differences between the settings of a run and those it had."""
    names = dict.fromkeys([*then, *now])
    different = [
        f"{name.replace('_', '-')} {_shown(now.get(name))} (was {_shown(then.get(name))})"
        for name in names
        if then.get(name) != now.get(name)
    ]
    if different:
        raise ResumeError(
            f"the run was started with other options: {', '.join(different)}; give the same again"
        )


def _shown(value: Plain) -> str:
    return "none" if value is None else str(value)
