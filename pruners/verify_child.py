"""Runs generated files in a fresh interpreter: `python -I verify_child.py jobdir`.

Started by `pruners.verify`, in an empty folder. This file stands alone on purpose: it imports
torch and the standard library only, because the interpreter that it runs in must not be able to
import this project. What it finds in `jobdir`:

    job.json        a list of cases: name, factory, weights_name, keys, tolerance, what is refused
    0.py 0.weights  the source and the weights of the first case, 1.py 1.weights of the second, ...
    0.pt            its inputs and the expected output, in plain containers

What it leaves: `results.jsonl`, a line when a case begins and one when it is done.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.abc
import importlib.machinery
import io
import json
import os
import shutil
import site
import sys
import sysconfig
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

PROJECT = "pruners"

Leaf = tuple[str, str, Any]
"""Where in the output (`output[0].logits`), what it is, and the tensor or plain value."""


_Find = Callable[..., importlib.machinery.ModuleSpec | None]


class MismatchError(Exception):
    """The slim network is not what it must be; the message says in one line in what."""


# --- outputs -----------------------------------------------------------------------------------


def flatten_output(value: Any, path: str = "output") -> list[Leaf]:
    """A nested output as a flat list that two processes can compare.

    Containers appear as leaves without a value, so that a tuple differs from a list and an empty
    one from none. Tensors are passed on as they are.

    Raises:
        MismatchError: a part of it is neither a tensor, a plain value, nor a container.
    """
    if isinstance(value, Tensor):
        return [(path, "tensor", value)]
    if value is None or isinstance(value, bool | int | float | str):
        return [(path, type(value).__name__, value)]
    if isinstance(value, Mapping):
        kind, items = "dict", [(f"{path}[{key!r}]", item) for key, item in value.items()]
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        fields = zip(value._fields, value, strict=True)
        kind, items = "namedtuple", [(f"{path}.{name}", item) for name, item in fields]
    elif isinstance(value, tuple | list):
        kind = "tuple" if isinstance(value, tuple) else "list"
        items = [(f"{path}[{i}]", item) for i, item in enumerate(value)]
    elif dataclasses.is_dataclass(value):
        kind = "dataclass"
        items = [(f"{path}.{f.name}", getattr(value, f.name)) for f in dataclasses.fields(value)]
    else:
        raise MismatchError(f"{path} is a {type(value).__name__}, which cannot be compared")
    leaves: list[Leaf] = [(path, kind, None)]
    for name, item in items:
        leaves.extend(flatten_output(item, name))
    return leaves


def compare(actual: Sequence[Leaf], expected: Sequence[Leaf]) -> float:
    """The largest max|a - b| / max|b| of all float tensors; 0.0 where there is none.

    A tensor that is expected to be zero everywhere is measured by max|a - b| itself.

    Raises:
        MismatchError: structure, shape, dtype or an exact value differs, or there is NaN.
    """
    places, wanted = [leaf[:2] for leaf in actual], [leaf[:2] for leaf in expected]
    if places != wanted:
        where = next(
            (i for i, (a, b) in enumerate(zip(places, wanted, strict=False)) if a != b),
            min(len(places), len(wanted)),
        )
        found, sought = ([*places, None][where:][:1], [*wanted, None][where:][:1])
        raise MismatchError(f"output has {_place(found[0])}, expected {_place(sought[0])}")
    errors = [0.0]
    for (path, kind, a), (_, _, b) in zip(actual, expected, strict=True):
        if kind == "tensor":
            errors.append(_compare_tensors(path, a, b))
        elif kind == "float":
            as_tensors = (torch.tensor(x, dtype=torch.float64) for x in (a, b))
            errors.append(_compare_tensors(path, *as_tensors))
        elif a != b:
            raise MismatchError(f"{path} is {a!r}, expected {b!r}")
    return max(errors)


def _place(place: tuple[str, str] | None) -> str:
    return "nothing more" if place is None else f"a {place[1]} at {place[0]}"


def _compare_tensors(path: str, a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        raise MismatchError(f"{path} has the shape {tuple(a.shape)}, expected {tuple(b.shape)}")
    if a.dtype != b.dtype:
        raise MismatchError(f"{path} is {a.dtype}, expected {b.dtype}")
    if not (a.is_floating_point() or a.is_complex()):
        if not torch.equal(a, b):
            raise MismatchError(
                f"{path}: {int((a != b).sum())} of {a.numel()} {a.dtype} values differ"
            )
        return 0.0
    for tensor, whose in ((a, "the slim network"), (b, "the oracle")):
        if tensor.isnan().any():
            raise MismatchError(f"{path}: {int(tensor.isnan().sum())} NaN in the output of {whose}")
    if a.numel() == 0:
        return 0.0
    wide = torch.complex128 if a.is_complex() else torch.float64
    a, b = a.to(wide), b.to(wide)
    # Equal infinities (masks) would give inf - inf = NaN.
    difference = torch.where(a == b, 0.0, (a - b).abs()).max().item()
    scale = torch.where(b.isinf(), 0.0, b.abs()).max().item()
    return float(difference / scale) if scale > 0 else float(difference)


# --- what may be imported ----------------------------------------------------------------------


class Refusing(importlib.abc.MetaPathFinder):
    """Stands before all other finders and refuses modules by name, and by where they are found.

    Args:
        names: top-level modules.
        folders: modules in or under these are refused, except installed packages: an
            environment often lies inside the folder of a project.
        own: the module under test, and the folder that it was put into.
    """

    def __init__(
        self, names: Sequence[str], folders: Sequence[Path], own: tuple[str, Path]
    ) -> None:
        self.names = frozenset(names)
        self.folders = tuple(folders)
        self.own_name, self.own_folder = own

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] in self.names and fullname != self.own_name:
            raise ModuleNotFoundError(f"import of {fullname} is refused here", name=fullname)
        for finder in sys.meta_path:
            if finder is self:
                continue
            find: _Find | None = getattr(finder, "find_spec", None)
            spec = find(fullname, path, target) if find is not None else None
            if spec is not None:
                if any(self._is_refused(place) for place in _places(spec)):
                    raise ModuleNotFoundError(
                        f"import of {fullname} is refused here: it lies in the original's folder",
                        name=fullname,
                    )
                return spec
        return None

    def _is_refused(self, place: Path) -> bool:
        if place.is_relative_to(self.own_folder):
            return False
        libraries = _libraries()
        return any(
            place.is_relative_to(folder)
            and not any(
                place.is_relative_to(library) and library.is_relative_to(folder)
                for library in libraries
            )
            for folder in self.folders
        )


def _places(spec: importlib.machinery.ModuleSpec) -> list[Path]:
    places = list(spec.submodule_search_locations or ())
    if spec.has_location and spec.origin is not None:
        places.append(spec.origin)
    return [Path(place).resolve() for place in places]


@functools.cache
def _libraries() -> list[Path]:
    """The folders of the standard library and of installed packages."""
    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = [sysconfig.get_paths()[kind] for kind in kinds] + site.getsitepackages()
    return [Path(folder).resolve() for folder in folders]


def allowed_path(entries: Sequence[str], refusing: Refusing) -> list[str]:
    """`sys.path` without what leads to this project (an editable install, say) or the original."""
    libraries = _libraries()
    return [
        entry
        for entry in entries
        if Path(entry).resolve() in libraries
        or not ((Path(entry) / PROJECT).is_dir() or refusing._is_refused(Path(entry).resolve()))
    ]


@contextmanager
def _isolated(folder: Path, refusing: Refusing) -> Iterator[None]:
    """What one case does to the interpreter, the next one does not see."""
    modules, path, finders = dict(sys.modules), list(sys.path), list(sys.meta_path)
    dtype, working = torch.get_default_dtype(), Path.cwd()
    try:
        sys.path[:] = [str(folder), *allowed_path(path, refusing)]
        sys.meta_path.insert(0, refusing)
        importlib.invalidate_caches()
        os.chdir(folder)
        torch.manual_seed(0)
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(True)
        os.chdir(working)
        sys.path[:], sys.meta_path[:] = path, finders
        for name in set(sys.modules) - set(modules):
            # Libraries stay: many cannot be imported twice.
            file = getattr(sys.modules[name], "__dict__", {}).get("__file__")
            if isinstance(file, str) and Path(file).resolve().is_relative_to(folder):
                del sys.modules[name]
        sys.modules.update(modules)
        shutil.rmtree(folder, ignore_errors=True)


# --- one case ----------------------------------------------------------------------------------


def run_case(
    case: Mapping[str, Any], files: Path, folder: Path, found: Callable[[float], None]
) -> None:
    """Import, build, compare, and train for one step.

    Args:
        case: one entry of job.json.
        files: the path of the case's files without their suffix.
        folder: empty; the source and the weights are put there.
        found: told the error of the output once it is known.

    Raises:
        MismatchError: what is wrong; any other exception comes from the code under test.
    """
    data = torch.load(files.with_suffix(".pt"), weights_only=True)
    weights = folder / case["weights_name"]
    shutil.move(files.with_suffix(".py"), folder / f"{case['name']}.py")
    shutil.move(files.with_suffix(".weights"), weights)

    if case["name"] in sys.modules:
        raise MismatchError(f"the name {case['name']} is that of a module which torch has imported")
    module = importlib.import_module(case["name"])
    if not Path(module.__file__ or "").resolve().is_relative_to(folder):
        raise MismatchError(f"the name {case['name']} is that of another module: {module.__file__}")
    factory = getattr(module, case["factory"], None)
    if not callable(factory):
        raise MismatchError(f"the file has no function {case['factory']}")

    state = torch.load(weights, map_location="cpu", weights_only=True)

    fresh = _module(factory(), case["factory"])
    _check_keys(list(state), case["keys"], "the weights")
    _check_keys(list(fresh.state_dict()), case["keys"], "the network")
    fresh.load_state_dict(state, strict=True)
    del fresh

    model = _module(factory(weights=str(weights)), case["factory"])
    _check_keys(list(model.state_dict()), case["keys"], "the network")
    for name, loaded in model.state_dict().items():
        if isinstance(loaded, Tensor):
            if loaded.dtype != state[name].dtype:
                raise MismatchError(
                    f"{name} is {loaded.dtype}, the weights hold {state[name].dtype}"
                )
            if not torch.equal(loaded, state[name]):
                raise MismatchError(f"{name} does not hold the values of the weights after loading")

    model.eval()
    inputs = _copied(data["inputs"])
    if case["in_float64"]:
        # The weights are float32's, and go back to it unchanged.
        model, inputs = model.double(), [mapped_tensors(value, widened) for value in inputs]
    with torch.no_grad():
        actual = flatten_output(model(*inputs))
    error = compare(actual, [(path, kind, value) for path, kind, value in data["expected"]])
    found(error)
    if not error <= case["tolerance"]:
        raise MismatchError(
            f"the output differs from the oracle by {error:.2e}, more than {case['tolerance']:.0e}"
        )
    if case["trains"]:
        train_step(model.float() if case["in_float64"] else model, data["inputs"])


def _module(value: object, factory: str) -> nn.Module:
    if not isinstance(value, nn.Module):
        raise MismatchError(
            f"{factory}() returns a {type(value).__name__}, expected a torch.nn.Module"
        )
    return value


def _check_keys(keys: Sequence[str], expected: Sequence[str], whose: str) -> None:
    if list(keys) == list(expected):
        return
    missing = [key for key in expected if key not in keys]
    unexpected = [key for key in keys if key not in expected]
    what = [
        f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for names, kind in ((missing, "missing"), (unexpected, "unexpected"))
        if names
    ]
    raise MismatchError(f"state_dict keys of {whose}: {', '.join(what) or 'in another order'}")


def _copied(inputs: Sequence[Any]) -> list[Any]:
    """Fresh tensors for every run: a network may write into its input."""
    return [mapped_tensors(value, Tensor.clone) for value in inputs]


def mapped_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Plain containers with other tensors in them."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: mapped_tensors(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(mapped_tensors(item, change) for item in value)
    return value


def widened(tensor: Tensor) -> Tensor:
    """The same values in float64; integers and complex ones stay, as in `Module.double`."""
    return tensor.double() if tensor.is_floating_point() else tensor


def train_step(model: nn.Module, inputs: Sequence[Any]) -> None:
    """One step of SGD on a doubled batch: batch norm refuses single values.

    Raises:
        MismatchError: something is not finite; any other exception comes from the network.
    """
    model.train()
    try:
        outputs = model(*[mapped_tensors(value, _doubled) for value in inputs])
    except Exception as error:
        try:
            # A network that takes one batch size only is trained on that one.
            outputs = model(*_copied(inputs))
        except Exception:
            raise error from None
    losses = []
    for path, kind, value in flatten_output(outputs):
        if kind != "tensor" or not (value.is_floating_point() or value.is_complex()):
            continue
        if value.isnan().any():
            raise MismatchError(f"{path}: {int(value.isnan().sum())} NaN in train mode")
        if value.requires_grad:
            losses.append(value.abs().float().square().mean())
    if not losses:
        return
    torch.autograd.backward([torch.stack(losses).sum()])
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            raise MismatchError(f"the gradient of {name} is not finite in train mode")
    with torch.no_grad():
        # SGD by hand: the first use of torch.optim imports the compiler, which takes seconds.
        for parameter in parameters.values():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad, alpha=1e-3)
    for name, parameter in parameters.items():
        if not parameter.isfinite().all():
            raise MismatchError(f"{name} is not finite after one step of SGD")


def _doubled(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, tensor]) if tensor.dim() else tensor.clone()


# --- the job -----------------------------------------------------------------------------------


def main(job: Path) -> None:
    """Run every case of the job; a case that fails, in whatever way, does not stop the others."""
    _leave_with_the_parent()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What is printed must not wait in a buffer when a case hangs, or show up in the next one.
        sys.stdout.reconfigure(line_buffering=True)
    # Nothing is to lie in a case's folder that the case did not put there.
    sys.dont_write_bytecode = True
    for name in [name for name in sys.modules if name.partition(".")[0] == PROJECT]:
        del sys.modules[name]
    output = job / "output.txt"
    with (job / "results.jsonl").open("a", encoding="utf-8") as results:

        def report(**line: Any) -> None:
            results.write(json.dumps(line) + "\n")
            results.flush()

        for number, case in enumerate(json.loads((job / "job.json").read_text(encoding="utf-8"))):
            report(case=number)
            printed = output.stat().st_size
            errors: list[float] = []
            message = ""
            folder = (Path.cwd() / f"case{number}").resolve()
            folder.mkdir()
            refusing = Refusing(
                [PROJECT, *case["modules"]],
                [Path(path) for path in case["folders"]],
                (case["name"], folder),
            )
            try:
                with _isolated(folder, refusing):
                    run_case(case, job / str(number), folder, errors.append)
            # SystemExit and KeyboardInterrupt too: the code under test may raise what it likes.
            except BaseException as error:
                message = _described(error, folder)
                sys.stdout.flush()
                sys.stderr.flush()
                message += quoted_tail(output, printed)
            report(case=number, error=max(errors, default=None), message=message)
    # Not sys.exit: a thread that a case has left behind must not keep this process alive.
    os._exit(0)


def _described(error: BaseException, folder: Path) -> str:
    """One line: what was raised and, for code under test, where."""
    text = " ".join(str(error).split())
    text = text if len(text) <= 400 else f"{text[:400]}..."
    if isinstance(error, MismatchError):
        return text
    line = f"{type(error).__name__}: {text}" if text else type(error).__name__
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).is_relative_to(folder):
            return f"{line} ({Path(frame.filename).name}, line {frame.lineno}, in {frame.name})"
    return line


def quoted_tail(output: Path, start: int = 0, lines: int = 3) -> str:
    """The last lines that were printed since `start` (in bytes), for the end of a message."""
    try:
        printed = output.read_bytes()[start:].decode(errors="replace")
    except OSError:
        return ""
    last = [" ".join(line.split())[:200] for line in printed.splitlines() if line.strip()][-lines:]
    return f"; printed last: {' | '.join(last)}" if last else ""


def _leave_with_the_parent() -> None:
    """The other end of stdin closes when the parent ends, in whatever way; then so does this."""
    pipe = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)

    def wait() -> None:
        while os.read(pipe, 1):
            pass
        os._exit(3)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
