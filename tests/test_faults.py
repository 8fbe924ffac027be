"""Disks that are full, folders that refuse, processes that are killed: the last good files stay.

The command line runs in forked children, which need no second import of torch. In the ordinary
tests two of them are ended in the middle; `make test-zoo` ends a hundred.
"""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

import app
from pruners import store
from pruners.errors import PrunerError
from pruners.model_store import ModelStore
from pruners.store import commit, stale_files
from pruners.written import Written
from tests.mutations import ITERATE, NET, SHAPE

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX")

FORK: Any = multiprocessing.get_context("fork") if os.name == "posix" else None
PRUNE = ("--arch", "net.py:Net", *SHAPE, "--name", "slim")
"""Random weights: the note about them is the first line on stderr."""


def compared_here() -> None:
    """A fresh interpreter, which takes seconds, is not what most of these are about."""
    Written.verified = Written.compared  # type: ignore[method-assign]


def in_a_child(
    folder: Path, arguments: Sequence[str], before: Callable[[], None] = compared_here
) -> Any:
    """The command line in a process of its own, in this folder; what it says goes to files."""

    def work() -> None:
        os.chdir(folder)
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder / "tmp")
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        # A file of Python's own, not the one that pytest has put in its place.
        sys.stdout, sys.stderr = (os.fdopen(n, "w", closefd=False) for n in (1, 2))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        torch.set_num_threads(1)
        before()
        code = app.main(list(arguments))
        sys.stdout.flush()
        os._exit(code)

    (folder / "tmp").mkdir(exist_ok=True)
    child = FORK.Process(target=work)
    child.start()
    return child


def ran(
    folder: Path, arguments: Sequence[str], before: Callable[[], None] = compared_here
) -> tuple[int, str]:
    """Its exit code, and what it said on stderr."""
    child = in_a_child(folder, arguments, before)
    child.join(timeout=240)
    assert child.exitcode is not None
    return child.exitcode, (folder / "err").read_text()


def one_line(said: str) -> str:
    """The one error; what precedes it tells what goes on."""
    assert "Traceback" not in said, said
    assert "unexpected" not in said, said
    (error,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert said.endswith(f"{error}\n")
    return error


def contents(folder: Path) -> dict[str, bytes]:
    """The files that somebody would take for results."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for top in ("generated", "models", "exp")
        for path in sorted((folder / top).rglob("*"))
        if path.is_file() and path.suffix != ".part" and "__pycache__" not in path.parts
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a network, and what a good run has left."""
    (tmp_path / "net.py").write_text(NET, encoding="utf-8")
    code, said = ran(tmp_path, [*PRUNE, "--prune-pct", "30"])
    assert code == 0, said
    return tmp_path


# --- no space ----------------------------------------------------------------------------------


@contextmanager
def small_disk(place: Path, kibibytes: int) -> Iterator[Path]:
    """A file system of that size; the test is skipped where none may be mounted."""
    place.mkdir()
    size = f"size={kibibytes}k"
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(place)],
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("may not mount a file system")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("kibibytes", [4, 8, 16])
def test_a_disk_that_is_full(folder: Path, kibibytes: int) -> None:
    before = contents(folder)
    with small_disk(folder / "small", kibibytes) as small:
        (small / "kept.txt").write_text("mine")
        given = ("--out", str(small / "out"), "--store-dir", str(small / "models"))
        code, said = ran(folder, [*PRUNE, *given])
        assert code == 2
        assert one_line(said).endswith(
            "no space left; free some, or choose another with --out DIR (weights: --store-dir DIR)"
        )
        assert [p.name for p in small.rglob("*") if p.is_file()] == ["kept.txt"]
    assert contents(folder) == before


def test_a_full_disk_for_temporary_files(folder: Path) -> None:
    with small_disk(folder / "small", 8) as small:

        def before() -> None:
            os.environ["TMPDIR"] = str(small)
            tempfile.tempdir = str(small)

        code, said = ran(folder, [*PRUNE, "--prune-pct", "60"], before)
    assert code == 2
    error = one_line(said)
    assert "small: cannot be written (No space left on device); set TMPDIR to another" in error


def test_a_limit_on_the_size_of_files(folder: Path) -> None:
    """What a quota does: the file ends in the middle."""
    before = contents(folder)

    def limited() -> None:
        compared_here()
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    code, said = ran(folder, [*PRUNE, "--prune-pct", "60"], limited)
    assert code == 2
    assert "cannot be written (File too large); " in one_line(said)
    assert contents(folder) == before


