"""The text of one generated class: docstring, class attributes, `__init__`, kept methods."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import takewhile
from typing import Any

import libcst as cst

from pruners import describe, initialisation, origin
from pruners.class_plan import ClassPlan, Context, is_container_path, shared_modules
from pruners.definitions import Node, without_foreign_decorators
from pruners.expressions import (
    ABSENT,
    SUPER,
    Argument,
    Call,
    Dictionary,
    Display,
    Either,
    Expr,
    Imports,
    Literal,
    Maybe,
    Reference,
    Variable,
    Verbatim,
    checked_identifier,
    filled,
    is_plain_name,
    to_code,
)


class ClassText:
    """Builds the definitions of the network's classes."""

    def __init__(self, context: Context, plans: Mapping[type, ClassPlan]) -> None:
        self.context = context
        self.plans = plans

    def _local(self, node: Node, source: origin.ModuleSource) -> Node:
        return self.context.definitions.localised(node, source)

    def definition(self, plan: ClassPlan) -> cst.ClassDef:
        """The class as it stands in the file."""
        reference = to_code(describe.nn_reference(plan.base), self.context.imports)
        body: list[cst.BaseStatement] = []
        first = plan.node.body.body[0]
        init = self._init(plan)
        if _is_docstring(first):
            body.append(_documented(cst.ensure_type(first, cst.SimpleStatementLine), init))
        body += self._class_attributes(plan)
        if init is not None:
            body.append(init)
        for nodes, source in plan.methods.values():
            body += [_spaced(self._local(node, source)) for node in nodes]
        comments = [line for line in plan.node.leading_lines if line.comment is not None]
        kept = without_foreign_decorators(plan.node, plan.source).decorators
        return cst.ClassDef(
            name=cst.Name(plan.name),
            bases=[cst.Arg(reference)],
            decorators=[
                d.with_changes(decorator=self._local(d.decorator, plan.source)) for d in kept
            ],
            leading_lines=comments,
            body=cst.IndentedBlock(body or [cst.parse_statement("pass")]),
        )

    def _class_attributes(self, plan: ClassPlan) -> list[cst.BaseStatement]:
        """The assignments in the class body that kept code reads."""
        read: set[str] = set()
        for other in self.plans.values():
            read |= other.other_reads
        read |= plan.own_reads
        found: dict[str, cst.BaseStatement] = {}
        for cls, source in plan.lineage:
            for statement in source.class_node(cls).body.body:
                if isinstance(statement, cst.SimpleStatementLine):
                    for name in origin.defined_names(statement):
                        own = name in plan.instances[0].__dict__
                        # The version of a module travels with its state_dict.
                        wanted = name in read or name == "_version"
                        if wanted and not own and name not in found:
                            found[name] = self._local(statement, source)
        return list(found.values())

    def _init(self, plan: ClassPlan) -> cst.FunctionDef | None:
        constructor = plan.constructor
        params = [cst.Param(cst.Name("self"))]
        for parameter in constructor.parameters:
            annotation, needs = _annotation(parameter.values, parameter.default)
            for need in needs:
                self.context.imports.need(*need)
            default = parameter.default
            params.append(
                cst.Param(
                    cst.Name(checked_identifier(parameter.name)),
                    annotation=cst.Annotation(cst.parse_expression(annotation)),
                    default=None if default is None else to_code(default, self.context.imports),
                )
            )
        if plan.instances == [self.context.network]:
            params += self._root_parameters(plan)
        taken = {p.name.value for p in params}
        for name, value in plan.init_arguments.items():
            if name not in taken:
                params.append(cst.Param(cst.Name(name), default=value, annotation=_of(plan, name)))
        layouts: dict[str, initialisation.Layout] = {}
        for original, _ in plan.inits:
            layouts = initialisation.layouts(original) | layouts
        made = constructor.body.get(SUPER, Call(Reference(SUPER)))
        body: list[cst.BaseStatement] = self._assignment(plan, SUPER, made)
        signature = cst.Parameters(params)
        if plan.holds_layers:
            body = [cst.parse_statement("super().__init__(*layers)")]
            layers = cst.Param(
                cst.Name("layers"), annotation=cst.Annotation(cst.parse_expression("nn.Module"))
            )
            signature = cst.Parameters(params[:1], star_arg=layers, kwonly_params=params[1:])
            self.context.imports.need("nn", describe.NN)
        said: list[str] = []
        for name in _in_order_of_source(plan):
            expr = constructor.body[name]
            statements = self._assignment(plan, name, expr)
            lines = [line for line in _lines_before(expr) if line not in said]
            said += lines
            statements = [*_parsed(lines, _holes(expr), self.context.imports), *statements]
            if name in layouts:
                statements = _laid_out(statements, layouts[name], first=len(body) == 1)
            body += statements
        if plan.instances == [self.context.network]:
            body += self._ties()
        body += [self._local(s, source) for s, source in plan.init_statements]
        if len(body) == 1 and SUPER not in constructor.body:
            return None
        return cst.FunctionDef(
            name=cst.Name("__init__"),
            params=signature,
            body=cst.IndentedBlock(body),
            returns=cst.Annotation(cst.Name("None")),
            leading_lines=[cst.EmptyLine()],
        )

    def _root_parameters(self, plan: ClassPlan) -> list[cst.Param]:
        variables = {v.name: v for v in self.context.free.values()}
        params = []
        for variable in variables.values():
            annotation, _ = _annotation((Literal(variable.value),), None)
            params.append(
                cst.Param(
                    cst.Name(checked_identifier(variable.name)),
                    annotation=cst.Annotation(cst.parse_expression(annotation)),
                    default=to_code(Literal(variable.value), self.context.imports),
                )
            )
        return params

    def _ties(self) -> list[cst.BaseStatement]:
        """`self.head.weight = self.embedding.weight` for tensors that layers share, and
        `self.decoder.norm = self.encoder.norm` for layers that blocks share.
        """
        statements: list[cst.BaseStatement] = []

        def tie(path: str, known: str) -> None:
            target = cst.AssignTarget(_place(path))
            statements.append(cst.SimpleStatementLine([cst.Assign([target], _place(known))]))

        network = self.context.network
        shared = shared_modules(network)
        for path, known in shared.items():
            if path.rpartition(".")[0] != known.rpartition(".")[0] or is_container_path(
                network, path
            ):
                tie(path, known)
        first: dict[int, str] = {}
        for name, tensor in network.state_dict(keep_vars=True).items():
            known = first.setdefault(id(tensor), name)
            inside = any(name.startswith(f"{path}.") for path in shared)
            if known != name and not inside:
                tie(name, known)
        return statements

    def _assignment(self, plan: ClassPlan, name: str, expr: Expr) -> list[cst.BaseStatement]:
        imports = self.context.imports
        if _is_statement(expr):
            return [cst.SimpleStatementLine([cst.Expr(to_code(expr, imports))])]
        register = "" if is_plain_name(name) else _register(plan, name)

        def assign(value: cst.BaseExpression) -> cst.SimpleStatementLine:
            if register:
                said = to_code(Literal(name), imports)
                add = cst.Attribute(cst.Name("self"), cst.Name(register))
                return cst.SimpleStatementLine(
                    [cst.Expr(cst.Call(add, [cst.Arg(said), cst.Arg(value)]))]
                )
            target = cst.Attribute(cst.Name("self"), cst.Name(checked_identifier(name)))
            return cst.SimpleStatementLine([cst.Assign([cst.AssignTarget(target)], value)])

        if isinstance(expr, Call) and any(isinstance(a.value, Maybe) for a in expr.arguments):
            return self._appended(expr, assign)
        if isinstance(expr, Either) and isinstance(expr.then, Call):
            switched = cst.If(
                test=to_code(expr.flag, imports),
                body=cst.IndentedBlock(self._assignment(plan, name, expr.then)),
            )
            if expr.otherwise == ABSENT:
                return [switched]
            other = self._assignment(plan, name, expr.otherwise)
            # What is an attribute already cannot be registered any more.
            if isinstance(expr.otherwise, Call) or _is_statement(expr.then):
                return [switched.with_changes(orelse=cst.Else(cst.IndentedBlock(other)))]
            return [*other, switched]
        return [assign(to_code(expr, imports))]

    def _appended(
        self, expr: Call, assign: Callable[[cst.BaseExpression], cst.SimpleStatementLine]
    ) -> list[cst.BaseStatement]:
        """A Sequential of layers that are put together first, as some of them are optional."""
        imports = self.context.imports
        imports.need("nn", describe.NN)
        statements: list[cst.BaseStatement] = []
        items: list[Expr] = []

        def append(item: Expr) -> cst.SimpleStatementLine:
            call = Call(Reference("layers.append"), (_positional("module", item),))
            return cst.SimpleStatementLine([cst.Expr(to_code(call, imports))])

        def flush() -> None:
            listed = to_code(Display(tuple(items)), imports)
            name, kind = cst.Name("layers"), cst.parse_expression("list[nn.Module]")
            if not statements:
                made = cst.AnnAssign(name, cst.Annotation(kind), listed)
                statements.append(cst.SimpleStatementLine([made]))
            elif len(items) == 1:
                statements.append(append(items[0]))
            else:
                more = cst.AugAssign(name, cst.AddAssign(), listed)
                statements.append(cst.SimpleStatementLine([more]))
            items.clear()

        for argument in expr.arguments:
            if not isinstance(argument.value, Maybe):
                items.append(argument.value)
                continue
            if items or not statements:
                flush()
            statements.append(
                cst.If(
                    test=to_code(argument.value.flag, imports),
                    body=cst.IndentedBlock([append(argument.value.item)]),
                )
            )
        if items:
            flush()
        made = cst.Call(to_code(expr.function, imports), [cst.Arg(cst.Name("layers"), star="*")])
        return [*statements, assign(made)]


