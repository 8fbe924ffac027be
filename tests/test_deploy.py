"""int8, ONNX, torch.export, folding: what goes to a device computes what the network does."""

from __future__ import annotations

import io
import json
import re
import warnings
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import app
import pruners
from pruners import write_source
from pruners.datasets import load_dataset
from pruners.deploy.calibration import examples_of
from pruners.deploy.exporting import pt2_of
from pruners.deploy.extra import need
from pruners.deploy.finalizing import without_norms
from pruners.deploy.folding import folded
from pruners.deploy.model_file import model_file
from pruners.deploy.onnx_file import check_onnx, onnx_of
from pruners.deploy.onnx_int8 import onnx_int8
from pruners.deploy.runtime import OnnxNetwork, Pt2Network
from pruners.deploy.torch_int8 import torch_int8
from pruners.deploy.torch_script import torchscript_of
from pruners.deploy.unpruned import unpruned
from pruners.deploy.weight_int8 import SCALE, dequantized, int8_weights
from pruners.errors import PrunerError, VerificationError
from pruners.evaluation import accuracy
from pruners.model_store import ModelStore
from pruners.store import save_bytes
from tests.helpers import image, with_telling_state

X = image(2, 3, 8, 8)


class Net(nn.Module):
    """Small; a convolution with a bias, one without, a shortcut around the second."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(8, affine=False)
        self.late = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.late(torch.relu(x + self.bn2(self.conv2(x))))
        return self.fc(x.mean((2, 3)))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 6), nn.Linear(3, 6)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.left(x) * self.right(y), self.left(x)


class Eig(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(x @ x.transpose(-1, -2)).real


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x if x.sum() > 0 else x


class Around(nn.Module):
    """A convolution, and a part behind it."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.conv, self.part = nn.Conv2d(3, 4, 3), part

    def forward(self, x: Tensor) -> Tensor:
        return self.part(self.conv(x))


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return with_telling_state(Net(), seed)


@pytest.fixture(scope="module")
def as_onnx() -> bytes:
    return onnx_of(net(), X, {"name": "net", "parents": '{"net.py": "ab"}'})


# --- ONNX --------------------------------------------------------------------------------------


def test_onnx_computes_the_same_for_any_batch(as_onnx: bytes) -> None:
    assert check_onnx(as_onnx, net(), X) < 1e-5
    assert OnnxNetwork(as_onnx)(image(7, 3, 8, 8)).shape == (7, 10)


def test_onnx_has_no_trace_of_where_it_was_made(as_onnx: bytes) -> None:
    assert onnx_of(net(), image(5, 3, 8, 8), {"name": "net", "parents": '{"net.py": "ab"}'}) == (
        as_onnx
    )
    for text in (b"test_deploy", b"site-packages", str(Path.cwd()).encode(), b"stack_trace"):
        assert text not in as_onnx


def test_onnx_says_where_it_comes_from_and_names_layers(as_onnx: bytes) -> None:
    proto = onnx.load_from_string(as_onnx)
    assert {p.key: p.value for p in proto.metadata_props} == {
        "name": "net",
        "parents": '{"net.py": "ab"}',
    }
    assert [n.name for n in proto.graph.node if n.op_type == "Conv"] == ["conv1/Conv", "conv2/Conv"]
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_two_inputs_and_two_outputs() -> None:
    torch.manual_seed(0)
    model, inputs = TwoInputs().eval(), (image(2, 4), image(2, 3, seed=2))
    content = onnx_of(model, inputs)
    assert check_onnx(content, model, inputs) < 1e-6
    assert [tuple(y.shape) for y in OnnxNetwork(content)(image(5, 4), image(5, 3))] == [
        (5, 6),
        (5, 6),
    ]


def test_an_onnx_file_of_another_network_is_refused(as_onnx: bytes) -> None:
    with pytest.raises(VerificationError, match=r"differs from torch's by .*at most 1e-04"):
        check_onnx(as_onnx, net(seed=1), X)
    with pytest.raises(VerificationError, match=r"Net: the file is not valid"):
        check_onnx(b"no file", net(), X)


def test_an_operator_without_onnx_form_is_named_with_its_layer() -> None:
    with pytest.raises(
        PrunerError,
        match=r"export --onnx: part \(Eig\): the operator aten.linalg_eig has no ONNX form; ",
    ):
        onnx_of(Around(Eig()), X)


