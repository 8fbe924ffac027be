"""Block types: what a decorator's `lType` stands for.

One `BlockType` serves the whole way: its calculator says which channels are coupled, its writer
how the block is written, its transfer function how its weights are copied. Writer and transfer
function may be left out: the general ones, which need no description, then do the work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from pruners.errors import PrunerError, did_you_mean

if TYPE_CHECKING:
    from pruners.dependencies import DependencyCalculator
    from pruners.expressions import Expr
    from pruners.weight_transfer import WeightTransferUnit

    BlockWriter = Callable[[nn.Module], Mapping[str, Expr | Any]]
    TransferFunction = Callable[[WeightTransferUnit], Mapping[str, Tensor]]


ATTRIBUTE = "__pruner_block__"


@dataclass(frozen=True, slots=True)
class BlockSpec:
    """What a decorator says of a block; layer names are paths relative to the block."""

    decorator: str
    lType: str
    convs: tuple[str, ...]
    downsampling: tuple[str, ...] = ()
    branches: tuple[tuple[str, ...], ...] = ()
    """The names in `convs`, by parallel branch; empty where there is but one."""
    gate: tuple[str, ...] = ()
    """Layers whose output scales the channels that they read."""


def block_spec(module: nn.Module) -> BlockSpec | None:
    """The description that a decorator attached to the module's class, if any."""
    spec = getattr(type(module), ATTRIBUTE, None)
    return spec if isinstance(spec, BlockSpec) else None


SKIP_ATTRIBUTE = "__pruner_skip__"


def skipped_convs(module: nn.Module) -> tuple[str, ...]:
    """The layers that `@skip` names for the module's class, relative to the module."""
    names = getattr(type(module), SKIP_ATTRIBUTE, ())
    return names if isinstance(names, tuple) else ()


@dataclass(frozen=True, slots=True)
class BlockType:
    """How blocks of one kind are analysed, written and filled."""

    name: str
    calculator: DependencyCalculator | None = None
    writer: BlockWriter | None = None
    transfer: TransferFunction | None = None


BLOCK_TYPES: dict[str, BlockType] = {}


def register_calculator(lType: str, calculator: DependencyCalculator) -> None:
    """Let `calculator` find the couplings in blocks of this type.

    Registering an equal calculator again is harmless; another one under the same name is refused.
    The same goes for the other two parts.
    """
    known = BLOCK_TYPES.get(lType, BlockType(lType))
    if type(known.calculator) is type(calculator) and known.calculator != calculator:
        raise PrunerError(
            f"block type '{lType}': already registered with another {type(calculator).__name__}, "
            f"whose attributes differ; give one of the two another lType"
        )
    _refuse_another(lType, "calculator", known.calculator, calculator)
    BLOCK_TYPES[lType] = replace(known, calculator=calculator)


def register_writer(lType: str, writer: BlockWriter) -> None:
    """Let `writer(block)` say how blocks of this type build themselves.

    It gets the slim block and returns, in the order of `__init__`, an expression (or a plain
    value) for every attribute; `write_conv` and the others make those of torch.nn layers.
    """
    known = BLOCK_TYPES.get(lType, BlockType(lType))
    _refuse_another(lType, "writer", known.writer, writer)
    BLOCK_TYPES[lType] = replace(known, writer=writer)


def register_transfer_func(lType: str, transfer: TransferFunction) -> None:
    """Let `transfer(unit)` fill blocks of this type.

    It gets a `WeightTransferUnit` (the block's full tensors and the indices that stay) and
    returns the slim tensors by name.
    """
    known = BLOCK_TYPES.get(lType, BlockType(lType))
    _refuse_another(lType, "transfer function", known.transfer, transfer)
    BLOCK_TYPES[lType] = replace(known, transfer=transfer)


def block_type(lType: str) -> BlockType:
    """The registered type; an error that offers near names for an unknown one."""
    if lType not in BLOCK_TYPES:
        raise PrunerError(
            f"block type '{lType}': not registered{did_you_mean(lType, BLOCK_TYPES)}; "
            f"known are {', '.join(sorted(BLOCK_TYPES)) or 'none'} (see register_calculator)"
        )
    return BLOCK_TYPES[lType]


def calculator_of(path: str, spec: BlockSpec) -> DependencyCalculator:
    """The calculator of a block's type; PrunerError where the type has none."""
    calculator = block_type(spec.lType).calculator
    if calculator is None:
        raise PrunerError(
            f"{path} (@{spec.decorator}): block type '{spec.lType}' has no calculator, so nothing "
            f"says how its channels are coupled; register one with "
            f"register_calculator('{spec.lType}', ...)"
        )
    return calculator


def _refuse_another(lType: str, part: str, known: object, new: object) -> None:
    """PrunerError where two things serve one name, unless one is the other's newer definition."""
    if known is None or known is new:
        return
    if _definition(known) == _definition(new) and "<lambda>" not in _definition(new)[1]:
        return
    raise PrunerError(
        f"block type '{lType}': already registered with the {part} {_definition(known)[1]}, now "
        f"with {_definition(new)[1]}; give one of the two another lType"
    )


def _definition(part: object) -> tuple[str, str]:
    """Module and name: equal for a cell of a notebook that has run twice."""
    named = part if hasattr(part, "__qualname__") else type(part)
    return str(named.__module__), str(getattr(named, "__qualname__", named))
