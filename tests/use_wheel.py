"""Uses the installed package as its users do; run by `make test-wheel`, outside of the project.

Ends with a message and status 1 where something is missing from the wheel.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
import torchvision

import pruners

FOLDER = Path("used")
IMPORTER = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from slim import resnet
model = resnet(weights=sys.argv[2]).eval()
print(model(torch.ones(1, 3, 64, 64)).double().sum().item())
assert "pruners" not in sys.modules and "torchvision" not in sys.modules
"""


def main() -> None:
    here = Path(pruners.__file__)
    if "site-packages" not in here.parts:
        raise SystemExit(f"pruners: imported from {here}, expected the installed wheel")
    torch.manual_seed(0)
    model = torchvision.models.resnet18().eval()
    result = pruners.prune(model, torch.randn(2, 3, 64, 64), 50, name="slim")
    saved = result.save(FOLDER, weights_dir=FOLDER)
    found = subprocess.run(
        [sys.executable, "-I", "-c", IMPORTER, str(FOLDER), str(saved.weights)],
        capture_output=True,
        text=True,
        check=True,
    )
    with torch.no_grad():
        expected = result.model.eval()(torch.ones(1, 3, 64, 64)).double().sum().item()
    if abs(float(found.stdout) - expected) > 1e-3 * abs(expected) + 1e-3:
        raise SystemExit(f"slim.py: computes {found.stdout.strip()}, expected {expected}")
    print(f"pruners {pruners.__version__}: {saved.source} computes the same without it")


if __name__ == "__main__":
    main()
