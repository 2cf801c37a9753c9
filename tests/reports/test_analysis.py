"""From frames to verdicts: which values meet, and what is said when a study is not what one hoped for."""

from __future__ import annotations

import json
import math

import duckdb
import numpy as np
import pandas as pd
import pytest
from simulated_study import CONDITION, METRIC, rich_study, study, study_of

from ablate_reports import queries, tables
from ablate_reports.analysis import analyse
from ablate_reports.data import COLUMNS, StudyFrames, field_diff, final_values, metric_title
from ablate_reports.figures.cost import placed, times


def changed(frames: StudyFrames, **parts: object) -> StudyFrames:
    """The study with some parts replaced."""
    kept = {name: getattr(frames, name) for name in (*COLUMNS, "study", "published")}
    return StudyFrames(**(kept | parts))  # type: ignore[arg-type]


def test_the_demo_like_study_finds_every_method_better_and_ranks_them() -> None:
    a = analyse(study())
    assert a.headline.startswith("esc beats the baseline fm: −")
    assert "(fd_digits), not FID." in a.headline
    assert [r.verdict for r in a.rows] == [None, *["better"] * 6]
    assert [r.n for r in a.rows] == [3] * 7
    assert a.scale == "log"


def test_an_arm_of_several_plans_stands_where_the_first_of_them_puts_it() -> None:
    frames = study()
    arms = [a for a in frames.ordered if a != frames.baseline]
    listed = [(arm, "paper", float(i)) for i, arm in enumerate(reversed(arms))] + [(arms[-2], "walk", 0.0)]
    rows = pd.DataFrame(
        [
            {**dict.fromkeys(COLUMNS["study_arms"]), "arm_id": a, "plan": p, "kind": "list", "position": i}
            for a, p, i in listed
        ]
    )
    assert changed(frames, study_arms=rows).ordered == [frames.baseline, *reversed(arms)]


def test_the_mean_is_geometric_and_the_difference_a_ratio() -> None:
    frames = study(noise=0.3)
    a = analyse(frames)
    last = frames.measurements[frames.measurements["step"] == 2000].groupby("arm_id")["value"]
    geometric = last.agg(lambda v: float(np.exp(np.log(v).mean())))
    esc = a.by_id["arm-esc"]
    assert esc.value == pytest.approx(geometric["arm-esc"])
    assert esc.contrast is not None
    assert math.exp(esc.contrast.estimate) == pytest.approx(geometric["arm-esc"] / geometric["arm-fm"])


def test_only_the_last_step_counts_even_when_an_earlier_one_is_lower() -> None:
    frames = study()
    rows = frames.measurements.copy()
    rows.loc[rows["step"] == 500, "value"] = 0.001
    assert analyse(changed(frames, measurements=rows)).by_id["arm-esc"].value == pytest.approx(
        analyse(frames).by_id["arm-esc"].value
    )


def test_a_missing_last_value_is_not_replaced_by_an_earlier_one() -> None:
    frames = study()
    rows = frames.measurements.copy()
    rows.loc[(rows["trial_id"] == "trial-esc-0") & (rows["step"] == 2000), "value"] = np.nan
    row = analyse(changed(frames, measurements=rows)).by_id["arm-esc"]
    assert (row.n, row.note) == (2, "1 finished without a usable value")


@pytest.mark.parametrize(("at", "expected"), [({"step": 500}, 500), (500, 500), ("last", 2000), ("best", 2000)])
def test_the_declared_step_decides_which_value_counts(at: object, expected: int) -> None:
    frames = study(metric={"name": "fd_digits", "mode": "min", "at": at})
    assert set(final_values(frames, frames.measurements, "log")["step"]) == {expected}


def test_best_says_that_it_flatters() -> None:
    assert any("flatters" in n for n in analyse(study(metric={"name": "fd_digits", "mode": "min", "at": "best"})).notes)


def test_draws_of_a_step_are_averaged_on_the_log_scale() -> None:
    frames = study()
    second = frames.measurements.assign(draw=1, value=frames.measurements["value"] * 4)
    both = changed(frames, measurements=pd.concat([frames.measurements, second]))
    one, two = analyse(frames).by_id["arm-ct"].value, analyse(both).by_id["arm-ct"].value
    assert one is not None
    assert two == pytest.approx(2 * one)


