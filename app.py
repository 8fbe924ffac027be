"""The command line.

python app.py --arch resnet --prune-pct 50          a slimmer network, as source
python app.py demo                                  the same, fine-tuned and measured
python app.py train --arch resnet --out FILE        weights to prune
python app.py graph --arch resnet                   which channels go together
python app.py diff --arch resnet                    original and generated source, side by side
python app.py write --arch FILE.py:FUNCTION         source of a network pruned elsewhere
python app.py --list                                everything on offer
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Importing torch takes seconds, and Ctrl-C in the middle of it has nothing to clean up.
    signal.signal(
        signal.SIGINT,
        lambda *_: (os.write(2, b"interrupted; nothing was written\n"), os._exit(130)),
    )

import typer
from safetensors.torch import save as safetensors_bytes

import models  # noqa: F401  registers the zoo
from pruners import (
    BasicPruning,
    Options,
    PrunerError,
    VerificationError,
    __version__,
    analysis,
)
from pruners.alexnet import AlexNetPruning
from pruners.analysis import analyse
from pruners.demo import measure as measure_demo
from pruners.demo import table_of
from pruners.densenet import DenseNetPruning
from pruners.drawing import check_format, picture
from pruners.errors import did_you_mean
from pruners.googlenet import GoogLeNetPruning
from pruners.job import SHIPPED_DATASET, Data, Job, noted, run_job
from pruners.libraries import is_library_network
from pruners.mnasnet import MNASNetPruning
from pruners.mobilenetv2 import MobileNetV2Pruning
from pruners.networks import Request, find_network, is_file, unpickled_network
from pruners.progress import note, stage
from pruners.report import unknown_operators
from pruners.resnet import ResNetPruning
from pruners.se_resnet import SEResNetPruning
from pruners.shufflenetv2 import ShuffleNetV2Pruning
from pruners.side_by_side import compared, read_generated
from pruners.side_by_side import show as show_compared
from pruners.squeezenet import SqueezeNetPruning
from pruners.store import check_writable, commit, save_bytes
from pruners.tables import (
    as_json,
    described,
    described_written,
    files_of,
    offer,
    show,
    show_files,
    show_groups,
    show_offer,
    show_result,
    show_written,
)
from pruners.training import accuracy, train
from pruners.vgg import VGGPruning
from pruners.write_source import write_source
from pruners.written import checked_name

ARCHITECTURES: dict[str, type[BasicPruning]] = {
    "resnet": ResNetPruning,
    "alexnet": AlexNetPruning,
    "mobilenetv2": MobileNetV2Pruning,
    "squeezenet": SqueezeNetPruning,
    "squeezenet1_0": SqueezeNetPruning,
    "vgg": VGGPruning,
    "mnasnet": MNASNetPruning,
    "googlenet": GoogLeNetPruning,
    "se_resnet": SEResNetPruning,
    "densenet": DenseNetPruning,
    "shufflenetv2": ShuffleNetV2Pruning,
}
"""The pruner class of every family of the zoo."""

# Newer versions of typer bring their own copy of click.
UsageError: type[Any] = typer.BadParameter.__bases__[0]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


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


def percentage(text: str) -> float:
    """A number; whether it is a percentage is checked with the other options."""
    try:
        return float(text)
    except ValueError:
        raise PrunerError(
            f"--prune-pct {text}: expected a percentage of at least 0 and below 100"
        ) from None


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
Measure = Annotated[str, typer.Option(help="How channels are scored.")]
Method = Annotated[str, typer.Option(help="Ranked Global or Local.")]
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
WeightsOut = Annotated[Path, typer.Option(metavar="DIR", help="Folder of the weights.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def setup_pruner(arch: str) -> type[BasicPruning]:
    """The pruner class of an architecture, whose own one only a family of the zoo has.

    Raises:
        PrunerError: there is no such family; the message offers near names.
    """
    if is_file(arch) or is_library_network(arch):
        return BasicPruning
    if arch not in ARCHITECTURES:
        raise PrunerError(
            f"--arch {arch}: unknown{did_you_mean(arch, ARCHITECTURES) or ';'} "
            f"`python app.py --list` shows all"
        )
    return ARCHITECTURES[arch]


@app.callback(invoke_without_command=True)
def prune_command(
    ctx: typer.Context,
    arch: Arch = None,
    depth: Depth = None,
    arch_args: ArchArgs = None,
    weights: Weights = None,
    checkpoint: Checkpoint = None,
    input_shape: InputShape = None,
    num_classes: NumClasses = None,
    dataset: DatasetName = None,
    data_dir: DataDir = Path("data"),
    download: Download = False,
    prune_pct: PrunePct = 50,
    target: TargetName = "params",
    measure: Measure = "ChannelNorm",
    method: Method = "Global",
    min_filters: MinFilters = 2,
    round_to: RoundTo = 1,
    ignore: Ignore = None,
    exact_only: ExactOnly = False,
    finetune_epochs: Annotated[
        int, whole("--finetune-epochs", 0, "Train the pruned network on the dataset.")
    ] = 0,
    out: Out = Path("generated"),
    weights_out: WeightsOut = Path("models/pruned"),
    name: Annotated[str, typer.Option(help="Stem of the files, such as resnet20_50.")] = "",
    seed: Seed = 0,
    device: Device = "cpu",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Compute everything, write nothing.")
    ] = False,
    check_decorators: Annotated[
        bool,
        typer.Option("--check-decorators", help="Hold the decorators against a run; do no more."),
    ] = False,
    json: AsJson = False,
    listing: Annotated[bool, typer.Option("--list", help="Show everything on offer.")] = False,
    debug: Debug = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Remove whole channels from a network; write the slimmer network as source code."""
    if ctx.invoked_subcommand is not None:
        return _refuse_options(ctx)
    if version:
        return print(f"pruners {__version__}")
    if listing:
        return print(as_json(offer())) if json else show_offer()
    job = Job(
        Request(
            _given(arch),
            depth,
            arch_args,
            input_shape,
            num_classes,
            checkpoint,
            seed,
            device,
            weights,
        ),
        _options(
            prune_pct, target, measure, method, min_filters, round_to, ignore, seed, exact_only
        ),
        Data(dataset, data_dir, download) if dataset is not None else None,
        finetune_epochs,
        out,
        weights_out,
        name,
        dry_run,
    )
    if check_decorators:
        return _check_decorators(job)
    # A user's network may print.
    with redirect_stdout(sys.stderr):
        finished = run_job(job, setup_pruner(job.request.arch), ctx.obj)
    if json:
        return print(as_json(described(finished)))
    show_result(finished)
    if dry_run:
        note("dry run: nothing was written")
    return None


