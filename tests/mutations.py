"""Spoiled input: a clear error or a correct result, never a wrong one, and nothing is executed.

python -m tests.mutations                        1,000 of every kind (`make test-zoo` does it, too)
python -m tests.mutations --count 50 checkpoints
python -m tests.mutations --only 17 manifests    number 17 of the same run alone

Good files are made once, in a sandbox. Every mutation spoils one of them, or a command line, and
runs the command line in this process, as `python app.py` does. What is looked at:

- the exit code is 0 or 2 (1 where `models verify` has found something), stderr has one line
  `error: ...` in the latter case, and there is no traceback, no `unexpected`, no warning of
  Python's;
- with 0 the result is that of the good file, or of what the spoiled one says, read by other means;
- no payload has run, and no good file has changed.

The generated network is compared in this process (`Written.compared`): a fresh one takes seconds.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import pickle
import random
import re
import resource
import shutil
import struct
import sys
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

import app
from pruners.calls import words
from pruners.errors import PrunerError
from pruners.loading import class_from_file
from pruners.store import SEAL
from pruners.stored_network import load
from pruners.written import Written
from tests.fuzz import no_longer_than
from tests.oracle import randomise

FOLDER = Path("build/mutations")
SECONDS = 60

NET = """\
import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self, width: int = 8, num_classes: int = 4):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.conv2(x))
        return self.fc(x.mean((2, 3)))
