"""UnitMem: the formula by hand, the pass against a plain one layer by layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import image, with_telling_state
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from pruners import PrunerError
from pruners.unitmem import (
    choose_images,
    get_neurons_to_prune,
    get_unitmem,
    harder,
    prune_by_unitmem,
    prune_random_neurons,
    unitmem_of,
)


class Net(nn.Module):
    """Functional and in-place activations, a residual addition, one layer without any."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.linear_bottleneck = nn.Conv2d(6, 5, 1)
        self.conv3 = nn.Conv2d(5, 7, 1)
        self.hidden = nn.Linear(7, 9)
        self.fc = nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu_(x + self.conv2(x))
        x = F.hardtanh(self.conv3(self.linear_bottleneck(x)), 0, 6)
        return self.fc(F.silu(self.hidden(x.mean((2, 3)))))


def network() -> Any:
    torch.manual_seed(0)
    return with_telling_state(Net())


def images(count: int = 10) -> TensorDataset:
    return TensorDataset(image(count, 3, 8, 8), torch.zeros(count, dtype=torch.int64))


def test_the_formula_by_hand() -> None:
    """(max - mean of the others) / (max + mean of the others), and the image of the maximum."""
    activations = np.array(
        [
            [4.0, 1.0, 0.0, 2.0],
            [1.0, 1.0, 0.0, 0.0],
            [0.0, 1.0, 0.0, 0.0],
        ]
    )
    found = unitmem_of(activations, [10, 20, 30])
    # (4 - 0.5) / (4 + 0.5); the same for all; never fires; for one image only.
    assert found.values == pytest.approx([3.5 / 4.5, 0, 0, 1])
    assert found.images.tolist() == [10, 10, 10, 10]
    assert unitmem_of(activations[::-1]).images.tolist() == [2, 0, 0, 2]
    # Where a function is negative, a unit does not fire.
    assert unitmem_of(np.array([[-1.0, 2.0], [-2.0, -1.0]])).values.tolist() == [0, 1]


def test_one_pass_is_what_a_pass_a_layer_would_be() -> None:
    model, data = network(), images()

    def shift(x: Tensor, generator: torch.Generator) -> Tensor:
        return x + torch.rand(len(x), 1, 1, 1, generator=generator)

    memory = get_unitmem(model, data, augmentations=3, UM_batch=4, augment=shift, seed=5)
    generator = torch.Generator().manual_seed(5)
    totals: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        for start in range(0, 10, 4):
            x = data.tensors[0][start : start + 4]
            sums: dict[str, Tensor] = {}
            for _ in range(3):
                y = shift(x, generator)
                first = F.relu(model.bn1(model.conv1(y)))
                second = F.relu(first + model.conv2(first))
                third = F.hardtanh(model.conv3(model.linear_bottleneck(second)), 0, 6)
                fourth = F.silu(model.hidden(third.mean((2, 3))))
                made = {"conv1": first, "conv2": second, "conv3": third}
                means = {name: value.mean((2, 3)) for name, value in made.items()}
                for name, value in {**means, "hidden": fourth}.items():
                    sums[name] = sums.get(name, torch.zeros(())) + value / 3
            for name, value in sums.items():
                totals.setdefault(name, []).append(value)
    assert set(memory) == {"conv1", "conv2", "conv3", "hidden"}
    for name, parts in totals.items():
        expected = torch.cat(parts).double().numpy()
        np.testing.assert_allclose(memory[name].activations, expected, rtol=1e-5, atol=1e-6)
        by_hand = unitmem_of(memory[name].activations)
        assert memory[name].values == pytest.approx(by_hand.values)
        assert memory[name].images.tolist() == expected.argmax(0).tolist()


def test_the_model_and_random_numbers_stay_as_they_were() -> None:
    model = network().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    first = get_unitmem(model, images(), augmentations=2)
    second = get_unitmem(model, images(), augmentations=2)
    assert all(np.array_equal(first[n].values, second[n].values) for n in first)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_the_images_are_fixed_by_the_seed() -> None:
    assert choose_images(50, 10, 0) == choose_images(50, 10, 0)
    assert choose_images(50, 10, 0) != choose_images(50, 10, 1)
    assert choose_images(5, 1000, 0) == [0, 1, 2, 3, 4]
    memory = get_unitmem(network(), images(), indices=[7, 2, 5], augmentations=2)
    assert all(set(found.images) <= {7, 2, 5} for found in memory.values())
    assert memory["conv1"].activations.shape == (3, 6)


