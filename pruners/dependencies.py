"""From blocks and layers to the channel graph.

A `DependencyCalculator` says for a block, from the names in its decorator alone, how its axes are
coupled (internal), which axes meet the block's input and which hold its output (interface), and
whether a shortcut ties the output to the input (external). A layer outside of any block is a block
of one. `declared_graph` walks along the network with the *stream*, the axes that hold the channels
of the activation at that place, and ties every block to it.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from torch import nn
from torch.nn.modules.conv import _ConvNd

from pruners.blocks import (
    BlockSpec,
    block_spec,
    calculator_of,
    register_calculator,
    skipped_convs,
)
from pruners.call_order import called_names, layers_in_order
from pruners.chain import follow
from pruners.channel_graph import Axis, ChannelGraph, Coupling, match_layers
from pruners.errors import PrunerError, UnsupportedNetworkError
from pruners.layers import Ports, Read, Stream, holds_state, is_weighted, ports, same, weight_axes


@dataclass(frozen=True, slots=True)
class Block:
    """A decorated block in its network."""

    path: str
    module: nn.Module
    spec: BlockSpec

    def layers(self) -> dict[str, nn.Module]:
        """The block's childless layers by full module path, in the order in which they run."""
        return {_join(self.path, name): layer for name, layer in layers_in_order(self.module)}

    def size(self, axis: Axis) -> int:
        owner, _, name = axis.tensor.removeprefix(f"{self.path}.").rpartition(".")
        tensor = getattr(self.module.get_submodule(owner), name)
        return int(tensor.shape[axis.dim])

    def main(self) -> dict[str, nn.Module]:
        """The layers of the main branch: all but those of the shortcut and of the gate."""
        gate = self.gate()
        return {
            path: layer
            for path, layer in self.layers().items()
            if not self._is_side(path) and path not in gate
        }

    def gated(self) -> dict[str, nn.Module]:
        """The layers of the main branch that run before the gate."""
        first = next(iter(self.gate()), None)
        before = list(itertools.takewhile(lambda path: path != first, self.layers()))
        return {path: layer for path, layer in self.main().items() if path in before}

    def gate(self) -> dict[str, nn.Module]:
        """The layers that run from the first layer of the gate to its last."""
        layers = list(self.layers().items())
        named = {_join(self.path, name) for name in self.spec.gate}
        convs = {_join(self.path, name) for name in self.spec.convs}
        places = [i for i, (path, _) in enumerate(layers) if path in named]
        if not places:
            return {}
        span = layers[places[0] : places[-1] + 1]
        return {p: m for p, m in span if p not in convs and not self._is_side(p)}

    def side(self) -> dict[str, nn.Module]:
        """The downsampling layers."""
        return {path: layer for path, layer in self.layers().items() if self._is_side(path)}

    def _is_side(self, path: str) -> bool:
        named = {_join(self.path, name) for name in self.spec.downsampling}
        return any(path == name or path.startswith(f"{name}.") for name in named)

    def check(self) -> None:
        """Raises PrunerError where the decorator and the block do not agree."""
        spec, cls = self.spec, type(self.module).__name__
        where = f"{self.path} ({cls}): @{spec.decorator}"
        layers = self.layers()
        convolutions = {p: m for p, m in layers.items() if is_weighted(m) and not self._is_side(p)}
        has = ", ".join(p.removeprefix(f"{self.path}.") for p in convolutions) or "none"
        argument = "branches" if spec.branches else "convs"
        named: set[str] = set()
        for argument_of, names in ((argument, spec.convs), ("gate", spec.gate)):
            for name in names:
                path = _join(self.path, name)
                named.add(path)
                if path not in convolutions and not absent(self.module, name):
                    what = "which is no convolution" if path in layers else "which the block lacks"
                    raise PrunerError(
                        f"{where} names '{name}' in {argument_of}, {what}; its convolutions are: "
                        f"{has}"
                    )
        for path in convolutions:
            if path not in named:
                name = path.removeprefix(f"{self.path}.")
                raise PrunerError(
                    f"{where} does not name the convolution '{name}'; name all of them in "
                    f"{argument} (or in downsampling, for those of the shortcut): {has}"
                )
        for name in spec.downsampling:
            # A block without it may lack the attribute: its forward then asks with hasattr.
            called = called_names(type(self.module))  # type: ignore[arg-type]
            named_in_forward = name.split(".")[0] in called
            if not _has_attribute(self.module, name) and not named_in_forward:
                raise PrunerError(
                    f"{where} names '{name}' in downsampling, which the block lacks; its layers "
                    f"are: {', '.join(n for n, _ in self.module.named_children())}"
                )
        # Branches run side by side, in whatever order.
        rows = [(argument, names) for names in spec.branches or (spec.convs,)]
        for argument_of, names in (*rows, ("gate", spec.gate)):
            paths = {_join(self.path, name): name for name in names}
            order = [path for path in layers if path in paths]
            if order != [path for path in paths if path in layers]:
                raise PrunerError(
                    f"{where} names {argument_of} in the order {', '.join(names)}, but they run in "
                    f"the order {', '.join(paths[p] for p in order)}"
                )


