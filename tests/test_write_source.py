"""Source of networks that somebody else has pruned: a tool, a person, timm."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_pruning
import torchvision
from helpers import image, with_telling_state
from torch import nn
from user_files import user_class

import pruners
from models.cifar.resnet import ResNet
from pruners import PrunerError, VerificationError, WrittenSource, write_source
from pruners.layers import widths
from pruners.verify import require, verify


def by_torch_pruning(model: nn.Module, x: torch.Tensor, ratio: float = 0.5) -> nn.Module:
    """As its users prune: in memory, with nothing but the object to show for it."""
    heads = [m for m in model.modules() if isinstance(m, nn.Linear)]
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=1)
    torch_pruning.pruner.BasePruner(
        model, x, importance, pruning_ratio=ratio, ignored_layers=heads
    ).step()
    return model


def networks() -> dict[str, nn.Module]:
    return {
        "resnet20": ResNet(20),
        "mobilenet_v2": torchvision.models.mobilenet_v2(width_mult=0.25, num_classes=5),
        "densenet": torchvision.models.DenseNet(8, (2, 3), 16, num_classes=5),
        "squeezenet1_1": torchvision.models.squeezenet1_1(num_classes=5),
    }


# Torch-Pruning's users have asked for this since 2021:
# https://github.com/VainF/Torch-Pruning/issues/51
def test_what_torch_pruning_has_pruned() -> None:
    x = image(1, 3, 64, 64)
    results = []
    for name, network in networks().items():
        original = with_telling_state(network)
        pruned = by_torch_pruning(copy.deepcopy(original), x)
        result = write_source(pruned, x, original, name=f"{name}_half")
        before, now = result.report.before, result.report.now
        assert before is not None
        assert now.parameters == sum(p.numel() for p in pruned.parameters()) < before.parameters
        assert f"{before.parameters:,} -> {now.parameters:,} parameters" in result.source
        assert list(result.state_dict) == list(original.state_dict())
        assert "torch_pruning" not in result.source
        results.append(result)
    outcomes = verify([result.case() for result in results])
    require(outcomes)
    assert [outcome.oracle for outcome in outcomes] == ["module"] * len(results)


def test_the_code_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = Path(pruners.__file__).parent.parent / "README.md"
    blocks = re.findall(r"```python\n(.*?)```", readme.read_text("utf-8"), re.DOTALL)
    code = next(block for block in blocks if "write_source" in block)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code.replace('weights="DEFAULT"', "").replace("224", "64"), names)
    assert Path("generated/resnet18_half.py").read_text() in names["result"].source.replace(
        "\n\n    from", "\nVerified against that instance: see resnet18_half.json.\n\n    from", 1
    )


HAND = """
class Net(nn.Module):
    '''A convolution of every kind.'''

    def __init__(self, width=12, num_classes=4):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.bn = nn.BatchNorm2d(width)
        self.depthwise = nn.Conv2d(width, width, 3, groups=width)
        self.norm = nn.GroupNorm(2, width)
        self.up = nn.ConvTranspose2d(width, width, 2)
        self.act = nn.PReLU(width)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x):
        x = self.norm(self.depthwise(self.bn(self.conv(x)).relu()))
        return self.fc(self.act(self.up(x)).mean((2, 3)))
