"""Training losses, one small panel per arm, each with its own scale: losses of objectives are not comparable."""

from __future__ import annotations

from collections.abc import Iterable
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
    name = loss_name(curves["name"].unique())
    if name is None:
        return "", []
    logged = (curves["name"] == name).to_numpy(dtype=bool) & np.isfinite(curves["value"].to_numpy())
    rows = curves.loc[logged, ["arm_id", "seed", "step", "value"]]
    arms, numbers = np.unique(rows["arm_id"].to_numpy(dtype=str), return_inverse=True)
    points, listed = (MOST_POINTS, 8) if len(arms) <= MANY_ARMS else (MOST_POINTS // 2, 2)
    binned = _binned(rows, numbers, points)
    groups = dict(list(binned.groupby("arm", sort=True)))
    by_arm = {str(arm): groups[number] for number, arm in enumerate(arms) if number in groups}
    trained = {a: label for a, label in analysis.frames.trained_labels.items() if a in by_arm}
    return name, [_panel(label, by_arm[a], listed) for a, label in trained.items() if len(by_arm[a]) > 1]


def loss_name(logged: Iterable[str]) -> str | None:
    """Which of the logged scalars is the training loss: ``loss``, else the first name that ends in it."""
    names = sorted(set(map(str, logged)))
    return next((n for n in ("loss", "train/loss", "train.loss") if n in names), None) or next(
        (n for n in names if n.endswith("loss")), None
    )


def _binned(rows: pd.DataFrame, arms: npt.NDArray[np.intp], points: int) -> pd.DataFrame:
    """``arm, bin, step, mean, low, high, seeds, last``: each arm in `points` stretches, over the means of its seeds."""
    table = pd.DataFrame({"arm": arms, "seed": rows["seed"].to_numpy(), "step": rows["step"].to_numpy()})
    table["value"] = rows["value"].to_numpy()
    ends = table.groupby("arm")["step"].agg(["min", "max"])
    first, last = ends["min"].to_numpy()[arms], ends["max"].to_numpy()[arms]
    table["bin"] = np.floor((table["step"].to_numpy() - first) / np.maximum(1.0, (last - first) / points))
    seeds = table.groupby(["arm", "bin", "seed"])[["step", "value"]].mean().reset_index()
    named = {"step": ("step", "mean"), "mean": ("value", "mean"), "low": ("value", "min"), "high": ("value", "max")}
    found = seeds.groupby(["arm", "bin"]).agg(**named).reset_index()
    count = table.groupby("arm")["seed"].nunique()
    return found.assign(seeds=count.to_numpy()[found["arm"].to_numpy()], last=ends["max"].to_numpy()[found["arm"]])


def _panel(label: str, rows: pd.DataFrame, listed: int) -> Panel:
    step, mean, low, high = (rows[name].to_numpy() for name in ("step", "mean", "low", "high"))
    # a first step far above the rest would flatten the curve: the panel's limits cover 98 % of it and clip the rest
    bottom, top = float(low.min()), float(np.quantile(high, 0.98))
    top = top if top > bottom else bottom + 1.0
    x = (step - step[0]) / (step[-1] - step[0]) * WIDTH

    def y(values: Array) -> Array:
        return HEIGHT - np.clip((values - bottom) / (top - bottom), 0, 1) * HEIGHT

    count = int(rows["seeds"].iloc[0])
    band = _path(np.concatenate([x, x[::-1]]), np.concatenate([y(high), y(low)[::-1]])) + "Z" if count > 1 else ""
    picked = np.unique(np.linspace(0, len(step) - 1, min(listed, len(step))).astype(int))
    return Panel(
        label, _path(x, y(mean)), band, *_told_apart(bottom, top, float(mean[-1])), f"{int(rows['last'].iloc[0]):,}",
        count, [(int(step[i]), float(mean[i])) for i in picked],
    )  # fmt: skip


def _told_apart(low: float, high: float, last: float) -> tuple[str, str, str]:
    """The three numbers with as many digits as it takes to see that the first two differ, at most seven."""

    def shown(value: float, digits: int) -> float:
        return float(f"{value:.{digits - 1}e}")

    digits = next((d for d in range(3, 7) if shown(low, d) != shown(high, d)), 7)
    return formats.number(low, digits), formats.number(high, digits), formats.number(last, digits)


def _path(x: Array, y: Array) -> str:
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True))
