"""Planning: which expressions and attributes change so that every size is right.

What is planned is rehearsed (`refused`): a run with the edited source has the last word.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from torch import nn

from pruners.channel_graph import Kept
from pruners.errors import PrunerError
from pruners.origin import is_library, text_of
from pruners.rehearsal import edited_code
from pruners.replay import Correction, DoesNotFitError, Problem, Replayed, replay, step_of
from pruners.sizes.arguments import sizes_of
from pruners.sizes.evaluate import value_of
from pruners.sizes.names import Names
from pruners.sizes.numbers import number_in
from pruners.sizes.rewrites import Edit, KeptScale, NewAttribute, NewValue, Rewrites, edited
from pruners.sizes.said import RefusedError, Size, brief, refusal
from pruners.sizes.syntax import File, chain_of, file_of, one_line
from pruners.tracing import Tape, Trace


def refused(
    model: nn.Module, trace: Trace, kept: Kept, corrections: Sequence[Correction]
) -> Problem | None:
    """What cannot be made right in the source, and why; None where all can.

    The network runs with its source edited: no size may be wrong then, in any run.
    """
    wrong = next(c for c in corrections if c.given != c.needed)
    try:
        found = rewrites(model, trace, corrections)
        texts = {name: edited(text_of(name), edits).code for name, edits in found.edits.items()}
        ran = [(f.globals["__name__"], f.code) for c in corrections for f in c.frames]
        with edited_code(texts, ran):
            for number, tape in enumerate(trace.tapes):
                again = _rehearsed(model, trace, kept, tape, found)
                for c in again.corrections:
                    c = dataclasses.replace(c, tape=number)
                    raise refusal(c, "a rewrite does not reach it")
    except RefusedError as error:
        return Problem(step_of(trace, error.correction), error.reason)
    except DoesNotFitError as error:
        return Problem(error.step, f"{error.reason} once the sizes are rewritten, {wrong.place}")
    except PrunerError as error:
        return Problem(step_of(trace, wrong), f"{wrong.place}: {error}")
    return None


def _rehearsed(model: nn.Module, trace: Trace, kept: Kept, tape: Tape, found: Rewrites) -> Replayed:
    """A run of the edited source; PrunerError where the forward itself raises."""
    try:
        return replay(model, trace, kept, tape, meta=tape.meta, prepare=found.apply)
    except (DoesNotFitError, PrunerError):
        raise
    except Exception as error:
        why = " ".join(str(error).split())[:200]
        raise PrunerError(f"with other sizes it raises {type(error).__name__}: {why}") from error


def rewrites(model: nn.Module, trace: Trace, corrections: Sequence[Correction]) -> Rewrites:
    """How the source and the attributes of the network must change.

    Args:
        corrections: of all runs, right sizes too (`replay.corrections_of`).

    Raises:
        PrunerError: a size cannot be rewritten; names file, line and expression.
    """
    return _Planner(model, _ran(trace)).plan(corrections)


def _ran(trace: Trace) -> set[str]:
    """The modules in which an operator ran."""
    paths = {step.place.rpartition(": ")[0] for tape in trace.tapes for step in tape.steps}
    parts = [path.split(".") for path in paths]
    return {".".join(names[:i]) for names in parts for i in range(len(names) + 1)}


class _Planner:
    def __init__(self, model: nn.Module, ran: Set[str]) -> None:
        self.ran = ran
        self.sizes: dict[int, list[Size]] = {}
        """By the id of the expression that says them."""
        self.modules = dict(model.named_modules())
        self.names = Names(self.modules)
        self.untold: set[str | None] = set()
        """Modules with a size that is right, of which it is not known what says it."""
        self.homes = {c.__module__ for t in self.names.types for c in t.__mro__}
        self.result = Rewrites()

    def plan(self, corrections: Sequence[Correction]) -> Rewrites:
        for c in corrections:
            if self._of_layer(c):
                continue
            for size in self._sizes(c):
                self.sizes.setdefault(id(size.expr), []).append(size)
        self._keep_scales([c for c in corrections if c.argument == "scale"])
        pending = {key: found for key, found in self.sizes.items() if _wrong(found)}
        while pending:
            further = self._settle(pending)
            for key, found in further.items():
                self.sizes.setdefault(key, []).extend(found)
            pending = {key: found for key, found in further.items() if _wrong(found)}
        return self.result

    def _sizes(self, c: Correction) -> Iterator[Size]:
        if c.given == c.needed:
            try:
                yield from sizes_of(c)
            except RefusedError:
                # Nothing to do there, as long as nothing else changes what says it.
                self.untold |= {frame.module for frame in c.frames}
                return
        else:
            found = list(sizes_of(c))
            if c.argument != "scale" and all(s.given == s.needed for s in found):
                raise refusal(c, "no number says so")
            yield from found

    def _of_layer(self, c: Correction) -> bool:
        """Sizes that a layer of torch says itself follow its attribute."""
        layer = self.modules.get(c.module)
        if not isinstance(layer, nn.Unflatten):
            return False
        if c.given != c.needed:
            shape = layer.unflattened_size
            if not all(isinstance(n, int) for n in shape):
                raise refusal(c, f"{c.module} names its dimensions")
            new = tuple(c.needed[c.dim : c.dim + len(shape)])
            self._set(c, c.module, ("unflattened_size",), new)
        return True

    def _keep_scales(self, corrections: Sequence[Correction]) -> None:
        """Attentions without a scale of their own go on with that of their full width."""
        calls: dict[int, tuple[ast.expr, list[Size]]] = {}
        for c in corrections:
            file = file_of(c.frames[0].globals["__name__"]) if c.frames else None
            call = file.running(c.frames[0], ast.Call) if file else None
            if call is None or not one_line(call.func).endswith("scaled_dot_product_attention"):
                raise refusal(c, "the scale of the attention cannot be kept")
            found = calls.setdefault(id(call), (call, []))[1]
            found.append(Size(call, c.frames, c.given, c.needed, c))
        for attention, sizes in calls.values():
            if not _wrong(sizes):
                continue
            full = {size.holder: size.needed for size in sizes}
            if len(set(full.values())) == 1:
                self._edit(sizes[0], attention, KeptScale(sizes[0].needed))
                continue
            holders = self._holders(sizes[0].file, attention)
            if any(path not in holders for path in full):
                raise refusal(sizes[0].correction, "the scales of the attention differ")
            name = "scale"
            if any(getattr(self.modules[p or ""], name, 0) != n**-0.5 for p, n in full.items()):
                name = self._free_name("attention_scale", holders)
                for path in holders:
                    scale = full[path] ** -0.5 if path in full else None
                    self._set(sizes[0].correction, path, (name,), scale)
            self._edit(sizes[0], attention, KeptScale(0, name))

    # Where a number changes, in the order in which it is tried:
    #
    # - at the callers, if all that the function does with its argument is to say sizes: then they
    #   say the number;
    # - where it is defined, if all its uses are known, all are to change, and agree in what every
    #   module needs: an attribute gets another value, and of a local name the expression that it
    #   was assigned is what says the size from now on;
    # - where it stands, if the expression is the same in every call: as a constant, or as a new
    #   attribute if modules need different ones.
    #
    # What the first two lead to are sizes again, one definition on, for the next round of `plan`.

    def _settle(self, pending: Mapping[int, list[Size]]) -> dict[int, list[Size]]:
        """Decide for every expression which number changes, and where; gives the next round."""
        chosen: dict[int, tuple[ast.expr, list[tuple[Size, Any]]]] = {}
        further: dict[int, list[Size]] = {}
        moved: set[int] = set()
        for key, sizes in pending.items():
            if key in moved:
                continue
            at_callers = self._to_callers(sizes[0].expr, sizes[0])
            if at_callers is not None:
                moved.update(at_callers[0])
                for size in at_callers[1]:
                    further.setdefault(id(size.expr), []).append(size)
                continue
            sizes = _once_an_instance(sizes)
            node, values = number_in(sizes, self.names)
            chosen.setdefault(id(node), (node, []))[1].extend(values)
        done: set[int] = set()
        for key, (node, values) in chosen.items():
            if key in done:
                continue
            uses = self.names.all_uses(node, (size for size, _ in values))
            if uses and all(id(use) in chosen for use in uses):
                together = [v for use in uses for v in chosen[id(use)][1]]
                if _agree(together) and self._define(node, together, further):
                    done |= {id(use) for use in uses}
                    continue
            if not all(self.names.is_fixed(node, size) for size, _ in values):
                raise refusal(
                    values[0][0].correction,
                    f"`{one_line(node)}` rests on an argument that says more than this size",
                )
            self._replace(node, values)
            done.add(key)
        return further

    def _to_callers(self, expr: ast.expr, size: Size) -> tuple[list[int], list[Size]] | None:
        """Where all that a function does with an argument is to say a size: the places in it, and
        the sizes as its callers say them.
        """
        if not isinstance(expr, ast.Name):
            return None
        uses = self.names.uses(expr, size)
        if not uses or any(id(use) not in self.sizes for use in uses):
            return None
        moved: list[Size] = []
        for said in (said for use in uses for said in self.sizes[id(use)]):
            kind, definition, frames = self.names.definition(said.expr, said)
            if kind != "argument" or definition is None:
                return None
            moved.append(dataclasses.replace(said, expr=definition, frames=frames))
        return [id(use) for use in uses], moved

    def _define(
        self,
        node: ast.expr,
        values: Sequence[tuple[Size, Any]],
        further: dict[int, list[Size]],
    ) -> bool:
        """Change what all uses read: the attribute's value, or the definition of the name."""
        chain = chain_of(node) if not isinstance(node, ast.Name) else None
        if chain is not None:
            for size, new in values:
                old = value_of(node, size.frames[0])
                value = type(old)(new) if isinstance(old, (tuple, list)) else new
                if new != old and not (isinstance(old, (tuple, list)) and list(old) == list(new)):
                    self._set(size.correction, size.holder or "", chain, value)
            return True
        moved: list[Size] = []
        for size, new in values:
            kind, definition, frames = self.names.definition(node, size)
            if definition is None or kind not in ("local", "argument"):
                return False
            old = value_of(node, size.frames[0])
            moved.append(
                dataclasses.replace(size, expr=definition, frames=frames, given=old, needed=new)
            )
        for size in moved:
            further.setdefault(id(size.expr), []).append(size)
        return True

    def _replace(self, node: ast.expr, values: Sequence[tuple[Size, Any]]) -> None:
        """Put a constant, or an attribute where instances differ, in the place of a number."""
        size = values[0][0]
        new = [_plain_value(v) for _, v in values]
        file = size.file
        holders = self._holders(file, node)
        # A module that does not run keeps the number that it has; one that runs and does not come
        # by needs none.
        others = set(holders) - {s.holder for s, _ in values}
        absent = {
            path: self._value_in(node, path, size)
            for path in others
            if path not in self.ran or path in self.untold
        }
        if all(v == new[0] for v in (*new, *absent.values())):
            same = tuple(new[0]) if isinstance(value_of(node, size.frames[0]), tuple) else new[0]
            self._edit(size, node, NewValue(same))
            return
        if not holders or any(s.holder not in holders for s, _ in values):
            needs = " and ".join(sorted(set(map(str, new))))
            why = f"`{one_line(node)}` would need {needs} in a function that several modules call"
            raise refusal(size.correction, why)
        name = self._free_name(_name_for(size, node), holders)
        unknown = [path for path, value in absent.items() if value is None]
        if unknown:
            why = f"`{one_line(node)}` stands in {unknown[0]}, too, where its value is not known"
            raise refusal(size.correction, why)
        known = {s.holder: v for (s, _), v in zip(values, new, strict=True)}
        for path in holders:
            self._set(size.correction, path, (name,), known.get(path, absent.get(path)))
        self._edit(size, node, NewAttribute(name))

    def _value_in(self, node: ast.expr, path: str, size: Size) -> Any:
        """What a number is in a module whose method did not run; None where it cannot be told."""
        frame = dataclasses.replace(size.frames[0], values={"self": self.modules[path]})
        return _plain_value(value_of(node, frame))

    def _holders(self, file: File, node: ast.expr) -> list[str]:
        """The modules of the network that have the method in which a node stands."""
        qualified = file.class_path(node)
        return [
            path
            for path, module in self.modules.items()
            if qualified
            and any(
                c.__module__ == file.name and c.__qualname__ == qualified
                for c in type(module).__mro__
            )
        ]

    def _free_name(self, name: str, holders: Sequence[str]) -> str:
        number = 1
        while True:
            choice = name if number == 1 else f"{name}_{number}"
            taken = any(
                hasattr(self.modules[p], choice) or (choice,) in self.result.attributes.get(p, {})
                for p in holders
            )
            if not taken:
                return choice
            number += 1

    # -- what is written down

    def _set(self, c: Correction, path: str, chain: tuple[str | int, ...], value: Any) -> None:
        known = self.result.attributes.setdefault(path, {})
        if chain in known and known[chain] != value:
            raise refusal(c, f"{path}.{chain[0]} runs twice and would need both")
        known[chain] = value

    def _edit(self, size: Size, node: ast.expr, edit: Edit) -> None:
        file = size.file
        if is_library(file.name) and file.name not in self.homes:
            raise refusal(size.correction, f"{file.name} is a library")
        self.result.edits.setdefault(file.name, {})[file.span(node)] = edit


