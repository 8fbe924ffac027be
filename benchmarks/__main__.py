"""All benchmarks, and docs/benchmarks.md of what they print.

    python -m benchmarks                         all, then the document (two hours on two cores)
    python -m benchmarks --only bench_tracing    this one, then the document
    python -m benchmarks --show                  the document from what is there

Each runs in a process of its own: the memory of one is not that of another. What it printed lies
in `build/bench`, with the versions that it ran on; the document says where these differ.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import subprocess
import sys
import textwrap
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from pruners.store import commit

TITLES = {
    "bench_peers": "Which networks come out right",
    "bench_idioms": "Networks in the words of their users",
    "bench_tracing": "Time",
    "bench_memory": "Memory",
    "bench_results": "What comes out, at equal percent",
    "bench_growth": "Growth",
    "bench_scoring": "Scores",
    "bench_unitmem": "UnitMem",
    "bench_deploy": "On onnxruntime",
}
FOLDER = Path("build/bench")
PAGE = Path("docs/benchmarks.md")
PACKAGES = ("torch", "torchvision", "torch-pruning", "onnxruntime")

HEAD = """# Benchmarks

`make bench` (`python -m benchmarks`) runs all of this and writes this page; every block below is
what the command above it printed. Where another tool is named, both ran in one process, taking
turns, on one thread; ratios are ours over theirs, of medians of processor time, which other work
on the machine disturbs least.

torch-pruning is pinned in the extra `[bench]`. torch's own structured pruner
(`torch.ao.pruning`) comes with torch. [nni](https://github.com/microsoft/nni) 3.0 takes part
where it is installed; pip cannot install it beside a current torch (it wants `filelock<3.12`),
and forced in, its `ModelSpeedup` ends in `AttributeError: 'NoneType' object has no attribute
'startswith'` on ResNet-18 with torch 2.14. TinyNeuralNetwork is not in the package index:
[coverage](coverage.md) compares with its documentation. The accuracies of measures, ours and
torch-pruning's at equal multiply-accumulates, are in [accuracy](accuracy.md).
"""


def conditions() -> str:
    """Versions and machine, in a line."""
    found = []
    for package in PACKAGES:
        try:
            # The local part of a version says for which accelerator; nothing here uses one.
            found.append(f"{package} {version(package).partition('+')[0]}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    python = f"Python {platform.python_version()}"
    capability = torch.backends.cpu.get_cpu_capability()
    machine = f"{os.cpu_count()} cores of {platform.machine()} ({capability})"
    return f"{python}, {', '.join(found)}; {machine}"


def run(name: str) -> None:
    """Keep what the benchmark prints, once it has ended well."""
    print(f"--- {name}", flush=True)
    command = [sys.executable, "-W", "ignore", "-m", f"benchmarks.{name}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        raise SystemExit(f"{name}: ended with {process.returncode}; its section stays as it was")
    commit({FOLDER / f"{name}.txt": f"{conditions()}\n{''.join(lines)}".encode()})


def document() -> str:
    """The page, from what is there."""
    parts = [HEAD]
    for name, title in TITLES.items():
        path = FOLDER / f"{name}.txt"
        parts.append(f"## {title}\n\n{_described(name)}\n")
        if not path.exists():
            parts.append("Not run yet.\n")
            continue
        made, _, printed = path.read_text("utf-8").partition("\n")
        parts.append(f"```text\n$ python -m benchmarks.{name}\n{printed.strip()}\n```\n\n{made}.\n")
    return "\n".join(parts)


def _described(name: str) -> str:
    """What the benchmark says of itself, without how it is called."""
    text = importlib.import_module(f"benchmarks.{name}").__doc__ or ""
    paragraphs = textwrap.dedent(text).strip().split("\n\n")
    return "\n\n".join(p for p in paragraphs if not p.lstrip().startswith("python -m"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=TITLES, nargs="+", default=list(TITLES))
    parser.add_argument("--show", action="store_true", help="run nothing")
    options = parser.parse_args()
    for name in [] if options.show else options.only:
        run(name)
    commit({PAGE: document().encode()})


if __name__ == "__main__":
    main()