"""

State = dict[str, Tensor]


@dataclass(frozen=True)
class Ran:
    """What a command line has said."""

    code: int
    out: str
    err: str
    warned: tuple[str, ...] = ()

    def unclear(self) -> str:
        """What is wrong with how it ended; empty where it is as promised."""
        errors = [line for line in self.err.splitlines() if line.startswith("error: ")]
        if "Traceback" in self.err + self.out:
            return f"a traceback: {self.err[-300:]}"
        if self.code not in (0, 1, 2):
            return f"exit code {self.code}: {self.err[-300:]}"
        if "unexpected " in self.err and "(--debug shows where)" in self.err:
            return f"taken for a bug: {errors}"
        if self.code == 2 and (len(errors) != 1 or not self.err.endswith(f"{errors[0]}\n")):
            return f"not one line: {self.err[-300:]!r}"
        if self.code == 0 and errors:
            return f"an error with exit code 0: {errors}"
        if self.warned:
            return f"a warning of Python's: {self.warned[0]}"
        if odd := [c for c in self.err if not (c.isprintable() or c == "\n")]:
            return f"control characters on the terminal: {odd[:5]!r}"
        return ""


@dataclass(frozen=True)
class Spoiled:
    """A mutation: what was done, and what became of it."""

    what: str
    complaint: str = ""
    """Empty: as promised."""
    result: bool = False
    """Whether there was a result, and not an error."""


@dataclass
class Bench:
    """A sandbox with good files."""

    root: Path
    good: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.work = self.root / "work"
        self.work.mkdir()
        self.canary = self.root / "ran"
        (self.work / "net.py").write_text(NET, encoding="utf-8")
        torch.manual_seed(0)
        self.model = randomise(class_from_file(self.work / "net.py", "Net")())
        self.state: State = {k: v.clone() for k, v in self.model.state_dict().items()}
        torch.save(self.state, self.work / "net.pth")
        torch.save(self.state, self.work / "old.pth", _use_new_zipfile_serialization=False)
        safetensors.torch.save_file(self.state, self.work / "net.safetensors")
        self.must("--arch", "net.py:Net", "--checkpoint", "net.pth", *SHAPE, "--name", "slim")
        self.must("export", "slim", "--torchscript")
        self.must(*ITERATE, "--exp", "exp")
        places = {"store_dir": self.work / "models", "out": self.work / "generated"}
        self.slim = load("slim", "pruned", **places)
        self.kept = json.loads((self.work / "generated/slim.json").read_bytes())["kept"]
        self.good = self.digests()

    def must(self, *arguments: str) -> Ran:
        ran = self.run(*arguments)
        assert ran.code == 0, ran
        return ran

    def run(self, *arguments: str) -> Ran:
        """One command line, in the sandbox."""
        out, err = io.StringIO(), io.StringIO()
        before, seconds = Path.cwd(), no_longer_than(SECONDS)
        os.chdir(self.work)
        try:
            with warnings.catch_warnings(record=True) as caught, seconds, _compared_here():
                warnings.simplefilter("always")
                # What torch itself says of its own future is not about the input.
                warnings.simplefilter("ignore", DeprecationWarning)
                warnings.simplefilter("ignore", FutureWarning)
                with redirect_stdout(out), redirect_stderr(err):
                    try:
                        code = app.main(list(arguments))
                    except SystemExit as ended:
                        code = ended.code if isinstance(ended.code, int) else 1
        finally:
            os.chdir(before)
        warned = tuple(str(w.message) for w in caught if not _is_of_exporters(w))
        return Ran(code, out.getvalue(), err.getvalue(), warned)

    def digests(self) -> dict[str, str]:
        """Of every file in the sandbox that a mutation is not made in."""
        return {
            path.relative_to(self.root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and "spoiled" not in path.parts and "__pycache__" not in path.parts
        }

    def spoiled(self) -> Path:
        """A new folder for one mutation; the one before it is removed."""
        for path in self.work.glob("spoiled*"):
            shutil.rmtree(path)
        # A name of its own: modules are known by their path.
        self._count = getattr(self, "_count", 0) + 1
        folder = self.work / "spoiled" / str(self._count)
        folder.mkdir(parents=True)
        return folder

    def damage(self) -> str:
        """What has happened beside the result: a payload that ran, a good file that changed."""
        if self.canary.exists():
            self.canary.unlink()
            return "EXECUTED: a payload has run"
        now = self.digests()
        changed = sorted(
            name for name in {**self.good, **now} if self.good.get(name) != now.get(name)
        )
        self.good = now
        return f"changed outside its folder: {changed}" if changed else ""


SHAPE = ("--input-shape", "3,8,8")
ITERATE = words(
    "iterate --arch twolayermlp --dataset Digits --step 20 --epochs 0 --images 8 "
    "--augmentations 1 --levels 2 --activations none"
)


@contextmanager
def _compared_here() -> Iterator[None]:
    real = Written.verified
    Written.verified = Written.compared  # type: ignore[method-assign]
    try:
        yield
    finally:
        Written.verified = real  # type: ignore[method-assign]


def _is_of_exporters(warning: warnings.WarningMessage) -> bool:
    return issubclass(warning.category, DeprecationWarning | FutureWarning) or (
        "torch/jit" in warning.filename or "torch/onnx" in warning.filename
    )


# --- bytes --------------------------------------------------------------------------------------


def corrupted(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    """Bytes that are not those that were written."""
    data = bytearray(content)
    how = rng.choice(["flip", "flip", "flip", "flips", "cut", "zeros", "noise", "gone", "more"])
    at = rng.randrange(len(data))
    size = rng.randint(1, 64)
    match how:
        case "flip":
            data[at] ^= 1 << rng.randrange(8)
        case "flips":
            for _ in range(rng.randint(2, 16)):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case "cut":
            del data[at:]
        case "zeros":
            data[at : at + size] = bytes(len(data[at : at + size]))
        case "noise":
            data[at : at + size] = rng.randbytes(len(data[at : at + size]))
        case "gone":
            del data[at : at + size]
        case "more":
            data[at:at] = rng.randbytes(size)
    return f"{how} at {at}", bytes(data)


class Payload:
    """Makes a file when it is unpickled by the usual means."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.canary}'",)


# --- checkpoints ----------------------------------------------------------------------------------


