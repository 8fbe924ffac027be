"""`python app.py experiment`: the product of models, methods, measures, amounts, in one folder."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from pruners.commands.options import (
    AsJson,
    Calibrate,
    DataDir,
    Debug,
    Device,
    Download,
    Plots,
    Plugins,
    whole,
)
from pruners.errors import PrunerError
from pruners.experiments.grid import AMOUNTS_OF, Experiment
from pruners.experiments.results import in_order, table_of
from pruners.experiments.run import Finished, run_experiment
from pruners.experiments.trackers import TensorBoardTracker, Tracker, WandbTracker
from pruners.networks import json_object
from pruners.pages.of_job import check_plots, save_trial_plots
from pruners.pages.trials import of_cells
from pruners.plugins import load_plugins
from pruners.sampling import BATCHES
from pruners.screen import show
from pruners.tables import as_json, show_files

LISTS = ("--model-name", "--dataset", "--method-name", "--measure-name", "--amount", "--seed")
"""Take several values: `--amount 0.3 0.5`, `--amount 0.3,0.5` or `--amount 0.3 --amount 0.5`."""


class ListsCommand(TyperCommand):
    """A command whose `LISTS` take all words up to the next option, as argparse's lists do."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, spread(args))


def spread(arguments: Sequence[str]) -> list[str]:
    """`--amount 0.3 0.5` as `--amount 0.3 --amount 0.5`; other options are left as they are."""
    result: list[str] = []
    option: str | None = None
    for word in arguments:
        if word.startswith("--"):
            option = word if word in LISTS else None
            result.append(word)
        elif option is not None and result[-1] != option:
            result += [option, word]
        else:
            result.append(word)
    return result


def _several(about: str, option: str, metavar: str) -> Any:
    return typer.Option(option, metavar=f"{metavar} ...", help=about)


def experiment_command(
    ctx: typer.Context,
    model_name: Annotated[
        list[str] | None, _several("Registered networks: ResNet20, TwoLayerMLP.", LISTS[0], "NAME")
    ] = None,
    dataset: Annotated[
        list[str] | None,
        _several("To test and train on; usually what the weights know.", LISTS[1], "NAME"),
    ] = None,
    method_name: Annotated[
        list[str] | None, _several("Global, Local, ... (--list); usually Global.", LISTS[2], "NAME")
    ] = None,
    measure_name: Annotated[
        list[str] | None,
        _several("How channels are scored (--list); usually ChannelNorm.", LISTS[3], "NAME"),
    ] = None,
    measure_args: Annotated[
        str | None,
        typer.Option(metavar="JSON", help='By measure: \'{"ChannelNorm": {"p": 2}}\'.'),
    ] = None,
    amount: Annotated[
        list[str] | None,
        _several("Shares that go, 0 to below 1; usually 0.3, 0.5, 0.7.", LISTS[4], "SHARE"),
    ] = None,
    target: Annotated[
        str, typer.Option(help=f"What amounts are shares of: {', '.join(AMOUNTS_OF)}.")
    ] = "params",
    seed: Annotated[list[str] | None, _several("Of all random numbers.", LISTS[5], "INT")] = None,
    recalibrate: Annotated[
        int, whole("--recalibrate", 0, "Batches of 64 images for batch norms; 0 for none.")
    ] = BATCHES,
    finetune_epochs: Annotated[
        int, whole("--finetune-epochs", 0, "Train every pruned network.")
    ] = 0,
    calibrate: Calibrate = BATCHES,
    out_path: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of the cells, the table, the plot.")
    ] = Path("experiment"),
    keep_files: Annotated[
        bool, typer.Option("--keep-files", help="Source and weights of every cell, verified.")
    ] = False,
    wandb: Annotated[
        str | None, typer.Option(metavar="PROJECT", help="Log to Weights & Biases.")
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Log to DIR/tensorboard.")
    ] = False,
    plots: Plots = None,
    plugin: Plugins = None,
    data_dir: DataDir = Path("data"),
    download: Download = False,
    device: Device = "cpu",
    json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Prune many ways and compare: runs the product of the lists, and goes on where it stopped."""
    with redirect_stdout(sys.stderr):
        load_plugins(plugin or ())
        if model_name is None:
            raise PrunerError(
                "--model-name: missing; expected registered networks, such as --model-name "
                "TwoLayerMLP ThreeLayerMLP"
            )
        experiment = Experiment(
            models=_listed(LISTS[0], model_name, ()),
            measures=_listed(LISTS[3], measure_name, ("ChannelNorm",)),
            methods=_listed(LISTS[2], method_name, ("Global",)),
            amounts=[_share(text) for text in _listed(LISTS[4], amount, ("0.3", "0.5", "0.7"))],
            datasets=_listed(LISTS[1], dataset, ()) if dataset else (),
            seeds=[_whole(text) for text in _listed(LISTS[5], seed, ("0",))],
            measure_args=_arguments(measure_args),
            target=target,  # type: ignore[arg-type]
            recalibrate=recalibrate,
            finetune_epochs=finetune_epochs,
            calibrate=calibrate,
            device=device,
        )
        experiment.check()
        if plots is not None:
            check_plots(plots)
        trackers: list[Tracker] = []
        if wandb is not None:
            trackers.append(WandbTracker(wandb, out_path))
        if tensorboard:
            trackers.append(TensorBoardTracker(out_path / "tensorboard"))
        finished = run_experiment(
            experiment,
            out_path,
            keep_files=keep_files,
            trackers=trackers,
            data_dir=data_dir,
            download=download,
            progress=True,
            written=ctx.obj,
        )
        if plots is not None:
            save_trial_plots(of_cells(in_order(finished.cells)), plots)
    errors = [cell.error for cell in finished.cells if cell.error]
    if json:
        print(as_json(_described(finished)))
    else:
        show(table_of(finished.cells))
        print()
        show_files(_files(finished))
    if len(errors) == len(finished.cells):
        raise PrunerError(f"no cell has figures; the first failed: {errors[0]}")


def _listed(option: str, given: Sequence[str] | None, default: Sequence[str]) -> list[str]:
    """The values of a list option, however they were separated."""
    if given is None:
        return list(default)
    values = [part.strip() for text in given for part in re.split(r"[,\s]+", text) if part.strip()]
    if not values:
        raise PrunerError(f"{option}: the list is empty; expected at least one")
    return values


def _share(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise PrunerError(
            f"--amount {text}: expected a share of at least 0 and below 1, such as 0.3 for 30 "
            f"percent"
        ) from None


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise PrunerError(f"--seed {text}: expected a whole number of at least 0") from None


def _arguments(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    return json_object("--measure-args", text, '{"ChannelNorm": {"p": 2}}')


def _files(finished: Finished) -> dict[str, tuple[str, str]]:
    about = {
        ".csv": "all figures, a row a cell",
        ".svg": "accuracy over amount, a line a measure",
        ".png": "the same",
        ".html": "accuracy over size, who is on the Pareto front: open it in a browser",
    }
    return {path.suffix[1:]: (str(path), about[path.suffix]) for path in finished.files}


def _described(finished: Finished) -> dict[str, Any]:
    return {
        "cells": [cell.described() for cell in finished.cells],
        "files": {kind: path for kind, (path, _) in _files(finished).items()},
    }
