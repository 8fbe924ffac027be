"""Random networks for hypothesis, as source text and as modules.

A network is a stem, a few blocks and a head. Every block is a function from (its number, the
width that comes in, a width to use) to lines of `__init__`, lines of `forward` and the width that
goes out; activations are called `x`, 8x8 or smaller. Blocks are those that other tools are known
to break on, besides the ordinary ones.

    source = "class Net(nn.Module): ..."     # drawn by `sources()`
    model = build(source)                     # the module
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn

Block = Callable[[int, int, int], tuple[list[str], list[str], int]]

HEADER = """import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
"""


def plain(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    init = [f"self.c{i} = nn.Conv2d({c}, {w}, 3, padding=1)", f"self.n{i} = nn.BatchNorm2d({w})"]
    return init, [f"x = F.relu(self.n{i}(self.c{i}(x)))"], w


def residual(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    init = [
        f"self.a{i} = nn.Conv2d({c}, {w}, 3, padding=1, bias=False)",
        f"self.n{i} = nn.BatchNorm2d({w})",
        f"self.b{i} = nn.Conv2d({w}, {c}, 3, padding=1)",
    ]
    return init, [f"x = F.relu(x + self.b{i}(F.relu(self.n{i}(self.a{i}(x)))))"], c


def projected(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    init = [
        f"self.a{i} = nn.Conv2d({c}, {w}, 3, padding=1)",
        f"self.s{i} = nn.Sequential(nn.Conv2d({c}, {w}, 1), nn.BatchNorm2d({w}))",
    ]
    return init, [f"x = F.silu(self.a{i}(x)) + self.s{i}(x)"], w


def dense(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    init = [
        f"self.a{i} = nn.Conv2d({c}, {w}, 3, padding=1)",
        f"self.n{i} = nn.BatchNorm2d({c + w})",
    ]
    return init, [f"x = self.n{i}(torch.cat([x, self.a{i}(x)], 1)).relu()"], c + w


def fire(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    init = [
        f"self.q{i} = nn.Conv2d({c}, {w}, 1)",
        f"self.a{i} = nn.Conv2d({w}, {w}, 1)",
        f"self.b{i} = nn.Conv2d({w}, {c}, 3, padding=1)",
    ]
    forward = [
        f"s = F.relu(self.q{i}(x))",
        f"x = torch.cat([F.relu(self.a{i}(s)), F.relu(self.b{i}(s))], 1)",
    ]
    return init, forward, w + c


def inception(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    init = [
        f"self.a{i} = nn.Conv2d({c}, {w}, 1)",
        f"self.b{i} = nn.Sequential(nn.Conv2d({c}, 6, 1), nn.ReLU(), nn.Conv2d(6, {w}, 1))",
        f"self.p{i} = nn.Conv2d({c}, 4, 1)",
    ]
    pooled = f"self.p{i}(F.max_pool2d(x, 3, 1, 1))"
    return init, [f"x = torch.cat((self.a{i}(x), self.b{i}(x), {pooled}), dim=1)"], 2 * w + 4


def inverted(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    e = 2 * c
    init = [
        f"self.e{i} = nn.Sequential(nn.Conv2d({c}, {e}, 1), nn.BatchNorm2d({e}), nn.ReLU6())",
        f"self.d{i} = nn.Conv2d({e}, {e}, 3, padding=1, groups={e}, bias=False)",
        f"self.p{i} = nn.Conv2d({e}, {c}, 1)",
    ]
    return init, [f"x = x + self.p{i}(F.hardswish(self.d{i}(self.e{i}(x))))"], c


def squeeze_excite(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    init = [f"self.f{i} = nn.Linear({c}, {w})", f"self.g{i} = nn.Linear({w}, {c})"]
    forward = [
        f"s = torch.sigmoid(self.g{i}(F.relu(self.f{i}(x.mean((2, 3))))))",
        "x = x * s.unsqueeze(-1).unsqueeze(-1)",
    ]
    return init, forward, c


def chunked(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    init = [
        f"self.a{i} = nn.Conv2d({c}, {2 * w}, 1)",
        f"self.b{i} = nn.Conv2d({w}, {w}, 3, padding=1)",
    ]
    forward = [f"y = list(self.a{i}(x).chunk(2, 1))", f"y.append(self.b{i}(y[-1]))"]
    return init, [*forward, "x = torch.cat(y, 1)"], 3 * w


def shuffled(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    init = [f"self.a{i} = nn.Conv2d({c}, {4 * w}, 1)"]
    forward = [
        f"x = self.a{i}(x)",
        "n, c, h, w = x.shape",
        "x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)",
    ]
    return init, forward, 4 * w


def grouped(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    init = [
        f"self.a{i} = nn.Conv2d({c}, {2 * w}, 1)",
        f"self.b{i} = nn.Conv2d({2 * w}, {4 * w}, 3, padding=1, groups=2)",
    ]
    return init, [f"x = self.b{i}(F.gelu(self.a{i}(x)))"], 4 * w


def multiplied(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    init = [f"self.a{i} = nn.Conv2d({c}, {2 * c}, 3, padding=1, groups={c})"]
    return init, [f"x = self.a{i}(x).relu()"], 2 * c


def transposed(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    init = [f"self.a{i} = nn.ConvTranspose2d({c}, {w}, 2, stride=2)"]
    return init, [f"x = F.avg_pool2d(F.relu(self.a{i}(x)), 2)"], w


def shared(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    init = [f"self.a{i} = nn.Conv2d({c}, {c}, 3, padding=1)"]
    return init, [f"x = self.a{i}(F.relu(self.a{i}(x))) * 0.5"], c


def scaled(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    init = [
        f"self.g{i} = nn.Parameter(torch.rand({c}, 1, 1))",
        f"self.a{i} = nn.Conv2d({c}, {c}, 1)",
    ]
    return init, [f"x = x + self.g{i} * self.a{i}(x)"], c


def literal_split(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    init = [f"self.a{i} = nn.Conv2d({c}, {w + 5}, 1)"]
    forward = [f"a, b = torch.split(self.a{i}(x), [{w}, 5], dim=1)"]
    return init, [*forward, "x = torch.cat([b.tanh(), a], 1)"], w + 5


def literal_slice(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    init = [f"self.a{i} = nn.Conv2d({c}, {w + 5}, 1)"]
    return init, [f"x = self.a{i}(x)", f"x = torch.cat([x[:, {w}:], x[:, :{w}].relu()], 1)"], w + 5


def upscaled(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    init = [f"self.a{i} = nn.Conv2d({c}, {4 * w}, 1)"]
    return init, [f"x = F.max_pool2d(F.pixel_shuffle(self.a{i}(x), 2), 2)"], w


def twice(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    return [], ["x = torch.cat([x, x.sigmoid()], 1)"], 2 * c


def padded(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    init = [f"self.a{i} = nn.Conv2d({c}, {c + 4}, 3, padding=1)"]
    return init, [f"x = self.a{i}(x) + F.pad(x, (0, 0, 0, 0, 2, 2))"], c + 4


def group_normed(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    init = [f"self.a{i} = nn.Conv2d({c}, {2 * w}, 1)", f"self.n{i} = nn.GroupNorm(2, {2 * w})"]
    return init, [f"x = self.n{i}(self.a{i}(x))"], 2 * w


def layer_normed(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    init = [f"self.n{i} = nn.LayerNorm({c})", f"self.f{i} = nn.Linear({c}, {w})"]
    return init, [f"x = self.f{i}(self.n{i}(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)"], w


def prelu(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    return [f"self.r{i} = nn.PReLU({c})"], [f"x = self.r{i}(x)"], c


def in_place(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    init = [f"self.a{i} = nn.Conv2d({c}, {c}, 1)"]
    return init, [f"y = self.a{i}(x)", "y += x", "x = F.relu(y, inplace=True)"], c


BLOCKS: tuple[Block, ...] = (
    plain,
    residual,
    projected,
    dense,
    fire,
    inception,
    inverted,
    squeeze_excite,
    chunked,
    shuffled,
    grouped,
    multiplied,
    transposed,
    shared,
    scaled,
    literal_split,
    literal_slice,
    upscaled,
    twice,
    padded,
    group_normed,
    layer_normed,
    prelu,
    in_place,
)


def pooled_head(c: int) -> tuple[list[str], list[str]]:
    return [f"self.fc = nn.Linear({c}, 5)"], ["return self.fc(x.mean((2, 3)))"]


def flat_head(c: int) -> tuple[list[str], list[str]]:
    init = [f"self.fc = nn.Sequential(nn.Linear({c * 4}, 9), nn.ReLU(), nn.Linear(9, 5))"]
    return init, ["return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 2), 1))"]


def literal_head(c: int) -> tuple[list[str], list[str]]:
    forward = [
        "x = F.adaptive_max_pool2d(x, 2)",
        f"return self.fc(x.contiguous().view(-1, {c * 4}))",
    ]
    return [f"self.fc = nn.Linear({c * 4}, 5)"], forward


def convolutional_head(c: int) -> tuple[list[str], list[str]]:
    return [f"self.fc = nn.Conv2d({c}, 5, 1)"], ["return self.fc(x)"]


HEADS = (pooled_head, flat_head, literal_head, convolutional_head)


@st.composite
def sources(draw: st.DrawFn, most: int = 5) -> str:
    """The source of a network that takes (N, 3, 8, 8)."""
    width = draw(st.integers(4, 9))
    init = [f"self.stem = nn.Conv2d(3, {width}, 3, padding=1)"]
    forward = ["x = F.relu(self.stem(x))"]
    blocks = draw(st.lists(st.tuples(st.sampled_from(BLOCKS), st.integers(3, 8)), max_size=most))
    for i, (block, w) in enumerate(blocks):
        if width > 80:
            break
        more, lines, width = block(i, width, w)
        init += more
        forward += lines
    more, lines = draw(st.sampled_from(HEADS))(width)
    return _text(init + more, forward + lines)


def _text(init: list[str], forward: list[str]) -> str:
    body = ["    def __init__(self):", "        super().__init__()"]
    body += [f"        {line}" for line in init]
    body += ["", "    def forward(self, x):"]
    body += [f"        {line}" for line in forward]
    return HEADER + "\n".join(body) + "\n"


_numbers = itertools.count()


def build(source: str) -> nn.Module:
    """The network of a source drawn by `sources`, with fixed random weights."""
    namespace: dict[str, Any] = {"__name__": f"drawn_{next(_numbers)}"}
    exec(compile(source, f"<{namespace['__name__']}>", "exec"), namespace)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = namespace["Net"]()
    return model
