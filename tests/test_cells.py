"""Networks that were typed into the cells of a notebook are written from the text of the cells."""

from __future__ import annotations

import ast
import contextlib
import linecache
import sys
import textwrap
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from helpers import with_telling_state
from torch import nn
from user_files import wide_image

from pruners import PruningResult, WriterError, prune
from pruners.cells import cells_of
from pruners.graph_source import MARK, with_source
from pruners.origin import module_source, text_of

X = wide_image(2, 3, 16, 16)


class Notebook:
    """What IPython keeps of a session, as far as a class in it is concerned."""

    def __init__(self, name: str) -> None:
        self.module = ModuleType(name)
        self.names: dict[str, Any] = self.module.__dict__
        self.names["In"] = [""]

    def run(self, text: str, fails: type[Exception] | None = None) -> None:
        """Run a cell, as IPython does: its text counts even where it fails."""
        text = textwrap.dedent(text)
        number = len(self.names["In"])
        self.names["In"].append(text)
        name = f"<ipython-input-{number}-{abs(hash(text)):x}>"
        code = "\n".join("" if line.startswith(("%", "!")) else line for line in text.split("\n"))
        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        with pytest.raises(fails) if fails else contextlib.nullcontext():
            for part in ast.parse(code).body:  # one by one, as IPython does
                one = ast.Module([part], [])
                exec(compile(one, name, "exec", dont_inherit=True), self.names)

    def model(self, call: str = "Net()") -> Any:
        torch.manual_seed(0)
        return with_telling_state(eval(call, self.names)).double()


@pytest.fixture
def notebook(request: pytest.FixtureRequest) -> Iterator[Notebook]:
    made = Notebook(f"notebook_of_{request.node.name.partition('[')[0]}")
    sys.modules[made.module.__name__] = made.module
    yield made
    del sys.modules[made.module.__name__]


IMPORTS = """\
%matplotlib inline
!pip list
import math
import torch
from torch import nn
import torch.nn.functional as F
"""

HELPERS = """\
WIDTH = 4  # a first guess
SLOPE = 0.2

# How steep it is on the left.
def activate(x):
    return F.leaky_relu(x, SLOPE)
"""

NET = '''\
# The network of the paper.
class Net(nn.Module):
    """Two convolutions."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.conv2 = nn.Conv2d(WIDTH, 8, 3, padding=1)
        self.fc = nn.Linear(8 * 4 * 4, 5)

    def forward(self, x):
        x = activate(self.conv1(x))  # steep
        x = F.max_pool2d(activate(self.conv2(x)), 4)
        # The width of the second layer is a number here.
        return self.fc(x.view(-1, 8 * 4 * 4))
'''


def written(model: nn.Module, pct: float = 40) -> PruningResult:
    result = prune(model, X, pct)
    assert result.verified().error < 1e-12
    assert list(result.model.state_dict()) == list(model.state_dict())
    return result


def test_text_comments_constants_and_numbers_survive(notebook: Notebook) -> None:
    notebook.run(IMPORTS)
    notebook.run(HELPERS)
    notebook.run("WIDTH = 8")
    notebook.run(NET)
    notebook.run("raise RuntimeError('training ran again')", RuntimeError)
    notebook.run("%time print('x'")
    result = written(notebook.model())
    text = result.source
    assert MARK not in text
    assert "# The network of the paper.\nclass Net(nn.Module):\n" in text
    assert "        x = activate(self.conv1(x))  # steep\n" in text
    assert "# How steep it is on the left.\ndef activate(x):\n" in text
    assert "SLOPE = 0.2\n" in text
    assert "# The width of the second layer is a number here." in text
    # The number follows, although the line is one of a cell.
    assert result.model.conv2.out_channels < 8
    assert f"x.view(-1, {result.model.conv2.out_channels} * 4 * 4)" in text
    assert "RuntimeError" not in text
    assert not any("graph" in warning for warning in result.report.warnings)


def test_later_definitions_win(notebook: Notebook) -> None:
    notebook.run(IMPORTS)
    notebook.run(HELPERS)
    notebook.run(NET.replace("# steep", "# the first").replace("WIDTH", "6"))
    notebook.run("SLOPE = 0.3\ndef activate(x):\n    return F.elu(x) * SLOPE")
    notebook.run(NET)
    text = written(notebook.model()).source
    assert "F.elu(x) * SLOPE" in text
    assert "SLOPE = 0.3\n" in text
    assert "# steep" in text
    assert "leaky" not in text
    assert "# the first" not in text


def test_a_cell_that_was_run_again_and_a_network_from_before(notebook: Notebook) -> None:
    notebook.run(IMPORTS + HELPERS)
    notebook.run(NET)
    before = notebook.model()
    notebook.run("# Once more.\n" + NET)
    text = written(before).source
    assert MARK not in text
    assert "# Once more." in text


