"""What tests of pages show: figures, levels, cells, and a network whose names are attacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from user_files import user_class

from pruners import Evaluation, PruningResult, prune
from pruners.experiments.cells import Cell
from pruners.experiments.grid import Setting

_RUN = "hit=1"
EVIL = (
    f"</script><script>{_RUN}</script>",
    f"<!--<script>{_RUN}</script>",
    f'"><img src=x onerror={_RUN}>',
    f"' onmouseover='{_RUN}",
    f"<svg onload={_RUN}>",
    "{{ 7 * 7 }}",
    "@kept",
    "__proto__",
    "a\u2028b",
)
"""Names without a dot, as torch wants them."""

_NET = f'''\
class Net(nn.Module):
    """</script><script>{_RUN}</script> "quoted" 'twice' & <b>bold</b>"""

    def __init__(self):
        super().__init__()
        # --> <![CDATA[ <script>{_RUN}</script> ]]>
        self.stem = nn.Conv2d(3, 8, 3)
        self.layers = nn.ModuleDict()
        self.said = "</code></td><img src=x onerror={_RUN}>"

    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers.values():
            x = layer(x).relu()
        return x.mean((2, 3)) if self.said else x
'''


def evil_result(folder: Path) -> PruningResult:
    """A pruned network whose layers, docstring, comments and values try to leave their places."""
    torch.manual_seed(0)
    model: Any = user_class(folder, "evil_net", _NET)()
    for name in EVIL:
        model.layers[name] = nn.Conv2d(8, 8, 1)
    model.layers["last"] = nn.Conv2d(8, 4, 1)
    return prune(model.eval(), torch.randn(1, 3, 8, 8), 40)


def figures(**more: Any) -> dict[str, Evaluation]:
    """Of a network before and after, as if they had been measured."""
    sizes = {"parameters": 1000, "macs": 50_000, "activation_bytes": 4000, "bytes": 2_500_000}
    slim = {name: size // 2 for name, size in sizes.items()}
    return {
        "before": Evaluation(accuracy=99.7, top_k=5, top_k_accuracy=100.0, loss=0.1, **sizes),
        "pruned": Evaluation(accuracy=9.7, top_k=5, top_k_accuracy=50.0, loss=2.0, **slim),
        "fine-tuned": Evaluation(
            accuracy=99.2, top_k=5, top_k_accuracy=99.9, loss=0.2, **{**slim, **more}
        ),
    }


def levels() -> list[dict[str, Any]]:
    """Metrics of an iterative experiment."""
    rows = []
    for level, (parameters, accuracy) in enumerate([(100, 99.0), (80, 98.5), (60, 99.2)], -1):
        rows.append(
            {
                "level": level,
                "goal_pct": 100.0 - parameters,
                "removed_pct": 100.0 - parameters,
                "parameters": parameters,
                "macs": 10 * parameters,
                "accuracy": accuracy,
                "loss": 0.1,
                **({} if level < 0 else {"accuracy_pruned": 50.0}),
            }
        )
    return rows


def cells() -> list[Cell]:
    """An experiment of two measures, and a cell that failed."""
    found = []
    for measure, accuracies in (("ChannelNorm", (98, 90, 60)), ("Taylor", (97, 95, 80))):
        for amount, accuracy in zip((0.2, 0.4, 0.6), accuracies, strict=True):
            macs = 2000 - 1000 * amount if measure == "Taylor" else 1000 - 1000 * amount
            found.append(_cell(measure, amount, 1000 - 1000 * amount, macs, accuracy))
    failed = Cell(_setting("Taylor", 0.9), {}, "shipped", error="cannot be met: <b>too much</b>")
    return [*found, failed]


def _cell(measure: str, amount: float, parameters: float, macs: float, accuracy: float) -> Cell:
    before = {"parameters": 1000, "macs": 2000, "bytes": 4000, "accuracy": 97.5}
    after = {
        "parameters": int(parameters),
        "macs": int(macs),
        "bytes": int(4 * parameters),
        "accuracy": float(accuracy),
    }
    figures = {"before": before, "pruned": after}
    return Cell(_setting(measure, amount), {}, "shipped", figures)


def _setting(measure: str, amount: float) -> Setting:
    return Setting(
        *("Net", "Digits", "Global", measure, {}, "params", amount, 0),
        recalibrate=0,
        finetune_epochs=0,
        calibrate=1,
        device="cpu",
    )
