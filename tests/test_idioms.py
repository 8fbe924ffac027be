"""Networks as their users write them (tests/idioms): each pruned, written and compared.

What a network does not lose is said here, and why: a channel that stays for another reason than
before is a test that fails.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pruners import PruningResult, prune
from pruners.loading import class_from_file
from pruners.verify import require, verify, with_telling_state

FOLDER = Path(__file__).parent / "idioms"

Shape = tuple[int, ...]
NETWORKS: dict[str, dict[str, tuple[Shape, ...]]] = {
    "architectures": {
        "YOLO": ((2, 3, 64, 64),),
        "EffDet": ((2, 3, 32, 32),),
        "Att": ((2, 3, 16, 16),),
        "ResNeSt": ((2, 3, 16, 16),),
        "RepVGG": ((2, 3, 32, 32),),
        "TasNet": ((2, 1, 256),),
        "RCAN": ((2, 3, 12, 12),),
        "HRNet": ((2, 3, 16, 16),),
        "GhostNet": ((2, 3, 16, 16),),
        "MobileViT": ((2, 3, 16, 16),),
        "SlowFast": ((2, 3, 2, 8, 8), (2, 3, 8, 8, 8)),
        "Style": ((2, 8),),
        "AttUNet": ((2, 1, 36, 36),),
        "Cond": ((2, 3, 8, 8),),
        "CRNN": ((2, 1, 16, 32),),
    },
    "blocks": {
        "DETR": ((2, 3, 16, 16),),
        "ConvLSTM": ((2, 3, 3, 6, 6),),
        "WaveNet": ((2, 1, 40),),
        "NAFNet": ((2, 3, 8, 8),),
        "Res2Net": ((2, 3, 16, 16),),
        "ASPP": ((2, 3, 32, 32),),
        "STN": ((2, 1, 28, 28),),
        "VAE": ((2, 1, 16, 16),),
        "UpPad": ((2, 3, 18, 18),),
        "CoordConvNet": ((2, 3, 8, 8),),
        "PointNet": ((2, 3, 20),),
        "NonLocal": ((2, 3, 16, 16),),
        "Siamese": ((2, 1, 16, 16), (2, 1, 16, 16)),
        "MixNet": ((2, 3, 16, 16),),
        "LinAttn": ((2, 3, 16, 16),),
        "Diffusion": ((2, 3, 8, 8), (2,)),
        "ArcHead": ((2, 3, 16, 16),),
        "SK": ((2, 3, 16, 16),),
    },
    "styles": {
        "VGGish": ((2, 3, 16, 16),),
        "WS": ((2, 3, 16, 16),),
        "Configured": ((2, 3, 16, 16),),
        "Derived": ((2, 3, 8, 8),),
        "FCOS": ((2, 3, 32, 32),),
        "AutoEnc": ((2, 1, 8, 8),),
        "Skips": ((2, 3, 16, 16),),
        "Misc": ((2, 3, 8, 8),),
        "Seqs": ((2, 3, 8, 8),),
    },
    "devices": {
        "BCResNet": ((2, 1, 16, 12),),
        "EEGNet": ((2, 8, 64),),
        "SincNet": ((2, 1, 64),),
        "InceptionTime": ((2, 3, 32),),
        "OpenPose": ((2, 3, 16, 16),),
        "RetinaFace": ((2, 3, 16, 16),),
        "BiSeNet": ((2, 3, 16, 16),),
        "ESPNet": ((2, 3, 16, 16),),
        "KWS": ((2, 40, 20),),
        "Seq2": ((2, 1, 16, 24),),
        "MobileOne": ((2, 3, 16, 16),),
        "Crossed": ((2, 3, 8, 8), (2, 6)),
    },
}
"""By file and class: the shapes of the inputs."""

PERCENT = {"Crossed": 19}
"""Where 40 percent is more than can go."""

USUAL = (
    "reaches an output of the network",
    "has a single channel",
    "its channels rank above the cut",
    "has the width that nn.MultiheadAttention checks",
)
NO_WEIGHT = "meets a tensor of its width that no weight produces"
NO_LABEL = "reads an input of the network or a constant"
STAYS: dict[str, dict[str, str]] = {
    "Att": {"c3": "is convolved over (eca.conv: conv1d)"},
    # What comes out of a view that puts bands of frequencies beside channels has no label.
    "BCResNet": {f"b.{i}.f1.0": f"{NO_LABEL} (b.{i}.f1.0: conv2d)" for i in range(3)},
    # The examples are the groups of a convolution whose kernels are computed.
    "Cond": {"a": f"{NO_LABEL} (b: conv2d)"},
    "NAFNet": {"end": f"{NO_WEIGHT} (add)"},
    "PointNet": {
        "c1": f"{NO_WEIGHT} (ft: add)",
        "ft.f2": f"{NO_WEIGHT} (ft: add)",
        "t.f2": f"{NO_WEIGHT} (t: add)",
    },
    "RCAN": {"tail.2": f"{NO_WEIGHT} (sub)"},
    "STN": {"fc_loc.2": "meets an operator without a rule (affine_grid_generator)"},
    "SincNet": {"s": "is a kernel position (s: conv1d)"},
}
"""By network and layer, where the reason is not a usual one."""


def network(file: str, name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The network in float64, with weights that let signals pass, and its inputs."""
    generator = torch.Generator().manual_seed(0)
    inputs: list[Tensor] = []
    for shape in NETWORKS[file][name]:
        random = torch.randn(shape, generator=generator, dtype=torch.float64)
        inputs.append(random if len(shape) > 1 else torch.arange(3, 3 + shape[0]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = class_from_file(FOLDER / f"{file}.py", name)()
    return with_telling_state(made.double()).eval(), tuple(inputs)


def pruned(file: str, name: str) -> PruningResult:
    percent = PERCENT.get(name, 40)
    return prune(*network(file, name), percent, name=f"{name.lower()}_{percent}")


@pytest.mark.parametrize("file", NETWORKS)
def test_networks_as_users_write_them(file: str) -> None:
    results = {name: pruned(file, name) for name in NETWORKS[file]}
    outcomes = verify([result.case() for result in results.values()])
    require(outcomes)
    assert max(outcome.error for outcome in outcomes) < 1e-12
    stays = {
        name: other
        for name, result in results.items()
        if (
            other := {
                layer: why
                for layer, why in result.report.kept_because.items()
                if not why.startswith(USUAL)
            }
        )
    }
    assert stays == {name: why for name, why in STAYS.items() if name in results}


def test_every_network_is_listed() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == set(NETWORKS)
