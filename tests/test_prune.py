"""The main job from Python: exact, complete, reproducible, and the model left as it was."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import image, with_telling_state
from torch import nn

from models.cifar.resnet import ResNet
from models.imagenet.resnet import ResNet as ImageNetResNet
from pruners import PrunerError, PruningResult, VerificationError, basic_block, prune
from pruners.methods import count_target
from pruners.replay import fits
from pruners.verify import require, verify

SMALL = image(2, 3, 32, 32)


def resnet(depth: int = 20, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(depth)
    return with_telling_state(ResNet(depth)).to(dtype)


def removed(result: PruningResult) -> float:
    return result.report.parameters.removed_pct


# -- exact ------------------------------------------------------------------------------------


PERCENTAGES = (10, 30, 50, 70, 90)
ALL = [
    (depth, pct, method, round_to)
    for depth, pct, method, round_to in itertools.product(
        (20, 29, 32, 44, 56), PERCENTAGES, ("Global", "Local"), (1, 8)
    )
    if (round_to, pct) != (8, 90)  # cannot be met; test_a_percent_out_of_reach
]
SOME = [
    *((20, pct, "Global", 1) for pct in PERCENTAGES),
    (20, 90, "Local", 1),
    (20, 50, "Global", 8),
    (29, 50, "Local", 1),
    (32, 30, "Global", 8),
    (56, 50, "Local", 8),
]


@pytest.mark.parametrize(
    "figures", [SOME, pytest.param(ALL, marks=pytest.mark.zoo)], ids=["some", "all"]
)
def test_every_depth_equals_the_masked_original(figures: list[tuple[int, int, str, int]]) -> None:
    """One fresh process verifies them all."""
    cases = []
    x = image(2, 3, 16, 16)
    for depth, pct, method, round_to in figures:
        name = f"d{depth}_{pct}_{method}_{round_to}"
        result = prune(resnet(depth), x, pct, method=method, round_to=round_to, name=name)
        assert removed(result) >= pct
        cases.append(result.case())
    outcomes = verify(cases)
    require(outcomes)
    assert len(outcomes) == len(figures)
    assert all(outcome.error <= 1e-5 for outcome in outcomes)


@pytest.mark.parametrize("depth", [18, 50])
def test_imagenet_resnets_equal_the_masked_original(depth: int) -> None:
    torch.manual_seed(0)
    model = with_telling_state(ImageNetResNet(depth))
    x = image(1, 3, 32, 32)
    cases = [
        prune(model, x, pct, method=method, round_to=r, name=f"r{depth}_{pct}").case()
        for pct, method, r in ((10, "Global", 1), (50, "Local", 8), (90, "Global", 1))
    ]
    require(verify(cases))


def test_float64_is_exact_to_1e_12() -> None:
    result = prune(resnet(dtype=torch.float64), image(2, 3, 32, 32, dtype=torch.float64), 50)
    outcome = result.verified()
    assert outcome.tolerance == 1e-12
    assert outcome.error <= 1e-12
    assert next(result.model.parameters()).dtype == torch.float64


def test_nothing_removed_is_the_network_itself() -> None:
    model = resnet()
    result = prune(model, SMALL, 0)
    assert removed(result) == 0
    state = model.state_dict()
    assert list(result.state_dict) == list(state)
    for name, tensor in result.state_dict.items():
        assert torch.equal(tensor, state[name])
    with torch.no_grad():
        assert torch.equal(result.model(SMALL), model(SMALL))


def test_a_generated_network_is_pruned_again() -> None:
    """Decorated like the original, it gives in two steps what one step gives."""
    model = resnet()
    one = prune(model, SMALL, 60)
    block = type(one.model.layer1[0])
    basic_block(lType="basic_block", convs=["conv1", "conv2"], downsampling=["downsample"])(block)
    again = prune(one.model, SMALL, 0)
    for name, tensor in again.state_dict.items():
        assert torch.equal(tensor, one.state_dict[name])
    further = prune(one.model, SMALL, 50)
    require(verify([further.case()]))


def test_a_generated_network_needs_no_decorators() -> None:
    one = prune(resnet(), SMALL, 60)
    further = prune(one.model, SMALL, 50)
    require(verify([further.case()]))
    assert removed(further) >= 50


def test_every_slim_tensor_is_a_sub_tensor() -> None:
    model = resnet()
    result = prune(model, SMALL, 50)
    for name, tensor in model.state_dict().items():
        dims = result.kept[name]
        assert all(np.all(np.diff(indices) > 0) for indices in dims)
        expected = tensor[np.ix_(*dims)] if dims else tensor
        assert torch.equal(result.state_dict[name], expected)


def test_a_wrong_index_is_caught(tmp_path: Path) -> None:
    result = prune(resnet(), SMALL, 50)
    weight = result.state_dict["layer1.0.conv2.weight"]
    result.state_dict["layer1.0.conv2.weight"] = weight.roll(1, dims=1)
    with pytest.raises(VerificationError, match="resnet_50"):
        result.save(tmp_path / "out", weights_dir=tmp_path / "weights")
    assert not list(tmp_path.rglob("*.py"))
    assert not list(tmp_path.rglob("*.pth"))


# -- budgets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["params", "macs", "channels"])
@pytest.mark.parametrize("method", ["Global", "Local"])
@pytest.mark.parametrize("pct", [10, 33.3, 50, 75])
def test_the_budget_is_met_and_overshot_by_less_than_one_unit(
    target: str, method: str, pct: float
) -> None:
    model = resnet()
    result = prune(model, SMALL, pct, target=target, method=method)  # type: ignore[arg-type]
    from pruners.methods import _Cost

    cost = _Cost(result.graph, result.units, target)  # type: ignore[arg-type]
    full = count_target(result.graph, result.units, target)  # type: ignore[arg-type]
    stays = np.ones(result.units.count, dtype=bool)
    for i, axis in enumerate(result.units.axes):
        gone = np.setdiff1d(np.arange(result.graph.size(axis)), result.kept[axis.tensor][axis.dim])
        stays[result.units.unit_of[result.units.starts[i] + gone]] = False
    assert (full - cost(stays)) * 100 >= pct * full
    # Some single unit, put back, takes the result below the budget.
    below = []
    for unit in np.flatnonzero(~stays):
        stays[unit] = True
        below.append((full - cost(stays)) * 100 < pct * full)
        stays[unit] = False
    assert any(below)


def test_the_counts_are_torchs_own() -> None:
    result = prune(resnet(), SMALL, 50, target="macs")
    assert count_target(result.graph, result.units, "macs") == result.report.macs.before
    assert count_target(result.graph, result.units, "params") == result.report.parameters.before
    assert result.report.macs.removed_pct >= 50


def test_min_filters_and_round_to_hold_in_every_layer() -> None:
    narrow = prune(resnet(), SMALL, 90, min_filters=4).report.widths
    assert min(change.after for change in narrow.values()) >= 4
    rounded = prune(resnet(), SMALL, 50, round_to=8).report.widths
    assert all(change.after % 8 == 0 for name, change in rounded.items() if name != "fc")


def test_ignored_layers_keep_their_channels() -> None:
    report = prune(resnet(), SMALL, 50, ignore=["layer1.1.conv1", "layer3.*.conv1"]).report
    for name in ("layer1.1.conv1", "layer3.0.conv1", "layer3.1.conv1", "layer3.2.conv1"):
        assert report.widths[name].before == report.widths[name].after
        assert report.kept_because[name] == "--ignore"
    # A whole path is matched, so layer1.1 says nothing of layer1.10.
    assert report.widths["layer1.2.conv1"].after < 16


def test_frozen_parameters_are_pruned_like_any_others() -> None:
    """https://github.com/VainF/Torch-Pruning/issues/211"""
    model = resnet().requires_grad_(False)
    result = prune(model, SMALL, 50)
    assert removed(result) >= 50
    assert not any(p.requires_grad for p in result.model.parameters())


