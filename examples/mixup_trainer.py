"""A training loop of one's own in place of the project's; everything else is inherited.

    python app.py iterate --arch resnet --dataset Digits --exp runs/mixup \
        --trainer examples/mixup_trainer.py:MixupTrainer

Mixup trains on weighted sums of two images and of their labels (Zhang et al., "mixup: Beyond
Empirical Risk Minimization", 2018).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from pruners.trainer import Trainer


class MixupTrainer(Trainer):
    """Replaces `train_loop` alone."""

    alpha = 0.2

    def train_loop(
        self,
        net: nn.Module,
        optimizer: Optimizer,
        scheduler: Any,
        name: str,
        epochs: int,
        threshold: float,
    ) -> nn.Module:
        share = torch.distributions.Beta(self.alpha, self.alpha)
        for _ in range(epochs):
            net.train()
            for images, labels in self.dataloader["train"]:
                images, labels = images.to(self.devicy, self.dtype), labels.to(self.devicy)
                part, other = float(share.sample()), torch.randperm(len(images))
                logits = net(part * images + (1 - part) * images[other])
                loss = part * self.criterion(logits, labels)
                loss += (1 - part) * self.criterion(logits, labels[other])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            scheduler.step()
            self.save(net, name)
        return net
