"""The documents: code that does what it says, links that lead somewhere, a site with all pages."""

from __future__ import annotations

import ast
import posixpath
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

import app
import pruners
from docs.pages import FROM_OUTSIDE, FURTHER, GENERATED, ROOT, api, command_line, example
from docs.site_hooks import linked, on_config, target_of
from pruners.blocks import ATTRIBUTE

CODE = re.compile(r"^( *)```.*?^\1```$|`[^`\n]+`|^(?: {4}.*\n)+", re.M | re.S)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NAV = re.findall(r"^ +- [^:\n]+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)


# --- the page on decorators --------------------------------------------------------------------


@pytest.fixture
def _described(own_block_types: None) -> Iterator[None]:
    """What the page registers, and says of a class of torchvision, is gone after it."""
    from torchvision.models.resnet import Bottleneck

    yield
    delattr(Bottleneck, ATTRIBUTE)


@pytest.mark.usefixtures("_described")
def test_decorators(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "decorators.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", text, re.M | re.S)
    assert len(blocks) == text.count("```python") == 5
    # A file, since the order inside of a block is read from its source.
    mark = "--- the next block ---\n"
    path = tmp_path / "page.py"
    path.write_text("".join(f"{code}\nprint({mark!r}, end='')\n" for code, _ in blocks))
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out.split(mark)[:-1] == [said for _, said in blocks]
    names = {
        node.name
        for node in ast.parse((ROOT / "pruners/decorators.py").read_text()).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }
    assert {f"`@{name}`" for name in names - {"block_decorator"}} <= set(
        re.findall("`@\\w+`", text)
    )


# --- links -------------------------------------------------------------------------------------


def documents() -> list[str]:
    """All documents, by their paths in the repository."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("models/**/*.md")]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def links(path: str) -> list[str]:
    """The links of a document within the repository."""
    text = CODE.sub("", (ROOT / path).read_text())
    return [link for link in LINK.findall(text) if "://" not in link]


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", documents())
def test_links_on_a_repository_host(path: str) -> None:
    for link in links(path):
        file, _, anchor = link.partition("#")
        there = (ROOT / path).parent / file if file else ROOT / path
        assert there.is_file(), link
        if anchor:
            assert anchor in anchors(there), link


def pages() -> set[str]:
    """Everything on the site that a link may lead to."""
    docs = ROOT / "docs"
    files = {path.relative_to(docs).as_posix() for path in docs.rglob("*") if path.suffix != ".py"}
    return files | set(GENERATED) | {page for page, _ in FROM_OUTSIDE.values()}


@pytest.mark.parametrize("path", [path for path in documents() if not path.startswith("models/")])
def test_links_on_the_site(path: str) -> None:
    page = FROM_OUTSIDE[path][0] if path in FROM_OUTSIDE else path.removeprefix("docs/")
    assert page in pages()
    for link in links(path):
        target = (target_of(link, page) or "").partition("#")[0]
        if target:
            there = posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
            assert there in pages(), link


def test_links_are_changed_and_code_is_not() -> None:
    text = (
        "[a](../models/README.md), [b](training.md#resuming), [c](#here) and `[d](../LICENSE)`\n"
        "```python\nx[0](../LICENSE)\n```\n[e](../LICENSE) ![f](pictures/residual.svg) "
        "[g](https://example.org/x.md)"
    )
    assert linked(text, "how-it-works.md") == (
        "[a](model-store.md), [b](training.md#resuming), [c](#here) and `[d](../LICENSE)`\n"
        "```python\nx[0](../LICENSE)\n```\n[e](licence.md) ![f](pictures/residual.svg) "
        "[g](https://example.org/x.md)"
    )
    # A file that is no page is only named; one that is not there is left to mkdocs.
    assert linked("see [the `Makefile`](../Makefile).", "training.md") == "see the `Makefile`."
    assert linked("see [that](../Makefiles).", "training.md") == "see [that](../Makefiles)."
    assert target_of("docs/training.md#resuming", "index.md") == "training.md#resuming"
    assert target_of("../docs/best_practices.md", "model-store.md") == "best_practices.md"
    assert target_of("01_own_network.py", "examples/05_export.md") == "01_own_network.md"
    assert target_of("../docs/training.md", "examples/05_export.md") == "../training.md"


# --- pages that are made -----------------------------------------------------------------------


def test_the_command_line() -> None:
    """Every command with every option, and nothing that there is not."""
    text = command_line()

    def visit(name: str, command: Any) -> set[str]:
        section = re.search(rf"^##+ `{re.escape(name)}`\n(.*?)(?=^##|\Z)", text, re.M | re.S)
        assert section, name
        for parameter in command.params:
            if parameter.param_type_name == "option" and parameter.name != "help":
                assert re.search(rf"^\| `{parameter.opts[0]}[ `,]", section[1], re.M), parameter
        inner = getattr(command, "commands", {})
        return {name}.union(*(visit(f"{name} {n}", one) for n, one in inner.items()))

    shown = set(re.findall(r"^##+ `(.*)`$", text, re.M))
    assert shown == visit("python app.py", typer.main.get_command(app.app))
    assert "python app.py models verify" in shown
    assert "| `--prune-pct PERCENT` | `50` | How much goes: 0 to below 100. |" in text
    assert "| `--amp, --no-amp` |" in text
    assert "| `--exp DIR` | required |" in text


def test_the_api() -> None:
    named = re.findall(r"^::: (\S+)$", api(), re.M)
    assert len(named) == len(set(named))
    public = {f"pruners.{name}" for name in pruners.__all__ if not name.startswith("_")}
    assert set(named) == public | {f"{m}.{n}" for m, names in FURTHER.items() for n in names}


def test_examples_are_pages() -> None:
    for path, (page, text) in FROM_OUTSIDE.items():
        if path.startswith("examples/"):
            shown = text()
            assert page in NAV
            assert shown.startswith("# ")
            code = "\n\n".join(re.findall(r"^```python\n(.*?)\n```$", shown, re.M | re.S))
            source = (ROOT / path).read_text()
            # All of the code is there, but for what tells cells apart.
            assert ast.unparse(ast.parse(code)) == ast.unparse(ast.parse(source))
    text = "# %% [markdown]\n# # Title\n#\n# Prose.\n\n# %%\nx = 1\n\n\n# %%\ny = 2\n"
    assert example(text, "a.py") == (
        "# Title\n\nProse.\n\n```python\nx = 1\n```\n\n```python\ny = 2\n```\n\n"
        "The whole file is `examples/a.py`.\n"
    )


def test_the_navigation() -> None:
    """It names pages that there are; documents that it does not name are put at its end."""
    assert len(NAV) == len(set(NAV))
    assert set(NAV) <= pages()
    assert set(GENERATED) | {page for page, _ in FROM_OUTSIDE.values()} <= set(NAV)

    class Config:
        nav: list[Any] = ["index.md", {"Guides": [{"Training": "training.md"}]}]  # noqa: RUF012

    added = on_config(Config()).nav[2:]
    assert "decorators.md" in added
    assert "training.md" not in added
    assert added == sorted(added)
