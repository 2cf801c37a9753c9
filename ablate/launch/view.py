"""What a person sees while a run goes on: a live table in a terminal, plain lines elsewhere, JSON lines for programs.

The three views show the same `RunState`. JSON lines (``--json``) are stable; each has ``event``:

``start``    {study, trials, waiting, evaluations, skipped, slots, cpus_per_trial, gpus_per_trial}
``end``      {key, task, label, seed, status, step, wall_seconds, error}: one training or evaluation has ended
``status``   {done, diverged, failed, interrupted, waiting, running, elapsed, eta, steps_per_second}
``message``  {text}
``summary``  the fields of `RunSummary`, exit_code as a number
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import IO, Any, Protocol

from ablate.launch.options import RunSummary


@dataclass
class Running:
    """One task that is under way, named by `key`; `rate` is in steps per second, `packed` trainings share its slot."""

    key: str
    label: str
    seed: int
    steps: int
    step: int = 0
    phase: str = "start"
    started: float = field(default_factory=time.monotonic)
    rate: float = 0.0
    task: str = "train"
    packed: int = 1
    _first: tuple[float, int] | None = None

    def advance(self, step: int, phase: str) -> None:
        """Take in a progress report. The rate is taken since the first report of this attempt: a resume starts late."""
        now = time.monotonic()
        if step < self.step:  # tried again, from an older checkpoint
            self._first, self.rate = None, 0.0
        self.step, self.phase = step, phase
        if self._first is None:
            self._first = (now, step)
        elif now > self._first[0]:
            self.rate = (step - self._first[1]) / (now - self._first[0])

    @property
    def first_step(self) -> int:
        """The step this attempt was first seen at: what it resumed from."""
        return self._first[1] if self._first else 0

    @property
    def eta(self) -> float:
        return (self.steps - self.step) / self.rate if self.rate > 0 else math.nan


@dataclass
class RunState:
    """The counts of a run, kept by the driver, in tasks: see `RunSummary`.

    `trials` is what the study asks for, finished or not, one for each arm and seed; `evaluations` of those `waiting`
    train nothing.
    """

    study: str
    trials: int
    skipped: int
    slots: int = 0
    cpus_per_trial: float = 0.0
    gpus_per_trial: float = 0.0
    done: int = 0
    diverged: int = 0
    failed: int = 0
    interrupted: int = 0
    waiting: int = 0
    evaluations: int = 0
    dropped: int = 0
    steps_waiting: int = 0
    steps_trained: int = 0
    slot_seconds: float = 0.0
    started: float = field(default_factory=time.monotonic)
    running: dict[str, Running] = field(default_factory=dict)

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    @property
    def eta(self) -> float:
        """Seconds to the end of the study, from the seconds a step has cost so far; NaN when nothing is known yet."""
        now = time.monotonic()
        live = list(self.running.values())
        steps = self.steps_trained + sum(trial.step - trial.first_step for trial in live)
        seconds = self.slot_seconds + sum((now - trial.started) / trial.packed for trial in live)
        if steps <= 0 or not self.slots:
            return math.nan
        each = seconds / steps  # of a slot, for one step of one trial
        left = [(trial.steps - trial.step) * each for trial in live]
        ends = [seconds * trial.packed for seconds, trial in zip(left, live, strict=True)]
        return max((sum(left) + self.steps_waiting * each) / self.slots, *ends, 0.0)

    @property
    def rate(self) -> float:
        """Optimiser steps per second of all running trials."""
        return sum(trial.rate for trial in self.running.values())


class RunView(Protocol):
    """Somebody watching a run."""

    def start(self, state: RunState) -> None: ...

    def update(self, state: RunState) -> None: ...

    def ended(self, state: RunState, trial: Running, outcome: dict[str, Any]) -> None: ...

    def message(self, text: str) -> None: ...

    def finish(self, summary: RunSummary) -> None: ...


def choose_view(as_json: bool = False, stream: IO[str] | None = None) -> RunView:
    """The view that suits the output: JSON lines on request, a live table in a terminal, else plain lines."""
    stream = stream or (sys.stdout if as_json else sys.stderr)
    if as_json:
        return JsonView(stream)
    if stream.isatty() and os.environ.get("TERM") != "dumb":
        return LiveView(stream)
    return PlainView(stream)


def duration(seconds: float) -> str:
    """``4s``, ``3m20s``, ``5h07m``, ``2d03h``; ``?`` when unknown."""
    if not math.isfinite(seconds):
        return "?"
    minutes, second = divmod(round(max(seconds, 0)), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d{hour:02d}h"
    if hours:
        return f"{hours}h{minute:02d}m"
    return f"{minutes}m{second:02d}s" if minutes else f"{second}s"


def opening(state: RunState) -> str:
    """``objectives: 24 trials to run, 2 at once (1 CPU each)``."""
    per = f"{state.cpus_per_trial:g} CPU" + (f", {state.gpus_per_trial:g} GPU" if state.gpus_per_trial else "")
    trials, more = state.waiting - state.evaluations, state.evaluations
    parts = [f"{trials} trial{'s' * (trials != 1)} to run"] * (trials > 0 or not more)
    parts += [f"{more} evaluation{'s' * (more != 1)} to make"] * (more > 0)
    return f"{state.study}: {' and '.join(parts)}, {state.slots} at once ({per} each)"


def counts(state: RunState) -> str:
    """``12 of 24 done, 1 failed, 2 running, 9 waiting``."""
    parts = [f"{state.done + state.skipped} of {state.trials} done"]
    for word in ("diverged", "failed", "interrupted"):
        if count := getattr(state, word):
            parts.append(f"{count} {word}")
    parts += [f"{len(state.running)} running", f"{state.waiting} waiting"]
    return ", ".join(parts)


class _Lines:
    """Lines to a stream, flushed. When their reader goes away (``| head``), the run goes on unseen."""

    def __init__(self, stream: IO[str], every: float) -> None:
        self.stream, self.every = stream, every
        self.last = time.monotonic()
        self.read = True

    def line(self, text: str) -> None:
        try:
            if self.read:
                print(text, file=self.stream, flush=True)
        except BrokenPipeError:
            self.read = False


class PlainView(_Lines):
    """Lines for a log file: trials as they end, the counts at most every `every` seconds."""

    def __init__(self, stream: IO[str], every: float = 15.0) -> None:
        super().__init__(stream, every)

    def start(self, state: RunState) -> None:
        self.message(opening(state))

    def update(self, state: RunState) -> None:
        if time.monotonic() - self.last >= self.every:
            self.message(
                f"{counts(state)}; {state.rate:.0f} steps/s, {duration(state.elapsed)} gone, {duration(state.eta)} left"
            )

    def ended(self, state: RunState, trial: Running, outcome: dict[str, Any]) -> None:
        self.message(_end(trial, outcome))

    def message(self, text: str) -> None:
        self.last = time.monotonic()
        self.line(text)

    def finish(self, summary: RunSummary) -> None:
        self.message(summary.line())


def _end(trial: Running, outcome: dict[str, Any]) -> str:
    took = duration(outcome["wall_seconds"])
    return f"{outcome['status']:<11} {trial.label} seed {trial.seed} in {took}{_why(outcome)}"


def _why(outcome: dict[str, Any]) -> str:
    text = outcome["reason"] or ": ".join(filter(None, (outcome["error_type"], outcome["error_head"])))
    return f": {text}" if text else ""


class JsonView(_Lines):
    """One JSON object per line; see the top of this file."""

    def __init__(self, stream: IO[str], every: float = 10.0) -> None:
        super().__init__(stream, every)

    def _write(self, event: str, **fields: Any) -> None:
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in fields.items()}
        self.line(json.dumps({"event": event, **plain}))

    def start(self, state: RunState) -> None:
        names = ("study", "trials", "waiting", "evaluations", "skipped", "slots", "cpus_per_trial", "gpus_per_trial")
        self._write("start", **{name: getattr(state, name) for name in names})

    def update(self, state: RunState) -> None:
        if time.monotonic() - self.last < self.every:
            return
        self.last = time.monotonic()
        names = ("done", "diverged", "failed", "interrupted", "waiting", "elapsed", "eta")
        fields = {name: getattr(state, name) for name in names}
        self._write("status", **fields, running=len(state.running), steps_per_second=state.rate)

    def ended(self, state: RunState, trial: Running, outcome: dict[str, Any]) -> None:
        fields = {name: outcome[name] for name in ("key", "status", "step", "wall_seconds")}
        self._write(
            "end", **fields, task=trial.task, label=trial.label, seed=trial.seed, error=_why(outcome)[2:] or None
        )

    def message(self, text: str) -> None:
        self._write("message", text=text)

    def finish(self, summary: RunSummary) -> None:
        self._write("summary", **{**asdict(summary), "exit_code": int(summary.exit_code)})


class LiveView:
    """A table that is redrawn in place, one row per running trial; rich honours NO_COLOR by itself."""

    def __init__(self, stream: IO[str], rows: int = 24) -> None:
        from rich.console import Console
        from rich.live import Live

        self.console = Console(file=stream)
        self.live = Live(console=self.console, refresh_per_second=4, transient=True)
        self.rows = rows
        self.drawn = 0.0

    def start(self, state: RunState) -> None:
        self.message(opening(state))
        self.live.start()

    def update(self, state: RunState) -> None:
        now = time.monotonic()
        if now - self.drawn >= 0.25:
            self.drawn = now
            self.live.update(self._table(state))

    def _table(self, state: RunState) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        left = f"{state.rate:.0f} steps/s, {duration(state.elapsed)} gone, {duration(state.eta)} left"
        title = f"{counts(state)}; {left}"
        table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1), expand=True)
        table.add_column("trial", overflow="ellipsis", no_wrap=True, ratio=3)
        table.add_column("seed", justify="right")
        table.add_column("progress", ratio=2, min_width=10)
        table.add_column("step", justify="right", no_wrap=True)
        table.add_column("steps/s", justify="right")
        table.add_column("left", justify="right")
        live = list(state.running.values())
        for trial in live[: self.rows]:
            bar = ProgressBar(total=max(trial.steps, 1), completed=trial.step)
            left = trial.phase if trial.phase != "train" or trial.step >= trial.steps else duration(trial.eta)
            steps = f"{trial.step}/{trial.steps}"
            table.add_row(trial.label, str(trial.seed), bar, steps, f"{trial.rate:.0f}" if trial.rate else "", left)
        if len(live) > self.rows:
            table.add_row(f"and {len(live) - self.rows} more", "", "", "", "", "")
        return table

    def ended(self, state: RunState, trial: Running, outcome: dict[str, Any]) -> None:
        style = {"done": "green", "diverged": "yellow", "failed": "red", "interrupted": "yellow"}[outcome["status"]]
        self.console.print(_end(trial, outcome), style=style, markup=False, highlight=False)

    def message(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False)

    def finish(self, summary: RunSummary) -> None:
        self.live.stop()
        self.message(summary.line())