def checkpoints(rng: random.Random, bench: Bench) -> Spoiled:
    """Weights that are damaged, of another type, of another network, or code."""
    folder = bench.spoiled()
    kind = rng.choice(["bytes", "bytes", "dtype", "content", "payload"])
    suffix = ".pth"
    said: State | None
    if kind == "bytes":
        name = rng.choice(["net.pth", "net.pth", "old.pth", "net.safetensors"])
        suffix = Path(name).suffix
        how, content = corrupted(rng, (bench.work / name).read_bytes())
        what, said = f"{name}: {how}", bench.state
        if name != "net.pth":
            # These have no checksums: what they say is what they are.
            said = _read_otherwise(content, suffix)
    elif kind == "dtype":
        what, content, said = _other_dtype(rng, bench.state)
    elif kind == "content":
        what, content, said = _other_content(rng, bench.state)
    else:
        what, content = _with_payload(rng, bench)
        said = None
    path = folder / f"net{suffix}"
    path.write_bytes(content)
    where = str(path.relative_to(bench.work))
    out = folder / "out"
    ran = bench.run(
        *("--arch", "net.py:Net", "--checkpoint", where, *SHAPE, "--name", "slim"),
        *("--out", str(out), "--store-dir", str(folder / "models")),
    )
    complaint = ran.unclear() or bench.damage()
    if not complaint and ran.code == 1 and "NaN" not in ran.err:
        complaint = f"exit code 1: {ran.err}"
    if not complaint and ran.code == 0:
        complaint = _wrong_weights(out / "slim.json", folder / "models", said)
    return Spoiled(what, complaint, ran.code == 0)


def _wrong_weights(manifest: Path, store: Path, said: State | None) -> str:
    """Whether what was stored is not the slim network of these weights."""
    if said is None:
        return "WRONG: a result of what is no checkpoint of this network"
    kept = json.loads(manifest.read_bytes())["kept"]
    (path,) = (store / "pruned").glob("*.pth")
    slim = torch.load(path, weights_only=True)
    if list(slim) != list(kept):
        return "WRONG: other keys"
    for name, tensor in slim.items():
        expected = said[name].to(tensor.dtype)
        for dim, indices in enumerate(kept[name]):
            expected = expected.index_select(dim, torch.tensor(indices, dtype=torch.int64))
        if not torch.equal(tensor, expected):
            return f"WRONG: {name} is not what the checkpoint says"
    return ""


def _read_otherwise(content: bytes, suffix: str) -> State | None:
    """What a checkpoint without checksums says; None where it says nothing."""
    try:
        if suffix == ".pth":
            loaded: State = torch.load(io.BytesIO(content), weights_only=True)
            return loaded
        # The safetensors format: the size of a JSON header, the header, the data.
        (size,) = struct.unpack("<Q", content[:8])
        header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
        types = {"F32": np.float32, "I64": np.int64}
        state = {}
        for name, entry in header.items():
            if name != "__metadata__":
                start, end = entry["data_offsets"]
                array = np.frombuffer(data[start:end], types[entry["dtype"]])
                state[name] = torch.from_numpy(array.copy()).reshape(entry["shape"])
    except Exception:
        return None
    return state


DTYPES = (
    *(torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.uint8, torch.int32),
    *(torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn),
)


