"""The model store: versions of networks on their way to deployment, each with a manifest.

    models/
      pruned/resnet20_50_pruned_v1.0.pth          a state_dict of generated/resnet20_50.py
      pruned/resnet20_50_pruned_v1.0.json         its manifest
      quantized/resnet20_50_quantized_v1.0.onnx   (and .pth, .json)
      final/resnet20_50_v1.0_final.pth            (and .onnx, .json)

    store = ModelStore("models")
    stored = store.add("pruned", "resnet20_50", {".pth": content}, pruning={"prune_pct": 50})
    store.find("resnet20_50", "pruned").paths[".pth"]

A version is its files and a manifest that names them with their digests. The manifest gets its name
last, so that where it is, everything is; files without one are what a killed process left, or what
somebody copied in. Nothing is ever overwritten: a name is made with `os.link`, which one of two
processes wins; the other finds it taken and tries the next (`store.commit`). Manifests hold no
dates, folders or durations: the same run gives the same bytes.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from pruners.errors import PrunerError, did_you_mean
from pruners.store import (
    SEAL,
    VersionTakenError,
    commit,
    holds_content,
    is_intact,
    manifest_text,
    parsed_json,
    refusal,
    sealed,
    stale_files,
)
from pruners.version import __version__

STAGES = ("pruned", "quantized", "final")
"""The folders of a store, in the order in which a network passes through them."""

_NUMBER = r"(?P<major>0|[1-9]\d*)\.(?P<minor>0|[1-9]\d*)"
_NAME = r"(?P<name>\w[\w.-]*)"
_SUFFIX = r"(?P<suffix>(?:\.[a-z]\w*)+)"
_STEM = {"pruned": "{}_pruned_v{}", "quantized": "{}_quantized_v{}", "final": "{}_v{}_final"}
_PATTERN = {
    stage: re.compile(stem.format(_NAME, _NUMBER) + _SUFFIX, re.ASCII)
    for stage, stem in _STEM.items()
}
_MANIFEST = ".json"
_KEYS = frozenset(
    {"name", "stage", "version", "made_with", "files", "parents", "model", SEAL}
    | {"training", "pruning", "quantization", "metrics"}
)
_WEIGHTS = {".pth", ".pt", ".onnx", ".safetensors"}
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, slots=True)
class Parent:
    """A file that a version was made from, wherever it lies now."""

    file: str
    """Its name, without a folder."""
    sha256: str

    @classmethod
    def of(cls, path: str | Path) -> Parent:
        """The file as it is now.

        Raises:
            PrunerError: it cannot be read.
        """
        path = Path(path)
        try:
            return cls(path.name, _digest_of(path))
        except OSError as error:
            raise PrunerError(f"{path}: cannot be read ({error.strerror or error})") from error


@dataclass(frozen=True, slots=True)
class ModelFile:
    """The generated model description file that weights belong to."""

    file: str
    """Its name, without a folder: `resnet20_50.py`."""
    factory: str
    """The function in it that builds the network."""
    code_sha256: str
    """See `code_digest`."""


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """One version of a network in a store."""

    name: str
    stage: str
    version: str
    """`1.0`"""
    paths: Mapping[str, Path]
    """Of its files, by suffix: `{".pth": ..., ".onnx": ...}`."""
    manifest_path: Path
    manifest: Mapping[str, Any]

    @property
    def stem(self) -> str:
        """What its files are called, but for the suffix: `resnet20_50_pruned_v1.0`."""
        return _STEM[self.stage].format(self.name, self.version)

    @property
    def digests(self) -> dict[str, str]:
        """The sha256 that its manifest has of every file, by suffix."""
        return {suffix: self._listed[path.name]["sha256"] for suffix, path in self.paths.items()}

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of every file by its manifest, by suffix."""
        return {suffix: self._listed[path.name]["bytes"] for suffix, path in self.paths.items()}

    @property
    def parents(self) -> tuple[Parent, ...]:
        """What it was made from."""
        return tuple(Parent(entry["file"], entry["sha256"]) for entry in self.manifest["parents"])

    @property
    def model(self) -> ModelFile | None:
        """The model file that its weights belong to, where the manifest names one."""
        known = self.manifest["model"]
        return None if known is None else ModelFile(**known)

    @property
    def metrics(self) -> Mapping[str, Any]:
        """What is known of its accuracy, size and speed."""
        metrics: Mapping[str, Any] = self.manifest["metrics"]
        return metrics

    def parent(self, suffix: str = ".pth") -> Parent:
        """This version as the parent of another one."""
        return Parent(self.paths[suffix].name, self.digests[suffix])

    @property
    def _listed(self) -> Mapping[str, Any]:
        listed: Mapping[str, Any] = self.manifest["files"]
        return listed


