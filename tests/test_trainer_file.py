"""`--trainer FILE.py:CLASS`: the examples, Lightning modules, and what is refused at the start."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import app
import models  # noqa: F401  registers the zoo
from pruners import PrunerError
from pruners.base import PruningResult
from pruners.distributed import Ranks
from pruners.errors import DivergedError
from pruners.iteration import Plan, iterate
from pruners.lightning import LightningTrainer
from pruners.networks import Request
from pruners.trainer import Trainer
from pruners.trainer_file import load_trainer, maker
from pruners.verify import Outcome

EXAMPLES = Path(__file__).parent.parent / "examples"

SMALL = Plan(
    Request("twolayermlp"),
    "Digits",
    step=20,
    levels=1,
    epochs=1,
    images=20,
    augmentations=1,
    recalibrate=0,
)


@pytest.fixture
def unverified(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = Outcome("", True, 0.0, "", "masked", 1e-5)
    monkeypatch.setattr(PruningResult, "verified", lambda self: outcome)


def written(folder: Path, text: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "own.py"
    path.write_text(text)
    return f"{path}:Own"


# --- examples ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unverified")
@pytest.mark.parametrize(
    "example", ["mixup_trainer.py:MixupTrainer", "plain_trainer.py:AdamTrainer"]
)
def test_the_examples_retrain(
    tmp_path: Path, example: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, folder = str(EXAMPLES / example), tmp_path / "exp"
    command = (
        "iterate --arch twolayermlp --dataset Digits --step 20 --levels 1 --epochs 1 --images 20 "
        f"--augmentations 1 --recalibrate 0 --json --exp {folder} --trainer"
    ).split()
    assert app.main([*command, spec]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[1]["accuracy"] > 90
    pruned, retrained = (
        torch.load(folder / "level_0" / f"{name}.pth", weights_only=True)
        for name in ("pruned", "retrained")
    )
    assert pruned["fc1.weight"].shape == retrained["fc1.weight"].shape
    assert not torch.equal(pruned["fc1.weight"], retrained["fc1.weight"])
    assert not (folder / "level_0" / "trainer").exists()
    assert json.loads((folder / "experiment.json").read_text())["options"]["trainer"] == spec
    # Going on with another trainer, or with none, is refused.
    assert app.main(command[:-1]) == 2
    assert f"trainer none (was {spec})" in capsys.readouterr().err


@pytest.mark.usefixtures("unverified")
def test_masks_hold_in_a_trainer_of_ones_own(tmp_path: Path) -> None:
    cls = load_trainer(str(EXAMPLES / "plain_trainer.py:AdamTrainer"))
    plan = dataclasses.replace(SMALL, apply="mask", trainer="plain_trainer.py:AdamTrainer")
    iterate(plan, tmp_path, trainer=maker(cls, "cpu"), progress=False)
    gone = json.loads((tmp_path / "pruned_indices.json").read_text())["level_0"]["fc1"]
    weights = torch.load(tmp_path / "level_0" / "retrained.pth", weights_only=True)
    assert not weights["fc1.weight"][gone].any()


def test_the_plain_example_tests_as_the_project_does(tmp_path: Path) -> None:
    cls = load_trainer(str(EXAMPLES / "plain_trainer.py:AdamTrainer"))
    base = Trainer(cuda="cpu")
    from pruners.datasets import load_dataset

    made = maker(cls, "cpu")(load_dataset("Digits"), tmp_path)
    net = nn.Sequential(nn.Flatten(), nn.Linear(base.datasets["test"][0][0].numel(), 10))
    assert made.evaluate(net, False)[0] == pytest.approx(base.evaluate(net)[0])


# --- Lightning -----------------------------------------------------------------------------------


class Lit(nn.Module):
    """What a LightningModule is to the adapter."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        images, labels = batch
        return {"loss": F.cross_entropy(self.net(images), labels)}

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), 0.05)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def data() -> Any:
    labels = torch.arange(32) % 2
    images = torch.randn(32, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    part = TensorDataset(images + 3 * labels.view(-1, 1, 1, 1), labels)
    return {"train": part, "val": part, "test": part}


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))


