"""Every classification, segmentation and video network of torchvision, whole.

For each: the graph is built, no operator is unknown, half of the removable units go, and the
sliced network equals the oracle. For a table:

    PYTHONPATH=. python tests/test_torchvision.py [name ...]
"""

from __future__ import annotations

import sys
import time
import traceback
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torchvision
from oracle import difference, half, randomise
from torch import nn

from benchmarks.coverage_networks import SIZES, VIDEO
from pruners.channel_graph import kept_of
from pruners.replay import replay, restricted, trace

NAMES = (
    *torchvision.models.list_models(module=torchvision.models),
    *torchvision.models.list_models(module=torchvision.models.segmentation),
    *torchvision.models.list_models(module=torchvision.models.video),
)


def build(name: str) -> tuple[nn.Module, torch.Tensor]:
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False  # a truncated normal from SciPy, a minute long
    if name.startswith("vit_"):
        options["image_size"] = SIZES.get(name, 64)
    if name in torchvision.models.list_models(module=torchvision.models.segmentation):
        options["weights_backbone"] = None
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    if name in VIDEO:
        frames, pixels = VIDEO[name]
        shape: tuple[int, ...] = (1, 3, frames, pixels, pixels)
    else:
        pixels = options.get("image_size", SIZES.get(name, 64))
        shape = (1, 3, pixels, pixels)
    model = torchvision.models.get_model(name, weights=None, **options)
    if name == "vit_h_14":
        # All 32 blocks in float64, full and silenced, are 10 GB; they are alike.
        del model.encoder.layers[2:]
    return model, torch.randn(shape, generator=generator, dtype=torch.float64)


@dataclass(frozen=True)
class Row:
    name: str
    units: int
    frozen: int
    removed: int
    error: float
    unknown: list[str]
    oracle: str
    analysis: float


def silence(model: nn.Module, kept: dict[str, Any]) -> None:
    """As `oracle.silenced`, in place: two copies of the largest networks are too many."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            for dim, indices in enumerate(kept[name]):
                gone = torch.ones(tensor.shape[dim], dtype=torch.bool)
                gone[torch.as_tensor(indices)] = False
                tensor.index_fill_(
                    dim, gone.nonzero().flatten(), 1 if name.endswith("running_var") else 0
                )


def check(name: str, rewritable: bool) -> Row:
    model, x = build(name)
    model = randomise(model.double().eval())
    start = time.perf_counter()
    found = trace(model, x, rewritable=rewritable)
    seconds = time.perf_counter() - start
    units = found.graph.units()
    stays = half(units)
    kept = kept_of(found.graph.shapes, units, stays)
    ours = replay(model, found, kept)
    assert rewritable or not ours.corrections, ours.corrections[:3]
    if units.renormalised:
        theirs = restricted(model, found, kept)
    else:
        silence(model, kept)
        with torch.no_grad():
            theirs = model(x)
    return Row(
        name,
        units.count,
        int(units.frozen.sum()),
        int((~stays).sum()),
        difference(ours.output, theirs),
        [f"{u.module}: {u.operator}" for u in found.graph.unknown],
        "restricted" if units.renormalised else "silenced",
        seconds,
    )


def with_attention(name: str) -> bool:
    """Where the writer may change the forward, the widths of nn.MultiheadAttention are free."""
    return name.startswith("vit_")


CASES = [(name, False) for name in NAMES] + [(name, True) for name in NAMES if with_attention(name)]


@pytest.mark.zoo
@pytest.mark.parametrize(("name", "rewritable"), CASES)
def test_half_of_a_network_equals_the_oracle(name: str, rewritable: bool) -> None:
    row = check(name, rewritable)
    assert row.unknown == []
    assert row.removed > 0.3 * (row.units - row.frozen) > 0
    assert row.error < 1e-12


def main() -> None:
    torch.set_num_threads(1)
    print(
        f"{'network':30}{'units':>8}{'frozen':>8}{'removed':>9}{'error':>10}{'trace s':>9}"
        "  oracle      unknown"
    )
    for name, rewritable in CASES:
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        label = name + (" (rewritable)" if rewritable else "")
        try:
            row = check(name, rewritable)
        except Exception as error:
            print(f"{label:30} FAILED {type(error).__name__}: {error}", flush=True)
            traceback.print_exc()
            continue
        print(
            f"{label:30}{row.units:8}{row.frozen:8}{row.removed:9}{row.error:10.1e}"
            f"{row.analysis:9.2f}  {row.oracle:12}{', '.join(row.unknown)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
