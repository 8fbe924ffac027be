"""One constructor for all instances of a class: before (what the instances are) and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import libcst as cst
from torch import nn

from pruners.describe import write_layer
from pruners.expressions import NONE, Argument, Call, Expr, Imports, Literal, Reference, to_code
from pruners.unify import Constructor, Parameter, unify


def conv(inputs: int, outputs: int, stride: int = 1, **options: Any) -> Call:
    return write_layer(nn.Conv2d(inputs, outputs, 3, stride=stride, **options))


def code(expr: Expr) -> str:
    return cst.Module([]).code_for_node(to_code(expr, Imports()))


def parameter(p: Parameter) -> str:
    return p.name if p.default is None else f"{p.name}={code(p.default)}"


def header(constructor: Constructor) -> str:
    return ", ".join(parameter(p) for p in constructor.parameters)


def body(constructor: Constructor) -> dict[str, str]:
    return {name: code(expr) for name, expr in constructor.body.items()}


def call(constructor: Constructor, instance: int) -> str:
    return code(Call(Reference("Block"), constructor.arguments(instance)))


def test_instances_that_agree_need_no_parameters() -> None:
    record = {"conv1": conv(3, 8), "scale": Literal(2)}
    constructor = unify([record, dict(record)])
    assert constructor.parameters == ()
    assert body(constructor) == {"conv1": "nn.Conv2d(3, 8, kernel_size = 3)", "scale": "2"}
    assert call(constructor, 0) == "Block()"


def test_the_docstrings_example() -> None:
    shortcut = write_layer(nn.Conv2d(16, 21, 1, stride=2))
    records: list[Mapping[str, Expr]] = [
        {"conv1": conv(16, 9), "conv2": conv(9, 16), "downsample": NONE},
        {"conv1": conv(16, 30, 2), "conv2": conv(30, 21), "downsample": shortcut},
        {"conv1": conv(21, 28), "conv2": conv(28, 21), "downsample": NONE},
    ]
    constructor = unify(records)
    assert header(constructor) == (
        "in_channels, conv1_channels, out_channels, stride=1, downsample=False"
    )
    assert body(constructor) == {
        "conv1": "nn.Conv2d(in_channels, conv1_channels, kernel_size = 3, stride = stride)",
        "conv2": "nn.Conv2d(conv1_channels, out_channels, kernel_size = 3)",
        "downsample": "nn.Conv2d(in_channels, out_channels, kernel_size = 1, stride = stride) "
        "if downsample else None",
    }
    assert [call(constructor, i) for i in range(3)] == [
        "Block(16, 9, 16)",
        "Block(16, 30, 21, stride = 2, downsample = True)",
        "Block(21, 28, 21)",
    ]


def test_a_width_and_a_number_that_agree_by_chance_are_two_parameters() -> None:
    records = [
        {"conv": conv(4, 1, stride=1)},
        {"conv": conv(4, 2, stride=2)},
    ]
    constructor = unify(records)
    assert header(constructor) == "out_channels, stride=1"


def test_a_width_that_is_the_same_everywhere_stays_a_constant() -> None:
    constructor = unify([{"a": conv(3, 8)}, {"a": conv(3, 9)}])
    assert body(constructor) == {"a": "nn.Conv2d(3, out_channels, kernel_size = 3)"}


def test_the_commonest_value_is_the_default() -> None:
    records = [{"p": Literal(v)} for v in (0.1, 0.5, 0.5, 0.2)]
    constructor = unify(records)
    assert header(constructor) == "p=0.5"
    assert [call(constructor, i) for i in range(4)] == [
        "Block(p = 0.1)",
        "Block()",
        "Block()",
        "Block(p = 0.2)",
    ]


def test_true_is_not_one() -> None:
    constructor = unify([{"a": Literal(True)}, {"a": Literal(1)}])
    assert len(constructor.parameters) == 1
    assert [call(constructor, i) for i in range(2)] == ["Block()", "Block(a = 1)"]


def test_a_layer_with_and_without_bias() -> None:
    constructor = unify([{"a": conv(3, 8)}, {"a": conv(3, 8, bias=False)}])
    assert body(constructor) == {"a": "nn.Conv2d(3, 8, kernel_size = 3, bias = bias)"}
    assert header(constructor) == "bias=True"


def test_an_optional_child_with_a_width_of_its_own() -> None:
    """The width has no value where the child is absent."""
    constructor = unify(
        [{"a": conv(3, 8), "b": NONE}, {"a": conv(3, 9), "b": conv(9, 5)}, {"a": conv(3, 7)}]
    )
    assert [code(e) for e in constructor.body.values()] == [
        "nn.Conv2d(3, out_channels, kernel_size = 3)",
        "nn.Conv2d(out_channels, 5, kernel_size = 3) if b else None",
    ]
    assert call(constructor, 1) == "Block(9, b = True)"
    assert call(constructor, 2) == "Block(7)"


def test_three_structures_are_handed_in() -> None:
    relu = write_layer(nn.ReLU())
    constructor = unify([{"act": relu}, {"act": write_layer(nn.GELU())}, {"act": conv(2, 2)}])
    assert body(constructor) == {"act": "act"}
    assert call(constructor, 1) == "Block(nn.GELU())"


def test_parameters_with_names_that_python_or_the_file_has_taken() -> None:
    """A plain attribute may be called as a keyword or as an import of every generated file."""
    records = [{"lambda": Literal(1)}, {"lambda": Literal(2)}]
    (p,) = unify(records).parameters
    assert p.name == "lambda_2"
    (p,) = unify([{"nn": Literal(1)}, {"nn": Literal(2)}]).parameters
    assert p.name == "nn_2"


def test_ends_that_are_the_same_everywhere_give_no_name_to_what_lies_between() -> None:
    """`Block(in_channels=9)` for the channels inside of a block would mislead."""
    constructor = unify(
        [
            {"conv1": conv(16, 9), "conv2": conv(9, 16)},
            {"conv1": conv(16, 7), "conv2": conv(7, 16)},
        ]
    )
    assert header(constructor) == "conv1_channels"


def test_a_default_argument_is_left_out_and_what_follows_is_named() -> None:
    expr = Call(
        Reference("f"),
        (
            Argument("a", Literal(1), Literal(1), positional=True),
            Argument("b", Literal(2), positional=True),
        ),
    )
    assert code(expr) == "f(b = 2)"


def test_attributes_keep_the_order_of_every_instance() -> None:
    records: list[Mapping[str, Expr]] = [
        {"a": Literal(1), "c": Literal(1)},
        {"a": Literal(1), "b": Literal(1), "c": Literal(1)},
    ]
    assert list(unify(records).body) == ["a", "b", "c"]


def test_the_width_of_a_concatenation_is_a_sum() -> None:
    def branches(a: int, b: int, norm: int) -> dict[str, Expr]:
        return {
            "left": write_layer(nn.Conv2d(8, a, 1)),
            "right": write_layer(nn.Conv2d(8, b, 3)),
            "norm": write_layer(nn.BatchNorm2d(norm)),
        }

    joined = unify([branches(3, 4, 7), branches(5, 2, 7), branches(6, 6, 12)])
    assert [p.name for p in joined.parameters] == ["left_channels", "right_channels"]
    norm = to_code(joined.body["norm"], Imports())
    assert cst.Module([]).code_for_node(norm) == "nn.BatchNorm2d(left_channels + right_channels)"
    apart = unify([branches(3, 4, 7), branches(5, 2, 8)])
    assert len(apart.parameters) == 3
    alone = unify([branches(3, 4, 7)])
    assert alone.parameters == ()
