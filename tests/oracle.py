"""Is a traced graph right? Remove half of all removable units and compare two networks.

One is the network sliced and run (`replay`), the other the full network with everything that did
not survive set to zero, by plain assignment in a copy. For operators that count channels the
latter runs with those operators restricted to the surviving channels (`restricted`).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruners.channel_graph import ChannelGraph, Units, kept_of
from pruners.replay import Correction, replay, restricted, trace
from pruners.tracing import Trace, examples_of, nested_tensors


@dataclass(frozen=True)
class Outcome:
    trace: Trace
    units: Units
    kept: dict[str, tuple[np.ndarray, ...]]
    error: float
    corrections: list[Correction]

    @property
    def graph(self) -> ChannelGraph:
        return self.trace.graph

    def removed(self, tensor: str, dim: int) -> int:
        return self.graph.shapes[tensor][dim] - len(self.kept[tensor][dim])


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Distinct values everywhere: wrong indices must not stay hidden."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            values = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            if name.endswith("running_var"):
                tensor.copy_(values.abs() + 0.5)
            elif name.endswith("running_mean"):
                tensor.copy_(values * 0.1)
            elif tensor.dim() == 1:
                tensor.copy_(1 + 0.2 * values if "weight" in name else 0.2 * values)
            elif tensor.dim() > 1 and (tensor == tensor.flatten()[0]).all():
                tensor.copy_(values)
    return model


def half(units: Units, seed: int = 0) -> np.ndarray:
    """About half of the removable units stay, and at least one position of every axis."""
    rng = np.random.default_rng(seed)
    stays = units.frozen | (rng.random(units.count) < 0.5)
    for axis in units.axes:
        if not stays[units.of(axis)].any():
            stays[rng.choice(units.of(axis))] = True
    return stays


def silenced(model: nn.Module, kept: dict[str, tuple[np.ndarray, ...]]) -> nn.Module:
    result = copy.deepcopy(model)
    with torch.no_grad():
        for name, tensor in result.state_dict().items():
            gone = torch.zeros(tensor.shape, dtype=torch.bool)
            for dim, indices in enumerate(kept[name]):
                here = torch.ones(tensor.shape[dim], dtype=torch.bool)
                here[torch.as_tensor(indices)] = False
                gone |= here.view([-1 if d == dim else 1 for d in range(tensor.dim())])
            tensor[gone] = 1 if name.endswith("running_var") else 0
    return result


def outputs(value: Any) -> list[Tensor]:
    return [x for x in nested_tensors(value) if x.is_floating_point()]


def difference(ours: Any, theirs: Any) -> float:
    """Largest difference relative to the largest value; NaN counts as infinite."""
    ours, theirs = outputs(ours), outputs(theirs)
    assert len(ours) == len(theirs) > 0
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        if b.numel() == 0:
            continue
        error = float((a - b).abs().max() / b.abs().max().clamp_min(1e-30))
        worst = max(worst, error if error == error else float("inf"))
    return worst


def parity(
    model: nn.Module,
    example: Any,
    *,
    rewritable: bool = True,
    seed: int = 0,
    stays: np.ndarray | None = None,
) -> Outcome:
    """Trace, remove half, compare; the model is randomised in place and turned to float64."""
    model = randomise(model.double().eval(), seed)
    example = _double(example)
    found = trace(model, example, rewritable=rewritable)
    units = found.graph.units()
    kept = kept_of(found.graph.shapes, units, half(units, seed) if stays is None else stays)
    ours = replay(model, found, kept)
    if units.renormalised:
        theirs = restricted(model, found, kept)
    else:
        args, kwargs = examples_of(model, example)[0]
        with torch.no_grad():
            theirs = silenced(model, kept)(*args, **kwargs)
    return Outcome(found, units, kept, difference(ours.output, theirs), ours.corrections)


def _double(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, (list, tuple)):
        return type(value)(_double(v) for v in value)
    if isinstance(value, dict):
        return {k: _double(v) for k, v in value.items()}
    return value
