"""int8 as a torch.export graph, by torchao's PT2E: for programs that stay with PyTorch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from pruners.deploy.calibration import examples_of
from pruners.deploy.exporting import Inputs, as_inputs, exported, pt2_bytes, with_batch
from pruners.deploy.extra import need, quiet
from pruners.deploy.failures import place_of, reason_of
from pruners.errors import PrunerError


def torch_int8(model: nn.Module, inputs: Inputs, batches: Iterable[Any]) -> bytes:
    """A `.pt2` file with int8 weights and activations, calibrated on real inputs.

    The program that loads it imports `torchao.quantization.pt2e` first, which brings the operators
    that quantize; `torch.compile` with the inductor backend fuses them to integer ones.

    Args:
        model: a float32 network, left as it is.
        inputs: examples of all inputs.
        batches: inputs, or inputs and labels; 32 to 2000 examples.

    Raises:
        PrunerError: torchao is not installed or cannot take the network; too few examples.
    """
    need("quantize", "torchao")
    given = as_inputs(inputs)
    examples = examples_of(batches, len(given))
    program = exported(model, inputs, "quantize")
    try:
        with quiet(), torch.no_grad():
            return pt2_bytes(_quantized(program, given, examples))
    except Exception as error:
        raise PrunerError(
            f"quantize: {place_of(error, model)}: torchao cannot take it ({reason_of(error)}); "
            f"expected a float32 network of convolutions and Linears"
        ) from error


# As modules: functional calls (F.relu) are the same operators.
_SOURCES = {
    "conv1d": nn.Conv1d,
    "conv2d": nn.Conv2d,
    "linear": nn.Linear,
    "relu": nn.ReLU,
    "relu_": nn.ReLU,
    "hardtanh": nn.Hardtanh,
    "hardtanh_": nn.Hardtanh,
    "hardswish": nn.Hardswish,
    "hardswish_": nn.Hardswish,
    "silu": nn.SiLU,
    "silu_": nn.SiLU,
}


def int8_graph(program: ExportedProgram, examples: Iterable[tuple[Any, ...]]) -> GraphModule:
    """The program with int8 weights (a scale a channel) and activations (a scale a tensor).

    Observers are put where 8 bits are to be, the examples show them their ranges, and what they
    saw becomes scales.

    Raises:
        PrunerError: there is no layer that torchao can put into 8 bits.
    """
    from torchao.quantization.pt2e.observer import ObserverBase
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    quantizer = X86InductorQuantizer()
    quantizer.set_global(get_default_x86_inductor_quantization_config())
    graph = program.module()
    _name_sources(graph)
    observed = prepare_pt2e(graph, quantizer)
    if not any(isinstance(m, ObserverBase) for m in observed.modules()):
        raise PrunerError(
            "no layer that torchao puts into 8 bits; expected convolutions or Linears of float32"
        )
    for batch in examples:
        observed(*batch)
    ready: GraphModule = convert_pt2e(observed)
    _drop_unread(ready)
    return ready


def _quantized(
    program: ExportedProgram, inputs: tuple[Any, ...], examples: list[tuple[Any, ...]]
) -> ExportedProgram:
    return torch.export.export(
        int8_graph(program, examples),
        with_batch(inputs, 2),
        dynamic_shapes=tuple(
            {0: torch.export.Dim.DYNAMIC} if isinstance(x, torch.Tensor) and x.ndim else None
            for x in inputs
        ),
    )


def _name_sources(graph: GraphModule) -> None:
    """Say what every operator is, which torchao's quantizer goes by.

    `torch.export` notes that of strict exports only. Without it quantizers find nothing in older
    versions, and no functional call in newer ones.
    """
    for node in graph.graph.nodes:
        name = node.target.__name__.partition(".")[0] if node.op == "call_function" else ""
        if name in _SOURCES and node.meta.get("source_fn_stack") is None:
            node.meta["source_fn_stack"] = [(node.name, _SOURCES[name])]


def _drop_unread(network: GraphModule) -> None:
    """The float weights are still there when int8 ones are read instead."""
    network.graph.eliminate_dead_code()
    read = {node.target for node in network.graph.nodes if node.op == "get_attr"}
    tensors = [*network.named_parameters(), *network.named_buffers()]
    for name in [name for name, _ in tensors if name not in read]:
        path, _, attribute = name.rpartition(".")
        delattr(network.get_submodule(path), attribute)
    network.recompile()
