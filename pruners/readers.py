"""Who asks, while a network runs, whether it trains and how wide it is.

Most forwards do neither: then a run in training has the operators of one in evaluation, and no
size in the forward can be wrong once channels are gone. Knowing that saves two of three runs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType
from typing import Any

from torch import Tensor, nn


@dataclass(slots=True)
class Readers:
    """What code outside PyTorch has read."""

    training: bool = False
    widths: bool = False
    """The shape of a tensor, or an attribute of a layer that says how wide it is."""


_WIDTHS: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.modules.conv._ConvNd, "in_channels"),
    (nn.modules.conv._ConvNd, "out_channels"),
    (nn.modules.conv._ConvNd, "groups"),
    (nn.Linear, "in_features"),
    (nn.Linear, "out_features"),
    (nn.modules.batchnorm._NormBase, "num_features"),
    (nn.LayerNorm, "normalized_shape"),
    (nn.GroupNorm, "num_channels"),
    (nn.GroupNorm, "num_groups"),
    (nn.Embedding, "embedding_dim"),
    (nn.Embedding, "num_embeddings"),
    (nn.PReLU, "num_parameters"),
)
_OF_TENSOR = ("shape", "size", "numel", "nelement", "__len__")
_OURS = ("torch.", "pruners.")
"""Packages of no network, whatever modules their code is in."""

_inside: set[CodeType] = set()


def _from_outside() -> bool:
    """Whether the code that reads belongs neither to PyTorch nor to the trace itself."""
    caller = sys._getframe(2)
    if caller.f_code in _inside:
        return False
    if f"{caller.f_globals.get('__name__', '')}.".startswith(_OURS):
        _inside.add(caller.f_code)
        return False
    return True


@contextmanager
def reading() -> Iterator[Readers]:
    """Notes who reads `training` and widths while this is open.

    A property on the class comes before the instances' own entries, which it returns and changes.
    """
    found = Readers()

    def get_training(module: nn.Module) -> bool:
        # StochasticDepth only passes it on to a function that keeps shapes and labels.
        if _from_outside() and (
            sys._getframe(1).f_globals["__name__"] != "torchvision.ops.stochastic_depth"
        ):
            found.training = True
        return bool(module.__dict__["training"])

    def attribute(name: str) -> property:
        def get(module: nn.Module) -> Any:
            if _from_outside():
                found.widths = True
            try:
                return module.__dict__[name]
            except KeyError:
                raise AttributeError(name) from None

        return property(get, _setter(name))

    def of_tensor(name: str) -> Any:
        original = getattr(Tensor, name)
        if name == "shape":
            of = original.__get__

            def shape(x: Tensor) -> Any:
                # Thousands of reads, nearly all of them the rules': one call less for each.
                if sys._getframe(1).f_code not in _inside and _from_outside():
                    found.widths = True
                return of(x)

            return property(shape)

        def method(x: Tensor, *args: Any, **kwargs: Any) -> Any:
            if _from_outside():
                found.widths = True
            return original(x, *args, **kwargs)

        return method

    own = {name: vars(Tensor)[name] for name in _OF_TENSOR if name in vars(Tensor)}
    nn.Module.training = property(get_training, _setter("training"))  # type: ignore[assignment]
    try:
        for kind, name in _WIDTHS:
            setattr(kind, name, attribute(name))
        replaced = {name: of_tensor(name) for name in _OF_TENSOR}
        for name, value in replaced.items():
            setattr(Tensor, name, value)
        yield found
    finally:
        del nn.Module.training
        for kind, name in _WIDTHS:
            if name in vars(kind):
                delattr(kind, name)
        for name in _OF_TENSOR:
            if name in own:
                setattr(Tensor, name, own[name])
            elif name in vars(Tensor):
                delattr(Tensor, name)


def _setter(name: str) -> Any:
    def put(module: nn.Module, value: Any) -> None:
        module.__dict__[name] = value

    return put
