"""The oracle says what is right, and the fresh process finds out what is wrong."""

from __future__ import annotations

import ast
import math
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import namedtuple
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pruners import verify as verify_module
from pruners.channel_graph import Indices
from pruners.errors import PrunerError, VerificationError
from pruners.store import save_bytes
from pruners.verify import (
    Case,
    Outcome,
    expected_outputs,
    masked_state,
    require,
    tolerance_for,
    verify,
)
from pruners.verify_child import (
    MismatchError,
    Refusing,
    _libraries,
    allowed_path,
    compare,
    flatten_output,
    quoted_tail,
)

SOURCE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, 4)

    def forward(self, x):
        x = torch.relu(self.bn(self.conv(x)))
        return self.fc(x.mean((2, 3)))


def net(weights=None, **kwargs):
    model = Net(**kwargs)
    if weights is not None:
        model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return model
"""

KEPT = np.array([0, 2, 5])


def full_network(dtype: torch.dtype = torch.float32, source: str = SOURCE) -> nn.Module:
    """The network of the source, six channels wide, with every tensor random."""
    torch.manual_seed(0)
    namespace: dict[str, Any] = {"__name__": "full"}
    exec(source, namespace)
    model: nn.Module = namespace["Net"](6).to(dtype)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.5)
        model.get_parameter("conv.weight").sub_(1.0)
    return model


def kept_channels(model: nn.Module) -> dict[str, tuple[Indices, ...]]:
    kept = {
        name: tuple(np.arange(size) for size in tensor.shape)
        for name, tensor in model.state_dict().items()
    }
    for name in kept:
        if name.startswith(("conv.", "bn.")) and kept[name]:
            kept[name] = (KEPT, *kept[name][1:])
    kept["fc.weight"] = (kept["fc.weight"][0], KEPT)
    return kept


def sliced(model: nn.Module, kept: Mapping[str, tuple[Indices, ...]]) -> dict[str, Tensor]:
    return {
        name: tensor[np.ix_(*kept[name])] if kept[name] else tensor
        for name, tensor in model.state_dict().items()
    }


def image(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=dtype)


SOURCE_FLOAT64 = SOURCE.replace("Net(**kwargs)", "Net(**kwargs).double()")


def good_case(source: str = SOURCE, dtype: torch.dtype = torch.float32, **changes: Any) -> Case:
    model = full_network(dtype, source)
    kept, x = kept_channels(model), image(dtype)
    state = sliced(model, kept)
    case = Case(
        name="net",
        source=source,
        factory="net",
        weights=save_bytes(state),
        weights_name="net_v1.0.pth",
        inputs=(x,),
        expected=expected_outputs(model, kept, x),
        keys=tuple(state),
        tolerance=tolerance_for(dtype),
        forbidden=(),
    )
    return replace(case, **changes)


def changed_weights(change: Callable[[dict[str, Tensor]], Any]) -> bytes:
    model = full_network()
    state = sliced(model, kept_channels(model))
    change(state)
    return save_bytes(state)


# --- the oracle --------------------------------------------------------------------------------


def test_masked_state_silences_what_is_gone() -> None:
    model = full_network()
    masked = masked_state(model, kept_channels(model))
    state = model.state_dict()
    assert list(masked) == list(state)
    gone = [1, 3, 4]
    for name, tensor in masked.items():
        assert tensor.shape == state[name].shape
        if name == "fc.weight":
            assert torch.equal(tensor[:, KEPT], state[name][:, KEPT])
            assert (tensor[:, gone] == 0).all()
        elif name.startswith(("conv", "bn")) and tensor.dim():
            assert torch.equal(tensor[KEPT], state[name][KEPT])
            assert (tensor[gone] == (1 if name == "bn.running_var" else 0)).all()
        else:
            assert torch.equal(tensor, state[name])
    assert torch.equal(
        model.state_dict()["conv.weight"], full_network().state_dict()["conv.weight"]
    )


def test_an_element_survives_when_all_its_indices_do() -> None:
    model = nn.Linear(4, 3, bias=False)
    masked = masked_state(model, {"weight": (np.array([0, 2]), np.array([1, 3]))})["weight"]
    expected = torch.zeros(3, 4)
    for i in (0, 2):
        for j in (1, 3):
            expected[i, j] = model.weight[i, j].item()
    assert torch.equal(masked, expected)


def test_running_variances_are_known_by_their_owner() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("running_mean", torch.zeros(2))
            self.register_buffer("running_var", torch.full((2,), 4.0))

    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.running_var = nn.Parameter(torch.full((2,), 4.0))
            self.register_buffer("my_running_var", torch.full((2,), 4.0))

    model = nn.ModuleDict(
        {
            "frozen": Frozen(),
            "other": Other(),
            "instance": nn.InstanceNorm1d(2, track_running_stats=True),
            "sync": nn.SyncBatchNorm(2),
        }
    )
    one = np.array([1])
    kept = {name: (one,) if t.dim() else () for name, t in model.state_dict().items()}
    removed = {n: t[0].item() for n, t in masked_state(model, kept).items() if t.dim()}
    ones = {name for name, value in removed.items() if value == 1}
    assert ones == {"frozen.running_var", "instance.running_var", "sync.running_var"}
    assert all(value == 0 for name, value in removed.items() if name not in ones)


def test_tied_tensors_stay_tied() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    dims = (np.array([0]), np.arange(3))
    masked = masked_state(model, {"0.weight": dims, "1.weight": dims})
    assert masked["0.weight"] is masked["1.weight"]
    expected_outputs(model, {"0.weight": dims, "1.weight": dims}, torch.ones(1, 3))
    other = (np.array([1]), np.arange(3))
    with pytest.raises(VerificationError, match=r"1\.weight and 0\.weight are one tensor, but"):
        masked_state(model, {"0.weight": dims, "1.weight": other})


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({}, "kept says nothing about weight"),
        ({"weight": ([0], [0]), "b": ([0],)}, "names a tensor that the network lacks: b"),
        ({"weight": ([0],)}, "weight has 2 dimensions, kept has 1"),
        ({"weight": ([0], [3])}, r"weight[1] has 3 positions, expected ascending"),
        ({"weight": ([1, 0], [0])}, r"weight[0] has 3 positions, expected ascending"),
        ({"weight": ([0, 0], [0])}, r"below that, got [0, 0]"),
        ({"weight": ([-1], [0])}, r"below that, got [-1]"),
    ],
)
def test_indices_that_do_not_fit(kept: dict[str, Any], message: str) -> None:
    given = {n: tuple(np.array(i, dtype=np.int64) for i in dims) for n, dims in kept.items()}
    with pytest.raises(VerificationError, match=re.escape(message)):
        masked_state(nn.Linear(3, 3, bias=False), given)


class Restless(nn.Module):
    """Writes, in its forward, into all that a forward can reach."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("hidden", torch.zeros(2), persistent=False)
        self.bn = nn.BatchNorm1d(2)
        self.frozen = nn.Dropout().eval()
        self.fails = fails

    def forward(self, x: Tensor) -> Tensor:
        assert not self.bn.training
        self.calls += 1
        self.hidden += 1
        self.grid = torch.ones(2)
        self.register_buffer("late", torch.ones(1))
        x.mul_(2)
        torch.rand(3), np.random.rand(3), random.random()
        if self.fails:
            raise RuntimeError("no")
        return self.bn(x) + self.hidden


