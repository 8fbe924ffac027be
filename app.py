"""The command line.

python app.py --arch resnet --prune-pct 50          a slimmer network, as source
python app.py demo                                  the same, fine-tuned and measured
python app.py train --arch resnet --out FILE        weights to prune
python app.py tune --arch resnet                    learning rate and weight decay for it
python app.py graph --arch resnet                   which channels go together
python app.py diff --arch resnet                    original and generated source, side by side
python app.py iterate --arch resnet --exp runs/exp1 prune, retrain, and prune again
python app.py write --arch FILE.py:FUNCTION         source of a network pruned elsewhere
python app.py experiment --model-name TwoLayerMLP   many ways to prune, compared
python app.py models                                what the model store holds; verify, show NAME
python app.py quantize resnet20_50 --dataset Digits int8 of a generated network
python app.py export resnet20_50 --onnx             the same for other programs
python app.py finalize resnet20_50                  ready for a device, and what that needs
python app.py --list                                everything on offer
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Importing torch takes seconds, and Ctrl-C in the middle of it has nothing to clean up.
    signal.signal(
        signal.SIGINT,
        lambda *_: (os.write(2, b"interrupted; nothing was written\n"), os._exit(130)),
    )

import typer

import models  # noqa: F401  registers the zoo
from pruners.architectures import ARCHITECTURES, setup_pruner
from pruners.commands.demo import demo_command
from pruners.commands.diff import diff_command
from pruners.commands.experiment import ListsCommand, experiment_command
from pruners.commands.export import export_command
from pruners.commands.finalize import finalize_command
from pruners.commands.graph import graph_command
from pruners.commands.iterate import iterate_command
from pruners.commands.models import models_app
from pruners.commands.prune import prune_command
from pruners.commands.quantize import quantize_command
from pruners.commands.train import train_command
from pruners.commands.tune import tune_command
from pruners.commands.write import write_command
from pruners.distributed import one_tells
from pruners.errors import PrunerError, VerificationError
from pruners.progress import note

__all__ = ["ARCHITECTURES", "main", "setup_pruner"]

# Newer versions of typer bring their own copy of click.
UsageError: type[Any] = typer.BadParameter.__bases__[0]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.callback(invoke_without_command=True)(prune_command)
for _name, _command in {
    "demo": demo_command,
    "train": train_command,
    "tune": tune_command,
    "graph": graph_command,
    "iterate": iterate_command,
    "diff": diff_command,
    "write": write_command,
    "quantize": quantize_command,
    "export": export_command,
    "finalize": finalize_command,
}.items():
    app.command(_name)(_command)
app.add_typer(models_app, name="models")
app.command("experiment", cls=ListsCommand)(experiment_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code: 0, 1 (a bug), 2 (bad input), 130 (Ctrl-C).

    An error is one line on stderr; with `--debug` its traceback comes first.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    written: list[Path] = []
    with _interrupts() as arrived:
        try:
            code = app(arguments, prog_name="app.py", standalone_mode=False, obj=written)
            # What a full disk refuses must not wait until Python ends.
            _flush_stdout()
        except (Exception, KeyboardInterrupt) as error:
            # What Ctrl-C hits may make another exception of it.
            interrupted = arrived or isinstance(error, KeyboardInterrupt | typer.Abort)
            with one_tells():
                code = _stopped(written) if interrupted else _failed(error, "--debug" in arguments)
        else:
            # Some versions of typer make an exit code of Ctrl-C.
            if code == 130:
                with one_tells():
                    _stopped(written)
    return int(code or 0)


def _stopped(written: Sequence[Path]) -> int:
    """Say in one line what is there; the exit code."""
    files = ", ".join(str(path) for path in written)
    note(f"interrupted; {f'written before: {files}' if files else 'nothing was written'}")
    return 130


def _failed(error: BaseException, debug: bool) -> int:
    """Say it in one line; the exit code."""
    if isinstance(error, BrokenPipeError):
        # The reader has enough (`| head`). Python would complain once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    code, message = 2, str(error)
    if isinstance(error, OSError) and (why := _refused_by_stdout()):
        message = f"standard output: cannot be written ({why}); send it elsewhere"
    elif isinstance(error, UsageError):
        message = error.format_message()
    elif not isinstance(error, PrunerError):
        code = 1
        if not isinstance(error, VerificationError):
            message = f"unexpected {type(error).__name__}: {error} (--debug shows where)"
    if debug:
        traceback.print_exception(error)
    note(f"error: {' '.join(message.split())}")
    return code


def _flush_stdout() -> None:
    # There is none where it was closed (`>&-`) or never was (pythonw), whatever its type says.
    if sys.stdout is not None:
        sys.stdout.flush()


def _refused_by_stdout() -> str:
    """Why nothing can be printed; empty where it can."""
    try:
        _flush_stdout()
    except OSError as error:
        # Python would try once more when it ends, and complain in its own way.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error.strerror or str(error)
    return ""


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


if __name__ == "__main__":
    exit_code = main()
    # The work is done: Ctrl-C while Python takes itself apart would only print a traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(exit_code)
