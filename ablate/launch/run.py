"""`run_plan`: plan in, finished study out. While a run lasts it is the only writer of the store's index."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ablate.errors import AblateError, StoreError
from ablate.launch import agenda as agendas
from ablate.launch.attempt import EVALUATOR, TRAINER, Task
from ablate.launch.driver import Driver, Job
from ablate.launch.options import RunOptions, RunSummary, elsewhere
from ablate.launch.view import RunView, choose_view
from ablate.store.journal import Journal
from ablate.store.record import record_plan
from ablate_core import plugins

if TYPE_CHECKING:
    from ablate.launch.early import Early
    from ablate.space.plan import Plan
    from ablate.store.paths import StorePaths
    from ablate_core.datasets import Dataset
    from ablate_core.objective import Objective


def run_plan(
    plan: Plan,
    paths: StorePaths,
    options: RunOptions | None = None,
    view: RunView | None = None,
    *,
    trainer: str = TRAINER,
    evaluator: str = EVALUATOR,
    record: Callable[[Journal, Plan], object] = record_plan,
    begun: Early | None = None,
) -> RunSummary:
    """Run what the store does not hold yet of a plan, and return how it ended. Idempotent.

    A trial that any study has finished is not trained again; one that lacks only numbers is evaluated alone; an
    interrupted one goes on from its checkpoint. The first Ctrl-C lets running trials checkpoint, the second kills them.

    Args:
        plan: the expanded space.
        paths: the store.
        options: flags.
        view: who watches; ``None`` chooses by the terminal.
        trainer, evaluator: ``module:function`` with the signatures of `ablate_core.trainer.train` and
            `ablate_core.evaluation.evaluate_checkpoint`.
        record: writes the plan into the journal.
        begun: what `early.begin` has begun while the plan was made.

    Raises:
        ClusterError: the cluster cannot run the plan as asked.
        StoreError: another run holds the store, or it cannot be used.
        AblateError: an option out of range, or a plug-in that cannot be used.
    """
    from ablate.store.ingest import Ingester
    from ablate.store.read import measured, states

    options = _with_plugins(options or RunOptions(), plan.plugins)
    view = view or choose_view()
    agendas.check_resources(plan.resources)
    started = time.monotonic()
    if not elsewhere(options):
        configs = [trial.config for trial in plan.trials]
        _preflight({config.data for config in configs} | {config.objective for config in configs})
    with Ingester(paths) as ingester, Journal(paths, "driver") as journal:
        record(journal, plan)
        ingester.ingest()
        todo = agendas.agenda(plan, states(paths), measured(paths), options.retry)
        job = Job(plan.name, todo, len(plan.evaluations), len(plan.trials), plan.resources, plan.budget, started)
        return _drive(Driver(job, paths, options, view, ingester, journal, begun), trainer, evaluator)


def run_evaluations(
    name: str,
    tasks: Sequence[Task],
    skipped: Sequence[str],
    paths: StorePaths,
    options: RunOptions | None = None,
    view: RunView | None = None,
    *,
    evaluator: str = EVALUATOR,
) -> RunSummary:
    """Evaluate trained networks of a store as `run_plan` does, and train nothing.

    Args:
        name: what the run is called where people look.
        tasks: evaluations (see `evaluate.asked`).
        skipped: keys of the trials of evaluations that the store has.

    Raises:
        AblateError: as `run_plan`.
    """
    from ablate.store.ingest import Ingester

    options, view = _with_plugins(options or RunOptions(), ()), view or choose_view()
    job = Job(name, agendas.Agenda(tuple(tasks), tuple(skipped), ()), len(tasks) + len(skipped), len(tasks))
    with Ingester(paths) as ingester, Journal(paths, "driver") as journal:
        ingester.ingest()
        return _drive(Driver(job, paths, options, view, ingester, journal), TRAINER, evaluator)


def _drive(driver: Driver, trainer: str, evaluator: str) -> RunSummary:
    try:
        if driver.order:
            driver.run(trainer, evaluator)
    except BaseException:
        with contextlib.suppress(StoreError):  # on a full disk, say: the first error is what is told
            _publish(driver)
        raise
    _publish(driver)
    summary = driver.summary()
    driver.view.finish(summary)
    return summary


def _publish(driver: Driver) -> None:
    driver.ingester.ingest()
    driver.ingester.publish_snapshot()


def _with_plugins(options: RunOptions, of_space: Sequence[str]) -> RunOptions:
    """The options with every plug-in of the run, all of them loaded here: what is shipped is what was imported."""
    named = tuple(dict.fromkeys([*of_space, *options.plugins]))
    try:
        plugins.load(named)
    except plugins.PluginError as error:
        raise AblateError(str(error)) from None
    return replace(options, plugins=named)


def _preflight(needed: Iterable[Dataset | Objective]) -> None:
    """Refuse files that are not on this machine before Ray is started; a cluster elsewhere may have its own folders."""
    for part in needed:
        try:
            part.preflight()
        except ValueError as error:
            raise AblateError(str(error)) from None
