"""Lost trials by level: Fisher's exact test, Holm's correction, and sentences that say no more than that."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from scipy import stats
from simulated_study import study
from statsmodels.stats.multitest import multipletests

from ablate_reports.accounting import by_level, sentences
from ablate_reports.data import DONE, StudyFrames

LEVELS = [(p, v) for p in ("linear", "cosine", "trig") for v in ("u", "v")]


def grid_study(status: dict[tuple[str, int], str], seeds: int = 4) -> StudyFrames:
    effects = {f"{p}-{v}": 0.0 for p, v in LEVELS}
    members = [
        (f"{p}-{v}", "design", "grid", i, f"{p}/{v}", {"path": p, "velocity": v}) for i, (p, v) in enumerate(LEVELS)
    ]
    frames = study(effects, seeds, members=members, status=status)
    rows = frames.study_arms
    plans = rows.loc[rows["kind"] == "grid"].reset_index(drop=True)
    return StudyFrames(
        study=frames.study, study_arms=plans,
        **{n: getattr(frames, n) for n in frames.__dataclass_fields__ if n not in ("study", "study_arms")},
    )  # fmt: skip


def measured(frames: StudyFrames) -> set[str]:
    return set(frames.trials.loc[frames.trials["status"] == DONE, "trial_id"])


def test_a_level_that_loses_trials_is_named_with_its_numbers() -> None:
    lost = {(f"trig-{v}", s): "diverged" for v in "uv" for s in range(4)} | {("linear-u", 0): "failed"}
    frames = grid_study(lost)
    counts = by_level(frames, measured(frames))
    assert [(c.axis, c.level) for c in counts] == [
        ("path", "linear"), ("path", "cosine"), ("path", "trig"), ("velocity", "u"), ("velocity", "v"),
    ]  # fmt: skip
    trig = counts[2]
    assert (trig.planned, trig.final, trig.failed, trig.diverged, trig.missing) == (8, 8, 0, 8, 8)
    assert (trig.others_lost, trig.others_final) == (1, 16)
    assert trig.p == pytest.approx(stats.fisher_exact([[8, 0], [1, 15]], alternative="greater").pvalue, rel=1e-12)
    holm = multipletests([c.p for c in counts], method="holm")[1]
    assert [c.p_family for c in counts] == pytest.approx(list(holm), rel=1e-10)
    assert sentences(counts) == [
        "path = trig diverges more often: 8 of 8 trials against 1 of 16 (Fisher exact, Holm, p = 6.1e-05)."
    ]


def test_few_losses_blame_nobody_and_none_say_nothing() -> None:
    frames = grid_study({("trig-u", 0): "failed"})
    [text] = sentences(by_level(frames, measured(frames)))
    assert text.startswith("No level of any axis is shown to lose trials more often")
    frames = grid_study({})
    counts = by_level(frames, measured(frames))
    assert [c.p for c in counts] == [None] * 5
    assert sentences(counts) == []


def test_trials_that_still_run_count_as_neither() -> None:
    frames = grid_study({("trig-u", 0): "running", ("trig-u", 1): "planned", ("trig-v", 0): "failed"})
    counts = {c.level: c for c in by_level(frames, measured(frames))}
    assert (counts["trig"].planned, counts["trig"].final, counts["trig"].lost) == (8, 6, 1)


def test_a_finished_trial_without_a_value_is_missing() -> None:
    frames = grid_study({})
    counts = {c.level: c for c in by_level(frames, measured(frames) - {"trial-trig-u-0"})}
    assert (counts["trig"].missing, counts["trig"].lost, counts["linear"].missing) == (1, 0, 0)


def test_an_axis_that_is_only_measured_in_several_ways_has_no_trials_of_its_own() -> None:
    frames = grid_study({("trig-u", 0): "failed"})
    arms = frames.arms.assign(trained_id=frames.arms["arm_id"])
    twice = arms.assign(arm_id=arms["arm_id"] + "-4", label=arms["label"] + "/4")
    ways = [
        frames.study_arms.assign(
            arm_id=frames.study_arms["arm_id"] + suffix,
            choice=[json.dumps({**json.loads(c), "nfe": nfe}) for c in frames.study_arms["choice"]],
        )
        for suffix, nfe in (("", "1"), ("-4", "4"))
    ]
    both = StudyFrames(
        study=frames.study, arms=pd.concat([arms, twice]), study_arms=pd.concat(ways),
        **{n: getattr(frames, n) for n in frames.__dataclass_fields__ if n not in ("study", "arms", "study_arms")},
    )  # fmt: skip
    counts = {(c.axis, c.level): c for c in by_level(both, measured(both))}
    assert (counts["path", "trig"].planned, counts["path", "trig"].lost) == (8, 1), "six arms twice, eight trials"
    assert counts["nfe", "1"].planned == 0
    assert counts["nfe", "1"].p is None
