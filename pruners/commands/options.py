"""The options that commands share, and what they are turned into."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from pruners.architectures import ARCHITECTURES
from pruners.base import Options
from pruners.errors import PrunerError
from pruners.networks import Request, json_object
from pruners.recipe import FROM_SCRATCH, OPTIMIZERS, Recipe, checked


def whole(option: str, least: int, about: str) -> Any:
    """An option that is a whole number; what typer says of other values does not name them."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        # Random number generators take no more than 64 bits.
        if not least <= value < 2**63:
            raise PrunerError(f"{option} {text}: expected a whole number of at least {least}")
        return value

    return typer.Option(parser=parse, metavar="INTEGER", help=about)


def number(option: str, field: str, about: str) -> Any:
    """An option that is a number in the range of this field of a recipe."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        return checked(field, value, f"{option} {text}")

    return typer.Option(parser=parse, metavar="NUMBER", help=about)


def plain_number(option: str, about: str) -> Any:
    """An option that is a number; its range is checked with the other options."""

    def parse(text: str) -> float:
        try:
            return float(text)
        except ValueError:
            raise PrunerError(f"{option} {text}: expected a number") from None

    return typer.Option(parser=parse, metavar="NUMBER", help=about)


def percentage(text: str) -> float:
    """A number; whether it is a percentage is checked with the other options."""
    try:
        return float(text)
    except ValueError:
        raise PrunerError(
            f"--prune-pct {text}: expected a percentage of at least 0 and below 100"
        ) from None


def share(option: str) -> Any:
    """A parser of a number; whether it is a share is checked with the other options."""

    def parse(text: str) -> float:
        try:
            return float(text)
        except ValueError:
            raise PrunerError(f"{option} {text}: expected a number from 0 to 1, as 0.8") from None

    return parse


Arch = Annotated[
    str | None,
    typer.Option(
        metavar="ARCH",
        help="A family of the zoo (--list), torchvision:NAME, timm:NAME, or FILE.py:CLASS.",
    ),
]
Depth = Annotated[int | None, whole("--depth", 1, "Which member of the family.")]
ArchArgs = Annotated[
    str | None,
    typer.Option(metavar="JSON", help="Arguments of the class in FILE.py, or of NAME."),
]
Weights = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="DEFAULT, or others of torchvision's or timm's own."),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Weights: .pth or .pt (no code is run), or .safetensors."),
]
InputShape = Annotated[
    str | None, typer.Option(metavar="C,H,W", help="Of one example, such as 3,32,32.")
]
NumClasses = Annotated[int | None, whole("--num-classes", 1, "Outputs of the network.")]
DatasetName = Annotated[
    str | None, typer.Option("--dataset", metavar="NAME", help="To test and train on (--list).")
]
DataDir = Annotated[Path, typer.Option(metavar="DIR", help="Where datasets lie.")]
Download = Annotated[bool, typer.Option("--download", help="Fetch a dataset that is missing.")]
Seed = Annotated[int, whole("--seed", 0, "Of all random numbers.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")]
PrunePct = Annotated[
    float,
    typer.Option(parser=percentage, metavar="PERCENT", help="How much goes: 0 to below 100."),
]
TargetName = Annotated[str, typer.Option("--target", help="Percent of params, macs or channels.")]
Measure = Annotated[str, typer.Option(help="How channels are scored (--list).")]
MeasureArgs = Annotated[
    str | None, typer.Option(metavar="JSON", help="Arguments of the measure: '{\"p\": 2}'.")
]
Method = Annotated[str, typer.Option(help="Ranked Global, Local or Isomorphic (--list).")]
Normalizer = Annotated[
    str | None, typer.Option(help="Scores of layers over their mean, sum, max, ...; or none.")
]
AggregateName = Annotated[
    str, typer.Option("--aggregate", help="Of coupled layers: mean, sum, max or product.")
]
MaxRatio = Annotated[
    float | None,
    typer.Option(
        parser=share("--max-ratio"), metavar="SHARE", help="No layer loses more; usually 0.9."
    ),
]
Ratio = Annotated[
    list[str] | None,
    typer.Option(metavar="GLOB=SHARE", help="What layers lose in any case; repeatable."),
]
Calibrate = Annotated[
    int, whole("--calibrate", 1, "Batches of 64 training images for the measure.")
]
Recalibrate = Annotated[
    int | None, whole("--recalibrate", 0, "Batches of 64 images for batch norms; 0 for none.")
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE.py",
        help="Registers measures, methods, datasets or models; repeatable.",
    ),
]
MinFilters = Annotated[int, whole("--min-filters", 1, "No layer becomes narrower.")]
RoundTo = Annotated[int, whole("--round-to", 1, "Widths become multiples of this.")]
Ignore = Annotated[
    list[str] | None,
    typer.Option(metavar="GLOB", help="Layers that keep their outputs; repeatable."),
]
ExactOnly = Annotated[
    bool,
    typer.Option("--exact-only", help="Keep channels that a norm over channels counts."),
]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Folder of the model file and manifest.")]
StoreDir = Annotated[
    Path,
    typer.Option(metavar="DIR", help="Of the model store: pruned/, quantized/ and final/."),
]
WeightsOut = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder of the weights, in place of pruned/."),
]
Optimizer = Annotated[
    str, typer.Option(metavar="NAME", help=f"How to step: {' or '.join(OPTIMIZERS)}.")
]
Epochs = Annotated[int, whole("--epochs", 1, "Passes over the training images.")]
BatchSize = Annotated[int, whole("--batch-size", 1, "Images a step, of each process.")]
Momentum = Annotated[float, number("--momentum", "momentum", "Of SGD; AdamW's first beta.")]
LabelSmoothing = Annotated[
    float,
    number("--label-smoothing", "label_smoothing", "Probability spread over all classes."),
]
Amp = Annotated[
    bool | None,
    typer.Option("--amp/--no-amp", help="Mixed precision; by default on a GPU only."),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on where an interrupted run of this command stopped.")
]
Report = Annotated[
    bool,
    typer.Option("--report/--no-report", help="A page that shows what was done: OUT/NAME.html."),
]
Latency = Annotated[
    bool,
    typer.Option("--latency", help="Measure that of one image, for the page."),
]
Plots = Annotated[
    Path | None,
    typer.Option("--plots", metavar="DIR", help="Every chart of the page as PNG and SVG."),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

SELECTION = (
    "prune_pct",
    "target",
    "measure",
    "measure_args",
    "method",
    "normalizer",
    "aggregate",
    "max_ratio",
    "ratio",
    "min_filters",
    "round_to",
    "ignore",
    "exact_only",
)
"""The parameters of a command that say what is pruned."""


def options_of(ctx: typer.Context) -> Options:
    """What a command's options say of selection; each is named as the field is.

    Raises:
        PrunerError: `--measure-args` is no JSON object, or a `--ratio` no pair.
    """
    given = ctx.params
    options = Options(
        **{name: given[name] for name in SELECTION if name not in ("measure_args", "ratio")}
        | {"ignore": tuple(given["ignore"] or ())},
        measure_args=measure_args_of(given["measure_args"]),
        # Pairs, in the order that was given: of several that match a layer, the last one holds.
        ratio=tuple(_ratio(text) for text in given["ratio"] or ()),
        seed=given["seed"],
    )
    options.check()
    return options


def request_of(ctx: typer.Context) -> Request:
    """What a command's options say of the network; each is named as the field is."""
    fields = dataclasses.fields(Request)
    named = {field.name: ctx.params[field.name] for field in fields if field.name in ctx.params}
    return Request(**{**named, "arch": given(ctx.params["arch"])})


