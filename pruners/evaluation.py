"""What a network gets right and what it costs, measured in one way wherever it is shown.

before, after = evaluate_all([model, result.model], splits.test, example_inputs)
after.accuracy, after.loss, after.macs, after.activation_bytes
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pruners.datasets import Labelled
from pruners.errors import PrunerError
from pruners.metrics import (
    activation_memory,
    compare_latency,
    count_macs,
    count_parameters,
    modes_restored,
    state_dict_bytes,
)
from pruners.store import save_bytes


@dataclass(frozen=True, slots=True)
class Answers:
    """What a network says to the images of a dataset."""

    accuracy: float
    """Percent of the images whose label has the largest logit."""
    top_k: int
    top_k_accuracy: float
    """Percent of the images whose label is among the `top_k` largest logits."""
    loss: float
    """Mean cross-entropy, in nats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The figures of one network; those of its answers are None where there is no dataset."""

    accuracy: float | None = None
    """Percent of the images whose label has the largest logit."""
    top_k: int | None = None
    top_k_accuracy: float | None = None
    """Percent of the images whose label is among the `top_k` largest logits."""
    loss: float | None = None
    """Mean cross-entropy, in nats."""
    parameters: int
    macs: int
    """Multiply-accumulates of one example (`count_macs`)."""
    activation_bytes: int
    """The most that the activations of one example need at once (`activation_memory`)."""
    bytes: int
    """Of the weights file."""
    latency_ms: float | None = None
    """Of one call with the example inputs (`compare_latency`); None where it was not measured."""

    def described(self, latency: bool = False) -> dict[str, Any]:
        """Plain values for JSON; what was not measured is left out.

        So is the latency unless asked for: files with it would differ from run to run. A loss
        that is not finite, which JSON cannot hold, is None.
        """
        facts: dict[str, Any] = {}
        for name, value in asdict(self).items():
            if value is None or (name == "latency_ms" and not latency):
                continue
            if isinstance(value, float):
                value = round(value, _DIGITS[name]) if math.isfinite(value) else None
            facts[name] = value
        return facts


_DIGITS = {"accuracy": 2, "top_k_accuracy": 2, "loss": 4, "latency_ms": 3}
"""Digits behind the point, as they are described."""


def evaluate(
    model: nn.Module,
    dataset: Labelled | None,
    example_inputs: Tensor | Sequence[Any],
    *,
    top_k: int = 5,
    device: torch.device | str | None = None,
    batch_size: int = 256,
    latency: bool = False,
    repeats: int = 30,
) -> Evaluation:
    """The figures of one network; arguments and errors as those of `evaluate_all`."""
    return evaluate_all(
        [model],
        dataset,
        example_inputs,
        top_k=top_k,
        device=device,
        batch_size=batch_size,
        latency=latency,
        repeats=repeats,
    )[0]


def evaluate_all(
    models: Sequence[nn.Module],
    dataset: Labelled | None,
    example_inputs: Tensor | Sequence[Any],
    *,
    top_k: int = 5,
    device: torch.device | str | None = None,
    batch_size: int = 256,
    latency: bool = False,
    repeats: int = 30,
) -> list[Evaluation]:
    """The figures of each network.

    Networks run in eval mode and without gradients, and every module ends in the mode it had.

    Args:
        models: map images (N, C, H, W) to logits (N, classes), where there is a dataset.
        dataset: images and labels; None leaves accuracies and loss out.
        example_inputs: one input or all of them in order, examples along the first dimension.
            MACs and activations are of one example, the latency is of a call with all.
        top_k: at most the number of logits counts; `Evaluation.top_k` says how many did.
        device: the networks are moved there and stay there; by default they are left where they
            are. Example inputs are taken to where the network is.
        batch_size: images in one call.
        latency: whether to measure it, the networks taking turns; they must be on one device.
        repeats: calls of which the latency is the median.

    Raises:
        PrunerError: the dataset is empty, or a label is out of the range of the logits; the
            output is not (N, classes); no example; an option is below 1.
    """
    for model in models:
        if device is not None:
            model.to(device)
    answers: list[dict[str, Any]] = [
        {} if dataset is None else asdict(answers_of(model, dataset, top_k, batch_size=batch_size))
        for model in models
    ]
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    milliseconds: Sequence[float | None] = [None] * len(models)
    if latency and models:
        milliseconds = compare_latency(models, _beside(models[0], inputs), repeats)
    return [
        Evaluation(
            **answer,
            parameters=count_parameters(model),
            macs=count_macs(model, _beside(model, inputs)),
            activation_bytes=activation_memory(model, _beside(model, inputs)),
            bytes=weights_bytes(model),
            latency_ms=took,
        )
        for model, answer, took in zip(models, answers, milliseconds, strict=True)
    ]


def accuracy(
    model: nn.Module,
    dataset: Labelled,
    device: torch.device | str | None = None,
    batch_size: int = 256,
) -> float:
    """Percent of the images whose largest logit is that of their label; as `answers_of` has it."""
    return answers_of(model, dataset, 1, device, batch_size).accuracy


def answers_of(
    model: nn.Module,
    dataset: Labelled,
    top_k: int = 5,
    device: torch.device | str | None = None,
    batch_size: int = 256,
) -> Answers:
    """Accuracies and loss, in one pass over the dataset.

    Of equal logits the first counts as the larger; a label in the company of a NaN is missed.
    The network runs in eval mode, on `device` if given (it is moved there and stays), and every
    module ends in the mode it had. torch's global random state is left as it was.

    Raises:
        PrunerError: as `evaluate_all`.
    """
    for name, value in (("top_k", top_k), ("batch_size", batch_size)):
        if value < 1:
            raise PrunerError(f"{name} {value}: expected 1 or more")
    if device is not None:
        model.to(device)
    like = _tensor_of(model)
    dtype = like.dtype if like.is_floating_point() else None
    seen, right, within, loss = 0, 0, 0, 0.0
    with modes_restored(model), torch.no_grad():
        model.eval()
        # A loader without a generator of its own draws from the global random state.
        for images, labels in DataLoader(dataset, batch_size, generator=torch.Generator()):
            logits = _checked_logits(model(images.to(like.device, dtype)), len(images))
            labels = labels.cpu().to(torch.int64)
            top_k = min(top_k, logits.shape[1])
            _check_labels(labels, logits.shape[1], seen)
            ranks = _ranks(logits, labels)
            seen += len(labels)
            right += int((ranks < 1).sum())
            within += int((ranks < top_k).sum())
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
    if seen == 0:
        raise PrunerError("accuracy: the dataset is empty; expected at least one image")
    return Answers(100.0 * right / seen, top_k, 100.0 * within / seen, loss / seen)


def _ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """How many logits (N, classes) come before that of the label (N,); what is not known to come
    after it does."""
    own = logits.gather(1, labels[:, None])
    earlier = torch.arange(logits.shape[1]) < labels[:, None]
    return (~(logits <= own) | ((logits == own) & earlier)).sum(dim=1)


def weights_bytes(model: nn.Module) -> int:
    """Size in bytes of the network's weights file, as this project writes it.

    What it does not write (quantized tensors), as `torch.save` does.
    """
    state = model.state_dict()
    try:
        return len(save_bytes(state))
    except PrunerError:
        return state_dict_bytes(state)


def _checked_logits(output: Any, images: int) -> Tensor:
    """Logits (N, classes) on the CPU; in float64, where a sum hardly depends on its order."""
    if not isinstance(output, Tensor):
        found = f"a {type(output).__name__}"
    elif output.ndim != 2 or len(output) != images or output.shape[1] == 0:
        found = f"of shape {tuple(output.shape)}"
    else:
        return output.cpu().to(torch.float64)
    raise PrunerError(
        f"accuracy: the network's output for {images} images is {found}; "
        f"expected logits of shape ({images}, classes)"
    )


def _check_labels(labels: Tensor, outputs: int, seen: int) -> None:
    """PrunerError for labels (N,) without a logit; `seen` images came before them."""
    outside = labels[(labels < 0) | (labels >= outputs)]
    if len(outside):
        label = int(outside.max())
        image = seen + int((labels == label).nonzero()[0])
        build = f"; build it with --num-classes {label + 1} or more" if label >= outputs else ""
        raise PrunerError(
            f"accuracy: image {image} has label {label}, but the network has {outputs} outputs; "
            f"expected labels from 0 to {outputs - 1}{build}"
        )


def _tensor_of(model: nn.Module) -> Tensor:
    """A tensor that lies where the network's do, of the type that it computes in."""
    tensors = [*model.parameters(), *model.buffers()]
    floating = [tensor for tensor in tensors if tensor.is_floating_point()]
    return next(iter([*floating, *tensors]), torch.empty(0))


def _beside(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The inputs, where the network is."""
    device = _tensor_of(model).device
    return tuple(x.to(device) if isinstance(x, Tensor) else x for x in inputs)
