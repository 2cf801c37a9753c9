"""What a person may ask of a run, and what a run says at its end. No Ray here: `ablate --help` may import it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ablate.errors import AblateError, ClusterError, ExitCode

Isolation = Literal["process", "actor"]
Pack = int | Literal["auto"]
Retry = Literal["failed", "oom", "crash", "all"]


@dataclass(frozen=True)
class RunOptions:
    """Flags of ``ablate run``. ``None`` means: what the space says, then what the cluster has.

    Attributes:
        gpus: cap of GPUs in use at once; 0 runs on CPU; ``None``: all of the cluster.
        gpus_per_trial: share of a GPU one trial takes; a fraction is Ray's bookkeeping, memory is not divided.
        cpus_per_trial: CPU cores one trial takes, and its torch threads.
        max_concurrent: cap of trials running at once, whatever the resources.
        isolation: ``process``: every attempt in a fresh process forked from a warm server, so a crash ends the attempt
            alone; ``actor``: in the worker itself.
        pack: trainings of equal shapes that share a process, at most N; ``auto``: as many as help and leave no slot
            idle; ``None``: what the space says, then ``auto``.
        max_failures: abort (exit code 5) once MORE trials than this have failed: a count, or ``"10%"`` of the plan.
        retry: train again what an earlier run left as failed; ``oom`` and ``crash`` only those.
        address: an existing Ray cluster (``RAY_ADDRESS`` is honoured); ``None``: a private one on this machine.
        local_cpus: CPUs the private cluster offers; ``None``: what the machine has.
        logical_gpus: GPUs the private cluster pretends to have (tests); ``None``: what the machine has.
        time_limit: seconds after which running trials checkpoint and stop (exit code 4).
        stop_grace: seconds a running trial gets to checkpoint after a stop was asked.
        plugins: modules with components that workers import, beside those the plan was read with.
        ship_code: send ablate, ablate_core and the plug-ins to the workers; ``None``: only to a cluster elsewhere.
        report_seconds: a running trial reports its progress at most this often.
        ingest_seconds: the driver ingests journals and publishes a snapshot at most this often.
    """

    gpus: float | None = None
    gpus_per_trial: float | None = None
    cpus_per_trial: float | None = None
    max_concurrent: int | None = None
    isolation: Isolation = "process"
    pack: Pack | None = None
    max_failures: int | str | None = None
    retry: Retry | None = None
    address: str | None = None
    local_cpus: int | None = None
    logical_gpus: int | None = None
    time_limit: float | None = None
    stop_grace: float = 60.0
    plugins: Sequence[str] = ()
    ship_code: bool | None = None
    report_seconds: float = 2.0
    ingest_seconds: float = 5.0

    def __post_init__(self) -> None:
        """Raises AblateError for a number out of range."""
        _positive("--cpus-per-trial", self.cpus_per_trial)
        _positive("--max-concurrent", self.max_concurrent)
        _positive("--time-limit", self.time_limit)
        if self.gpus is not None and self.gpus < 0:
            raise AblateError(f"--gpus is the number of GPUs to use at once, at least 0, got {self.gpus:g}")
        if self.gpus_per_trial is not None and not 0 <= self.gpus_per_trial <= 1:
            raise AblateError(
                f"--gpus-per-trial is a share of one GPU in [0, 1], got {self.gpus_per_trial:g}; "
                "a trial over several GPUs does not exist yet"
            )
        self.failure_limit(1)
        if self.pack != "auto" and self.pack is not None and self.pack < 1:
            raise AblateError(f"--pack is auto or the most trials that share a process, at least 1, got {self.pack}")

    def failure_limit(self, trials: int) -> float:
        """Failed trials that are tolerated among `trials`; infinity without ``max_failures``.

        Raises:
            AblateError: ``max_failures`` is neither a count nor a percentage.
        """
        limit = self.max_failures
        if limit is None:
            return math.inf
        text = str(limit).strip()
        try:
            value = float(text.removesuffix("%"))
        except ValueError:
            value = -1.0
        if value < 0 or (text.endswith("%") and value > 100) or (not text.endswith("%") and value != int(value)):
            raise AblateError(f"--max-failures is a count or a percentage, such as 5 or 10%, got {limit!r}")
        return math.floor(value / 100 * trials + 1e-9) if text.endswith("%") else value


def elsewhere(options: RunOptions) -> str | None:
    """The address of a Ray cluster that was not started for this run; None where a private one is."""
    return options.address or os.environ.get("RAY_ADDRESS") or None


def _positive(flag: str, value: float | None) -> None:
    if value is not None and not value > 0:
        raise AblateError(f"{flag} must be above 0, got {value:g}")


@dataclass(frozen=True)
class Placement:
    """What one trial takes and how many run at once."""

    cpus_per_trial: float
    gpus_per_trial: float
    slots: int

    @property
    def threads(self) -> int:
        """Torch threads of one trial."""
        return max(1, math.floor(self.cpus_per_trial))


def place(options: RunOptions, wanted_cpus: float, wanted_gpus: float, nodes: Sequence[dict[str, float]]) -> Placement:
    """How trials are placed on a cluster.

    Args:
        options: the flags; they win over the space.
        wanted_cpus: cores per trial the space asks for, 0 when it does not.
        wanted_gpus: GPUs per trial the space asks for, 0 when it does not.
        nodes: Ray resources of every living node, such as ``{"CPU": 2.0, "GPU": 0.0}``.

    Raises:
        ClusterError: more GPUs are asked than the cluster has, or no node can hold one trial.
    """
    have_gpus = sum(node.get("GPU", 0.0) for node in nodes)
    cpus = options.cpus_per_trial or wanted_cpus or 1.0
    if options.gpus is not None and options.gpus > have_gpus:
        raise ClusterError(
            f"--gpus {options.gpus:g} asks for {options.gpus:g} GPUs but the cluster has {have_gpus:g}; "
            "lower --gpus or join more nodes"
        )
    gpus = options.gpus_per_trial
    if gpus is None:
        gpus = wanted_gpus or (1.0 if have_gpus and options.gpus != 0 else 0.0)
        gpus = 0.0 if options.gpus == 0 else gpus
    if gpus > 1:
        raise ClusterError(f"the space asks for {gpus:g} GPUs per trial; a trial over several GPUs does not exist yet")
    if gpus > have_gpus:
        raise ClusterError(
            f"one trial asks for {gpus:g} GPU but the cluster has {have_gpus:g}; "
            "run with --gpus 0 for CPU or join a GPU node"
        )
    if options.gpus is not None and 0 < options.gpus < gpus:
        raise ClusterError(f"--gpus {options.gpus:g} is less than the {gpus:g} one trial takes; lower --gpus-per-trial")
    slots = sum(_node_slots(node, cpus, gpus) for node in nodes)
    if slots == 0:
        most = max((node.get("CPU", 0.0) for node in nodes), default=0.0)
        raise ClusterError(
            f"one trial asks for {cpus:g} CPUs and {gpus:g} GPU, more than any node has (most CPUs: {most:g}); "
            "lower --cpus-per-trial"
        )
    if gpus and options.gpus is not None:
        slots = min(slots, _times(options.gpus, gpus))
    if options.max_concurrent is not None:
        slots = min(slots, options.max_concurrent)
    return Placement(cpus, gpus, slots)


def _node_slots(node: dict[str, float], cpus: float, gpus: float) -> int:
    slots = _times(node.get("CPU", 0.0), cpus)
    if gpus:  # a fraction never spans two GPUs: each holds floor(1 / fraction) trials
        slots = min(slots, int(node.get("GPU", 0.0)) * _times(1.0, gpus))
    return slots


def _times(total: float, part: float) -> int:
    return math.floor(total / part + 1e-9)  # 0.3 / 0.1 is 2.999...: count it as three


@dataclass(frozen=True)
class RunSummary:
    """How a run ended, counted in tasks: trainings, each with the evaluation it ends with, and further evaluations.

    Every planned task is in exactly one of the counts: `skipped` is in the store already, `waiting` was not started,
    `dropped` is an evaluation of a network whose training failed or diverged.
    """

    done: int = 0
    diverged: int = 0
    failed: int = 0
    interrupted: int = 0
    skipped: int = 0
    waiting: int = 0
    dropped: int = 0
    wall_seconds: float = 0.0
    startup_seconds: float = 0.0
    exit_code: ExitCode = ExitCode.COMPLETE
    reason: str = ""
    failures: Sequence[dict[str, Any]] = field(default_factory=tuple)

    def line(self) -> str:
        """The one line a terminal shows at the end."""
        counts = [
            f"{count} {word}"
            for word, count in [
                ("done", self.done),
                ("diverged", self.diverged),
                ("failed", self.failed),
                ("interrupted", self.interrupted),
                ("waiting", self.waiting),
                ("not evaluated", self.dropped),
                ("already in the store", self.skipped),
            ]
            if count
        ]
        tail = f"; {self.reason}" if self.reason else ""
        return f"{', '.join(counts) or 'nothing to do'} in {self.wall_seconds:.0f} s{tail}"