@dataclass(frozen=True, slots=True)
class Finding:
    """A file of a store with which something is wrong."""

    path: Path
    kind: Literal["damaged", "orphaned"]
    """Damaged: not what its manifest says. Orphaned: what it belongs to is not there."""
    message: str
    """What is wrong, and the way out."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """The files that bear the name of one version, whether or not it is whole."""

    name: str
    stage: str
    number: tuple[int, int]
    paths: Mapping[str, Path]
    """By suffix, the manifest included."""

    @property
    def version(self) -> str:
        return "{}.{}".format(*self.number)

    @property
    def stem(self) -> str:
        return _STEM[self.stage].format(self.name, self.version)

    @property
    def files(self) -> dict[str, Path]:
        return {suffix: path for suffix, path in self.paths.items() if suffix != _MANIFEST}


class ModelStore:
    """The versions in a folder, a subfolder a stage.

    Args:
        folder: of the store; it is made when the first version is added.
        pruned: another place for `pruned/`.
    """

    def __init__(self, folder: str | Path = "models", *, pruned: str | Path | None = None) -> None:
        self.folder = Path(folder)
        self._pruned = None if pruned is None else Path(pruned)

    def stage_folder(self, stage: str) -> Path:
        """Where the versions of a stage lie.

        Raises:
            PrunerError: there is no such stage.
        """
        if stage not in STAGES:
            raise PrunerError(
                f"stage {stage!r}: unknown{did_you_mean(stage, STAGES)}; "
                f"expected one of {', '.join(STAGES)}"
            )
        if stage == "pruned" and self._pruned is not None:
            return self._pruned
        return self.folder / stage

    # --- writing --------------------------------------------------------------------------------

    def add(
        self,
        stage: str,
        name: str,
        contents: Mapping[str, bytes],
        *,
        parents: Sequence[Parent] = (),
        model: ModelFile | None = None,
        training: Mapping[str, Any] | None = None,
        pruning: Mapping[str, Any] | None = None,
        quantization: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Any] | None = None,
        also: Callable[[str], Mapping[Path, bytes]] | None = None,
    ) -> StoredVersion:
        """Store these files as a version, unless there is one that holds the same already.

        That is one of this name and stage with the same files, byte for byte, for the same code of
        the model file; it is returned as it is, with the manifest that it has. Other content gets
        the version after the highest (1.10 after 1.9). Safe for several processes at once; whatever
        ends this one, a version is there with its manifest, or it does not count.

        Args:
            contents: the files by suffix, `{".pth": ..., ".onnx": ...}`.
            parents: what it was made from: the checkpoint that was pruned, the version that was
                quantized.
            model: the model file that the weights belong to.
            training: parameters and settings, as far as there are any.
            pruning: likewise.
            quantization: likewise.
            metrics: such as `accuracy` (percent), `parameters`, `macs`, `bytes`.
            also: given the stem of the version's files, other files that mention it; they are
                written with the version, all or none.

        Raises:
            PrunerError: an unknown stage, a name or suffix that no file can have, or a folder that
                cannot be written.
            ValueError: a figure is NaN or infinite.
        """
        folder = self.stage_folder(stage)
        _check_name(name, contents)
        while True:
            entries = [entry for entry in self._entries(stage) if entry.name == name]
            same = next((entry for entry in entries if _is_same(entry, contents, model)), None)
            if same is not None and _MANIFEST in same.paths:
                commit(also(same.stem) if also is not None else {})
                return _read(same)
            # The files of a process that was killed before it wrote the manifest are taken over.
            number = same.number if same is not None else _next(entries)
            version = "{}.{}".format(*number)
            stem = _STEM[stage].format(name, version)
            manifest = {
                "name": name,
                "stage": stage,
                "version": version,
                "made_with": {"pruners": __version__, "torch": torch.__version__},
                "files": {
                    stem + suffix: {
                        "sha256": hashlib.sha256(content).hexdigest(),
                        "bytes": len(content),
                    }
                    for suffix, content in contents.items()
                },
                "parents": [{"file": p.file, "sha256": p.sha256} for p in parents],
                "model": model
                and {
                    "file": model.file,
                    "factory": model.factory,
                    "code_sha256": model.code_sha256,
                },
                "training": training,
                "pruning": pruning,
                "quantization": quantization,
                "metrics": metrics or {},
            }
            files = {folder / (stem + suffix): content for suffix, content in contents.items()}
            # Last: where the manifest is, everything is.
            files[folder / (stem + _MANIFEST)] = manifest_text(sealed(manifest)).encode()
            try:
                commit({**files, **(also(stem) if also is not None else {})}, files)
            except VersionTakenError:
                continue
            paths = {path.name.removeprefix(stem): path for path in files}
            return _read(_Entry(name, stage, number, paths))

    # --- reading --------------------------------------------------------------------------------

    def versions(self, name: str | None = None, stage: str | None = None) -> list[StoredVersion]:
        """The versions that are there, by name, stage and number; `verify` tells of damaged ones.

        Raises:
            PrunerError: an unknown stage, or a folder that cannot be read.
        """
        found = []
        for one in STAGES if stage is None else (stage,):
            for entry in self._entries(one):
                if _MANIFEST not in entry.paths or name not in (None, entry.name):
                    continue
                try:
                    found.append((entry.number, _read(entry)))
                except PrunerError:
                    continue
        found.sort(key=lambda pair: (pair[1].name, STAGES.index(pair[1].stage), pair[0]))
        return [version for _, version in found]

    def find(self, name: str, stage: str, version: str = "latest") -> StoredVersion:
        """One version; `latest` is the one with the highest number, `1.0` and `v1.0` are the same.

        Raises:
            PrunerError: there is no such stage, name or version, or its manifest is damaged.
        """
        folder = self.stage_folder(stage)
        entries = [entry for entry in self._entries(stage) if entry.name == name]
        whole = [entry for entry in entries if _MANIFEST in entry.paths]
        if not whole and not entries:
            raise self._no_such_name(name, stage)
        wanted = version.removeprefix("v")
        for entry in whole[-1:] if version == "latest" else whole:
            if version == "latest" or entry.version == wanted:
                return _read(entry)
        bare = next((e for e in entries if version == "latest" or e.version == wanted), None)
        if bare is not None:
            first = next(iter(bare.paths.values()))
            raise PrunerError(
                f"{first}: has no manifest, so it is no version of {name}; the command that made "
                f"it writes one when it is run again"
            )
        known = [entry.version for entry in whole]
        raise PrunerError(
            f"{folder}: {name} has no version {version!r}; expected latest, {', '.join(known)}"
        )

    def _no_such_name(self, name: str, stage: str) -> PrunerError:
        folder = self.stage_folder(stage)
        stages = {s: {entry.name for entry in self._entries(s)} for s in STAGES}
        elsewhere = [s for s in STAGES if name in stages[s]]
        known = sorted(stages[stage])
        hint = did_you_mean(name, known) or f"; it has {', '.join(known) or 'no versions'};"
        if elsewhere:
            hint = f"; there is one in stage {' and '.join(elsewhere)};"
        return PrunerError(f"{folder}: has no {name}{hint} `python app.py models` lists all")

    def _entries(self, stage: str) -> list[_Entry]:
        """All that is named like a version of a stage, by name and number."""
        named: dict[tuple[str, tuple[int, int]], dict[str, Path]] = {}
        for path in self._listing(stage):
            found = _PATTERN[stage].fullmatch(path.name)
            if found:
                key = (found["name"], (int(found["major"]), int(found["minor"])))
                named.setdefault(key, {})[found["suffix"]] = path
        return [
            _Entry(name, stage, number, paths) for (name, number), paths in sorted(named.items())
        ]

    def _listing(self, stage: str) -> list[Path]:
        folder = self.stage_folder(stage)
        try:
            return sorted(folder.iterdir(), key=lambda p: p.name) if folder.exists() else []
        except OSError as error:
            raise refusal(folder, "read", error) from error

    # --- checking -------------------------------------------------------------------------------

    def verify(self) -> list[Finding]:
        """Every file that is damaged or orphaned, by folder and name; empty for a sound store.

        Damaged: a manifest that cannot be read, a file that is missing or is not what its manifest
        says, or that is a pointer of Git LFS in place of the file. Orphaned: files without a
        manifest, weights whose name is that of no version, what killed processes left, and versions
        whose parent was a version of a store and is not in this one.

        Raises:
            PrunerError: a folder cannot be read.
        """
        digests = {digest for v in self.versions() for digest in v.digests.values()}
        return [finding for stage in STAGES for finding in self._verify(stage, digests)]

    def _verify(self, stage: str, digests: Collection[str]) -> Iterator[Finding]:
        folder = self.stage_folder(stage)
        for path in stale_files(folder):
            yield Finding(
                path,
                "orphaned",
                "left by a process that was killed; the next version in this folder removes it",
            )
        entries = self._entries(stage)
        named = {path for entry in entries for path in entry.paths.values()}
        for path in self._listing(stage):
            is_model = path.suffix in _WEIGHTS and not path.name.startswith(".")
            if is_model and path not in named:
                expected = _STEM[stage].format("NAME", "1.0") + path.suffix
                yield Finding(path, "orphaned", f"its name is no version's; expected {expected}")
        for entry in entries:
            if _MANIFEST not in entry.paths:
                for path in entry.paths.values():
                    yield Finding(
                        path,
                        "orphaned",
                        "has no manifest; the command that made it writes one when it is run "
                        "again, or remove it",
                    )
                continue
            try:
                version = _read(entry)
            except PrunerError as error:
                # The message begins with the path, which the finding has already.
                message = str(error).removeprefix(f"{entry.paths[_MANIFEST]}: ")
                yield Finding(entry.paths[_MANIFEST], "damaged", message)
                continue
            yield from _verify_files(entry, version)
            for parent in version.parents:
                if is_versioned(parent.file) and parent.sha256 not in digests:
                    yield Finding(
                        version.manifest_path,
                        "orphaned",
                        f"its parent {parent.file} (sha256 {parent.sha256[:12]}) is not in the "
                        f"store; restore it from a backup",
                    )


def _verify_files(entry: _Entry, version: StoredVersion) -> Iterator[Finding]:
    """What differs from a manifest among the files of its version."""
    for suffix, path in version.paths.items():
        try:
            with path.open("rb") as file:
                start = file.read(len(_LFS_POINTER))
            size, digest = path.stat().st_size, _digest_of(path)
        except FileNotFoundError:
            yield Finding(path, "damaged", "is missing; restore it from a backup")
            continue
        except OSError as error:
            why = f"cannot be read ({error.strerror or error})"
            yield Finding(path, "damaged", f"{why}; restore it from a backup")
            continue
        expected = version.digests[suffix]
        if digest == expected:
            continue
        if start == _LFS_POINTER:
            yield Finding(path, "damaged", "is a pointer of Git LFS; `git lfs pull` fetches it")
            continue
        yield Finding(
            path,
            "damaged",
            f"has sha256 {digest[:12]} ({size:,} bytes), expected {expected[:12]} "
            f"({version.sizes[suffix]:,} bytes); restore it from a backup",
        )
    for suffix, path in entry.files.items():
        if suffix not in version.paths:
            why = f"is not in {version.manifest_path.name}; remove it"
            yield Finding(path, "orphaned", why)


# --- names ------------------------------------------------------------------------------------


def is_versioned(file: str) -> bool:
    """Whether this is the name of a version's file, of whatever stage."""
    return any(pattern.fullmatch(file) for pattern in _PATTERN.values())


