"""What a reviewer would object to, looked for in every golden file."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from accept_golden import FOLDER, GOLDEN
from ruff.__main__ import find_ruff_bin

# `block_0_0_channels`, `stage1_unit2_conv` and `size0`: places, where a name should be.
POSITION = re.compile(r"\d_\d|_\d+_|size\d")
every_file = pytest.mark.parametrize("stem", GOLDEN)


def tree(stem: str) -> ast.Module:
    return ast.parse((FOLDER / f"{stem}.py").read_text("utf-8"))


def classes(module: ast.Module) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in module.body if isinstance(node, ast.ClassDef)}


def network(module: ast.Module) -> str:
    """The class that the factory, the last definition, builds."""
    factory = module.body[-1]
    assert isinstance(factory, ast.FunctionDef)
    return ast.unparse(factory.returns or ast.Constant(None))


def parameters(init: ast.FunctionDef) -> Iterator[tuple[ast.arg, ast.expr | None]]:
    """The named parameters of an `__init__` with their defaults."""
    named = [*init.args.posonlyargs, *init.args.args][1:]
    given = [None] * (len(named) - len(init.args.defaults)) + init.args.defaults
    yield from zip(named, given, strict=True)
    yield from zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True)


def inits(module: ast.Module) -> Iterator[tuple[ast.ClassDef, ast.FunctionDef]]:
    for cls in classes(module).values():
        for node in cls.body:
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                yield cls, node


def values_at_the_calls(
    module: ast.Module, cls: ast.ClassDef, init: ast.FunctionDef
) -> dict[str, set[str]]:
    """Parameter -> what the calls in the file give it, defaults filled in, as code."""
    params = list(parameters(init))
    root = network(module)
    varying = {p.arg for c, i in inits(module) if c.name != root for p, _ in parameters(i)}
    starred = init.args.vararg is not None
    found: dict[str, set[str]] = {p.arg: set() for p, _ in params}
    for call in ast.walk(module):
        if not isinstance(call, ast.Call) or ast.unparse(call.func) != cls.name:
            continue
        given = {} if starred else dict(zip((p.arg for p, _ in params), call.args, strict=False))
        given |= {k.arg: k.value for k in call.keywords if k.arg is not None}
        for p, default in params:
            value = given.get(p.arg, default)
            said = "" if value is None else ast.unparse(value)
            # A parameter of the class around it has several values itself.
            found[p.arg] |= {said, f"other {said}"} if said in varying else {said}
    return found


@every_file
def test_every_parameter_is_used(stem: str) -> None:
    for cls, init in inits(tree(stem)):
        read = {n.id for s in init.body for n in ast.walk(s) if isinstance(n, ast.Name)}
        assert {p.arg for p, _ in parameters(init)} <= read, cls.name


@every_file
def test_no_parameter_is_the_same_at_every_call(stem: str) -> None:
    """It would be a constant; so a class whose instances agree has no parameters at all.

    An argument of the network itself, handed through, and one that switches an initialisation
    are free.
    """
    module = tree(stem)
    root = network(module)
    free = {p.arg for cls, init in inits(module) if cls.name == root for p, _ in parameters(init)}
    for cls, init in inits(module):
        if cls.name == root:
            continue
        for name, values in values_at_the_calls(module, cls, init).items():
            assert len(values) > 1 or values <= free, f"{cls.name}: {name} is always {values}"


@every_file
def test_parameters_have_names_and_no_positions(stem: str) -> None:
    for cls, init in inits(tree(stem)):
        # `branch5x5_1_channels` are those of the author's own `self.branch5x5_1`.
        attributes = {n.attr for n in ast.walk(init) if isinstance(n, ast.Attribute)}
        for p, _ in parameters(init):
            of_attribute = any(p.arg.startswith(f"{name}_") for name in attributes)
            assert of_attribute or not POSITION.search(p.arg), f"{cls.name}: {p.arg}"


@every_file
def test_no_default_is_mutable_and_every_parameter_has_a_type(stem: str) -> None:
    for cls, init in inits(tree(stem)):
        for p, default in parameters(init):
            assert not isinstance(default, (ast.List, ast.Dict, ast.Set)), f"{cls.name}: {p.arg}"
            if "super().__init__()" in ast.unparse(init):
                assert p.annotation is not None, f"{cls.name}: {p.arg}"


@every_file
def test_booleans_default_to_what_most_calls_want(stem: str) -> None:
    module = tree(stem)
    for cls, init in inits(module):
        if cls.name == network(module):
            continue
        for p, default in parameters(init):
            if isinstance(default, ast.Constant) and isinstance(default.value, bool):
                assert ast.unparse(p.annotation or default) == "bool", f"{cls.name}: {p.arg}"


@every_file
def test_no_attribute_is_dead(stem: str) -> None:
    """A plain value that `__init__` keeps is read somewhere in the file."""
    module = tree(stem)
    read = {
        n.attr
        for n in ast.walk(module)
        if isinstance(n, ast.Attribute) and not isinstance(n.ctx, ast.Store)
    }
    for cls, init in inits(module):
        for node in init.body:
            match node:
                case ast.Assign([ast.Attribute(ast.Name("self"), name)], value) if isinstance(
                    value, (ast.Constant, ast.Name, ast.Tuple, ast.List)
                ):
                    assert name in read, f"{cls.name}.{name}"


@every_file
def test_a_flag_switches_something(stem: str) -> None:
    for cls, init in inits(tree(stem)):
        for node in ast.walk(init):
            if isinstance(node, ast.If) and node.orelse:
                assert ast.dump(ast.Module(node.body, [])) != ast.dump(
                    ast.Module(node.orelse, [])
                ), cls.name
            if isinstance(node, ast.IfExp):
                assert ast.dump(node.body) != ast.dump(node.orelse), cls.name


@every_file
def test_imports_are_of_torch_and_python(stem: str) -> None:
    for node in ast.walk(tree(stem)):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names = [node.module or ""]
        for name in names:
            top = name.split(".")[0]
            assert top in ("torch", "torchvision") or top in sys.stdlib_module_names, name


@every_file
def test_the_project_is_not_named(stem: str) -> None:
    text = (FOLDER / f"{stem}.py").read_text("utf-8")
    assert not re.search(r"\bpruners\b", text)


@every_file
def test_type_ignores_are_the_originals(stem: str) -> None:
    """There are none in what is generated of an `__init__`."""
    text = (FOLDER / f"{stem}.py").read_text("utf-8")
    ignored = {i for i, line in enumerate(text.splitlines(), 1) if "type: ignore" in line}
    for cls, init in inits(ast.parse(text)):
        for node in init.body:
            if not isinstance(node, (ast.For, ast.If)):
                lines = set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
                assert not ignored & lines, cls.name


def test_all_files_are_formatted_and_free_of_lint() -> None:
    files = [str(FOLDER / f"{stem}.py") for stem in GOLDEN]
    ruff = str(find_ruff_bin())
    for command in (["format", "--check", "--line-length", "100"], ["check", "--select", "F,I"]):
        result = subprocess.run(
            [ruff, command[0], "--isolated", *command[1:], *files], capture_output=True, text=True
        )
        assert result.returncode == 0, result.stdout + result.stderr


@every_file
def test_the_header_says_what_it_is_and_how_to_load_it(stem: str) -> None:
    text = ast.get_docstring(tree(stem)) or ""
    assert re.search(r"pruned: [\d,]+ -> [\d,]+ parameters \(-\d+\.\d %\)", text)
    assert re.search(r"Generated from \S+\.py \(class \w+\); edit freely", text)
    assert f"from {stem} import" in text
    assert f"{stem}_pruned_v1.0.pth" in text
    assert Path(stem).suffix == ""
