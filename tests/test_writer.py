"""Users' own files, pruned: what the generated file keeps of them, and what it refuses.

Every network of `NETWORKS` is laid out as a file, imported, pruned by half in float64, and
verified with all the others in one fresh process; the tests then look at the salient parts.
"""

from __future__ import annotations

import ast
import re
import subprocess
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from helpers import with_telling_state
from ruff.__main__ import find_ruff_bin
from torch import nn
from user_files import BASIC_BLOCK, HEAD, difference, user_class, wide_image, write

from pruners import PruningResult, Writer, WriterError, prune
from pruners.loading import import_source
from pruners.report import header
from pruners.verify import verify

LAYERS = """\
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 12, 3, padding=1)
        self.fc = nn.Linear(12, num_classes)
"""
FORWARD = """\
    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.conv2(x)).mean((2, 3))
        return self.fc(x)
"""
HEADER = """\
class Net(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
"""


def net(more: str = "", forward: str = FORWARD, methods: str = "", layers: str = LAYERS) -> str:
    """A network of three layers, with `more` at the end of its `__init__`."""
    body = textwrap.indent(textwrap.dedent(more), " " * 8)
    return f"{HEADER}{layers}{body}\n{forward}\n{textwrap.indent(textwrap.dedent(methods), '    ')}"


@dataclass(frozen=True)
class User:
    """A file, and the class in it."""

    text: str
    cls: str = "Net"
    head: str = HEAD
    helper: str = ""
    """Text of a second file, `writer_NAME_helper.py`."""


NETWORKS: dict[str, User] = {}


def user(name: str, text: str, cls: str = "Net", head: str = HEAD, helper: str = "") -> None:
    NETWORKS[name] = User(text, cls, head, helper)


