"""`StudyFrames`: everything a report is made of, as plain pandas frames.

The store fills it, the tests simulate it, nothing here knows where it came from. A frame may be empty (a run that has
only just begun) and may carry further columns; a missing column or an unknown status is an error with one line.
"""

from __future__ import annotations

import json
from collections import Counter, namedtuple
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd

COLUMNS: dict[str, tuple[str, ...]] = {
    "arms": ("arm_id", "label", "config", "num_parameters"),
    "study_arms": ("arm_id", "plan", "kind", "position", "label", "axis", "level", "choice"),
    "trials": (
        "trial_id", "arm_id", "seed", "status", "reason", "steps_planned", "steps_done", "wall_seconds", "cpu_seconds",
        "gpu_seconds", "peak_mem_mb", "attempts",
    ),
    "measurements": (
        "trial_id", "arm_id", "seed", "metric_id", "metric_name", "cond_id", "step", "draw", "n_samples", "value",
        "wall_seconds",
    ),
    "curves": ("trial_id", "arm_id", "seed", "step", "name", "value"),
    "artifacts": ("trial_id", "arm_id", "seed", "kind", "step", "path", "mime", "width", "height", "rows", "cols"),
    "metric_defs": ("metric_id", "name", "definition", "higher_is_better"),
    "conditions": ("cond_id", "definition"),
    "environments": ("env_id", "definition"),
    "attempts": ("trial_id", "attempt", "host", "device", "started_at", "ended_at", "status", "error_head"),
    "skips": ("plan", "label", "reason"),
    "rungs": ("trial_id", "arm_id", "seed", "step", "value", "decision"),
}  # fmt: skip
"""The columns each frame must have. Where trained networks are measured in several ways, ``arms`` also has
``trained_id, trained_label``, and measurements and artifacts say in ``declared`` whether an arm asked for them. Where
trials were run to confirm a pick, ``trials`` says so in ``confirm``. ``rungs`` has one row for each trial that a rung
of early stopping judged: the metric at that step, and whether it was ``kept``, ``stopped``, or would have been stopped
and ran on for the ``audit``; a study that stops nothing early has none."""

HUGE = 1e70
"""A measured value beyond this has no fourth power: it is as little a number as an infinite one."""

DECISIONS = ("kept", "stopped", "audit")

NUMERIC = frozenset(
    "num_parameters position seed steps_planned steps_done wall_seconds cpu_seconds gpu_seconds peak_mem_mb "
    "attempts step draw"
    " n_samples value width height rows cols attempt".split()
)

DONE = "done"
DIVERGED = "diverged"
FAILED = "failed"
STOPPED = "stopped"
LOST = "lost"
FINAL = (DONE, DIVERGED, FAILED, STOPPED)
STATUSES = (*FINAL, LOST, "interrupted", "running", "planned")
"""Every status a trial may have, as the store derives it; what is not final goes on with the run. ``stopped``: by a
rung of early stopping, and no failure."""

METRIC_NAMES = {
    "fid": "Frechet Inception distance (FID)",
    "fd_digits": "Frechet distance on digit-classifier features (fd_digits), not FID",
    "energy_distance": "energy distance to the data (energy_distance)",
    "kid": "kernel Inception distance (KID)",
    "fid_infinity": "FID extrapolated to infinitely many samples (fid_infinity)",
    "precision": "improved precision on Inception features",
    "recall": "improved recall on Inception features",
    "density": "density on Inception features",
    "coverage": "coverage on Inception features",
    "kd_digits": "kernel distance on digit-classifier features (kd_digits), not KID",
    "fd_digits_infinity": "fd_digits extrapolated to infinitely many samples (fd_digits_infinity), not FID",
    "precision_digits": "improved precision on digit-classifier features (precision_digits)",
    "recall_digits": "improved recall on digit-classifier features (recall_digits)",
    "density_digits": "density on digit-classifier features (density_digits)",
    "coverage_digits": "coverage on digit-classifier features (coverage_digits)",
}
"""A metric under its right name. An unknown one is called what its definition calls it."""


