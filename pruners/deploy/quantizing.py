"""All int8 forms of a network, and what each gets right on the same test images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from pruners.datasets import DataSplits
from pruners.deploy.calibration import FEWEST, MOST, examples_of
from pruners.deploy.exporting import on_cpu
from pruners.deploy.onnx_file import check_onnx, onnx_of
from pruners.deploy.onnx_int8 import onnx_int8
from pruners.deploy.runtime import OnnxNetwork, Pt2Network
from pruners.deploy.torch_int8 import torch_int8
from pruners.deploy.weight_int8 import dequantized, int8_weights
from pruners.errors import PrunerError
from pruners.evaluation import Answers, answers_of
from pruners.sampling import BATCH_SIZE, sample
from pruners.store import save_bytes

SAMPLES = 512
"""Training images that int8 is calibrated with, unless the user says otherwise."""


@dataclass(frozen=True, slots=True)
class Quantized:
    """The int8 files of a network, and how they compare with it."""

    contents: Mapping[str, bytes]
    """By suffix: `.onnx` (static, QDQ), `.pth` (weights only), and `.pt2` where torchao takes the
    network."""
    before: Answers
    """Of the float network."""
    answers: Mapping[str, Answers]
    """Of the files, by suffix."""
    samples: int
    """Training images that it was calibrated with."""
    left_in_float: tuple[str, ...]
    """Layers of the `.onnx` file that have no int8 form."""
    warnings: tuple[str, ...]

    def described(self, dataset: str) -> dict[str, Any]:
        """Plain values for the manifest."""
        stages = {"float": self.before, **self.answers}
        return {
            "dataset": dataset,
            "calibration_samples": self.samples,
            "answers": {
                name.removeprefix("."): {k: round(v, 4) for k, v in asdict(answers).items()}
                for name, answers in stages.items()
            },
            "left_in_float": list(self.left_in_float),
            "warnings": list(self.warnings),
        }


def quantize(
    model: nn.Module,
    inputs: Sequence[Tensor],
    splits: DataSplits,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    metadata: Mapping[str, str] | None = None,
) -> Quantized:
    """int8 of a float32 network: static with calibration, and of the weights alone.

    Args:
        model: left as it is.
        inputs: examples of all inputs.
        splits: training images to calibrate with, test images to compare on.
        samples: how many images to calibrate with, 32 to 2000.
        seed: which ones.
        metadata: what the ONNX file is to say of itself.

    Raises:
        PrunerError: a package is missing; too few images; the network is not float32, or an
            operator of it has no ONNX form (named, with the layer).
        VerificationError: its ONNX file computes something else.
    """
    if not FEWEST <= samples <= MOST:
        raise PrunerError(f"--samples {samples}: expected {FEWEST} to {MOST} calibration images")
    batches = sample(splits, math.ceil(samples / BATCH_SIZE), seed)
    examples = examples_of(batches, len(inputs), samples)
    own = on_cpu(model)
    float_file = onnx_of(own, inputs, metadata)
    check_onnx(float_file, own, inputs)
    made = onnx_int8(float_file, examples)
    weights = int8_weights(own)
    contents = {".onnx": made.content, ".pth": save_bytes(weights)}
    networks: dict[str, nn.Module] = {".onnx": OnnxNetwork(made.content)}
    networks[".pth"] = on_cpu(own)
    networks[".pth"].load_state_dict(dequantized(weights))
    warnings = [
        f"{layer} stays in float, as onnxruntime has no int8 form of it"
        for layer in made.left_in_float
    ]
    try:
        contents[".pt2"] = torch_int8(own, inputs, examples)
        networks[".pt2"] = Pt2Network(contents[".pt2"])
    except PrunerError as error:
        warnings.append(f"no .pt2 file: {error}")
    return Quantized(
        contents,
        answers_of(own, splits.test),
        {suffix: answers_of(network, splits.test) for suffix, network in networks.items()},
        made.samples,
        made.left_in_float,
        tuple(warnings),
    )
