"""Couplings found by watching the network run: the traced source of edges.

The network's own `forward` runs once under a `TorchDispatchMode` on meta tensors, so that no
arithmetic is done and no weight is copied. Beside every activation travel integer label tensors
(`labels.py`), and every operator that the network calls couples, freezes or moves labels.
What comes out is a `ChannelGraph`:

    graph = trace_graph(model, torch.randn(1, 3, 224, 224))  # in pruners.replay

The run sees operators before autograd takes them apart (`inference_mode`): `linear`, `chunk` and
`batch_norm` arrive whole. Composite operators without a rule are taken apart until rules apply;
an operator that stays without one freezes what it touches and is reported.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import random
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pruners import meta_shapes, operators
from pruners.calls import Call, tensors_in
from pruners.channel_graph import Axis, ChannelGraph, Coupling, Indices, UnknownOperator
from pruners.components import components
from pruners.errors import UnsupportedNetworkError
from pruners.labels import LABELS, NONE, Labels, Layer, collapse, settle, varies
from pruners.layers import widths
from pruners.notes import Notes, Param, Rule, Weight
from pruners.readers import Readers, reading
from pruners.rules import contraction, reduction, silence

Example = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of one call of the network."""


# --- what a run leaves behind -----------------------------------------------------------------


@dataclass(slots=True)
class Step:
    """One operator of a run: what went in and came out, in labels and sizes."""

    func: Any
    args: tuple[Any, ...]
    """The arguments, None in the place of every tensor."""
    kwargs: dict[str, Any]
    ins: list[Labels]
    in_shapes: list[tuple[int, ...]]
    outs: list[Labels]
    out_shapes: list[tuple[int, ...]]
    place: str
    counts: bool
    """The operator depends on how many channels there are."""
    sources: list[int]
    """For every tensor that goes in, the step that it came from; -1 for inputs and parameters."""
    weights: list[Weight]
    """Where the operator is a layer's: the weight as rows and columns."""


@dataclass(slots=True)
class Tape:
    """One run of the network: its operators in order."""

    example: int
    training: bool
    meta: bool
    sized: bool = False
    """A size or a count in the forward may depend on how many channels there are."""
    steps: list[Step] = field(default_factory=list)


@dataclass(slots=True)
class Trace:
    """A graph and the runs that it was made from, which `replay` repeats with fewer channels."""

    graph: ChannelGraph
    tapes: list[Tape]
    examples: list[Example]
    state: State
    owners: Indices
    """Shape (atoms + 1,): for every atom the one that decides for it; 0 for one that stays."""


