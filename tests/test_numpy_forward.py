"""Activations that leave torch and come back: nothing is seen of them, so their channels stay."""

from __future__ import annotations

from pathlib import Path

import torch
from helpers import with_telling_state
from user_files import user_class

from pruners import prune

NET = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.conv2 = nn.Conv2d(8, 8, 3)
        self.conv3 = nn.Conv2d(8, 16, 1)
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        y = torch.as_tensor(np.asarray(x.detach()) * 2)
        x = self.conv3(F.relu(self.conv2(y)))
        return self.fc(x.mean((2, 3)))
"""
HEAD = "import numpy as np\nimport torch\nimport torch.nn.functional as F\nfrom torch import nn\n\n"


def test_channels_that_go_through_numpy_stay(tmp_path: Path) -> None:
    model = user_class(tmp_path, "through_numpy", NET, head=HEAD)()
    model = with_telling_state(model).double().eval()
    result = prune(model, torch.randn(2, 3, 8, 8, dtype=torch.float64), 30)
    assert len(result.kept["conv1.weight"][0]) == 8
    assert len(result.kept["conv2.weight"][0]) < 8
    assert result.verified().error < 1e-12
