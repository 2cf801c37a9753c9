"""Ray Tune as the scheduler: a `Tuner` over a prebuilt list of trials, never over a search space."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from ray import tune

from ablate.launch.attempt import Task
from ablate.launch.options import Placement
from ablate.launch.slots import SlotSettings, TrialSlot


class Monitor(Protocol):
    """What the driver wants to know while Tune runs; all calls come from the thread that called `fit`."""

    def begun(self) -> None:
        """Tune is about to start trials."""

    def report(self, slot: str, result: dict[str, Any]) -> None:
        """A slot has reported progress and ended attempts."""

    def lost(self, slot: str, chunk: list[int], error: str) -> None:
        """A worker died and Tune gave the chunk up."""

    def tick(self) -> None:
        """Called several times a second."""

    def over(self) -> bool:
        """True ends the run: nothing new is started."""


def fit(
    tasks: Sequence[Task],
    chunks: Sequence[Sequence[int]],
    settings: SlotSettings,
    placement: Placement,
    monitor: Monitor,
    scratch: Path,
    worker_retries: int,
) -> None:
    """Run the chunks of tasks to their end, or until the monitor says that it is over. Needs a connected Ray.

    Args:
        tasks: everything to be done.
        chunks: indices into `tasks`; each chunk is one Tune trial, run in order.
        settings: for the slots.
        placement: resources of a trial and how many run at once.
        monitor: told of everything.
        scratch: Tune's folder; nothing in it is needed afterwards.
        worker_retries: how often a chunk is given to another worker when its own died.
    """
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(placement.slots)
    table = [task.to_dict() for task in tasks]
    trainable = tune.with_parameters(TrialSlot, settings=settings.to_dict(), tasks=table)
    resources = {"CPU": placement.cpus_per_trial, "GPU": placement.gpus_per_trial}
    tune.Tuner(
        tune.with_resources(trainable, {name: amount for name, amount in resources.items() if amount}),
        param_space={"chunk": tune.grid_search([list(chunk) for chunk in chunks])},
        tune_config=tune.TuneConfig(
            reuse_actors=True,
            max_concurrent_trials=placement.slots,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(scratch),
            stop=_Stop(monitor.over),
            callbacks=[_Callback(monitor)],
            failure_config=tune.FailureConfig(max_failures=worker_retries),
            verbose=0,
        ),
    ).fit()


class _Ours:
    """Tune pickles its own configuration to disk, to be restored some day; what watches it stays in this process."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, _: Any) -> Any:
        return self


class _Stop(_Ours, tune.Stopper):
    def __init__(self, over: Callable[[], bool]) -> None:
        self._over = over

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._over()


class _Callback(_Ours, tune.Callback):
    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def setup(
        self,
        stop: tune.Stopper | None = None,
        num_samples: int | None = None,
        total_num_samples: int | None = None,
        **info: Any,
    ) -> None:
        self._monitor.begun()

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        self._monitor.report(trial.trial_id, result)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        error = trial.get_error()
        self._monitor.lost(trial.trial_id, trial.config["chunk"], str(error).strip().rpartition("\n")[2])

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        self._monitor.tick()
