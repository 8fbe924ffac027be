"""Formats and lints generated source with ruff."""

from __future__ import annotations

import subprocess
from functools import cache

from ruff.__main__ import find_ruff_bin

from pruners.errors import WriterError

LINE_LENGTH = 100
_STYLE = ("--isolated", "--line-length", str(LINE_LENGTH), "--stdin-filename", "generated.py")


def format_source(code: str) -> str:
    """Imports sorted, formatted, and proven free of undefined names and unused imports.

    Raises:
        WriterError: the code does not parse, or ruff finds something that it cannot mend.
    """
    # A kept method may assign a variable that it never reads; the assigned call stays.
    unused = ("--config", 'lint.extend-safe-fixes = ["F841"]')
    fixed = _ruff(("check", *_STYLE, *unused, "--select", "F,I", "--fix", "--quiet", "-"), code)
    return formatted(fixed)


def formatted(code: str) -> str:
    """As generated files are formatted; nothing else changes.

    Raises:
        WriterError: the code does not parse.
    """
    return _ruff(("format", *_STYLE, "-"), code)


def _ruff(arguments: tuple[str, ...], code: str) -> str:
    result = subprocess.run(
        [_binary(), *arguments], input=code, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        raise WriterError(
            f"generated source does not pass `ruff {arguments[0]}`: "
            f"{' '.join((result.stderr or result.stdout).split())[:500]}"
        )
    return result.stdout


@cache
def _binary() -> str:
    return str(find_ruff_bin())
