"""An experiment from its first cell to its last, and on from where an earlier run has ended.

done = run_experiment(Experiment(["TwoLayerMLP"], amounts=[0.3, 0.5]), "exp")
[cell.last["accuracy"] for cell in done.cells]
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from pruners.experiments.cells import Cell, made_by
from pruners.experiments.compute import Bench, interrupted
from pruners.experiments.folder import Folder, Found
from pruners.experiments.grid import Experiment, Setting
from pruners.experiments.results import percent
from pruners.experiments.trackers import Tracker
from pruners.job import noted
from pruners.progress import note
from pruners.zoo import note_on_weights


@dataclass(frozen=True, slots=True)
class Finished:
    """What an experiment has come to."""

    cells: tuple[Cell, ...]
    """Of this experiment, in the order of its lists."""
    files: tuple[Path, ...]
    """The table and the pictures, of all cells in the folder."""


def run_experiment(
    experiment: Experiment,
    out_path: str | Path,
    *,
    keep_files: bool = False,
    trackers: Sequence[Tracker] = (),
    data_dir: str | Path | None = None,
    download: bool = False,
    progress: bool = False,
    written: list[Path] | None = None,
) -> Finished:
    """Compute the cells that are not in the folder yet, and draw what all of them say.

    A cell is stored as soon as it is finished, so that a run that is killed loses one cell, and the
    next one goes on. Other lists in the same folder extend it. A cell is computed again where its
    file is damaged, or was made with other versions, weights or plugins.

    Every pruned network is built from its source and compared with the masked original
    (`PruningResult.compared`).

    Args:
        out_path: the folder, new or of an experiment.
        keep_files: keep source, manifest and weights of every cell, which are then verified in a
            fresh process each.
        trackers: are told of every cell, also of those that were there.
        data_dir: as for `load_dataset`.
        download: as for `load_dataset`.
        progress: say on stderr what is done.
        written: gets the path of the table once it is there, also when the run is interrupted.

    Raises:
        PrunerError: what the user can mend. That of a single cell (an amount out of reach) does not
            stop the others; it is what `Cell.error` says.
        VerificationError: a pruned network is not equal to its oracle. Like any other exception of
            a single cell it is raised when the others are through, and that cell is not stored.
    """
    experiment.check()
    folder = Folder(Path(out_path))
    folder.check()
    bench = Bench(
        experiment.device,
        None if data_dir is None else Path(data_dir),
        download,
        folder.files if keep_files else None,
    )
    run = _Run(folder, experiment.settings(), bench, list(trackers), progress)
    run.take(folder.found())
    with noted(folder.csv, [] if written is None else written):
        folder.begin(experiment)
    try:
        run.compute()
        files = folder.end()
        if run.crashed:
            raise run.crashed[0]
    except BaseException:
        run.say_what_is_there()
        raise
    return Finished(tuple(run.done[setting.key] for setting in run.settings), files)


@dataclass
class _Run:
    """One run: the cells that there are, and those that it adds."""

    folder: Folder
    settings: Sequence[Setting]
    bench: Bench
    trackers: list[Tracker]
    progress: bool
    done: dict[str, Cell] = field(default_factory=dict)
    crashed: list[Exception] = field(default_factory=list)
    _seconds: list[float] = field(default_factory=list)
    _told: set[str] = field(default_factory=set)

    def take(self, found: Found) -> None:
        """The cells of earlier runs that will do; says why others will not.

        The data of the others is loaded: what is not to be had is said before anything is done.
        """
        reasons: Counter[str] = Counter()
        for setting in self.settings:
            key = setting.key
            if key in found.damaged:
                reasons[f"{self.folder.path_of(key)}: damaged ({found.damaged[key]})"] += 1
            if (cell := found.cells.get(key)) is None:
                continue
            if other := _made_otherwise(cell, made_by(setting)):
                reasons[other] += 1
            elif self.bench.files is not None and not self.folder.has_files(cell):
                reasons["no files were kept of them"] += 1
            else:
                self.done[key] = cell
        keys = {setting.key for setting in self.settings}
        for why, count in reasons.items():
            self.say(f"{_cells(count)} computed again: {why}")
        for key in found.damaged.keys() - keys:
            self.say(f"left out: {self.folder.path_of(key)} is damaged ({found.damaged[key]})")
        if self.done:
            self.say(f"{len(self.done)} of {_cells(len(self.settings))} there already")
        for setting in self.settings:
            if setting.key not in self.done:
                self.bench.splits(setting.model, setting.dataset)

    def compute(self) -> None:
        """Compute and store what is missing; tell the trackers of everything, in order."""
        missing = len(self.settings) - len(self.done)
        for number, setting in enumerate(self.settings, 1):
            if setting.key not in self.done:
                self._compute(setting, f"[{number}/{len(self.settings)}]", missing)
            if (cell := self.done.get(setting.key)) is not None:
                self._track(cell)

    def _compute(self, setting: Setting, number: str, missing: int) -> None:
        start = time.perf_counter()
        named = f"{number} {_described(setting)}"
        try:
            with self._working(f"{named}{self._left(missing)}"):
                cell = self.bench.cell(setting)
        except Exception as error:
            if interrupted(error):
                raise KeyboardInterrupt from error
            self.crashed.append(error)
            self._seconds.append(time.perf_counter() - start)
            self.say(f"{named}: {type(error).__name__}: {' '.join(str(error).split())}")
            return
        self.folder.store(cell)
        self.done[setting.key] = cell
        took = time.perf_counter() - start
        self._seconds.append(took)
        if cell.weights == "random" and setting.model + setting.dataset not in self._told:
            self._told.add(setting.model + setting.dataset)
            self.say(f"note: {note_on_weights(self.bench.network(setting)[0], setting.dataset)}")
        came_out = f"failed: {cell.error}" if cell.error else percent(cell.last["accuracy"])
        self.say(f"{named}: {came_out} ({took:.1f} s{self._left(missing, '; ')})")

    def _left(self, missing: int, before: str = ", ") -> str:
        """How long the rest will take, as far as that is known."""
        rest = missing - len(self._seconds)
        if not self._seconds or not rest:
            return ""
        return f"{before}about {_time(rest * sum(self._seconds) / len(self._seconds))} left"

    @contextmanager
    def _working(self, text: str) -> Iterator[None]:
        """A spinner where there is a terminal; elsewhere the line that follows will do."""
        console = Console(stderr=True)
        if not (self.progress and console.is_terminal):
            yield
            return
        with console.status(escape(text)):
            yield

    def _track(self, cell: Cell) -> None:
        for tracker in list(self.trackers):
            try:
                tracker.log(cell)
            except Exception as error:
                if interrupted(error):
                    raise KeyboardInterrupt from error
                self.trackers.remove(tracker)
                note(
                    f"warning: {tracker.name}: {type(error).__name__}: "
                    f"{' '.join(str(error).split())}; nothing more is logged there; the same "
                    f"command logs all cells once it works"
                )

    def say_what_is_there(self) -> None:
        """Where a run ends early: nothing of it is lost."""
        self.say(
            f"{len(self.done)} of {_cells(len(self.settings))} in {self.folder.path}; "
            f"the same command goes on from there"
        )

    def say(self, text: str) -> None:
        if self.progress:
            note(text)


def _described(setting: Setting) -> str:
    return (
        f"{setting.model} on {setting.dataset}, {setting.method}, {setting.scored_by}, "
        f"{setting.amount:g}, seed {setting.seed}"
    )


def _made_otherwise(cell: Cell, now: dict[str, str]) -> str:
    """What made this cell and is another now; empty where it would come out the same."""
    other = [name for name in {**cell.made_by, **now} if cell.made_by.get(name) != now.get(name)]
    return "; ".join(
        f"made with {name} {cell.made_by.get(name, 'none')}, now {now.get(name, 'none')}"
        for name in other
    )


def _cells(count: int) -> str:
    return f"{count} cell is" if count == 1 else f"{count} cells are"


def _time(seconds: float) -> str:
    """`40 s`, `12 min`, `3 h 20 min`"""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
