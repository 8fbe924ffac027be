"""Names that look like code end up quoted or refused, and never run.

Every name carries a payload that sets a flag in this process, or makes a file in a fresh one, if it
is ever evaluated, executed, or put into a file that is imported.
"""

from __future__ import annotations

import enum
import functools
import io
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import with_telling_state
from rich.console import Console
from torch import Tensor, fx, nn
from user_files import user_class, wide_image

from pruners import PrunerError, PruningResult, WriterError, progress, prune
from pruners.model_store import ModelStore
from pruners.progress import note
from pruners.runs import npz_bytes
from pruners.store import sealed
from pruners.verify import require, verify

X = wide_image(2, 3, 8, 8)

NET = """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 4)
        self.said = None
        self.extra = ()
        self.layers = nn.ModuleDict()

    def forward(self, x):
        x = self.conv1(x)
        for name, layer in self.layers.items():
            x = layer(x)
        for name in self.extra:
            x = getattr(self, name)(x)
        if self.said:
            x = x * 1.0
        return self.fc(self.conv2(x).mean((2, 3)))
"""


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """The file that a payload would make; after the test it must not be there."""
    path = tmp_path / "ran"
    yield path
    assert not path.exists()


def payload(marker: Path) -> str:
    """An expression that leaves a mark, wherever it runs."""
    return f"__import__('pathlib').Path({str(marker)!r}).touch()"


def evil_names(code: str) -> dict[str, str]:
    """The payload, dressed for every place in a file where a name may end up."""
    return {
        "expression": code,
        "quote": f"a', {code}, '",
        "double quote": f'a", {code}, "',
        "docstring": f'"""\n{code}\n"""',
        "backslash": f'\\"""\n{code}\n"""\\',
        "newline": f"a\n{code}\n",
        "carriage return": f"a\r{code}\r",
        "statement": f"x = 0; {code}; y",
        "format": "{" + code + "}",
        "template": "{{ " + code + " }}",
        "comment": f"# noqa\n{code}  #",
        "call": f"x)\n{code}\n(y",
        "keyword": "class",
        "empty brackets": "a[0]",
        "unicode": "ﬁeld",  # Python reads it as `field`
        "line separator": f"a\u2028{code}\u2028",
    }


KINDS = list(evil_names(""))


def written(model: nn.Module) -> PruningResult | None:
    """The result where the network could be written, None where it was refused in a line."""
    try:
        result = prune(with_telling_state(model).double(), X, 40)
        assert list(result.model.state_dict()) == list(model.state_dict())
    except PrunerError as error:
        said = str(error)
    else:
        return result
    assert "\n" not in said
    return None


def settled(models: Iterable[nn.Module]) -> list[bool]:
    """Which of the networks were written; those are verified, all in one fresh process."""
    results = [written(model) for model in models]
    require(verify([result.case() for result in results if result is not None]))
    return [result is not None for result in results]


def network(folder: Path, change: Callable[[Any], Any] = lambda model: None) -> nn.Module:
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    model = user_class(folder, "named_net", NET)()
    change(model)
    return model


def undotted(marker: Path) -> list[str]:
    """The names, without the dots that torch forbids in the names of modules."""
    return [
        name.replace(".", "\N{ONE DOT LEADER}") for name in evil_names(payload(marker)).values()
    ]


def test_keys_of_a_module_dict(tmp_path: Path, marker: Path) -> None:
    models = [
        network(tmp_path, lambda m, name=name: m.layers.update({name: nn.Conv2d(8, 8, 1)}))
        for name in undotted(marker)
    ]
    assert all(settled(models))


def test_keys_of_a_sequential(tmp_path: Path, marker: Path) -> None:
    models = []
    for name in undotted(marker):
        layers = nn.Sequential(OrderedDict({name: nn.Conv2d(8, 8, 1), "ok": nn.ReLU()}))
        models.append(network(tmp_path, lambda m, layers=layers: m.layers.update({"a": layers})))
    assert all(settled(models))


