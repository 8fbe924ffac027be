"""Scores, methods and budgets, on networks small enough to count by hand.

conv1 (1 -> 4, 1x1, no bias) and conv2 (4 -> 1, 1x1, no bias): one removable channel costs two
parameters, a row of the one and a column of the other; 8 parameters in all.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pruners import Axis, ChannelGraph, Coupling, PrunerError
from pruners.channel_graph import Units, kept_of
from pruners.methods import Budget, count_target, select
from pruners.scoring import ChannelNorm, Scores, measure_named, score_units

Conv = Axis("conv1.weight", 0)


def chain(*widths: int) -> ChannelGraph:
    """Convolutions 1x1 without bias, `widths[i] -> widths[i + 1]`; both ends are frozen."""
    shapes = {
        f"conv{i + 1}.weight": (out, into, 1, 1) for i, (into, out) in enumerate(pairwise(widths))
    }
    graph = ChannelGraph(shapes)
    names = list(shapes)
    for i, name in enumerate(names):
        graph.add(Axis(name, 0), role="out")
        graph.add(Axis(name, 1), role="in")
        graph.positions[name] = 10 ** (len(names) - 1 - i)
        if i:
            everywhere = np.arange(widths[i])
            graph.couple(
                Coupling(Axis(names[i - 1], 0), Axis(name, 1), everywhere, everywhere, "reads")
            )
    graph.freeze(Axis(names[0], 1), "input")
    graph.freeze(Axis(names[-1], 0), "output")
    return graph


def scores_of(graph: ChannelGraph, units: Units, values: dict[str, list[float]]) -> Scores:
    scores = np.zeros(units.count)
    for name, of_rows in values.items():
        scores[units.of(Axis(name, 0))] = of_rows
    return scores


def kept(
    graph: ChannelGraph, values: dict[str, list[float]], method: str = "Global", **budget: Any
) -> dict[str, list[int]]:
    """The rows that stay of every layer with values."""
    units = graph.units()
    scores = scores_of(graph, units, values)
    stays = select(graph, units, scores, Budget(**budget), method)
    left = kept_of(graph.shapes, units, stays)
    return {name: left[name][0].tolist() for name in values}


# -- budgets ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pct", "rows"),
    [
        (0, [0, 1, 2, 3]),
        (1, [0, 2, 3]),  # one unit is 2 of 8 parameters: 25 percent
        (25, [0, 2, 3]),
        (25.1, [0, 2]),
        (50, [0, 2]),
        (75, [2]),
    ],
)
def test_the_least_units_go_until_the_budget_is_met(pct: float, rows: list[int]) -> None:
    values = {"conv1.weight": [3.0, 1.0, 4.0, 2.0]}
    assert kept(chain(1, 4, 1), values, prune_pct=pct, min_filters=1) == {"conv1.weight": rows}


def test_sizes_shrink_multiplicatively() -> None:
    """2-4-4-2: removing i and j channels leaves 2(4-i) + (4-i)(4-j) + 2(4-j) of 32 parameters."""
    values = {"conv1.weight": [1.0, 5.0, 6.0, 7.0], "conv2.weight": [2.0, 5.5, 6.5, 7.5]}
    # One of each leaves 6 + 9 + 6 = 21: 34.4 percent gone; the first alone leaves 26, 18.75.
    at_34 = kept(chain(2, 4, 4, 2), values, prune_pct=34, min_filters=1)
    assert at_34 == {"conv1.weight": [1, 2, 3], "conv2.weight": [1, 2, 3]}
    # The next, conv1's row 1, leaves 4 + 6 + 6 = 16: exactly half.
    at_50 = kept(chain(2, 4, 4, 2), values, prune_pct=50, min_filters=1)
    assert at_50 == {"conv1.weight": [2, 3], "conv2.weight": [1, 2, 3]}


def test_a_tie_is_broken_by_position() -> None:
    values = {"conv1.weight": [1.0, 1.0, 1.0, 1.0]}
    assert kept(chain(1, 4, 1), values, prune_pct=50, min_filters=1)["conv1.weight"] == [2, 3]


def test_macs_weigh_the_positions() -> None:
    """conv1 runs at 100 positions, conv2 at 10, conv3 at 1: conv1's channels are the dear ones."""
    graph = chain(1, 4, 4, 1)
    units = graph.units()
    assert count_target(graph, units, "macs") == 4 * 100 + 16 * 10 + 4 * 1
    assert count_target(graph, units, "params") == 4 + 16 + 4
    assert count_target(graph, units, "channels") == 4 + 4 + 1
    values = {"conv1.weight": [1.0, 9.0, 9.0, 9.0], "conv2.weight": [2.0, 9.0, 9.0, 9.0]}
    # 140 of 564 MACs go with one channel of conv1: 24.8 percent.
    got = kept(graph, values, prune_pct=24, target="macs", min_filters=1)
    assert got == {"conv1.weight": [1, 2, 3], "conv2.weight": [0, 1, 2, 3]}


