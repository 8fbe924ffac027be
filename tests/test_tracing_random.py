"""Random networks: pruned, and equal to the silenced original."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from networks import build, sources
from oracle import difference, parity, randomise
from torch import Tensor, nn
from user_files import user_class

from pruners import PruningResult, prune
from pruners.errors import PrunerError
from pruners.replay import restricted
from pruners.verify import expected_outputs

# `NETWORKS=500 pytest tests/test_tracing_random.py` for more; `make test-fuzz` goes further.
NETWORKS = int(os.environ.get("NETWORKS", "50"))

random_networks = settings(
    max_examples=NETWORKS,
    deadline=None,
    derandomize=True,
    # Shrinking takes minutes; the failing source is printed as it was drawn.
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

_numbers = itertools.count()


@random_networks
@given(source=sources(), rewritable=st.booleans(), seed=st.integers(0, 3))
def test_random_network_is_pruned_exactly(source: str, rewritable: bool, seed: int) -> None:
    outcome = parity(build(source), image(seed), rewritable=rewritable, seed=seed)
    assert outcome.error < 1e-12, source
    assert outcome.graph.unknown == [], source
    assert rewritable or not outcome.corrections, source


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("drawn")


@random_networks
@given(source=sources(), seed=st.integers(0, 3))
def test_random_network_goes_the_whole_way(folder: Path, source: str, seed: int) -> None:
    """From a source file to the generated one, which computes what the oracle does."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = user_class(folder, f"drawn_{next(_numbers)}", source, head="")()
    model = randomise(network.double().eval(), seed)
    x = image(seed).double()
    try:
        result = as_much_as_possible(model, x)
    except PrunerError as error:
        raise AssertionError(source) from error
    if result is None:
        return
    if result.counted:
        theirs = restricted(model, result.trace, result.kept)
    else:
        theirs = expected_outputs(model, result.kept, (x,))
    try:
        with torch.no_grad():
            ours = result.model.eval()(x)
    except Exception as error:
        raise AssertionError(source) from error
    assert difference(ours, theirs) < 1e-12, source


def image(seed: int) -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def as_much_as_possible(model: nn.Module, x: Tensor) -> PruningResult | None:
    """Half, or what can go where that is less; None where nothing can."""
    try:
        return prune(model, x, 50, min_filters=1)
    except PrunerError as error:
        if "has no channel that could be removed" in str(error):
            return None
        most = re.search(r"at most ([\d.]+) percent", str(error))
        if most is None:
            raise
        return prune(model, x, 0.9 * float(most[1]), min_filters=1)