def _options(
    prune_pct: float,
    target: str,
    measure: str,
    method: str,
    min_filters: int,
    round_to: int,
    ignore: list[str] | None,
    seed: int,
    exact_only: bool,
) -> Options:
    return Options(
        prune_pct,
        target,  # type: ignore[arg-type]  # unchecked text, until the budget is made
        measure,
        method,
        min_filters,
        round_to,
        tuple(ignore or ()),
        seed,
        exact_only,
    )


def _check_decorators(job: Job) -> None:
    """Print whether what the decorators say and what a run shows are the same."""
    setup_pruner(job.request.arch)
    with redirect_stdout(sys.stderr):
        splits = job.data.load(job.request.input_shape) if job.data is not None else None
        network = find_network(job.request, splits, shipped=False)
        inputs = network.example_inputs(job.options.seed)
        count, lines = analysis.check_decorators(network.model, inputs)
    if lines:
        print("\n".join(lines))
        differ = sum(not line.startswith(" ") for line in lines)
        raise PrunerError(
            f"{network.name}: decorators and trace differ on {differ} axes; correct the "
            f"decorators, or leave them out"
        )
    blocks = f"{count} decorated block{'s' if count > 1 else ''}"
    print(f"{network.name}: {blocks if count else 'no decorated blocks'}", end="")
    print("; decorators and trace agree" if count else "; the trace alone finds what goes together")


