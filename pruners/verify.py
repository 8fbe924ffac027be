"""Verification: what is handed over was imported and compared in a fresh process.

    masked_state      the full network's tensors with everything that was removed silenced
    expected_outputs  what the slim network must compute
    Case, verify      generated files against that, in one interpreter that knows none of this
    require           no files without it

This is the oracle's half: it knows which indices were kept, and nothing of how the writer and the
weight transfer make use of them. Nor does it import either (a test says so).
"""

from __future__ import annotations

import ast
import copy
import json
import keyword
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruners.channel_graph import Indices, Kept
from pruners.errors import PrunerError, VerificationError
from pruners.verify_child import (
    PROJECT,
    MismatchError,
    flatten_output,
    mapped_tensors,
    quoted_tail,
    widened,
)

# Importing torch on a busy machine.
_START_S = 60.0
_CHILD = Path(__file__).with_name("verify_child.py")
_TOLERANCES = {
    torch.float64: 1e-12,
    torch.complex128: 1e-12,
    torch.float32: 1e-5,
    torch.complex64: 1e-5,
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
}


def tolerance_for(dtype: torch.dtype) -> float:
    """The relative difference that rounding may make: 1e-12 in float64, 1e-5 in float32.

    Raises:
        PrunerError: not a floating dtype that networks compute in.
    """
    if dtype not in _TOLERANCES:
        raise PrunerError(f"dtype {dtype}: cannot be verified, expected torch.float32 or float64")
    return _TOLERANCES[dtype]


# --- the oracle --------------------------------------------------------------------------------


def masked_state(model: nn.Module, kept: Kept) -> dict[str, Tensor]:
    """The network's own tensors, with every element that did not survive set to zero.

    An element survives when its index is kept in every dimension. In running variances of batch
    and instance norms the others become one (zero would be divided by). The tensors are copies;
    those that are one tensor under several names stay one.

    Args:
        kept: for every name of the `state_dict`, for every dimension, the ascending indices that
            stay; for non-persistent buffers, where it has them.

    Returns:
        By name, shaped as in the full network, on the same device.

    Raises:
        VerificationError: `kept` does not fit the network.
    """
    # Without duplicates removed: a tied tensor is asked for under each of its names.
    tensors = {
        name: value.detach()
        for name, value in model.state_dict().items()
        if isinstance(value, Tensor)
    }
    tensors |= {
        name: buffer.detach()
        for name, buffer in model.named_buffers(remove_duplicate=False)
        if name in kept and name not in tensors
    }
    missing = [name for name in tensors if name not in kept]
    unknown = [name for name in kept if name not in tensors]
    if missing or unknown:
        name = (missing or unknown)[0]
        what = "says nothing about" if missing else "names a tensor that the network lacks:"
        raise VerificationError(f"kept indices: kept {what} {name}")

    variances = _running_variances(model)
    masked: dict[str, Tensor] = {}
    first_name: dict[tuple[object, ...], str] = {}
    for name, tensor in tensors.items():
        first = first_name.setdefault(_identity(name, tensor), name)
        if first == name:
            masked[name] = _masked(name, tensor, kept[name], 1.0 if name in variances else 0.0)
            continue
        if not all(np.array_equal(a, b) for a, b in zip(kept[name], kept[first], strict=True)):
            raise VerificationError(
                f"kept indices: {name} and {first} are one tensor, but keep different indices"
            )
        masked[name] = masked[first]
    return masked


def _identity(name: str, tensor: Tensor) -> tuple[object, ...]:
    """Equal for two names of one tensor."""
    if tensor.numel() == 0:
        return (name,)
    where = (str(tensor.device), tensor.untyped_storage().data_ptr(), tensor.storage_offset())
    return (*where, tuple(tensor.shape), tensor.stride(), tensor.dtype)


