"""The packages of the extra `deploy`: asked for when they are needed, kept quiet when they run."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec

from pruners.errors import PrunerError


def need(what: str, *packages: str) -> None:
    """PrunerError where a package is not installed.

    Args:
        what: names what the user asked for: `quantize`.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise PrunerError(
            f"{what}: needs {' and '.join(missing)}, not installed; get it with "
            f"`pip install 'pruners[deploy]'`"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """What the block prints, warns of and logs is not shown: what goes wrong, raises.

    torch.export prints whole graphs beside an error that says what was wrong with them.
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    unread = io.StringIO()
    try:
        with warnings.catch_warnings(), redirect_stdout(unread), redirect_stderr(unread):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