def _wrong(sizes: Sequence[Size]) -> bool:
    return any(size.given != size.needed for size in sizes)


def _once_an_instance(sizes: Sequence[Size]) -> list[Size]:
    """One size for every module that runs the expression; they must need one number each."""
    found: dict[str | None, Size] = {}
    for size in sizes:
        known = found.setdefault(size.holder, size)
        if known.needed != size.needed:
            wrong, other = (size, known) if size.given != size.needed else (known, size)
            also = brief(other.needed)
            why = f"`{one_line(size.expr)}` runs twice and would have to be {also}, too"
            raise refusal(wrong.correction, why)
        if known.given != size.given:
            raise refusal(size.correction, f"`{one_line(size.expr)}` changes from run to run")
    return list(found.values())


def _agree(values: Sequence[tuple[Size, Any]]) -> bool:
    """Whether every module needs one new value at all uses."""
    known: dict[str | None, Any] = {}
    return all(
        known.setdefault(size.holder, _plain_value(new)) == _plain_value(new)
        for size, new in values
    )


def _plain_value(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


_NAMES = {
    "view": "view_channels",
    "reshape": "view_channels",
    "expand": "expanded_channels",
    "unflatten": "unflattened_channels",
    "split": "split_size",
    "slice": "slice_channels",
    "narrow": "slice_channels",
}


def _name_for(size: Size, node: ast.expr) -> str:
    """What a person would call the number."""
    if size.correction.operator in ("view", "reshape") and node is not size.expr:
        return "channels"
    if size.correction.operator in ("view", "reshape") and isinstance(node, ast.Constant):
        return "flat_features"
    operator = size.correction.operator
    if operator in ("pad", "constant_pad_nd"):
        return "padding_after" if size.index % 2 else "padding_before"
    return _NAMES.get(operator, f"{operator.strip('_')}_channels")
