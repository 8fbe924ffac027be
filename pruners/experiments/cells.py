"""A finished cell: what came out, and the file that it is stored in.

The file is one JSON object, whole or not there (`store.commit`), with a digest of itself at its
end. It holds no times and no paths, so that the same cell is the same bytes.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pruners.errors import PrunerError
from pruners.experiments.grid import Setting
from pruners.registry import (
    DATASETS,
    MODELS,
    PRUNING_METHODS,
    SCORING_MEASURES,
)
from pruners.store import json_digest, manifest_text, parsed_json
from pruners.version import __version__
from pruners.zoo import has_weights_for

STAGES = ("before", "pruned", "recalibrated", "finetuned")
"""Of a network, in order; the last one that there is gives the accuracy."""


class DamagedCellError(Exception):
    """A file that holds no cell; the message says why in a few words."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What came out for one setting.

    Attributes:
        made_by: versions and digests of what made it (`made_by`).
        weights: of the network before pruning, "shipped" or "random".
        figures: those of the evaluation by stage (`STAGES`); none where the cell failed.
        error: why there are none, as the user would be told.
        verification: which oracle the pruned network was compared with, and the difference.
        warnings: what the report of the pruning says.
        files: paths of source, manifest and weights in the folder, where they were to be kept.
    """

    setting: Setting
    made_by: Mapping[str, str]
    weights: str
    figures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    error: str = ""
    verification: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    @property
    def last(self) -> Mapping[str, Any]:
        """The figures of the last stage; empty where the cell failed."""
        return next((self.figures[s] for s in reversed(STAGES) if s in self.figures), {})

    def described(self) -> dict[str, Any]:
        """Plain values, as in its file."""
        return {
            "setting": asdict(self.setting),
            "made_by": dict(self.made_by),
            "weights": self.weights,
            "error": self.error,
            "figures": {stage: dict(found) for stage, found in self.figures.items()},
            "verification": dict(self.verification),
            "warnings": list(self.warnings),
            "files": list(self.files),
        }

    def content(self) -> bytes:
        """The bytes of its file."""
        facts = self.described()
        return manifest_text({**facts, "sha256": json_digest(facts)}).encode()


def read_cell(path: Path) -> Cell:
    """The cell in a file.

    Raises:
        DamagedCellError: the file was cut off or changed, or is of something else.
        PrunerError: it cannot be read at all.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PrunerError(f"{path}: cannot be read ({error.strerror or error})") from error
    try:
        facts = parsed_json(content)
        digest = facts.pop("sha256")
        setting = Setting(**facts["setting"])
        rest = {f.name: facts[f.name] for f in fields(Cell) if f.name != "setting"}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCellError("no whole cell") from error
    if digest != json_digest(facts):
        raise DamagedCellError("changed since it was stored")
    if path.stem != setting.key:
        raise DamagedCellError(f"holds the cell {setting.key}")
    rest |= {name: tuple(rest[name]) for name in ("warnings", "files")}
    return Cell(setting, **rest)


# --- what makes a cell -------------------------------------------------------------------------


def made_by(setting: Setting) -> dict[str, str]:
    """What the figures of a cell depend on besides its setting.

    The versions of this package and of torch; a digest of the network's weights; and digests of the
    files that define the model, dataset, measure and method, where they are not this package's.
    """
    model = MODELS[setting.model]
    found = {"pruners": __version__, "torch": torch.__version__}
    if model["path"] is not None and has_weights_for(setting.model, setting.dataset):
        found["weights"] = _file_digest(model["path"])
    for name, thing in (
        ("model", model["wrapper"]),
        ("dataset", DATASETS[setting.dataset]["wrapper"]),
        ("measure", SCORING_MEASURES[setting.measure]),
        ("method", PRUNING_METHODS[setting.method]),
    ):
        if (file := _file_of(thing)) is not None:
            found[name] = _file_digest(file)
    return found


def _file_of(thing: Any) -> Path | None:
    """The file of a function, of a class, or of an object's class; None for this package's own."""
    while isinstance(thing, partial):
        thing = thing.func
    named = thing if inspect.isclass(thing) or inspect.isroutine(thing) else type(thing)
    if str(getattr(named, "__module__", "")).partition(".")[0] == "pruners":
        return None
    try:
        file = inspect.getsourcefile(named)
    except TypeError:  # built in
        return None
    return Path(file) if file is not None and Path(file).is_file() else None


def _file_digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    except OSError as error:
        raise PrunerError(f"{path}: cannot be read ({error.strerror or error})") from error
