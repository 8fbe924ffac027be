"""What ruff says of generated files, and what becomes of it."""

from __future__ import annotations

import subprocess

import pytest
from ruff.__main__ import find_ruff_bin

from pruners.errors import WriterError
from pruners.formatting import format_source, undefined_names

LOOP = """
def total(values):
    for i, value in enumerate(values):
        sums = value if i == 0 else sums + value
    return sums
"""


def passes(code: str) -> bool:
    command = [find_ruff_bin(), "check", "--isolated", "--select", "F,I", "-"]
    return subprocess.run(command, input=code, text=True, capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("code", "mark"),
    [
        (LOOP, "sums = value if i == 0 else sums + value  # noqa: F821"),
        ("def same(x):\n    return x is 3\n", ""),
        ('def said(x):\n    return "%d" % (x, x)\n', 'return "%d" % (x, x)  # noqa: F507'),
        (
            "import torch\n\n\ndef f(xs):\n    for torch in xs:\n        print(torch)\n\n\n"
            "def g():\n    return torch.ones(1)\n",
            "for torch in xs:  # noqa: F402",
        ),
    ],
    ids=["in a loop", "mended", "format", "shadowed"],
)
def test_what_a_kept_method_says_is_marked(code: str, mark: str) -> None:
    text = format_source(code)
    assert passes(text)
    assert mark in text
    assert ("noqa" in text) == bool(mark)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def f():\n    return missing\n", r"`ruff check`: .*Undefined name `missing`"),
        (f"{LOOP}\n\ndef f():\n    return missing\n", r"`ruff check`: .*`missing`"),
        ("class A:\n    pass\n\n\nclass A:\n    pass\n", r"`ruff check`: .*Redefinition of unused"),
        ("def f(:\n", r"`ruff (check|format)`: "),
    ],
    ids=["undefined", "undefined too", "twice", "syntax"],
)
def test_what_only_a_writer_gets_wrong_is_refused(code: str, message: str) -> None:
    with pytest.raises(WriterError, match=rf"^generated source does not pass {message}"):
        format_source(code)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import a.b\nfrom c import d as e\nprint(a, e, __file__)", set()),
        ("def f(x: int) -> str:\n    return g(x)\n\ndef g(x):\n    return str(x)", set()),
        ("class A(B):\n    x = y", {"B", "y"}),
        ("f = lambda a: a + b\n[c for d in e]", {"b", "c", "e"}),
        ("class A:\n    def f(self):\n        return __class__, super()", set()),
        ("def f():\n    global made\n    made = 1\n\ndef g():\n    return made", {"made"}),
        (LOOP, set()),
    ],
)
def test_undefined_names(code: str, expected: set[str]) -> None:
    assert undefined_names(code) == expected