def _saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _other_dtype(rng: random.Random, state: State) -> tuple[str, bytes, State | None]:
    """One tensor, or all of them, in another type; floats may be written for floats."""
    dtype = rng.choice(DTYPES)
    names = list(state) if rng.random() < 0.3 else [rng.choice(list(state))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = {**state, **{name: state[name].to(dtype) for name in names}}
        if dtype == torch.float64 and rng.random() < 0.3:
            # More than float32 can hold.
            other[names[0]] = other[names[0]] * 1e300
    good = all(
        tensor.dtype == state[name].dtype
        or (tensor.is_floating_point() and state[name].is_floating_point())
        or (tensor.dim() == 0 and not tensor.is_complex() and int(tensor) == state[name])
        for name, tensor in other.items()
    )
    good = good and all(
        torch.isfinite(t.to(state[n].dtype)).all() for n, t in other.items() if not t.is_complex()
    )
    return f"{len(names)} as {dtype}", _saved(other), other if good else None


def _other_content(rng: random.Random, state: State) -> tuple[str, bytes, State | None]:
    """A file that is whole, and says something else."""
    name = rng.choice(list(state))
    tensor = state[name]
    changes: dict[str, Callable[[], Any]] = {
        "one missing": lambda: {k: v for k, v in state.items() if k != name},
        "one more": lambda: {**state, rng.choice(["../x", "", "a\nb", "\x1b[31m"]): tensor},
        "renamed": lambda: {f"{k}x" if k == name else k: v for k, v in state.items()},
        "another shape": lambda: {**state, name: tensor[None, None]},
        "huge": lambda: {**state, name: torch.zeros(1).expand(10**6, 10**6)},
        "no elements": lambda: {**state, name: tensor.flatten()[:0]},
        "not a tensor": lambda: {**state, name: rng.choice([None, 1, "x", [tensor], b"x"])},
        "sparse": lambda: {**state, name: tensor.to_sparse()},
        "on no device": lambda: {**state, name: tensor.to("meta")},
        "NaN": lambda: {**state, name: tensor * float("nan")},
        "infinite": lambda: {**state, name: tensor / 0.0},
        "nested": lambda: {"state_dict": {"state_dict": state}},
        "a list": lambda: list(state.values()),
        "a tensor": lambda: tensor,
        "nothing": lambda: {},
        "a number": lambda: rng.random(),
        "numbered": lambda: dict(enumerate(state.values())),
    }
    # The same in another form.
    alike: dict[str, Callable[[], Any]] = {
        "wrapped": lambda: {rng.choice(["state_dict", "model"]): state, "epoch": 3},
        "parallel": lambda: {f"module.{k}": v for k, v in state.items()},
        "strided": lambda: {
            k: v.contiguous(memory_format=torch.channels_last) if v.dim() == 4 else v
            for k, v in state.items()
        },
        "shuffled": lambda: dict(rng.sample(list(state.items()), len(state))),
    }
    how = rng.choice([*changes, *alike])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = {**changes, **alike}[how]()
    if how in alike:
        return how, _saved(written), state
    if (how, name) == ("one missing", "bn1.num_batches_tracked"):
        # torch itself starts that counter where an older checkpoint has none.
        return how, _saved(written), {**state, name: torch.zeros_like(tensor)}
    if (how, name) == ("infinite", "bn1.running_var"):
        # The channels of such a norm are constant, and the network is one as any other.
        return how, _saved(written), written
    return how, _saved(written), None


def _with_payload(rng: random.Random, bench: Bench) -> tuple[str, bytes]:
    """A file that runs code where it is unpickled by the usual means."""
    payload, state = Payload(bench.canary), bench.state
    holder: Any = rng.choice(
        [
            payload,
            {**state, "evil": payload},
            {"state_dict": state, "optimizer": payload},
            {**state, payload: torch.ones(1)},
            [payload],
        ]
    )
    how = rng.choice(["zip", "old", "raw", "swapped", "module"])
    if how == "raw":
        protocol = rng.randint(0, 5)
        return f"raw pickle {protocol}", pickle.dumps(holder, protocol)
    if how == "old":
        buffer = io.BytesIO()
        torch.save(holder, buffer, _use_new_zipfile_serialization=False)
        return "old format", buffer.getvalue()
    if how == "module":
        return "a module saved whole", _saved(bench.model)
    if how == "zip":
        return "in an archive", _saved(holder)
    # A whole archive, the pickle in it exchanged, its checksum right.
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(_saved(state))) as old, zipfile.ZipFile(buffer, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename.endswith("data.pkl"):
                content = pickle.dumps(payload, rng.randint(0, 4))
            new.writestr(entry.filename, content)
    return "an archive with another pickle", buffer.getvalue()


# --- manifests -----------------------------------------------------------------------------------

ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        0,
        -1,
        1,
        2**70,
        0.5,
        1e308,
        "",
        "x",
        "../../x",
        "/etc/passwd",
        "a\nb",
        "\x1b[31m",
    ),
    *([], [[]], [None], {}, {"": {}}, [[0]], [[3, 3]], ["x"], {"a": "b"}, "\u2028", "\ud800"),
)


