"""``ablate run``: plan, confirm, run what is missing. A second call resumes or does nothing."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Annotated

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
        if not json:
            planning.summary(expanded, paths)
        ask_to_start(yes or json)
        options = replace(asked, pack=packed)
        result = run_plan(expanded, paths, options, choose_view(as_json=json), begun=begun)
    if not json and result.exit_code == 0:
        from ablate.cli import present

        present.line(f"next: ablate report {expanded.name} --html")
    raise typer.Exit(int(result.exit_code))
