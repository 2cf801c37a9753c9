"""What starting costs: the command line, and a trial before its first step; run ``python benchmarks/startup.py``.

The first table: each row is a fresh process, the variants interleaved; CPU seconds of the process and all that it
loads. The second: attempts at a trial that does nothing, each in a process of its own; milliseconds from the request
until the attempt is recorded and its trainer is about to be called, until its end is recorded, and until the process is
gone, with the CPU milliseconds of the process. A fork of a warm process, with small and with merged pages of memory,
against an interpreter of its own. The third: the same forks for trials of the demo, until the attempt is recorded and
until its first step begins. A fork is made ahead: the requests come when it is ready, as they do where trials take
longer than it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ablate.launch.attempt import Context, Task
from ablate.launch.forkserver import ForkServer, WarmProcess, warm_process

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
CONFIG = {
    "schedule": "linear", "objective": "fm", "architecture": "mlp", "data": "gaussians",
    "train": {"steps": 1, "batch_size": 16}, "eval": {"metric": "energy_distance", "samples": 16},
}  # fmt: skip
DEMO = {
    "schedule": "linear", "objective": "meanflow", "architecture": {"name": "sit", "size": "tiny/4"}, "data": "digits",
    "train": {"steps": 1200, "batch_size": 64, "ema": [0.99]}, "eval": {"metric": "fd_digits", "samples": 2000},
}  # fmt: skip
AHEAD_SECONDS = 0.1
ATTEMPT = """
import json, sys
from ablate.launch.work import forked_work
forked_work(json.loads(sys.argv[1]), lambda report: print(json.dumps(report), flush=True), lambda: False)
"""


def cpu_seconds(arguments: list[str]) -> tuple[float, float]:
    """CPU and wall seconds of one process."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{arguments} ended with code {process.returncode}")
    return usage.ru_utime + usage.ru_stime, time.perf_counter() - began


def work(store: str, number: int, config: dict[str, Any] = CONFIG, trainer: str = "train") -> dict[str, Any]:
    task = Task(f"{number:016x}", "e", config, "train", "arm", 0, 1)
    return {"tasks": [task.to_dict()], "context": Context(store, trainer=f"trivial_trial:{trainer}").to_dict()}


def forked(server: ForkServer, store: str, number: int) -> tuple[float, ...]:
    """Milliseconds until begun, ended, gone, and of the CPU."""
    log = Path(store) / "log.txt"
    time.sleep(AHEAD_SECONDS)
    began = time.perf_counter()
    server.run(work(store, number), str(log))
    seen: list[float] = []
    while True:
        for message in server.poll(1):
            seen.append(1e3 * (time.perf_counter() - began))
            if "exited" in message:
                return (*seen, 1e3 * message["exited"]["cpu_seconds"])


def to_first_step(server: ForkServer, store: str, number: int) -> tuple[float, ...]:
    """Milliseconds until begun, until the first step of a trial of the demo, and of the CPU until then."""
    time.sleep(AHEAD_SECONDS)
    began = time.perf_counter()
    server.run(work(store, number, DEMO, "first_step"), str(Path(store) / "log.txt"))
    begun, first, cpu = 0.0, 0.0, 0.0
    while True:
        for message in server.poll(1):
            if "exited" in message:
                return 1e3 * begun, 1e3 * (first - began), 1e3 * cpu
            if outcome := message["report"].get("outcome"):
                first, cpu = map(float, outcome["error_head"].split())
            else:
                begun = begun or time.perf_counter() - began


def interpreted(store: str, number: int) -> tuple[float, ...]:
    """The same of an interpreter of its own."""
    began = time.perf_counter()
    command = [sys.executable, "-c", ATTEMPT, json.dumps(work(store, number))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    seen = [1e3 * (time.perf_counter() - began) for line in process.stdout if line.startswith("{")]
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0
    return (*seen, 1e3 * (time.perf_counter() - began), 1e3 * (usage.ru_utime + usage.ru_stime))


def command_line(repeats: int) -> None:
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


def trials(repeats: int) -> None:
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    warm: dict[str, WarmProcess] = {
        "fork of a warm process": warm_process(1, ahead=[DEMO]),
        "the same, pages merged (many trials)": warm_process(1, ahead=[DEMO], many=True),
    }
    servers = {name: ForkServer(process.address) for name, process in warm.items()}
    found: dict[str, list[tuple[float, ...]]] = {}
    steps: dict[str, list[tuple[float, ...]]] = {}
    with tempfile.TemporaryDirectory() as store:
        for server in servers.values():
            forked(server, store, 10**6)  # when it answers, everything is imported
        for number in range(10 * repeats):
            for name, server in servers.items():
                found.setdefault(name, []).append(forked(server, store, number))
                steps.setdefault(name, []).append(to_first_step(server, store, 10**8 + number))
            if number % 10 == 0:
                found.setdefault("an interpreter of its own", []).append(interpreted(store, 10**7 + number))
    for name, process in warm.items():
        servers[name].close()
        process.close()
    print(f"\n{'an attempt, wall ms, medians':<50}{'begun':>8}{'ended':>8}{'gone':>8}{'CPU ms':>8}")
    table(found)
    print(f"\n{'a trial of the demo, wall ms, medians':<50}{'begun':>8}{'step':>8}{'CPU ms':>8}")
    table(steps)


def table(found: dict[str, list[tuple[float, ...]]]) -> None:
    for name, rows in found.items():
        print(f"{name:<50}" + "".join(f"{statistics.median(column):>8.1f}" for column in zip(*rows, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    command_line(repeats)
    trials(repeats)


if __name__ == "__main__":
    main()
