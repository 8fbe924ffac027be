"""Functions with other code for a while: what the edited source of their files compiles to.

`sizes/` decides from the source which number has to become which. Before that is believed the
network runs with the edited source, so that a rewrite that does not do what it should costs
channels, and never a wrong file.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import CodeType, FunctionType

from pruners.cells import cells_of
from pruners.errors import WriterError
from pruners.freshness import same_code
from pruners.origin import text_of


@contextmanager
def edited_code(texts: Mapping[str, str], ran: Iterable[tuple[str, CodeType]]) -> Iterator[None]:
    """Functions run as the edited texts of their modules say.

    Args:
        texts: by name of the Python module.
        ran: code that is to change, with the name of its module; other code stays as it is.

    Raises:
        WriterError: an edited text has other functions than the original.
    """
    pairs = {name: _pairs(name, text) for name, text in texts.items()}
    swaps: dict[CodeType, CodeType] = {}
    for name, code in set(ran):
        for old, new in pairs.get(name, ()):
            # The lines of a cell are others in the text of all cells, and names that another
            # cell imports are called by other instructions.
            in_cell = cells_of(sys.modules[name]) is not None
            same = in_cell or (old.co_firstlineno == code.co_firstlineno and same_code(old, code))
            if same and old.co_qualname == code.co_qualname:
                swaps[code] = new
    functions = [
        function
        for function in (gc.get_referrers(*swaps) if swaps else ())
        if isinstance(function, FunctionType) and function.__code__ in swaps
    ]
    before = [function.__code__ for function in functions]
    try:
        for function, code in zip(functions, before, strict=True):
            function.__code__ = swaps[code].replace(co_filename=code.co_filename)
        yield
    finally:
        for function, code in zip(functions, before, strict=True):
            function.__code__ = code


def _pairs(name: str, text: str) -> list[tuple[CodeType, CodeType]]:
    """The code of every function of a module, as it was and as the edited text has it."""
    try:
        old, new = (compile(t, name, "exec", dont_inherit=True) for t in (text_of(name), text))
    except (SyntaxError, ValueError) as error:
        raise WriterError(f"module {name}: with its sizes rewritten, {error}") from error
    return list(_together(old, new))


def _together(old: CodeType, new: CodeType) -> Iterator[tuple[CodeType, CodeType]]:
    inner = [[c for c in code.co_consts if isinstance(c, CodeType)] for code in (old, new)]
    names = [[c.co_qualname for c in codes] for codes in inner]
    if names[0] != names[1]:
        raise WriterError(
            f"{old.co_filename}: with its sizes rewritten, {old.co_name} has other functions"
        )
    for a, b in zip(*inner, strict=True):
        yield a, b
        yield from _together(a, b)
