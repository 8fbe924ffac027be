"""What is on offer: entries, lookups, additions from outside."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import image
from torch import Tensor

import app
import models
from pruners import (
    DATASETS,
    MLP_MODEL,
    MODEL_DATA,
    MODELS,
    PRUNING_METHODS,
    SCORING_MEASURES,
    PrunerError,
    ScoringMeasure,
    prune,
    register_dataset,
    register_measure,
    register_method,
    register_mlp,
    register_model,
)
from pruners.base import Options
from pruners.commands.options import SELECTION, options_of
from pruners.datasets import load_dataset
from pruners.image_files import RawSplit, RawSplits
from pruners.plugins import load_plugins
from pruners.registry import dataset_named, measure_named, method_named, mlp_named
from pruners.zoo import model_named


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    tables: tuple[dict[str, Any], ...] = (
        MODELS,
        MLP_MODEL,
        MODEL_DATA,
        DATASETS,
        SCORING_MEASURES,
        PRUNING_METHODS,
    )
    before = [dict(table) for table in tables]
    yield
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)


# --- entries -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_models_are_built_by_their_wrapper(name: str) -> None:
    entry = MODELS[name]
    assert name.isidentifier()
    assert entry["path"] is None or entry["path"].is_file()
    assert (entry["path"] is not None) == (name in MODEL_DATA)
    parameters = inspect.signature(entry["wrapper"]).parameters
    assert "num_classes" in parameters
    assert {"in_channels", "in_features"} & set(parameters)


def test_the_perceptrons_of_mlp_rank() -> None:
    assert list(MLP_MODEL) == ["TwoLayerMLP", "ThreeLayerMLP", "SixLayerMLP", "TwelveLayerMLP"]
    for name, entry in MLP_MODEL.items():
        assert entry["wrapper"] is getattr(models, name)
        assert MODELS[name] is entry
        assert MODEL_DATA[name] == "Digits"


@pytest.mark.parametrize("name", DATASETS)
def test_datasets_have_a_reader_and_a_place(name: str) -> None:
    entry = DATASETS[name]
    assert callable(entry["wrapper"])
    assert (entry["path"] is None) == (name == "Digits")
    assert set(MODEL_DATA.values()) <= set(DATASETS)


# --- lookups -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("find", "name", "message"),
    [
        (measure_named, "channelNorm", r"^measure channelNorm: unknown; did you mean ChannelNorm"),
        (
            method_named,
            "global",
            r"^method global: unknown; did you mean Global\?; on offer are Gl",
        ),
        (
            dataset_named,
            "digits",
            r"^dataset digits: unknown; did you mean Digits\?; on offer are ",
        ),
        (measure_named, "lamp", r"^measure lamp: unknown; did you mean LAMP\?; on offer are "),
        (dataset_named, "cifar10", r"^dataset cifar10: unknown; did you mean CIFAR10\?; on offer"),
        (dataset_named, "mnist", r"^dataset mnist: unknown; did you mean MNIST\?; on offer are "),
        (model_named, "resnet20", r"^model resnet20: unknown; did you mean ResNet20\?; on offer "),
        (
            measure_named,
            SCORING_MEASURES["FPGM"],
            r"^measure FPGM: is no name; expected one of ChannelNorm, .*, or the name under which "
            r"your own was registered: register_measure\(NAME\)\(FPGM\)$",
        ),
        (method_named, PRUNING_METHODS["Local"], r"^method local_ranking: is no name; expected on"),
        (dataset_named, ["Digits"], r"^dataset list: is no name; expected one of Digits, "),
        (mlp_named, "TwolayerMLP", r"^model TwolayerMLP: unknown; did you mean TwoLayerMLP"),
        (mlp_named, "ResNet20", r"^model ResNet20: unknown; on offer are TwoLayerMLP, "),
    ],
)
def test_names_are_case_sensitive(find: Any, name: Any, message: str) -> None:
    with pytest.raises(PrunerError, match=message):
        find(name)


# --- additions -----------------------------------------------------------------------------------


def test_a_function_is_a_measure_and_its_keywords_are_parameters() -> None:
    @register_measure("Power")
    def power(*, weight: Tensor, p: float = 2, **context: Any) -> Tensor:
        return weight.abs().sum(1) ** p

    given = measure_named("Power", {"p": 3})(weight=torch.tensor([[2.0]]))
    assert given is not None
    assert given.tolist() == [8]
    assert power(weight=torch.tensor([[3.0]])).tolist() == [9]
    model = MODELS["TwoLayerMLP"]["wrapper"]()
    result = prune(model, image(2, 1, 8, 8), 50, measure="Power", measure_args={"p": 3})
    assert result.report.options["measure_args"] == {"p": 3}
    with pytest.raises(
        PrunerError, match=r"^--measure-args: Power takes no argument 'q'; it takes p"
    ):
        prune(model, image(2, 1, 8, 8), 50, measure="Power", measure_args={"q": 3})


def test_a_class_is_registered_as_its_instance() -> None:
    @register_measure("Ones")
    class Ones(ScoringMeasure):
        def score(self, *, weight: Tensor, **context: Any) -> Tensor:
            return torch.ones(len(weight))

    assert isinstance(SCORING_MEASURES["Ones"], Ones)
    # Of equals the first go.
    model = MODELS["TwoLayerMLP"]["wrapper"]()
    result = prune(model, image(2, 1, 8, 8), 50, measure="Ones", target="channels")
    assert result.kept["fc1.weight"][0].tolist() == list(range(133, 256))


def test_a_method_a_dataset_and_models_from_outside() -> None:
    register_method("Mine")(PRUNING_METHODS["Local"])
    assert method_named("Mine") is PRUNING_METHODS["Local"]

    def read(folder: Path | None, download: bool) -> RawSplits:
        assert folder == Path("somewhere/mine")
        part = RawSplit(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 2, 1]))
        return RawSplits(part, part, part)

    register_dataset("Mine", {**DATASETS["Digits"], "wrapper": read, "path": Path("mine")})
    assert len(load_dataset("Mine", "somewhere").train) == 4  # type: ignore[arg-type]
    register_dataset("Mine", {**DATASETS["Mine"], "num_classes": 2})
    with pytest.raises(
        PrunerError,
        match=r"^dataset Mine: label 2, but 2 classes; expected labels from 0 to 1: correct the l",
    ):
        load_dataset("Mine", "somewhere")

    register_model("Mine", MODELS["ResNet20"])
    register_mlp("MyMLP", MLP_MODEL["TwoLayerMLP"], trained_on="Mine")
    assert MODELS["Mine"] is MODELS["ResNet20"]
    assert MODEL_DATA["MyMLP"] == "Mine"
    assert mlp_named("MyMLP") is MODELS["MyMLP"]


PLUGIN = """\
import torch
from pruners import register_measure


