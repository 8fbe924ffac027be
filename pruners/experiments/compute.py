"""One cell: a network pruned as its setting says, compared with its oracle, tested on images."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import nn

from pruners.base import BasicPruning, PruningResult
from pruners.calibration import Calibration
from pruners.channel_graph import Units
from pruners.datasets import DataSplits
from pruners.errors import PrunerError
from pruners.evaluation import Evaluation, evaluate
from pruners.experiments.cells import Cell, made_by
from pruners.experiments.grid import Setting
from pruners.job import Stages
from pruners.mlp_rank import share_of_neurons
from pruners.networks import Network
from pruners.recalibration import recalibrate
from pruners.sampling import sample
from pruners.scoring import Scored
from pruners.tracing import Trace
from pruners.training import train
from pruners.verify import Outcome
from pruners.zoo import network_for, splits_for


def interrupted(error: BaseException) -> bool:
    """Whether an exception is what became of Ctrl-C, which must not pass for a result."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, KeyboardInterrupt):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


Scores = dict[tuple[str, bytes], Scored]
"""By measure and partition into units: the same for all amounts and methods."""


class _Pruning(BasicPruning):
    """Scores a network once for a measure; cells that differ in amount or method share that."""

    known: Scores
    """Of the same network, example inputs, calibration data and seed."""

    def scored(self, trace: Trace, units: Units) -> Scored:
        options = self.options
        measure = json.dumps([options.measure, options.measure_args], sort_keys=True)
        key = measure, units.unit_of.tobytes()
        if key not in self.known:
            self.known[key] = super().scored(trace, units)
        return self.known[key]


@dataclass
class Bench:
    """What cells share: datasets, and the network of the model, dataset and seed at work.

    Attributes:
        device: such as `cuda:1`.
        data_dir, download: as for `load_dataset`.
        files: the folder that source, manifest and weights of every cell go to; None for figures
            alone.
    """

    device: str = "cpu"
    data_dir: Path | None = None
    download: bool = False
    files: Path | None = None
    _splits: dict[tuple[str, str], DataSplits] = field(default_factory=dict)
    _network: tuple[tuple[str, str, int, int], Network, Evaluation] | None = None
    _scores: Scores = field(default_factory=dict)

    def splits(self, model: str, dataset: str) -> DataSplits:
        """The dataset as the model takes it; PrunerError where it is not to be had."""
        found = self._splits.get((model, dataset))
        if found is None:
            found = splits_for(model, dataset, self.data_dir, self.download)
            for other in self._splits.values():  # most models take the same images
                if (other.name, other.input_shape) == (found.name, found.input_shape):
                    found = other
            self._splits[model, dataset] = found
        return found

    def network(self, setting: Setting) -> tuple[Network, Evaluation]:
        """The network before pruning, and its figures."""
        wanted = setting.model, setting.dataset, setting.seed, setting.calibrate
        if self._network is None or self._network[0] != wanted:
            self._network, self._scores = None, {}  # two large ones need not lie side by side
            splits = self.splits(setting.model, setting.dataset)
            network = network_for(setting.model, splits, seed=setting.seed, device=self.device)
            figures = evaluate(network.model, splits.test, network.examples(setting.seed)[0])
            self._network = wanted, network, figures
        return self._network[1], self._network[2]

    def cell(self, setting: Setting) -> Cell:
        """The finished cell; one that the user could mend (an amount out of reach) says so.

        Raises:
            PrunerError: there is no such dataset, or files cannot be written.
            VerificationError: the pruned network is not equal to its oracle.
        """
        self.splits(setting.model, setting.dataset)
        made = made_by(setting)
        try:
            network, before = self.network(setting)
            result = self._pruned(setting, network)
            outcome = result.compared()
            stages, tuned = self._stages(setting, before, result)
        except PrunerError as error:
            if interrupted(error):
                raise KeyboardInterrupt from error
            return Cell(setting, made, "", error=" ".join(str(error).split()))
        if self.files is not None:
            outcome = result.verified()
        return Cell(
            setting,
            made,
            network.weights,
            stages.described(),
            verification=outcome.described(),
            warnings=result.report.warnings,
            files=self._kept(setting, result, outcome, stages, tuned),
        )

    def _pruned(self, setting: Setting, network: Network) -> PruningResult:
        splits = self.splits(setting.model, setting.dataset)
        examples = network.examples(setting.seed)
        options = setting.options()
        if setting.target == "neurons":
            share = share_of_neurons(network.model, examples, setting.amount, setting.method)
            options = replace(options, **share)
        percent = f"{round(100 * setting.amount, 10):g}".replace(".", "_").replace("-", "_")
        pruning = _Pruning(
            network.model,
            examples,
            options,
            fileName=f"{setting.model.lower()}_{percent}",
            netName=setting.model,
            calibration=Calibration(sample(splits, setting.calibrate, setting.seed)),
        )
        pruning.known = self._scores
        return pruning.run()

    def _stages(
        self, setting: Setting, before: Evaluation, result: PruningResult
    ) -> tuple[Stages, nn.Module | None]:
        """The figures of every stage, and the network of the last one where it has new weights."""
        splits = self.splits(setting.model, setting.dataset)
        examples = result.pruning.example_inputs

        def tested(model: nn.Module) -> Evaluation:
            return evaluate(model, splits.test, examples)

        stages = Stages(splits.name, before, tested(result.model))
        tuned = copy.deepcopy(result.model)
        batches = sample(splits, setting.recalibrate, setting.seed)
        if setting.recalibrate and recalibrate(tuned, batches):
            stages = replace(stages, recalibrated=tested(tuned))
        if setting.finetune_epochs:
            train(tuned, splits, setting.finetune_epochs, seed=setting.seed)
            stages = replace(stages, finetuned=tested(tuned))
        changed = stages.recalibrated is not None or stages.finetuned is not None
        return stages, tuned if changed else None

    def _kept(
        self,
        setting: Setting,
        result: PruningResult,
        outcome: Outcome,
        stages: Stages,
        tuned: nn.Module | None,
    ) -> tuple[str, ...]:
        """The files of the cell, where they are to be kept, relative to the experiment's folder."""
        if self.files is None:
            return ()
        folder = self.files / setting.key
        extra: Mapping[str, object] = {"evaluation": stages.described()}
        states = [result.state_dict, *([] if tuned is None else [tuned.state_dict()])]
        saved = [result.save_weights(s, folder, folder, outcome, extra) for s in states]
        paths = [saved[-1].source, saved[-1].manifest, *(s.weights for s in saved)]
        paths += [s.stored.manifest_path for s in saved]
        return tuple(path.relative_to(self.files.parent).as_posix() for path in paths)