def test_channels_count_every_layer_that_makes_them() -> None:
    values = {"conv1.weight": [1.0, 9.0, 9.0, 9.0], "conv2.weight": [2.0, 9.0, 9.0, 9.0]}
    got = kept(chain(1, 4, 4, 1), values, prune_pct=12, target="channels", min_filters=1)
    assert got == {"conv1.weight": [1, 2, 3], "conv2.weight": [1, 2, 3]}


def test_min_filters_protects_the_best() -> None:
    values = {"conv1.weight": [1.0, 2.0, 3.0, 4.0], "conv2.weight": [5.0, 6.0, 7.0, 8.0]}
    got = kept(chain(1, 4, 4, 1), values, prune_pct=60, min_filters=2)
    assert got == {"conv1.weight": [2, 3], "conv2.weight": [2, 3]}


def test_min_filters_above_the_width_leaves_the_layer_alone() -> None:
    values = {"conv1.weight": [1.0, 2.0, 3.0, 4.0]}
    got = kept(chain(1, 4, 1), values, prune_pct=0, min_filters=9)
    assert got == {"conv1.weight": [0, 1, 2, 3]}


def test_round_to_takes_more_than_asked_never_less() -> None:
    values = {"conv1.weight": [float(i) for i in range(8)]}
    got = kept(chain(1, 8, 1), values, prune_pct=20, round_to=4, min_filters=1)
    assert got == {"conv1.weight": [4, 5, 6, 7]}


def test_round_to_leaves_a_width_alone_that_is_no_multiple() -> None:
    """10 channels rounded to 8: 8, or the 10 that they are."""
    values = {"conv1.weight": [float(i) for i in range(10)]}
    assert kept(chain(1, 10, 1), values, prune_pct=0, round_to=8)["conv1.weight"] == list(range(10))
    assert kept(chain(1, 10, 1), values, prune_pct=5, round_to=8)["conv1.weight"] == list(
        range(2, 10)
    )


def test_out_of_reach_says_what_can_be_had() -> None:
    values = {"conv1.weight": [1.0, 2.0, 3.0, 4.0]}
    with pytest.raises(
        PrunerError,
        match=r"--prune-pct 60: at most 50 percent of the parameters can be removed with "
        r"min_filters=2, round_to=1 and 2 of 6 units frozen",
    ):
        kept(chain(1, 4, 1), values, prune_pct=60)


# -- methods ----------------------------------------------------------------------------------


def test_local_takes_the_same_share_of_every_group() -> None:
    """Global empties the layer with the small scores first, Local halves both."""
    values = {"conv1.weight": [1.0, 2.0, 3.0, 4.0], "conv2.weight": [10.0, 20.0, 40.0, 30.0]}
    # Half of both leaves 2 + 4 + 2 = 8 of 24 parameters.
    local = kept(chain(1, 4, 4, 1), values, "Local", prune_pct=60, min_filters=1)
    assert local == {"conv1.weight": [2, 3], "conv2.weight": [2, 3]}
    # Three of conv1 leave 1 + 4 + 4 = 9.
    everywhere = kept(chain(1, 4, 4, 1), values, "Global", prune_pct=60, min_filters=1)
    assert everywhere == {"conv1.weight": [3], "conv2.weight": [0, 1, 2, 3]}


def test_local_in_groups_of_unlike_size() -> None:
    """Of 2 and 8 channels, half: the small group's one goes between the large one's fourths."""
    values = {
        "conv1.weight": [2.0, 1.0],
        "conv2.weight": [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0],
    }
    got = kept(chain(1, 2, 8, 1), values, "Local", prune_pct=65, min_filters=1)
    assert got == {"conv1.weight": [0], "conv2.weight": [0, 1, 2, 3]}


