"""Add one, remove one; cost fronts with ties; parallel lines; which levels an arm has."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from simulated_study import BASE, FULL, component_study, rich_study, study, worth
from test_analysis import changed

from ablate_reports.analysis import Analysis, analyse
from ablate_reports.choices import choices, find, varying
from ablate_reports.data import COLUMNS, records
from ablate_reports.figures import components, cost, cumulative, curves, effects, heatmap, mains, parallel, rungs

STUDY = analyse(component_study())


def labelled(a: Analysis, label: str) -> str:
    return next(r.arm_id for r in a.rows if r.label == label)


def test_an_arm_is_at_the_bases_level_where_its_plan_names_none() -> None:
    chosen = choices(STUDY.frames)
    assert chosen[labelled(STUDY, "gradual=on")] == BASE | {"gradual": "on"}
    assert varying(chosen) == {
        "plug": ["off", "p05", "p10"], "batches": ["iid", "same class"], "gradual": ["off", "on"],
        "stable": ["off", "on"],
    }  # fmt: skip
    assert find(chosen, BASE) == STUDY.frames.baseline
    assert find(chosen, BASE | {"plug": "p99"}) is None


def test_levels_that_are_numbers_are_in_order_of_size() -> None:
    assert varying({"a": {"lr": "1e-2"}, "b": {"lr": "3e-4"}, "c": {"lr": "0.001"}}) == {
        "lr": ["3e-4", "0.001", "1e-2"]
    }


def test_what_a_component_is_worth_is_with_it_minus_without_it() -> None:
    full = labelled(STUDY, "+plug +batches +gradual +stable")
    assert components.combinations(STUDY) == [full]  # the end of the path and of leave one out are one arm
    parts = {c.axis: c for c in components.components(STUDY, full)}
    assert list(parts) == list(FULL)
    for name, c in parts.items():
        alone = worth(BASE | {name: FULL[name]}) - worth(BASE)
        last = worth(FULL) - worth(FULL | {name: BASE[name]})
        assert c.worth["alone"].estimate == pytest.approx(alone, abs=0.03)
        assert c.worth["last"].estimate == pytest.approx(last, abs=0.03)
    assert {name for name, c in parts.items() if c.disagrees} == {"plug", "batches"}
    assert "path" in parts["batches"].worth
    assert "path" not in parts["plug"].worth  # the first step of the path is the component alone


def test_the_figure_says_which_components_interact() -> None:
    [figure] = components.build(STUDY)
    assert "plug p05, batches same class they exclude each other" in figure.caption
    assert sum("interacts" in a["text"] for a in figure.spec["layout"]["annotations"]) == 2
    assert len(figure.table.rows) == 10


def test_a_baseline_that_differs_in_more_than_axes_is_not_what_components_are_added_to() -> None:
    """Another arm of a list with a learning rate of its own: it has the levels of the base, and is not the base."""
    frames = STUDY.frames
    more = ("arm-slow", "rows", "list", 0, "slow", None, None, "{}", None)
    rows = pd.concat([frames.study_arms, pd.DataFrame([more], columns=frames.study_arms.columns)])
    parts: dict[str, Any] = {"study_arms": rows, "study": dict(frames.study) | {"baseline_arm_id": "arm-slow"}}
    for name in ("arms", "trials", "measurements"):
        frame = getattr(frames, name)
        copied = frame[frame["arm_id"] == frames.baseline].assign(
            arm_id="arm-slow", label="slow", trained_id="arm-slow"
        )
        copied = copied.assign(trial_id="slow-" + copied["trial_id"]) if "trial_id" in frame else copied
        copied = copied.assign(value=2 * copied["value"]) if name == "measurements" else copied
        parts[name] = pd.concat([frame, copied[frame.columns]])
    a = analyse(changed(frames, **parts))
    assert a.frames.baseline == "arm-slow"
    full = labelled(a, "+plug +batches +gradual +stable")
    found = components.components(a, full)
    assert {place for c in found for place in c.worth} == {"path", "last"}
    assert not any("arm-slow" in (w.arm, w.reference) for c in found for w in c.worth.values())
    before = {c.axis: c.worth["last"].estimate for c in components.components(STUDY, full)}
    assert {c.axis: c.worth["last"].estimate for c in found} == pytest.approx(before)


def test_no_figure_where_a_component_was_added_in_one_place_only() -> None:
    frames = STUDY.frames
    only = frames.study_arms[frames.study_arms["kind"].isin(["base", "ofat"])]
    assert components.build(analyse(changed(frames, study_arms=only))) == []
    assert components.build(analyse(study())) == []


def priced(effects: dict[str, float], seconds: dict[str, float], noise: float = 0.01) -> Analysis:
    frames = study(effects, noise=noise, seed_noise=0.0)
    spent = frames.trials["arm_id"].str.removeprefix("arm-").map(seconds)
    return analyse(changed(frames, trials=frames.trials.assign(cpu_seconds=spent)))


def test_an_arm_is_tied_with_the_front_unless_something_at_its_cost_is_surely_better() -> None:
    a = priced(
        {"cheap": 0.0, "dear": -0.5, "worse": 0.2, "close": -0.498, "middle": -0.2},
        {"cheap": 10, "dear": 40, "worse": 20, "close": 80, "middle": 20},
    )
    unit, timed = cost.times(a)
    assert unit == "CPU seconds"
    found = {p.row.label: (p.place, p.against) for p in cost.placed(a, timed, cost.SAME_TIME)}
    assert found["cheap"] == ("front", "")
    assert found["middle"] == ("front", "")
    assert found["worse"] == ("behind", "middle")
    best, other = sorted(("dear", "close"), key=lambda name: a.by_id[f"arm-{name}"].value or 0.0)
    assert found["dear"][0] == "front"
    assert found["close"][0] == ("front" if best == "close" else "tied"), other
    [figure] = cost.build(a)
    names = [t["name"] for t in figure.spec["data"] if "name" in t]
    assert names[0] == "on the front"
    assert "within 5% of each other" in figure.notes[0]


def test_times_that_differ_by_a_few_percent_are_one_time() -> None:
    a = priced({"x": 0.0, "y": -0.5}, {"x": 10.0, "y": 10.3})
    places = {p.row.label: p.place for p in cost.placed(a, cost.times(a)[1], cost.SAME_TIME)}
    assert places == {"x": "behind", "y": "front"}
    places = {p.row.label: p.place for p in cost.placed(a, cost.times(a)[1])}
    assert places == {"x": "front", "y": "front"}


def test_without_intervals_nobody_is_behind_the_front() -> None:
    a = analyse(study(seeds=1))
    assert {p.place for p in cost.placed(a, cost.times(a)[1], 1.0)} == {"front", "unjudged"}


def test_parameters_are_drawn_where_arms_differ_in_them() -> None:
    frames = study()
    sized = frames.arms.assign(num_parameters=np.arange(len(frames.arms)) * 1e5 + 1e5)
    assert [f.id for f in cost.build(analyse(changed(frames, arms=sized)))] == ["cost-time", "cost-size"]
    assert [f.id for f in cost.build(analyse(frames))] == ["cost-time"]
    alike = frames.arms.assign(num_parameters=1e6 + np.arange(len(frames.arms)))
    assert [f.id for f in cost.build(analyse(changed(frames, arms=alike)))] == ["cost-time"]


def test_every_arm_is_a_line_through_its_levels_to_its_value() -> None:
    [figure] = parallel.build(STUDY)
    lines = [t for t in figure.spec["data"] if t["mode"] == "lines"]
    arms = sorted({m for t in lines for m in t["meta"]})
    assert arms == list(range(13))
    best = figure.table.rows[0]
    assert best[1:5] == list(FULL.values())
    assert all(len(t["x"]) == len(t["y"]) == len(t["meta"]) for t in lines)
    assert "scattergl" not in json.dumps(figure.spec)
    assert "parcoords" not in json.dumps(figure.spec)


def test_few_arms_or_one_axis_are_not_drawn_as_parallel_lines() -> None:
    assert parallel.build(analyse(study())) == []


def test_a_step_that_could_not_run_stands_in_its_place_with_the_reason() -> None:
    [figure] = cumulative.build(STUDY)
    texts = [a["text"] for a in figure.spec["layout"]["annotations"]]
    assert "+muon" in texts[1]
    assert "not run" in texts[1]
    assert figure.table.rows[1][:3] == ["MeanFlow +muon", "not run", "the optimiser does not exist yet"]
    assert "<b>\u2068+stable\u2069</b>" in texts[-1]  # what it adds, not the whole path


def test_a_step_that_later_ones_do_not_build_on_is_hatched() -> None:
    frames = rich_study()
    on = {"B": "baseline", "C": "baseline", "D": "+ plug-in velocity", "E": "+ class batches"}
    rows = frames.study_arms.assign(
        baseline_label=[
            on.get(arm.removeprefix("arm-")) if kind == "cumulative" else None
            for arm, kind in zip(frames.study_arms["arm_id"], frames.study_arms["kind"], strict=True)
        ]
    )
    a = analyse(changed(frames, study_arms=rows))
    path = cumulative.steps(a, "walk")
    assert [s.left for s in path] == [False, True, False, False, False]
    assert path[2].step is not None
    assert path[2].step.reference == "arm-A"
    [figure] = cumulative.build(a)
    bars = [t for t in figure.spec["data"] if t["type"] == "bar"]
    assert [b["marker"]["pattern"]["shape"] for b in bars] == ["/"]
    assert "tried and not kept" in figure.caption
    assert figure.table.rows[1][5].endswith("not kept")


def test_a_thinned_curve_keeps_its_ends_and_its_peaks() -> None:
    steps = np.arange(1, 1001)
    mean = np.sin(steps / 50.0)
    mean[500], mean[777] = 9.0, -9.0
    rows = pd.DataFrame({"step": steps, "mean": mean})
    kept = curves.thinned(rows)
    assert len(kept) <= curves.MOST_POINTS + 2
    assert kept["step"].iloc[[0, -1]].tolist() == [1, 1000]
    assert {501, 778} <= set(kept["step"])
    assert kept["step"].is_monotonic_increasing


def test_a_curve_says_where_seeds_are_missing() -> None:
    lost = {("esc", 1): "failed"}
    [figure] = curves.build(analyse(study(status=lost)))
    assert any("Not every step has all seeds: esc" in note for note in figure.notes)
    line = next(t for t in figure.spec["data"] if t.get("name") == "\u2068esc\u2069")
    assert set(line["text"]) == {"2", "3"}


def test_an_arm_without_all_its_seeds_says_so_in_its_row() -> None:
    a = analyse(study(status={("esc", 1): "failed"}))
    texts: list[Any] = [t["text"] for t in effects.build(a)[0].spec["layout"]["annotations"]]
    assert [("2 of 3 seeds" in t) for t in texts] == ["esc" in t for t in texts]
    assert math.isfinite(a.rows[-1].value or math.nan)


def crossed(levels: dict[str, list[str]], effect: Any, drop: int = 0, only: Any = None, **more: Any) -> Analysis:
    """A grid over all combinations; `effect` maps a choice to its place on the log scale."""
    cells = [dict(zip(levels, cell, strict=True)) for cell in itertools.product(*levels.values())]
    cells = cells[: len(cells) - drop]
    names = {"-".join(c.values()): c for c in cells if only is None or only("".join(c.values()))}
    members = [(name, "cross", "grid", i, name, choice) for i, (name, choice) in enumerate(names.items())]
    frames = study({n: effect(c) for n, c in names.items()}, 3, noise=0.01, members=members, **more)
    return analyse(changed(frames, study_arms=frames.study_arms[frames.study_arms["plan"] == "cross"]))


def test_an_interaction_is_written_into_its_cell_with_a_star_where_it_is_sure() -> None:
    [figure] = heatmap.build(STUDY)
    texts = [a["text"] for a in figure.spec["layout"]["annotations"]]
    assert len([t for t in texts if "★" in t]) == 2  # plug-in p05 and p10 with batches of one class
    rows = {tuple(row[:2]): row for row in figure.table.rows}
    assert rows["plug p05", "batches same class"][6] == "★ not additive"
    assert rows["plug off", "batches same class"][4] == "—"
    change = float(rows["plug p05", "batches same class"][4].rstrip("%").replace("\u2212", "-"))
    assert change == pytest.approx(100 * math.expm1(-0.14), abs=2.5)


def test_a_grid_of_three_axes_is_drawn_pair_by_pair_and_stacked_on_a_phone() -> None:
    levels = {"a": ["0", "1"], "b": ["0", "1", "2"], "c": ["0", "1"]}
    a = crossed(levels, lambda c: 0.2 * (c["a"] == "1" and c["b"] == "2"))
    [figure] = heatmap.build(a)
    assert len(figure.spec["data"]) == 3
    panels = heatmap.panels(a, "cross")
    assert (panels[0].row, panels[0].column) == ("a", "b")  # the pair that interacts comes first
    assert not any(c.stands_out for p in panels[1:] for c in p.cells.values())
    assert panels[1].cells["0", "0"].mean is not None
    domains = [figure.spec["layout"][f"xaxis{k}"]["domain"] for k in ("", "2", "3")]
    assert domains[0] != domains[1]
    assert figure.narrow["xaxis2.domain"] == [0.0, 1.0]
    assert figure.narrow["height"] > figure.height


def test_what_a_grid_cannot_tell_is_said() -> None:
    a = crossed({"a": ["0", "1"], "b": ["0", "1"]}, lambda c: 0.0, drop=1)
    [figure] = heatmap.build(a)
    [note] = figure.notes
    assert note.startswith("Interaction of a and b: not estimable")
    assert not any("★" in n["text"] for n in figure.spec["layout"]["annotations"])
    assert "not planned" in [n["text"] for n in figure.spec["layout"]["annotations"]]


def test_without_stops_a_cut_to_a_third_is_imagined_at_the_measured_steps() -> None:
    [figure] = rungs.build(STUDY)
    assert figure.title == "Would stopping early have been safe?"
    assert [row[0] for row in figure.table.rows] == ["500", "1,000", "1,500"]
    marks = [t for t in figure.spec["data"] if t["mode"] == "markers"]
    assert {t["name"] for t in marks} == {"kept", "below an imagined cut to the best third"}
    assert sum(len(t["x"]) for t in marks) == 3 * 13
    assert [sorted(t["x"]) for t in marks if t["name"] == "kept"] == 3 * [[1, 2, 3, 4, 5]]
    assert figure.narrow["height"] > figure.height


def test_what_a_rung_decided_is_drawn_and_its_line_stands_in_the_curves() -> None:
    frames = study({f"m{i}": -0.1 * i for i in range(9)}, 2, noise=0.02, every=500)
    early = frames.measurements[frames.measurements["step"] == 500]
    rank = early["arm_id"].str.removeprefix("arm-m").astype(int)
    decision = np.where(rank >= 6, "kept", np.where(rank.isin([0, 3]), "audit", "stopped"))
    rows = early.assign(decision=decision)[list(COLUMNS["rungs"])]
    gone = frames.trials["arm_id"].isin(rows.loc[rows["decision"] == "stopped", "arm_id"])
    stopped = frames.trials.assign(status=frames.trials["status"].mask(gone, "stopped"))
    a = analyse(changed(frames, rungs=rows, trials=stopped))
    [figure] = rungs.build(a)
    assert figure.title == "Was stopping early safe?"
    assert {t["name"] for t in figure.spec["data"] if "name" in t} == {"kept", "to be stopped, ran on for the audit"}
    assert figure.table.rows[0][1:4] == ["5", "6", "2"]
    assert "not estimated: fewer than 6 arms" in figure.table.rows[0][5]
    assert "not estimated" in figure.caption
    assert [s["x0"] for s in curves.build(a)[0].spec["layout"]["shapes"]] == [500.0]
    assert any("rungs" in note for note in curves.build(a)[0].notes)


def test_few_arms_have_no_rungs() -> None:
    assert rungs.build(analyse(study({"fm": 0.0, "ct": -1.0}))) == []


def test_the_main_effects_of_a_grid_are_drawn_with_what_it_cannot_tell() -> None:
    [figure] = mains.build(STUDY)
    labels = [a["text"] for a in figure.spec["layout"]["annotations"]]
    assert ["batches same class" in labels[0], "plug p10" in labels[-1]] == [True, True]
    assert [row[0] for row in figure.table.rows] == ["plug", "plug", "batches", "plug", "batches", "plug × batches"]
    assert figure.table.rows[-1][5].startswith("F(2, ")
    estimate = next(e.estimate for e in STUDY.findings.plans["cross"].factorial.main() if e.factors == ("batches",))
    assert estimate == pytest.approx(-0.03 - 0.14 * 2 / 3, abs=0.02)
    half = crossed(
        {"a": ["0", "1"], "b": ["0", "1"], "c": ["0", "1"]}, lambda c: 0.0, only=lambda c: c.count("1") % 2 == 0
    )
    [aliased] = mains.build(half)
    assert any("resolution 3" in note for note in aliased.notes)
    assert any("aliased with" in note for note in aliased.notes)


def test_levels_that_are_not_the_baselines_are_not_called_so() -> None:
    levels = {"batch": ["128", "256"], "lr": ["1", "2"]}
    a = crossed(levels, lambda c: 2.0 * (c["batch"] == "256"))
    base = ("arm-base", "base", "base", 0, "base", None, None, '{"batch": "64", "lr": "1"}')
    rows = pd.concat([a.frames.study_arms, pd.DataFrame([base], columns=list(COLUMNS["study_arms"]))])
    arms = pd.concat([a.frames.arms, a.frames.arms.iloc[:1].assign(arm_id="arm-base", label="base")])
    about = dict(a.frames.study) | {"baseline_arm_id": "arm-base"}
    other = analyse(changed(a.frames, arms=arms, study_arms=rows, study=about))
    [main], [grid] = mains.build(other), heatmap.build(other)
    assert "against the baseline's level or, where the plan lacks it, against batch 128, with" in main.caption
    assert "the reference level" in json.dumps(main.spec["layout"]["xaxis"])
    assert "from the baseline's row and column or, where the plan lacks it, from batch 128; " in grid.caption
    [main], [grid] = mains.build(STUDY), heatmap.build(STUDY)
    assert "against the baseline's level, with" in main.caption
    assert "from the baseline's row and column; " in grid.caption


def test_plans_that_change_one_axis_at_a_time_say_that_they_show_no_interaction() -> None:
    [figure] = effects.build(STUDY)
    assert figure.notes == ["Interactions are not estimable from one: no arm there changes two axes at once."]
    assert figure.table.head[-2:] == ["Equivalent within ±2%, p", "Not worse by it, p"]
    assert len(figure.table.rows[0]) == len(figure.table.head)
    by_name = {row[0]: row for row in figure.table.rows}
    assert by_name["+plug +batches +gradual +stable"][-1] == "<0.001"


def test_averaged_over_all_orders_the_components_divide_the_whole_change() -> None:
    levels = {"a": ["0", "1"], "b": ["0", "1"], "c": ["0", "1"]}
    a = crossed(levels, lambda c: -0.1 * int(c["a"]) + 0.2 * int(c["b"]) * int(c["c"]))
    chosen, model = choices(a.frames), a.model
    assert model is not None
    base, full = (find(chosen, dict.fromkeys(levels, level)) for level in "01")
    assert base is not None
    assert full is not None
    found = components.shapley(a, chosen, chosen[base], chosen[full])
    whole = np.mean(list(model.values[full].values())) - np.mean(list(model.values[base].values()))
    assert sum(found.values()) == pytest.approx(whole, abs=1e-12)
    assert found == {
        "a": pytest.approx(-0.1, abs=0.03),
        "b": pytest.approx(0.1, abs=0.03),
        "c": pytest.approx(0.1, abs=0.03),
    }
    assert components.shapley(STUDY, choices(STUDY.frames), BASE, FULL) == {}  # not every combination was measured


def test_a_lost_trial_of_a_hard_seed_does_not_move_the_average_over_all_orders() -> None:
    """The worth is additive, so the average is what the component is worth alone; one seed of three is much harder."""
    levels = {"a": ["0", "1"], "b": ["0", "1"]}
    rng, hard = np.random.default_rng(0), {0: 0.0, 1: 0.0, 2: 1.0}
    a = crossed(levels, lambda c: 0.0)
    of_arm = {"arm-" + "-".join(c): -0.1 * int(c[0]) - 0.2 * int(c[1]) for c in itertools.product("01", "01")}
    rows = a.frames.measurements
    value = [10 * math.exp(of_arm[r.arm_id] + hard[int(r.seed)] + 0.004 * rng.normal()) for r in records(rows)]
    gone = a.frames.trials["trial_id"] == "trial-1-1-2"
    trials = a.frames.trials.assign(status=a.frames.trials["status"].mask(gone, "failed"))
    a = analyse(changed(a.frames, measurements=rows.assign(value=value), trials=trials))
    chosen = choices(a.frames)
    found = components.shapley(a, chosen, chosen["arm-0-0"], chosen["arm-1-1"])
    assert found == {"a": pytest.approx(-0.1, abs=0.02), "b": pytest.approx(-0.2, abs=0.02)}
    [whole] = a.model.compare([("arm-1-1", "arm-0-0")]) if a.model else []
    assert sum(found.values()) == pytest.approx(whole.estimate, abs=1e-12)
