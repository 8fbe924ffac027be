"""One constructor for all instances of a class: before (what the instances are) and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import libcst as cst
from torch import nn

from pruners.describe import write_layer, write_sequential
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


def test_activations_that_differ_are_a_column() -> None:
    def record(act: nn.Module) -> dict[str, Expr]:
        return {"act": write_layer(act)}

    acts = (nn.ReLU(inplace=True), nn.Hardswish(inplace=True), nn.Hardswish(inplace=True))
    constructor = unify([record(a) for a in acts])
    assert header(constructor) == "activation_layer=nn.Hardswish"
    assert body(constructor) == {"act": "activation_layer(inplace = True)"}
    assert call(constructor, 0) == "Block(activation_layer = nn.ReLU)"


def test_a_part_with_a_width_of_its_own_is_built_where_the_width_is_given() -> None:
    def record(out: int, squeeze: int | None) -> dict[str, Expr]:
        two = {} if squeeze is None else {"gate": write_layer(nn.Linear(4, squeeze))}
        return {"conv": conv(3, out), **two}

    constructor = unify([record(8, None), record(9, 2), record(10, 5)])
    assert header(constructor) == "out_channels, gate_channels=None"
    assert (
        body(constructor)["gate"]
        == "nn.Linear(4, gate_channels) if gate_channels is not None else None"
    )
    assert call(constructor, 0) == "Block(8)"
    assert call(constructor, 2) == "Block(10, gate_channels = 5)"


BLOCKS = [(4, 5, 1), (5, 5, 1), (5, 5, 2), (5, 7, 1)]


def residuals(shortcuts: list[bool]) -> list[Mapping[str, Expr]]:
    return [
        {"shortcut": Literal(shortcut), "conv": conv(i, o, stride)}
        for (i, o, stride), shortcut in zip(BLOCKS, shortcuts, strict=True)
    ]


def test_a_comparison_of_the_original_is_written_where_it_holds() -> None:
    records = residuals([False, True, False, False])
    constructor = unify(records, compared={"shortcut"})
    assert header(constructor) == "in_channels, out_channels, stride=1"
    assert body(constructor)["shortcut"] == "stride == 1 and in_channels == out_channels"
    # A width that is equal by chance now: the value is what counts.
    chance = unify(residuals([False, False, False, False]), compared={"shortcut"})
    assert body(chance)["shortcut"] == "False"
    other = unify(residuals([True, True, False, False]), compared={"shortcut"})
    assert header(other) == "in_channels, out_channels, shortcut=True, stride=1"
    assert "shortcut=" in header(unify(records))


def test_names_of_the_original_are_taken_where_they_are_of_one_column() -> None:
    records: list[Mapping[str, Expr]] = [
        {"a": conv(3, 8), "b": conv(8, 5), "c": conv(5, 2)},
        {"a": conv(3, 9), "b": conv(9, 6), "c": conv(6, 2)},
    ]
    names = {("a", "out_channels"): "squeezed", ("b", "out_channels"): "width"}
    assert header(unify(records, names=names)) == "squeezed, width"
    # `width` is of two columns now, or has become a constant elsewhere.
    two = names | {("a", "out_channels"): "width"}
    assert header(unify(records, names=two)) == "a_channels, b_channels"
    elsewhere = names | {("c", "out_channels"): "width"}
    assert header(unify(records, names=elsewhere)) == "squeezed, b_channels"


def test_both_ends_have_names_of_the_original_or_none() -> None:
    records = [{"a": conv(3, 8), "b": conv(8, 5)}, {"a": conv(4, 9), "b": conv(9, 6)}]
    first = {("a", "in_channels"): "inputs"}
    assert header(unify(records, names=first)) == "in_channels, a_channels, out_channels"
    both = first | {("b", "out_channels"): "planes"}
    assert header(unify(records, names=both)) == "inputs, a_channels, planes"


def test_a_padding_that_is_the_dilation_follows_it() -> None:
    records = [{"a": conv(3, 8, padding=n, dilation=n)} for n in (1, 2, 4)]
    constructor = unify(records)
    assert header(constructor) == "dilation=1"
    assert body(constructor)["a"].endswith("padding = dilation, dilation = dilation)")


def test_no_default_is_mutable() -> None:
    constructor = unify([{"dims": Literal([0, 1])}, {"dims": Literal([1, 0])}])
    assert header(constructor) == "dims"
    assert call(constructor, 1) == "Block([1, 0])"


def items(*layers: nn.Module) -> Mapping[str, Expr]:
    return {"body": write_sequential(nn.Sequential(*layers))}


def test_a_flag_is_called_for_what_it_switches() -> None:
    def flag(whole: Mapping[str, Expr], *rest: Mapping[str, Expr]) -> str:
        return next(p.name for p in unify([whole, *rest]).parameters if not p.width)

    tail = (nn.Conv2d(8, 8, 3), nn.ReLU())
    assert flag(items(nn.Conv2d(4, 8, 1), *tail), items(*tail)) == "expand"
    assert flag(items(nn.MaxPool2d(2), *tail), items(*tail)) == "with_max_pool"
    assert flag(items(nn.Conv2d(8, 8, 1), *tail), items(*tail)) == "with_first_body"


def test_a_flag_of_several_parts_stays_where_one_of_them_has_a_width_of_its_own() -> None:
    def record(out: int, squeeze: int | None) -> dict[str, Expr]:
        if squeeze is None:
            return {"conv": conv(3, out), "norm": NONE, "gate": NONE}
        gate = write_layer(nn.Linear(4, squeeze))
        return {"conv": conv(3, out), "norm": write_layer(nn.Tanh()), "gate": gate}

    constructor = unify([record(8, None), record(9, 2), record(10, 5)])
    assert body(constructor)["norm"] == "nn.Tanh() if norm else None"
    assert body(constructor)["gate"] == "nn.Linear(4, gate_channels) if norm else None"


def test_a_number_that_is_kept_joins_the_width_of_its_name() -> None:
    records = [{"heads": Literal(n), "table": write_layer(nn.Linear(4, n))} for n in (2, 3)]
    names = {("table", "out_features"): "heads"}
    assert header(unify(records, names=names)) == "heads"
    assert len(unify(records).parameters) == 2


def test_activations_that_are_arguments_are_one_column() -> None:
    records = [
        {"norm": Call(Reference("Norm"), (Argument("act", Reference(f"nn.{name}", "")),))}
        for name in ("ReLU", "SiLU", "SiLU")
    ]
    constructor = unify(records)
    assert header(constructor) == "act=nn.SiLU"
    assert body(constructor) == {"norm": "Norm(act = act)"}


def test_a_row_of_layers_of_which_one_is_an_identity() -> None:
    def row(width: int, last: nn.Module) -> Mapping[str, Expr]:
        return items(nn.Conv2d(3, width, 1), nn.BatchNorm2d(width), last)

    constructor = unify([row(4, nn.ReLU()), row(5, nn.ReLU()), row(6, nn.Identity())])
    assert header(constructor) == "out_channels, with_relu=True"
    assert "nn.ReLU() if with_relu else nn.Identity()" in body(constructor)["body"]
    assert call(constructor, 2) == "Block(6, with_relu = False)"


def test_no_parameter_hides_what_the_body_refers_to() -> None:
    def record(width: int) -> Mapping[str, Expr]:
        return {"block": Call(Reference("block"), (Argument("x", Literal(width, True)),))}

    names = {("block", "x"): "block"}
    assert header(unify([record(1), record(2)], names=names)) == "x"
