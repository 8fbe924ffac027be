"""Imports run one way, and the generated side of the program takes no tensors."""

from __future__ import annotations

import ast
import configparser
from pathlib import Path

import networkx as nx
import pytest

PACKAGE = Path(__file__).parent.parent / "pruners"


def imports() -> nx.DiGraph:
    """Which module of the package imports which, type checking left out."""
    graph = nx.DiGraph()
    for path in PACKAGE.rglob("*.py"):
        if path.stem == "__init__":
            continue
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        tree = ast.parse(path.read_text())
        for_types = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if id(node) in for_types or not isinstance(node, ast.ImportFrom) or not node.module:
                continue
            if node.module == "pruners":
                for alias in node.names:
                    graph.add_edge(name, alias.name)
            elif node.module.startswith("pruners."):
                graph.add_edge(name, node.module.removeprefix("pruners."))
    return graph


def test_imports_run_one_way() -> None:
    graph = imports()
    assert len(graph) > 20
    assert list(nx.simple_cycles(graph)) == []


@pytest.mark.parametrize(
    ("stage", "unknown_to_it"),
    [
        ("channel_graph", {"scoring", "methods", "model_writers", "weight_transfer", "store"}),
        ("methods", {"store", "model_writers", "weight_transfer", "verify"}),
        ("model_writers", {"scoring", "methods", "weight_transfer", "verify", "store", "tracing"}),
        ("verify", {"model_writers", "weight_transfer"}),
        ("verify_child", {"errors", "model_writers", "weight_transfer", "store"}),
    ],
)
def test_a_stage_knows_only_what_came_before_it(stage: str, unknown_to_it: set[str]) -> None:
    graph = imports()
    known = nx.descendants(graph, stage) if stage in graph else set()
    assert not known & unknown_to_it


def test_every_package_is_installed() -> None:
    setup = configparser.ConfigParser()
    setup.read(PACKAGE.parent / "setup.cfg")
    named = set(setup["options"]["packages"].split())
    folders = {path.parent.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("*.py")}
    inside = {".".join(folder.parts) for folder in folders}
    assert named == inside | {"pruners.templates"}