@app.command("demo")
def demo_command(
    ctx: typer.Context,
    epochs: Annotated[int, whole("--epochs", 1, "To fine-tune.")] = 4,
    out: Out = Path("generated"),
    weights_out: WeightsOut = Path("models/pruned"),
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Prune ResNet-20 by half, fine-tune it on real digits, and measure it at every stage."""
    job = Job(
        Request("resnet", depth=20, seed=seed),
        Options(prune_pct=50, seed=seed),
        Data(SHIPPED_DATASET),
        epochs,
        out,
        weights_out,
    )
    with redirect_stdout(sys.stderr):
        finished = run_job(job, setup_pruner("resnet"), ctx.obj)
        with stage("measuring latency"):
            rows = measure_demo(finished)
    show(table_of(rows))
    print()
    show_files(files_of(finished))


@app.command("train")
def train_command(
    ctx: typer.Context,
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="Where the weights go: .safetensors or .pth.")
    ],
    arch: Arch = None,
    depth: Depth = None,
    arch_args: ArchArgs = None,
    weights: Weights = None,
    checkpoint: Checkpoint = None,
    input_shape: InputShape = None,
    num_classes: NumClasses = None,
    dataset: DatasetName = SHIPPED_DATASET,
    data_dir: DataDir = Path("data"),
    download: Download = False,
    epochs: Annotated[int, whole("--epochs", 1, "Passes over the training images.")] = 30,
    lr: Annotated[float, typer.Option(help="The highest learning rate.")] = 0.1,
    seed: Seed = 0,
    device: Device = "cpu",
    debug: Debug = False,
) -> None:
    """Train a network from scratch, or from a checkpoint; the result can be pruned."""
    if out.suffix not in (".safetensors", ".pth"):
        raise PrunerError(f"--out {out}: expected a file that ends in .safetensors or .pth")
    check_writable(out.parent)
    setup_pruner(_given(arch))
    request = Request(
        _given(arch), depth, arch_args, input_shape, num_classes, checkpoint, seed, device, weights
    )
    with redirect_stdout(sys.stderr):
        splits = Data(dataset or SHIPPED_DATASET, data_dir, download).load(input_shape)
        network = find_network(request, splits, shipped=False)
        train(network.model, splits, epochs, lr=lr, seed=seed, progress=True)
        percent = accuracy(network.model, splits.test)
        state = network.model.state_dict()
        pickled = out.suffix == ".pth"
        content = save_bytes(state) if pickled else safetensors_bytes(state)
        with noted(out, ctx.obj):
            commit({out: content})
    print(f"{out}  {network.name}, {percent:.2f} % of the test images of {splits.name}")


@app.command("graph")
def graph_command(
    ctx: typer.Context,
    arch: Arch = None,
    depth: Depth = None,
    arch_args: ArchArgs = None,
    weights: Weights = None,
    checkpoint: Checkpoint = None,
    input_shape: InputShape = None,
    num_classes: NumClasses = None,
    layer: Annotated[
        str | None,
        typer.Option("--explain", metavar="LAYER", help="What goes with this layer's channels."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A picture: .svg, .dot or .png.")
    ] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    debug: Debug = False,
) -> None:
    """Show which layers lose channels together, and which operator ties them."""
    if out is not None:
        check_format(out)
        check_writable(out.parent)
    setup_pruner(_given(arch))
    request = Request(
        _given(arch), depth, arch_args, input_shape, num_classes, checkpoint, seed, device, weights
    )
    with redirect_stdout(sys.stderr), stage(f"analysing {request.arch}"):
        network = find_network(request, shipped=False)
        graph = analyse(network.model, network.example_inputs(seed)).graph
    for warning in unknown_operators(graph):
        note(f"warning: {warning}")
    if layer is not None:
        print(graph.explain(layer))
    else:
        show_groups(graph)
    if out is not None:
        with noted(out, ctx.obj):
            commit({out: picture(graph, out)})
        print(f"\n{out}  the layers in the colours of their groups")


@app.command("diff")
def diff_command(
    ctx: typer.Context,
    arch: Arch = None,
    depth: Depth = None,
    arch_args: ArchArgs = None,
    weights: Weights = None,
    checkpoint: Checkpoint = None,
    input_shape: InputShape = None,
    num_classes: NumClasses = None,
    prune_pct: PrunePct = 50,
    target: TargetName = "params",
    measure: Measure = "ChannelNorm",
    method: Method = "Global",
    min_filters: MinFilters = 2,
    round_to: RoundTo = 1,
    ignore: Ignore = None,
    exact_only: ExactOnly = False,
    file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A generated file, instead of pruning."),
    ] = None,
    context: Annotated[int, whole("--context", 0, "Lines alike around those that differ.")] = 3,
    seed: Seed = 0,
    device: Device = "cpu",
    debug: Debug = False,
) -> None:
    """Show the original source and the generated one side by side; write nothing."""
    pruner_class = setup_pruner(_given(arch))
    request = Request(
        _given(arch), depth, arch_args, input_shape, num_classes, checkpoint, seed, device, weights
    )
    options = _options(
        prune_pct, target, measure, method, min_filters, round_to, ignore, seed, exact_only
    )
    options.budget()
    if file is not None:
        _refuse_given(
            ctx, _SELECTION, f"has no effect beside --file {file}, which is pruned already"
        )
    with redirect_stdout(sys.stderr):
        text = read_generated(file) if file is not None else None
        with stage(f"loading {request.arch}"):
            network = find_network(request)
        if file is None or text is None:
            with stage(f"pruning {network.name} by {prune_pct:g} percent"):
                pruner = pruner_class(
                    network.model, network.example_inputs(seed), options, netName=network.name
                )
                text = pruner.run().source
            file = Path(f"{pruner.fileName}.py")
        parts = compared(network.model, text, file.name)
    show_compared(parts, context)
    if all(part.alike for part in parts):
        note("nothing differs")


_SELECTION = (
    "prune_pct",
    "target",
    "measure",
    "method",
    "min_filters",
    "round_to",
    "ignore",
    "exact_only",
)
"""The parameters of a command that say what is pruned."""


@app.command("write")
def write_command(
    ctx: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="A module saved whole; needs --trust-pickle."),
    ] = None,
    arch: Arch = None,
    depth: Depth = None,
    arch_args: ArchArgs = None,
    weights: Weights = None,
    checkpoint: Checkpoint = None,
    input_shape: InputShape = None,
    num_classes: NumClasses = None,
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Load FILE, which runs the code in it.")
    ] = False,
    out: Out = Path("generated"),
    weights_out: WeightsOut = Path("models/pruned"),
    name: Annotated[str, typer.Option(help="Stem of the files, such as resnet18_half.")] = "",
    seed: Seed = 0,
    device: Device = "cpu",
    json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write source and weights of a network as it is, pruned elsewhere or by hand."""
    if (file is None) == (arch is None):
        raise PrunerError(
            f"write: got {'neither' if file is None else 'both'}; expected either FILE, a module "
            f"saved whole, or --arch, such as --arch FILE.py:FUNCTION"
        )
    if name:
        checked_name(name)
    for folder in (out, weights_out):
        check_writable(folder)
    with redirect_stdout(sys.stderr):
        if file is not None:
            for option in ("depth", "arch_args", "weights", "checkpoint", "num_classes"):
                if ctx.params[option] is not None:
                    raise PrunerError(f"--{option.replace('_', '-')}: only with --arch")
            with stage(f"loading {file}"):
                network = unpickled_network(file, input_shape, device, trust_pickle)
        else:
            setup_pruner(_given(arch))
            request = Request(
                *(_given(arch), depth, arch_args, input_shape, num_classes),
                *(checkpoint, seed, device, weights),
            )
            with stage(f"loading {arch}"):
                network = find_network(request)
        with stage(f"writing {network.name}"):
            name = name or f"{network.name.lower()}_pruned"
            result = write_source(network.model, network.example_inputs(seed), name=name)
            for warning in result.report.warnings:
                note(f"warning: {warning}")
        with (
            stage("verifying it in a fresh process"),
            noted(out / f"{result.fileName}.json", ctx.obj),
        ):
            saved = result.save(out, weights_out)
    if json:
        return print(as_json(described_written(result, saved)))
    return show_written(result, saved)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code: 0, 1 (a bug), 2 (bad input), 130 (Ctrl-C).

    An error is one line on stderr; with `--debug` its traceback comes first.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    written: list[Path] = []
    with _interrupts() as arrived:
        try:
            code = app(arguments, prog_name="app.py", standalone_mode=False, obj=written)
        except (Exception, KeyboardInterrupt) as error:
            # What Ctrl-C hits may make another exception of it.
            interrupted = arrived or isinstance(error, KeyboardInterrupt | typer.Abort)
            code = 130 if interrupted else _failed(error, "--debug" in arguments)
    if code == 130:
        files = ", ".join(str(path) for path in written)
        note(f"interrupted; {f'written before: {files}' if files else 'nothing was written'}")
    return int(code or 0)


def _failed(error: BaseException, debug: bool) -> int:
    """Say it in one line; the exit code."""
    if isinstance(error, BrokenPipeError):
        # The reader has enough (`| head`). Python would complain once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    code, message = 2, str(error)
    if isinstance(error, UsageError):
        message = error.format_message()
    elif not isinstance(error, PrunerError):
        code = 1
        if not isinstance(error, VerificationError):
            message = f"unexpected {type(error).__name__}: {error} (--debug shows where)"
    if debug:
        traceback.print_exception(error)
    note(f"error: {' '.join(message.split())}")
    return code


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Ctrl-C raises KeyboardInterrupt in the block, and is remembered in the list."""
    arrived: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        arrived.append(number)
        raise KeyboardInterrupt

    ours = threading.current_thread() is threading.main_thread()
    # Where Ctrl-C is ignored (nohup, a job in the background) it stays so.
    if not ours or signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None):
        yield arrived
        return
    before = signal.signal(signal.SIGINT, remember)
    try:
        yield arrived
    finally:
        signal.signal(signal.SIGINT, before)


def _given(arch: str | None) -> str:
    if arch is None:
        raise PrunerError(
            f"--arch: missing; expected {', '.join(ARCHITECTURES)}, "
            f"torchvision:NAME, timm:NAME or FILE.py:CLASS; "
            f"`python app.py --list` shows all"
        )
    return arch


def _refuse_options(ctx: typer.Context) -> None:
    """Options before the name of a subcommand would have no effect."""
    names = [name for name in ctx.params if name != "debug"]
    _refuse_given(ctx, names, f"put it after {ctx.invoked_subcommand}")


def _refuse_given(ctx: typer.Context, names: Sequence[str], why: str) -> None:
    """PrunerError where one of these parameters was given on the command line."""
    for name in names:
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise PrunerError(f"--{name.replace('_', '-')}: {why}")


if __name__ == "__main__":
    exit_code = main()
    # The work is done: Ctrl-C while Python takes itself apart would only print a traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(exit_code)
