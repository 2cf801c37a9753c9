"""Studies of which little can be said: what each report says of them, and any frames whatever raise nothing."""

from __future__ import annotations

import html as markup
import json
import math
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from simulated_study import DEGENERATE, degenerate_page, study, study_of
from test_analysis import changed
from test_page import HOSTILE

from ablate_reports import StudyFrames, analyse, render_csv, render_html, render_json, render_markdown

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")  # nobody wants numpy's remarks in a terminal
METRIC = "Frechet distance on digit-classifier features (fd_digits), not FID"
SAID: dict[str, tuple[str, ...]] = {
    "empty": ("Nothing has been planned or run in this study.",),
    "one seed": (
        "No verdict, because no arm can be compared over two seeds or more (values only)",
        f"the lowest {METRIC} is 22.31 (esc).",
        "No interval: one seed for fm, ct, scd, imm, sct, meanflow, esc.",
    ),
    "one seed of components": (
        "No verdict, because no arm can be compared over two seeds or more (values only)",
        "without an interval, so nothing is judged",
    ),
    "one arm": (f"One arm has values, so there is nothing to compare: {METRIC} 130.6 (fm).",),
    "no spread": (
        "No verdict: all seeds of an arm gave identical values, so there is no noise to judge by",
        "Check that the seed reaches the training.",
    ),
    "all failed": (
        f"No trial finished (6 failed), so no value of the {METRIC} exists.",
        "6 of 6 trials failed, diverged or were lost",
        "RuntimeError: out of memory",
    ),
    "baseline diverged": (
        "No comparison is possible, because the baseline fm failed or diverged in every trial",
        "3 diverged of 21 trials: means are over the survivors.",
    ),
    "no baseline": ("No baseline is named, so nothing is compared",),
    "running": ("18 of 21 trials finished so far: meanflow beats the baseline fm",),
    "metric not measured": ("No value of the never_measured was measured in 21 finished trials.",),
    "NaN": ("of 4 arms: 4 better", "Finished without a usable value, so nothing is said of ct and esc."),
    "two identities": (
        "of 5 arms: 5 better",
        "Measured under another metric identity or condition only, so not compared: esc.",
        "metric.weights_sha256",
    ),
}
"""Study -> what its page must say."""
NO_VERDICT = ("empty", "one seed", "one seed of components", "one arm", "no spread", "all failed", "baseline diverged",
              "no baseline", "metric not measured")  # fmt: skip


def text_of(page: str) -> str:
    """What a reader sees, tags and scripts gone."""
    bare = re.sub(r"(?s)<(style|script).*?</\1>", "", page)
    return re.sub(r"\s+", " ", markup.unescape(re.sub(r"<[^>]+>", "", bare)))


@pytest.mark.parametrize("name", DEGENERATE)
def test_the_page_of_a_degenerate_study_says_so(name: str) -> None:
    seen = text_of(degenerate_page(name))
    for sentence in SAID[name]:
        assert sentence in seen
    if name in NO_VERDICT:
        assert not re.search(r"[▼▲≈] (better|worse|equivalent)\b(?! legend)", seen.split("Methods")[0])


@pytest.mark.parametrize("name", NO_VERDICT)
def test_no_verdict_is_written_anywhere_where_there_is_no_interval(name: str) -> None:
    document = json.loads(render_json(DEGENERATE[name]))
    assert {arm["verdict"] for arm in document["arms"]} <= {None}
    assert {s["verdict"] for steps in document["cumulative"].values() for s in steps} <= {None}
    assert not re.search(r",(better|worse|equivalent|inconclusive),", render_csv(DEGENERATE[name]))


def test_hostile_names_are_said_as_they_are_in_the_verdict_and_in_every_table() -> None:
    frames = study(labels=HOSTILE, question="</title><script>alert(3)</script>")
    seen = text_of(render_html(frames))
    for label in (
        "<script>alert(1)</script>",
        "</script><img src=x onerror=alert(2)>",
        "{{ 7*7 }} & \"quoted\" 'single'",
    ):
        assert label in seen
    assert "x" * 60 in seen
    assert " beats the baseline fm: −" in seen


FATES = ("done", "done", "done", "failed", "diverged", "planned", "running", "interrupted", "lost", "stopped")


