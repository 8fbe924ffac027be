"""Files of the kind users write: numbers that are widths, tensors made in `__init__`, inheritance.

Each file of `tests/files` is pruned by half, written, and compared with the oracle; TEXTS has what
its generated file must say and what it must not.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from oracle import randomise

from pruners import prune
from pruners.base import PruningResult
from pruners.loading import class_from_file
from pruners.verify import require, verify

FILES = Path(__file__).parent / "files"

TEXTS = {
    "optiona": (
        [
            "F.pad( x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding_before, self.padding_after),",
            "padding_before: int | None = None",
        ],
        ["planes", "//"],
    ),
    "dataclass": (
        [
            "@dataclass class Config:",
            "self.config = Config(hidden=",
            "self.config.hidden, *x.shape",
        ],
        ["config:", "config=None"],
    ),
    "slices": (
        ["def take(x: torch.Tensor, width: int)", "* self.out_size**2", "torch.zeros(x.shape[0], "],
        ["HALF", "take(x, 8)"],
    ),
    "dcgan": (["nn.Unflatten(1, (", "z.view(-1, *self.shape)"], ["(64, 4, 4)"]),
    "attention": (
        ["scale=self.scale)", "self.head_dim = head_dim", "scale=0.25"],
        ["head_dim: int ="],
    ),
    "twice": (["/ self.dim", "self.dim = 32"], ["c = self.dim"]),
    "convnext": (["nn.Parameter(1e-06 * torch.ones(dim))"], ["torch.empty"]),
    "buffers": (
        [
            "def make_kernel(size: int, sigma: float)",
            "self.blur = Blur()",
            "self.blur2 = Blur(size=5, sigma=2.0)",
            "torch.zeros((2 * self.window - 1) ** 2, 1)",
            "torch.meshgrid(torch.arange(self.window), torch.arange(self.window)",
            "torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)",
            "nn.Parameter(torch.full((",
        ],
        ["torch.Tensor("],
    ),
    "supers": (
        ["y = self._base_forward(x)", "return self._child_forward(x) * 2", "def gate(self, x)"],
        ["super().forward", "Mixin"],
    ),
    "tree": (["left: nn.Module", "Tree(Tree(Tree(nn.Conv2d("], []),
    "optional": (
        [
            "layers: list[nn.Module] = []",
            "if expand: layers.append(",
            "padding=kernel_size // 2",
            "drop_prob: float",
            "if skip: self.skip = nn.Conv2d(",
            "else: self.skip = nn.Identity()",
        ],
        ["block_0_0"],
    ),
}


@pytest.fixture(scope="module")
def results() -> dict[str, PruningResult]:
    return {name: pruned(name) for name in TEXTS}


def pruned(name: str) -> PruningResult:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = class_from_file(FILES / f"{name}.py", "Net")()
    model = randomise(network.double().eval())
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return prune(model, x, 50, name=f"{name}_50")


def test_every_file_is_expected_to_say_something() -> None:
    assert {path.stem for path in FILES.glob("*.py")} == set(TEXTS)


@pytest.mark.parametrize("name", TEXTS)
def test_what_a_generated_file_says(results: dict[str, PruningResult], name: str) -> None:
    says, says_not = TEXTS[name]
    source = " ".join(results[name].writer.code.split())
    for piece in says:
        assert piece in source, piece
    for piece in says_not:
        assert piece not in source, piece


@pytest.mark.parametrize("name", TEXTS)
def test_no_channel_stays_for_want_of_a_rewrite(
    results: dict[str, PruningResult], name: str
) -> None:
    kept = set(results[name].report.kept_because.values())
    assert kept <= {"reaches an output of the network", "its channels rank above the cut"}


def test_all_are_equal_to_the_oracle(results: dict[str, PruningResult]) -> None:
    outcomes = verify([result.case() for result in results.values()])
    require(outcomes)
    assert max(outcome.error for outcome in outcomes) < 1e-12


def test_network_in_several_files() -> None:
    network = class_from_file(FILES.parent / "package" / "net.py", "Net")()
    model = randomise(network.double().eval())
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    result = prune(model, x, 50)
    source = result.writer.code
    for piece in (
        "class Block(nn.Module):",
        "class Block_2(nn.Module):",
        "def scale(x: Tensor)",
        "def scale_2(x: Tensor)",
        "def swish(x: Tensor)",
        "def doubled(function",
        "self.again = self.second",
        "self.tied.weight = self.head.weight",
        "_version = 2",
        "@torch.no_grad()",
        'names = ("first", "second")',
        "num_classes: int = 10",
    ):
        assert source.count(piece) == 1, piece
    assert "package" not in source
    assert result.report.kept_because == {"head": "reaches an output of the network"}
    # One module stays one: its batch-norm statistics are updated once, not in a copy.
    assert result.model.again is result.model.second
    require([result.verified()])
