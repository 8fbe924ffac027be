"""Decorators that say what a block is made of.

A decorator attaches a frozen description to the class and does nothing else: the class stays
importable, picklable and scriptable. It also works on a class that somebody else wrote:

    from torchvision.models.resnet import Bottleneck
    bottleneck(lType="tv_bottleneck", convs=["conv1", "conv2", "conv3"],
               downsampling=["downsample"])(Bottleneck)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from torch import nn

from pruners.blocks import (
    ATTRIBUTE,
    SKIP_ATTRIBUTE,
    BlockSpec,
    register_calculator,
    register_transfer_func,
    register_writer,
)
from pruners.dependencies import (
    DependencyCalculator,
    FireCalculator,
    InceptionCalculator,
    MBConvCalculator,
    ResidualCalculator,
    SEResidualCalculator,
)
from pruners.errors import PrunerError

if TYPE_CHECKING:
    from pruners.blocks import BlockWriter, TransferFunction

Block = TypeVar("Block", bound=type[nn.Module])


class BlockDecorator(Protocol):
    """What `block_decorator` makes; its arguments are those of `basic_block`."""

    def __call__(
        self, lType: str, convs: Sequence[str], downsampling: Sequence[str] = ()
    ) -> Callable[[Block], Block]: ...


def basic_block(
    lType: str, convs: Sequence[str], downsampling: Sequence[str] = ()
) -> Callable[[Block], Block]:
    """Two convolutions (or more) in a row, added to the block's input or to its downsampling.

    Args:
        lType: name of the block type. Classes may share it where they work alike.
        convs: the names of all convolutions of the main branch, in the order in which they run.
        downsampling: the names of the layers of the shortcut. A layer that is None or an empty
            Sequential means that the block adds its input as it is.
    """
    return _describe("basic_block", ResidualCalculator(), lType, convs, downsampling)


def bottleneck(
    lType: str, convs: Sequence[str], downsampling: Sequence[str] = ()
) -> Callable[[Block], Block]:
    """Convolutions 1x1, 3x3, 1x1 in a row, added to the block's input or to its downsampling.

    The arguments are those of `basic_block`.
    """
    return _describe("bottleneck", ResidualCalculator(), lType, convs, downsampling)


def mb_conv(
    lType: str, convs: Sequence[str], downsampling: Sequence[str] = ()
) -> Callable[[Block], Block]:
    """An inverted residual block: expand, depthwise and project convolutions in a row.

    The arguments are those of `basic_block`. A block whose depthwise convolution has a stride
    other than 1 has no shortcut; otherwise a missing or empty downsampling layer means that the
    block adds its input as it is, provided that it keeps the number of channels.
    """
    return _describe("mb_conv", MBConvCalculator(), lType, convs, downsampling)


def fire(lType: str, convs: Sequence[str]) -> Callable[[Block], Block]:
    """A squeeze convolution and expand convolutions that read it; they are concatenated.

    Args:
        lType: name of the block type.
        convs: the squeeze convolution, then the expand convolutions in the order in which they
            are concatenated.
    """
    if not isinstance(convs, str) and len(tuple(convs)) < 2:
        raise PrunerError(
            f"@fire(convs={list(convs)}): expected the squeeze convolution and at least one "
            f"expand convolution"
        )
    return _describe("fire", FireCalculator(), lType, convs)


def inception(lType: str, branches: Sequence[Sequence[str]]) -> Callable[[Block], Block]:
    """Branches side by side that read the block's input; they are concatenated.

    Layers that are no convolutions, such as norms and poolings, are not named: they belong to the
    convolution that they follow, or to the one that they share a container with.

    Args:
        lType: name of the block type.
        branches: for every branch the names of its convolutions in the order in which they run;
            the branches in the order in which they are concatenated.
    """
    if isinstance(branches, str) or any(isinstance(branch, str) for branch in branches):
        raise PrunerError(
            f"@inception(branches={branches!r}): expected a list of names for every branch, such "
            f"as [['conv1'], ['conv2', 'conv3']]"
        )
    named = tuple(tuple(branch) for branch in branches)
    if len(named) < 2:
        raise PrunerError(
            f"@inception(branches={[list(branch) for branch in named]}): expected at least two "
            f"branches"
        )
    convs = _names("inception", "branches", [name for branch in named for name in branch])
    spec = BlockSpec("inception", lType, convs, branches=named)
    return _attach(spec, InceptionCalculator())


def se_residual(
    lType: str, convs: Sequence[str], downsampling: Sequence[str] = (), gate: Sequence[str] = ()
) -> Callable[[Block], Block]:
    """A residual block with squeeze-excite: a gate reads the main branch and scales its channels.

    Args:
        lType: as for `basic_block`.
        convs: as for `basic_block`.
        downsampling: as for `basic_block`.
        gate: the names of the gate's layers, convolutions or Linears, in the order in which they
            run. The gate scales what its first layer reads.
    """
    gate = _names("se_residual", "gate", gate)
    if not gate:
        raise PrunerError(
            "@se_residual(gate=[]): name the layers of the gate; without one, use @basic_block"
        )
    spec = BlockSpec(
        "se_residual",
        lType,
        _names("se_residual", "convs", convs),
        _names("se_residual", "downsampling", downsampling),
        gate=gate,
    )
    for name in gate:
        if name in spec.convs:
            raise PrunerError(f"@se_residual: '{name}' is named in convs and in gate")
    return _attach(spec, SEResidualCalculator())


def block_decorator(
    name: str,
    calculator: DependencyCalculator | None = None,
    writer: BlockWriter | None = None,
    transfer: TransferFunction | None = None,
) -> BlockDecorator:
    """A decorator for a kind of block of your own.

        tri_block = block_decorator("tri_block", TriCalculator())

        @tri_block(lType="tri_block", convs=["conv1", "conv3", "conv5"])
        class TriBlock(nn.Module): ...

    Args:
        name: the decorator's, for messages.
        calculator: how the block's channels are coupled; without one, it is to be registered with
            `register_calculator` before a network is pruned.
        writer: see `register_writer`; without one, the general writer does the work.
        transfer: see `register_transfer_func`; without one, the general function does the work.
    """

    def decorate(
        lType: str, convs: Sequence[str], downsampling: Sequence[str] = ()
    ) -> Callable[[Block], Block]:
        attach = _describe(name, calculator, lType, convs, downsampling)
        if writer is not None:
            register_writer(lType, writer)
        if transfer is not None:
            register_transfer_func(lType, transfer)
        return attach

    return decorate


def skip(convs: Sequence[str]) -> Callable[[Block], Block]:
    """Layers of a block or network that never lose output channels.

    Args:
        convs: paths of convolutions or Linears, relative to the class.
    """
    names = _names("skip", "convs", convs)
    if not names:
        raise PrunerError("@skip(convs=[]): name at least one convolution")

    def attach(cls: Block) -> Block:
        _check_class("skip", cls)
        setattr(cls, SKIP_ATTRIBUTE, names)
        return cls

    return attach


def _describe(
    decorator: str,
    calculator: DependencyCalculator | None,
    lType: str,
    convs: Sequence[str],
    downsampling: Sequence[str] = (),
) -> Callable[[Block], Block]:
    spec = BlockSpec(
        decorator,
        lType,
        _names(decorator, "convs", convs),
        _names(decorator, "downsampling", downsampling),
    )
    return _attach(spec, calculator)


def _attach(spec: BlockSpec, calculator: DependencyCalculator | None) -> Callable[[Block], Block]:
    if not spec.convs:
        argument = "branches" if spec.branches else "convs"
        raise PrunerError(
            f"@{spec.decorator}({argument}=[]): name at least one convolution of the block"
        )
    if calculator is not None:
        register_calculator(spec.lType, calculator)

    def attach(cls: Block) -> Block:
        _check_class(spec.decorator, cls)
        setattr(cls, ATTRIBUTE, spec)
        return cls

    return attach


def _check_class(decorator: str, cls: object) -> None:
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise PrunerError(f"@{decorator} on {cls!r}: expected a subclass of torch.nn.Module")


def _names(decorator: str, argument: str, names: Sequence[str]) -> tuple[str, ...]:
    listed = (names,) if isinstance(names, str) else tuple(names)
    for name in listed:
        if not isinstance(name, str) or not all(part for part in name.split(".")):
            raise PrunerError(
                f"@{decorator}({argument}=...): {name!r} is not the name of a layer; "
                f"expected names such as 'conv1' or 'body.0'"
            )
    if len(set(listed)) < len(listed):
        raise PrunerError(f"@{decorator}({argument}={list(listed)}): a name appears twice")
    return listed
