"""Runs every benchmark."""

from __future__ import annotations

from benchmarks import bench_main_job

if __name__ == "__main__":
    bench_main_job.main()
