"""A network that spends less on simple images: each takes a shallow path or a deep one."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from pruners.decorators import basic_block
from pruners.hybrid_thresholds import HybridThresholds


def complexity(x: torch.Tensor, bins: int = 16) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """How much there is to see in each image: (N, C, H, W) -> three tensors of shape (N,).

    They are the variance of the intensity (the mean over the channels); the entropy of its
    histogram, in equal bins from the image's lowest intensity to its highest, as a share of the
    largest entropy; and the share of the pixels in the lowest bin: the zeros of an image on a black
    ground, whatever it was normalised by.
    """
    intensity = x.mean(1).flatten(1)
    low, high = intensity.amin(1, keepdim=True), intensity.amax(1, keepdim=True)
    # An image of one colour is all in the lowest bin.
    scaled = (intensity - low) / (high - low).clamp(min=1e-6) * bins
    which = torch.arange(bins, device=x.device, dtype=x.dtype)
    found = scaled.floor().clamp(max=bins - 1).unsqueeze(2) == which
    shares = found.to(x.dtype).mean(1)
    entropy = -(shares * shares.clamp(min=1e-12).log()).sum(1) / math.log(bins)
    return intensity.var(1, correction=0), entropy, shares[:, 0]


@basic_block(lType="basic_block", convs=["conv1", "conv2"], downsampling=["downsample"])
class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(
            in_channels, channels, kernel_size=3, stride=stride, padding=1, bias=False
        )
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, kernel_size=1, stride=stride, bias=False),
                nn.BatchNorm2d(channels),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(out + shortcut)


class DynamicNeuralNetwork(nn.Module):
    """A stem, a shallow and a deep path, and a classifier that both share, for images of any size:
    (N, in_channels, H, W) -> logits (N, num_classes).

    An image whose variance and entropy lie below the thresholds, and whose sparsity lies above, is
    simple and takes the shallow path; any other takes the deep one. The thresholds in effect are
    buffers, so a loaded network routes as the one that was trained.

    In evaluation a path computes its own images only. In training, and where the network is
    compiled, exported or traced, both compute all images and the one that counts is picked: shapes
    then do not depend on the data, and the results are the same.
    """

    def __init__(
        self,
        hybrid_thresholds: HybridThresholds | None = None,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.hybrid_thresholds = hybrid_thresholds or HybridThresholds(
            initial_thresholds={"variance": 2.0, "entropy": 0.875, "sparsity": 0.25},
            annealing_start_epoch=2,
            total_epochs=10,
            final_thresholds={"variance": 1.5, "entropy": 0.8125, "sparsity": 0.375},
        )
        self.conv1 = nn.Conv2d(in_channels, 16, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.shallow = nn.Sequential(
            nn.Conv2d(16, 32, kernel_size=3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 64, kernel_size=3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.deep = nn.Sequential(
            BasicBlock(16, 16),
            BasicBlock(16, 16),
            BasicBlock(16, 32, stride=2),
            BasicBlock(32, 32),
            BasicBlock(32, 64, stride=2),
            BasicBlock(64, 64),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.fc = nn.Linear(64, num_classes)
        for name, value in self.hybrid_thresholds.anneal(0).items():
            self.register_buffer(f"{name}_threshold", torch.tensor(value))
        self.register_buffer("epoch", torch.tensor(0))

        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                # He initialisation keeps the variance of what flows through a ReLU network.
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        simple = self.is_simple(x)
        x = F.relu(self.bn1(self.conv1(x)))
        if self.training or torch.jit.is_tracing() or torch.compiler.is_compiling():
            shallow, deep = self.shallow(x), self.deep(x)
            return self.fc(torch.where(simple.unsqueeze(1), shallow, deep))
        # The same operators run whatever the data, on no image at all where a path has none: so
        # one example shows the pruner everything.
        near, far = simple.nonzero().flatten(), simple.logical_not().nonzero().flatten()
        shallow = self.shallow(x.index_select(0, near))
        deep = self.deep(x.index_select(0, far))
        order = torch.cat([near, far]).argsort()
        return self.fc(torch.cat([shallow, deep]).index_select(0, order))

    def is_simple(self, x: torch.Tensor) -> torch.Tensor:
        """Which images take the shallow path: (N, C, H, W) -> bool, shape (N,)."""
        variance, entropy, sparsity = complexity(x)
        flat = (variance < self.variance_threshold) & (entropy < self.entropy_threshold)
        return flat & (sparsity > self.sparsity_threshold)

    def on_epoch(self, epoch: int, epochs: int) -> None:
        """Called before every epoch of training: the next step of annealing.

        The count is the network's own and part of its state: a training that is resumed goes on
        where it was, and one that follows on another (fine-tuning) does not begin anew.
        """
        for name, value in self.hybrid_thresholds.anneal(int(self.epoch)).items():
            getattr(self, f"{name}_threshold").fill_(value)
        self.epoch += 1

    def example_batches(self, shape: tuple[int, int, int]) -> list[torch.Tensor]:
        """A complex and a simple image of this shape, together and each alone."""
        height, width = shape[1:]
        rows = torch.arange(height).unsqueeze(1)
        columns = torch.arange(width)
        noisy = torch.sin(12.9898 * rows + 78.233 * columns) * 43758.5453
        complex = ((noisy - noisy.floor()) * 6 - 3).expand(shape)
        simple = torch.zeros(shape)
        simple[:, : max(height // 8, 1), : max(width // 8, 1)] = 0.1
        both = torch.stack([complex, simple])
        return [both, both[:1], both[1:]]