def _ratio(text: str) -> tuple[str, float]:
    glob, equals, number = text.rpartition("=")
    try:
        if not equals or not glob:
            raise ValueError
        return glob, float(number)
    except ValueError:
        raise PrunerError(f"--ratio {text}: expected GLOB=SHARE, such as 'layer3.*=0.7'") from None


def measure_args_of(text: str | None) -> dict[str, Any]:
    """The JSON object of `--measure-args`; empty where there is none."""
    return {} if text is None else json_object("--measure-args", text, '{"p": 2}')


def recipe_of(
    epochs: int,
    optimizer: str,
    lr: float | None,
    weight_decay: float | None,
    momentum: float,
    label_smoothing: float,
    batch_size: int,
    amp: bool | None,
    seed: int,
) -> Recipe:
    """The recipe; where no learning rate or weight decay is given, the optimizer's usual one."""
    usual_lr, usual_decay = FROM_SCRATCH.get(optimizer, (Recipe.lr, Recipe.weight_decay))
    return Recipe(
        epochs,
        optimizer,
        usual_lr if lr is None else lr,
        batch_size,
        momentum,
        usual_decay if weight_decay is None else weight_decay,
        label_smoothing,
        seed,
        amp,
    )


def given(arch: str | None) -> str:
    if arch is None:
        raise PrunerError(
            f"--arch: missing; expected {', '.join(ARCHITECTURES)}, "
            f"torchvision:NAME, timm:NAME or FILE.py:CLASS; "
            f"`python app.py --list` shows all"
        )
    return arch


def refuse_options(ctx: typer.Context) -> None:
    """Options before the name of a subcommand would have no effect."""
    names = [name for name in ctx.params if name != "debug"]
    refuse_given(ctx, names, f"put it after {ctx.invoked_subcommand}")


def refuse_given(ctx: typer.Context, names: Sequence[str], why: str) -> None:
    """PrunerError where one of these parameters was given on the command line."""
    for name in names:
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise PrunerError(f"--{name.replace('_', '-')}: {why}")
