"""What has to change in a network so that its forwards say slim sizes, and changing it.

Expressions get another text, attributes of modules another value. Which ones is decided in
`plan.py`; the writer and the slim instance only carry it out.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider
from torch import nn

from pruners.errors import WriterError
from pruners.expressions import Imports, Literal, checked_identifier, to_code
from pruners.origin import Sources, text_of

Span = tuple[str, int, int, int, int]
"""Line, column, end line and end column (in characters, lines from 1) of an expression.

That of a tuple reaches from its first item to its last one, and begins with "tuple": of its
parentheses `ast` and `libcst` have different opinions.
"""


@dataclass(frozen=True, slots=True)
class NewValue:
    """The expression becomes a constant."""

    value: Any


@dataclass(frozen=True, slots=True)
class NewAttribute:
    """The expression becomes an attribute of the module."""

    name: str


@dataclass(frozen=True, slots=True)
class KeptScale:
    """An attention says the scale that it had at its full width, or reads it of an attribute."""

    full: int
    attribute: str = ""


Edit = NewValue | NewAttribute | KeptScale


@dataclass(slots=True)
class Rewrites:
    """What has to change so that a forward fits the slim network."""

    edits: dict[str, dict[Span, Edit]] = field(default_factory=dict)
    """By name of the Python module."""
    attributes: dict[str, dict[tuple[str | int, ...], Any]] = field(default_factory=dict)
    """By path of the network's module: new values of its attributes (`("cfg", "dim")`)."""

    def apply(self, network: nn.Module) -> None:
        """Give the modules of the slim instance the new attributes.

        Raises:
            WriterError: an attribute cannot be changed.
        """
        for path, values in self.attributes.items():
            module = network.get_submodule(path)
            for chain, value in values.items():
                name = str(chain[0])
                try:
                    setattr(module, name, _replaced(getattr(module, name, None), chain[1:], value))
                except (AttributeError, TypeError) as error:
                    attribute = ".".join(map(str, chain))
                    raise WriterError(
                        f"{type(module).__name__}.{attribute}: cannot be made {value} ({error})"
                    ) from error

    def sources(self) -> Sources:
        """The sources of the network's classes with the edits made."""
        return Sources({name: edited(text_of(name), e) for name, e in self.edits.items()})

    def names(self, path: str) -> frozenset[str]:
        """The attributes of a module that say widths."""
        return frozenset(str(chain[0]) for chain in self.attributes.get(path, ()))


def _replaced(old: Any, chain: tuple[str | int, ...], value: Any) -> Any:
    """`old` with the part that the chain leads to replaced; `old` itself is not changed."""
    if not chain:
        return value
    first, *rest = chain
    if isinstance(first, int):
        items = list(old)
        items[first] = _replaced(items[first], tuple(rest), value)
        if isinstance(old, tuple) and hasattr(old, "_fields"):
            return type(old)(*items)
        return type(old)(items)
    if isinstance(old, dict):
        return {**old, first: _replaced(old[first], tuple(rest), value)}
    inner = _replaced(getattr(old, first), tuple(rest), value)
    if isinstance(old, tuple) and hasattr(old, "_fields"):
        named: Any = old
        return named._replace(**{first: inner})
    if dataclasses.is_dataclass(old) and not isinstance(old, type):
        return dataclasses.replace(old, **{first: inner})
    result = copy.copy(old)
    setattr(result, first, inner)
    return result


def edited(text: str, edits: Mapping[Span, Edit]) -> cst.Module:
    """Raises WriterError: an edit has no place."""
    wrapper = MetadataWrapper(cst.parse_module(text), unsafe_skip_copy=True)
    rewriter = _RewriteSizes(edits)
    tree = wrapper.visit(rewriter)
    lost = edits.keys() - rewriter.made
    if lost:
        raise WriterError(f"no expression is found at line {min(span[1] for span in lost)}")
    return tree


class _RewriteSizes(cst.CSTTransformer):
    """Puts the new expressions in the places of the old ones."""

    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self, edits: Mapping[Span, Edit]) -> None:
        super().__init__()
        self.edits = edits
        self.made: set[Span] = set()

    def span(self, node: cst.BaseExpression) -> Span:
        if isinstance(node, cst.Tuple) and node.elements:
            first, last = (self.span(e.value) for e in (node.elements[0], node.elements[-1]))
            return ("tuple", *first[1:3], *last[3:])
        place = self.get_metadata(PositionProvider, node)
        return ("", place.start.line, place.start.column, place.end.line, place.end.column)

    def on_leave(self, original_node: cst.CSTNodeT, updated_node: cst.CSTNodeT) -> Any:
        updated_node = super().on_leave(original_node, updated_node)  # type: ignore[assignment]
        if not isinstance(original_node, cst.BaseExpression):
            return updated_node
        span = self.span(original_node)
        edit = self.edits.get(span)
        if edit is not None:
            self.made.add(span)
        match edit:
            case NewValue(value):
                return to_code(Literal(value), Imports())
            case NewAttribute(name):
                return cst.Attribute(cst.Name("self"), cst.Name(checked_identifier(name)))
            case KeptScale(full, attribute) if isinstance(updated_node, cst.Call):
                code = f"self.{checked_identifier(attribute)}" if attribute else f"{full} ** -0.5"
                scale = cst.Arg(cst.parse_expression(code), cst.Name("scale"))
                return updated_node.with_changes(args=[*updated_node.args, scale])
        return updated_node
