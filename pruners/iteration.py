"""Prune a little, retrain, and prune again: an experiment, level by level.

    plan = Plan(Request("resnet"), "Digits", method="low_unitmem", step=5, levels=10, epochs=2)
    iterate(plan, "runs/exp1")

Everything is stored as it is done (`runs.py`), and the same call goes on where it stands. Each
level is a function of what the level before has left in the folder, so that a run that is killed
and resumed ends with the files of one that was not.
"""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruners.base import BasicPruning, Options, PruningResult
from pruners.calibration import Calibration
from pruners.channel_graph import ChannelGraph, Indices, Kept, Units, all_kept
from pruners.datasets import DataSplits
from pruners.distributed import ALONE, Ranks
from pruners.errors import DivergedError, PrunerError, StoppedError, did_you_mean
from pruners.evaluation import accuracy, evaluate
from pruners.job import Data
from pruners.loading import maker_from_file
from pruners.losses import PENALTIES, distilled, penalised, penalty_named
from pruners.masks import apply_masks, without_masks
from pruners.measures import Measure
from pruners.methods import TARGETS, Target, count_target
from pruners.metrics import count_macs, count_parameters
from pruners.networks import Network, Request, find_network
from pruners.optimizer_state import named_state, sliced, state_for
from pruners.pages.of_job import save_trial_plots
from pruners.pages.render import trials_page
from pruners.pages.trials import Trials, of_levels
from pruners.plots import Line, Panel, line_plot
from pruners.progress import note, stage
from pruners.recalibration import has_statistics, recalibrate
from pruners.recipe import FROM_SCRATCH, Recipe
from pruners.registry import SCORING_MEASURES, measure_named, method_named
from pruners.runs import BASE, TRAINING, Record, Run, npz_bytes, read_json
from pruners.sampling import sample
from pruners.schedules import cumulative
from pruners.scoring import Scored
from pruners.store import (
    chosen_by,
    commit,
    load_checkpoint,
    manifest_text,
    save_bytes,
    sealed,
)
from pruners.tracing import Trace
from pruners.trainer_file import Retrainer
from pruners.training import Loss, cross_entropy, fit
from pruners.training_state import TrainingState, check_same, read_state, state_bytes
from pruners.unitmem import UNITMEM_METHODS, UnitMem, choose_images, get_unitmem, importance
from pruners.written import checked_name

BY_COUNT = "mag_pruning"
"""Prunes by magnitude, as much at each level as the experiment that `--follow` names."""
RANDOM = "random"

TRAINER = "trainer"
"""The folder, in that of its level, where a trainer of the user's keeps what it likes."""

APPLY = ("remove", "mask")
ACTIVATIONS = ("npz", "json", "none")


