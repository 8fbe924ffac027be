"""Two processes compute what one does with twice the batch, and end together."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import app
from pruners import batches
from pruners.datasets import Augmentation, DataSplits
from pruners.distributed import ALONE, Ranks, Share, one_tells, processes
from pruners.errors import PrunerError
from pruners.global_batch import GlobalBatch, check_interceptable
from pruners.recipe import Recipe
from pruners.training import shared_accuracy, train
from pruners.tuning import tune
from tests.helpers import scripted

ROOT = Path(app.__file__).parent

# Of 8x8 images with one channel.
NETS = """
import torch
from torch import nn

print("printed on import")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, kernel_size=3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(128, 10)

    def forward(self, x):
        x = torch.max_pool2d(self.bn(self.conv(x)).relu(), 2)
        return self.fc(self.drop(torch.flatten(x, 1)))
"""
TRAIN = ("train", "--arch", "nets.py:Net", "--input-shape", "1,8,8", "--epochs", "3")


class Net(nn.Module):
    """All that looks beyond one image: norms of every kind, dropout, dropped paths."""

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.bn2 = nn.BatchNorm2d(6)
        self.bn3 = nn.BatchNorm3d(3, momentum=None)
        self.bn1 = nn.BatchNorm1d(12, affine=False)
        self.unused = nn.Linear(2, 2)
        self.drop = nn.Dropout(dropout, inplace=True)
        self.drop2 = nn.Dropout2d(dropout)
        self.survives = 1 - dropout
        self.hidden = nn.Linear(6 * 36, 12)
        self.fc = nn.Linear(12, 4)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop2(F.relu(self.bn2(self.conv(x))))
        x = self.bn3(x.view(len(x), 3, 2, 6, 6)).view(len(x), -1)
        if self.training:
            # The first process's count is everybody's after an epoch.
            self.seen += len(x)
            x = x * x.new_empty(len(x), 1).bernoulli_(self.survives)
            x = F.batch_norm(x, None, None, training=True)
        return self.fc(self.bn1(self.hidden(self.drop(x))))


class Small(nn.Sequential):
    """Can be trained on one image."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)
        )


def images(count: int, seed: int) -> TensorDataset:
    """A bright corner says which class it is."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    x = torch.randn(count, 3, 8, 8, generator=generator, dtype=torch.float64) + 1
    for corner in range(4):
        row, column = 4 * (corner // 2), 4 * (corner % 2)
        x[labels == corner, :, row : row + 4, column : column + 4] += 2
    return TensorDataset(x, labels)


def splits(count: int) -> DataSplits:
    parts = (images(count, 0), images(51, 1), images(1, 2))
    return DataSplits("Corners", *parts, 4, (3, 8, 8), Augmentation(shift=1, flip=False))


CASES: dict[str, tuple[type[nn.Module], int, dict[str, Any]]] = {
    # Batches of 10 images of both processes: the last has 7.
    "uneven": (Net, 57, {}),
    "adamw": (Net, 57, {"optimizer": "adamw", "lr": 0.003}),
    "a last image": (Net, 51, {"label_smoothing": 0.0, "momentum": 0.0}),
    "an empty share": (Small, 1, {"lr": 0.01}),
    "mixed precision": (Small, 50, {"amp": True}),
}


def trained(case: str, ranks: Ranks, batch: int) -> dict[str, Any]:
    kind, count, options = CASES[case]
    torch.manual_seed(0)
    model = kind().to(torch.float32 if "amp" in options else torch.float64)
    if not ranks.is_first:
        # The first process's weights count.
        nn.init.zeros_(next(model.parameters()))
    log = train(model, splits(count), 4, batch_size=batch, ranks=ranks, **options)
    return {
        "state": dict(model.state_dict()),
        "losses": log.losses,
        "accuracies": log.val_accuracies,
        "best": log.best_epoch,
        "test": shared_accuracy(model, splits(count).test, ranks),
    }


def tuned(ranks: Ranks, batch: int) -> list[tuple[Any, ...]]:
    torch.manual_seed(0)
    model = Small().double()
    recipe = Recipe(2, batch_size=batch)
    done = tune(model, splits(30), recipe, [0.01, 1e300], [0.0], ranks=ranks)
    return [(t.lr, t.val_accuracy, t.loss) for t in done.trials]


def process(rank: int, port: int, folder: Path) -> None:
    """One of two, as torchrun would start it."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.chdir(folder)
    torch.set_num_threads(1)
    with processes("cpu") as ranks:
        for case in CASES:
            torch.save(trained(case, ranks, 5), f"{case} {rank}.pth")
        Path(f"tuned {rank}.json").write_text(json.dumps(tuned(ranks, 5)))
        sent = ranks.bytes_from_first(b"of the first" if ranks.is_first else b"")
        assert sent == b"of the first"
        assert ranks.bytes_from_first(b"") == b""
        flags = torch.tensor([True, False]) if ranks.is_first else torch.zeros(2, dtype=torch.bool)
        assert ranks.from_first(flags).tolist() == [True, False]
    assert gloo_threads() == []
    # The command line, twice; the second time one process fails in the middle.
    with (
        Path(f"err {rank}").open("w") as err,
        Path(f"out {rank}").open("w") as out,
        redirect_stderr(err),
        redirect_stdout(out),
    ):
        whole = app.main([*TRAIN, "--batch-size", "32", "--out", "two.pth"])
        err.write("--- and again\n")
        if rank == 1:
            batches._moved = full_disk  # type: ignore[assignment]
        failed = app.main([*TRAIN, "--out", "failed.pth"])
    assert gloo_threads() == []
    Path(f"codes {rank}.json").write_text(json.dumps([whole, failed]))