def test_output_that_cannot_be_written(folder: Path) -> None:
    """`> /dev/full`: the files are there, and the error is one line."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")

    def full() -> None:
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)

    code, said = ran(folder, ["models"], full)
    assert code == 2
    assert one_line(said) == (
        "error: standard output: cannot be written (No space left on device); send it elsewhere"
    )


# --- permission --------------------------------------------------------------------------------


def as_nobody() -> None:
    """Without the rights of root, who may write anywhere."""
    compared_here()
    if os.geteuid() == 0:
        os.setegid(65534)
        os.seteuid(65534)


@pytest.mark.parametrize("lost", ["generated", "models/pruned"])
def test_permission_that_is_lost(folder: Path, lost: str) -> None:
    before = contents(folder)
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, 65534, 65534)
    for path in (folder, *folder.parents):
        # pytest's folders are the user's own.
        if str(path).startswith(tempfile.gettempdir()) and os.geteuid() == 0:
            path.chmod(path.stat().st_mode | 0o055)
    (folder / lost).chmod(0o555)
    try:
        code, said = ran(folder, [*PRUNE, "--prune-pct", "60"], as_nobody)
    finally:
        (folder / lost).chmod(0o755)
    assert code == 2, said
    assert "cannot be written (Permission denied); choose another with --out" in one_line(said)
    assert contents(folder) == before


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.EDQUOT, errno.EACCES])
@pytest.mark.parametrize("call", ["open", "fsync", "link", "replace"])
def test_any_call_may_fail_at_any_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """Every call of the store in turn, with every error: all files new, or all as they were."""
    old = {"a.py": b"old", "a.json": b"old"}
    real = getattr(os, call)
    for failing in range(12):
        out = tmp_path / f"{failing}"
        out.mkdir()
        for name, content in old.items():
            (out / name).write_bytes(content)
        count = 0

        def broken(*args: Any, failing: int = failing, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == failing + 1:
                raise OSError(number, os.strerror(number))
            return real(*args, **options)

        new = {out / "a.py": b"new", out / "a.json": b"new", out / "a_pruned_v1.0.pth": b"new"}
        monkeypatch.setattr(os, call, broken)
        try:
            commit(new)
            said = ""
        except PrunerError as error:
            said = str(error)
        finally:
            monkeypatch.undo()
        assert "\n" not in said
        found = {path.name: path.read_bytes() for path in out.iterdir()}
        left = {name: content for name, content in found.items() if not name.endswith(".part")}
        assert left == (old if said else {path.name: b"new" for path in new})
        assert left == found or call == "open"
        if count <= failing:
            break


# --- killed -------------------------------------------------------------------------------------


def ended(folder: Path, arguments: Sequence[str], after: float, number: int) -> int:
    """Its exit code; it gets the signal after so many seconds, unless it is done."""
    child = in_a_child(folder, arguments, lambda: None)
    child.join(timeout=after)
    with suppress(ProcessLookupError):
        os.kill(child.pid, number)
    child.join(timeout=120)
    assert child.exitcode is not None
    return int(child.exitcode)


def is_whole(folder: Path) -> None:
    """The generated file is what its manifest says, and so is every version of the store."""
    facts = json.loads((folder / "generated/slim.json").read_bytes())
    assert store.is_intact(facts)
    models = ModelStore(folder / "models")
    assert not [f for f in models.verify() if f.kind == "damaged"]
    source = (folder / "generated/slim.py").read_text()
    compile(source, "slim.py", "exec")
    assert models.versions()


def no_one_left(folder: Path) -> None:
    """The verifying process ends with the one that started it."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if not _with_argument(str(folder / "tmp")):
            return
        time.sleep(0.05)
    raise AssertionError(f"still running: {_with_argument(str(folder / 'tmp'))}")