user("plain", net())
user(
    "residual",
    BASIC_BLOCK
    + '''
class Net(nn.Module):
    """A small residual network.

    Its docstring has "quotes" and a backslash: \\\\ and 'more'.
    """

    def __init__(self, num_classes=10, in_channels=3, zero_init_residual=False):
        super().__init__()
        self.width = 6
        # The stem sees the image.
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU()
        )
        self.stage1 = self._stage(6, 2)
        self.stage2 = self._stage(10, 2, stride=2)
        self.fc = nn.Linear(10, num_classes)

        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                # fan_out keeps the variance on the way back
                nn.init.kaiming_normal_(m.weight, mode="fan_out")
        if zero_init_residual:
            for m in self.modules():
                if isinstance(m, Absent):
                    nn.init.zeros_(m.bn3.weight)
                elif isinstance(m, Block):
                    nn.init.zeros_(m.bn2.weight)

    def _stage(self, outputs, blocks, stride=1):
        layers = [Block(self.width, outputs, stride)]
        self.width = outputs
        layers += [Block(outputs, outputs) for _ in range(blocks - 1)]
        return nn.Sequential(*layers)

    def features(self, x):
        """Everything in front of the classifier."""
        return self.stage2(self.stage1(self.stem(x)))  # strides 1 and 2

    def forward(self, x):
        x = self.features(x)
        # global average
        return self.fc(x.mean((2, 3)))


class Absent(nn.Module):
    """Not in the network."""
''',
)
user(
    "base_class",
    BASIC_BLOCK
    + """
class Base(nn.Module):
    def __init__(self, block, blocks, num_classes=10):
        super().__init__()
        # from the base
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.layers = nn.Sequential(*(block(6, 6) for _ in range(blocks)))
        self.linear = nn.Linear(6, num_classes)
        self._init_weights()

    def _init_weights(self):
        nn.init.zeros_(self.linear.bias)

    def forward(self, x):
        return self.linear(self.layers(self.conv1(x)).mean((2, 3)))


class Net(Base):
    def __init__(self, num_classes=10):
        super().__init__(Block, 2, num_classes)
""",
)
user(
    "initialisation",
    net(
        """\
        self.apply(self._init_weights)
        init_weights(self)
        nn.init.zeros_(self.fc.bias)
        self.fc.weight.data.normal_(0, 0.01)
        self.fc.bias.data += 1
        with torch.no_grad():
            self.fc.weight.mul_(2)
        """,
        methods="""\
        def _init_weights(self, m):
            if isinstance(m, nn.Linear):
                nn.init.trunc_normal_(m.weight, std=STD)
        """,
    )
    + """

STD = 0.02


def init_weights(network):
    for m in network.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.ones_(m.weight)
""",
)
user(
    "built_by_a_method",
    """\
class Net(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.build(num_classes)

    def build(self, num_classes):
"""
    + LAYERS
    + """\
        nn.init.zeros_(self.fc.bias)

"""
    + FORWARD,
)
user(
    "class_count_attribute",
    net(
        layers=LAYERS.replace("num_classes", "self.num_classes"),
        methods="""\
        @property
        def outputs(self):
            return self.num_classes
        """,
    ).replace(
        "super().__init__()\n", "super().__init__()\n        self.num_classes = num_classes\n"
    ),
)
user(
    "helpers_and_constants",
    net(
        "self.scale = 0.5\nself.unread = object()\nself.act = torch.tanh\nself.act2 = F.silu",
        forward="""\
    def forward(self, x: "torch.Tensor", mode: Literal["a b"] = "a b") -> "torch.Tensor":
        x = self.act(self.bn1(self.conv1(x)))
        x = self.act2(pool(self.conv2(x)))
        left = x.shape  # never read again
        return self.fc(x) * (self.scale + OFFSET) * self.factor

    @property
    def factor(self) -> float:
        \"\"\"Twice the half.\"\"\"
        return HALF * 2

    @factor.setter
    def factor(self, value: float) -> None:
        raise AttributeError(value)
""",
    ),
    head="from typing import Literal\n\n"
    + HEAD
    + "from writer_helpers_and_constants_helper import HALF, pool\n\n"
    + "OFFSET = HALF / 2\nUNUSED = 5\n\n",
    helper="""\
import math

import torch

TWO = math.sqrt(4)
HALF = 1 / TWO


def pool(x: torch.Tensor) -> torch.Tensor:
    '''The mean over the image.'''
    return _mean(x)


def _mean(x):
    return x.mean((2, 3))


def unused(x):
    return x
""",
)
user(
    "blocks_in_a_second_file",
    """\
class Net(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.a = Block(6, 6)
        self.b = Block(6, 9, 2)
        self.fc = nn.Linear(9, num_classes)

    def forward(self, x):
        return self.fc(self.b(self.a(self.stem(x))).mean((2, 3)))
""",
    head=HEAD + "from writer_blocks_in_a_second_file_helper import Block\n\n",
    helper=HEAD + BASIC_BLOCK,
)
user(
    "future_annotations",
    net(methods="def twin(self, other: Net | None) -> Net | None:\n    return other\n"),
    head="from __future__ import annotations\n\n" + HEAD,
)
user(
    "containers",
    """\
class Net(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.stem = nn.Sequential(OrderedDict([("conv", nn.Conv2d(3, 6, 3)), ("act", nn.ReLU())]))
        self.rows = nn.ModuleList([nn.Conv2d(6, 6, 1), nn.Conv2d(6, 8, 1, bias=False)])
        self.heads = nn.ModuleDict({"it's": nn.BatchNorm2d(8)})
        self.heads['a "b"\\n'] = nn.Linear(8, num_classes)
        self.empty = nn.ModuleList()
        self.nothing = None

    def forward(self, x):
        x = self.stem(x)
        for row in self.rows:
            x = F.relu(row(x))
        x = self.heads["it's"](x).mean((2, 3))
        return self.heads['a "b"\\n'](x)
""",
    head=HEAD + "from collections import OrderedDict\n\n",
)
user("lower_case", net().replace("class Net", "class plainnet"), cls="plainnet")
user("named_as_an_import", net().replace("class Net", "class Torch"), cls="Torch")
user(
    "a_sequential",
    """\
class Net(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
        )
""",
)
user(
    "private_names",
    net(
        "self.__factor = 2\n",
        FORWARD.replace("return self.fc(x)", "return self.fc(x) * self.__factor"),
    ),
)
user(
    "activations_kept_on_self",
    net("self.seen = None\n", FORWARD.replace("return", "self.seen = x\n        return")),
)
user(
    "train_only_branch",
    net(
        "self.auxiliary = nn.Linear(3, 2)",
        FORWARD.replace(
            "        x = F.relu(self.bn1",
            "        if self.training:\n            extra = self.auxiliary(x.mean((2, 3)))\n"
            "        x = F.relu(self.bn1",
        ),
    ),
)
user(
    "attribute_of_a_block",
    """\
class Stage(nn.Module):
    def __init__(self, width, times):
        super().__init__()
        self.conv = nn.Conv2d(4, width, 1)
        self.times = times

    def forward(self, x):
        return F.relu(self.conv(x))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.stage = Stage(8, 3)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(self.stage(self.stem(x)).mean((2, 3))) * self.stage.times
""",
)
user(
    "derived_layer",
    """\
class Doubled(nn.Conv2d):
    \"\"\"Twice a convolution.\"\"\"

    def forward(self, x):
        return super().forward(x) * 2


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        # A pixel of 2 is as good as one of 4.
        self.register_buffer("spread", torch.tensor([1.0, 2.0, 4.0]).view(1, 3, 1, 1))
        self.conv1 = Doubled(3, 4, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(4, 9, 3)
        self.fc = nn.Linear(9, 4)

    def forward(self, x):
        return self.fc(self.conv2(F.relu(self.conv1(x / self.spread))).mean((2, 3)))
""",
)
user(
    "decorated_by_a_library",
    "@final\n" + net(),
    head="from typing import final\n\n" + HEAD,
)


