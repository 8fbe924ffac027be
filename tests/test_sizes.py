"""Sizes that are written as numbers: whatever a forward says, the slim network computes the same,
and what cannot be rewritten keeps its channels, with file, line and expression.
"""

from __future__ import annotations

import itertools
import re
import textwrap
from pathlib import Path

import pytest
import torch
from helpers import with_telling_state
from oracle import difference
from user_files import user_class, wide_image

from pruners import PruningResult, prune
from pruners.errors import WriterError
from pruners.rehearsal import edited_code
from pruners.replay import restricted
from pruners.sizes.rewrites import NewAttribute, NewValue, Rewrites, edited
from pruners.verify import expected_outputs, require, verify

_numbers = itertools.count()

HEAD = """\
import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

WIDTH = 16
SHAPE = (16, 16, 16)


def shaped(x, width):
    return x.flatten(1).reshape(-1, width, 16, 16)


def scaled(x, width):
    return x.flatten(1).reshape(-1, width, 16, 16) / width


def by_default(x, width=16):
    return x.flatten(1).reshape(-1, width, 16, 16)


@dataclass(frozen=True)
class Inner:
    width: int = 16
    height: int = 16


@dataclass
class Outer:
    inner: Inner = field(default_factory=Inner)


class Named(NamedTuple):
    width: int = 16


"""

NET = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3, padding=1)
        self.b = nn.Conv2d(16, 24, 3, padding=1)
        self.fc = nn.Linear(24, 10)
{init}

    def forward(self, x):
        x = F.relu(self.a(x))
{forward}
        x = self.b(x)
        return self.fc(x.mean((2, 3)))
"""


def net(forward: str, init: str = "", classes: str = "") -> str:
    return classes + NET.format(
        init=textwrap.indent(textwrap.dedent(init).strip(), " " * 8),
        forward=textwrap.indent(textwrap.dedent(forward).strip(), " " * 8),
    )


def pruned(folder: Path, text: str) -> PruningResult:
    """Pruned by half, and equal to the oracle; also for another batch than the example's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = user_class(folder, f"sizes_{next(_numbers)}", text, head=HEAD)()
    model = with_telling_state(network.double())
    x, more = wide_image(2, 3, 16, 16), wide_image(3, 3, 16, 16)
    result = prune(model, x, 50)
    with torch.no_grad():
        if result.counted:
            theirs = restricted(model, result.trace, result.kept)
            assert difference(result.model.eval()(x), theirs) < 1e-12
        else:
            for inputs in (x, more):
                theirs = expected_outputs(model, result.kept, (inputs,))
                assert difference(result.model.eval()(inputs), theirs) < 1e-12
    return result


def width(result: PruningResult, layer: str = "a") -> int:
    return len(result.state_dict[f"{layer}.weight"])


