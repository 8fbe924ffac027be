"""UnitMem: how much a unit remembers single images.

For each of n images a unit's activation is averaged over its feature map and over k augmentations
of the image. A unit that answers to one image alone has memorised it:

    UnitMem = (max - mean of the others) / (max + mean of the others)

is 1 for a unit that fires for one image only, 0 for one that fires for all alike or for none (Wang
et al., "Localizing Memorization in SSL Vision Encoders", 2024, section 4.2).

All units of all layers are measured in one pass. Where they are is read off the channel graph: the
output of every ReLU-like function, whatever it is called and wherever it is, and the convolutions
whose channels arrive there (`activations.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruners.activations import RELU_LIKE, Use, uses_of
from pruners.analysis import analyse
from pruners.base import BasicPruning, Options, PruningResult
from pruners.calibration import Follower
from pruners.calls import tensors_in
from pruners.channel_graph import Indices, Units
from pruners.datasets import Labelled
from pruners.errors import PrunerError, did_you_mean
from pruners.progress import bar
from pruners.tracing import Trace, untouched

Augment = Callable[[Tensor, torch.Generator], Tensor]
"""Images (N, C, H, W) -> as many, each changed at random."""


@dataclass(frozen=True, slots=True)
class UnitMem:
    """Of every output channel of one layer.

    Attributes:
        values: shape (channels,), float64, from 0 to 1.
        images: shape (channels,): the index of the image of the largest activation.
        activations: shape (images, channels), float32: mean over the map and the augmentations.
    """

    values: npt.NDArray[np.float64]
    images: Indices
    activations: npt.NDArray[np.float32]


def unitmem_of(
    activations: npt.NDArray[Any], images: Sequence[int] | Indices | None = None
) -> UnitMem:
    """UnitMem from mean activations (images, channels).

    >>> unitmem_of(np.array([[1.0, 2.0, 0.0], [0.0, 2.0, 0.0], [0.0, 2.0, 0.0]])).values
    array([1., 0., 0.])
    """
    exact = activations.astype(np.float64)
    count = len(exact)
    indices = np.arange(count) if images is None else np.asarray(images)
    where = exact.argmax(0)
    largest = exact.max(0)
    others = (exact.sum(0) - largest) / max(count - 1, 1)
    # Functions such as GELU are negative at places: what is below zero counts as not firing.
    largest, others = np.maximum(largest, 0), np.maximum(others, 0)
    total = largest + others
    fires = total > 0
    values = np.zeros_like(total)
    values[fires] = (largest - others)[fires] / total[fires]
    return UnitMem(values, indices[where].astype(np.int64), activations.astype(np.float32))


def get_unitmem(
    model: nn.Module,
    dataset: Labelled,
    *,
    indices: Sequence[int] | None = None,
    images: int = 1000,
    augmentations: int = 10,
    UM_batch: int = 64,
    augment: Augment | None = None,
    seed: int = 0,
    trace: Trace | None = None,
    progress: bool = False,
) -> dict[str, UnitMem]:
    """UnitMem of every layer whose channels reach a ReLU-like function, by the layer's path.

    Layers on a path that only some of the images take have none.

        memory = get_unitmem(model, splits.train)
        memory["layer1.0.conv1"].values  # shape (channels,)

    Args:
        model: in eval mode for the time of the pass; left as it was.
        dataset: pairs of an image and anything, without augmentation.
        indices: the images to measure with; by default `images` of them, drawn with the seed.
        augmentations: how often each image is changed, at random (`harder`, or `augment`).
        UM_batch: images in a batch.
        seed: of the choice of images and of the augmentations.
        trace: the network's analysis, where it is there already.

    Raises:
        PrunerError: there are fewer than two images, an index is none, or no layer's channels
            reach a ReLU-like function.
    """
    size = len(dataset)  # type: ignore[arg-type]
    chosen = choose_images(size, images, seed) if indices is None else list(indices)
    for index in chosen:
        if not 0 <= index < size:
            raise PrunerError(f"image index {index}: expected 0 to {size - 1}")
    if len(chosen) < 2:
        raise PrunerError(
            f"UnitMem: {len(chosen)} images; expected two or more, as one is held against the rest"
        )
    if augmentations < 1 or UM_batch < 1:
        raise PrunerError(
            f"UnitMem: augmentations={augmentations}, UM_batch={UM_batch}; expected 1 or more"
        )
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    if trace is None:
        example = torch.stack([dataset[i][0] for i in chosen[:2]])
        trace = analyse(model, example.to(like.device, like.dtype))
    units = trace.graph.units()
    watch = _Maps(trace, units)
    if not watch.uses:
        raise PrunerError(
            f"{type(model).__name__}: no layer's channels reach a ReLU-like function, which "
            f"UnitMem measures; it knows {', '.join(sorted(RELU_LIKE))}"
        )
    change = harder if augment is None else augment
    generator = torch.Generator().manual_seed(seed)
    batches = [chosen[i : i + UM_batch] for i in range(0, len(chosen), UM_batch)]
    rows: dict[str, list[Tensor]] = {weight: [] for weight in watch.uses}
    with untouched(trace.state.modules), bar("measuring UnitMem", len(batches), progress) as tick:
        model.eval()
        for batch in batches:
            originals = torch.stack([dataset[i][0] for i in batch])
            watch.start(len(originals))
            for _ in range(augmentations):
                watch.run(model, (change(originals, generator).to(like.device, like.dtype),), {})
            for weight, total in watch.totals.items():
                if weight in watch.partial:
                    continue
                rows[weight].append((total / augmentations).to("cpu", torch.float32))
            tick()
    return {
        weight.removesuffix(".weight"): unitmem_of(torch.cat(parts).numpy(), chosen)
        for weight, parts in rows.items()
        if weight not in watch.partial
    }


def choose_images(size: int, count: int, seed: int) -> list[int]:
    """So many different indices below `size` (all where there are fewer), ascending."""
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    return sorted(order[:count].tolist())


def harder(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (N, C, H, W), each turned, scaled, shifted, brightened and made noisy at random.

    Harder than what training does: up to 20 degrees, a fifth of the size and 15 percent of the
    width; contrast and brightness by a third, noise of a tenth of the deviation.
    """
    count = len(images)

    def uniform(extent: float) -> Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * extent

    angle, scale = uniform(math.radians(20)), 1 + uniform(0.2)
    cosine, sine = angle.cos() * scale, angle.sin() * scale
    # A shift by s of the width is 2 s in the coordinates of the grid, which go from -1 to 1.
    matrix = torch.stack(
        [
            torch.stack([cosine, -sine, uniform(0.3)], 1),
            torch.stack([sine, cosine, uniform(0.3)], 1),
        ],
        1,
    )
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    deviation = images.std()
    contrast, brightness = 1 + uniform(1 / 3), uniform(1 / 3) * deviation
    shape = (-1, 1, 1, 1)
    noise = torch.randn(images.shape, generator=generator) * deviation / 10
    return moved * contrast.view(shape) + brightness.view(shape) + noise