def test_names_of_modules_parameters_and_buffers(tmp_path: Path, marker: Path) -> None:
    models = []
    for name in undotted(marker):
        for add in (
            lambda m, name=name: m.add_module(name, nn.Conv2d(8, 8, 1)),
            lambda m, name=name: m.register_parameter(name, nn.Parameter(torch.ones(3))),
            lambda m, name=name: m.register_buffer(name, torch.ones(3)),
        ):
            models.append(network(tmp_path, add))
        called = network(tmp_path, lambda m, name=name: m.add_module(name, nn.Conv2d(8, 8, 1)))
        called.extra = (name,)
        models.append(called)
    assert all(settled(models))


def test_names_of_classes(tmp_path: Path, marker: Path) -> None:
    for number, name in enumerate(evil_names(payload(marker)).values()):
        for attribute in ("__name__", "__qualname__", "__module__", "__doc__"):
            model = network(tmp_path / f"{number}{attribute}")
            setattr(type(model), attribute, name)
            result = written(model)
            assert result is None or compile(result.source, "written", "exec")


def test_names_of_a_class_without_source(marker: Path) -> None:
    models: list[nn.Module] = []
    for name in evil_names(payload(marker)).values():
        child = name.replace(".", "")

        def init(self: Any, child: str = child) -> None:
            nn.Module.__init__(self)
            self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
            self.add_module(child, nn.Conv2d(4, 4, 1))

        def forward(self: Any, x: Tensor) -> Any:
            *_, last = self.children()
            return {name: last(self.conv2(self.conv1(x)))}  # noqa: B023 - read at once, below

        forward.__name__ = forward.__qualname__ = name
        body = {"__init__": init, "forward": forward, "__doc__": name, "__module__": name}
        made: Any = type(name, (nn.Module,), body)
        result = written(made())
        assert result is None or compile(result.source, "written", "exec")
        layers = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1))
        models.append(fx.GraphModule(layers, _chain()))
        type(models[-1]).__name__ = name
    assert all(settled(models))


def _chain() -> fx.Graph:
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_module("1", (graph.call_module("0", (x,)),)))
    return graph


def test_values_that_the_forward_reads(tmp_path: Path, marker: Path) -> None:
    models = []
    for name in evil_names(payload(marker)).values():
        for value in ([name], (name, b"x" + name.encode()), {"a": {name: name}}):
            models.append(network(tmp_path, lambda m, value=value: setattr(m, "said", value)))
    assert all(settled(models))


class HostileStr(str):
    def __repr__(self) -> str:
        return str(self)


class HostileInt(int):
    def __repr__(self) -> str:
        return HOSTILE[0]


class HostileTuple(tuple):
    def __repr__(self) -> str:
        return HOSTILE[0]


class HostileFloat(float):
    def __repr__(self) -> str:
        return HOSTILE[0]


class HostileDict(dict):
    def __repr__(self) -> str:
        return HOSTILE[0]


class HostileEnum(enum.Enum):
    ONE = 1

    def __repr__(self) -> str:
        return HOSTILE[0]


class HostileIntEnum(enum.IntEnum):
    ONE = 1

    def __repr__(self) -> str:
        return HOSTILE[0]


class Dtype:
    """As a torch.dtype says it: `torch.` and a name."""

    def __repr__(self) -> str:
        return HOSTILE[0]

    __str__ = __repr__
    __module__ = "torch"


class Dressed:
    """Says that it is a function of torch."""

    def __init__(self, name: str) -> None:
        self.__name__, self.__qualname__, self.__module__ = name, name, "torch"

    def __call__(self, x: Tensor) -> Tensor:
        return x

    def __bool__(self) -> bool:
        return True


