"""What a generated network starts from without its weights: as the original does, or it says so."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from helpers import with_telling_state
from user_files import user_class, wide_image

from pruners import PruningResult, prune

_numbers = itertools.count()

NET = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3)
        {make}
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        return self.fc({run}.mean((2, 3)))
"""

BLOCK = """
class Block(nn.Module):
    def __init__(self, c{arguments}):
        super().__init__()
{init}

    def forward(self, x):
        return x * self.p[:, None, None]


"""


def pruned(folder: Path, text: str) -> PruningResult:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = user_class(folder, f"starts_{next(_numbers)}", text)()
    return prune(with_telling_state(network.double()), wide_image(2, 3, 8, 8), 50)


def block(
    folder: Path, init: str, arguments: str = "", make: str = "self.b = Block(64)"
) -> PruningResult:
    indented = "\n".join(f"        {line}" for line in init.strip("\n").splitlines())
    text = BLOCK.format(arguments=arguments, init=indented)
    run = "self.b(self.stem(x))"
    return pruned(folder, text + NET.format(make=make, run=run))


def says_so(result: PruningResult) -> bool:
    return any("start values are not known" in line for line in result.writer.warnings)


def same(result: PruningResult, name: str = "b.p") -> bool:
    """Whether both start from one value, or from one distribution as far as samples tell."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        slim, original = type(result.built("cpu")), type(result.pruning.original)
        ours, theirs = (
            torch.cat([cls().state_dict()[name].double() for _ in range(4)])
            for cls in (slim, original)
        )
    if theirs.unique().numel() == 1:
        return torch.equal(ours.unique(), theirs.unique())
    spread = float(theirs.std())
    return (
        abs(float(ours.mean() - theirs.mean())) < 0.4 * spread
        and abs(float(ours.std()) - spread) < 0.4 * spread
    )


KNOWN = {
    "ones": ("self.p = nn.Parameter(torch.ones(c))", "", "self.b = Block(64)"),
    "product": ("self.p = nn.Parameter(0.3 * torch.ones(c))", "", "self.b = Block(64)"),
    "argument": (
        "self.p = nn.Parameter(torch.full((c,), start))",
        ", start=1.0",
        "self.b = Block(64, 0.25)",
    ),
    "by name": (
        "self.p = nn.Parameter(start * torch.ones(c))",
        ", start=1.0",
        "self.b = Block(64, start=0.25)",
    ),
    "default": (
        "self.p = nn.Parameter(start * torch.ones(c))",
        ", start=0.75",
        "self.b = Block(64)",
    ),
    "attribute": (
        "self.start = start\nself.p = nn.Parameter(self.start * torch.ones(c))",
        ", start=1.0",
        "self.b = Block(64, 0.5)",
    ),
    "random": ("self.p = nn.Parameter(torch.randn(c) * 0.02)", "", "self.b = Block(64)"),
    "registered": (
        "self.register_parameter('p', nn.Parameter(torch.rand(c)))",
        "",
        "self.b = Block(64)",
    ),
    "initialised": (
        "self.p = nn.Parameter(torch.Tensor(c))\nnn.init.uniform_(self.p, 2, 3)",
        "",
        "self.b = Block(64)",
    ),
    "filled": (
        "self.p = nn.Parameter(torch.empty(c))\nself.p.data.fill_(3)",
        "",
        "self.b = Block(64)",
    ),
    "filled quietly": (
        "self.p = nn.Parameter(torch.empty(c))\nwith torch.no_grad():\n    self.p.normal_(1, 0.1)",
        "",
        "self.b = Block(64)",
    ),
    "device": (
        "self.p = nn.Parameter(torch.ones(c, device=device, dtype=dtype))",
        ", device=None, dtype=None",
        "self.b = Block(64)",
    ),
    "conditional": (
        "if scaled:\n    self.p = nn.Parameter(0.1 * torch.ones(c))\nelse:\n    self.p = None",
        ", scaled=True",
        "self.b = Block(64)",
    ),
    "in a loop": (
        "self.p = nn.Parameter(start * torch.ones(c))",
        ", start=0.1",
        "self.b = nn.Sequential(*[Block(64) for _ in range(1)])",
    ),
    "in a loop, given": (
        "self.p = nn.Parameter(start * torch.ones(c))",
        ", start=0.1",
        "self.b = nn.Sequential(*[Block(64, start=0.7) for _ in range(1)])",
    ),
}


@pytest.mark.parametrize("case", KNOWN)
def test_the_start_is_that_of_the_original(tmp_path: Path, case: str) -> None:
    init, arguments, make = KNOWN[case]
    result = block(tmp_path, init, arguments, make)
    name = next(n for n in result.state_dict if n.startswith("b.") and n.endswith("p"))
    assert len(result.state_dict[name]) < 64
    assert not says_so(result)
    assert same(result, name)


# Where what ran cannot be told, nothing is guessed.
UNTOLD = {
    "argument changed": (
        "start = start * 2\nself.p = nn.Parameter(start * torch.ones(c))",
        ", start=0.1",
        "self.b = Block(64)",
    ),
    "argument changed behind the attribute": (
        "self.start = start\nstart = start * 2\nself.p = nn.Parameter(start * torch.ones(c))",
        ", start=0.1",
        "self.b = Block(64)",
    ),
    "attribute changed": (
        "self.start = start\nself.start = 5\nself.p = nn.Parameter(start * torch.ones(c))",
        ", start=0.1",
        "self.b = Block(64)",
    ),
    "two branches": (
        "if start == 'zeros':\n    self.p = nn.Parameter(torch.zeros(c))\n"
        "else:\n    self.p = nn.Parameter(torch.ones(c))",
        ", start='ones'",
        "self.b = Block(64)",
    ),
    "a branch that does more": (
        "if start:\n    self.p = nn.Parameter(torch.zeros(c))\n    nn.init.normal_(self.p)",
        ", start=True",
        "self.b = Block(64)",
    ),
    "given in a loop": (
        "self.p = nn.Parameter(start * torch.ones(c))",
        ", start=0.1",
        "self.b = nn.Sequential(*[Block(64, 0.1 + i) for i in range(1)])",
    ),
    "given by another name": (
        "self.p = nn.Parameter(start * torch.ones(c))",
        ", start=0.1",
        "kind = Block\n        self.b = kind(64, 0.7)",
    ),
    "given as keywords": (
        "self.p = nn.Parameter(start * torch.ones(c))",
        ", start=0.1",
        "self.b = nn.Sequential(*[Block(64, **{'start': 0.7}) for i in range(1)])",
    ),
    "a copy of another": (
        "first = nn.Linear(4, c)\nself.p = nn.Parameter(first.bias.clone())",
        "",
        "self.b = Block(64)",
    ),
    "by a name that is put together": (
        "for name in 'pq':\n    setattr(self, f'{name}', nn.Parameter(torch.ones(c)))",
        "",
        "self.b = Block(64)",
    ),
}


@pytest.mark.parametrize("case", UNTOLD)
def test_what_is_not_told_is_warned_of_or_right(tmp_path: Path, case: str) -> None:
    init, arguments, make = UNTOLD[case]
    result = block(tmp_path, init, arguments, make)
    name = next(n for n in result.state_dict if n.startswith("b.") and n.endswith("p"))
    assert says_so(result) or same(result, name), result.writer.code


def test_a_tensor_changed_before_it_is_kept(tmp_path: Path) -> None:
    init = (
        "p = torch.zeros(c)\nwith torch.no_grad():\n    p.fill_(2)\nif True:\n    p.add_(1)\n"
        "self.p = nn.Parameter(p)"
    )
    result = block(tmp_path, init)
    assert says_so(result) or same(result)


def test_a_base_is_given_what_the_derived_class_hands_on(tmp_path: Path) -> None:
    base = BLOCK.format(
        arguments=", start", init="        self.p = nn.Parameter(start * torch.ones(c))"
    )
    derived = """
