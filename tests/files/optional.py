"""A file of the kind users write: layers that only some blocks have."""

from __future__ import annotations

from torch import nn


class MBConv(nn.Module):
    def __init__(self, i, o, expand, k, p):
        super().__init__()
        layers = []
        h = i * expand
        if expand != 1:
            layers.append(nn.Sequential(nn.Conv2d(i, h, 1), nn.BatchNorm2d(h), nn.ReLU()))
        layers.append(
            nn.Sequential(
                nn.Conv2d(h, h, k, padding=k // 2, groups=h), nn.BatchNorm2d(h), nn.ReLU()
            )
        )
        layers += [nn.Conv2d(h, o, 1), nn.BatchNorm2d(o)]
        self.block = nn.Sequential(*layers)
        self.skip = nn.Conv2d(i, o, 1) if i != o else nn.Identity()
        self.drop = nn.Dropout2d(p)

    def forward(self, x):
        return self.drop(self.block(x)) + self.skip(x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3)
        self.a = MBConv(16, 16, 1, 3, 0.0)
        self.b = MBConv(16, 24, 4, 5, 0.1)
        self.c = MBConv(24, 24, 2, 3, 0.2)
        self.fc = nn.Linear(24, 10)

    def forward(self, x):
        return self.fc(self.c(self.b(self.a(self.stem(x)))).mean((2, 3)))
