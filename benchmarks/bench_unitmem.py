"""UnitMem of all units of ResNet-20, against plain forward passes over the same images.

    python -m benchmarks.bench_unitmem            1,000 images, 10 augmentations
    python -m benchmarks.bench_unitmem 200 5      these numbers

Both run 10,000 images in the same batches; the published way would run one pass for every layer.
Medians of the processor's seconds in alternating runs on one thread; the augmentations are part of
both. A ratio of at most 1.3 was to be met.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.data import TensorDataset

from models.cifar.resnet import ResNet
from pruners.analysis import analyse
from pruners.unitmem import get_unitmem, harder

BATCH = 64
REPEATS = 3


def seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def plain(model: nn.Module, data: TensorDataset, augmentations: int) -> None:
    """The forward passes alone."""
    generator = torch.Generator().manual_seed(0)
    (images, _) = data.tensors
    with torch.inference_mode():
        for start in range(0, len(images), BATCH):
            for _ in range(augmentations):
                model(harder(images[start : start + BATCH], generator))


def main() -> None:
    count, augmentations = (int(n) for n in sys.argv[1:] or ("1000", "10"))
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = ResNet(20).eval()
    data = TensorDataset(torch.randn(count, 3, 32, 32), torch.zeros(count))
    trace = analyse(model, data.tensors[0][:2])
    pairs = [
        (
            seconds(
                lambda: get_unitmem(
                    model,
                    data,
                    images=count,
                    augmentations=augmentations,
                    UM_batch=BATCH,
                    trace=trace,
                )
            ),
            seconds(lambda: plain(model, data, augmentations)),
        )
        for _ in range(REPEATS)
    ]
    ours, passes = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"UnitMem of ResNet-20, {count} images x {augmentations} augmentations, one thread")
    print(f"UnitMem {ours:.1f} s, forward passes {passes:.1f} s, ratio {ours / passes:.2f}")


if __name__ == "__main__":
    main()
