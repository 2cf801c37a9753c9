"""SYNTHETIC studies for tests and benchmarks: drawn from a random generator, results of no model whatever."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablate_reports import render_html
from ablate_reports.data import COLUMNS, StudyFrames

EFFECTS = {"fm": 0.0, "ct": -1.1, "scd": -1.0, "imm": -1.25, "sct": -1.3, "meanflow": -1.6, "esc": -1.75}
METRIC = {
    "name": "fd_digits",
    "extractor": "digits_classifier",
    "weights_sha256": "synthetic",
    "samples": 1797,
    "dtype": "float64",
}
CONDITION = {"nfe": 1, "guidance": 1.0, "sampler": "auto", "ema": 0.999}


def png(width: int, height: int, seed: int) -> bytes:
    """A grey-scale PNG of random blobs."""
    rng = np.random.default_rng(seed)
    image = (np.kron(rng.random((height // 8, width // 8)), np.ones((8, 8))) * 255).astype(np.uint8)
    raw = b"".join(b"\0" + row.tobytes() for row in image)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def study(
    effects: dict[str, float] | None = None,
    seeds: int = 3,
    *,
    noise: float = 0.05,
    seed_noise: float = 0.05,
    level: float = 120.0,
    steps: int = 2000,
    points: int = 40,
    every: int = 500,
    labels: dict[str, str] | None = None,
    status: dict[tuple[str, int], str] | None = None,
    pictures: Path | None = None,
    rng_seed: int = 11,
    members: list[tuple[str, str, str, int, str, dict[str, str]]] | None = None,
    parts: dict[str, Any] | None = None,
    **study_fields: Any,
) -> StudyFrames:
    """A synthetic study: ``log(value) = log(level) + effect + seed effect + noise``; the first arm is the baseline.

    Args:
        members: further memberships ``(arm, plan, kind, position, label, choice)``.
        parts: whole frames or lists that replace the simulated ones.
    """
    rng = np.random.default_rng(rng_seed)
    effects = EFFECTS if effects is None else effects
    status, labels, base = status or {}, labels or {}, next(iter(effects))
    of_seed = rng.normal(0, seed_noise, seeds)
    arms, plans, trials, measured, curves, pieces, attempts = [], [], [], [], [], [], []
    for position, (name, effect) in enumerate(effects.items()):
        arm = f"arm-{name}"
        label = labels.get(name, name)
        arms.append((arm, label, json.dumps({"objective": {"name": name}}), 123_456))
        plans.append((arm, "methods", "list", position, label, "objective", name, json.dumps({"objective": name})))
        for s in range(seeds):
            trial, state = f"trial-{name}-{s}", status.get((name, s), "done")
            value = level * np.exp(effect + of_seed[s] + rng.normal(0, noise))
            done = steps if state == "done" else 0 if state == "planned" else steps // 2
            reason = {"failed": "RuntimeError: out of memory", "diverged": "loss is not finite at step 900"}.get(state)
            cost = 0.0 if state == "planned" else float(20 + rng.random()) * (1 + 0.02 * position)
            trials.append(
                (trial, arm, s, state, reason, steps, done, cost, 1.9 * cost, 0.0, 310.0, int(state != "planned"))
            )
            if state == "planned":
                continue
            attempts.append(
                (trial, 0, "synthetic-host", "cpu", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z", state, reason)
            )
            for step in range(every, done + 1, every):
                v = value * (1 + 2.5 * np.exp(-step / (0.3 * steps)))
                measured.append((trial, arm, s, "mid000000001", "fd_digits", "cid000000001", step, 0, 1797, v, 1.0))
            at = np.linspace(1, max(done, 1), points).round()
            loss = (1 + position) * (0.2 + np.exp(-at / (0.2 * steps))) * np.exp(rng.normal(0, 0.05, points))
            curves.append(
                pd.DataFrame({"trial_id": trial, "arm_id": arm, "seed": s, "step": at, "name": "loss", "value": loss})
            )
            if pictures is not None:
                path = pictures / f"{trial}.png"
                path.write_bytes(png(64, 64, position * 100))
                pieces.append((trial, arm, s, "samples", done, str(path), "image/png", 64, 64, 8, 8))

    for name, plan, kind, position, label, choice in members or []:
        plans.append((f"arm-{name}", plan, kind, position, label, None, None, json.dumps(choice)))

    def frame(name: str, rows: list[Any]) -> pd.DataFrame:
        return pd.DataFrame(rows, columns=list(COLUMNS[name]))

    fields = {
        "name": "objectives (synthetic)", "question": "Which one-step objective is best on synthetic numbers?",
        "baseline_arm_id": f"arm-{base}", "metric": {"name": "fd_digits", "mode": "min", "at": "last"}, "margin": 0.02,
        "alpha": 0.05, "space_yaml": "ablate: 1\nname: objectives\n", "created_at": "2026-01-01T00:00:00Z",
        "version": "0.1.0",
    }  # fmt: skip
    simulated: dict[str, Any] = dict(
        arms=frame("arms", arms), study_arms=frame("study_arms", plans), trials=frame("trials", trials),
        measurements=frame("measurements", measured),
        curves=pd.concat(curves, ignore_index=True) if curves else frame("curves", []),
        artifacts=frame("artifacts", pieces),
        metric_defs=frame("metric_defs", [("mid000000001", "fd_digits", json.dumps(METRIC), False)]),
        conditions=frame("conditions", [("cid000000001", json.dumps(CONDITION))]),
        environments=frame("environments", [("env-1", json.dumps({"torch": "synthetic", "git": {"sha": "0" * 40,
        "dirty": False}}))]),
        attempts=frame("attempts", attempts),
        skips=frame("skips", [("methods", "imm on cosine", "the method is derived for the linear path")]),
        published=[],
    )  # fmt: skip
    return StudyFrames(study=fields | study_fields, **(simulated | (parts or {})))


def study_of(values: Mapping[str, Mapping[int, float | Sequence[float]]], **more: Any) -> StudyFrames:
    """A study of exactly these trials: arm -> seed -> value at the last step, or its draws."""
    frames = study(dict.fromkeys(values, 0.0), 1 + max(s for seeds in values.values() for s in seeds), **more)
    drawn = [
        (f"trial-{arm}-{seed}", draw, value)
        for arm, seeds in values.items()
        for seed, some in seeds.items()
        for draw, value in enumerate([some] if isinstance(some, float | int) else some)
    ]
    last = frames.measurements[frames.measurements["step"] == frames.measurements["step"].max()]
    rows = last.drop(columns=["draw", "value"]).merge(pd.DataFrame(drawn, columns=["trial_id", "draw", "value"]))
    kept = {name: getattr(frames, name) for name in COLUMNS} | {"measurements": rows}
    for name in ("trials", "attempts", "curves", "artifacts"):
        kept[name] = kept[name][kept[name]["trial_id"].isin(rows["trial_id"])]
    return StudyFrames(study=frames.study, **kept)


PATH = {"A": 0.0, "B": -0.045, "C": -0.06, "D": -0.062, "E": -0.14}
GRID = {
    "linear-l2": 0.0,
    "linear-huber": -0.02,
    "cosine-l2": 0.11,
    "cosine-huber": 0.05,
    "trig-l2": 0.08,
    "trig-huber": 0.3,
}


def rich_study(pictures: Path | None = None, **more: Any) -> StudyFrames:
    """Every kind of content at once: a path, a grid, lost trials, a second identity, published numbers."""
    names = {
        "A": "baseline",
        "B": "+ adaptive loss",
        "C": "+ plug-in velocity",
        "D": "+ class batches",
        "E": "+ gradual times",
    }
    members = [("A", "walk", "cumulative", 0, "baseline", {})]
    members += [(k, "walk", "cumulative", i, names[k], {}) for i, k in enumerate(PATH) if i]
    members += [
        (k, "design", "grid", i, k, dict(zip(("schedule", "loss"), k.split("-"), strict=True)))
        for i, k in enumerate(GRID)
    ]
    lost = {
        ("trig-l2", 1): "failed",
        ("trig-huber", 0): "diverged",
        ("trig-huber", 1): "diverged",
        ("trig-huber", 2): "diverged",
    }
    published = [{"arm": "E", "metric": "FID-50k", "value": 2.9, "source": "an invented paper", "note": "synthetic"}]
    first = study(
        {**PATH, **GRID},
        4,
        noise=0.012,
        seed_noise=0.01,
        level=6.1,
        labels=names,
        status=lost,
        members=members,
        pictures=pictures,
    )
    other = first.measurements.assign(cond_id="cid000000002", value=first.measurements["value"] * 0.7)
    conditions = pd.concat(
        [
            first.conditions,
            pd.DataFrame([("cid000000002", json.dumps(CONDITION | {"nfe": 4}))], columns=["cond_id", "definition"]),
        ]
    )
    parts = {f: getattr(first, f) for f in COLUMNS} | {"published": published, "conditions": conditions}
    parts["measurements"] = pd.concat([first.measurements, other[other["arm_id"].isin(["arm-A", "arm-E"])]])
    return StudyFrames(study=dict(first.study) | {"name": "A path and a grid (synthetic)"} | more, **parts)


BASE = {"plug": "off", "batches": "iid", "gradual": "off", "stable": "off"}
FULL = {"plug": "p05", "batches": "same class", "gradual": "on", "stable": "on"}
WORTH = {("plug", "p05"): 0.05, ("plug", "p10"): 0.11, ("batches", "same class"): -0.03, ("gradual", "on"): -0.06,
         ("stable", "on"): -0.025}  # fmt: skip


def worth(levels: dict[str, str]) -> float:
    """Components add up on the log scale, but one: the plug-in velocity needs batches of one class."""
    total = sum(WORTH.get(pair, 0.0) for pair in levels.items())
    return total - 0.14 * (levels["plug"] != "off" and levels["batches"] != "iid")


def component_study(pictures: Path | None = None, seeds: int = 4, **more: Any) -> StudyFrames:
    """Four components around a baseline: one at a time, along a path, leaving one out, and two of them crossed."""
    places: list[tuple[str, str, int, str, str | None, str | None, dict[str, str], str | None]] = []
    places.append(("base", "base", 0, "MeanFlow", None, None, BASE, None))
    single = [("plug", "p05"), ("plug", "p10"), ("batches", "same class"), ("gradual", "on"), ("stable", "on")]
    for i, (axis, level) in enumerate(single, start=1):
        places.append(("one", "ofat", i, f"{axis}={level}", axis, level, {axis: level}, "MeanFlow"))
    places.append(("walk", "cumulative", 0, "MeanFlow", None, None, BASE, None))
    so_far: dict[str, str] = {}
    label, before = "", "MeanFlow"
    for i, (axis, level) in enumerate(FULL.items(), start=1):
        so_far, label = so_far | {axis: level}, f"{label} +{axis}".strip()
        places.append(("walk", "cumulative", i, label, axis, level, dict(so_far), before))
        before = label
    places.append(("without", "leave_one_out", 0, "full", None, None, FULL, None))
    for i, (axis, level) in enumerate(FULL.items(), start=1):
        rest = {a: v for a, v in FULL.items() if a != axis}
        places.append(("without", "leave_one_out", i, f"-{axis}", axis, level, rest, "full"))
    cells = [(p, b) for p in ("off", "p05", "p10") for b in ("iid", "same class")]
    for i, (p, b) in enumerate(cells):
        places.append(("cross", "grid", i, f"{p}/{b}", None, None, {"plug": p, "batches": b}, None))
    named = {json.dumps(BASE | choice): place for *place, choice, _ in places[::-1]}
    names = {key: str(named[key][3]) for key in dict.fromkeys(json.dumps(BASE | p[6]) for p in places)}
    short = {key: f"arm{i}" for i, key in enumerate(names)}
    frames = study(
        {short[key]: worth(json.loads(key)) for key in names}, seeds, noise=0.012, seed_noise=0.02, level=5.9,
        labels={short[key]: name for key, name in names.items()}, pictures=pictures, **more,
    )  # fmt: skip
    rows = [
        (f"arm-{short[json.dumps(BASE | choice)]}", plan, kind, i, label, axis, level, json.dumps(choice), before)
        for plan, kind, i, label, axis, level, choice, before in places
    ]
    arms = pd.DataFrame(rows, columns=[*COLUMNS["study_arms"], "baseline_label"])
    slow = {f"arm-{short[key]}": 1 + 0.3 * (json.loads(key)["plug"] != "off") for key in names}
    trials = frames.trials.assign(cpu_seconds=frames.trials["cpu_seconds"] * frames.trials["arm_id"].map(slow))
    skips = pd.DataFrame([("walk", "MeanFlow +muon", "the optimiser does not exist yet")], columns=COLUMNS["skips"])
    parts = {f: getattr(frames, f) for f in COLUMNS} | {"study_arms": arms, "trials": trials, "skips": skips}
    claims: list[Any] = [
        {"better": [FULL, BASE], "says": "All four together beat MeanFlow."},
        "plug=p05 is better than MeanFlow.",
        "stable=on is equivalent to MeanFlow within 2 %.",
        "Nobody can read this.",
    ]
    about = dict(frames.study) | {"name": "components (synthetic)", "claims": claims}
    return StudyFrames(study=about, **parts)


def random_pictures(frames: StudyFrames, kilobytes: int) -> StudyFrames:
    """The same study with pictures of a size that those of digits have: noise does not compress."""
    rng = np.random.default_rng(0)
    for path in frames.artifacts["path"]:
        Path(path).write_bytes(png(16, 16, 0) + rng.bytes(1000 * kilobytes))
    return frames


def other_identity() -> StudyFrames:
    """Two arms were measured with other weights: one of them only so."""
    f = study()
    rows, definition = f.measurements, json.dumps(METRIC | {"weights_sha256": "another"})
    other = rows[rows["arm_id"].isin(["arm-esc", "arm-imm"])].assign(metric_id="mid000000002")
    defs = pd.DataFrame([("mid000000002", "fd_digits", definition, False)], columns=list(COLUMNS["metric_defs"]))
    parts = {name: getattr(f, name) for name in COLUMNS}
    parts["measurements"] = pd.concat([rows[rows["arm_id"] != "arm-esc"], other])
    parts["metric_defs"] = pd.concat([f.metric_defs, defs])
    return StudyFrames(study=f.study, **parts)


def without_numbers() -> StudyFrames:
    """One arm's metric is NaN at the end, another's always."""
    f = study()
    gone = (f.measurements["arm_id"] == "arm-ct") | (
        (f.measurements["arm_id"] == "arm-esc") & (f.measurements["step"] == 2000)
    )
    parts = {name: getattr(f, name) for name in COLUMNS}
    return StudyFrames(
        study=f.study, **parts | {"measurements": f.measurements.assign(value=f.measurements["value"].mask(gone))}
    )


DEGENERATE: dict[str, StudyFrames] = {
    "empty": StudyFrames.from_mapping({"study": {"name": "new"}}),
    "one seed": study(seeds=1),
    "one seed of components": component_study(seeds=1),
    "one arm": study({"fm": 0.0}),
    "no spread": study(noise=0.0, seed_noise=0.0),
    "all failed": study({"fm": 0, "ct": -1}, status={(n, s): "failed" for n in ("fm", "ct") for s in range(3)}),
    "baseline diverged": study(status={("fm", s): "diverged" for s in range(3)}),
    "no baseline": study(baseline_arm_id=None),
    "running": study(status={("esc", s): "planned" for s in range(3)}),
    "metric not measured": study(metric={"name": "never_measured"}),
    "NaN": without_numbers(),
    "two identities": other_identity(),
}
"""Studies that a report must still be right and honest about."""


@cache
def degenerate_page(name: str) -> str:
    """The page of one of them; several modules of tests look at it."""
    return render_html(DEGENERATE[name])