@dataclass(frozen=True, slots=True)
class Plan:
    """What an experiment is."""

    request: Request
    dataset: str
    method: str = "low_unitmem"
    """`random`, `low_unitmem`, `high_unitmem`, `hybrid_unitmem`, `mag_pruning`, or a measure."""
    measure_args: Mapping[str, Any] = field(default_factory=dict)
    ranking: str = "Global"
    """How scores are ranked: a key of `PRUNING_METHODS`."""
    step: float = 5.0
    """Percent of what is left that a level removes, with the schedule `exponential`."""
    levels: int = 10
    schedule: str = "exponential"
    final: float | None = None
    """Percent that is gone in the end, for the other schedules."""
    target: Target = "params"
    min_filters: int = 2
    round_to: int = 1
    ignore: tuple[str, ...] = ()
    epochs: int = 2
    """Of retraining, at each level."""
    pretrain_epochs: int = 20
    lr: float = Recipe.lr
    """The highest learning rate of retraining."""
    batch_size: int = Recipe.batch_size
    recalibrate: int = 16
    """Batches for the statistics of batch norms after pruning; 0 for none."""
    calibrate: int = 16
    """Batches for measures of activations or gradients."""
    images: int = 1000
    """Images that UnitMem is measured on."""
    augmentations: int = 10
    UM_batch: int = 64
    activations: str = "npz"
    """Whether mean activations of every image are kept: `npz`, `json` or `none`."""
    apply: str = "remove"
    """Channels are removed (each level is smaller and faster), or masked."""
    follow: Path | None = None
    """The folder of a finished experiment, for `mag_pruning`."""
    keep_optimizer: bool = False
    """Retraining begins with the optimizer's state of the level before, where channels stay."""
    distill: float = 0.0
    """The share of the loss that is the distance to the unpruned network's answers."""
    temperature: float = 4.0
    sparse: str = ""
    """A penalty on channels while training: `group` (lasso) or `norm` (batch-norm scales)."""
    sparse_weight: float = 1e-4
    trainer: str | None = None
    """`FILE.py:CLASS` that retrains, as it was named; the class itself goes to `iterate`."""
    seed: int = 0

    def check(self) -> None:
        """PrunerError for what would otherwise fail only after long work."""
        cumulative(self.schedule, self.step, self.levels, self.final)
        known = (*UNITMEM_METHODS, RANDOM, BY_COUNT, *SCORING_MEASURES)
        if self.method not in known:
            raise PrunerError(
                f"--method {self.method}: unknown{did_you_mean(self.method, known)}; expected one "
                f"of {', '.join(known)}"
            )
        if self.method in SCORING_MEASURES:
            measure_named(self.method, self.measure_args)
        method_named(self.ranking)
        for option, value, offered in (
            ("--apply", self.apply, APPLY),
            ("--activations", self.activations, ACTIVATIONS),
            ("--sparse", self.sparse or "group", tuple(PENALTIES)),
        ):
            if value not in offered:
                raise PrunerError(
                    f"{option} {value}: unknown{did_you_mean(value, offered)}; expected one of "
                    f"{', '.join(offered)}"
                )
        if (self.method == BY_COUNT) != (self.follow is not None):
            raise PrunerError(
                f"--method {BY_COUNT}: needs --follow DIR, a finished experiment whose counts it "
                f"takes"
                if self.follow is None
                else f"--follow {self.follow}: only for --method {BY_COUNT}"
            )
        for option, given in (
            ("--keep-optimizer", self.keep_optimizer),
            (f"--distill {self.distill:g}", self.distill),
            (f"--sparse {self.sparse}", self.sparse),
        ):
            if self.trainer and given:
                raise PrunerError(
                    f"{option}: is of the project's own loop, which --trainer {self.trainer} "
                    f"replaces; expected one of the two"
                )
        for option, number, least in (
            ("--epochs", self.epochs, 0),
            ("--pretrain-epochs", self.pretrain_epochs, 0),
            ("--images", self.images, 2),
            ("--augmentations", self.augmentations, 1),
            ("--UM-batch", self.UM_batch, 1),
        ):
            if number < least:
                raise PrunerError(f"{option} {number}: expected {least} or more")
        if not 0 <= self.distill <= 1 or not self.temperature > 0:
            raise PrunerError(
                f"--distill {self.distill:g}, --temperature {self.temperature:g}: expected a share "
                f"from 0 to 1 and a temperature above 0"
            )

    def described(self) -> dict[str, Any]:
        """All of it as plain values, as `experiment.json` holds it."""
        named = dataclasses.asdict(self)
        request = named.pop("request")
        # Where it runs is not what it is.
        del request["device"]
        plain = {**{f"request.{name}": value for name, value in request.items()}, **named}
        return {name: _plain(value) for name, value in plain.items()}


MakeTrainer = Callable[[DataSplits, Path], Retrainer]
"""(splits, a folder of its own) -> what retrains one level."""


@dataclass(slots=True)
class Current:
    """The network as a level finds it."""

    network: nn.Module
    kept: Kept
    """Indices of the original network, for every tensor and dimension."""
    optimizer: Mapping[str, Mapping[str, Any]] | None = None
    """State of the optimizer, by parameter."""


def iterate(
    plan: Plan,
    folder: str | Path,
    *,
    lvl: int | None = None,
    data: Data | None = None,
    trainer: MakeTrainer | None = None,
    command: Sequence[str] = (),
    ranks: Ranks = ALONE,
    stop: Callable[[], bool] = lambda: False,
    progress: bool = True,
    plots: Path | None = None,
) -> list[Record]:
    """Run an experiment, or go on with it; the metrics of the network and of every level.

    Args:
        plan: what it is; the same one every time.
        folder: where it is stored.
        lvl: -1 trains the network first, unless that is done; 0 begins with a trained one (the
            request's checkpoint, or what ships with the zoo); N goes on at level N, whose files
            are made anew. By default as -1 for a network without weights, else as 0, and where
            the experiment has begun it goes on where it stands.
        data: where the dataset lies.
        trainer: makes what retrains the network, for loops of your own; it gets a folder that is
            removed when the level is done.
        command: the exact command, to be stored.
        ranks: the processes that train together; the first one prunes and writes.
        stop: asked after every batch and step of work whether to stop.
        plots: a folder for every chart of the page, as PNG and SVG.

    Raises:
        PrunerError: what the user can mend.
        StoppedError: `stop` said so; the same call goes on.
    """
    plan.check()
    if trainer is not None and ranks.size > 1:
        raise PrunerError(
            f"--trainer {plan.trainer}: retrains in one process, and there are {ranks.size}; "
            f"expected a run without torchrun"
        )
    run = Run(Path(folder))
    with chosen_by("--exp DIR"):
        experiment = _Experiment(plan, run, data, trainer, ranks, stop, progress, lvl)
        rows = experiment.run(command)
    if plots is not None and ranks.is_first:
        save_trial_plots(experiment.trials(rows), plots)
    return rows