# --- digests -----------------------------------------------------------------------------------


def code_digest(source: str) -> str:
    """The sha256 of a model file, its docstring left out.

    The docstring names a version of the weights, and changes with every one; all versions that the
    code fits have the same digest.
    """
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError):
        body = []
    # Lines as Python counts them.
    lines = re.split(r"\r\n|\r|\n", source)
    match body:
        case [ast.Expr(ast.Constant(str())) as docstring, *_]:
            lines = lines[docstring.end_lineno :]
    return hashlib.sha256("\n".join(lines).strip().encode()).hexdigest()


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- versions ----------------------------------------------------------------------------------


def _check_name(name: str, contents: Mapping[str, bytes]) -> None:
    if re.fullmatch(_NAME, name, re.ASCII) is None:
        raise PrunerError(
            f"name {name!r}: expected letters, digits, underscores, dots and hyphens, as in "
            f"resnet20_50; give one with --name"
        )
    if not contents:
        raise PrunerError(f"{name}: has no files, expected at least one, such as .pth")
    for suffix in contents:
        if re.fullmatch(_SUFFIX, suffix, re.ASCII) is None or suffix == _MANIFEST:
            raise PrunerError(
                f"{name}: suffix {suffix!r} cannot be that of a version's file; expected one such "
                f"as .pth or .onnx"
            )


