"""One run of `train` or `tune`: a network and a dataset in, a file of weights out.

Whatever ends a run early, it leaves beside the file of weights what a later one needs to go on:

    net.pth.training      of `train`: the state after the last whole epoch
    net.pth.tuning        of `tune`: the results of the trials that are done (JSON)
    net.pth.tuning-3.pth  and the weights of the best of them

A run that ends as it should removes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from pruners.datasets import DataSplits
from pruners.distributed import Ranks
from pruners.errors import DivergedError, PrunerError, ResumeError
from pruners.job import Data, noted
from pruners.networks import Network, Request, find_network
from pruners.progress import note
from pruners.recipe import Recipe
from pruners.store import (
    check_writable,
    commit,
    manifest_text,
    parsed_json,
    read_state_dict,
    save_bytes,
)
from pruners.training import fit, settings_of, shared_accuracy
from pruners.training_state import Plain, check_same, read_state, state_bytes
from pruners.tuning import Trial, Tuned, best_of, tune


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """What `train` and `tune` are asked for."""

    request: Request
    data: Data
    recipe: Recipe
    out: Path | None
    """Where the weights go: .safetensors or .pth."""
    resume: bool = False

    def __post_init__(self) -> None:
        if self.out is None:
            if self.resume:
                raise PrunerError("--resume: needs --out FILE, beside which results are kept")
        elif self.out.suffix not in (".safetensors", ".pth"):
            raise PrunerError(
                f"--out {self.out}: expected a file that ends in .safetensors or .pth"
            )

    def settings(self) -> dict[str, Plain]:
        """What, beside the recipe, makes another run of it."""
        named = asdict(self.request)
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in named.items()
            # The recipe has the seed, and which GPU it is does not matter.
            if name not in ("seed", "device")
        }


@dataclass(frozen=True, slots=True)
class Trained:
    """A network that has its weights, and how good they are."""

    network: Network
    dataset: str
    test_accuracy: float
    """Percent of the test images."""

    def described(self) -> str:
        percent = f"{self.test_accuracy:.2f} %"
        return f"{self.network.name}, {percent} of the test images of {self.dataset}"


def run_training(job: TrainingJob, ranks: Ranks, written: list[Path]) -> Trained:
    """Train, measure, and write the weights.

    Args:
        written: gets the files that are there if the run is interrupted.

    Raises:
        PrunerError: what the user can mend.
    """
    if job.out is None:
        raise PrunerError("--out FILE: missing")
    left = Leftover(job.out.with_name(f"{job.out.name}.training"), written)
    check_writable(job.out.parent)
    content = left.found(job.resume, ranks)
    state = read_state(content, left.path) if content else None
    network, splits = _start(job, ranks)
    with left.explained(ranks):
        fit(
            network.model,
            splits,
            job.recipe,
            ranks=ranks,
            resume=state,
            keep=lambda state: left.write({left.path: state_bytes(state)}),
            settings=job.settings(),
            progress=True,
        )
    trained = _measured(network, splits, ranks)
    if ranks.is_first:
        _write_weights(job.out, network, written)
        left.remove()
    return trained


def run_tuning(
    job: TrainingJob,
    lrs: Sequence[float],
    weight_decays: Sequence[float],
    ranks: Ranks,
    written: list[Path],
) -> tuple[Tuned, Trained]:
    """Try every combination; measure the best, and write its weights if there is an `out`.

    Args:
        written: gets the files that are there if the run is interrupted.

    Raises:
        PrunerError: what the user can mend.
    """
    if job.out is None:
        network, splits = _start(job, ranks)
        tuned = tune(
            network.model, splits, job.recipe, lrs, weight_decays, ranks=ranks, progress=True
        )
        return tuned, _measured(network, splits, ranks)
    left = Leftover(job.out.with_name(f"{job.out.name}.tuning"), written)
    check_writable(job.out.parent)
    content = left.found(job.resume, ranks)
    network, splits = _start(job, ranks)
    grid = {"lr grid": _listed(lrs), "wd grid": _listed(weight_decays)}
    settings = {**settings_of(job.recipe, splits, network.device, ranks), **job.settings(), **grid}
    # These two are the grid's.
    del settings["lr"], settings["weight_decay"]
    kept = _KeptTrials(left, settings)
    with left.explained(ranks):
        done = kept.read(content) if content else []
        tuned = tune(
            network.model,
            splits,
            job.recipe,
            lrs,
            weight_decays,
            done=done,
            weights=kept.weights(done) if ranks.is_first else None,
            keep=kept.write,
            ranks=ranks,
            progress=True,
        )
    trained = _measured(network, splits, ranks)
    if ranks.is_first:
        _write_weights(job.out, network, written)
        left.remove()
        kept.remove_weights(range(len(lrs) * len(weight_decays)))
    return tuned, trained


class Leftover:
    """The file that an interrupted run leaves; the first process alone touches it."""

    def __init__(self, path: Path, written: list[Path]) -> None:
        self.path = path
        self._written = written

    def found(self, resume: bool, ranks: Ranks) -> bytes:
        """Its content, the same in every process; nothing where there is none.

        Raises:
            PrunerError: it is there, but nobody asked for it.
        """
        content = b""
        if ranks.is_first and self.path.exists():
            if not resume:
                raise PrunerError(
                    f"{self.path}: left by an interrupted run; expected --resume, which goes on "
                    f"with it, or remove it to start anew"
                )
            try:
                content = self.path.read_bytes()
            except OSError as error:
                raise PrunerError(f"{self.path}: cannot be read ({error.strerror})") from error
            if not content:
                raise PrunerError(f"{self.path}: is empty; remove it to start anew")
        elif ranks.is_first and resume:
            note(f"{self.path}: not there; nothing to resume, starting anew")
        return ranks.bytes_from_first(content)

    def write(self, files: Mapping[Path, bytes]) -> None:
        with noted(self.path, self._written):
            commit(files)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        with suppress(ValueError):
            self._written.remove(self.path)

    @contextmanager
    def explained(self, ranks: Ranks) -> Iterator[None]:
        """Names the file in errors of the block that are about it, and says how to go on."""
        try:
            yield
        except ResumeError as error:
            raise PrunerError(f"{self.path}: {error}, or remove it to start anew") from error
        except DivergedError:
            # Going on would only diverge again.
            if ranks.is_first:
                self.remove()
            raise
        except BaseException:
            if ranks.is_first and self.path in self._written:
                note(f"{self.path}: what is done so far; --resume goes on from there")
            raise


class _KeptTrials:
    """The results of trials in a small file, and the weights of the best beside it."""

    def __init__(self, left: Leftover, settings: Mapping[str, Plain]) -> None:
        self._left = left
        self._settings = settings

    def write(self, trials: Sequence[Trial], state: Mapping[str, Tensor] | None) -> None:
        text = manifest_text(
            {"settings": dict(self._settings), "trials": [asdict(trial) for trial in trials]}
        )
        files = {self._left.path: text.encode()}
        last = len(trials) - 1
        if state is not None:
            # The weights come first: results never speak of weights that are not there.
            files = {self._weights_path(last): save_bytes(state), **files}
        self._left.write(files)
        if state is not None:
            self.remove_weights(range(last))

    def read(self, content: bytes) -> list[Trial]:
        """The trials; an error where they are of other options, or damaged."""
        try:
            loaded = parsed_json(content)
            settings, trials = loaded["settings"], [Trial(**row) for row in loaded["trials"]]
        except (ValueError, KeyError, TypeError) as error:
            why = " ".join(str(error).split())
            raise PrunerError(
                f"{self._left.path}: damaged, or not the results of trials ({why}); "
                f"remove it to start anew"
            ) from error
        check_same(settings, self._settings)
        return trials

    def weights(self, trials: list[Trial]) -> dict[str, Tensor] | None:
        """Of the best trial, if any is good."""
        best = best_of(trials)
        if best is None:
            return None
        try:
            return read_state_dict(self._weights_path(trials.index(best)))
        except PrunerError as error:
            raise PrunerError(f"{error}; remove {self._left.path} to start anew") from error

    def remove_weights(self, numbers: range) -> None:
        for number in numbers:
            self._weights_path(number).unlink(missing_ok=True)

    def _weights_path(self, number: int) -> Path:
        return self._left.path.with_name(f"{self._left.path.name}-{number}.pth")


def _start(job: TrainingJob, ranks: Ranks) -> tuple[Network, DataSplits]:
    with ranks.first_goes_first():
        splits = job.data.load(job.request)
        return find_network(job.request, splits, shipped=False), splits


def _measured(network: Network, splits: DataSplits, ranks: Ranks) -> Trained:
    return Trained(network, splits.name, shared_accuracy(network.model, splits.test, ranks))


def _write_weights(out: Path, network: Network, written: list[Path]) -> None:
    state: dict[str, Any] = network.model.state_dict()
    content = save_bytes(state) if out.suffix == ".pth" else safetensors_bytes(state)
    with noted(out, written):
        commit({out: content})


def _listed(values: Sequence[float]) -> str:
    return ",".join(map(str, values))