def gloo_threads() -> list[str]:
    """They could abort the process as it ends."""
    tasks = Path("/proc/self/task")
    names = [path.read_text() for path in tasks.glob("*/comm")] if tasks.exists() else []
    return [name for name in names if "gloo" in name]


def full_disk(*_: object) -> Tensor:
    raise PrunerError("/tmp: no space left")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left behind."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "nets.py").write_text(NETS)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(process, (port, folder), nprocs=2)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_processes_are_one_with_twice_the_batch(folder: Path, case: str) -> None:
    alone = trained(case, ALONE, 10)
    first, second = (torch.load(folder / f"{case} {rank}.pth") for rank in (0, 1))
    assert first["losses"] == second["losses"]
    assert first["accuracies"] == second["accuracies"]
    exact = case != "mixed precision"
    assert first["losses"] == pytest.approx(alone["losses"], rel=1e-9 if exact else 0.05)
    if exact:
        assert first["accuracies"] == alone["accuracies"]
        assert first["best"] == alone["best"]
        assert first["test"] == second["test"] == alone["test"]
        # Else the weights would be those of the start.
        assert alone["best"] > 0
    for name, tensor in alone["state"].items():
        assert torch.equal(first["state"][name], second["state"][name])
        if name == "seen":
            assert first["state"][name] < tensor
        elif exact:
            torch.testing.assert_close(first["state"][name], tensor, rtol=1e-9, atol=1e-10)