@pytest.mark.parametrize("fails", [False, True])
def test_the_network_is_left_as_it_was(fails: bool) -> None:
    model, x = Restless(fails), torch.randn(3, 2)
    kept = {n: tuple(map(np.arange, t.shape)) for n, t in model.state_dict().items()}

    def everything() -> tuple[Any, ...]:
        return (
            [m.training for m in model.modules()],
            [sorted(m.__dict__) for m in model.modules()],
            [(n, b.tolist()) for n, b in model.named_buffers()],
            [id(t) for t in (*model.parameters(), *model.buffers())],
            x.tolist(),
            torch.get_rng_state().tolist(),
            random.getstate(),
            np.random.get_state()[1].tolist(),  # type: ignore[index, union-attr]
            torch.is_grad_enabled(),
        )

    before = everything()
    if fails:
        with pytest.raises(RuntimeError, match="no"):
            expected_outputs(model, kept, x)
    else:
        output = expected_outputs(model, kept, x)
        assert output.tolist() == (model.bn.eval()(2 * x) + 1).tolist()
        model.bn.train()
    assert everything() == before


def test_hidden_buffers_can_be_masked() -> None:
    model = Restless()
    kept = {n: tuple(map(np.arange, t.shape)) for n, t in model.state_dict().items()}
    model.hidden.fill_(5)
    masked = masked_state(model, {**kept, "hidden": (np.array([1]),)})
    assert masked["hidden"].tolist() == [0, 5]
    assert "hidden" not in masked_state(model, kept)


