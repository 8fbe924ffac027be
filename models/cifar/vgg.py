"""VGG for 32x32 images: Simonyan & Zisserman, "Very Deep Convolutional Networks for Large-Scale
Image Recognition" (2014), table 1, with batch norms and narrower Linears."""

import torch
from torch import nn

from pruners.errors import PrunerError

# Convolutions of every stage; a pooling halves the image behind each. Three Linears follow.
DEPTHS: dict[int, tuple[int, ...]] = {
    11: (1, 1, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
}


class VGG(nn.Module):
    """VGG for 32x32 images: (N, in_channels, 32, 32) -> logits (N, num_classes)."""

    def __init__(self, depth: int = 11, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise PrunerError(f"VGG depth {depth}: expected one of {sorted(DEPTHS)}")
        layers: list[nn.Module] = []
        channels = in_channels
        for width, convolutions in zip((64, 128, 256, 512, 512), DEPTHS[depth], strict=True):
            for _ in range(convolutions):
                layers += [
                    nn.Conv2d(channels, width, kernel_size=3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                ]
                channels = width
            layers.append(nn.MaxPool2d(kernel_size=2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(512, 512),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(512, 512),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(512, num_classes),
        )

        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                # He initialisation keeps the variance of what flows through a ReLU network.
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(m, nn.Linear):
                nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
                nn.init.zeros_(m.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))
