"""Source that changed on disk since it was imported: said, and mended by importing it again."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from user_files import difference, wide_image

from pruners import WriterError, prune
from pruners.freshness import check_current, codes_in, same_code
from pruners.origin import module_source

TEXT = '''\
"""A network, and a function that it calls."""

import torch.nn.functional as F
from torch import nn

KINDS = {"mean", "max"}


def activate(x):
    return F.relu(x)


def unused(x):
    return x


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)

    @property
    def kind(self):
        return "mean" in {"mean", "max"}

    def forward(self, x):
        return self.conv2(activate(self.conv1(x))).mean((2, 3)) if self.kind else x
'''

X = wide_image(2, 3, 8, 8)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any) -> Iterator[ModuleType]:
    """The text as a module of its own, imported as Python imports any file."""
    name = f"fresh_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(TEXT)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield importlib.import_module(name)
    del sys.modules[name]


def edit(module: ModuleType, old: str, new: str) -> None:
    path = Path(str(module.__file__))
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("return self.conv2(", "return 2 * self.conv2(", "Net.forward"),
        ('in {"mean", "max"}', 'in {"mean", "max", "min"}', "Net.kind"),
        ("F.relu(x)", "F.gelu(x)", "activate"),
        ("nn.Conv2d(8, 8, 3, p", "nn.Conv2d(8, 8, 3, bias=False, p", "Net.__init__"),
    ],
)
def test_an_edit_is_noticed_and_a_reload_mends_it(
    module: ModuleType, old: str, new: str, name: str
) -> None:
    model = module.Net().double()
    assert difference(prune(model, X, 50)) < 1e-12
    edit(module, old, new)
    with pytest.raises(WriterError) as info:
        prune(model, X, 50).source  # noqa: B018
    assert re.fullmatch(
        rf"{name}: fresh_\d+\.py has changed on disk since it was imported, so what runs is not "
        r"what can be read; import the file again and build the network anew "
        r"\(importlib\.reload, or a fresh Python\)",
        str(info.value),
    )
    importlib.reload(module)
    again = prune(module.Net().double(), X, 50)
    assert difference(again) < 1e-12
    assert name == "Net.__init__" or new in again.source
    if name.startswith("Net."):  # the old network still is of the old class
        with pytest.raises(WriterError, match="has changed on disk"):
            prune(model, X, 50).source  # noqa: B018


def test_a_class_that_is_gone_from_its_file(module: ModuleType) -> None:
    model = module.Net().double()
    edit(module, "class Net", "class Other")
    with pytest.raises(WriterError, match=r"^Net\.forward: .* has changed on disk"):
        prune(model, X, 50).source  # noqa: B018


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    def forward", "    # A remark.\n\n    def forward"),
        ("def unused(x):\n    return x", "def unused(x):\n    return x + 1"),
        ('"""A network, and', '"""A small network, and'),
    ],
)
def test_what_does_not_matter_is_let_through(module: ModuleType, old: str, new: str) -> None:
    model = module.Net().double()
    edit(module, old, new)
    result = prune(model, X, 50)
    assert difference(result) < 1e-12
    assert result.verified().error < 1e-12


def test_a_file_that_is_gone_or_broken(module: ModuleType) -> None:
    path = Path(str(module.__file__))
    model = module.Net().double()
    path.write_text("def broken(:\n")
    with pytest.raises(WriterError, match=r"its source cannot be read as Python \(line 1\)"):
        module_source(module.__name__)
    with pytest.raises(WriterError, match=r"^Net\.forward: .* has changed on disk"):
        prune(model, X, 50).source  # noqa: B018
    with pytest.raises(WriterError, match="has changed on disk"):
        check_current(module.Net)
    path.unlink()
    assert codes_in(str(path)) is None
    check_current(module.Net)  # nothing to compare with


def test_code_is_compared_by_what_it_does() -> None:
    def code(text: str) -> Any:
        return compile(text, "<text>", "eval")

    assert same_code(code("x + 1"), code("x  +  1"))
    assert not same_code(code("x + 1"), code("x + True"))
    assert not same_code(code("x + 1"), code("x + 1.0"))
    assert not same_code(code("x + 1"), code("y + 1"))
    assert not same_code(code("x + 1"), code("x - 1"))
    assert same_code(code("x in {1, 2}"), code("x in {2, 1}"))
    assert not same_code(code("lambda: 1"), code("lambda: 2"))
