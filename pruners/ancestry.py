"""What was pruned off a network before: the manifest beside the generated file of its class.

A generated file is pruned again as any other. Its manifest says which indices of the network before
it stayed; read through it, those that stay now are indices of the original network, however many
steps there were. An edited file may be another network: then nothing is read through.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from pruners.channel_graph import Kept
from pruners.errors import PrunerError
from pruners.store import is_intact, parsed_json


@dataclass(frozen=True, slots=True)
class Step:
    """A generated file on the way."""

    file: str
    """Its name, without a folder."""
    sha256: str


@dataclass(frozen=True, slots=True)
class Before:
    """The original network, and what had stayed of it before this step."""

    original: str
    """File and class of the original network."""
    parameters: int
    macs: int
    input_shapes: tuple[tuple[int, ...], ...]
    """At which the multiply-accumulates were counted."""
    steps: tuple[Step, ...]
    """From the first to the one that is pruned now."""
    kept: Kept
    """Indices in the original network."""

    def composed(self, kept: Kept) -> dict[str, tuple[Any, ...]]:
        """What stays now, in indices of the original network."""
        return {
            name: tuple(
                of_original[stays] for of_original, stays in zip(self.kept[name], dims, strict=True)
            )
            for name, dims in kept.items()
        }

    def described(self) -> dict[str, Any]:
        """As it stands in the manifest."""
        return {
            "kept_of": self.original,
            "parameters": self.parameters,
            "macs": self.macs,
            "input_shapes": [list(shape) for shape in self.input_shapes],
            "steps": [{"file": step.file, "sha256": step.sha256} for step in self.steps],
        }


@dataclass(frozen=True, slots=True)
class Record:
    """The manifest beside a generated file."""

    path: Path
    """Of the generated file."""
    sha256: str
    """Of the file as it is now."""
    facts: Mapping[str, Any]

    @property
    def network(self) -> str:
        """The name of the network, or an empty string where it is none."""
        name = self.facts.get("network") if self.intact else None
        return name if isinstance(name, str) and name.isidentifier() else ""

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """Of one example, where the network takes one tensor."""
        match self.facts.get("input_shapes") if self.intact else None:
            case [[*sizes]] if all(type(size) is int and size > 0 for size in sizes):
                return tuple(sizes)
        return None

    @property
    def intact(self) -> bool:
        """Whether the manifest says what was written."""
        return is_intact(self.facts)

    @property
    def edited(self) -> bool:
        """Whether the file is no longer the one that the manifest describes."""
        return bool(self.facts["files"][self.path.name] != self.sha256)


def record_of(cls: type) -> Record | None:
    """The manifest beside the file of a class, where there is one and it is of this class."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    path = Path(file or "")
    if not path.name:
        return None
    try:
        facts: Any = parsed_json(path.with_suffix(".json").read_bytes())
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, ValueError):
        return None
    match facts:
        case {"generated_from": str(origin), "files": {**files}, "kept": {}}:
            # The class is named as the original's; others in the file are its blocks.
            found = re.search(r"\(class (?:.*\.)?(\w+)\)$", origin)
            if path.name in files and found and found[1] == cls.__name__:
                return Record(path, digest, facts)
    return None


def pruned_before(model: nn.Module) -> tuple[Before | None, str]:
    """What had stayed of the original network, or why that is not known: one line, or nothing."""
    record = record_of(type(model))
    if record is None:
        return None, ""
    name = record.path.name
    lost = "so what stays is told in indices of this file, not of the original network"
    if not record.intact:
        return None, f"{name}: its manifest was changed since it was written, {lost}"
    if record.edited:
        return None, f"{name}: differs from what its manifest describes, {lost}"
    try:
        return _before(record, model), ""
    except PrunerError as error:
        return None, f"{name}: {error}, {lost}"
    except (KeyError, TypeError, ValueError) as error:
        return (
            None,
            f"{name}: its manifest cannot be read ({type(error).__name__}: {error}), {lost}",
        )


def _before(record: Record, model: nn.Module) -> Before:
    facts = record.facts
    kept = {
        name: tuple(np.asarray(indices, dtype=np.int64) for indices in dims)
        for name, dims in facts["kept"].items()
    }
    for name, tensor in model.state_dict().items():
        here, recorded = tuple(tensor.shape), tuple(len(indices) for indices in kept.get(name, ()))
        if here != recorded:
            raise PrunerError(
                f"{name} is {_by(here)}, {_by(recorded)} in the manifest"
                if name in kept
                else f"{name} is not in the manifest"
            )
    here_now = Step(record.path.name, record.sha256)
    earlier = facts.get("pruned_before")
    if earlier is None:
        return Before(
            str(facts["generated_from"]),
            int(facts["parameters"]["before"]),
            int(facts["macs"]["before"]),
            _shapes(facts["input_shapes"]),
            (here_now,),
            kept,
        )
    return Before(
        str(earlier["kept_of"]),
        int(earlier["parameters"]),
        int(earlier["macs"]),
        _shapes(earlier["input_shapes"]),
        (*(Step(str(s["file"]), str(s["sha256"])) for s in earlier["steps"]), here_now),
        kept,
    )


def _shapes(shapes: list[list[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(size) for size in shape) for shape in shapes)


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"