@dataclass(frozen=True, slots=True)
class Interface:
    """Where a block meets the rest of the network."""

    reads: tuple[Read, ...]
    """The axes that meet the channels that come in."""
    output: Stream | None
    """The axes that hold the channels that go out, concatenated; None: those that came in."""
    unknown: str = ""
    """Why nothing is known of the block; it then freezes what it touches."""


class DependencyCalculator(ABC):
    """How the channels of one type of block are coupled, from the names in its decorator alone."""

    @abstractmethod
    def internal(self, block: Block) -> Iterable[Coupling]:
        """The couplings between axes of the block itself."""

    @abstractmethod
    def external(self, block: Block) -> bool:
        """Whether a shortcut ties the block's output to what came before it."""

    @abstractmethod
    def interface(self, block: Block) -> Interface:
        """Which axes meet the block's input, and which hold its output."""

    def __eq__(self, other: object) -> bool:
        """Two of the same class with the same attributes, if any, are the same."""
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(type(self))


@dataclass(frozen=True, slots=True)
class Backbone:
    """All that a calculator says of a block, at once."""

    interface: Interface
    couplings: tuple[Coupling, ...] = ()
    external: bool = False


class BackboneCalculator(DependencyCalculator):
    """A calculator that finds internal, external and interface together, in `backbone`."""

    @abstractmethod
    def backbone(self, block: Block) -> Backbone:
        """What the block does, usually by one of the `..._backbone` functions."""

    def internal(self, block: Block) -> Iterable[Coupling]:
        return self.backbone(block).couplings

    def external(self, block: Block) -> bool:
        return self.backbone(block).external

    def interface(self, block: Block) -> Interface:
        return self.backbone(block).interface


def residual_backbone(block: Block, shortcut: bool = True) -> Backbone:
    """A row of layers, added to the block's input or to that of its downsampling layers.

    Args:
        shortcut: False for a block that adds nothing: a plain row.
    """
    main = row(block.main())
    side = row(block.side()) if shortcut else Ports()
    couplings = main.couplings + side.couplings
    if main.output and side.output:
        couplings += tuple(tie(main.output, side.output, block.size, f"{block.path}: add"))
    return Backbone(
        Interface(main.reads + side.reads, main.output, main.unknown or side.unknown),
        couplings,
        external=shortcut and side.output is None,
    )


def gated_residual_backbone(block: Block) -> Backbone:
    """A row of layers, some of whose channels a gate scales, added to the block's input.

    The layers of the gate read the channels of the main branch as they are where the gate runs,
    and scale the same channels.
    """
    residual = residual_backbone(block)
    main, gate = row(block.gated()), row(block.gate())
    if gate.unknown or not gate.reads:
        unknown = residual.interface.unknown or gate.unknown
        return replace(residual, interface=replace(residual.interface, unknown=unknown))
    couplings = [*residual.couplings, *gate.couplings]
    reads = residual.interface.reads
    if main.output is None:
        reads += gate.reads
    else:
        for read in gate.reads:
            couplings += meet(main.output, read, block.size, f"{block.path}: gate")
        if gate.output is not None:
            couplings += tie(main.output, gate.output, block.size, f"{block.path}: gate")
    interface = replace(residual.interface, reads=reads)
    return Backbone(interface, tuple(couplings), residual.external)


