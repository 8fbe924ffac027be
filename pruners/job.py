"""One run of the command line: prune, verify, save; fine-tune, save again."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from pruners.base import BasicPruning, Options, PruningResult, Saved, checked_name
from pruners.calibration import Calibration
from pruners.datasets import DataSplits, load_dataset
from pruners.errors import PrunerError
from pruners.evaluation import Evaluation, evaluate, evaluate_all
from pruners.libraries import is_library_network
from pruners.model_store import ModelStore, Parent
from pruners.networks import Network, Request, find_network, parsed_shape, takes_any_image
from pruners.progress import note, stage
from pruners.recalibration import has_statistics, recalibrate
from pruners.recipe import Recipe
from pruners.registry import DATASETS, MODEL_DATA
from pruners.sampling import BATCHES, sample
from pruners.store import check_writable
from pruners.training import train
from pruners.verify import Outcome

SHIPPED_DATASET = next(iter(DATASETS))
"""The dataset that needs no download."""


@dataclass(frozen=True, slots=True)
class Data:
    """A dataset as the options name it."""

    name: str
    folder: Path = Path("data")
    download: bool = False

    def load(self, request: Request | None = None) -> DataSplits:
        """Its splits, in the shape that the network asks for; PrunerError where that cannot be."""
        shape: tuple[int, int, int] | Literal["stored"] | None = None
        if request is not None and request.input_shape is not None:
            shape = self._image_shape(request.input_shape)
        elif request is not None and takes_any_image(request.arch):
            shape = "stored"
        return load_dataset(self.name, self.folder, self.download, shape)

    def _image_shape(self, text: str) -> tuple[int, int, int]:
        shape = parsed_shape(text)
        if len(shape) != 3:
            raise PrunerError(
                f"--input-shape {text}: {self.name} has images; expected channels, "
                f"height and width, such as 3,32,32"
            )
        channels, height, width = shape
        return channels, height, width


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be done; the fields are the options of the command line."""

    request: Request
    options: Options
    data: Data | None = None
    """Where given (or implied by weights that ship with the zoo), accuracies are measured."""
    finetune_epochs: int = 0
    calibrate: int = BATCHES
    """Batches of training images for measures of activations or gradients."""
    recalibrate: int | None = None
    """Batches of training images for the statistics of batch norms after pruning; 0 for none. By
    default `BATCHES` where a dataset is given."""
    out: Path = Path("generated")
    store_dir: Path = Path("models")
    """Of the model store; the weights go to `pruned/` in it."""
    weights_out: Path | None = None
    """Where given, the folder of the weights in place of that."""
    name: str = ""
    dry_run: bool = False

    @property
    def weights_dir(self) -> Path:
        """The folder of the weights."""
        return pruned_folder(self.store_dir, self.weights_out)


def pruned_folder(store_dir: Path, weights_out: Path | None) -> Path:
    """Where the weights of pruned networks go, by `--store-dir` and `--weights-out`."""
    store = ModelStore(store_dir, pruned=weights_out)
    return store.stage_folder("pruned")


@dataclass(frozen=True, slots=True)
class Stages:
    """The figures of a network at every stage, on one dataset."""

    dataset: str
    before: Evaluation
    pruned: Evaluation
    recalibrated: Evaluation | None = None
    """With the statistics of its batch norms estimated anew."""
    finetuned: Evaluation | None = None

    @property
    def last(self) -> Evaluation:
        """The figures of the last stage."""
        return self.finetuned or self.recalibrated or self.pruned

    def described(self) -> dict[str, Any]:
        """All figures of every stage, as they stand in the manifest."""
        stages = {
            "before": self.before,
            "pruned": self.pruned,
            "recalibrated": self.recalibrated,
            "finetuned": self.finetuned,
        }
        return {name: figures.described() for name, figures in stages.items() if figures}

    def accuracies(self) -> dict[str, Any]:
        """The accuracies alone, beside the name of the dataset."""
        stages = self.described().items()
        return {"dataset": self.dataset, **{name: figures["accuracy"] for name, figures in stages}}


@dataclass(frozen=True, slots=True)
class Finished:
    """What a job made; the fields that are None were not asked for."""

    network: Network
    result: PruningResult
    outcome: Outcome
    stages: Stages | None
    saved: Saved | None
    tuned: nn.Module | None = None
    """The pruned network, recalibrated or fine-tuned."""
    tuned_saved: Saved | None = None