def test_draws_are_averaged_as_the_query_under_the_figures_does_where_one_arm_is_not_positive() -> None:
    """KID: of two arms of one arithmetic mean, that with unequal draws looked 40 % better."""
    rng = np.random.default_rng(0)

    def arm(*means: float) -> dict[int, list[float]]:
        return {s: [m + 1e-5 * rng.normal() for m in means] for s in range(4)}

    a = analyse(study_of({"base": arm(0.001, 0.009), "same": arm(0.0048, 0.0052), "other": arm(-0.0005, 0.0004)}))
    assert a.scale == "linear"
    assert a.by_id["arm-base"].value == pytest.approx(a.by_id["arm-same"].value, abs=3e-5)
    measurements, trials = a.frames.measurements, a.frames.trials  # noqa: F841  read by the query
    asked = duckdb.sql(queries.final_values(a)).df().groupby("arm_id")["value"].mean()
    assert {r.arm_id: r.value for r in a.rows} == pytest.approx(asked.to_dict())


def test_values_of_another_identity_or_condition_never_meet() -> None:
    frames = study()
    other = frames.measurements.assign(metric_id="mid000000009", value=1e-6)
    defs = pd.concat([
        frames.metric_defs,
        pd.DataFrame([("mid000000009", "fd_digits", json.dumps(METRIC | {"dtype": "float32", "reference": {"n": 7}}),
        False)], columns=COLUMNS["metric_defs"]),
    ])  # fmt: skip
    fewer = other[other["arm_id"] != "arm-ct"]
    a = analyse(changed(frames, measurements=pd.concat([frames.measurements, fewer]), metric_defs=defs))
    assert a.primary is not None
    assert a.primary.metric_id == "mid000000001"
    assert [r.value for r in a.rows] == [r.value for r in analyse(frames).rows]
    [(group, means, diff)] = tables.other_groups(a)
    assert group.metric_id == "mid000000009"
    assert diff.rows == [["metric.dtype", "float64", "float32"], ["metric.reference.n", "—", "7"]]
    assert len(means.rows) == 6


def test_the_primary_group_is_the_one_that_holds_the_baseline() -> None:
    frames = study()
    elsewhere = frames.measurements.assign(cond_id="cid000000007")
    most = frames.measurements[frames.measurements["arm_id"].isin(["arm-fm", "arm-esc"])]
    a = analyse(changed(frames, measurements=pd.concat([most, elsewhere[elsewhere["arm_id"] != "arm-fm"]])))
    assert a.primary is not None
    assert a.primary.cond_id == "cid000000001"


def test_measurements_of_another_sample_count_are_refused() -> None:
    frames = study()
    rows = frames.measurements.copy()
    rows.loc[rows["trial_id"] == "trial-esc-0", "n_samples"] = 500
    a = analyse(changed(frames, measurements=rows))
    assert a.by_id["arm-esc"].n == 2
    assert any("4 measurements were refused" in n for n in a.notes)


def test_one_seed_gives_values_and_no_verdict() -> None:
    a = analyse(study(seeds=1))
    assert a.headline.startswith("No verdict, because no arm can be compared over two seeds or more")
    assert all(r.low is None and r.note == "no interval: one seed" for r in a.rows)
    assert a.detectable is None
    assert not any(r.tied_best for r in a.rows)


def test_one_arm_has_nothing_to_compare() -> None:
    a = analyse(study({"fm": 0.0}))
    assert a.headline.startswith("One arm has values, so there is nothing to compare: Frechet distance")
    assert a.rows[0].low is not None


def test_identical_seeds_give_no_verdict_and_a_warning() -> None:
    a = analyse(study(noise=0.0, seed_noise=0.0))
    assert a.headline.startswith("No verdict: all seeds of an arm gave identical values")
    assert any("Check that the seed reaches the training" in n for n in a.notes)


def test_a_study_in_which_everything_failed_says_so() -> None:
    every = {(name, s): "failed" for name in ("fm", "ct") for s in range(3)}
    a = analyse(study({"fm": 0, "ct": -1}, status=every))
    assert a.headline.startswith("No trial finished (6 failed), so no value of the Frechet distance")
    assert len(tables.failures(a).rows) == 6
    assert tables.failures(a).rows[0][3] == "RuntimeError: out of memory"


def test_a_failed_baseline_is_named_as_the_reason() -> None:
    a = analyse(study(status={("fm", s): "diverged" for s in range(3)}))
    assert "because the baseline fm failed or diverged in every trial" in a.headline
    assert all(r.contrast is None for r in a.rows)