@dataclass(frozen=True)
class StudyFrames:
    """One study, as the report reads it.

    Attributes:
        study: ``name, question, baseline_arm_id, metric {name, mode, at}, margin, alpha, space_yaml, created_at,
            version``; what is missing gets a default (mode ``min``, at ``last``, margin 0.02, alpha 0.05).
        published: numbers other people published, shown apart from ours; free-form mappings.

    Raises:
        ValueError: a frame lacks a column, a status is unknown, or a setting is out of range.
    """

    study: Mapping[str, Any]
    arms: pd.DataFrame
    study_arms: pd.DataFrame
    trials: pd.DataFrame
    measurements: pd.DataFrame
    curves: pd.DataFrame
    artifacts: pd.DataFrame
    metric_defs: pd.DataFrame
    conditions: pd.DataFrame
    environments: pd.DataFrame
    attempts: pd.DataFrame
    skips: pd.DataFrame
    published: list[dict[str, Any]] = field(default_factory=list)
    rungs: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=COLUMNS["rungs"]))

    def __post_init__(self) -> None:
        object.__setattr__(self, "study", _checked_study(self.study))
        for name in COLUMNS:
            object.__setattr__(self, name, _checked_frame(name, getattr(self, name)))
        unknown = sorted(set(self.trials["status"]) - set(STATUSES))
        if unknown:
            raise ValueError(f"trials.status has {unknown[0]!r}; it is one of {', '.join(STATUSES)}")
        odd = sorted(set(self.rungs["decision"].astype(str)) - set(DECISIONS))
        if odd:
            raise ValueError(f"rungs.decision has {odd[0]!r}; it is one of {', '.join(DECISIONS)}")
        for name in ("arms", "trials"):
            key = self.__dict__[name][f"{name[:-1]}_id"]
            if key.duplicated().any():
                raise ValueError(f"{name} lists {key[key.duplicated()].iloc[0]!r} twice")
        arms = self.arms
        defaults = {"trained_id": arms["arm_id"], "trained_label": arms["label"]}
        object.__setattr__(self, "arms", arms.assign(**{k: v for k, v in defaults.items() if k not in arms}))
        confirm = self.trials["confirm"].eq(True) if "confirm" in self.trials else False
        object.__setattr__(self, "trials", self.trials.assign(confirm=confirm))
        for name in ("measurements", "artifacts"):
            if "declared" not in (frame := self.__dict__[name]):
                object.__setattr__(self, name, frame.assign(declared=None))

    @classmethod
    def from_mapping(cls, parts: Mapping[str, Any]) -> StudyFrames:
        """Build from a mapping of the field names; frames that are missing or None are empty.

        Raises:
            ValueError: as for the class, or a part is not one of its fields.
        """
        names = {f.name for f in fields(cls)}
        if unknown := sorted(set(parts) - names):
            raise ValueError(f"a study has no part {unknown[0]!r}; its parts are {', '.join(sorted(names))}")
        frames = {name: parts.get(name) for name in COLUMNS}
        full = {k: pd.DataFrame(columns=COLUMNS[k]) if v is None else v for k, v in frames.items()}
        return cls(study=parts.get("study") or {}, published=list(parts.get("published") or []), **full)

    @property
    def lower_is_better(self) -> bool:
        """True when a smaller value of the study's metric is the better one."""
        return bool(self.study["metric"]["mode"] == "min")

    @property
    def baseline(self) -> str | None:
        """The arm all others are compared with, or None when the study names none that exists."""
        arm = self.study.get("baseline_arm_id")
        return str(arm) if arm is not None and (self.arms["arm_id"] == arm).any() else None

    def label(self, arm_id: str) -> str:
        """The label of an arm, or of what was trained for several; the id of what has none."""
        return self.labels.get(arm_id) or self.trained_labels.get(arm_id, arm_id)

    @cached_property
    def declares(self) -> bool:
        """Whether it was recorded which numbers the arms ask for."""
        return bool(self.measurements["declared"].notna().any())

    @cached_property
    def trained(self) -> dict[str, str]:
        """``arm_id -> trained_id``: equal for arms that are measured from the same trials; alone, the arm's own id."""
        return {str(a): str(t) for a, t in self.arms[["arm_id", "trained_id"]].values}

    @cached_property
    def trained_labels(self) -> dict[str, str]:
        """``trained_id -> label`` of what was trained, in the order of the arms."""
        found = {r.arm_id: (str(r.trained_id), str(r.trained_label)) for r in records(self.arms)}
        return dict(found[arm] for arm in self.ordered)

    def trials_of(self, arm_id: str) -> pd.DataFrame:
        """The trials an arm is measured from; those run to confirm it stand apart."""
        return self.trials.iloc[self._places.get(self.trained[arm_id], [])]

    @cached_property
    def _places(self) -> dict[str, list[int]]:
        """trained_id -> where its trials stand, those run to confirm left out."""
        found: dict[str, list[int]] = {}
        for i, (key, confirm) in enumerate(self.trials[["arm_id", "confirm"]].to_numpy(dtype=object).tolist()):
            if not confirm:
                found.setdefault(key, []).append(i)
        return found

    @cached_property
    def ordered(self) -> list[str]:
        """The arms as the space lists them: the baseline, then plan by plan and position by position."""
        rows = self.study_arms
        first = {plan: i for i, plan in reversed(list(enumerate(rows["plan"])))}
        place: dict[str, tuple[int, float]] = {}
        for r in records(rows):  # an arm of several plans stands where the first of them puts it
            here = (first[r.plan], r.position)
            place[r.arm_id] = min(place.get(r.arm_id, here), here)
        end = (len(rows), 0.0)
        return sorted(self.arms["arm_id"], key=lambda a: (a != self.baseline, *place.get(a, end)))

    @cached_property
    def labels(self) -> dict[str, str]:
        """``arm_id -> label``, all different."""
        raw = {
            a: str(lb) if isinstance(lb, str) and lb.strip() else str(a)
            for a, lb in self.arms[["arm_id", "label"]].values
        }
        counts = Counter(raw.values())
        return {a: lb if counts[lb] == 1 else f"{lb} ({a[:6]})" for a, lb in raw.items()}

    @cached_property
    def namesakes(self) -> list[list[str]]:
        """Names of one arm inside one plan, where it has several: they compute the same and were trained once."""
        rows = self.study_arms.sort_values(["plan", "position"], kind="stable")
        names = rows.groupby(["arm_id", "plan"], sort=False)["label"].agg(lambda labels: list(dict.fromkeys(labels)))
        several = [[str(label) for label in found] for found in names if len(found) > 1]
        return [list(names) for names in dict.fromkeys(map(tuple, several))]

    def axes(self, plan: str, kind: str) -> pd.DataFrame:
        """The rows of one plan of one kind, by position."""
        rows = self.study_arms
        return rows[(rows["plan"] == plan) & (rows["kind"] == kind)].sort_values("position", kind="stable")


