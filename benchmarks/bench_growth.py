"""Time of the analysis over depth: residual networks of 18 to 1001 layers.

python -m benchmarks.bench_growth
"""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor, nn

from pruners.analysis import analyse

DEPTHS = (18, 34, 101, 201, 501, 1001)
REPEATS = 3


class Chain(nn.Module):
    """Residual blocks of two convolutions, as many as asked for."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(16, 16, 3, padding=1),
                nn.BatchNorm2d(16),
                nn.ReLU(),
                nn.Conv2d(16, 16, 3, padding=1),
                nn.BatchNorm2d(16),
            )
            for _ in range((layers - 2) // 2)
        )
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean((2, 3)))


def main() -> None:
    torch.set_num_threads(1)
    print(f"Analysis over depth, medians of {REPEATS} runs on one thread")
    print(f"{'layers':>8}{'operators':>11}{'atoms':>9}{'seconds':>9}{'ms a layer':>12}")
    x = torch.randn(1, 3, 32, 32)
    found = {}
    for layers in DEPTHS:
        model = Chain(layers).eval()
        times = []
        for _ in range(REPEATS):
            start = time.process_time()
            trace = analyse(model, x)
            units = trace.graph.units()
            times.append(time.process_time() - start)
        found[layers] = 1e3 * statistics.median(times) / layers
        print(
            f"{layers:8}{len(trace.tapes[0].steps):11}{len(units.unit_of):9}"
            f"{statistics.median(times):9.3f}{found[layers]:12.2f}",
            flush=True,
        )
    for layers, each in found.items():
        print(f"{layers:8} {'#' * round(20 * each / max(found.values()))}")


if __name__ == "__main__":
    main()
