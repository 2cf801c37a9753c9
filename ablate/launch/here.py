"""Slots of this machine without Ray: threads of the driver, each of which works through the run's queue.

What they start are processes, forked from the driver's warm one as everywhere. For these Ray would be started, and
import itself in three processes more, only to hold a queue and to say which slot may work: a dozen CPU seconds before
the first step. Ray Tune places the slots of clusters (``--address``; ``local`` is a private one) and of ``isolation:
actor``.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ablate.launch.forkserver import WarmProcess, begin_warm_process
from ablate.launch.options import Placement, RunOptions, asked_for, times
from ablate.launch.pool import Monitor, Pool
from ablate.launch.queue import Queue
from ablate.launch.runners import SlotSettings
from ablate.launch.slots import Slot, open_slot

BRISK_SECONDS = 0.5
"""Slots beyond the number of cores are started for work that takes longer than this."""
LISTEN_SECONDS = 0.02
"""How often the driver looks at what slots have said, at most: in between they work."""
TICK_SECONDS = 0.2
LEAVE_SECONDS = 1.0
"""How long the driver waits for slots to end; what still works then ends with the warm process."""


def suffice(options: RunOptions) -> bool:
    """Whether slots of this machine can do the run: no Ray is asked for, and each piece of work is a process."""
    # LEAD, 16:25, to whoever wrote this: Ray Tune places every run; the user chose it, and "libraries beat our own code,
    # even if slower". Please take this module out again (keep what is good without it: warming while the plan is made
    # and while Ray starts, `pool.py` where `tuning.py` uses it, cheaper attempts), and win the time elsewhere.
    return False
    ray = sys.modules.get("ray")
    connected = ray is not None and getattr(ray, "is_initialized", bool)()  # a notebook's, a test's: it is used
    return asked_for(options) is None and options.isolation == "process" and not connected


@contextlib.contextmanager
def warming(options: RunOptions) -> Iterator[WarmProcess | None]:
    """Let another core import torch while this one makes the plan; None where that would not help.

    Of `options` those count that say where work is done, and the cores of a trial. `run_plan` takes what is yielded.
    """
    if not suffice(options) or cores() < 2:
        yield None
        return
    begun = begin_warm_process(max(1, math.floor(options.cpus_per_trial or 1.0)))
    try:
        yield begun
    finally:
        begun.close()


def cores() -> int:
    """Cores that this process may use: not more than its affinity and its container's quota leave it."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        count = min(count, max(int(int(quota) / int(period)), 1))  # "max" is no number: there is no quota
    return count


def devices(options: RunOptions) -> list[dict[str, str]]:
    """The variables that make a process see one of this machine's GPUs, for each of those that this one sees."""
    if options.logical_gpus is not None:
        return [{"CUDA_VISIBLE_DEVICES": str(number)} for number in range(options.logical_gpus)]
    import torch

    name = "HIP_VISIBLE_DEVICES" if torch.version.hip else "CUDA_VISIBLE_DEVICES"
    count = torch.cuda.device_count()
    seen = [part.strip() for part in os.environ.get(name, "").split(",") if part.strip()]
    return [{name: number} for number in (seen or map(str, range(count)))][:count]


def seats(gpus: Sequence[Mapping[str, str]], share: float, most: float | None) -> list[Mapping[str, str]]:
    """Which GPU each slot works at: one after another all of the first `most`, then again while they have room."""
    used = gpus if most is None else gpus[: math.ceil(most)]
    return [gpu for _ in range(times(1.0, share)) for gpu in used] if share else []


def node(options: RunOptions, gpus: int) -> dict[str, float]:
    """This machine as `options.place` wants it described."""
    return {"CPU": float(options.local_cpus or cores()), "GPU": float(gpus)}


def work(
    queue: Sequence[Any],
    settings: SlotSettings,
    placement: Placement,
    monitor: Monitor,
    at_once: int,
    places: Sequence[Mapping[str, str]] = (),
) -> None:
    """Work through a queue to its end, or until the monitor says that it is over; as `tuning.fit` does.

    Args:
        queue: arguments of `Queue`.
        places: `seats`; slots on CPUs need none.

    Raises:
        ClusterError: slots fail before they can do anything.
    """
    desk = _Desk(Queue(*queue))
    crew = _Crew(desk, settings, places)
    pool = Pool(desk.ask, placement.slots, at_once, BRISK_SECONDS, monitor)
    monitor.begun()
    ticked = 0.0
    try:
        while not pool.finished():
            while pool.wanted() and not pool.over():
                name = crew.start()
                pool.add(name)
                pool.up(name)
            desk.changed.wait(TICK_SECONDS)
            time.sleep(LISTEN_SECONDS)
            desk.changed.clear()
            for name, error in crew.gone():
                if error is None:
                    pool.ended(name)
                else:
                    pool.died(name, error)
            pool.hear()
            if time.monotonic() - ticked > TICK_SECONDS:
                ticked = time.monotonic()
                monitor.tick()
    finally:
        desk.close()
        crew.leave()
    pool.check()


class _Desk:
    """The run's queue, of which one slot at a time takes.

    Attributes:
        changed: set whenever a slot has said something.
    """

    def __init__(self, queue: Queue) -> None:
        self.queue, self.lock, self.changed, self.closed = queue, threading.Lock(), threading.Event(), False

    def exchange(
        self,
        slot: str,
        ended: Sequence[dict[str, Any]],
        progress: Sequence[dict[str, Any]],
        wants: bool,
        stopping: bool,
    ) -> dict[str, Any]:
        with self.lock:
            reply = self.queue.exchange(slot, ended, progress, wants, stopping or self.closed)
        self.changed.set()
        return reply

    def ask(self, method: str, *arguments: Any) -> dict[str, Any]:
        with self.lock:
            found: dict[str, Any] = getattr(self.queue, method)(*arguments)
        return found

    def close(self) -> None:
        """From now on there is no work."""
        self.closed = True


class _Crew:
    """The threads, and which GPU each works at."""

    def __init__(self, desk: _Desk, settings: SlotSettings, places: Sequence[Mapping[str, str]]) -> None:
        self.desk, self.settings, self.free = desk, settings, list(places)
        self.threads: dict[str, threading.Thread] = {}
        self.taken: dict[str, Mapping[str, str]] = {}
        self.errors: dict[str, str] = {}
        self.count = 0

    def start(self) -> str:
        self.count += 1
        name = f"here-{self.count}"
        self.taken[name] = self.free.pop(0) if self.free else {}
        thread = threading.Thread(target=self._work, args=(name,), name=name, daemon=True)
        self.threads[name] = thread
        thread.start()
        return name

    def _work(self, name: str) -> None:
        slot: Slot | None = None
        try:
            slot = open_slot(name, self.settings, self.desk, self.taken[name])
            while not slot.step():
                pass
        except Exception as error:
            self.errors[name] = f"{type(error).__name__}: {error}"
        finally:
            with contextlib.suppress(Exception):
                if slot is not None:
                    slot.close()
            self.desk.changed.set()

    def gone(self) -> Iterator[tuple[str, str | None]]:
        """Slots that have ended since the last call, and what ended them; None: there was nothing left to do."""
        for name in [name for name, thread in self.threads.items() if not thread.is_alive()]:
            del self.threads[name]
            if seat := self.taken.pop(name):
                self.free.insert(0, seat)
            yield name, self.errors.pop(name, None)

    def leave(self) -> None:
        """Wait for those that have nothing left to do."""
        deadline = time.monotonic() + LEAVE_SECONDS
        for thread in self.threads.values():
            thread.join(max(deadline - time.monotonic(), 0.0))
