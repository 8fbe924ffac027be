"""Networks without a source file: their forward is written from the traced graph."""

from __future__ import annotations

import math
import re
import textwrap
import types
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import with_telling_state
from scipy.ndimage import gaussian_filter
from torch import Tensor, fx, nn
from torchvision.models import get_model, resnet18
from torchvision.models.feature_extraction import create_feature_extractor
from user_files import difference, user_class, wide_image

from pruners import PruningResult, WriterError, prune
from pruners.graph_source import BARE, MARK, with_source

HEAD = """
import torch
from torch import nn
import torch.nn.functional as F
"""

X = wide_image(2, 3, 16, 16)


def typed_in(text: str, **names: Any) -> Any:
    """The class Net of text that no file holds."""
    namespace: dict[str, Any] = {"__name__": "typed_in", **names}
    exec(HEAD + textwrap.dedent(text), namespace)
    return namespace["Net"]


def net(forward: str, init: str = "", **names: Any) -> nn.Module:
    """Two convolutions and a linear layer, with a forward of one's own."""
    text = f"""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 4)
{textwrap.indent(textwrap.dedent(init), " " * 8)}
{textwrap.indent(textwrap.dedent(forward), " " * 4)}
"""
    torch.manual_seed(0)
    return with_telling_state(typed_in(text, **names)()).double()


def written(model: nn.Module, examples: Any = X, pct: float = 40) -> PruningResult:
    """Pruned and verified in a fresh process; the text reads as a person's."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attributes = {path: dict(vars(m)) for path, m in model.named_modules()}
    classes = {path: type(m) for path, m in model.named_modules()}
    result = prune(model, examples, pct)
    text = result.source
    assert result.verified().error < 1e-12
    assert list(result.model.state_dict()) == list(model.state_dict())
    assert sum(p.numel() for p in result.model.parameters()) < sum(
        p.numel() for p in model.parameters()
    )
    # Marked, in the text and in the report; nothing that only a program would write.
    assert MARK in text
    assert any("written from the traced graph" in w for w in result.report.warnings)
    assert "= None\n" not in text
    assert not re.search(r"\b\w+ = None;|_stacklevel|inplace=False|\bgetattr\(", text)
    # The user's network is what it was.
    assert {path: type(m) for path, m in model.named_modules()} == classes
    for path, module in model.named_modules():
        assert vars(module).keys() == attributes[path].keys()
        assert all(value is attributes[path][name] for name, value in vars(module).items())
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    return result


def body(result: PruningResult, cls: str = "Net") -> str:
    """The forward of a class in a result's source, without its indentation."""
    text = result.source[result.source.index(f"class {cls}(") :]
    text = text[text.index("    def forward") :]
    return textwrap.dedent(re.split(r"\n\n\n", text)[0]).strip()


PLAIN = """
def forward(self, x):
    x = F.relu(self.bn1(self.conv1(x)))
    x = F.max_pool2d(x, 2)
    return self.fc(self.conv2(x).mean((2, 3)))
"""


def test_a_class_from_exec() -> None:
    result = written(net(PLAIN), [X, X[:1]])
    assert body(result) == textwrap.dedent(
        """\
        def forward(self, x):
            x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
            return self.fc(self.conv2(x).mean((2, 3)))"""
    )
    assert result.pruning.netName == "Net"
    assert result.writer.factory == "net"


def test_another_batch_and_another_size() -> None:
    forward = """
    def forward(self, x):
        b, c, h, w = x.shape
        x = self.conv2(F.relu(self.conv1(x)))
        x = x.view(b, x.size(1), h * w).mean(2)
        ramp = torch.arange(b, device=x.device, dtype=x.dtype)
        return self.fc(x) * ramp[:, None]
    """
    model: Any = net(forward)
    result = written(model)
    assert "torch.arange(" in result.source
    assert "out.view(x.shape[0], out.size(1), x.shape[2] * x.shape[3])" in result.source
    # Not only on the example: the masked original and the written network agree elsewhere too.
    other = wide_image(5, 3, 9, 7)
    whole = prune(model, X, 0)
    torch.testing.assert_close(whole.model(other), model(other), rtol=1e-10, atol=1e-12)


def outer(scale: float) -> nn.Module:
    class Local(nn.Module):
        """A class in a function."""

        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
            self.conv2 = nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> Any:
            return self.conv2(F.relu(self.conv1(x))) * scale

    return Local().double()