HOSTILE = ["0"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: HostileStr(HOSTILE[0]),
        lambda: HostileInt(1),
        lambda: HostileTuple((1, 2)),
        lambda: HostileFloat(1.5),
        lambda: HostileDict(a=1),
        lambda: HostileEnum.ONE,
        lambda: HostileIntEnum.ONE,
        Dtype,
        lambda: Dressed(HOSTILE[0]),
        lambda: Dressed("relu"),
        lambda: Dressed("system"),
        lambda: [HostileInt(1)],
        lambda: {HostileStr("a"): 1},
    ],
)
def test_objects_that_say_code_when_asked_for_their_repr(
    tmp_path: Path, marker: Path, make: Callable[[], Any]
) -> None:
    HOSTILE[0] = payload(marker)
    result = written(network(tmp_path, lambda m: setattr(m, "said", make())))
    assert result is None or "touch" not in result.source

    def in_a_layer(model: Any) -> None:
        model.conv2.padding_mode = make()

    try:
        result = written(network(tmp_path, in_a_layer))
    except NotImplementedError:
        return  # torch's own word on such a layer
    assert result is None or "touch" not in result.source


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "unicode"])
def test_the_name_argument(tmp_path: Path, marker: Path, kind: str) -> None:
    with pytest.raises(PrunerError, match=r"^--name .*cannot be imported as a Python module"):
        prune(network(tmp_path), X, 40, name=evil_names(payload(marker))[kind])


def test_the_docstring_of_a_network(tmp_path: Path, marker: Path) -> None:
    models = []
    for number, said in enumerate(evil_names(payload(marker)).values()):
        text = NET.replace("Module):\n", f"Module):\n    {said!r}\n\n", 1)
        models.append(user_class(tmp_path, f"documented_{number}", text)())
    assert all(settled(models))


def test_classes_that_shadow_builtins_or_what_a_file_imports(tmp_path: Path) -> None:
    models = []
    names = ["list", "print", "int", "str", "Exception", "super", "torch", "nn", "Path", "F"]
    for name in names:
        text = NET.replace("class Net", f"class {name}").replace("nn.", "tnn.")
        text = text.replace("super().__init__()", "tnn.Module.__init__(self)")
        head = "import torch as t\n\ntnn = t.nn\n\n"
        cls: Any = user_class(tmp_path, f"shadowing_{name}", text, cls=name, head=head)
        models.append(cls())
    written_ones = [name for name, ok in zip(names, settled(models), strict=True) if ok]
    assert written_ones == names


@pytest.mark.parametrize("kind", KINDS)
def test_keys_of_a_checkpoint(tmp_path: Path, marker: Path, kind: str) -> None:
    from pruners.store import load_checkpoint

    model = network(tmp_path)
    path = tmp_path / "weights.pth"
    torch.save({**model.state_dict(), evil_names(payload(marker))[kind]: torch.ones(1)}, path)
    with pytest.raises(PrunerError) as info:
        load_checkpoint(model, path)
    assert "\n" not in str(info.value)


def test_a_payload_would_be_noticed(tmp_path: Path) -> None:
    path = tmp_path / "ran"
    for number, name in enumerate(("x = 0; {}; y = 1", "(0)\n{}\n(1)")):
        exec(name.format(payload(path.with_suffix(f".{number}"))), {})
        assert path.with_suffix(f".{number}").exists()


# --- attributes that no file can hold -----------------------------------------------------------


def make_closure() -> Callable[[Tensor], Tensor]:
    factor = 2.0

    def scaled(x: Tensor) -> Tensor:
        return x * factor

    return scaled


class _Callable:
    def __call__(self, x: Tensor) -> Tensor:
        return x

    def method(self, x: Tensor) -> Tensor:
        return x


