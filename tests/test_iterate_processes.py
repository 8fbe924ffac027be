"""Experiments in several processes, and experiments that are killed."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import app

ROOT = Path(app.__file__).parent
ARGUMENTS = (
    "iterate --arch twolayermlp --dataset Digits --step 20 --epochs 2 --images 40 --augmentations 2"
)


def command(folder: Path, levels: int, *more: str) -> list[str]:
    given = [*ARGUMENTS.split(), "--levels", str(levels), "--exp", str(folder), *more]
    return [str(ROOT / "app.py"), *given]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "experiment.json"
    }


def test_two_processes_agree_on_what_is_pruned(tmp_path: Path) -> None:
    """Half the batch each: the channels that go are those of one process, level by level."""
    together = tmp_path / "two"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [sys.executable, *torchrun, *command(together, 1, "--batch-size", "32")],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    # Older versions of torch say on stdout that Gloo has connected the processes.
    lines = [line for line in done.stdout.splitlines() if not line.startswith("[Gloo]")]
    assert [line.split()[0] for line in lines] == ["level", "before", "0"]
    alone = tmp_path / "one"
    subprocess.run(
        [sys.executable, *command(alone, 1)], env=environment(), check=True, capture_output=True
    )
    assert set(files_of(together)) == set(files_of(alone))
    for name in ("pruned_indices.json", "level_0/pruned.pth", "level_0/twolayermlp_level_0.py"):
        assert (together / name).read_bytes() == (alone / name).read_bytes()


@pytest.mark.zoo
def test_killed_at_twenty_moments_it_ends_with_the_same_files(tmp_path: Path) -> None:
    """kill -9, each time somewhere else in a run of five levels, and then to the end."""
    whole = tmp_path / "whole"
    began = time.monotonic()
    subprocess.run(
        [sys.executable, *command(whole, 5)], env=environment(), check=True, capture_output=True
    )
    seconds = time.monotonic() - began
    expected = files_of(whole)
    moments = random.Random(0)
    killed = 0
    while killed < 20:
        folder = tmp_path / f"killed_{killed}"
        shutil.rmtree(folder, ignore_errors=True)
        run = subprocess.Popen(
            [sys.executable, *command(folder, 5)],
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            run.wait(timeout=moments.uniform(0.1, 1.0) * seconds)
            continue  # it was faster than the first one: killed again, earlier or later
        except subprocess.TimeoutExpired:
            run.kill()
            run.wait()
            killed += 1
        subprocess.run(
            [sys.executable, *command(folder, 5)],
            env=environment(),
            check=True,
            capture_output=True,
        )
        assert files_of(folder) == expected