def test_a_class_that_is_another_one_now(notebook: Notebook) -> None:
    notebook.run(IMPORTS + HELPERS)
    notebook.run(NET)
    before = notebook.model()
    notebook.run(NET.replace("4)\n        #", "4) * 2\n        #"))
    text = written(before).source
    assert MARK in text  # of the class that runs, there is no text
    assert "* 2" not in text
    assert "F.max_pool2d(activate(self.conv2(x)), 4) * 2" in written(notebook.model()).source


@pytest.mark.parametrize(
    "change",
    [
        "class Mixin:\n    scale = 3",
        "Net.forward = lambda s, x: s.fc(F.max_pool2d(s.conv2(s.conv1(x)), 4).view(2, -1))",
        "WIDTH = 8\nfor SLOPE in (0.5, 0.25):\n    pass",
        "SLOPE = sorted([0.25, SLOPE + 1])[0]\nSLOPE = float(torch.rand(()))",
        "SLOPE += 1",
        "exec('def activate(x):\\n    return F.relu(x)')",
    ],
)
def test_what_the_cells_do_not_say_is_written_from_the_graph(
    notebook: Notebook, change: str
) -> None:
    notebook.run(IMPORTS + HELPERS)
    notebook.run("class Mixin:\n    scale = 2")
    notebook.run(
        NET.replace("(nn.Module)", "(nn.Module, Mixin)").replace(
            ")\n        #", ") * self.scale\n        #"
        )
    )
    model = notebook.model()
    notebook.run(change)
    assert MARK in written(model).source


def test_instances_of_a_class_from_before_and_after(notebook: Notebook) -> None:
    notebook.run(IMPORTS)
    block = """\
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 1)

        def forward(self, x):
            return F.relu(self.conv(x))
    """
    notebook.run(block)
    notebook.run("old = Block()")
    notebook.run(block)
    notebook.run("class Net(nn.Sequential):\n    pass")
    notebook.run("layers = nn.Conv2d(3, 8, 1), old, Block(), nn.Conv2d(8, 4, 1)")
    text = written(notebook.model("Net(*layers)"), 30).source
    assert "class Block(nn.Module):" in text
    assert "class Block2(nn.Module):" in text


def test_what_a_cell_may_hold(notebook: Notebook) -> None:
    notebook.run("from __future__ import annotations\nimport torch\nimport missing", ImportError)
    notebook.run("try:\n    import missing as np\nexcept ImportError:\n    import numpy as np")
    notebook.run("from math import *\nimport dataclasses; from torch import nn")
    notebook.run(
        """
        @dataclasses.dataclass
        class Sizes:
            width: int = 8
            scale: float = sqrt(2)

        A, B = 2, [3]
        SIZES = Sizes(4); C: int = A + 1  # two on a line
        D, E = (x for x in (1, 2))
        LOADED = open
        READ = torch.load
        ran = print("once")

        def helper(x: float):
            return x * np.float64(SIZES.scale) * A * B[0] * C * sqrt(4)

        class Outer:
            class Net(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.conv1 = nn.Conv2d(3, SIZES.width, 3)
                    self.conv2 = nn.Conv2d(SIZES.width, 4, 3)

                @torch.no_grad()
                def forward(self, x):
                    return self.conv2(helper(self.conv1(x)))
        """
    )
    notebook.run("for i in range(2):\n    print(await_me) if i > 5 else None")
    cells = cells_of(notebook.module)
    assert cells is not None
    assert "once" not in cells.text
    assert "missing\n" not in cells.text
    assert "D, E" not in cells.text
    assert cells.classes == {"Sizes", "Outer", "Outer.Net"}
    notebook.run("class Net(Outer.Net):\n    pass")
    text = written(notebook.model(), 20).source
    assert MARK not in text
    assert "SIZES = Sizes(4)" in text
    assert "import numpy as np" in text


def test_a_number_that_cannot_be_placed_stays(notebook: Notebook) -> None:
    """Two functions of one name and text: which one runs is not known, so its width is kept."""
    notebook.run(IMPORTS + HELPERS.replace("WIDTH = 4", "WIDTH = 8"))
    twice = "(lambda y: y.view(-1, 8 * 4 * 4))(x) + (lambda y: y.view(-1, 8 * 4 * 4))(x)"
    notebook.run(NET.replace("x.view(-1, 8 * 4 * 4)", twice))
    result = written(notebook.model(), 10)
    assert result.model.conv2.out_channels == 8
    assert result.model.conv1.out_channels < 8


def test_modules_that_are_no_notebook(notebook: Notebook) -> None:
    name = notebook.module.__name__
    with pytest.raises(WriterError, match=r"^module \w+: has no source file; put its classes"):
        text_of(name)
    notebook.names["In"] = "spoilt"
    assert cells_of(notebook.module) is None
    notebook.names["In"] = ["", 5, "x = 1", "def broken(:"]
    notebook.names["x"] = 1
    assert module_source(name).definitions.keys() == {"x"}
    assert with_source(nn.Linear(2, 2), [(torch.ones(1, 2),)]).notes == ()
