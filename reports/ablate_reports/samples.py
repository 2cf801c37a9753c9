"""Sample grids as data URIs: one per arm and trial, of its last step; noise and labels are common to all arms."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablate_reports import formats
from ablate_reports.analysis import Analysis
from ablate_reports.data import records
from ablate_reports.verdicts import count

KINDS = ("samples", "gallery")
NEIGHBOURS = ("neighbours",)
MAGIC = {"image/png": b"\x89PNG\r\n\x1a\n", "image/jpeg": b"\xff\xd8\xff", "image/webp": b"RIFF"}
BUDGET = 8_000_000
"""Bytes of pictures embedded at most; what is left out is said."""
BUDGET_OF_SEEDS = 500_000
"""...and as far as pictures of further seeds go: they are for the curious, the page is to stay small."""


@dataclass(frozen=True)
class Picture:
    """One embedded sample grid."""

    arm_id: str
    label: str
    seed: int
    step: int
    uri: str
    rows: int
    cols: int
    caption: str


@dataclass(frozen=True)
class Gallery:
    """The pictures of a study.

    Attributes:
        first: one per arm, of the lowest seed.
        rest: those of the other seeds.
        problems: what could not be shown, one line each.
        neighbours: samples beside their nearest training images, one per arm, of the lowest seed.
    """

    first: list[Picture]
    rest: list[Picture]
    problems: list[str]
    neighbours: list[Picture] = field(default_factory=list)


def gallery(analysis: Analysis, budget: int = BUDGET) -> Gallery:
    """Read and embed the sample grids; a missing or foreign file becomes a line in `problems`, never an error."""
    first, rest, problems = _newest(analysis, KINDS, "samples", budget, min(budget, BUDGET_OF_SEEDS))
    near, _, more = _newest(analysis, NEIGHBOURS, "neighbours", budget - sum(len(p.uri) * 3 // 4 for p in first), 0)
    return Gallery(first, rest, problems + more, near)


def _newest(
    analysis: Analysis, kinds: tuple[str, ...], what: str, budget: int, of_seeds: int
) -> tuple[list[Picture], list[Picture], list[str]]:
    """The newest picture of each arm: those of its lowest seed, of the others, and what is wrong with them."""
    rows = analysis.frames.artifacts
    rows = rows[rows["kind"].isin(kinds)].sort_values(["seed", "step", "path"], kind="stable")
    if rows["declared"].notna().any():  # one trial may keep a grid per condition: those that the arms asked for
        rows = rows[rows["declared"].eq(True)]
    elif analysis.primary and "cond_id" in rows and (rows["cond_id"] == analysis.primary.cond_id).any():
        rows = rows[rows["cond_id"] == analysis.primary.cond_id]
    last = rows.groupby(["trial_id", "arm_id"])["step"].transform("max")
    newest = rows[rows["step"] == last].drop_duplicates(["trial_id", "arm_id"])
    order = {r.arm_id: i for i, r in enumerate(analysis.rows)}
    newest = newest[newest["arm_id"].isin(list(order))]
    ranked = sorted(records(newest), key=lambda r: (r.seed, order[r.arm_id]))
    lowest = {r.arm_id: r.seed for r in reversed(ranked)}
    ranked.sort(key=lambda r: r.seed != lowest[r.arm_id])
    if not of_seeds:
        ranked = [r for r in ranked if r.seed == lowest[r.arm_id]]
    first: list[Picture] = []
    rest: list[Picture] = []
    problems: list[str] = []
    used = left = 0
    for row in ranked:
        data = _read(row.path, str(row.mime))
        label = analysis.frames.label(row.arm_id)
        if data is None:
            problems.append(f"The {what} of {label}, seed {row.seed:.0f}, are missing or not an image.")
        elif used + len(data) > (budget if row.seed == lowest[row.arm_id] else of_seeds):
            left += 1
        else:
            used += len(data)
            picture = _picture(analysis, row, label, data)
            (first if row.seed == lowest[row.arm_id] else rest).append(picture)
    if left:
        problems.append(f"Left out, so that the page stays small: {count(left, 'grid')} of {what}.")
    first.sort(key=lambda p: order[p.arm_id])
    return first, rest, problems


def _picture(analysis: Analysis, row: Any, label: str, data: bytes) -> Picture:
    arm = analysis.by_id[row.arm_id]
    seed, step = int(row.seed), int(row.step)
    value = arm.seeds.get(seed)
    name = analysis.primary.name if analysis.primary else ""
    caption = f"seed {seed}, step {step:,}" + (f", {name} {formats.number(value)}" if value is not None else "")
    uri = f"data:{row.mime};base64,{base64.b64encode(data).decode('ascii')}"
    shape = [int(v) if v == v else 0 for v in (row.rows, row.cols)]
    return Picture(arm.arm_id, label, seed, step, uri, shape[0], shape[1], caption)


def _read(path: object, mime: str) -> bytes | None:
    if mime not in MAGIC or not isinstance(path, str):
        return None
    try:
        data = Path(path).read_bytes()
    except OSError:
        return None
    return data if data.startswith(MAGIC[mime]) else None
