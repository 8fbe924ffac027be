"""Formats and lints generated source with ruff."""

from __future__ import annotations

import builtins
import json
import subprocess
import symtable
from functools import cache

from ruff.__main__ import find_ruff_bin

from pruners.errors import WriterError

LINE_LENGTH = 100
_STYLE = ("--isolated", "--line-length", str(LINE_LENGTH), "--stdin-filename", "generated.py")


# What may be said of a method that works: names (F821, F823, F402), texts, literals, loops.
_IN_METHODS = frozenset(
    {"F402", "F541", "F601", "F631", "F632", "F634", "F702", "F821", "F823", "F841", "F842"}
    | {f"F50{i}" for i in range(1, 10)}
    | {f"F52{i}" for i in range(1, 6)}
)


def format_source(code: str) -> str:
    """Imports sorted, formatted, and proven free of undefined names and unused imports.

    Raises:
        WriterError: the code does not parse, or ruff finds something that it cannot mend.
    """
    # A kept method may assign a variable that it never reads; the assigned call stays.
    unused = ("--config", 'lint.extend-safe-fixes = ["F841"]')
    check = ("check", *_STYLE, "--select", "F,I")
    fixed, complaint = _ruff((*check, *unused, "--fix", "--quiet", "-"), code)
    text = formatted(fixed)
    return _marked(text, check, complaint) if complaint else text


def formatted(code: str) -> str:
    """As generated files are formatted; nothing else changes.

    Raises:
        WriterError: the code does not parse.
    """
    text, complaint = _ruff(("format", *_STYLE, "-"), code)
    if complaint:
        raise WriterError(f"generated source does not pass `ruff format`: {complaint}")
    return text


def _marked(text: str, check: tuple[str, ...], complaint: str) -> str:
    """The code with `# noqa` where ruff takes for wrong what a kept method says.

    `y = x if first else x + y` in a loop reads no undefined name. What Python would not find
    either, and what only a writer can get wrong, stays an error.
    """
    found, _ = _ruff((*check, "--output-format", "json", "--exit-zero", "-"), text)
    marks: dict[int, set[str]] = {}
    for entry in json.loads(found):
        if entry["code"] not in _IN_METHODS:
            raise WriterError(f"generated source does not pass `ruff check`: {complaint}")
        marks.setdefault(entry["noqa_row"], set()).add(entry["code"])
    if undefined_names(text):
        raise WriterError(f"generated source does not pass `ruff check`: {complaint}")
    lines = text.splitlines(keepends=True)
    for row, codes in marks.items():
        lines[row - 1] = f"{lines[row - 1].rstrip()}  # noqa: {', '.join(sorted(codes))}\n"
    return "".join(lines)


def undefined_names(code: str) -> set[str]:
    """Names that are read somewhere and that neither the module nor Python defines."""
    module = symtable.symtable(code, "generated.py", "exec")
    made = {s.get_name() for s in module.get_symbols() if s.is_assigned() or s.is_imported()}
    known = made | set(dir(builtins)) | {"__file__", "__name__", "__path__"}
    undefined: set[str] = set()
    tables = [module]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for symbol in table.get_symbols():
            is_outer = symbol.is_global() or table is module
            if symbol.is_referenced() and is_outer and symbol.get_name() not in known:
                undefined.add(symbol.get_name())
    return undefined


def _ruff(arguments: tuple[str, ...], code: str) -> tuple[str, str]:
    """What ruff prints, and what it complains of in a line."""
    result = subprocess.run(
        [_binary(), *arguments], input=code, capture_output=True, text=True, check=False
    )
    complaint = " ".join((result.stderr or result.stdout).split())[:500]
    return result.stdout, complaint if result.returncode else ""


@cache
def _binary() -> str:
    return str(find_ruff_bin())
