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
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn

Block = Callable[[int, int, int], tuple[list[str], list[str], int]]

HEADER = """from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

SHIFT = 2


def as_rows(x, width):
    return x.flatten(1).view(-1, width, x.shape[2] * x.shape[3])


def halves(x, first):
    return x[:, :first], x[:, first:]


@dataclass
class Widths:
    inner: int
    outer: int = 4


class Residual(nn.Module):
    def __init__(self, c, w, kernel=3, gate=False, norm=True):
        super().__init__()
        self.up = nn.Conv2d(c, w, kernel, padding=kernel // 2)
        self.norm = nn.BatchNorm2d(w) if norm else None
        self.down = nn.Conv2d(w, c, 1)
        self.gate = nn.Identity()
        if gate:
            self.gate = nn.Sequential(nn.Conv2d(c, c, 1), nn.Sigmoid())
        self.w = w

    def forward(self, x):
        y = self.up(x)
        if self.norm is not None:
            y = self.norm(y)
        y = as_rows(y, self.w).relu().reshape(-1, self.w, *x.shape[2:])
        return x + self.gate(self.down(y))


class OptionA(nn.Module):
    def __init__(self, c, o):
        super().__init__()
        self.conv = nn.Conv2d(c, o, 3, padding=1)
        self.c = c
        self.o = o

    def forward(self, x):
        y = F.relu(self.conv(x))
        if self.c != self.o:
            more = self.o - self.c
            x = F.pad(x, (0, 0, 0, 0, more // 2, more - more // 2))
        return x + y


class Scale(nn.Module):
    def __init__(self, c, start=0.5):
        super().__init__()
        self.gain = nn.Parameter(start * torch.ones(c, 1, 1))
        self.bias = nn.Parameter(torch.empty(1, c, 1, 1))
        nn.init.uniform_(self.bias, -1, 1)
        self.register_buffer("mean", torch.zeros(c))
        self.register_buffer("steps", torch.arange(4).float() + start, persistent=False)

    def forward(self, x):
        x = x - self.mean[:, None, None]
        return x * self.gain + self.bias * self.steps[1]


class Splitter(nn.Module):
    def __init__(self, c, sizes):
        super().__init__()
        self.sizes = sizes
        self.conv = nn.Conv2d(c, sum(sizes), 1)
        self.after = nn.Conv2d(sizes[0], sizes[1], 3, padding=1)

    def forward(self, x):
        a, b = torch.split(self.conv(x), self.sizes, dim=1)
        return torch.cat([b, self.after(a)], 1)


class Mixer(nn.Module):
    def __init__(self, c, widths):
        super().__init__()
        self.widths = widths
        self.conv = nn.Conv2d(c, widths.inner, 1)
        self.out = nn.Conv2d(widths.inner, widths.outer, 1)

    @property
    def inner(self):
        return self.conv.out_channels

    def forward(self, x):
        n, _, h, w = x.shape
        y = self.conv(x).permute(0, 2, 3, 1).reshape(n, h * w, self.widths.inner)
        y = F.layer_norm(y, (self.inner,)).transpose(1, 2)
        return self.out(y.unflatten(2, (h, w)))


class Attention(nn.Module):
    def __init__(self, c, heads, dim):
        super().__init__()
        self.heads, self.dim = heads, dim
        self.qkv = nn.Conv2d(c, 3 * heads * dim, 1)
        self.proj = nn.Conv2d(heads * dim, c, 1)

    def forward(self, x):
        n, _, h, w = x.shape
        y = self.qkv(x).view(n, 3, self.heads, self.dim, h * w).transpose(-1, -2)
        q, k, v = y.unbind(1)
        y = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2)
        return x + self.proj(y.reshape(n, self.heads * self.dim, h, w))


class Halved(nn.Module):
    def __init__(self, c, w):
        super().__init__()
        self.conv = nn.Conv2d(c, 2 * w, 1)
        self.w = w
        self.low = nn.Conv2d(w, w, 3, padding=1, groups=w)

    def cut(self, y):
        return halves(y, self.w)

    def forward(self, x):
        low, high = self.cut(self.conv(x))
        return self.low(low) + high


class Cross(Halved):
    def cut(self, y):
        low, high = super().cut(y)
        return high, low.tanh()


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


# Sizes said in other ways, and blocks that are classes of their own.


def product_view(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    init = [f"self.a{i} = nn.Conv2d({c}, {w}, 1)"]
    forward = [
        f"x = F.adaptive_avg_pool2d(self.a{i}(x), 4).reshape(-1, {w} * 4 * 4)",
        f"x = x.relu().view(x.size(0), {w}, 4, 4)",
    ]
    return init, forward, w


def local_view(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    init = [f"self.a{i} = nn.Conv2d({c}, {w}, 1)"]
    forward = [
        f"x{i} = self.a{i}(x)",
        f"w{i} = {w}",
        f"shape{i} = (-1, w{i}, *x{i}.shape[2:])",
        f"x = x{i}.flatten(1).reshape(*shape{i}).sigmoid()",
    ]
    return init, forward, w


def attribute_view(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    init = [f"self.w{i} = {w}", f"self.a{i} = nn.Conv2d({c}, {w} + 3, 1)"]
    forward = [
        f"y, z = self.a{i}(x).split([self.w{i}, 3], 1)",
        f"x = torch.cat([z, y.flatten(2).view(-1, self.w{i}, *x.shape[2:])], 1)",
    ]
    return init, forward, w + 3


def square(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    """As wide as it is high: 8 stays 8 where it is the height."""
    init = [f"self.a{i} = nn.Conv2d({c}, 8, 1)"]
    forward = [
        f"x = F.interpolate(self.a{i}(x), size=(8, 8)).flatten(1)",
        "x = x.view(-1, 8 * 8 * 8).reshape(-1, 8, 8, 8)",
    ]
    return init, forward, 8


def helped(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    init = [f"self.a{i} = nn.Conv2d({c}, {2 * w}, 1)"]
    forward = [
        f"a, b = halves(self.a{i}(x), {w})",
        f"x = (as_rows(a, {w}) * as_rows(b, width={w}).tanh()).unflatten(2, x.shape[2:])",
    ]
    return init, forward, w


def made(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    init = [f"self.a{i} = nn.Conv2d({c}, {w}, 1)"]
    forward = [
        f"x = self.a{i}(x)",
        f"x = x + torch.ones(x.size(0), {w}, 1, 1, dtype=x.dtype, device=x.device)",
        "x = torch.cat([x, x.new_zeros(x.size(0), 3, *x.shape[2:])], 1)",
    ]
    return init, forward, w + 3


def narrowed(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    init = [f"self.a{i} = nn.Conv2d({c}, {w + 4}, 1)"]
    forward = [
        f"x = self.a{i}(x)",
        f"x = torch.cat([x.narrow(1, SHIFT + 2, {w}), x[:, -{w}:], x[:, SHIFT : SHIFT + 2]], 1)",
    ]
    return init, forward, 2 * w + 2


def expanded(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    init = [f"self.a{i} = nn.Conv2d({c}, {w}, 1)", f"self.b{i} = nn.Conv2d({c}, 1, 1)"]
    forward = [f"x = self.a{i}(x) * self.b{i}(x).expand(-1, {w}, -1, -1)"]
    return init, forward, w


def functional(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    init = [f"self.k{i} = nn.Parameter(torch.randn({c}, 1, 3, 3))", f"self.g{i} = {c}"]
    return init, [f"x = F.conv2d(x, self.k{i}, padding=1, groups=self.g{i})"], c


def residuals(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    init = [
        f"self.r{i} = nn.Sequential(",
        f"    Residual({c}, {w}),",
        f"    Residual({c}, {w + 2}, kernel={1 + 2 * (i % 2)}, gate={w % 2 == 0}),",
        ")",
        f"self.l{i} = Residual({c}, {w}, norm={i % 2 == 0})",
    ]
    return init, [f"x = self.l{i}(self.r{i}(x))"], c


def option_a(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    init = [f"self.o{i} = nn.ModuleList([OptionA({c}, {c}), OptionA({c}, {c + w})])"]
    return init, [f"for layer in self.o{i}:", "    x = layer(x)"], c + w


def scales(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    init = [
        f"self.s{i} = Scale({c})",
        f"self.a{i} = nn.Conv2d({c}, {w}, 1)",
        f"self.t{i} = Scale({w}, {w / 4})",
    ]
    return init, [f"x = self.t{i}(self.a{i}(self.s{i}(x)).relu())"], w


def splitters(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    init = [
        f"self.p{i} = Splitter({c}, [{w}, {w + 1}])",
        f"self.q{i} = Splitter({2 * w + 2}, [4, {w}])",
    ]
    return init, [f"x = self.q{i}(self.p{i}(x))"], 2 * w


def mixers(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    init = [
        f"self.m{i} = Mixer({c}, Widths({w}, {w}))",
        f"self.n{i} = Mixer({w}, Widths({2 * w}))",
    ]
    return init, [f"x = self.n{i}(self.m{i}(x))"], 4


def attentions(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    init = [f"self.t{i} = Attention({c}, 2, {w})", f"self.u{i} = Attention({c}, 1, {w + 1})"]
    return init, [f"x = self.u{i}(self.t{i}(x))"], c


def derived(i: int, c: int, w: int) -> tuple[list[str], list[str], int]:
    init = [f"self.h{i} = Halved({c}, {w})", f"self.c{i} = Cross({w}, {w + 1})"]
    return init, [f"x = self.c{i}(self.h{i}(x))"], w + 1


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
    product_view,
    local_view,
    attribute_view,
    square,
    helped,
    made,
    narrowed,
    expanded,
    functional,
    residuals,
    option_a,
    scales,
    splitters,
    mixers,
    attentions,
    derived,
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
    name = f"drawn_in_memory_{next(_numbers)}"
    # A dataclass looks its module up.
    sys.modules[name] = module = ModuleType(name)
    namespace: dict[str, Any] = vars(module)
    exec(compile(source, f"<{name}>", "exec"), namespace)
    del sys.modules[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = namespace["Net"]()
    return model
