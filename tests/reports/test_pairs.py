"""Any two arms: the report's verdict against the baseline, Tukey's family elsewhere, and what cannot be compared."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from simulated_study import METRIC, other_identity, study
from test_analysis import changed

from ablate_reports import pairs
from ablate_reports.analysis import Analysis, analyse
from ablate_reports.data import StudyFrames
from ablate_reports.equivalence import equivalences
from ablate_reports.pairs import NotComparableError, apart, compare

PATTERN = np.array([-0.03, 0.01, 0.035, -0.015])
"""Residuals of every arm: equal spreads, so that no guard steps in."""


def one_way(**more: object) -> Analysis:
    """Five arms of four seeds each, no two of which share a seed: the one-way layout that scipy knows."""
    shifts = {"fm": 0.0, "ct": 0.02, "imm": -0.05, "sct": -0.07, "esc": -0.2}
    frames = study(shifts, 20, **more)  # type: ignore[arg-type]
    keep, trials, rows = [], frames.trials, frames.measurements
    numbers = {}
    for i, (name, shift) in enumerate(shifts.items()):
        for k in range(4):
            keep.append(f"trial-{name}-{4 * i + k}")
            numbers[keep[-1]] = math.exp(shift + PATTERN[(k + i) % 4])
    rows = rows[rows["trial_id"].isin(keep) & (rows["step"] == 2000)]
    rows = rows.assign(value=[numbers[t] for t in rows["trial_id"]])
    return analyse(changed(frames, trials=trials[trials["trial_id"].isin(keep)], measurements=rows))


def test_against_the_baseline_it_is_the_contrast_of_the_report() -> None:
    a = analyse(study())
    for row in a.rows:
        if row.baseline:
            continue
        pair = compare(a, row.arm_id, "arm-fm")
        assert (pair.contrast, pair.verdict) == (row.contrast, row.verdict)
        assert pair.equivalence == next(e for e in a.findings.equivalence if e.arm == row.arm_id)
        assert (pair.comparisons, pair.family) == (6, "6 arms against the baseline")
        back = compare(a, "arm-fm", row.arm_id).contrast
        assert row.contrast is not None
        assert row.contrast.low is not None
        assert (back.estimate, back.high) == (-row.contrast.estimate, -row.contrast.low)
    assert compare(a, "arm-fm", "arm-esc").verdict == "worse"


def test_any_other_pair_is_judged_as_tukey_would() -> None:
    a = one_way()
    assert a.model is not None
    assert not a.model.blocked
    arms = a.model.arms
    oracle = stats.tukey_hsd(*(list(a.model.values[arm].values()) for arm in arms))
    limits = oracle.confidence_interval(0.95)
    for i, arm in enumerate(arms[1:], start=1):
        for j, reference in enumerate(arms[1:], start=1):
            if i == j:
                continue
            c = compare(a, arm, reference).contrast
            assert c.estimate == pytest.approx(oracle.statistic[i, j], abs=1e-12)
            assert c.low == pytest.approx(limits.low[i, j], abs=2e-3 * (limits.high[i, j] - limits.low[i, j]))
            assert c.high == pytest.approx(limits.high[i, j], abs=2e-3 * (limits.high[i, j] - limits.low[i, j]))
            assert c.p_family == pytest.approx(oracle.pvalue[i, j], abs=5e-3)
    assert compare(a, "arm-esc", "arm-ct").verdict == "better"
    assert compare(a, "arm-sct", "arm-imm").verdict == "inconclusive"


def test_many_arms_are_judged_by_bonferroni_which_is_a_little_wider(monkeypatch: pytest.MonkeyPatch) -> None:
    a = one_way()
    joint = compare(a, "arm-esc", "arm-ct").contrast
    monkeypatch.setattr(pairs, "MANY", 2)
    bound = compare(a, "arm-esc", "arm-ct")
    assert bound.contrast.low is not None
    assert joint.low is not None
    assert 1.0 < (bound.contrast.estimate - bound.contrast.low) / (joint.estimate - joint.low) < 1.1
    assert bound.contrast.p_family == pytest.approx(10 * (bound.contrast.p or 0))
    assert (bound.comparisons, bound.contrast.note) == (10, "Bonferroni")
    turned = compare(a, "arm-ct", "arm-esc").contrast
    assert (turned.estimate, turned.high) == (-bound.contrast.estimate, -bound.contrast.low)


def test_the_only_pair_of_a_study_without_a_baseline_needs_no_correction() -> None:
    a = analyse(study({"fm": 0.0, "ct": 0.001}, 8, noise=0.01, baseline_arm_id=None))
    assert a.model is not None
    pair = compare(a, "arm-ct", "arm-fm")
    [alone] = equivalences(a.model, [("arm-ct", "arm-fm")], a.margin)
    assert pair.equivalence is not None
    for name in ("low", "high", "p", "p_family", "limit", "limit_family", "p_inferior", "p_inferior_family"):
        assert getattr(pair.equivalence, name) == pytest.approx(getattr(alone, name), rel=1e-9), name
    assert (pair.equivalence.equivalent, pair.equivalence.not_inferior) == (alone.equivalent, alone.not_inferior)
    assert pair.contrast.low == pytest.approx(pair.contrast.low_single)
    assert pair.family == "this comparison"


def test_the_baseline_is_not_worse_where_the_arm_is_not_better() -> None:
    a = analyse(study({"fm": 0.0, "ct": 0.4, "esc": -0.4}, 6, noise=0.01))
    worse, better = compare(a, "arm-fm", "arm-ct").equivalence, compare(a, "arm-fm", "arm-esc").equivalence
    assert worse is not None
    assert better is not None
    assert (worse.arm, worse.not_inferior, better.not_inferior) == ("arm-fm", True, False)
    assert worse.limit is not None
    assert worse.limit < 0, "the baseline is better than ct by at least this much"


def test_what_it_could_have_found_and_the_sentence_are_of_this_comparison() -> None:
    a = analyse(study(noise=0.02))
    pair = compare(a, "arm-esc", "arm-ct")
    assert pair.detectable is not None
    assert 0 < pair.detectable < abs(pair.contrast.estimate)
    assert pair.common == 3
    assert pair.sentence(a).startswith("esc is better than ct: −")
    assert "(95% simultaneous interval −" in pair.sentence(a)
    one = analyse(study(seeds=1))
    said = compare(one, "arm-esc", "arm-fm").sentence(one)
    assert said.endswith("no verdict (no interval: one seed).")


def test_an_arm_without_a_value_or_against_itself_is_refused() -> None:
    a = analyse(study(status={("esc", s): "failed" for s in range(3)}))
    with pytest.raises(NotComparableError, match="esc has no value of fd_digits to compare"):
        compare(a, "arm-esc", "arm-fm")
    with pytest.raises(NotComparableError, match="ct is compared with itself"):
        compare(a, "arm-ct", "arm-ct")


def test_numbers_of_another_identity_are_found_with_the_fields_that_differ() -> None:
    a = analyse(other_identity())
    [found] = apart(a)
    assert (found.arm, len(found.trials)) == ("arm-esc", 3)
    assert found.fields == (("metric.weights_sha256", METRIC["weights_sha256"], "another"),)
    assert apart(a, ["arm-imm", "arm-ct"]) == [], "imm has the identity that is compared, and another one beside it"
    assert apart(analyse(StudyFrames.from_mapping({}))) == []


def test_numbers_under_another_condition_are_found_too() -> None:
    f = study()
    rows = f.measurements
    moved = rows.assign(cond_id=rows["cond_id"].where(rows["arm_id"] != "arm-ct", "cid000000002"))
    conditions = f.conditions.iloc[[0, 0]].assign(
        cond_id=["cid000000001", "cid000000002"],
        definition=[f.conditions["definition"][0], f.conditions["definition"][0].replace('"nfe": 1', '"nfe": 4')],
    )
    [found] = apart(analyse(changed(f, measurements=moved, conditions=conditions)))
    assert (found.arm, found.fields) == ("arm-ct", (("condition.nfe", 1, 4),))
