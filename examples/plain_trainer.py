"""A trainer that has nothing of the project's: three methods are all that `iterate` asks for.

    python app.py iterate --arch resnet --dataset Digits --exp runs/adam \
        --trainer examples/plain_trainer.py:AdamTrainer
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader


class AdamTrainer:
    """Adam, at one learning rate."""

    def __init__(
        self, pruning: bool, ddtype: torch.dtype, datasets: Any, models_path: Path, cuda: str
    ) -> None:
        self.dtype, self.datasets, self.device = ddtype, datasets, torch.device(cuda)

    def load_dataloaders(self, batch_size: int, collate_fn: Any) -> None:
        torch.manual_seed(0)
        self.loader = DataLoader(
            self.datasets.train, batch_size, shuffle=True, collate_fn=collate_fn
        )

    def train(
        self,
        net: nn.Module,
        parameters: Mapping[str, Any],
        name: str,
        epochs: int,
        reload: bool,
        old_net: nn.Module | None,
    ) -> None:
        """In place: `net` keeps its keys and shapes."""
        net.to(self.device, self.dtype).train()
        optimizer = torch.optim.Adam(net.parameters(), parameters["learning_rate"] / 10)
        for _ in range(epochs):
            for images, labels in self.loader:
                loss = F.cross_entropy(
                    net(images.to(self.device, self.dtype)), labels.to(self.device)
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    def evaluate(self, net: nn.Module, quant_mode: bool) -> tuple[float, nn.Module]:
        right, net = 0, net.eval()
        for images, labels in DataLoader(self.datasets.test, 256):
            with torch.no_grad():
                logits = net(images.to(self.device, self.dtype))
            right += int((logits.argmax(1).cpu() == labels).sum())
        return 100 * right / len(self.datasets.test), net