def test_a_class_in_a_function_with_a_variable_of_that_function() -> None:
    result = written(outer(2.5))
    assert "self.conv2(F.relu(self.conv1(x))) * 2.5\n" in result.source
    assert f'"""A class in a function.\n\n    {MARK}\n    """' in result.source


def test_a_class_from_type() -> None:
    def init(self: Any) -> None:
        nn.Module.__init__(self)
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    made: Any = type(
        "Made", (nn.Module,), {"__init__": init, "forward": lambda s, x: s.conv2(s.conv1(x).relu())}
    )
    assert "return self.conv2(self.conv1(x).relu())\n" in written(made().double()).source


def test_a_forward_that_was_put_on_the_instance(tmp_path: Any) -> None:
    text = """\
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

        def forward(self, x):
            return self.conv2(F.relu(self.conv1(x)))
    """
    cls = user_class(tmp_path, "patched_net", text)

    def forward(self: Any, x: Tensor) -> Any:
        return self.conv2(torch.sigmoid(self.conv1(x)))

    bound: Any = cls().double()
    bound.forward = types.MethodType(forward, bound)
    assert "self.conv2(torch.sigmoid(self.conv1(x)))\n" in written(bound).source
    loose: Any = cls().double()
    loose.forward = lambda x: loose.conv2(loose.conv1(x).tanh())
    assert "return self.conv2(self.conv1(x).tanh())\n" in written(loose).source
    # The same class as it is needs nothing.
    assert with_source(cls(), [(X.float(),)]).notes == ()


def test_a_graph_module() -> None:
    result = written(fx.symbolic_trace(net(PLAIN)))
    assert "class Net(nn.Module)" in result.source
    assert "return self.fc(self.conv2(x).mean((2, 3)))\n" in result.source


def test_a_graph_module_of_a_sequential() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).double()
    result = written(fx.symbolic_trace(layers))
    assert "class Network(nn.Sequential)" in result.source
    assert "return self[2](self[1](self[0](input)))\n" in result.source


def test_a_graph_module_of_resnet18() -> None:
    torch.manual_seed(0)
    model = with_telling_state(resnet18(num_classes=7)).double()
    result = written(fx.symbolic_trace(model), wide_image(2, 3, 32, 32))
    text = result.source
    assert "class ResNet(nn.Module)" in text
    assert f'"""{BARE}"""' in text
    assert re.search(r"self\.layer2 = nn\.ModuleList\(\s*\[Block\(\d+, \d+, \d+, stride=2, ", text)
    assert "out = self.layer1[0].relu(self.layer1[0].bn1(self.layer1[0].conv1(x)))\n" in text
    assert text.count("self.conv1 = ") == 2  # the network's, and one for all blocks


@pytest.mark.parametrize(
    "name", ["mobilenet_v3_small", "shufflenet_v2_x0_5", "regnet_x_400mf", "densenet121"]
)
def test_graph_modules_of_networks_with_deeper_paths(name: str) -> None:
    torch.manual_seed(0)
    model = with_telling_state(get_model(name, num_classes=5)).double()
    assert difference(prune(fx.symbolic_trace(model), wide_image(2, 3, 64, 64), 30)) < 1e-12


def test_a_feature_extractor() -> None:
    torch.manual_seed(0)
    model = with_telling_state(resnet18(num_classes=7)).double()
    extractor = create_feature_extractor(model, {"layer2": "early", "layer4": "late"}).eval()
    result = written(extractor, wide_image(2, 3, 32, 32))
    assert re.search(r'return \{"early": \w+, "late": \w+\}\n', result.source)
    assert "self.fc" not in result.source
    assert "Generated" in result.source
    assert "from its traced graph (class ResNet)" in " ".join(result.source.split())


def test_an_exported_network() -> None:
    exported = torch.export.export(net(PLAIN).eval(), (X,)).module()
    result = prune(exported, X, 40)
    assert result.verified().error < 1e-12
    assert MARK in result.source
    assert "torch.ops.aten.conv2d.default(x, self.conv1.weight, self.conv1.bias, " in result.source
    assert "guards" not in result.source


