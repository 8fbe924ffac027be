"""The original source and the generated one beside each other, definition by definition.

    parts = compared(model, generated, "resnet20_50.py")
    print(*unified(parts, context=3), sep="\n")

`pruners/screen.py` shows them in two columns.

Both sides are formatted alike, so that what differs is what the writer has changed.
"""

from __future__ import annotations

import ast
import difflib
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Literal

from torch import nn

from pruners.errors import PrunerError, WriterError, did_you_mean
from pruners.formatting import formatted
from pruners.origin import text_of
from pruners.report import home_of

Kind = Literal[" ", "|", "<", ">"]
"""Of a row: alike, changed, only in the original, only in the generated file."""

_PURPOSE = re.compile(
    r"\s*((self\.\w+(?= = ))|((async )?def \w+)|(class \w+)|(@\w+)|(\w+:(?= .*,$)))"
)
"""An attribute that is set, a definition, a decorator, a parameter."""


@dataclass(frozen=True, slots=True)
class Part:
    """One definition of the generated file, and what it was made from."""

    left_title: str
    """`models/cifar/resnet.py: class ResNet`; empty for what has no original."""
    right_title: str
    left: tuple[str, ...]
    """Lines of the original, formatted as the generated ones."""
    right: tuple[str, ...]

    @property
    def alike(self) -> bool:
        return self.left == self.right


@dataclass(frozen=True, slots=True)
class Row:
    """Two lines that stand beside each other; an empty one where there is no other."""

    kind: Kind
    left: str = ""
    right: str = ""
    left_marks: tuple[tuple[int, int], ...] = ()
    """First column and end of what differs, in a line that was changed."""
    right_marks: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class _Definition:
    """A class, function or constant at the top level of a file."""

    title: str
    """`class ResNet`"""
    text: str
    is_class: bool


def compared(model: nn.Module, generated: str, file: str) -> list[Part]:
    """What the generated file defines beside what the network's own files do.

    Classes come first, then functions and constants, each in the generated file's order. Methods
    that a class inherited stand under it: a generated class has them all. The factory at the end
    of the file has no original, but for that of a generated file which was pruned again.

    Args:
        model: the network that was pruned.
        generated: text of the model description file.
        file: its name, for titles and errors.

    Raises:
        PrunerError: the text is no Python, or has no class of the network.
    """
    try:
        right = _definitions(generated)
    except SyntaxError as error:
        raise PrunerError(
            f"{file}: is not Python (line {error.lineno}: {error.msg}); expected a generated file"
        ) from error
    classes = _own_classes(model)
    if type(model).__name__ not in right:
        raise PrunerError(
            f"{file}: has no class {type(model).__name__}; expected a file that was generated "
            f"from this network"
        )
    texts = _originals(list(right), classes)
    factory = list(right)[-1]
    # A function of torchvision that has the factory's name is not what it was made from.
    if factory in texts and texts[factory][1] != right[factory].text:
        del texts[factory]
    parts = []
    for name in sorted(right, key=lambda name: not right[name].is_class):
        home, text = texts.get(name, ("", ""))
        parts.append(
            Part(
                f"{home}: {right[name].title}" if home else "",
                f"{file}: {right[name].title}",
                _lines(text),
                _lines(right[name].text),
            )
        )
    return parts


