"""Classes from a user's file, wherever it lies and whatever its folder is called."""

from __future__ import annotations

from pathlib import Path

import pytest
from user_files import difference, wide_image

import models
from pruners import PrunerError, prune
from pruners.loading import class_from_file, import_source

NET = """\
import torch.nn as nn

from .tools import act


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(act(self.conv1(x)).mean((2, 3)))
"""
TOOLS = "import torch.nn.functional as F\n\n\ndef act(x):\n    return F.relu(x)\n"


def package(folder: Path, name: str) -> Path:
    """A package with relative imports; the path of its file with the network."""
    inner = folder / name
    inner.mkdir(parents=True)
    (inner / "__init__.py").write_text("from .net import *\n")
    (inner / "net.py").write_text(NET)
    (inner / "tools.py").write_text(TOOLS)
    return inner / "net.py"


def test_a_file_of_a_package(tmp_path: Path) -> None:
    cls = class_from_file(package(tmp_path, "loading_package"), "Net")
    assert cls.__module__ == "loading_package.net"
    assert difference(prune(cls().double(), wide_image(1, 3, 8, 8), 50)) < 1e-12


def test_packages_that_are_called_like_the_zoo(tmp_path: Path) -> None:
    """As in pytorch-cifar: models/resnet.py."""
    first = class_from_file(package(tmp_path / "a", "models"), "Net")
    second = class_from_file(package(tmp_path / "b", "models"), "Net")
    assert [first.__module__, second.__module__] == ["user_models.net", "user_models_2.net"]
    assert class_from_file(tmp_path / "a" / "models" / "net.py", "Net") is first
    result = prune(second().double(), wide_image(1, 3, 8, 8), 50)
    assert difference(result) < 1e-12
    assert "def act(x):" in result.source
    assert "user_models" not in result.source.split('"""')[2]
    assert hasattr(models, "__path__")
    assert not hasattr(models, "net")


def test_a_package_that_raises(tmp_path: Path) -> None:
    path = package(tmp_path, "models")
    (path.parent / "__init__.py").write_text("import nowhere_to_be_found\n")
    with pytest.raises(PrunerError, match=r"importing its package raised ModuleNotFoundError: No"):
        class_from_file(path, "Net")


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("class Net:\n    pass\n", "Net", r"no such torch\.nn\.Module class; it has none"),
        (
            "from torch import nn\nclass Network(nn.Module):\n    pass\n",
            "Netwrk",
            r"class; did you mean Network\?; it has Network",
        ),
        ("1 / 0", "Net", r"importing the file raised ZeroDivisionError: division by zero"),
        ("class", "Net", r"importing the file raised SyntaxError"),
    ],
)
def test_a_file_without_the_class(tmp_path: Path, text: str, name: str, message: str) -> None:
    path = tmp_path / f"loading_{abs(hash(text))}.py"
    path.write_text(text)
    with pytest.raises(PrunerError, match=message):
        class_from_file(path, name)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(
        PrunerError, match=r"nowhere\.py:Net: no such file; expected FILE\.py:CLASS"
    ):
        class_from_file(tmp_path / "nowhere.py", "Net")


def test_source_that_raises_leaves_no_module_behind() -> None:
    with pytest.raises(ZeroDivisionError):
        import_source("raises", "x = 1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        import_source("raises", "x = 1 / 0\n")