def with_module(make: Any, folder: Path, pruning: bool = False) -> Trainer:
    class Own(LightningTrainer):
        def module(self, net: nn.Module) -> Any:
            return make(net)

    trainer = Own(pruning=pruning, datasets=data(), models_path=folder, cuda="cpu")
    trainer.load_dataloaders(8, None)
    return trainer


def test_a_lightning_module_trains(tmp_path: Path) -> None:
    trainer = with_module(Lit, tmp_path)
    net = trainer.train(mlp(), {}, "lit", 5)
    assert trainer.evaluate(net)[0] > 90
    assert (tmp_path / "lit.pth").exists()


def test_channels_go_under_a_lightning_module(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.two(F.relu(self.one(torch.flatten(x, 1))))

    net = Net()
    with torch.no_grad():
        net.one.weight[2] *= 0.001
    slim = with_module(Lit, tmp_path, pruning=True).train(net, {"prune_threshold": 0.05}, "lit", 2)
    assert slim.get_parameter("one.weight").shape == (5, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training_step": None}, r"^Own\.module: Lit lacks training_step; expected a Lightning m"),
        ({"automatic_optimization": False}, r"^Own\.module: Lit optimizes by hand \(automatic_opt"),
        (
            {"training_step": lambda batch, i: None},
            r"^Lit: training_step returned a NoneType; expected the loss, a scalar tensor, or a di",
        ),
        (
            {"configure_optimizers": lambda: [1, 2]},
            r"^Lit: configure_optimizers returned 2 optimizers; expected one optimizer, alone or w",
        ),
        ({"configure_optimizers": lambda: None}, r"^Lit: configure_optimizers returned a NoneType"),
        ({"net": nn.Linear(2, 2)}, r"^Own\.module: Lit does not hold the network that it was made"),
    ],
)
def test_lightning_modules_that_are_none(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    def make(net: nn.Module) -> Lit:
        lit = Lit(net)
        for name, value in changes.items():
            setattr(lit, name, value)
        return lit

    with pytest.raises(PrunerError, match=message):
        with_module(make, tmp_path).train(mlp(), {}, "lit", 1)


def test_schedules_that_are_none(tmp_path: Path) -> None:
    class Odd(Lit):
        interval = "minute"

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), 0.1)
            schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
            return [optimizer], [{"scheduler": schedule, "interval": self.interval}]

    with pytest.raises(PrunerError, match=r"^Odd: a scheduler's interval is 'minute'; expected st"):
        with_module(Odd, tmp_path).train(mlp(), {}, "lit", 1)
    Odd.interval = "epoch"
    with pytest.raises(PrunerError, match=r"^Odd: its ReduceLROnPlateau follows a logged figure, "):
        with_module(Odd, tmp_path).train(mlp(), {}, "lit", 1)
    bare = LightningTrainer(datasets=data(), models_path=tmp_path, cuda="cpu")
    with pytest.raises(PrunerError, match=r"^LightningTrainer: has no module\(net\); expected a m"):
        bare.train(mlp(), {}, "lit", 1)
    with pytest.raises(PrunerError, match=r"^Own\.module: int lacks training_step, configure_opt"):
        with_module(lambda net: 3, tmp_path).train(mlp(), {}, "lit", 1)


def test_a_lightning_loss_that_is_no_number(tmp_path: Path) -> None:
    class Bad(Lit):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.net(batch[0]).sum() * torch.nan

    with pytest.raises(DivergedError, match=r"^training lit: the loss is nan in epoch 1, batch 1;"):
        with_module(Bad, tmp_path).train(mlp(), {}, "lit", 1)


# --- what is refused at the start ----------------------------------------------------------------