def random_study(seed: int) -> StudyFrames:
    """Frames of any shape a store may hold: few or many arms, odd values, lost trials, plans of every kind."""
    rng = np.random.default_rng(seed)
    names = [f"a{i}" for i in range(int(rng.integers(1, 9)))]
    seeds = int(rng.integers(1, 6))
    odd = list(HOSTILE.values())
    labels = {n: str(rng.choice(odd)) if rng.random() < 0.2 else f"{n} {'%_$#&~^{}'[i]}" for i, n in enumerate(names)}
    status = {(n, s): str(rng.choice(FATES)) for n in names for s in range(seeds) if rng.random() < 0.3}
    kinds = ["grid", "ofat", "leave_one_out", "cumulative", "list", "random", "fractional"]
    members = [
        (n, f"p{k}", kinds[k], i, labels[n], {"x": str(i % 2), "y": str(rng.integers(3)), "z": str(rng.integers(2))})
        for k in rng.choice(len(kinds), 3, replace=False)
        for i, n in enumerate(names)
        if rng.random() < 0.8
    ]
    noise = float(rng.choice([0.0, 0.001, 0.05, 2.0]))
    frames = study(
        {n: float(rng.normal(0, 0.1)) for n in names}, seeds, noise=noise, seed_noise=float(rng.choice([0.0, 0.05])),
        labels=labels, status=status, members=members, rng_seed=seed, points=5,
        baseline_arm_id=None if rng.random() < 0.1 else f"arm-{rng.choice(names)}",
        metric={"name": "fd_digits", "mode": str(rng.choice(["min", "max"])),
                "at": rng.choice(np.array(["last", "best", {"step": 1000}], dtype=object))},
        margin=float(rng.choice([0.0, 0.02, 0.5])),
    )  # fmt: skip
    rows = frames.measurements
    value = rows["value"].to_numpy().copy()
    worth = [math.nan, 0.0, -3.0, 1e-300, 1e300, math.inf]
    for i in np.flatnonzero(rng.random(len(value)) < rng.choice([0.0, 0.05, 0.3])):
        value[i] = rng.choice(worth)
    twice = rows.sample(frac=0.3, random_state=seed).assign(draw=1)
    other = rows.sample(frac=0.2, random_state=seed + 1).assign(cond_id="another", step=rows["step"].max())
    rows = pd.concat([rows.assign(value=value), *([twice] if rng.random() < 0.3 else []),
                      *([other] if rng.random() < 0.3 else [])])  # fmt: skip
    parts: dict[str, Any] = {"measurements": rows}
    if rng.random() < 0.2:
        parts["trials"] = frames.trials.assign(confirm=rng.random(len(frames.trials)) < 0.3)
    if rng.random() < 0.2:
        parts["curves"] = frames.curves.assign(value=math.nan)
    return changed(frames, **parts)


def check(frames: StudyFrames) -> None:
    """Every format renders, nothing unreadable is printed, and no verdict stands without an interval."""
    document = json.loads(render_json(frames), parse_constant=lambda name: pytest.fail(f"{name} in report.json"))
    for arm in document["arms"]:
        assert (arm["verdict"] is None) == (arm["difference_low"] is None)
        if arm["difference_low"] is not None:
            assert arm["difference_low"] <= arm["difference"] <= arm["difference_high"]
    seen = text_of(render_html(frames))
    assert not re.search(r"(?<![\w.])(nan|NaN|NaT|None)(?![\w.])", seen)
    assert re.sub(r"\s+", " ", document["headline"]) in seen
    assert render_markdown(frames)
    assert render_csv(frames).count("\n") >= len(frames.arms) + 1


@pytest.mark.parametrize("bad", [50.0, 400.0])
def test_one_lost_seed_of_the_baseline_spoils_comparisons_and_no_report(bad: float) -> None:
    """Nine comparisons with it are then nearly one: the law of the largest of them had no root."""
    rng = np.random.default_rng(0)
    values = {f"x{i}": {s: (5 - 0.2 * i) * math.exp(0.005 * rng.normal()) for s in range(3)} for i in range(10)}
    values["x0"][2] = bad
    frames = study_of(values)
    check(frames)
    assert {r.verdict for r in analyse(frames).rows[1:]} == {"inconclusive"}


def test_one_noisy_arm_among_constant_ones_is_compared_with_them() -> None:
    """Recall saturates: its arms do not vary over seeds, and the page said so of the one that does."""
    rng = np.random.default_rng(1)
    values = {f"c{i:02}": {s: 0.9 + 0.001 * i for s in range(5)} for i in range(30)}
    values["noisy"] = {s: 0.5 * math.exp(0.1 * rng.normal()) for s in range(5)}
    a = analyse(study_of(values, metric={"name": "fd_digits", "mode": "max"}))
    row = a.by_id["arm-noisy"]
    assert row.contrast is not None
    assert (row.verdict, row.contrast.method, row.contrast.df) == ("worse", "welch", 4.0)
    assert row.contrast.se == pytest.approx(np.std(np.log(list(values["noisy"].values())), ddof=1) / math.sqrt(5))
    assert a.by_id["arm-c01"].verdict is None
    assert "The seeds of all other arms gave identical values, so these are not compared with each other." in a.notes
    check(a.frames)


def test_two_arms_that_share_no_seed_and_no_spread_make_a_page() -> None:
    """The larger spread is shut out of the pooled variance, and what is left is one arm: no plan for a new study."""
    steady = dict(enumerate((1.0, 1.0001, 0.9999, 1.00005, 0.99995)))
    frames = study_of({"base": steady, "x": dict(enumerate((2.0, 1.0, 3.5, 0.7, 9.0), start=5))})
    check(frames)
    assert analyse(frames).model.pooled == ("arm-base",)  # type: ignore[union-attr]
    noisy = study_of(
        {
            "base": dict(enumerate((2.0, 1.0, 3.5, 0.7, 9.0))),
            **{f"x{i}": {s: v + i for s, v in steady.items()} for i in range(8)},
        }
    )
    assert "the baseline's seeds spread more than the others'" in text_of(render_html(noisy)).replace("’", "'")


def test_values_whose_fourth_power_is_no_number_are_no_values() -> None:
    frames = study_of({"b": {0: -1e90, 1: 2e90, 2: 1.5e90}, "x": {0: 1e99, 1: 2e99, 2: 1.2e99}, "y": {0: 1.0, 1: 2.0}})
    check(frames)
    assert [r.n for r in analyse(frames).rows] == [0, 0, 2]


@pytest.mark.parametrize("seed", range(3))
def test_random_frames_raise_nothing(seed: int) -> None:
    check(random_study(seed))


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_hundreds_of_random_frames_raise_nothing() -> None:
    for seed in range(300):
        try:
            check(random_study(seed))
        except Exception as error:
            raise AssertionError(f"random_study({seed})") from error
