"""What a network gets right and what it costs, in one way for all who show it."""

from __future__ import annotations

import json
import math
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from models.cifar.resnet import ResNet
from pruners import Evaluation, PrunerError, evaluate, evaluate_all, prune
from pruners.evaluation import accuracy, answers_of, weights_bytes
from pruners.metrics import activation_memory, count_macs, count_parameters, state_dict_bytes
from pruners.store import save_bytes

X = torch.zeros(1, 3, 8, 8)


class Logits(nn.Module):
    """Takes "images" (N, classes, 1, 1) for its logits, and keeps record of how it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[int, bool, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append((len(x), self.training, torch.is_grad_enabled()))
        return x.flatten(1)


class Answering(nn.Module):
    """Answers the same, whatever it is asked."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> Any:
        return self.answer


def labelled(logits: list[list[float]], labels: list[int]) -> TensorDataset:
    images = torch.tensor(logits).reshape(len(labels), -1, 1, 1)
    return TensorDataset(images, torch.tensor(labels, dtype=torch.int64))


@cache
def network() -> nn.Module:
    torch.manual_seed(0)
    return ResNet(20).eval()


@cache
def images() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(
        torch.randn(37, 3, 8, 8, generator=generator),
        torch.randint(10, (37,), generator=generator),
    )


# -- answers ------------------------------------------------------------------------------------

FOUR = labelled(
    [[4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]],
    [0, 1, 2, 3],
)


@pytest.mark.parametrize("batch_size", [1, 3, 256])
def test_accuracies_and_loss_by_hand(batch_size: int) -> None:
    model = Logits().train()
    answers = answers_of(model, FOUR, top_k=2, batch_size=batch_size)
    assert (answers.accuracy, answers.top_k, answers.top_k_accuracy) == (50.0, 2, 75.0)
    total = sum(math.exp(logit) for logit in (1, 2, 3, 4))
    by_hand = -sum(math.log(math.exp(own) / total) for own in (4, 3, 2, 4)) / 4
    assert answers.loss == pytest.approx(by_hand, rel=1e-12)
    assert accuracy(model, FOUR, batch_size=batch_size) == 50.0
    # One pass for all, in eval mode, without gradients; the mode is left as it was.
    assert sum(size for size, *_ in model.calls) == 2 * 4
    assert {call[1:] for call in model.calls} == {(False, False)}
    assert model.training


def test_top_k_is_at_most_the_number_of_outputs() -> None:
    answers = answers_of(Logits(), FOUR, top_k=5)
    assert (answers.top_k, answers.top_k_accuracy) == (4, 100.0)
    assert evaluate(Logits(), FOUR, FOUR[:1][0]).top_k == 4


def test_of_equal_logits_the_first_is_the_larger() -> None:
    level = labelled([[1.0, 1.0, 1.0]] * 3, [0, 1, 2])
    answers = answers_of(Logits(), level, top_k=2)
    assert answers.accuracy == pytest.approx(100 / 3)
    assert answers.top_k_accuracy == pytest.approx(200 / 3)


def test_logits_that_are_not_numbers_are_misses() -> None:
    nan = math.nan
    broken = labelled([[nan, nan], [nan, nan], [nan, 1.0], [1.0, 2.0]], [0, 1, 1, 1])
    answers = answers_of(Logits(), broken, top_k=1)
    assert (answers.accuracy, answers.top_k_accuracy) == (25.0, 25.0)
    assert math.isnan(answers.loss)


def test_answers_are_those_of_torch() -> None:
    model, (x, labels) = network(), images().tensors
    answers = answers_of(model, images(), top_k=3, batch_size=10)
    with torch.no_grad():
        logits = model(x)
    assert answers.accuracy == 100 * (logits.argmax(1) == labels).double().mean().item()
    in_top = (logits.topk(3).indices == labels[:, None]).any(1)
    assert answers.top_k_accuracy == pytest.approx(100 * in_top.double().mean().item())
    assert answers.loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_images_are_given_in_the_type_that_the_network_computes_in(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 10)).to(dtype)
    assert 0 <= accuracy(model, images()) <= 100


def test_labels_of_any_integer_type() -> None:
    x, labels = FOUR.tensors
    assert accuracy(Logits(), TensorDataset(x, labels.to(torch.uint8))) == 50.0


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            [0, 1, 2, 12],
            r"^accuracy: image 3 has label 12, but the network has 4 outputs; expected labels from "
            r"0 to 3; build it with --num-classes 13 or more$",
        ),
        (
            [0, -1, 2, 3],
            r"^accuracy: image 1 has label -1, but the network has 4 outputs; expected labels from "
            r"0 to 3$",
        ),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_labels_without_an_output(labels: list[int], message: str, batch_size: int) -> None:
    wrong = TensorDataset(FOUR.tensors[0], torch.tensor(labels))
    with pytest.raises(PrunerError, match=message):
        answers_of(Logits(), wrong, batch_size=batch_size)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (torch.zeros(4, 10, 2), r"of shape \(4, 10, 2\)"),
        (torch.zeros(4), r"of shape \(4,\)"),
        (torch.zeros(1, 10), r"of shape \(1, 10\)"),
        (torch.zeros(4, 0), r"of shape \(4, 0\)"),
        ({"out": torch.zeros(4, 10)}, "a dict"),
    ],
)
def test_outputs_that_are_no_logits(answer: Any, found: str) -> None:
    message = rf"^accuracy: the network's output for 4 images is {found}; expected logits of shape"
    with pytest.raises(PrunerError, match=message):
        accuracy(Answering(answer), FOUR)


