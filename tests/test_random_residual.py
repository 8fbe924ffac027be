"""Small residual networks, drawn as source text: the generated network equals the masked original.

The text is what a person would write: decorated blocks with names of their own, stages, strides,
projections where the shape changes, norms or none, biases or none, pre-activation or not.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from helpers import with_telling_state
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from user_files import difference, user_class, wide_image

from pruners import PrunerError, PruningResult, prune

NAMES = ("conv", "c", "weights", "lin_", "Konv", "branch2a", "self_", "in_channels")
_numbers = itertools.count()


@dataclass(frozen=True)
class Drawn:
    """A residual network, as text, and the percentage that is to go."""

    text: str
    pct: float
    method: str
    target: str


@st.composite
def networks(draw: st.DrawFn) -> Drawn:
    names = draw(st.permutations(NAMES))
    depth = draw(st.integers(2, 3))
    convs, shortcut = names[:depth], names[-1]
    norm, bias, first = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    decorator = draw(st.sampled_from(["basic_block", "bottleneck"]))
    groups = draw(st.sampled_from([1, 1, 2]))
    widths = draw(st.lists(st.integers(2, 6), min_size=1, max_size=3))
    blocks = draw(st.integers(1, 2))
    empty = draw(st.sampled_from(["None", "nn.Sequential()"]))
    hidden = draw(st.sampled_from(["outputs", "outputs + 2", "4"])) if groups == 1 else "4"

    init, steps = [], []
    into = "inputs"
    for i, conv in enumerate(convs):
        out = "outputs" if i == depth - 1 else hidden
        options = f", bias={bias}" + (", stride=stride" if i == 0 else "")
        # Groups where the widths of both sides are known to be even.
        options += f", groups={groups}" if into == out == "4" else ""
        layer = f"self.{conv} = nn.Conv2d({into}, {out}, 3, padding=1{options})"
        wide = into if first else out
        bn = f"self.n{i} = nn.BatchNorm2d({wide})" if norm else f"self.n{i} = nn.Identity()"
        init += [bn, layer] if first else [layer, bn]
        if first:
            steps += [f"out = F.relu(self.n{i}(out))", f"out = self.{conv}(out)"]
        else:
            last = i == depth - 1
            call = f"self.n{i}(self.{conv}(out))"
            steps.append(f"out = {call if last else f'F.relu({call})'}")
        into = out
    adds = f"self.{shortcut}"
    text = [
        f"@{decorator}(lType='random_{decorator}', convs={list(convs)},",
        f"    downsampling=[{shortcut!r}])",
        "class Unit(nn.Module):",
        "    def __init__(self, inputs, outputs, stride):",
        "        super().__init__()",
        *(f"        {line}" for line in init),
        f"        {adds} = {empty}",
        "        if stride > 1 or inputs != outputs:",
        f"            {adds} = nn.Sequential(",
        f"                nn.Conv2d(inputs, outputs, 1, stride=stride, bias={bias}),",
        f"                {'nn.BatchNorm2d(outputs)' if norm else 'nn.Identity()'},",
        "            )",
        "",
        "    def forward(self, x):",
        "        out = x",
        *(f"        {line}" for line in steps),
        f"        side = {adds}(x) if {adds} is not None else x",
        "        return out + side" if first else "        return F.relu(out + side)",
        "",
        "",
        "class Net(nn.Module):",
        "    def __init__(self, num_classes=3):",
        "        super().__init__()",
        f"        self.stem = nn.Conv2d(2, {widths[0]}, 3, padding=1)",
    ]
    layers, before = [], widths[0]
    for width in widths:
        for _ in range(blocks):
            stride = draw(st.sampled_from([1, 1, 2]))
            layers.append(f"Unit({before}, {width}, {stride})")
            before = width
    text += [
        f"        self.units = nn.Sequential({', '.join(layers)})",
        f"        self.head = nn.Linear({before}, num_classes)",
        "",
        "    def forward(self, x):",
        "        return self.head(self.units(self.stem(x)).mean((2, 3)))",
    ]
    return Drawn(
        "\n".join(text) + "\n",
        draw(st.floats(0, 80)),
        draw(st.sampled_from(["Global", "Local"])),
        draw(st.sampled_from(["params", "macs", "channels"])),
    )


def pruned(model: torch.nn.Module, drawn: Drawn) -> PruningResult:
    """Pruned as drawn, or as far as it goes."""
    x = wide_image(2, 2, 6, 6)
    options = {"method": drawn.method, "target": drawn.target, "min_filters": 1}
    try:
        return prune(model, x, drawn.pct, **options)  # type: ignore[arg-type]
    except PrunerError as error:
        most = re.search(r"at most ([\d.]+) percent", str(error))
        if most is None:
            raise
        return prune(model, x, float(most[1]), **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("random")


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(drawn=networks())
def test_the_generated_network_equals_the_masked_original(folder: Path, drawn: Drawn) -> None:
    torch.manual_seed(0)
    cls = user_class(folder, f"random_{next(_numbers)}", drawn.text)
    model = with_telling_state(cls()).double()
    result = pruned(model, drawn)
    assert difference(result) < 1e-12
    again = pruned(model, drawn)
    assert again.source == result.source
