"""How long the report of a large study takes, from the store to the screen: 1,000 trials with 1,000 points per curve.

    python benchmarks/report.py [--trials 1000] [--points 1000] [--store FOLDER]

A synthetic study is written once, as journals, and ingested as a run does it; with --store it stays and is used
again. Then `ablate report` runs as a process of its own, once for each format: CPU seconds (all threads), peak memory,
size. Then, where Chromium is installed, the time until the page answers and until every figure is drawn. The numbers go
to reports/README.md; nothing is asserted here.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "reports"))

from chromium import Chromium, executable
from simulated_study import study

from ablate.store import Ingester, Journal, StorePaths
from ablate_reports import StudyFrames
from ablate_reports.data import records

OTHERS = ("grad_norm", "lr", "images_per_second", "jvp_ratio")
"""Scalars that are logged beside the loss and that no page shows."""


def main() -> None:
    """Simulate, write, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000, help="four seeds each; in steps of 100")
    parser.add_argument("--points", type=int, default=1000, help="of every curve")
    parser.add_argument("--store", type=Path, help="folder that keeps the store; used as it is when it exists")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = StorePaths(options.store or folder)
        if not paths.snapshot.exists():
            frames = simulated(options.trials, options.points)
            print(
                f"{options.trials} trials, {len(frames.arms)} arms, {len(frames.curves) * (1 + len(OTHERS)):,} curve "
                f"points, {len(frames.measurements):,} measurements"
            )
            start = time.process_time()
            write(paths, frames, options.points)
            print(f"store written and ingested once: {time.process_time() - start:.0f} CPU-s")
        for suffix in ("html", "md", "csv", "json"):
            out = Path(folder) / f"report.{suffix}"
            seconds, megabytes = command("report", f"--{suffix}", "--store", str(paths.root), "--out", str(out))
            size = out.stat().st_size / 1e6
            print(f"ablate report --{suffix:4} {seconds:6.2f} CPU-s  peak {megabytes:5.0f} MB  {size:6.2f} MB")
        if executable():
            browse(Path(folder) / "report.html")


def simulated(trials: int, points: int) -> StudyFrames:
    """A grid of three axes over four seeds."""
    seeds = 4
    levels = [range(5), range(5), range(trials // seeds // 25)]
    cells = {"-".join(map(str, cell)): cell for cell in itertools.product(*levels)}
    members = [
        (name, "design", "grid", i, name, dict(zip(("schedule", "velocity", "weighting"), map(str, cell), strict=True)))
        for i, (name, cell) in enumerate(cells.items())
    ]
    arms = {name: -0.02 * sum(cell) for name, cell in cells.items()}
    return study(arms, seeds, points=points, steps=10_000, every=1000, members=members)


def write(paths: StorePaths, frames: StudyFrames, points: int) -> None:
    """The frames as the journal of one process, ingested, with a snapshot, as a run leaves them."""
    about = {k: v for k, v in frames.study.items() if k not in ("created_at", "space_yaml")}
    metrics = {r.metric_id: json.loads(r.definition) for r in records(frames.metric_defs)}
    conditions = {r.cond_id: json.loads(r.definition) for r in records(frames.conditions)}
    measured = {str(key): records(rows) for key, rows in frames.measurements.groupby("trial_id")}
    losses = frames.curves["value"].to_numpy().reshape(-1, points)
    steps = frames.curves["step"].to_numpy().reshape(-1, points)
    noise = np.random.default_rng(0).random((points, len(OTHERS))).tolist()
    with Journal(paths, "benchmark") as journal:
        journal.append("study", {"study_id": "s", **about}, sync=False)
        for arm in records(frames.arms):
            config = json.loads(arm.config)
            journal.append("arm", {"arm_id": arm.arm_id, "label": arm.label, "config": config}, sync=False)
        for place in records(frames.study_arms):
            plan = {"plan": place.plan, "plan_kind": place.kind, "position": int(place.position), "label": place.label}
            choice = {"study_id": "s", "arm_id": place.arm_id, "choice": json.loads(place.choice)}
            journal.append("study_arm", {**choice, **plan}, sync=False)
        for trial, loss, at in zip(records(frames.trials), losses, steps, strict=True):
            key = {"trial_id": trial.trial_id}
            journal.append("trial", {**key, "arm_id": trial.arm_id, "seed": int(trial.seed)}, sync=False)
            attempt = {**key, "attempt": journal.append("attempt_started", key, sync=False)}
            for step, value, beside in zip(at.tolist(), loss.tolist(), noise, strict=True):
                values = {"loss": value, **dict(zip(OTHERS, beside, strict=True))}
                journal.append("scalar", {**attempt, "step": step, "values": values}, sync=False)
            for m in measured[trial.trial_id]:
                identity = {"metric_id": m.metric_id, "metric": metrics[m.metric_id]}
                identity |= {"cond_id": m.cond_id, "condition": conditions[m.cond_id]}
                found = {"step": int(m.step), "draw": int(m.draw), "n_samples": int(m.n_samples), "value": m.value}
                journal.append("measurement", {**attempt, **identity, **found}, sync=False)
            facts = {"status": trial.status, "step": int(trial.steps_done), "cpu_seconds": trial.cpu_seconds}
            journal.append("attempt_ended", {**attempt, **facts, "num_parameters": 123_456}, sync=False)
    with Ingester(paths) as ingester:
        ingester.ingest()
        ingester.publish_snapshot()


def command(*arguments: str) -> tuple[float, float]:
    """CPU seconds and peak memory, in MB, of one `ablate` process."""
    process = subprocess.Popen([sys.executable, "-m", "ablate", *arguments], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"ablate {' '.join(arguments)} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def browse(path: Path) -> None:
    """Time the page in Chromium."""
    with Chromium() as browser:
        start = time.perf_counter()
        browser.open(path)
        loaded = time.perf_counter() - start
        browser.run("window.ablateReport.ready")
        ready = time.perf_counter() - start
        browser.run("window.ablateReport.drawAll()")
        drawn = time.perf_counter() - start
        print(f"Chromium: loaded {loaded:.2f} s, Plotly ready {ready:.2f} s, all figures {drawn:.2f} s")
        print("problems:", browser.problems or "none")


if __name__ == "__main__":
    main()
