"""Pages of the site that are made, not written: the command line, the API, the examples.

`docs/site_hooks.py` adds them to the site when `make docs` builds it; nothing here needs mkdocs.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent

FURTHER = {
    "pruners.analysis": ("analyse", "check_decorators"),
    "pruners.trainer": ("Trainer",),
    "pruners.lightning": ("LightningTrainer",),
    "pruners.unitmem": ("UnitMem", "get_unitmem", "prune_by_unitmem"),
    "pruners.optimizer_state": ("slim_optimizer",),
    "pruners.recalibration": ("recalibrate",),
    "pruners.training": ("fit", "train"),
    "pruners.deploy.onnx_file": ("onnx_of", "check_onnx"),
    "pruners.deploy.quantizing": ("quantize",),
    "pruners.deploy.finalizing": ("finalize",),
}
"""What the documents use besides the names of `pruners` itself."""


# --- the command line --------------------------------------------------------------------------


def command_line() -> str:
    """Every command of `app.py` with its arguments and options, as typer knows them."""
    import typer.main

    import app

    root = typer.main.get_command(app.app)
    usage = inspect.cleandoc(app.__doc__ or "").partition("\n\n")[2]
    parts = [
        "# Command line",
        "Results go to stdout, progress and errors to stderr. Exit code 0: done; 1: a failed "
        "verification or a bug; 2: something in the input, told in one line; 130: Ctrl-C. Options "
        "that are the same everywhere are explained in the documents of what they are about.",
        _fenced("text", usage),
        *_of_command("python app.py", root, level=2),
    ]
    return "\n\n".join(parts) + "\n"


def _of_command(name: str, command: Any, level: int) -> Iterator[str]:
    """A command, and those in it."""
    yield f"{'#' * level} `{name}`"
    yield _escaped(inspect.cleandoc(command.help or ""))
    shown = [p for p in command.params if not getattr(p, "hidden", False) and p.name != "help"]
    arguments = [p for p in shown if p.param_type_name == "argument"]
    options = [p for p in shown if p.param_type_name == "option"]
    inside = getattr(command, "commands", {})
    usage = [name, *("[OPTIONS]" for _ in options[:1])]
    usage += [_metavar(a) if a.required else f"[{_metavar(a)}]" for a in arguments]
    yield _fenced("text", " ".join([*usage, *(["[COMMAND]"] if inside else [])]))
    if shown:
        rows = [(_spelled(p), _default(p), _escaped(p.help or "")) for p in (*arguments, *options)]
        yield _table(("option", "default", ""), rows)
    for inner, one in inside.items():
        yield from _of_command(f"{name} {inner}", one, level + 1 if level > 2 else level)


def _metavar(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _spelled(parameter: Any) -> str:
    """`--prune-pct PERCENT`, as it is typed."""
    if parameter.param_type_name == "argument":
        return f"`{_metavar(parameter)}`"
    names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    if parameter.is_flag:
        return f"`{names}`"
    # Versions of typer differ in where they keep an option's type.
    kinds = {int: "INTEGER", float: "NUMBER"}
    return f"`{names} {parameter.metavar or kinds.get(type(parameter.default), 'TEXT')}`"


def _default(parameter: Any) -> str:
    value = parameter.default
    if parameter.required:
        return "required"
    if value is None or value is False or value == "" or "Sentinel" in type(value).__name__:
        return ""
    return f"`{value}`"


# --- the API -----------------------------------------------------------------------------------


def api() -> str:
    """A page of directives: mkdocstrings puts the docstrings in their places."""
    parts = [
        "# API",
        "What `from pruners import ...` offers, module by module, then what the documents use of "
        "others. All of it comes from the docstrings.",
    ]
    for module, names in (*exported().items(), *FURTHER.items()):
        parts.append(f"## {_first_line(module)}")
        if module in FURTHER:
            parts.append(f"`from {module} import {', '.join(names)}`")
        for name in names:
            home = module if module in FURTHER else "pruners"
            parts.append(f"::: {home}.{name}")
    return "\n\n".join(parts) + "\n"


def exported() -> dict[str, tuple[str, ...]]:
    """The public names by the module that `pruners/__init__.py` imports them from."""
    tree = ast.parse((ROOT / "pruners" / "__init__.py").read_text(encoding="utf-8"))
    return {
        node.module: tuple(alias.name for alias in node.names if not alias.name.startswith("_"))
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module and node.module != "pruners.version"
    }


def _first_line(module: str) -> str:
    """What a module says that it is."""
    text = inspect.getdoc(importlib.import_module(module)) or module
    sentence = re.split(r"[.:](?: |$)", " ".join(text.split("\n\n")[0].split()))[0]
    return _escaped(sentence)


# --- the examples ------------------------------------------------------------------------------


def example(text: str, name: str) -> str:
    """A notebook that is kept as a script: prose as prose, cells as code."""
    parts: list[str] = []
    for kind, body in re.findall(r"^# %%([^\n]*)\n(.*?)(?=^# %%|\Z)", text, re.M | re.S):
        if kind.strip() == "[markdown]":
            parts.append("\n".join(re.sub("^# ?", "", line) for line in body.strip().splitlines()))
        else:
            parts.append(_fenced("python", body.strip()))
    heading, *others = parts or [f"# {name}\n"]
    if not parts:
        return f"# {name}\n\n{_fenced('python', text.strip())}\n"
    return "\n\n".join([heading, *others, f"The whole file is `examples/{name}`."]) + "\n"


# --- text --------------------------------------------------------------------------------------


def _fenced(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"


def _table(header: Iterable[str], body: Iterable[Iterable[str]]) -> str:
    rows = [list(header)]
    rows += [["---"] * len(rows[0]), *(list(row) for row in body)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _escaped(text: str) -> str:
    """Text that Markdown is to take as it is."""
    return re.sub(r"([*_<>|\[\]#])", r"\\\1", text)


def _licence() -> str:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    return f"# Licence\n\n{_fenced('text', text.strip(chr(10)))}\n"


def _copied(path: str) -> Callable[[], str]:
    return lambda: (ROOT / path).read_text(encoding="utf-8")


def _example(path: Path) -> Callable[[], str]:
    return lambda: example(path.read_text(encoding="utf-8"), path.name)


FROM_OUTSIDE: dict[str, tuple[str, Callable[[], str]]] = {
    "README.md": ("index.md", _copied("README.md")),
    "models/README.md": ("model-store.md", _copied("models/README.md")),
    **{
        path.name: (path.name.lower(), _copied(path.name))
        for path in sorted(ROOT.glob("*.md"))
        if path.name != "README.md"
    },
    "LICENSE": ("licence.md", _licence),
    **{
        f"examples/{path.name}": (f"examples/{path.stem}.md", _example(path))
        for path in sorted((ROOT / "examples").glob("*.py"))
    },
}
"""Files outside of docs/ that are pages too: where they stand on the site, and their text."""

GENERATED: dict[str, Callable[[], str]] = {"command-line.md": command_line, "api.md": api}
"""Pages that have no file."""