def read_generated(path: Path) -> str:
    """The text of a generated file; PrunerError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        near = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise PrunerError(
            f"--file {path}: no such file{did_you_mean(path.name, near) or ';'} "
            f"leave --file out to prune now"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "is not text"
        raise PrunerError(
            f"--file {path}: cannot be read ({why}); expected a generated file"
        ) from error


def rows(part: Part, context: int) -> Iterator[Row | int]:
    """The lines of a part beside each other; a number for that many lines alike left out."""
    found = list(_aligned(part.left, part.right))
    near: set[int] = set()
    for place, row in enumerate(found):
        if row.kind != " ":
            near.update(range(place - context, place + context + 1))
    hidden = 0
    for place, row in enumerate(found):
        if place in near:
            if hidden:
                yield hidden
            hidden = 0
            yield row
        else:
            hidden += 1
    if hidden:
        yield hidden


def unified(parts: Iterable[Part], context: int = 3) -> Iterator[str]:
    """The lines of a unified diff, a file header for every definition that changed."""
    for part in parts:
        yield from difflib.unified_diff(
            part.left,
            part.right,
            part.left_title or "(no original)",
            part.right_title,
            n=context,
            lineterm="",
        )


def _aligned(left: Sequence[str], right: Sequence[str]) -> Iterator[Row]:
    """Equal lines and lines of one purpose beside each other, what is between them in order."""
    keys, others = ([_key(line) for line in side] for side in (left, right))
    # Empty lines are everywhere, and prove nothing.
    matcher = difflib.SequenceMatcher(lambda key: not key, keys, others, autojunk=False)
    for code, a, a_end, b, b_end in matcher.get_opcodes():
        both = a_end - a if code == "equal" else min(a_end - a, b_end - b)
        # What is replaced shares rows, to save height.
        for one, other in zip(left[a : a + both], right[b : b + both], strict=True):
            yield _changed(one, other) if one != other else Row(" ", one, other)
        yield from (Row("<", line) for line in left[a + both : a_end])
        yield from (Row(">", "", line) for line in right[b + both : b_end])


def _key(line: str) -> str:
    """What a line shares with another of its purpose: by default, all that it says."""
    found = _PURPOSE.match(line)
    return found[1] if found else line


def _changed(left: str, right: str) -> Row:
    """The row of two lines, with the words marked that differ; none where nearly all do."""
    words, others = (re.findall(r"\w+|\s+|.", line) for line in (left, right))
    matcher = difflib.SequenceMatcher(None, words, others, autojunk=False)
    if matcher.ratio() < 0.5:
        return Row("|", left, right)
    starts = [[*accumulate(map(len, side), initial=0)] for side in (words, others)]
    marks: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    for code, a, a_end, b, b_end in matcher.get_opcodes():
        if code != "equal":
            for side, first, end in ((0, a, a_end), (1, b, b_end)):
                if first < end:
                    marks[side].append((starts[side][first], starts[side][end]))
    return Row("|", left, right, tuple(marks[0]), tuple(marks[1]))


# --- the two sources ---------------------------------------------------------------------------


def _own_classes(model: nn.Module) -> dict[str, type[nn.Module]]:
    """The classes of the network that do not come with torch, by name."""
    return {
        type(module).__name__: type(module)
        for module in model.modules()
        if not type(module).__module__.startswith("torch.")
    }


def _originals(
    names: Sequence[str], classes: dict[str, type[nn.Module]]
) -> dict[str, tuple[str, str]]:
    """Where the original of each generated definition stands, and its text."""
    # Helpers may come from another file; their constants stand beside them.
    modules = dict.fromkeys(cls.__module__ for cls in classes.values())
    for module in list(modules):
        imported = (getattr(sys.modules[module], name, None) for name in names)
        homes = (getattr(value, "__module__", None) for value in imported)
        modules |= dict.fromkeys(home for home in homes if home in sys.modules)
    found: dict[str, tuple[str, str]] = {}
    for name in names:
        if name in classes:
            text = _with_bases(classes[name], set(names))
            found[name] = home_of(classes[name].__module__), text
            continue
        for module in modules:
            text = _text_of(module, name)
            if text:
                found[name] = home_of(module), text
                break
    return found


def _with_bases(cls: type[nn.Module], taken: set[str]) -> str:
    """The source of a class and of those that it inherits from, which the file has no more."""
    bases = [
        base
        for base in cls.__mro__[1:]
        if issubclass(base, nn.Module)
        and not base.__module__.startswith("torch.")
        and base.__name__ not in taken
    ]
    texts = [_text_of(part.__module__, part.__name__) for part in (cls, *bases)]
    return "\n\n\n".join(filter(None, texts))


def _text_of(module: str, name: str) -> str:
    try:
        known = _definitions(text_of(module))
    except (WriterError, SyntaxError):
        return ""
    return known[name].text if name in known else ""


@lru_cache(maxsize=64)
def _definitions(source: str) -> dict[str, _Definition]:
    """The definitions of a file by name, with decorators and the comments right above them.

    Classes inside of others are found too, as a generated file has them at its top level.
    """
    lines = source.splitlines()
    found: dict[str, _Definition] = {}

    def add(name: str, title: str, node: ast.stmt, is_class: bool) -> None:
        above = [d.lineno for d in getattr(node, "decorator_list", ())]
        first = min([node.lineno, *above]) - 1
        while first and lines[first - 1].lstrip().startswith("#"):
            first -= 1
        text = textwrap.dedent("\n".join(lines[first : node.end_lineno]))
        found.setdefault(name, _Definition(title, text, is_class))

    def visit(body: Iterable[ast.stmt], inside: bool = False) -> None:
        for node in body:
            match node:
                case ast.ClassDef(name=name):
                    add(name, f"class {name}", node, True)
                    visit(node.body, inside=True)
                case _ if inside:
                    pass
                case ast.FunctionDef(name=name):
                    add(name, f"def {name}", node, False)
                case ast.Assign(targets=[ast.Name(id=name)]):
                    add(name, name, node, False)
                case ast.AnnAssign(target=ast.Name(id=name)):
                    add(name, name, node, False)
                case ast.If() | ast.Try():
                    visit([*node.body, *node.orelse])

    visit(ast.parse(source).body)
    return found


def _lines(text: str) -> tuple[str, ...]:
    return tuple(formatted(text).splitlines()) if text else ()