REWRITTEN = {
    # operators
    "view": "x = x.view(x.shape[0], 16, 16, 16)",
    "view of a tuple": "x = x.view((x.size(0), 16, 16, 16))",
    "view of a list": "x = x.reshape([x.size(0), 16, -1, 16])",
    "view by keyword": "x = x.flatten(1).view(size=(x.size(0), 16, 16, 16))",
    "torch.reshape": "x = torch.reshape(x, (-1, 16, 16, 16))",
    "torch.reshape by keyword": "x = torch.reshape(input=x, shape=(-1, 16, 16, 16))",
    "a star": "x = x.flatten(2).reshape(x.shape[0], 16, *(16, 16))",
    "two stars": "s = (16, 16)\nx = x.flatten(2).reshape(*x.shape[:1], 16, *s)",
    "a sum of tuples": "x = x.flatten(1).view((x.size(0),) + (16, 16, 16))",
    "a local shape": "s = (-1, 16, *x.shape[2:])\nx = x.flatten(1).reshape(*s)",
    "expand": "x = x * x.mean(1, keepdim=True).expand(-1, 16, -1, -1)",
    "unflatten": "x = x.flatten(1).unflatten(1, (16, -1, 16))",
    "torch.unflatten": "x = torch.unflatten(x.flatten(1), 1, (16, 16, 16))",
    "zeros": "x = x + torch.zeros(x.shape[0], 16, 16, 16, dtype=x.dtype)",
    "ones": "x = x + torch.ones(size=(x.shape[0], 16, 1, 1), dtype=x.dtype)",
    "full": "x = x + torch.full(size=(16, 16, 16), fill_value=0.5, dtype=x.dtype)",
    "new_full": "x = x + x.new_full((16, 1, 1), 0.5)",
    "empty": "y = torch.empty(x.shape[0], 16, 16, 16, dtype=x.dtype)\nx = y.copy_(x)",
    "split": "a, b = x.split(8, 1)\nx = torch.cat([b, a], 1)",
    "split by keyword": "a, b = x.split(split_size=8, dim=1)\nx = torch.cat([b, a], 1)",
    "split in a list": "a, b = x.split([4, 12], 1)\nx = torch.cat([b, a.relu()], 1)",
    "split in a local": "s = (4, 12)\na, b = torch.split(x, s, 1)\nx = torch.cat([b, a], 1)",
    "narrow": "x = torch.cat([x.narrow(1, 4, 12), torch.narrow(x, 1, start=0, length=4)], 1)",
    "select": "x = x + x.select(1, 5).unsqueeze(1)",
    "an index": "x = x + x[:, 5].unsqueeze(1)",
    "a slice": "x = torch.cat([x[:, 5:].relu(), x[:, :5]], 1)",
    "a slice from the end": "x = torch.cat([x[:, -5:].relu(), x[:, :-5]], 1)",
    "a slice behind an ellipsis": "x = x.permute(0, 2, 3, 1)\n"
    "x = torch.cat([x[..., :4], x[..., 4:].relu()], -1).permute(0, 3, 1, 2)",
    "a slice behind a new axis": "x = torch.cat([x[None, :, 4:][0].relu(), x[None, :, :4][0]], 1)",
    "pad": "x = F.pad(x[:, :12], (0, 0, 0, 0, 2, 2))",
    "pad that cuts": "x = torch.cat([F.pad(x, (0, 0, 0, 0, -2, -2)), x[:, :4]], 1)",
    "layer_norm": "x = F.layer_norm(x.permute(0, 2, 3, 1), (16,)).permute(0, 3, 1, 2)",
    "group_norm": "x = F.group_norm(x, 16)",
    "attention": "y = x.flatten(2).transpose(1, 2)\n"
    "x = F.scaled_dot_product_attention(y, y, y).mT.reshape(-1, 16, 16, 16)",
    # numbers
    "a product": "x = x.reshape(-1, 16 * 16 * 16).view(-1, 16, 16, 16)",
    "a power": "x = x.reshape(-1, 16**3).view(-1, 4**2, 16, 16)",
    "a difference": "x = x.flatten(1).reshape(-1, 20 - 4, 16, 16)",
    "a quotient": "n = 32\nx = x.flatten(1).reshape(-1, n // 2, 16, 16)",
    "a constant of the module": "x = x.flatten(1).reshape(-1, WIDTH, WIDTH, 16)",
    "a tuple of the module": "x = x.flatten(1).reshape(-1, *SHAPE)",
    "a local": "c = 16\nx = x.flatten(1).reshape(-1, c, 16, 16)",
    "a local with a type": "c: int = 16\nx = x.flatten(1).reshape(-1, c, 16, 16)",
    "locals at once": "c, h = 16, 16\nx = x.flatten(1).reshape(-1, c, h, 16)",
    "a local of a local": "c = 16\nd = c * 16\nx = x.reshape(-1, d, 16).reshape(-1, c, 16, 16)",
    "a local that scales": "c = 16\nx = x.flatten(1).reshape(-1, c, 16, 16) / c",
    "an argument": "x = shaped(x, 16)",
    "an argument by name": "x = shaped(x, width=16)",
    "an argument of two calls": "x = shaped(torch.cat([shaped(x, 16), x[:, :4]], 1), 20)[:, 4:]",
    "a lambda": "f = lambda y: y.reshape(-1, 16, 16, 16)\nx = f(x.flatten(1))",
    "a comprehension": "x = sum([y.reshape(-1, 16, 16, 16) for y in [x.flatten(1)]])",
    "a layer's width": "x = x.flatten(1).reshape(-1, self.a.out_channels, 16, 16)",
    "lines": "x = x.view(\n    -1, (\n        16), 16, 16)",
}


