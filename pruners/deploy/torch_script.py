"""The network as TorchScript, for programs that still load that; PyTorch itself advises `.pt2`."""

from __future__ import annotations

import io
import re
import zipfile

import torch
from torch import nn

from pruners.deploy.exporting import Inputs, as_inputs, on_cpu, with_batch
from pruners.deploy.extra import quiet
from pruners.deploy.failures import place_of, reason_of
from pruners.errors import PrunerError

_MANGLED = re.compile(rb"[./]___torch_mangle_\d+")
"""What TorchScript puts into a class's name at the second time that a process makes it."""


def torchscript_of(model: nn.Module, inputs: Inputs) -> bytes:
    """A traced and frozen TorchScript file, batch norms fused; the same bytes for the same network.

    `torch.jit.load(file)` is the network. A trace takes the branches that these inputs take.

    Raises:
        PrunerError: torch.jit.trace cannot follow the network, or what it returns.
    """
    own, buffer = on_cpu(model), io.BytesIO()
    try:
        with quiet(), torch.no_grad():
            traced = torch.jit.trace(own, with_batch(as_inputs(inputs), 2), check_trace=False)  # type: ignore[no-untyped-call]
            torch.jit.save(torch.jit.freeze(traced), buffer)
    except Exception as error:
        raise PrunerError(
            f"export --torchscript: {place_of(error, own)}: torch.jit.trace cannot follow it "
            f"({reason_of(error)}); expected tensors in and tensors out: use --pt2"
        ) from error
    return _repeatable(buffer.getvalue())


def _repeatable(content: bytes) -> bytes:
    """Without the paths and lines of source, and with the names of a fresh process."""
    repeatable = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(repeatable, "w", zipfile.ZIP_STORED) as new,
    ):
        for name in old.namelist():
            if name.endswith((".debug_pkl", "/serialization_id")):
                continue
            data = old.read(name)
            if name.endswith((".py", "/data.pkl")):
                data = _MANGLED.sub(b"", data)
            new.writestr(zipfile.ZipInfo(_MANGLED.sub(b"", name.encode()).decode()), data)
    return repeatable.getvalue()
