"""Random networks that grow: what `python -m tests.fuzz` prunes.

A `Sketch` says what a network is made of, so that a failing one can be made smaller piece by piece;
`source` writes it as a file that a person could have written. The blocks of `networks.py` are put
in sequence, into classes of their own whose instances differ in width, beside shortcuts and behind
poolings; with the number of a network grow its depth, its widths and the share of such things.

    sketch = drawn(random.Random("0:17"), growth=0.3)
    text = source(sketch)          # class Net; takes sketch.inputs tensors (2, 3, 8, 8)
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.networks import BLOCKS, HEADER, HEADS, Block

WIDEST = 120
"""Channels; what would be wider is left out."""


class Named(int):
    """A width that stands in the text as an expression: `w`, `(c + w)`, `(2 * self.c)`."""

    text: str

    def __new__(cls, value: int, text: str) -> Named:
        named = super().__new__(cls, value)
        named.text = text
        return named

    def __format__(self, spec: str) -> str:
        return self.text

    def __add__(self, other: int) -> Named:
        return Named(int(self) + int(other), f"({self} + {other})")

    def __mul__(self, other: int) -> Named:
        return Named(int(self) * int(other), f"({self} * {other})")

    def __radd__(self, other: int) -> Named:
        return Named(int(other) + int(self), f"({other} + {self})")

    def __rmul__(self, other: int) -> Named:
        return Named(int(other) * int(self), f"({other} * {self})")


# --- blocks besides those of networks.py ---------------------------------------------------------

Lines = tuple[list[str], list[str], int]


def one_dimensional(i: int, c: int, w: int) -> Lines:
    init = [f"self.a{i} = nn.Conv1d({c}, {w}, 3, padding=1)", f"self.n{i} = nn.BatchNorm1d({w})"]
    forward = [
        "size = x.shape[2:]",
        f"x = self.n{i}(self.a{i}(x.flatten(2))).relu().unflatten(2, size)",
    ]
    return init, forward, w


def three_dimensional(i: int, c: int, w: int) -> Lines:
    init = [f"self.a{i} = nn.Conv3d({c}, {w}, (1, 3, 3), padding=(0, 1, 1))"]
    return init, [f"x = self.a{i}(x.unsqueeze(2)).squeeze(2).tanh()"], w


def einsummed(i: int, c: int, w: int) -> Lines:
    init = [f"self.m{i} = nn.Parameter(torch.randn({w}, {c}))"]
    return init, [f"x = torch.einsum('oc,nchw->nohw', self.m{i}, x)"], w


def linear_last(i: int, c: int, w: int) -> Lines:
    init = [f"self.m{i} = nn.Parameter(torch.randn({w}, {c}))"]
    return init, [f"x = F.linear(x.movedim(1, -1), self.m{i}).movedim(-1, 1)"], w


def channel_gate(i: int, c: int, w: int) -> Lines:
    return [], ["x = x * torch.sigmoid(x.mean(1, keepdim=True))"], c


def soft_gate(i: int, c: int, w: int) -> Lines:
    init = [f"self.a{i} = nn.Conv2d({c}, {w}, 1)"]
    forward = [
        f"x = self.a{i}(x)",
        "x = x * torch.softmax(x.mean((2, 3)), 1)[:, :, None, None]",
    ]
    return init, forward, w


def gram(i: int, c: int, w: int) -> Lines:
    forward = [
        "y = x.flatten(2)",
        "x = x + (torch.tanh(y @ y.transpose(1, 2) / 64) @ y).view_as(x)",
    ]
    return [], forward, c


def instance_normed(i: int, c: int, w: int) -> Lines:
    init = [f"self.n{i} = nn.InstanceNorm2d({c}, affine=True)"]
    return init, [f"x = x + self.n{i}(x)"], c


def unscaled(i: int, c: int, w: int) -> Lines:
    init = [
        f"self.a{i} = nn.Conv2d({c}, {w}, 3, padding=1, bias=False)",
        f"self.n{i} = nn.BatchNorm2d({w}, affine=False)",
        f"self.d{i} = nn.Dropout2d(0.1)",
    ]
    return init, [f"x = self.d{i}(F.leaky_relu(self.n{i}(self.a{i}(x)), 0.2))"], w


def stacked(i: int, c: int, w: int) -> Lines:
    init = [
        f"self.a{i} = nn.Conv2d({c}, {w}, 1)",
        f"self.b{i} = nn.Conv2d({c}, {w}, 3, padding=1)",
    ]
    return init, [f"x = torch.stack([self.a{i}(x), self.b{i}(x)]).amax(0)"], w


def maxout(i: int, c: int, w: int) -> Lines:
    init = [f"self.a{i} = nn.Conv2d({c}, {2 * w}, 1)"]
    return init, [f"x = self.a{i}(x).unflatten(1, ({w}, 2)).amax(2)"], w


def gated(i: int, c: int, w: int) -> Lines:
    init = [f"self.a{i} = nn.Conv2d({c}, {2 * w}, 1)"]
    return init, [f"x = F.glu(self.a{i}(x), 1)"], w


def standardised(i: int, c: int, w: int) -> Lines:
    init = [f"self.a{i} = nn.Conv2d({c}, {w}, 3, padding=1)"]
    forward = [
        f"k = self.a{i}.weight",
        "k = k / (k.flatten(1).norm(dim=1)[:, None, None, None] + 1e-5)",
        f"x = F.conv2d(x, k, self.a{i}.bias, padding=1)",
    ]
    return init, forward, w


def where_negative(i: int, c: int, w: int) -> Lines:
    init = [f"self.r{i} = nn.Parameter(torch.rand(1, {c}, 1, 1))"]
    return init, [f"x = torch.where(x > 0, x, self.r{i} * x)"], c


def rolled(i: int, c: int, w: int) -> Lines:
    init = [f"self.a{i} = nn.Conv2d({c}, {w}, (1, 3), padding=(0, 1))"]
    return init, [f"x = torch.roll(self.a{i}(x), 1, 3).flip(2).clamp(-3, 3)"], w


def listed(i: int, c: int, w: int) -> Lines:
    init = [
        f"self.b{i} = nn.ModuleDict({{",
        f"    'first': nn.Sequential(nn.Conv2d({c}, {w}, 1), nn.BatchNorm2d({w}), nn.ELU()),",
        f"    'second': nn.Conv2d({w}, {w}, 3, padding=1, groups={w}),",
        "})",
    ]
    return init, [f"for name, layer in self.b{i}.items():", "    x = layer(x)"], w


def pooled(i: int, c: int, w: int) -> Lines:
    return [], ["x = F.max_pool2d(x, 2, ceil_mode=True)"], c


def in_turn(i: int, c: int, w: int) -> Lines:
    init = [f"self.r{i} = nn.GRU({c}, {w}, batch_first=True)"]
    forward = [
        "size = x.shape[2:]",
        f"x, _ = self.r{i}(x.flatten(2).transpose(1, 2))",
        "x = x.transpose(1, 2).unflatten(2, size)",
    ]
    return init, forward, w


def both_ways(i: int, c: int, w: int) -> Lines:
    init = [f"self.r{i} = nn.LSTM({c}, {w}, bidirectional=True, num_layers=2)"]
    forward = [
        "n, _, h, v = x.shape",
        f"x = self.r{i}(x.flatten(2).permute(2, 0, 1))[0]",
        f"x = x.permute(1, 2, 0).reshape(n, 2 * {w}, h, v)",
    ]
    return init, forward, 2 * w


def transformed(i: int, c: int, w: int) -> Lines:
    init = [
        f"layer = nn.TransformerEncoderLayer({c}, 1, {w}, activation='gelu', batch_first=True)",
        f"self.t{i} = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)",
    ]
    forward = [
        "size = x.shape[2:]",
        f"x = self.t{i}(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, size)",
    ]
    return init, forward, c


def partly(i: int, c: int, w: int) -> Lines:
    init = [f"self.a{i} = nn.Conv2d({c}, {w}, 1)", f"self.b{i} = nn.Conv2d(2, 2, 3, padding=1)"]
    forward = [
        f"x = torch.relu(self.a{i}(x)).clone()",
        f"x[:, :2] = self.b{i}(x[:, :2].clone())",
    ]
    return init, forward, w


def shifted(i: int, c: int, w: int) -> Lines:
    init = [f"self.a{i} = nn.Conv2d({c}, {w}, 1)"]
    forward = [
        f"x = self.a{i}(x)",
        "y = torch.zeros_like(x)",
        "y[:, :2, 1:] = x[:, :2, :-1]",
        "y[:, 2:] = x[:, 2:]",
        "x = y",
    ]
    return init, forward, w


MORE_BLOCKS: tuple[Block, ...] = (
    one_dimensional,
    three_dimensional,
    einsummed,
    linear_last,
    channel_gate,
    soft_gate,
    gram,
    instance_normed,
    unscaled,
    stacked,
    maxout,
    gated,
    standardised,
    where_negative,
    rolled,
    listed,
    pooled,
    in_turn,
    both_ways,
    transformed,
    partly,
    shifted,
)

_BLOCKS: dict[str, Block] = {block.__name__: block for block in (*BLOCKS, *MORE_BLOCKS)}
_HEADS = {head.__name__: head for head in HEADS}


# --- sketches -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Node:
    """A block by its name, or one of `part`, `beside` and `added` around others.

    `part` is a class of its own, with an instance for each of its widths, one after the other;
    `beside` concatenates what goes in to what comes out, `added` adds it through a projection.
    """

    kind: str
    w: int
    inner: tuple[Node, ...] = ()
    widths: tuple[int, ...] = ()


@dataclass(frozen=True)
class Sketch:
    """A network, and how it is pruned."""

    stem: int
    nodes: tuple[Node, ...]
    head: str
    inputs: int = 1
    answer: str = "tensor"
    """Or `tuple`, `dict`, or `aux`: another output in train mode."""
    dtype: str = "float64"
    options: tuple[tuple[str, Any], ...] = ()
    """Of `prune`, those that are not the defaults; `prune_pct` among them."""


AROUND = ("part", "beside", "added")
PLAIN = tuple(_BLOCKS)


def drawn(rng: random.Random, growth: float) -> Sketch:
    """A sketch; the greater `growth` (0 to 1), the larger and the stranger."""
    widest = round(6 + 10 * growth)

    def node(deep: int) -> Node:
        w = rng.randint(3, widest)
        if deep and rng.random() < 0.15 + 0.35 * growth:
            inner = tuple(node(deep - 1) for _ in range(rng.randint(1, 2 + round(growth))))
            kind = rng.choice(AROUND)
            times = rng.randint(1, 2 + round(growth)) if kind == "part" else 0
            return Node(kind, w, inner, tuple(rng.randint(3, widest) for _ in range(times)))
        return Node(rng.choice(PLAIN), w)

    count = rng.randint(1, 3 + round(7 * growth))
    nodes = tuple(node(1 + round(growth)) for _ in range(count))
    strange = rng.random() < 0.2 + 0.6 * growth
    return Sketch(
        rng.randint(4, 4 + widest),
        nodes,
        rng.choice(list(_HEADS)),
        inputs=rng.choice([1, 1, 1, 2]) if strange else 1,
        answer=rng.choice(["tensor", "tuple", "dict", "aux"]) if strange else "tensor",
        dtype="float32" if strange and rng.random() < 0.1 else "float64",
        options=_options(rng) if strange else (),
    )


def _options(rng: random.Random) -> tuple[tuple[str, Any], ...]:
    options: dict[str, Any] = {
        "prune_pct": rng.choice([10, 30, 50, 70, 90]),
        "target": rng.choice(["params", "macs", "channels"]),
        "measure": rng.choice(["ChannelNorm", "ChannelRandom", "FPGM", "LAMP"]),
        "method": rng.choice(["Global", "Local", "Isomorphic"]),
        "min_filters": rng.choice([1, 2, 3]),
        "round_to": rng.choice([1, 1, 2, 4]),
        "exact_only": rng.random() < 0.2,
        "ignore": rng.choice([(), (), ("stem",), ("fc*", "stem")]),
        "seed": rng.randint(0, 9),
    }
    return tuple(options.items())


# --- source -------------------------------------------------------------------------------------


class _Emitter:
    """Gathers the classes of a file while the lines of one are made."""

    def __init__(self) -> None:
        self.classes: list[str] = []
        self.count = 0

    def number(self) -> int:
        self.count += 1
        return self.count - 1

    def lines(self, nodes: tuple[Node, ...], c: int, w: int | None = None) -> Lines:
        """Of a sequence; within a part, widths are said relative to its `w`."""
        init: list[str] = []
        forward: list[str] = []
        for node in nodes:
            more, steps, out = self._of(node, c, w)
            if int(out) > WIDEST:
                continue
            init += more
            forward += steps
            c = out
        return init, forward, c

    def _of(self, node: Node, c: int, w: int | None) -> Lines:
        i = self.number()
        width = node.w if w is None else w + (node.w - 3)
        if node.kind == "part":
            return self._part(i, node, c)
        if node.kind in _BLOCKS:
            return _BLOCKS[node.kind](i, c, width)
        init, forward, out = self.lines(node.inner, c, w)
        if not forward:
            return [], [], c
        forward = [f"kept{i} = x", *forward]
        if node.kind == "beside":
            return init, [*forward, f"x = torch.cat([kept{i}, x], 1)"], c + out
        init.append(f"self.p{i} = nn.Conv2d({c}, {out}, 1)")
        return init, [*forward, f"x = x + self.p{i}(kept{i})"], out

    def _part(self, i: int, node: Node, c: int) -> Lines:
        """A class, and a Sequential of instances that differ in width."""
        started = self.count
        first = node.widths[0]
        init, _, _ = self.lines(node.inner, Named(int(c), "c"), Named(first, "w"))
        self.count = started
        known = len(self.classes)
        _, forward, out = self.lines(node.inner, Named(int(c), "self.c"), Named(first, "self.w"))
        # The inner classes were made twice, once for each half.
        del self.classes[known:]
        text = "\n".join(forward)
        body = [
            line
            for name in ("c", "w")
            if f"self.{name}" in text
            for line in [f"self.{name} = {name}"]
        ]
        self.classes.append(_class(f"Part{i}", "self, c, w", [*body, *init], "self, x", forward))
        made, last = [f"Part{i}({c}, {first})"], out
        for w in node.widths[1:]:
            inner = _Emitter()
            *_, wider = inner.lines(node.inner, int(last), w)
            if int(wider) > WIDEST:
                break
            made.append(f"Part{i}({int(last)}, {w})")
            last = wider
        return [f"self.q{i} = nn.Sequential({', '.join(made)})"], [f"x = self.q{i}(x)"], int(last)


def _class(name: str, takes: str, init: list[str], given: str, forward: list[str]) -> str:
    body = [f"class {name}(nn.Module):", f"    def __init__({takes}):"]
    body += ["        super().__init__()", *(f"        {line}" for line in init)]
    body += ["", f"    def forward({given}):", *(f"        {line}" for line in forward)]
    if given == "self, x":
        body.append("        return x")
    return "\n".join(body) + "\n\n\n"


def source(sketch: Sketch) -> str:
    """The file of a network; its class is `Net`."""
    emitter = _Emitter()
    init = [f"self.stem = nn.Conv2d(3, {sketch.stem}, 3, padding=1)"]
    forward = ["x = F.relu(self.stem(x))"]
    given = "self, x"
    if sketch.inputs == 2:
        given = "self, x, other"
        init.append(f"self.other = nn.Conv2d(3, {sketch.stem}, 1)")
        forward.append("x = x + self.other(other)")
    more, steps, width = emitter.lines(sketch.nodes, sketch.stem)
    init += more
    forward += steps
    if sketch.answer == "aux":
        init.append(f"self.aux = nn.Linear({width}, 3)")
        forward.append("aux = self.aux(x.mean((2, 3))) if self.training else None")
    more, steps = _HEADS[sketch.head](width)
    init += more
    *steps, last = steps
    answer = last.removeprefix("return ")
    forward += steps
    forward += {
        "tensor": [last],
        "tuple": [f"return x.amax((2, 3)).sum(1), {answer}"],
        "dict": [f"return {{'logits': {answer}, 'size': x.shape[2]}}"],
        "aux": [f"answer = {answer}", "return answer if aux is None else (answer, aux)"],
    }[sketch.answer]
    head, _, _ = HEADER.rpartition("class Net")
    net = _class("Net", "self", init, given, forward)
    if given == "self, x":
        net = net.removesuffix("        return x\n\n\n")
    return head + "".join(emitter.classes) + net.rstrip() + "\n"


# --- smaller ones -------------------------------------------------------------------------------


def simpler(sketch: Sketch) -> Iterator[Sketch]:
    """Sketches with one thing less, those that lose most first."""
    change = dataclasses.replace
    half = len(sketch.nodes) // 2
    if half > 1:
        yield change(sketch, nodes=sketch.nodes[half:])
        yield change(sketch, nodes=sketch.nodes[:half])
    for nodes in _fewer(sketch.nodes):
        yield change(sketch, nodes=nodes)
    for field in ("options", "inputs", "answer", "dtype"):
        plain = getattr(Sketch(4, (), "pooled_head"), field)
        if getattr(sketch, field) != plain:
            yield change(sketch, **{field: plain})
    for i in range(len(sketch.options)):
        yield change(sketch, options=sketch.options[:i] + sketch.options[i + 1 :])
    if sketch.head != "pooled_head":
        yield change(sketch, head="pooled_head")
    if sketch.stem > 4:
        yield change(sketch, stem=4)


def _fewer(nodes: tuple[Node, ...]) -> Iterator[tuple[Node, ...]]:
    for i, node in enumerate(nodes):
        before, after = nodes[:i], nodes[i + 1 :]
        yield before + after
        if node.inner:
            yield before + node.inner + after
            for inner in _fewer(node.inner):
                if inner:
                    yield (*before, dataclasses.replace(node, inner=inner), *after)
        for j in range(len(node.widths) if len(node.widths) > 1 else 0):
            widths = node.widths[:j] + node.widths[j + 1 :]
            yield (*before, dataclasses.replace(node, widths=widths), *after)
        if node.w > 3 or any(w > 3 for w in node.widths):
            small = dataclasses.replace(node, w=3, widths=tuple(3 for _ in node.widths))
            yield (*before, small, *after)
