"""Runs every benchmark, each in a process of its own: the memory of one is not that of another."""

from __future__ import annotations

import subprocess
import sys

NAMES = (
    "bench_tracing",
    "bench_memory",
    "bench_growth",
    "bench_scoring",
    "bench_unitmem",
    "bench_deploy",
)

if __name__ == "__main__":
    for name in NAMES:
        print(f"--- {name}", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