def test_inputs_are_positional() -> None:
    class Sum(nn.Module):
        def forward(self, a: Tensor, more: dict[str, list[Tensor]], scale: int) -> Tensor:
            return (a + more["b"][0]) * scale

    one = torch.ones(2)
    assert expected_outputs(Sum(), {}, (one, {"b": [one]}, 3)).tolist() == [6, 6]
    with pytest.raises(PrunerError, match="example inputs: a object cannot be passed to the"):
        expected_outputs(Sum(), {}, (object(),))


def test_tolerances() -> None:
    assert tolerance_for(torch.float32) == 1e-5
    assert tolerance_for(torch.float64) == 1e-12
    assert tolerance_for(torch.bfloat16) > tolerance_for(torch.float16) > 1e-3
    with pytest.raises(PrunerError, match=r"dtype torch\.int64: cannot be verified"):
        tolerance_for(torch.int64)


def test_the_oracle_shares_no_code_with_writer_and_transfer() -> None:
    folder = Path(verify_module.__file__).parent
    imported = {
        name: {
            node.module
            for node in ast.walk(ast.parse((folder / name).read_text("utf-8")))
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("pruners")
        }
        for name in ("verify.py", "verify_child.py")
    }
    assert imported == {
        "verify.py": {"pruners.channel_graph", "pruners.errors", "pruners.verify_child"},
        "verify_child.py": set(),
    }


# --- comparing outputs -------------------------------------------------------------------------

Pair = namedtuple("Pair", ["a", "b"])


@dataclass
class Heads:
    logits: Any
    aux: Any = None


def test_outputs_are_flattened() -> None:
    t = torch.ones(1)
    leaves = flatten_output(Heads(Pair(t, [t, 1]), {"x": (), "y": 2.0}))
    assert [leaf[:2] for leaf in leaves] == [
        ("output", "dataclass"),
        ("output.logits", "namedtuple"),
        ("output.logits.a", "tensor"),
        ("output.logits.b", "list"),
        ("output.logits.b[0]", "tensor"),
        ("output.logits.b[1]", "int"),
        ("output.aux", "dict"),
        ("output.aux['x']", "tuple"),
        ("output.aux['y']", "float"),
    ]
    with pytest.raises(MismatchError, match=r"output\[0\] is a object, which cannot be compared"):
        flatten_output([object()])


@pytest.mark.parametrize(
    ("actual", "expected", "message"),
    [
        ((torch.ones(1),), [torch.ones(1)], "output has a tuple at output, expected a list at"),
        ([torch.ones(1)], [torch.ones(1)] * 2, "has nothing more, expected a tensor at output[1]"),
        ([1, 2], [1], "has a int at output[1], expected nothing more"),
        ({"a": 1}, {"b": 1}, "has a int at output['a'], expected a int at output['b']"),
        (torch.ones(1, 2), torch.ones(2), "has the shape (1, 2), expected (2,)"),
        (torch.ones(2).double(), torch.ones(2), "is torch.float64, expected torch.float32"),
        (torch.tensor([1, 2]), torch.tensor([1, 3]), "1 of 2 torch.int64 values differ"),
        (torch.tensor([math.nan]), torch.ones(1), "1 NaN in the output of the slim network"),
        (torch.ones(1), torch.tensor([math.nan]), "1 NaN in the output of the oracle"),
        (torch.tensor(math.nan), torch.tensor(math.nan), "1 NaN"),
        (math.nan, math.nan, "1 NaN"),
        ("a", "b", "output is 'a', expected 'b'"),
    ],
)
def test_outputs_that_differ(actual: Any, expected: Any, message: str) -> None:
    with pytest.raises(MismatchError, match=re.escape(message)):
        compare(flatten_output(actual), flatten_output(expected))