@dataclass(frozen=True)
class Written:
    results: dict[str, PruningResult]
    folder: Path


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("users")
    results = {}
    for name, file in NETWORKS.items():
        if file.helper:
            write(folder, f"writer_{name}_helper", file.helper, head="")
        torch.manual_seed(0)
        cls = user_class(folder, f"writer_{name}", file.text, file.cls, file.head)
        model = with_telling_state(cls()).double()
        results[name] = prune(model, wide_image(2, 3, 8, 8), 50, name=name)
    return Written(results, folder)


def code(result: PruningResult) -> str:
    """The source without its header, which holds figures."""
    tree = ast.parse(result.source)
    return "\n".join(result.source.splitlines()[tree.body[0].end_lineno :]) + "\n"


def init_of(source: str, cls: str = "Net") -> str:
    """The text of the `__init__` of one class."""
    node = next(n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == cls)
    init = next(n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
    segment = ast.get_source_segment(source, init)
    assert segment is not None
    return segment


# -- all of them --------------------------------------------------------------------------------


def test_each_is_exact_and_stands_alone(written: Written) -> None:
    outcomes = verify([result.case() for result in written.results.values()])
    assert {o.name: o.message for o in outcomes if not o.ok} == {}
    assert all(outcome.error <= 1e-12 for outcome in outcomes)
    assert all(r.report.parameters.removed_pct >= 50 for r in written.results.values())


def test_each_passes_the_linter_and_the_formatter(written: Written, tmp_path: Path) -> None:
    for name, result in written.results.items():
        (tmp_path / f"{name}.py").write_text(result.source, encoding="utf-8")
    for command in (
        ["check", "--isolated", "--select", "F,I"],
        ["format", "--isolated", "--line-length", "100", "--check"],
    ):
        done = subprocess.run(
            [find_ruff_bin(), *command, str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout


def test_none_speaks_of_this_project_or_of_where_it_came_from(written: Written) -> None:
    for result in written.results.values():
        assert "pruners" not in result.source
        assert "basic_block" not in result.source
        assert str(written.folder) not in result.source
        assert "0x" not in result.source


def test_each_is_written_the_same_again(written: Written) -> None:
    for result in written.results.values():
        assert Writer(result.slim, "again").source("x") == Writer(result.slim, "again").source("x")


def test_a_generated_file_is_pruned_and_written_again(written: Written) -> None:
    """Nothing to remove: the second file is the first, but for its header."""
    for name in ("plain", "initialisation", "containers", "helpers_and_constants"):
        first = written.results[name]
        module = import_source(name, first.source)
        model = getattr(module, type(first.model).__name__)().double()
        again = prune(model, wide_image(2, 3, 8, 8), 0, name=name)
        assert code(again) == code(first)


# -- text ---------------------------------------------------------------------------------------


def test_the_whole_of_a_small_file(written: Written) -> None:
    result = written.results["plain"]
    a, b = (result.report.widths[name].after for name in ("conv1", "conv2"))
    assert code(result) == textwrap.dedent(
        f'''
        from pathlib import Path

        import torch
        import torch.nn.functional as F
        from torch import nn


        class Net(nn.Module):
            def __init__(self, num_classes: int = 10) -> None:
                super().__init__()
                self.conv1 = nn.Conv2d(3, {a}, kernel_size=3, padding=1)
                self.bn1 = nn.BatchNorm2d({a})
                self.conv2 = nn.Conv2d({a}, {b}, kernel_size=3, padding=1)
                self.fc = nn.Linear({b}, num_classes)

            def forward(self, x):
                x = F.relu(self.bn1(self.conv1(x)))
                x = F.relu(self.conv2(x)).mean((2, 3))
                return self.fc(x)


        def net(weights: str | Path | None = None, **kwargs) -> Net:
            """The network; given a path, with its weights."""
            model = Net(**kwargs)
            model.to(torch.float64)  # as its weights are
            if weights is not None:
                state = torch.load(weights, map_location="cpu", weights_only=True)
                for name in [name for name in state if f"{{name}}.scale" in state]:  # int8
                    state[name] = state[name] * state.pop(f"{{name}}.scale")
                model.load_state_dict(state)
            return model
        '''
    )


def test_comments_and_docstrings_stay(written: Written) -> None:
    source = written.results["residual"].source
    for text in (
        '"""Two convolutions and a shortcut."""',
        '"""A small residual network.',
        "Its docstring has \"quotes\" and a backslash: \\\\ and 'more'.",
        '"""Everything in front of the classifier."""',
        "# strides 1 and 2",
        "# global average",
        "# The stem sees the image.",
        "# fan_out keeps the variance on the way back",
    ):
        assert source.count(text) == 1, text


def test_a_block_is_one_class_with_the_widths_that_differ(written: Written) -> None:
    source = written.results["residual"].source
    assert source.count("class Block(nn.Module):") == 1
    init = " ".join(init_of(source, "Block").split())
    for text in (
        "self, in_channels: int, conv1_channels: int, out_channels: int, stride: int = 1, "
        "shortcut: bool = False, ) -> None:",
        "nn.Conv2d( in_channels, conv1_channels, kernel_size=3, stride=stride, padding=1, ",
        "self.bn1 = nn.BatchNorm2d(conv1_channels)",
        "nn.Conv2d(conv1_channels, out_channels, kernel_size=3, padding=1, bias=False)",
        "if shortcut: self.shortcut = nn.Sequential( nn.Conv2d("
        "in_channels, out_channels, kernel_size=1, stride=stride, bias=False), "
        "nn.BatchNorm2d(out_channels), ) else: self.shortcut = nn.Sequential()",
    ):
        assert text in init, text


def test_initialisation_of_what_is_there(written: Written) -> None:
    init = init_of(written.results["residual"].source)
    assert "zero_init_residual: bool = False" in init or "zero_init_residual=False" in init
    assert 'nn.init.kaiming_normal_(m.weight, mode="fan_out")' in init
    assert "isinstance(m, Block)" in init
    assert "nn.init.zeros_(m.bn2.weight)" in init
    assert "Absent" not in written.results["residual"].source
    module = import_source("residual", written.results["residual"].source)
    zeroed = module.Net(zero_init_residual=True)
    assert not zeroed.stage1[0].bn2.weight.any()
    assert module.Net().stage1[0].bn2.weight.all()


def test_initialisation_of_every_kind(written: Written) -> None:
    source = written.results["initialisation"].source
    init = init_of(source)
    for statement in (
        "self.apply(self._init_weights)",
        "init_weights(self)",
        "nn.init.zeros_(self.fc.bias)",
        "self.fc.weight.data.normal_(0, 0.01)",
        "self.fc.bias.data += 1",
        "self.fc.weight.mul_(2)",
    ):
        assert statement in init, statement
    assert "STD = 0.02" in source
    assert "def init_weights(network):" in source
    fresh = import_source("initialisation", source).Net()
    assert fresh.fc.bias.tolist() == [1] * 10
    assert 0.01 < fresh.fc.weight.std() < 0.03


def test_initialisation_in_a_base_class(written: Written) -> None:
    source = written.results["base_class"].source
    init = init_of(source)
    assert "num_classes: int = 10" in init
    assert "nn.Linear(" in init
    assert "num_classes)" in init
    assert "self._init_weights()" in init
    assert "# from the base" in init
    assert "class Base" not in source
    assert import_source("base", source).Net(num_classes=3).linear.bias.tolist() == [0, 0, 0]


def test_a_method_that_builds_is_not_run_again(written: Written) -> None:
    source = written.results["built_by_a_method"].source
    assert "self.build" not in source


@pytest.mark.parametrize(
    ("name", "arguments", "shape"),
    [
        ("plain", {"num_classes": 7}, (1, 7)),
        ("residual", {"num_classes": 3, "in_channels": 1}, (1, 3)),
        ("class_count_attribute", {"num_classes": 5}, (1, 5)),
        ("base_class", {"num_classes": 2}, (1, 2)),
    ],
)
def test_ends_of_the_network_are_arguments_still(
    written: Written, name: str, arguments: dict[str, int], shape: tuple[int, ...]
) -> None:
    result = written.results[name]
    module = import_source(name, result.source)
    factory: Callable[..., nn.Module] = getattr(module, result.writer.factory)
    model = factory(**arguments)
    x = wide_image(1, arguments.get("in_channels", 3), 8, 8)
    assert model.eval()(x).shape == shape
    if name == "class_count_attribute":
        assert model.outputs == 5


def test_helpers_constants_and_properties(written: Written) -> None:
    source = written.results["helpers_and_constants"].source
    for text in (
        "import math",
        "from typing import Literal",
        "TWO = math.sqrt(4)",
        "HALF = 1 / TWO",
        "OFFSET = HALF / 2",
        "def pool(x: torch.Tensor) -> torch.Tensor:",
        '"""The mean over the image."""',
        "def _mean(x):",
        "@property",
        "@factor.setter",
        '"""Twice the half."""',
        "self.scale = 0.5",
        "self.act = torch.tanh",
    ):
        assert source.count(text) == 1, text
    for text in ("UNUSED", "def unused", "unread", "left ="):
        assert text not in source, text
    # In the order in which Python needs them.
    places = [source.index(text) for text in ("TWO =", "HALF =", "OFFSET =", "\nclass Net")]
    assert places == sorted(places)


def test_a_second_file_of_the_users(written: Written) -> None:
    source = written.results["blocks_in_a_second_file"].source
    assert "class Block(nn.Module):" in source
    assert "writer_blocks_in_a_second_file_helper" not in source


def test_future_annotations_stay_where_they_are_needed(written: Written) -> None:
    assert "from __future__ import annotations" in written.results["future_annotations"].source
    assert "__future__" not in written.results["plain"].source


def test_containers_keep_their_names(written: Written) -> None:
    source = written.results["containers"].source
    assert "from collections import OrderedDict" in source
    assert re.search(r'"conv": nn\.Conv2d\(3, \d, kernel_size=3\)', source)
    assert "nn.ModuleList(" in source
    # A key is a string, whatever it looks like.
    assert '"it\'s": nn.BatchNorm2d(' in source
    assert "'a \"b\"\\n': nn.Linear(" in source
    assert "self.empty" not in source or "nn.ModuleList()" in source


def test_a_factory_makes_way_for_a_name_that_is_taken(written: Written) -> None:
    assert written.results["lower_case"].writer.factory == "build_plainnet"
    assert written.results["named_as_an_import"].writer.factory == "build_torch"
    assert "def build_torch(" in written.results["named_as_an_import"].source


def test_a_network_that_is_a_sequential(written: Written) -> None:
    source = written.results["a_sequential"].source
    assert "class Net(nn.Sequential):" in source
    assert re.search(r"super\(\).__init__\(\s+nn\.Conv2d\(3, \d, kernel_size=3\),", source)


def test_plain_attributes(written: Written) -> None:
    results = written.results
    assert "self._Net__factor = 2" in results["private_names"].source
    assert "self.times = 3" in results["attribute_of_a_block"].source
    # It is stored before it is read: nothing to start from.
    assert "self.seen = x" in results["activations_kept_on_self"].source


def test_a_class_derived_from_a_layer(written: Written) -> None:
    source = written.results["derived_layer"].source
    assert source.count("class Doubled(nn.Conv2d):") == 1
    assert '"""Twice a convolution."""' in source
    call = r"self\.conv1 = Doubled\(3, [23], kernel_size=3, padding=1, bias=False\)"
    assert re.search(call, source)
    assert source.count("__init__") == 2  # of Net, and the call in it


def test_a_buffer_that_pruning_leaves_alone_has_its_values(written: Written) -> None:
    fresh = import_source("buffers", written.results["derived_layer"].source).Net()
    assert fresh.spread.flatten().tolist() == [1, 2, 4]


def test_a_library_decorator_stays(written: Written) -> None:
    assert "@final\nclass Net(nn.Module):" in written.results["decorated_by_a_library"].source
    assert "from typing import final" in written.results["decorated_by_a_library"].source


def test_float32_needs_no_conversion(tmp_path: Path) -> None:
    cls = user_class(tmp_path, "writer_float32", net())
    result = prune(cls(), wide_image(1, 3, 8, 8).float(), 0)
    assert ".to(torch" not in result.source


# -- what looks like code -----------------------------------------------------------------------

EVIL = 'x"""\nraise SystemExit("executed")\n"""'


def test_a_header_is_text_whatever_it_holds(tmp_path: Path) -> None:
    cls = user_class(tmp_path, "writer_header", net())
    writer = Writer(cls(), "net")
    for text in (
        EVIL,
        "\\",
        'a"',
        '"""',
        '""""',
        '\\""',
        '"\n"',
        "\\" * 3 + '"',
        "\N{SNOWMAN}\r\n\x00"[:2],
        "'''",
    ):
        source = writer.source(text)
        docstring = ast.get_docstring(ast.parse(source), clean=False)
        assert docstring is not None
        assert docstring.split() == text.split()
        assert "net" in vars(import_source("header", source))


def test_names_of_the_network_in_the_header(tmp_path: Path) -> None:
    cls = user_class(tmp_path, "writer_qualname", net())
    result = prune(cls(), wide_image(1, 3, 8, 8).float(), 0)
    text = header(result.report, EVIL, EVIL, EVIL)
    source = Writer(cls(), "net").source(text)
    assert "executed" in (ast.get_docstring(ast.parse(source)) or "")
    assert "net" in vars(import_source("qualname", source))


def evil_child(model: nn.Module) -> None:
    model._modules[EVIL] = nn.ReLU()


def evil_parameter(model: nn.Module) -> None:
    model._parameters[EVIL] = nn.Parameter(torch.ones(1))


def evil_buffer(model: nn.Module) -> None:
    model._buffers[EVIL] = torch.ones(1)


def test_names_that_no_attribute_could_have_are_registered(tmp_path: Path) -> None:
    more = """\
self.add_module("0a", nn.Conv2d(8, 8, 1))
self.register_parameter("a b", nn.Parameter(torch.ones(8, 1, 1)))
self.add_module("class", nn.ModuleList([nn.Conv2d(8, 8, 1)]))
"""
    forward = """\
    def forward(self, x):
        x = getattr(self, "0a")(F.relu(self.bn1(self.conv1(x))))
        x = self._modules["class"][0](x) * self._parameters["a b"]
        return self.fc(x.mean((2, 3)))
"""
    cls = user_class(
        tmp_path, "registered_names", net(more, forward, layers=LAYERS.replace("12", "8"))
    )
    torch.manual_seed(0)
    result = prune(with_telling_state(cls()).double(), wide_image(2, 3, 12, 12), 20)
    assert result.verified().error < 1e-12
    assert 'self.add_module("0a", nn.Conv2d(' in result.source
    assert re.search(r'self\.register_parameter\(\s*"a b", nn\.Parameter\(', result.source)
    assert 'self.add_module("class", nn.ModuleList(' in result.source


def test_odd_names_that_only_some_instances_have(tmp_path: Path) -> None:
    text = """\
class Block(nn.Module):
    def __init__(self, inputs, outputs, odd):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1)
        self.scale = None
        self.odd = odd
        if odd:
            del self.scale
            self.register_buffer("scale", torch.ones(()))
            self.add_module("0a", nn.Conv2d(outputs, outputs, 3, padding=1))

    def forward(self, x):
        x = self.conv(x)
        x = x if self.scale is None else x * self.scale
        return getattr(self, "0a")(x) if self.odd else x


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(*(Block(8 if i else 3, 8, i % 2 > 0) for i in range(4)))
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.blocks(x).mean((2, 3)))
"""
    model = user_class(tmp_path, "odd_names", text)()
    torch.manual_seed(0)
    result = prune(with_telling_state(model).double(), wide_image(2, 3, 12, 12), 20)
    assert result.verified().error < 1e-12
    assert list(result.model.state_dict()) == list(model.state_dict())
    source = result.source
    assert re.search(
        r'if \w+:\n +self\.register_buffer\("scale", .*\n +else:\n +self\.scale = None', source
    )
    assert re.search(r'if \w+:\n +self\.add_module\(\s*"0a", nn\.Conv2d\(', source)
    assert "self.scale = self" not in source


def test_module_and_parameter_names_that_are_no_names(tmp_path: Path) -> None:
    cls = user_class(tmp_path, "writer_names", net())
    for spoil in (evil_child, evil_parameter, evil_buffer):
        model = cls()
        spoil(model)
        source = Writer(model, "net").source("x")
        tree = ast.parse(source)
        assert not any(isinstance(node, ast.Raise) for node in ast.walk(tree))
        made = import_source(f"registered_{spoil.__name__}", source).Net()
        assert EVIL in {*made._modules, *made._parameters, *made._buffers}
    for name in ("a.b", ""):
        model = cls()
        model._modules[name] = nn.ReLU()  # which torch itself refuses
        with pytest.raises(WriterError, match=r"not a Python identifier; rename it"):
            Writer(model, "net").source("x")


@pytest.mark.parametrize("key", [EVIL, "a'b", "lambda", "\N{SNOWMAN}"])
def test_keys_of_a_dictionary_are_strings(tmp_path: Path, key: str) -> None:
    cls = user_class(
        tmp_path,
        "writer_keys",
        net(
            "self.more = nn.ModuleDict()",
            FORWARD.replace("return", "len(self.more)\n        return"),
        ),
    )
    model = cls()
    model.more._modules[key] = nn.ReLU()
    source = Writer(model, "net").source("x")
    assert list(import_source("keys", source).Net().more) == [key]


def test_a_class_that_was_renamed(tmp_path: Path) -> None:
    cls = user_class(tmp_path, "writer_renamed", net())
    cls.__name__ = cls.__qualname__ = EVIL
    with pytest.raises(WriterError, match=r"not at the top level of writer_renamed"):
        Writer(cls(), "net")


@pytest.mark.parametrize("factory", [EVIL, "a b", "1", ""])
def test_a_factory_name_that_is_none(tmp_path: Path, factory: str) -> None:
    cls = user_class(tmp_path, "writer_factory", net())
    with pytest.raises(WriterError, match=r"not a Python identifier"):
        Writer(cls(), factory)


# -- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "head", "message"),
    [
        (
            "attribute",
            net("self.odd = object()", FORWARD.replace("return", "self.odd\n        return")),
            HEAD,
            r"Net\.odd at the network itself: value .* of type object cannot be written, but "
            r"forward reads it; expected a plain value",
        ),
        (
            "local",
            "def make():\n" + textwrap.indent(net(), "    ") + "\n    return Net\n\nNet = make()\n",
            HEAD,
            r"class make\.<locals>\.Net: not at the top level of writer_local",
        ),
        (
            "ours",
            net(forward=FORWARD.replace("F.relu(self.conv2(x))", "id(prune) * self.conv2(x)")),
            HEAD + "from pruners import prune\n\n",
            r"the kept code uses prune from pruners, which a generated file must not import",
        ),
        (
            "dtypes",
            net("self.fc.double()"),
            HEAD,
            r"tensors of torch\.float32 and torch\.float64; expected one floating dtype",
        ),
        (
            "buffer",
            net('self.register_buffer("table", torch.rand(300), persistent=False)'),
            HEAD,
            r"Net\.table at .*: a buffer of 300 values that the state_dict does not hold",
        ),
    ],
)
def test_what_cannot_be_written(
    tmp_path: Path, name: str, text: str, head: str, message: str
) -> None:
    cls = user_class(tmp_path, f"writer_{name}", text, head=head)
    with pytest.raises(WriterError, match=message):
        Writer(cls(), "net").source("x")


def test_a_bare_container() -> None:
    with pytest.raises(WriterError, match=r"the network is a bare Sequential; expected a class of"):
        Writer(nn.Sequential(nn.Linear(2, 2)), "net")


def test_an_initialisation_that_cannot_be_kept_is_reported(tmp_path: Path) -> None:
    cls = user_class(
        tmp_path, "writer_lost", net("std = 2 * num_classes\nnn.init.normal_(self.fc.bias, 0, std)")
    )
    writer = Writer(cls(), "net")
    assert writer.warnings == [
        "Net: the initialisation `nn.init.normal_(self.fc.bias, 0, std)` is left out, for it uses "
        "std, which only the original __init__ has"
    ]
    assert "init.normal_" not in writer.source("x")


# -- layers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(2, 3, 5, padding="same", dilation=2),
        nn.Conv2d(4, 6, (3, 1), stride=(1, 2), padding=(1, 0), groups=2, padding_mode="reflect"),
        nn.ConvTranspose2d(2, 3, 3, stride=2, output_padding=1),
        nn.Linear(3, 4, bias=False),
        nn.BatchNorm2d(3, eps=1e-3, momentum=None, affine=False),
        nn.BatchNorm1d(3, track_running_stats=False),
        nn.InstanceNorm2d(3, affine=True),
        nn.GroupNorm(2, 4, affine=False),
        nn.LayerNorm((3, 4)),
        nn.PReLU(3),
        nn.ReLU(inplace=True),
        nn.LeakyReLU(0.2),
        nn.Hardtanh(-2.0, 2.0),
        nn.ReLU6(),
        nn.GELU("tanh"),
        nn.Softmax(dim=1),
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d((None, 1)),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
        nn.Dropout(0.3),
        nn.Flatten(2),
        nn.ZeroPad2d(1),
        nn.ConstantPad2d((1, 0, 2, 0), 0.5),
        nn.PixelShuffle(2),
        nn.Embedding(5, 3, padding_idx=0),
        nn.Threshold(float("-inf"), float("inf")),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_is_built_again_as_it_is(tmp_path: Path, layer: nn.Module) -> None:
    cls = user_class(
        tmp_path,
        "writer_layer",
        "class Net(nn.Module):\n    def forward(self, x):\n        return self.layer(x)\n",
    )
    model = cls()
    model.layer = layer
    built = import_source("layer", Writer(model, "net").source("x")).Net().layer
    assert repr(built) == repr(layer)
    assert list(built.state_dict()) == list(layer.state_dict())
    shapes = [[tuple(t.shape) for t in m.state_dict().values()] for m in (built, layer)]
    assert shapes[0] == shapes[1]


def test_difference_sees_a_wrong_weight(written: Written) -> None:
    """The comparison that the other files rely on does fail."""
    result = written.results["plain"]
    assert difference(result) < 1e-12
    with torch.no_grad():
        result.model.conv2.weight[0] += 1
    assert difference(result) > 1e-3


class Templates(nn.Module):
    """Starts from a constant that is as wide as its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.fc = nn.Linear(4, 2)
        with torch.no_grad():
            self.conv.bias.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


def test_a_statement_that_fits_the_original_only_is_named() -> None:
    with pytest.raises(
        WriterError,
        match=r"^templates_40: the generated class cannot be built: "
        r"`self\.conv\.bias\.copy_\(.*\)` raises RuntimeError: .*; that statement "
        r"of __init__ fits the original's widths only: "
        r"move it out of the class, or keep its layer whole \(--ignore LAYER\)$",
    ):
        prune(Templates(), torch.zeros(2, 3, 8, 8), 40).verified()


def test_marks_of_cells_are_no_comments(tmp_path: Path) -> None:
    """A notebook kept as a script: what stands above `# %%` is of another cell."""
    text = """
    # %% [markdown]
    # Prose of the notebook.

    # %%
    # Keeps it small.
    def squash(x):
        return torch.tanh(x)


    # %%
    class Marked(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.fc = nn.Linear(4, 2)

        # %% is a mark between statements only.
        def forward(self, x):
            return self.fc(squash(self.conv(x)).mean((2, 3)))
    """
    model = user_class(tmp_path, "marked_cells", text, "Marked")()
    source = prune(model, torch.zeros(2, 3, 8, 8), 40).source
    assert "notebook" not in source
    assert "\n# Keeps it small.\ndef squash(x):" in source
    assert "\n\nclass Marked(nn.Module):" in source
    assert source.count("%%") == 1