@register_measure("First")
def first(*, weight, scale=1.0, **context):
    return torch.arange(len(weight), 0, -1) * scale


@register_measure("Broken")
def broken(*, weight, **context):
    raise KeyError("mine")
"""


def test_a_plugin_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plugin = tmp_path / "my_plugin.py"
    plugin.write_text(PLUGIN)
    given = ["--plugin", str(plugin), "--arch", "twolayermlp", "--dry-run", "--target", "channels"]
    assert app.main([*given, "--measure", "First", "--measure-args", '{"scale": 2}', "--json"]) == 0
    assert '"measure": "First"' in capsys.readouterr().out
    assert app.main(["--plugin", str(plugin), "--list"]) == 0
    assert "--measure  First" in capsys.readouterr().out
    assert app.main([*given, "--measure", "Broken"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: measure Broken: raised KeyError on fc1.weight: 'mine'"
    )
    assert app.main([*given, "--measure", "Frist"]) == 2
    assert "measure Frist: unknown; did you mean First?" in capsys.readouterr().err


COLUMN = torch.tensor([[1.0], [2.0]])


def test_the_list_is_json_whatever_a_measure_has_for_defaults(
    capsys: pytest.CaptureFixture[str],
) -> None:
    @register_measure("Odd")
    def odd(
        *,
        weight: Tensor,
        most: float = float("inf"),
        at: Any = COLUMN,
        kinds: Any = frozenset({1}),
        plain: Any = (1, "two"),
        **context: Any,
    ) -> Tensor:
        return weight.sum(1)

    def refuse(constant: str) -> Any:
        raise AssertionError(constant)

    assert app.main(["--list", "--json"]) == 0
    offered = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert offered["measure"]["Odd"]["arguments"] == {
        "most": "inf",
        "at": "tensor([[1.], [2.]])",
        "kinds": "frozenset({1})",
        "plain": [1, "two"],
    }
    assert app.main(["--list"]) == 0


def test_equal_globs_keep_their_order() -> None:
    """The last one that matches a layer holds, also where it was given before."""
    ctx: Any = SimpleNamespace(
        params={name: getattr(Options(), name) for name in SELECTION}
        | {"measure_args": None, "ratio": ["a=0.1", "*=0.5", "a=0.2"], "seed": 0}
    )
    assert options_of(ctx).ratio == (("a", 0.1), ("*", 0.5), ("a", 0.2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"my_plugin\.py: no such file; expected a Python file that registers something$"),
        ("1 / 0", r"my_plugin\.py: importing the file raised ZeroDivisionError: division by zero$"),
        ("def (", r"my_plugin\.py: importing the file raised SyntaxError"),
        ("import sys; sys.exit(3)", r"my_plugin\.py: importing the file called sys\.exit; put tha"),
        ("import no_such_package", r"raised ModuleNotFoundError: No module named 'no_such_packag"),
    ],
)
def test_a_plugin_that_cannot_be_imported(tmp_path: Path, text: str | None, message: str) -> None:
    plugin = tmp_path / "my_plugin.py"
    if text is not None:
        plugin.write_text(text)
    with pytest.raises(PrunerError, match=rf"^--plugin .*{message}"):
        load_plugins([plugin])


def test_entry_points_of_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_measures.py").write_text(PLUGIN.replace("First", "Theirs"))
    monkeypatch.syspath_prepend(tmp_path)
    found = [EntryPoint("theirs", "their_measures", "pruners.plugins")]
    monkeypatch.setattr("pruners.plugins.entry_points", lambda group: found)
    load_plugins([])
    assert "Theirs" in SCORING_MEASURES
    (tmp_path / "their_script.py").write_text("import sys\nsys.exit(0)\n")
    found[:] = [EntryPoint("theirs", "their_script", "pruners.plugins")]
    with pytest.raises(
        PrunerError,
        match=r"^plugin theirs \(their_script\): importing it called sys\.exit; mend it, or uninst",
    ):
        load_plugins([])
    found[:] = [EntryPoint("theirs", "their_mistake", "pruners.plugins")]
    with pytest.raises(
        PrunerError,
        match=r"^plugin theirs \(their_mistake\): raised ModuleNotFoundError: .*; mend it, or unin",
    ):
        load_plugins([])