def test_the_error_is_relative_to_the_largest_value_of_each_tensor() -> None:
    def error(a: Any, b: Any) -> float:
        return compare(flatten_output(a), flatten_output(b))

    b = torch.tensor([1.0, -4.0], dtype=torch.float64)
    assert error(b + torch.tensor([0.0, 1.0]), b) == 0.25
    assert error([b, b * 1e-6 + 1e-6], [b, b * 1e-6]) == pytest.approx(0.25)
    assert error([b, torch.full((1,), 0.5)], [b, torch.zeros(1)]) == 0.5
    assert error([1, None, torch.empty(0)], [1, None, torch.empty(0)]) == 0
    assert error(1.5, 1.0) == 0.5
    assert error(torch.tensor([1 + 1j]), torch.tensor([1 + 0j])) == 1
    masked = torch.tensor([-math.inf, 2.0])
    assert error(masked, masked) == 0
    assert error(torch.tensor([0.0, 2.0]), masked) == math.inf


# --- what may be imported ----------------------------------------------------------------------


def test_this_project_is_refused_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout, original, plain = (tmp_path / n for n in ("checkout", "original", "plain"))
    (checkout / "pruners").mkdir(parents=True)
    (original / "sub").mkdir(parents=True)
    (original / "one_net.py").touch()
    plain.mkdir()
    (plain / "two_net.py").touch()
    refusing = Refusing(["pruners", "named"], [original], ("own", tmp_path / "own"))
    library = str(_libraries()[0])
    entries = [str(p) for p in (checkout, original, original / "sub", plain)] + [library]
    assert allowed_path(entries, refusing) == [str(plain), library]

    monkeypatch.setattr(sys, "path", [*entries, *sys.path])
    monkeypatch.setattr(sys, "meta_path", [refusing, *sys.meta_path])
    for name in ("pruners", "pruners.store", "named", "named.x"):
        with pytest.raises(ModuleNotFoundError, match=f"import of {name} is refused here"):
            refusing.find_spec(name)
    with pytest.raises(ModuleNotFoundError, match="it lies in the original's folder"):
        refusing.find_spec("one_net")
    assert refusing.find_spec("two_net") is not None
    assert refusing.find_spec("no_such_module") is None


def test_an_environment_inside_the_forbidden_folder_can_be_used(tmp_path: Path) -> None:
    inside = Path(torch.__file__).resolve().parents[4]
    refusing = Refusing([], [inside], ("own", tmp_path))
    assert refusing.find_spec("torch") is not None
    assert refusing.find_spec("json") is not None
    assert refusing._is_refused(inside / "elsewhere" / "net.py")


# --- the process -------------------------------------------------------------------------------


def with_forward(line: str, source: str = SOURCE) -> str:
    before = "        return self.fc(x.mean((2, 3)))"
    assert before in source
    return source.replace(before, line)


def swap_rows(state: dict[str, Tensor]) -> None:
    state["conv.weight"] = state["conv.weight"][[1, 0, 2]]


STRUCTURED = with_forward(
    """\
        import collections

        Two = collections.namedtuple("Two", ["logits", "more"])
        out = self.fc(x.mean((2, 3)))
        return Two(out, {"soft": [out.softmax(1)], "n": x.dim(), "top": out.argmax(1)})"""
)

FORWARD_ONLY_IN_TRAINING = """\
        out = self.fc(x.mean((2, 3)))
        return {} if self.training else out"""


