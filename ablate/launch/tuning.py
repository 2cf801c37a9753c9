"""Ray Tune as the scheduler of slots: it places long-lived workers, which take trials from the run's queue."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import ray
from ray import tune
from ray.tune.search import Searcher
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ablate.errors import ClusterError
from ablate.launch.options import Placement
from ablate.launch.queue import Queue
from ablate.launch.runners import SlotSettings
from ablate.launch.slots import open_slot

BRISK_SECONDS = 5.0
"""What a slot costs a core before it does anything."""
MOST_SLOTS = 10**6
"""Tune wants to know how many trials there will be; how many slots are started is decided as the run goes on."""


class Monitor(Protocol):
    """What the driver wants to know while Tune runs; all calls come from the thread that called `fit`."""

    def begun(self) -> None:
        """Tune is about to start slots."""

    def report(self, news: dict[str, Any]) -> None:
        """What has happened since the last call: `Queue.news`."""

    def tick(self) -> None:
        """Called several times a second."""

    def over(self) -> bool:
        """True ends the run: nothing new is started."""


def fit(
    queue: Sequence[Any],
    settings: SlotSettings,
    placement: Placement,
    monitor: Monitor,
    scratch: Path,
    at_once: int,
) -> None:
    """Work through a queue to its end, or until the monitor says that it is over. Needs a connected Ray.

    Args:
        queue: arguments of `Queue`; it lives in an actor beside the driver and dies with it.
        settings: for the slots.
        placement: resources of a slot and how many there may be.
        monitor: told of everything.
        scratch: Tune's folder; nothing in it is needed afterwards.
        at_once: how many slots may be starting at the same time: each imports Ray Tune, seconds of a core.

    Raises:
        ClusterError: workers die before they can do anything, or the queue's process was killed.
    """
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(placement.slots)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(num_cpus=0)(Queue).options(scheduling_strategy=here).remote(*queue)
    try:
        slots = _Slots(actor, placement.slots, at_once, monitor)
        trainable = tune.with_parameters(TrialSlot, settings=settings.to_dict(), queue=actor)
        resources = {"CPU": placement.cpus_per_trial, "GPU": placement.gpus_per_trial}
        tune.Tuner(
            tune.with_resources(trainable, {name: amount for name, amount in resources.items() if amount}),
            tune_config=tune.TuneConfig(
                search_alg=_Search(slots),
                num_samples=MOST_SLOTS,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(scratch),
                stop=_Stop(slots.over),
                callbacks=[_Callback(slots)],
                verbose=0,
            ),
        ).fit()
    finally:
        ray.kill(actor)
    slots.check()


class TrialSlot(tune.Trainable):
    """Tune's view of a slot. ``config`` is ``{"slot": its name}``."""

    def setup(self, config: dict[str, Any], settings: dict[str, Any] | None = None, queue: Any = None) -> None:
        """`settings` and `queue` come from ``tune.with_parameters``."""
        assert settings is not None
        self.slot = open_slot(config["slot"], SlotSettings.from_dict(settings), _Remote(queue))

    def step(self) -> dict[str, Any]:
        return {"done": self.slot.step()}

    def cleanup(self) -> None:
        self.slot.close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the trainer keeps its own checkpoints in the store."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: the trainer resumes from its own checkpoints in the store."""


class _Remote:
    """The queue, seen from a slot."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def exchange(self, *arguments: Any) -> dict[str, Any]:
        reply: dict[str, Any] = ray.get(self.actor.exchange.remote(*arguments))
        return reply


class _Slots:
    """Which slots there are, and whether one more is wanted."""

    def __init__(self, actor: Any, most: int, at_once: int, monitor: Monitor) -> None:
        self.actor, self.most, self.at_once, self.monitor = actor, most, at_once, monitor
        self.live: set[str] = set()
        self.starting: set[str] = set()
        self.error = ""
        self.since = 0.0
        self.done = 0
        self.news = self._ask("news")

    def _ask(self, method: str, *arguments: Any) -> dict[str, Any]:
        try:
            news: dict[str, Any] = ray.get(getattr(self.actor, method).remote(*arguments))
        except ray.exceptions.RayActorError as error:
            what = "the process that held the run's queue was killed; the same command continues"
            raise ClusterError(what) from error
        return news

    def wanted(self) -> bool:
        """One more, as long as more work waits than slots are about to come for it."""
        room = len(self.live) < self.most and len(self.starting) < self.at_once
        return (
            room and self.news["ready"] > len(self.starting) and not (len(self.live) >= self.at_once and self.brisk())
        )

    def brisk(self) -> bool:
        """Work is done faster than a slot starts: one more would take from the others what it costs to start."""
        worked = time.monotonic() - self.since if self.since else 0.0
        return worked < BRISK_SECONDS or worked * len(self.live) < BRISK_SECONDS * self.done

    def finished(self) -> bool:
        """No slot will be wanted any more."""
        return self.over() or (not self.live and not self.news["ready"])

    def over(self) -> bool:
        return self.hopeless() or self.monitor.over()

    def hopeless(self) -> bool:
        """Every worker dies before it takes anything: there is no point in starting more."""
        return bool(self.news["idle_deaths"] >= 2 + min(self.most, self.at_once))

    def check(self) -> None:
        """Raises ClusterError where there was no point in going on."""
        if self.hopeless():
            raise ClusterError(f"workers die before they take any work: {self.error}; `ablate doctor` may know why")

    def add(self, name: str) -> None:
        self.live.add(name)
        self.starting.add(name)

    def up(self, name: str) -> None:
        self.since = self.since or time.monotonic()
        self.starting.discard(name)

    def ended(self, name: str) -> None:
        self.live.discard(name)
        self.starting.discard(name)

    def died(self, name: str, error: str) -> None:
        self.ended(name)
        self.error = error
        self.hear(self._ask("release", name, error))

    def hear(self, news: dict[str, Any] | None = None) -> None:
        self.news = self._ask("news") if news is None else news
        self.done += len(self.news["ended"])
        self.monitor.report(self.news)


class _Ours:
    """Tune pickles its own configuration to disk, to be restored some day; what watches it stays in this process."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, _: Any) -> Any:
        return self


class _Search(_Ours, Searcher):
    """Tune asks a searcher for trials: this one answers with slots, one after another as work waits for them."""

    def __init__(self, slots: _Slots) -> None:
        super().__init__()
        self._slots = slots

    def suggest(self, trial_id: str) -> Any:
        if self._slots.finished():
            return Searcher.FINISHED
        if not self._slots.wanted():
            return None
        self._slots.add(trial_id)
        return {"slot": trial_id}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._slots.ended(trial_id)

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing is restored: the store is."""


class _Stop(_Ours, tune.Stopper):
    def __init__(self, over: Callable[[], bool]) -> None:
        self._over = over

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._over()


class _Callback(_Ours, tune.Callback):
    def __init__(self, slots: _Slots) -> None:
        self._slots = slots

    def setup(
        self,
        stop: tune.Stopper | None = None,
        num_samples: int | None = None,
        total_num_samples: int | None = None,
        **info: Any,
    ) -> None:
        self._slots.monitor.begun()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._slots.up(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._slots.died(trial.trial_id, str(trial.get_error()).strip().rpartition("\n")[2])

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        self._slots.hear()
        self._slots.monitor.tick()