def local_class() -> type[nn.Module]:
    class Block(nn.Identity):
        pass

    return Block


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: lambda x: x * 2, "a lambda"),
        (make_closure, "a function inside a function"),
        (local_class, "a class inside a function"),
        (lambda: functools.partial(make_closure()), "a functools.partial"),
        (lambda: functools.partial(lambda x: x), "a functools.partial"),
        (lambda: _Callable().method, "a method bound to an object"),
        (_Callable, "a _Callable"),
    ],
)
def test_attributes_that_cannot_be_imported(
    tmp_path: Path, make: Callable[[], Any], said: str
) -> None:
    model: Any = network(tmp_path, lambda m: setattr(m, "said", make()))
    with pytest.raises(
        WriterError,
        match=rf"^Net\.said at the network itself: {said}, which no file can import, but forward "
        r"reads it; expected .*: make it an nn\.Module, or a function at the top level of a file",
    ) as info:
        prune(model.double(), X, 40).source  # noqa: B018
    assert "\n" not in str(info.value)
    assert "0x" not in str(info.value)


def test_nothing_that_is_told_commands_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Names come from files that somebody else has made; a terminal obeys escape sequences."""
    note("error: checkpoint \x1b]0;owned\x07 holds a\nb\r\udcff")
    assert capsys.readouterr().err == "error: checkpoint \\x1b]0;owned\\x07 holds a\\nb\\r\\udcff\n"


@pytest.mark.parametrize("text", ["[/red].py", "[bold]a", "{0}", "{task}", "a\x1b[2Jb"])
def test_names_are_no_markup_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    monkeypatch.setattr(progress, "Console", functools.partial(Console, force_terminal=True))
    with progress.stage(f"loading {text}"), progress.bar(f"testing {text}", 2, True) as step:
        step()
    shown = progress.printable(text)
    assert f"testing {shown}" in re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", capsys.readouterr().err)


# --- file names ----------------------------------------------------------------------------------

OUTSIDE = ("../x", "..", ".", "/x", "a/../../x", "..\\x", "~/x", "x\0", "x\n", "x/", "C:x", "x y")


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_name_leads_out_of_a_folder(tmp_path: Path, name: str) -> None:
    """Names of files come from classes, options and manifests."""
    out = tmp_path / "a" / "out"
    model = network(tmp_path / "a")
    with pytest.raises(PrunerError, match=r"^--name .*cannot be imported as a Python module"):
        prune(model, X, 40, name=name)
    with suppress(ValueError):  # Python's own word on a NUL
        type(model).__name__ = name
    try:
        prune(model.double(), X, 40).save(out, out / "models", verify=False)
    except PrunerError as error:
        assert "\n" not in str(error)  # noqa: PT017 - some of them may be written
    with pytest.raises(PrunerError, match=r"^name .*expected letters, digits"):
        ModelStore(out / "models").add("pruned", name, {".pth": b"x"})
    with pytest.raises(PrunerError, match="suffix"):
        ModelStore(out / "models").add("pruned", "x", {f".{name}": b"x"})
    left = {path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts}
    known = {tmp_path / "a", tmp_path / "a/named_net.py"}
    assert all(path.is_relative_to(out) for path in left - known)


def test_a_manifest_names_no_file_of_another_folder(tmp_path: Path) -> None:
    models = ModelStore(tmp_path / "models")
    path = models.add("pruned", "net", {".pth": b"x"}).manifest_path
    facts = json.loads(path.read_text())
    (tmp_path / "secret.pth").write_bytes(b"x")
    listed = facts["files"].pop("net_pruned_v1.0.pth")
    for file in ("../../secret.pth", str(tmp_path / "secret.pth"), "net_pruned_v1.0../x.pth"):
        path.write_text(json.dumps(sealed({**facts, "files": {file: listed}})))
        (finding,) = [f for f in models.verify() if f.kind == "damaged"]
        assert finding.message.startswith("is no manifest of a version")


def test_layers_that_are_called_as_arguments_are() -> None:
    """`np.savez` would take the first for its file."""
    arrays = {name: np.arange(3) for name in ("file", "allow_pickle", "../x", "a/b")}
    with np.load(io.BytesIO(npz_bytes(arrays))) as loaded:
        assert list(loaded) == list(arrays)
        assert all(loaded[name].tolist() == [0, 1, 2] for name in arrays)
    assert npz_bytes(arrays) == npz_bytes(arrays)