def spoiled_json(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    """JSON that was damaged, or that says something else in one place."""
    if rng.random() < 0.4:
        return corrupted(rng, content)
    if rng.random() < 0.05:
        deep = rng.choice([100, 100_000])
        return f"{deep} deep", b"[" * deep + b"]" * deep
    facts = json.loads(content)
    places = list(_places(facts))
    parent, key = rng.choice(places)
    how = rng.choice(["odd", "odd", "gone", "near", "double"])
    before = parent[key]
    if how == "gone":
        del parent[key]
    elif how == "double" and isinstance(parent, list):
        parent.insert(key, before)
    elif how == "near" and isinstance(before, int | float) and not isinstance(before, bool):
        parent[key] = before + rng.choice([-1, 1])
    elif how == "near" and isinstance(before, str) and before:
        i = rng.randrange(len(before))
        parent[key] = before[:i] + rng.choice("0az_./") + before[i + 1 :]
    else:
        parent[key] = rng.choice(ODD)
    return f"{how} at {key!r}: {str(before)[:40]!r}", json.dumps(facts).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(value, dict):
        items = iter(list(value.items()))
    elif isinstance(value, list):
        items = iter(list(enumerate(value)))
    for key, item in items:
        yield value, key
        yield from _places(item)


def same_json(one: bytes, other: bytes) -> bool:
    try:
        return json.dumps(json.loads(one), sort_keys=True) == json.dumps(
            json.loads(other), sort_keys=True
        )
    except (ValueError, RecursionError):
        return False


def manifests(rng: random.Random, bench: Bench) -> Spoiled:
    """What lies beside generated files, stored weights and levels of experiments."""
    which = rng.choice([_beside_a_file, _beside_weights, _beside_weights, _of_a_level])
    return which(rng, bench)


def _copied(bench: Bench) -> Path:
    folder = bench.spoiled()
    for name in ("generated", "models"):
        shutil.copytree(bench.work / name, folder / name)
    return folder


def _beside_a_file(rng: random.Random, bench: Bench) -> Spoiled:
    folder = _copied(bench)
    path = folder / "generated/slim.json"
    good = path.read_bytes()
    what, content = spoiled_json(rng, good)
    path.write_bytes(content)
    whole = same_json(good, content)
    if rng.random() < 0.5:
        return _exported(bench, folder, f"slim.json: {what}")
    again = folder / "again"
    ran = bench.run(
        *("--arch", f"{folder / 'generated/slim.py'}:Net", *SHAPE, "--name", "again"),
        *("--out", str(again), "--store-dir", str(again / "models")),
    )
    complaint = ran.unclear() or bench.damage()
    if not complaint and ran.code == 0:
        facts = json.loads((again / "again.json").read_bytes())
        known = facts.get("pruned_before")
        if known is not None and known["kept_of"] != "net.py (class Net)":
            complaint = f"WRONG: goes back to {known['kept_of']}"
        if known is not None and not whole and not _is_composed(facts, bench.kept):
            complaint = "WRONG: indices that are not the original's"
        if known is not None and known["parameters"] != 860:
            complaint = f"WRONG: the original had {known['parameters']} parameters"
        if facts["network"] != "Net":
            complaint = f"WRONG: calls the network {facts['network']}"
        if whole and known is None:
            complaint = "WRONG: does not know where it comes from"
    return Spoiled(f"slim.json, pruned again: {what}", complaint, ran.code == 0)


def _is_composed(facts: Any, first: Any) -> bool:
    """Whether what stays is among what the first step had left."""
    return all(
        set(indices) <= set(before)
        for name, dims in facts["kept"].items()
        for indices, before in zip(dims, first[name], strict=True)
    )


def _exported(bench: Bench, folder: Path, what: str) -> Spoiled:
    store = folder / "models"
    shutil.rmtree(store / "final")
    ran = bench.run(
        *("export", "slim", "--torchscript", "--out", str(folder / "generated")),
        *("--store-dir", str(store)),
    )
    complaint = ran.unclear() or bench.damage()
    if not complaint and ran.code == 0:
        (path,) = (store / "final").glob("*.ts")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            script = torch.jit.load(path)
        x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            if not torch.allclose(script(x), bench.slim(x), atol=1e-5):
                complaint = "WRONG: the exported network computes something else"
    return Spoiled(f"{what}, exported", complaint, ran.code == 0)


def _unsealed(content: bytes) -> bytes:
    return json.dumps({k: v for k, v in json.loads(content).items() if k != SEAL}).encode()


def _beside_weights(rng: random.Random, bench: Bench) -> Spoiled:
    folder = _copied(bench)
    stage = rng.choice(["pruned", "pruned", "final"])
    (path,) = (folder / "models" / stage).glob("*.json")
    good = path.read_bytes()
    what, content = spoiled_json(rng, good)
    path.write_bytes(content)
    # Without a seal, and all else as it was: a manifest of an older version.
    whole = same_json(good, content) or same_json(_unsealed(good), content)
    what = f"{path.name}: {what}"
    store = ("--store-dir", str(folder / "models"))
    listed = bench.run("models", *store)
    shown = bench.run("models", "show", "slim", "--json", *store)
    checked = bench.run("models", "verify", *store)
    complaint = listed.unclear() or shown.unclear() or checked.unclear() or bench.damage()
    if not complaint and checked.code != (0 if whole else 1):
        complaint = f"WRONG: models verify says {checked.code}: {checked.out}{checked.err}"
    if not complaint and not whole and shown.code == 0 and path.stem in json.loads(shown.out):
        complaint = "WRONG: models show believes it"
    if complaint or stage != "pruned":
        return Spoiled(what, complaint, checked.code == 0)
    try:
        network = load("slim", "pruned", store_dir=folder / "models", out=folder / "generated")
    except PrunerError as error:
        return Spoiled(what, f"not one line: {error}" if "\n" in str(error) else "")
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        same = torch.equal(network(x), bench.slim(x))
    return Spoiled(what, "" if same else "WRONG: load gives another network", True)


def _same(path: Path, good: Path) -> bool:
    """Whether both files say the same; bytes between the members of an archive say nothing."""
    if path.read_bytes() == good.read_bytes():
        return True
    if path.name != "base.pth":
        return False
    ours, theirs = (torch.load(each, weights_only=True) for each in (path, good))
    return list(ours) == list(theirs) and all(torch.equal(ours[k], theirs[k]) for k in theirs)


def _of_a_level(rng: random.Random, bench: Bench) -> Spoiled:
    """Also what was trained, and the options: all that a run goes on from."""
    folder = bench.spoiled()
    shutil.copytree(bench.work / "exp", folder / "exp")
    names = ["experiment.json", *(f"level_{i}/level.json" for i in (0, 1))]
    names += ["level_1/twolayermlp_level_1.json", "base.pth", "level_0/retrained.pth"]
    path = folder / "exp" / rng.choice(names)
    good = path.read_bytes()
    spoil = spoiled_json if path.suffix == ".json" else corrupted
    what, content = spoil(rng, good)
    path.write_bytes(content)
    ran = bench.run(*ITERATE, "--exp", str(folder / "exp"))
    complaint = ran.unclear() or bench.damage()
    if not complaint and ran.code == 0:
        for file in ("pruned_indices.json", "metrics.csv", "level_1/retrained.pth", "base.pth"):
            if not _same(folder / "exp" / file, bench.work / "exp" / file):
                complaint = f"WRONG: {file} is another"
    return Spoiled(f"{path.relative_to(folder)}: {what}", complaint, ran.code == 0)


# --- model files ----------------------------------------------------------------------------------


def model_files(rng: random.Random, bench: Bench) -> Spoiled:
    """Generated files that are damaged: code that is imported, so another network at the most."""
    folder = _copied(bench)
    path = folder / "generated/slim.py"
    good = path.read_bytes()
    what, content = corrupted(rng, good)
    path.write_bytes(content)
    match rng.choice(["load", "export", "again"]):
        case "load":
            try:
                network = load("slim", "pruned", store_dir=folder / "models", out=path.parent)
            except PrunerError as error:
                return Spoiled(f"loaded, {what}", "not one line" if "\n" in str(error) else "")
            x = torch.randn(2, 3, 8, 8)
            with torch.no_grad():
                same = torch.equal(network(x), bench.slim(x))
            complaint = bench.damage() or ("" if same else "WRONG: load gives another network")
            return Spoiled(f"loaded, {what}", complaint, True)
        case "export":
            return _exported(bench, folder, f"slim.py: {what}")
    again = folder / "again"
    ran = bench.run(
        *("--arch", f"{path}:Net", *SHAPE, "--name", "again"),
        *("--out", str(again), "--store-dir", str(again / "models")),
    )
    complaint = ran.unclear() or bench.damage()
    if not complaint and ran.code == 0 and content != good:
        told = "differs from what its manifest describes" in ran.err
        if not told and "pruned_before" in json.loads((again / "again.json").read_bytes()):
            complaint = "WRONG: takes it for the file that was generated"
    return Spoiled(f"pruned again, {what}", complaint, ran.code == 0)


# --- configuration --------------------------------------------------------------------------------

VALUES = (
    *(
        "",
        " ",
        "-",
        "--",
        "0",
        "-1",
        "1",
        "2",
        "3",
        "99.999",
        "100",
        "1e309",
        "-1e-9",
        "nan",
        "inf",
    ),
    *(
        "1_0",
        "٣",
        "0x10",
        str(2**63),
        str(2**200),
        "1,2",
        "3,8,8,",
        "3,8",
        "3,8,8,8",
        ",,",
        "0,0,0",
    ),
    *("a\nb", "a\x00b", "\x1b[31m", "\ud800", "[/red]", "[bold]", "{", "{}", "[]", "null", "NaN"),
    *('{"width": 6}', '{"width": "x"}', '{"width": -3}', '{"width": 0}', '{"p": 1}', '{"p": NaN}'),
    *('{"width": 1e9}', '{"self": 1}', '{"": 1}', "[" * 100_000, '{"p": null}', '{"p": "2"}'),
    *("../x", "..", ".", "/", "/dev/null", "/dev/full", "/proc/self/mem", "net.py", "net.py:Net"),
    *("net.py:", ":Net", "net.py:nn", "nowhere.py:Net", "net.pth", "models", "x" * 300, "import"),
    *(
        "torch",
        "resnet",
        "timm:",
        "torchvision:",
        "torchvision:nothing",
        "cuda:99",
        "meta",
        "conv1",
    ),
    *("conv1=0.5", "conv1=2", "=", "conv1=", "=0.5", "*=0.1", "**", "[", "conv[", "ChannelNorm"),
    *("FPGM", "Local", "macs", "channels", "sum", "standard", "Digits", "MNIST", "True"),
)
PRUNE = words(
    "--arch net.py:Net --checkpoint net.pth --input-shape 3,8,8 --prune-pct 30 --target params "
    "--measure ChannelNorm --method Global --min-filters 2 --round-to 1 --aggregate mean --seed 0 "
    "--normalizer mean --device cpu --name slim"
)
MORE = words("--max-ratio 0.9 --ratio conv1=0.5 --ignore conv2")
JSONS = ("--arch-args", '{"width": 8}', "--measure-args", '{"p": 2}')
COMMANDS: tuple[tuple[str, ...], ...] = (
    (*PRUNE, *JSONS),
    (*PRUNE, *JSONS),
    (*PRUNE, *MORE),
    (*PRUNE, *JSONS, "--dry-run", "--json"),
    ("graph", "--arch", "net.py:Net", *SHAPE, "--explain", "conv1"),
    ("diff", "--arch", "net.py:Net", *SHAPE, "--prune-pct", "30", "--context", "1"),
    ("write", "--arch", "net.py:Net", *SHAPE, "--name", "whole"),
    ("models", "show", "slim", "--stage", "pruned", "--version", "1.0"),
    ("export", "slim", "--torchscript", "--seed", "0"),
)


def configuration(rng: random.Random, bench: Bench) -> Spoiled:
    """Command lines in which something is odd, missing, double or in the wrong place."""
    folder = bench.spoiled()
    arguments = list(rng.choice(COMMANDS))
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        at = rng.randrange(len(arguments))
        match rng.choice(["odd", "odd", "odd", "odd", "gone", "double", "letter", "exchanged"]):
            case "odd":
                arguments[at] = rng.choice(VALUES)
            case "gone" if len(arguments) > 1:
                del arguments[at]
            case "double":
                arguments.insert(at, arguments[at])
            case "letter" if arguments[at]:
                i = rng.randrange(len(arguments[at]))
                arguments[at] = arguments[at][:i] + rng.choice("0az-{,.") + arguments[at][i + 1 :]
            case "exchanged":
                other = rng.randrange(len(arguments))
                arguments[at], arguments[other] = arguments[other], arguments[at]
        arguments = arguments or ["models"]
    command = next((a for a in arguments if a in _OUT), "")
    places = {"--out": folder / "out", "--store-dir": folder / "models"}
    if command == "export":
        shutil.copytree(bench.work / "generated", places["--out"])
        shutil.copytree(bench.work / "models", places["--store-dir"])
    given = [part for option in _OUT[command] for part in (option, str(places[option]))]
    ran = bench.run(*arguments, *given)
    complaint = ran.unclear() or bench.damage()
    if not complaint and ran.code == 1:
        complaint = f"exit code 1: {ran.err}"
    if not complaint and ran.code == 0 and command == "" and (places["--out"]).exists():
        complaint = _wrong_as_asked(places["--out"], places["--store-dir"], bench)
    return Spoiled(
        " ".join(a if len(a) < 60 else f"{a[:60]}..." for a in arguments), complaint, ran.code == 0
    )


_OUT = {
    "": ("--out", "--store-dir"),
    "graph": (),
    "diff": (),
    "write": ("--out", "--store-dir"),
    "models": (),
    "export": ("--out", "--store-dir"),
}


def _wrong_as_asked(out: Path, store: Path, bench: Bench) -> str:
    """Whether weights that came from the checkpoint are not those, at the kept indices."""
    manifests = list(out.glob("*.json"))
    stored = [json.loads(p.read_bytes()) for p in (store / "pruned").glob("*.json")]
    if len(manifests) == 1 and any(p["file"] == "net.pth" for m in stored for p in m["parents"]):
        return _wrong_weights(manifests[0], store, bench.state)
    return ""


# --- many ----------------------------------------------------------------------------------------

KINDS: dict[str, Callable[[random.Random, Bench], Spoiled]] = {
    "checkpoints": checkpoints,
    "manifests": manifests,
    "model_files": model_files,
    "configuration": configuration,
}


def run(
    kind: str, numbers: Sequence[int], bench: Bench, seed: int = 0, folder: Path | None = None
) -> tuple[Counter[str], list[str]]:
    """These mutations of a kind; counts, and what was not as promised."""
    counts: Counter[str] = Counter()
    complaints = []
    for number in numbers:
        try:
            spoiled = KINDS[kind](random.Random(f"{seed}:{kind}:{number}"), bench)
        except Exception as error:
            spoiled = Spoiled("", f"raised {type(error).__name__}: {error}")
        if spoiled.complaint:
            complaints.append(f"{kind} {number}: {spoiled.what}: {spoiled.complaint}")
            if folder is not None:
                _keep(bench, folder / f"{kind}_seed{seed}_{number}")
        name = "complaints" if spoiled.complaint else "results" if spoiled.result else "errors"
        counts[name] += 1
    return counts, complaints


def _keep(bench: Bench, folder: Path) -> None:
    """The spoiled files, to be looked at."""
    shutil.rmtree(folder, ignore_errors=True)
    for path in (bench.work / "spoiled").glob("*"):
        shutil.copytree(path, folder)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description="Spoiled input.")
    parser.add_argument("kinds", nargs="*", default=list(KINDS), help=", ".join(KINDS))
    parser.add_argument("--count", type=int, default=1000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="this number alone")
    given = parser.parse_args(arguments)
    # A damaged number may ask for more memory than there is.
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
    torch.set_num_threads(1)
    found = []
    with tempfile.TemporaryDirectory(prefix="mutations-") as name:
        bench = Bench(Path(name).resolve())
        for kind in given.kinds:
            numbers = range(given.count) if given.only is None else [given.only]
            counts, complaints = run(kind, numbers, bench, given.seed, FOLDER)
            found += complaints
            print(
                f"{kind}: {counts.total()} mutations, {counts['errors']} clear errors, "
                f"{counts['results']} correct results, {len(complaints)} not as promised",
                flush=True,
            )
            for complaint in complaints:
                print(f"  {re.sub(r'[^ -~]', '?', complaint)}", flush=True)
    wrong = sum("WRONG" in complaint for complaint in found)
    executed = sum("EXECUTED" in complaint for complaint in found)
    print(
        f"wrong results: {wrong}; executed payloads: {executed}; other complaints: "
        f"{len(found) - wrong - executed}"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
