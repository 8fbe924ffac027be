"""Iterative experiments: levels, files, going on, and what is refused."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import app
import models  # noqa: F401  registers the zoo
from pruners import PrunerError
from pruners.base import PruningResult
from pruners.errors import StoppedError
from pruners.iteration import Plan, iterate
from pruners.loading import maker_from_file
from pruners.networks import Request
from pruners.registry import MODELS
from pruners.store import load_checkpoint
from pruners.verify import Outcome

SMALL = Plan(
    Request("twolayermlp"),
    "Digits",
    step=20,
    levels=3,
    epochs=1,
    images=40,
    augmentations=2,
    recalibrate=0,
)


@pytest.fixture
def unverified(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh process a level takes seconds; one test has it."""
    outcome = Outcome("", True, 0.0, "", "masked", 1e-5)
    monkeypatch.setattr(PruningResult, "verified", lambda self: outcome)


def plan(**changes: Any) -> Plan:
    return dataclasses.replace(SMALL, **changes)


def loaded(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "experiment.json"
    }


# --- what a folder holds ------------------------------------------------------------------------


def test_an_experiment_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "exp1"
    arguments = (
        "iterate --arch twolayermlp --dataset Digits --method low_unitmem --step 20 --levels 2 "
        "--epochs 1 --images 40 --augmentations 2 --exp"
    )
    assert app.main([*arguments.split(), str(folder)]) == 0
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == ["level", "before", "0", "1"]
    assert "level 1 done, 2 of 2; about 0 s to go" in err
    names = set(files_of(folder))
    assert names >= {
        "base.pth",
        "pruned_indices.json",
        "Avg_UnitMems_perlevel.json",
        "All_activations.json",
        "metrics.csv",
        "accuracy.svg",
        "accuracy.png",
    }
    for level in (0, 1):
        assert names >= {
            f"level_{level}/{name}"
            for name in (
                f"twolayermlp_level_{level}.py",
                f"twolayermlp_level_{level}.json",
                "pruned.pth",
                "retrained.pth",
                "level.json",
            )
        }
    assert not [name for name in names if "training" in name or ".part" in name]

    started = loaded(folder, "experiment.json")
    assert started["options"]["method"] == "low_unitmem"
    assert started["options"]["seed"] == 0
    assert len(started["images"]) == 40
    assert set(started["versions"]) == {"torch", "torchvision", "numpy"}

    full = MODELS["TwoLayerMLP"]["wrapper"]()
    load_checkpoint(full, folder / "base.pth")
    indices = loaded(folder, "pruned_indices.json")
    gone: list[int] = []
    for level in (0, 1):
        gone += indices[f"level_{level}"]["fc1"]
        assert len(gone) == len(set(gone)), "no index twice"
        stays = np.setdiff1d(np.arange(256), gone)
        kept = loaded(folder, f"level_{level}/twolayermlp_level_{level}.json")["kept"]
        assert kept["fc1.weight"][0] == stays.tolist()
        # The file of the level builds the network that its weights are of.
        file = folder / f"level_{level}" / f"twolayermlp_level_{level}.py"
        slim = maker_from_file(file, "twolayermlp")(weights=file.parent / "pruned.pth")
        if level == 0:
            assert torch.equal(slim.fc1.weight, full.fc1.weight[stays])
        tuned = maker_from_file(file, "twolayermlp")(weights=file.parent / "retrained.pth")
        assert not torch.equal(tuned.fc1.weight, slim.fc1.weight)
        verification = loaded(folder, f"level_{level}/twolayermlp_level_{level}.json")
        assert verification["verification"]["max_relative_error"] < 1e-5

    memory = loaded(folder, "Avg_UnitMems_perlevel.json")
    assert len(memory["level_0"]["fc1"]) == 256
    assert len(memory["level_1"]["fc1"]) == 256 - len(indices["level_0"]["fc1"])
    for value, image in memory["level_0"]["fc1"]:
        assert 0 <= value <= 1
        assert image in started["images"]
    stored = np.load(folder / "All_activations" / "level_0.npz")
    assert stored["fc1"].shape == (40, 256)
    index = loaded(folder, "All_activations.json")
    assert index["levels"]["level_0"] == {
        "file": "All_activations/level_0.npz",
        "layers": {"fc1": [40, 256]},
    }
    with (folder / "metrics.csv").open() as file_:
        rows = list(csv.DictReader(file_))
    assert [row["level"] for row in rows] == ["-1", "0", "1"]
    assert [float(row["goal_pct"]) for row in rows] == pytest.approx([0, 20, 36])
    for row in rows[1:]:
        assert float(row["goal_pct"]) <= float(row["removed_pct"]) < float(row["goal_pct"]) + 1
    assert int(rows[0]["parameters"]) == 19_210

    # Once more: there is nothing to do, and nothing changes.
    before = files_of(folder)
    assert app.main([*arguments.split(), str(folder), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 3
    assert files_of(folder) == before


@pytest.mark.usefixtures("unverified")
@pytest.mark.parametrize(
    "changes",
    [
        {"method": "random"},
        {"method": "high_unitmem", "schedule": "cubic", "final": 60},
        {"method": "hybrid_unitmem", "ranking": "Local"},
        {"method": "ChannelNorm", "measure_args": {"p": 2}, "target": "channels"},
        {"method": "WeightedPageRank", "target": "macs"},
        {"keep_optimizer": True},
        {"distill": 0.5},
        {"sparse": "group"},
        {"apply": "mask"},
        {"apply": "mask", "keep_optimizer": True, "method": "random"},
        {"activations": "json"},
        {"activations": "none", "epochs": 0},
    ],
    ids=lambda changes: ",".join(f"{k}={v}" for k, v in changes.items()),
)
def test_every_kind_ends_where_it_should_and_repeats(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    chosen = plan(**{"levels": 2, **changes})
    rows = iterate(chosen, tmp_path / "one", progress=False)
    for row, goal in zip(rows[1:], (20, 36), strict=True):
        if "schedule" not in changes:
            assert goal <= row["removed_pct"] < goal + 1
        assert row["accuracy"] > 60
    indices = loaded(tmp_path / "one", "pruned_indices.json")
    flat = [i for level in indices.values() for i in level["fc1"]]
    assert len(flat) == len(set(flat)) > 0
    iterate(chosen, tmp_path / "two", progress=False)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    kinds = {path.suffix for path in (tmp_path / "one").glob("All_activations/*")}
    assert (
        kinds
        == {
            "npz": {".npz"},
            "json": {".json"},
            "none": set(),
        }[str(changes.get("activations", "npz"))]
    )


@pytest.mark.usefixtures("unverified")
def test_masked_channels_stay_zero_and_the_network_its_size(tmp_path: Path) -> None:
    iterate(plan(apply="mask", levels=2), tmp_path, progress=False)
    network = MODELS["TwoLayerMLP"]["wrapper"]()
    gone: list[int] = []
    for level in (0, 1):
        gone += loaded(tmp_path, "pruned_indices.json")[f"level_{level}"]["fc1"]
        for name in ("pruned", "retrained"):
            load_checkpoint(network, tmp_path / f"level_{level}" / f"{name}.pth")
            assert not network.fc1.weight[gone].any()
            assert not network.fc1.bias[gone].any()
            assert not network.fc2.weight[:, gone].any()
        stays = np.setdiff1d(np.arange(256), gone)
        assert network.fc1.weight[stays].abs().sum(1).min() > 0
        # The generated file is of the network without them.
        kept = loaded(tmp_path, f"level_{level}/twolayermlp_level_{level}.json")["kept"]
        assert kept["fc1.weight"][0] == stays.tolist()
    memory = loaded(tmp_path, "Avg_UnitMems_perlevel.json")
    assert len(memory["level_1"]["fc1"]) == 256 - len(
        loaded(tmp_path, "pruned_indices.json")["level_0"]["fc1"]
    )


@pytest.mark.usefixtures("unverified")
def test_magnitude_follows_the_counts_of_another_experiment(tmp_path: Path) -> None:
    first = iterate(plan(method="low_unitmem"), tmp_path / "one", progress=False)
    follow = plan(method="mag_pruning", follow=tmp_path / "one")
    second = iterate(follow, tmp_path / "two", progress=False)
    assert [r["parameters"] for r in first] == [r["parameters"] for r in second]
    one, two = (loaded(tmp_path / name, "pruned_indices.json") for name in ("one", "two"))
    assert [len(level["fc1"]) for level in one.values()] == [
        len(level["fc1"]) for level in two.values()
    ]
    assert one != two


@pytest.mark.usefixtures("unverified")
def test_a_network_is_trained_first_or_taken_as_it_is(tmp_path: Path) -> None:
    scratch = iterate(plan(levels=1, pretrain_epochs=1), tmp_path / "a", lvl=-1, progress=False)
    shipped = iterate(plan(levels=1), tmp_path / "b", lvl=0, progress=False)
    assert scratch[0]["accuracy"] < shipped[0]["accuracy"]
    assert shipped[0]["accuracy"] > 97
    assert not (tmp_path / "a" / "training.state").exists()
    with pytest.raises(
        PrunerError,
        match=r"^--lvl 0: ResNet32 has random weights; expected --checkpoint FILE, or --lvl -1, wh",
    ):
        iterate(plan(request=Request("resnet", depth=32)), tmp_path / "c", lvl=0, progress=False)


# --- going on ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unverified")
@pytest.mark.parametrize("changes", [{}, {"apply": "mask"}, {"keep_optimizer": True}])
def test_stopped_anywhere_it_goes_on_to_the_same_files(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    chosen = plan(levels=2, epochs=2, pretrain_epochs=1, **changes)
    asked: list[None] = []
    iterate(
        chosen, tmp_path / "whole", lvl=-1, progress=False, stop=lambda: bool(asked.append(None))
    )
    total, whole = len(asked), files_of(tmp_path / "whole")
    assert total > 60
    for at in (3, total // 3, total // 2, total - 2):
        folder = tmp_path / f"stopped_{at}"
        count: list[None] = []

        def stop(count: list[None] = count, at: int = at) -> bool:
            count.append(None)
            return len(count) == at

        with pytest.raises(StoppedError):
            iterate(chosen, folder, lvl=-1, progress=False, stop=stop)
        iterate(chosen, folder, lvl=-1, progress=False)
        assert files_of(folder) == whole


@pytest.mark.usefixtures("unverified")
def test_a_level_is_made_anew_when_it_is_asked_for(tmp_path: Path) -> None:
    iterate(plan(), tmp_path, progress=False)
    before = files_of(tmp_path)
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("retrained.pth")}
    iterate(plan(), tmp_path, lvl=1, progress=False)
    assert files_of(tmp_path) == before
    newer = {p.parent.name for p, t in times.items() if p.stat().st_mtime_ns > t}
    assert newer == {"level_1", "level_2"}
    with pytest.raises(PrunerError, match=r"^--lvl 5: the experiment in .* has levels 0 to 2; exp"):
        iterate(plan(), tmp_path, lvl=5, progress=False)


@pytest.mark.usefixtures("unverified")
@pytest.mark.parametrize(
    ("file", "damage", "said"),
    [
        ("level_1/retrained.pth", b"x", "level 1: .*retrained.pth is damaged; going on from lev"),
        ("level_1/level.json", b"{", "level.json: cannot be read .*; going on from level 0, the"),
        ("level_0/pruned.pth", None, "level 0: .*pruned.pth is missing; going on from the begi"),
    ],
)
def test_what_is_damaged_is_made_anew(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    file: str,
    damage: bytes | None,
    said: str,
) -> None:
    iterate(plan(), tmp_path, progress=False)
    before = files_of(tmp_path)
    if damage is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(damage)
    iterate(plan(), tmp_path, progress=False)
    assert files_of(tmp_path) == before
    import re

    assert re.search(said, capsys.readouterr().err)


@pytest.mark.usefixtures("unverified")
def test_other_options_are_listed(tmp_path: Path) -> None:
    iterate(plan(levels=1), tmp_path, progress=False)
    with pytest.raises(
        PrunerError,
        match=r"^--exp .*: the run was started with other options: method random \(was low_unitmem"
        r"\), levels 2 \(was 1\); give the same again, or choose another folder$",
    ):
        iterate(plan(levels=2, method="random"), tmp_path, progress=False)


@pytest.mark.usefixtures("unverified")
def test_a_loss_that_is_no_number_stops_and_keeps_the_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = plan(levels=2, epochs=3)
    whole = iterate(chosen, tmp_path / "whole", progress=False)
    from pruners import iteration

    original = iteration.cross_entropy
    calls: list[None] = []

    def broken(recipe: Any) -> Any:
        loss = original(recipe)

        def value(*arguments: Any) -> Any:
            calls.append(None)
            return loss(*arguments) * (float("nan") if len(calls) > 90 else 1)

        return value

    monkeypatch.setattr(iteration, "cross_entropy", broken)
    with pytest.raises(PrunerError, match=r"^level 1: training on Digits: the loss is nan in epo"):
        iterate(chosen, tmp_path / "nan", progress=False)
    assert (tmp_path / "nan" / "level_0" / "level.json").exists()
    assert (tmp_path / "nan" / "level_1" / "training.state").exists()
    monkeypatch.setattr(iteration, "cross_entropy", original)
    assert iterate(chosen, tmp_path / "nan", progress=False) == whole
    assert files_of(tmp_path / "nan") == files_of(tmp_path / "whole")


@pytest.mark.usefixtures("unverified")
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    iterate(plan(levels=1), tmp_path / "whole", progress=False)
    from pruners import store

    write = store._write

    def full(path: Path, content: bytes) -> None:
        if path.name.startswith(".retrained"):
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(store, "_write", full)
    with pytest.raises(
        PrunerError, match=r"level_0: no space left; free some, or choose another with --exp DIR$"
    ):
        iterate(plan(levels=1), tmp_path / "full", progress=False)
    assert not (tmp_path / "full" / "level_0" / "retrained.pth").exists()
    monkeypatch.setattr(store, "_write", write)
    iterate(plan(levels=1), tmp_path / "full", progress=False)
    assert files_of(tmp_path / "full") == files_of(tmp_path / "whole")


# --- retraining in other ways --------------------------------------------------------------------


@pytest.mark.usefixtures("unverified")
def test_a_trainer_of_the_users_own(tmp_path: Path) -> None:
    calls: list[Any] = []

    class Mine:
        def __init__(self, splits: Any, folder: Path) -> None:
            calls.append((splits.name, folder.name))

        def load_dataloaders(self, batch_size: int, collate_fn: Any) -> None:
            calls.append(batch_size)

        def train(
            self,
            net: nn.Module,
            parameters: Any,
            name: str,
            epochs: int,
            reload: bool,
            old_net: nn.Module | None,
        ) -> nn.Module:
            calls.append((parameters["learning_rate"], epochs))
            with torch.no_grad():
                net.get_parameter("fc2.bias").add_(1)
            return net

        def evaluate(self, net: nn.Module, quant_mode: bool) -> tuple[float, nn.Module]:
            return 0.0, net

    iterate(plan(levels=1), tmp_path, trainer=Mine, progress=False)
    assert calls == [("Digits", "trainer"), 64, (0.03, 1)]
    pruned, retrained = (
        torch.load(tmp_path / "level_0" / f"{name}.pth", weights_only=True)
        for name in ("pruned", "retrained")
    )
    torch.testing.assert_close(retrained["fc2.bias"], pruned["fc2.bias"] + 1)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "low_unitmen"}, r"^--method low_unitmen: unknown; did you mean low_unitmem"),
        ({"method": "ChannelNorm", "measure_args": {"q": 1}}, r"ChannelNorm takes no argument 'q'"),
        ({"ranking": "global"}, r"^method global: unknown; did you mean Global"),
        ({"apply": "zero"}, r"^--apply zero: unknown; expected one of remove, mask$"),
        ({"activations": "np"}, r"^--activations np: unknown; did you mean npz\?; expected one of"),
        ({"sparse": "groups"}, r"^--sparse groups: unknown; did you mean group"),
        ({"method": "mag_pruning"}, r"^--method mag_pruning: needs --follow DIR, a finished expe"),
        ({"follow": Path("x")}, r"^--follow x: only for --method mag_pruning$"),
        ({"images": 1}, r"^--images 1: expected 2 or more$"),
        ({"epochs": -1}, r"^--epochs -1: expected 0 or more$"),
        ({"distill": 2}, r"^--distill 2, --temperature 4: expected a share from 0 to 1 and a temp"),
        ({"step": 0}, r"^--step 0: expected percent, above 0 and below 100$"),
    ],
)
def test_a_plan_that_cannot_be(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PrunerError, match=message):
        iterate(plan(**changes), tmp_path / "exp", progress=False)
    assert not (tmp_path / "exp").exists()