class Derived(Block):
    def __init__(self, c, start=0.1):
        super().__init__(c, start{change})


"""
    for change in ("", " * 2", " + 1"):
        text = base + derived.format(change=change)
        text += NET.format(make="self.b = Derived(64, 0.5)", run="self.b(self.stem(x))")
        result = pruned(tmp_path, text)
        assert says_so(result) == bool(change)
        assert change or same(result)


PARAMETERS = {
    "list": "nn.ParameterList([nn.Parameter(torch.full((64, 1, 1), i + 1.5)) for i in range(2)])",
    "items": "nn.ParameterList([torch.ones(64, 1, 1), nn.Parameter(torch.full((64, 1, 1), 2.0))])",
    "appended": "nn.ParameterList()\n        for _ in range(2):\n"
    "            self.ws.append(nn.Parameter(torch.rand(64, 1, 1)))",
    "dict": "nn.ParameterDict({'0': torch.ones(64, 1, 1), '1': torch.zeros(64, 1, 1) + 3})",
}


@pytest.mark.parametrize("case", PARAMETERS)
def test_lists_and_dicts_of_parameters_are_pruned_and_start_right(
    tmp_path: Path, case: str
) -> None:
    key = "'{}'" if case == "dict" else "{}"
    run = f"(self.stem(x) * self.ws[{key.format(0)}] + self.ws[{key.format(1)}])"
    result = pruned(tmp_path, NET.format(make=f"self.ws = {PARAMETERS[case]}", run=run))
    assert list(result.state_dict["ws.0"].shape[1:]) == [1, 1]
    assert len(result.state_dict["ws.0"]) == len(result.state_dict["ws.1"]) < 64
    assert says_so(result) or all(same(result, name) for name in ("ws.0", "ws.1"))
    assert says_so(result) == (case == "list")  # i is not known
    expected = "nn.ParameterDict(" if case == "dict" else "nn.ParameterList("
    assert expected in result.source
    assert result.model.state_dict().keys() == result.state_dict.keys()