def split_and_aggregate_backbone(
    block: Block,
    stem: Sequence[str],
    branches: Sequence[Sequence[str]],
    aggregate: Literal["cat", "add"],
) -> Backbone:
    """A stem, then branches that all read its output, then their concatenation or sum.

    Every layer of the block belongs to the convolution that it follows, or to the next one where it
    shares a container with that one alone; layers in front of the first convolution belong to the
    stem, or else to the first branch.

    Args:
        stem: convolutions of the stem, in order; empty where the branches read the block's input.
        branches: for every branch its convolutions, in the order of the concatenation.
            A branch without any is the identity; it can be added, but not be concatenated
            unless there is a stem.
        aggregate: "cat" along the channels, or "add".

    Raises:
        PrunerError: the block has no convolution of that name.
    """
    _check_names(block, [*stem, *(name for branch in branches for name in branch)])
    parts = _parts(block, [*([stem] if stem else []), *branches])
    # The branch that is concatenated last need not be the one that runs last.
    final = next(reversed(block.layers()), "")
    last = next((part for part in parts if final in part), parts[-1])
    tail = _tail(last, parts[1 if stem else 0 :]) if aggregate == "cat" else {}
    head = row(parts[0]) if stem else Ports()
    rows = [row(part) for part in parts[1 if stem else 0 :]]
    unknown = next((r.unknown for r in (head, *rows) if r.unknown), "")
    shortcut = any(branch.output is None for branch in rows)
    if shortcut and aggregate == "cat" and head.output is None:
        unknown = unknown or f"{block.path}: concatenates its input"
    couplings = list(head.couplings)
    reads = list(head.reads)
    for branch in rows:
        couplings += branch.couplings
        for read in branch.reads:
            if head.output is None:
                reads.append(read)
            else:
                couplings += meet(head.output, read, block.size, block.path)
    outputs = [output for branch in rows if (output := branch.output or head.output) is not None]
    if unknown or not outputs:
        return Backbone(Interface((), None, unknown or f"{block.path}: its branches make nothing"))
    if aggregate == "cat":
        whole = tuple(axis for output in outputs for axis in output)
    else:
        whole = outputs[0]
        for output in outputs[1:]:
            couplings += tie(whole, output, block.size, f"{block.path}: add")
    for path, layer in tail.items():
        for read in ports(path, layer).reads:
            couplings += meet(whole, read, block.size, path)
    return Backbone(
        Interface(tuple(reads), whole), tuple(couplings), shortcut and head.output is None
    )


def _check_names(block: Block, names: Iterable[str]) -> None:
    layers = block.layers()
    for name in names:
        if _join(block.path, name) not in layers and not absent(block.module, name):
            raise PrunerError(
                f"{block.path} ({type(block.module).__name__}): its calculator names '{name}', "
                f"which the block lacks; its layers are: {', '.join(_names_of_layers(block))}"
            )


def _tail(
    last: dict[str, nn.Module], branches: Sequence[Mapping[str, nn.Module]]
) -> dict[str, nn.Module]:
    """Takes the layers behind a concatenation out of the branch that runs last.

    They are the norms as wide as all branches together, and what follows them.
    """
    made = [[m.out_channels for m in part.values() if isinstance(m, _ConvNd)] for part in branches]
    outs = [widths[-1] for widths in made if widths]
    if len(outs) < len(made):
        return {}
    names = list(last)
    own = [m.out_channels for m in last.values() if isinstance(m, _ConvNd)][-1:]
    for i, path in enumerate(names):
        width = getattr(last[path], "num_features", 0)
        if width == sum(outs) and own != [width]:
            return {name: last.pop(name) for name in names[i:]}
    return {}


def _parts(block: Block, groups: Sequence[Sequence[str]]) -> list[dict[str, nn.Module]]:
    """The block's layers, each with the group of convolutions that it belongs to."""
    group_of = {_join(block.path, name): i for i, names in enumerate(groups) for name in names}
    parts: list[dict[str, nn.Module]] = [{} for _ in groups]
    layers = block.layers()
    named = [path for path in layers if path in group_of]
    before = ""
    for path, layer in layers.items():
        after = next(iter(named), "")
        if path == after:
            before = named.pop(0)
        # `branch4.0`, a pooling, belongs to `branch4.1` rather than to `branch3.1` before it.
        nearest = before or after
        if after and _shared(path, after) > _shared(path, nearest):
            nearest = after
        parts[group_of.get(nearest, 0)][path] = layer
    return parts


