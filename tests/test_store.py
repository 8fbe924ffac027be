"""Artifacts: repeatable bytes, whole or not at all, and files that may be anything."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from pruners import store
from pruners.errors import PrunerError
from pruners.store import (
    VersionTakenError,
    commit,
    load_checkpoint,
    manifest_text,
    read_state_dict,
    save_bytes,
)

ROOT = Path(__file__).resolve().parents[1]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))


def loaded(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), weights_only=True)


# --- save_bytes --------------------------------------------------------------------------------


def test_same_content_gives_the_same_bytes_whatever_the_layout() -> None:
    state = network().state_dict()
    content = save_bytes(state)
    other = OrderedDict()
    for name, tensor in state.items():
        # A key that is another object, a tensor that is a strided part of a larger storage.
        big = torch.zeros(*[size + 2 for size in tensor.shape] or [3], dtype=tensor.dtype)
        part = big[tuple(slice(1, size + 1) for size in tensor.shape) or 0]
        part.copy_(tensor)
        key = "".join(list(name))
        is_weight = tensor.is_floating_point() and tensor.dim()
        other[key] = nn.Parameter(part) if is_weight else part
    other._metadata = pickle.loads(pickle.dumps(state._metadata))  # type: ignore[attr-defined]
    assert save_bytes(other) == content
    assert save_bytes(loaded(content)) == content


def test_channels_last_and_size_one_dimensions_have_one_form() -> None:
    weight = torch.randn(4, 3, 2, 2)
    row = torch.randn(5, 5)[:1].as_strided((1, 3), (99, 1))
    content = save_bytes({"weight": weight, "row": row})
    assert content == save_bytes(
        {"weight": weight.to(memory_format=torch.channels_last), "row": row.clone()}
    )


def test_strings_that_happen_to_be_one_object_do_not_matter() -> None:
    # The module and its parameter are both called weight: one string here, two strings there.
    def state(again: Callable[[str], str]) -> OrderedDict[str, Tensor]:
        made: OrderedDict[str, Tensor] = OrderedDict({"weight": torch.ones(1)})
        made._metadata = {again("weight"): {again("version"): 1}}  # type: ignore[attr-defined]
        return made

    assert save_bytes(state(lambda s: s)) == save_bytes(state(lambda s: "".join(list(s))))


def test_bytes_are_the_same_in_another_process() -> None:
    code = (
        "import sys, hashlib, torch\n"
        "from torch import nn\n"
        "from pruners.store import save_bytes\n"
        "torch.manual_seed(0)\n"
        "net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))\n"
        "sys.stdout.buffer.write(save_bytes(net.state_dict()))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, env=environment
    )
    assert done.stdout == save_bytes(network().state_dict())


def test_a_slice_does_not_drag_its_storage_along() -> None:
    assert len(save_bytes({"a": torch.zeros(100_000)[:2]})) < 5_000


def test_tied_tensors_stay_tied_and_others_do_not_become_so() -> None:
    shared = torch.randn(4, 3)
    state = loaded(save_bytes({"a": shared, "b": shared, "c": shared.clone(), "d": shared[:2]}))
    assert state["a"].data_ptr() == state["b"].data_ptr()
    assert len({t.untyped_storage().data_ptr() for t in state.values()}) == 3
    assert torch.equal(state["d"], shared[:2])


def test_module_versions_travel() -> None:
    state = network().state_dict()
    assert loaded(save_bytes(state))._metadata == state._metadata


def test_the_note_of_an_assigning_load_is_left_out() -> None:
    model = network()
    before = save_bytes(model.state_dict())
    state = model.state_dict()
    model.load_state_dict(state, assign=True)
    assert save_bytes(state) == before


def test_the_given_tensors_are_untouched() -> None:
    weight = nn.Parameter(torch.randn(3, 2).t())
    strides = weight.stride()
    save_bytes({"w": weight})
    assert weight.requires_grad
    assert weight.stride() == strides


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "state_dict: a holds int, expected a tensor"),
        (torch.empty(2, device="meta"), "state_dict: a is a meta tensor, expected a dense one"),
        (torch.eye(2).to_sparse(), "state_dict: a is a torch.sparse_coo tensor"),
    ],
)
def test_what_cannot_be_saved_is_named(value: Any, message: str) -> None:
    with pytest.raises(PrunerError, match=re.escape(message)):
        save_bytes({"a": value})


# --- manifest_text -----------------------------------------------------------------------------


def test_manifest_is_readable() -> None:
    text = manifest_text(
        {
            "name": "resnet20",
            "kept": {"conv1.weight": [np.arange(3), [0, 1]], "n": np.array([1, 2])},
            "widths": [[16, 8], [32, 16]],
            "layers": [{"name": "a", "sizes": list(range(60))}],
            "globs": ["layer1.*"],
            "long": ["a" * 60, "b" * 60],
            "empty": {},
            "none": [],
            "figure": 1.5e-7,
            "exact": True,
            "round": np.int64(8),
            "seed": None,
        }
    )
    numbers = ", ".join(map(str, range(60)))
    assert text == (
        "{\n"
        '  "name": "resnet20",\n'
        '  "kept": {\n'
        '    "conv1.weight": [[0, 1, 2], [0, 1]],\n'
        '    "n": [1, 2]\n'
        "  },\n"
        '  "widths": [[16, 8], [32, 16]],\n'
        '  "layers": [\n'
        "    {\n"
        '      "name": "a",\n'
        f'      "sizes": [{numbers}]\n'
        "    }\n"
        "  ],\n"
        '  "globs": ["layer1.*"],\n'
        f'  "long": [\n    "{"a" * 60}",\n    "{"b" * 60}"\n  ],\n'
        '  "empty": {},\n'
        '  "none": [],\n'
        '  "figure": 1.5e-07,\n'
        '  "exact": true,\n'
        '  "round": 8,\n'
        '  "seed": null\n'
        "}\n"
    )
    assert list(json.loads(text))[:3] == ["name", "kept", "widths"]


def test_long_lists_of_numbers_stay_on_one_line() -> None:
    text = manifest_text({"kept": [list(range(200)), list(range(200))]})
    assert text.count("\n") == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("nan")])
def test_manifest_refuses_what_json_does_not_know(value: float) -> None:
    with pytest.raises(ValueError, match=r"manifest\.verification\[0\] is (nan|inf)"):
        manifest_text({"verification": [value]})


def test_manifest_refuses_other_types() -> None:
    with pytest.raises(TypeError, match="manifest: key 1 is not a string"):
        manifest_text({1: 2})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match=r"manifest\.a is a Tensor"):
        manifest_text({"a": torch.ones(1)})


# --- commit ------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def test_commit_writes_all_and_makes_folders(tmp_path: Path) -> None:
    out, weights = tmp_path / "a" / "generated", tmp_path / "b"
    commit({out / "n.py": b"1", out / "n.json": b"2", weights / "n_v1.0.pth": b"3"})
    assert contents(out) == {"n.py": b"1", "n.json": b"2"}
    assert contents(weights) == {"n_v1.0.pth": b"3"}
    commit({out / "n.py": b"new"})
    assert contents(out) == {"n.py": b"new", "n.json": b"2"}


def test_files_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        commit({tmp_path / "a": b"1"})
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EIO, "I/O error")])
@pytest.mark.parametrize("call", ["replace", "fsync", "link", "open"])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_failure_anywhere_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, nth: int, error: BaseException
) -> None:
    old = {"a.py": b"old a", "b.json": b"old b", "w_v1.0.pth": b"old w"}
    for name, content in old.items():
        (tmp_path / name).write_bytes(content)
    real, calls = getattr(os, call), 0

    def failing(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        # Folders are opened too, to lock and to flush them; a failure there is no reason to stop.
        if call == "open" and Path(args[0]).is_dir():
            return real(*args, **kwargs)
        calls += 1
        if calls == nth:
            raise error
        return real(*args, **kwargs)

    files = {
        tmp_path / "a.py": b"new a",
        tmp_path / "b.json": b"new b",
        tmp_path / "c.py": b"new c",
        tmp_path / "w_v1.1.pth": b"new w",
    }
    monkeypatch.setattr(os, call, failing)
    with pytest.raises((KeyboardInterrupt, PrunerError)):
        commit(files)
    monkeypatch.undo()
    assert contents(tmp_path) == old
    commit(files)
    assert contents(tmp_path) == old | {path.name: data for path, data in files.items()}


def test_a_failing_write_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, content: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    def full(descriptor: int, mode: str) -> Full:
        os.close(descriptor)
        return Full()

    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(os, "fdopen", full)
    with pytest.raises(
        PrunerError, match=r"no space left; free some, or choose another with --out DIR"
    ):
        commit({tmp_path / "a": b"new"})
    monkeypatch.undo()
    assert contents(tmp_path) == {"a": b"old"}


def test_folders_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(
            PrunerError, match=r"/file: is a file, expected a directory; .*--out DIR"
        ):
            commit({folder / "a": b"1"})
    (tmp_path / "folder").mkdir()
    with pytest.raises(PrunerError, match="folder: is a directory, expected a file name"):
        commit({tmp_path / "folder": b"1"})

    def read_only(*args: Any) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(PrunerError, match=r"cannot be written \(Read-only file system\); .*--out"):
        commit({tmp_path / "a": b"1"})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PrunerError, match=r"cannot be written \(Permission denied\)"):
            commit({tmp_path / "a": b"1"})
    finally:
        tmp_path.chmod(0o700)


def test_a_version_is_never_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "net_v1.0.pth"
    commit({target: b"first"})
    modified = target.stat().st_mtime_ns
    commit({target: b"first", tmp_path / "net.py": b"1"})
    assert target.stat().st_mtime_ns == modified
    with pytest.raises(VersionTakenError, match=r"net_v1\.0\.pth: exists with other content"):
        commit({tmp_path / "net.py": b"2", target: b"second"})
    assert contents(tmp_path) == {"net_v1.0.pth": b"first", "net.py": b"1"}


def test_other_files_are_versions_where_they_are_said_to_be(tmp_path: Path) -> None:
    target, other = tmp_path / "net_v1.0.onnx", tmp_path / "net.py"
    commit({target: b"first"}, [target])
    with pytest.raises(VersionTakenError, match=r"net_v1\.0\.onnx: exists with other content"):
        commit({other: b"2", target: b"second"}, [target])
    assert contents(tmp_path) == {"net_v1.0.onnx": b"first"}
    commit({target: b"second"})
    assert contents(tmp_path) == {"net_v1.0.onnx": b"second"}


def test_without_hard_links_the_same_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    commit({tmp_path / "net_v1.0.pth": b"w", tmp_path / "net.py": b"1"})
    with pytest.raises(VersionTakenError, match="exists with other content"):
        commit({tmp_path / "net.py": b"2", tmp_path / "net_v1.0.pth": b"other"})
    real, calls = os.replace, 0

    def failing(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(errno.EIO, "I/O error")
        real(*args)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(PrunerError, match="I/O error"):
        commit({tmp_path / "net.py": b"2", tmp_path / "net.json": b"2"})
    assert contents(tmp_path) == {"net_v1.0.pth": b"w", "net.py": b"1"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_wait_until_the_files_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real = os.replace

    def interrupted(*args: Any) -> None:
        real(*args)
        signal.raise_signal(number)

    def handler(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(number, handler)
    monkeypatch.setattr(os, "replace", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            commit({tmp_path / "a": b"1", tmp_path / "b": b"2"})
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)
    assert contents(tmp_path) == {"a": b"1", "b": b"2"}


def test_killed_in_the_middle(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(b"old")
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from pruners import store\n"
        "real, calls = os.fsync, []\n"
        "def fsync(descriptor):\n"
        "    calls.append(descriptor)\n"
        "    if len(calls) == 2:\n"
        "        print('writing', flush=True)\n"
        "        sys.stdin.read()\n"
        "    real(descriptor)\n"
        "os.fsync = fsync\n"
        "out = Path(sys.argv[1])\n"
        "store.commit({out / 'a.py': b'new', out / 'b_v1.0.pth': b'new'})\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == b"writing\n"
    # While it lives, its temporary files are left alone.
    commit({tmp_path / "other": b"1"})
    assert len(contents(tmp_path)) == 4
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdin.close()
    child.stdout.close()
    assert (tmp_path / "a.py").read_bytes() == b"old"
    assert not list(tmp_path.glob("*.pth"))
    commit({tmp_path / "other": b"2"})
    assert contents(tmp_path) == {"a.py": b"old", "other": b"2"}


def test_only_dead_temporary_files_are_removed(tmp_path: Path) -> None:
    host = store._host()
    names = {
        f".a.{host}-{os.getpid()}-00000000.part": True,
        f".a.{host}-999999999-00000000.part": False,
        ".a.00000000-999999999-00000000.part": True,
        ".a.00000000-1-00000001.part": False,
        ".mine.part": True,
    }
    for name in names:
        (tmp_path / name).write_bytes(b"")
    os.utime(tmp_path / ".a.00000000-1-00000001.part", (1, 1))
    commit({tmp_path / "b": b""})
    assert set(contents(tmp_path)) == {"b"} | {name for name, stays in names.items() if stays}


# --- reading -----------------------------------------------------------------------------------


def test_what_is_written_is_read(tmp_path: Path) -> None:
    state = network().state_dict()
    (tmp_path / "a.pth").write_bytes(save_bytes(state))
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "b.pt")
    torch.save({"model": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "c.pth")
    torch.save(nn.DataParallel(network()).state_dict(), tmp_path / "d.pth")
    safetensors.torch.save_file(dict(state), tmp_path / "e.safetensors")
    torch.save(state, tmp_path / "f.pth", _use_new_zipfile_serialization=False)
    for path in sorted(tmp_path.iterdir()):
        found = read_state_dict(path)
        # safetensors sorts its tensors.
        assert sorted(found) == sorted(state)
        assert all(torch.equal(found[name], state[name]) for name in state)
    for name in ("a.pth", "b.pt", "d.pth", "f.pth"):
        assert read_state_dict(tmp_path / name)._metadata == state._metadata  # type: ignore[attr-defined]
    assert list(read_state_dict(tmp_path / "d.pth")) == list(state)


class Payload:
    """Creates a file when it is unpickled by the usual means."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    payload = {"weight": torch.ones(1), "evil": Payload(proof)}
    torch.save(payload, tmp_path / "a.pth")
    torch.save(payload, tmp_path / "b.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "c.pt").write_bytes(pickle.dumps(Payload(proof), protocol=2))
    (tmp_path / "d.pt").write_bytes(pickle.dumps(Payload(proof), protocol=5))
    torch.save(network(), tmp_path / "e.pth")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(
            PrunerError, match=r"refused, nothing was executed|truncated or"
        ) as error:
            read_state_dict(path)
        assert "\n" not in str(error.value)
        with pytest.raises(PrunerError):
            load_checkpoint(network(), path)
        assert not proof.exists()
    with pytest.raises(PrunerError, match=r"a\.pth: holds io\.open, which would run code to load"):
        read_state_dict(tmp_path / "a.pth")
    with pytest.raises(PrunerError, match=r"torch\.nn\.\S+, .*save model\.state_dict\(\) instead"):
        read_state_dict(tmp_path / "e.pth")
    # The payload is a real one.
    pickle.loads((tmp_path / "c.pt").read_bytes()).close()
    assert proof.exists()


def test_damaged_files(tmp_path: Path) -> None:
    content = save_bytes(network().state_dict())
    safe = safetensors.torch.save(dict(network().state_dict()))
    for name, data in {
        "half.pth": content[: len(content) // 2],
        "start.pth": content[:10],
        "empty.pt": b"",
        "text.pt": b"hello world\n" * 10,
        "half.safetensors": safe[: len(safe) // 2],
        "empty.safetensors": b"",
        "other.safetensors": content,
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(
            PrunerError, match=rf"{name}: truncated or damaged \(\d+ bytes"
        ) as error:
            read_state_dict(tmp_path / name)
        assert "\n" not in str(error.value)


def test_files_that_are_no_state_dict(tmp_path: Path) -> None:
    for value, message in [
        ({"epoch": 3, "weight": torch.ones(1)}, "is not a state_dict: 'epoch' holds a int"),
        ({"state_dict": {"a": [1]}}, "is not a state_dict: 'a' holds a list"),
        ({1: torch.ones(1)}, "is not a state_dict: 1 holds a Tensor"),
        (torch.ones(1), "holds a Tensor, expected a state_dict"),
        ({}, "holds no tensors"),
        ({"model": {}}, "holds no tensors"),
    ]:
        torch.save(value, tmp_path / "a.pth")
        with pytest.raises(PrunerError, match=re.escape(message)):
            read_state_dict(tmp_path / "a.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "b.pt")
    with pytest.raises(PrunerError, match="is a TorchScript archive, expected a state_dict"):
        read_state_dict(tmp_path / "b.pt")


def test_paths_that_are_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "resnet20.pth").write_bytes(b"")
    with pytest.raises(PrunerError, match=r"no such file; did you mean resnet20\.pth\?"):
        read_state_dict(tmp_path / "resnet.pth")
    with pytest.raises(PrunerError, match="no such file"):
        read_state_dict(tmp_path / "nowhere" / "resnet.pth")
    with pytest.raises(PrunerError, match="is a directory, expected a file"):
        read_state_dict(tmp_path)
    (tmp_path / "a.ckpt").write_bytes(b"")
    with pytest.raises(PrunerError, match=r"unknown suffix '\.ckpt', expected \.pth, \.pt or"):
        read_state_dict(tmp_path / "a.ckpt")


def test_load_checkpoint_loads(tmp_path: Path) -> None:
    model, other = network(), network()
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    state = other.state_dict()
    torch.save({f"module.{k}": v for k, v in state.items()}, tmp_path / "a.pth")
    load_checkpoint(model, tmp_path / "a.pth")
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    # A network of which everything really is in a child called module.
    wrapped = nn.Module()
    wrapped.module = network()
    load_checkpoint(wrapped, tmp_path / "a.pth")
    assert all(torch.equal(v, state[k]) for k, v in wrapped.module.state_dict().items())


def test_an_old_checkpoint_without_counters_loads(tmp_path: Path) -> None:
    state = {k: v for k, v in network().state_dict().items() if "tracked" not in k}
    torch.save(state, tmp_path / "a.pth")
    load_checkpoint(network(), tmp_path / "a.pth")


def test_a_checkpoint_of_another_network_changes_nothing(tmp_path: Path) -> None:
    model = network()
    before = save_bytes(model.state_dict())
    state = OrderedDict((k, v + 1) for k, v in model.state_dict().items())
    state["0.weight"] = torch.ones(8, 3, 7, 7)
    del state["2.weight"]
    for i in range(5):
        state[f"extra{i}"] = torch.ones(1)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(PrunerError) as error:
        load_checkpoint(model, tmp_path / "a.pth")
    assert str(error.value) == (
        f"checkpoint {tmp_path / 'a.pth'} is not of this Sequential: 1 missing (2.weight), "
        "5 unexpected (extra0; extra1; extra2; and 2 more), "
        "1 of another shape (0.weight is 8x3x7x7, expected 4x3x3x3); "
        "check --depth, --num-classes, --input-shape and --arch-args"
    )
    assert save_bytes(model.state_dict()) == before


def test_hostile_metadata_is_harmless(tmp_path: Path) -> None:
    state = network().state_dict()
    state._metadata = OrderedDict({"": [], "0": {"version": "x"}, "1": {"version": "x"}})
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(PrunerError, match="is not of this Sequential: TypeError"):
        load_checkpoint(network(), tmp_path / "a.pth")


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_plain_pickle_with_code_is_refused_by_name(tmp_path: Path, protocol: int) -> None:
    path, trace = tmp_path / "raw.pth", tmp_path / "executed"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(trace),)

    path.write_bytes(pickle.dumps(Payload(), protocol))
    with pytest.raises(PrunerError, match=r"holds posix\.mkdir, which would run code to load"):
        read_state_dict(path)
    assert not trace.exists()


def test_a_damaged_archive_is_noticed_by_its_checksums(tmp_path: Path) -> None:
    """`torch.load` takes a flipped bit for a weight."""
    path = tmp_path / "a.pth"
    content = bytearray(save_bytes(network().state_dict()))
    at = content.index(network().state_dict()["0.weight"].numpy().tobytes()[:16])
    content[at] ^= 1
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)
    with pytest.raises(
        PrunerError, match=r"a\.pth: truncated or damaged .*the checksum of 'archive/data/\d' in it"
    ):
        read_state_dict(path)
    # Written without checksums: there are none to look at.
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(network().state_dict(), path)
    finally:
        torch.serialization.set_crc32_options(before)
    assert list(read_state_dict(path)) == list(network().state_dict())


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("0.weight", lambda t: t.to(torch.int8), "holds torch.int8, expected torch.float32; save"),
        ("0.weight", lambda t: t > 0, "holds torch.bool, expected torch.float32; save the weights"),
        ("0.weight", lambda t: t * 1j, "holds torch.complex64, expected torch.float32; save"),
        (
            "0.weight",
            lambda t: t.double() * 1e300,
            "holds torch.float64, expected torch.float32, which cannot hold its values; convert",
        ),
        ("1.num_batches_tracked", lambda t: t + 0.5, "expected torch.int64, which cannot hold"),
        (
            "1.num_batches_tracked",
            lambda t: (t + 70_000).half(),
            "holds torch.float16, expected torch.int64, and is no number; convert floating",
        ),
        ("1.num_batches_tracked", lambda t: t * 1j, "holds torch.complex64, expected torch.int64;"),
        ("0.weight", lambda t: t.double(), None),
        ("0.weight", lambda t: t.half(), None),
        ("0.weight", lambda t: t.to(torch.float8_e4m3fn), None),
        ("0.weight", lambda t: t / 0, None),
        ("1.num_batches_tracked", lambda t: t.float(), None),
        ("1.num_batches_tracked", lambda t: t.int(), None),
    ],
)
def test_tensors_of_another_type(
    tmp_path: Path, name: str, change: Callable[[Tensor], Tensor], message: str | None
) -> None:
    """torch converts whatever it is given, imaginary parts and int8 weights included."""
    state = network().state_dict()
    state[name] = change(state[name])
    torch.save(state, tmp_path / "a.pth")
    model = network()
    if message is None:
        load_checkpoint(model, tmp_path / "a.pth")
        assert torch.equal(model.state_dict()[name], state[name].to(model.state_dict()[name].dtype))
        return
    with pytest.raises(PrunerError, match=rf"a\.pth: {re.escape(name)} .*{re.escape(message)}"):
        load_checkpoint(model, tmp_path / "a.pth")
