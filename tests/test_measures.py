"""Every measure on examples that are computed by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pruners import SCORING_MEASURES, PrunerError, ScoringMeasure
from pruners.measures import (
    FPGM,
    LAMP,
    APoZ,
    BatchNormScale,
    ChannelActivation,
    ChannelNorm,
    ChannelRandom,
    ChannelWandA,
    Hessian,
    HRank,
    ModifiedPageRank,
    Taylor,
    WeightedPageRank,
    configured,
    needs,
)
from pruners.registry import measure_named

# Three neurons that read two inputs.
W = torch.tensor([[1.0, -2.0], [3.0, 0.0], [0.0, 4.0]])
R = torch.tensor([0.25, 0.75])
A_IN = torch.tensor([2.0, 0.5])
A_OUT = torch.tensor([1.0, 3.0, 4.0])
CONTEXT = {"prev_importance": R, "in_activations": A_IN, "out_activations": A_OUT, "weight": W}


def close(scores: Tensor | None, expected: list[float]) -> None:
    assert scores is not None
    torch.testing.assert_close(scores.double(), torch.tensor(expected).double())


def test_weighted_page_rank_on_paper() -> None:
    """Column sums of |W| are 4 and 6, of the links 2 and 2; the activations sum to 8.

    theta W^ + (1 - theta) A^ with theta 1/2, row by row:
        1/2 (1/4) + 1/2 (1/2) = 3/8     1/2 (2/6) + 1/2 (1/2) = 5/12
        1/2 (3/4) + 1/2 (1/2) = 5/8     0
        0                               1/2 (4/6) + 1/2 (1/2) = 7/12
    times r = (1/4, 3/4):  13/32, 5/32, 14/32;  0.9 of it and 0.1 of (1, 3, 4) / 8.
    """
    rank = [0.9 * n / 32 + 0.1 * a / 8 for n, a in ((13, 1), (5, 3), (14, 4))]
    close(WeightedPageRank()(**CONTEXT), rank)
    assert sum(rank) == pytest.approx(1)
    # Weights alone: (1/4 1/4 + 1/3 3/4, 3/4 1/4, 2/3 3/4).
    close(WeightedPageRank(gamma=1, theta=1)(**CONTEXT), [5 / 16, 3 / 16, 1 / 2])
    # Links alone: (1/8 + 3/8, 1/8, 3/8); the call's own arguments come before the instance's.
    close(WeightedPageRank()(**CONTEXT, gamma=1, theta=0), [1 / 2, 1 / 8, 3 / 8])
    close(WeightedPageRank(gamma=0)(**CONTEXT), [1 / 8, 3 / 8, 4 / 8])


def test_an_input_that_nobody_reads_hands_on_nothing() -> None:
    weight = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    scores = WeightedPageRank(gamma=1)(
        weight=weight, prev_importance=R, in_activations=A_IN, out_activations=torch.zeros(2)
    )
    close(scores, [0.125, 0.125])
    silent = WeightedPageRank()(
        weight=weight, prev_importance=R, in_activations=A_IN, out_activations=torch.zeros(2)
    )
    close(silent, [0.9 * 0.125, 0.9 * 0.125])


def test_modified_page_rank_on_paper() -> None:
    """|W| r = (1/4 + 6/4, 3/4, 3), times (1, 3, 4)."""
    close(ModifiedPageRank()(**CONTEXT), [1.75, 2.25, 12.0])
    # Half of two inputs is one: the first, whose importance is 1/4, is silenced.
    close(ModifiedPageRank(z_importance=True, amount=0.5)(**CONTEXT), [1.5, 0.0, 12.0])
    # 30 percent of two inputs is none.
    close(ModifiedPageRank(z_importance=True)(**CONTEXT), [1.75, 2.25, 12.0])
    assert R.tolist() == [0.25, 0.75]


def test_norms_activations_and_their_product() -> None:
    close(ChannelNorm()(**CONTEXT), [3, 3, 4])
    close(ChannelNorm(p=2)(**CONTEXT), [math.sqrt(5), 3, 4])
    close(ChannelActivation()(**CONTEXT), [1, 3, 4])
    close(ChannelWandA()(**CONTEXT), [3, 6, 2])


def test_a_filters_norm_is_that_of_its_kernel() -> None:
    """Summed over the kernel (3, -4) is 7, but the Euclidean norm of the filter is 5."""
    filters = torch.tensor([[3.0, -4.0]])
    close(ChannelNorm(p=2)(weight=torch.tensor([[7.0]]), filters=filters), [5])
    close(ChannelNorm(p=1)(weight=torch.tensor([[7.0]]), filters=filters), [7])


def test_random_is_the_seeds() -> None:
    one, two = (
        ChannelRandom()(weight=W, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1)
    )
    assert one is not None
    assert two is not None
    assert torch.equal(one, two)
    assert one.shape == (3,)
    assert 0 <= one.min() < one.max() <= 1


def test_geometric_median() -> None:
    """Points 0, 3 and 4 on a line: distances to the others 7, 4 and 5."""
    close(FPGM()(weight=torch.tensor([[0.0], [3.0], [4.0]])), [7, 4, 5])


def test_distances_of_near_twins_are_not_rounding():
    """By products, |a|^2 - 2ab + |b|^2 of large filters loses what differs."""
    twins = 1000 + torch.randperm(6400).view(64, 100) * 1e-3
    exact = (twins.double()[:, None] - twins.double()[None]).norm(dim=2).sum(1)
    torch.testing.assert_close(FPGM()(weight=twins).double(), exact, rtol=1e-4, atol=0)


def test_lamp() -> None:
    """Squared norms 9, 1, 4: 9/9, 1/(1 + 4 + 9), 4/(4 + 9)."""
    close(LAMP()(weight=torch.tensor([[-3.0], [1.0], [2.0]])), [1, 1 / 14, 4 / 13])
    close(LAMP()(weight=torch.zeros(2, 1)), [0, 0])


def test_batch_norm_scale() -> None:
    close(BatchNormScale()(weight=W, norm_scale=torch.tensor([-0.5, 0.0, 2.0])), [0.5, 0, 2])
    assert BatchNormScale()(weight=W, norm_scale=None) is None


def test_taylor_and_hessian() -> None:
    squared = torch.tensor([[1.0, 2.0], [0.0, 1.0], [3.0, 0.5]])
    # w^2 g^2: 1 + 8, 0, 8.
    close(Taylor()(weight=W, squared_gradients=squared), [9, 0, 8])
    curvature = torch.tensor([[2.0, 1.0], [4.0, 0.0], [1.0, -3.0]])
    # h w^2 / 2: (2 + 4) / 2, 36 / 2, and a negative curvature counts as none.
    close(Hessian()(weight=W, hessian=curvature), [3, 18, 0])


def test_zeros_and_ranks() -> None:
    close(APoZ()(weight=W, zeros=torch.tensor([0.0, 0.25, 1.0])), [1, 0.75, 0])
    close(HRank()(weight=W, ranks=torch.tensor([1.5, 2.0, 0.0])), [1.5, 2, 0])


# --- all that are on offer -----------------------------------------------------------------------


@pytest.mark.parametrize("name", SCORING_MEASURES)
def test_every_measure_is_called_by_keywords(name: str) -> None:
    everything: dict[str, Any] = {
        **CONTEXT,
        "filters": W,
        "zeros": torch.tensor([0.5, 0.0, 1.0]),
        "ranks": torch.tensor([1.0, 2.0, 3.0]),
        "gradients": W,
        "squared_gradients": W.square(),
        "hessian": W.abs(),
        "norm_scale": torch.ones(3),
        "generator": torch.Generator().manual_seed(0),
        "something_else": None,
    }
    scores = SCORING_MEASURES[name](**everything)
    assert scores is not None
    assert scores.shape == (3,)
    assert bool((scores >= 0).all())


@pytest.mark.parametrize("name", SCORING_MEASURES)
def test_every_measure_says_where_it_comes_from(name: str) -> None:
    measure = SCORING_MEASURES[name]
    assert isinstance(measure, ScoringMeasure)
    assert type(measure).__name__ == name
    text = type(measure).__doc__ or ""
    of_its_own = {"ChannelRandom", "ChannelActivation"}
    assert any(year in text for year in map(str, range(1990, 2026))) or (
        name in of_its_own | {"ModifiedPageRank"}
    )


def test_what_a_measure_asks_for_are_its_arguments() -> None:
    assert needs(ChannelNorm()) == {"filters"}
    assert needs(WeightedPageRank()) == {"weight", "prev_importance", "out_activations"}
    assert needs(Hessian()) == {"filters", "hessian"}

    def own(*, weight: Tensor, in_activations: Tensor, power: float = 2, **rest: Any) -> Tensor:
        return (weight.abs() @ in_activations) ** power

    assert needs(own) == {"weight", "in_activations"}
    close(configured("own", own, {"power": 1})(**CONTEXT), [3, 6, 2])


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("ChannelNrom", {}, r"^measure ChannelNrom: unknown; did you mean ChannelNorm\?; on offer"),
        ("channelnorm", {}, r"^measure channelnorm: unknown; did you mean ChannelNorm"),
        (
            "WeightedPageRank",
            {"gama": 1},
            r"^--measure-args: WeightedPageRank takes no argument 'gama'; did you mean gamma\?; it "
            r"takes gamma, theta$",
        ),
        ("APoZ", {"p": 1}, r"APoZ takes no argument 'p'; it takes none$"),
        (
            "WeightedPageRank",
            {"gamma": 2},
            r"^measure WeightedPageRank: gamma=2; expected a number from 0 to 1$",
        ),
        ("WeightedPageRank", {"theta": "x"}, r"theta='x'; expected a number from 0 to 1$"),
        ("ModifiedPageRank", {"amount": -1}, r"amount=-1; expected a number from 0 to 1$"),
        ("ChannelNorm", {"p": 0}, r"^measure ChannelNorm: p=0; expected a number above 0$"),
        ("ChannelNorm", {"p": "two"}, r"p='two'; expected a number above 0$"),
    ],
)
def test_wrong_measures_and_arguments(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(PrunerError, match=message):
        measure_named(name, arguments)


def test_parameters_without_the_decorator_are_noticed() -> None:
    class Forgotten(ScoringMeasure):
        power: float = 2

        def score(self, *, filters: torch.Tensor, **context: Any) -> torch.Tensor:
            return filters.abs().pow(self.power).sum(1)

    with pytest.raises(
        PrunerError,
        match=r"^measure Forgotten: power cannot be set; expected @dataclass\(frozen=True\) above "
        r"the class$",
    ):
        Forgotten()


def test_silencing_is_asked_for_with_true_or_false() -> None:
    with pytest.raises(
        PrunerError,
        match=r"^measure ModifiedPageRank: z_importance='yes'; expected true or false$",
    ):
        ModifiedPageRank(z_importance="yes")  # type: ignore[arg-type]