@pytest.mark.parametrize("case", REWRITTEN)
def test_a_size_follows(tmp_path: Path, case: str) -> None:
    assert width(pruned(tmp_path, net(REWRITTEN[case]))) < 16


ATTRIBUTES = {
    "a number": ("self.c = 16", "self.c"),
    "an item": ("self.c = [16, 3]", "self.c[0]"),
    "an item of a dict": ("self.c = {'w': 16}", "self.c['w']"),
    "an item of a list in a dict": ("self.c = {'w': [16, 2]}", "self.c['w'][0]"),
    "a field": ("self.c = Outer()", "self.c.inner.width"),
    "a field of a named tuple": ("self.c = Named()", "self.c.width"),
    "half of one": ("self.c = 32", "self.c // 2"),
}


@pytest.mark.parametrize("case", ATTRIBUTES)
def test_an_attribute_follows(tmp_path: Path, case: str) -> None:
    init, said = ATTRIBUTES[case]
    result = pruned(tmp_path, net(f"x = x.flatten(1).reshape(-1, {said}, 16, 16)", init))
    assert width(result) < 16


def test_nn_unflatten_follows(tmp_path: Path) -> None:
    for shape in ("(16, 16, 16)", "[16, 16, 16]", "torch.Size([16, 16, 16])", "(-1, 16, 16)"):
        text = net("x = self.u(x.flatten(1))", f"self.u = nn.Unflatten(1, {shape})")
        assert width(pruned(tmp_path, text)) < 16