def _in_order_of_source(plan: ClassPlan) -> list[str]:
    """The attributes as the original makes them: plain values, then tensors and modules.

    Tensors and modules keep the order that the `state_dict` has, each among themselves.
    """
    position: dict[str, int] = {}
    for init, _ in reversed(plan.inits):
        for name in initialisation.order_of_attributes(init):
            position.setdefault(name, len(position))
    modules = {name for module in plan.instances for name in module._modules}
    tensors = {n for m in plan.instances for n in (*m._parameters, *m._buffers)}
    rows: dict[str, list[tuple[int, str]]] = {"plain": [], "tensors": [], "modules": []}
    for name in plan.constructor.body:
        if name == SUPER:
            continue
        is_tensor = name in tensors or name.endswith("()")
        row = rows["modules" if name in modules else "tensors" if is_tensor else "plain"]
        row.append((max(position.get(name, 0), row[-1][0] if row else 0), name))
    made = sorted(rows["tensors"] + rows["modules"], key=lambda placed: placed[0])
    return [name for _, name in (*rows["plain"], *made)]


def _laid_out(
    statements: list[cst.BaseStatement], layout: initialisation.Layout, first: bool
) -> list[cst.BaseStatement]:
    """The statements with the comments of the original."""
    leading = [line for line in layout.leading if not first or line.comment is not None]
    statements = [statements[0].with_changes(leading_lines=leading), *statements[1:]]
    match statements:
        case [cst.SimpleStatementLine() as line] if layout.trailing is not None:
            behind = cst.TrailingWhitespace(cst.SimpleWhitespace("  "), layout.trailing)
            return [line.with_changes(trailing_whitespace=behind)]
    return statements