"""


def narrowed(net: nn.Module, kept: int) -> nn.Module:
    """The tensors are cut, and the layers not told, but for what they compute with."""
    layers: dict[str, Any] = dict(net.named_modules())

    def cut(path: str, dims: tuple[int, ...]) -> None:
        layer, _, name = path.rpartition(".")
        tensor = getattr(layers[layer], name).detach()
        for dim in dims:
            tensor = tensor.narrow(dim, 0, kept)
        is_buffer = name in layers[layer]._buffers
        setattr(layers[layer], name, tensor.clone() if is_buffer else nn.Parameter(tensor.clone()))

    for path, dims in (
        *(("conv.weight", (0,)), ("conv.bias", (0,)), ("bn.weight", (0,)), ("bn.bias", (0,))),
        *(("bn.running_mean", (0,)), ("bn.running_var", (0,)), ("depthwise.weight", (0,))),
        *(("depthwise.bias", (0,)), ("norm.weight", (0,)), ("norm.bias", (0,))),
        *(("up.weight", (0, 1)), ("up.bias", (0,)), ("act.weight", (0,)), ("fc.weight", (1,))),
    ):
        cut(path, dims)
    layers["depthwise"].groups = kept
    return net


def test_layers_that_were_not_told_their_widths(tmp_path: Path) -> None:
    net = with_telling_state(user_class(tmp_path, "written_by_hand", HAND)()).double()
    original = copy.deepcopy(net)
    narrowed(net, 6)
    result = write_source(net, image(2, 3, 9, 9, dtype=torch.float64), original, name="by_hand")
    assert result.verified().error <= 1e-12
    for line in (
        "nn.Conv2d(3, 6, kernel_size=3)",
        "nn.Conv2d(6, 6, kernel_size=3, groups=6)",
        "nn.GroupNorm(2, 6)",
        "nn.ConvTranspose2d(6, 6, kernel_size=2)",
        "nn.PReLU(num_parameters=6)",
    ):
        assert line in result.source
    assert result.report.before is not None
    assert result.report.before.widths["up"] == 12
    assert result.report.now.widths == {"conv": 6, "depthwise": 6, "up": 6, "fc": 4}
    # The user's own module says what it said.
    assert (net.conv.out_channels, net.depthwise.in_channels, net.bn.num_features) == (12, 12, 12)


def test_groups_of_a_layer_that_runs_are_right() -> None:
    """It computes with its groups, and with nothing else that it says."""
    layer = nn.Conv2d(6, 12, 1, groups=6)
    layer.weight = nn.Parameter(layer.weight[:6].detach())
    assert widths(layer)["groups"] == 3
    assert widths(layer, runs=True) == {"in_channels": 6, "out_channels": 6, "groups": 6}
    norm = nn.GroupNorm(12, 12)
    norm.weight = nn.Parameter(norm.weight[:4].detach())
    norm.num_groups = 2
    assert widths(norm, runs=True) == {"num_channels": 4, "num_groups": 2}


def test_layers_that_were_replaced(tmp_path: Path) -> None:
    net = with_telling_state(ResNet(20))
    block = net.layer2[1]
    block.conv1, block.bn1 = nn.Conv2d(32, 7, 3, padding=1, bias=False), nn.BatchNorm2d(7)
    block.conv2 = nn.Conv2d(7, 32, 3, padding=1, bias=False)
    saved = write_source(net.eval(), image(2, 3, 32, 32)).save(tmp_path, tmp_path)
    assert saved.source.name == "resnet_pruned.py"
    assert saved.weights.name == "resnet_pruned_v1.0.pth"
    assert "BasicBlock(32, 7, 32)" in saved.source.read_text()
    facts = json.loads(saved.manifest.read_text())
    assert facts["widths"]["layer2.1.conv1"] == 7
    assert facts["parameters"] == {"after": sum(p.numel() for p in net.parameters())}
    assert facts["verification"]["oracle"] == "module"


def test_the_manifest_has_both_widths_where_the_original_is_known(tmp_path: Path) -> None:
    original = ResNet(20)
    pruned = by_torch_pruning(copy.deepcopy(original), image(1, 3, 32, 32))
    result = write_source(pruned, image(2, 3, 32, 32), original, name="both")
    first = result.save(tmp_path / "a", tmp_path / "a", verify=False)
    facts = json.loads(first.manifest.read_text())
    assert facts["widths"]["conv1"] == [16, 8]
    assert set(facts["parameters"]) == {"before", "after", "removed_pct"}
    assert facts["verification"] is None
    again = write_source(pruned, image(2, 3, 32, 32), original, name="both")
    second = again.save(tmp_path / "b", tmp_path / "b", verify=False)
    for one, other in ((first.source, second.source), (first.weights, second.weights)):
        assert one.read_bytes() == other.read_bytes()


def test_versions_of_modules_are_kept() -> None:
    """MNASNet refuses a state_dict that does not say which version of it wrote it."""
    result = write_source(torchvision.models.mnasnet0_5(num_classes=3).eval(), image(1, 3, 32, 32))
    assert result.verified().ok
    assert result.model.state_dict()._metadata["layers"]["version"] == 1  # type: ignore[attr-defined]


BRANCH = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.aux = nn.Linear(8, 2)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        x = self.conv(x).mean((2, 3))
        if self.training:
            return self.fc(x), self.aux(x)
        return self.fc(x)
"""


