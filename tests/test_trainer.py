"""The trainer: loops, checkpoints, channels that go while it trains, int8, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import image
from torch import Tensor, nn
from torch.utils.data import Subset, TensorDataset

import models  # noqa: F401  registers the zoo
from pruners import PrunerError
from pruners.analysis import analyse
from pruners.datasets import DataSplits, load_dataset
from pruners.errors import DivergedError
from pruners.evaluation import accuracy
from pruners.loaders import datasets_of
from pruners.loading import maker_from_file
from pruners.losses import group_lasso
from pruners.pt2e import quantized
from pruners.trainer import Parameters, Trainer, device_or_cpu


class Net(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(x + self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))


def network(width: int = 8, seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net(width)


def stripes(count: int, seed: int) -> TensorDataset:
    """Three kinds of images that are easy to tell apart."""
    labels = torch.arange(count) % 3
    images = 0.3 * image(count, 1, 6, 6, seed=seed)
    images[labels == 0, :, ::2] += 1
    images[labels == 1, :, :, ::2] += 1
    images[labels == 2] -= 1
    return TensorDataset(images, labels)


def datasets(train: int = 48) -> dict[str, Any]:
    return {"train": stripes(train, 1), "val": stripes(12, 2), "test": stripes(30, 3)}


def trainer(folder: Path, **options: Any) -> Trainer:
    made = Trainer(datasets=datasets(), models_path=folder, cuda="cpu", **options)
    made.load_dataloaders(16, None)
    return made


def state(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def same(a: Any, b: Any) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


# --- a plain training ----------------------------------------------------------------------------


def test_it_trains_saves_and_tests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = trainer(tmp_path)
    assert made.datasizes == {"train": 48, "val": 12, "test": 30}
    assert set(made.dataloader) == set(made.datasets) == {"train", "val", "test"}
    assert (made.dtype, made.devicy.type, made.pruning) == (torch.float32, "cpu", False)
    assert made.models_path == tmp_path
    assert isinstance(made.criterion, nn.CrossEntropyLoss)
    net = network().eval()
    trained = made.train(net, {"learning_rate": 0.1}, "stripes", 4)
    assert trained is net
    assert not net.training
    assert same(state(tmp_path / "stripes.pth"), net.state_dict())
    percent, tested = made.evaluate(net)
    assert tested is net
    assert percent == accuracy(net, made.datasets["test"]) > 90
    err = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in err] == [f"stripes: epoch {i}/4" for i in range(1, 5)]
    assert {path.name for path in tmp_path.iterdir()} == {"stripes.pth"}


def test_the_same_twice_and_the_random_state_as_it_was(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    nets = []
    for number in range(2):
        net = network()
        torch.manual_seed(number)
        trainer(tmp_path).train(net, {}, "net", 2)
        nets.append(net.state_dict())
        assert torch.initial_seed() == number
    assert same(*nets)
    torch.set_rng_state(before)


def test_the_learning_rate_falls_in_steps(tmp_path: Path) -> None:
    rates: list[float] = []

    class Watched(Trainer):
        def train_epoch(self, net: Any, optimizer: Any, epoch: int = 1, name: str = "") -> float:
            rates.append(optimizer.param_groups[0]["lr"])
            return super().train_epoch(net, optimizer, epoch, name)

    made = Watched(datasets=datasets(), models_path=tmp_path, cuda="cpu")
    chosen = {"learning_rate": 0.1, "learning_step": 2, "learning_gamma": 0.5}
    made.train(network(), chosen, "net", 5)
    assert rates == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025])


def test_a_checkpoint_is_gone_on_from(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    first = made.train(network(), {}, "net", 1)
    again = made.train(network(seed=1), {}, "net", 0, reload=True)
    assert same(first.state_dict(), again.state_dict())


def test_another_width_starts_from_the_old_weights(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    old = made.train(network(), {"learning_rate": 0.1}, "old", 4)
    wide = made.train(network(12, seed=1), {}, "wide", 0, old_net=old)
    x = image(4, 1, 6, 6)
    torch.testing.assert_close(wide.eval()(x), old.eval()(x), rtol=1e-5, atol=1e-6)
    narrow = made.train(network(6, seed=1), {"learning_rate": 0.01}, "narrow", 1, old_net=old)
    assert made.evaluate(narrow)[0] > 60


def test_data_of_all_kinds(tmp_path: Path) -> None:
    splits = load_dataset("Digits")
    by_name = Trainer(datasets="Digits", models_path=tmp_path, cuda="cpu")
    given = Trainer(datasets=splits, models_path=tmp_path, cuda="cpu")
    assert by_name.datasizes == given.datasizes
    # Digits are shifted in training; the order is the same for the same seed.
    batches = [next(iter(t.load_dataloaders(8, None)["train"])) for t in (by_name, given)]
    assert torch.equal(batches[0][0], batches[1][0])
    plain = torch.stack([splits.train[i][0] for i in range(len(splits.train))])  # type: ignore[arg-type]
    assert not all((plain == one).flatten(1).all(1).any() for one in batches[0][0])
    # A collate function of one's own is what makes batches, of all splits.
    loaders = given.load_dataloaders(8, lambda items: len(items))
    assert {next(iter(loader)) for loader in loaders.values()} == {8}
    # No last batch of one, which batch norm cannot train on.
    odd = Trainer(datasets=datasets(17), models_path=tmp_path, cuda="cpu")
    assert [len(labels) for _, labels in odd.load_dataloaders(16, None)["train"]] == [16]


def test_the_cpu_where_there_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Trainer(datasets=datasets()).devicy == torch.device("cpu")
    assert capsys.readouterr().err == "cuda:0: there is no GPU here; the CPU is used\n"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_or_cpu("cuda:1") == torch.device("cuda:1")
    with pytest.raises(
        PrunerError, match=r"^cuda cuda:2: there are 2 GPUs; expected cuda:0 to cuda:1$"
    ):
        device_or_cpu("cuda:2")
    with pytest.raises(PrunerError, match=r"^cuda 'gpu7': no device; expected cuda:0 or cpu$"):
        device_or_cpu("gpu7")


def test_another_precision(tmp_path: Path) -> None:
    made = trainer(tmp_path, ddtype=torch.float64)
    net = made.train(network(), {}, "net", 1)
    assert {p.dtype for p in net.parameters()} == {torch.float64}
    assert made.evaluate(net)[0] >= 0


# --- channels go ---------------------------------------------------------------------------------


def with_small_channels() -> Net:
    """Channels 1 and 5 have filters of a twentieth, channel 3 of a third."""
    net = network()
    with torch.no_grad():
        for conv in (net.conv1, net.conv2):
            conv.weight.copy_(conv.weight.sign() * 0.2)
            conv.weight[[1, 5]] *= 0.05
            conv.weight[3] *= 0.35
    return net


def test_channels_go_while_it_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = trainer(tmp_path, pruning=True)
    full = with_small_channels()
    chosen = {"learning_rate": 1e-4, "prune_threshold": 0.5}
    slim = made.train(full, chosen, "slim", 3)
    assert slim is not full
    assert slim.training is full.training is True
    # 0.01, 0.255, 0.5: two channels before the second epoch, one before the third.
    notes = [line for line in capsys.readouterr().err.splitlines() if "removed" in line]
    assert notes == [
        "slim: 4 channels below 0.255 removed",
        "slim: 2 channels below 0.5 removed",
    ]
    assert [tuple(p.shape) for p in slim.parameters()][:3] == [(5, 1, 3, 3), (5,), (5,)]
    assert slim.conv2.weight.shape == (5, 5, 3, 3)
    assert list(slim.state_dict()) == list(full.state_dict())
    saved = maker_from_file(tmp_path / "slim.py", "net")(weights=tmp_path / "slim.pth")
    assert same(saved.state_dict(), slim.state_dict())
    x = image(4, 1, 6, 6)
    assert torch.equal(saved.eval()(x), slim.eval()(x))
    # The full network does not take what the slim one has saved.
    with pytest.raises(
        PrunerError,
        match=r"^checkpoint .*slim\.pth is not of this Net: 1\d of another shape \(conv1\.weight "
        r"is 5x1x3x3, expected 8x1x3x3; .*; build the network from .*slim\.py, or start anew with "
        r"reload=False, or under another name$",
    ):
        made.train(network(), {}, "slim", 1, reload=True)
    again = made.train(saved, {}, "slim", 0, reload=True)
    assert same(again.state_dict(), slim.state_dict())


def test_momentum_goes_on_at_the_channels_that_stay(tmp_path: Path) -> None:
    made = trainer(tmp_path, pruning=True)
    net = with_small_channels()
    optimizer = made.optimizer_of(net, Parameters(learning_rate=1e-4))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    made.train_epoch(net, optimizer)
    scheduler.step()
    before = optimizer.state[net.conv2.weight]["momentum_buffer"].clone()
    slim: Any = made.thinner(net, optimizer, 0.2)
    stays = [0, 2, 3, 4, 6, 7]
    after = optimizer.state[slim.conv2.weight]["momentum_buffer"]
    assert torch.equal(after, before[stays][:, stays])
    assert len(optimizer.state) == len(list(slim.parameters()))
    # The scheduler goes on with the optimizer that it has.
    rate = optimizer.param_groups[0]["lr"]
    weights = slim.conv2.weight.clone()
    made.train_epoch(slim, optimizer)
    scheduler.step()
    assert not torch.equal(slim.conv2.weight, weights)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(rate / 2)
    assert made.thinner(slim, optimizer, 0.01) is slim


def test_what_a_trainer_prunes_by_hand(tmp_path: Path) -> None:
    thinned = trainer(tmp_path).prune_net(with_small_channels(), 0.2)
    assert thinned.removed == {"conv1": [1, 5], "conv2": [1, 5]}


# --- a loop of one's own -------------------------------------------------------------------------


def test_a_loop_that_returns_nothing_trained_in_place(tmp_path: Path) -> None:
    class InPlace(Trainer):
        def train_loop(self, net: Any, *arguments: Any) -> Any:
            with torch.no_grad():
                net.fc.bias.fill_(7)

    net = network()
    assert InPlace(datasets=datasets(), models_path=tmp_path, cuda="cpu").train(net) is net
    assert net.fc.bias.tolist() == [7, 7, 7]


def test_a_loss_with_a_penalty(tmp_path: Path) -> None:
    """As docs/trainer.md has it."""

    class Sparse(Trainer):
        weight = 0.0

        def loss(self, net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
            penalty = group_lasso(net, analyse(net, images[:2]).graph)
            return super().loss(net, images, labels) + self.weight * penalty()

    sizes = []
    for weight in (0.0, 0.05):
        made = Sparse(datasets=datasets(), models_path=tmp_path, cuda="cpu")
        made.weight = weight
        net = made.train(network(), {"learning_rate": 0.01}, "net", 3)
        sizes.append(float(net.get_parameter("conv2.weight").detach().abs().sum()))
    assert sizes[1] < 0.95 * sizes[0]


# --- int8 ----------------------------------------------------------------------------------------


def test_int8_on_calibrated_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchao")
    made = trainer(tmp_path)
    net = made.train(network(), {"learning_rate": 0.1}, "net", 4)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    percent, int8 = made.evaluate(net, quant_mode=True)
    assert percent > 90
    assert same(before, net.state_dict())
    assert {t.dtype for t in int8.state_dict().values()} >= {torch.int8}
    x = stripes(7, 9).tensors[0]
    full, rounded = net.eval()(x), int8(x)
    error = (full - rounded).abs().max() / full.abs().max()
    assert 0 < error < 0.1
    assert not int8.train().training

    # At most 2,000 training images.
    monkeypatch.setattr("pruners.trainer.CALIBRATION_IMAGES", 20)
    seen: list[int] = []

    def watched(net: Any, example: Any, batches: Any) -> Any:
        seen.extend(len(batch) for batch in batches)
        return net

    monkeypatch.setattr("pruners.trainer.quantized", watched)
    made.evaluate(net, quant_mode=True)
    assert sum(seen) == 20


def test_what_int8_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) if x.sum() > 0 else self.fc(-x)

    pytest.importorskip("torchao")
    with pytest.raises(
        PrunerError,
        match=r"^quant_mode: .*: torch\.export cannot follow its forward \(.*\); expect",
    ):
        quantized(Branches(), torch.zeros(2, 4), [])
    with pytest.raises(
        PrunerError, match=r"^quant_mode: no batch to calibrate with; expected at least one train"
    ):
        quantized(nn.Linear(4, 2), torch.zeros(2, 4), [])
    monkeypatch.setattr("pruners.deploy.extra.find_spec", lambda package: None)
    with pytest.raises(
        PrunerError, match=r"^quant_mode: needs torchao, not installed; get it with `pip install '"
    ):
        quantized(nn.Linear(4, 2), torch.zeros(2, 4), [])


# --- what is refused -----------------------------------------------------------------------------


def test_a_loss_that_is_no_number_keeps_the_last_good_epoch(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    good: dict[str, Any] = {}

    class Poisoned(nn.CrossEntropyLoss):
        calls = 0

        def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
            self.calls += 1
            if self.calls == 5:
                good.update(state(tmp_path / "net.pth"))
                return logits.sum() * torch.nan
            return super().forward(logits, labels)

    made.criterion = Poisoned()
    with pytest.raises(
        DivergedError,
        match=r"^training net: the loss is nan in epoch 2, batch 2; expected finite numbers; try a "
        r"learning_rate below 0\.03, such as 0\.003; .*net\.pth is of the last good epoch$",
    ):
        made.train(network(), {}, "net", 3)
    assert same(state(tmp_path / "net.pth"), good)


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    made.load_dataloaders(48, None)  # one step: its loss was finite
    net = network()
    net.fc.weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(
        DivergedError, match=r"^training net: fc\.weight is not finite after epoch 1; .* 0\.003$"
    ):
        made.train(net, {}, "net", 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"learning_rat": 1},
            r"^parameters: learning_rat: unknown; did you mean learning_rate\?; expected "
            r"learning_rate, learning_step, learning_gamma, prune_threshold$",
        ),
        ({"learning_rate": 0}, r"^learning_rate 0: expected a number above 0$"),
        ({"learning_rate": "a"}, r"^learning_rate a: expected a number above 0$"),
        ({"learning_step": 0}, r"^learning_step 0: expected a whole number of epochs, 1 or more$"),
        ({"learning_step": 1.5}, r"^learning_step 1\.5: expected a whole number of epochs"),
        ({"learning_gamma": 2}, r"^learning_gamma 2: expected a factor above 0, at most 1$"),
        (
            {"prune_threshold": 1},
            r"^prune_threshold 1: expected a share of a layer's largest magnitude, 0\.01 or more "
            r"and below 1$",
        ),
        ({"prune_threshold": float("nan")}, r"^prune_threshold nan: expected a share of a layer"),
    ],
)
def test_parameters_that_are_none(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(PrunerError, match=message):
        Parameters.of(parameters)


def test_trainings_that_are_none(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    for arguments, message in (
        ({"name": "a/b"}, r"^name 'a/b': expected a plain file name, for NAME\.pth$"),
        ({"epochs": -1}, r"^epochs -1: expected 0 or more$"),
        (
            {"reload": True},
            r"^reload: .*net\.pth: no such file; expected what training 'net' has saved; "
            r"reload=False starts anew$",
        ),
        (
            {"reload": True, "old_net": network()},
            r"^reload=True, old_net: expected one of them, to begin with$",
        ),
    ):
        with pytest.raises(PrunerError, match=message):
            made.train(network(), {}, **arguments)
    with pytest.raises(PrunerError, match=r"^net: a str; expected a torch\.nn\.Module$"):
        made.train("resnet", {})  # type: ignore[arg-type]
    with pytest.raises(PrunerError, match=r"^Net: nothing to train; expected a parameter with re"):
        made.train(network().requires_grad_(False), {})
    with pytest.raises(PrunerError, match=r"^--name 'a-b': cannot be imported as a Python module"):
        trainer(tmp_path, pruning=True).train(network(), {}, "a-b")
    (tmp_path / "file").touch()
    with pytest.raises(PrunerError, match=r"file: is a file, .*choose another with models_path=.*"):
        Trainer(datasets=datasets(), models_path=tmp_path / "file", cuda="cpu").train(network(), {})
    made.datasets["train"] = TensorDataset(torch.zeros(4, 1, 6, 6), torch.tensor([0, 1, 2, 3]))
    made.load_dataloaders(4, None)
    with pytest.raises(PrunerError, match=r"^dataset training images: label 3, but 3 classes; exp"):
        made.train(network(), {})


def test_the_source_of_the_network_itself_is_not_overwritten(tmp_path: Path) -> None:
    made = trainer(Path(__file__).parent, pruning=True)
    net = with_small_channels()
    optimizer = made.optimizer_of(net, Parameters())
    with pytest.raises(
        PrunerError,
        match=r"test_trainer\.py: the network itself comes from this file; choose another name, or "
        r"another models_path$",
    ):
        made.thinner(net, optimizer, 0.2, "test_trainer")


def test_data_that_is_none() -> None:
    parts = datasets()
    for given, message in (
        (
            3,
            r"^datasets: a int; expected a DataSplits, the name of a dataset, or a dict with train",
        ),
        (
            {**parts, "tset": 1},
            r"^datasets: has 'tset'; did you mean test\?; expected train, val, ",
        ),
        ({"train": parts["train"]}, r"^datasets: lacks 'val'; expected train, val, test$"),
        (
            {**parts, "val": iter(())},
            r"^datasets\['val'\]: a tuple_iterator without a length; expected a torch Dataset of p",
        ),
        (
            {**parts, "val": Subset(parts["val"], [])},
            r"^datasets\['val'\]: is empty; expected at least one image$",
        ),
        ("Digit", r"Digit: unknown.*did you mean Digits"),
    ):
        with pytest.raises(PrunerError, match=message):
            datasets_of(given)  # type: ignore[arg-type]
    with pytest.raises(PrunerError, match=r"^batch_size 0: expected a whole number of at least 1$"):
        Trainer(datasets=parts, cuda="cpu").load_dataloaders(0, None)
    with pytest.raises(
        PrunerError, match=r"^ddtype torch\.int8: expected a torch\.dtype such as t"
    ):
        Trainer(ddtype=torch.int8, datasets=parts, cuda="cpu")
    assert isinstance(load_dataset("Digits"), DataSplits)
