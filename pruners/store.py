"""Artifacts: bytes that do not depend on when and where, written whole or not at all.

    content = save_bytes(state_dict)
    commit({out / "net.pth": content, out / "net.json": manifest_text(manifest).encode()})

Names with versions are given by `model_store.py`.

Reading is the other half: `read_state_dict` and `load_checkpoint` take weights from a file that
may be anything, and execute nothing found in it.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import pickle
import pickletools
import re
import secrets
import signal
import sys
import tempfile
import threading
import time
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from pruners.errors import PrunerError, did_you_mean

_VERSION = re.compile(r".+_v(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)\.pth")
_TEMPORARY = re.compile(r"\..+\.(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}\.part")
_HELD_BACK = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
_ONE_DAY_S = 86_400.0
_LINE = 100
_FOLDERS = ContextVar("folders", default="--out DIR (weights: --store-dir DIR)")
"""The options that choose the folders that are written."""


class VersionTakenError(PrunerError):
    """Another process took this version of the weights first; nothing was written."""


@contextmanager
def chosen_by(options: str) -> Iterator[None]:
    """Errors of the block about folders name these options: `--exp DIR`."""
    before = _FOLDERS.set(options)
    try:
        yield
    finally:
        _FOLDERS.reset(before)


def _way_out() -> str:
    return f"choose another with {_FOLDERS.get()}"


# --- bytes -------------------------------------------------------------------------------------


def save_bytes(state_dict: Mapping[str, Tensor]) -> bytes:
    """What `torch.save` writes for this state_dict, the same bytes for the same content.

    Four things other than the content reach the file when `torch.save` is called as usual, and
    are taken out here: the stem of the path (hence a buffer), the memory layout (strides, the
    whole storage behind a slice, device, `requires_grad`), the type of the mapping and of its
    tensors, and which strings happen to be one object (the pickler writes a repeated object as a
    reference; hence `sys.intern`). Tensors that are the same view of one storage stay tied, and
    `_metadata` (module versions) is kept. What remains is torch's own version, and its process-wide
    settings in `torch.serialization` (checksums, alignment).

    Args:
        state_dict: tensors by name; the order of the names is part of the content.

    Returns:
        A file that `torch.load(..., weights_only=True)` reads, as an OrderedDict on the CPU.

    Raises:
        PrunerError: a value is not a dense tensor with data.
    """
    plain: OrderedDict[str, Tensor] = OrderedDict()
    written: dict[tuple[object, ...], Tensor] = {}
    for name, value in state_dict.items():
        _check_dense(name, value)
        identity = _identity(value)
        tensor = written.get(identity) if identity is not None else None
        if tensor is None:
            tensor = value.detach().cpu().resolve_conj().resolve_neg()
            tensor = tensor.as_subclass(Tensor).clone(memory_format=torch.contiguous_format)
            if identity is not None:
                written[identity] = tensor
        plain[sys.intern(name)] = tensor
    metadata = getattr(state_dict, "_metadata", None)
    if isinstance(metadata, Mapping):
        # An OrderedDict takes attributes; mypy's stub does not say so.
        plain._metadata = _plain_metadata(metadata)  # type: ignore[attr-defined]
    buffer = io.BytesIO()
    torch.save(plain, buffer)
    return buffer.getvalue()


def _check_dense(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise PrunerError(f"state_dict: {name} holds {type(value).__name__}, expected a tensor")
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        kind = "meta" if value.is_meta else "quantized" if value.is_quantized else value.layout
        raise PrunerError(
            f"state_dict: {name} is a {kind} tensor, expected a dense one; "
            f"convert it before it is pruned"
        )


def _identity(tensor: Tensor) -> tuple[object, ...] | None:
    """Equal for two tensors that are the same view of the same memory; None without elements."""
    if tensor.numel() == 0:
        return None
    where = (str(tensor.device), tensor.untyped_storage().data_ptr(), tensor.storage_offset())
    return (*where, tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.is_conj())


def _plain_metadata(metadata: Mapping[str, Any]) -> OrderedDict[str, dict[str, Any]]:
    """Module versions with interned strings, without the note that `load_state_dict` leaves."""
    return OrderedDict(
        (
            sys.intern(str(module)),
            {
                sys.intern(str(key)): value
                for key, value in entries.items()
                if key != "assign_to_params_buffers"
            },
        )
        for module, entries in metadata.items()
        if isinstance(entries, Mapping)
    )


SEAL = "manifest_sha256"
"""The key under which a manifest has the digest of everything else in it."""


def sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with its seal, by which a reader sees that nothing in it has changed."""
    return {**manifest, SEAL: _seal_of(json.loads(manifest_text(manifest)))}