def test_a_branch_on_a_value_is_decided_and_said() -> None:
    forward = """
    def forward(self, x):
        x = self.conv1(x)
        if x.shape[-1] > 4 and x.mean() < 1e6:
            x = F.avg_pool2d(x, 2)
        parts = 0
        for part in x.chunk(2, 1):
            parts = parts + part.sum()
        x.mul_(2)
        return self.conv2(x) * parts
    """
    result = written(net(forward, "del self.fc, self.bn1"))
    said = "\n".join(result.report.warnings)
    assert "class Net: its forward decides gt(getitem(conv1(x).shape, -1), 4) as True" in said
    assert "lt(mean(conv1(x)), 1000000.0) as True for good" in said
    assert re.search(r"\n +\w+\.mul_\(2\)\n", result.source)


def test_a_branch_that_the_examples_take_differently_is_refused() -> None:
    forward = """
    def forward(self, x):
        x = self.conv1(x)
        return self.conv2(F.relu(x) if x.shape[-1] > 10 else x)
    """
    model = net(forward, "del self.fc, self.bn1")
    with pytest.raises(
        WriterError,
        match=r"^class Net: has no source file, and what is written from its graph computes "
        r"something else on example input 1; put the class into a \.py file and import it",
    ) as info:
        prune(model, [X, X[..., :8]], 40).source  # noqa: B018
    assert "\n" not in str(info.value)


def test_a_forward_that_cannot_be_traced() -> None:
    forward = """
    def forward(self, x):
        seen = np.frombuffer(x.detach().numpy().tobytes())
        return self.conv2(self.conv1(x * seen.max()))
    """
    result = prune(net(forward, "del self.fc, self.bn1", np=np), X, 40)
    assert result.kept  # what to remove is known all the same
    with pytest.raises(
        WriterError,
        match=r"^class Net: has no source file, and its forward cannot be written from its graph "
        r"\(\w+: .*\); put the class into a \.py file and import it from there$",
    ):
        result.source  # noqa: B018


def test_values_through_numpy_and_numbers_are_computed_again() -> None:
    forward = """
    def forward(self, x):
        seen = np.asarray(x.detach()).astype(np.float32)
        seen *= 2
        low = float(np.abs(seen).min())
        first, second = x.amax((0, 2, 3)).tolist()[:2]
        x = x + torch.from_numpy(gaussian_filter(seen, 1) + np.ones(1)).to(x.dtype)
        x = F.interpolate(self.conv1(x), (int(x.shape[2] * 0.5), math.floor(x.shape[3] / 3)))
        return self.conv2(x * x.new_tensor([[low]]) + torch.full((), second)) * (1 + first)
    """
    names = {"np": np, "math": math, "gaussian_filter": gaussian_filter}
    model: Any = net(forward, "del self.fc, self.bn1", **names)
    result = written(model)
    text = result.source
    assert "import numpy as np\n" in text
    assert "from scipy.ndimage import gaussian_filter\n" in text
    assert "int(x.shape[2] * 0.5)" in text
    assert "np.float32" in text
    assert not any("for good" in warning for warning in result.report.warnings)
    # Nothing of the example is left in the text.
    other = wide_image(3, 3, 20, 13)
    whole = prune(model, X, 0)
    torch.testing.assert_close(whole.model(other), model(other), rtol=1e-10, atol=1e-12)
    assert {"int", "float"}.isdisjoint(vars(type(model))["forward"].__globals__)
    assert np.asarray([1.0]).sum() == 1


def test_code_that_asks_for_types_sees_numbers() -> None:
    forward = """
    def forward(self, x):
        size = int(x.shape[2] * 0.5)
        return F.interpolate(self.conv2(self.conv1(x)), size) if type(size) is int else x
    """
    result = written(net(forward, "del self.fc, self.bn1"))
    assert "F.interpolate(self.conv2(self.conv1(x)), size=8)" in result.source
    assert any("as 8 for good" in warning for warning in result.report.warnings)