def cases(original: Path) -> dict[str, tuple[Case, str]]:
    """By what they are about: a case, and the message that must come of it (a pattern)."""
    other_original = 'import sys; sys.path.insert(0, "{}"); import secret_original\n'
    good = good_case()
    return {
        "good": (good, ""),
        "prints": (replace(good, source="print('hello'); import json\n" + SOURCE), ""),
        "structured": (good_case(STRUCTURED), ""),
        "float64": (good_case(SOURCE_FLOAT64, dtype=torch.float64), ""),
        "batch of one": (
            replace(good, inputs=(image()[:1],), expected=good.expected[:1]),
            "",
        ),
        "leaves things behind": (
            replace(
                good,
                source="import os, sys\nimport torch\n"
                "sys.path.insert(0, '/'); sys.meta_path.clear(); sys.modules['json'] = None\n"
                "torch.set_grad_enabled(False); os.chdir('/')\n"
                "import torch as helper\nsys.modules['helper_of_another'] = helper\n"
                + with_forward("        raise ValueError('left\\nbehind')"),
            ),
            r"ValueError: left behind \(net\.py, line \d+, in forward\)$",
        ),
        "sees nothing of it": (
            replace(
                good,
                source="import os, sys, json\nimport torch\n"
                "assert torch.get_default_dtype() == torch.float32\n"
                "assert sys.path[0] == os.getcwd(), (sys.path, os.getcwd())\n"
                "assert sorted(os.listdir()) == ['net.py', 'net_v1.0.pth'], os.listdir()\n"
                "assert '/' not in sys.path\n"
                "assert torch.is_grad_enabled()\n" + SOURCE,
            ),
            "",
        ),
        "wrong index": (
            replace(good, weights=changed_weights(swap_rows)),
            r"the output differs from the oracle by \d\.\d\de-\d\d, more than 1e-05",
        ),
        "nan": (
            replace(good, weights=changed_weights(lambda s: s["fc.bias"].fill_(math.nan))),
            "fc.bias does not hold the values of the weights after loading",
        ),
        "nan in the output": (
            good_case(with_forward("        return self.fc(x.mean((2, 3))) * float('nan')")),
            "output: 8 NaN in the output of the slim network",
        ),
        "missing key": (
            replace(good, weights=changed_weights(lambda s: s.pop("fc.bias"))),
            r"state_dict keys of the weights: 1 missing \(fc\.bias\)",
        ),
        "key too many": (
            replace(good, keys=good.keys[:-1]),
            r"state_dict keys of the weights: 1 unexpected \(fc\.bias\)",
        ),
        "order of keys": (
            replace(good, keys=(*good.keys[1:], good.keys[0])),
            "state_dict keys of the weights: in another order",
        ),
        "keys of the network": (
            replace(good, source=SOURCE.replace("self.fc", "self.head")),
            r"keys of the network: 2 missing \(fc\.weight, fc\.bias\), 2 unexpected \(head\.",
        ),
        "width": (
            replace(good, source=SOURCE.replace("width: int = 3", "width: int = 4")),
            "RuntimeError: Error.* in loading state_dict for Net: size mismatch for conv.weight",
        ),
        "weights that run code": (
            replace(good, weights=_pickled_module()),
            "UnpicklingError: Weights only load failed",
        ),
        "weights ignored": (
            replace(good, source=SOURCE.replace("if weights is not None", "if False")),
            "does not hold the values of the weights after loading",
        ),
        "shape": (replace(good, expected=good.expected[:, :3]), r"has the shape \(2, 4\)"),
        "structure": (replace(good, expected=[good.expected]), "has a tensor at output, expected"),
        "no factory": (replace(good, factory="make"), "the file has no function make"),
        "no module": (
            replace(good, source="def net(weights=None):\n    return 3\n"),
            r"net\(\) returns a int, expected a torch\.nn\.Module",
        ),
        "needs arguments": (
            replace(good, source=SOURCE.replace("None, **kwargs", "None, *, depth")),
            "TypeError: net.. missing 1 required keyword-only argument: 'depth'",
        ),
        "name of a library": (
            replace(good, name="torch"),
            "the name torch is that of a module which torch has imported",
        ),
        "syntax": (replace(good, source="def net(:\n"), "the file is not Python: .*line 1"),
        "static import": (
            replace(
                good, source=SOURCE + "\n\ndef late():\n    from pruners.store import commit\n"
            ),
            r"line \d+ imports pruners\.store, and the file must stand alone",
        ),
        "relative import": (
            replace(good, source="from . import other\n" + SOURCE),
            "line 1 imports relatively",
        ),
        "static import of a part": (
            replace(
                good,
                source="from torchvision import models\n" + SOURCE,
                forbidden=("torchvision.models",),
            ),
            r"line 1 imports torchvision\.models",
        ),
        "dynamic import": (
            replace(good, source='__import__("pruners.store")\n' + SOURCE),
            "ModuleNotFoundError: import of pruners is refused here .net.py, line 1",
        ),
        "import of the forbidden": (
            replace(good, source='__import__("sqlite3")\n' + SOURCE, forbidden=("sqlite3",)),
            "ModuleNotFoundError: import of sqlite3 is refused here",
        ),
        "original on sys.path": (
            replace(
                good,
                source=other_original.format(original.parent) + SOURCE,
                forbidden=(str(original),),
            ),
            "import of secret_original is refused here: it lies in the original's folder",
        ),
        "original allowed": (
            replace(good, source=other_original.format(original.parent) + SOURCE),
            "",
        ),
        "exits": (
            replace(good, source="import sys\nprint('bye\\nbye')\nsys.exit('done')\n"),
            r"SystemExit: done \(net\.py, line 3, in <module>\); printed last: bye \| bye$",
        ),
        "interrupts": (
            replace(good, source="raise KeyboardInterrupt\n"),
            r"KeyboardInterrupt \(net\.py, line 1",
        ),
        "train mode": (
            good_case(
                with_forward(
                    "        if self.training:\n            raise ValueError(x.shape[0])\n"
                    "        return self.fc(x.mean((2, 3)))"
                )
            ),
            r"ValueError: 4 \(net\.py",
        ),
        "infinite gradient": (
            good_case(
                with_forward(
                    "        x = self.fc(x.mean((2, 3)))\n"
                    "        return (x * 0).sqrt() + 1 if self.training else x"
                )
            ),
            r"the gradient of \S+ is not finite in train mode",
        ),
        "nan in train mode": (
            good_case(
                with_forward(
                    "        x = self.fc(x.mean((2, 3)))\n"
                    "        return x / 0 * 0 if self.training else x"
                )
            ),
            "output: 16 NaN in train mode",
        ),
        "one batch size only": (
            good_case(with_forward("        return self.fc(x.mean((2, 3))).view(8)")),
            "",
        ),
        "nothing to train": (good_case(with_forward(FORWARD_ONLY_IN_TRAINING)), ""),
    }


