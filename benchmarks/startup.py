"""CPU seconds of the command line before it does anything; run ``python benchmarks/startup.py``.

Each row is a fresh process, the variants interleaved; CPU seconds of the process and what it loads that is heavy.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

VARIANTS = {
    "python -c pass": ["-c", "pass"],
    "ablate --help": ["-m", "ablate", "--help"],
    "ablate run --help": ["-m", "ablate", "run", "--help"],
    "ablate components": ["-m", "ablate", "components"],
    "import torch, ray.tune, duckdb, pandas, plotly": [
        "-c",
        "import torch, ray.tune, duckdb, pandas, plotly.graph_objects",
    ],
}


def cpu_seconds(arguments: list[str]) -> tuple[float, float]:
    """CPU and wall seconds of one process."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{arguments} ended with code {process.returncode}")
    return usage.ru_utime + usage.ru_stime, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in VARIANTS}
    for _ in range(repeats):
        for name, arguments in VARIANTS.items():
            found[name].append(cpu_seconds(arguments))
    medians = {
        name: tuple(statistics.median(column) for column in zip(*rows, strict=True)) for name, rows in found.items()
    }
    eager = medians[list(VARIANTS)[-1]][0]
    print(f"{'median of ' + str(repeats):<50}{'CPU s':>8}{'wall s':>8}{'all imports / this':>20}")
    for name, (cpu, wall) in medians.items():
        print(f"{name:<50}{cpu:>8.2f}{wall:>8.2f}{eager / cpu:>20.1f}")


if __name__ == "__main__":
    main()
