"""Trivial trials on 64 logical GPUs: `ablate run` against Ray Tune; run ``python benchmarks/launch.py``.

Both work on a private Ray of this machine that offers 64 GPUs which nobody computes on; Tune reuses its actors. Each
run is a process of its own, the variants in turn. Clocks start when Ray is up, and stop when all is done and recorded;
the time to the first trial, in which workers import Ray Tune, is printed apart. CPU seconds are those of all processes
of the run between the first and the last trial. For comparison: a process that imports torch, which one process per
trial would pay at least. Takes minutes; not part of the tests.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

GPUS = 64
TICKS = os.sysconf("SC_CLK_TCK")
SHARE = 1 / 32
"""Of a core, for a trial: Ray starts a process for every whole core that it is told of."""
TUNE_SLOTS = 8
"""What Tune has at once: its rate does not depend on it, and 64 of its actors take minutes of two cores to start."""
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


def start_ray() -> None:
    from ablate.launch.cluster import ENVIRONMENT, OBJECT_STORE_BYTES

    os.environ.update(ENVIRONMENT)
    import ray

    ray.init(
        address="local", num_cpus=round(GPUS * SHARE), num_gpus=GPUS, include_dashboard=False, log_to_driver=False,
        logging_level=logging.ERROR, object_store_memory=OBJECT_STORE_BYTES,
    )  # fmt: skip


class Clock:
    """A view that notes when trials end, and the CPU seconds of the run from the first end to the last."""

    def __init__(self, trials: int) -> None:
        self.trials = trials
        self.began = time.perf_counter()
        self.ends: list[float] = []
        self.cpu = Cpu()

    def end(self) -> None:
        self.ends.append(time.perf_counter() - self.began)
        if len(self.ends) == 1:
            self.before = self.cpu.seconds()
        elif len(self.ends) % 20 == 0:  # processes that have ended take their seconds with them
            self.cpu.seconds()

    def result(self) -> dict[str, float]:
        cpu = self.cpu.seconds() - self.before
        total = time.perf_counter() - self.began
        return {"trials": self.trials, "first": self.ends[0], "total": total, "cpu": cpu}

    def start(self, state: Any) -> None: ...

    def update(self, state: Any) -> None: ...

    def message(self, text: str) -> None: ...

    def ended(self, state: Any, trial: Any, outcome: Any) -> None:
        self.end()

    def finish(self, summary: Any) -> None: ...


def with_ablate(trials: int, isolation: Any) -> dict[str, float]:
    """Seconds of what the command does with a plan: begin what any run needs, and `run_plan`."""
    from ablate.launch import RunOptions, begin, run_plan
    from ablate.space import expand, space_from_text
    from ablate.store import StorePaths

    plan = expand(space_from_text(SPACE.format(seeds=", ".join(map(str, range(trials // 2)))), name="trivial"))
    start_ray()
    clock = Clock(trials)
    with tempfile.TemporaryDirectory() as store:
        options = RunOptions(gpus=GPUS, cpus_per_trial=SHARE, isolation=isolation)
        paths = StorePaths(store)
        with begin(options, paths) as begun:
            summary = run_plan(plan, paths, options, clock, trainer="trivial_trial:train", begun=begun)
        assert summary.done == trials
        return clock.result()


def with_tune(trials: int) -> dict[str, float]:
    """Seconds of Ray Tune with a class trainable and reused actors, its loggers off."""
    start_ray()
    from ray import tune

    class Trivial(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None: ...

        def reset_config(self, config: dict[str, Any]) -> bool:
            return True

        def step(self) -> dict[str, Any]:
            return {"done": True, "value": 0.0}

        def save_checkpoint(self, checkpoint_dir: str) -> None: ...

    class Ends(tune.Callback):
        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            clock.end()

    clock = Clock(trials)
    with tempfile.TemporaryDirectory() as folder:
        found = tune.Tuner(
            tune.with_resources(Trivial, {"CPU": SHARE, "GPU": 1}),
            param_space={"number": tune.grid_search(list(range(trials)))},
            tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=TUNE_SLOTS),
            run_config=tune.RunConfig(name="t", storage_path=folder, verbose=0, callbacks=[Ends()]),
        ).fit()
        assert not found.errors, found.errors[0]
        return clock.result()


class Cpu:
    """CPU seconds of this process and all that descend from it, those that have ended among them.

    A process that ended is in the account of the parent that waited for it; nobody waits for some of Ray's and of ours,
    and of those the seconds they had when they were last seen are counted.
    """

    def __init__(self) -> None:
        self.seen: dict[tuple[int, str], tuple[float, int, float]] = {}
        self.lost = 0.0

    def seconds(self) -> float:
        """All seconds so far. What a process spends after the last call before its end may be missed."""
        now: dict[tuple[int, str], tuple[float, int, float]] = {}  # (pid, start) -> seconds, parent, of its children
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                own, children = sum(map(int, fields[11:13])) / TICKS, sum(map(int, fields[13:15])) / TICKS
                now[int(entry.name), fields[19]] = own + children, int(fields[1]), children
        family, before = {os.getpid()}, 0
        while len(family) > before:
            before = len(family)
            family |= {pid for (pid, _), (_, parent, _) in now.items() if parent in family}
        now = {key: row for key, row in now.items() if key[0] in family}
        waited = {pid: row[2] for (pid, _), row in now.items()}
        for key in self.seen.keys() - now.keys():
            spent, parent, _ = self.seen[key]
            before_end = next((row[2] for (pid, _), row in self.seen.items() if pid == parent), 0.0)
            if waited.get(parent, 0.0) - before_end < spent:
                self.lost += spent
        self.seen = now
        return self.lost + sum(row[0] for row in now.values())


def fresh_interpreter() -> float:
    """CPU seconds of a process that imports torch."""
    process = subprocess.Popen([sys.executable, "-c", "import torch"])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def measured(variant: str, trials: int) -> dict[str, float]:
    """What a run in a process of its own has measured."""
    command = [sys.executable, __file__, "--one", variant, "--trials", str(trials)]
    ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000, help="of ours, an even number")
    parser.add_argument("--tune-trials", type=int, default=300, help="of Tune's: each costs it the same")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--one", choices=["tune", "process", "actor"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one = with_tune(arguments.trials) if arguments.one == "tune" else with_ablate(arguments.trials, arguments.one)
        print(json.dumps(one))
        return
    found: dict[str, list[dict[str, float]]] = {"tune": [], "process": [], "actor": []}
    torch = []
    for _ in range(arguments.repeats):
        torch.append(fresh_interpreter())
        for variant, rows in found.items():
            rows.append(measured(variant, arguments.tune_trials if variant == "tune" else arguments.trials))
    names = {"tune": "Ray Tune, reused actors", "process": "ablate, isolation: process", "actor": "ablate, actor"}
    print(f"trivial trials on {GPUS} logical GPUs of {os.cpu_count()} cores; medians of {arguments.repeats}")
    print(f"{'':<28}{'trials':>7}{'first s':>9}{'all s':>8}{'ms each':>9}{'CPU ms':>8}{'1000, s':>9}{'ratio':>7}")
    whole: dict[str, float] = {}
    for variant, rows in found.items():
        count, first, total, cpu = (
            statistics.median(row[k] for row in rows) for k in ("trials", "first", "total", "cpu")
        )
        each = (total - first) / (count - 1)
        whole[variant] = first + each * 999
        print(
            f"{names[variant]:<28}{count:>7.0f}{first:>9.1f}{total:>8.1f}{1e3 * each:>9.1f}{1e3 * cpu / count:>8.1f}"
            f"{whole[variant]:>9.1f}{whole['tune'] / whole[variant]:>7.1f}"
        )
    print(f"a process that imports torch: {statistics.median(torch):.2f} CPU s")


if __name__ == "__main__":
    main()
