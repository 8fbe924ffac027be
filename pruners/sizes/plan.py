"""Planning: which expressions and attributes change so that every size is right."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from inspect import signature
from typing import Any

from torch import nn

from pruners.channel_graph import Kept
from pruners.describe import layer_base
from pruners.errors import PrunerError, WriterError
from pruners.origin import is_library, text_of
from pruners.rehearsal import edited_code
from pruners.replay import Correction, DoesNotFitError, Frame, Problem, replay, step_of
from pruners.sizes.arguments import sizes_of
from pruners.sizes.evaluate import computed, value_of
from pruners.sizes.rewrites import Edit, KeptScale, NewAttribute, NewValue, Rewrites, edited
from pruners.sizes.said import RefusedError, Size, brief, refusal
from pruners.sizes.syntax import File, chain_of, file_of, one_line
from pruners.tracing import Trace


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
                again = replay(model, trace, kept, tape, meta=tape.meta, prepare=found.apply)
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


# --- from an expression to the number in it -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Number:
    """A part of an expression that could change, and what it would become."""

    node: ast.expr
    new: Any
    rank: int


class _Planner:
    def __init__(self, model: nn.Module, ran: Set[str]) -> None:
        self.model = model
        self.ran = ran
        self.sizes: dict[int, list[Size]] = {}
        """By the id of the expression that says them."""
        self.modules = dict(model.named_modules())
        self.types = {type(module) for module in self.modules.values()}
        self.homes = {c.__module__ for t in self.types for c in t.__mro__}
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
                return  # nothing to do there, nothing to know of it
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

    def _settle(self, pending: Mapping[int, list[Size]]) -> dict[int, list[Size]]:
        """Decide for every expression which number changes; what is left is one definition on."""
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
            for node, values in self._numbers(sizes):
                if id(node) in chosen:
                    _, more = chosen[id(node)]
                    more += values
                else:
                    chosen[id(node)] = (node, values)
        done: set[int] = set()
        for key, (node, values) in chosen.items():
            if key in done:
                continue
            uses = self._all_uses(node, values)
            if uses and all(id(use) in chosen for use in uses):
                together = [v for use in uses for v in chosen[id(use)][1]]
                if _agree(together) and self._define(node, together, further):
                    done |= {id(use) for use in uses}
                    continue
            if not all(self._is_fixed(node, size, 0) for size, _ in values):
                raise refusal(
                    values[0][0].correction,
                    f"`{one_line(node)}` rests on an argument that says more than this size",
                )
            self._replace(node, values)
            done.add(key)
        return further

    # -- which number

    def _numbers(self, sizes: Sequence[Size]) -> list[tuple[ast.expr, list[tuple[Size, Any]]]]:
        """The part of an expression that is to change, with its new value for every instance."""
        first = next(size for size in sizes if size.given != size.needed)
        candidates = sorted(
            self._candidates(first.expr, first, first.given, first.needed), key=lambda n: n.rank
        )
        for candidate in candidates:
            values: list[tuple[Size, Any]] = []
            for size in sizes:
                mine = self._candidates(size.expr, size, size.given, size.needed)
                found = [n for n in mine if n.node is candidate.node]
                if size.given == size.needed:
                    values.append((size, value_of(candidate.node, size.frames[0])))
                elif found:
                    values.append((size, found[0].new))
                else:
                    break
            else:
                return [(candidate.node, values)]
        raise refusal(first.correction, f"`{one_line(first.expr)}` {self._why_not(first)}")

    def _why_not(self, size: Size) -> str:
        """Why no number in an expression can be rewritten."""
        names = [n for n in ast.walk(size.expr) if isinstance(n, ast.Name)]
        kinds = {n.id: self._definition(n, size)[0] for n in names}
        unclear = [name for name, kind in kinds.items() if kind == "unknown"]
        if unclear:
            return f"rests on `{unclear[0]}`, which is not assigned once, as `name = value`"
        given = [name for name, kind in kinds.items() if kind == "argument"]
        if given and given != ["self"]:
            return f"rests on the argument `{given[-1]}`, and no caller says a number for it"
        return "holds no number that could say it"

    def _candidates(self, expr: ast.expr, size: Size, given: Any, needed: Any) -> list[_Number]:
        if not self._is_plain(expr, size, 0):
            return self._within(expr, size, given, needed)
        whole = _Number(expr, needed, 3)
        return [*self._within(expr, size, given, needed), whole]

    def _within(self, expr: ast.expr, size: Size, given: Any, needed: Any) -> list[_Number]:
        frame = size.frames[0]
        pair = isinstance(given, int) and (given, needed) in size.correction.widths
        rank = 0 if pair else 1
        match expr:
            case ast.Constant(int()):
                return [_Number(expr, needed, rank)]
            case ast.Name() | ast.Attribute() | ast.Subscript():
                if self._is_plain(expr, size, 0):
                    return [_Number(expr, needed, rank)]
            case ast.UnaryOp(ast.USub(), inner):
                return self._within(inner, size, -given, -needed)
            case ast.BinOp(left, op, right) if isinstance(given, int):
                found: list[_Number] = []
                a, b = value_of(left, frame), value_of(right, frame)
                # Where a factor cannot be told, it is what is left of the product.
                if isinstance(op, ast.Mult):
                    a = given // b if a is None and b else a
                    b = given // a if b is None and a else b
                if computed(op, a, b) != given:
                    return []  # a name in it has had another value since
                for inner, old, other in ((left, a, b), (right, b, a)):
                    new = _solved(op, inner is left, other, needed)
                    if isinstance(old, int) and new is not None:
                        found += self._within(inner, size, old, new)
                return found
        return []

    def _is_plain(self, expr: ast.expr, size: Size, depth: int) -> bool:
        """Whether an expression is made of numbers alone, and not of what tensors are."""
        if depth > 8:
            return False
        match expr:
            case ast.Constant(int() | float()):
                return True
            case ast.UnaryOp(_, inner):
                return self._is_plain(inner, size, depth + 1)
            case ast.BinOp(left, _, right):
                return self._is_plain(left, size, depth) and self._is_plain(right, size, depth)
            case ast.Tuple(elts) | ast.List(elts):
                return all(self._is_plain(e, size, depth + 1) for e in elts)
            case ast.Call(ast.Name("int" | "len" | "max" | "min"), args, []):
                return all(self._is_plain(a, size, depth + 1) for a in args)
            case ast.Name(name):
                kind, node, frames = self._definition(expr, size)
                if kind == "global":
                    return isinstance(size.frames[0].globals.get(name), (int, tuple, list))
                if node is None or not frames:
                    return False
                there = dataclasses.replace(size, expr=node, frames=frames)
                return self._is_plain(node, there, depth + 1)
            case ast.Attribute() | ast.Subscript():
                chain = chain_of(expr)
                return chain is not None and self._is_own(chain, size)
        return False

    def _is_own(self, chain: tuple[str | int, ...], size: Size) -> bool:
        """Whether `self.a.b` leads through plain values only, to a number or a list of them."""
        value: Any = self.modules.get(size.holder or "") if size.holder is not None else None
        for part in chain:
            if value is None or (isinstance(value, nn.Module) and part in value._modules):
                return False
            if isinstance(value, nn.Module) and isinstance(
                getattr(type(value), str(part), None), property
            ):
                return False
            value = value[part] if isinstance(part, int) else _member(value, part)
        numbers = value if isinstance(value, (tuple, list)) else [value]
        return all(isinstance(n, int) for n in numbers) and bool(numbers)

    # -- what defines a name

    def _definition(
        self, name: ast.expr, size: Size
    ) -> tuple[str, ast.expr | None, tuple[Frame, ...]]:
        """What a name stands for: ("local", the assigned expression, its frames), ("argument",
        the expression that the caller gives, the caller's frames) or ("global", None, ())."""
        assert isinstance(name, ast.Name)
        file = size.file
        function = file.function(name)
        if function is None:
            return "global", None, ()
        assigned = [
            n
            for n in ast.walk(function)
            if isinstance(n, ast.Name) and n.id == name.id and isinstance(n.ctx, ast.Store)
        ]
        arguments = _arguments(function)
        if assigned:
            statement = file.parents.get(assigned[0])
            if len(assigned) == 1 and name.id not in arguments:
                match statement:
                    case ast.Assign([ast.Name()], value) | ast.AnnAssign(ast.Name(), value=value):
                        return ("local" if value else "unknown"), value, size.frames
                    case ast.Tuple() | ast.List() if found := self._unpacked(file, statement, name):
                        return "local", found, size.frames
            return "unknown", None, ()
        if name.id in arguments:
            return "argument", *self._given(name.id, function, size)
        if name.id in size.frames[0].values and file.function(function) is not None:
            return "unknown", None, ()  # of a function around
        return "global", None, ()

    @staticmethod
    def _unpacked(file: File, targets: ast.Tuple | ast.List, name: ast.Name) -> ast.expr | None:
        """`a, b = 16, 32` gives 32 for b."""
        places = [
            i for i, t in enumerate(targets.elts) if isinstance(t, ast.Name) and t.id == name.id
        ]
        if any(isinstance(t, ast.Starred) for t in targets.elts):
            return None
        match file.parents.get(targets):
            case ast.Assign([ast.Tuple() | ast.List()], ast.Tuple(values) | ast.List(values)):
                return values[places[0]] if len(values) == len(targets.elts) else None
        return None

    def _given(
        self, name: str, function: ast.AST, size: Size
    ) -> tuple[ast.expr | None, tuple[Frame, ...]]:
        """The expression that the caller gives for an argument."""
        outer = size.frames[1:]
        if not outer or isinstance(function, ast.Lambda):
            return None, ()
        assert isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        try:
            caller = file_of(outer[0].globals["__name__"])
        except WriterError:
            return None, ()
        call = caller.running(outer[0], ast.Call)
        if call is None or any(isinstance(a, ast.Starred) for a in call.args):
            return None, ()
        if not self._calls(call, outer[0], function.name, size):
            return None, ()  # a decorator, say, hands the arguments on
        names = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
        if names and names[0] in ("self", "cls") and size.file.class_path(function):
            names = names[1:]
        for keyword in call.keywords:
            if keyword.arg == name:
                return keyword.value, outer
        if name in names and names.index(name) < len(call.args):
            return call.args[names.index(name)], outer
        return None, ()

    def _calls(self, call: ast.Call, frame: Frame, function: str, size: Size) -> bool:
        """Whether a call is one of the function by its name, or of the module with its forward."""
        if one_line(call.func).rpartition(".")[2] == function:
            return True
        module = self._module_called(call.func, frame)
        known = self.modules.get(size.holder or "") if size.holder is not None else None
        return function == "forward" and module is not None and module is known

    def _module_called(self, func: ast.expr, frame: Frame) -> Any:
        chain = chain_of(func)
        if chain is None:
            return value_of(func, frame)
        value: Any = frame.values.get("self")
        for part in chain:
            try:
                value = value[part] if isinstance(part, int) else getattr(value, part, None)
            except (KeyError, IndexError, TypeError):
                return None
        return value

    def _to_callers(self, expr: ast.expr, size: Size) -> tuple[list[int], list[Size]] | None:
        """Where all that a function does with an argument is to say a size: the places in it, and
        the sizes as its callers say them.
        """
        if not isinstance(expr, ast.Name):
            return None
        uses = self._uses(expr, size)
        if not uses or any(id(use) not in self.sizes for use in uses):
            return None
        moved: list[Size] = []
        for said in (said for use in uses for said in self.sizes[id(use)]):
            kind, definition, frames = self._definition(said.expr, said)
            if kind != "argument" or definition is None:
                return None
            moved.append(dataclasses.replace(said, expr=definition, frames=frames))
        return [id(use) for use in uses], moved

    # -- where it changes

    def _is_fixed(self, expr: ast.expr, size: Size, depth: int) -> bool:
        """Whether an expression says the same in every call: a constant may stand for it."""
        for node in ast.walk(expr):
            if not isinstance(node, ast.Name) or node.id == "self" or depth > 8:
                continue
            kind, definition, frames = self._definition(node, size)
            if kind == "argument":
                return False
            if definition is not None:
                there = dataclasses.replace(size, expr=definition, frames=frames)
                if not self._is_fixed(definition, there, depth + 1):
                    return False
        return depth <= 8

    def _all_uses(self, node: ast.expr, values: Sequence[tuple[Size, Any]]) -> list[ast.expr]:
        """Of all modules that read it; empty where some of them are not known."""
        found: dict[int, ast.expr] = {}
        kinds = {type(self.modules.get(s.holder or "")): s for s, _ in values}
        for size in kinds.values():
            uses = self._uses(node, size)
            if not uses:
                return []
            found.update((id(use), use) for use in uses)
        return list(found.values())

    def _uses(self, node: ast.expr, size: Size) -> list[ast.expr]:
        """All places that read the name or attribute; empty for a number that stands alone."""
        file = size.file
        if isinstance(node, ast.Name):
            function = file.function(node)
            kind, definition, _ = self._definition(node, size)
            if function is None or definition is None or kind == "global":
                return []
            return [
                n
                for n in ast.walk(function)
                if isinstance(n, ast.Name) and n.id == node.id and isinstance(n.ctx, ast.Load)
            ]
        chain = chain_of(node)
        if chain is None:
            return []
        if self._is_of_layer(chain, size):
            return [node]  # torch's own methods read it as well, and mean the same
        found: list[ast.expr] = []
        holder = self.modules.get(size.holder or "")
        for cls in type(holder).__mro__:
            if not issubclass(cls, nn.Module) or cls.__module__.startswith("torch."):
                continue
            found += file_of(cls.__module__).reads(cls.__qualname__, chain)
        if self._read_elsewhere(str(chain[0])):
            return []
        return found

    def _is_of_layer(self, chain: tuple[str | int, ...], size: Size) -> bool:
        """Whether the attribute is one that a layer of torch is built with."""
        holder = self.modules.get(size.holder or "")
        base = layer_base(type(holder)) if holder is not None else None
        return base is not None and len(chain) == 1 and chain[0] in signature(base).parameters

    def _read_elsewhere(self, name: str) -> bool:
        """Whether methods of the network read an attribute of this name of anything but `self`."""
        homes = {
            cls.__module__
            for kind in self.types
            for cls in kind.__mro__
            if issubclass(cls, nn.Module) and not cls.__module__.startswith("torch.")
        }
        return any(file_of(home).is_read_of_others(name) for home in homes)

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
            kind, definition, frames = self._definition(node, size)
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
        absent = {path: self._said(node, path, size) for path in others - self.ran}
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
            why = f"`{one_line(node)}` stands in {unknown[0]}, too, which does not run"
            raise refusal(size.correction, why)
        known = {s.holder: v for (s, _), v in zip(values, new, strict=True)}
        for path in holders:
            self._set(size.correction, path, (name,), known.get(path, absent.get(path)))
        self._edit(size, node, NewAttribute(name))

    def _said(self, node: ast.expr, path: str, size: Size) -> Any:
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


def _member(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else getattr(value, name, None)


def _solved(op: ast.operator, left: bool, other: Any, needed: int) -> int | None:
    """What one side of an operation must be so that the whole is `needed`."""
    if not isinstance(other, int):
        return None
    match op:
        case ast.Mult():
            return needed // other if other and needed % other == 0 else None
        case ast.Add():
            return needed - other
        case ast.Sub():
            return needed + other if left else other - needed
    return None


def _arguments(function: ast.AST) -> set[str]:
    assert isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    args = function.args
    return {a.arg for a in (*args.posonlyargs, *args.args, *args.kwonlyargs)}


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