def _is_statement(expr: Expr) -> bool:
    """Whether an expression says by itself what it is for: `self.register_buffer("x", ...)`."""
    return isinstance(expr, Call) and expr.function.name.startswith(("self.", "super()"))


def _register(plan: ClassPlan, name: str) -> str:
    """The method that takes a name which no attribute could have; empty where there is none."""
    if not name or "." in name:
        return ""  # torch refuses these
    if any(name in module._modules for module in plan.instances):
        return "add_module"
    own = any(name in module._parameters for module in plan.instances)
    return "register_parameter" if own else ""


def _verbatims(expr: Expr) -> Iterator[Verbatim]:
    match expr:
        case Verbatim():
            yield expr
        case Call(_, arguments):
            for argument in arguments:
                yield from _verbatims(argument.value)
        case Either(_, then, otherwise):
            yield from _verbatims(then)
            yield from _verbatims(otherwise)


def _lines_before(expr: Expr) -> list[str]:
    """The statements that the code in an expression needs in front of it."""
    return [line for code in _verbatims(expr) for line in code.before]


def _holes(expr: Expr) -> tuple[Argument, ...]:
    return next((code.holes for code in _verbatims(expr)), ())


def _parsed(
    lines: Iterable[str], holes: Sequence[Argument], imports: Imports
) -> list[cst.BaseStatement]:
    statements = [s for line in lines for s in cst.parse_module(line).body]
    return [filled(s, holes, imports) for s in statements]


def _place(path: str) -> cst.Attribute | cst.Subscript:
    """`self.blocks[0].weight` for the path `blocks.0.weight`."""
    node: cst.Name | cst.Attribute | cst.Subscript = cst.Name("self")
    for part in path.split("."):
        if part.isdigit():
            index = cst.SubscriptElement(cst.Index(cst.Integer(str(int(part)))))
            node = cst.Subscript(node, [index])
        else:
            node = cst.Attribute(node, cst.Name(checked_identifier(part)))
    assert not isinstance(node, cst.Name)
    return node


def _positional(name: str, value: Expr) -> Argument:
    return Argument(name, value, positional=True)


def _documented(
    docstring: cst.SimpleStatementLine, init: cst.FunctionDef | None
) -> cst.SimpleStatementLine:
    """The docstring without the arguments that the constructor no longer has."""
    match docstring.body[0]:
        case cst.Expr(value=cst.SimpleString(value=text)) if text[-3:] in ('"""', "'''"):
            names = set() if init is None else _parameter_names(init)
            prefix, quotes = text[: text.index(text[-3:])], text[text.index(text[-3:]) :]
            shorter = cst.Expr(cst.SimpleString(prefix + without_gone_arguments(quotes, names)))
            return docstring.with_changes(body=[shorter])
    return docstring