def watch(model: nn.Module, example_inputs: Any, *, rewritable: bool = False) -> Trace:
    """Run the network on every example, in `eval` and where needed in `train` mode.

    The last word on what was found has `pruners.replay.trace`; see there for the arguments.
    """
    model = unwrapped(model)
    examples = examples_of(model, example_inputs)
    state = State.of(model)
    notes = Notes(state.params, state.atoms)
    unknown: dict[tuple[str, str], list[Tensor]] = {}
    tapes = []
    for number, example in enumerate(examples):
        for training in (False, True):
            tape, readers = _run(
                model, state, notes, unknown, example, number, training, rewritable
            )
            tapes.append(tape)
            if not readers.training:
                break
    return _built(state, notes, unknown, tapes, examples)


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside `DataParallel`, DDP or `torch.compile`."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(model, torch._dynamo.eval_frame.OptimizedModule):
            model = model._orig_mod
        else:
            break
    if not isinstance(model, nn.Module):
        raise UnsupportedNetworkError(
            f"model: a {type(model).__name__}, expected a torch.nn.Module"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise UnsupportedNetworkError(
            f"{type(model).__name__}: a ScriptModule has no Python source; "
            f"give the module that it was scripted from"
        )
    for name, module in _walk(model, ""):
        if "quantized" in type(module).__module__.split("."):
            raise UnsupportedNetworkError(
                f"{name}: {type(module).__name__} is quantized; prune first, then quantize"
            )
    return model


def examples_of(model: nn.Module, example_inputs: Any) -> list[Example]:
    """Every example as positional and keyword arguments."""
    if isinstance(example_inputs, list):
        return [e for one in example_inputs for e in examples_of(model, one)]
    if isinstance(example_inputs, tuple) and not hasattr(example_inputs, "_fields"):
        return [(example_inputs, {})]
    if isinstance(example_inputs, Mapping):
        try:
            inspect.signature(model.forward).bind(**example_inputs)
        except TypeError:
            return [((example_inputs,), {})]
        return [((), dict(example_inputs))]
    return [((example_inputs,), {})]


# --- the state of a model, and leaving it as it was -------------------------------------------


@dataclass(slots=True)
class State:
    """Parameters and buffers under their `state_dict` names, atoms numbered from 1."""

    params: list[Param]
    by_id: dict[int, Param]
    aliases: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    atoms: int
    modules: list[nn.Module]
    names: dict[int, str]
    """Module paths by the identity of the module."""

    @staticmethod
    def of(model: nn.Module) -> State:
        everywhere = list(_walk(model, ""))
        names: dict[int, str] = {}
        modules: list[nn.Module] = []
        for path, module in everywhere:
            if names.setdefault(id(module), path) is path:
                modules.append(module)
        params: list[Param] = []
        by_id: dict[int, Param] = {}
        aliases: dict[str, str] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        atoms = 0
        for name, tensor in _tensors(everywhere):
            shape = shapes[name] = tuple(tensor.shape)
            known = by_id.get(id(tensor))
            if known is not None:
                aliases[name] = known.name
                continue
            starts = []
            for size in shape:
                starts.append(atoms + 1)
                atoms += size
            by_id[id(tensor)] = Param(name, shape, tuple(starts))
            params.append(by_id[id(tensor)])
        return State(params, by_id, aliases, shapes, atoms, modules, names)


def state_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and persistent buffers by name, tied ones under each of their names."""
    return _tensors(_walk(model, ""))


def _tensors(modules: Iterable[tuple[str, nn.Module]]) -> Iterator[tuple[str, Tensor]]:
    for path, module in modules:
        prefix = f"{path}." if path else ""
        for name, parameter in module._parameters.items():
            if parameter is not None:
                yield prefix + name, parameter
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                yield prefix + name, buffer


def _walk(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """Modules by path, a shared one under each of its paths."""
    yield path, module
    for name, child in module._modules.items():
        if child is not None:
            yield from _walk(child, f"{path}.{name}" if path else name)


@contextmanager
def untouched(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Restore whatever a forward may change: attributes, containers in them, random state."""
    attributes: list[tuple[dict[str, Any], dict[str, Any]]] = []
    containers: list[tuple[Any, Any]] = []
    for module in modules:
        own = module.__dict__
        attributes.append((own, dict(own)))
        for key, value in own.items():
            kind = type(value)
            if kind is bool or value is None or kind is int:
                continue
            if isinstance(value, (dict, list, set)):
                containers.append((value, value.copy() if value else None))
            elif isinstance(value, Tensor):
                own[key] = value.detach().clone()
    rng, python_rng, numpy_rng = torch.get_rng_state(), random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        for own, before in attributes:
            own.clear()
            own.update(before)
        for container, items in containers:
            if items is None and not container:
                continue
            container.clear()
            if isinstance(container, list):
                container.extend(items or ())
            else:
                container.update(items or ())
        torch.set_rng_state(rng)
        random.setstate(python_rng)
        np.random.set_state(numpy_rng)


def swap_tensors(modules: Sequence[nn.Module], replacement: Mapping[int, Tensor]) -> None:
    """Put other tensors in the place of parameters and buffers; undone by `untouched`."""
    for module in modules:
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and id(tensor) in replacement:
                    tensors[name] = replacement[id(tensor)]  # type: ignore[assignment]
        if isinstance(module, nn.RNNBase):
            # It computes with a list of its own, and checks what it is given by a number.
            names = module._flat_weights_names
            module.__dict__["_flat_weights"] = [module._parameters[name] for name in names]
            module.__dict__.update(widths(module))


def stand_ins(state: State, meta: bool) -> dict[int, Tensor]:
    """For every parameter and buffer a tensor that may be labelled and written to."""
    result: dict[int, Tensor] = {}
    for module in state.modules:
        for tensors, copied in ((module._parameters, False), (module._buffers, True)):
            for tensor in tensors.values():
                if tensor is None or id(tensor) in result:
                    continue
                if meta:
                    other = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
                else:
                    other = tensor.detach().clone() if copied else tensor.detach()
                param = state.by_id.get(id(tensor))
                if param is not None:
                    other.__dict__[LABELS] = param
                result[id(tensor)] = other
    return result


# --- watching a run ---------------------------------------------------------------------------


_CALL = nn.Module._call_impl.__code__
STEP = "_pruner_step"
"""The attribute of a tensor that says which step of the run it came from."""


def running(names: Mapping[int, str]) -> str:
    """The path of the module whose forward is running, read off the stack.

    Hooks would tell as well, but they are paid for by every module and seen by all threads.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code is _CALL:
            path = names.get(id(frame.f_locals["self"]))
            if path is not None:
                return path
        frame = frame.f_back  # type: ignore[assignment]
    return ""


# Operators that run or not depending on how a tensor lies in memory, and how a number becomes a
# tensor, which differs between meta and other devices (`x[:, 0] = 1`): no steps of a run.
UNRECORDED = frozenset({"contiguous", "scalar_tensor", "lift_fresh"})


def fills(func: Any, steps: Sequence[Step], at: int) -> int:
    """How many steps of a run on meta tensors stand for this operator where it is a `fill_`.

    `x[:, :2] = 1` fills a real tensor, and copies a view of the number into one on meta.
    """
    known = name_of(func) == "fill_" and [name_of(s.func) for s in steps[at : at + 3]] == _FILL
    return len(_FILL) if known else 0


_FILL = ["view", "expand", "copy_"]


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Takes composite operators apart until each has a rule, then hands it to `step`.

    `Tracer` and `replay.Replay` share this class, so both see the same steps.
    """

    def __init__(self, state: State, meta: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.state = state
        self.meta = meta
        self.off = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else every operator passes through a wrapper that costs more than its rule

    def step(self, func: Any, rule: Rule | None, args: tuple[Any, ...], kwargs: Any) -> Any:
        raise NotImplementedError

    def result(self, name: str, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        """What the operator returns; on meta tensors only its shape counts."""
        x = args[0] if args else None
        if name == "cat" and x:
            x = x[0]
        if self.meta and isinstance(x, Tensor) and x.is_meta:
            if name in meta_shapes.IN_PLACE and meta_shapes.agrees(args):
                return x
            if name in meta_shapes.RECURRENT:
                outputs = meta_shapes.recurrent_result(args)
                if outputs is not None:
                    return outputs
            shape = meta_shapes.output_shape(name, args)
            if shape is not None and x.is_contiguous():
                return torch.empty(shape, dtype=x.dtype, device="meta")
        return func(*args, **kwargs)

    def attention(self, tensors: Sequence[Tensor]) -> None:
        """Called before an `nn.MultiheadAttention` with the tensors that it is given."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.off:
            return func(*args, **kwargs)
        rule = rule_for(func)
        if rule is None and func._can_decompose():
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        if self.meta:
            args, kwargs = on_one_device(args, kwargs)
        return self.step(func, rule, args, kwargs)

    @contextmanager
    def unwatched(self) -> Iterator[None]:
        """Operators run unseen: our own, and those inside a function that counts as one."""
        self.off = True
        try:
            yield
        finally:
            self.off = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if any(isinstance(m, _WITH_FUNCTIONS) for m in self.state.modules):
                stack.enter_context(Functions(self))
            stack.enter_context(self)
            yield


_RULES: dict[Any, Rule | None] = {}


def rule_for(func: Any) -> Rule | None:
    try:
        return _RULES[func]
    except KeyError:
        return _RULES.setdefault(func, operators.rule_of(func))


def on_one_device(args: tuple[Any, ...], kwargs: Any) -> tuple[tuple[Any, ...], Any]:
    """Constants that the forward makes on a real device, on meta where they meet activations."""
    tensors = tensors_in((*args, *kwargs.values()))
    meta = [x.is_meta for x in tensors]
    if all(meta) or not any(meta):
        return args, kwargs

    def moved(value: Any) -> Any:
        if isinstance(value, Tensor) and not value.is_meta and value.dim():
            out = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
            out.__dict__.update({k: v for k, v in value.__dict__.items() if k == LABELS})
            return out
        if isinstance(value, (list, tuple)):
            return type(value)(moved(v) for v in value)
        return value

    return tuple(moved(a) for a in args), {k: moved(v) for k, v in kwargs.items()}


_WITH_FUNCTIONS = (nn.MultiheadAttention, nn.LocalResponseNorm)


class Functions(TorchFunctionMode):
    """Functions that are one operator to us, although PyTorch takes them apart."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            with self.watch.unwatched():
                self.watch.attention(tensors_in((*args, *kwargs.values())))
            return multi_head_attention(*args, **kwargs)
        if func is F.local_response_norm and not self.watch.off:
            with self.watch.unwatched():
                rule = reduction.local_response_norm
                return self.watch.step(WholeFunction(func), rule, args, kwargs)
        return func(*args, **kwargs)


class WholeFunction:
    """A function of `torch.nn.functional`, called like an operator's overload."""

    tags: tuple[Any, ...] = ()

    def __init__(self, func: Any) -> None:
        self.func = func
        self.name: str = func.__name__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.func(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WholeFunction) and other.func is self.func

    def __hash__(self) -> int:
        return hash(self.func)


def name_of(func: Any) -> str:
    return func.name if isinstance(func, WholeFunction) else func._schema.name.split("::")[-1]


def multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """`F.multi_head_attention_forward` with free widths: q and k, v and the embedding may differ.

    Heads are dimension 1 of (batch, heads, positions, width). The widths come from the rows of the
    projections, the scale stays that of the full width (`embed_dim // num_heads`).
    """
    if in_proj_weight is not None and not use_separate_proj_weight:
        v_width = out_proj_weight.shape[1]
        q_width = (in_proj_weight.shape[0] - v_width) // 2
        widths = [q_width, q_width, v_width]
        q_proj_weight, k_proj_weight, v_proj_weight = torch.split(in_proj_weight, widths)
    else:
        assert q_proj_weight is not None
        assert k_proj_weight is not None
        assert v_proj_weight is not None
        widths = [q_proj_weight.shape[0], k_proj_weight.shape[0], v_proj_weight.shape[0]]
    biases: Sequence[Tensor | None] = (None, None, None)
    if in_proj_bias is not None:
        biases = torch.split(in_proj_bias, widths)
    single = query.dim() == 2
    if single:
        query, key, value = query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1)
    heads = []
    for x, weight, bias in zip(
        (query, key, value), (q_proj_weight, k_proj_weight, v_proj_weight), biases, strict=True
    ):
        y = F.linear(x, weight, bias)
        heads.append(y.reshape(*y.shape[:2], num_heads, -1).permute(1, 2, 0, 3))
    q, k, v = heads
    mask = _attention_mask(q, k, attn_mask, key_padding_mask)
    scale = float(embed_dim // num_heads) ** -0.5
    weights = None
    if need_weights:
        scores = q.matmul(k.transpose(-2, -1)) * scale
        weights = (scores if mask is None else scores + mask).softmax(-1)
        out = F.dropout(weights, dropout_p, training).matmul(v)
        weights = weights.mean(1) if average_attn_weights else weights
        weights = weights.squeeze(0) if single else weights
    else:
        dropout = dropout_p if training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, mask, dropout, scale=scale)
    out = out.permute(2, 0, 1, 3).flatten(2)
    out = F.linear(out, out_proj_weight, out_proj_bias)
    return out.squeeze(1) if single else out, weights


def _attention_mask(
    q: Tensor, k: Tensor, attn_mask: Tensor | None, key_padding_mask: Tensor | None
) -> Tensor | None:
    """Both masks as numbers to add, of a shape that broadcasts to (batch, heads, L, S)."""
    mask = None
    if attn_mask is not None:
        mask = _additive(attn_mask, q.dtype)
        if mask.dim() == 3:
            mask = mask.reshape(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    if key_padding_mask is not None:
        padding = _additive(key_padding_mask, q.dtype)[:, None, None, :]
        mask = padding if mask is None else mask + padding
    return mask


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, float("-inf"))


# --- the labelled run -------------------------------------------------------------------------


class Tracer(Watch):  # type: ignore[no-untyped-call]
    """Runs every operator once and writes down what its rule says."""

    def __init__(
        self,
        state: State,
        meta: bool,
        notes: Notes,
        unknown: dict[tuple[str, str], list[Tensor]],
        tape: Tape,
        rewritable: bool,
    ) -> None:
        super().__init__(state, meta)
        self.notes = notes
        self.unknown = unknown
        self.tape = tape
        self.rewritable = rewritable
        self.modules = {state.names[id(module)]: module for module in state.modules}

    def attention(self, tensors: Sequence[Tensor]) -> None:
        self.notes.place = running(self.state.names)
        for x in () if self.rewritable else tensors:
            for layer in self.notes.of(x):
                self.notes.freeze(layer, "has the width that nn.MultiheadAttention checks")

    def sizes(
        self, func: Any, rule: Rule | None, name: str, path: str, args: tuple[Any, ...]
    ) -> bool:
        """Whether a size or count among the arguments may have to follow the channels."""
        if rule in operators.SIZE_FREE or name in operators.SIZE_FREE_NAMES:
            return False
        module = self.modules.get(path)
        if rule is contraction.convolution:
            # The groups of a layer follow its tensors (`widths` in replay).
            return not isinstance(module, nn.modules.conv._ConvNd) and (
                Call(func, args, {}, None).named("groups", 1) != 1
            )
        if rule is reduction.layer_norm:
            return type(module) is not nn.LayerNorm or module.weight is None
        return True

    def step(self, func: Any, rule: Rule | None, args: tuple[Any, ...], kwargs: Any) -> Any:
        notes, name = self.notes, name_of(func)
        module = running(self.state.names)
        notes.place = place = f"{module}: {name}" if module else name
        tensors = tensors_in((*args, *kwargs.values()) if kwargs else args)
        before = [notes.of(x) for x in tensors]
        shapes = [tuple(x.shape) for x in tensors]
        sources = [x.__dict__.get(STEP, -1) for x in tensors]
        counted, weights = len(notes.counting), len(notes.weights)
        out = self.result(name, func, args, kwargs)
        outs = [out] if isinstance(out, Tensor) else tensors_in([out])
        labels: list[Labels]
        if rule is not None:
            call = Call(func, args, kwargs, out)
            silence.count_silent_divisors(notes, call, name)
            found = rule(notes, call)
            labels = [found] if isinstance(found, tuple) else found
            if labels and silence.loud(call, name, labels[0]):
                for x in outs:
                    x.__dict__[silence.LOUD] = True
        else:
            if any(before):
                touched = self.unknown.setdefault((name, module), [])
                for layer in {layer for layers in before for layer in layers}:
                    notes.freeze(layer, "meets an operator without a rule")
                    touched.append(collapse(layer).reshape(-1))
            labels = [NONE for _ in outs]
        for x, own in zip(outs, labels, strict=False):
            if own or LABELS in x.__dict__:
                if any(x is t for t in tensors) and notes.param(x) is not None:
                    continue
                x.__dict__[LABELS] = own
        if name in UNRECORDED:
            for x in outs:
                x.__dict__[STEP] = sources[0] if sources else -1
            return out
        for x in outs:
            x.__dict__[STEP] = len(self.tape.steps)
        if not self.tape.sized and self.sizes(func, rule, name, module, args):
            self.tape.sized = True
        self.tape.steps.append(
            Step(
                func,
                tuple([_plain(a) for a in args]),
                kwargs and {k: _plain(v) for k, v in kwargs.items()},
                before,
                shapes,
                labels,
                [tuple(x.shape) for x in outs],
                place,
                len(notes.counting) > counted,
                sources,
                notes.weights[weights:],
            )
        )
        return out


def _plain(value: Any) -> Any:
    """An argument without its tensors."""
    if isinstance(value, Tensor):
        return None
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def _run(
    model: nn.Module,
    state: State,
    notes: Notes,
    unknown: dict[tuple[str, str], list[Tensor]],
    example: Example,
    number: int,
    training: bool,
    rewritable: bool,
) -> tuple[Tape, Readers]:
    """One labelled run, on meta tensors if the network can, else on real ones."""
    readers = Readers()
    marks = [len(x) for x in (notes.couplings, notes.frozen, notes.counting, notes.rectangles)]
    weights = len(notes.weights)
    for meta in (True, False):
        tape = Tape(number, training, meta)
        try:
            with untouched(state.modules), reading() as readers:
                _watched(model, state, notes, unknown, example, tape, rewritable)
            tape.sized |= readers.widths or len(notes.rectangles) > marks[3]
            break
        except Exception as error:
            for kept, length in zip(
                (notes.couplings, notes.frozen, notes.counting, notes.rectangles),
                marks,
                strict=True,
            ):
                del kept[length:]  # type: ignore[attr-defined]
            del notes.weights[weights:]
            if not meta:
                mode = " in training mode" if training else ""
                shapes = ", ".join(str(tuple(x.shape)) for x in nested_tensors(example))
                raise UnsupportedNetworkError(
                    f"{type(model).__name__}: its forward raised{mode} on example input {number} "
                    f"of shape {shapes}: {type(error).__name__}: {' '.join(str(error).split())}"
                ) from error
    if number or training:
        del notes.weights[weights:]
    return tape, readers


def _watched(
    model: nn.Module,
    state: State,
    notes: Notes,
    unknown: dict[tuple[str, str], list[Tensor]],
    example: Example,
    tape: Tape,
    rewritable: bool,
) -> None:
    model.train(tape.training)
    with torch.inference_mode():
        swap_tensors(state.modules, stand_ins(state, tape.meta))
        args, kwargs = inputs_of(example, tape)
    tracer = Tracer(state, tape.meta, notes, unknown, tape, rewritable)
    with tracer.watching():
        out = model(*args, **kwargs)
    notes.place = "output"
    for x in nested_tensors(out):
        for layer in notes.of(x):
            notes.frozen.append((collapse(layer).reshape(-1), "reaches an output of the network"))


def inputs_of(example: Example, tape: Tape) -> Example:
    """Stand-ins for the example inputs; in training twice as many examples where there is one."""
    sizes = [x.shape[0] for x in nested_tensors(example) if x.dim()]
    double = tape.training and bool(sizes) and sizes[0] == 1

    def stand_in(x: Tensor) -> Tensor:
        x = x.detach()
        if double and x.dim() and x.shape[0] == 1:
            x = torch.cat([x, x])
        if tape.meta:
            return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")
        return x.clone()

    mapped = map_tensors(example, stand_in)
    return mapped[0], mapped[1]


def map_tensors(value: Any, change: Any) -> Any:
    """The same nest of tuples, lists, dicts and dataclasses with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(v, change) for v in value))
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(v, change) for v in value)
    if isinstance(value, Mapping):
        return type(value)({k: map_tensors(v, change) for k, v in value.items()})  # type: ignore[call-arg]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [f.name for f in dataclasses.fields(value) if f.init]
        return dataclasses.replace(
            value, **{name: map_tensors(getattr(value, name), change) for name in names}
        )
    return value


def nested_tensors(value: Any) -> list[Tensor]:
    """The tensors in a nest of tuples, lists, dicts, dataclasses and plain objects."""
    found: list[Tensor] = []
    seen: set[int] = set()

    def visit(value: Any) -> None:
        if isinstance(value, Tensor):
            found.append(value)
        elif id(value) in seen:
            return
        elif isinstance(value, Mapping):
            seen.add(id(value))
            for v in value.values():
                visit(v)
        elif isinstance(value, (list, tuple, set)):
            seen.add(id(value))
            for v in value:
                visit(v)
        elif hasattr(value, "__dict__") and not isinstance(value, (type, nn.Module)):
            seen.add(id(value))
            for v in vars(value).values():
                visit(v)
        elif hasattr(value, "__slots__"):
            seen.add(id(value))
            for name in value.__slots__:
                visit(getattr(value, name, None))

    visit(value)
    return found


# --- from notes to a graph --------------------------------------------------------------------


def _built(
    state: State,
    notes: Notes,
    unknown: Mapping[tuple[str, str], Sequence[Tensor]],
    tapes: list[Tape],
    examples: list[Example],
) -> Trace:
    graph = ChannelGraph(state.shapes)
    graph.aliases.update(state.aliases)
    axes = [(p, d) for p in state.params for d in range(len(p.shape))]
    starts = np.array([p.starts[d] for p, d in axes] or [1], dtype=np.int64)
    names = [Axis(p.name, d) for p, d in axes]

    _settle_rectangles(notes)
    left, right, record = _pairs(notes)
    owners = _owners(notes, left, right)
    ends = [because for _, _, because in notes.couplings]

    # Whoever meets an element that nobody owns stays.
    zero = (left == 0) | (right == 0)
    frozen = [(ids.numpy(), because) for ids, because in notes.frozen]
    for i in np.unique(record[zero]):
        here = zero & (record == i)
        frozen.append((np.maximum(left[here], right[here]), f"meets what stays ({ends[i]})"))
    left, right = owners[left], owners[right]
    apart = (left != right) & (left > 0) & (right > 0)
    left, right, record = left[apart], right[apart], record[apart]

    # One edge for every run of pairs that stays within a coupling and its two axes.
    a = np.searchsorted(starts, left, side="right") - 1
    b = np.searchsorted(starts, right, side="right") - 1
    changes = np.flatnonzero((np.diff(record) != 0) | (np.diff(a) != 0) | (np.diff(b) != 0)) + 1
    bounds = [0, *changes.tolist(), len(left)] if len(left) else []
    runs: dict[tuple[int, int, int], list[tuple[int, int]]] = {}
    for lo, hi in itertools.pairwise(bounds):
        runs.setdefault((int(record[lo]), int(a[lo]), int(b[lo])), []).append((lo, hi))
    for (i, first, second), spans in runs.items():
        if len(spans) == 1:
            (lo, hi) = spans[0]
            one, other = left[lo:hi], right[lo:hi]
        else:
            one = np.concatenate([left[lo:hi] for lo, hi in spans])
            other = np.concatenate([right[lo:hi] for lo, hi in spans])
        graph.couple(
            Coupling(
                names[first], names[second], one - starts[first], other - starts[second], ends[i]
            )
        )

    for atoms, because in frozen:
        for i, positions in _by_axis(owners, starts, atoms):
            graph.freeze(names[i], because, positions)
    for ids, because in notes.counting:
        for i, positions in _by_axis(owners, starts, ids.numpy()):
            graph.renormalise(names[i], because, positions)

    batch = _batch(examples)
    for weight in notes.weights:
        param = weight.param
        for dim, role in ((weight.out_dim, "out"), (weight.in_dim, "in")):
            graph.add(Axis(param.name, dim), role)
            if param.shape[dim] == 1:
                graph.freeze(Axis(param.name, dim), "has a single channel")
        so_far = graph.positions.get(param.name, 0)
        graph.positions[param.name] = so_far + round(weight.positions / batch)
    for alias, name in state.aliases.items():
        for d, size in enumerate(state.shapes[name]):
            every = np.arange(size)
            if Axis(name, d) in graph.graph:
                same = Coupling(Axis(name, d), Axis(alias, d), every, every, "the same tensor")
                graph.couple(same)
    for (operator, module), touched in unknown.items():
        atoms = np.unique(torch.cat(list(touched)).numpy())
        graph.unknown.append(UnknownOperator(operator, module, int((owners[atoms] > 0).sum())))
    return Trace(graph, tapes, examples, state, owners)


def _pairs(notes: Notes) -> tuple[Indices, Indices, Indices]:
    """All couplings end to end: the atoms on either side and the number of the coupling."""
    if not notes.couplings:
        nothing = np.empty(0, dtype=np.int64)
        return nothing, nothing, nothing
    left = torch.cat([a for a, _, _ in notes.couplings]).numpy()
    right = torch.cat([b for _, b, _ in notes.couplings]).numpy()
    lengths = [len(a) for a, _, _ in notes.couplings]
    return left, right, np.repeat(np.arange(len(lengths)), lengths)


def _components(notes: Notes) -> Indices:
    """Shape (atoms + 1,): the unit of every atom; 0 is nobody's and joins nothing."""
    left, right, _ = _pairs(notes)
    joins = (left > 0) & (right > 0)
    return components(left[joins], right[joins], notes.atoms + 1)


def _settle_rectangles(notes: Notes) -> None:
    """Layers that still vary along several dimensions lose whole columns.

    A view that splits channels into (groups, channels), or heads, has a layer that varies along
    both. What stays must be a rectangle. Operators further on may have settled that: a pixel
    shuffle by views ties the r*r positions of a channel, because the next convolution runs over
    them. Only what they leave open is decided here: column j of one row goes with column j of
    every other.
    """
    todo = list(notes.rectangles)
    while todo:
        unit = _components(notes)
        later: list[tuple[Layer, str]] = []
        decided = np.zeros(len(unit), dtype=bool)
        for layer, place in todo:
            ids = collapse(layer)
            units = unit[ids.numpy()]
            if decided[units].any():  # an earlier view had its say: look again afterwards
                later.append((layer, place))
                continue
            dims = varies(settle(torch.from_numpy(units)))
            if len(dims) > 1:
                notes.place = place
                notes.couple(ids, collapse(ids, dims[:-1]))
                decided[units] = True
        todo = later
    notes.rectangles.clear()


def _owners(notes: Notes, left: Indices, right: Indices) -> Indices:
    """For every atom the real atom that decides for it: virtual ones ask whom they met."""
    owners = np.arange(notes.atoms + 1)
    if notes.atoms == notes.real:
        return owners
    virtual = ((left > notes.real) | (right > notes.real)) & (left > 0) & (right > 0)
    size = notes.atoms + 1
    unit = components(left[virtual], right[virtual], size)
    first = np.zeros(size, dtype=np.int64)
    real = np.arange(notes.real, 0, -1)
    first[unit[real]] = real
    owners[notes.real + 1 :] = first[unit[notes.real + 1 :]]
    owners[0] = 0
    return owners


def _by_axis(owners: Indices, starts: Indices, atoms: Indices) -> Iterator[tuple[int, Indices]]:
    """Atoms sorted by axis, as (number of the axis, positions on it)."""
    real = np.unique(owners[atoms])
    real = real[real > 0]
    if not len(real):
        return
    axis = np.searchsorted(starts, real, side="right") - 1
    cuts = np.flatnonzero(np.diff(axis)) + 1
    for part in np.split(np.arange(len(real)), cuts):
        i = int(axis[part[0]])
        yield i, real[part] - starts[i]


def by_axis(trace: Trace, atoms: Indices) -> Iterator[tuple[Axis, Indices]]:
    """The axes of atoms, and their positions on each."""
    axes = [(p, d) for p in trace.state.params for d in range(len(p.shape))]
    starts = np.array([p.starts[d] for p, d in axes] or [1], dtype=np.int64)
    for i, positions in _by_axis(trace.owners, starts, atoms):
        yield Axis(axes[i][0].name, axes[i][1]), positions


def _batch(examples: Sequence[Example]) -> int:
    for x in nested_tensors(examples[0]):
        if x.dim():
            return max(int(x.shape[0]), 1)
    return 1


BoolMask = npt.NDArray[np.bool_]