# -- the given model --------------------------------------------------------------------------


def test_the_model_is_left_as_it_was() -> None:
    model = resnet().train()
    model.layer2.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    attributes = [dict(vars(module)) for module in model.modules()]
    random_state = torch.get_rng_state()
    result = prune(model, SMALL, 50)
    assert result.model is not model
    assert result.source
    result.verified()
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert [list(a) for a in attributes] == [list(vars(m)) for m in model.modules()]
    assert torch.equal(random_state, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_forward_that_raises_leaves_modes_and_hooks_alone() -> None:
    model = resnet().train()
    with pytest.raises(PrunerError, match=r"ResNet: its forward raised on example input 0"):
        prune(model, image(1, 4, 32, 32), 50)
    assert all(module.training for module in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


# -- files ------------------------------------------------------------------------------------


def test_two_runs_give_identical_files(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        out = tmp_path / folder
        prune(resnet(), SMALL, 50).save(out, weights_dir=out / "weights", verify=folder == "a")
        prune(resnet(), SMALL, 50).save(out, weights_dir=out / "weights")
    a, b = (sorted(p for p in (tmp_path / f).rglob("*") if p.is_file()) for f in ("a", "b"))
    assert [p.name for p in a] == [
        "resnet_50.json",
        "resnet_50.py",
        "resnet_50_pruned_v1.0.json",
        "resnet_50_pruned_v1.0.pth",
    ]
    assert [p.read_bytes() for p in a] == [p.read_bytes() for p in b]


def test_the_manifest_says_what_was_done(tmp_path: Path) -> None:
    saved = prune(resnet(), SMALL, 50, name="slim").save(tmp_path, weights_dir=tmp_path)
    manifest = json.loads(saved.manifest.read_text())
    assert manifest["options"]["prune_pct"] == 50
    assert manifest["parameters"]["before"] == 272_474
    assert manifest["parameters"]["removed_pct"] >= 50
    assert manifest["verification"]["max_relative_error"] <= 1e-5
    assert manifest["widths"]["conv1"][0] == 16
    assert len(manifest["kept"]["conv1.weight"][0]) == manifest["widths"]["conv1"][1]
    assert set(manifest["files"]) == {"slim.py", "slim_pruned_v1.0.pth"}
    text = saved.manifest.read_text() + saved.source.read_text()
    assert str(tmp_path) not in text
    assert str(Path.cwd()) not in text


def test_a_stranger_can_use_the_files(tmp_path: Path) -> None:
    """An empty folder, an isolated interpreter, and the two files."""
    saved = prune(resnet(), SMALL, 50, name="slim").save(tmp_path, weights_dir=tmp_path)
    script = (
        "import sys; sys.path.insert(0, '.')\n"
        "import torch\n"
        "from slim import resnet, ResNet\n"
        f"model = resnet(weights='{saved.weights.name}').eval()\n"
        "x = torch.randn(2, 3, 32, 32)\n"
        "exported = torch.export.export(model, (x,)).module()\n"
        "assert torch.allclose(exported(x), model(x), atol=1e-5)\n"
        "compiled = torch.compile(model, backend='aot_eager')\n"
        "assert torch.allclose(compiled(x), model(x), atol=1e-5)\n"
        "torch.jit.script(model)\n"
        "assert ResNet(num_classes=7, in_channels=1)(x[:, :1]).shape == (2, 7)\n"
        "assert 'pruners' not in sys.modules and 'models' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_other_weights_get_the_next_version(tmp_path: Path) -> None:
    result = prune(resnet(), SMALL, 50, name="slim")
    result.save(tmp_path, weights_dir=tmp_path)
    tuned = {n: t + 1 if t.is_floating_point() else t for n, t in result.state_dict.items()}
    saved = result.save_weights(tuned, tmp_path, tmp_path)
    assert saved.weights.name == "slim_pruned_v1.1.pth"
    assert 'weights="slim_pruned_v1.1.pth"' in saved.source.read_text()
    assert (tmp_path / "slim_pruned_v1.0.pth").exists()


# -- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize("pct", [-1, 100, 101, float("nan")])
def test_a_percentage_out_of_range(pct: float) -> None:
    with pytest.raises(PrunerError, match=r"expected a percentage of at least 0 and below 100"):
        prune(resnet(), SMALL, pct)


def test_a_percent_out_of_reach_says_what_can_be_had() -> None:
    with pytest.raises(PrunerError, match=r"at most (\d+\.?\d*) percent of the parameters") as info:
        prune(resnet(), SMALL, 99.9)
    most = float(str(info.value).split("at most ")[1].split(" ")[0])
    assert removed(prune(resnet(), SMALL, most)) >= most


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measure": "ChanelNorm"}, r"measure ChanelNorm: unknown; did you mean ChannelNorm"),
        ({"method": "global"}, r"method global: unknown; did you mean Global"),
        ({"target": "flops"}, r"--target flops: unknown.*params, macs, channels"),
        ({"min_filters": 0}, r"--min-filters 0: expected a whole number of at least 1"),
        ({"round_to": 0}, r"--round-to 0: expected a whole number of at least 1"),
        ({"ignore": ["layer9.*"]}, r"--ignore layer9\.\*: matches no layer"),
        ({"name": "a-b"}, r"--name 'a-b': cannot be imported as a Python module"),
        ({"name": "../x"}, r"--name '\.\./x': cannot be imported"),
        ({"name": "torch"}, r"--name 'torch': is the name of another module"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(PrunerError, match=message):
        prune(resnet(), SMALL, 50, **options)  # type: ignore[arg-type]


def test_weights_that_are_no_numbers() -> None:
    model = resnet()
    with torch.no_grad():
        model.layer1[0].conv1.weight[3] = float("nan")
    with pytest.raises(
        PrunerError, match=r"layer1\.0\.conv1\.weight: 1 of 16 filters have a score that is not"
    ):
        prune(model, SMALL, 50)


class Pair(nn.Module):
    """One line for two layers, whose widths have to agree: nothing else fits."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 16, 1)
        self.b = nn.Conv2d(3, 16, 1)
        self.c = nn.Conv2d(32, 20, 3)
        self.out = nn.Conv2d(20, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shapes = [conv(x).relu().flatten(1).reshape(-1, 16, 6, 6) for conv in (self.a, self.b)]
        return self.out(self.c(torch.cat(shapes, 1)).relu()).mean((2, 3))


def test_calibration_data_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the first selection does not fit, so that another one is made."""
    tries = []

    def tried(*arguments: Any) -> bool:
        tries.append(fits(*arguments))
        return tries[-1]

    monkeypatch.setattr("pruners.base.fits", tried)
    labels = torch.tensor([0, 1, 2, 3])
    batches = ((image(4, 3, 6, 6, seed=seed), labels) for seed in range(2))
    result = prune(
        Pair(),
        image(2, 3, 6, 6),
        40,
        measure="Taylor",
        calibration=batches,
        ratio={"a": 0.5, "b": 0.25},
    )
    assert tries[0] is False
    assert tries[-1] is True
    assert removed(result) >= 40


class Auxiliary(nn.Module):
    """A head that exists only in training."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.aux1 = nn.Conv2d(6, 8, 1)
        self.aux2 = nn.Conv2d(8, 5, 1)
        self.fc = nn.Linear(6, 5)

    def forward(self, x):
        x = torch.relu(self.conv(x)).mean((2, 3), keepdim=True)
        out = self.fc(x.flatten(1))
        return (out, self.aux2(torch.relu(self.aux1(x)))) if self.training else out


def test_layers_that_run_in_training_only_keep_their_channels_and_are_named():
    result = prune(Auxiliary(), torch.randn(2, 3, 8, 8), 20)
    assert result.model.aux1.weight.shape[:2] == (8, len(result.kept["conv.weight"][0]))
    assert result.report.warnings == (
        "aux1, aux2: not reached in evaluation on the first example input; their output channels "
        "stay",
    )