LACKING = "class Own:\n    def train(self): ...\n"
HEAD = "from pruners.trainer import Trainer\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            LACKING,
            r"^--trainer .*own\.py:Own: lacks load_dataloaders, evaluate; expected a class with the"
            r" methods load_dataloaders, train, evaluate, or one that inherits from "
            r"pruners\.trainer\.Trainer$",
        ),
        (
            f"{HEAD}class Own(Trainer):\n    def train(self, net): ...\n",
            r"own\.py:Own: its train\(self, net\) cannot be called with \(net, parameters, name, ep"
            r"ochs, reload, old_net\); expected these arguments in this order$",
        ),
        (
            f"{HEAD}class Own(Trainer):\n    def __init__(self, data): ...\n",
            r"own\.py:Own: Own\(data\) cannot be made with \(pruning=\.\.\., ddtype=\.\.\., dataset"
            r"s=\.\.\., models_path=\.\.\., cuda=\.\.\.\); expected these arguments, by name$",
        ),
        ("Own = 3\n", r"own\.py:Own: is not a class; it has none$"),
        (
            "class Owl: ...\n",
            r"own\.py:Own: the file has no such class; did you mean Owl\?; it has ",
        ),
        ("raise OSError('no')\n", r"own\.py:Own: importing the file raised OSError: no$"),
        (
            "import sys\nsys.exit()\n",
            r"own\.py:Own: importing the file called sys\.exit; put that ",
        ),
    ],
)
def test_trainers_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PrunerError, match=message):
        load_trainer(written(tmp_path, text))


def test_no_such_file(tmp_path: Path) -> None:
    for spec in ("own.py", ":Own", "own.py:"):
        with pytest.raises(
            PrunerError,
            match=rf"^--trainer {spec}: expected FILE\.py:CLASS, such as my_trainer\.py:MyTrainer$",
        ):
            load_trainer(spec)
    with pytest.raises(
        PrunerError, match=r"none\.py:Own: no such file; expected FILE\.py:CLASS, a"
    ):
        load_trainer(f"{tmp_path}/none.py:Own")


def test_a_lacking_trainer_ends_iterate_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = written(tmp_path, LACKING)
    command = f"iterate --arch twolayermlp --exp {tmp_path / 'exp'} --trainer {spec}"
    assert app.main(command.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "lacks load_dataloaders, evaluate; expected" in line
    assert not (tmp_path / "exp").exists()


def test_options_of_the_projects_own_loop(tmp_path: Path) -> None:
    for changes, option in (
        ({"keep_optimizer": True}, "--keep-optimizer"),
        ({"distill": 0.5}, "--distill 0.5"),
        ({"sparse": "group"}, "--sparse group"),
    ):
        with pytest.raises(
            PrunerError, match=rf"^{option}: is of the project's own loop, which --trainer a\.py:B"
        ):
            dataclasses.replace(SMALL, trainer="a.py:B", **changes).check()
    with pytest.raises(
        PrunerError, match=r"^--trainer a\.py:B: retrains in one process, and there ar"
    ):
        iterate(
            dataclasses.replace(SMALL, trainer="a.py:B"),
            tmp_path,
            trainer=lambda s, f: Trainer(),
            ranks=Ranks(0, 2),
        )


class _Returns:
    """A trainer whose `train` returns what it is told to."""

    def __init__(self, returned: Any) -> None:
        self.returned = returned

    def load_dataloaders(self, batch_size: int, collate_fn: Any) -> None: ...

    def train(self, net: nn.Module, *arguments: Any) -> Any:
        return self.returned(net)

    def evaluate(self, net: nn.Module, quant_mode: bool) -> Any: ...


def _poisoned(net: Any) -> None:
    with torch.no_grad():
        net.fc2.bias[0] = torch.nan


@pytest.mark.usefixtures("unverified")
def test_what_a_trainer_must_not_leave(tmp_path: Path) -> None:
    for number, (returned, message) in enumerate(
        (
            (lambda net: 3, r"^--trainer _Returns: its train returned a int; expected the network"),
            (
                lambda net: nn.Linear(2, 2),
                r"^--trainer _Returns: after its train, fc1\.weight is missing, before \(\d+, 64\)",
            ),
            (_poisoned, r"_Returns: after its train, fc2\.bias is not finite; expected finite wei"),
        )
    ):
        with pytest.raises(PrunerError, match=message):
            iterate(
                SMALL,
                tmp_path / str(number),
                trainer=lambda s, f, returned=returned: _Returns(returned),
                progress=False,
            )