def _shared(a: str, b: str) -> int:
    """How many containers two layers are both in."""
    pairs = zip(a.split(".")[:-1], b.split(".")[:-1], strict=False)
    return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))


class ResidualCalculator(BackboneCalculator):
    """A row of convolutions, added to the block's input or to that of its downsampling layers."""

    def backbone(self, block: Block) -> Backbone:
        return residual_backbone(block)


class MBConvCalculator(BackboneCalculator):
    """An inverted residual block: it has a shortcut only where it keeps the shape.

    A block whose depthwise convolution has a stride other than 1 adds nothing; neither does one
    without downsampling layers that changes the number of channels.
    """

    def backbone(self, block: Block) -> Backbone:
        convolutions = [m for m in block.main().values() if isinstance(m, _ConvNd)]
        strided = any(m.groups > 1 and set(m.stride) != {1} for m in convolutions)
        widens = bool(convolutions) and (
            convolutions[0].in_channels != convolutions[-1].out_channels
        )
        has_side = row(block.side()).output is not None
        return residual_backbone(block, shortcut=not strided and (has_side or not widens))


class FireCalculator(BackboneCalculator):
    """A squeeze convolution, and the concatenation of the expand convolutions that read it."""

    def backbone(self, block: Block) -> Backbone:
        squeeze, *expand = block.spec.convs
        return split_and_aggregate_backbone(block, [squeeze], [[name] for name in expand], "cat")


class InceptionCalculator(BackboneCalculator):
    """Branches that all read the block's input, concatenated in the order of their names."""

    def backbone(self, block: Block) -> Backbone:
        return split_and_aggregate_backbone(block, [], block.spec.branches, "cat")


class SEResidualCalculator(BackboneCalculator):
    """A residual block whose main branch is scaled by a squeeze-excite gate that reads it."""

    def backbone(self, block: Block) -> Backbone:
        return gated_residual_backbone(block)


class LayerCalculator(DependencyCalculator):
    """A single layer outside of any block."""

    def internal(self, block: Block) -> Iterable[Coupling]:
        return ports(block.path, block.module).couplings

    def external(self, block: Block) -> bool:
        return False

    def interface(self, block: Block) -> Interface:
        layer = ports(block.path, block.module)
        return Interface(layer.reads, layer.output, layer.unknown)


def row(layers: Mapping[str, nn.Module]) -> Ports:
    """The ports of layers that run one after the other.

    Layers that come before the first convolution read what comes into the row.
    """
    reads: list[Read] = []
    couplings: list[Coupling] = []
    output: Stream | None = None
    shapes = {f"{p}.{n}": tuple(t.shape) for p, m in layers.items() for n, t in _own(m)}
    for path, layer in layers.items():
        own = ports(path, layer)
        if own.unknown:
            return Ports(unknown=own.unknown)
        couplings += own.couplings
        if output is None:
            reads += own.reads
        else:
            for read in own.reads:
                couplings += meet(output, read, lambda a: shapes[a.tensor][a.dim], path)
        output = own.output or output
    return Ports(tuple(reads), tuple(couplings), output)


def tie(a: Stream, b: Stream, size: Any, because: str) -> list[Coupling]:
    """Channel i of one stream goes together with channel i of the other.

    Args:
        size: the size of an axis, by axis.
    """
    couplings: list[Coupling] = []
    channels_a, channels_b = _channels(a, size), _channels(b, size)
    if len(channels_a) != len(channels_b):
        raise UnsupportedNetworkError(
            f"{because}: {len(channels_a)} channels of {_names(a)} meet {len(channels_b)} of "
            f"{_names(b)}; expected as many"
        )
    for i, axis_a in enumerate(a):
        for j, axis_b in enumerate(b):
            both = (channels_a[:, 0] == i) & (channels_b[:, 0] == j)
            if both.any():
                couplings.append(
                    Coupling(axis_a, axis_b, channels_a[both, 1], channels_b[both, 1], because)
                )
    return couplings


