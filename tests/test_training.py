import dataclasses
import math
from functools import cache

import pytest
import torch
from torch import nn
from torch.utils.data import Subset, TensorDataset

from pruners import training
from pruners.batches import augment
from pruners.datasets import Augmentation, DataSplits, load_dataset
from pruners.errors import PrunerError
from pruners.recipe import schedule
from pruners.training import accuracy, train


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

    def recorded(model, *_):
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
        PrunerError, match=r"^Digits: 10 classes, but .*\(64, 7\).*--num-classes 10"
    ):
        train(network(outputs=7), digits(), 1)


def test_nothing_to_train():
    with pytest.raises(PrunerError, match=r"^Flatten: nothing to train; expected a parameter"):
        train(nn.Flatten(), digits(), 1)


def test_negative_epochs():
    with pytest.raises(PrunerError, match=r"^epochs -1: expected 0 or more"):
        train(network(), digits(), -1)


def test_accuracy_is_in_percent():
    class FirstPixel(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.one_hot(x[:, 0, 0, 0].long(), 4).float()

    images = torch.tensor([0.0, 1.0, 2.0, 3.0]).view(4, 1, 1, 1)
    right_but_one = TensorDataset(images, torch.tensor([0, 1, 2, 0]))
    assert accuracy(FirstPixel(), right_but_one, batch_size=3) == 75.0


def test_accuracy_of_nothing():
    nothing = TensorDataset(torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(PrunerError, match=r"^accuracy: the dataset is empty"):
        accuracy(network(), nothing)


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
