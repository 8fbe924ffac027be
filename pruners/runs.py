"""The folder of an iterative experiment: what is in it, whole or not at all.

    runs/exp1/
      experiment.json           options, the exact command, versions, the indices of the images
      base.pth                  the network before pruning
      level_0/
        resnet20_level_0.py     the generated model file, and its manifest beside it (.json)
        pruned.pth              its weights after pruning
        retrained.pth           and after retraining
        level.json              what this level did; it is written last
      pruned_indices.json       {"level_0": {layer: [indices in the original network]}}
      Avg_UnitMems_perlevel.json  {"level_0": {layer: [[unitmem, image index], ...]}}
      All_activations/level_0.npz, All_activations.json
      metrics.csv, accuracy.svg, accuracy.png, report.html

The files of a level come with their digests; a level counts as long as they are what was written.
Those of the whole experiment are made anew from the levels' own, so that they never say more.
"""

from __future__ import annotations

import csv
import hashlib
import io
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pruners.errors import PrunerError
from pruners.progress import note
from pruners.store import check_writable, commit, is_intact, manifest_text, parsed_json, sealed

Record = dict[str, Any]
"""What `level.json` (or `pruned.json`, before the level is retrained) holds."""

OPTIONS, BASE = "experiment.json", "base.pth"
_LEVEL, _PRUNED = "level.json", "pruned.json"
TRAINING = "training.state"

COLUMNS = (
    "level",
    "goal_pct",
    "removed_pct",
    "parameters",
    "macs",
    "channels",
    "accuracy_pruned",
    "accuracy_recalibrated",
    "accuracy",
    "top_k_accuracy",
    "loss",
)
"""Of `metrics.csv`: percent of the target that was to go and that is gone, what is left, percent of
the test images after pruning, recalibration and retraining."""


@dataclass(frozen=True, slots=True)
class Run:
    """The folder of one experiment."""

    folder: Path

    def level(self, number: int) -> Path:
        return self.folder / f"level_{number}"

    # --- the experiment -----------------------------------------------------------------------

    def options(self) -> Record | None:
        """What the experiment was started with; None in a folder without one.

        Raises:
            PrunerError: the folder holds something else, or its options cannot be read.
        """
        path = self.folder / OPTIONS
        if not path.exists():
            if self.folder.exists() and any(self.folder.iterdir()):
                raise PrunerError(
                    f"--exp {self.folder}: holds other files and no {OPTIONS}; expected an empty "
                    f"folder, or that of an experiment"
                )
            return None
        return read_json(path, "remove the folder to start anew")

    def start(self, options: Record) -> None:
        check_writable(self.folder)
        commit({self.folder / OPTIONS: _text(sealed(options))})

    # --- levels ---------------------------------------------------------------------------------

    def whole_levels(self, levels: int) -> list[Record]:
        """The records of the levels that are there, from 0 on, as long as all of it is whole.

        What is damaged is said, with the level that is gone on from.
        """
        found: list[Record] = []
        for number in range(levels):
            if not (self.level(number) / _LEVEL).exists():
                break
            try:
                found.append(self._checked(number, _LEVEL))
            except PrunerError as error:
                last = f"level {number - 1}, the last whole one" if number else "the beginning"
                note(f"warning: {error}; going on from {last}")
                break
        return found

    def pruned(self, number: int) -> Record | None:
        """The record of a level that is pruned, not yet retrained; None where it is not whole."""
        if not (self.level(number) / _PRUNED).exists():
            return None
        try:
            return self._checked(number, _PRUNED)
        except PrunerError as error:
            note(f"warning: {error}; pruning this level again")
            return None

    def _checked(self, number: int, name: str) -> Record:
        path = self.level(number) / name
        record = read_json(path, "it is not used")
        for file, digest in record.get("files", {}).items():
            content = self._content(self.folder / file)
            if content is None or hashlib.sha256(content).hexdigest() != digest:
                what = "is missing" if content is None else "is damaged"
                raise PrunerError(f"level {number}: {self.folder / file} {what}")
        return record

    @staticmethod
    def _content(path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except OSError:
            return None

    def store_pruned(self, number: int, record: Record, files: Mapping[str, bytes]) -> Record:
        """The files of a level after pruning, by their names within the experiment."""
        return self._store(number, _PRUNED, record, files)

    def store_level(self, number: int, record: Record, files: Mapping[str, bytes]) -> Record:
        """The files of a level that is done; with those it had after pruning it is whole."""
        return self._store(number, _LEVEL, record, files)

    def _store(self, number: int, name: str, record: Record, files: Mapping[str, bytes]) -> Record:
        digests = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
        known = {**record, "files": {**record.get("files", {}), **digests}}
        paths = {self.folder / file: content for file, content in files.items()}
        # The record comes last: where it is, everything is.
        commit({**paths, self.level(number) / name: _text(sealed(known))})
        return known

    def forget(self, first: int, levels: int) -> None:
        """Remove what there is of these levels and of later ones."""
        for number in range(first, levels):
            # Its record first: without it nobody takes the rest for a level.
            for name in (_LEVEL, _PRUNED):
                (self.level(number) / name).unlink(missing_ok=True)
            shutil.rmtree(self.level(number), ignore_errors=True)

    def finish_training(self, number: int) -> None:
        (self.level(number) / TRAINING).unlink(missing_ok=True)
        (self.level(number) / _PRUNED).unlink(missing_ok=True)

    # --- the whole ------------------------------------------------------------------------------

    def summarise(
        self, base: Record, levels: Sequence[Record], pictures: Mapping[str, bytes]
    ) -> None:
        """The files of the whole experiment, from the records of its levels."""
        indices = {f"level_{i}": record["pruned_indices"] for i, record in enumerate(levels)}
        memory = {f"level_{i}": record["unitmem"] for i, record in enumerate(levels)}
        files = {
            "pruned_indices.json": _text(indices),
            "Avg_UnitMems_perlevel.json": _text(memory),
            "metrics.csv": _csv([base, *(record["metrics"] for record in levels)]),
            **pictures,
        }
        commit({self.folder / name: content for name, content in files.items()})


def npz_bytes(arrays: Mapping[str, Any]) -> bytes:
    """A compressed archive of arrays, the same bytes for the same content."""
    buffer = io.BytesIO()
    # Not np.savez: it takes the arrays as keyword arguments, and a layer may be called `file`.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
    return buffer.getvalue()


def read_json(path: Path, way_out: str) -> Record:
    """The object that a file holds; PrunerError where there is none."""
    try:
        loaded = parsed_json(path.read_bytes())
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())
        raise PrunerError(f"{path}: cannot be read ({why}); {way_out}") from error
    if not isinstance(loaded, dict):
        raise PrunerError(f"{path}: holds a {type(loaded).__name__}, expected an object; {way_out}")
    if not is_intact(loaded):
        raise PrunerError(f"{path}: was changed since it was written; {way_out}")
    return loaded


def _text(content: Mapping[str, Any]) -> bytes:
    return manifest_text(content).encode()


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows({name: _plain(row.get(name)) for name in COLUMNS} for row in rows)
    return text.getvalue().encode()


def _plain(value: Any) -> Any:
    return "" if value is None else round(value, 4) if isinstance(value, float) else value