def test_a_study_without_a_baseline_still_shows_its_means() -> None:
    for arm in (None, "no-such-arm"):
        a = analyse(study(baseline_arm_id=arm))
        assert a.headline.startswith("No baseline is named, so nothing is compared")
        assert all(r.low is not None for r in a.rows)


def test_a_run_in_progress_counts_what_it_has() -> None:
    status = {("esc", s): "planned" for s in range(3)} | {("meanflow", 2): "running"}
    a = analyse(study(status=status))
    assert a.headline.startswith("17 of 21 trials finished so far: ")
    assert a.by_id["arm-esc"].value is None
    assert a.by_id["arm-meanflow"].n == 2


def test_an_empty_store_is_not_an_error() -> None:
    a = analyse(StudyFrames.from_mapping({"study": {"name": "new"}}))
    assert a.headline == "Nothing has been planned or run in this study."


def test_values_that_are_not_positive_are_analysed_on_their_own_scale() -> None:
    frames = study()
    rows = frames.measurements.assign(value=frames.measurements["value"] - 60)
    a = analyse(changed(frames, measurements=rows))
    assert a.scale == "linear"
    assert a.margin is None
    assert any("not positive" in n for n in a.notes)
    assert a.rows[1].verdict == "better"
    delta, _ = tables.difference_of(a, a.rows[1])
    assert "%" not in delta


def test_a_metric_to_be_maximised_is_ranked_from_the_top() -> None:
    a = analyse(study({"fm": 0.0, "ct": 0.5, "scd": -0.5}, metric={"name": "fd_digits", "mode": "max", "at": "last"}))
    assert a.headline.startswith("ct beats the baseline fm: +")
    assert [r.verdict for r in a.rows] == [None, "better", "worse"]
    assert any("opposite direction" in n for n in a.notes)


def test_bold_marks_every_arm_tied_with_the_best_and_none_when_all_tie() -> None:
    apart = analyse(study({"fm": 0.0, "a": -1.0, "b": -1.01}, noise=0.05))
    assert [r.tied_best for r in apart.rows] == [False, True, True]
    level = analyse(study({"fm": 0.0, "a": 0.0}, 5, noise=0.05, rng_seed=5))
    assert not any(r.tied_best for r in level.rows)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_best_arm_is_not_the_one_that_lost_its_hard_seed(mode: str) -> None:
    """L has the better mean, because seed 2 is missing of it; on the seeds that both have, M is better, surely."""
    rng, hard, sign = np.random.default_rng(0), (0.0, 0.0, 1.0), 1 if mode == "min" else -1

    def arm(effect: float, seeds: range = range(3)) -> dict[int, float]:
        return {s: 10 * math.exp(sign * (effect + hard[s] + 0.004 * rng.normal())) for s in seeds}

    values = {"base": arm(0.0), "L": arm(-0.3, range(2)), "M": arm(-0.4), "N": arm(-0.05)}
    a = analyse(study_of(values, metric={"name": "fd_digits", "mode": mode}))
    rows = {r.label: r for r in a.rows}
    assert a.model is not None
    assert a.leader is rows["M"]
    assert sign * rows["L"].value < sign * rows["M"].value
    assert a.model.level("arm-M") - a.model.level("arm-L") == pytest.approx(
        a.model.compare([("arm-M", "arm-L")])[0].estimate
    )
    assert [label for label, r in rows.items() if r.tied_best] == ["M"]
    assert {p.row.label for p in placed(a, times(a)[1], same=1.0) if p.place == "front"} == {"M"}


def test_a_level_without_seed_effects_is_the_mean() -> None:
    a = analyse(study(seeds=3))
    assert a.model is not None
    for arm, seeds in a.model.values.items():
        assert a.model.level(arm) == pytest.approx(np.mean(list(seeds.values())))  # balanced
    one = analyse(study_of({"fm": {0: 2.0, 1: 4.0}, "a": {1: 3.0}})).model  # no blocks with one arm that has two seeds
    assert one is not None
    assert one.level("arm-a") == pytest.approx(math.log(3))


def test_nothing_is_bold_when_the_best_looking_arm_has_one_seed() -> None:
    a = analyse(study({"fm": 0.0, "a": 0.5, "b": -1.0}, status={("b", 1): "failed", ("b", 2): "failed"}))
    assert not any(r.tied_best for r in a.rows)


