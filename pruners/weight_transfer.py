"""Copies what survives: the slim `state_dict`, and the slim instance that the writer reads.

Every tensor of the slim `state_dict` is the original's, restricted to the indices that stay, in
ascending order.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from pruners.blocks import BLOCK_TYPES, block_spec, register_transfer_func
from pruners.channel_graph import Indices, Kept
from pruners.errors import PrunerError
from pruners.layers import follow_widths


@dataclass(frozen=True, slots=True)
class WeightTransferUnit:
    """One block on its way: its full tensors and the indices that stay, by relative name."""

    path: str
    block: nn.Module
    tensors: Mapping[str, Tensor]
    kept: Mapping[str, tuple[Indices, ...]]

    register_transfer_func = staticmethod(register_transfer_func)

    def surviving(self, name: str) -> Tensor:
        """The part of one tensor that survives, as a tensor of its own."""
        return surviving(self.tensors[name], self.kept[name])


def surviving(tensor: Tensor, kept: tuple[Indices, ...]) -> Tensor:
    """A copy of `tensor[kept[0]][:, kept[1]]...`; shape (len(kept[0]), len(kept[1]), ...)."""
    result = tensor.detach()
    for dim, indices in enumerate(kept):
        if len(indices) != result.shape[dim]:
            result = result.index_select(dim, torch.as_tensor(indices, device=tensor.device))
    if result.untyped_storage()._cdata == tensor.untyped_storage()._cdata:
        return result.clone(memory_format=torch.contiguous_format)
    return result.contiguous()


def transfer(network: nn.Module, kept: Kept) -> dict[str, Tensor]:
    """The slim `state_dict`, with the module versions of the original (`_metadata`).

    Tensors that share memory in the original (tied weights) share it in the result.

    Raises:
        PrunerError: a block's own transfer function returned other tensors than the block has.
    """
    full = network.state_dict(keep_vars=True)
    slim: OrderedDict[str, Tensor] = OrderedDict()
    done: dict[int, Tensor] = {}
    special = _from_blocks(network, full, kept)
    for name, tensor in full.items():
        if name in special:
            slim[name] = special[name]
        elif id(tensor) in done:
            slim[name] = done[id(tensor)]
        else:
            slim[name] = done[id(tensor)] = surviving(tensor, kept[name])
    slim._metadata = copy.deepcopy(full._metadata)  # type: ignore[attr-defined]
    return slim


def _from_blocks(network: nn.Module, full: Mapping[str, Tensor], kept: Kept) -> dict[str, Tensor]:
    """The tensors of blocks whose type has a transfer function of its own."""
    found: dict[str, Tensor] = {}
    for path, module in network.named_modules():
        spec = block_spec(module)
        function = BLOCK_TYPES[spec.lType].transfer if spec else None
        if spec is None or function is None:
            continue
        prefix = f"{path}." if path else ""
        names = [name for name in full if name.startswith(prefix)]
        unit = WeightTransferUnit(
            path,
            module,
            {name.removeprefix(prefix): full[name].detach() for name in names},
            {name.removeprefix(prefix): kept[name] for name in names},
        )
        result = {prefix + name: tensor for name, tensor in function(unit).items()}
        if set(result) != set(names):
            odd = sorted(set(result) ^ set(names))
            raise PrunerError(
                f"block type '{spec.lType}': its transfer function must return every tensor of "
                f"{path} and no other; missing or unknown: {', '.join(odd)}"
            )
        found.update(result)
    return found


def slim_instance(network: nn.Module, kept: Kept) -> nn.Module:
    """The network with tensors of the slim shapes on the meta device; no weight is copied.

    Layers of torch.nn say their new widths (`conv.out_channels`), so that the result describes
    itself. The given network is not changed.
    """
    replacements: dict[int, object] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        shape = tuple(len(indices) for indices in kept[name])
        slim = torch.empty(shape, dtype=tensor.dtype, device="meta")
        if isinstance(tensor, nn.Parameter):
            slim = nn.Parameter(slim, requires_grad=tensor.requires_grad)
        replacements[id(tensor)] = slim
    for name, buffer in _own_buffers(network):
        # Their values may be written, or held against the source.
        rest = surviving(buffer, kept[name]) if name in kept else buffer.detach()
        replacements[id(buffer)] = rest.cpu()
    for module in network.modules():
        # Hooks hold what they like; the copy is read, never run.
        for attribute, value in vars(module).items():
            if attribute.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called")):
                replacements[id(value)] = OrderedDict()
    try:
        result: nn.Module = copy.deepcopy(network, replacements)
    except Exception as error:
        raise PrunerError(
            f"{type(network).__name__}: cannot be copied ({' '.join(str(error).split())[:200]}); "
            f"expected modules whose attributes copy.deepcopy can copy: set those that hold "
            f"activations, locks or files to None before pruning"
        ) from error
    follow_widths(result.modules())
    return result


def _own_buffers(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The buffers that belong to no layer of torch, by name."""
    for path, module in network.named_modules():
        if not type(module).__module__.startswith("torch."):
            for name, buffer in module.named_buffers(path, recurse=False):
                if not isinstance(module, _NormBase):
                    yield name, buffer
