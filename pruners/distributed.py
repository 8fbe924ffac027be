"""Several processes that train one network: who they are, what they exchange, how they end.

    torchrun --nproc_per_node=2 app.py train ...

starts the program twice, with RANK, LOCAL_RANK and WORLD_SIZE in the environment. `processes`
makes a `Ranks` of that; where the program runs alone, `ALONE` does nothing at every call, so that
whoever trains need not ask. Only rank 0 (`is_first`) writes files and prints.
"""

from __future__ import annotations

import importlib
import io
import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import (
    ExitStack,
    contextmanager,
    nullcontext,
    redirect_stderr,
    redirect_stdout,
    suppress,
)
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pruners.errors import PrunerError


@dataclass(frozen=True, slots=True)
class Share:
    """The rows of a batch of all processes together that are this process's: start to stop."""

    start: int
    stop: int
    total: int

    @property
    def is_empty(self) -> bool:
        return self.start == self.stop

    @property
    def rows(self) -> slice:
        """The rows that this process computes with; one that does not count where it has none.

        A network need not be able to run on no image at all (`x.view(len(x), -1)` is not).
        """
        return slice(self.start, max(self.stop, self.start + 1))

    @property
    def weight(self) -> float:
        """By which the mean over these rows enters the mean over all."""
        return (self.stop - self.start) / self.total


@dataclass(frozen=True, slots=True)
class Ranks:
    """The processes that train together, seen from one of them.

    Its methods are collective: every process calls them in the same order.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    """Of this process: its tensors are there while they are exchanged."""

    @property
    def is_first(self) -> bool:
        """Whether this is the one process that writes files and prints."""
        return self.rank == 0

    def share(self, total: int) -> Share:
        """This process's part of `total` rows; parts differ by at most one row."""
        return Share(self.rank * total // self.size, (self.rank + 1) * total // self.size, total)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, without gradient, in the shape and on the device it had."""
        if self.size == 1:
            return tensor
        total = tensor.detach().to(self.device, copy=True).contiguous()
        all_reduce(total)
        return total.to(tensor.device)

    def wait(self) -> None:
        """Until every process is here."""
        self.sum(torch.zeros(1))

    def from_first(self, tensor: Tensor) -> Tensor:
        """The values that it has in the first process; shape and dtype are the same in all."""
        if self.size == 1:
            return tensor
        # As bytes: not every backend knows every dtype.
        flat = tensor.detach().to(self.device).contiguous().flatten().view(torch.uint8).clone()
        with _others_answer():
            dist.broadcast(flat, 0)
        return flat.view(tensor.dtype).view(tensor.shape).to(tensor.device)

    def bytes_from_first(self, content: bytes) -> bytes:
        """What the first process passes in; the others' arguments do not matter."""
        if self.size == 1:
            return content
        length = int(self.from_first(torch.tensor(len(content))))
        own = content if self.is_first else bytes(length)
        if length == 0:
            return b""
        return (
            self.from_first(torch.frombuffer(bytearray(own), dtype=torch.uint8)).numpy().tobytes()
        )

    def agree(self, model: nn.Module) -> None:
        """Give every process's network the parameters and buffers of the first's."""
        if self.size == 1:
            return
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.copy_(self.from_first(tensor))

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Give every process the sum of all processes' gradients.

        One flat vector a dtype instead of DistributedDataParallel: nothing wraps the network (its
        keys and class stay), a parameter that some or all processes leave out of a step is no
        special case, and every process adds the same numbers in the same order. What it does not
        do is exchange gradients while others are still being computed.
        """
        if self.size == 1:
            return
        for dtype in dict.fromkeys(parameter.dtype for parameter in parameters):
            alike = [parameter for parameter in parameters if parameter.dtype == dtype]
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in alike]
            # A gradient that nobody has stays None: SGD would decay its parameter otherwise.
            had = torch.tensor([float(p.grad is not None) for p in alike]).to(gradients[0])
            flat = torch.cat([*(gradient.flatten() for gradient in gradients), had])
            all_reduce(flat)
            *sums, owners = torch.split(flat, [*(p.numel() for p in alike), len(alike)])
            for parameter, gradient, total, count in zip(
                alike, gradients, sums, owners.tolist(), strict=True
            ):
                if count:
                    parameter.grad = gradient.copy_(total.view_as(gradient))

    @contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """The others run the block when the first has: it fetches files that they then find."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()


def all_reduce(tensor: Tensor) -> None:
    """Replace a contiguous tensor, on the device of its process, by the sum over all processes."""
    with _others_answer():
        dist.all_reduce(tensor)


@contextmanager
def _others_answer() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        why = " ".join(str(error).split()).split(". ")[0]
        raise PrunerError(
            f"the other processes do not answer ({why}); one has ended, killed for want of memory "
            f"perhaps: start again, train and tune with --resume"
        ) from error


ALONE = Ranks()
"""One process."""

_groups = itertools.count()


@contextmanager
def processes(device: str) -> Iterator[Ranks]:
    """The processes that torchrun has started, connected while the block runs; else one, alone.

    They talk by gloo on the CPU, by nccl on GPUs, of which each takes the one of its LOCAL_RANK.
    The stdout of all but the first is silent.

    Nobody is left waiting for a process that has failed. It keeps its connections until it has told
    its error (`one_tells`); then gloo's other ends fail, and torchrun ends those that wait in nccl.

    Raises:
        PrunerError: the environment is incomplete, the processes do not find each other, or there
            is no GPU for this one.
    """
    size = _whole("WORLD_SIZE", "1")
    if size == 1:
        yield Ranks(device=device)
        return
    ranks = Ranks(_whole("RANK"), size, _own_device(device, _whole("LOCAL_RANK")))
    if not dist.is_available():
        raise PrunerError(
            f"WORLD_SIZE {size}: this torch is built without torch.distributed; start one process"
        )
    backend = "gloo" if ranks.device == "cpu" else "nccl"
    if backend == "nccl":
        torch.cuda.set_device(ranks.device)
    # torch.optim imports it, and its default arguments keep the group of that moment alive. With
    # it gloo's threads would outlive this block, and now and then abort the end of the process.
    importlib.import_module("torch.distributed.nn.functional")
    try:
        # Each block has keys of its own.
        store = dist.PrefixStore(  # type: ignore[attr-defined]
            f"pruners: group {next(_groups)}", _shared_store(ranks.rank, size)
        )
        dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=size)
    except (RuntimeError, ValueError) as error:
        why = " ".join(str(error).split())
        raise PrunerError(
            f"the {size} processes did not find each other ({why}); start them with "
            f"torchrun --nproc_per_node={size} app.py ..."
        ) from error
    # A user's network may print.
    with Path(os.devnull).open("w") as nowhere, ExitStack() as stack:
        if not ranks.is_first:
            stack.enter_context(redirect_stdout(nowhere))
        yield ranks
    ranks.wait()
    dist.destroy_process_group()