def _pickled_module() -> bytes:
    import io

    buffer = io.BytesIO()
    torch.save(nn.Linear(1, 1), buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Outcome, str]]:
    """The outcome of every case beside its expected message, from one process."""
    original = tmp_path_factory.mktemp("original") / "secret_original.py"
    original.write_text("x = 1\n")
    given = cases(original)
    temporary = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(temporary))
        outcomes = verify([case for case, _ in given.values()])
    assert not list(temporary.iterdir())
    return {
        about: (outcome, message)
        for (about, (_, message)), outcome in zip(given.items(), outcomes, strict=True)
    }


@pytest.mark.parametrize("about", list(cases(Path("original.py"))))
def test_case(ran: dict[str, tuple[Outcome, str]], about: str) -> None:
    outcome, message = ran[about]
    assert outcome.oracle == "masked"
    assert "\n" not in outcome.message
    if message:
        assert not outcome.ok
        assert re.search(message, outcome.message), outcome.message
    else:
        assert outcome.message == ""
        assert outcome.ok
        assert outcome.error <= outcome.tolerance


def test_figures(ran: dict[str, tuple[Outcome, str]]) -> None:
    assert ran["float64"][0].error <= 1e-12
    assert ran["wrong index"][0].error > 1e-3
    assert ran["exits"][0].error == math.inf
    # It was compared before it was trained.
    assert ran["train mode"][0].error <= 1e-5


def test_a_case_that_hangs_takes_only_the_others_not_run() -> None:
    hangs = replace(good_case(), source="import time\nprint('zzz')\ntime.sleep(1000)\n")
    start = time.monotonic()
    outcomes = verify([good_case(), hangs, good_case(name="after")], timeout=3)
    assert time.monotonic() - start < 60
    assert [outcome.ok for outcome in outcomes] == [True, False, False]
    assert outcomes[1].message == (
        "the process took longer than 3 s in this case; printed last: zzz"
    )
    assert outcomes[2].message == "not run: the process took longer than 3 s in an earlier case"


