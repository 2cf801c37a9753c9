"""What the launcher costs around a trial that costs nothing; run ``python benchmarks/launch.py``.

Runs the same trivial trials through `run_plan` with both isolations, interleaved, each time on a fresh private Ray, and
prints wall seconds: until the first trial reports, per trial after that, and of the end. For comparison: a process that
imports torch, which is what one process per trial would pay at least. Takes a few minutes; not part of the tests.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ablate.launch import RunOptions, run_plan
from ablate.launch.options import RunSummary
from ablate.space import expand, space_from_text
from ablate.space.plan import Plan
from ablate.store import StorePaths

SPACE = """
base:
  objective: fm
  architecture: mlp
  data: gaussians
  train: {{steps: 1, batch_size: 16}}
  eval: {{metric: energy_distance, samples: 16}}
axes: {{objective: [fm, meanflow]}}
seeds: {{list: [{seeds}]}}
"""


def trivial(config: Any, folder: Path, *, device: str = "cpu", report: Any = None, should_stop: Any = None) -> Any:
    """A trainer that does nothing."""
    return SimpleNamespace(status="done", step=1, reason=None, num_parameters=0, peak_mem_mb=0.0)


class Clock:
    """A view that notes when trials end."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.ends: list[float] = []

    def start(self, state: Any) -> None: ...

    def update(self, state: Any) -> None: ...

    def message(self, text: str) -> None: ...

    def ended(self, state: Any, trial: Any, outcome: Any) -> None:
        self.ends.append(time.perf_counter() - self.began)

    def finish(self, summary: RunSummary) -> None:
        self.over = time.perf_counter() - self.began


def plan(trials: int) -> Plan:
    return expand(space_from_text(SPACE.format(seeds=", ".join(map(str, range(trials // 2)))), name="trivial"))


def one(trials: int, isolation: Any) -> tuple[float, float, float]:
    """Seconds to the first end, per trial after it, and from the last end to the return."""
    clock = Clock()
    options = RunOptions(gpus=0, max_concurrent=2, isolation=isolation, chunk=1)
    with tempfile.TemporaryDirectory() as store:
        summary = run_plan(plan(trials), StorePaths(store), options, clock, trainer="launch:trivial")
    assert summary.done == trials
    first, last = clock.ends[0], clock.ends[-1]
    return first, (last - first) / (trials - 1), clock.over - last


def fresh_interpreter() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=24, help="an even number")
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    found: dict[str, list[tuple[float, float, float]]] = {"process": [], "actor": []}
    torch = []
    for _ in range(arguments.repeats):
        torch.append(fresh_interpreter())
        for isolation, rows in found.items():
            rows.append(one(arguments.trials, isolation))
    print(f"{arguments.trials} trivial trials, two at once; wall seconds, median of {arguments.repeats}")
    print(f"{'isolation':<12}{'first trial':>12}{'per trial':>12}{'end':>8}")
    for isolation, rows in found.items():
        first, per, end = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"{isolation:<12}{first:>12.1f}{per:>12.3f}{end:>8.1f}")
    per = statistics.median(row[1] for row in found["process"])
    print(f"a process that imports torch: {statistics.median(torch):.2f} s; a forked trial: {per:.3f} s", end=", ")
    print(f"ratio {statistics.median(torch) / per:.0f}")


if __name__ == "__main__":
    main()