class _Experiment:
    def __init__(
        self,
        plan: Plan,
        run: Run,
        data: Data | None,
        trainer: MakeTrainer | None,
        ranks: Ranks,
        stop: Callable[[], bool],
        progress: bool,
        lvl: int | None,
    ) -> None:
        self.plan, self.run_, self.ranks, self.asked = plan, run, ranks, stop
        self.lvl = lvl
        self.progress = progress and ranks.is_first
        with ranks.first_goes_first():
            self.splits = (data or Data(plan.dataset)).load(plan.request)
            # A network that is to be trained first begins without the zoo's weights.
            self.found: Network = find_network(plan.request, self.splits, shipped=lvl != -1)
        self.own_trainer = trainer
        self.name = checked_name(self.found.name.lower())
        self.examples = self.found.examples(plan.seed)
        self.inputs = self.examples[0]
        self.levels: list[Record] = []
        self.goals = self._goals()
        self.images = choose_images(self._size(), plan.images, plan.seed)
        self.counts: dict[str, int] = {}
        """Of the original network: parameters, macs, channels."""

    def _size(self) -> int:
        return len(self.splits.train)  # type: ignore[arg-type]

    # --- from the beginning to the end -----------------------------------------------------------

    def run(self, command: Sequence[str]) -> list[Record]:
        plan, run, lvl = self.plan, self.run_, self.lvl
        if self.ranks.is_first:
            self._begin(command)
        self.ranks.wait()
        self._base()
        if self.ranks.is_first:
            self.levels = run.whole_levels(plan.levels)
            if lvl is not None and lvl > 0:
                if lvl > len(self.levels):
                    there = f"levels 0 to {len(self.levels) - 1}" if self.levels else "no level"
                    raise PrunerError(
                        f"--lvl {lvl}: the experiment in {run.folder} has {there}; expected at "
                        f"most {len(self.levels)}"
                    )
                self.levels = self.levels[:lvl]
            for number in range(len(self.levels)):
                run.finish_training(number)
            half = run.pruned(len(self.levels)) if len(self.levels) < plan.levels else None
            run.forget(len(self.levels) + (half is not None), plan.levels)
        self._same_levels()
        base = self._base_metrics()
        began = time.perf_counter()
        first = len(self.levels)
        for number in range(first, plan.levels):
            self._stopped()
            self._level(number)
            if self.ranks.is_first:
                self._summarise(base)
                if self.progress:
                    left = (time.perf_counter() - began) / (number - first + 1)
                    note(
                        f"level {number} done, {number + 1} of {plan.levels}; about "
                        f"{_duration(left * (plan.levels - number - 1))} to go"
                    )
        if self.ranks.is_first and first == plan.levels:
            self._summarise(base)
        return [base, *(record["metrics"] for record in self.levels)]

    def _begin(self, command: Sequence[str]) -> None:
        options, known = self.plan.described(), self.run_.options()
        if known is None:
            self.run_.start(
                {
                    "command": list(command),
                    "options": options,
                    "versions": {name: version(name) for name in ("torch", "torchvision", "numpy")},
                    "python": sys.version.split()[0],
                    "images": self.images,
                }
            )
            return
        try:
            check_same(known.get("options", {}), options)
        except PrunerError as error:
            raise PrunerError(
                f"--exp {self.run_.folder}: {error}, or choose another folder"
            ) from error

    def _base(self) -> None:
        """The network before pruning, trained and stored, once."""
        path, lvl = self.run_.folder / BASE, self.lvl
        model = self.found.model
        if path.exists():
            load_checkpoint(model, path)
            if self.ranks.is_first:
                (self.run_.folder / TRAINING).unlink(missing_ok=True)
            self.ranks.wait()
            return
        trained = self.found.weights != "random"
        if lvl == 0 and not trained:
            raise PrunerError(
                f"--lvl 0: {self.found.name} has random weights; expected --checkpoint FILE, or "
                f"--lvl -1, which trains it first"
            )
        if lvl == -1 or (lvl is None and not trained):
            if self.progress:
                note(f"training {self.found.name} on {self.splits.name}")
            lr, decay = FROM_SCRATCH["sgd"]
            recipe = Recipe(
                self.plan.pretrain_epochs,
                lr=lr,
                weight_decay=decay,
                batch_size=self.plan.batch_size,
                seed=self.plan.seed,
            )
            self._train(model, recipe, self.run_.folder / TRAINING, self._penalised(model, recipe))
        elif lvl is not None and lvl > 0:
            raise PrunerError(
                f"--lvl {lvl}: there is no experiment in {self.run_.folder} yet; expected -1 or 0"
            )
        if self.ranks.is_first:
            commit({path: save_bytes(model.state_dict())})
            (self.run_.folder / TRAINING).unlink(missing_ok=True)
        self.ranks.wait()

    def _same_levels(self) -> None:
        """Every process knows the records that the first one has read."""
        content = json.dumps(self.levels).encode() if self.ranks.is_first else b""
        self.levels = json.loads(self.ranks.bytes_from_first(content))

    def _base_metrics(self) -> Record:
        model = self.found.model
        self.counts = {
            "parameters": count_parameters(model),
            "macs": count_macs(model, self.inputs),
        }
        figures = evaluate(model, self.splits.test, self.inputs)
        return {
            "level": -1,
            "goal_pct": 0.0,
            "removed_pct": 0.0,
            **self.counts,
            "accuracy": figures.accuracy,
            "top_k_accuracy": figures.top_k_accuracy,
            "loss": figures.loss,
        }

    def _goals(self) -> tuple[float, ...]:
        """Percent of the target that is to be gone after each level."""
        plan = self.plan
        goals = cumulative(plan.schedule, plan.step, plan.levels, plan.final)
        if plan.follow is None:
            return goals
        return _followed(plan.follow, plan)

    # --- one level -------------------------------------------------------------------------------

    def _level(self, number: int) -> None:
        run, plan = self.run_, self.plan
        if self.ranks.is_first:
            before = self._current(number)
            record = run.pruned(number)
            if record is None:
                if self.progress:
                    note(
                        f"level {number} of {plan.levels - 1}: {self.goals[number]:.2f} percent of "
                        f"the {TARGETS[plan.target]} are to go"
                    )
                try:
                    record = self._prune(number, before)
                except PrunerError as error:
                    raise PrunerError(f"level {number}: {error}") from error
            self._stopped()
        content = json.dumps(record).encode() if self.ranks.is_first else b""
        record = json.loads(self.ranks.bytes_from_first(content))
        slim = self._pruned(number)
        metrics: Record = dict(record["metrics"])
        if plan.recalibrate and has_statistics(slim):
            recalibrate(slim, sample(self.splits, plan.recalibrate, plan.seed))
            metrics["accuracy_recalibrated"] = accuracy(slim, self.splits.test)
        try:
            state = self._retrain(number, slim)
        except DivergedError as error:
            raise DivergedError(
                f"level {number}: {error}; what the last good epoch has left is kept"
            ) from error
        if not self.ranks.is_first:
            self._same_levels()
            return
        figures = evaluate(slim, self.splits.test, self.inputs)
        metrics |= {
            "accuracy": figures.accuracy,
            "top_k_accuracy": figures.top_k_accuracy,
            "loss": figures.loss,
        }
        masked = plan.apply == "mask"
        plain = without_masks(slim, self.found.model) if masked else slim
        files = {f"level_{number}/retrained.pth": save_bytes(plain.state_dict())}
        if plan.keep_optimizer and state is not None:
            named = named_state(state, [n for n, p in slim.named_parameters() if p.requires_grad])
            files[f"level_{number}/optimizer.pth"] = _saved(named)
        self.levels.append(run.store_level(number, {**record, "metrics": metrics}, files))
        run.finish_training(number)
        self._same_levels()

    def _current(self, number: int) -> Current:
        """What level `number` begins with: what the one before it has left."""
        original = self.found.model
        if number == 0:
            shapes = {name: tuple(t.shape) for name, t in original.state_dict().items()}
            return Current(original, all_kept(shapes))
        folder = self.run_.level(number - 1)
        network = original if self.plan.apply == "mask" else self._built(number - 1)
        network = copy.deepcopy(network)
        load_checkpoint(network, folder / "retrained.pth")
        state = folder / "optimizer.pth"
        optimizer = _loaded(state) if self.plan.keep_optimizer and state.exists() else None
        return Current(network, self._kept(number - 1), optimizer)

    def _kept(self, number: int) -> dict[str, tuple[Indices, ...]]:
        """What a level has left, in indices of the original network."""
        path = self.run_.level(number) / f"{self._stem(number)}.json"
        kept = read_json(path, f"level {number} is not whole")["kept"]
        return {
            name: tuple(np.asarray(indices, dtype=np.int64) for indices in dims)
            for name, dims in kept.items()
        }

    def _stem(self, number: int) -> str:
        return f"{self.name}_level_{number}"

    def _built(self, number: int) -> nn.Module:
        """A network of the class that a level has written."""
        maker = maker_from_file(
            self.run_.level(number) / f"{self._stem(number)}.py", self._factory(number)
        )
        built: nn.Module = maker()
        return built.to(self.found.device)

    def _factory(self, number: int) -> str:
        """The function that builds the network, as the file of the level calls it."""
        if number < len(self.levels):
            return str(self.levels[number]["factory"])
        record = self.run_.pruned(number)
        return str(record["factory"]) if record is not None else self.name

    def _prune(self, number: int, before: Current) -> Record:
        """Measure, choose, remove, verify; store the level as it is before retraining."""
        plan, model = self.plan, before.network
        with stage(f"level {number}: analysing") if self.progress else _silence():
            pruning = _Level(
                model,
                self.examples,
                Options(
                    prune_pct=0,
                    target=plan.target,
                    measure=plan.method,
                    method=plan.ranking,
                    min_filters=plan.min_filters,
                    round_to=plan.round_to,
                    ignore=plan.ignore,
                    seed=plan.seed + number,
                    measure_args=dict(plan.measure_args),
                ),
                fileName=self._stem(number),
                netName=self.found.name,
                calibration=Calibration(sample(self.splits, plan.calibrate, plan.seed)),
                measure=_no_measure,
                gone=_gone(model, before.kept) if plan.apply == "mask" else None,
            )
            trace = pruning.analysis()
        memory = get_unitmem(
            model,
            self.splits.train,
            indices=self.images,
            augmentations=plan.augmentations,
            UM_batch=plan.UM_batch,
            seed=plan.seed + number,
            trace=trace,
            progress=self.progress,
        )
        self._stopped()
        pruning.own_measure = self._measure(memory)
        pruning.options = dataclasses.replace(
            pruning.options, prune_pct=self._percent(number, pruning, trace)
        )
        with stage(f"level {number}: pruning") if self.progress else _silence():
            result = pruning.run()
        with stage(f"level {number}: verifying") if self.progress else _silence():
            outcome = result.verified()
        self._stopped()
        return self._store_pruned(number, before, result, outcome, memory)

    def _percent(self, number: int, pruning: BasicPruning, trace: Trace) -> float:
        """Of what there is now, how much must go to reach the level's goal."""
        graph = trace.graph
        now = count_target(graph, graph.units(), self.plan.target)
        full = self._full_count(now if number == 0 else None)
        if self.plan.apply == "mask":
            return self.goals[number]
        left = full * (1 - self.goals[number] / 100)
        # A hair less, so that rounding never takes a channel more.
        return max(0.0, 100 * (now - left) / now - 1e-9)

    def _full_count(self, known: int | None) -> int:
        """The target's count of the original network."""
        if "target" not in self.counts:
            if known is None:
                known = int(self.levels[0]["full_count"])
            self.counts["target"] = known
        return self.counts["target"]

    def _measure(self, memory: Mapping[str, UnitMem]) -> Measure:
        plan = self.plan
        if plan.method in UNITMEM_METHODS:
            return importance(plan.method, memory)
        if plan.method == RANDOM:
            return measure_named("ChannelRandom")
        if plan.method == BY_COUNT:
            return measure_named("ChannelNorm")
        return measure_named(plan.method, plan.measure_args)

    def _store_pruned(
        self,
        number: int,
        before: Current,
        result: PruningResult,
        outcome: Any,
        memory: Mapping[str, UnitMem],
    ) -> Record:
        plan = self.plan
        masked = plan.apply == "mask"
        kept = result.kept if masked else _composed(before.kept, result.kept)
        graph = result.graph
        removed: dict[str, list[int]] = {}
        channels = 0
        order = {name: i for i, name in enumerate(graph.shapes)}
        for axis in sorted(graph.outputs(), key=lambda a: order[a.tensor]):
            old, new = before.kept[axis.tensor][axis.dim], kept[axis.tensor][axis.dim]
            channels += len(new)
            gone = np.setdiff1d(old, new)
            if not np.isin(new, old).all():
                raise RuntimeError(f"level {number}: {axis} got channels back that were gone")
            if len(gone):
                removed[axis.tensor.removesuffix(".weight")] = gone.tolist()
        model = result.model
        left = count_target(graph, graph.units(), plan.target)
        full = self._full_count(left if number == 0 else None)
        removed_pct = 100 * (1 - self._count_of(result) / full)
        present = self._present(memory, before, graph)
        metrics = {
            "level": number,
            "goal_pct": self.goals[number],
            "removed_pct": removed_pct,
            "parameters": count_parameters(model),
            "macs": count_macs(model, self.inputs),
            "channels": channels,
            "accuracy_pruned": accuracy(model, self.splits.test),
        }
        name, stem = f"level_{number}", self._stem(number)
        source = result.source_for("retrained.pth", verified=True).encode()
        weights = save_bytes(self._after(before, result).state_dict())
        facts = result.facts({f"{stem}.py": source}, outcome)
        facts["kept"] = {n: [dim.tolist() for dim in dims] for n, dims in kept.items()}
        files = {
            f"{name}/{stem}.py": source,
            f"{name}/{stem}.json": manifest_text(sealed(facts)).encode(),
            f"{name}/pruned.pth": weights,
            **self._activations(number, present),
        }
        if before.optimizer is not None:
            shapes = {n: tuple(p.shape) for n, p in before.network.named_parameters()}
            state = before.optimizer
            if not masked:
                state = sliced(before.optimizer, shapes, result.kept)
            files[f"{name}/optimizer_pruned.pth"] = _saved(state)
        record = {
            "factory": result.writer.factory,
            "full_count": full,
            "metrics": metrics,
            "pruned_indices": removed,
            "unitmem": {
                layer: [[float(v), int(i)] for v, i in zip(m.values, m.images, strict=True)]
                for layer, m in present.items()
            },
        }
        return self.run_.store_pruned(number, record, files)

    def _count_of(self, result: PruningResult) -> int:
        """The target's count of what stays."""
        stays = np.ones(result.units.count, dtype=bool)
        for axis in result.units.axes:
            gone = np.ones(result.graph.size(axis), dtype=bool)
            gone[result.kept[axis.tensor][axis.dim]] = False
            stays[result.units.of(axis)[gone]] = False
        return count_target(result.graph, result.units, self.plan.target, stays)

    def _present(
        self, memory: Mapping[str, UnitMem], before: Current, graph: ChannelGraph
    ) -> dict[str, UnitMem]:
        """UnitMem of the channels that the level found in place."""
        if self.plan.apply == "remove":
            return dict(memory)
        present = {}
        dims = {axis.tensor: axis.dim for axis in graph.outputs()}
        for layer, found in memory.items():
            weight = f"{layer}.weight"
            kept = before.kept[weight][dims[weight]]
            present[layer] = UnitMem(
                found.values[kept], found.images[kept], found.activations[:, kept]
            )
        return present

    def _activations(self, number: int, memory: Mapping[str, UnitMem]) -> dict[str, bytes]:
        """The mean activation of every image, layer by layer."""
        arrays = {layer: found.activations for layer, found in memory.items()}
        match self.plan.activations:
            case "npz":
                return {f"All_activations/level_{number}.npz": npz_bytes(arrays)}
            case "json":
                values = {layer: array.tolist() for layer, array in arrays.items()}
                return {f"All_activations/level_{number}.json": json.dumps(values).encode()}
        return {}

    def _after(self, before: Current, result: PruningResult) -> nn.Module:
        """The network that goes on: the slim one, or the full one with zeros."""
        if self.plan.apply == "remove":
            return result.model
        masked = copy.deepcopy(before.network)
        apply_masks(masked, result.kept)
        return without_masks(masked, before.network)

    # --- retraining ------------------------------------------------------------------------------

    def _pruned(self, number: int) -> nn.Module:
        """The network of a level before it is retrained, in every process."""
        folder = self.run_.level(number)
        if self.plan.apply == "remove":
            network = self._built(number)
            load_checkpoint(network, folder / "pruned.pth")
            return network
        network = copy.deepcopy(self.found.model)
        load_checkpoint(network, folder / "pruned.pth")
        apply_masks(network, self._kept(number))
        return network

    def _retrain(self, number: int, slim: nn.Module) -> Mapping[str, Any] | None:
        """In place; the optimizer's last state, where the project's own loop trained."""
        plan = self.plan
        if not plan.epochs:
            return None
        if self.own_trainer is not None:
            self._by_own_trainer(number, slim)
            return None
        recipe = Recipe(
            plan.epochs, lr=plan.lr, batch_size=plan.batch_size, seed=plan.seed + number + 1
        )
        loss = self._penalised(slim, recipe)
        if plan.distill:
            teacher = copy.deepcopy(self.found.model)
            loss = distilled(loss, teacher, plan.distill, plan.temperature)
        carried = self.run_.level(number) / "optimizer_pruned.pth"
        start = None
        if plan.keep_optimizer and carried.exists():
            trained = [(n, p) for n, p in slim.named_parameters() if p.requires_grad]
            optimizer = recipe.optimizer_of([p for _, p in trained])
            start = state_for(optimizer, [n for n, _ in trained], _loaded(carried))
        return self._train(slim, recipe, self.run_.level(number) / TRAINING, loss, start)

    def _by_own_trainer(self, number: int, slim: nn.Module) -> None:
        """In place, whatever the trainer does with the network that it is given."""
        plan = self.plan
        assert self.own_trainer is not None
        # It may move the network, or leave it half-trained: it has one of its own.
        own = self._pruned(number)
        own.load_state_dict(slim.state_dict())
        folder = self.run_.level(number) / TRAINER
        trainer = self.own_trainer(self.splits, folder)
        what = f"--trainer {plan.trainer or type(trainer).__name__}"
        trainer.load_dataloaders(plan.batch_size, None)
        parameters = {"learning_rate": plan.lr}
        trained = trainer.train(own, parameters, "trained", plan.epochs, False, None)
        state = (own if trained is None else _module(what, trained)).state_dict()
        _check_trained(what, slim.state_dict(), state)
        slim.load_state_dict(state)
        shutil.rmtree(folder, ignore_errors=True)

    def _penalised(self, model: nn.Module, recipe: Recipe) -> Loss:
        """The recipe's loss, with the plan's penalty on channels."""
        loss = cross_entropy(recipe)
        if not self.plan.sparse:
            return loss
        plain = without_masks(model, self.found.model) if self.plan.apply == "mask" else model
        graph = BasicPruning(plain, self.examples, Options(prune_pct=0)).analysis().graph
        penalty = penalty_named(self.plan.sparse, model, graph)
        return penalised(loss, penalty, self.plan.sparse_weight)

    def _train(
        self,
        model: nn.Module,
        recipe: Recipe,
        path: Path,
        loss: Loss,
        optimizer: Mapping[str, Any] | None = None,
    ) -> Mapping[str, Any]:
        """Train, with the state beside; an interrupted run goes on with it."""
        content = b""
        if self.ranks.is_first and path.exists():
            content = path.read_bytes()
            try:
                read_state(content, path)
            except PrunerError as error:
                note(f"warning: {error.args[0].partition('; ')[0]}; training from its beginning")
                content = b""
        content = self.ranks.bytes_from_first(content)
        last: list[Mapping[str, Any]] = []

        def keep(state: TrainingState) -> None:
            last[:] = [copy.deepcopy(state.optimizer)]
            commit({path: state_bytes(state)})

        state = read_state(content, path) if content else None
        if state is not None:
            last[:] = [state.optimizer]
        fit(
            model,
            self.splits,
            recipe,
            loss=loss,
            ranks=self.ranks,
            resume=state,
            keep=keep,
            optimizer=optimizer,
            stop=self.asked,
            progress=self.progress,
        )
        return last[0] if last else {}

    # --- the whole -------------------------------------------------------------------------------

    def _summarise(self, base: Record) -> None:
        levels = self.levels
        pictures: dict[str, bytes] = {}
        gone = [0.0, *(r["metrics"]["removed_pct"] for r in levels)]
        tuned = [base["accuracy"], *(r["metrics"]["accuracy"] for r in levels)]
        lines = [Line("retrained", gone, tuned)]
        for key, label in (
            ("accuracy_recalibrated", "pruned, recalibrated"),
            ("accuracy_pruned", "pruned"),
        ):
            known = [
                (r["metrics"]["removed_pct"], r["metrics"][key])
                for r in levels
                if r["metrics"].get(key) is not None
            ]
            if known:
                lines.append(Line(label, *zip(*known, strict=True)))
        drawn = line_plot(
            [Panel(f"{self.found.name}, {self.plan.method}", lines, level=base["accuracy"])],
            x_label=f"{TARGETS[self.plan.target]} removed (percent)",
            y_label=f"test accuracy on {self.splits.name} (percent)",
        )
        pictures = {"accuracy.svg": drawn.svg, "accuracy.png": drawn.png}
        rows = [base, *(record["metrics"] for record in levels)]
        pictures["report.html"] = trials_page(self.trials(rows))
        if self.plan.activations == "npz":
            index = {
                "images": self.images,
                "levels": {
                    f"level_{i}": {
                        "file": f"All_activations/level_{i}.npz",
                        "layers": {
                            layer: [len(self.images), len(rows)]
                            for layer, rows in record["unitmem"].items()
                        },
                    }
                    for i, record in enumerate(levels)
                },
            }
            pictures["All_activations.json"] = manifest_text(index).encode()
        self.run_.summarise(base, levels, pictures)

    def trials(self, rows: Sequence[Record]) -> Trials:
        """What the page of the experiment says, from the metrics of its levels."""
        said = self.plan.described()
        return of_levels(
            f"{self.found.name}, {self.plan.method}",
            self.splits.name,
            rows,
            # Others are paths, or say what a level keeps.
            {name: said[name] for name in _TOLD},
        )

    def _stopped(self) -> None:
        if self.asked():
            raise StoppedError("stopped")


