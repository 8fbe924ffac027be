"""Attributes that only some blocks have, as in pytorch-cifar's PreActResNet."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from helpers import image, with_telling_state

from pruners import basic_block, prune
from pruners.loading import class_from_file
from pruners.verify import require, verify

NET = '''
import torch.nn as nn
import torch.nn.functional as F


class PreActBlock(nn.Module):
    """Pre-activation version of the BasicBlock."""

    def __init__(self, in_planes, planes, stride=1):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)

        if stride != 1 or in_planes != planes:
            self.shortcut = nn.Sequential(nn.Conv2d(in_planes, planes, 1, stride, bias=False))

    def forward(self, x):
        out = F.relu(self.bn1(x))
        shortcut = self.shortcut(out) if hasattr(self, "shortcut") else x
        out = self.conv1(out)
        out = self.conv2(F.relu(self.bn2(out)))
        return out + shortcut


class PreActNet(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.layer1 = nn.Sequential(PreActBlock(16, 16), PreActBlock(16, 16))
        self.layer2 = nn.Sequential(PreActBlock(16, 32, 2), PreActBlock(32, 32))
        self.bn = nn.BatchNorm2d(32)
        self.linear = nn.Linear(32, num_classes)

    def forward(self, x):
        x = F.relu(self.bn(self.layer2(self.layer1(self.conv1(x)))))
        x = F.avg_pool2d(x, 8)
        x = x.view(x.size(0), -1)
        return self.linear(x)
'''


def test_a_shortcut_that_only_some_blocks_have(tmp_path: Path) -> None:
    (tmp_path / "preact_net.py").write_text(NET)
    cls = class_from_file(tmp_path / "preact_net.py", "PreActNet")
    torch.manual_seed(0)
    model = with_telling_state(cls())
    plain = prune(model, image(2, 3, 16, 16), 50, name="plain")
    block = sys.modules[cls.__module__].PreActBlock
    basic_block(lType="preact", convs=["conv1", "conv2"], downsampling=["shortcut"])(block)
    declared = prune(model, image(2, 3, 16, 16), 50, name="declared")
    assert plain.source.replace("plain", "declared") == declared.source
    assert "        if shortcut:\n            self.shortcut = nn.Sequential(" in plain.source
    assert "self.shortcut = None" not in plain.source
    require(verify([plain.case(), declared.case()]))
