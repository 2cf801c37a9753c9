"""What a Frechet distance owes to the number of samples: ``E[FID_N] = FID_inf + B / N``, fitted, or refused.

B differs from model to model, so equal N does not cancel it. The line is fitted to values at three sizes or more, none
below 5,000 samples (below, higher orders are not small), on the metric's own scale, with weights N because the noise of
FID_N falls like 1/sqrt(N). Sizes of one set of images share them, so their scatter about the line says little: the
interval comes from repeats (trials and draws), each with a line of its own. The bias of the reference stays.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

from ablate_reports.data import DONE, StudyFrames, definition, records
from ablate_reports.groups import SAMPLE_FIELDS
from ablate_reports.linear import Array

MIN_SAMPLES = 5000
MIN_SIZES = 3
TOO_SMALL = f"not extrapolated: fewer than {MIN_SIZES} sizes of at least {MIN_SAMPLES:,} samples"
ONE_SET = "from one set of images: the interval takes its sizes for independent"


@dataclass(frozen=True)
class SampleBias:
    """The fitted line of one arm.

    Attributes:
        sizes: numbers of samples used; `ignored`: those below `MIN_SAMPLES`.
        repeats: sets of images (trial and draw) with enough sizes.
        infinity: the value for infinitely many samples, with its interval of level ``1 - alpha``.
        slope: B, with its interval.
        note: why nothing was fitted, or what the interval assumes, else "".
    """

    sizes: tuple[int, ...]
    ignored: tuple[int, ...]
    repeats: int
    infinity: float | None = None
    low: float | None = None
    high: float | None = None
    slope: float | None = None
    slope_low: float | None = None
    slope_high: float | None = None
    note: str = ""

    def at(self, samples: int) -> float | None:
        """The bias of a value from so many samples."""
        return None if self.slope is None else self.slope / samples


def sample_bias(points: Mapping[str, Mapping[int, float]], alpha: float = 0.05) -> SampleBias:
    """Fit the line.

    Args:
        points: repeat -> number of samples -> value.
    """
    every = sorted({n for sizes in points.values() for n in sizes})
    used, ignored = tuple(n for n in every if n >= MIN_SAMPLES), tuple(n for n in every if n < MIN_SAMPLES)
    usable = {
        r: {n: v for n, v in sorted(sizes.items()) if n >= MIN_SAMPLES and math.isfinite(v)}
        for r, sizes in points.items()
    }
    lines = [_line(sizes) for sizes in usable.values() if len(sizes) >= MIN_SIZES]
    bare = SampleBias(used, ignored, len(lines))
    if not lines:
        return replace(bare, note=TOO_SMALL)
    coefficients = np.array([line[0] for line in lines])
    centre = coefficients.mean(axis=0)
    if len(lines) > 1:
        errors, df, note = coefficients.std(axis=0, ddof=1) / math.sqrt(len(lines)), len(lines) - 1, ""
    else:
        errors, df, note = lines[0][1], lines[0][2], ONE_SET
    half = float(stats.t.isf(alpha / 2, df)) * errors
    (low, slope_low), (high, slope_high) = (centre - half).tolist(), (centre + half).tolist()
    return replace(
        bare, infinity=float(centre[0]), low=low, high=high, slope=float(centre[1]), slope_low=slope_low,
        slope_high=slope_high, note=note,
    )  # fmt: skip


def _line(sizes: Mapping[int, float]) -> tuple[Array, Array, int]:
    """Intercept and slope in 1/N with weights N; their standard errors, were sizes independent; degrees of freedom."""
    n, y = np.array(list(sizes), dtype=np.float64), np.array(list(sizes.values()))
    design = np.stack([np.ones_like(n), 1 / n], axis=1)
    inverse = np.linalg.inv(design.T @ (n[:, None] * design))
    beta = inverse @ design.T @ (n * y)
    df = len(n) - 2
    variance = float((n * (y - design @ beta) ** 2).sum()) / df
    return beta, np.sqrt(variance * np.diag(inverse)), df


@dataclass(frozen=True)
class SampleFamily:
    """Metrics that differ in the number of samples alone, under one condition.

    Attributes:
        name: of the metric; `metric_ids`: number of samples -> metric.
        arms: arm -> the line of its values at each trial's last step.
    """

    name: str
    cond_id: str
    metric_ids: dict[int, str]
    arms: dict[str, SampleBias]


def sample_families(frames: StudyFrames, alpha: float = 0.05) -> list[SampleFamily]:
    """Every family of metrics with more than one number of samples."""
    kinds: dict[str, dict[int, str]] = {}
    names = {}
    for d in records(frames.metric_defs):
        known = definition(d.definition)
        samples = next((known[k] for k in SAMPLE_FIELDS if isinstance(known.get(k), int)), None)
        if samples is not None:
            rest = {k: v for k, v in known.items() if k not in SAMPLE_FIELDS}
            key = json.dumps([str(d.name), rest], sort_keys=True, default=str)
            kinds.setdefault(key, {})[samples] = d.metric_id
            names[key] = str(d.name)
    done = set(frames.trials.loc[frames.trials["status"] == DONE, "trial_id"])
    rows = frames.measurements[frames.measurements["trial_id"].isin(done)]
    found = []
    for key, ids in sorted(kinds.items()):
        if len(ids) < 2:
            continue
        mine = rows[rows["metric_id"].isin(ids.values())]
        for cond in sorted(set(mine["cond_id"])):
            some = mine[mine["cond_id"] == cond]
            arms = _points(some, {metric: n for n, metric in ids.items()})
            found.append(
                SampleFamily(names[key], str(cond), dict(sorted(ids.items())), {
                    arm: sample_bias(points, alpha) for arm, points in arms.items()
                })
            )  # fmt: skip
    return found


def _points(rows: pd.DataFrame, samples_of: Mapping[str, int]) -> dict[str, dict[str, dict[int, float]]]:
    """arm -> repeat -> number of samples -> value, at each trial's last step at which several sizes were taken."""
    by: dict[tuple[str, str, float], dict[int, dict[int, float]]] = {}
    for r in records(rows):
        n = samples_of[r.metric_id]
        if r.n_samples == n and math.isfinite(r.value):
            by.setdefault((r.arm_id, r.trial_id, r.draw), {}).setdefault(int(r.step), {})[n] = float(r.value)
    out: dict[str, dict[str, dict[int, float]]] = {}
    for (arm, trial, draw), steps in by.items():
        step = max(steps, key=lambda s: (len(steps[s]) > 1, s))
        out.setdefault(arm, {})[f"{trial}/{draw:g}"] = steps[step]
    return out