def _checked_study(study: Mapping[str, Any]) -> dict[str, Any]:
    full: dict[str, Any] = {
        "name": "study",
        "question": "",
        "baseline_arm_id": None,
        "margin": 0.02,
        "alpha": 0.05,
        "space_yaml": "",
    }
    full |= {"created_at": None, "version": None}
    full |= {k: v for k, v in study.items() if v is not None}
    declared = full.get("metric") or {}
    metric = {"name": declared} if isinstance(declared, str) else dict(declared)
    full["metric"] = {"name": "", "mode": "min", "at": "last"} | {k: v for k, v in metric.items() if v is not None}
    if full["metric"]["mode"] not in ("min", "max"):
        raise ValueError(f"study.metric.mode is 'min' or 'max', got {full['metric']['mode']!r}")
    at = full["metric"]["at"]
    if isinstance(at, int) and not isinstance(at, bool):  # as a plan writes the step
        at = full["metric"]["at"] = {"step": at}
    if at not in ("last", "best") and not (isinstance(at, Mapping) and isinstance(at.get("step"), int)):
        raise ValueError(f"study.metric.at is 'last', 'best' or {{step: N}}, got {at!r}")
    if not 0 < float(full["alpha"]) < 0.5:
        raise ValueError(f"study.alpha lies between 0 and 0.5, got {full['alpha']!r}")
    if float(full["margin"]) < 0:
        raise ValueError(f"study.margin is not negative (0: no equivalence verdicts), got {full['margin']!r}")
    return full


