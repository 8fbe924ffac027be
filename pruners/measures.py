"""Scoring functions: how much each neuron of one layer matters.

Every measure is called by keywords and returns one number a neuron, the larger the more important:

    scores = measure(weight=w, prev_importance=r, in_activations=a, out_activations=b)

A channel of a convolution is a neuron. What a measure may ask for, by the names of its arguments:

    weight           (n_neurons, n_inputs); of a convolution the absolute values, summed over the
                     kernel; columns of a group that a filter does not see are 0
    filters          (n_neurons, n_inputs * kernel), the weights themselves, row by row
    prev_importance  (n_inputs,), sums to 1: the scores of the layers before, where they are read
    in_activations   (n_inputs,), mean absolute input over the calibration data
    out_activations  (n_neurons,), mean absolute output, behind the activation function
    zeros            (n_neurons,), the share of outputs behind the activation function that are 0
    ranks            (n_neurons,), mean rank of a neuron's feature maps
    gradients        as filters: gradient of the loss, mean over the calibration batches
    squared_gradients  as filters: mean over the batches of the gradient's square
    hessian          as filters: the diagonal of the loss's Hessian, estimated
    norm_scale       (n_neurons,), the scale of the batch norm behind the layer; None without one
    generator        torch.Generator on the CPU, seeded with the run's seed
    layer            path of the layer, such as "layer1.0.conv1"

Only what an argument names is computed. What is measured (`CALIBRATED` below) needs calibration
data; so does `prev_importance` for the inputs of the first layers, which count alike without it. A
measure returns None where it has no opinion on a layer.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from pruners.errors import PrunerError, did_you_mean

Measure = Callable[..., Tensor | None]
"""Called as the page above says."""

OF_ACTIVATIONS = frozenset({"in_activations", "out_activations", "zeros", "ranks"})
OF_GRADIENTS = frozenset({"gradients", "squared_gradients", "hessian"})
CALIBRATED = OF_ACTIVATIONS | OF_GRADIENTS
"""What is measured on calibration data."""
OFFERED: frozenset[str] = CALIBRATED | {
    "weight",
    "filters",
    "prev_importance",
    "norm_scale",
    "generator",
    "layer",
}


@dataclass(frozen=True)
class ScoringMeasure:
    """A measure with parameters; its fields may also be given by keyword in a call.

        ChannelNorm(p=2)(weight=w)
        ChannelNorm()(weight=w, p=2)

    Subclasses define `score`, whose arguments say what is computed for them.
    """

    normalizer: ClassVar[str] = "mean"
    """How a layer's scores are brought to the scale of the others (`pruners.scoring`)."""
    score: ClassVar[Callable[..., Tensor | None]]
    """Called with what its arguments name -> scores of shape (n_neurons,)."""

    def __post_init__(self) -> None:
        checked_class(type(self))

    def __call__(self, *, weight: Tensor, **context: Any) -> Tensor | None:
        context.setdefault("filters", weight)
        own = {field.name for field in fields(self)} & context.keys()
        measure = replace(self, **{name: context.pop(name) for name in own}) if own else self
        scores: Tensor | None = measure.score(weight=weight, **context)
        return scores


# --- of the weights alone ----------------------------------------------------------------------


@dataclass(frozen=True)
class ChannelNorm(ScoringMeasure):
    """The p-norm of each filter (Li et al., "Pruning Filters for Efficient ConvNets", 2017, 3.1).

    Args:
        p: 1 for the sum of absolute values, 2 for the Euclidean norm.
    """

    p: float = 1

    def __post_init__(self) -> None:
        _at_least("ChannelNorm", "p", self.p, 0)

    def score(self, *, filters: Tensor, **context: Any) -> Tensor:
        if self.p == 1:
            return filters.abs().sum(1)  # three to five times as fast as vector_norm
        norms: Tensor = torch.linalg.vector_norm(filters, ord=self.p, dim=1)
        return norms


@dataclass(frozen=True)
class ChannelRandom(ScoringMeasure):
    """Uniform random numbers: what every measure has to beat."""

    def score(
        self, *, weight: Tensor, generator: torch.Generator | None = None, **context: Any
    ) -> Tensor:
        return torch.rand(len(weight), generator=generator).to(weight.device)


@dataclass(frozen=True)
class FPGM(ScoringMeasure):
    """How far a filter is from all others of its layer: sum_j ||F_i - F_j||.

    What lies near the geometric median of the filters can be replaced by the rest (He et al.,
    "Filter Pruning via Geometric Median for Deep CNN Acceleration", 2019, section 3.3).
    """

    def score(self, *, filters: Tensor, **context: Any) -> Tensor:
        # By differences: the faster way by products leaves near twins a distance of rounding.
        distances: Tensor = torch.cdist(
            filters.float(), filters.float(), compute_mode="donot_use_mm_for_euclid_dist"
        )
        return distances.sum(1)