def _masked(name: str, tensor: Tensor, kept: Sequence[Indices], removed: float) -> Tensor:
    if len(kept) != tensor.dim():
        raise VerificationError(
            f"kept indices: {name} has {tensor.dim()} dimensions, kept has {len(kept)}"
        )
    masked = tensor.clone()
    for dim, indices in enumerate(kept):
        size = tensor.shape[dim]
        if np.any(np.diff(indices) <= 0) or np.any((indices < 0) | (indices >= size)):
            raise VerificationError(
                f"kept indices: {name}[{dim}] has {size} positions, expected ascending indices "
                f"below that, got {np.asarray(indices).tolist()[:8]}"
            )
        gone = torch.ones(size, dtype=torch.bool, device=tensor.device)
        gone[torch.as_tensor(np.asarray(indices, dtype=np.int64), device=tensor.device)] = False
        along = [1] * tensor.dim()
        along[dim] = size
        masked.masked_fill_(gone.view(along), removed)
    return masked


def _running_variances(model: nn.Module) -> set[str]:
    """The running variances, recognised by the module that owns them.

    That is a norm of torch (batch or instance, synchronised or derived), or a module that keeps a
    mean and a variance of one shape under the names that torch gives them (frozen batch norms).
    """
    found = set()
    for path, module in model.named_modules(remove_duplicate=False):
        own = dict(module.named_buffers(recurse=False))
        variance, mean = own.get("running_var"), own.get("running_mean")
        if variance is None:
            continue
        is_norm = isinstance(module, nn.modules.batchnorm._NormBase)
        if is_norm or (mean is not None and mean.shape == variance.shape):
            found.add(f"{path}.running_var" if path else "running_var")
    return found


def expected_outputs(
    model: nn.Module, kept: Kept, example_inputs: Any, in_float64: bool = False
) -> Any:
    """What the slim network must compute: the full one, with the removed channels silenced.

    Computed on the CPU (where the slim network is run too), in eval mode, without gradients.
    Modes, buffers, attributes of modules and the random state are left as they were, also after
    an exception.

    Args:
        kept: as for `masked_state`.
        example_inputs: a tuple or list of positional inputs, or a single one; tensors, or nested
            dicts, lists and tuples of them.
        in_float64: with the same weights and inputs, but computed in float64.

    Returns:
        The output of the network, whatever its structure.

    Raises:
        VerificationError: `kept` does not fit the network.
    """
    positional = example_inputs if isinstance(example_inputs, tuple | list) else (example_inputs,)
    inputs = [_on_cpu(value) for value in positional]
    if in_float64:
        inputs = [mapped_tensors(value, widened) for value in inputs]
    moved: dict[int, Tensor] = {}
    masked = masked_state(model, kept)
    # One copy for all names of a tied tensor, or functional_call would find them untied.
    state = {name: moved.setdefault(id(tensor), tensor.cpu()) for name, tensor in masked.items()}
    for name, buffer in model.named_buffers(remove_duplicate=False):
        # Not in the state_dict: a copy, as the network may write into it.
        if name not in state:
            state[name] = buffer.detach().cpu().clone()
    if in_float64:
        wide = {id(tensor): widened(tensor) for tensor in state.values()}
        state = {name: wide[id(tensor)] for name, tensor in state.items()}
    with _left_as_it_was(model), torch.no_grad():
        model.eval()
        return torch.func.functional_call(model, state, tuple(inputs))