def test_a_forward_that_depends_on_values_is_named_with_its_layer(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(PrunerError, match=r"export --pt2: part \(Branch\): torch.export cannot"):
        pt2_of(Around(Branch()), X)
    assert capfd.readouterr() == ("", "")


# --- torch.export, TorchScript -----------------------------------------------------------------


def test_pt2_computes_the_same_and_repeats() -> None:
    content = pt2_of(net(), X)
    assert content == pt2_of(net(), X)
    more = image(5, 3, 8, 8)
    torch.testing.assert_close(Pt2Network(content)(more), net()(more))
    assert b"site-packages" not in content


def test_torchscript_computes_the_same_and_repeats() -> None:
    content = torchscript_of(net(), X)
    assert content == torchscript_of(net(), X)
    assert b"site-packages" not in content
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = torch.jit.load(io.BytesIO(content))  # type: ignore[no-untyped-call]
    more = image(5, 3, 8, 8)
    torch.testing.assert_close(loaded(more), net()(more), rtol=1e-4, atol=1e-5)


# --- folding -----------------------------------------------------------------------------------


def test_folding_changes_nothing_and_keeps_the_keys() -> None:
    model = net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    made = folded(model, X)
    assert made.norms == ("bn1", "bn2")
    assert made.left == ("late",)
    assert list(made.state_dict) == list(before)
    assert int(made.state_dict["bn1.num_batches_tracked"]) == 0
    torch.testing.assert_close(made.state_dict["bn1.weight"], torch.ones(8))
    ready, _, _, error = without_norms(model, [X])
    assert error < 1e-5
    assert not torch.equal(ready.get_parameter("conv1.weight"), before["conv1.weight"])
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


class Shared(nn.Module):
    """What must not be folded: a layer that others read, weights used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.twice, self.bn2 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y = y + self.bn(y)
        return self.bn2(self.twice(self.twice(y)))


def test_layers_that_are_read_twice_are_left() -> None:
    torch.manual_seed(0)
    made = folded(with_telling_state(Shared()), X)
    assert made.norms == ()
    assert made.left == ("bn", "bn2")


# --- int8 --------------------------------------------------------------------------------------


def test_int8_weights_are_near_and_under_the_same_keys() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 5, 3), nn.BatchNorm2d(5))
    with torch.no_grad():
        model[0].weight[1].zero_()
    state = int8_weights(model)
    assert state["0.weight"].dtype == torch.int8
    assert state["0.weight" + SCALE].shape == (4, 1, 1, 1)
    assert state["1.weight" + SCALE].shape == (1, 5, 1, 1)
    again = dequantized(state)
    assert list(again) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        near = (again[name] - tensor).abs() <= state.get(name + SCALE, torch.zeros(1)) * 0.501
        assert bool(near.all())
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(PrunerError, match=r"quantize: 0.weight has values that are not finite"):
        int8_weights(model)


def test_static_int8_is_near_repeats_and_is_smaller(as_onnx: bytes) -> None:
    batches = [image(16, 3, 8, 8, seed=s) for s in range(4)]
    made = onnx_int8(as_onnx, batches)
    assert made.samples == 64
    assert made.left_in_float == ()
    assert made.content == onnx_int8(as_onnx, batches).content
    expected = net()(X).detach()
    near = (OnnxNetwork(made.content)(X) - expected).abs().max() / expected.abs().max()
    assert float(near) < 0.1
    assert {p.key for p in onnx.load_from_string(made.content).metadata_props} == {
        "name",
        "parents",
    }


def test_static_int8_of_torch_is_near() -> None:
    batches = [image(16, 3, 8, 8, seed=s) for s in range(4)]
    content = torch_int8(net(), X, batches)
    expected = net()(X).detach()
    near = (Pt2Network(content)(X) - expected).abs().max() / expected.abs().max()
    assert float(near) < 0.1


class Calls(nn.Module):
    """Layers that are called as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.conv2d(x, self.conv.weight, self.conv.bias))
        return F.linear(x.mean((2, 3)), self.fc.weight, self.fc.bias)


def test_functional_calls_become_int8_too() -> None:
    content = torch_int8(Calls().eval(), X, [image(32, 3, 8, 8)])
    program = torch.export.load(io.BytesIO(content))
    assert [t.dtype for t in program.state_dict.values()].count(torch.int8) == 2
    with pytest.raises(PrunerError, match=r"no layer that torchao puts into 8 bits; expected"):
        torch_int8(nn.Sequential(nn.PReLU()), X, [image(32, 3, 8, 8)])


def test_too_few_samples_say_how_many() -> None:
    with pytest.raises(
        PrunerError, match=r"quantize: 12 calibration samples; expected 32 to 2000: take more"
    ):
        examples_of([image(12, 3, 8, 8)])
    assert sum(len(x[0]) for x in examples_of([image(90, 1)] * 30)) == 2000
    with pytest.raises(PrunerError, match=r"a calibration batch has 1 inputs; the network takes 2"):
        examples_of([image(32, 3)], 2)