@dataclass(frozen=True)
class LAMP(ScoringMeasure):
    """A filter's squared norm over that of all filters which are no smaller.

    score(u) = ||F_u||^2 / sum of ||F_v||^2 over all v with ||F_v|| >= ||F_u||, the layer-adaptive
    magnitude of Lee et al., "Layer-adaptive Sparsity for the Magnitude-based Pruning" (2021,
    section 2), with filters in the place of single weights. The largest of every layer scores 1.
    """

    normalizer: ClassVar[str] = "none"

    def score(self, *, filters: Tensor, **context: Any) -> Tensor:
        squared = filters.double().square().sum(1)
        ascending, order = squared.sort(stable=True)
        scores = torch.empty_like(squared)
        # Summed from the largest down: what is left at a filter is itself and all after it.
        scores[order] = ascending / ascending.flip(0).cumsum(0).flip(0).clamp(min=1e-300)
        return scores


@dataclass(frozen=True)
class BatchNormScale(ScoringMeasure):
    """The scale |gamma| of the batch norm behind a filter.

    Liu et al., "Learning Efficient Convolutional Networks through Network Slimming" (2017), gamma
    of their equation (2). Scales are compared across layers as they are. No opinion on a layer
    that no batch norm follows.
    """

    normalizer: ClassVar[str] = "none"

    def score(self, *, norm_scale: Tensor | None = None, **context: Any) -> Tensor | None:
        return None if norm_scale is None else norm_scale.abs()


# --- of weights and activations ----------------------------------------------------------------


@dataclass(frozen=True)
class WeightedPageRank(ScoringMeasure):
    """A step of PageRank a layer, on the network's own graph (MLP-Rank, Hoffmann 2024).

    With W = |weight|, r = prev_importance and a = out_activations:

        gamma (theta W^ + (1 - theta) A^) r + (1 - gamma) a / sum(a)

    W^ is W with every column divided by its sum, A^ the same of the 0/1 matrix of W != 0; empty
    columns are 0. A neuron is important where important neurons feed it.

    Args:
        gamma: the share that comes from the layer before; the rest is the neuron's own activity.
        theta: the share of the weights in the links; the rest is that of their mere presence.
    """

    gamma: float = 0.9
    theta: float = 0.5

    def __post_init__(self) -> None:
        _within("WeightedPageRank", "gamma", self.gamma)
        _within("WeightedPageRank", "theta", self.theta)

    def score(
        self, *, weight: Tensor, prev_importance: Tensor, out_activations: Tensor, **context: Any
    ) -> Tensor:
        strength = weight.abs()
        links = self.theta * _by_column(strength)
        links = links + (1 - self.theta) * _by_column((strength != 0).to(strength.dtype))
        return self.gamma * (links @ prev_importance) + (1 - self.gamma) * _shares(out_activations)


@dataclass(frozen=True)
class ModifiedPageRank(ScoringMeasure):
    """What a neuron receives, times how active it is: (W r) * a, W = |weight| (MLP-Rank).

    Args:
        z_importance: set the lowest `amount` of r, the importance of the inputs, to 0 first.
        amount: the share of the inputs that this silences.
    """

    z_importance: bool = False
    amount: float = 0.3

    def __post_init__(self) -> None:
        if not isinstance(self.z_importance, bool):
            raise PrunerError(
                f"measure ModifiedPageRank: z_importance={self.z_importance!r}; expected true or "
                f"false"
            )
        _within("ModifiedPageRank", "amount", self.amount)

    def score(
        self, *, weight: Tensor, prev_importance: Tensor, out_activations: Tensor, **context: Any
    ) -> Tensor:
        importance = prev_importance
        if self.z_importance:
            # A share such as 0.29 of 100 is 29, whatever the last bit says.
            count = int(self.amount * len(importance) + 1e-6)
            lowest = importance.argsort(stable=True)[:count]
            importance = importance.clone()
            importance[lowest] = 0
        return (weight.abs() @ importance) * out_activations


@dataclass(frozen=True)
class ChannelActivation(ScoringMeasure):
    """The mean absolute activation."""

    def score(self, *, out_activations: Tensor, **context: Any) -> Tensor:
        return out_activations


@dataclass(frozen=True)
class ChannelWandA(ScoringMeasure):
    """Weights times what they read: W a with W = |weight| and a the mean absolute inputs.

    Sun et al., "A Simple and Effective Pruning Approach for Large Language Models" (2023), summed
    over the inputs of a neuron.
    """

    def score(self, *, weight: Tensor, in_activations: Tensor, **context: Any) -> Tensor:
        return weight.abs() @ in_activations


@dataclass(frozen=True)
class APoZ(ScoringMeasure):
    """One less the average percentage of zeros behind the activation function.

    Hu et al., "Network Trimming" (2016), equation (1), as a share.
    """

    def score(self, *, zeros: Tensor, **context: Any) -> Tensor:
        return 1 - zeros


@dataclass(frozen=True)
class HRank(ScoringMeasure):
    """The mean rank of a filter's feature maps.

    Lin et al., "HRank: Filter Pruning using High-Rank Feature Map" (2020, section 3.2): the mean
    over the images n of rank(o_n), o_n the filter's map for image n, of shape (height, width).
    Behind a linear layer a map is one number, and its rank says whether it is 0.
    """

    def score(self, *, ranks: Tensor, **context: Any) -> Tensor:
        return ranks


