"""What an experiment is: lists, and what holds for all of them; its cells are their product."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any, Literal

from pruners.base import Options
from pruners.errors import PrunerError, did_you_mean
from pruners.measure_args import by_measure, named
from pruners.methods import TARGETS
from pruners.networks import checked_device
from pruners.registry import MLP_MODEL, SCORING_MEASURES, dataset_named
from pruners.sampling import BATCHES
from pruners.zoo import dataset_of, model_named

AmountOf = Literal["params", "macs", "channels", "neurons"]
AMOUNTS_OF: Mapping[str, str] = {
    **{str(name): what for name, what in TARGETS.items()},
    "neurons": "hidden neurons",
}
"""What an amount is a share of: a budget's targets; of perceptrons also neurons, as `prune_mlp`."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One cell: all that its figures depend on, but for the versions of code and weights."""

    model: str
    dataset: str
    method: str
    measure: str
    measure_args: Mapping[str, Any]
    target: AmountOf
    amount: float
    seed: int
    recalibrate: int
    finetune_epochs: int
    calibrate: int
    device: str
    """`cpu` or `cuda`; which of several makes no difference."""

    @property
    def key(self) -> str:
        """A file's stem that a person can read; its digest tells all settings apart."""
        words = (self.model, self.dataset, self.method, self.measure, f"{self.amount:g}", self.seed)
        plain = [re.sub(r"[^A-Za-z0-9_.]+", "_", str(word)) for word in words]
        return f"{'-'.join(plain)[:100]}-{self.digest}"

    @property
    def digest(self) -> str:
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    @property
    def scored_by(self) -> str:
        """The measure with its arguments: `ChannelNorm (p=2)`."""
        return f"{self.measure} ({arguments})" if (arguments := self.arguments) else self.measure

    @property
    def arguments(self) -> str:
        """Those of the measure: `p=2`."""
        return ", ".join(f"{name}={value}" for name, value in sorted(self.measure_args.items()))

    def options(self) -> Options:
        """As `prune` takes them; a share of neurons is one of the channels until it is known."""
        return Options(
            prune_pct=round(100 * self.amount, 10),
            target="channels" if self.target == "neurons" else self.target,
            measure=self.measure,
            measure_args=self.measure_args,
            method=self.method,
            seed=self.seed,
        )


@dataclass(frozen=True, slots=True)
class Experiment:
    """The product of lists.

        Experiment(["TwoLayerMLP"], measures=["ChannelNorm", "Taylor"], amounts=[0.3, 0.5])

    Attributes:
        models: keys of `pruners.MODELS`.
        measures, methods: keys of `pruners.SCORING_MEASURES` and `pruners.PRUNING_METHODS`.
        amounts: shares of the target that go, from 0 to below 1.
        datasets: keys of `pruners.DATASETS`; none for the one that the weights of each model were
            trained on. On others the network starts with random weights.
        seeds: of calibration and training images, of measures that draw, of random weights.
        measure_args: arguments by measure, `{"ChannelNorm": {"p": 2}}`, or a list of several,
            `{"ChannelNorm": [{"p": 1}, {"p": 2}]}`; without the name where there is one measure.
        target: what amounts are shares of: "params", "macs" or "channels" as for `prune`, or
            "neurons" as for `prune_mlp`.
        recalibrate: batches of training images for batch norms after pruning; 0 for none.
        finetune_epochs: of training after that.
        calibrate: batches of training images for measures of activations or gradients.
        device: where networks run.
    """

    models: Sequence[str]
    measures: Sequence[str] = ("ChannelNorm",)
    methods: Sequence[str] = ("Global",)
    amounts: Sequence[float] = (0.3, 0.5, 0.7)
    datasets: Sequence[str] = ()
    seeds: Sequence[int] = (0,)
    measure_args: Mapping[str, Any] = field(default_factory=dict)
    target: AmountOf = "params"
    recalibrate: int = BATCHES
    finetune_epochs: int = 0
    calibrate: int = BATCHES
    device: str = "cpu"

    def settings(self) -> list[Setting]:
        """Its cells, each once; those of one model, dataset and seed one after the other."""
        arguments = by_measure(self.measures, self.measure_args)
        device = checked_device(self.device).type
        cells = [
            Setting(
                model=model,
                dataset=dataset,
                method=method,
                measure=measure,
                measure_args=args,
                target=self.target,
                amount=float(amount),
                seed=seed,
                recalibrate=self.recalibrate,
                finetune_epochs=self.finetune_epochs,
                calibrate=self.calibrate,
                device=device,
            )
            for model in self.models
            for dataset in self.datasets or [dataset_of(model)]
            for seed, method, measure in product(self.seeds, self.methods, self.measures)
            for args, amount in product(arguments[measure], self.amounts)
        ]
        return list({setting.key: setting for setting in cells}.values())

    def described(self) -> dict[str, Any]:
        """Plain values, as they are stored."""
        lists = {name: list(getattr(self, name)) for name in _LISTS}
        described: dict[str, Any] = json.loads(json.dumps({**asdict(self), **lists}))
        return described

    def check(self) -> None:
        """PrunerError for what would otherwise fail only after long work."""
        for name, option in _LISTS.items():
            values = getattr(self, name)
            if isinstance(values, str) or not isinstance(values, Sequence):
                raise PrunerError(f"{name} {values!r}: expected a list, such as [{values!r}]")
            if not values and name != "datasets":
                raise PrunerError(f"{option}: the list is empty; expected at least one")
        for dataset in self.datasets:
            dataset_named(dataset)
        for model in self.models:
            model_named(model)
        for amount in self.amounts:
            # Also refuses NaN.
            if not isinstance(amount, int | float) or not 0 <= amount < 1:
                raise PrunerError(
                    f"--amount {amount}: expected a share of at least 0 and below 1, such as 0.3 "
                    f"for 30 percent"
                )
        if self.target not in AMOUNTS_OF:
            raise PrunerError(
                f"--target {self.target}: unknown{did_you_mean(self.target, AMOUNTS_OF)}; expected "
                f"one of {', '.join(AMOUNTS_OF)}"
            )
        for model in self.models if self.target == "neurons" else ():
            if model not in MLP_MODEL:
                raise PrunerError(
                    f"--target neurons: {model} is no multilayer perceptron; expected --target "
                    f"channels, or one of {', '.join(MLP_MODEL)}"
                )
        self._check_numbers()
        for measure in named(self.measure_args):
            if measure in SCORING_MEASURES and measure not in self.measures:
                raise PrunerError(
                    f"--measure-args: {measure} is not in the list of measures "
                    f"({', '.join(self.measures)}); add --measure-name {measure}, or leave its "
                    f"arguments out"
                )
        try:
            json.dumps(self.measure_args)
        except (TypeError, ValueError) as error:
            raise PrunerError(
                f"--measure-args: cannot be stored ({error}); expected plain values"
            ) from error
        for setting in self.settings():
            setting.options().check()

    def _check_numbers(self) -> None:
        for option, values, least in (
            ("--seed", self.seeds, 0),
            ("--recalibrate", [self.recalibrate], 0),
            ("--finetune-epochs", [self.finetune_epochs], 0),
            ("--calibrate", [self.calibrate], 1),
        ):
            for value in values:
                if not isinstance(value, int) or not least <= value < 2**63:
                    raise PrunerError(
                        f"{option} {value}: expected a whole number of at least {least}"
                    )


_LISTS = {
    "models": "--model-name",
    "measures": "--measure-name",
    "methods": "--method-name",
    "amounts": "--amount",
    "datasets": "--dataset",
    "seeds": "--seed",
}
"""The fields that are lists, and their options."""
