"""What cannot be pruned, and one clear line that says why."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import image, scripted
from torch import Tensor, nn

from pruners import PrunerError, UnsupportedNetworkError, prune
from pruners.analysis import analyse
from pruners.measures import ChannelNorm

X = image(2, 3, 8, 8)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] == 7:
            raise ValueError("odd images\nare not for us")
        return self.conv2(self.bn(self.conv1(x)).relu())


def refused(model: nn.Module, inputs: object, message: str, pct: float = 50) -> None:
    with pytest.raises(PrunerError, match=message) as info:
        prune(model, inputs, pct)
    assert "\n" not in str(info.value)


def test_a_forward_that_raises_tells_its_own_error_and_the_example() -> None:
    refused(
        Net(),
        [X, image(1, 3, 7, 7)],
        r"^Net: its forward raised on example input 1 of shape \(1, 3, 7, 7\): ValueError: "
        r"odd images are not for us$",
    )


def test_no_example_at_all() -> None:
    refused(Net(), [], r"^example_inputs: an empty list; expected at least one example input$")


def test_example_inputs_on_another_device() -> None:
    refused(
        Net(),
        [X, X.to("meta")],
        r"^example input 1 of shape \(2, 3, 8, 8\) is on meta, Net is on cpu; expected both on one "
        r"device: move the input with \.to\('cpu'\)$",
    )
    refused(Net().to("meta"), X, r"^example input 0 .* is on cpu, Net is on meta; expected")


@pytest.mark.parametrize("shape", [(3, 8, 8), (8, 8), (2, 3, 8, 8, 1), (2, 4, 8, 8), (8,)])
def test_example_inputs_of_another_rank_or_width(shape: tuple[int, ...]) -> None:
    refused(Net(), image(*shape), r"^Net: its forward raised(?s:.)* on example input 0 of shape ")


class Single(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Weightless(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.relu()


def test_no_channel_that_could_be_removed() -> None:
    refused(
        Single(),
        X,
        r"^Single: has no channel that could be removed; all 7 stay: reaches an output of the "
        r"network; reads an input of the network or a constant \(conv: conv2d\)$",
    )
    for pct in (0, 50):
        refused(
            Weightless(),
            X,
            r"^Weightless: has no parameters, so there is nothing to prune; expected a network "
            r"with convolutions or linear layers$",
            pct,
        )
    assert prune(Single(), X, 0).report.parameters.removed_pct == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": "conv1=0.5"}, r"^ratio 'conv1=0\.5': expected a dict, such as \{\"layer3\.\*\""),
        ({"ratio": {"conv1": "0.5"}}, r"^--ratio conv1='0\.5': expected a share of at least 0 and"),
        ({"measure_args": "p=2"}, r"^measure_args 'p=2': expected a dict, such as \{\"p\": 2\}$"),
        ({"min_filters": 2.5}, r"^--min-filters 2\.5: expected a whole number of at least 1$"),
        ({"measure": ChannelNorm(p=2)}, r"^measure ChannelNorm: is no name; expected one of Chann"),
        ({"method": None}, r"^method NoneType: is no name; expected one of Global, Local, Isomorp"),
        ({"normalizer": 3}, r"^--normalizer 3: unknown; expected one of mean, sum, max, standard"),
    ],
)
def test_arguments_of_another_type(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PrunerError, match=message):
        prune(Net(), X, 50, **options)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers_are_not_sorted(value: float) -> None:
    model = Net()
    with torch.no_grad():
        model.conv1.weight[3, 1, 1, 1] = value
    refused(
        model,
        X,
        r"^conv1\.weight: 1 of 8 filters have a score that is not a finite number; expected finite "
        r"weights",
    )


class DistributedDataParallel(nn.parallel.DistributedDataParallel):
    """As the real one holds its network, without the processes."""

    def __init__(self, module: nn.Module) -> None:
        nn.Module.__init__(self)
        self.module = module


def test_wrappers_are_taken_off_one_after_the_other() -> None:
    model = Net()
    plain = prune(model, X, 50)
    for wrapped in (
        DistributedDataParallel(model),
        nn.DataParallel(DistributedDataParallel(model)),
        torch.compile(nn.DataParallel(model)),
        torch.compile(model),
    ):
        result = prune(wrapped, X, 50)  # type: ignore[arg-type]
        assert result.pruning.model is model
        assert result.source == plain.source
        assert list(result.state_dict) == list(plain.state_dict)


@pytest.mark.filterwarnings("ignore")
def test_scripted_and_quantized_modules_are_refused() -> None:
    for module in (scripted(Single()), torch.jit.trace(Single(), X)):
        refused(module, X, r"ScriptModule.* has no Python source; give the module that it was")
    quantized = nn.Sequential(
        nn.Flatten(),
        nn.Linear(192, 8),
        torch.ao.nn.quantized.dynamic.Linear(8, 4),
    )
    refused(quantized, X, r"^2: Linear is quantized; prune first, then quantize$")
    with pytest.raises(UnsupportedNetworkError, match=r"^2: Linear is quantized"):
        analyse(quantized, X)