def _with_argument(text: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if text in line:
                found.append(line)
    return found


def prune_is_ended(folder: Path, moments: Sequence[tuple[float, int]]) -> None:
    good = contents(folder)
    began = time.monotonic()
    # What a run that is not ended leaves, in a folder of its own.
    whole = folder / "whole"
    shutil.copytree(folder, whole, ignore=shutil.ignore_patterns("whole", "tmp"))
    assert ran(whole, [*PRUNE, "--prune-pct", "60"], lambda: None)[0] == 0
    new, seconds = contents(whole), time.monotonic() - began
    for moment, number in moments:
        code = ended(folder, [*PRUNE, "--prune-pct", "60"], moment * seconds, number)
        said = (folder / "err").read_text()
        found = contents(folder)
        is_whole(folder)
        no_one_left(folder)
        assert "Traceback" not in said
        if number == signal.SIGINT:
            assert code in (0, 130)
            assert found in (good, new)
            assert not list((folder / "generated").glob(".*"))
            assert not list((folder / "tmp").glob("pruner-*"))
            if code == 130:
                assert said.splitlines()[-1].startswith("interrupted; ")
        else:
            # The gap that `commit` tells of is microseconds long: no file is half of one.
            assert code in (0, -signal.SIGKILL)
            assert all(content in (good.get(n), new.get(n)) for n, content in found.items())
        shutil.rmtree(folder / "tmp")
        for path in found.keys() - good.keys():
            (folder / path).unlink()
        for path, content in good.items():
            (folder / path).write_bytes(content)
    # Nothing that is left is in the way.
    assert ran(folder, [*PRUNE, "--prune-pct", "60"])[0] == 0
    assert contents(folder) == new
    assert not stale_files(folder / "generated")
    assert not stale_files(folder / "models/pruned")


def test_prune_is_ended(folder: Path) -> None:
    prune_is_ended(folder, [(0.5, signal.SIGINT), (0.6, signal.SIGKILL)])


@pytest.mark.zoo
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_prune_is_ended_at_fifty_moments(folder: Path, number: int) -> None:
    moments = random.Random(0)
    prune_is_ended(folder, [(moments.uniform(0, 1.05), number) for _ in range(50)])


@pytest.mark.zoo
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_iterate_is_ended_again_and_again(tmp_path: Path, number: int) -> None:
    """One experiment that is ended at every start, somewhere else, until it is done."""
    whole = tmp_path / "whole"
    whole.mkdir()
    arguments = [*ITERATE, "--exp", "exp"]
    began = time.monotonic()
    assert ran(whole, arguments)[0] == 0
    seconds, expected = time.monotonic() - began, contents(whole)
    moments = random.Random(number)
    folder = tmp_path / "ended"
    folder.mkdir()
    for count in range(40):
        # Ever longer, or it would never be done.
        ended(folder, arguments, moments.uniform(0, 0.5 + count / 40) * seconds, number)
        assert "Traceback" not in (folder / "err").read_text()
        for name, content in contents(folder).items():
            if "/level_" in name or name.endswith(("base.pth", "experiment.json")):
                assert content == expected[name] or name.endswith("pruned.json"), name
    assert ran(folder, arguments)[0] == 0
    found = contents(folder)
    assert {n: c for n, c in found.items() if "experiment.json" not in n} == {
        n: c for n, c in expected.items() if "experiment.json" not in n
    }


@pytest.mark.zoo
def test_the_store_is_killed_at_two_hundred_moments(tmp_path: Path) -> None:
    """Two writers, killed and started anew; every version that is there is whole."""
    moments = random.Random(0)

    def write(start: int) -> None:
        models = ModelStore(tmp_path / "models")
        for number in range(start, start + 10_000):
            content = f"{number}".encode() * 20_000
            models.add("pruned", "net", {".pth": content, ".onnx": content[::-1]})

    known: dict[str, bytes] = {}
    for round_ in range(100):
        children = [
            FORK.Process(target=write, args=(round_ * 100_000 + i * 50_000,)) for i in (0, 1)
        ]
        for child in children:
            child.start()
        time.sleep(moments.uniform(0.005, 0.1))
        for child in children:
            child.kill()
            child.join()
        models = ModelStore(tmp_path / "models")
        assert not [f for f in models.verify() if f.kind == "damaged"]
        for version in models.versions():
            for suffix, path in version.paths.items():
                content = path.read_bytes()
                # What has been there once is there, and the same.
                assert known.setdefault(path.name, content) == content, suffix
        assert set(known) <= {path.name for path in (tmp_path / "models/pruned").iterdir()}
    assert len(known) > 100


def test_a_process_without_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert app.main(["models", "--help"]) == 0
    assert app.main(["nosuch"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