class _Maps(Follower):  # type: ignore[no-untyped-call]
    """Follows the run and sums up each image's mean activations, per layer."""

    def __init__(self, trace: Trace, units: Units) -> None:
        super().__init__(trace)
        self.uses: dict[str, Use] = {}
        for use in uses_of(trace, units):
            # A layer that is called several times is measured where it is called first.
            if use.activation in RELU_LIKE and use.behind.dim > 0:
                self.uses.setdefault(use.weight, use)
        self.at_step: dict[int, list[str]] = {}
        for weight, use in self.uses.items():
            self.at_step.setdefault(use.behind.step, []).append(weight)
        self.picks = {weight: _pick(use) for weight, use in self.uses.items()}
        self.totals: dict[str, Tensor] = {}
        self.images = 0
        """How many there are in the batch."""
        self.partial: set[str] = set()
        """Layers that were not given every image: a path that some do not take."""

    def start(self, images: int) -> None:
        self.totals, self.images = {}, images

    def made(self, step: int, out: Any) -> None:
        weights = self.at_step.get(step)
        if not weights:
            return
        (out, *_) = tensors_in([out])
        if len(out) < self.images:
            self.partial.update(weights)
            return
        by_dim: dict[int, Tensor] = {}
        for weight in weights:
            dim = self.uses[weight].behind.dim
            if dim not in by_dim:
                others = [d for d in range(1, out.dim()) if d != dim]
                by_dim[dim] = out.mean(others) if others else out
            rows = self.picks[weight](by_dim[dim])
            known = self.totals.get(weight)
            self.totals[weight] = rows if known is None else known + rows