def test_tuning_with_two_processes(folder: Path) -> None:
    first, second = (json.loads((folder / f"tuned {rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    (lr, percent, loss), diverged = tuned(ALONE, 10)
    assert first[0] == pytest.approx([lr, percent, loss], rel=1e-9)
    assert first[1] == list(diverged) == [1e300, None, None]


def test_command_line_with_two_processes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    assert app.main([*TRAIN, "--out", "one.pth"]) == 0
    one, two = torch.load("one.pth"), torch.load("two.pth")
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5)
    # The first process alone prints.
    said = capsys.readouterr()
    told = [Path(f"err {rank}").read_text().split("--- and again\n")[0] for rank in (0, 1)]
    assert Path("out 0").read_text() == said.out.replace("one.pth", "two.pth")
    assert Path("out 1").read_text() == ""
    assert re.sub(r"\d+\.\d+", "", told[0]) == re.sub(r"\d+\.\d+", "", said.err)
    assert told[1] == ""


def test_an_error_of_one_process_is_one_line_and_ends_both(folder: Path) -> None:
    codes = [json.loads((folder / f"codes {rank}.json").read_text()) for rank in (0, 1)]
    assert codes == [[0, 2], [0, 2]]
    told = [
        (folder / f"err {rank}").read_text().split("--- and again\n")[1].splitlines()
        for rank in (0, 1)
    ]
    assert told[1] == ["error: /tmp: no space left"]
    # That the other is gone is no news.
    assert told[0] == []
    assert not (folder / "failed.pth").exists()
    assert not list(folder.glob("*.training"))


def torchrun(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*launcher, "--nproc_per_node=2", str(ROOT / "app.py"), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


def test_torchrun(folder: Path) -> None:
    done = torchrun(folder, *TRAIN, "--batch-size", "32", "--out", "run.pth")
    assert done.returncode == 0, done.stderr
    # Older versions of torch say on stdout, both processes at once, that Gloo has connected them.
    said = re.sub(r"^.*\bconnected\b.*\n", "", done.stdout, flags=re.M)
    assert re.fullmatch(r"run\.pth  Net, \d\d\.\d\d % of the test images of Digits\n", said)
    lines = [line for line in done.stderr.splitlines() if line.startswith("epoch")]
    assert [line[:9] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    ours, spawned = torch.load(folder / "run.pth"), torch.load(folder / "two.pth")
    assert all(torch.equal(ours[name], spawned[name]) for name in ours)


def test_torchrun_tells_a_bad_option_once(folder: Path) -> None:
    done = torchrun(folder, *TRAIN, "--out", "bad.pth", "--lr", "-1")
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert lines == ["error: --lr -1: expected a number above 0"]
    assert done.stdout == ""


# --- one process -------------------------------------------------------------------------------


def test_shares_are_all_rows_once_and_nearly_equal() -> None:
    for size in (1, 2, 3, 8):
        for total in range(1, 20):
            shares = [Ranks(rank, size).share(total) for rank in range(size)]
            rows = [row for share in shares for row in range(share.start, share.stop)]
            assert rows == list(range(total))
            counts = [share.stop - share.start for share in shares]
            assert max(counts) - min(counts) <= 1
            assert sum(share.weight for share in shares) == pytest.approx(1)
            for share, count in zip(shares, counts, strict=True):
                assert share.is_empty == (count == 0)
                # A row stands in where there is none.
                assert len(range(total)[share.rows]) == max(count, 1)


def test_alone_nothing_is_exchanged() -> None:
    model = nn.Linear(2, 2)
    model(torch.ones(2)).sum().backward()
    before = [model.weight.grad, *model.state_dict().values()]
    ALONE.agree(model)
    ALONE.sum_gradients(list(model.parameters()))
    with ALONE.first_goes_first():
        ALONE.wait()
    tensor = torch.ones(2)
    assert ALONE.sum(tensor) is tensor
    assert ALONE.from_first(tensor) is tensor
    assert ALONE.bytes_from_first(b"x") == b"x"
    after = [model.weight.grad, *model.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_draw_is_part_of_the_draw_for_all() -> None:
    def drawn(share: Share) -> list[Tensor]:
        torch.manual_seed(0)
        count = share.rows.stop - share.rows.start
        with GlobalBatch(share):
            windows = F.dropout(torch.ones(count * 2, 3), 0.5)
            noise = torch.randn_like(torch.ones(count, 3))
            inplace = torch.ones(count, 3)
            F.dropout(inplace, 0.5, inplace=True)
        return [windows, noise, inplace, torch.rand(1)]

    whole, first, second = drawn(Share(0, 5, 5)), drawn(Share(0, 2, 5)), drawn(Share(2, 5, 5))
    for all_rows, *parts in zip(whole[:3], first, second, strict=False):
        assert torch.equal(torch.cat(parts), all_rows)
    # Random states are the same afterwards.
    assert torch.equal(whole[3], first[3])
    assert torch.equal(whole[3], second[3])


def test_draws_that_are_not_of_images_are_left_alone() -> None:
    with GlobalBatch(Share(0, 2, 5)):
        assert len(F.dropout(torch.ones(3), 0.5)) == 3
        assert torch.bernoulli(torch.tensor(1.0)) == 1
        chances = torch.ones(2, 3)
        assert torch.equal(torch.zeros(2, 3).bernoulli_(chances), chances)


def test_a_batch_norm_in_eval_mode_is_left_alone() -> None:
    norm = nn.BatchNorm2d(2).eval()
    x = torch.randn(2, 2, 3, 3)
    with GlobalBatch(Share(0, 2, 5)):
        assert torch.equal(norm(x), x / (1 + 1e-5) ** 0.5)


def test_modules_that_hide_their_calls_are_refused() -> None:
    check_interceptable(Net())
    with pytest.raises(
        PrunerError,
        match=r"^0: is a compiled module, whose batch norms cannot be synchronised; train the "
        r"module that it was made of, or use one process$",
    ):
        check_interceptable(nn.Sequential(torch.compile(nn.BatchNorm1d(2))))
    with pytest.raises(PrunerError, match="is a scripted module"):
        check_interceptable(scripted(nn.BatchNorm1d(2)))


@pytest.mark.parametrize(
    ("environment", "device", "message"),
    [
        (
            {"WORLD_SIZE": "x"},
            "cpu",
            "WORLD_SIZE x in the environment: expected a whole number, as torchrun sets it; "
            r"start with torchrun --nproc_per_node=N app\.py \.\.\.",
        ),
        ({"WORLD_SIZE": "2"}, "cpu", "RANK missing in the environment: expected a whole number.*"),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"},
            "cpu",
            r"the 2 processes did not find each other \(.*MASTER_ADDR.*\); start them with "
            r"torchrun --nproc_per_node=2 app\.py \.\.\.",
        ),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"},
            "cuda:1",
            "--device cuda:1: under torchrun each process takes a GPU of its own; expected cpu "
            "or cuda",
        ),
        (
            {"WORLD_SIZE": "900", "RANK": "0", "LOCAL_RANK": "899"},
            "cuda",
            r"--device cuda: process 899 of this machine finds \d+ GPUs, expected one each; start "
            r"no more processes than there are GPUs \(--nproc_per_node=\d+\), or use --device cpu",
        ),
    ],
)
def test_bad_environments(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], device: str, message: str
) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(PrunerError) as raised, processes(device):
        pass
    assert re.fullmatch(message, str(raised.value))


def test_without_distributed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_RANK", "0")
    with (
        pytest.raises(
            PrunerError,
            match=r"^WORLD_SIZE 2: this torch is built without torch\.distributed; start one "
            r"process$",
        ),
        processes("cpu"),
    ):
        pass


def test_a_process_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object) -> None:
        raise RuntimeError("Connection closed\nby peer")

    monkeypatch.setattr(torch.distributed, "all_reduce", closed)
    monkeypatch.setattr(torch.distributed, "broadcast", closed)
    ranks = Ranks(0, 2)
    for call in (ranks.wait, lambda: ranks.bytes_from_first(b"x")):
        with pytest.raises(
            PrunerError,
            match=r"^the other processes do not answer \(Connection closed by peer\); one has "
            r"ended, killed for want of memory perhaps: start again, train and tune with --resume$",
        ):
            call()


def test_one_process_is_not_connected(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with processes("gpu") as ranks:
        assert ranks == Ranks(device="gpu")
        assert not torch.distributed.is_initialized()
    with one_tells():
        print("told", file=sys.stderr)
    assert capsys.readouterr().err == "told\n"