def test_arguments_given_through_a_dictionary(tmp_path: Any) -> None:
    text = """
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 1)

        def forward(self, x, **options):
            x = self.conv(x) * options.get("gain", 1.0)
            return x + options["shift"] if options.get("shifted") else x

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 8, 3)
            self.block, self.other = Block(), Block()
            self.fc = nn.Linear(8, 4)

        def forward(self, x):
            x = self.block(self.conv1(x), gain=2.0, shift=x.mean(), shifted=True)
            return self.fc(self.other(x).mean((2, 3)))
    """
    torch.manual_seed(0)
    result = written(typed_in(text)().double())
    assert "def forward(self, x, *, gain, shift, shifted):\n" in result.source
    assert "return self.conv(x) * gain + shift\n" in result.source
    assert any("shifted as True for good" in w for w in result.report.warnings)
    # One that calls it in a way that no text could.
    odd = text.replace("gain=2.0,", "**{'a b': 1},").replace("Block(), Block()", "block(), block()")
    net_text = textwrap.dedent(odd[odd.index("    class Net") :])
    net_text = net_text.replace("__init__(self)", "__init__(self, block)")
    block: Any = type(typed_in(text)().block)
    model = user_class(tmp_path, "given_by_name", net_text)(block).double()
    with pytest.raises(WriterError, match=r"its forward is given 'a b' by name\); put the class"):
        prune(model, X, 40).source  # noqa: B018


def test_modes_are_followed() -> None:
    forward = """
    def forward(self, x):
        x = F.dropout(self.bn1(self.conv1(x)), 0.25, self.training)
        x = F.batch_norm(x, self.bn1.running_mean, self.bn1.running_var, training=self.training)
        return self.fc(F.dropout2d(self.conv2(x), training=self.training).mean((2, 3)))
    """
    model = net(forward)
    text = body(written(model))
    assert text.count("training=self.training") == 3
    assert "if self.training" not in text
    whole = prune(model, X, 0).model
    for training in (False, True):
        model.train(training)
        whole.train(training)
        torch.manual_seed(3)
        expected = model(X)
        torch.manual_seed(3)
        torch.testing.assert_close(whole(X), expected, rtol=1e-10, atol=1e-12)


def test_a_branch_on_the_mode() -> None:
    forward = """
    def forward(self, x):
        x = self.conv1(x)
        if self.training:
            x = x + torch.randn_like(x)
        x = self.bn1(x)
        out = self.conv2(x).mean((2, 3))
        if self.training:
            return self.fc(out), out
        return self.fc(out)
    """
    model = net(forward)
    text = body(written(model))
    assert text.count("if self.training:\n") == 1
    assert "torch.randn_like(x)" in text
    whole = prune(model, X, 0).model.train()
    assert len(whole(X)) == 2
    only_start = forward.replace("return self.fc(out), out", "pass")
    text = body(written(net(only_start)))
    assert re.search(
        r"    if self\.training:\n(        x = .*\n)+    else:\n(        x = .*\n)+    \w", text
    )
    assert text.count("return") == 1


def test_parameters_buffers_constants_and_ties() -> None:
    init = """
    self.scale = nn.Parameter(torch.rand(8, 1, 1))
    self.gain = nn.Parameter(torch.rand(8, 1, 1))
    self.register_buffer("mean", torch.rand(3, 1, 1))
    self.offset = torch.tensor([1.5], dtype=torch.float64)
    self.conv3 = nn.Conv2d(8, 8, 3, padding=1)
    self.conv3.weight = self.conv2.weight
    self.layers = nn.ModuleDict({"a b": nn.Conv2d(8, 8, 1)})
    self.many = nn.ModuleList([nn.Conv2d(8, 8, 1) for _ in range(2)])
    """
    forward = """
    def forward(self, x):
        x = self.conv1(x - self.mean) * (self.scale + self.gain)
        x = self.conv3(self.conv2(x)) + self.offset
        for layer in self.many:
            x = x + layer(self.layers["a b"](x))
        x += 1
        x[:, :1] *= 2
        return self.fc(x.mean((2, 3)))
    """
    result = written(net(forward, init))
    text = result.source
    assert "self.conv1(x - self.mean)" in text
    assert "self.scale + self.gain" in text
    assert "self.conv3.weight = self.conv2.weight\n" in text
    assert 'self.layers["a b"](x)' in text
    assert "self.many[1](" in text
    assert 'self.register_buffer("offset", torch.tensor([1.5], dtype=torch.float64), pers' in text
    assert "        x += 1\n" in text
    assert result.model.conv3.weight is result.model.conv2.weight


def test_what_a_forward_takes_and_returns() -> None:
    forward = """
    def forward(self, x, y=None, *, gain: float = 2.0):
        if y is not None:
            x = x + y
        x = self.conv2(self.conv1(x)) * gain
        first, second = torch.split(x, [4, 4], dim=1)
        return {"all": (x, [first])}, second
    """
    model = net(forward, "del self.fc, self.bn1")
    result = written(model, (X, X))
    assert "def forward(self, x, y=None):\n" in result.source
    assert "x = x + y" in body(result) or "x + y" in body(result)
    alone = written(net(forward, "del self.fc, self.bn1"))
    assert "def forward(self, x):\n" in alone.source
    assert re.search(r'return \(\{"all": \(x, \[\w+\]\)\}, \w+\)', alone.source)