def _on_cpu(value: Any) -> Any:
    """A copy of an input in plain containers: of its own, as a network may write into it.

    Raises:
        PrunerError: an input is not made of tensors, plain values, dicts, lists and tuples.
    """
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, Mapping):
        return {key: _on_cpu(item) for key, item in value.items()}
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        items = [_on_cpu(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise PrunerError(
        f"example inputs: a {type(value).__name__} cannot be passed to the verifying process; "
        f"expected tensors, plain values, or dicts, lists and tuples of them"
    )


@contextmanager
def _left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Afterwards modes, attributes, registered tensors and random states are those of before.

    Restoring every module's `__dict__` undoes what a forward stores (`self.grid = ...`) as well as
    `training`; `train(mode)` is not called for it, as a class may override that.
    """
    saved: list[tuple[nn.Module, dict[str, Any], dict[str, dict[str, Any]]]] = []
    for module in model.modules():
        registries = {
            name: dict(getattr(module, name)) for name in ("_parameters", "_buffers", "_modules")
        }
        saved.append((module, dict(module.__dict__), registries))
    devices = sorted({p.get_device() for p in model.parameters() if p.is_cuda})
    python, legacy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
        for module, attributes, registries in saved:
            module.__dict__.clear()
            module.__dict__.update(attributes)
            for name, entries in registries.items():
                registry = module.__dict__[name]
                # By identity: tensors have no plain equality.
                if [(n, id(v)) for n, v in registry.items()] != [
                    (n, id(v)) for n, v in entries.items()
                ]:
                    registry.clear()
                    registry.update(entries)


def tells(expected: Any, tolerance: float) -> bool:
    """Whether an output depends on the input by more than the tolerance: two examples differ.

    Untrained networks let signals die away; what is left is the same whatever goes in, and any
    network with the right biases would pass. Of a single example this is not known.
    """
    leaves = [leaf for _, _, leaf in flatten_output(expected) if isinstance(leaf, Tensor)]
    several = [x for x in leaves if x.is_floating_point() and x.dim() and len(x) > 1]
    return not several or any(
        (x[1:] - x[:1]).abs().max() > 1e4 * tolerance * x.abs().max() for x in several
    )


def with_telling_state(model: nn.Module, seed: int = 0) -> nn.Module:
    """A copy of a network with random weights through which signals pass.

    Weights keep the variance (He et al., 2015, eq. 10); scales and variances lie around one, shifts
    and means around zero; no two values agree. Integers stay as they are.
    """
    copied = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    variances = _running_variances(copied)
    with torch.no_grad():
        for name, tensor in copied.state_dict().items():
            if not tensor.is_floating_point():
                continue
            values = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            if name in variances:
                values = 0.5 + values.abs()
            elif tensor.dim() > 1:
                values *= (2 / max(tensor[0].numel(), 1)) ** 0.5
            else:
                values = 0.1 * values + (name.endswith("weight"))
            tensor.copy_(values.to(tensor.dtype))
    return copied


# --- the fresh process -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Case:
    """One generated file, its weights, and what it must compute.

    Raises:
        PrunerError: a name that cannot be a file's or a function's.
    """

    name: str
    """The stem of the file, an identifier: `resnet20_50`."""
    source: str
    factory: str
    """The function in the source that builds the network: `factory(weights=path)`."""
    weights: bytes
    """A `torch.save`d state_dict."""
    weights_name: str
    inputs: tuple[Any, ...]
    """Positional inputs: tensors, plain values, or dicts, lists and tuples of them."""
    expected: Any
    """The output of the oracle: tensors, nested in tuples, lists, dicts, dataclasses."""
    keys: tuple[str, ...]
    """The keys of the `state_dict`, in order."""
    tolerance: float
    """The greatest max|a - b| / max|b| that passes; see `tolerance_for`."""
    forbidden: tuple[str, ...]
    """What must not be importable besides this project: top-level modules (`"net"`), folders, and
    files, which stand for their folder. Installed packages cannot be refused by folder; a dotted
    name (`"torchvision.models"`) is refused as an import of the file itself only."""
    oracle: str = "masked"
    trains: bool = True
    """Whether one step in train mode is taken, too."""
    in_float64: bool = False
    """Whether the output is computed in float64, with the same weights and inputs; `expected` and
    the tolerance are of that."""

    def __post_init__(self) -> None:
        for what, name in (("module", self.name), ("factory", self.factory)):
            if not name.isidentifier() or keyword.iskeyword(name):
                raise PrunerError(f"{what} name {name!r}: expected a Python identifier")
        plain = Path(self.weights_name).name
        if plain != self.weights_name or plain in {"", ".", "..", f"{self.name}.py"}:
            raise PrunerError(f"weights name {self.weights_name!r}: expected a plain file name")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one case."""

    name: str
    ok: bool
    error: float
    """max|a - b| / max|b|, the largest of all float tensors of the output; infinite if it did not
    come to a comparison."""
    message: str
    """One line; empty when ok."""
    oracle: str
    tolerance: float
    random_weights: bool = False
    """Whether it was compared with random weights, too, as the output of its own hardly depends on
    the input."""
    float32_error: float | None = None
    """The error of the network's own precision, where that is rounding which layers magnify beyond
    the tolerance: `error` and `tolerance` are of the comparison in float64 then."""
    eval_only: str = ""
    """Why no step in train mode was taken: the given network itself cannot take one."""

    def described(self) -> dict[str, Any]:
        """For manifests: how the network was verified."""
        found: dict[str, Any] = {
            "oracle": self.oracle,
            "max_relative_error": float(f"{self.error:.1e}"),
            "tolerance": self.tolerance,
        }
        if self.random_weights:
            found["random_weights"] = True
        if self.float32_error is not None:
            found["float32_error"] = float(f"{self.float32_error:.1e}")
        if self.eval_only:
            found["eval_only"] = self.eval_only
        return found


def verify(cases: Sequence[Case], *, timeout: float = 600.0) -> list[Outcome]:
    """Import, build, load, run, compare and train every case in one fresh interpreter.

    The interpreter is isolated (`python -I`), starts in an empty temporary folder, and can import
    neither this project, installed or not, nor what a case forbids. For each case it imports the
    file that was put into a folder of its own, builds the network without weights and with them,
    loads them strictly, compares keys and outputs in eval mode, and takes one step of SGD in train
    mode. Whatever a case does (raise, exit, print, hang, crash) is its own failure; only a process
    that is gone takes the cases not finished yet with it.

    Args:
        timeout: seconds that any one case may take; the start has a minute more.

    Returns:
        One outcome a case, in order.

    Raises:
        PrunerError: inputs that cannot be passed on, or no room for temporary files.
    """
    refused = {
        number: message
        for number, case in enumerate(cases)
        if (message := _static_failure(case.source, case.forbidden))
    }
    to_run = [number for number in range(len(cases)) if number not in refused]
    results: dict[int, tuple[float, str]] = {n: (math.inf, text) for n, text in refused.items()}
    if to_run:
        finished = _run([cases[number] for number in to_run], timeout)
        results |= dict(zip(to_run, finished, strict=True))
    return [
        Outcome(case.name, not message, error, message, case.oracle, case.tolerance)
        for case, (error, message) in ((case, results[i]) for i, case in enumerate(cases))
    ]


def require(outcomes: Sequence[Outcome]) -> None:
    """Nothing, when every case is ok.

    Raises:
        VerificationError: naming the first case that is not, and how many more there are.
    """
    failed = [outcome for outcome in outcomes if not outcome.ok]
    if not failed:
        return
    first = failed[0]
    figure = f"{first.error:.2e}" if math.isfinite(first.error) else "no figure"
    more = f"; {len(failed) - 1} more failed" if len(failed) > 1 else ""
    raise VerificationError(
        f"{first.name}: not equal to the {first.oracle} oracle ({figure}, tolerance "
        f"{first.tolerance:.0e}): {first.message}{more}; nothing was written"
    )


def _static_failure(source: str, forbidden: Sequence[str]) -> str:
    """Why this source is not even to be run; empty if it is."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError) as error:
        return f"the file is not Python: {' '.join(str(error).split())}"
    refused = [PROJECT, *(name for name in forbidden if _is_module(name))]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                return f"line {node.lineno} imports relatively, and the file must stand alone"
            names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            if any(name == other or name.startswith(f"{other}.") for other in refused):
                return f"line {node.lineno} imports {name}, and the file must stand alone"
    return ""


def _is_module(forbidden: str) -> bool:
    """Whether this names a module rather than a file or a folder."""
    parts = forbidden.split(".")
    return all(part.isidentifier() for part in parts) and parts[1:] != ["py"]


def _run(cases: Sequence[Case], timeout: float) -> list[tuple[float, str]]:
    """The error and the message of each case, from one process."""
    try:
        temporary = tempfile.TemporaryDirectory(prefix="pruner-", ignore_cleanup_errors=True)
    except OSError as error:
        raise _no_room(error) from error
    with temporary as name:
        job, empty = Path(name, "job"), Path(name, "empty")
        try:
            for folder in (job, empty):
                folder.mkdir()
            for number, case in enumerate(cases):
                _write_case(case, job / str(number))
            (job / "job.json").write_text(json.dumps([_described(case) for case in cases]), "utf-8")
            (job / "results.jsonl").touch()
        except OSError as error:
            raise _no_room(error) from error
        ended = _watch(job, empty, timeout)
        return _read_results(job, len(cases), ended)


def _no_room(error: OSError) -> PrunerError:
    return PrunerError(
        f"temporary folder {tempfile.gettempdir()}: cannot be written "
        f"({error.strerror or error}); set TMPDIR to another"
    )


def _write_case(case: Case, files: Path) -> None:
    files.with_suffix(".py").write_text(case.source, "utf-8")
    files.with_suffix(".weights").write_bytes(case.weights)
    try:
        leaves = flatten_output(case.expected)
    except MismatchError as mismatch:
        raise PrunerError(f"{case.name}: {mismatch}") from None
    data = {
        "inputs": [_on_cpu(value) for value in case.inputs],
        "expected": [
            (path, kind, value.detach().cpu() if isinstance(value, Tensor) else value)
            for path, kind, value in leaves
        ],
    }
    torch.save(data, files.with_suffix(".pt"))


def _described(case: Case) -> dict[str, Any]:
    paths = [Path(name).resolve() for name in case.forbidden if not _is_module(name)]
    return {
        "name": case.name,
        "factory": case.factory,
        "weights_name": case.weights_name,
        "keys": list(case.keys),
        "tolerance": case.tolerance,
        "trains": case.trains,
        "in_float64": case.in_float64,
        # A package imports its own parts, so a dotted name cannot be refused at run time.
        "modules": [name for name in case.forbidden if _is_module(name) and "." not in name],
        "folders": [str(path.parent if path.suffix == ".py" else path) for path in paths],
    }


def _watch(job: Path, empty: Path, timeout: float) -> str:
    """Run the process until it ends or makes no progress; say in words how it ended.

    It is a session of its own, so that Ctrl-C reaches this process only and what a case may have
    started ends with it. Its stdin is a pipe that closes when this process ends, even by SIGKILL;
    the child ends then. On the way out, by whatever exception, nothing is left running.
    """
    with (job / "output.txt").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-I", str(_CHILD), str(job)],
            cwd=empty,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            seen, deadline = 0, time.monotonic() + _START_S + timeout
            while True:
                with suppress(subprocess.TimeoutExpired):
                    code = process.wait(timeout=0.1)
                    return f"was killed by {_signal(-code)}" if code < 0 else f"exited with {code}"
                size = (job / "results.jsonl").stat().st_size
                if size != seen:
                    seen, deadline = size, time.monotonic() + timeout
                elif time.monotonic() > deadline:
                    return f"took longer than {timeout:g} s"
        finally:
            if process.poll() is None:
                _kill(process)
            if process.stdin is not None:
                process.stdin.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _read_results(job: Path, count: int, ended: str) -> list[tuple[float, str]]:
    running: int | None = None
    results: dict[int, tuple[float, str]] = {}
    for line in (job / "results.jsonl").read_text("utf-8").splitlines():
        with suppress(json.JSONDecodeError):
            entry = json.loads(line)
            if "message" in entry:
                error = entry["error"]
                results[entry["case"]] = (math.inf if error is None else error, entry["message"])
                running = None
            else:
                running = entry["case"]
    tail = quoted_tail(job / "output.txt")
    for number in range(count):
        if number in results:
            continue
        if number == running:
            message = f"the process {ended} in this case{tail}"
        elif running is None:
            message = f"not run: the process {ended}{tail}"
        else:
            message = f"not run: the process {ended} in an earlier case"
        results[number] = (math.inf, message)
    return [results[number] for number in range(count)]
