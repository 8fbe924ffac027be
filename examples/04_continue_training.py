# %% [markdown]
# # Continue training elsewhere
#
# A generated file is all that another program needs. Here a small network is trained on
# scikit-learn's digits and pruned; a script that imports torch and the generated file, and nothing
# of this project, goes on training it.

# %%
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from pruners import prune

OUT = Path(os.environ.get("EXAMPLE_OUT") or tempfile.mkdtemp())
OUT.mkdir(parents=True, exist_ok=True)

digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
labels = torch.tensor(digits.target)
order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
training, test = order[:1400], order[1400:]


class Net(nn.Module):
    """Digits (N, 1, 8, 8) to logits (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
        )
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))


def accuracy(net: nn.Module) -> float:
    """Percent of the test images."""
    with torch.no_grad():
        right = net.eval()(images[test]).argmax(1) == labels[test]
    return 100 * float(right.float().mean())


# %%
torch.manual_seed(0)
model = Net()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for _ in range(8):
    model.train()
    for batch in training[torch.randperm(len(training))].split(100):
        loss = F.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
print(f"trained: {accuracy(model):.1f} % of the test images")

# %% [markdown]
# Half of the parameters go.

# %%
result = prune(model.eval(), images[:2], prune_pct=50, name="digits_50")
saved = result.save(OUT, OUT)
pruned = accuracy(result.model)
print(f"pruned: {pruned:.1f} %")

# %% [markdown]
# The other program: its folder holds the generated file, the weights and the data. It may run on
# another machine, with nothing but torch installed.

# %%
ELSEWHERE = """\
import json
import sys

import torch
import torch.nn.functional as F

from digits_50 import net

data = torch.load("digits.pt", weights_only=True)
images, labels, training, test = (data[name] for name in ("images", "labels", "training", "test"))

torch.manual_seed(0)
model = net(weights=sys.argv[1])
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for _ in range(4):
    model.train()
    for batch in training[torch.randperm(len(training))].split(100):
        loss = F.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
with torch.no_grad():
    right = model.eval()(images[test]).argmax(1) == labels[test]
torch.save(model.state_dict(), "trained_on.pth")
print(json.dumps({
    "accuracy": 100 * float(right.float().mean()),
    "parameters": sum(p.numel() for p in model.parameters()),
    "imports_pruners": "pruners" in sys.modules,
}))
"""
data = {"images": images, "labels": labels, "training": training, "test": test}
torch.save(data, OUT / "digits.pt")
(OUT / "elsewhere.py").write_text(ELSEWHERE, encoding="utf-8")

command = [sys.executable, "elsewhere.py", saved.weights.name]
done = subprocess.run(command, cwd=OUT, capture_output=True, text=True, check=True)
elsewhere = json.loads(done.stdout)
print(f"trained on elsewhere: {elsewhere['accuracy']:.1f} %, {elsewhere['parameters']} parameters")

# %% [markdown]
# What it stored is a plain `state_dict` with the keys of the original network. It loads into the
# generated class, here or anywhere.

# %%
result.model.load_state_dict(torch.load(OUT / "trained_on.pth", weights_only=True))
print(f"the same weights here: {accuracy(result.model):.1f} %")
