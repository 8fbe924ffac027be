"""int8 as ONNX: static, calibrated on real inputs, a scale for every output channel of a weight.

The file keeps float operators between QuantizeLinear and DequantizeLinear (QDQ), which runtimes
fuse to integer ones where they have them. Activations are int8 with a zero point, as onnxruntime
advises for QDQ; their ranges are the smallest and largest values of the calibration. Weights
use 7 of the 8 bits, so that processors whose int8 products saturate compute what others do.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pruners.deploy.calibration import examples_of
from pruners.deploy.extra import need, quiet
from pruners.deploy.failures import reason_of
from pruners.errors import PrunerError

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "Einsum"})
"""Operators that read weights, and so decide how much smaller int8 makes a file."""


@dataclass(frozen=True, slots=True)
class OnnxInt8:
    """A quantized ONNX file."""

    content: bytes
    left_in_float: tuple[str, ...]
    """`layer (operator)` of what has weights and stays in float, as int8 has no form for it."""
    samples: int
    """How many examples it was calibrated with."""


def onnx_int8(content: bytes, batches: Iterable[Any]) -> OnnxInt8:
    """The int8 form of an ONNX file.

    Args:
        content: as `onnx_of` makes it, of a float32 network.
        batches: inputs, or inputs and labels, that are like those to come; 32 to 2000 examples.

    Raises:
        PrunerError: onnxruntime is not installed; too few examples; the network is not float32, or
            none of its operators has an int8 form.
    """
    need("quantize", "onnx", "onnxruntime")
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    float_file = onnx.load_from_string(content)
    _check_float32(float_file.graph)
    examples = examples_of(batches, len(float_file.graph.input))
    names = [given.name for given in float_file.graph.input]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest = _feeds(names, examples)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.rest, None)

    with tempfile.TemporaryDirectory() as folder, quiet():
        prepared, made = Path(folder, "prepared.onnx"), Path(folder, "int8.onnx")
        try:
            _prepare(float_file, prepared)
            quantize_static(
                str(prepared),
                str(made),
                Reader(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                # Weights of 7 bits: x86 without VNNI adds pairs of products in 16, and saturates.
                reduce_range=True,
            )
        except Exception as error:
            raise PrunerError(
                f"quantize: onnxruntime cannot take the network ({reason_of(error)}); expected a "
                f"float32 network of convolutions and Linears"
            ) from error
        proto = onnx.load(str(made))
    quantized, left = _weighted(proto.graph)
    if not quantized:
        raise PrunerError(
            f"quantize: {', '.join(left[:3]) or 'the network'}: nothing of it has an int8 form; "
            f"expected convolutions or Linears"
        )
    _compact(proto, float_file.metadata_props)
    compact: bytes = proto.SerializeToString(deterministic=True)
    return OnnxInt8(compact, tuple(left), sum(len(batch[0]) for batch in examples))


def _prepare(proto: Any, path: Path) -> None:
    """What onnxruntime advises before it quantizes: shapes, and operators fused."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    try:
        quant_pre_process(proto, str(path))
    except Exception:
        # Symbolic shapes are for transformers; a network may be beyond them.
        quant_pre_process(proto, str(path), skip_symbolic_shape=True)


def _feeds(names: list[str], examples: list[tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    for batch in examples:
        tensors = [x for x in batch if isinstance(x, Tensor)]
        yield {name: x.numpy() for name, x in zip(names, tensors, strict=True)}


def _check_float32(graph: Any) -> None:
    from onnx import TensorProto

    for tensor in graph.initializer:
        if tensor.data_type in (TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16):
            kind = TensorProto.DataType.Name(tensor.data_type).lower()
            raise PrunerError(
                f"quantize: {tensor.name} is {kind}; int8 is made of float32 networks only: "
                f"convert it with model.float()"
            )


def _weighted(graph: Any) -> tuple[list[str], list[str]]:
    """The operators with weights that became int8, and those that did not."""
    from onnx import TensorProto

    floats = {t.name for t in graph.initializer if t.data_type == TensorProto.FLOAT}
    made_int8 = {
        node.output[0]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] not in floats
    }
    quantized, left = [], []
    for node in graph.node:
        if node.op_type not in WEIGHTED:
            continue
        name = f"{node.name.rpartition('/')[0] or node.name} ({node.op_type})"
        if any(x in floats for x in node.input[:2]):
            left.append(name)
        elif set(node.input[:2]) <= made_int8:
            quantized.append(name)
        elif node.op_type not in ("MatMul", "Einsum"):  # of two activations: no weights
            left.append(name)
    return quantized, left


def _compact(proto: Any, metadata: Any) -> None:
    """Leave out what follows from the rest, keep equal constants once, shorten names.

    In a small network that is a quarter of the file. What the float file said of itself stays.
    """
    graph = proto.graph
    del graph.value_info[:]
    graph.ClearField("doc_string")
    shown = {value.name for value in (*graph.input, *graph.output)}
    short: dict[str, str] = {}
    first: dict[bytes, str] = {}
    kept = []
    for tensor in graph.initializer:
        name, tensor.name = tensor.name, ""
        identity = tensor.SerializeToString(deterministic=True)
        if identity not in first:
            first[identity] = name if name.endswith("_quantized") else f"c{len(first)}"
            tensor.name = first[identity]
            kept.append(tensor)
        short[name] = first[identity]
    rest = [kept_tensor.SerializeToString() for kept_tensor in kept]
    del graph.initializer[:]
    for data in rest:
        graph.initializer.add().ParseFromString(data)
    for number, node in enumerate(graph.node):
        node.ClearField("doc_string")
        del node.metadata_props[:]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.ClearField("name")
        for i, name in enumerate(node.output):
            if name and name not in shown:
                short[name] = f"v{number}" + (f"_{i}" if i else "")
    for node in graph.node:
        node.input[:] = [short.get(name, name) for name in node.input]
        node.output[:] = [short.get(name, name) for name in node.output]
    used = {node.domain for node in graph.node} | {""}
    opsets = [(opset.domain, opset.version) for opset in proto.opset_import if opset.domain in used]
    del proto.opset_import[:]
    for domain, version in opsets:
        proto.opset_import.add(domain=domain, version=version)
    del proto.metadata_props[:]
    for entry in metadata:
        proto.metadata_props.add(key=entry.key, value=entry.value)
