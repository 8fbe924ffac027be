import copy
import dataclasses
import io
import math
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

import app
from pruners import errors, training
from pruners.batches import augment
from pruners.datasets import Augmentation, DataSplits, load_dataset
from pruners.errors import PrunerError
from pruners.evaluation import accuracy
from pruners.recipe import Recipe, schedule
from pruners.training import fit, train
from pruners.training_state import TrainingState, read_state, state_bytes

ROOT = Path(app.__file__).parent


@cache
def digits() -> DataSplits:
    """The digits as they are stored: small enough to learn in a second."""
    return load_dataset("Digits", input_shape=(1, 8, 8))


def few_digits(count: int) -> DataSplits:
    splits = digits()
    return dataclasses.replace(splits, train=Subset(splits.train, range(count)))


def network(outputs: int = 10, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(dropout),
        nn.Flatten(),
        nn.Linear(16 * 16, outputs),
    )


def test_learns_the_digits():
    model = network()
    log = train(model, digits(), 5)
    assert accuracy(model, digits().test) > 93
    assert len(log.losses) == 5
    assert log.losses[-1] < log.losses[0]
    assert len(log.val_accuracies) == 6
    assert log.seconds > 0


def test_same_seed_same_weights_and_another_seed_others():
    runs = [network(dropout=0.2) for _ in range(3)]
    logs = []
    for model, seed in zip(runs, (1, 1, 2), strict=True):
        torch.rand(7)  # the global state must not matter
        logs.append(train(model, few_digits(200), 2, seed=seed))
    first, same, other = (model.state_dict() for model in runs)
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert logs[0].losses == logs[1].losses
    assert not torch.equal(first["6.weight"], other["6.weight"])


def test_global_random_state_is_left_as_it_was():
    model = network(dropout=0.2)
    before = torch.get_rng_state()
    train(model, few_digits(100), 1)
    accuracy(model, digits().val)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("training", [True, False])
def test_modes_are_left_as_they_were(training):
    model = network().train(training)
    model[1].training = not training
    modes = [module.training for module in model.modules()]
    train(model, few_digits(100), 1)
    accuracy(model, digits().val)
    assert [module.training for module in model.modules()] == modes


def test_keeps_the_weights_that_validate_best(monkeypatch):
    seen = []
    scripted = iter([10.0, 50.0, 90.0, 70.0])

    def recorded(model, *_, **__):
        seen.append(model[6].weight.detach().clone())
        return next(scripted)

    monkeypatch.setattr(training, "accuracy", recorded)
    model = network()
    log = train(model, few_digits(100), 3)
    assert log.best_epoch == 2
    assert log.val_accuracies == (10.0, 50.0, 90.0, 70.0)
    assert torch.equal(model[6].weight, seen[2])


def test_training_that_only_harms_leaves_the_network_as_it_came():
    model = network()
    train(model, digits(), 3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    log = train(model, few_digits(64), 1, lr=5.0)
    assert log.best_epoch == 0
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_no_epochs_measure_only():
    model = network()
    before = model[6].weight.clone()
    log = train(model, few_digits(100), 0, progress=True)
    assert log.losses == ()
    assert len(log.val_accuracies) == 1
    assert torch.equal(model[6].weight, before)


def test_frozen_parameters_stay():
    model = network()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    train(model, few_digits(200), 1)
    assert torch.equal(model[0].weight, before)


def test_double_precision():
    model = network().double()
    train(model, few_digits(100), 1)
    assert model[6].weight.dtype == torch.float64


def test_batch_norm_never_sees_a_single_image():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10))
    train(model, few_digits(65), 1, batch_size=64)


