"""One call of an operator, and what is read of its arguments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(slots=True)
class Call:
    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any

    def arg(self, i: int, default: Any = None) -> Any:
        return self.args[i] if len(self.args) > i else default

    def named(self, name: str, default: Any = None) -> Any:
        """An argument by its name in the schema."""
        for i, argument in enumerate(self.func._schema.arguments):
            if argument.name == name:
                return self.kwargs.get(name, self.arg(i, default))
        return default

    def tensors(self) -> list[Tensor]:
        return tensors_in((*self.args, *self.kwargs.values()))

    @property
    def x(self) -> Tensor:
        found: Tensor = self.args[0]
        return found


def tensors_in(values: Iterable[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found.extend([v for v in value if isinstance(v, Tensor)])
    return found


def normal_dims(dims: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """Dimensions as an operator takes them (None and () mean all), as numbers from 0."""
    if dims is None or (not isinstance(dims, int) and not len(dims)):
        return tuple(range(rank))
    return tuple(d % max(rank, 1) for d in ((dims,) if isinstance(dims, int) else dims))


def words(text: str) -> list[str]:
    return text.split()
