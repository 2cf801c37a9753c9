"""Learning curves: the metric by training step, with a band over seeds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ablate_reports import formats, queries
from ablate_reports.analysis import Analysis, ArmRow
from ablate_reports.data import records
from ablate_reports.figures.base import (
    CYCLE,
    DASHES,
    GREY,
    Figure,
    Key,
    Table,
    axis,
    layout,
    log_ticks,
    numbers,
    plain,
    rgba,
)

MOST_ARMS = 12
MOST_POINTS = 240
"""Points of a line at most; of more, the lowest and the highest of each stretch are drawn, so that no peak is lost."""


def build(analysis: Analysis) -> list[Figure]:
    """The metric by step, when it was measured at two steps or more in some arm."""
    if analysis.primary is None:
        return []
    table = bands(analysis)
    steps = table["arm_id"].value_counts()
    arms = [r for r in _ordered(analysis) if steps.get(r.arm_id, 0) > 1]
    if not arms:
        return []
    shown = arms[:MOST_ARMS]
    mean = "geometric mean" if analysis.scale == "log" else "mean"
    caption = (
        f"Line: {mean} over seeds; band: {analysis.level} t interval of the mean at that step alone (two seeds or "
        "more). "
        "A trial that failed or diverged counts at the steps it reached."
    )
    left = len(arms) - len(shown)
    notes = [f"Shown: the baseline and the {len(shown) - 1} best arms; {left} more are in the table."] if left else []
    if len(analysis.frames.rungs):
        notes.append("Dotted lines are rungs, at which early stopping judged the arms.")
    if fading := [r for r in shown if table.loc[table["arm_id"] == r.arm_id, "n"].nunique() > 1]:
        names = ", ".join(formats.short(r.label, 32) for r in fading[:4]) + (", …" if len(fading) > 4 else "")
        notes.append(f"Not every step has all seeds: {names} (hover or table for the number at each step).")
    return [
        Figure(
            "curves",
            f"{analysis.primary.name} while training",
            caption,
            _spec(analysis, table, shown),
            _table(table, arms),
            notes,
            _legend(shown),
            nav="Curves",
            queries=(queries.all_steps(analysis),),
        )
    ]


def bands(analysis: Analysis) -> pd.DataFrame:
    """``arm_id, step, n, mean, low, high`` of the primary group; the interval is NaN with one seed."""
    assert analysis.primary is not None
    rows = analysis.primary.rows[["arm_id", "seed", "step", "value"]]
    rows = rows[np.isfinite(rows["value"]) & ((rows["value"] > 0) | (analysis.scale == "linear"))]
    rows = rows.assign(y=np.log(rows["value"]) if analysis.scale == "log" else rows["value"])
    seeds = rows.groupby(["arm_id", "step", "seed"])["y"].mean().reset_index()
    out = seeds.groupby(["arm_id", "step"])["y"].agg(["mean", "std", "count"]).reset_index()
    n = out["count"].to_numpy()
    half = stats.t.isf(analysis.alpha / 2, np.maximum(n - 1, 1)) * out["std"].to_numpy() / np.sqrt(n)
    half = np.where(n > 1, half, np.nan)
    back = np.exp if analysis.scale == "log" else np.asarray
    centre = out["mean"].to_numpy()
    with np.errstate(over="ignore"):
        table = {"mean": back(centre), "low": back(centre - half), "high": back(centre + half)}
    return pd.DataFrame({"arm_id": out["arm_id"], "step": out["step"].astype("int64"), "n": n, **table})


def _ordered(analysis: Analysis) -> list[ArmRow]:
    """The baseline, then the other arms from best to worst, then those without a final value."""
    sign = 1 if analysis.lower_is_better else -1
    return sorted(analysis.rows, key=lambda r: (not r.baseline, r.value is None, sign * (r.value or 0.0)))


def _spec(analysis: Analysis, table: pd.DataFrame, arms: list[ArmRow]) -> dict[str, Any]:
    data: list[dict[str, Any]] = []
    number = numbers(analysis)
    for r, key in zip(arms, _legend(arms), strict=True):
        rows = thinned(table[table["arm_id"] == r.arm_id])
        data += [trace | {"meta": number[r.arm_id]} for trace in _traces(r, rows, key.colour, key.dash)]
    shown = table[table["arm_id"].isin([r.arm_id for r in arms])]
    low, high = float(shown["mean"].min()), float(shown["mean"].max())
    log = analysis.scale == "log" and high > 2 * low > 0
    name = formats.safe(analysis.metric_axis, 60)
    y = axis(name)
    if log:
        y = axis(f"{name}, log scale", type="log", tickvals=plain(log_ticks(low / 1.2, high * 1.2)))
        y["range"] = plain([math.log10(low / 1.25), math.log10(high * 1.25)])
    return {
        "data": data,
        "layout": layout(
            400,
            xaxis=axis("training step", rangemode="tozero"),
            yaxis=y,
            margin={"l": 56, "r": 16, "t": 12, "b": 48},
            showlegend=False,
            shapes=[_rung(step) for step in sorted(set(analysis.frames.rungs["step"]))],
        ),
    }


def thinned(rows: pd.DataFrame, most: int = MOST_POINTS) -> pd.DataFrame:
    """At most about `most` rows of one arm by step: of each stretch the lowest and the highest mean, and both ends."""
    if len(rows) <= most:
        return rows
    stretch = np.arange(len(rows)) * (most // 2) // len(rows)
    mean = rows["mean"].reset_index(drop=True).groupby(stretch)
    return rows.iloc[np.unique([0, *mean.idxmin(), *mean.idxmax(), len(rows) - 1])]


def _rung(step: float) -> dict[str, Any]:
    line = {"color": GREY, "width": 1, "dash": "dot"}
    return {"type": "line", "x0": step, "x1": step, "y0": 0, "y1": 1, "yref": "paper", "layer": "below", "line": line}


def _legend(arms: list[ArmRow]) -> list[Key]:
    """One look per arm: colours first, then dashes, the baseline grey and thick."""
    looks = iter([(c, d) for d in DASHES for c in CYCLE])
    keys = []
    for r in arms:
        colour, dash = (GREY, "solid") if r.baseline else next(looks)
        keys.append(Key(r.arm_id, formats.short(r.label, 40), colour, dash))
    return keys


def _traces(r: ArmRow, rows: pd.DataFrame, colour: str, dash: str) -> list[dict[str, Any]]:
    band = rows[np.isfinite(rows["low"]) & np.isfinite(rows["high"])]
    traces: list[dict[str, Any]] = []
    if len(band) > 1:
        x = band["step"].tolist()
        outline = {"x": x + x[::-1], "y": plain([*band["high"], *band["low"][::-1]], 5)}
        fill = {"fill": "toself", "fillcolor": rgba(colour, 0.16), "line": {"width": 0}, "hoverinfo": "skip"}
        traces.append(
            {"type": "scatter", "mode": "lines", "showlegend": False, "legendgroup": r.arm_id} | outline | fill
        )
    name = formats.safe(r.label, 32) + (" (baseline)" if r.baseline else "")
    line = {"color": colour, "width": 3 if r.baseline else 2, "dash": dash}
    many = len(rows) > MOST_POINTS // 4
    traces.append({
        "type": "scatter", "mode": "lines" if many else "lines+markers", "name": name, "legendgroup": r.arm_id,
        "x": rows["step"].tolist(),
        "y": plain(rows["mean"], 5), "line": line, "marker": {"size": 4, "color": colour},
        "text": [str(n) for n in rows["n"]],
        "hovertemplate": "step %{x}: %{y}, seeds: %{text}<extra>" + name + "</extra>",
    })  # fmt: skip
    return traces


def _table(table: pd.DataFrame, arms: list[ArmRow]) -> Table:
    """At most a dozen steps per arm, fewer when there are many arms."""
    body, listed = [], 12 if len(arms) <= 24 else 3
    of_arm = dict(list(table.groupby("arm_id")))
    for r in arms:
        rows = of_arm[r.arm_id]
        picked = rows.iloc[np.unique(np.linspace(0, len(rows) - 1, min(listed, len(rows))).astype(int))]
        for row in records(picked):
            both = f"{formats.number(row.low)} to {formats.number(row.high)}" if math.isfinite(row.low) else "one seed"
            body.append([formats.short(r.label, 80), f"{row.step:,}", formats.number(row.mean), both, str(row.n)])
    return Table(["Arm", "Step", "Mean", "Interval", "Seeds"], body)