def test_what_cannot_train_is_compared_in_eval_mode_only(tmp_path: Path) -> None:
    """A tool that looks at eval mode alone breaks auxiliary heads, as GoogLeNet's."""
    net = user_class(tmp_path, "written_branch", BRANCH)().eval()
    result = write_source(net, image(1, 3, 8, 8))
    assert not result.case().trains
    assert result.verified().ok
    assert [w for w in result.report.warnings if "does not run in train mode" in w]
    assert write_source(ResNet(20).eval(), image(1, 3, 32, 32)).case().trains


def test_nothing_is_written_that_is_not_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = user_class(tmp_path, "written_unequal", HAND)().eval()
    result = write_source(net, image(1, 3, 9, 9), name="unequal")
    monkeypatch.setattr(WrittenSource, "oracle", lambda self, i: ("module", torch.zeros(1, 4)))
    out = tmp_path / "out"
    with pytest.raises(VerificationError, match="unequal: not equal to the module oracle"):
        result.save(out, out)
    assert not out.exists()


def test_hooks_are_left_out_and_named(tmp_path: Path) -> None:
    net = user_class(tmp_path, "written_hooked", HAND)().eval()
    net.conv.register_forward_hook(lambda *_: None)
    result = write_source(net, image(1, 3, 9, 9))
    assert result.report.warnings == ("conv: its hooks are left out",)


def test_networks_that_do_not_run_are_refused(tmp_path: Path) -> None:
    net = user_class(tmp_path, "written_refused", HAND)()
    net.fc = nn.Linear(5, 4)
    with pytest.raises(PrunerError, match=r"Net: does not run on example input 0 \(RuntimeError: "):
        write_source(net, image(1, 3, 9, 9))


@pytest.mark.parametrize("what", ["module", "original"])
def test_what_is_no_module_is_refused(what: str) -> None:
    net: Any = ResNet(20)
    given = {"module": net, "original": net, what: net.state_dict()}
    with pytest.raises(PrunerError, match=rf"{what}: a OrderedDict, expected a torch\.nn\.Module"):
        write_source(given["module"], image(1, 3, 32, 32), given["original"])


def test_an_original_of_other_inputs_is_refused() -> None:
    result = write_source(ResNet(20), image(1, 3, 32, 32), ResNet(20, in_channels=1))
    with pytest.raises(PrunerError, match="original: ResNet does not run on the example inputs"):
        result.report  # noqa: B018


def test_a_name_that_cannot_be_a_file_is_refused() -> None:
    with pytest.raises(PrunerError, match="--name 'a b': cannot be imported as a Python module"):
        write_source(ResNet(20), image(1, 3, 32, 32), name="a b")


def test_the_file_that_the_network_comes_from_is_never_overwritten(tmp_path: Path) -> None:
    net = user_class(tmp_path, "written_own", HAND)().eval()
    before = (tmp_path / "written_own.py").read_bytes()
    result = write_source(net, image(1, 3, 9, 9), name="written_own")
    with pytest.raises(PrunerError, match=r"written_own\.py: the network itself comes from this"):
        result.save(tmp_path, tmp_path / "weights", verify=False)
    assert (tmp_path / "written_own.py").read_bytes() == before
    assert not (tmp_path / "weights").exists()


@pytest.mark.zoo
@pytest.mark.parametrize(
    "name", ["ecaresnet50d_pruned", "ecaresnet101d_pruned", "efficientnet_b1_pruned"]
)
def test_what_timm_builds_from_a_list_of_shapes(name: str) -> None:
    timm = pytest.importorskip("timm")
    net = with_telling_state(timm.create_model(name, pretrained=False)).double()
    result = write_source(net, image(1, 3, 64, 64, dtype=torch.float64), name=name)
    assert result.verified().error <= 1e-12
    assert result.source.count("class ") >= 3


@pytest.mark.zoo
@pytest.mark.parametrize(
    "name", ["resnet50", "densenet121", "googlenet", "efficientnet_b0", "regnet_x_400mf", "vgg11"]
)
def test_what_torch_pruning_has_pruned_of_torchvision(name: str) -> None:
    x = image(1, 3, 64, 64)
    options = {"init_weights": False} if name == "googlenet" else {}
    net = with_telling_state(torchvision.models.get_model(name, **options))
    result = write_source(by_torch_pruning(net, x), x, name=f"{name}_half")
    assert result.verified().ok
