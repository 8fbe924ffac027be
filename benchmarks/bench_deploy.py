"""What half of the multiply-accumulates are worth in milliseconds: onnxruntime, side by side.

    python -m benchmarks.bench_deploy

ResNet-50 and MobileNetV2 of torchvision at 224x224, random weights, half of the MACs removed with
widths that are multiples of 8; original and pruned network as ONNX files, taking turns;
milliseconds of processor time on one thread.
"""

from __future__ import annotations

import torch
import torchvision

from pruners import prune
from pruners.deploy.onnx_file import onnx_of
from pruners.deploy.runtime import OnnxNetwork, side_by_side_ms
from pruners.metrics import count_macs

NETWORKS = ("resnet50", "mobilenet_v2")
REPEATS = {1: 30, 32: 3}
"""Calls of which a latency is the median, by batch size."""
LEAST = 0.75
"""Of the ratio of MACs, at batch 1."""


def main() -> None:
    torch.set_num_threads(1)
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    print(f"{'network':<14}{'MACs':>16}{'ratio':>7}{'batch':>7}{'ms':>20}{'faster':>8}{'share':>7}")
    for name in NETWORKS:
        torch.manual_seed(0)
        full = torchvision.models.get_model(name).eval()
        slim = prune(full, x, 50, target="macs", round_to=8).model
        macs = [count_macs(network, x) for network in (full, slim)]
        ratio = macs[0] / macs[1]
        files = [OnnxNetwork(onnx_of(network, x)) for network in (full, slim)]
        for batch, repeats in REPEATS.items():
            before, after = side_by_side_ms(files, [torch.randn(batch, 3, 224, 224)], repeats)
            share = before / after / ratio
            print(
                f"{name:<14}{f'{macs[0] / 1e9:.2f} -> {macs[1] / 1e9:.2f} G':>16}{ratio:7.2f}"
                f"{batch:7}{f'{before:.1f} -> {after:.1f}':>20}{before / after:8.2f}{share:7.2f}",
                flush=True,
            )
    print(f"share: how much faster, over the ratio of MACs; {LEAST} was to be met at batch 1")


if __name__ == "__main__":
    main()
