"""``ablate run``: plan, confirm, run what is missing. A second call resumes or does nothing."""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from ablate.cli.options import (
    AddressOption,
    CpusPerTrialOption,
    FidelityOption,
    GpusOption,
    GpusPerTrialOption,
    IsolationOption,
    JsonOption,
    MaxConcurrentOption,
    OnlyOption,
    PackOption,
    PlanOption,
    PluginOption,
    RetryOption,
    SeedsOption,
    SetOption,
    SpaceArgument,
    StoreOption,
    TimeLimitOption,
    YesOption,
    ask_to_start,
    launch_settings,
    pack_size,
    seed_list,
    setting,
    store_root,
)
from ablate.errors import AblateError, ExitCode

if TYPE_CHECKING:
    from ablate.launch.options import Retry
    from ablate.space import Plan
    from ablate.store import StorePaths


def run(
    space: SpaceArgument,
    gpus: GpusOption = None,
    gpus_per_trial: GpusPerTrialOption = None,
    cpus_per_trial: CpusPerTrialOption = None,
    store: StoreOption = None,
    fidelity: FidelityOption = None,
    seeds: SeedsOption = None,
    plan: PlanOption = None,
    only: OnlyOption = None,
    set_: SetOption = None,
    plugin: PluginOption = None,
    isolation: IsolationOption = None,
    pack: PackOption = None,
    max_concurrent: MaxConcurrentOption = None,
    max_failures: Annotated[
        str | None, typer.Option(help="Abort when more have failed: 5 or 10%.", show_default=False)
    ] = None,
    retry: RetryOption = None,
    time_limit: TimeLimitOption = None,
    address: AddressOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and stop (the same as `ablate plan`).")
    ] = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Train and measure every trial of SPACE that the store does not hold yet."""
    from ablate.cli import is_the_program
    from ablate.cli import plan as planning
    from ablate.launch import RunOptions, begin, choose_view, run_plan
    from ablate.store import StorePaths

    settings = launch_settings(gpus, gpus_per_trial, cpus_per_trial, isolation, time_limit)
    paths = StorePaths(store_root(store))
    asked = RunOptions(
        **settings, max_concurrent=max_concurrent, max_failures=max_failures, retry=retry, address=address
    )
    ours = is_the_program()  # else a Ray that a mistake leaves behind would not end with the process
    with begin(asked, paths) if ours and not dry_run else contextlib.nullcontext() as begun:
        expanded = planning.expanded(space, fidelity, seed_list(seeds), plan, only, set_, plugin)
        packed = pack_size(setting("pack", pack, expanded.resources.get("pack")))
        expanded.resources["pack"] = packed
        if dry_run:
            return planning.show(expanded, paths, json)
        view = choose_view(as_json=json)
        if json:
            for warning in expanded.warnings:
                view.message(f"warning: {warning}")
        else:
            planning.summary(expanded, paths, asked)
        _heed_budget(expanded, paths, retry)
        ask_to_start(yes or json)
        result = run_plan(expanded, paths, replace(asked, pack=packed), view, begun=begun)
    if not json and result.exit_code == 0:
        from ablate.cli import present

        there = f" --store {shlex.quote(str(store))}" if store else ""
        present.line(f"next: ablate report {shlex.quote(expanded.name)} --html{there}")
    raise typer.Exit(int(result.exit_code))


def _heed_budget(plan: Plan, paths: StorePaths, retry: Retry | None) -> None:
    """Refuse to start more trainings than the space allows. The hours of a budget are counted while a run lasts."""
    most = plan.budget.get("trials")
    if most is None:
        return
    from ablate.launch.agenda import agenda
    from ablate.store import measured, states

    left = sum(task.kind == "train" for task in agenda(plan, states(paths), measured(paths), retry).tasks)
    if left > most:
        raise AblateError(
            f"{plan.name}: {left} trials to run are more than its budget.trials of {most}; raise that or pick fewer "
            "with --only, --plan or --seeds",
            ExitCode.LIMIT,
        )
