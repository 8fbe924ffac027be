# %% [markdown]
# # A network of torchvision
#
# Networks of other packages are pruned as they are. This ResNet-18 has random weights and small
# images, so that it takes seconds; with `resnet18(weights="DEFAULT")` and 224 pixels nothing else
# changes.

# %%
import os
import tempfile
from pathlib import Path

import torch
from torchvision.models import resnet18

from pruners import evaluate_all, prune

OUT = Path(os.environ.get("EXAMPLE_OUT") or tempfile.mkdtemp())

torch.manual_seed(0)
model, x = resnet18().eval(), torch.randn(2, 3, 64, 64)

# %% [markdown]
# Half of the multiply-accumulates go, widths become multiples of eight, and the last stage keeps at
# least half of its channels whatever the scores say.

# %%
result = prune(
    model, x, prune_pct=50, target="macs", round_to=8, ratio={"layer4.*": 0.5}, name="resnet18_50"
)
for layer in ("conv1", "layer1.0.conv1", "layer4.0.conv1", "layer4.1.conv2", "fc"):
    width = result.report.widths[layer]
    print(f"{layer:15} {width.before:4} -> {width.after:4}")

# %% [markdown]
# What both networks cost, in one way for you, the command line and the manifest. With images and
# labels in place of `None` it says what they get right, too.

# %%
before, after = evaluate_all([model, result.model], None, x)
for name in ("parameters", "macs", "activation_bytes", "bytes"):
    print(f"{name:16} {getattr(before, name):>13,} -> {getattr(after, name):>13,}")

# %% [markdown]
# The classes are torchvision's own, with the widths that are left; `BasicBlock` has one parameter
# more, since its two convolutions are no longer equally wide.

# %%
start = result.source.index("class ResNet(")
print(result.source[start : start + 1500])
saved = result.save(OUT, OUT)