# --- of the loss -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Taylor(ScoringMeasure):
    """The change of the loss to first order, squared: sum over a filter of (g w)^2.

    Molchanov et al., "Importance Estimation for Neural Network Pruning" (2019), section 3.1: the
    contributions of single weights summed over the filter, averaged over the batches.
    """

    def score(self, *, filters: Tensor, squared_gradients: Tensor, **context: Any) -> Tensor:
        return (filters.square() * squared_gradients).sum(1)


@dataclass(frozen=True)
class Hessian(ScoringMeasure):
    """The change of the loss to second order at a minimum: sum over a filter of h w^2 / 2.

    LeCun et al., "Optimal Brain Damage" (1990), section 2.2: saliencies s_k = h_kk u_k^2 / 2 with
    the diagonal h of the Hessian, summed over the filter. The diagonal comes from Hutchinson's
    estimator, z * (H z) with random signs z, averaged over the batches; where it is negative (no
    minimum along that weight) it counts as 0.
    """

    def score(self, *, filters: Tensor, hessian: Tensor, **context: Any) -> Tensor:
        return (hessian.clamp(min=0) * filters.square()).sum(1) / 2


def _by_column(matrix: Tensor) -> Tensor:
    """Every column divided by its sum; empty ones stay 0."""
    sums = matrix.sum(0)
    return matrix / torch.where(sums == 0, torch.ones_like(sums), sums)


def _shares(values: Tensor) -> Tensor:
    total = values.sum()
    return values / total if total > 0 else torch.zeros_like(values)


def _within(measure: str, name: str, value: Any) -> None:
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise PrunerError(f"measure {measure}: {name}={value!r}; expected a number from 0 to 1")


def _at_least(measure: str, name: str, value: Any, least: float) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not value > least:
        raise PrunerError(f"measure {measure}: {name}={value!r}; expected a number above {least:g}")


def checked_class(cls: type) -> None:
    """PrunerError where annotations of a class are no parameters, for want of a decorator."""
    known = {field.name for field in fields(cls)}
    missing = [
        name
        for name, kind in inspect.get_annotations(cls).items()
        if name not in known and "ClassVar" not in str(kind)
    ]
    if missing:
        raise PrunerError(
            f"measure {cls.__name__}: {', '.join(missing)} cannot be set; expected "
            f"@dataclass(frozen=True) above the class"
        )


# --- what a measure takes ----------------------------------------------------------------------


ASKED_OF_ANY = frozenset({"weight", "prev_importance", "in_activations", "out_activations"})
"""What a function gets that names nothing: `def mine(**context)`."""


def needs(measure: Measure) -> frozenset[str]:
    """What the arguments of a measure ask for, of the names on this page."""
    function = _function(measure)
    named = OFFERED & set(_arguments(function))
    return named or (ASKED_OF_ANY if _takes_any(function) else named)


def accepted(measure: Measure, context: Mapping[str, Any]) -> dict[str, Any]:
    """What of these keywords the measure takes: all, where it has `**kwargs`."""
    if isinstance(measure, ScoringMeasure) or _takes_any(measure):
        return dict(context)
    named = _arguments(measure)
    return {name: value for name, value in context.items() if name in named}


def _function(measure: Measure) -> Callable[..., Any]:
    """Whose arguments say what is needed."""
    while isinstance(measure, partial):
        measure = measure.func
    return measure.score if isinstance(measure, ScoringMeasure) else measure


def _takes_any(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a function of C without a signature
        return True
    return any(p.kind is p.VAR_KEYWORD for p in parameters)


def configured(name: str, measure: Measure, arguments: Mapping[str, Any]) -> Measure:
    """The measure with parameters of its own.

    Args:
        measure: a `ScoringMeasure` or any other dataclass, whose fields are its parameters, or a
            function, whose further keywords are.

    Raises:
        PrunerError: an argument that it does not take; the message names those that it does.
    """
    if not arguments:
        return measure
    known = arguments_of(measure)
    for argument in arguments:
        if argument not in known:
            raise PrunerError(
                f"--measure-args: {name} takes no argument {argument!r}"
                f"{did_you_mean(argument, known)}; it takes {', '.join(known) or 'none'}"
            )
    if is_dataclass(measure) and not isinstance(measure, type):
        made: Measure = replace(measure, **arguments)
        return made
    return partial(measure, **arguments)


def arguments_of(measure: Measure) -> dict[str, Any]:
    """The parameters of a measure and their values, those that `--measure-args` may change."""
    if is_dataclass(measure) and not isinstance(measure, type):
        return {field.name: getattr(measure, field.name) for field in fields(measure)}
    return {name: value for name, value in _arguments(measure).items() if name not in OFFERED}


def _arguments(function: Callable[..., Any]) -> dict[str, Any]:
    """The named arguments of a function, with their defaults (None where they have none)."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a function of C without a signature
        return {}
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return {p.name: None if p.default is p.empty else p.default for p in named}
