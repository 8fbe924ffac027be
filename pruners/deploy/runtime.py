"""Files that are called as networks are, so that all figures are measured in one way."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pruners.deploy.extra import quiet


class OnnxNetwork(nn.Module):
    """Tensors in, tensors out, computed by onnxruntime on the CPU.

    Args:
        content: of the `.onnx` file.
        threads: that one operator may use.

    Raises:
        onnxruntime's own errors where it cannot run the file.
    """

    def __init__(self, content: bytes, threads: int = 1) -> None:
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.session: Any = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )
        self.names = tuple(given.name for given in self.session.get_inputs())

    def forward(self, *inputs: Any) -> Any:
        """The output, or the tuple of them where there are several."""
        tensors = (x for x in inputs if isinstance(x, Tensor))
        feeds = {
            name: x.detach().cpu().numpy() for name, x in zip(self.names, tensors, strict=True)
        }
        outputs = tuple(torch.from_numpy(y) for y in self.session.run(None, feeds))
        return outputs[0] if len(outputs) == 1 else outputs


def side_by_side_ms(
    networks: Sequence[nn.Module], inputs: Sequence[Any], repeats: int = 50
) -> list[float]:
    """Milliseconds that one call takes, for each of the networks, which have one thread each.

    The networks take turns; medians of `repeats` rounds after three that warm up. It is the
    thread's processor time: the same as the clock's on an idle machine, and hardly more on a busy
    one, where the clock tells how long others were served.
    """
    times: list[list[float]] = [[] for _ in networks]
    for turn in range(-3, repeats):
        for network, measured in zip(networks, times, strict=True):
            start = time.thread_time()
            network(*inputs)
            if turn >= 0:
                measured.append((time.thread_time() - start) * 1e3)
    return [statistics.median(measured) for measured in times]


class Pt2Network(nn.Module):
    """A `.pt2` file; the operators that it is made of must be known (torchao's, for int8)."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        with quiet():
            program = torch.export.load(io.BytesIO(content))
        # In a tuple, or it would be a child: an exported module refuses eval().
        self.program = (program.module(),)

    def forward(self, *inputs: Any) -> Any:
        return self.program[0](*inputs)
