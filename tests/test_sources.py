"""Networks by name: torchvision's and timm's, with and without their weights."""

from __future__ import annotations

import json
import re
import sys
import urllib.error
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from helpers import with_telling_state
from torchvision import models

import app
from pruners import BasicPruning, PrunerError
from pruners.job import Data
from pruners.libraries import is_library_network, library_network
from pruners.networks import Network, Request, find_network, is_file
from pruners.verify import Outcome

SMALL = "squeezenet1_1"
"""The smallest of torchvision's files."""


def found(arch: str, splits: Any = None, **options: Any) -> Network:
    return find_network(Request(arch, **options), splits)


def test_what_stands_before_the_colon_tells_them_apart() -> None:
    assert is_library_network("torchvision:resnet18")
    assert is_library_network("timm:resnet18.a1_in1k")
    for arch in ("resnet", "timm", "timm.py:Net", "torchvision/resnet.py:Net"):
        assert not is_library_network(arch)
    assert is_file("timm.py:Net")
    assert not is_file("timm:resnet18")
    assert app.setup_pruner("torchvision:resnet18") is BasicPruning


@pytest.mark.parametrize(
    ("arch", "shape"),
    [
        ("torchvision:resnet18", (3, 224, 224)),
        ("torchvision:inception_v3", (3, 299, 299)),
        ("torchvision:efficientnet_b1", (3, 240, 240)),
        ("torchvision:deeplabv3_resnet50", (3, 520, 520)),
        ("torchvision:r3d_18", (3, 16, 112, 112)),
        ("torchvision:mvit_v2_s", (3, 16, 224, 224)),
        ("timm:resnet18", (3, 224, 224)),
        ("timm:inception_v3", (3, 299, 299)),
        ("timm:vit_tiny_patch16_384", (3, 384, 384)),
    ],
)
def test_the_shape_that_a_network_expects(arch: str, shape: tuple[int, ...]) -> None:
    assert library_network(arch).input_shape == shape


@pytest.mark.parametrize("module", [models, models.segmentation, models.video])
def test_every_network_of_torchvision_has_a_builder_and_a_shape(module: Any) -> None:
    for name in models.list_models(module=module):
        network = library_network(f"torchvision:{name}")
        assert callable(network.build)
        assert network.input_shape[0] == 3
        assert len(network.input_shape) == (4 if module is models.video else 3)


def test_shape_and_classes_are_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    network = found(f"torchvision:{SMALL}")
    assert network.input_shape == (3, 224, 224)
    assert network.weights == "random"
    network = found(f"torchvision:{SMALL}", input_shape="3,64,64", num_classes=7)
    assert network.input_shape == (3, 64, 64)
    assert network.model.eval()(network.example_inputs()).shape == (2, 7)
    splits = Data("Digits").load()
    network = found(f"torchvision:{SMALL}", splits)
    assert network.input_shape == splits.input_shape
    assert network.model.eval()(network.example_inputs()).shape == (2, 10)
    # What the user says goes before what the dataset has.
    network = found(f"torchvision:{SMALL}", splits, arch_args='{"num_classes": 4}')
    assert network.model.eval()(network.example_inputs()).shape == (2, 4)


def test_arguments_of_the_builder() -> None:
    network = found("torchvision:vit_b_32", arch_args='{"image_size": 64}')
    assert network.input_shape == (3, 64, 64)
    network = found("timm:vit_tiny_patch16_224", arch_args='{"img_size": [32, 48], "depth": 1}')
    assert network.input_shape == (3, 32, 48)
    assert network.model.eval()(network.example_inputs()).shape == (2, 1000)
    network = found("timm:resnet18", input_shape="1,32,32")
    assert network.model.get_parameter("conv1.weight").shape[1] == 1
    with pytest.raises(PrunerError, match=r"TypeError: .*unexpected .*'widht'.*check --arch-args"):
        found("torchvision:resnet18", arch_args='{"widht": 1}')


def test_segmentation_fetches_no_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.hub.download_url_to_file", _no_network)
    network = found("torchvision:lraspp_mobilenet_v3_large", input_shape="3,32,32", num_classes=5)
    assert network.model.eval()(network.example_inputs())["out"].shape == (2, 5, 32, 32)
    with pytest.raises(PrunerError, match=r"--weights of a part: .* --checkpoint FILE"):
        found(
            "torchvision:lraspp_mobilenet_v3_large",
            arch_args='{"weights_backbone": "IMAGENET1K_V1"}',
        )


