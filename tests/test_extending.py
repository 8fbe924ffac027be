"""Block types from outside the package: docs/extending.md does what it says; what is refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from helpers import image, with_telling_state
from torch import nn

import pruners.decorators
from pruners import (
    Axis,
    Backbone,
    BackboneCalculator,
    Block,
    Coupling,
    DependencyCalculator,
    Interface,
    PrunerError,
    WriterError,
    basic_block,
    block_decorator,
    mb_conv,
    prune,
    register_calculator,
    register_transfer_func,
    register_writer,
    split_and_aggregate_backbone,
    write_conv,
    write_sequential,
)
from pruners.blocks import BLOCK_TYPES
from pruners.dependencies import Read, declared_graph
from pruners.expressions import Imports, to_code
from pruners.loading import class_from_file
from pruners.origin import code_of
from pruners.verify import require, verify

ROOT = Path(pruners.decorators.__file__).parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text()


pytestmark = pytest.mark.usefixtures("own_block_types")


# --- the page ----------------------------------------------------------------------------------


def files_of_the_page() -> dict[str, str]:
    """The code blocks that begin with a file name, those of one file put together."""
    files: dict[str, list[str]] = {}
    for name, text in re.findall(r"^```python\n# (\S+)\n(.*?)^```$", PAGE, re.M | re.S):
        files.setdefault(name, []).append(text)
    assert PAGE.count("```python") == sum(map(len, files.values()))
    return {name: "\n\n".join(parts) for name, parts in files.items()}


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A folder with the page's files."""
    for name, text in files_of_the_page().items():
        if "/" not in name:
            (tmp_path / name).write_text(text)
    return tmp_path


def transcripts() -> list[list[tuple[str, list[str]]]]:
    """Of every transcript on the page, the commands and what they print (`...` is anything)."""
    found = []
    for text in re.findall(r"^```console\n(.*?)^```$", PAGE, re.M | re.S):
        commands: list[tuple[str, list[str]]] = []
        for line in text.splitlines():
            if line.startswith("$ "):
                commands.append((line.removeprefix("$ "), []))
            else:
                commands[-1][1].append(line)
        found.append(commands)
    return found