def is_intact(facts: Mapping[str, Any]) -> bool:
    """Whether a manifest says what was written; one without a seal (of older versions) may."""
    return SEAL not in facts or facts[SEAL] == _seal_of(facts)


def _seal_of(facts: Mapping[str, Any]) -> str:
    return json_digest({key: value for key, value in facts.items() if key != SEAL})


def json_digest(facts: Mapping[str, Any]) -> str:
    """SHA-256 of what JSON says, whatever its order and layout."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def parsed_json(content: bytes | str) -> Any:
    """What JSON holds; ValueError for anything else, however deep it is nested."""
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """Readable JSON, the same text for the same content.

    Keys keep their order, one a line; a list of numbers, or of lists of numbers, takes one line
    however long it is (kept indices), other lists take one if they fit. Numpy scalars and arrays
    are written as numbers and lists.

    Raises:
        ValueError: a number is NaN or infinite (JSON knows neither).
        TypeError: a key is not a string, or a value has no JSON form.
    """
    return _json(manifest, "", "manifest") + "\n"


def _json(value: Any, indent: str, where: str) -> str:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    inner = indent + "  "
    if isinstance(value, Mapping):
        if not value:
            return "{}"
        rows = []
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{where}: key {key!r} is not a string")
            rows.append(f"{inner}{json.dumps(key)}: {_json(item, inner, f'{where}.{key}')}")
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    if isinstance(value, list | tuple):
        items = [_json(item, inner, f"{where}[{i}]") for i, item in enumerate(value)]
        line = f"[{', '.join(items)}]"
        flat = "\n" not in line and "{" not in line
        if not items or _is_numbers(value) or (flat and len(indent) + len(line) <= _LINE):
            return line
        return "[\n" + ",\n".join(inner + item for item in items) + f"\n{indent}]"
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}, which JSON cannot hold")
    if value is None or isinstance(value, str | int | float):
        return json.dumps(value)
    raise TypeError(f"{where} is a {type(value).__name__}, which JSON cannot hold")


def _is_numbers(value: Any) -> bool:
    """Whether this is a list of numbers, at any depth."""
    if isinstance(value, np.ndarray):
        return True
    if isinstance(value, list | tuple):
        return all(
            isinstance(item, int | float | np.generic) or _is_numbers(item) for item in value
        )
    return False


# --- writing -----------------------------------------------------------------------------------


def holds_content(path: Path, content: bytes) -> bool:
    """Whether this is a file with exactly this content."""
    if not path.is_file() or path.stat().st_size != len(content):
        return False
    return path.read_bytes() == content


@dataclass(frozen=True, slots=True)
class _Step:
    """A file written under a temporary name beside its final one."""

    temporary: Path
    target: Path
    claims: bool
    """Whether it is a version, and must not replace what has its name."""


def commit(files: Mapping[Path, bytes], versions: Collection[Path] = ()) -> None:
    """Write all of these files, or leave every one as it was.

    First each content goes to a temporary file in the directory of its target and is flushed to
    the disk (`fsync`). This is the long part; whatever ends it (an error, Ctrl-C, a kill) leaves
    only temporary files, which no reader takes for results, and which this call, or the next one
    after a kill, removes. Then, with the directories locked against other processes and SIGINT,
    SIGTERM and SIGHUP held back until it is done, every temporary file gets its final name. If a
    rename fails after others have succeeded, those are taken back: a hard link to the previous
    file was made before it was replaced.

    A file named like `..._v1.3.pth`, or listed in `versions`, is a version and never overwritten:
    its name is made with `os.link`, which fails where the name exists. With the same content there
    already it is left alone; otherwise the call raises `VersionTakenError`, and the caller takes
    the next name (`ModelStore.add` does so).

    The one gap: SIGKILL or a power cut within the renames (microseconds) can leave the first of
    several files new and the last ones old; each of them is whole even then.

    Args:
        files: content by final path, renamed in this order (versions first); missing parent
            folders are made.
        versions: those of the files that are versions whatever they are called.

    Raises:
        VersionTakenError: a version exists with other content.
        PrunerError: a folder cannot be written.
    """
    plan = {Path(path): content for path, content in files.items()}
    claimed = {Path(path) for path in versions}
    steps: list[_Step] = []
    try:
        for folder in dict.fromkeys(path.parent for path in plan):
            _make_folder(folder)
        for target, content in plan.items():
            if target.is_dir():
                raise PrunerError(f"{target}: is a directory, expected a file name; {_way_out()}")
            claims = target in claimed or _VERSION.fullmatch(target.name) is not None
            step = _Step(_temporary_path(target), target, claims)
            # Known to the clean-up below before it exists on the disk.
            steps.append(step)
            try:
                _write(step.temporary, content)
            except OSError as error:
                raise refusal(target.parent, "written", error) from error
        steps.sort(key=lambda step: not step.claims)
        with _locked({path.parent for path in plan}), _signals_held_back():
            _rename_all(steps, plan)
    finally:
        for step in steps:
            with suppress(OSError):
                step.temporary.unlink()


def check_writable(folder: str | Path) -> None:
    """Nothing, when files can be made in this folder, or the folder itself where it is missing.

    Before long work: a file without a name is made in the nearest folder that exists, which
    leaves no trace.

    Raises:
        PrunerError: the folder cannot be written.
    """
    folder = Path(folder)
    try:
        stands = next((p for p in (folder, *folder.parents) if p.exists()), folder)
        with tempfile.TemporaryFile(dir=stands):
            pass
    except OSError as error:
        raise refusal(folder, "written", error) from error


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refusal(folder, "written", error) from error
    _remove_stale(folder)


def _write(path: Path, content: bytes) -> None:
    # Not tempfile.mkstemp: its files are private (0600), these follow the umask.
    descriptor = os.open(
        path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666
    )
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _rename_all(steps: Sequence[_Step], plan: Mapping[Path, bytes]) -> None:
    """Give every temporary file its final name; on any failure take back those given already."""
    undo: list[Callable[[], None]] = []
    backups: list[Path] = []
    try:
        for step in steps:
            try:
                if step.claims:
                    _create(step, plan[step.target], undo)
                else:
                    _replace(step, undo, backups)
            except OSError as error:
                raise refusal(step.target.parent, "written", error) from error
        for folder in {step.target.parent for step in steps}:
            _flush_folder(folder)
    except BaseException:
        for take_back in reversed(undo):
            with suppress(OSError):
                take_back()
        raise
    finally:
        for backup in backups:
            with suppress(OSError):
                backup.unlink()


def _create(step: _Step, content: bytes, undo: list[Callable[[], None]]) -> None:
    """A version gets its name only if nobody has it."""
    if holds_content(step.target, content):
        return
    try:
        os.link(step.temporary, step.target)
    except FileExistsError:
        raise VersionTakenError(
            f"{step.target}: exists with other content and versions are never overwritten; "
            f"run again to take the next version"
        ) from None
    except OSError as error:
        if not _no_hard_links(error):
            raise
        # Without hard links the lock on the folder alone keeps others away.
        if step.target.exists():
            raise VersionTakenError(
                f"{step.target}: exists with other content and versions are never overwritten; "
                f"run again to take the next version"
            ) from None
        os.replace(step.temporary, step.target)
    undo.append(step.target.unlink)


def _replace(step: _Step, undo: list[Callable[[], None]], backups: list[Path]) -> None:
    if os.path.lexists(step.target):
        backup = _temporary_path(step.target)
        backups.append(backup)
        try:
            os.link(step.target, backup, follow_symlinks=False)
        except OSError as error:
            if not _no_hard_links(error):
                raise
            _write(backup, step.target.read_bytes())
        os.replace(step.temporary, step.target)
        undo.append(lambda: os.replace(backup, step.target))
    else:
        os.replace(step.temporary, step.target)
        undo.append(step.target.unlink)


def _no_hard_links(error: OSError) -> bool:
    return error.errno in {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def _flush_folder(folder: Path) -> None:
    # Names outlive a power cut only when the folder is flushed; not every system can.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _locked(folders: set[Path]) -> Iterator[None]:
    """No other process renames files in these folders meanwhile, where the system has flock.

    The lock is on the folder itself: there is no lock file to leave behind, and the system
    releases it when the process ends in whatever way.
    """
    with ExitStack() as stack:
        try:
            import fcntl
        except ImportError:
            pass
        else:
            # One order for everybody, or two processes could wait for each other.
            for folder in sorted({folder.resolve() for folder in folders}):
                with suppress(OSError):
                    descriptor = os.open(folder, os.O_RDONLY)
                    stack.callback(os.close, descriptor)
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Signals that would end the program take effect when the block is done.

    Blocking them (`pthread_sigmask`) does not do: the system hands a signal to any thread that
    does not block it, and torch has threads of its own. So the handlers are exchanged, which Python
    allows in the main thread only; elsewhere no KeyboardInterrupt arrives anyway.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        arrived.append(number)

    before: dict[int, Any] = {}
    try:
        for number in _HELD_BACK:
            # None: a handler that Python did not install and could not put back.
            if signal.getsignal(number) is not None:
                before[number] = signal.signal(number, remember)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for number in dict.fromkeys(arrived):
        signal.raise_signal(number)


def _temporary_path(target: Path) -> Path:
    # Hidden, and with a suffix of its own: no pattern for results matches it.
    return target.with_name(f".{target.name}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}.part")


def _host() -> str:
    name = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")
    return f"{zlib.crc32(name.encode()):08x}"


def _remove_stale(folder: Path) -> None:
    for path in stale_files(folder):
        with suppress(OSError):
            path.unlink()


def stale_files(folder: Path) -> list[Path]:
    """Temporary files whose process is gone, or that are a day old; never a live one's."""
    stale = []
    with suppress(OSError):
        for path in folder.iterdir():
            found = _TEMPORARY.fullmatch(path.name)
            if not found:
                continue
            with suppress(OSError):
                old = time.time() - path.stat().st_mtime > _ONE_DAY_S
                # A process number means something on its own machine only.
                gone = found["host"] == _host() and not _is_alive(int(found["pid"]))
                if old or gone:
                    stale.append(path)
    return sorted(stale)


