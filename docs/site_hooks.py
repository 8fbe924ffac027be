"""What mkdocs does besides: pages from outside of docs/, and links that work there and on a host.

Documents link to each other, and to files outside of docs/, by paths in the repository
(`../models/README.md`). On the site these files are pages of other names; links are changed to them
when a page is read, never in the files.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from typing import Any

from docs.pages import FROM_OUTSIDE, GENERATED, ROOT

_CODE = re.compile(r"^( *)(```+|~~~+).*?^\1\2[ \t]*$|`[^`\n]+`", re.M | re.S)
_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")

_PLACES = {path: page for path, (page, _) in FROM_OUTSIDE.items()}
"""Page by path in the repository."""
_PATHS = {page: path for path, page in _PLACES.items()}


def on_config(config: Any) -> Any:
    """Pages that the navigation does not name yet stand at its end, so that none is lost."""
    named = set(_leaves(config.nav))
    found = {path.name for path in (ROOT / "docs").glob("*.md")} | {*_PATHS, *GENERATED}
    config.nav.extend(sorted(found - named))
    return config


def on_files(files: Any, config: Any) -> Any:
    """Pages that docs/ does not hold."""
    from mkdocs.structure.files import File

    pages = {**dict(FROM_OUTSIDE.values()), **GENERATED}
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as they have to be on the site."""
    return linked(markdown, page.file.src_uri)


def linked(markdown: str, page: str) -> str:
    """The text of a page with links to pages; what is code stays as it is."""
    code = [found.span() for found in _CODE.finditer(markdown)]

    def replaced(match: re.Match[str]) -> str:
        # The text of a link may be code, its target is not.
        if any(start <= match.start(2) < end for start, end in code):
            return match[0]
        target = target_of(match[2], page)
        return match[1] if target is None else f"[{match[1]}]({target})"

    return _LINK.sub(replaced, markdown)


def target_of(link: str, page: str) -> str | None:
    """Where a link of a page leads to on the site, relative to the page.

    None for a file of the repository that is no page: its name will do. What is not there at all
    stays, so that mkdocs complains.
    """
    path, hash_, anchor = link.partition("#")
    if not path or ":" in path:
        return link
    home = posixpath.dirname(_PATHS.get(page, f"docs/{page}"))
    path = posixpath.normpath(posixpath.join(home, path))
    if path not in _PLACES and not path.startswith("docs/"):
        return None if (ROOT / path).exists() else link
    there = _PLACES.get(path, path.removeprefix("docs/"))
    return posixpath.relpath(there, posixpath.dirname(page) or ".") + hash_ + anchor


def _leaves(nav: Any) -> Iterator[str]:
    """The pages that a navigation names."""
    if isinstance(nav, str):
        yield nav
    for entry in nav if isinstance(nav, list) else nav.values() if isinstance(nav, dict) else ():
        yield from _leaves(entry)