def test_video() -> None:
    network = found("torchvision:r3d_18", input_shape="3,2,16,16", num_classes=3)
    assert network.model.eval()(network.example_inputs()).shape == (2, 3)


def test_nothing_is_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found("torchvision:googlenet")


# --- weights -----------------------------------------------------------------------------------


def _no_network(*_: Any, **__: Any) -> None:
    raise urllib.error.URLError("Name or service not known. Check your connection.")


def _stored(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Puts weights of the smallest network where torch.hub looks for what it has fetched."""
    monkeypatch.setattr("torch.hub.download_url_to_file", _no_network)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(folder))
    state = with_telling_state(models.get_model(SMALL)).state_dict()
    (folder / "checkpoints").mkdir()
    url = models.get_model_weights(SMALL)["DEFAULT"].url
    torch.save(state, folder / "checkpoints" / url.rpartition("/")[2])
    return state


@pytest.mark.parametrize("weights", ["DEFAULT", "IMAGENET1K_V1"])
def test_weights_of_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    state = _stored(tmp_path, monkeypatch)
    network = found(f"torchvision:{SMALL}", Data("Digits").load(), weights=weights)
    assert network.weights == "pretrained"
    torch.testing.assert_close(dict(network.model.state_dict()), dict(state), rtol=0, atol=0)
    with pytest.raises(
        PrunerError, match=rf"--num-classes 10: the weights {weights} of {SMALL} have 1000; leave"
    ):
        found(f"torchvision:{SMALL}", weights=weights, num_classes=10)
    with pytest.raises(PrunerError, match=r"--num-classes 9: .* have 1000"):
        found(f"torchvision:{SMALL}", weights=weights, arch_args='{"num_classes": 9}')


def test_weights_of_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_telling_state(timm.create_model("test_resnet"))
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    overlay = {"pretrained_cfg_overlay": {"file": str(tmp_path / "weights.pth")}}
    tag = model.default_cfg["tag"]
    for weights in ("DEFAULT", tag):
        network = found("timm:test_resnet", weights=weights, arch_args=json.dumps(overlay))
        assert (network.name, network.weights) == ("test_resnet", "pretrained")
        assert network.input_shape == (3, 160, 160)
        state = dict(network.model.state_dict())
        torch.testing.assert_close(state, dict(model.state_dict()), rtol=0, atol=0)
    assert found(f"timm:test_resnet.{tag}").name == "test_resnet"


@pytest.mark.parametrize(
    ("arch", "where"),
    [
        (f"torchvision:{SMALL}", "torch.hub.download_url_to_file"),
        ("timm:test_resnet", "timm.models._builder.load_state_dict_from_hf"),
    ],
)
def test_where_there_is_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: str, where: str
) -> None:
    monkeypatch.setattr(where, _no_network)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    with pytest.raises(
        PrunerError,
        match=rf"^--weights DEFAULT: those of {arch} cannot be fetched \(Name or service not "
        r"known\); where there is no network, .* with --checkpoint FILE$",
    ):
        found(arch, weights="DEFAULT")


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"arch": "torchvision:resent18"},
            r"--arch torchvision:resent18: unknown; did you mean resnet18\? "
            r"`torchvision\.models\.list_models\(\)` shows all",
        ),
        ({"arch": "torchvision:"}, r"--arch torchvision:: unknown; `torchvision.*"),
        ({"arch": "timm:resent18"}, r"--arch timm:resent18: unknown; did you mean resnet18 .*"),
        (
            {"arch": "torchvision:raft_small"},
            "--arch torchvision:raft_small: an optical flow network, not supported; expected .*",
        ),
        (
            {"arch": "torchvision:ssd300_vgg16"},
            "--arch torchvision:ssd300_vgg16: a detection network, not supported; expected .*",
        ),
        (
            {"arch": "torchvision:quantized_resnet18"},
            "--arch torchvision:quantized_resnet18: a quantized network, not supported; .*",
        ),
        (
            {"arch": "timm:test_resnet.r160_in2k"},
            r"--arch .*: no weights of this tag; did you mean r160_in1k\? "
            r"expected timm:test_resnet\.r160_in1k",
        ),
        (
            {"arch": "torchvision:resnet18", "weights": "IMAGENET1K_V9"},
            r"--weights IMAGENET1K_V9: unknown; did you mean IMAGENET1K_V1\? expected "
            r"IMAGENET1K_V1 or DEFAULT",
        ),
        (
            {"arch": "timm:test_resnet", "weights": "x"},
            "--weights x: unknown; expected DEFAULT or r160_in1k",
        ),
        (
            {"arch": "timm:darknet17", "weights": "DEFAULT"},
            "--weights DEFAULT: there are none of timm:darknet17; --checkpoint FILE loads others",
        ),
        (
            {"arch": "resnet", "weights": "DEFAULT"},
            "--weights DEFAULT: only for torchvision:NAME and timm:NAME; --checkpoint FILE .*",
        ),
        (
            {"arch": "net.py:Net", "weights": "DEFAULT"},
            "--weights DEFAULT: only for torchvision:NAME and timm:NAME; --checkpoint FILE .*",
        ),
        (
            {"arch": "timm:resnet18", "weights": "DEFAULT", "checkpoint": Path("x.pth")},
            "--weights DEFAULT: not both; --checkpoint FILE loads weights",
        ),
        (
            {"arch": "torchvision:resnet18", "depth": 18},
            "--depth 18: only for the zoo; expected a name with its depth, such as .*",
        ),
        (
            {"arch": "torchvision:resnet18", "arch_args": '{"weights": "DEFAULT"}'},
            "--arch-args: weights is not the network's; expected --weights NAME, or .*",
        ),
        (
            {"arch": "timm:resnet18", "arch_args": '{"pretrained": true}'},
            "--arch-args: pretrained is not the network's; expected --weights NAME, or .*",
        ),
        (
            {"arch": "torchvision:r3d_18", "input_shape": "3,64,64"},
            "--input-shape 3,64,64: r3d_18 takes videos; expected channels, frames, height and "
            "width, such as 3,16,112,112",
        ),
        (
            {"arch": "torchvision:resnet18", "input_shape": "3,4,64,64"},
            "--input-shape 3,4,64,64: resnet18 takes images; expected channels, height and "
            "width, such as 3,224,224",
        ),
        (
            {
                "arch": "timm:resnet18",
                "num_classes": 3,
                "arch_args": '{"num_classes": 4}',
            },
            "--num-classes 3: the constructor of resnet18 gets another from --arch-args; .*",
        ),
    ],
)
def test_bad_requests(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PrunerError) as raised:
        found(**options)
    assert re.fullmatch(message, str(raised.value)), str(raised.value)


def test_datasets_are_for_classification() -> None:
    with pytest.raises(PrunerError, match=r"--dataset Digits: has images of classes, r3d_18 is"):
        found("torchvision:r3d_18", Data("Digits").load())


def test_timm_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        PrunerError, match=r"timm is not installed; get it with `pip install pruners\[timm\]`$"
    ):
        found("timm:resnet18")


# --- the command line --------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_main_job(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shape = ("--input-shape", "3,64,64", "--num-classes", "5")
    assert app.main(["--arch", "timm:test_resnet", *shape]) == 0
    out, err = capfd.readouterr()
    assert "random weights (seed 0); --weights DEFAULT or --checkpoint FILE" in err
    assert "generated/test_resnet_50.py" in out
    source = (folder / "generated/test_resnet_50.py").read_text()
    assert "def test_resnet(weights" in source
    assert "Generated from timm/models/resnet.py (class ResNet)" in source


def test_weights_on_the_command_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = Outcome("stub", True, 0.0, "", "masked", 1e-5)
    monkeypatch.setattr("pruners.base.PruningResult.verified", lambda self: outcome)
    state = _stored(folder, monkeypatch)
    arguments = ["--arch", f"torchvision:{SMALL}", "--weights", "DEFAULT", "--prune-pct", "0"]
    assert app.main([*arguments, "--input-shape", "3,64,64"]) == 0
    assert "random weights" not in capfd.readouterr().err
    written = torch.load(folder / f"models/pruned/{SMALL}_0_pruned_v1.0.pth", weights_only=True)
    torch.testing.assert_close(dict(written), dict(state), rtol=0, atol=0)


def test_both_sources_are_listed(capfd: pytest.CaptureFixture[str]) -> None:
    assert app.main(["--list"]) == 0
    listed = capfd.readouterr().out
    assert re.search(r"^--arch +torchvision:NAME +such as resnet18, ", listed, re.M)
    assert re.search(r"^--arch +timm:NAME +", listed, re.M)
    assert app.main(["--list", "--json"]) == 0
    assert list(json.loads(capfd.readouterr().out)["libraries"]) == ["torchvision", "timm"]


def test_graph_takes_them_too(capfd: pytest.CaptureFixture[str]) -> None:
    assert app.main(["graph", "--arch", "timm:test_resnet", "--explain", "conv1.0"]) == 0
    assert "conv1.0" in capfd.readouterr().out
