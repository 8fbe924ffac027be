"""The network as an ONNX file: exported, made repeatable, checked, and compared with torch.

The exporter computes batch norms into the convolutions before them. What it notes down of where
the network was traced (paths, lines of source) is taken out; every operator is called after the
layer that it belongs to instead (`layer1.0.conv1/Conv`).
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pruners.deploy.exporting import Inputs, as_inputs, exported, on_cpu, with_batch
from pruners.deploy.extra import need, quiet
from pruners.deploy.failures import operator_of, place_of, reason_of
from pruners.deploy.runtime import OnnxNetwork
from pruners.errors import PrunerError, VerificationError
from pruners.verify_child import MismatchError, compare

TOLERANCE = 1e-4
"""How far onnxruntime's output may be from torch's, relative to the largest value."""

_LARGEST = 2**31
"""Bytes of a protocol buffer; larger networks need files beside them."""


def onnx_of(model: nn.Module, inputs: Inputs, metadata: Mapping[str, str] | None = None) -> bytes:
    """An ONNX file in one piece, for any number of examples; the same bytes for the same network.

    Args:
        model: on any device, left as it is; it is exported in eval mode.
        inputs: examples of all inputs; the first dimension of every tensor is the batch.
        metadata: what the file is to say of itself, under `metadata_props`.

    Raises:
        PrunerError: onnx is not installed; torch.export cannot follow the network, or an operator
            has no ONNX form (the message names it, and the layer); the file would be too large.
    """
    need("export --onnx", "onnx", "onnxscript")
    program = exported(model, inputs, "export --onnx")
    try:
        with quiet():
            made = torch.onnx.export(program, dynamo=True, verbose=False)
    except Exception as error:
        operator = operator_of(error)
        if operator is None:
            why = f"cannot be written as ONNX ({reason_of(error)})"
        else:
            why = f"the operator {operator} has no ONNX form"
        raise PrunerError(
            f"export --onnx: {place_of(error, model)}: {why}; expected operators that ONNX has: "
            f"write the layer with others, or use --pt2"
        ) from error
    assert made is not None
    return _bytes(_tidy(made.model_proto, metadata or {}))


def _bytes(proto: Any) -> bytes:
    size = proto.ByteSize()
    if size >= _LARGEST:
        raise PrunerError(
            f"export --onnx: the file would have {size:,} bytes; expected less than "
            f"{_LARGEST:,}, what one ONNX file holds: use --pt2"
        )
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def check_onnx(content: bytes, model: nn.Module, inputs: Inputs) -> float:
    """onnx.checker's verdict, and onnxruntime's output beside torch's for one example and three.

    Args:
        model: what the file was made of.

    Returns:
        The largest difference, relative to the largest value of the output.

    Raises:
        VerificationError: the file is not valid, or the difference is larger than `TOLERANCE`.
        PrunerError: onnxruntime is not installed.
    """
    need("export --onnx", "onnx", "onnxruntime")
    import onnx

    try:
        with quiet():
            onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
            network = OnnxNetwork(content)
    except Exception as error:
        raise VerificationError(
            f"export --onnx: {type(model).__name__}: the file is not valid ({reason_of(error)})"
        ) from error
    own, errors = on_cpu(model), []
    for size in (1, 3):
        examples = with_batch(as_inputs(inputs), size)
        try:
            errors.append(difference(network, own, examples))
        except MismatchError as error:
            raise VerificationError(
                f"export --onnx: {type(model).__name__}, batch {size}: {error}"
            ) from error
    if not max(errors) <= TOLERANCE:
        raise VerificationError(
            f"export --onnx: {type(model).__name__}: onnxruntime's output differs from torch's by "
            f"{max(errors):.1e}, relative; expected at most {TOLERANCE:.0e}"
        )
    return max(errors)


def difference(one: nn.Module, other: nn.Module, inputs: tuple[Any, ...]) -> float:
    """How far the output of one is from the other's, relative to the largest value.

    Raises:
        MismatchError: number, shapes or dtypes of their outputs differ, or there is NaN.
    """
    with torch.no_grad():
        both = [
            [
                (f"output {i}", "tensor", x.cpu())
                for i, x in enumerate(tree_leaves(network(*inputs)))
                if isinstance(x, Tensor)
            ]
            for network in (one, other)
        ]
    return compare(*both)


def _tidy(proto: Any, metadata: Mapping[str, str]) -> Any:
    """Take out where and when it was made; name operators after layers, the batch dimension so."""
    names: Counter[str] = Counter()
    for graph in _graphs(proto.graph):
        for node in graph.node:
            name = f"{_layer(node)}/{node.op_type}".removeprefix("/")
            names[name] += 1
            node.name = name if names[name] == 1 else f"{name}_{names[name]}"
        _scrub(graph)
    for function in proto.functions:
        del function.metadata_props[:]
        function.ClearField("doc_string")
        for node in function.node:
            del node.metadata_props[:]
            node.ClearField("doc_string")
    _name_batch(proto.graph)
    used = {node.domain for graph in _graphs(proto.graph) for node in graph.node}
    used |= {function.domain for function in proto.functions}
    kept = [opset for opset in proto.opset_import if opset.domain in used | {""}]
    del proto.opset_import[:]
    proto.opset_import.extend(kept)
    proto.ClearField("doc_string")
    del proto.metadata_props[:]
    for key, text in metadata.items():
        proto.metadata_props.add(key=key, value=text)
    return proto


def _graphs(graph: Any) -> Iterator[Any]:
    """The graph, and those of its branches and loops."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graphs(inner)


def _layer(node: Any) -> str:
    """The path of the layer that the exporter says it comes from; of a weight it reads, rather."""
    for name in node.input[1:2]:
        if name.endswith((".weight", ".bias")):
            return str(name).rpartition(".")[0]
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            scopes = ast.literal_eval(entry.value)
            return str(scopes[-2]) if len(scopes) > 1 else ""
    return ""


def _scrub(graph: Any) -> None:
    """Notes, lines of source, and shapes that follow from the rest."""
    graph.ClearField("doc_string")
    del graph.metadata_props[:]
    del graph.value_info[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.ClearField("doc_string")


def _name_batch(graph: Any) -> None:
    """Sizes that are free are called s77 and the like: `batch`."""
    known: dict[str, str] = {}

    def named(found: re.Match[str]) -> str:
        return known.setdefault(found[0], f"batch_{len(known) + 1}" if known else "batch")

    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"\bs\d+\b", named, dim.dim_param)
