"""Extra memory for the analysis of ResNet-152 at 224x224.

python -m benchmarks.bench_memory
"""

from __future__ import annotations

import resource
import tracemalloc

import torch
import torchvision

from pruners.analysis import analyse


def peak() -> float:
    """The largest resident set so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    torch.set_num_threads(1)
    x = torch.randn(1, 3, 224, 224)
    analyse(torchvision.models.resnet18().eval(), x)  # imports and caches
    model = torchvision.models.resnet152().eval()
    before = peak()
    analyse(model, x).graph.units()
    resident = peak() - before
    tracemalloc.start()
    analyse(model, x).graph.units()
    objects = tracemalloc.get_traced_memory()[1] / 2**20
    weights = sum(t.numel() * t.element_size() for t in model.state_dict().values()) / 2**20
    print(f"Analysis of ResNet-152 at 224x224 ({weights:.0f} MB of weights)")
    print(f"resident set grows by {resident:.0f} MB, Python objects at most {objects:.0f} MB")


if __name__ == "__main__":
    main()
