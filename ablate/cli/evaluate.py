"""``ablate eval``: measure trained networks in other ways. Nothing is ever trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ablate.cli.options import (
    AddressOption,
    CpusPerTrialOption,
    GpusOption,
    GpusPerTrialOption,
    IsolationOption,
    JsonOption,
    MaxConcurrentOption,
    PluginOption,
    StoreOption,
    TimeLimitOption,
    YesOption,
    ask_to_start,
    launch_settings,
    plugin_names,
    store_root,
)

if TYPE_CHECKING:
    from ablate.store import StorePaths


def evaluate(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[STUDY|TRIAL]...",
            help="Studies, or beginnings of trial keys; not needed when there is one study.",
            show_default=False,
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "-S",
            help="How to measure, e.g. eval.nfe=1,2,4: several values make several evaluations; repeat to combine.",
            show_default=False,
        ),
    ] = None,
    rescore: Annotated[
        bool,
        typer.Option("--rescore", help="Score kept statistics against another --reference; no sample is drawn."),
    ] = False,
    reference: Annotated[
        str | None, typer.Option("--reference", help="npz with mu and sigma, for --rescore.", show_default=False)
    ] = None,
    again: Annotated[
        bool,
        typer.Option(
            "--again", help="Also what the store has: when the reference, the extractor or its weights have changed."
        ),
    ] = False,
    gpus: GpusOption = None,
    gpus_per_trial: GpusPerTrialOption = None,
    cpus_per_trial: CpusPerTrialOption = None,
    store: StoreOption = None,
    plugin: PluginOption = None,
    isolation: IsolationOption = None,
    max_concurrent: MaxConcurrentOption = None,
    time_limit: TimeLimitOption = None,
    address: AddressOption = None,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Measure trained networks again, each as its study does but for what --set changes; train nothing.

    What the store has is measured anew with --again only. Ends with 0 when every number asked for is there
    (combinations that a network does not allow are named and left out), 3 when an evaluation failed or a trained
    network is gone.
    """
    from ablate.cli import present
    from ablate.errors import AblateError, ExitCode
    from ablate.launch import RunOptions, choose_view, run_evaluations
    from ablate.launch.evaluate import asked
    from ablate.space import load_plugins
    from ablate.store import StorePaths

    loaded = load_plugins(plugin_names(plugin))
    paths = StorePaths(store_root(store))
    if rescore:
        raise typer.Exit(_rescore(paths, names or [], set_ or [], reference, json))
    if reference is not None:
        raise AblateError("--reference: is for --rescore; write --set eval.reference=FILE to draw samples again")
    found = asked(paths, names or [], set_ or [], again)
    view = choose_view(as_json=json)
    for line in found.refused:
        view.message(line)
    if not json:
        present.line(
            f"{found.name}: {present.count(len(found.tasks), 'evaluation')} to make, "
            f"{len(found.skipped)} in the store already"
            + (f", {len(found.refused)} not possible" if found.refused else "")
        )
    if found.tasks:
        ask_to_start(yes or json)
    options = RunOptions(
        **launch_settings(gpus, gpus_per_trial, cpus_per_trial, isolation, time_limit),
        max_concurrent=max_concurrent,
        address=address,
        plugins=loaded,
    )
    result = run_evaluations(found.name, found.tasks, found.skipped, paths, options, view)
    code = result.exit_code
    if code is ExitCode.COMPLETE and found.lost:
        code = ExitCode.FAILED_TRIALS
    raise typer.Exit(int(code))


def _rescore(paths: StorePaths, names: list[str], settings: list[str], reference: str | None, json: bool) -> int:
    """``--rescore``: the numbers, and what could not be scored on standard error; the exit code."""
    from ablate.cli import present
    from ablate.errors import ExitCode
    from ablate.launch.rescore import require_alone, rescore_networks

    found = rescore_networks(paths, names, require_alone(reference, settings))
    for line in found.refused:
        typer.echo(line, err=True)
    if json:
        present.as_json(found.rows)
    else:
        head = ["trial", "arm", "seed", "step", "metric", "metric id", "value", "before", ""]
        rows = [
            [
                r["trial"], r["arm"], r["seed"], r["step"], r["metric"], r["metric_id"], f"{r['value']:.5g}",
                "" if r["before"] is None else f"{r['before']:.5g}", "" if r["new"] else "in the store already",
            ]
            for r in found.rows
        ]  # fmt: skip
        present.table("", head, rows, right=(2, 3, 6, 7))
    return int(ExitCode.FAILED_TRIALS if found.refused else ExitCode.COMPLETE)
