"""Decorators and the trace give the same units; decorators that do not fit are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import image, with_telling_state
from torch import Tensor, nn

import models  # noqa: F401  registers the zoo
from pruners import MODELS, PrunerError, inception, prune, se_residual, skip
from pruners.analysis import check_decorators, compare_sources, differences, side_by_side
from pruners.dependencies import find_blocks
from pruners.errors import UnsupportedNetworkError
from pruners.verify import require, verify

# The deep networks only repeat what the others have; `make test-zoo` runs them too.
DEEP = {"ResNet110", "ResNet164", "ResNet101"}
NEW = ("VGG11", "MNASNet", "GoogLeNet", "SEResNet20", "DenseNet40", "ShuffleNetV2")


def decorated(name: str) -> bool:
    with torch.device("meta"):
        model = MODELS[name]["wrapper"]()
    return any(block.spec.decorator for block in find_blocks(model).values())


BRANCHED = ("DynamicNeuralNetwork",)
"""No chain of blocks: the data choose between two paths, which only the trace can follow."""


pytestmark = pytest.mark.usefixtures("own_block_types")


# --- the zoo -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BRANCHED)
def test_networks_that_choose_their_path_are_no_chain(name: str) -> None:
    with pytest.raises(UnsupportedNetworkError, match=r"layers must run one after the other"):
        compare_sources(MODELS[name]["wrapper"](), (image(2, 3, 32, 32),))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.zoo if name in DEEP else ())
        for name in MODELS
        if decorated(name) and name not in BRANCHED
    ],
)
def test_decorators_and_trace_give_the_same_units(name: str) -> None:
    declared, traced, differ = compare_sources(MODELS[name]["wrapper"](), (image(2, 3, 32, 32),))
    assert differ == []
    ours, theirs = declared.units(), traced.units()
    assert side_by_side(ours, theirs) == differences(ours, theirs) == []
    removable = [int((~units.frozen).sum()) for units in (ours, theirs)]
    assert removable[0] == removable[1] > 0


def test_the_new_families_at_half_equal_the_masked_original() -> None:
    """One fresh process verifies them all."""
    cases = []
    for name in NEW:
        torch.manual_seed(0)
        model = with_telling_state(MODELS[name]["wrapper"]())
        size = 32 if name == "VGG11" else 16
        result = prune(model, image(2, 3, size, size), 50, name=name)
        assert result.report.parameters.removed_pct >= 50
        assert not result.report.warnings
        assert "pruners" not in result.source
        cases.append(result.case())
    outcomes = verify(cases)
    require(outcomes)
    assert all(o.error <= 1e-5 and o.oracle == "masked" for o in outcomes)


# --- blocks of users ---------------------------------------------------------------------------


class Between(nn.Module):
    """A block between two convolutions."""

    def __init__(self, block: nn.Module, inputs: int, outputs: int) -> None:
        super().__init__()
        self.entry = nn.Conv2d(3, inputs, 1)
        self.block = block
        self.exit = nn.Conv2d(outputs, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.exit(self.block(self.entry(x)))


class Branches(nn.Module):
    """Two branches as wide, the second with a norm in front; a norm behind the concatenation."""

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.a = nn.Conv2d(6, 5, 1)
        self.b = nn.Sequential(nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1), nn.Conv2d(4, 5, 1))
        self.norm = nn.BatchNorm2d(10) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(torch.cat([self.a(x), self.b(x)], dim=1))


class Late(Branches):
    """The branch that runs first comes last."""

    def forward(self, x: Tensor) -> Tensor:
        first = self.a(x)
        return self.norm(torch.cat([self.b(x), first], dim=1))


class Gated(nn.Module):
    """A gate of Linears with a norm, in the middle of the main branch or in front of it."""

    def __init__(self, early: bool = False) -> None:
        super().__init__()
        self.early = early
        self.first = nn.Conv2d(6, 6, 3, padding=1)
        self.squeeze = nn.Linear(6, 3)
        self.inner = nn.BatchNorm1d(3)
        self.excite = nn.Linear(3, 6)
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.side = nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.first(x)
        means = (x if self.early else out).mean((2, 3))
        gate = torch.sigmoid(self.excite(F.relu(self.inner(self.squeeze(means)))))
        return self.second(F.relu(out * gate[:, :, None, None])) + self.side(x)


def differ(block: nn.Module, inputs: int = 6, outputs: int = 6) -> list[str]:
    model = with_telling_state(Between(block, inputs, outputs))
    return check_decorators(model, image(2, 3, 8, 8))[1]


X = image(2, 3, 8, 8)
AB = [["a"], ["b.1", "b.2"]]
GATE: dict[str, Any] = {
    "convs": ["first", "second"],
    "downsampling": ["side"],
    "gate": ["squeeze", "excite"],
}


def test_branches_of_users() -> None:
    assert differ(inception(lType="ab", branches=AB)(Branches)(), outputs=10) == []
    assert differ(inception(lType="ab", branches=AB)(Branches)(norm=False), outputs=10) == []
    assert differ(inception(lType="late", branches=AB[::-1])(Late)(), outputs=10) == []


def test_gates_of_users() -> None:
    cls = se_residual(lType="gated", **GATE)(Gated)
    assert differ(cls()) == []
    result = prune(with_telling_state(Between(cls(), 6, 6)), X, 40)
    kept = {name: result.kept[f"block.{name}.weight"] for name in ("first", "squeeze", "excite")}
    assert list(kept["first"][0]) == list(kept["squeeze"][1]) == list(kept["excite"][0])
    require(verify([result.case()]))


def test_branches_in_the_wrong_order() -> None:
    """As prune says it where the block's own norm shows it, and as a table where only what reads
    the block does."""
    message = (
        r"^block \(Late\): @inception says that channel 0 of block\.a\.weight\[0\] goes with "
        r"channel 0 of block\.norm\.weight\[0\], but running the block shows that it goes with "
        r"channel 5 of block\.norm\.weight\[0\], .*; correct the decorator, or leave it out$"
    )
    cls = inception(lType="wrong_late", branches=AB)(Late)
    with pytest.raises(PrunerError, match=message):
        prune(Between(cls(), 6, 10), X, 50)
    lines = differ(cls(norm=False), outputs=10)
    at = lines.index("channel 0 of block.a.weight[0]")
    assert lines[at + 1 : at + 3] == [
        "  decorators: goes with channel 0 of exit.weight[1]",
        "  trace:      goes with channel 5 of exit.weight[1]",
    ]


def test_a_gate_that_reads_something_else() -> None:
    message = (
        r"^block \(Gated\): @se_residual says that channel 0 of block\.first\.weight\[0\] goes "
        r"with channel 0 of block\.squeeze\.weight\[1\], but running the block shows that it goes "
        r"with channel 0 of block\.excite\.bias\[0\], "
    )
    cls = se_residual(lType="early", **GATE)(Gated)
    with pytest.raises(PrunerError, match=message):
        prune(Between(cls(early=True), 6, 6), X, 50)


@pytest.mark.parametrize(
    ("branches", "message"),
    [
        (
            [["a"], ["b.2", "b.1"]],
            r"^block \(Branches\): @inception names branches in the order b\.2, b\.1, but they run "
            r"in the order b\.1, b\.2$",
        ),
        (
            [["a"], ["b.1"]],
            r"@inception does not name the convolution 'b\.2'; name all of them in branches",
        ),
        ([["a"], ["b.0"]], r"@inception names 'b\.0' in branches, which is no convolution; its"),
        ([["a"], ["c"]], r"@inception names 'c' in branches, which the block lacks; its convol"),
    ],
)
def test_branches_that_name_wrong_layers(branches: list[list[str]], message: str) -> None:
    cls = inception(lType="wrong", branches=branches)(Branches)
    with pytest.raises(PrunerError, match=message):
        prune(Between(cls(), 6, 10), X, 50)


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        (
            ["excite", "squeeze"],
            r"^block \(Gated\): @se_residual names gate in the order excite, squeeze, but they run "
            r"in the order squeeze, excite$",
        ),
        (["squeeze"], r"@se_residual does not name the convolution 'excite'; name all of them in"),
        (["squeeze", "exite"], r"@se_residual names 'exite' in gate, which the block lacks; its"),
        (["squeeze", "inner"], r"@se_residual names 'inner' in gate, which is no convolution"),
    ],
)
def test_gates_that_name_wrong_layers(gate: list[str], message: str) -> None:
    cls = se_residual(lType="wrong", **{**GATE, "gate": gate})(Gated)
    with pytest.raises(PrunerError, match=message):
        prune(Between(cls(), 6, 6), X, 50)


@pytest.mark.parametrize(
    ("branches", "message"),
    [
        ("ab", r"^@inception\(branches='ab'\): expected a list of names for every branch, such as"),
        (["a", "b"], r"^@inception\(branches=\['a', 'b'\]\): expected a list of names for every"),
        ([["a"]], r"^@inception\(branches=\[\['a'\]\]\): expected at least two branches$"),
        ([[], []], r"^@inception\(branches=\[\]\): name at least one convolution of the block$"),
        ([["a"], ["a"]], r"^@inception\(branches=\['a', 'a'\]\): a name appears twice$"),
    ],
)
def test_branches_that_cannot_be(branches: Any, message: str) -> None:
    with pytest.raises(PrunerError, match=message):
        inception(lType="wrong", branches=branches)(Branches)


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ([], r"^@se_residual\(gate=\[\]\): name the layers of the gate; without one, use @basic_"),
        (["first"], r"^@se_residual: 'first' is named in convs and in gate$"),
    ],
)
def test_gates_that_cannot_be(gate: list[str], message: str) -> None:
    with pytest.raises(PrunerError, match=message):
        se_residual(lType="wrong", **{**GATE, "gate": gate})(Gated)


def test_a_block_without_its_gate() -> None:
    cls = se_residual(lType="bare", **GATE)(Gated)

    class Bare(cls):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__()
            self.squeeze = self.inner = self.excite = None

        def forward(self, x: Tensor) -> Tensor:
            return self.second(F.relu(self.first(x))) + self.side(x)

    assert differ(Bare()) == []


def test_what_skip_names_stays_for_both() -> None:
    """No run shows it, so that `--check-decorators` once called every skipped layer a mistake."""
    try:
        cls = inception(lType="skipped", branches=AB)(Branches)
        skipping = skip(convs=["entry"])(Between)(cls(), 6, 10)
        assert check_decorators(with_telling_state(skipping), image(2, 3, 8, 8)) == (1, [])
    finally:
        del Between.__pruner_skip__


def test_frozen_for_one_and_not_for_the_other() -> None:
    """Both answers are shown where one of them is that the channel stays."""
    cls = inception(lType="frozen", branches=AB)(Branches)
    model = Between(cls(), 6, 10)
    declared = compare_sources(model, (X,))[0].units()
    traced = compare_sources(skip(convs=["entry"])(Between)(cls(), 6, 10), (X,))[0].units()
    del Between.__pruner_skip__
    lines = side_by_side(declared, traced)
    assert "  trace:      it stays" in lines
    assert len(differences(declared, traced)) == sum(not line.startswith(" ") for line in lines)
