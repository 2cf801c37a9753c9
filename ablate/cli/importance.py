"""``ablate importance``: which axes explain a study that mixes levels."""

from __future__ import annotations

from typing import Annotated

import typer

from ablate.cli.arms import AllowMixedOption, refuse_mixed
from ablate.cli.options import JsonOption, StoreOption, store_root


def importance(
    study: Annotated[str | None, typer.Argument(help="A study of the store.", show_default=False)] = None,
    allow_mixed: AllowMixedOption = False,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Divide a grid or random study among its axes (PED-ANOVA), beside what pure noise would give."""
    from dataclasses import asdict

    from ablate.cli import present
    from ablate.cli.report import study_frames, study_name
    from ablate.search import importances
    from ablate.store import StorePaths
    from ablate_reports import analyse
    from ablate_reports.choices import beside_axes, choices

    paths = StorePaths(store_root(store))
    frames = study_frames(paths, study_name(paths, study))
    analysis = analyse(frames)
    if not allow_mixed:
        refuse_mixed(analysis, frames.ordered)
    chosen, beside = choices(frames), beside_axes(frames)
    measured = [row for row in analysis.rows if row.value is not None and row.n]
    rows = [row for row in measured if row.arm_id not in beside]
    found = importances(
        [chosen[row.arm_id] for row in rows],
        [float(row.value) for row in rows if row.value is not None],
        minimize=frames.lower_is_better,
    )
    if json:
        return present.as_json([asdict(row) for row in found])
    cells = [
        [
            r.axis,
            r.levels,
            f"{r.share:.2f}",
            f"{r.noise_95:.2f}",
            "above noise" if r.share > r.noise_95 else "not told from noise",
        ]
        for r in found
    ]
    present.table(f"{len(rows)} arms", ["axis", "levels", "share", "95 % of noise", ""], cells, right=(1, 2, 3))
    present.line(
        "Shares add up to 1 whatever the data: an axis matters where its share is above that of shuffled values."
    )
    if len(rows) < len(measured):
        present.line(f"{len(measured) - len(rows)} more also change what is no axis: no axis explains them.")
    return None
