"""Axes, atoms, units, groups: what is coupled goes together, and nothing else does."""

from __future__ import annotations

import numpy as np
import pytest

from pruners import Axis, ChannelGraph, Coupling, PrunerError
from pruners.channel_graph import all_kept, kept_of, match_layers

# The example of the module's docstring, with another convolution that stands alone.
SHAPES = {
    "conv.weight": (3, 2, 3, 3),
    "conv.bias": (3,),
    "bn.weight": (3,),
    "conv2.weight": (4, 3, 3, 3),
    "num_batches": (),
}
CONV, BIAS, NORM = Axis("conv.weight", 0), Axis("conv.bias", 0), Axis("bn.weight", 0)
READS, ROWS = Axis("conv2.weight", 1), Axis("conv2.weight", 0)


def same(a: Axis, b: Axis, size: int) -> Coupling:
    return Coupling(a, b, np.arange(size), np.arange(size), "test")


def example() -> ChannelGraph:
    graph = ChannelGraph(SHAPES)
    graph.couple(same(CONV, BIAS, 3))
    graph.couple(same(NORM, CONV, 3))
    graph.couple(same(READS, NORM, 3))
    graph.add(ROWS, role="out")
    return graph


def test_one_filter_with_all_that_hangs_on_it_is_one_unit() -> None:
    units = example().units()
    assert units.count == 3 + 4
    for axis in (BIAS, NORM, READS):
        assert np.array_equal(units.of(axis), units.of(CONV))
    assert not set(units.of(ROWS)) & set(units.of(CONV))


def test_units_on_the_same_axes_are_one_group() -> None:
    units = example().units()
    assert len(set(units.group_of[units.of(CONV)])) == 1
    assert len(set(units.group_of[units.of(ROWS)])) == 1
    assert units.group_of[units.of(CONV)[0]] != units.group_of[units.of(ROWS)[0]]


def test_a_coupling_may_permute_and_repeat() -> None:
    """Flatten before a Linear: every channel meets several columns."""
    graph = ChannelGraph({"conv.weight": (2, 1, 3, 3), "fc.weight": (5, 6)})
    rows, columns = Axis("conv.weight", 0), Axis("fc.weight", 1)
    graph.couple(Coupling(rows, columns, np.array([1, 1, 1, 0, 0, 0]), np.arange(6), "flatten"))
    units = graph.units()
    one, two = units.of(rows)
    assert units.of(columns).tolist() == [two, two, two, one, one, one]


def test_an_edge_that_was_stored_the_other_way_round_keeps_its_directions() -> None:
    """networkx gives the ends of an edge in any order; the index arrays must not be swapped."""
    graph = ChannelGraph({"a": (3,), "b": (3,)})
    a, b = Axis("a", 0), Axis("b", 0)
    graph.add(b)
    graph.add(a)
    graph.couple(Coupling(a, b, np.array([0, 1, 2]), np.array([2, 0, 1]), "cycle"))
    units = graph.units()
    assert units.of(b)[[2, 0, 1]].tolist() == units.of(a).tolist()


def test_an_axis_is_coupled_to_itself() -> None:
    """Equal groups: row j of every group goes together."""
    graph = ChannelGraph({"weight": (6, 1)})
    axis = Axis("weight", 0)
    graph.couple(Coupling(axis, axis, np.arange(6), np.arange(6) % 3, "equal groups"))
    units = graph.units()
    assert units.count == 3
    assert units.of(axis)[:3].tolist() == units.of(axis)[3:].tolist()


def test_frozen_positions_freeze_their_whole_unit() -> None:
    graph = example()
    graph.freeze(READS, "by hand", positions=np.array([1]))
    graph.freeze(ROWS, "is an output")
    units = graph.units()
    assert units.frozen[units.of(CONV)].tolist() == [False, True, False]
    assert units.frozen[units.of(ROWS)].all()
    assert units.reasons[int(units.of(CONV)[1])] == "by hand"
    assert units.reasons[int(units.of(ROWS)[0])] == "is an output"


def test_the_first_reason_is_the_one_that_is_told() -> None:
    graph = example()
    graph.freeze(CONV, "first")
    graph.freeze(NORM, "second")
    units = graph.units()
    assert set(units.reasons.values()) == {"first"}


def test_what_stays_is_ascending_and_complete() -> None:
    graph = example()
    units = graph.units()
    stays = np.ones(units.count, dtype=bool)
    stays[units.of(CONV)[1]] = False
    kept = kept_of(graph.shapes, units, stays)
    assert list(kept) == list(SHAPES)
    assert [dim.tolist() for dim in kept["conv.weight"]] == [[0, 2], [0, 1], [0, 1, 2], [0, 1, 2]]
    assert kept["conv2.weight"][1].tolist() == [0, 2]
    assert kept["conv2.weight"][0].tolist() == [0, 1, 2, 3]
    assert kept["num_batches"] == ()
    assert all(dim.dtype == np.int64 for dims in kept.values() for dim in dims)


def test_nothing_removed() -> None:
    assert {n: [len(d) for d in dims] for n, dims in all_kept(SHAPES).items()} == {
        name: list(shape) for name, shape in SHAPES.items()
    }


def test_outputs_are_the_axes_of_rows() -> None:
    assert example().outputs() == [ROWS]


def test_a_graph_without_couplings() -> None:
    assert ChannelGraph({}).units().count == 0


@pytest.mark.parametrize("axis", [Axis("conv.weigt", 0), Axis("conv.bias", 1)])
def test_an_axis_that_the_network_lacks(axis: Axis) -> None:
    with pytest.raises(PrunerError, match=r"axis conv\.\w+\[\d\]: the network has no such tensor"):
        ChannelGraph(SHAPES).add(axis)


def test_a_near_name_is_offered() -> None:
    with pytest.raises(PrunerError, match=r"did you mean conv\.weight"):
        ChannelGraph(SHAPES).add(Axis("conv.weigt", 0))


def test_an_unknown_axis_has_no_units() -> None:
    with pytest.raises(KeyError, match=r"bn\.bias\[0\]"):
        example().units().of(Axis("bn.bias", 0))


def test_globs_match_whole_paths() -> None:
    layers = ["layer1.1.conv1", "layer1.10.conv1", "layer1.1.conv2", "fc"]
    assert match_layers(["layer1.1.*"], layers) == {"layer1.1.conv1", "layer1.1.conv2"}
    assert match_layers(["*.conv1", "f?"], layers) == {"layer1.1.conv1", "layer1.10.conv1", "fc"}
    assert match_layers([], layers) == set()


@pytest.mark.parametrize("glob", ["layer1.1", "conv1", "FC", ""])
def test_a_glob_that_matches_nothing(glob: str) -> None:
    with pytest.raises(PrunerError, match=r"matches no layer.*globs match whole module paths"):
        match_layers([glob], ["layer1.1.conv1", "fc"])
