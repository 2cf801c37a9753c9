"""``ablate run``: plan, confirm, run what is missing. A second call resumes or does nothing."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import typer

from ablate.cli.options import (
    FidelityOption,
    JsonOption,
    OnlyOption,
    PlanOption,
    PluginOption,
    SeedsOption,
    SetOption,
    SpaceArgument,
    StoreOption,
    seed_list,
    setting,
    store_root,
)


def run(
    space: SpaceArgument,
    gpus: Annotated[
        float | None, typer.Option(help="Cap of GPUs in use at once; 0: train on CPUs.", show_default=False)
    ] = None,
    gpus_per_trial: Annotated[
        float | None, typer.Option(help="Share of a GPU per trial, e.g. 0.25.", show_default=False)
    ] = None,
    cpus_per_trial: Annotated[float | None, typer.Option(help="CPU cores per trial.", show_default=False)] = None,
    store: StoreOption = None,
    fidelity: FidelityOption = None,
    seeds: SeedsOption = None,
    plan: PlanOption = None,
    only: OnlyOption = None,
    set_: SetOption = None,
    plugin: PluginOption = None,
    isolation: Annotated[
        Literal["process", "actor"] | None,
        typer.Option(help="A fresh process per trial, or the worker itself.", show_default=False),
    ] = None,
    max_concurrent: Annotated[
        int | None, typer.Option(help="Cap of trials running at once.", show_default=False)
    ] = None,
    max_failures: Annotated[
        str | None, typer.Option(help="Abort when more have failed: 5 or 10%.", show_default=False)
    ] = None,
    retry: Annotated[
        Literal["failed", "oom", "crash", "all"] | None,
        typer.Option(help="Train again what failed before.", show_default=False),
    ] = None,
    time_limit: Annotated[
        str | None, typer.Option(help="Stop cleanly after this long, e.g. 30m or 24h.", show_default=False)
    ] = None,
    address: Annotated[str | None, typer.Option(help="A Ray cluster [env: RAY_ADDRESS].", show_default=False)] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and stop (the same as `ablate plan`).")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before starting.")] = False,
    json: JsonOption = False,
) -> None:
    """Train and measure every trial of SPACE that the store does not hold yet."""
    from ablate.cli import plan as planning
    from ablate.launch import RunOptions, choose_view, run_plan
    from ablate.store import StorePaths

    expanded = planning.expanded(space, fidelity, seed_list(seeds), plan, only, set_, plugin)
    paths = StorePaths(store_root(store))
    if dry_run:
        return planning.show(expanded, paths, json)
    resources = expanded.resources
    options = RunOptions(
        gpus=_number(setting("gpus", gpus, default=None), "--gpus"),
        gpus_per_trial=_number(setting("gpus_per_trial", gpus_per_trial), "--gpus-per-trial"),
        cpus_per_trial=_number(setting("cpus_per_trial", cpus_per_trial), "--cpus-per-trial"),
        max_concurrent=max_concurrent,
        isolation=setting("isolation", isolation, resources.get("isolation"), default="process"),
        max_failures=max_failures,
        retry=retry,
        address=address,
        time_limit=_seconds(time_limit),
    )
    if not json:
        planning.summary(expanded, paths)
    if not yes and not json and sys.stdin.isatty() and sys.stdout.isatty():
        typer.confirm("start?", default=True, abort=True)
    result = run_plan(expanded, paths, options, choose_view(as_json=json))
    if not json and result.exit_code == 0:
        from ablate.cli import present

        present.line(f"next: ablate report {expanded.name} --html")
    raise typer.Exit(int(result.exit_code))


def _number(value: object, flag: str) -> float | None:
    from ablate.errors import AblateError

    if value is None:
        return None
    try:
        return float(str(value))
    except ValueError:
        raise AblateError(f"{flag}: {value!r} is not a number") from None


def _seconds(text: str | None) -> float | None:
    """``90s``, ``30m``, ``24h``, ``2d`` or plain seconds."""
    from ablate.errors import AblateError

    if text is None:
        return None
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(text[-1:], 0)
    try:
        return float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        raise AblateError(f"--time-limit {text!r}: write 90s, 30m, 24h or 2d") from None