@pytest.mark.usefixtures("unverified")
def test_folders_that_cannot_be_followed(tmp_path: Path) -> None:
    follow: Callable[[Path], Plan] = lambda folder: plan(method="mag_pruning", follow=folder)  # noqa: E731
    with pytest.raises(PrunerError, match=r"^--follow .*: holds no experiment; expected the fold"):
        iterate(follow(tmp_path), tmp_path / "exp", progress=False)
    iterate(plan(levels=1), tmp_path / "short", progress=False)
    with pytest.raises(
        PrunerError, match=r"^--follow .*: has 1 levels that are done; expected 3 or more, or fewe"
    ):
        iterate(follow(tmp_path / "short"), tmp_path / "exp", progress=False)
    iterate(plan(method="ChannelNorm"), tmp_path / "norm", progress=False)
    with pytest.raises(PrunerError, match=r"^--follow .*: its method is ChannelNorm; expected an"):
        iterate(follow(tmp_path / "norm"), tmp_path / "exp", progress=False)
    shutil.rmtree(tmp_path / "norm")
    iterate(plan(target="channels"), tmp_path / "other", progress=False)
    with pytest.raises(PrunerError, match=r"^--follow .*: has target channels, not params; expect"):
        iterate(follow(tmp_path / "other"), tmp_path / "exp", progress=False)


@pytest.mark.usefixtures("unverified")
def test_a_folder_with_other_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(
        PrunerError, match=r"^--exp .*: holds other files and no experiment\.json; expected an empt"
    ):
        iterate(plan(), tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.usefixtures("unverified")
def test_a_level_that_is_out_of_reach(tmp_path: Path) -> None:
    chosen = plan(step=60, levels=6, min_filters=60)
    with pytest.raises(
        PrunerError,
        match=r"^level 1: --prune-pct .*: at most .* percent of the parameters can be removed with "
        r"min_filters=60",
    ):
        iterate(chosen, tmp_path, progress=False)
    assert (tmp_path / "level_0" / "level.json").exists()


def test_numbers_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        ("--exp x --step five", "error: --step five: expected a number"),
        ("--exp x --lr 0", "error: --lr 0: expected a number above 0"),
        ("--exp x --levels 0", "error: --levels 0: expected a whole number of at least 1"),
        ("", "error: Missing option '--exp'."),
    ):
        assert app.main(["iterate", "--arch", "twolayermlp", *arguments.split()]) == 2
        assert capsys.readouterr().err.splitlines()[-1] == message
