"""Additions from outside: files that `--plugin` names, and the entry points of packages.

Either is code of the user's, which is imported and so runs; it registers what it has to offer:

    # my_measures.py
    from pruners.registry import register_measure

    @register_measure("MeanSquare")
    def mean_square(*, weight, **context):
        return weight.square().mean(1)
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path

from pruners.errors import PrunerError
from pruners.loading import module_from_file

GROUP = "pruners.plugins"
"""The group of entry points that are imported before a command runs."""


def load_plugins(files: Sequence[Path]) -> None:
    """Import the plugins of installed packages, then these files.

    Raises:
        PrunerError: there is no such file, or a plugin raises.
    """
    for found in entry_points(group=GROUP):
        try:
            found.load()
        except SystemExit as error:
            raise PrunerError(
                f"plugin {found.name} ({found.value}): importing it called sys.exit; mend it, or "
                f"uninstall its package"
            ) from error
        except Exception as error:
            raise PrunerError(
                f"plugin {found.name} ({found.value}): raised {type(error).__name__}: "
                f"{' '.join(str(error).split())}; mend it, or uninstall its package"
            ) from error
    for file in files:
        try:
            module_from_file(file, f"--plugin {file}", "a Python file that registers something")
        except SystemExit as error:
            raise PrunerError(
                f"--plugin {file}: importing the file called sys.exit; put that under "
                f"`if __name__ == '__main__':`"
            ) from error
