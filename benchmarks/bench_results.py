"""What is left when half of the parameters are gone: multiply-accumulates, latency, files.

    python -m benchmarks.bench_results                 six networks of torchvision
    python -m benchmarks.bench_results mobilenet_v2    these

Ours is asked for 50 percent; torch-pruning gets the smallest ratio, of a binary search, that
removes as much. Both with their defaults (ours ranks all layers together, torch-pruning takes the
same share of every layer), and with widths that are multiples of 8. Latency is of one image in
PyTorch on one thread: milliseconds of processor time, medians of calls that alternate.

Then what each leaves on disk for ResNet-50: ours the generated file and a state_dict,
torch-pruning's the pickled module, as its README advises. A fresh process that has torch loads
them; the time is from there to a network that can be called.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.bench_tracing import build
from benchmarks.peers import torch_pruning
from pruners import prune
from pruners.deploy.runtime import side_by_side_ms
from pruners.metrics import count_macs, count_parameters

NETWORKS = (
    "resnet50",
    "resnext50_32x4d",
    "vgg16_bn",
    "densenet121",
    "mobilenet_v2",
    "efficientnet_b0",
)
REPEATS = 20
STEPS = 7
"""Of the binary search: the ratio is within a percent."""
LOADS = 5

CHILD = """
import json, sys, time
import torch
hidden = sys.argv[4] == "hidden"
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torchvision":
            raise ModuleNotFoundError(f"No module named '{name}'")
if hidden:
    sys.meta_path.insert(0, Hidden())
kind, folder, safe = sys.argv[1], sys.argv[2], sys.argv[3] == "safe"
start = time.process_time()
try:
    if kind == "source":
        sys.path.insert(0, folder)
        from slim import resnet
        model = resnet(weights=f"{folder}/slim.pth")
    else:
        model = torch.load(f"{folder}/module.pth", weights_only=safe)
    seconds = time.process_time() - start
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, 224, 224))
    print(json.dumps({"seconds": seconds}))
except Exception as error:
    print(json.dumps({"error": type(error).__name__}))
"""


def theirs(model: nn.Module, x: Tensor, **options: object) -> nn.Module:
    """torch-pruning's network with at most half of the parameters."""
    half = count_parameters(model) / 2
    low, high = 0.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        if count_parameters(torch_pruning(model, x, middle, **options)) <= half:
            high = middle
        else:
            low = middle
    return torch_pruning(model, x, high, **options)


def left(name: str) -> None:
    """A table of one network."""
    full, x = build(name)
    makers: dict[str, Callable[[], nn.Module]] = {
        "unpruned": lambda: full,
        "pruners": lambda: prune(full, x, 50).model,
        "torch-pruning": lambda: theirs(full, x),
        "pruners, by 8": lambda: prune(full, x, 50, round_to=8).model,
        "torch-pruning, by 8": lambda: theirs(full, x, round_to=8),
    }
    models = [make().eval() for make in makers.values()]
    with torch.no_grad():
        milliseconds = side_by_side_ms(models, [x], REPEATS)
    for title, model, ms in zip(makers, models, milliseconds, strict=True):
        parameters, macs = count_parameters(model) / 1e6, count_macs(model, x) / 1e9
        print(f"{name:18}{title:21}{parameters:8.2f} M{macs:9.2f} G{ms:10.1f}", flush=True)


def files() -> None:
    """What lies on disk of ResNet-50, and what it takes to load it."""
    full, x = build("resnet50")
    print(
        f"\n{'ResNet-50 on disk':32}{'kB':>8}{'load ms':>9}  weights_only=True  without torchvision"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result = prune(full, x, 50, name="slim")
        (folder / "slim.py").write_text(result.source, "utf-8")
        torch.save(result.state_dict, folder / "slim.pth")
        torch.save(theirs(full, x), folder / "module.pth")
        for title, kind, paths in (
            ("pruners: slim.py, slim.pth", "source", ("slim.py", "slim.pth")),
            ("torch-pruning: pickled module", "module", ("module.pth",)),
        ):
            size = sum((folder / path).stat().st_size for path in paths) / 1000
            loads = [_loaded(kind, folder, "unsafe", "seen") for _ in range(LOADS)]
            ms = 1e3 * statistics.median(float(each["seconds"]) for each in loads)
            safe = _loaded(kind, folder, "safe", "seen").get("error", "yes")
            alone = _loaded(kind, folder, "unsafe", "hidden").get("error", "yes")
            print(f"{title:32}{size:8,.0f}{ms:9.0f}  {safe:18}{alone}")


def _loaded(kind: str, folder: Path, safe: str, hidden: str) -> dict[str, float | str]:
    done = subprocess.run(
        [sys.executable, "-I", "-c", CHILD, kind, str(folder), safe, hidden],
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, float | str] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(names: Sequence[str]) -> None:
    torch.set_num_threads(1)
    print(f"{'network':18}{'':21}{'parameters':>10}{'MACs':>11}{'ms':>10}")
    for name in names:
        left(name)
    files()


if __name__ == "__main__":
    main(sys.argv[1:] or NETWORKS)