@pytest.mark.parametrize("number", range(4))
def test_the_page_does_what_it_says(page: Path, number: int) -> None:
    """Its commands, in a folder with its files; `app.py` verifies before it writes."""
    assert len(transcripts()) == 4
    for command, shown in transcripts()[number]:
        program, *arguments = command.removeprefix("python ").split()
        program = str(ROOT / program) if program == "app.py" else program
        done = subprocess.run(
            [sys.executable, program, *arguments],
            cwd=page,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        if not shown:
            continue
        assert shown[-1] == "..."
        assert done.stdout.splitlines()[: len(shown) - 1] == shown[:-1]
        assert "verified: differs from the masked original by" in done.stdout
    for name, excerpt in files_of_the_page().items():
        if "/" in name and (page / name).exists():
            assert excerpt in (page / name).read_text()
    if "tinynet" in str(transcripts()[number]):
        accuracies = json.loads((page / "generated/tinynet_50.json").read_text())["test_accuracy"]
        assert accuracies["dataset"] == "Bars"
        assert accuracies["before"] > 80
        assert accuracies["finetuned"] > 70


def test_the_pages_block_is_exact_at_every_percentage(page: Path) -> None:
    network = class_from_file(page / "trinet.py", "TriNet")
    module = sys.modules[network.__module__]
    torch.manual_seed(0)
    model, x = with_telling_state(network()), image(2, 3, 16, 16)
    results = [
        module.TriNetPruning(model, x, pruners.Options(prune_pct=pct), fileName=f"t{pct}").run()
        for pct in (10, 30, 50, 70, 90)
    ]
    outcomes = verify([result.case() for result in results])
    require(outcomes)
    assert all(outcome.error <= 1e-5 for outcome in outcomes)
    # Without writer and transfer function of its own, the block comes out the same.
    spec = BLOCK_TYPES["tri_block"]
    BLOCK_TYPES["tri_block"] = pruners.blocks.BlockType("tri_block", spec.calculator)
    assert prune(model, x, 50, name="t50").source == results[2].source


def test_the_calculator_by_hand_says_the_same(page: Path) -> None:
    network = class_from_file(page / "trinet.py", "TriNet")
    by_hand: dict[str, Any] = {}
    exec((page / "by_hand.py").read_text(), by_hand)
    model, x = with_telling_state(network()), image(2, 3, 16, 16)
    kept = prune(model, x, 50).kept
    del BLOCK_TYPES["tri_block"]
    register_calculator("tri_block", by_hand["TriCalculatorByHand"]())
    for name, dims in prune(model, x, 50).kept.items():
        assert all(np.array_equal(a, b) for a, b in zip(dims, kept[name], strict=True))


# --- what is refused ---------------------------------------------------------------------------

NET = """
import torch
from torch import nn


class Odd(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1)
        self.conv2 = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        return self.conv1(x) + self.conv2(x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.odd = Odd(8)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.head(self.odd(self.stem(x)))
"""

X = image(2, 3, 4, 4)


@pytest.fixture
def net(tmp_path: Path) -> ModuleType:
    """A module with a network `Net` of a block `Odd`, which no decorator describes yet."""
    path = tmp_path / "odd_net.py"
    path.write_text(NET)
    return sys.modules[class_from_file(path, "Net").__module__]


class AddCalculator(BackboneCalculator):
    def __init__(self, *names: str) -> None:
        self.names = names

    def backbone(self, block: Block) -> Backbone:
        branches = [[name] for name in self.names or block.spec.convs]
        return split_and_aggregate_backbone(block, [], branches, "add")


def decorate(net: ModuleType, calculator: DependencyCalculator | None, **parts: Any) -> nn.Module:
    """The network, with its block decorated."""
    odd = block_decorator("odd", calculator, **parts)
    odd(lType="odd_block", convs=["conv1", "conv2"])(net.Odd)
    return with_telling_state(net.Net())


def test_a_calculator_alone_is_enough(net: ModuleType) -> None:
    result = prune(decorate(net, AddCalculator()), X, 50)
    require(verify([result.case()]))


def test_a_type_without_calculator(net: ModuleType) -> None:
    model = decorate(net, None, writer=lambda block: {})
    with pytest.raises(
        PrunerError,
        match=r"^odd \(@odd\): block type 'odd_block' has no calculator, .* "
        r"register_calculator\('odd_block', \.\.\.\)$",
    ):
        prune(model, X, 50)


def test_a_type_that_nobody_registered(net: ModuleType) -> None:
    model = decorate(net, None)
    with pytest.raises(PrunerError, match=r"^block type 'odd_block': not registered"):
        prune(model, X, 50)


class OtherCalculator(AddCalculator):
    pass


def write_one(block: nn.Module) -> dict[str, Any]:
    return {"conv1": write_conv(block.conv1), "conv2": write_conv(block.conv2)}


def write_another(block: nn.Module) -> dict[str, Any]:
    return {}


@pytest.mark.parametrize(
    ("register", "one", "another", "message"),
    [
        (
            register_calculator,
            AddCalculator(),
            OtherCalculator(),
            r"^block type 'two': already registered with the calculator AddCalculator, now with "
            r"OtherCalculator; give one of the two another lType$",
        ),
        (
            register_calculator,
            AddCalculator("a"),
            AddCalculator("b"),
            r"^block type 'two': already registered with another AddCalculator, whose attributes "
            r"differ; give one of the two another lType$",
        ),
        (
            register_writer,
            write_one,
            write_another,
            r"^block type 'two': already registered with the writer write_one, now with write_an",
        ),
        (
            register_transfer_func,
            lambda unit: {},
            lambda unit: {},
            r"^block type 'two': already registered with the transfer function <lambda>, now",
        ),
    ],
)
def test_two_types_under_one_name(
    register: Callable[[str, object], None], one: object, another: object, message: str
) -> None:
    register("two", one)
    register("two", one)
    with pytest.raises(PrunerError, match=message):
        register("two", another)


def test_two_decorators_under_one_name() -> None:
    basic_block(lType="mine", convs=["conv1"])
    with pytest.raises(
        PrunerError, match=r"'mine': already registered with the calculator ResidualCalculator, now"
    ):
        mb_conv(lType="mine", convs=["conv1"])


def test_a_definition_that_runs_again_replaces_the_former() -> None:
    """As a cell of a notebook does."""
    again: dict[str, Any] = {}
    text = "from test_extending import AddCalculator\nclass Mine(AddCalculator): pass\n"
    for _ in range(2):
        exec(text, again)
        register_calculator("again", again["Mine"]())
    assert type(BLOCK_TYPES["again"].calculator) is again["Mine"]


class NamingCalculator(DependencyCalculator):
    """Says what it was told to."""

    def __init__(self, output: Axis, *couplings: Coupling) -> None:
        self.output, self.couplings = output, couplings

    def internal(self, block: Block) -> tuple[Coupling, ...]:
        return self.couplings

    def external(self, block: Block) -> bool:
        return False

    def interface(self, block: Block) -> Interface:
        return Interface((Read(Axis("odd.conv1.weight", 1)),), (self.output,))


def coupling(a: Axis, b: Axis, left: list[int], right: list[int]) -> Coupling:
    return Coupling(a, b, np.array(left), np.array(right), "says so")


ROWS, MORE = Axis("odd.conv1.weight", 0), Axis("odd.conv2.weight", 0)


@pytest.mark.parametrize(
    ("calculator", "message"),
    [
        (
            AddCalculator("conv1", "conv9"),
            r"^odd \(Odd\): its calculator names 'conv9', which the block lacks; its layers are: "
            r"conv1, conv2$",
        ),
        (
            NamingCalculator(Axis("odd.conv7.weight", 0), coupling(ROWS, Axis("x", 0), [0], [0])),
            r"^odd \(Odd\): NamingCalculator returned odd\.conv7\.weight\[0\], x\[0\], of which "
            r"the network has none; the block's layers are: conv1, conv2$",
        ),
        (
            NamingCalculator(Axis("odd.conv1.weight", 4)),
            r"NamingCalculator returned odd\.conv1\.weight\[4\], of which the network has none",
        ),
        (
            NamingCalculator(Axis("stem.weight", 0)),
            r"^odd \(Odd\): NamingCalculator returned stem\.weight\[0\], outside of it; the",
        ),
        (
            NamingCalculator(ROWS, coupling(ROWS, MORE, [0, 8], [0, 1])),
            r"^odd \(Odd\): NamingCalculator coupled 2 positions of odd\.conv1\.weight\[0\] with 2 "
            r"of odd\.conv2\.weight\[0\]; expected as many of both, below 8 and 8$",
        ),
        (
            NamingCalculator(ROWS, coupling(ROWS, MORE, [0, 1], [0])),
            r"coupled 2 positions of odd\.conv1\.weight\[0\] with 1 of",
        ),
    ],
)
def test_a_calculator_that_returns_unknown_layers(
    net: ModuleType, calculator: DependencyCalculator, message: str
) -> None:
    with pytest.raises(PrunerError, match=message):
        prune(decorate(net, calculator), X, 50)


@pytest.mark.parametrize(
    ("writer", "message"),
    [
        (
            lambda block: {"conv1": write_conv(block.conv1)},
            r"^odd \(Odd\): the writer of block type 'odd_block' says nothing about conv2$",
        ),
        (
            lambda block: {"conv1": write_conv(block.conv1), "conv2": block.conv2},
            r"^odd \(Odd\): the writer of block type 'odd_block' returned Conv2d\(.*\) for conv2; "
            r"expected an expression, such as write_conv\(block\.conv2\), or a plain value$",
        ),
    ],
)
def test_a_writer_that_leaves_parts_out(
    net: ModuleType, writer: Callable[[nn.Module], Any], message: str
) -> None:
    result = prune(decorate(net, AddCalculator(), writer=writer), X, 50)
    with pytest.raises(WriterError, match=message):
        _ = result.source


def test_a_transfer_function_that_leaves_parts_out(net: ModuleType) -> None:
    model = decorate(net, AddCalculator(), transfer=lambda unit: {"conv1.weight": torch.ones(1)})
    with pytest.raises(
        PrunerError,
        match=r"^block type 'odd_block': its transfer function must return every tensor of odd and "
        r"no other; missing or unknown: odd\.conv1\.bias, odd\.conv2\.bias, odd\.conv2\.weight$",
    ):
        prune(model, X, 50)


# --- what an extension is made of --------------------------------------------------------------


class BranchCalculator(BackboneCalculator):
    """`stem` and `branches` as told, whatever the decorator says."""

    def __init__(self, stem: list[str], branches: list[list[str]], aggregate: Any) -> None:
        self.stem, self.branches, self.aggregate = stem, branches, aggregate

    def backbone(self, block: Block) -> Backbone:
        return split_and_aggregate_backbone(block, self.stem, self.branches, self.aggregate)


FORWARDS = {
    "return self.conv1(x) + x": ([], [["conv1"], []], "add"),
    "x = self.conv1(x); return x + self.conv2(x)": (["conv1"], [[], ["conv2"]], "add"),
    "x = self.conv1(x); return torch.cat([x, self.conv2(x)], 1)": (
        ["conv1"],
        [[], ["conv2"]],
        "cat",
    ),
}


def test_a_branch_without_convolutions_is_the_identity(tmp_path: Path) -> None:
    cases = []
    for i, (forward, parts) in enumerate(FORWARDS.items()):
        text = NET.replace("return self.conv1(x) + self.conv2(x)", forward)
        if "cat" in forward:
            text = text.replace("Conv2d(8, 4", "Conv2d(16, 4")
        if "conv2" not in forward:
            text = text.replace("        self.conv2 = nn.Conv2d(channels, channels, 1)\n", "")
        (tmp_path / f"identity_{i}.py").write_text(text)
        network = class_from_file(tmp_path / f"identity_{i}.py", "Net")
        odd = block_decorator("odd", BranchCalculator(*parts))
        convs = [name for name in ("conv1", "conv2") if name in forward]
        odd(lType=f"odd_{i}", convs=convs)(sys.modules[network.__module__].Odd)
        result = prune(with_telling_state(network()), X, 50, name=f"identity_{i}")
        assert len(result.kept["odd.conv1.weight"][0]) < 8
        cases.append(result.case())
    require(verify(cases))


def test_the_input_in_a_concatenation_freezes(tmp_path: Path) -> None:
    text = NET.replace("self.conv1(x) + self.conv2(x)", "torch.cat([x, self.conv1(x)], 1)")
    text = text.replace("        self.conv2 = nn.Conv2d(channels, channels, 1)\n", "")
    (tmp_path / "cat_net.py").write_text(text.replace("Conv2d(8, 4", "Conv2d(16, 4"))
    network = class_from_file(tmp_path / "cat_net.py", "Net")
    odd = block_decorator("odd", BranchCalculator([], [[], ["conv1"]], "cat"))
    odd(lType="odd_block", convs=["conv1"])(sys.modules[network.__module__].Odd)
    graph = declared_graph(network(), (X,))
    assert "odd: concatenates its input" in graph.units().reasons.values()


def test_a_sequential_is_written_with_all_that_is_in_it() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.ReLU(), nn.Tanh()))
    assert code_of(to_code(write_sequential(layers), Imports())) == (
        "nn.Sequential(nn.Conv2d(3, 4, kernel_size = 1), nn.Sequential(nn.ReLU(), nn.Tanh()),)"
    )
