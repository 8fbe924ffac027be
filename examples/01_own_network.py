# %% [markdown]
# # A network of your own
#
# Nothing has to be registered, decorated or reordered: the network is run once, and its own
# operators say which channels belong together. This one has a shortcut, a concatenation and a
# width that its `forward` says as a number.

# %%
import os
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruners import prune

OUT = Path(os.environ.get("EXAMPLE_OUT") or tempfile.mkdtemp())


class Net(nn.Module):
    """Images (N, 3, 16, 16) to logits (N, num_classes)."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.conv1 = nn.Conv2d(16, 24, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(24)
        self.conv2 = nn.Conv2d(24, 16, 3, padding=1)
        self.side = nn.Conv2d(16, 8, 1)
        self.fc = nn.Linear(24 * 4 * 4, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        # What is added to the stem's channels goes with them.
        x = x + self.conv2(F.relu(self.bn1(self.conv1(x))))
        x = torch.cat([x, self.side(x)], dim=1)
        x = F.max_pool2d(F.relu(x), 4)
        return self.fc(x.view(-1, 24 * 4 * 4))


# %% [markdown]
# Half of the parameters go. The model that is passed in is not changed; the example input says no
# more than what the network takes.

# %%
torch.manual_seed(0)
model = Net().eval()
x = torch.randn(4, 3, 16, 16)

result = prune(model, x, prune_pct=50, name="net_50")

report = result.report
print(f"{report.parameters.before:,} -> {report.parameters.after:,} parameters")
print(f"{report.macs.before:,} -> {report.macs.after:,} multiply-accumulates")
for layer, width in report.widths.items():
    print(f"{layer:6} {width.before:3} -> {width.after:3}  {report.kept_because.get(layer, '')}")

# %% [markdown]
# What comes out is source code, with the same classes, `forward` and comments. The number in the
# `view` has followed the channels.

# %%
print(result.source)

# %% [markdown]
# `kept` says which channels stay, in ascending order, for every dimension of every tensor. The slim
# weights are the original ones at these places.

# %%
rows, columns = result.kept["conv1.weight"][:2]
slim = result.model.state_dict()["conv1.weight"]
same = bool(torch.equal(slim, model.conv1.weight[rows][:, columns]))
print(f"conv1 keeps the filters {rows.tolist()}; its weights are the original's: {same}")

# %% [markdown]
# `save` imports the file in a fresh process, compares it with the original network whose removed
# channels are silenced, and only then gives the files their names.

# %%
saved = result.save(OUT, OUT)
assert saved.verification is not None
print(f"differs from the {saved.verification.oracle} original by {saved.verification.error:.1e}")
print("\n".join(path.name for path in (saved.source, saved.manifest, saved.weights)))
