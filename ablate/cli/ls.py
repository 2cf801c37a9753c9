"""``ablate ls``: what the store holds."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Annotated, Any

import typer

from ablate.cli.options import JsonOption, StoreOption, store_root


def ls(
    study: Annotated[str | None, typer.Argument(help="List the trials of this study.", show_default=False)] = None,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """List the studies of the store, or the trials of one."""
    from ablate.cli import present
    from ablate.cli.report import study_frames, study_name
    from ablate.store import StorePaths, studies
    from ablate_reports.groups import groups

    paths = StorePaths(store_root(store))
    if study is None:
        found = studies(paths)
        if json:
            return present.as_json(found)
        if not found:
            return present.line(f"{paths.root}: no studies yet; `ablate run objectives` makes one")
        head = ["study", "arms", "trials", "done", "diverged", "failed", "other", "created"]
        shown = [
            [s["name"], s["arms"], s["trials"], s["done"], s["diverged"], s["failed"], s["other"], s["created_at"]]
            for s in found
        ]
        return present.table("", head, shown, right=range(1, 7), whole=(0,))
    frames = study_frames(paths, study_name(paths, study))
    numbers = frames.measurements.sort_values(["step", "n_samples"])
    if (name := frames.study["metric"]["name"]) in set(numbers["metric_name"]):
        numbers = numbers[numbers["metric_name"] == name]  # not what is measured beside it
    if frames.declares:
        numbers = numbers[numbers["declared"].eq(True)]
    primary, _ = groups(frames)
    compared = numbers["metric_id"] == (primary.metric_id if primary else "")
    numbers = numbers.assign(compared=compared).sort_values("compared", kind="stable")  # those of the report count
    last = {(m["arm_id"], m["trial_id"]): m for m in numbers.to_dict("records")}
    rows: list[dict[str, Any]] = [
        _row(t, frames.label(arm), last.get((arm, t["trial_id"])))
        for arm in frames.ordered
        for t in frames.trials_of(arm).to_dict("records")
    ]
    apart = frames.trials[frames.trials["confirm"]]  # run on fresh seeds, to confirm arms
    rows += [
        _row(t, frames.label(arm), last.get((arm, t["trial_id"])))
        for arm in frames.ordered
        for t in apart[apart["arm_id"] == frames.trained[arm]].to_dict("records")
        if frames.trained[arm] == arm or (arm, t["trial_id"]) in last
    ]
    if json:
        return present.as_json(rows)
    head = ["trial", "arm", "seed", "status", "steps", "metric", "value", "took", ""]
    cells = [
        [
            r["trial"], r["arm"], r["seed"], r["status"], r["steps"],
            r["metric"] if r["compared"] in (True, None) else f"{r['metric']} ({r['metric_id']}: not compared)",
            None if r["value"] is None else f"{r['value']:.4g}", present.duration(r["wall_seconds"]),
            r["reason"] or ("confirms" if r["confirm"] else ""),
        ]
        for r in rows
    ]  # fmt: skip
    present.table("", head, cells, right=(2, 4, 6, 7), whole=(0, 1))
    return None


def _row(trial: dict[Hashable, Any], label: str, last: dict[Hashable, Any] | None) -> dict[str, Any]:
    return {
        "trial": trial["trial_id"],
        "arm": label,
        "seed": int(trial["seed"]),
        "status": trial["status"],
        "steps": int(_number(trial["steps_done"]) or 0),
        "metric": last["metric_name"] if last else None,
        "metric_id": last["metric_id"] if last else None,
        "compared": bool(last["compared"]) if last else None,
        "value": _number(last["value"]) if last else None,
        "wall_seconds": _number(trial["wall_seconds"]),
        "confirm": bool(trial["confirm"]),
        "reason": trial["reason"] if isinstance(trial["reason"], str) else None,
    }


def _number(value: Any) -> float | None:
    """A float for JSON; None for missing and NaN."""
    if value is None:
        return None
    number = float(value)
    return number if number == number else None