def _checked_frame(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    if missing := [c for c in COLUMNS[name] if c not in frame.columns]:
        raise ValueError(f"the frame {name} lacks the column {missing[0]!r}; it needs {', '.join(COLUMNS[name])}")
    frame = frame.reset_index(drop=True).copy(deep=False)
    for column in COLUMNS[name]:
        given = frame[column]
        if column in NUMERIC:
            frame[column] = pd.to_numeric(given, errors="coerce").astype("float64")
            if name == "measurements" and column == "value":
                frame[column] = frame[column].where(frame[column].abs() < HUGE)
        elif column.endswith("_id") and not (isinstance(given.dtype, pd.StringDtype) and given.notna().all()):
            frame[column] = [str(v) for v in given]  # one by one: a large study has a million of them
    return frame


def records(frame: pd.DataFrame) -> list[Any]:
    """The rows of a frame, each with its columns as attributes."""
    row = namedtuple("Row", list(frame.columns), rename=True)  # type: ignore[misc]  # columns are known at run time
    columns = (frame[name].to_numpy(dtype=object).tolist() for name in frame.columns)  # texts of arrow, all at once
    return list(map(row._make, zip(*columns, strict=True)))


def definition(text: Any) -> dict[str, Any]:
    """A definition as a mapping, whether it came as JSON text or as one; what is neither becomes ``{"text": ...}``."""
    if isinstance(text, Mapping):
        return dict(text)
    try:
        parsed = json.loads(text)
    except (TypeError, ValueError):
        return {"text": str(text)}
    return parsed if isinstance(parsed, dict) else {"text": str(text)}


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings with dotted keys: ``{"a": {"b": 1}} -> {"a.b": 1}``; lists stay whole."""
    out: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping) and value:
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out


def field_diff(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Field by field, where two definitions differ: ``(dotted name, in a, in b)``, sorted; an absent field is None."""
    left, right = flat(a), flat(b)
    return [(k, left.get(k), right.get(k)) for k in sorted({*left, *right}) if left.get(k) != right.get(k)]


def metric_title(name: str, defined: Mapping[str, Any] | None = None) -> str:
    """The name to print: never "FID" for anything but FID."""
    title = METRIC_NAMES.get(name, name or "the metric")
    samples = (defined or {}).get("samples", (defined or {}).get("num_samples", (defined or {}).get("n_samples")))
    return f"{title}, {samples:,} samples" if isinstance(samples, int) else title


def counting(frames: StudyFrames, rows: pd.DataFrame, *, confirm: bool = False) -> pd.DataFrame:
    """The measurements of finished trials at the steps that may count, by the study's ``metric.at``.

    Args:
        rows: measurements of one metric identity.
        confirm: those of trials that were run to confirm a pick, instead of all others.
    """
    mine = (frames.trials["status"] == DONE) & (frames.trials["confirm"] == confirm)
    done = set(frames.trials.loc[mine, "trial_id"])
    rows = rows[rows["trial_id"].isin(done)]
    at = frames.study["metric"]["at"]
    if isinstance(at, Mapping):
        rows = rows[rows["step"] == at["step"]]
    elif at == "last":
        rows = rows[rows["step"] == rows.groupby(["trial_id", "arm_id"])["step"].transform("max")]
    return rows


def scale_of(rows: pd.DataFrame) -> Literal["log", "linear"]:
    """``log`` where every finite value is positive: one draw that is not puts all of a study on the linear scale."""
    values = rows["value"].to_numpy(dtype=np.float64)
    return "log" if (values[np.isfinite(values)] > 0).all() else "linear"


def final_values(frames: StudyFrames, rows: pd.DataFrame, scale: str, *, confirm: bool = False) -> pd.DataFrame:
    """One row per finished trial and arm measured from it: the value that counts, by the study's ``metric.at``.

    Draws of one step are averaged on the scale of the analysis. A value of None or NaN at the step that counts stays
    NaN: an earlier, better-looking step never stands in for it.

    Args:
        frames: the study.
        rows: its measurements of one metric identity.
        scale: that of all values that are compared, see `scale_of`.
        confirm: the values of trials that were run to confirm a pick, instead of all others.

    Returns:
        ``trial_id, arm_id, seed, step, value``.
    """
    rows, at = counting(frames, rows, confirm=confirm), frames.study["metric"]["at"]
    grouped = rows.groupby(["trial_id", "arm_id", "seed", "step"], sort=True)["value"]
    values = grouped.agg(lambda draws: _mean_of_draws(draws, scale)).reset_index()
    if at == "best" and len(values):
        order = values.sort_values("value", ascending=frames.lower_is_better, kind="stable", na_position="last")
        values = order.groupby(["trial_id", "arm_id"], sort=True).head(1).sort_values(["trial_id", "arm_id"])
    return values.reset_index(drop=True)


def _mean_of_draws(values: Iterable[float], scale: str) -> float:
    drawn = np.asarray(list(values), dtype=np.float64)
    if not np.isfinite(drawn).all() or (scale == "log" and (drawn <= 0).any()):
        return float("nan")
    return float(np.exp(np.log(drawn).mean()) if scale == "log" else drawn.mean())
