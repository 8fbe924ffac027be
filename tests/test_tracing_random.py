"""Random networks: pruned, and equal to the silenced original."""

from __future__ import annotations

import os

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from networks import build, sources
from oracle import parity

# `make test-fuzz` sets 500.
NETWORKS = int(os.environ.get("NETWORKS", "50"))


@settings(
    max_examples=NETWORKS,
    deadline=None,
    derandomize=True,
    # Shrinking takes minutes; the failing source is printed as it was drawn.
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(source=sources(), rewritable=st.booleans(), seed=st.integers(0, 3))
def test_random_network_is_pruned_exactly(source: str, rewritable: bool, seed: int) -> None:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    outcome = parity(build(source), x, rewritable=rewritable, seed=seed)
    assert outcome.error < 1e-12, source
    assert outcome.graph.unknown == [], source
    assert rewritable or not outcome.corrections, source
