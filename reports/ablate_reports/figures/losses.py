"""Training losses, one small panel per arm, each with its own scale: losses of objectives are not comparable."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from ablate_reports import formats
from ablate_reports.analysis import Analysis

MOST_POINTS = 120
MANY_ARMS = 24
"""Beyond this a panel gets half the points and its table a few rows, so that the page stays small."""
WIDTH, HEIGHT = 240.0, 72.0

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Panel:
    """One arm's loss as SVG paths in a box of `WIDTH` x `HEIGHT`.

    Attributes:
        line: path of the mean over seeds.
        band: path around the lowest and highest seed, "" with one seed.
        low, high: the panel's own limits, formatted.
        last: the last mean, formatted.
    """

    label: str
    line: str
    band: str
    low: str
    high: str
    last: str
    last_step: str
    seeds: int
    points: list[tuple[int, float]]


def panels(analysis: Analysis) -> tuple[str, list[Panel]]:
    """The name of the training loss and one panel for everything trained that logged it, in the order of the arms."""
    curves = analysis.frames.curves
    name = loss_name(curves)
    if name is None:
        return "", []
    rows = curves.loc[(curves["name"] == name) & np.isfinite(curves["value"]), ["arm_id", "seed", "step", "value"]]
    by_arm = dict(iter(rows.groupby("arm_id", sort=True)))
    points, listed = (MOST_POINTS, 8) if len(by_arm) <= MANY_ARMS else (MOST_POINTS // 2, 2)
    trained = {a: label for a, label in analysis.frames.trained_labels.items() if a in by_arm}
    found = [_panel(label, by_arm[a], points, listed) for a, label in trained.items()]
    return name, [p for p in found if p is not None]


def loss_name(curves: pd.DataFrame) -> str | None:
    """Which logged scalar is the training loss: ``loss``, else the first name that ends in it."""
    names = sorted(set(curves["name"].astype(str)))
    return next((n for n in ("loss", "train/loss", "train.loss") if n in names), None) or next(
        (n for n in names if n.endswith("loss")), None
    )


def _panel(label: str, rows: pd.DataFrame, points: int, listed: int) -> Panel | None:
    first, last = rows["step"].min(), rows["step"].max()
    if not last > first:
        return None
    width = max(1.0, (last - first) / points)
    bins = np.floor((rows["step"] - first) / width)
    seeds = rows.assign(bin=bins).groupby(["bin", "seed"])[["step", "value"]].mean().groupby("bin")
    step, mean = seeds["step"].mean().to_numpy(), seeds["value"].mean().to_numpy()
    low, high = seeds["value"].min().to_numpy(), seeds["value"].max().to_numpy()
    # a first step far above the rest would flatten the curve: the panel's limits cover 98 % of it and clip the rest
    bottom, top = float(low.min()), float(np.quantile(high, 0.98))
    top = top if top > bottom else bottom + 1.0
    x = (step - first) / (last - first) * WIDTH

    def y(values: Array) -> Array:
        return HEIGHT - np.clip((values - bottom) / (top - bottom), 0, 1) * HEIGHT

    count = rows["seed"].nunique()
    band = _path(np.concatenate([x, x[::-1]]), np.concatenate([y(high), y(low)[::-1]])) + "Z" if count > 1 else ""
    picked = np.unique(np.linspace(0, len(step) - 1, min(listed, len(step))).astype(int))
    return Panel(
        label, _path(x, y(mean)), band, formats.number(bottom, 3), formats.number(top, 3),
        formats.number(float(mean[-1]), 3),
        f"{int(last):,}", int(count), [(int(step[i]), float(mean[i])) for i in picked],
    )  # fmt: skip


def _path(x: Array, y: Array) -> str:
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True))
