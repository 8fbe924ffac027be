"""A user's own source file, as the command line would import it, and what becomes of it."""

from __future__ import annotations

import textwrap
from pathlib import Path

import torch
from helpers import image
from torch import Tensor, nn

from pruners import PruningResult
from pruners.loading import class_from_file
from pruners.verify import expected_outputs

HEAD = """\
import torch
import torch.nn.functional as F
from torch import nn

from pruners import basic_block, bottleneck

"""

# The place of a shortcut as torchvision and as pytorch-cifar write it.
BASIC_BLOCK = '''\
@basic_block(lType="user_basic", convs=["conv1", "conv2"], downsampling=["shortcut"])
class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


'''


def write(folder: Path, name: str, text: str, head: str = HEAD) -> Path:
    path = folder / f"{name}.py"
    path.write_text(head + textwrap.dedent(text), encoding="utf-8")
    return path


def user_class(
    folder: Path, name: str, text: str, cls: str = "Net", head: str = HEAD
) -> type[nn.Module]:
    """The class of a file that is laid out in `folder`; `name` is to be its own in the suite."""
    return class_from_file(write(folder, name, text, head), cls)


def wide_image(*shape: int) -> Tensor:
    return image(*shape, dtype=torch.float64)


def difference(result: PruningResult) -> float:
    """max|a - b| / max|b| between the generated network and the masked original."""
    model, inputs = result.pruning.model, result.pruning.example_inputs
    expected = expected_outputs(model, result.kept, inputs)
    with torch.no_grad():
        got = result.model.eval()(*inputs)
    assert list(result.model.state_dict()) == list(model.state_dict())
    assert got.shape == expected.shape
    assert torch.isfinite(got).all()
    return float((got - expected).abs().max() / expected.abs().max())