def _pick(use: Use) -> Callable[[Tensor], Tensor]:
    """From (N, positions) to (N, channels): the mean over the positions of each channel."""
    count = use.size
    positions, rows = torch.from_numpy(use.positions), torch.from_numpy(use.rows)
    if len(positions) == count and torch.equal(rows, torch.arange(count)):
        if torch.equal(positions, rows) and len(use.behind.units) == count:
            return lambda means: means
        return lambda means: means[:, positions.to(means.device)]
    each = torch.bincount(rows, minlength=count).clamp(min=1)

    def pick(means: Tensor) -> Tensor:
        total = means.new_zeros(len(means), count)
        total.index_add_(1, rows.to(means.device), means[:, positions.to(means.device)])
        return total / each.to(means)

    return pick


# --- what goes -----------------------------------------------------------------------------------


def _low(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return values


def _high(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return 1 - values


def _hybrid(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Both ends go first: the distance to the nearer end in the order of the layer, from 0 to 1."""
    rank = values.argsort(kind="stable").argsort(kind="stable")
    scores: npt.NDArray[np.float64] = np.minimum(rank, len(values) - 1 - rank) * 2.0 / len(values)
    return scores


UNITMEM_METHODS: Mapping[str, Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]] = {
    "low_unitmem": _low,
    "high_unitmem": _high,
    "hybrid_unitmem": _hybrid,
}
"""How UnitMem becomes importance: those that memorise least go first, those that memorise most, or
both ends in turn."""


def importance(method: str, memory: Mapping[str, UnitMem]) -> Callable[..., Tensor | None]:
    """A measure (`pruners.measures`) of UnitMem; layers without it have no score.

    Raises:
        PrunerError: the method is unknown.
    """
    if method not in UNITMEM_METHODS:
        raise PrunerError(
            f"method {method}: unknown{did_you_mean(method, UNITMEM_METHODS)}; expected one of "
            f"{', '.join(UNITMEM_METHODS)}"
        )
    of = UNITMEM_METHODS[method]

    def score(*, layer: str, **context: Any) -> Tensor | None:
        found = memory.get(layer)
        return None if found is None else torch.from_numpy(of(found.values))

    score.normalizer = "none"  # type: ignore[attr-defined]  # UnitMem compares as it is
    return score


def get_neurons_to_prune(
    memory: Mapping[str, UnitMem], percent: float, method: str = "low_unitmem"
) -> dict[str, list[int]]:
    """The least important channels of all layers together, by layer, ascending.

    Coupling between layers plays no part: what `prune_by_unitmem` removes does.

    Args:
        percent: of all channels that have a UnitMem.
        method: a key of `UNITMEM_METHODS`.
    """
    if not 0 <= percent <= 100:
        raise PrunerError(f"percent {percent:g}: expected 0 to 100")
    measure = importance(method, memory)
    places = [(layer, i) for layer, found in memory.items() for i in range(len(found.values))]
    scores = np.concatenate([_array(measure(layer=layer)) for layer in memory])
    order = scores.argsort(kind="stable")[: int(len(scores) * percent / 100 + 1e-9)]
    chosen: dict[str, list[int]] = {layer: [] for layer in memory}
    for position in sorted(order.tolist()):
        layer, channel = places[position]
        chosen[layer].append(channel)
    return chosen


def _array(scores: Tensor | None) -> npt.NDArray[np.float64]:
    return np.empty(0) if scores is None else scores.numpy()


def prune_by_unitmem(
    model: nn.Module,
    example_inputs: Any,
    memory: Mapping[str, UnitMem],
    prune_pct: float,
    method: str = "low_unitmem",
    **options: Any,
) -> PruningResult:
    """Remove channels by UnitMem, whole and with everything that is coupled with them.

    Args:
        memory: what `get_unitmem` returned; layers without UnitMem keep their channels.
        method: a key of `UNITMEM_METHODS`.
        options: further options of `pruners.base.Options`, such as `target="channels"`.
    """
    measure, chosen = importance(method, memory), Options(prune_pct, measure=method, **options)
    return BasicPruning(model, example_inputs, chosen, measure=measure).run()


def prune_random_neurons(
    model: nn.Module, example_inputs: Any, prune_pct: float, *, seed: int = 0, **options: Any
) -> PruningResult:
    """Remove channels at random, those of coupled layers together; the same for the same seed."""
    chosen = Options(prune_pct=prune_pct, measure="ChannelRandom", seed=seed, **options)
    return BasicPruning(model, example_inputs, chosen).run()
