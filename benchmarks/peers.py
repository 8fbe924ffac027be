"""Pruners side by side: how each is called, and whether what it hands over is right.

Every adapter takes a network, an example and a share of the channels, and returns a smaller
network; the one that it was given stays as it was. None is told more than a user would tell it:
the layers that end the network, where a tool cannot see them.
"""

from __future__ import annotations

import copy
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch
from torch import Tensor, nn

from pruners import prune
from pruners.channel_graph import Indices, Kept
from pruners.errors import PrunerError, UnsupportedNetworkError
from pruners.metrics import count_parameters
from pruners.replay import restricted, trace
from pruners.tracing import nested_tensors
from pruners.verify import expected_outputs
from pruners.verify_child import MismatchError, compare, flatten_output

Inputs = Tensor | tuple[Tensor, ...]
Tool = Callable[[nn.Module, Inputs, float], nn.Module]

CLASSES = 1000
"""As many outputs has the last layer of every network here."""
MEMORY_GB = 14
"""Of address space, of which torch takes four at the start."""
TOLERANCE = 1e-9
"""Relative, in float64: rounding makes 1e-13 at most, a wrong index 1e-3 at least."""


def ours(model: nn.Module, x: Inputs, share: float) -> nn.Module:
    """Source, import and all: the network that a user gets.

    The share is of the parameters; less where the network has not so much that could go.
    """
    for part in (1, 0.5, 0.2):
        try:
            return prune(model, x, 100 * share * part).model
        except UnsupportedNetworkError:
            raise
        except PrunerError as error:
            last = error
    raise last


def torch_pruning(model: nn.Module, x: Inputs, share: float, **options: object) -> nn.Module:
    """`BasePruner` with the L1 norm, as its README shows."""
    return torch_pruning_step(model, x, share, **options)()


def torch_pruning_step(
    model: nn.Module,
    x: Inputs,
    share: float,
    ends: Sequence[str] | None = None,
    **options: object,
) -> Callable[[], nn.Module]:
    """What is left to do once the network has been copied.

    Args:
        ends: the layers that make the output; by default those as wide as there are classes.
    """
    import torch_pruning as tp

    fresh = copy.deepcopy(model)
    if ends is None:
        last = [layer for _, layer in layers(fresh) if _width(layer) == CLASSES]
    else:
        last = [fresh.get_submodule(name) for name in ends]

    def step() -> nn.Module:
        tp.pruner.BasePruner(
            fresh,
            x,
            tp.importance.GroupMagnitudeImportance(p=1),
            pruning_ratio=share,
            ignored_layers=last,
            **options,
        ).step()
        return fresh

    return step


def torch_ao(model: nn.Module, x: Inputs, share: float) -> nn.Module:
    """`SaliencyPruner` of `torch.ao.pruning`, on every layer that it could take."""
    from torch.ao.pruning._experimental.pruner import SaliencyPruner

    fresh = copy.deepcopy(model)
    pruner = SaliencyPruner(defaults={"sparsity_level": share, "prune_bias": True})
    wanted = [
        {"tensor_fqn": f"{name}.weight"}
        for name, layer in layers(fresh)
        if _width(layer) != CLASSES and getattr(layer, "groups", 1) == 1
    ]
    pruner.prepare(fresh, wanted)
    pruner.enable_mask_update = True
    pruner.step()
    return pruner.prune()


def nni(model: nn.Module, x: Inputs, share: float) -> nn.Module:
    """`L1NormPruner` and `ModelSpeedup`."""
    from nni.compression.pruning import L1NormPruner
    from nni.compression.speedup import ModelSpeedup

    fresh = copy.deepcopy(model)
    pruner = L1NormPruner(fresh, [{"op_types": ["Conv2d"], "sparse_ratio": share}])
    _, masks = pruner.compress()
    pruner.unwrap_model()
    return ModelSpeedup(fresh, x, masks).speedup_model()


def limit_memory() -> None:
    """Make allocations beyond `MEMORY_GB` fail, before the machine ends the process."""
    most = MEMORY_GB * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def tools() -> dict[str, Tool]:
    """Those that are installed, by name and version; ours first."""
    found: dict[str, Tool] = {"pruners": ours}
    found[f"torch-pruning {version('torch-pruning')}"] = torch_pruning
    found[f"torch.ao {torch.__version__.partition('+')[0]}"] = torch_ao
    with suppress(PackageNotFoundError):
        found[f"nni {version('nni')}"] = nni
    return found


def layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The convolutions and Linears, with their names."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            yield name, module


def _width(layer: nn.Module) -> int:
    return int(getattr(layer, "out_features", 0) or getattr(layer, "out_channels", 0))


# --- is it right? ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be said of a smaller network, in a word, and the figure that it rests on."""

    word: str
    """`equal`, `differs`, `nothing removed`, or why there is nothing to compare."""
    error: float = 0.0
    """The largest difference, relative to the largest output."""

    @property
    def good(self) -> bool:
        return self.word == "equal"

    def __str__(self) -> str:
        return f"{self.word} {self.error:.0e}" if self.word in ("equal", "differs") else self.word


def judged(model: nn.Module, x: Inputs, tool: Tool, share: float) -> Verdict:
    """What the tool makes of the network: run, compared with the masked original, trained.

    Args:
        model: in float64, with values that are all different.
    """
    try:
        slim = tool(model, x, share).eval()
    except Exception as error:
        return Verdict(f"fails: {short(error)}")
    try:
        with torch.no_grad():
            found = slim(*_copies(x))
    except Exception as error:
        return Verdict(f"does not run: {short(error)}")
    if count_parameters(slim) == count_parameters(model):
        return Verdict("nothing removed")
    try:
        kept = recovered(model, slim)
    except ValueError as error:
        return Verdict(f"not comparable: {error}")
    error = min(_difference(found, expected) for expected in _expected(model, kept, x))
    if not error < TOLERANCE:
        return Verdict("differs", error)
    try:
        twice = (torch.cat([each, each]) for each in _copies(x))
        sum(y.sum() for y in nested_tensors(slim.train()(*twice)) if y.requires_grad).backward()
    except Exception as failure:
        return Verdict(f"does not train: {short(failure)}")
    return Verdict("equal", error)


def distinct(model: nn.Module) -> nn.Module:
    """The network in float64 (in place), each value a little off: float32 repeats its values."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in model.double().state_dict().values():
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
                tensor.mul_(1 + 1e-6 * noise)
    return model


def recovered(full: nn.Module, slim: nn.Module) -> Kept:
    """The indices that the tensors of `slim` have in those of `full`, found by their values.

    So no tool is asked what it did. All values of a tensor of `full` must be different.

    Raises:
        ValueError: other keys, or a tensor that is no sub-tensor.
    """
    ours, theirs = slim.state_dict(), full.state_dict()
    other = sorted(set(ours) ^ set(theirs))
    if other:
        raise ValueError(f"other keys ({other[0]})")
    return {name: _places(name, theirs[name], ours[name]) for name in theirs}


def _places(name: str, full: Tensor, slim: Tensor) -> tuple[Indices, ...]:
    if full.shape == slim.shape and torch.equal(full, slim):
        return tuple(np.arange(size) for size in full.shape)
    values = full.detach().flatten().numpy()
    order = np.argsort(values)
    places = []
    for dim in range(full.dim()):
        line = slim.detach()[tuple(slice(None) if d == dim else 0 for d in range(slim.dim()))]
        at = np.searchsorted(values, line.numpy(), sorter=order).clip(max=len(order) - 1)
        places.append(np.unravel_index(order[at], full.shape)[dim])
    found = full
    for dim, indices in enumerate(places):
        found = found.index_select(dim, torch.from_numpy(indices))
    if not torch.equal(found, slim):
        raise ValueError(f"{name} is no part of the original's")
    return tuple(places)


def _expected(model: nn.Module, kept: Kept, x: Inputs) -> Iterator[object]:
    """The original with the removed channels silenced; then with operators that count restricted.

    Which of the two a network of norms over channels should equal, a tool may choose.
    """
    yield expected_outputs(model, kept, _copies(x))
    try:
        yield restricted(model, trace(model, x, rewritable=True), kept)
    except (PrunerError, RuntimeError):
        return


def _copies(x: Inputs) -> tuple[Tensor, ...]:
    """A network may write into its input."""
    return tuple(each.clone() for each in (x if isinstance(x, tuple) else (x,)))


def _difference(ours: object, theirs: object) -> float:
    try:
        return compare(flatten_output(ours), flatten_output(theirs))
    except MismatchError:
        return float("inf")


def short(error: Exception) -> str:
    """The kind of an error and the end of its text's first line that fits a table."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}{f' ({text[:60]})' if text else ''}"
