"""``ablate confirm``: run picked arms again on seeds that the study never used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ablate.cli.arms import arms_named
from ablate.cli.options import (
    AddressOption,
    CpusPerTrialOption,
    GpusOption,
    GpusPerTrialOption,
    IsolationOption,
    JsonOption,
    MaxConcurrentOption,
    PackOption,
    PluginOption,
    RetryOption,
    StoreOption,
    TimeLimitOption,
    YesOption,
    ask_to_start,
    launch_settings,
    pack_size,
    plugin_names,
    setting,
    store_root,
)
from ablate.errors import AblateError

if TYPE_CHECKING:
    from ablate.launch.confirm import Confirming
    from ablate.store import StorePaths
    from ablate_reports import Analysis, StudyFrames


def confirm(
    study: Annotated[str, typer.Argument(help="A study of the store.", show_default=False)],
    arms: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ARM",
            help="The picked arms: labels, beginnings of ids or axis=level; default: those of an earlier call, or the "
            "best arm of the report.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            help="How many fresh seeds each arm has in all; default: as many as before, at first 5.", show_default=False
        ),
    ] = None,
    gpus: GpusOption = None,
    gpus_per_trial: GpusPerTrialOption = None,
    cpus_per_trial: CpusPerTrialOption = None,
    store: StoreOption = None,
    plugin: PluginOption = None,
    isolation: IsolationOption = None,
    pack: PackOption = None,
    max_concurrent: MaxConcurrentOption = None,
    retry: RetryOption = None,
    time_limit: TimeLimitOption = None,
    address: AddressOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run and stop.")] = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Train picked arms and the baseline on fresh seeds: the size of a winner is quoted from these alone.

    The report keeps them apart from the exploration. A second call continues what is missing and uses no further seeds
    unless --seeds asks for more. Exit codes as for `ablate run`.
    """
    from ablate.cli import present
    from ablate.cli.report import study_name
    from ablate.launch import RunOptions, choose_view, run_plan
    from ablate.launch.confirm import confirming
    from ablate.space import load_plugins
    from ablate.store import StorePaths, open_frames, record_confirmation
    from ablate_reports import StudyFrames, analyse

    loaded = load_plugins(plugin_names(plugin))
    paths = StorePaths(store_root(store))
    parts = open_frames(paths, study_name(paths, study))
    analysis = analyse(StudyFrames.from_mapping(parts))
    picked, remark = _picked(analysis, arms or [])
    found = confirming(paths, parts, picked, seeds, loaded)
    if not json:
        present.line(_summary(found, paths))
        if remark:
            present.line(remark, style="yellow")
    if dry_run:
        return present.as_json(_document(found)) if json else None
    ask_to_start(yes or json)
    options = RunOptions(
        **launch_settings(gpus, gpus_per_trial, cpus_per_trial, isolation, time_limit),
        max_concurrent=max_concurrent,
        pack=pack_size(setting("pack", pack)),
        retry=retry,
        address=address,
    )
    result = run_plan(found.plan, paths, options, choose_view(as_json=json), record=record_confirmation)
    _say(paths, found.plan.name, json)
    raise typer.Exit(int(result.exit_code))


def _picked(a: Analysis, names: list[str]) -> tuple[list[str], str]:
    """The arms to confirm, and what should be known about the choice.

    Raises:
        AblateError: nothing is named and nothing can be picked.
    """
    frames: StudyFrames = a.frames
    study, base = frames.study["name"], frames.baseline
    best = a.leader
    if names:
        found = list(dict.fromkeys(arm for name in names for arm in arms_named(frames, name) if arm != base))
        if not found:
            raise AblateError(f"{study}: the baseline always takes part; name an arm to confirm against it")
        return found, ""
    places = a.whole.study_arms
    before = [arm for arm in dict.fromkeys(places.loc[places["kind"] == "confirm", "arm_id"]) if arm != base]
    if before:
        told = best is not None and best.arm_id not in (*before, base)
        return before, f"the best arm is {best.label} by now; name it to confirm it too" if told and best else ""
    if best is None:
        raise AblateError(f"{study}: no arm has a value yet, so there is nothing to confirm; run its space first")
    if best.baseline:
        raise AblateError(f"{study}: its best arm is the baseline, {best.label}; name an arm to confirm against it")
    weak = best.verdict != "better"
    return [best.arm_id], f"{best.label} is {best.verdict or 'not compared'}, not better than the baseline" * weak


def _summary(found: Confirming, paths: StorePaths) -> str:
    from ablate.cli import present
    from ablate.store import finished

    plan = found.plan
    done = finished(paths)
    there = sum(trial.key in done for trial in plan.trials)
    arms = [arm.label for arm in plan.arms[1:]]
    stale = f"; seeds {', '.join(map(str, found.stale))} were explored since and confirm nothing" if found.stale else ""
    return (
        f"{plan.name}: {', '.join(arms)} against the baseline {plan.baseline.label} on fresh seeds "
        f"{', '.join(map(str, found.seeds))}: {present.count(len(plan.trials), 'trial')}, "
        f"{there} finished in the store{stale}"
    )


def _document(found: Confirming) -> dict[str, Any]:
    plan = found.plan
    return {
        "study": plan.name,
        "baseline": plan.baseline.id,
        "arms": [{"id": arm.id, "label": arm.label} for arm in plan.arms[1:]],
        "seeds": list(found.seeds),
        "new_seeds": found.new,
        "stale": list(found.stale),
        "trials": [{"key": t.key, "arm_id": t.arm_id, "seed": t.seed} for t in plan.trials],
    }


def _say(paths: StorePaths, name: str, json: bool) -> None:
    """What the fresh seeds say so far."""
    import json as text

    from ablate.cli import present
    from ablate.cli.report import study_frames
    from ablate_reports import analyse
    from ablate_reports.findings import confirmation, confirmation_document
    from ablate_reports.sections import confirmed as sentences

    analysis = analyse(study_frames(paths, name))
    found = confirmation(analysis)
    if json:
        shown = None if found is None else confirmation_document(found)
        present.text(text.dumps({"event": "confirmed", "study": name, "confirmed": shown}))
        return
    for line in sentences(analysis, found) if found is not None else []:
        present.line(line)
