"""The model store: versions with manifests, several processes, damage, descent, loading."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import re
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import app
import pruners
from pruners import model_store
from pruners.descent import Descent, descents, parents_of
from pruners.errors import PrunerError
from pruners.model_store import ModelFile, ModelStore, Parent, StoredVersion, code_digest
from pruners.store import SEAL, is_intact, save_bytes, sealed
from pruners.verify import Outcome

SOURCE = '''"""Slim.

    model = slim(weights="slim_pruned_v1.0.pth")
"""

import torch
from torch import nn


class Slim(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x):
        return self.fc(x)


def slim(weights=None):
    model = Slim()
    if weights is not None:
        model.load_state_dict(torch.load(weights, weights_only=True))
    return model
'''
STATE = {"fc.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.tensor([0.5, -0.5])}
MODEL = ModelFile("slim.py", "slim", code_digest(SOURCE))


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with the model file in it."""
    (tmp_path / "generated").mkdir()
    (tmp_path / "generated/slim.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(store: ModelStore) -> list[str]:
    paths = (path for path in store.folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(store.folder).as_posix() for path in paths)


def stored(store: ModelStore, content: bytes = b"a", **fields: Any) -> StoredVersion:
    return store.add("pruned", "net", {".pth": content}, **fields)


# --- names and manifests -----------------------------------------------------------------------


def test_names_of_every_stage(store: ModelStore) -> None:
    store.add("pruned", "resnet20_50", {".pth": b"p"})
    store.add("quantized", "resnet20_50", {".pth": b"q", ".onnx": b"o"})
    store.add("final", "resnet20_50", {".pth": b"f", ".onnx": b"o"})
    assert files(store) == [
        "final/resnet20_50_v1.0_final.json",
        "final/resnet20_50_v1.0_final.onnx",
        "final/resnet20_50_v1.0_final.pth",
        "pruned/resnet20_50_pruned_v1.0.json",
        "pruned/resnet20_50_pruned_v1.0.pth",
        "quantized/resnet20_50_quantized_v1.0.json",
        "quantized/resnet20_50_quantized_v1.0.onnx",
        "quantized/resnet20_50_quantized_v1.0.pth",
    ]
    assert store.verify() == []


def test_other_content_gets_the_next_version_and_the_same_keeps_its_own(store: ModelStore) -> None:
    first = [stored(store, b"%d" % i) for i in range(11)]
    assert [one.version for one in first] == [f"1.{i}" for i in range(11)]
    before = {name: (store.folder / name).read_bytes() for name in files(store)}
    assert [stored(store, b"%d" % i, metrics={"accuracy": 1}) for i in range(11)] == first
    assert {name: (store.folder / name).read_bytes() for name in files(store)} == before
    # v1.10 comes after v1.9.
    assert store.find("net", "pruned").version == "1.10"
    assert [one.version for one in store.versions("net")] == [one.version for one in first]


def test_other_files_beside_the_same_ones_are_other_content(store: ModelStore) -> None:
    one = store.add("final", "net", {".pth": b"a"})
    two = store.add("final", "net", {".pth": b"a", ".onnx": b"b"})
    assert (one.version, two.version) == ("1.0", "1.1")
    assert store.add("final", "net", {".onnx": b"b", ".pth": b"a"}).version == "1.1"
    assert store.add("final", "net", {".pth": b"a"}).version == "1.0"


def test_the_same_weights_for_other_code_are_another_version(store: ModelStore) -> None:
    other = ModelFile("slim.py", "slim", code_digest(SOURCE.replace("Linear", "LazyLinear")))
    versions = [stored(store, model=model).version for model in (MODEL, other, MODEL, other)]
    assert versions == ["1.0", "1.1", "1.0", "1.1"]


def test_names_that_others_begin_with(store: ModelStore) -> None:
    store.add("pruned", "net", {".pth": b"a"})
    store.add("pruned", "net_pruned_v1.0", {".pth": b"b"})
    store.add("pruned", "net_50", {".pth": b"c"})
    assert [(one.name, one.version) for one in store.versions()] == [
        ("net", "1.0"),
        ("net_50", "1.0"),
        ("net_pruned_v1.0", "1.0"),
    ]


def test_other_files_are_no_versions(store: ModelStore) -> None:
    place = store.folder / "pruned"
    place.mkdir(parents=True)
    for name in ("net_pruned_v1.07.pth", "net_pruned_v1.4", "net_v1.5.pth", ".net_pruned_v1.6.pth"):
        (place / name).write_bytes(b"x")
    assert stored(store, b"x").version == "1.0"
    (place / "net_pruned_v1.2.pth").mkdir()
    assert stored(store, b"y").version == "1.3"


def test_the_manifest(store: ModelStore, tmp_path: Path) -> None:
    (tmp_path / "base.pth").write_bytes(b"base")
    made = stored(
        store,
        parents=[Parent.of(tmp_path / "base.pth")],
        model=MODEL,
        training={"epochs": 2},
        pruning={"prune_pct": 50.0},
        metrics={"accuracy": 98.5},
    )
    facts = json.loads(made.manifest_path.read_text())
    assert is_intact(facts)
    assert facts.pop(SEAL)
    assert facts == {
        "name": "net",
        "stage": "pruned",
        "version": "1.0",
        "made_with": {"pruners": pruners.__version__, "torch": torch.__version__},
        "files": {
            "net_pruned_v1.0.pth": {"sha256": hashlib.sha256(b"a").hexdigest(), "bytes": 1},
        },
        "parents": [{"file": "base.pth", "sha256": hashlib.sha256(b"base").hexdigest()}],
        "model": {"file": "slim.py", "factory": "slim", "code_sha256": MODEL.code_sha256},
        "training": {"epochs": 2},
        "pruning": {"prune_pct": 50.0},
        "quantization": None,
        "metrics": {"accuracy": 98.5},
    }
    assert made == store.find("net", "pruned")
    assert made.stem == "net_pruned_v1.0"
    assert made.paths == {".pth": store.folder / "pruned/net_pruned_v1.0.pth"}
    assert (made.model, made.metrics, made.sizes) == (MODEL, {"accuracy": 98.5}, {".pth": 1})
    assert made.parent() == Parent("net_pruned_v1.0.pth", hashlib.sha256(b"a").hexdigest())
    other = ModelStore(tmp_path / "elsewhere")
    again = stored(other, **{**_fields(made), "parents": made.parents, "model": MODEL})
    assert again.manifest_path.read_bytes() == made.manifest_path.read_bytes()


def _fields(version: StoredVersion) -> Mapping[str, Any]:
    return {name: version.manifest[name] for name in ("training", "pruning", "metrics")}


def test_files_that_mention_the_version_are_written_with_it(
    store: ModelStore, tmp_path: Path
) -> None:
    def also(stem: str) -> dict[Path, bytes]:
        return {tmp_path / "net.py": stem.encode()}

    for content in (b"a", b"b", b"a"):
        stem = stored(store, content, also=also).stem
        assert (tmp_path / "net.py").read_text() == stem


def test_a_folder_of_its_own_for_pruned_versions(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models", pruned=tmp_path / "weights")
    assert stored(store).paths[".pth"] == tmp_path / "weights/net_pruned_v1.0.pth"
    assert store.find("net", "pruned").version == "1.0"
    assert not store.folder.exists()


def test_the_digest_of_code_leaves_out_the_docstring() -> None:
    assert code_digest(SOURCE.replace("v1.0.pth", "v1.1.pth")) == MODEL.code_sha256
    assert code_digest(SOURCE.replace("\n", "\r\n")) == MODEL.code_sha256
    assert code_digest(SOURCE.replace("3, 2", "3, 4")) != MODEL.code_sha256
    assert code_digest("no python(") != code_digest("no python")
    assert code_digest("") == code_digest('"""Nothing."""\n')


# --- bad input ---------------------------------------------------------------------------------


def test_unknown_stage_name_and_version(store: ModelStore) -> None:
    with pytest.raises(PrunerError, match=r"pruned: has no net; it has no versions; `python app"):
        store.find("net", "pruned")
    stored(store)
    store.add("final", "net", {".pth": b"b"})
    with pytest.raises(
        PrunerError,
        match="stage 'prunned': unknown; did you mean pruned\\?; expected one of pruned,",
    ):
        store.find("net", "prunned")
    with pytest.raises(PrunerError, match=r"pruned: has no nett; did you mean net\? `python app"):
        store.find("nett", "pruned")
    with pytest.raises(
        PrunerError, match=r"pruned: has no zzzzzzzz; it has net; `python app\.py mod"
    ):
        store.find("zzzzzzzz", "pruned")
    with pytest.raises(
        PrunerError, match="quantized: has no net; there is one in stage pruned and f"
    ):
        store.find("net", "quantized")
    with pytest.raises(PrunerError, match=r"net has no version '2\.0'; expected latest, 1\.0"):
        store.find("net", "pruned", "2.0")
    assert store.find("net", "pruned", "v1.0") == store.find("net", "pruned", "1.0")
    (store.folder / "pruned/bare_pruned_v1.3.pth").write_bytes(b"")
    for version in ("latest", "1.3"):
        with pytest.raises(PrunerError, match=r"bare_pruned_v1\.3\.pth: has no manifest, so it is"):
            store.find("bare", "pruned", version)


@pytest.mark.parametrize("name", ["", "../net", "a/b", ".net", "net\n", "-net", "é"])
def test_names_that_no_file_may_have(store: ModelStore, name: str) -> None:
    message = f"name {name!r}: expected letters, digits, underscores, dots and hyphens"
    with pytest.raises(PrunerError, match=re.escape(message)):
        store.add("pruned", name, {".pth": b""})


@pytest.mark.parametrize("suffix", ["pth", ".json", "", "./x", ".0", ".PTH"])
def test_suffixes_that_no_file_may_have(store: ModelStore, suffix: str) -> None:
    with pytest.raises(PrunerError, match=re.escape(f"net: suffix {suffix!r} cannot be that of")):
        store.add("pruned", "net", {suffix: b""})


def test_nothing_to_store(store: ModelStore) -> None:
    with pytest.raises(
        PrunerError, match=r"net: has no files, expected at least one, such as \.pth"
    ):
        store.add("pruned", "net", {})
    with pytest.raises(ValueError, match=r"manifest\.metrics\.loss is nan"):
        stored(store, metrics={"loss": float("nan")})
    assert not store.folder.exists()


def test_a_parent_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(
        PrunerError, match=r"gone\.pth: cannot be read \(No such file or directory\)"
    ):
        Parent.of(tmp_path / "gone.pth")


def test_a_read_only_folder(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    first = stored(store)

    def refuse(*args: Any) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        # Root may write anywhere, so the permissions of a folder would prove nothing.
        patch.setattr(os, "open", refuse)
        message = r"pruned: cannot be written \(Read-only file system\); choose another with --out"
        with pytest.raises(PrunerError, match=message):
            stored(store, b"b")
        # What is there already needs no writing.
        assert stored(store) == first
    assert files(store) == ["pruned/net_pruned_v1.0.json", "pruned/net_pruned_v1.0.pth"]


def test_a_folder_that_is_a_file_or_cannot_be_read(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.folder.mkdir()
    (store.folder / "final").write_bytes(b"")
    with pytest.raises(PrunerError, match="final: is a file, expected a directory; choose another"):
        store.add("final", "net", {".pth": b""})
    stored(store)

    def refuse(*args: object) -> Iterator[Path]:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", refuse)
        with pytest.raises(PrunerError, match=r"pruned: cannot be read \(Permission denied\)"):
            store.find("net", "pruned")
    monkeypatch.setattr(model_store, "holds_content", refuse)
    with pytest.raises(PrunerError, match=r"pruned: cannot be read \(Permission denied\)"):
        stored(store)


# --- several processes, and killed ones --------------------------------------------------------


FORK = multiprocessing.get_context("fork")
"""A forked child needs no second import of torch, which takes seconds."""


def _store_many(folder: Path, who: str, ready: Any, count: int) -> None:
    store = ModelStore(folder)
    # Takes most of the time, and matters for power cuts only.
    os.fsync = lambda descriptor: None
    ready.wait()
    for i in range(count):
        text = f"{who} {i} ".encode() * 100
        made = store.add("final", "net", {".pth": text, ".onnx": text[::-1]}, metrics={"of": who})
        # What both store is stored once.
        store.add("quantized", "net", {".onnx": b"%d" % i})
        assert made.paths[".pth"].read_bytes() == text


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_two_processes_with_a_hundred_versions_each(store: ModelStore) -> None:
    count, ready = 100, FORK.Event()
    children = [
        FORK.Process(target=_store_many, args=(store.folder, who, ready, count)) for who in "AB"
    ]
    for child in children:
        child.start()
    ready.set()
    for child in children:
        child.join(timeout=120)
        assert child.exitcode == 0
    found = store.versions("net", "final")
    assert [one.version for one in found] == [f"1.{i}" for i in range(2 * count)]
    assert {one.paths[".pth"].read_bytes() for one in found} == {
        f"{who} {i} ".encode() * 100 for who in "AB" for i in range(count)
    }
    for one in found:
        text = one.paths[".pth"].read_bytes()
        # Both files and the manifest are of one process.
        assert one.paths[".onnx"].read_bytes() == text[::-1]
        assert one.metrics == {"of": text[:1].decode()}
    assert len(store.versions("net", "quantized")) == count
    assert store.verify() == []
    # Nothing else was left behind.
    assert len(files(store)) == 3 * 2 * count + 2 * count


def _killed_at(folder: Path, function: str, call: int) -> None:
    real, calls = getattr(os, function), 0

    def killed(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    setattr(os, function, killed)
    ModelStore(folder).add("final", "net", {".pth": b"new" * 1000, ".onnx": b"o" * 1000})


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("function", "call", "named"),
    [
        ("fsync", 1, []),
        ("fsync", 3, []),
        ("link", 1, []),
        ("link", 2, [".pth"]),
        ("link", 3, [".pth", ".onnx"]),
        # After the last name was given: the version is whole.
        ("fsync", 4, [".pth", ".onnx", ".json"]),
    ],
)
def test_killed_while_it_stores(
    store: ModelStore, function: str, call: int, named: list[str]
) -> None:
    store.add("final", "net", {".pth": b"old"})
    child = FORK.Process(target=_killed_at, args=(store.folder, function, call))
    child.start()
    child.join(timeout=60)
    assert child.exitcode == -signal.SIGKILL
    final = store.folder / "final"
    for suffix in named:
        content = {".pth": b"new" * 1000, ".onnx": b"o" * 1000}.get(suffix)
        # Half-written files have no name of a version.
        assert content in (None, (final / f"net_v1.1_final{suffix}").read_bytes())
    whole = ".json" in named
    assert [one.version for one in store.versions()] == ["1.0", "1.1"][: 1 + whole]
    findings = store.verify()
    assert {found.kind for found in findings} == {"orphaned"}
    left = [found for found in findings if found.path.suffix == ".part"]
    assert left[0].message.startswith("left by a process that was killed; the next version in")
    if not whole:
        bare = [f.path.name for f in findings if "has no manifest" in f.message]
        assert bare == sorted(f"net_v1.1_final{suffix}" for suffix in named)
    # It does not block: the same again takes over what is there.
    again = store.add("final", "net", {".pth": b"new" * 1000, ".onnx": b"o" * 1000})
    assert again.version == "1.1"
    assert store.verify() == [] or whole
    assert store.add("final", "net", {".pth": b"other"}).version == "1.2"
    assert store.verify() == []


def test_others_do_not_take_over_what_a_killed_process_left(store: ModelStore) -> None:
    (store.folder / "pruned").mkdir(parents=True)
    (store.folder / "pruned/net_pruned_v1.0.pth").write_bytes(b"left")
    assert stored(store, b"other").version == "1.1"
    assert stored(store, b"left").version == "1.0"


def test_a_version_that_is_taken_meanwhile(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = ModelStore(store.folder)
    real = model_store.commit

    def slower(*args: Any) -> None:
        monkeypatch.setattr(model_store, "commit", real)
        stored(theirs, b"theirs")
        real(*args)

    monkeypatch.setattr(model_store, "commit", slower)
    assert stored(store, b"ours").version == "1.1"
    assert store.find("net", "pruned", "1.0").paths[".pth"].read_bytes() == b"theirs"


# --- damage ------------------------------------------------------------------------------------


def finding(store: ModelStore) -> tuple[str, str, str]:
    (found,) = store.verify()
    return found.path.name, found.kind, found.message


def test_damaged_files(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stored(store, b"1234567").paths[".pth"]
    assert store.verify() == []
    path.write_bytes(b"1234")
    name, kind, message = finding(store)
    assert (name, kind) == ("net_pruned_v1.0.pth", "damaged")
    assert re.fullmatch(
        r"has sha256 \w{12} \(4 bytes\), expected \w{12} \(7 bytes\); restore it from a backup",
        message,
    )
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n")
    assert finding(store)[1:] == (
        "damaged",
        "is a pointer of Git LFS; `git lfs pull` fetches it",
    )
    path.unlink()
    assert finding(store)[1:] == ("damaged", "is missing; restore it from a backup")
    path.mkdir()
    assert finding(store)[2] == "cannot be read (Is a directory); restore it from a backup"


def test_a_manifest_that_was_changed_is_damaged(store: ModelStore) -> None:
    """Whatever is changed in it: figures are no less wrong than digests."""
    path = stored(store, metrics={"accuracy": 98.5}).manifest_path
    good = path.read_text()
    message = "was changed since it was written; restore it from a backup"
    for text in (good.replace("98.5", "99.5"), good.replace('"bytes": 1', '"bytes": 2')):
        assert text != good
        path.write_text(text)
        assert finding(store) == ("net_pruned_v1.0.json", "damaged", message)
    path.write_text("[" * 100_000)
    assert finding(store)[2].startswith("cannot be read (it is nested too deeply); ")
    # Written in another way, and by a version that had no seals yet.
    path.write_text(json.dumps(json.loads(good), sort_keys=True))
    assert store.verify() == []
    path.write_text(json.dumps({k: v for k, v in json.loads(good).items() if k != SEAL}))
    assert store.verify() == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, r"cannot be read \(Expecting value: line 1 column 1 \(char 0\)\)"),
        ([], "is no manifest of a version"),
        ({"files": {}}, "is no manifest of a version"),
        ({"files": {"net_pruned_v1.0.pth": {}}}, "is no manifest of a version"),
        (
            {"files": {"../../x.pth": {"sha256": "", "bytes": 1}}},
            "is no manifest of a version",
        ),
        ({"parents": [{}]}, "is no manifest of a version"),
        ({"metrics": None}, "is no manifest of a version"),
        ({"model": {"file": "a.py"}}, "is no manifest of a version"),
        (
            {"model": {"file": "../a.py", "factory": "a", "code_sha256": ""}},
            "is no manifest of a version",
        ),
        ({"version": "1.1"}, "is the manifest of net pruned 1.1"),
    ],
)
def test_damaged_manifests(store: ModelStore, change: Any, message: str) -> None:
    path = stored(store).manifest_path
    facts = json.loads(path.read_text())
    if change is not None:
        facts = sealed({**facts, **change}) if isinstance(change, dict) else change
    path.write_text("" if change is None else json.dumps(facts))
    name, kind, found = finding(store)
    assert (name, kind) == ("net_pruned_v1.0.json", "damaged")
    assert re.fullmatch(f"{message}; restore it from a backup", found)
    assert store.versions() == []
    with pytest.raises(PrunerError, match=rf"net_pruned_v1\.0\.json: {message}"):
        store.find("net", "pruned")
    # It is not overwritten either.
    assert stored(store).version == "1.1"


@pytest.mark.parametrize("seal", [True, False], ids=["newer", "damaged"])
def test_unknown_entries_of_manifests(store: ModelStore, seal: bool) -> None:
    path = stored(store).manifest_path
    facts = {**json.loads(path.read_text()), "author": "me"}
    del facts[SEAL]
    facts["made_with"]["pruners"] = "9.1"
    path.write_text(json.dumps(sealed(facts) if seal else facts))
    message = "holds 'author', which is of no manifest of a version" + (
        f" for pruners {pruners.__version__}; pruners 9.1 wrote it: use that one"
        if seal
        else "; restore it from a backup"
    )
    assert finding(store) == ("net_pruned_v1.0.json", "damaged", message)


def test_orphaned_files(store: ModelStore) -> None:
    first = stored(store)
    stored(store, b"b", parents=[first.parent(), Parent("external.pth", "0" * 64)])
    pruned = store.folder / "pruned"
    for ignored in ("README.md", ".gitattributes", ".hidden.pth"):
        (pruned / ignored).write_bytes(b"")
    assert store.verify() == []
    (pruned / "net_quantized_v1.0.onnx").write_bytes(b"")
    assert finding(store) == (
        "net_quantized_v1.0.onnx",
        "orphaned",
        "its name is no version's; expected NAME_pruned_v1.0.onnx",
    )
    (pruned / "net_quantized_v1.0.onnx").unlink()
    (pruned / "net_pruned_v1.0.onnx").write_bytes(b"")
    assert finding(store) == (
        "net_pruned_v1.0.onnx",
        "orphaned",
        "is not in net_pruned_v1.0.json; remove it",
    )
    for path in (pruned / "net_pruned_v1.0.onnx", first.manifest_path, first.paths[".pth"]):
        path.unlink()
    name, kind, message = finding(store)
    assert (name, kind) == ("net_pruned_v1.1.json", "orphaned")
    assert re.fullmatch(
        r"its parent net_pruned_v1\.0\.pth \(sha256 \w{12}\) is not in the store; restore it from "
        r"a backup",
        message,
    )


# --- descent -----------------------------------------------------------------------------------


def shape(trees: list[Descent]) -> Any:
    def of(tree: Descent) -> Any:
        name = tree.of if isinstance(tree.of, str) else getattr(tree.of, "stem", None)
        return {name or tree.of.file: [of(child) for child in tree.children]}  # type: ignore[union-attr]

    return [of(tree) for tree in trees]


def test_the_tree_of_descent(store: ModelStore) -> None:
    pruned = stored(store, b"p", parents=[Parent("base.pth", "0" * 64)])
    tuned = stored(store, b"t", parents=[pruned.parent()])
    store.add("quantized", "net", {".onnx": b"q"}, parents=[tuned.parent()])
    # The same bytes as its parent.
    final = store.add("final", "net", {".pth": b"t"}, parents=[tuned.parent()])
    # A version is found by its content, whatever the file was called that was read.
    renamed = Parent("copy.pth", final.digests[".pth"])
    again = store.add("pruned", "net_30", {".pth": b"a"}, parents=[renamed])
    store.add("pruned", "other", {".pth": b"o"}, pruning={"generated_from": "resnet.py (class A)"})
    store.add("pruned", "third", {".pth": b"3"})
    versions = store.versions()
    assert parents_of(final, versions) == [tuned]
    assert [one.stem for one in parents_of(again, versions)] == ["net_pruned_v1.1"]  # type: ignore[union-attr]
    assert shape(descents(versions)) == [
        {
            "base.pth": [
                {
                    "net_pruned_v1.0": [
                        {
                            "net_pruned_v1.1": [
                                {"net_quantized_v1.0": []},
                                {"net_v1.0_final": []},
                                {"net_30_pruned_v1.0": []},
                            ]
                        }
                    ]
                }
            ]
        },
        {"resnet.py (class A)": [{"other_pruned_v1.0": []}]},
        {"third": [{"third_pruned_v1.0": []}]},
    ]


def test_a_ring_of_parents_is_shown_once(store: ModelStore) -> None:
    digests = [hashlib.sha256(content).hexdigest() for content in (b"a", b"b")]
    for content, digest in zip((b"a", b"b"), reversed(digests), strict=True):
        stored(store, content, parents=[Parent("x.pth", digest)])
    assert shape(descents(store.versions())) == [{"net_pruned_v1.0": [{"net_pruned_v1.1": []}]}]


# --- loading -----------------------------------------------------------------------------------


def test_load(folder: Path) -> None:
    store = ModelStore()
    store.add("final", "slim", {".pth": save_bytes(STATE)}, model=MODEL)
    other = {name: tensor + 1 for name, tensor in STATE.items()}
    store.add("final", "slim", {".pth": save_bytes(other)}, model=MODEL)
    # The docstring of the model file names the newest weights; it fits the older ones as well.
    (folder / "generated/slim.py").write_text(SOURCE.replace("v1.0", "v1.1"))
    random = torch.get_rng_state()
    for version, expected in (("1.0", STATE), ("latest", other)):
        model = pruners.load("slim", version=version)
        assert all(torch.equal(t, expected[name]) for name, t in model.state_dict().items())
        assert not model.training
    assert torch.equal(torch.get_rng_state(), random)
    # As easy without this project.
    path = store.find("slim", "final", "1.0").paths[".pth"]
    model.load_state_dict(torch.load(path, weights_only=True))
    assert torch.equal(model.fc.weight, STATE["fc.weight"])


def test_load_from_other_folders(folder: Path) -> None:
    stored(ModelStore("store"), save_bytes(STATE), model=MODEL)
    (folder / "generated").rename(folder / "elsewhere")
    model = pruners.load("net", "pruned", store_dir="store", out="elsewhere")
    assert torch.equal(model.fc.weight, STATE["fc.weight"])


def test_what_cannot_be_loaded(folder: Path) -> None:
    store = ModelStore()
    weights = stored(store, save_bytes(STATE), model=MODEL).paths[".pth"]
    source = folder / "generated/slim.py"

    def refused(message: str, name: str = "net", **options: Any) -> None:
        with pytest.raises(PrunerError, match=message):
            pruners.load(name, "pruned", **options)

    source.write_text(SOURCE.replace("3, 2", "3, 4"))
    refused(
        r"generated/slim\.py: is not the model file that net_pruned_v1\.0\.pth belongs to \(sha256 "
        r"of its code \w{12}, expected \w{12}\); name the folder of that one with out=, or choose"
    )
    source.write_bytes(b"\xff")
    refused(r"generated/slim\.py: cannot be read \(UnicodeDecodeError: .*\); expected the model f")
    source.unlink()
    refused(r"slim\.py: cannot be read \(No such file or directory\); expected the model file of n")
    source.write_text(SOURCE)
    content = weights.read_bytes()
    weights.write_bytes(content[:-1])
    refused(
        r"net_pruned_v1\.0\.pth: has sha256 \w{12}, expected \w{12} by its manifest; `python ap"
    )
    weights.unlink()
    refused(r"net_pruned_v1\.0\.pth: cannot be read \(No such file or directory\); restore it from")
    weights.write_bytes(content)
    assert pruners.load("net", "pruned") is not None

    store.add("pruned", "bare", {".pth": content})
    refused(
        r"bare_pruned_v1\.0\.json: names no model file, so what bare_pruned_v1\.0\.pth ", "bare"
    )
    store.add("pruned", "onnx", {".onnx": b""}, model=MODEL)
    refused(r"onnx_pruned_v1\.0\.json: has no \.pth, only \.onnx; expected weights to load", "onnx")
    nobody = ModelFile("slim.py", "nobody", MODEL.code_sha256)
    store.add("pruned", "nobody", {".pth": content}, model=nobody)
    refused(r"slim\.py: has no function nobody, which models/pruned/nobody_pruned_v1\.0", "nobody")
    other = save_bytes({"fc.weight": torch.ones(2, 3, dtype=torch.int8)})
    store.add("pruned", "int8", {".pth": other}, model=MODEL)
    refused(
        r"int8_pruned_v1\.0\.pth: is no state_dict of generated/slim\.py \(RuntimeError: .*\); "
        r"expected weights of that file, in float or int8; `python app\.py models verify` lists ",
        "int8",
    )
    with pytest.raises(
        PrunerError, match="models/final: has no net; there is one in stage pruned;"
    ):
        pruners.load("net")


# --- the command line --------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = app.main(arguments)
    out, err = capsys.readouterr()
    return code, out, err.strip()


@pytest.fixture
def filled(folder: Path) -> ModelStore:
    store = ModelStore()
    pruned = store.add(
        "pruned",
        "slim",
        {".pth": save_bytes(STATE)},
        parents=[Parent("base.pth", "0123456789abcdef" * 4)],
        model=MODEL,
        pruning={"options": {"prune_pct": 50.0}},
        metrics={"accuracy": 98.25, "parameters": 1234567},
    )
    store.add("quantized", "slim", {".onnx": b"q" * 2000, ".pth": b"p"}, parents=[pruned.parent()])
    return store


@pytest.mark.usefixtures("filled")
def test_models_lists(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "models")
    assert (code, err) == (0, "")
    size = len(save_bytes(STATE)) / 1000
    assert [re.sub(" +", " ", line) for line in out.splitlines()] == [
        "name stage version size parameters accuracy files from",
        f"slim pruned 1.0 {size:,.0f} kB 1,234,567 98.2 % .pth base.pth (0123456789ab)",
        "slim quantized 1.0 2 kB .onnx .pth slim_pruned_v1.0",
        "",
        "base.pth (0123456789ab)",
        "└── slim_pruned_v1.0",
        " └── slim_quantized_v1.0",
    ]
    assert "\x1b" not in out
    listed = json.loads(run(capsys, "models", "--json")[1])
    assert listed["store"] == "models"
    assert listed["versions"][1] == {
        "name": "slim",
        "stage": "quantized",
        "version": "1.0",
        "files": {
            ".onnx": "models/quantized/slim_quantized_v1.0.onnx",
            ".pth": "models/quantized/slim_quantized_v1.0.pth",
        },
        "manifest": "models/quantized/slim_quantized_v1.0.json",
        "bytes": {".onnx": 2000, ".pth": 1},
        "made_from": ["slim_pruned_v1.0"],
        "metrics": {},
    }


@pytest.mark.usefixtures("filled")
def test_models_show(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "models", "show", "slim")
    assert code == 0
    lines = [re.sub(" +", " ", line) for line in out.splitlines()]
    assert [line for line in lines if not line.startswith(" ")] == [
        "slim_pruned_v1.0",
        "",
        "slim_quantized_v1.0",
    ]
    assert " pruning.options.prune_pct 50.0" in lines
    assert " from base.pth (0123456789ab)" in lines
    assert " model.file slim.py" in lines
    for name in ("slim_quantized_v1.0", "models/quantized/slim_quantized_v1.0.onnx"):
        assert run(capsys, "models", "show", name)[1].startswith("slim_quantized_v1.0\n  .onnx")
    shown = json.loads(run(capsys, "models", "show", "slim", "--version", "v1.0", "--json")[1])
    assert list(shown) == ["slim_pruned_v1.0", "slim_quantized_v1.0"]
    shown = json.loads(run(capsys, "models", "show", "slim", "--stage", "pruned", "--json")[1])
    assert list(shown) == ["slim_pruned_v1.0"]
    for arguments, message in (
        (
            ("slin",),
            r"error: models: has no slin; did you mean slim\? `python app\.py models` lis.*",
        ),
        (
            ("zzzzzz",),
            r"error: models: has no zzzzzz; it has slim; `python app\.py models` lists all",
        ),
        (("slim", "--version", "3"), r"error: models/pruned: slim has no version '3'; expected .*"),
        (
            ("slim", "--stage", "fin"),
            r"error: stage 'fin': unknown; did you mean final\?; expected.*",
        ),
    ):
        code, out, err = run(capsys, "models", "show", *arguments)
        assert (code, out) == (2, "")
        assert re.fullmatch(message, err)


def test_models_verify(capsys: pytest.CaptureFixture[str], filled: ModelStore) -> None:
    assert run(capsys, "models", "verify") == (0, "models: 2 versions, all sound\n", "")
    filled.find("slim", "quantized").paths[".onnx"].write_bytes(b"")
    filled.find("slim", "pruned").manifest_path.unlink()
    code, out, err = run(capsys, "models", "verify")
    assert (code, err) == (1, "")
    lines = out.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("models/pruned/slim_pruned_v1.0.pth: orphaned: has no manifest; ")
    assert lines[1].startswith("models/quantized/slim_quantized_v1.0.onnx: damaged: has sha256 ")
    assert lines[2].startswith("models/quantized/slim_quantized_v1.0.json: orphaned: its parent ")
    assert lines[3] == "models: 1 version, 3 files damaged or orphaned"
    code, out, _ = run(capsys, "models", "verify", "--json")
    assert code == 1
    assert [found["kind"] for found in json.loads(out)["findings"]] == [
        *("orphaned", "damaged", "orphaned")
    ]


def test_models_of_other_folders(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    for command in (("models",), ("models", "verify"), ("models", "show", "slim")):
        code, _, err = run(capsys, *command, "--store-dir", "gone")
        assert (code, err) == (
            2,
            "error: --store-dir gone: no such folder; expected that of a model store, with "
            "pruned/, quantized/, final/ in it",
        )
    (folder / "empty").mkdir()
    assert run(capsys, "models", "--store-dir", "empty") == (0, "empty: no versions\n", "")
    code, _, err = run(capsys, "models", "show", "slim", "--store-dir", "empty")
    assert err == (
        "error: empty: has no slim; it has no versions; `python app.py models` lists all"
    )
    code, _, err = run(capsys, "models", "--store-dir", "empty", "verify")
    assert (code, err) == (2, "error: --store-dir: put it after verify")


@pytest.mark.parametrize("weights_out", [False, True])
def test_prune_stores_its_weights(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    weights_out: bool,
) -> None:
    # The seconds of a fresh process.
    outcome = Outcome("stub", True, 0.0, "", "masked", 1e-5)
    monkeypatch.setattr("pruners.base.PruningResult.verified", lambda self: outcome)
    checkpoint = folder / "base.pth"
    base = {"fc1.weight": torch.randn(16, 3 * 64), "fc1.bias": torch.randn(16)}
    base |= {"fc2.weight": torch.randn(10, 16), "fc2.bias": torch.randn(10)}
    checkpoint.write_bytes(save_bytes(base))
    (folder / "nets.py").write_text(
        "from torch import nn\n\n\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.fc1 = nn.Linear(192, 16)\n"
        "        self.fc2 = nn.Linear(16, 10)\n\n"
        "    def forward(self, x):\n"
        "        return self.fc2(self.fc1(x.flatten(1)).relu())\n"
    )
    command = ("--arch", "nets.py:Net", "--checkpoint", "base.pth", "--input-shape", "3,8,8")
    place = ("--store-dir", "store", *(("--weights-out", "weights") if weights_out else ()))
    code, out, err = run(capsys, *command, *place, "--json")
    assert code == 0, err
    pruned = "weights" if weights_out else "store/pruned"
    assert json.loads(out)["files"] == {
        "source": "generated/net_50.py",
        "manifest": "generated/net_50.json",
        "weights": f"{pruned}/net_50_pruned_v1.0.pth",
        "weights_manifest": f"{pruned}/net_50_pruned_v1.0.json",
    }
    store = ModelStore("store", pruned="weights" if weights_out else None)
    made = store.find("net_50", "pruned")
    assert made.parents == (Parent.of(checkpoint),)
    assert made.manifest["pruning"]["options"]["prune_pct"] == 50
    assert made.manifest["training"] is None
    assert made.metrics["parameters"] == made.manifest["pruning"]["parameters"]["after"]
    text = made.manifest_path.read_text()
    assert str(folder) not in text
    assert store.verify() == []
    # The same again: the same bytes, no new version.
    assert run(capsys, *command, *place, "--json")[1] == out
    assert made.manifest_path.read_text() == text
    if weights_out:
        assert not (folder / "store").exists()
        return
    model = pruners.load("net_50", "pruned", store_dir="store")
    assert sum(p.numel() for p in model.parameters()) == made.metrics["parameters"]
    # It knows where it comes from: pruned again, it goes back to the original.
    again = pruners.prune(model, torch.randn(2, 3, 8, 8), 30)
    assert again.report.before is not None
    assert again.report.before.original.startswith("nets.py")