def _is_alive(pid: int) -> bool:
    if os.name != "posix":
        # os.kill(pid, 0) ends the process on Windows.
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def refusal(folder: Path, done: str, error: OSError) -> PrunerError:
    """One line for a folder that refuses."""
    if isinstance(error, FileExistsError | NotADirectoryError):
        stands = next(
            (p for p in (folder, *folder.parents) if p.exists() and not p.is_dir()), folder
        )
        return PrunerError(f"{stands}: is a file, expected a directory; {_way_out()}")
    if error.errno in {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}:
        return PrunerError(f"{folder}: no space left; free some, or {_way_out()}")
    verb = "be read" if done == "read" else "be written"
    return PrunerError(f"{folder}: cannot {verb} ({error.strerror or error}); {_way_out()}")


# --- reading -----------------------------------------------------------------------------------


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, on the CPU; nothing found in it is executed.

    `{"state_dict": ...}` and `{"model": ...}` around the tensors are unwrapped, and a `module.`
    before every name (DataParallel) is taken off; `_metadata` (module versions) is kept.

    Args:
        path: a `.pth` or `.pt` file of `torch.save`, or a `.safetensors` file.

    Raises:
        PrunerError: no such file, a directory, an unknown suffix, damaged, refused because it
            would run code, or not a state_dict.
    """
    return _without_prefix(_read(Path(path)))


def load_checkpoint(
    model: nn.Module,
    path: str | Path,
    way_out: str = "check --depth, --num-classes, --input-shape and --arch-args",
) -> None:
    """Load a checkpoint into the model, every tensor of it; a model that refuses keeps its values.

    Args:
        way_out: what the message recommends where the checkpoint is of another network.

    Raises:
        PrunerError: as `read_state_dict`, or the names or shapes are those of another network.
    """
    path = Path(path)
    state = _read(path)
    own = model.state_dict()
    if not own or not all(name.startswith("module.") for name in own):
        state = _without_prefix(state)
    _check_types(path, state, own)
    before = None
    if {n: t.shape for n, t in state.items()} != {n: _shape(v) for n, v in own.items()}:
        # A module may rename or add entries as it loads (old versions), so it is asked, and its
        # values are put back if it refuses.
        before = {n: v.clone() for n, v in own.items() if isinstance(v, Tensor)}
    try:
        model.load_state_dict(state, strict=True)
    except Exception as error:
        if before is not None:
            with torch.no_grad():
                for name, values in before.items():
                    own[name].copy_(values)
        why = " ".join(_differences(state, own).split()) or _one_line(error)
        raise PrunerError(
            f"checkpoint {path} is not of this {type(model).__name__}: {why}; {way_out}"
        ) from error


def _check_types(path: Path, state: Mapping[str, Tensor], own: Mapping[str, Any]) -> None:
    """PrunerError where a tensor would be another one in the type that the network has.

    torch converts whatever it is given: it drops imaginary parts, and takes the integers of a
    quantized network for weights.
    """
    for name, tensor in state.items():
        ours = own.get(name)
        if isinstance(ours, Tensor) and ours.dim() == 0 and tensor.shape == (1,):
            tensor = tensor[0]  # as torch 0.3 stored scalars
        if not isinstance(ours, Tensor) or ours.shape != tensor.shape or not _is_plain(tensor):
            continue  # told by `load_state_dict`
        if tensor.dtype == ours.dtype:
            continue
        what = f"checkpoint {path}: {name} holds {tensor.dtype}, expected {ours.dtype}"
        floats = tensor.is_floating_point(), ours.is_floating_point()
        counts = tensor.dim() == 0 and not tensor.is_complex()
        if (tensor.is_complex() != ours.is_complex() or floats[0] != floats[1]) and not counts:
            raise PrunerError(f"{what}; save the weights that the network itself computes with")
        converted = tensor.to(ours.dtype)
        if all(floats):
            # Some narrow types cannot be asked.
            wide = tensor.to(torch.float64)
            lost = bool((wide.isfinite() != converted.isfinite()).any())
        else:
            lost = not torch.equal(converted.to(tensor.dtype), tensor)
        if lost and not floats[1] and not tensor.isfinite().all():
            raise PrunerError(
                f"{what}, and is no number; convert floating tensors only (v.half() if "
                f"v.is_floating_point() else v), or put a 0 there, which counts batches only"
            )
        if lost:
            raise PrunerError(f"{what}, which cannot hold its values; convert it before")


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta


def _shape(value: object) -> object:
    return value.shape if isinstance(value, Tensor) else None


def _differences(state: Mapping[str, Tensor], own: Mapping[str, Any]) -> str:
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    shaped = [
        f"{name} is {_size(state[name])}, expected {_size(value)}"
        for name, value in own.items()
        if name in state and isinstance(value, Tensor) and state[name].shape != value.shape
    ]
    parts = [
        f"{len(names)} {what} ({_first(names)})"
        for names, what in (
            (missing, "missing"),
            (unexpected, "unexpected"),
            (shaped, "of another shape"),
        )
        if names
    ]
    return ", ".join(parts)


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def _first(names: Sequence[str], count: int = 3) -> str:
    rest = len(names) - count
    return "; ".join(names[:count]) + (f"; and {rest} more" if rest > 0 else "")


def _read(path: Path) -> OrderedDict[str, Tensor]:
    """The tensors with their names as they stand in the file."""
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as error:
        raise PrunerError(f"checkpoint {path}: cannot be read ({error.strerror})") from error
    if is_folder:
        raise PrunerError(f"checkpoint {path}: is a directory, expected a file")
    if not exists:
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise PrunerError(f"checkpoint {path}: no such file{did_you_mean(path.name, near)}")
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return _tensors(path, _read_safetensors(path))
    if suffix in {".pth", ".pt"}:
        return _tensors(path, _read_pickle(path))
    raise PrunerError(
        f"checkpoint {path}: unknown suffix {path.suffix!r}, expected .pth, .pt or .safetensors"
    )


def _read_safetensors(path: Path) -> object:
    try:
        return safetensors.torch.load_file(path, device="cpu")
    except Exception as error:
        raise _damaged(path, error) from error


def _read_pickle(path: Path) -> object:
    _check_sums(path)
    try:
        with warnings.catch_warnings():
            # About pickle protocols and TorchScript: the refusal that follows says it in one line.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        name = found[1] if found else _name_in_raw_pickle(path)
        if name is None:
            raise _damaged(path, "it is not what torch.save writes for tensors") from error
        raise PrunerError(
            f"checkpoint {path}: holds {name}, which would run code to load; refused, nothing "
            f"was executed; save model.state_dict() instead of the model"
        ) from error
    except Exception as error:
        if "TorchScript" in str(error):
            raise PrunerError(
                f"checkpoint {path}: is a TorchScript archive, expected a state_dict; "
                f"save model.state_dict() instead"
            ) from error
        raise _damaged(path, error) from error


def _check_sums(path: Path) -> None:
    """PrunerError where an archive is not what was written: `torch.load` does not look at that."""
    try:
        with path.open("rb") as file:
            if file.read(4) != b"PK\3\4":
                return
        with zipfile.ZipFile(path) as archive:
            # `torch.serialization.set_crc32_options(False)` writes zeros.
            summed = any(entry.CRC for entry in archive.infolist())
            broken = archive.testzip() if summed else None
    except Exception as error:
        raise _damaged(path, error) from error
    if broken is not None:
        raise _damaged(path, f"the checksum of {broken!r} in it is wrong")


def _name_in_raw_pickle(path: Path) -> str | None:
    """The first name that a plain pickle would import, read without executing anything."""
    strings: list[str] = []
    try:
        with path.open("rb") as file:
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name in ("GLOBAL", "INST"):
                    return str(argument).replace(" ", ".")
                if opcode.name == "STACK_GLOBAL":
                    return ".".join(strings[-2:])
                if isinstance(argument, str):
                    strings.append(argument)
    except (ValueError, OSError):
        return None
    return None


def _damaged(path: Path, error: Exception | str) -> PrunerError:
    if isinstance(error, PermissionError):
        return PrunerError(f"checkpoint {path}: cannot be read ({error.strerror})")
    why = error if isinstance(error, str) else _one_line(error)
    size = path.stat().st_size
    return PrunerError(
        f"checkpoint {path}: truncated or damaged ({size} bytes; {why}); copy it again"
    )


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    short = text if len(text) <= 120 else f"{text[:120]}..."
    return f"{type(error).__name__}: {short}" if short else type(error).__name__


def _tensors(path: Path, loaded: object) -> OrderedDict[str, Tensor]:
    """The state_dict in what a file holds, out of one wrapper at most."""
    if isinstance(loaded, Mapping):
        for wrapper in ("state_dict", "model"):
            if isinstance(loaded.get(wrapper), Mapping):
                loaded = loaded[wrapper]
                break
    if not isinstance(loaded, Mapping):
        raise PrunerError(
            f"checkpoint {path}: holds a {type(loaded).__name__}, expected a state_dict "
            f"(tensors by name)"
        )
    if not loaded:
        raise PrunerError(f"checkpoint {path}: holds no tensors, expected a state_dict")
    state: OrderedDict[str, Tensor] = OrderedDict()
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise PrunerError(
                f"checkpoint {path}: is not a state_dict: {name!r} holds a {type(value).__name__}, "
                f"expected tensors by name"
            )
        state[name] = value.detach()
    metadata = getattr(loaded, "_metadata", None)
    if isinstance(metadata, Mapping):
        state._metadata = _plain_metadata(metadata)  # type: ignore[attr-defined]
    return state


def _without_prefix(
    state: OrderedDict[str, Tensor], prefix: str = "module."
) -> OrderedDict[str, Tensor]:
    if not all(name.startswith(prefix) for name in state):
        return state
    plain = OrderedDict((name.removeprefix(prefix), tensor) for name, tensor in state.items())
    metadata = getattr(state, "_metadata", None)
    if metadata is not None:
        # The wrapper itself ("") goes, "module" becomes the root.
        plain._metadata = OrderedDict(  # type: ignore[attr-defined]
            ("" if module == "module" else module.removeprefix(prefix), entries)
            for module, entries in metadata.items()
            if module
        )
    return plain
