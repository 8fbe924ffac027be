"""Where the files of a stage go: complete, together, and as a new version unless they are there.

    quantized/resnet20_50_quantized_v1.0.onnx  .pth  .pt2  .json
    final/resnet20_50_v1.0_final.pth           .onnx .pt2  .json

The one place that knows names and versions; what a stage makes is bytes by suffix.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pruners.errors import PrunerError
from pruners.store import chosen_by, commit, manifest_text

Stage = Literal["quantized", "final"]

_PATTERNS: dict[Stage, str] = {
    "quantized": "{name}_quantized_v{version}",
    "final": "{name}_v{version}_final",
}


@dataclass(frozen=True, slots=True)
class Published:
    """The files of one version."""

    version: str
    """`1.0`"""
    files: Mapping[str, Path]
    """By suffix: `.onnx`, and `.json` for the record."""


def publish(
    stage: Stage,
    name: str,
    contents: Mapping[str, bytes],
    record: Mapping[str, Any],
    folder: str | Path = "models",
) -> Published:
    """Write the contents next to each other, with a record that names their digests; all or none.

    A version whose files of these suffixes hold the same is used again (files that it lacks are
    added); else they become the version after the highest.

    Args:
        name: of the network: `resnet20_50`.
        contents: bytes by suffix.
        record: plain values for the `.json` file; nothing in it may differ from run to run.

    Raises:
        PrunerError: the folder cannot be written.
    """
    home = Path(folder, stage)
    version = _version(stage, name, contents, home)
    stem = _stem(stage, name, version)
    paths = {suffix: home / f"{stem}{suffix}" for suffix in contents}
    digests = {path.name: hashlib.sha256(contents[s]).hexdigest() for s, path in paths.items()}
    paths[".json"] = home / f"{stem}.json"
    known = _known(paths[".json"])
    digests = {**known.get("files", {}), **digests}
    facts = {**known, "name": name, "stage": stage, "files": digests, **record}
    described = manifest_text(facts)
    with chosen_by("--models DIR"):
        # What is there already holds the same.
        new = {path: contents[s] for s, path in paths.items() if s in contents}
        commit(
            {path: data for path, data in new.items() if not path.exists()}
            | {paths[".json"]: described.encode()}
        )
    return Published(version, paths)


def _known(record: Path) -> dict[str, Any]:
    """What is on record of a version that gets more files."""
    if not record.is_file():
        return {}
    try:
        facts = json.loads(record.read_bytes())
    except ValueError as error:
        raise PrunerError(
            f"{record}: is damaged ({error}); remove it together with its version"
        ) from error
    return dict(facts)


def destination(stage: Stage, name: str, suffix: str, folder: str | Path = "models") -> Path:
    """The file of the first version, for messages that come before there is one."""
    return Path(folder, stage, f"{_stem(stage, name, '1.0')}{suffix}")


def _stem(stage: Stage, name: str, version: str) -> str:
    return _PATTERNS[stage].format(name=name, version=version)


def _version(stage: Stage, name: str, contents: Mapping[str, bytes], home: Path) -> str:
    """The first version that holds this, else the one after the highest."""
    suffixes = "|".join(re.escape(suffix) for suffix in (*contents, ".json"))
    pattern = re.compile(
        f"{re.escape(_stem(stage, name, '@')).replace('@', '([0-9]+)[.]([0-9]+)')}(?:{suffixes})"
    )
    names = [path.name for path in home.iterdir()] if home.is_dir() else []
    found = sorted({(int(m[1]), int(m[2])) for n in names if (m := pattern.fullmatch(n))})
    for major, minor in found:
        stem = home / _stem(stage, name, f"{major}.{minor}")
        there = {s: Path(f"{stem}{s}") for s in contents}
        if all(not p.exists() or p.read_bytes() == contents[s] for s, p in there.items()):
            return f"{major}.{minor}"
    return f"{found[-1][0]}.{found[-1][1] + 1}" if found else "1.0"
