"""The queue of a run: what waits, who works at what, what is tried again. No Ray here.

One `Queue` lives in an actor that the driver owns. Slots take from it whatever is next as soon as they are free, so
that none is idle while work waits; what a slot held when it died goes back to the front.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from ablate.launch.attempt import PACK_CAUSES, Task

Work = list[Task]
"""What one process does at once: trainings that are packed together, mostly one; or one evaluation."""

LOOKED_AT: Final = 64
"""Units at the head of the queue among which the longest is looked for."""
HANDFUL: Final = 16
HANDFUL_SECONDS: Final = 0.2
"""So many units are handed out at once, where they are known to take less than this together: a call costs Ray a
millisecond."""


class Queue:
    """Hands out work and decides what an outcome means for it.

    Args:
        tasks: everything to be done, as `Task.to_dict`.
        works: indices into `tasks`, each list for one process, in the order they are started. An evaluation of a
            network that is yet to be trained waits for its training, wherever it stands.
        retries: cause of a failure -> how often a task is tried again for it.
        deaths: how often a task is given to another worker when its own died; -1: always.
        lengths: of the tasks, in any unit; None where nothing is known (see `groups.lengths`).
    """

    def __init__(
        self,
        tasks: Sequence[dict[str, Any]],
        works: Iterable[Sequence[int]],
        retries: Mapping[str, int],
        deaths: int,
        lengths: Sequence[float | None] = (),
    ) -> None:
        every = [Task(**task) for task in tasks]
        self.retries, self.deaths = dict(retries), deaths
        self.trainings = {task.key for task in every if task.kind == "train"}
        self.ready: deque[Work] = deque()
        self.blocked: dict[str, list[Work]] = {}
        for work in ([every[index] for index in indices] for indices in works):
            waits = work[0].kind == "eval" and work[0].key in self.trainings
            (self.blocked.setdefault(work[0].key, []) if waits else self.ready).append(work)
        self.leases: dict[str, list[Work]] = {}
        self.broken: dict[str, Work] = {}
        self.tries: dict[tuple[str, str], int] = {}
        self.died: dict[str, int] = {}
        self.alone: set[str] = set()  # a worker has died with these and others in hand
        self.seconds: dict[tuple[str, str], float] = {}
        self.lengths = {task.id: length for task, length in zip(every, lengths, strict=False) if length is not None}
        self.timed = [0.0, 0.0]  # seconds and lengths of what has ended
        self.idle_deaths = 0
        self._clear()

    def _clear(self) -> None:
        self.started: list[dict[str, Any]] = []
        self.progress: dict[str, dict[str, Any]] = {}
        self.ended: list[dict[str, Any]] = []
        self.retried: list[dict[str, Any]] = []
        self.lost: list[dict[str, Any]] = []

    # --- what a slot says and asks

    def exchange(
        self,
        slot: str,
        ended: Sequence[dict[str, Any]],
        progress: Sequence[dict[str, Any]],
        wants: bool,
        stopping: bool,
    ) -> dict[str, Any]:
        """Take in what has happened in a slot, and give it something to do.

        Args:
            slot: its name.
            ended: outcomes, each with the ``task`` it is of.
            progress: reports of running attempts, each with its ``task``.
            wants: the slot is free and asks for work; what it still has of its last it gives back.
            stopping: the driver has asked for an end: nothing is tried again, nothing is handed out.

        Returns:
            ``works`` to be done one after another, each a list of tasks for one process; ``over`` when nothing will
            come any more.
        """
        for report in progress:
            self.progress[report["task"]] = report
        if ended:
            self.idle_deaths = 0
            self._end(slot, ended, stopping)
        works: list[Work] = []
        if wants:
            self.ready.extendleft(reversed(self.leases.pop(slot, [])))
            if not stopping and self.ready:
                works = self.leases[slot] = self._handful()
                self.started += [{"task": task.id, "packed": len(works[0])} for task in works[0]]
        over = stopping or not (self.ready or self.blocked)
        return {"works": [[task.to_dict() for task in work] for work in works], "over": over}

    def _handful(self) -> list[Work]:
        """What is next; more of it where that is over in no time, and enough is left for the other slots."""
        works = [self._longest()]
        most = min(HANDFUL, len(self.ready) // (2 * len(self.leases) + 2))
        seconds = self._known(works[0])
        while seconds < HANDFUL_SECONDS and len(works) < most:
            work = self._longest()
            seconds += self._known(work)
            if seconds < HANDFUL_SECONDS:
                works.append(work)
            else:
                self.ready.appendleft(work)
        return works

    def _known(self, work: Work) -> float:
        """What a single task took with another seed; infinity for a new one, for a pack, and for what is suspect."""
        task = work[0]
        known = len(work) == 1 and task.id not in self.alone
        return self.seconds.get((task.kind, task.label), math.inf) if known else math.inf

    def _longest(self) -> Work:
        """Of the seed that is next, what is longest: then all slots come to their last end together.

        What nothing is known of comes before, in the order of the queue.
        """
        seed = self.ready[0][0].seed
        costs = [
            sum(map(self._seconds, work)) if work[0].seed == seed else 0.0 for work in islice(self.ready, LOOKED_AT)
        ]
        index = costs.index(max(costs))
        work = self.ready[index]
        del self.ready[index]
        return work

    def _seconds(self, task: Task) -> float:
        """What it took with another seed; else what its length comes to at the speed of what has ended."""
        known = self.seconds.get((task.kind, task.label))
        if known is not None:
            return known
        seconds, length = self.timed
        return self.lengths.get(task.id, math.inf) * (seconds / length if length else 1.0)

    def _end(self, slot: str, ended: Sequence[dict[str, Any]], stopping: bool) -> None:
        again: list[Work] = []
        for outcome in ended:
            task = self._give_back(slot, outcome["task"])
            if task is None:
                continue
            if outcome["status"] == "failed":
                if outcome["packed"] > 1 and outcome["cause"] in PACK_CAUSES:
                    if not stopping:
                        self.broken.setdefault(slot, []).append(task)
                        self.retried.append(outcome)
                        continue
                    outcome = {**outcome, "status": "interrupted"}  # of no member's doing: the next run goes on
                elif not stopping and self._once_more(task, outcome["cause"]):
                    again.append([task])
                    self.retried.append(outcome)
                    continue
            self.ended.append(outcome)
            self.progress.pop(task.id, None)
            if outcome["status"] == "done":
                seconds = outcome["wall_seconds"] / outcome["packed"]
                self.seconds[task.kind, task.label] = seconds
                if length := self.lengths.get(task.id):
                    self.timed = [self.timed[0] + seconds, self.timed[1] + length]
            if task.kind == "train":
                waiting = self.blocked.pop(task.key, [])
                again += waiting if outcome["status"] == "done" else []
        if slot not in self.leases:  # the last member has spoken
            again += _halves(self.broken.pop(slot, []))
        self.ready.extendleft(reversed(again))

    def _give_back(self, slot: str, name: str) -> Task | None:
        works = self.leases.get(slot, [])
        found = next(((work, task) for work in works for task in work if task.id == name), None)
        if found is None:
            return None
        work, task = found
        work.remove(task)
        if not work:
            works.remove(work)
        if not works:
            del self.leases[slot]
        return task

    def _once_more(self, task: Task, cause: str) -> bool:
        used = self.tries.get((task.id, cause), 0)
        self.tries[task.id, cause] = used + 1
        allowed = self.retries.get(cause, 0)
        return allowed < 0 or used < allowed

    # --- what the driver says and asks

    def release(self, slot: str, error: str) -> dict[str, Any]:
        """A slot's worker has died: what it held is handed out again, or is lost when that happens too often."""
        self.idle_deaths += slot not in self.leases
        self._abandon(slot, error)
        return self.news()

    def _abandon(self, slot: str, error: str) -> None:
        held, again = self.leases.pop(slot, []), self.broken.pop(slot, [])
        if len(held) > 1:  # nobody knows which one it was: next time each has a worker to itself
            self.alone.update(task.id for work in held for task in work)
            self.ready.extendleft(reversed(held))
            return
        work = held[0] if held else []
        for task in work:
            self.died[task.id] = self.died.get(task.id, 0) + (len(work) == 1)
            if self.deaths < 0 or self.died[task.id] <= self.deaths:
                again.append(task)
            else:
                self.lost.append({"task": task.id, "error": error})
                if task.kind == "train":
                    self.blocked.pop(task.key, None)
        self.ready.extendleft(reversed(_halves(again)))

    def news(self) -> dict[str, Any]:
        """What has happened since the last call.

        Returns:
            started: ``{task, packed}`` of everything that was handed out; `packed` trainings share a process.
            progress: the newest report of each running task.
            ended: final outcomes, each with its ``task``; retried: those of attempts at tasks that are tried once more.
            lost: ``{task, error}`` of tasks whose workers have died too often.
            ready, held: units that wait, and that slots work at; `left` counts these and the evaluations that wait for
            a training. `idle_deaths`: workers that died in a row with nothing in hand.
        """
        found = {"started": self.started, "progress": [*self.progress.values()], "ended": self.ended}
        found |= {"retried": self.retried, "lost": self.lost}
        self._clear()
        ready, held = len(self.ready), sum(map(len, self.leases.values()))
        left = ready + held + sum(map(len, self.blocked.values()))
        return {**found, "ready": ready, "held": held, "left": left, "idle_deaths": self.idle_deaths}


def _halves(work: Work) -> list[Work]:
    """A pack that broke, as two packs of half its size; a single task as it is."""
    middle = (len(work) + 1) // 2
    return [part for part in (work[:middle], work[middle:]) if part]