def test_learning_rate_warms_up_and_ends_at_zero():
    rates = [schedule(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates.index(max(rates)) == 9
    assert max(rates) > 0.97
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] < 1e-3
    assert schedule(0, 1) == 1


def test_progress_is_a_line_an_epoch_on_stderr_where_that_is_no_terminal(capsys):
    train(network(), few_digits(100), 2, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("epoch 1/2  loss ")
    assert lines[1].endswith(" %")


def test_progress_is_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    train(network(), few_digits(130), 2, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "2/2" in err
    assert "6/6" in err
    assert "━" in err


def test_silent_by_default(capsys):
    train(network(), few_digits(100), 1)
    assert capsys.readouterr() == ("", "")


def test_loss_that_is_not_finite_keeps_the_weights_so_far():
    images = torch.full((64, 1, 8, 8), math.inf)
    broken = dataclasses.replace(
        digits(), train=TensorDataset(images, torch.zeros(64, dtype=torch.int64))
    )
    model = network().eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(
        PrunerError,
        match=r"^training on Digits: the loss is nan in epoch 1, batch 1; expected a finite "
        r"number; try a learning rate below 0.03, such as lr=0.003$",
    ):
        train(model, broken, 1)
    assert not model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_too_few_outputs():
    with pytest.raises(
        PrunerError, match=r"^accuracy: image \d+ has label 9, but .* 7 outputs.*--num-classes 10"
    ):
        train(network(outputs=7), digits(), 1)


def test_nothing_to_train():
    with pytest.raises(PrunerError, match=r"^Flatten: nothing to train; expected a parameter"):
        train(nn.Flatten(), digits(), 1)


def test_negative_epochs():
    with pytest.raises(PrunerError, match=r"^epochs -1: expected 0 or more"):
        train(network(), digits(), -1)


def test_augment_shifts_whole_images_and_fills():
    images = torch.arange(1.0, 17).view(1, 1, 4, 4).repeat(200, 2, 1, 1)
    generator = torch.Generator().manual_seed(0)
    shifted = augment(images, Augmentation(shift=1, fill=-9.0), generator)
    assert shifted.shape == images.shape
    assert torch.equal(shifted[:, 0], shifted[:, 1])
    padded = torch.full((6, 6), -9.0)
    padded[1:5, 1:5] = images[0, 0]
    crops = {
        tuple(padded[i : i + 4, j : j + 4].flatten().tolist()) for i in range(3) for j in range(3)
    }
    assert {tuple(image.flatten().tolist()) for image in shifted[:, 0]} == crops


def test_augment_mirrors_about_half():
    images = torch.arange(3.0).view(1, 1, 1, 3).repeat(400, 1, 1, 1)
    flipped = augment(images, Augmentation(flip=True), torch.Generator().manual_seed(0))
    share = (flipped[:, 0, 0, 0] == 2).float().mean()
    assert 0.4 < share < 0.6
    assert torch.equal(flipped[:, 0, 0, 1], torch.ones(400))


def test_no_augmentation_changes_nothing():
    images = torch.rand(4, 3, 5, 5)
    assert torch.equal(augment(images, Augmentation(), torch.Generator()), images)


# --- the recipe --------------------------------------------------------------------------------


def as_it_began(model: nn.Module, splits: DataSplits, epochs: int, lr: float = 0.03) -> None:
    """The loop from which the weights that ship with the zoo came, for one process and SGD."""
    generator = torch.Generator().manual_seed(0)
    loader = DataLoader(splits.train, 64, shuffle=True, generator=generator)
    optimizer = torch.optim.SGD(
        model.parameters(), lr, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    torch.manual_seed(0)
    model.train()
    for epoch in range(epochs):
        for batch, (images, labels) in enumerate(loader):
            step = epoch * len(loader) + batch
            for group in optimizer.param_groups:
                group["lr"] = lr * schedule(step, epochs * len(loader))
            images = augment(images, splits.augmentation, generator)
            loss = F.cross_entropy(model(images), labels, label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@pytest.mark.parametrize("flip", [False, True])
def test_a_seed_gives_the_weights_that_it_always_gave(flip):
    splits = few_digits(200)
    how = dataclasses.replace(splits.augmentation, flip=flip)
    splits = dataclasses.replace(splits, augmentation=how)
    expected, model = network(dropout=0.2), network(dropout=0.2)
    as_it_began(expected, splits, 3)
    log = train(model, splits, 3)
    assert log.best_epoch == 3
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in expected.state_dict().items())


def test_adamw():
    model = network()
    log = train(model, few_digits(400), 3, optimizer="adamw", lr=0.003, weight_decay=0.01)
    assert log.val_accuracies[log.best_epoch] > 85
    optimizer = Recipe(1, "adamw", lr=0.1, momentum=0.8, weight_decay=0.2).optimizer_of(
        model.parameters()
    )
    assert isinstance(optimizer, torch.optim.AdamW)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.1, (0.8, 0.999), 0.2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision(monkeypatch, dtype):
    monkeypatch.setattr(training, "_amp_dtype", lambda device: dtype)
    seen = []
    model = network()
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    log = train(model, few_digits(600), 3, amp=True)
    # Validation is in full precision.
    assert set(seen) == {dtype, torch.float32}
    assert model[6].weight.dtype == torch.float32
    full = train(network(), few_digits(600), 3)
    assert log.losses != full.losses
    assert log.losses == pytest.approx(full.losses, rel=0.02)


def test_half_precision_is_of_gpus_only_unless_asked_for():
    assert training._amp_dtype(torch.device("cpu")) == torch.bfloat16
    seen = []
    model = network()
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    train(model, few_digits(100), 1)
    assert set(seen) == {torch.float32}


def test_another_loss():
    """What distillation needs: the images, as the network sees them, and its logits."""
    teacher, calls = network().eval(), []

    def loss(images, logits, labels):
        calls.append((images.shape, logits.shape, labels.shape))
        with torch.no_grad():
            answers = teacher(images).softmax(1)
        return F.cross_entropy(logits, answers)

    log = fit(network(), few_digits(100), Recipe(2), loss=loss)
    assert log.losses[1] < log.losses[0]
    assert calls[:2] == [((n, 1, 8, 8), (n, 10), (n,)) for n in (64, 36)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "lr 0.0: expected a number above 0"),
        ({"lr": math.inf}, "lr inf: expected a number above 0"),
        ({"weight_decay": -0.1}, "weight_decay -0.1: expected a number of at least 0"),
        ({"momentum": 1.0}, "momentum 1.0: expected a number of at least 0 and below 1"),
        ({"label_smoothing": 1.0}, "label_smoothing 1.0: expected a number of at least 0 and .*"),
        ({"batch_size": 0}, "batch_size 0: expected 1 or more"),
        ({"optimizer": "adam"}, r"optimizer adam: unknown; did you mean adamw\? \(expected sgd .*"),
    ],
)
def test_recipes_out_of_range(options, message):
    with pytest.raises(PrunerError) as raised:
        train(network(), digits(), 1, **options)
    assert re.fullmatch(message, str(raised.value))


@pytest.mark.parametrize("label", [-1, 10])
def test_a_label_out_of_range(label):
    labels = torch.zeros(64, dtype=torch.int64)
    labels[5] = label
    broken = dataclasses.replace(digits(), train=TensorDataset(torch.ones(64, 1, 8, 8), labels))
    model = network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(
        PrunerError,
        match=rf"^dataset Digits: label {label}, but 10 classes; expected labels from 0 to 9: "
        r"correct the labels, or the num_classes of the dataset$",
    ):
        train(model, broken, 1)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_network_with_several_outputs():
    class Auxiliary(nn.Sequential):
        def forward(self, x):
            return (super().forward(x), x) if self.training else super().forward(x)

    with pytest.raises(
        PrunerError,
        match=r"^Digits: in training, the network's output is a tuple; expected a tensor of "
        r"logits: build it without further outputs, such as --arch-args .*aux_logits",
    ):
        train(Auxiliary(*network()), digits(), 1)


# --- going on ----------------------------------------------------------------------------------


class StoppedError(Exception):
    pass


def stopped(recipe: Recipe, after: int, splits: DataSplits) -> bytes:
    """What a run leaves that is ended after so many epochs."""
    left = []

    def keep(state):
        left.append(state_bytes(state))
        if len(left) == after:
            raise StoppedError

    with pytest.raises(StoppedError):
        fit(network(dropout=0.2), splits, recipe, keep=keep)
    return left[-1]


@pytest.mark.parametrize(
    "options",
    [{}, {"optimizer": "adamw", "lr": 0.003}, {"amp": True}, {"lr": 5.0}],
    ids=["sgd", "adamw", "half precision", "the start is best"],
)
def test_resumed_training_ends_with_the_same_weights(monkeypatch, options):
    monkeypatch.setattr(training, "_amp_dtype", lambda device: torch.float16)
    recipe, splits = Recipe(4, seed=1, **options), few_digits(150)
    whole = network(dropout=0.2)
    expected = fit(whole, splits, recipe)
    for after in (1, 2, 4):
        state = read_state(stopped(recipe, after, splits), Path("state"))
        assert state.epoch == after
        torch.rand(3)
        # The weights that it has do not matter.
        model = network(dropout=0.2)
        nn.init.zeros_(model[0].weight)
        log = fit(model, splits, recipe, resume=state)
        assert dataclasses.replace(log, seconds=0) == dataclasses.replace(expected, seconds=0)
        assert log.seconds > state.seconds
        state = model.state_dict()
        assert all(torch.equal(state[key], value) for key, value in whole.state_dict().items())


@pytest.mark.parametrize("batches", [1, 2, 3, 5, 7])
def test_stopped_in_the_middle_of_an_epoch(batches):
    """Three batches an epoch: also at the end of one, and in the first one."""
    recipe, splits = Recipe(3, seed=1), few_digits(150)
    whole = network(dropout=0.2)
    expected = fit(whole, splits, recipe)
    asked, left = [], []

    def stop():
        asked.append(None)
        return len(asked) == batches

    with pytest.raises(errors.StoppedError, match=r"^stopped in epoch [123] of 3$"):
        fit(
            network(dropout=0.2),
            splits,
            recipe,
            stop=stop,
            keep=lambda state: left.append(state_bytes(state)),
        )
    assert len(asked) == batches
    state = read_state(left[-1], Path("state"))
    assert (state.epoch, state.batch) == ((batches - 1) // 3, (batches - 1) % 3 + 1)
    model = network(dropout=0.2)
    log = fit(model, splits, recipe, resume=state)
    assert dataclasses.replace(log, seconds=0) == dataclasses.replace(expected, seconds=0)
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in whole.state_dict().items())


def test_the_optimizer_begins_with_a_state():
    recipe, splits, states = Recipe(1, seed=1), few_digits(150), []
    model = network()
    fit(model, splits, recipe, keep=lambda state: states.append(copy.deepcopy(state.optimizer)))
    fresh, carried = copy.deepcopy(model), copy.deepcopy(model)
    fit(fresh, splits, recipe)
    fit(carried, splits, recipe, optimizer=states[-1])
    assert not torch.equal(fresh[0].weight, carried[0].weight)


def test_a_state_loads_without_running_code():
    content = stopped(Recipe(2), 1, few_digits(100))
    loaded = torch.load(io.BytesIO(content), weights_only=True)
    fields = {field.name for field in dataclasses.fields(TrainingState)}
    assert loaded.keys() == fields | {"format"}


def test_resuming_with_other_options_lists_them():
    recipe, splits = Recipe(3), few_digits(100)
    state = read_state(stopped(recipe, 1, splits), Path("state"))
    other = Recipe(3, "adamw", lr=0.01)
    model = network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(
        PrunerError,
        match=r"^the run was started with other options: optimizer adamw \(was sgd\), "
        r"lr 0\.01 \(was 0\.03\), training images 90 \(was 100\), arch x \(was none\); "
        r"give the same again$",
    ):
        fit(model, few_digits(90), other, resume=state, settings={"arch": "x"})
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_resuming_another_network():
    recipe, splits = Recipe(3), few_digits(100)
    state = read_state(stopped(recipe, 1, splits), Path("state"))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    before = model[1].weight.clone()
    with pytest.raises(PrunerError, match=r"^the run was of another network \(.*Unexpected key"):
        fit(model, splits, recipe, resume=state)
    assert torch.equal(model[1].weight, before)


class Evil:
    def __reduce__(self):
        return os.system, ("touch executed",)


def test_damaged_states(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = stopped(Recipe(2), 1, few_digits(100))
    flipped = bytearray(content)
    flipped[len(flipped) // 2] ^= 1
    other, evil = io.BytesIO(), io.BytesIO()
    torch.save({"conv.weight": torch.ones(2)}, other)
    torch.save({"format": Evil()}, evil)
    for damaged in (
        content[: len(content) // 2],
        bytes(flipped),
        b"x",
        other.getvalue(),
        evil.getvalue(),
        pickle.dumps(Evil()),
    ):
        with pytest.raises(
            PrunerError,
            match=r"^net\.pth\.training: damaged, or not the state of a training "
            r"\(\d+ bytes; .*\); remove it to start anew$",
        ):
            read_state(damaged, Path("net.pth.training"))
    assert not Path("executed").exists()


# --- the command -------------------------------------------------------------------------------

NET = """
import os
import time

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, kernel_size=3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(128, 10)

    def forward(self, x):
        time.sleep(float(os.environ.get("SLOW", 0)))
        x = torch.max_pool2d(self.bn(self.conv(x)).relu(), 2)
        return self.fc(self.drop(torch.flatten(x, 1)))
"""
TRAIN = ("train", "--arch", "nets.py:Net", "--input-shape", "1,8,8", "--epochs", "4", "--seed", "3")
LEFT = Path("net.pth.training")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "nets.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    return tmp_path


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name not in ("nets.py", "__pycache__"))


def interrupted_after(epochs: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """`train`, with Ctrl-C pressed when so many epochs are done; the exit code."""
    whole = training._Run.train_epoch

    def train_epoch(self, report, stop):
        if self.epoch == epochs:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
        return whole(self, report, stop)

    with monkeypatch.context() as patch:
        patch.setattr(training._Run, "train_epoch", train_epoch)
        return app.main([*TRAIN, "--out", "net.pth"])


def test_a_killed_run_is_resumed_to_the_same_bytes(folder):
    assert app.main([*TRAIN, "--out", "whole.pth"]) == 0
    assert files(folder) == ["whole.pth"]
    command = [sys.executable, str(ROOT / "app.py"), *TRAIN, "--out", "net.pth", "--resume"]
    threads = str(torch.get_num_threads())
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": threads, "SLOW": "0.03"},
    )
    while not LEFT.exists() and process.poll() is None:
        time.sleep(0.01)
    delay = random.Random(time.time_ns()).uniform(0, 1)
    time.sleep(delay)
    process.kill()
    _, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, err
    assert not Path("net.pth").exists()
    assert app.main([*TRAIN, "--out", "net.pth", "--resume"]) == 0
    assert files(folder) == ["net.pth", "whole.pth"], delay
    assert Path("net.pth").read_bytes() == Path("whole.pth").read_bytes(), delay


def test_an_interrupted_run_says_how_to_go_on(folder, monkeypatch, capsys):
    assert interrupted_after(0, monkeypatch) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted; nothing was written"
    assert files(folder) == []
    assert interrupted_after(2, monkeypatch) == 130
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "net.pth.training: what is done so far; --resume goes on from there",
        "interrupted; written before: net.pth.training",
    ]
    assert files(folder) == ["net.pth.training"]
    assert app.main([*TRAIN, "--out", "net.pth"]) == 2
    assert capsys.readouterr().err == (
        "error: net.pth.training: left by an interrupted run; expected --resume, which goes on "
        "with it, or remove it to start anew\n"
    )
    assert app.main([*TRAIN, "--out", "net.pth", "--resume", "--lr", "0.2", "--depth", "3"]) == 2
    capsys.readouterr()
    assert app.main([*TRAIN, "--out", "net.pth", "--resume", "--lr", "0.2"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: net.pth.training: the run was started with other options: lr 0.2 (was 0.1); give "
        "the same again, or remove it to start anew"
    )
    assert files(folder) == ["net.pth.training"]
    whole = LEFT.read_bytes()
    LEFT.write_bytes(whole[:-100])
    assert app.main([*TRAIN, "--out", "net.pth", "--resume"]) == 2
    assert "error: net.pth.training: damaged" in capsys.readouterr().err
    LEFT.write_bytes(b"")
    assert app.main([*TRAIN, "--out", "net.pth", "--resume"]) == 2
    assert "error: net.pth.training: is empty; remove it" in capsys.readouterr().err
    LEFT.unlink()
    LEFT.mkdir()
    assert app.main([*TRAIN, "--out", "net.pth", "--resume"]) == 2
    assert "error: net.pth.training: cannot be read (Is a directory)" in capsys.readouterr().err


def test_resuming_nothing_starts_anew(folder, capsys):
    assert app.main([*TRAIN, "--out", "net.pth", "--resume"]) == 0
    told = capsys.readouterr()
    assert "net.pth.training: not there; nothing to resume, starting anew" in told.err
    assert told.out.startswith("net.pth  Net, ")
    assert files(folder) == ["net.pth"]


def test_a_diverged_run_leaves_nothing_to_resume(folder, monkeypatch, capsys):
    step = training._Run._step

    def third_epoch_diverges(self, batch, where):
        if self.epoch == 2:
            batch = dataclasses.replace(batch, images=batch.images * math.inf)
        return step(self, batch, where)

    monkeypatch.setattr(training._Run, "_step", third_epoch_diverges)
    assert app.main([*TRAIN, "--out", "net.pth"]) == 2
    assert re.search(
        r"\nerror: training on Digits: the loss is nan in epoch 3, batch 1; .* such as lr=0.01\n$",
        capsys.readouterr().err,
    )
    assert files(folder) == []


def test_options_of_the_recipe(folder, monkeypatch):
    seen = []
    whole = training._Run.start

    def start(self, resume, optimizer):
        seen.append(self.recipe)
        whole(self, resume, optimizer)

    monkeypatch.setattr(training._Run, "start", start)
    train = [*TRAIN[:-4], "--epochs", "1", "--out", "net.pth"]
    for options in (
        "",
        "--optimizer adamw",
        "--optimizer adamw --lr 0.01 --weight-decay 0 --momentum 0.5 --label-smoothing 0 "
        "--batch-size 128 --amp --seed 7",
        "--no-amp",
    ):
        assert app.main([*train, *options.split()]) == 0
    assert seen == [
        Recipe(1, "sgd", 0.1, 64, 0.9, 5e-4, 0.05, 0, False),
        Recipe(1, "adamw", 0.001, 64, 0.9, 0.01, 0.05, 0, False),
        Recipe(1, "adamw", 0.01, 128, 0.5, 0, 0, 7, True),
        Recipe(1, "sgd", 0.1, 64, 0.9, 5e-4, 0.05, 0, False),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--lr x", "--lr x: expected a number above 0"),
        ("--lr 0", "--lr 0: expected a number above 0"),
        ("--weight-decay -1", "--weight-decay -1: expected a number of at least 0"),
        ("--momentum 1", "--momentum 1: expected a number of at least 0 and below 1"),
        ("--label-smoothing 1.5", "--label-smoothing 1.5: expected a number of at least 0 and .*"),
        ("--batch-size 0", "--batch-size 0: expected a whole number of at least 1"),
        ("--optimizer adam", r"optimizer adam: unknown; did you mean adamw\? .*"),
        ("--out net.bin", r"--out net\.bin: expected a file that ends in .*"),
    ],
)
def test_bad_options(folder, capsys, options, message):
    assert app.main([*TRAIN, "--out", "net.pth", *options.split()]) == 2
    assert re.fullmatch(f"error: {message}\n", capsys.readouterr().err)
    assert files(folder) == []
