"""Which version of a model store was made from which: the tree of descent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pruners.model_store import Parent, StoredVersion


def parents_of(
    version: StoredVersion, versions: Iterable[StoredVersion]
) -> list[StoredVersion | Parent]:
    """What a version was made from: versions of the store, and files from elsewhere.

    Content counts, not names; where several versions hold the same, the name decides.
    """
    others = [other for other in versions if other.stem != version.stem]
    found: list[StoredVersion | Parent] = []
    for parent in version.parents:
        same = [other for other in others if parent.sha256 in other.digests.values()]
        by_name = [o for o in same if parent.file in {path.name for path in o.paths.values()}]
        found.append(next(iter(by_name or same), parent))
    return found


@dataclass(frozen=True, slots=True)
class Descent:
    """A version, or a file from elsewhere, and what was made from it."""

    of: StoredVersion | Parent | str
    """A string where nothing is known but the network's name."""
    children: tuple[Descent, ...]


def descents(versions: Sequence[StoredVersion]) -> list[Descent]:
    """The trees of descent: at the roots, what lies outside of the store.

    A version with several parents hangs from the first of them.
    """
    made: dict[str, list[StoredVersion]] = {}
    roots: dict[str, Parent | str] = {}
    for version in versions:
        parents = parents_of(version, versions)
        first: StoredVersion | Parent | str = parents[0] if parents else _network_of(version)
        key = first.stem if isinstance(first, StoredVersion) else repr(first)
        made.setdefault(key, []).append(version)
        if not isinstance(first, StoredVersion):
            roots[key] = first
    shown: set[str] = set()

    def grown(of: StoredVersion | Parent | str, key: str) -> Descent:
        children = []
        for child in made.get(key, ()):
            if child.stem not in shown:
                shown.add(child.stem)
                children.append(grown(child, child.stem))
        return Descent(of, tuple(children))

    trees = [grown(of, key) for key, of in roots.items()]
    for version in versions:
        # Manifests that were edited by hand may form a ring.
        if version.stem not in shown:
            shown.add(version.stem)
            trees.append(grown(version, version.stem))
    return trees


def _network_of(version: StoredVersion) -> str:
    """The network that a version without a parent came from."""
    pruning = version.manifest["pruning"] or {}
    return str(pruning.get("generated_from") or pruning.get("network") or version.name)