def test_unknown_method() -> None:
    with pytest.raises(PrunerError, match=r"method Globl: unknown; did you mean Global\?; on off"):
        kept(chain(1, 4, 1), {"conv1.weight": [1.0] * 4}, "Globl", prune_pct=1)


# -- scores -----------------------------------------------------------------------------------


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 3, 1, bias=False)
        self.conv2 = nn.Conv2d(1, 3, 1, bias=False)
        with torch.no_grad():
            self.conv1.weight.copy_(torch.tensor([1.0, -2.0, 6.0]).view(3, 1, 1, 1))
            self.conv2.weight.copy_(torch.tensor([40.0, 10.0, -10.0]).view(3, 1, 1, 1))


def added() -> ChannelGraph:
    """conv1 + conv2: row i of the one goes with row i of the other."""
    graph = ChannelGraph({"conv1.weight": (3, 1, 1, 1), "conv2.weight": (3, 1, 1, 1)})
    for name in graph.shapes:
        graph.add(Axis(name, 0), role="out")
    graph.couple(Coupling(Conv, Axis("conv2.weight", 0), np.arange(3), np.arange(3), "add"))
    return graph


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [
        # Norms 1, 2, 6 over their mean 3, and 40, 10, 10 over their mean 20.
        ("sum", [1 / 3 + 2, 2 / 3 + 0.5, 2 + 0.5]),
        ("mean", [(1 / 3 + 2) / 2, (2 / 3 + 0.5) / 2, (2 + 0.5) / 2]),
        ("max", [2, 2 / 3, 2]),
    ],
)
def test_a_unit_aggregates_its_layers(aggregate: Any, expected: list[float]) -> None:
    graph = added()
    units = graph.units()
    scores = score_units(Pair(), graph, units, ChannelNorm(), aggregate)
    assert scores[units.of(Conv)] == pytest.approx(expected, abs=1e-7)


def test_channel_norms() -> None:
    weight = torch.tensor([[3.0, -4.0], [1.0, 0.0]])
    assert ChannelNorm()(weight=weight).tolist() == [7, 1]
    assert ChannelNorm(p=2)(weight=weight).tolist() == [5, 1]


def test_a_layer_of_zeros_scores_nothing_and_divides_by_nothing() -> None:
    model = Pair()
    nn.init.zeros_(model.conv1.weight)
    graph = added()
    units = graph.units()
    scores = score_units(model, graph, units, ChannelNorm(), "sum")
    assert scores[units.of(Conv)].tolist() == [2, 0.5, 0.5]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_score_that_is_no_number(bad: float) -> None:
    model = Pair()
    with torch.no_grad():
        model.conv2.weight[1] = bad
    graph = added()
    with pytest.raises(PrunerError, match=r"conv2\.weight: 1 of 3 filters have a score that is no"):
        score_units(model, graph, graph.units(), ChannelNorm())


def test_a_measure_of_the_users_own() -> None:
    def first_input(*, weight: Tensor, **context: Any) -> Tensor:
        return weight[:, 0] - weight.min()

    graph = added()
    units = graph.units()
    scores = score_units(Pair(), graph, units, first_input, "sum")
    # 3, 0, 8 over their mean, and 50, 20, 0 over theirs.
    expected = [9 / 11 + 15 / 7, 6 / 7, 24 / 11]
    assert scores[units.of(Conv)] == pytest.approx(expected, abs=1e-6)


def test_unknown_measure() -> None:
    with pytest.raises(PrunerError, match=r"measure ChannelNrom: unknown; did you mean ChannelNor"):
        measure_named("ChannelNrom")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prune_pct": 100}, r"--prune-pct 100: expected a percentage"),
        ({"prune_pct": float("nan")}, r"--prune-pct nan: expected a percentage"),
        ({"prune_pct": 5, "target": "flop"}, r"--target flop: unknown; expected one of params"),
        ({"prune_pct": 5, "min_filters": 0}, r"--min-filters 0: expected a whole number"),
        ({"prune_pct": 5, "round_to": -8}, r"--round-to -8: expected a whole number"),
    ],
)
def test_a_budget_that_is_none(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PrunerError, match=message):
        Budget(**options)