def test_harder_images_are_images() -> None:
    x = image(6, 3, 16, 16)
    generator = torch.Generator().manual_seed(0)
    changed = harder(x, generator)
    assert changed.shape == x.shape
    assert bool(torch.isfinite(changed).all())
    assert not torch.equal(changed, harder(x, generator))
    again = harder(x, torch.Generator().manual_seed(0))
    assert torch.equal(changed, again)


# --- what goes -----------------------------------------------------------------------------------


def test_the_methods_take_the_low_the_high_and_both_ends() -> None:
    memory = {"conv1": unitmem_of(np.array([[4.0, 1.0, 1.0, 9.0], [1.0, 1.0, 0.0, 1.0]]))}
    assert memory["conv1"].values == pytest.approx([0.6, 0.0, 1.0, 0.8])
    assert get_neurons_to_prune(memory, 50, "low_unitmem") == {"conv1": [0, 1]}
    assert get_neurons_to_prune(memory, 50, "high_unitmem") == {"conv1": [2, 3]}
    assert get_neurons_to_prune(memory, 50, "hybrid_unitmem") == {"conv1": [1, 2]}
    assert get_neurons_to_prune(memory, 0) == {"conv1": []}


def test_neurons_are_chosen_over_all_layers() -> None:
    memory = {
        "a": unitmem_of(np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])),
        "b": unitmem_of(np.array([[2.0, 3.0, 1.0], [1.0, 1.0, 0.0]])),
    }
    # 0, 0, 1 and 1/3, 1/2, 1.
    assert get_neurons_to_prune(memory, 50) == {"a": [0, 1], "b": [0]}


@pytest.mark.parametrize("method", ["low_unitmem", "high_unitmem", "hybrid_unitmem"])
def test_a_network_is_pruned_by_unitmem(method: str) -> None:
    model, data = network(), images()
    memory = get_unitmem(model, data, augmentations=2)
    result = prune_by_unitmem(model, data.tensors[0][:2], memory, 30, method)
    gone = 1 - sum(t.numel() for t in result.state_dict.values()) / sum(
        t.numel() for t in model.state_dict().values()
    )
    assert gone >= 0.29
    # The bottleneck has no activation of its own, and no UnitMem: it stays.
    assert len(result.kept["linear_bottleneck.weight"][0]) == 5
    assert result.verified().error < 1e-5


def test_random_neurons_are_the_seeds() -> None:
    model = network()
    x = image(2, 3, 8, 8)
    one, two, three = (prune_random_neurons(model, x, 30, seed=seed) for seed in (0, 0, 1))
    assert one.source == two.source
    kept = [{k: [d.tolist() for d in v] for k, v in r.kept.items()} for r in (one, two, three)]
    assert kept[0] == kept[1] != kept[2]


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"indices": [3, 10]}, r"^image index 10: expected 0 to 9$"),
        ({"indices": [3]}, r"^UnitMem: 1 images; expected two or more, as one is held against th"),
        ({"augmentations": 0}, r"^UnitMem: augmentations=0, UM_batch=64; expected 1 or more$"),
        ({"UM_batch": 0}, r"UM_batch=0; expected 1 or more$"),
    ],
)
def test_no_images(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PrunerError, match=message):
        get_unitmem(network(), images(), **options)


def test_no_activation_function() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(256, 2))
    with pytest.raises(
        PrunerError,
        match=r"^Sequential: no layer's channels reach a ReLU-like function, which UnitMem measur",
    ):
        get_unitmem(model, images())


def test_unknown_method() -> None:
    memory = {"conv1": unitmem_of(np.eye(3))}
    with pytest.raises(
        PrunerError, match=r"^method low_unitmen: unknown; did you mean low_unitmem\?; expected one"
    ):
        get_neurons_to_prune(memory, 10, "low_unitmen")
    with pytest.raises(PrunerError, match=r"^percent 101: expected 0 to 100$"):
        get_neurons_to_prune(memory, 101)