def test_no_image() -> None:
    nothing = TensorDataset(torch.zeros(0, 3, 8, 8), torch.zeros(0, dtype=torch.int64))
    message = r"^accuracy: the dataset is empty; expected at least one image$"
    with pytest.raises(PrunerError, match=message):
        accuracy(network(), nothing)
    with pytest.raises(PrunerError, match=message):
        evaluate(network(), nothing, X)


@pytest.mark.parametrize("option", ["top_k", "batch_size"])
def test_options_below_one(option: str) -> None:
    with pytest.raises(PrunerError, match=rf"^{option} 0: expected 1 or more$"):
        evaluate(network(), images(), X, **{option: 0})


def test_the_mode_is_left_as_it_was_after_an_exception() -> None:
    model = Answering(None).train()
    with pytest.raises(PrunerError):
        accuracy(model, FOUR)
    assert model.training
    assert torch.is_grad_enabled()


# -- all the figures ----------------------------------------------------------------------------


def test_figures_are_those_of_metrics() -> None:
    model = network()
    found = evaluate(model, images(), X, top_k=3)
    answers = answers_of(model, images(), top_k=3)
    assert found == Evaluation(
        accuracy=answers.accuracy,
        top_k=3,
        top_k_accuracy=answers.top_k_accuracy,
        loss=answers.loss,
        parameters=count_parameters(model),
        macs=count_macs(model, X),
        activation_bytes=activation_memory(model, X),
        bytes=len(save_bytes(model.state_dict())),
        latency_ms=None,
    )
    # The same, also of several examples, and of all of them at once.
    assert evaluate(model, images(), (X.repeat(2, 1, 1, 1),), top_k=3) == found
    assert evaluate_all([model, model], images(), X, top_k=3) == [found, found]


def test_without_a_dataset_there_are_no_answers() -> None:
    found = evaluate(network(), None, X)
    assert found.accuracy is found.top_k is found.top_k_accuracy is found.loss is None
    assert list(found.described()) == ["parameters", "macs", "activation_bytes", "bytes"]


def test_figures_of_a_network_and_of_what_is_left_of_it() -> None:
    result = prune(network(), X, 50)
    before, after = evaluate_all([network(), result.model], images(), X)
    assert (before.parameters, after.parameters) == (
        result.report.parameters.before,
        result.report.parameters.after,
    )
    assert (before.macs, after.macs) == (result.report.macs.before, result.report.macs.after)
    assert after.activation_bytes < before.activation_bytes
    assert after.bytes < before.bytes


def test_latency_is_measured_where_it_is_asked_for_and_networks_take_turns() -> None:
    order: list[str] = []
    first, second = nn.Sequential(nn.Flatten()), nn.Sequential(nn.Flatten())
    found = evaluate_all([first, second], None, X)
    assert [evaluation.latency_ms for evaluation in found] == [None, None]
    first.register_forward_hook(lambda *_: order.append("first"))
    second.register_forward_hook(lambda *_: order.append("second"))
    found = evaluate_all([first, second], None, X, latency=True, repeats=4)
    assert all(evaluation.latency_ms > 0 for evaluation in found)
    assert order[: 2 * 7] == ["first", "second"] * 7
    assert evaluate_all([], None, X, latency=True) == []
    with pytest.raises(PrunerError, match=r"^repeats 0: expected 1 or more"):
        evaluate(first, None, X, latency=True, repeats=0)


def test_described_is_plain_and_leaves_latency_out() -> None:
    found = Evaluation(
        accuracy=200 / 3,
        top_k=5,
        top_k_accuracy=100.0,
        loss=0.123456,
        parameters=10,
        macs=20,
        activation_bytes=30,
        bytes=40,
        latency_ms=1.23456,
    )
    described = {
        "accuracy": 66.67,
        "top_k": 5,
        "top_k_accuracy": 100.0,
        "loss": 0.1235,
        "parameters": 10,
        "macs": 20,
        "activation_bytes": 30,
        "bytes": 40,
    }
    assert found.described() == described
    assert found.described(latency=True) == {**described, "latency_ms": 1.235}


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_can_be_written(loss: float) -> None:
    found = Evaluation(loss=loss, parameters=1, macs=1, activation_bytes=1, bytes=1).described()
    assert json.loads(json.dumps(found, allow_nan=False))["loss"] is None


def test_bytes_are_those_of_the_file_that_is_written() -> None:
    state = network().state_dict()
    assert weights_bytes(network()) == len(save_bytes(state)) == state_dict_bytes(state)
    # A slice of a larger tensor is written without the rest of it.
    sliced = nn.Linear(4, 2)
    sliced.weight = nn.Parameter(torch.zeros(1000, 4)[:2])
    assert weights_bytes(sliced) == weights_bytes(nn.Linear(4, 2))


def test_bytes_of_what_the_store_does_not_write() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("packed", torch.zeros(1000).to_sparse())

    assert weights_bytes(Packed()) == state_dict_bytes(Packed().state_dict())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    model = ResNet(20)
    model.load_state_dict(network().state_dict())
    here = evaluate(network(), images(), X)
    there = evaluate(model, images(), X, device="cuda", latency=True)
    assert next(model.parameters()).is_cuda
    assert there.latency_ms is not None
    assert there.loss == pytest.approx(here.loss, rel=1e-2)
    for name in ("parameters", "macs", "activation_bytes", "bytes"):
        assert getattr(there, name) == getattr(here, name)