def test_only_float32_becomes_int8() -> None:
    content = onnx_of(nn.Sequential(nn.Conv2d(3, 4, 3)).double(), X.double())
    with pytest.raises(PrunerError, match=r"quantize: 0.weight is double; int8 is made of float32"):
        onnx_int8(content, [image(32, 3, 8, 8)])


def test_a_network_without_an_int8_operator_is_refused() -> None:
    relu = onnx_of(nn.Sequential(nn.PReLU()), X)
    with pytest.raises(PrunerError, match=r"the network: nothing of it has an int8 form"):
        onnx_int8(relu, [image(32, 3, 8, 8)])


def test_a_missing_package_names_the_extra() -> None:
    with pytest.raises(
        PrunerError, match=r"^quantize: needs no_such_package, not installed; .*pruners\[deploy\]"
    ):
        need("quantize", "torch", "no_such_package")


# --- files -------------------------------------------------------------------------------------


class Digits(nn.Module):
    """Reads digits; a template of the ten means."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4 * 4 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(torch.relu(self.bn(self.conv(x))), 1))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated file with its manifest and weights, as `write` makes them."""
    folder = tmp_path_factory.mktemp("deploy")
    torch.manual_seed(0)
    model = with_telling_state(Digits())
    result = write_source(model, X, name="digits_small")
    result.save(folder / "generated", folder / "pruned", verify=False)
    return folder


def options(home: Path) -> list[str]:
    return ["--out", str(home / "generated"), "--store-dir", str(home)]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = app.main(arguments)
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_generated_file_loads_int8_weights(home: Path, tmp_path: Path) -> None:
    file = model_file("digits_small", home / "generated", ModelStore(home))
    path = tmp_path / "int8.pth"
    path.write_bytes(save_bytes(int8_weights(file.model)))
    assert path.stat().st_size < file.weights.stat().st_size
    names: dict[str, object] = {}
    exec(file.source, names)
    loaded = names[file.factory](weights=path).eval()  # type: ignore[operator]
    torch.testing.assert_close(loaded(X), file.model(X), rtol=0.1, atol=0.05)