@contextmanager
def one_tells() -> Iterator[None]:
    """A block that says what went wrong, silent in all processes but the first to fail.

    So one line says what all of them have found (a bad option), or one alone (a full disk, by
    which the others then fail). The others leave the block when it has been said: torchrun ends
    all when the first is gone.
    """
    connected = dist.is_available() and dist.is_initialized()
    # Where torchrun holds the store, it is at hand before the processes are connected.
    if not connected and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        yield
        return
    # Where there is no store any more, the process that held it has told.
    store, is_first = None, False
    with suppress(RuntimeError, ValueError, PrunerError):
        store = _shared_store(_whole("RANK"), _whole("WORLD_SIZE"))
        is_first = store.add("pruners: failed", 1) == 1
    with nullcontext() if is_first else redirect_stderr(io.StringIO()):
        yield
    if store is not None:
        with suppress(RuntimeError, ValueError):
            if is_first:
                store.set("pruners: told", "")
            else:
                store.wait(["pruners: told"], timedelta(seconds=10))
    # In nccl, this would wait for the others.
    if connected and dist.get_backend() == "gloo":
        dist.destroy_process_group()


@cache
def _shared_store(rank: int, size: int) -> Any:
    """The `torch.distributed.Store` of the processes, which torchrun (else rank 0) holds."""
    from torch.distributed.rendezvous import rendezvous

    return next(rendezvous("env://", rank, size, timeout=timedelta(minutes=5)))[0]


def _whole(name: str, default: str = "") -> int:
    """A number of torchrun's environment."""
    text = os.environ.get(name, default)
    if not text.isdecimal():
        raise PrunerError(
            f"{name} {text or 'missing'} in the environment: expected a whole number, as torchrun "
            f"sets it; start with torchrun --nproc_per_node=N app.py ..."
        )
    return int(text)


def _own_device(device: str, local_rank: int) -> str:
    if device == "cpu":
        return device
    if device != "cuda":
        raise PrunerError(
            f"--device {device}: under torchrun each process takes a GPU of its own; "
            f"expected cpu or cuda"
        )
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise PrunerError(
            f"--device cuda: process {local_rank} of this machine finds {count} GPUs, expected "
            f"one each; start no more processes than there are GPUs (--nproc_per_node={count}), "
            f"or use --device cpu"
        )
    return f"cuda:{local_rank}"
