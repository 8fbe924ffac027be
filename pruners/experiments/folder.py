"""The folder of an experiment: what lies in it, and what a later run finds there.

experiment.json          the lists and options of every run in this folder
cells/KEY.json           one finished cell each
results.csv              a row a cell, of all runs
accuracy.svg, .png       accuracy over amount
report.html              accuracy over size, and who is on the Pareto front: a page to look at
files/KEY/               source, manifest and weights of the cell, where they were to be kept
tensorboard/KEY/         for TensorBoard, where it was asked for
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruners.errors import PrunerError
from pruners.experiments.cells import Cell, DamagedCellError, read_cell
from pruners.experiments.grid import Experiment
from pruners.experiments.results import accuracy_plot, csv_text, in_order
from pruners.pages.render import trials_page
from pruners.pages.trials import of_cells
from pruners.store import check_writable, commit, manifest_text, parsed_json

_KIND = "experiment"


@dataclass(frozen=True, slots=True)
class Found:
    """The cells that lie in a folder, by the stems of their files."""

    cells: Mapping[str, Cell]
    damaged: Mapping[str, str]
    """Why a file holds no cell."""


@dataclass(frozen=True, slots=True)
class Folder:
    """Where an experiment's results lie; nothing is made before the first `begin`."""

    path: Path

    @property
    def description(self) -> Path:
        return self.path / "experiment.json"

    @property
    def csv(self) -> Path:
        return self.path / "results.csv"

    @property
    def pictures(self) -> tuple[Path, Path]:
        return self.path / "accuracy.svg", self.path / "accuracy.png"

    @property
    def page(self) -> Path:
        return self.path / "report.html"

    @property
    def files(self) -> Path:
        return self.path / "files"

    def begin(self, experiment: Experiment) -> None:
        """Note that this experiment is run here, after what was run here before."""
        runs = self._runs()
        if (described := experiment.described()) not in runs:
            runs.append(described)
        text = manifest_text({"kind": _KIND, "format": 1, "runs": runs})
        rows = csv_text(self.found().cells.values())
        commit({self.description: text.encode(), self.csv: rows.encode()})

    def check(self) -> None:
        """PrunerError where the folder holds something else, or cannot be written."""
        self._runs()
        try:
            check_writable(self.path)
        except PrunerError as error:
            why = getattr(error.__cause__, "strerror", None) or error.__cause__
            raise PrunerError(
                f"--out-path {self.path}: cannot be written ({why}); choose another folder"
            ) from error

    def _runs(self) -> list[Any]:
        """What `experiment.json` says; an empty list where there is none yet."""
        other = PrunerError(
            f"--out-path {self.path}: holds something else; expected a new or an empty folder, or "
            f"that of an experiment"
        )
        try:
            content = self.description.read_bytes()
        except FileNotFoundError:
            if self.path.is_dir() and any(self.path.iterdir()):
                raise other from None
            return []
        except NotADirectoryError:
            return []  # said better when it is tried to write there
        except OSError as error:
            raise PrunerError(
                f"--out-path {self.path}: cannot be read ({error.strerror or error}); choose "
                f"another folder"
            ) from error
        try:
            facts = parsed_json(content)
            runs = facts["runs"] if facts["kind"] == _KIND else None
        except (ValueError, KeyError, TypeError):
            runs = None
        if not isinstance(runs, list):
            raise other
        return runs

    def found(self) -> Found:
        """All cells of the folder; other processes may add to them meanwhile."""
        cells: dict[str, Cell] = {}
        damaged: dict[str, str] = {}
        for path in sorted((self.path / "cells").glob("*.json")):
            try:
                cells[path.stem] = read_cell(path)
            except DamagedCellError as error:
                damaged[path.stem] = str(error)
        return Found(cells, damaged)

    def path_of(self, key: str) -> Path:
        """The file of a cell."""
        return self.path / "cells" / f"{key}.json"

    def has_files(self, cell: Cell) -> bool:
        """Whether the files of a cell lie there; one that failed has none."""
        if cell.error:
            return True
        return bool(cell.files) and all((self.path / file).is_file() for file in cell.files)

    def store(self, cell: Cell) -> None:
        """The cell and the table with it: both, or neither."""
        key = cell.setting.key
        cells = {**self.found().cells, key: cell}
        rows = csv_text(cells.values())
        commit({self.path_of(key): cell.content(), self.csv: rows.encode()})

    def end(self) -> tuple[Path, ...]:
        """Write the table, the pictures and the page of all cells; the paths of what there is."""
        cells = in_order(self.found().cells.values())
        files = {self.csv: csv_text(cells).encode()}
        pictures = accuracy_plot(cells)
        if pictures is not None:
            files |= dict(zip(self.pictures, pictures, strict=True))
            files[self.page] = trials_page(of_cells(cells))
        commit(files)
        return tuple(files)