def test_quantize_command(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["quantize", "digits_small", "--dataset", "Digits", "--samples", "64"]
    code, out, err = run(capsys, *arguments, *options(home), "--json")
    assert code == 0, err
    facts = json.loads(out)
    quantization = facts["quantization"]
    assert quantization["calibration_samples"] == 64
    assert set(quantization["answers"]) == {"float", "onnx", "pth", "pt2"}
    assert abs(quantization["answers"]["float"]["accuracy"] - 10) < 15
    content = Path(facts["paths"]["onnx"]).read_bytes()
    test = load_dataset("Digits", input_shape=(3, 8, 8)).test
    assert accuracy(OnnxNetwork(content), test) == pytest.approx(
        quantization["answers"]["onnx"]["accuracy"], abs=1e-3
    )
    assert facts["paths"]["pth"].endswith("quantized/digits_small_quantized_v1.0.pth")
    for image_batch, _ in DataLoader(test, 4):
        assert OnnxNetwork(content)(image_batch).shape == (4, 10)
        break


def test_export_and_finalize_commands(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(
        capsys, "export", "digits_small", "--onnx", "--torchscript", "--pt2", *options(home)
    )
    assert code == 0, err
    assert "final/digits_small_v1.0_final.onnx" in out
    assert "checked: onnxruntime's output differs from torch's by" in out
    code, out, err = run(capsys, "finalize", "digits_small", *options(home))
    assert code == 0, err
    assert "note: no figures of the unpruned network" in err
    assert "1 of 1 batch norms folded" in out
    assert "peak activation memory" in out
    store = ModelStore(home)
    first, second = store.versions("digits_small", "final")
    assert set(first.paths) == {".onnx", ".pt2", ".ts"}
    assert set(second.paths) == {".onnx", ".pth"}
    assert second.version == "1.1"
    assert second.metrics["batch_norms_folded"] == ["bn"]
    # Both were made from the pruned weights, and belong to the generated file.
    weights = store.find("digits_small", "pruned")
    assert first.parents == second.parents == (weights.parent(),)
    assert first.model == second.model == weights.model
    assert store.verify() == []
    code, out, err = run(capsys, "finalize", "digits_small", *options(home))
    assert code == 0, err
    assert len(store.versions("digits_small", "final")) == 2  # the same content


def test_stored_networks_are_loaded(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--dataset", "Digits", "--samples", "64", *options(home)]
    assert run(capsys, "quantize", "digits_small", *arguments)[0] == 0
    assert run(capsys, "finalize", "digits_small", *options(home))[0] == 0
    places: dict[str, Any] = {"store_dir": home, "out": home / "generated"}
    before = pruners.load("digits_small", "pruned", **places)
    final = pruners.load("digits_small", **places)
    torch.testing.assert_close(final(X), before(X))
    small = pruners.load("digits_small", "quantized", **places)
    torch.testing.assert_close(small(X), before(X), rtol=0.1, atol=0.05)
    # What the issue of users says: two lines of a script.
    names: dict[str, Any] = {}
    exec((home / "generated" / "digits_small.py").read_text(), names)
    path = ModelStore(home).find("digits_small", "final").paths[".pth"]
    model = names["digits"]()
    model.load_state_dict(torch.load(path, weights_only=True))
    torch.testing.assert_close(model.eval()(X), before(X))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("quantize digits_small", r"quantize digits_small: needs --dataset, .* such as Digits"),
        (
            "quantize digits_smal --dataset Digits",
            r"no .*py; did you mean digits_small",
        ),
        ("quantize digits_small --dataset Digits --samples 8", r"--samples 8: expected 32 to 2000"),
        ("export digits_small", r"export digits_small: no format; .*--onnx, --pt2, --torchscript"),
        ("export digits_small --pt2 --checkpoint x.pth", r"--checkpoint x.pth: no such file"),
    ],
)
def test_bad_options(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    code, _, err = run(capsys, *arguments.split(), *options(home))
    assert code == 2
    assert re.search(f"^error: .*{message}", err, re.MULTILINE), err


def test_weights_of_another_network_are_refused(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pth"
    torch.manual_seed(5)
    other.write_bytes(save_bytes(Digits().state_dict()))
    args = ("digits_small", home / "generated", ModelStore(home), other)
    with pytest.raises(
        PrunerError,
        match=r"other.pth \(sha256 \w{12}\.\.\.\) does not belong to .*digits_small.py, whose "
        r"manifest names digits_small_pruned_v1.0.pth .*--any-weights",
    ):
        model_file(*args)
    assert model_file(*args, any_weights=True).weights == other


def test_damaged_model_files(home: Path, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    with pytest.raises(PrunerError, match=r"quantize a: no .*a.json; expected the manifest"):
        model_file("a", tmp_path)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(PrunerError, match=r"a.json is damaged"):
        model_file("a", tmp_path)
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(PrunerError, match=r"a.json is no manifest of a generated file"):
        model_file("a", tmp_path)
    (tmp_path / "a.json").write_text('{"files": {"a.py": "0"}, "input_shapes": [[3, 8, 8]]}')
    with pytest.raises(PrunerError, match=r"a.py is not the file that its manifest describes"):
        model_file("a", tmp_path)
    store = ModelStore(tmp_path)
    with pytest.raises(
        PrunerError, match=r"^quantize a: .*pruned: has no a; .*; --checkpoint FILE names other wei"
    ):
        model_file("a", tmp_path, store, any_weights=True)
    weights = store.add("pruned", "a", {".pth": save_bytes(nn.Linear(2, 2).state_dict())})
    with pytest.raises(PrunerError, match=r"a.py has no function that takes weights"):
        model_file("a", tmp_path, store, any_weights=True)
    weights.paths[".pth"].write_bytes(b"other")
    with pytest.raises(PrunerError, match=r"a_pruned_v1.0.pth: is damaged \(sha256 "):
        model_file("a", tmp_path, store, any_weights=True)
    weights.paths[".pth"].unlink()
    with pytest.raises(PrunerError, match=r"a_pruned_v1.0.pth: is missing; restore it"):
        model_file("a", tmp_path, store, any_weights=True)


def test_the_unpruned_network_is_built_from_the_manifest() -> None:
    slim, x = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)), image(1, 3, 32, 32)
    facts = {"network": "ResNet20", "parameters": {"before": 272474}, "macs": {"before": 40813184}}
    full, why = unpruned(facts, slim, [x])
    assert full is not None, why
    facts["parameters"] = {"before": 5}
    assert unpruned(facts, slim, [x]) == (
        None,
        "ResNet20: has 272,474 parameters, but the manifest says 5",
    )
    assert "--arch ARCH says it" in unpruned({"network": "Mine"}, slim, [x])[1]
    library = {"network": "squeezenet1_1", "generated_from": "torchvision/models/squeezenet.py (c)"}
    assert unpruned(library, nn.Flatten(), [image(1, 3, 64, 64)])[0] is not None
