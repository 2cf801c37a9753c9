"""The four verdicts and the sentence of every state a study can be in."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ablate_reports.verdicts import Compared, Situation, headline, judge, marker, remarks

NORMAL = Situation(
    metric="FID", baseline="the baseline fm", baseline_problem="", planned=9, final=9, done=9, diverged=0, failed=0,
    measured=9,
    arms_measured=3, lowest=("esc", "5.7"), compared=(), no_spread=False, level="95%", margin="±2%",
    resolution="3.1%", tied=(),
)  # fmt: skip


def arm(label: str, verdict: Any, estimate: float = 0.0, interval: str | None = "a to b", n: int = 3) -> Compared:
    return Compared(label, verdict, estimate, f"{100 * estimate:+.0f}%", interval, n, 3)


def state(*compared: Compared, **changes: Any) -> Situation:
    return dataclasses.replace(NORMAL, compared=compared, **changes)


@pytest.mark.parametrize(
    ("low", "high", "margin", "said"),
    [
        (-0.2, -0.1, 0.02, "better"),
        (0.1, 0.2, 0.02, "worse"),
        (-0.01, 0.01, 0.02, "equivalent"),
        (-0.01, 0.03, 0.02, "inconclusive"),
        (-0.01, 0.01, None, "inconclusive"),
        (-0.01, 0.01, 0.0, "inconclusive"),
        (-0.015, -0.001, 0.02, "better"),
        (0.0, 0.01, 0.02, "equivalent"),
        (-0.02, 0.01, 0.02, "inconclusive"),
        (None, None, 0.02, "inconclusive"),
        (float("nan"), 1.0, 0.02, "inconclusive"),
    ],
)
def test_an_interval_is_judged_by_zero_and_the_margin(low: Any, high: Any, margin: Any, said: str) -> None:
    assert judge(low, high, margin) == said


def test_a_metric_to_be_maximised_turns_the_verdict_and_the_arrow() -> None:
    assert judge(0.1, 0.2, 0.02, lower_is_better=False) == "better"
    assert judge(-0.2, -0.1, 0.02, lower_is_better=False) == "worse"
    assert (marker("better"), marker("better", lower_is_better=False)) == ("▼", "▲")
    assert (marker("equivalent"), marker("inconclusive")) == ("≈", "?")


@pytest.mark.parametrize(
    ("situation", "sentence"),
    [
        (state(planned=0, final=0, done=0, measured=0), "Nothing has been planned or run in this study."),
        (
            state(done=0, failed=7, diverged=2, measured=0, arms_measured=0, lowest=None),
            "No trial finished (7 failed, 2 diverged), so no value of the FID exists.",
        ),
        (
            state(done=0, final=0, measured=0, arms_measured=0, lowest=None),
            "0 of 9 trials finished so far: nothing is measured yet.",
        ),
        (state(measured=0, arms_measured=0, lowest=None), "No value of the FID was measured in 9 finished trials."),
        (state(arms_measured=1), "One arm has values, so there is nothing to compare: FID 5.7 (esc)."),
        (state(baseline=None), "No baseline is named, so nothing is compared; the lowest FID is 5.7 (esc)."),
        (
            state(baseline_problem="failed or diverged in every trial"),
            "No comparison is possible, because the baseline fm failed or diverged in every trial; the lowest "
            "FID is 5.7 (esc).",
        ),
        (
            state(arm("esc", "inconclusive", interval=None), no_spread=True),
            "No verdict: all seeds of an arm gave identical values, so there is no noise to judge by; the lowest "
            "FID is 5.7 (esc).",
        ),
        (
            state(arm("esc", "inconclusive", interval=None)),
            "No verdict, because no arm can be compared over two seeds or more (values only); the lowest FID is "
            "5.7 (esc).",
        ),
        (
            state(arm("ct", "worse", 0.2), arm("esc", "better", -0.3), arm("imm", "better", -0.1)),
            "esc beats the baseline fm: -30% (95% simultaneous interval a to b, 3 seeds) in FID.",
        ),
        (
            state(arm("esc", "better", -0.3, n=2)),
            "esc beats the baseline fm: -30% (95% simultaneous interval a to b, 2 against 3 seeds) in FID.",
        ),
        (state(arm("ct", "equivalent"), arm("esc", "equivalent")),
        "All 2 other arms are equivalent to the baseline fm within ±2% in FID."),
        (state(arm("ct", "worse", 0.2)), "The one other arm is worse than the baseline fm in FID."),
        (
            state(arm("ct", "inconclusive"), arm("esc", "inconclusive")),
            "No difference to the baseline fm is resolved in FID; differences below about 3.1% cannot be seen at "
            "this size.",
        ),
        (
            state(arm("ct", "worse", 0.2), arm("esc", "inconclusive"), arm("x", "equivalent")),
            "No arm beats the baseline fm in FID: 1 equivalent, 1 inconclusive, 1 worse.",
        ),
        (
            state(arm("esc", "better", -0.3), final=5, done=4),
            "4 of 9 trials finished so far: esc beats the baseline fm: -30% (95% simultaneous interval a to b, 3 "
            "seeds) in FID.",
        ),
    ],
)  # fmt: skip
def test_every_state_of_a_study_has_its_sentence(situation: Situation, sentence: str) -> None:
    assert headline(situation) == sentence


def test_an_arm_without_a_value_is_not_among_all_others() -> None:
    worse = arm("ct", "worse", 0.1)
    assert (
        headline(state(worse, worse, others=3))
        == "All 2 arms that can be compared are worse than the baseline fm in FID."
    )
    assert headline(state(worse, others=2)) == "The one arm that can be compared is worse than the baseline fm in FID."
    assert headline(state(worse, others=1)) == "The one other arm is worse than the baseline fm in FID."
    running = headline(state(worse, others=1, planned=10))
    assert running == "9 of 10 trials finished so far: the one other arm is worse than the baseline fm in FID."


def test_arms_of_one_seed_are_not_called_inconclusive() -> None:
    mixed = state(arm("ct", "worse", 0.2), arm("esc", "inconclusive", interval=None))
    assert headline(mixed) == "No arm beats the baseline fm in FID: 1 worse, 1 without an interval."
    assert remarks(mixed)[0] == "Against the baseline fm, of 2 arms: 1 worse, 1 without an interval."


def test_a_metric_to_be_maximised_names_the_largest_effect_and_the_highest_value() -> None:
    up = state(arm("a", "better", 0.1), arm("b", "better", 0.4), lower_is_better=False)
    assert headline(up).startswith("b beats the baseline fm: +40%")
    assert "the highest FID is" in headline(state(baseline=None, lower_is_better=False))


def test_the_remarks_tally_name_ties_and_count_the_lost() -> None:
    said = " ".join(
        remarks(
            state(
                arm("a", "better", -0.1), arm("b", "better", -0.2), arm("c", "worse", 0.2), done=7, failed=1, diverged=1
            )
        )
    )
    assert "Against the baseline fm, of 3 arms: 2 better, 1 worse." in said
    assert "confirm it on fresh seeds" in said
    assert "1 failed and 1 diverged of 9 trials: means are over the survivors." in said
    tied = " ".join(remarks(state(arm("a", "better", -0.1), arm("b", "better", -0.2), tied=("a", "b"))))
    assert "Not told apart from the best: a, b." in tied


def test_a_running_study_does_not_complain_about_survivors() -> None:
    assert not any("survivors" in r for r in remarks(state(arm("a", "better", -0.1), final=5, done=4, failed=1)))
