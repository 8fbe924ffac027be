"""The packages of the extra `deploy`: asked for when they are needed, kept quiet when they run."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
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
    """The block's warnings and log messages are not shown: what goes wrong, raises."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