_TOLD = (
    *("dataset", "method", "measure_args", "ranking", "target", "schedule", "step", "levels"),
    *("final", "min_filters", "round_to", "ignore", "epochs", "lr", "batch_size", "recalibrate"),
    *("apply", "distill", "sparse", "seed"),
)
"""Of the plan's options, those on the page."""


class _Level(BasicPruning):
    """Prunes; channels that are masked already go first, whatever the measure says of them."""

    def __init__(self, *arguments: Any, gone: Kept | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.gone = gone
        self.known: Trace | None = None

    def analysis(self) -> Trace:
        if self.known is None:
            self.known = super().analysis()
        return self.known

    def scored(self, trace: Trace, units: Units) -> Scored:
        scored = super().scored(trace, units)
        if self.gone is None:
            return scored
        of_units = scored.units.copy()
        for axis in trace.graph.outputs():
            of_units[units.of(axis)[self.gone[axis.tensor][axis.dim]]] = -np.inf
        return dataclasses.replace(scored, units=of_units)


def _no_measure(**context: Any) -> Tensor | None:
    raise PrunerError("a level is analysed before its measure is known")


def _module(what: str, trained: object) -> nn.Module:
    if not isinstance(trained, nn.Module):
        raise PrunerError(
            f"{what}: its train returned a {type(trained).__name__}; expected the network, or None "
            f"where it was trained in place"
        )
    return trained


def _check_trained(what: str, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    """PrunerError where it is not the network that the trainer was given, with numbers in it."""
    for name in {**before, **after}:
        shapes = [tuple(s[name].shape) if name in s else "missing" for s in (before, after)]
        if shapes[0] != shapes[1]:
            raise PrunerError(
                f"{what}: after its train, {name} is {shapes[1]}, before {shapes[0]}; expected the "
                f"same keys and shapes: levels lose channels by --method alone"
            )
        if after[name].is_floating_point() and not bool(torch.isfinite(after[name]).all()):
            raise DivergedError(
                f"{what}: after its train, {name} is not finite; expected finite weights: try a "
                f"lower --lr"
            )


def _gone(model: nn.Module, kept: Kept) -> Kept:
    return {
        name: tuple(
            np.setdiff1d(np.arange(size, dtype=np.int64), stays)
            for size, stays in zip(tensor.shape, kept[name], strict=True)
        )
        for name, tensor in model.state_dict().items()
    }


def _composed(before: Kept, kept: Kept) -> dict[str, tuple[Indices, ...]]:
    """What stays now, in indices of the original network."""
    return {
        name: tuple(old[stays] for old, stays in zip(before[name], dims, strict=True))
        for name, dims in kept.items()
    }


def _followed(folder: Path, plan: Plan) -> tuple[float, ...]:
    """Percent of the target that was gone after each level of another experiment."""
    way_out = "expected the folder of a finished experiment"
    if not (folder / "experiment.json").is_file():
        raise PrunerError(f"--follow {folder}: holds no experiment; {way_out}")
    options = read_json(folder / "experiment.json", way_out).get("options", {})
    if options.get("method") not in UNITMEM_METHODS and options.get("method") != RANDOM:
        raise PrunerError(
            f"--follow {folder}: its method is {options.get('method')}; expected an experiment "
            f"with one of {', '.join(UNITMEM_METHODS)}"
        )
    levels = Run(folder).whole_levels(int(options.get("levels", 0)))
    if len(levels) < plan.levels:
        raise PrunerError(
            f"--follow {folder}: has {len(levels)} levels that are done; expected {plan.levels} or "
            f"more, or fewer --levels"
        )
    mine = plan.described()
    for name in ("request.arch", "request.depth", "request.arch_args", "target"):
        if options.get(name) != mine[name]:
            raise PrunerError(
                f"--follow {folder}: has {name.removeprefix('request.')} {options.get(name)}, not "
                f"{mine[name]}; expected the same in both"
            )
    return tuple(record["metrics"]["removed_pct"] for record in levels[: plan.levels])


def _saved(state: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save({name: dict(entries) for name, entries in state.items()}, buffer)
    return buffer.getvalue()


def _loaded(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return loaded


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


@contextmanager
def _silence() -> Iterator[None]:
    yield