def meet(stream: Stream, read: Read, size: Any, because: str) -> list[Coupling]:
    """The channels of a stream go together with the positions of an axis that reads them."""
    channels = _channels(stream, size)
    count, positions = len(channels), size(read.axis)
    if read.groups > 1:
        fits = count == positions * read.groups
        left, right = np.arange(count), np.arange(count) % max(1, positions)
    else:
        fits = positions == count or (read.spread and positions % count == 0)
        left, right = (
            np.arange(positions) // max(1, positions // max(1, count)),
            np.arange(positions),
        )
    if not fits:
        raise UnsupportedNetworkError(
            f"{because}: {read.axis} has {positions} positions but meets {count} channels of "
            f"{_names(stream)}; outside of decorated blocks, layers must run one after the other "
            f"in the order of their definition"
        )
    couplings = []
    for i, axis in enumerate(stream):
        from_axis = channels[left, 0] == i
        couplings.append(
            Coupling(axis, read.axis, channels[left[from_axis], 1], right[from_axis], because)
        )
    return couplings


def declared_graph(
    model: nn.Module, example_inputs: Sequence[Any], ignore: Sequence[str] = ()
) -> ChannelGraph:
    """The channel graph of a network whose blocks are decorated and run one after the other.

    Args:
        example_inputs: positional arguments of forward; the first dimension is the batch.
        ignore: globs over module paths; the output channels of matching layers stay.

    Raises:
        PrunerError: a decorator names a wrong or missing layer, or a glob matches no layer.
        UnsupportedNetworkError: the network is no chain of layers and decorated blocks.
    """
    blocks = find_blocks(model)
    for block in blocks.values():
        if block.spec.decorator:
            block.check()
    run = follow(model, example_inputs, {path: block.module for path, block in blocks.items()})

    graph = ChannelGraph(
        {name: tuple(t.shape) for name, t in model.state_dict(keep_vars=True).items()},
        parameters=[name for name, _ in model.named_parameters()],
    )
    weighted = {p: m for p, m in model.named_modules() if is_weighted(m)}
    graph.positions = {f"{path}.weight": n for path, n in run.positions.items()}

    stream: Stream | None = None
    why_frozen = "reads the network's input"
    for path in run.steps:
        block = blocks[path]
        calculator = calculator_of(path, block.spec)
        interface, couplings = calculator.interface(block), tuple(calculator.internal(block))
        check_axes(graph, block, type(calculator).__name__, interface, couplings)
        for coupling in couplings:
            graph.couple(coupling)
        for read in interface.reads:
            if stream is None:
                graph.freeze(read.axis, why_frozen)
            else:
                for coupling in meet(stream, read, graph.size, path):
                    graph.couple(coupling)
        if interface.unknown:
            _freeze_all(graph, stream, block, interface.unknown)
            stream, why_frozen = None, interface.unknown
            continue
        if interface.output is None:
            continue
        if calculator.external(block):
            if stream is None:
                for axis in interface.output:
                    graph.freeze(axis, f"{path}: added to a tensor of which nothing is known")
            else:
                for coupling in tie(stream, interface.output, graph.size, f"{path}: add"):
                    graph.couple(coupling)
        stream = interface.output
    for axis in stream or ():
        graph.freeze(axis, "is an output of the network")
    ran = set(run.positions)
    for path, layer in weighted.items():
        if path in ran:
            rows, columns = weight_axes(path, layer)
            graph.add(rows, role="out")
            if columns in graph.graph:  # a depthwise convolution has none to lose
                graph.add(columns, role="in")
    for path in sorted(match_layers(ignore, weighted)):
        graph.freeze(weight_axes(path, weighted[path])[0], "--ignore")
    for path in skipped_layers(model, weighted):
        graph.freeze(weight_axes(path, weighted[path])[0], "@skip")
    return graph


def check_axes(
    graph: ChannelGraph,
    block: Block,
    calculator: str,
    interface: Interface,
    couplings: Sequence[Coupling],
) -> None:
    """Raises PrunerError where a calculator speaks of layers or positions that there are not."""
    used = [read.axis for read in interface.reads] + [*(interface.output or ())]
    used += [axis for coupling in couplings for axis in (coupling.a, coupling.b)]
    own = _join(block.path, "")
    unknown = [a for a in used if len(graph.shapes.get(a.tensor, ())) <= a.dim]
    foreign = [a for a in used if a not in unknown and not a.tensor.startswith(own)]
    for axes, why in ((unknown, "of which the network has none"), (foreign, "outside of it")):
        if axes:
            names = ", ".join(dict.fromkeys(str(axis) for axis in axes))
            raise PrunerError(
                f"{block.path} ({type(block.module).__name__}): {calculator} returned {names}, "
                f"{why}; the block's layers are: {', '.join(_names_of_layers(block))}"
            )
    for c in couplings:
        for axis, positions in ((c.a, c.left), (c.b, c.right)):
            outside = positions[(positions < 0) | (positions >= graph.size(axis))]
            if len(c.left) != len(c.right) or len(outside):
                raise PrunerError(
                    f"{block.path} ({type(block.module).__name__}): {calculator} coupled "
                    f"{len(c.left)} positions of {c.a} with {len(c.right)} of {c.b}; expected as "
                    f"many of both, below {graph.size(c.a)} and {graph.size(c.b)}"
                )


