"""Is a removed channel silent?

The masked network, which the slim one has to equal, still has the channels that are gone; what
was made of them is zero there behind a convolution, and 1/2 behind a sigmoid. A sum over channels
has to know: it counts them where they are *loud*.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pruners.calls import Call, words
from pruners.labels import LABELS, Labels
from pruners.notes import Notes

LOUD = "_pruner_loud"
"""The attribute that marks a tensor whose removed channels are other than zero."""

_SILENT = frozenset(
    words(
        "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear"
        " batch_norm layer_norm group_norm embedding"
    )
)

_LOUD = frozenset(
    words(
        "sigmoid hardsigmoid exp exp2 cos cosh softplus log_sigmoid softmax log_softmax"
        " reciprocal rsqrt log log2 logical_not eq ne le ge lt gt clamp clamp_min fill"
        " zeros_like ones_like full_like rand_like randn_like acos erfc sinc logaddexp threshold"
        " log_sigmoid_forward logit acosh i0 special_i0e special_erfcx lgamma digamma heaviside"
        " hypot copysign isfinite isreal isclose isin"
        " ones full new_ones new_full rand randn randint arange linspace"
    )
)

# With a constant, also one that is a number, a channel that was zero is another value.
_CHOOSING = frozenset(words("maximum minimum fmax fmin where masked_fill max min"))
_WITH_NUMBERS = frozenset(words("where masked_fill"))


def loud(call: Call, name: str, labels: Labels) -> bool:
    """Whether channels of the result are other than zero after everything of theirs is zero.

    Silencing a channel (its rows and biases zero) makes it zero behind a convolution or a batch
    norm and keeps it so through a relu, but sigmoid(0) is 1/2. The next convolution does not mind:
    its columns are zero too. A sum over such channels does, so it counts them.
    """
    if not labels or name in _SILENT:
        return False
    inputs = [x for x in call.tensors() if x.dim()]
    if name.rstrip("_") in ("mul", "multiply"):
        return all(is_loud(x) for x in inputs)
    if name.rstrip("_") in ("add", "sub", "rsub"):
        return len(inputs) < 2 or any(is_loud(x) or LABELS not in x.__dict__ for x in inputs)
    if name.rstrip("_") in _CHOOSING and _chooses_a_constant(call, name):
        return True
    if name.rstrip("_") == "pow" and not _is_positive(call.arg(1)):
        return True
    if name in ("pad", "constant_pad_nd") and call.named("value"):
        return True
    if name.rstrip("_") == "hardtanh":
        # Arguments that have their defaults do not arrive.
        low, high = call.named("min_val", -1), call.named("max_val", 1)
        return not low <= 0 <= high or any(is_loud(x) for x in inputs)
    if name.rstrip("_") == "clamp_max" and not _is_positive(call.arg(1)):
        return True
    return name.rstrip("_") in _LOUD or any(is_loud(x) for x in inputs)


def _chooses_a_constant(call: Call, name: str) -> bool:
    """Whether a value that is not the channels' own may take their place; a mask is none."""
    values = [x for x in call.tensors() if x.dtype != torch.bool]
    numbers = (*call.args, *call.kwargs.values()) if name.rstrip("_") in _WITH_NUMBERS else ()
    return any(LABELS not in x.__dict__ for x in values) or any(
        isinstance(x, int | float) and x != 0 for x in numbers
    )


def _is_positive(exponent: object) -> bool:
    return isinstance(exponent, int | float) and exponent > 0


def is_loud(x: Tensor) -> bool:
    return LOUD in x.__dict__


def count_silent_divisors(n: Notes, call: Call, name: str) -> None:
    """A silent channel would be 0/0: the operator is only right on the surviving ones."""
    at = {"div": 1, "divide": 1, "reciprocal": 0, "rsqrt": 0, "log": 0}.get(name.rstrip("_"))
    x = None if at is None else call.arg(at)
    if isinstance(x, Tensor) and not is_loud(x):
        for layer in n.of(x):
            n.count(layer)
