"""Rank stability: Kendall's tau against scipy, its interval and what a cut loses against simulation, its refusals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from simulated_study import study
from test_analysis import changed

from ablate_reports import figures, rungs
from ablate_reports.analysis import analyse
from ablate_reports.data import COLUMNS
from ablate_reports.rungs import SURVIVORS, TOO_FEW, Rung, rank_stability, rung_values, speeds


def pair(arms: int, r: float, rng_seed: int) -> tuple[dict[str, float], dict[str, float]]:
    """Early and final values of correlation r and final spread 1."""
    rng = np.random.default_rng(rng_seed)
    final = rng.normal(0, 1, arms)
    early = r * final + math.sqrt(1 - r * r) * rng.normal(0, 1, arms)
    return ({f"a{i}": float(v) for i, v in enumerate(early)}, {f"a{i}": float(v) for i, v in enumerate(final)})


def test_tau_is_scipys_with_ties_too() -> None:
    early, final = pair(24, 0.8, 0)
    for rounded in (8, 0):
        x = {a: round(v, rounded) for a, v in early.items()}
        y = {a: round(v, rounded) for a, v in final.items()}
        found = rank_stability(x, y, 100)
        assert found.tau == pytest.approx(stats.kendalltau(list(x.values()), list(y.values())).statistic, rel=1e-12)


def test_direction_of_the_metric_does_not_matter_to_tau_but_to_what_is_kept() -> None:
    early, final = pair(24, 0.8, 1)
    down = rank_stability(early, final, 1)
    up = rank_stability({a: -v for a, v in early.items()}, {a: -v for a, v in final.items()}, 1, lower_is_better=False)
    assert (down.tau, down.lost, down.regret, down.best) == (up.tau, up.lost, up.regret, up.best)


@pytest.mark.parametrize(("r", "tau", "lost"), [(0.95, 0.80, 0.001), (0.8, 0.59, 0.054), (0.6, 0.41, 0.20)])
def test_the_numbers_of_the_study_notes_are_reproduced(
    r: float, tau: float, lost: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """24 arms, a third kept; tau = 2/pi asin r. Resampled studies lose the best somewhat more often (0.08 for 0.05)."""
    monkeypatch.setattr(rungs, "RESAMPLES", 300)
    found = [rank_stability(*pair(24, r, seed), 1) for seed in range(150)]
    assert tau == pytest.approx(2 / math.pi * math.asin(r), abs=0.01)
    assert np.mean([f.tau for f in found]) == pytest.approx(tau, abs=0.04)
    assert np.mean([f.lost for f in found]) == pytest.approx(lost + 0.02, abs=0.05)
    assert np.mean([not f.best_kept for f in found]) == pytest.approx(lost, abs=0.09)


def test_the_bootstrap_interval_of_tau_covers_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rungs, "RESAMPLES", 500)
    true, runs, hits = 2 / math.pi * math.asin(0.8), 150, 0
    for seed in range(runs):
        found = rank_stability(*pair(30, 0.8, seed), 1)
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= true <= found.high
    assert hits / runs >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / runs)


def audited(
    r: float, arms: int, rng_seed: int, share: float
) -> tuple[dict[str, float], dict[str, float], dict[str, Any]]:
    """A third kept; of those to be stopped a random share ran on, the others have no final value."""
    early, final = pair(arms, r, rng_seed)
    order = sorted(early, key=lambda a: early[a])
    kept, rest = order[: arms // 3], order[arms // 3 :]
    rng = np.random.default_rng(rng_seed)
    audit = set(rng.choice(rest, max(1, round(share * len(rest))), replace=False).tolist()) if share else set()
    decided = {a: "kept" if a in kept else "audit" if a in audit else "stopped" for a in early}
    return early, {a: y for a, y in final.items() if decided[a] != "stopped"}, decided


def test_survivors_alone_are_refused_and_would_have_misled() -> None:
    early, final, decided = audited(0.8, 60, 0, 0.0)
    found = rank_stability(early, final, 1, decisions=decided)
    assert (found.tau, found.note) == (None, SURVIVORS)
    assert "only survivors ran on" in found.sentence()
    alone = np.mean([rank_stability(*audited(0.8, 60, s, 0.0)[:2], 1).tau for s in range(20)])
    assert alone < 0.45, "what it would be without the refusal; the truth is 0.59"


def test_audit_arms_stand_for_all_that_were_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rungs, "RESAMPLES", 100)
    found = [
        rank_stability(*audited(0.8, 60, s, 0.25)[:2], 1, decisions=audited(0.8, 60, s, 0.25)[2]) for s in range(60)
    ]
    assert {(f.stopped, f.audited) for f in found} == {(40, 10)}
    assert np.mean([f.tau for f in found]) == pytest.approx(2 / math.pi * math.asin(0.8), abs=0.03)
    assert found[0].kept == pytest.approx(1 / 3)


def test_few_arms_are_not_ranked() -> None:
    assert rank_stability(*pair(5, 0.8, 0), 1).note == TOO_FEW


@pytest.mark.parametrize("tied", ["at the rung", "at the end"])
def test_values_that_are_all_equal_rank_nothing(tied: str) -> None:
    values, _ = pair(8, 0.5, 0)
    equal = dict.fromkeys(values, 1.0)
    found = rank_stability(equal, values, 50) if tied == "at the rung" else rank_stability(values, equal, 50)
    assert (found.tau, found.low, found.lost, found.regret, found.best) == (None, None, None, None, None)
    assert found.sentence() == f"At step 50, rank agreement is not estimated: all values {tied} are equal."


def test_a_perfect_rung_loses_nothing_and_a_reversed_one_everything() -> None:
    _, final = pair(12, 0.5, 0)
    same = rank_stability(final, final, 7)
    assert (same.tau, same.lost, same.regret, same.best_kept) == (pytest.approx(1.0), 0.0, 0.0, True)
    worst = rank_stability({a: -v for a, v in final.items()}, final, 7)
    assert worst.tau == pytest.approx(-1.0)
    assert worst.best_kept is False
    assert worst.lost is not None
    assert worst.lost > 0.95
    assert same.sentence() == (
        "At step 7, Kendall's tau with the final ranking is 1.00 (1.00 to 1.00, 12 arms); keeping 33% loses the best "
        "arm with probability 0.00 and costs 0.0% on average (95%: up to 0.0%)."
    )


def test_results_are_the_same_every_time() -> None:
    early, final = pair(20, 0.7, 3)
    assert rank_stability(early, final, 1) == rank_stability(early, final, 1)


# -- rung x factor


def moving(slow: float, rng_seed: int = 0) -> tuple[dict[str, dict[str, str]], dict[str, Any], dict[str, Any]]:
    """Two axes; arms with `times: gradual` gain `slow` more after the rung."""
    rng = np.random.default_rng(rng_seed)
    cells = {f"{t}-{p}": {"times": t, "path": p} for t in ("uniform", "gradual") for p in ("linear", "cosine")}
    final = {a: {s: float(rng.normal(0, 0.02)) for s in range(3)} for a in cells}
    early = {
        a: {s: y + 0.5 + slow * (cells[a]["times"] == "gradual") + float(rng.normal(0, 0.02)) for s, y in seeds.items()}
        for a, seeds in final.items()
    }
    return cells, {500: early}, final


def test_a_factor_that_changes_speed_is_found_and_another_is_not() -> None:
    cells, early, final = moving(0.2)
    first, second = speeds(cells, early, final)
    assert (first.axis, first.step, first.level, first.reference) == ("times", 500, "gradual", "uniform")
    assert first.p_family < 1e-3
    assert first.gain == pytest.approx(-0.2, abs=0.03)
    assert second.axis == "path"
    assert second.p_family > 0.05
    assert first.sentence().startswith("After step 500, times = gradual still moves by −")


def test_without_a_difference_in_speed_the_test_keeps_its_level() -> None:
    runs = 100
    wrong = sum(any(s.p_family <= 0.05 for s in speeds(*moving(0.0, seed))) for seed in range(runs))
    assert wrong / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


# -- from frames


def test_a_study_that_stopped_nothing_is_read_from_its_measured_steps() -> None:
    frames = study({f"m{i}": -0.1 * i for i in range(8)})
    a = analyse(frames)
    assert a.primary is not None
    assert a.model is not None
    values = rung_values(a.frames, a.primary, a.model.values, a.scale)
    assert sorted(values.early) == [500, 1000, 1500]
    assert values.decisions == {}
    found = values.rungs()
    assert [r.step for r in found] == [500, 1000, 1500]
    assert [r.tau for r in found] == pytest.approx([1.0] * 3), "the simulated curves never cross"


def test_early_values_without_a_logarithm_are_counted_and_said() -> None:
    """A metric that may be negative early on, and is positive at the end: the analysis is on the log scale."""
    frames = study({f"m{i}": -0.1 * i for i in range(8)})
    rows = frames.measurements
    early = (rows["step"] == 500) & (rows["arm_id"] == "arm-m3") & (rows["seed"] < 2)
    a = analyse(changed(frames, measurements=rows.assign(value=rows["value"].mask(early, -0.01))))
    assert a.scale == "log"
    assert [(r.step, r.arms, r.left_out) for r in a.findings.rungs] == [(500, 8, 2), (1000, 8, 0), (1500, 8, 0)]
    [figure] = figures.rungs.build(a)
    assert "At step 500, 2 values are not positive and left out." in figure.notes
    frame = rows[rows["step"] == 500].assign(decision="kept", value=np.where(early[rows["step"] == 500], -0.01, 1.0))
    b = analyse(changed(frames, rungs=frame[list(COLUMNS["rungs"])]))
    assert [r.left_out for r in b.findings.rungs] == [2]


def test_a_study_with_rungs_is_read_from_what_they_decided() -> None:
    frames = study({f"m{i}": -0.1 * i for i in range(9)}, seeds=2)
    decision = {f"arm-m{i}": "kept" if i > 5 else "audit" if i in (1, 4) else "stopped" for i in range(9)}
    status = ["stopped" if decision[t] == "stopped" else "done" for t in frames.trials["arm_id"]]
    rows = [
        (t, arm, s, 500, 100.0 - i, decision[arm])
        for i, (t, arm, s) in enumerate(frames.trials[["trial_id", "arm_id", "seed"]].values)
    ]
    stopped = changed(
        frames, trials=frames.trials.assign(status=status), rungs=pd.DataFrame(rows, columns=list(COLUMNS["rungs"]))
    )
    a = analyse(stopped)
    assert a.situation.final == a.situation.planned, "a stopped trial is final"
    assert a.primary is not None
    assert a.model is not None
    values = rung_values(a.frames, a.primary, a.model.values, a.scale)
    assert values.decisions[500] == decision
    [found] = values.rungs()
    assert isinstance(found, Rung)
    assert (found.stopped, found.audited, found.arms) == (6, 2, 5)
    assert found.note == TOO_FEW
    with pytest.raises(ValueError, match=r"rungs\.decision has 'maybe'"):
        changed(frames, rungs=pd.DataFrame([(*rows[0][:5], "maybe")], columns=list(COLUMNS["rungs"])))
