"""What the original calls the values that it builds its layers with, and how it lays them out."""

from __future__ import annotations

import sys
from pathlib import Path

from user_files import user_class, wide_image

from pruners import prune
from pruners.naming import compared_attributes, given_names, parsed
from pruners.origin import init_of, module_source

TEXT = """\
def conv3x3(inputs, outputs):
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class Unit(nn.Module):
    def __init__(self, in_channels, squeeze):
        super().__init__()
        self.inner = nn.Conv2d(in_channels, squeeze, 1)

    def forward(self, x):
        return self.inner(x)


class Act(nn.Sequential):
    def __init__(self, in_channels, out_channels):
        super().__init__(nn.Conv2d(in_channels, out_channels, 1), nn.ReLU())


class Block(nn.Module):
    def __init__(self, config, width, drop_rate=0.1, make=nn.Conv2d, o=3):
        super().__init__()
        mid = width * 2
        twice = 4
        twice = 8
        self.plain = nn.Conv2d(width, mid, 1)
        self.made = make(mid, config.hidden, 1)
        self.helped = conv3x3(width, mid)
        self.short = nn.Conv2d(3, o, 1)
        self.changed = nn.Conv2d(3, twice, 1)
        self.drop = nn.Dropout(drop_rate)
        self.unit = Unit(width, squeeze=mid)
        self.act = Act(width, mid)
        self.chain = nn.Sequential(nn.Conv2d(width, mid, 1), nn.ReLU(), nn.Conv2d(mid, width, 1))
        layers = [nn.Linear(width, mid)]
        if config.extra:
            layers.append(nn.Linear(mid, width))
        layers += [nn.Linear(width, mid)]
        self.rows = nn.Sequential(*layers)
        self.listed = nn.ModuleList([nn.Linear(width, mid)])
        self.many = nn.ModuleList([nn.Linear(width, mid) for _ in range(3)])
        self.maybe = nn.Linear(width, mid) if config.extra else None
        self.residual = width == mid and config.hidden != 4
        self.told = config.extra

    def forward(self, x):
        return x


class Config:
    hidden = 6
    extra = True


class Less(Config):
    extra = False
"""


def test_names_are_read_where_they_are_clear(tmp_path: Path) -> None:
    cls = user_class(tmp_path, "naming_places", TEXT, cls="Block")
    source = module_source(cls.__module__)
    init = init_of(source.class_node(cls))
    assert init is not None
    module = sys.modules[cls.__module__]
    inits = [(parsed(init), source)]
    # Of two instances, the one with all layers says which place is whose.
    instances = [cls(module.Less, 5), cls(module.Config, 5)]
    assert given_names(instances, inits, module_source) == {
        ("plain", "in_channels"): "width",
        ("plain", "out_channels"): "mid",
        ("made", "in_channels"): "mid",
        ("made", "out_channels"): "hidden",
        ("helped", "in_channels"): "width",
        ("helped", "out_channels"): "mid",
        ("drop", "p"): "drop_rate",
        ("unit", "in_channels"): "width",
        ("unit", "squeeze"): "mid",
        ("act", "0", "in_channels"): "width",
        ("act", "0", "out_channels"): "mid",
        ("chain", "0", "in_channels"): "width",
        ("chain", "0", "out_channels"): "mid",
        ("chain", "2", "in_channels"): "mid",
        ("chain", "2", "out_channels"): "width",
        ("rows", "0", "in_features"): "width",
        ("rows", "0", "out_features"): "mid",
        ("rows", "1", "in_features"): "mid",
        ("rows", "1", "out_features"): "width",
        ("rows", "2", "in_features"): "width",
        ("rows", "2", "out_features"): "mid",
        ("listed", "0", "in_features"): "width",
        ("listed", "0", "out_features"): "mid",
        ("maybe", "in_features"): "width",
        ("maybe", "out_features"): "mid",
    }
    assert compared_attributes(inits) == {"residual"}


LAID_OUT = """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()

        # the first
        self.conv1 = nn.Conv2d(3, 12, 3)  # sees the image
        self.conv2 = nn.Conv2d(12, 16, 1)  # 12 -> 16
        self.conv3 = nn.Conv2d(16, 12, 1)  # noqa: E501

        # a second group
        self.scale = nn.Parameter(torch.full((12, 1, 1), 0.5))
        self.register_buffer("mean", torch.zeros(12, 1, 1))  # of the training set
        self.fc = nn.Linear(12, 10)

    def forward(self, x):
        x = self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))
        return self.fc((x * self.scale - self.mean).mean((2, 3)))
"""


def test_an_init_keeps_its_order_groups_and_comments(tmp_path: Path) -> None:
    network = user_class(tmp_path, "naming_layout", LAID_OUT)().double()
    result = prune(network, wide_image(1, 3, 8, 8), 50)
    lines = [line.strip() for line in result.source.splitlines()]
    start = lines.index("super().__init__()")
    kept = [line.partition(" =")[0] for line in lines[start + 1 :]]
    assert kept[: kept.index("") + 1] == [
        "# the first",
        "self.conv1",
        "self.conv2",
        "self.conv3",
        "",
    ]
    assert kept[kept.index("") + 1 :][:4] == [
        "# a second group",
        "self.scale",
        'self.register_buffer("mean", torch.zeros(' + kept[kept.index("") + 3].split("zeros(")[1],
        "self.fc",
    ]
    assert any(line.endswith("# sees the image") for line in lines)
    assert any(line.endswith("# of the training set") for line in lines)
    assert "# 12 -> 16" not in result.source  # a width that is another now
    assert "noqa" not in result.source
    assert "model.to(torch.float64)  # as its weights are" in result.source


BRANCHES = """\
class Net(nn.Module):
    def __init__(self, extra=True):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 12, 3)
        # only where it is wanted
        if extra:
            self.conv2 = nn.Conv2d(12, 12, 1)

        width = 12
        self.fc = nn.Linear(width, 10)

    def forward(self, x):
        return self.fc(self.conv2(self.conv1(x)).mean((2, 3)))
"""


def test_comments_of_a_branch_and_lines_in_front_of_locals_stay(tmp_path: Path) -> None:
    network = user_class(tmp_path, "naming_branches", BRANCHES)().double()
    result = prune(network, wide_image(1, 3, 8, 8), 50)
    lines = [line.strip().partition(" =")[0] for line in result.source.splitlines()]
    start = lines.index("self.conv1")
    assert lines[start : start + 5] == [
        "self.conv1",
        "# only where it is wanted",
        "self.conv2",
        "",
        "self.fc",
    ]