def test_equivalence_needs_the_interval_inside_the_margin() -> None:
    tight = analyse(study({"fm": 0.0, "a": 0.002}, 5, noise=0.002, seed_noise=0.05))
    assert tight.rows[1].verdict == "equivalent"
    assert tight.headline.startswith("The one other arm is equivalent to the baseline fm within ±2%")
    assert (
        analyse(study({"fm": 0.0, "a": 0.002}, 5, noise=0.002, seed_noise=0.05, margin=0)).rows[1].verdict
        == "inconclusive"
    )


def test_two_arms_of_one_label_are_told_apart() -> None:
    labels = study(labels={"ct": "same", "scd": "same"}).labels
    assert labels["arm-ct"] != labels["arm-scd"]
    assert labels["arm-ct"].startswith("same (")


def test_fid_digits_is_never_called_fid_alone() -> None:
    assert (
        metric_title("fd_digits", METRIC)
        == "Frechet distance on digit-classifier features (fd_digits), not FID, 1,797 samples"
    )
    assert metric_title("fid", {"samples": 50_000}) == "Frechet Inception distance (FID), 50,000 samples"
    assert metric_title("my_metric") == "my_metric"


def test_definitions_are_compared_field_by_field() -> None:
    assert field_diff({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "d": 4}) == [
        ("a.b", 1, 3),
        ("c", 2, None),
        ("d", None, 4),
    ]
    assert field_diff(CONDITION, dict(CONDITION)) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"metric": {"name": "x", "mode": "up"}}, "study.metric.mode is 'min' or 'max', got 'up'"),
        ({"metric": {"name": "x", "at": "first"}}, "study.metric.at is 'last', 'best' or {step: N}"),
        ({"alpha": 1.5}, "study.alpha lies between 0 and 0.5"),
        ({"margin": -0.1}, "study.margin is not negative"),
    ],
)
def test_settings_out_of_range_are_refused_in_one_line(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        study(**fields)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_broken_frames_are_refused_in_one_line() -> None:
    frames = study()
    with pytest.raises(ValueError, match=r"^the frame trials lacks the column 'seed'; it needs trial_id, arm_id"):
        changed(frames, trials=frames.trials.drop(columns="seed"))
    with pytest.raises(ValueError, match=r"^trials.status has 'sleeping'; it is one of done"):
        changed(frames, trials=frames.trials.assign(status="sleeping"))
    with pytest.raises(ValueError, match=r"^arms lists 'arm-fm' twice"):
        changed(frames, arms=pd.concat([frames.arms, frames.arms.head(1)]))
    with pytest.raises(ValueError, match=r"^a study has no part 'arm'; its parts are"):
        StudyFrames.from_mapping({"arm": 1})


def test_the_rich_study_has_its_path_grid_and_losses() -> None:
    a = analyse(rich_study())
    assert (a.situation.failed, a.situation.diverged) == (1, 3)
    assert a.by_id["arm-trig-huber"].n == 1
    assert a.by_id["arm-trig-l2"].n == 3
    assert a.model is not None
    assert a.model.blocked


def test_an_arm_with_two_names_in_one_plan_is_said_to_be_one() -> None:
    members = [("ct", "methods", "list", 9, "ct by another name", {"objective": "other"})]
    members += [("scd", "walk", "cumulative", 1, "+scd", {})]
    a = analyse(study(members=members))
    (note,) = [n for n in a.notes if "several names" in n]
    assert note == "One arm under several names, which all compute the same: ct = ct by another name."
    assert [r.label for r in a.rows].count("ct") == 1
    assert not any("several names" in n for n in analyse(study()).notes)


def test_a_grid_cell_that_another_arm_stands_for_has_its_value() -> None:
    members = [
        (arm, "design", "grid", i, f"{own}/{path}", {"own": own, "path": path})
        for i, (arm, own, path) in enumerate(
            [("fm", "u", "linear"), ("ct", "u", "cosine"), ("fm", "v", "linear"), ("scd", "v", "cosine")]
        )
    ]
    from ablate_reports.figures.heatmap import build

    (figure,) = build(analyse(study(members=members)))
    means = {tuple(row[:2]): row[2] for row in figure.table.rows}
    assert means["own u", "path linear"] == means["own v", "path linear"]
    assert means["own u", "path cosine"] != means["own v", "path cosine"]
