"""Ray Tune as the scheduler of slots: it places long-lived workers, which take trials from the run's queue."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ablate.errors import ClusterError
from ablate.launch.options import Placement
from ablate.launch.pool import Monitor, Pool
from ablate.launch.queue import Queue
from ablate.launch.runners import SlotSettings
from ablate.launch.slots import open_slot

LISTEN_SECONDS = 0.2
"""How often the driver asks what has happened; Tune's loop turns a hundred times a second, which trains nothing."""
MOST_SLOTS = 10**6
"""Tune wants to know how many trials there will be; how many slots are started is decided as the run goes on."""


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
        slots = Pool(_Asked(actor), placement.slots, at_once, monitor)
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
        slots.hear()  # of what has ended since
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


class _Asked:
    """The queue, seen from the driver."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def __call__(self, method: str, *arguments: Any) -> dict[str, Any]:
        try:
            news: dict[str, Any] = ray.get(getattr(self.actor, method).remote(*arguments))
        except ray.exceptions.RayActorError as error:
            what = "the process that held the run's queue was killed; the same command continues"
            raise ClusterError(what) from error
        return news


class _Ours:
    """Tune pickles its own configuration to disk, to be restored some day; what watches it stays in this process."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, _: Any) -> Any:
        return self


class _Search(_Ours, Searcher):
    """Tune asks a searcher for trials: this one answers with slots, one after another as work waits for them."""

    def __init__(self, slots: Pool) -> None:
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
        self._slots.hear()  # or another slot would be started for what this one has done

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
    def __init__(self, slots: Pool) -> None:
        self._slots, self._heard = slots, 0.0

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
        if time.monotonic() - self._heard >= LISTEN_SECONDS:
            self._slots.hear()
            self._slots.monitor.tick()
            self._heard = time.monotonic()