REFUSED = {
    "arithmetic": (
        "x = x.flatten(1).reshape(-1, math.prod((4, 4)), 16, 16)",
        r"view|reshape.*`math.prod\(\(4, 4\)\)` holds no number that could say it",
    ),
    "two assignments": (
        "c = 8\nc = 16\nx = x.flatten(1).reshape(-1, c, 16, 16)",
        r"`c` rests on `c`, which is not assigned once, as `name = value`",
    ),
    "a branch": (
        "if len(x) > 9:\n    c = 8 * 2\nelse:\n    c = 16\nx = x.flatten(1).reshape(-1, c, 16, 16)",
        r"`c` rests on `c`, which is not assigned once",
    ),
    "one that grows": (
        "c = 8\nc *= 2\nx = x.flatten(1).reshape(-1, c, 16, 16)",
        r"`c` rests on `c`, which is not assigned once",
    ),
    "a default": (
        "x = by_default(x)",
        r"`width` rests on the argument `width`, and no caller says a number for it",
    ),
    "an argument with two meanings": (
        "x = scaled(x, 16)",
        r"`width` rests on an argument that says more than this size",
    ),
    "a loop": (
        "x = torch.cat([x[:, i : i + 4] for i in range(0, 16, 4)], 1)",
        r"`i` runs twice and would have to be \d+, too",
    ),
    "steps in a new call": (
        "x = torch.broadcast_to(x.mean(1, keepdim=True), (len(x), 16, 16, 16)) * x",
        r"`torch.broadcast_to\(.*\)` is no call whose sizes can be rewritten",
    ),
    "half of a width that is asked for": (
        "s = x.shape[1]\na, b = x.split([s // 4, s - s // 4], 1)\nx = torch.cat([b, a.relu()], 1)",
        r"`s // 4` holds no number that could say it",
    ),
    "an assertion": (
        "assert x.shape[1] == 16",
        r"the slim network breaks: AssertionError in sizes_\d+.py, line \d+",
    ),
    "a question of the width": ("if x.shape[1] == 16:\n    x = x * 2", r"runs in its place"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_rewritten_stays(tmp_path: Path, case: str) -> None:
    forward, why = REFUSED[case]
    result = pruned(tmp_path, net(forward))
    assert width(result) == 16
    assert width(result, "b") < 24
    said = result.report.kept_because["a"]
    assert re.search(why, said), said
    assert "runs in" in said or re.search(r"sizes_\d+\.py, line \d+", said)


# --- what the examples do not show ----------------------------------------------------------------


def test_a_path_that_does_not_run_keeps_its_numbers(tmp_path: Path) -> None:
    forward = """
    c = 16
    x = x.flatten(1).reshape(-1, c, 16, 16)
    if len(x) > 99:
        x = x[:, :, :c] + self.c
    x = x.flatten(1).reshape(-1, self.c, 16, 16)
    """
    result = pruned(tmp_path, net(forward, "self.c = 16"))
    assert width(result) < 16
    assert "c = 16" in result.source
    assert "self.c = 16" in result.source


def test_an_image_as_high_as_the_layer_is_wide_stays_high(tmp_path: Path) -> None:
    result = pruned(tmp_path, net("x = x.reshape(-1, 16 * 16 * 16).view(-1, 16, 16, 16)"))
    c = width(result)
    assert f"{c} * 16 * 16" in result.source
    assert f"view(-1, {c}, 16, 16)" in result.source


def test_one_number_where_two_are_needed(tmp_path: Path) -> None:
    forward = """
    c = 16
    x = x.flatten(1).reshape(-1, c, c, 16)
    """
    result = pruned(tmp_path, net(forward))
    assert f"reshape(-1, {width(result)}, c, 16)" in result.source


READER = """
class Reader(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv = nn.Conv2d(16, c, 1)
        self.back = nn.Conv2d(c, 16, 1)
        self.c = c

    def wide(self, x):
        return x.flatten(1).reshape(-1, self.c, 16, 16)

    def forward(self, x):
        return self.back(self.wide(self.conv(x)))


class Derived(Reader):
    def forward(self, x):
        return super().forward(x) / self.c


"""


def test_a_number_that_a_derived_class_computes_with_stays(tmp_path: Path) -> None:
    init = "self.r, self.d = Reader(20), Derived(28)\nself.d2 = Derived(12)"
    result = pruned(tmp_path, net("x = self.d2(self.d(self.r(x)))", init, READER))
    for block, full in (("r", 20), ("d", 28), ("d2", 12)):
        assert width(result, f"{block}.conv") < full
    assert "self.c = 20" not in result.source  # a size alone where nothing else reads it
    assert {28, 12} == {m.c for m in result.model.modules() if type(m).__name__ == "Derived"}


def test_instances_get_numbers_of_their_own(tmp_path: Path) -> None:
    classes = READER.replace("self.c, 16, 16", "24, 16, 16")
    init = "self.r = nn.Sequential(*[Reader(24) for _ in range(3)])"
    result = pruned(tmp_path, net("x = self.r(x)", init, classes))
    widths = [width(result, f"r.{i}.conv") for i in range(3)]
    assert len(set(widths)) > 1
    names = [n for n in vars(result.model.r[0]) if n.endswith("features")]
    assert [getattr(block, names[0]) for block in result.model.r] == widths


def test_an_instance_that_does_not_run_keeps_its_number(tmp_path: Path) -> None:
    classes = """
class Shape(nn.Module):
    def forward(self, x):
        return x.flatten(1).reshape(-1, 16, 16, 16)


"""
    init = "self.p = Shape()\nself.q = Shape()"
    forward = "x = self.p(x) if len(x) < 99 else self.q(x)"
    result = pruned(tmp_path, net(forward, init, classes))
    assert f"self.p = Shape({width(result)})" in result.source
    assert "self.q = Shape(16)" in result.source


def test_a_module_that_runs_twice_needs_one_number(tmp_path: Path) -> None:
    classes = """
class Shape(nn.Module):
    def forward(self, x):
        return x.flatten(2).reshape(-1, 16, 16, 16)


"""
    init = "self.m = nn.Conv2d(16, 16, 1)\nself.p = Shape()"
    result = pruned(tmp_path, net("x = self.p(self.m(self.p(x)))", init, classes))
    said = result.report.kept_because["m"]
    assert re.search(r"says \[1, 16, .*`16` runs twice and would have to be \d+, too", said)
    assert width(result, "b") < 24


# --- parts ---------------------------------------------------------------------------------------


def test_edits_find_tuples_however_they_are_written() -> None:
    text = "s = (4, 12)\nt = (1, 2), (3)\n"
    assert edited(text, {("tuple", 1, 5, 1, 10): NewValue((5, 6))}).code.startswith("s = (5, 6)\n")
    assert edited(text, {("", 1, 8, 1, 10): NewAttribute("c")}).code.startswith("s = (4, self.c)")
    with pytest.raises(WriterError, match="no expression is found at line 9"):
        edited(text, {("", 9, 0, 9, 1): NewValue(1)})


def test_an_attribute_that_cannot_be_changed_is_said() -> None:
    layer = torch.nn.Linear(2, 2)
    layer.size = 3
    with pytest.raises(WriterError, match=r"Linear\.size\.c: cannot be made 2 \("):
        Rewrites(attributes={"": {("size", "c"): 2}}).apply(layer)


def test_edited_code_runs_for_a_while() -> None:
    name, code = by_hand.__module__, by_hand.__code__
    text = Path(__file__).read_text(encoding="utf-8")
    assert by_hand() == 41
    with edited_code({name: text.replace("return 4" + "1", "return 42")}, [(name, code)]):
        assert by_hand() == 42
    assert by_hand() == 41
    with (
        pytest.raises(WriterError, match="has other functions"),
        edited_code({name: ""}, [(name, code)]),
    ):
        pass
    with (
        pytest.raises(WriterError, match="with its sizes rewritten, invalid syntax"),
        edited_code({name: "1 +"}, [(name, code)]),
    ):
        pass


def by_hand() -> int:
    return 41


def test_all_of_it_in_a_fresh_process(tmp_path: Path) -> None:
    cases = [REWRITTEN[name] for name in ("a local shape", "pad", "attention", "a lambda")]
    results = [pruned(tmp_path, net(forward)) for forward in cases]
    outcomes = verify([result.case() for result in results])
    require(outcomes)
    assert max(outcome.error for outcome in outcomes) < 1e-12


SHARED = """\
import torch
from torch import nn

SHIFT = 2


class Part(nn.Module):
    def __init__(self, inputs, w):
        super().__init__()
        self.w = w
        self.conv = nn.Conv2d(inputs, w + 4, 1)

    def forward(self, x):
        x = self.conv(x)
        return torch.cat(
            [x.narrow(1, SHIFT + 2, self.w), x[:, -self.w :], x[:, SHIFT : SHIFT + 2]], 1
        )


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 17, 3, padding=1)
        self.parts = nn.Sequential(Part(17, 5), Part(12, 3), Part(8, 3))
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.parts(self.stem(x).relu()).mean((2, 3)))
"""


@pytest.mark.parametrize("ignore", [(), ("parts.0.*",), ("parts.2.*",)])
def test_a_module_that_loses_nothing_keeps_the_number_that_others_lose(
    tmp_path: Path, ignore: tuple[str, ...]
) -> None:
    """Found by `make test-fuzz`: SHIFT became 0 for all, as one of three instances needed it."""
    model = with_telling_state(user_class(tmp_path, f"n{next(_numbers)}", SHARED, head="")())
    x = wide_image(2, 3, 8, 8)
    model = model.double()
    for seed in range(8):
        result = prune(
            model, x, 30, measure="ChannelRandom", seed=seed, min_filters=1, ignore=ignore
        )
        assert not result.counted
        with torch.no_grad():
            got = result.model.eval()(x)
        assert difference(got, expected_outputs(model, result.kept, (x,))) < 1e-12