def run_job(job: Job, pruner_class: type[BasicPruning], written: list[Path]) -> Finished:
    """Prune, verify, save; recalibrate, fine-tune, save the next version.

    Args:
        written: gets the manifest of what was saved, also when the job is interrupted after that.

    Raises:
        PrunerError: what the user can mend.
        VerificationError: the slim network is not equal to the masked original.
    """
    _check(job)
    with stage(f"loading {job.request.arch}"):
        splits = job.data.load(job.request) if job.data is not None else None
        network = find_network(job.request, splits)
        splits = _told(network, splits, job)
    pruner = pruner_class(
        network.model,
        network.examples(job.options.seed),
        job.options,
        fileName=job.name,
        netName=network.name,
        calibration=_calibration(splits, job),
        progress=True,
    )
    with stage(f"pruning {pruner.netName} by {job.options.prune_pct:g} percent"):
        result = pruner.run()
        for warning in result.report.warnings:
            note(f"warning: {warning}")
    with stage("verifying it in a fresh process"):
        outcome = result.verified()
    stages, examples = None, result.pruning.example_inputs
    batches = (BATCHES if job.data else 0) if job.recalibrate is None else job.recalibrate
    if splits is not None:
        with stage(f"testing on {splits.name}"):
            figures = evaluate_all([network.model, result.model], splits.test, examples)
            stages = Stages(splits.name, *figures)

    parents = () if network.checkpoint is None else (Parent.of(network.checkpoint),)

    def save(tuned: nn.Module | None, parents: Sequence[Parent]) -> Saved | None:
        if job.dry_run:
            return None
        training, metrics = None, None
        extra: dict[str, Any] = {}
        if stages is not None:
            extra["test_accuracy"] = stages.accuracies()
            extra["evaluation"] = stages.described()
            if stages.recalibrated is not None:
                extra["recalibration_batches"] = batches
            if stages.finetuned is not None:
                extra["finetune_epochs"] = job.finetune_epochs
            metrics = stages.last.described()
            if tuned is not None:
                training = _training(stages, job, batches)
        state = result.state_dict if tuned is None else tuned.state_dict()
        with noted(job.out / f"{pruner.fileName}.json", written):
            return result.save_weights(
                *(state, job.out, job.weights_dir, outcome, extra),
                parents=parents,
                training=training,
                metrics=metrics,
            )

    saved = save(None, parents)
    if splits is None or stages is None:
        return Finished(network, result, outcome, stages, saved)
    tuned = copy.deepcopy(result.model)
    norms = 0
    if batches and has_statistics(tuned):
        with stage(f"recalibrating batch norms on {splits.name}"):
            norms = recalibrate(tuned, sample(splits, batches, job.options.seed))
        if norms:
            stages = replace(stages, recalibrated=evaluate(tuned, splits.test, examples))
    if job.finetune_epochs:
        note(f"fine-tuning on {splits.name}")
        train(tuned, splits, job.finetune_epochs, seed=job.options.seed, progress=True)
        stages = replace(stages, finetuned=evaluate(tuned, splits.test, examples))
    if not norms and not job.finetune_epochs:
        return Finished(network, result, outcome, stages, saved)
    parents = () if saved is None else (saved.stored.parent(),)
    return Finished(network, result, outcome, stages, saved, tuned, save(tuned, parents))


def _training(stages: Stages, job: Job, batches: int) -> dict[str, Any]:
    """How the weights of a pruned network became what they are, for their manifest."""
    told: dict[str, Any] = {"dataset": stages.dataset, "seed": job.options.seed}
    if stages.recalibrated is not None:
        told["recalibration_batches"] = batches
    if stages.finetuned is not None:
        told |= asdict(Recipe(job.finetune_epochs, seed=job.options.seed))
    return told


def _calibration(splits: DataSplits | None, job: Job) -> Calibration | None:
    if splits is None:
        return None
    return Calibration(sample(splits, job.calibrate, job.options.seed))


def _check(job: Job) -> None:
    """PrunerError for what would otherwise fail only after long work."""
    job.options.check()
    if job.name:
        checked_name(job.name)
    if not job.dry_run:
        check_writable(job.out)
        check_writable(job.weights_dir)


def _told(network: Network, splits: DataSplits | None, job: Job) -> DataSplits | None:
    """Says what the user may not expect of the weights; returns the dataset, which they imply."""
    if network.weights == "random":
        library = is_library_network(job.request.arch)
        note(
            f"note: {network.name} has random weights (seed {job.request.seed}); "
            f"{'--weights DEFAULT or ' if library else ''}--checkpoint FILE loads trained ones"
        )
    if network.weights == "shipped":
        trained_on = MODEL_DATA.get(network.name, SHIPPED_DATASET)
        if splits is None:
            channels, height, width = network.input_shape
            return load_dataset(trained_on, input_shape=(channels, height, width))
        if splits.name != trained_on:
            note(
                f"note: the weights of {network.name} that ship with the zoo were trained on "
                f"{trained_on}, not on {splits.name}; --checkpoint FILE loads others"
            )
    for option, value in (
        ("--finetune-epochs", job.finetune_epochs),
        ("--recalibrate", job.recalibrate),
    ):
        if splits is None and value:
            raise PrunerError(f"{option} {value}: needs --dataset, such as {SHIPPED_DATASET}")
    return splits


@contextmanager
def noted(path: Path, written: list[Path]) -> Iterator[None]:
    """Adds the path when the block has written it, even if the block ends with Ctrl-C."""
    before = _identity(path)
    try:
        yield
    finally:
        if _identity(path) != before and path not in written:
            written.append(path)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
