"""A run of the network again, with fewer channels: every size is held against the labels.

`replay` runs the forward with sliced parameters in lockstep with a traced run. Labels say which
positions of every tensor survive, so before each operator it is known which sizes its arguments
ought to have. A size that was written as a number (`x.view(-1, 256 * 6 * 6)`) is a *correction*:
it is replaced, noted with its place in the source, and the run goes on.

Three things rest on this:

- the last word of the analysis: on meta tensors, groups that need a correction nobody makes, or
  that break an operator, are frozen (`freeze_what_breaks`);
- the writer: which number in which line has to become which;
- the oracle for operators that count channels: the full network, every such operator restricted
  to the surviving channels (`restricted`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from traceback import walk_tb
from types import CodeType, FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruners.calls import tensors_in, words
from pruners.channel_graph import ChannelGraph, Indices, Kept, Units, kept_of
from pruners.labels import Labels, Layer, collapse, varies
from pruners.layers import follow_widths
from pruners.notes import Rule
from pruners.tracing import (
    STEP,
    UNRECORDED,
    BoolMask,
    Example,
    State,
    Step,
    Tape,
    Trace,
    Watch,
    by_axis,
    fills,
    inputs_of,
    map_tensors,
    name_of,
    running,
    state_tensors,
    swap_tensors,
    untouched,
    unwrapped,
    watch,
)


def trace_graph(
    model: nn.Module, example_inputs: Any, *, rewritable: bool = False, last_word: bool = True
) -> ChannelGraph:
    """The channel graph of a network, found by running it on `example_inputs`.

    Args:
        model: left exactly as it was.
        example_inputs: a tensor, a tuple of positional arguments, a dict (of keyword arguments
            if the forward has such parameters, else one argument), or a list of several of these.
        rewritable: widths that are written as numbers in a forward (`x.view(-1, 256 * 6 * 6)`)
            can be changed later. If not, the groups that need it are frozen.
        last_word: run the sliced network on meta tensors and freeze what does not fit.
    """
    return trace(model, example_inputs, rewritable=rewritable, last_word=last_word).graph


def trace(
    model: nn.Module, example_inputs: Any, *, rewritable: bool = False, last_word: bool = True
) -> Trace:
    """As `trace_graph`, with the runs themselves."""
    found = watch(model, example_inputs, rewritable=rewritable)
    if last_word:
        freeze_what_breaks(unwrapped(model), found, refuse_none if rewritable else refuse_all)
    return found


@dataclass(frozen=True, slots=True)
class Frame:
    """A function of the user's in the middle of a call."""

    code: CodeType
    at: int
    """Index of the instruction."""
    module: str | None
    """Path of the module whose method it is."""
    values: Mapping[str, Any]
    """Local variables."""
    globals: Mapping[str, Any]

    @property
    def line(self) -> int:
        return self.span[0]

    @property
    def span(self) -> tuple[int, int, int, int]:
        """Line, end line, column and end column (in bytes) of the expression that is evaluated."""
        place = next(islice(self.code.co_positions(), self.at // 2, None))
        line, end_line, column, end_column = (n or 0 for n in place)
        return line, end_line, column, end_column


@dataclass(frozen=True, slots=True)
class Correction:
    """A number in a forward that has to follow the widths."""

    step: int
    module: str
    """Path of the module that runs."""
    operator: str
    argument: str
    given: Any
    """What the forward of the slim network gave."""
    needed: Any
    widths: frozenset[tuple[int, int]]
    """(full, slim) of the dimensions at the operator that lose positions."""
    dim: int
    """The dimension that a slice or a split is of; of an unflatten, the first one of its sizes."""
    frames: tuple[Frame, ...]
    """Code outside of PyTorch, innermost first."""
    tape: int = 0
    """Which run."""

    @property
    def place(self) -> str:
        """File name and line."""
        if not self.frames:
            return "a line that is not known"
        return f"{Path(self.frames[0].code.co_filename).name}, line {self.frames[0].line}"


class DoesNotFitError(Exception):
    """The slim network breaks at an operator."""

    def __init__(self, step: Step | None, reason: str) -> None:
        super().__init__(f"{step.place if step else 'the end'}: {reason}")
        self.step = step
        self.reason = reason


@dataclass(slots=True)
class Replayed:
    output: Any
    corrections: list[Correction]


def replay(
    model: nn.Module,
    trace: Trace,
    kept: Kept,
    tape: Tape | None = None,
    *,
    meta: bool = False,
    thorough: bool = False,
    prepare: Callable[[nn.Module], None] | None = None,
) -> Replayed:
    """Run the network with its parameters sliced to `kept`, sizes corrected by the labels.

    Args:
        tape: the run to follow; the first one by default.
        meta: shapes only.
        thorough: note the sizes that are right as well, as corrections that change nothing.
        prepare: changes attributes of the network before it runs; they are restored.

    Raises:
        DoesNotFitError: an operator breaks, or another one comes where the traced run had this.
    """
    tape = trace.tapes[0] if tape is None else tape
    watch = Replay(trace.state, tape, gone_atoms(trace, kept), meta, thorough)
    with untouched(trace.state.modules):
        model.train(tape.training)
        with torch.inference_mode():
            swap_tensors(trace.state.modules, _sliced(model, trace, kept, meta))
            follow_widths(trace.state.modules)
            if prepare is not None:
                prepare(model)
            args, kwargs = _inputs(trace.examples[tape.example], tape, meta)
        with watch.watching():
            output = model(*args, **kwargs)
    if watch.at < len(tape.steps):
        raise DoesNotFitError(tape.steps[watch.at], "is not reached any more")
    return Replayed(output, watch.corrections)


def restricted(model: nn.Module, trace: Trace, kept: Kept, tape: Tape | None = None) -> Any:
    """The oracle: the full network with removed channels silenced, on real tensors.

    Every element of every tensor that does not survive is zero (running variances one), and
    every operator that counts channels sees the surviving ones only.
    """
    tape = trace.tapes[0] if tape is None else tape
    watch = Restricted(trace.state, tape, gone_atoms(trace, kept), False)
    with untouched(trace.state.modules):
        model.train(tape.training)
        with torch.inference_mode():
            swap_tensors(trace.state.modules, _silenced(model, trace, kept))
            args, kwargs = _inputs(trace.examples[tape.example], tape, False)
        with watch.watching():
            return model(*args, **kwargs)


def gone_atoms(trace: Trace, kept: Kept) -> BoolMask:
    """Shape (atoms + 1,): the atoms that `kept` removes, virtual ones with their owner."""
    gone = np.zeros(len(trace.owners), dtype=bool)
    for param in trace.state.params:
        for dim, start in enumerate(param.starts):
            here = np.ones(param.shape[dim], dtype=bool)
            here[kept[param.name][dim]] = False
            gone[start : start + param.shape[dim]] = here
    result: BoolMask = gone[trace.owners]
    return result


def slice_tensor(x: Tensor, kept: Sequence[Indices]) -> Tensor:
    for dim, indices in enumerate(kept):
        if len(indices) < x.shape[dim]:
            x = x.index_select(dim, torch.as_tensor(indices, device=x.device))
    return x


def _sliced(model: nn.Module, trace: Trace, kept: Kept, meta: bool) -> dict[int, Tensor]:
    result = {}
    for name, tensor in state_tensors(model):
        if meta:
            shape = [len(indices) for indices in kept[name]]
            result[id(tensor)] = torch.empty(shape, dtype=tensor.dtype, device="meta")
        else:
            result[id(tensor)] = slice_tensor(tensor.detach(), kept[name])
    return _with_the_rest(trace, result, meta)


def _silenced(model: nn.Module, trace: Trace, kept: Kept) -> dict[int, Tensor]:
    result = {}
    for name, tensor in state_tensors(model):
        silent = tensor.detach().clone()
        fill = 1 if name.endswith("running_var") else 0
        for dim, indices in enumerate(kept[name]):
            out = np.setdiff1d(np.arange(tensor.shape[dim]), indices)
            if len(out):
                silent.index_fill_(dim, torch.as_tensor(out), fill)
        result[id(tensor)] = silent
    return _with_the_rest(trace, result, False)


def _with_the_rest(trace: Trace, known: dict[int, Tensor], meta: bool) -> dict[int, Tensor]:
    """Stand-ins for buffers that are not in the `state_dict` as well."""
    for module in trace.state.modules:
        for tensor in module._buffers.values():
            if tensor is not None and id(tensor) not in known:
                known[id(tensor)] = (
                    torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
                    if meta
                    else tensor.detach().clone()
                )
    return known


def _inputs(example: Example, tape: Tape, meta: bool) -> Example:
    wanted = Tape(tape.example, tape.training, meta)
    args, kwargs = inputs_of(example, wanted)
    return args, kwargs


# --- the run in lockstep ----------------------------------------------------------------------


class Replay(Watch):  # type: ignore[no-untyped-call]
    def __init__(
        self, state: State, tape: Tape, gone: BoolMask, meta: bool, thorough: bool = False
    ) -> None:
        super().__init__(state, meta)
        self.tape = tape
        self.gone = gone
        self.thorough = thorough
        self.at = 0
        self.corrections: list[Correction] = []
        self.masks: dict[int, tuple[Layer, dict[int, BoolMask]]] = {}

    def stays(self, labels: Labels) -> dict[int, BoolMask]:
        """For every dimension that loses positions, which of them stay."""
        result: dict[int, BoolMask] = {}
        for layer in labels:
            for dim, mask in self._of_layer(layer).items():
                result[dim] = result[dim] & mask if dim in result else mask
        return result

    def _of_layer(self, layer: Layer) -> dict[int, BoolMask]:
        known = self.masks.get(id(layer))
        if known is not None:
            return known[1]
        ids = collapse(layer)
        gone = self.gone[ids.numpy()]
        masks: dict[int, BoolMask] = {}
        if gone.any():
            dims = varies(layer)
            for dim in dims:
                others = tuple(d for d in range(gone.ndim) if d != dim)
                here = gone.all(axis=others)
                if here.any():
                    masks[dim] = ~here
        self.masks[id(layer)] = (layer, masks)
        return masks

    def sizes(self, shape: Sequence[int], labels: Labels) -> list[int]:
        result = list(shape)
        for dim, mask in self.stays(labels).items():
            result[dim] = int(mask.sum())
        return result

    def next(self, func: Any) -> Step:
        if self.at >= len(self.tape.steps):
            raise DoesNotFitError(None, f"{name_of(func)} runs, which the full network does not")
        step = self.tape.steps[self.at]
        if step.func != func:
            raise DoesNotFitError(step, f"{name_of(func)} runs in its place")
        self.at += 1
        return step

    def with_skipped_slices(self, func: Any, args: tuple[Any, ...]) -> tuple[tuple[Any, ...], Any]:
        """`x[:, :6]` calls no operator, or `alias`, once x has no more than 6 channels.

        Raises:
            DoesNotFitError: what was sliced is no argument of the next operator, as the x of
                `y[:, :6] = x`, which is copied to where y was sliced.
        """
        lost = False
        while self.at < len(self.tape.steps):
            step = self.tape.steps[self.at]
            if name_of(step.func) != "slice" or not args:
                break
            dim = step.args[1] if len(step.args) > 1 else 0
            if step.func == func and dim == (args[1] if len(args) > 1 else 0):
                break
            at = next((i for i, x in enumerate(args) if _made_by(x) == step.sources[0]), None)
            if at is not None and name_of(func) == "alias":
                return (args[at], dim, 0, args[at].shape[dim]), step.func
            self.at += 1
            if at is None:
                lost = True
                continue
            whole = (args[at], dim, 0, args[at].shape[dim])
            sliced = self._made(_fix_slice(self, step, step.func, whole, {}))
            args = (*args[:at], sliced, *args[at + 1 :])
        if lost:
            self.next(func)
            raise DoesNotFitError(self.tape.steps[self.at - 1], "what it reads is not sliced")
        return args, func

    def _made(self, out: Any) -> Any:
        """What the last step gives; as in the trace, a tensor knows which that was."""
        for x in [out] if isinstance(out, Tensor) else tensors_in([out]):
            x.__dict__[STEP] = self.at - 1
        return out

    def step(self, func: Any, rule: Rule | None, args: tuple[Any, ...], kwargs: Any) -> Any:
        if name_of(func) in UNRECORDED:
            out = func(*args, **kwargs)
            if isinstance(out, Tensor):
                out.__dict__[STEP] = _made_by(args[0]) if args else -1
            return out
        if number := fills(func, self.tape.steps, self.at):
            self.at += number
            return self._made(func(*args, **kwargs))
        args, func = self.with_skipped_slices(func, args)
        step = self.next(func)
        try:
            out = self.run(step, func, args, kwargs)
        except DoesNotFitError:
            raise
        except NotImplementedError:
            raise
        except Exception as error:
            raise DoesNotFitError(step, _first_line(error)) from error
        outs = [out] if isinstance(out, Tensor) else tensors_in([out])
        for x, shape, labels in zip(outs, step.out_shapes, step.outs, strict=False):
            needed = self.sizes(shape, labels)
            if list(x.shape) != needed:
                raise DoesNotFitError(
                    step, f"gives shape {tuple(x.shape)} where {tuple(needed)} is left"
                )
        return self._made(out)

    def run(self, step: Step, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        """The operator with its sizes made right."""
        name = name_of(func)
        fix = _FIXES.get(name)
        if fix is not None:
            return fix(self, step, func, args, kwargs)
        given, full = [_values(a) for a in args], [_values(a) for a in step.args]
        if given != full and len(given) == len(full):
            fixed = list(args)
            for i in range(len(args)):
                if given[i] != full[i]:
                    self.size(step, f"argument {i}", given[i], full[i])
                    fixed[i] = step.args[i]
            args = tuple(fixed)
        return self.result(name, func, args, kwargs)

    def size(self, step: Step, argument: str, given: Any, needed: Any, dim: int = 0) -> bool:
        """Whether a size is right as it is given; notes it if not."""
        if given == needed and not self.thorough:
            return True
        stays = [self.stays(labels) for labels in (*step.ins, *step.outs)]
        self.corrections.append(
            Correction(
                self.at - 1,
                running(self.state.names),
                name_of(step.func),
                argument,
                given,
                needed,
                frozenset((len(m), int(m.sum())) for masks in stays for m in masks.values()),
                dim,
                _frames(sys._getframe(1), self.state.names),
            )
        )
        return bool(given == needed)


def _frames(frame: FrameType | None, names: Mapping[int, str]) -> tuple[Frame, ...]:
    """The calls outside of PyTorch and of the trace, innermost first, up to the network's own."""
    found: list[Frame] = []
    while frame is not None:
        if not _inside(frame.f_globals.get("__name__", "")):
            holder = frame.f_locals.get("self")
            module = names.get(id(holder)) if isinstance(holder, nn.Module) else None
            found.append(
                Frame(frame.f_code, frame.f_lasti, module, dict(frame.f_locals), frame.f_globals)
            )
            if module == "":
                break
        elif frame.f_code is _REPLAY:
            break
        frame = frame.f_back
    return tuple(found)


def _inside(module: str) -> bool:
    return module.split(".")[0] == "torch" or module in ("pruners.replay", "pruners.tracing")


_REPLAY = replay.__code__


def _values(value: Any) -> Any:
    """An argument as far as it may follow from a width."""
    if isinstance(value, (Tensor, torch.device, torch.dtype, torch.layout)):
        return None
    if isinstance(value, (list, tuple)):
        return [_values(v) for v in value]
    return value


def _fix_shape(r: Replay, step: Step, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
    """view, reshape, expand and what makes a tensor of a given shape."""
    needed = r.sizes(step.out_shapes[0], step.outs[0])
    at = 1 if isinstance(args[0], Tensor) else 0
    x: Any = args[0] if at else None
    name = name_of(func)
    if name == "unflatten":
        dim = args[1] % x.dim()
        given = [*x.shape[:dim], *args[2], *x.shape[dim + 1 :]]
        given = _resolved(given, x.numel())
        if r.size(step, "sizes", given, needed, dim):
            return func(*args, **kwargs)
        return x.reshape(needed)
    given = list(args[at])
    if x is not None and name == "expand":
        lead = len(given) - x.dim()
        given = [x.shape[d - lead] if n == -1 else n for d, n in enumerate(given)]
    elif x is not None and not name.startswith("new_"):
        given = _resolved(given, x.numel())
    if not r.size(step, "size", given, needed):
        if name in ("view", "_unsafe_view", "_reshape_alias"):
            return args[0].reshape(needed)
        args = (*args[:at], needed, *args[at + 1 :])
    return func(*args, **kwargs)


def _resolved(sizes: Sequence[int], numel: int) -> list[int]:
    known = int(np.prod([n for n in sizes if n != -1]))
    return [numel // max(known, 1) if n == -1 else n for n in sizes]


def _made_by(x: Any) -> int | None:
    """The step that a tensor comes from; -1 for inputs and parameters, None for anything else."""
    return x.__dict__.get(STEP, -1) if isinstance(x, Tensor) else None


def _fix_split(r: Replay, step: Step, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
    x, amount = args[0], args[1]
    dim = (args[2] if len(args) > 2 else 0) % x.dim()
    needed = [
        r.sizes(shape, labels)[dim]
        for shape, labels in zip(step.out_shapes, step.outs, strict=True)
    ]
    size = x.shape[dim]
    if isinstance(amount, int) and "chunk" in name_of(func):
        amount = -(-size // amount)
    if isinstance(amount, int):
        given = [min(amount, size - i) for i in range(0, size, max(amount, 1))]
    else:
        given = list(amount)
    if r.size(step, "sizes", given, needed, dim):
        return func(*args, **kwargs)
    return list(x.split(needed, dim))


def _fix_slice(r: Replay, step: Step, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
    x, dim = args[0], (args[1] if len(args) > 1 else 0)
    dim %= max(x.dim(), 1)
    full, size = step.in_shapes[0][dim], x.shape[dim]
    wanted = _positions(name_of(func), step.args, full)
    got = _positions(name_of(func), args, size)
    mask = r.stays(step.ins[0]).get(dim)
    if mask is None:
        # A number that other modules need to be another must not become that one here.
        if got == wanted and not any(dim in varies(layer) for layer in step.ins[0]):
            return func(*args, **kwargs)
        mask = np.ones(full, dtype=bool)
    rank = np.cumsum(mask) - 1
    needed = [int(rank[i]) for i in wanted if mask[i]]
    if r.size(step, "positions", got, needed, dim):
        return func(*args, **kwargs)
    if name_of(func) == "select":
        return x.select(dim, needed[0])
    if needed and needed == list(range(needed[0], needed[0] + len(needed))):
        return x.narrow(dim, needed[0], len(needed))
    return x.index_select(dim, torch.tensor(needed, dtype=torch.int64, device=x.device))


def _positions(name: str, args: tuple[Any, ...], size: int) -> list[int]:
    """What `select`, `narrow` or `slice` takes from a dimension of that size."""
    if name in ("select", "narrow"):
        # What lies outside is kept as it is said: the operator would refuse it.
        start = args[2] + size if args[2] < 0 else args[2]
        return list(range(start, start + (args[3] if name == "narrow" else 1)))
    defaults: tuple[Any, ...] = (None, None, 1)
    start, end, by = args[2:] + defaults[len(args) - 2 :]
    return list(range(*slice(start, end, by).indices(size)))


def _fix_pad(r: Replay, step: Step, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
    x, given, full = args[0], list(args[1]), list(step.args[1])
    needed = list(full)
    into, out = r.stays(step.ins[0]), r.stays(step.outs[0])
    for i in range(len(given) // 2):
        dim = x.dim() - 1 - i
        for at, first in ((2 * i, True), (2 * i + 1, False)):
            # What is cut off counts among the positions that come in.
            amount = abs(full[at])
            mask = (out if full[at] > 0 else into).get(dim)
            if mask is not None and amount:
                left = int((mask[:amount] if first else mask[len(mask) - amount :]).sum())
                needed[at] = left if full[at] > 0 else -left
    r.size(step, "amounts", given, needed)
    return func(x, needed, *args[2:], **kwargs)


def _fix_convolution(r: Replay, step: Step, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
    name = name_of(func)
    at = next(i for i, a in enumerate(func._schema.arguments) if a.name == "groups")
    if len(args) > at and "transpose" not in name:
        dim = args[0].dim() - args[1].dim() + 1
        needed = args[0].shape[dim] // max(args[1].shape[1], 1)
        if not r.size(step, "groups", args[at], needed):
            args = (*args[:at], needed, *args[at + 1 :])
    return r.result(name, func, args, kwargs)


def _fix_layer_norm(r: Replay, step: Step, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
    rank = len(args[1])
    needed = list(args[0].shape[args[0].dim() - rank :])
    r.size(step, "normalized_shape", list(args[1]), needed)
    return r.result(name_of(func), func, (args[0], needed, *args[2:]), kwargs)


def _fix_group_norm(r: Replay, step: Step, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
    full, groups = step.in_shapes[0][1], step.args[1]
    needed = args[0].shape[1] if groups == full else groups
    r.size(step, "num_groups", args[1], needed)
    return r.result(name_of(func), func, (args[0], needed, *args[2:]), kwargs)


def _fix_attention(r: Replay, step: Step, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
    """The scale stays that of the full width."""
    if kwargs.get("scale") is None:
        full = step.in_shapes[0][-1]
        r.size(step, "scale", args[0].shape[-1], full)
        kwargs = {**kwargs, "scale": float(full) ** -0.5}
    return func(*args, **kwargs)


_FIXES = {
    **dict.fromkeys(
        words(
            "view reshape _unsafe_view _reshape_alias unflatten expand zeros ones full empty"
            " new_zeros new_ones new_full new_empty"
        ),
        _fix_shape,
    ),
    **dict.fromkeys(
        words("split chunk split_with_sizes unsafe_split unsafe_chunk unsafe_split_with_sizes"),
        _fix_split,
    ),
    **dict.fromkeys(["slice", "narrow", "select"], _fix_slice),
    **dict.fromkeys(["pad", "constant_pad_nd"], _fix_pad),
    **dict.fromkeys(
        words("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d"),
        _fix_convolution,
    ),
    "layer_norm": _fix_layer_norm,
    "rms_norm": _fix_layer_norm,
    "group_norm": _fix_group_norm,
    "scaled_dot_product_attention": _fix_attention,
}


class Restricted(Replay):  # type: ignore[no-untyped-call]
    """The full network in lockstep; operators that count channels see the surviving ones."""

    def step(self, func: Any, rule: Rule | None, args: tuple[Any, ...], kwargs: Any) -> Any:
        if name_of(func) in UNRECORDED:
            return func(*args, **kwargs)
        if number := fills(func, self.tape.steps, self.at):
            self.at += number
            return func(*args, **kwargs)
        step = self.next(func)
        masks = [self.stays(labels) for labels in step.ins]
        if not step.counts or not any(masks):
            return func(*args, **kwargs)
        queue = iter(masks)

        def cut(value: Any) -> Any:
            if isinstance(value, Tensor):
                for dim, mask in next(queue).items():
                    value = value.index_select(dim, torch.from_numpy(np.flatnonzero(mask)))
                return value
            if isinstance(value, (list, tuple)):
                return type(value)(cut(v) for v in value)
            return value

        args = tuple(cut(a) for a in args)
        kwargs = {k: cut(v) for k, v in kwargs.items()}
        out = self.run(step, func, args, kwargs)
        outs = iter(zip(step.out_shapes, step.outs, strict=False))

        def spread(x: Tensor) -> Tensor:
            shape, labels = next(outs)
            for dim, mask in self.stays(labels).items():
                wide = list(x.shape)
                wide[dim] = shape[dim]
                where = torch.from_numpy(np.flatnonzero(mask))
                x = x.new_zeros(wide).index_copy_(dim, where, x)
            return x

        return map_tensors(out, spread)


# --- the last word ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Problem:
    """Why the slim network does not run, and where."""

    step: Step | None
    reason: str


Refuses = Callable[[nn.Module, Trace, Kept, Sequence[Correction]], Problem | None]
"""What cannot be made right in the source; None where all can."""


def refuse_all(
    model: nn.Module, trace: Trace, kept: Kept, corrections: Sequence[Correction]
) -> Problem | None:
    """Where nothing rewrites the source."""
    for c in corrections:
        why = f"{c.argument} is written as a number, {c.given} where {c.needed} is needed"
        return Problem(step_of(trace, c), f"{why}, {c.place}")
    return None


def refuse_none(
    model: nn.Module, trace: Trace, kept: Kept, corrections: Sequence[Correction]
) -> Problem | None:
    """Where only the graph is wanted."""
    return None


def step_of(trace: Trace, correction: Correction) -> Step:
    """The operator whose size is corrected."""
    return trace.tapes[correction.tape].steps[correction.step]


def freeze_what_breaks(model: nn.Module, trace: Trace, refuses: Refuses = refuse_all) -> None:
    """Run the network with half of every group removed, on meta tensors; freeze what does not fit.

    Groups at the operator that complains are frozen, and the run is repeated until it passes. An
    operator that complains about sizes that no label explains (a width computed from that of
    another layer) is brought home by bisection: the first group with which the run breaks goes.

    Where no operator takes a size from the forward, nothing can fail to fit, and nothing is run.
    """
    if _fits_anyway(trace):
        return
    graph = trace.graph
    for _ in range(1000):
        units = graph.units()
        if fits(model, trace, units, _half(units), refuses):
            return
    raise AssertionError("freezing does not come to an end")


def fits(model: nn.Module, trace: Trace, units: Units, stays: BoolMask, refuses: Refuses) -> bool:
    """Whether the network runs without the units that go; if not, what does not fit is frozen."""
    if _fits_anyway(trace):
        return True
    problem = _problem(model, trace, units, stays, refuses)
    if problem is None:
        return True
    if not _freeze_at(trace, units, problem):
        _bisect(model, trace, units, stays, problem, refuses)
    return False


def _fits_anyway(trace: Trace) -> bool:
    """Whether no operator takes a size from the forward, so that nothing can fail to fit.

    What needs real values may go through NumPy and come back, where no operator is seen.
    """
    sized = any(tape.sized or not tape.meta for tape in trace.tapes)
    return not sized and not trace.graph.unknown


def _half(units: Units) -> BoolMask:
    """Which units stay when every other unit of every group goes."""
    stays = np.ones(units.count, dtype=bool)
    free = np.flatnonzero(~units.frozen)
    order = np.argsort(units.group_of[free], kind="stable")
    free = free[order]
    group = units.group_of[free]
    first = np.flatnonzero(np.diff(group, prepend=-1))
    place = np.arange(len(free)) - np.repeat(first, np.diff([*first, len(free)]))
    stays[free[place % 2 == 1]] = False
    return stays


def _problem(
    model: nn.Module, trace: Trace, units: Units, stays: BoolMask, refuses: Refuses
) -> Problem | None:
    kept = kept_of(trace.graph.shapes, units, stays)
    try:
        corrections = corrections_of(model, trace, kept)
    except DoesNotFitError as error:
        return Problem(error.step, error.reason)
    except Exception as error:
        return Problem(None, _first_line(error))
    return refuses(model, trace, kept, corrections) if corrections else None


def corrections_of(model: nn.Module, trace: Trace, kept: Kept) -> list[Correction]:
    """The sizes in every run, right ones too, where any of them is wrong; else nothing.

    Raises:
        DoesNotFitError: an operator breaks whatever its sizes are.
    """

    def all_runs(thorough: bool) -> list[Correction]:
        return [
            replace(c, tape=number)
            for number, tape in enumerate(trace.tapes)
            for c in replay(model, trace, kept, tape, meta=tape.meta, thorough=thorough).corrections
        ]

    return all_runs(True) if all_runs(False) else []


def _first_line(error: Exception) -> str:
    """What an error of the user's forward says, or its kind where that is nothing."""
    said = str(error).strip().splitlines()
    kind = type(error).__name__
    if not said:
        return f"{kind} in {_place_of(error)}"
    return said[0] if isinstance(error, RuntimeError) else f"{kind}: {said[0]}"


def _place_of(error: Exception) -> str:
    """File and line of the last code outside of PyTorch that an error went through."""
    places = [
        f"{Path(frame.f_code.co_filename).name}, line {line}"
        for frame, line in walk_tb(error.__traceback__)
        if not _inside(frame.f_globals.get("__name__", ""))
    ]
    return places[-1] if places else "a line that is not known"


def _freeze_at(trace: Trace, units: Units, problem: Problem) -> bool:
    """Freeze the removable atoms at the operator that complains; False if there are none."""
    if problem.step is None:
        return False
    layers = [layer for labels in (*problem.step.ins, *problem.step.outs) for layer in labels]
    if not layers:
        return False
    ids = np.concatenate([collapse(layer).reshape(-1).numpy() for layer in layers])
    return _freeze(trace, units, ids, f"{problem.step.place}: {problem.reason}")


def _freeze(trace: Trace, units: Units, ids: Indices, because: str) -> bool:
    before = units.frozen
    known = set(units.axes)
    found = False
    for axis, positions in by_axis(trace, ids):
        if axis not in known or before[units.of(axis)[positions]].all():
            continue
        trace.graph.freeze(axis, because, positions)
        found = True
    return found


def _groups_near(trace: Trace, units: Units, problem: Problem) -> Indices:
    """The groups of the parameters in the module whose operator complains."""
    if problem.step is None:
        return np.empty(0, dtype=np.int64)
    path = problem.step.place.rpartition(": ")[0]
    mine = [axis for axis in units.axes if axis.tensor.startswith(f"{path}.")]
    found = [units.group_of[units.of(axis)] for axis in mine]
    return np.unique(np.concatenate(found)) if path and found else np.empty(0, dtype=np.int64)


def _bisect(
    model: nn.Module,
    trace: Trace,
    units: Units,
    stays: BoolMask,
    problem: Problem,
    refuses: Refuses,
) -> None:
    """Freeze the group with which the run begins to break."""
    groups = np.unique(units.group_of[~stays])

    def without(some: Indices) -> Problem | None:
        """What breaks where only these groups lose what they are to lose."""
        left = stays | ~np.isin(units.group_of, some)
        return _problem(model, trace, units, left, refuses)

    near = np.intersect1d(groups, _groups_near(trace, units, problem))
    if len(near) and without(near) is not None:
        groups = near  # nearly always, and there are one or two of these
    low, high, known = 0, len(groups), problem if len(groups) == len(near) == 1 else None
    while high - low > 1 or known is None:
        middle = (low + high) // 2 if high - low > 1 else high
        found = without(groups[:middle])
        if found is None:
            low = middle
            if low >= high:
                raise AssertionError("the run breaks and then does not")
        else:
            high, known = middle, found
    problem = known
    units_of_group = np.flatnonzero(units.group_of == groups[high - 1])
    atoms = np.flatnonzero(np.isin(units.unit_of, units_of_group))
    axis_of_atom = units.axis_of_atom()
    for i in np.unique(axis_of_atom[atoms]):
        positions = atoms[axis_of_atom[atoms] == i] - units.starts[i]
        trace.graph.freeze(
            units.axes[i],
            f"the slim network breaks: {problem.step.place + ': ' if problem.step else ''}"
            f"{problem.reason}",
            positions,
        )