def test_blocks_share_a_class_where_their_text_is_one() -> None:
    text = """
    class Block(nn.Module):
        def __init__(self, inputs, outputs, kernel):
            super().__init__()
            self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
            self.short = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

        def forward(self, x):
            return F.relu(self.conv(x)) + (x if self.short is None else self.short(x))

    class Net(nn.Sequential):
        def __init__(self):
            super().__init__(Block(3, 8, 3), Block(8, 12, 1), Block(12, 12, 3), nn.Conv2d(12, 4, 1))
    """
    torch.manual_seed(0)
    result = written(typed_in(text)().double())
    source = result.source
    assert re.findall(r"class (\w+)\(([\w.]+)\)", source) == [
        ("Net", "nn.Sequential"),
        ("Block", "nn.Module"),
        ("Block2", "nn.Module"),
    ]
    assert "        return F.relu(self.conv(x)) + self.short(x)\n" in source
    assert "        return F.relu(self.conv(x)) + x\n" in source


def test_two_classes_of_one_name_and_names_that_are_taken() -> None:
    def block(name: str, function: Any) -> nn.Module:
        class Own(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = nn.Conv2d(8, 8, 1)

            def forward(self, x: Tensor) -> Any:
                return function(self.conv(x))

        Own.__name__ = Own.__qualname__ = name
        return Own()

    model = net(
        "def forward(self, x):\n    return self.fc(self.layers(self.conv1(x)).mean((2, 3)))",
        "del self.conv2, self.bn1",
    )
    names = ["Same", "Same", "list", "F", "Net", "class", "a b"]
    functions = [F.relu, F.gelu, F.silu, F.elu, F.selu, F.mish, F.celu]
    model.layers = nn.Sequential(*map(block, names, functions)).double()
    source = written(model).source
    assert re.findall(r"class (\w+)\(", source) == [
        *("Net", "Same", "Same2", "list2", "F2", "Net2", "Block", "Block2")
    ]


def test_a_local_class_in_a_network_from_a_file(tmp_path: Any) -> None:
    text = """\
    class Net(nn.Module):
        def __init__(self, block):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 8, 3)
            self.block = block
            self.fc = nn.Linear(8, 4)

        def forward(self, x):
            # Kept, as this class has a file.
            return self.fc(self.block(self.conv1(x)).mean((2, 3)))
    """

    class Activated(nn.Conv2d):
        def forward(self, x: Tensor) -> Any:
            return F.relu(super().forward(x)) * len(names)

    names = ["a", "b"]
    model = user_class(tmp_path, "with_local_block", text)(Activated(8, 8, 3)).double()
    result = written(model)
    assert "# Kept, as this class has a file." in result.source
    assert "class Activated(nn.Conv2d):\n" in result.source
    assert "self.block = Activated(" in result.source


def test_a_network_with_source_is_taken_as_it_is() -> None:
    model = resnet18()
    assert with_source(model, [(X.float(),)]).network is model
    result = prune(model, wide_image(1, 3, 32, 32).float(), 30)
    assert result.pruning.model is model
    assert MARK not in result.source


def test_a_part_that_never_runs_is_kept() -> None:
    text = """
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 3)

        def forward(self, x):
            return self.fc(x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 8, 3)
            self.conv2 = nn.Conv2d(8, 8, 3)
            self.head, self.idle = Head(), Head()

        def forward(self, x):
            x = self.conv2(self.conv1(x)).mean((2, 3))
            return (self.head(x), self.idle(x)) if self.training else self.head(x)
    """
    model = typed_in(text)().double()
    result = written(model)
    assert difference(result) < 1e-12
    assert result.model.train()(X)[1].shape == (2, 3)


def test_a_cell_of_a_notebook() -> None:
    """A class of `__main__` that no file holds."""
    text = """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

        def forward(self, x):
            return self.conv2(F.relu(self.conv1(x)))
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(HEAD + textwrap.dedent(text), "<ipython-input-1>", "exec"), namespace)
    assert (
        "return self.conv2(F.relu(self.conv1(x)))\n" in written(namespace["Net"]().double()).source
    )