def _names_of_layers(block: Block) -> list[str]:
    return [path.removeprefix(f"{block.path}.") for path in block.layers()]


def skipped_layers(model: nn.Module, weighted: Mapping[str, nn.Module]) -> list[str]:
    """The layers that @skip decorators name.

    Raises:
        PrunerError: one of them is no convolution or Linear of its class.
    """
    layers = []
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        for name in skipped_convs(module):
            if prefix + name in weighted:
                layers.append(prefix + name)
            elif not absent(module, name):
                has = ", ".join(p.removeprefix(prefix) for p in weighted if p.startswith(prefix))
                raise PrunerError(
                    f"{path or 'the network'} ({type(module).__name__}): @skip names '{name}', "
                    f"which is no convolution or Linear of it; it has: {has or 'none'}"
                )
    return layers


def find_blocks(model: nn.Module) -> dict[str, Block]:
    """Decorated blocks and, outside of them, layers with parameters or buffers, as defined."""
    found: dict[str, Block] = {}

    def visit(path: str, module: nn.Module) -> None:
        spec = block_spec(module)
        if spec is not None:
            found[path] = Block(path, module, spec)
            return
        if holds_state(module):
            found[path] = Block(path, module, BlockSpec("", "layer", ()))
        for name, child in module.named_children():
            visit(_join(path, name), child)

    for name, child in model.named_children():
        visit(name, child)
    return found


def _freeze_all(graph: ChannelGraph, stream: Stream | None, block: Block, because: str) -> None:
    for axis in stream or ():
        graph.freeze(axis, because)
    for name, tensor in block.module.state_dict(keep_vars=True).items():
        for dim in range(tensor.dim()):
            graph.freeze(Axis(_join(block.path, name), dim), because)


def _channels(stream: Stream, size: Any) -> Any:
    """Shape (channels, 2): for every channel of the stream, which of its axes, and where on it."""
    parts = [np.stack([np.full(size(a), i), np.arange(size(a))], 1) for i, a in enumerate(stream)]
    return np.concatenate(parts)


def _own(module: nn.Module) -> Iterable[tuple[str, Any]]:
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None:
            yield name, tensor


def _names(stream: Stream) -> str:
    return " + ".join(str(axis) for axis in stream)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def absent(module: nn.Module, name: str) -> bool:
    """Whether the name is there for a layer that this instance does without: None, or empty."""
    value: Any = module
    for part in name.split("."):
        if not _has_attribute(value, part):
            return False
        value = value._modules[part] if part in value._modules else getattr(value, part)
        empty = isinstance(value, nn.Sequential) and next(value.children(), None) is None
        if value is None or empty or isinstance(value, nn.Identity):
            return True
    return False


def _has_attribute(module: nn.Module, path: str) -> bool:
    value: Any = module
    for part in path.split("."):
        if isinstance(value, nn.Module) and part in value._modules:
            value = value._modules[part]
        elif hasattr(value, part):
            value = getattr(value, part)
        else:
            return False
    return True


register_calculator("layer", LayerCalculator())

# `Read` and `same` are part of what an own calculator needs; offered from here with row and tie.
__all__ = [
    "Backbone",
    "BackboneCalculator",
    "Block",
    "DependencyCalculator",
    "FireCalculator",
    "InceptionCalculator",
    "Interface",
    "LayerCalculator",
    "MBConvCalculator",
    "Read",
    "ResidualCalculator",
    "SEResidualCalculator",
    "declared_graph",
    "find_blocks",
    "gated_residual_backbone",
    "meet",
    "residual_backbone",
    "row",
    "same",
    "split_and_aggregate_backbone",
    "tie",
]