def _next(entries: Sequence[_Entry]) -> tuple[int, int]:
    if not entries:
        return 1, 0
    major, minor = max(entry.number for entry in entries)
    return major, minor + 1


def _is_same(entry: _Entry, contents: Mapping[str, bytes], model: ModelFile | None) -> bool:
    """Whether a version holds just this, or as much of it as a killed process had written."""
    files = entry.files
    whole = _MANIFEST in entry.paths
    if not files or not (files.keys() == contents.keys() if whole else files.keys() <= {*contents}):
        return False
    try:
        if not all(holds_content(path, contents[suffix]) for suffix, path in files.items()):
            return False
    except OSError as error:
        raise refusal(next(iter(files.values())).parent, "read", error) from error
    if not whole:
        return True
    try:
        return _read(entry).model == model
    except PrunerError:
        # A damaged manifest stays for `verify` to tell of; the content gets a version of its own.
        return False


def _read(entry: _Entry) -> StoredVersion:
    """The version as its manifest describes it; PrunerError where that is damaged."""
    path = entry.paths[_MANIFEST]
    try:
        facts: Any = parsed_json(path.read_bytes())
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise _damaged(path, f"cannot be read ({why})") from error
    match facts:
        case {
            "name": str(name),
            "stage": str(stage),
            "version": str(version),
            "files": {**files},
            "parents": [*parents],
            "model": model,
            "training": None | {},
            "pruning": None | {},
            "quantization": None | {},
            "metrics": {},
        } if files and all(map(_is_file, files.values())) and all(map(_is_parent, parents)):
            pass
        case _:
            raise _damaged(path, "is no manifest of a version")
    if not is_intact(facts):
        raise _damaged(path, "was changed since it was written")
    if unknown := facts.keys() - _KEYS:
        what = f"holds {sorted(unknown)[0]!r}, which is of no manifest of a version"
        match facts:
            # What was written so: by a later version, which knows more.
            case {"made_with": {"pruners": str(made_with)}, **rest} if SEAL in rest:
                raise PrunerError(
                    f"{path}: {what} for pruners {__version__}; pruners {made_with} wrote it: use "
                    f"that one"
                )
        raise _damaged(path, what)
    if (name, stage, version) != (entry.name, entry.stage, entry.version):
        raise _damaged(path, f"is the manifest of {name} {stage} {version}")
    suffixes = [str(file).removeprefix(entry.stem) for file in files]
    are_suffixes = all(re.fullmatch(_SUFFIX, suffix, re.ASCII) for suffix in suffixes)
    if not are_suffixes or not _is_model(model):
        raise _damaged(path, "is no manifest of a version")
    paths = {suffix: path.with_name(entry.stem + suffix) for suffix in suffixes}
    return StoredVersion(entry.name, entry.stage, entry.version, paths, path, facts)


def _damaged(path: Path, why: str) -> PrunerError:
    return PrunerError(f"{path}: {why}; restore it from a backup")


def _is_file(entry: object) -> bool:
    match entry:
        case {"sha256": str(), "bytes": int()}:
            return True
    return False


def _is_parent(entry: object) -> bool:
    match entry:
        case {"file": str(), "sha256": str()}:
            return True
    return False


def _is_model(entry: object) -> bool:
    match entry:
        case None:
            return True
        case {"file": str(file), "factory": str(), "code_sha256": str(), **rest}:
            # The name is looked up in a folder that the user names, and nowhere else.
            return not rest and Path(file).name == file
    return False
