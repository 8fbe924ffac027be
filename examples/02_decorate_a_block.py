# %% [markdown]
# # Decorate a block
#
# Pruning needs no decorators. They are a second, independent statement of what belongs together:
# they name a kind of block for writers of your own, keep layers whole, and are held against what a
# run of the network shows. A decorator attaches a description to the class and does nothing else.

# %%
import os
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruners import PrunerError, basic_block, prune, skip
from pruners.analysis import check_decorators

OUT = Path(os.environ.get("EXAMPLE_OUT") or tempfile.mkdtemp())

# %% [markdown]
# `convs` are the convolutions of the main branch in the order in which they run, `downsampling` the
# layers of the shortcut. Batch norms need not be named: each belongs to the convolution that it
# follows.


# %%
@basic_block(lType="residual", convs=["conv1", "conv2"], downsampling=["shortcut"])
class Residual(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


# %% [markdown]
# `@skip` names layers that keep all of their output channels, here those of the stem.


# %%
@skip(convs=["stem"])
class Net(nn.Module):
    """Images (N, 3, H, W) to logits (N, num_classes)."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.block1 = Residual(16, 16)
        self.block2 = Residual(16, 32)
        self.fc = nn.Linear(32, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block2(self.block1(F.relu(self.stem(x))))
        return self.fc(x.mean((2, 3)))


# %% [markdown]
# The decorators say what they say without any input; the trace says what a run of the network
# shows. Both must come to the same graph. (`python app.py --arch FILE.py:Net --check-decorators`
# does this on the command line.)

# %%
torch.manual_seed(0)
model, x = Net().eval(), torch.randn(2, 3, 16, 16)

blocks, differences = check_decorators(model, x)
print(f"{blocks} decorated blocks; decorators and trace {'differ' if differences else 'agree'}")

# %%
result = prune(model, x, prune_pct=40, name="decorated_40")
stem = result.report.widths["stem"]
print(f"the stem: {stem.before} -> {stem.after}, {result.report.kept_because['stem']}")
print(f"block2.conv1: {result.report.widths['block2.conv1']}")

# %% [markdown]
# Generated classes need no decorators, and have none.

# %%
print(result.source)
saved = result.save(OUT, OUT)

# %% [markdown]
# A decorator that names a layer which is not there is refused, with the names that are.

# %%
basic_block(lType="residual", convs=["conv1", "conv3"], downsampling=["shortcut"])(Residual)
try:
    check_decorators(model, x)
except PrunerError as error:
    refused = str(error)
    print(refused)