def _parameter_names(init: cst.FunctionDef) -> set[str]:
    return {p.name.value for p in initialisation.parameters_of(init)} - {"self"}


def without_gone_arguments(text: str, names: set[str]) -> str:
    """A docstring with its quotes, without the entries under `Args:` that are not of the names."""
    quotes, inner = text[:3], text[3:-3]
    lines = inner.rstrip().split("\n")
    kept: list[str] = []
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if line.strip() not in ("Args:", "Arguments:"):
            kept.append(line)
            continue
        block = list(takewhile(partial(_is_under, header=line), lines[at:]))
        at += len(block)
        left = _entries_named(block, names)
        if left:
            kept += [line, *left]
        else:
            while kept and not kept[-1].strip():
                kept.pop()
    changed = len(kept) != len(lines)
    end = inner[len(inner.rstrip()) :]
    return quotes + "\n".join(kept).rstrip() + end + quotes if changed else text


def _is_under(line: str, header: str) -> bool:
    """Whether a line is empty or stands deeper than the header of its section."""
    return not line.strip() or _indent(line) > _indent(header)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _entries_named(block: Sequence[str], names: set[str]) -> list[str]:
    """The entries of an `Args:` section that are of the names, and the empty lines behind them."""
    depth = min((_indent(line) for line in block if line.strip()), default=0)
    kept: list[str] = []
    keeps = False
    for line in block:
        if line.strip() and _indent(line) == depth:
            name = re.match(r"\s*`?\*{0,2}(\w+)", line)
            keeps = name is not None and name[1] in names
        if keeps or not line.strip():
            kept.append(line)
    return kept if any(line.strip() for line in kept) else []


def _is_docstring(statement: cst.CSTNode) -> bool:
    return (
        isinstance(statement, cst.SimpleStatementLine)
        and isinstance(statement.body[0], cst.Expr)
        and isinstance(statement.body[0].value, (cst.SimpleString, cst.ConcatenatedString))
    )


def _spaced(node: cst.FunctionDef) -> cst.FunctionDef:
    comments = [line for line in node.leading_lines if line.comment is not None]
    return node.with_changes(leading_lines=[cst.EmptyLine(), *comments])


def _of(plan: ClassPlan, argument: str) -> cst.Annotation | None:
    """The original annotation of an argument, where it is a builtin type."""
    for parameter in (p for init, _ in plan.inits for p in initialisation.parameters_of(init)):
        if parameter.name.value == argument and parameter.annotation is not None:
            code = origin.code_of(parameter.annotation.annotation)
            if code in ("bool", "int", "float", "str"):
                return parameter.annotation
    default = plan.init_arguments[argument]
    kind = type(ast.literal_eval(origin.code_of(default)))
    if kind in (bool, int, float, str):
        return cst.Annotation(cst.Name(kind.__name__))
    return None


def _annotation(values: Sequence[Expr], default: Expr | None) -> tuple[str, list[tuple[str, str]]]:
    """The type of a parameter, and the imports that it needs."""
    kinds: set[str] = set()
    needs: list[tuple[str, str]] = []
    for value in (*values, *(() if default is None else (default,))):
        match value:
            case Literal(constant) | Variable(_, constant):
                kinds.add(_type_of(constant))
            case Display(_, brackets):
                kinds.add("list" if brackets == "[" else "tuple")
            case Dictionary():
                kinds.add("dict")
            case Call(Reference(name, statement), value=True) if name != "partial":
                kinds.add(name)
                needs += [(name, statement)] if statement else []
            case Reference(name, statement) if statement == describe.NN:
                kinds.add("type[nn.Module]")
                needs += [("nn", describe.NN)]
            case Call(Reference("partial"), value=True) | Reference():
                kinds.add("Callable[..., Any]")
                needs += [("Callable", "from collections.abc import Callable")]
                needs += [("Any", "from typing import Any")]
            case _:
                kinds.add("nn.Module")
                needs += [("nn", describe.NN)]
    if {"int", "float"} <= kinds:
        kinds.discard("int")
    return " | ".join(sorted(kinds - {"None"}) + (["None"] if "None" in kinds else [])), needs


def _type_of(value: Any) -> str:
    if isinstance(value, tuple) and value:
        return f"tuple[{', '.join(_type_of(item) for item in value)}]"
    if isinstance(value, list) and value:
        return f"list[{' | '.join(sorted({_type_of(item) for item in value}))}]"
    return "None" if value is None else type(value).__name__