FAKES = {
    "crash": (
        "import os, signal; open(job + '/results.jsonl', 'a').write("
        '\'{"case": 0, "error": 0.0, "message": ""}\\n{"case": 1}\\n{"ca\')\n'
        "print('oops', flush=True); os.kill(os.getpid(), signal.SIGSEGV)",
        ["", "the process was killed by SIGSEGV in this case; printed last: oops"],
    ),
    "exit": (
        "import os; open(job + '/results.jsonl', 'a').write('{\"case\": 0}\\n')\nos._exit(0)",
        ["the process exited with 0 in this case", "not run: the process exited with 0 in an"],
    ),
    "no start": (
        "raise ImportError('no torch here')",
        ["not run: the process exited with 1; printed last: .*ImportError: no torch here"] * 2,
    ),
}


@pytest.mark.parametrize("kind", list(FAKES))
def test_a_process_that_dies(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, messages = FAKES[kind]
    (tmp_path / "child.py").write_text(f"import sys; job = sys.argv[1]\n{code}\n")
    monkeypatch.setattr(verify_module, "_CHILD", tmp_path / "child.py")
    outcomes = verify([good_case(), good_case()])
    for outcome, message in zip(outcomes, messages, strict=True):
        assert outcome.ok == (not message)
        assert re.match(message, outcome.message), outcome.message


def test_ctrl_c_ends_the_process_and_removes_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def popen(*args: Any, **kwargs: Any) -> subprocess.Popen[bytes]:
        started.append(real(*args, **kwargs))
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", popen)
    case = good_case()
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            verify([case])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert [process.returncode for process in started] == [-signal.SIGKILL]
    assert not list(tmp_path.iterdir())


def test_the_process_ends_with_its_parent(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "output.txt").touch()
    hangs = replace(good_case(), source="import time\ntime.sleep(1000)\n")
    verify_module._write_case(hangs, tmp_path / "0")
    described = verify_module.json.dumps([verify_module._described(hangs)])
    (tmp_path / "job.json").write_text(described)
    process = subprocess.Popen(
        [sys.executable, "-I", str(verify_module._CHILD), str(tmp_path)],
        cwd=tmp_path / "empty",
        stdin=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + 60
        results = tmp_path / "results.jsonl"
        while not (results.exists() and results.stat().st_size):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert process.poll() is None
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=20) == 3
    finally:
        process.kill()


def test_no_process_without_a_case_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    assert verify([]) == []
    assert not verify([replace(good_case(), source="import pruners\n")])[0].ok


def test_names_are_checked() -> None:
    for change, message in [
        ({"name": "a-b"}, "module name 'a-b': expected a Python identifier"),
        ({"name": "class"}, "module name 'class'"),
        ({"factory": "f()"}, r"factory name 'f\(\)'"),
        ({"weights_name": "../w.pth"}, r"weights name '\.\./w\.pth': expected a plain file name"),
        ({"weights_name": "net.py"}, r"weights name 'net\.py'"),
    ]:
        with pytest.raises(PrunerError, match=message):
            good_case(**change)


def test_what_cannot_be_passed_on_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PrunerError, match="net: output is a object, which cannot be compared"):
        verify([good_case(expected=object())])
    with pytest.raises(PrunerError, match="example inputs: a Random cannot be passed"):
        verify([good_case(inputs=(random.Random(),))])

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", full)
    with pytest.raises(PrunerError, match=r"temporary folder .*No space left.*set TMPDIR"):
        verify([good_case()])


def test_quoted_lines(tmp_path: Path) -> None:
    (tmp_path / "o").write_bytes(b"early\none\n\n two  words\nthree\nfour \xff\n")
    assert quoted_tail(tmp_path / "o") == "; printed last: two words | three | four \ufffd"
    assert quoted_tail(tmp_path / "o", start=10_000) == ""
    assert quoted_tail(tmp_path / "nowhere") == ""


def test_require() -> None:
    good = Outcome("a", True, 1e-7, "", "masked", 1e-5)
    bad = Outcome("b", False, 0.25, "the output differs", "sliced", 1e-5)
    worse = Outcome("c", False, math.inf, "SystemExit", "masked", 1e-12)
    require([])
    require([good])
    with pytest.raises(
        VerificationError,
        match=r"^b: not equal to the sliced oracle \(2\.50e-01, tolerance 1e-05\): the output "
        r"differs; 1 more failed; nothing was written$",
    ):
        require([good, bad, worse])
    with pytest.raises(VerificationError, match=r"^c: .*\(no figure, tolerance 1e-12\): SystemE"):
        require([worse])
