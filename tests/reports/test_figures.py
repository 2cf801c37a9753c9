"""Figures are data: what is drawn, in which order, with which words. Plotly only checks the spelling."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from simulated_study import png, rich_study, study
from test_analysis import changed

from ablate_reports.analysis import analyse
from ablate_reports.figures import all_figures, cumulative, curves, effects, heatmap
from ablate_reports.figures.base import log_ticks, plain
from ablate_reports.figures.losses import loss_name, panels
from ablate_reports.samples import gallery

RICH = analyse(rich_study())
DEMO = analyse(study())


def texts(figure: Any) -> list[str]:
    return [a["text"] for a in figure.spec["layout"].get("annotations", [])]


@pytest.mark.parametrize("analysis", [RICH, DEMO], ids=["rich", "demo"])
def test_every_spec_is_one_that_plotly_accepts_and_json_can_hold(analysis: Any) -> None:
    for figure in all_figures(analysis):
        go.Figure(figure.spec)
        json.dumps(figure.spec, allow_nan=False)
        assert figure.caption.endswith(".")
        assert figure.table.rows
        assert all(len(row) == len(figure.table.head) for row in figure.table.rows)


def test_the_rich_study_has_all_kinds_of_figures() -> None:
    assert [f.id for f in all_figures(RICH)] == [
        "cumulative-0", "effects", "mains-0", "grid-0", "cost-time", "curves", "rungs", "parallel",
    ]  # fmt: skip


def test_the_forest_is_sorted_from_best_to_worst_and_leaves_out_what_has_no_interval() -> None:
    [figure] = effects.build(RICH)
    labels = texts(figure)
    assert len(labels) == 9
    assert "gradual times" in labels[0]
    assert "cosine-l2" in labels[-1]
    assert figure.caption.startswith("4 of 9 arms are better than the baseline with 95% simultaneous confidence")
    assert len(figure.table.rows) == 10
    assert "no interval: one seed" in figure.table.rows[-1]


def test_large_effects_are_drawn_on_a_log_axis_and_small_ones_in_percent() -> None:
    assert effects.build(DEMO)[0].spec["layout"]["xaxis"]["type"] == "log"
    assert "type" not in effects.build(RICH)[0].spec["layout"]["xaxis"]


def test_the_margin_band_is_where_the_margin_is() -> None:
    band = next(s for s in effects.build(RICH)[0].spec["layout"]["shapes"] if s["type"] == "rect")
    assert (band["x0"], band["x1"]) == pytest.approx((-100 * 0.02 / 1.02, 2.0))


def test_a_forest_of_many_arms_keeps_its_ends_and_says_so() -> None:
    many = analyse(study({f"m{i}": i / 50 for i in range(80)}, 2, every=2000))
    [figure] = effects.build(many)
    assert len(texts(figure)) == 60
    assert figure.notes == ["19 arms in the middle of the ranking are in the table only."]


def test_the_waterfall_compares_each_step_with_the_one_before() -> None:
    path = cumulative.steps(RICH, "walk")
    assert [s.name for s in path] == [
        "baseline",
        "+ adaptive loss",
        "+ plug-in velocity",
        "+ class batches",
        "+ gradual times",
    ]
    assert path[0].step is None
    values = [s.row.value for s in path]
    for above, s in zip(values, path[1:], strict=False):
        assert s.step is not None
        assert s.row.value is not None
        assert above is not None
        assert math.exp(s.step.estimate) == pytest.approx(s.row.value / above, rel=1e-6)
    assert path[-1].total is not None
    assert path[-1].total.reference == "arm-A"


def test_a_step_without_a_value_is_passed_over_not_hidden() -> None:
    frames = rich_study()
    lost = frames.measurements[frames.measurements["arm_id"] != "arm-C"]
    a = analyse(changed(frames, measurements=lost))
    path = cumulative.steps(a, "walk")
    assert path[3].step is not None
    assert path[3].step.reference == "arm-B"
    assert any("no value" in t for t in texts(cumulative.build(a)[0]))


def test_the_heat_map_shows_the_mean_of_every_cell_and_names_the_best() -> None:
    [figure] = heatmap.build(RICH)
    assert figure.title == "schedule × loss"
    z = figure.spec["data"][0]["z"]
    value = RICH.by_id["arm-cosine-l2"].value
    assert value is not None
    assert z[1][0] == pytest.approx(math.log(value), rel=1e-5)
    assert "linear × huber" in figure.caption
    assert [row[:2] for row in figure.table.rows[:3]] == [
        ["schedule linear", "loss l2"],
        ["schedule linear", "loss huber"],
        ["schedule cosine", "loss l2"],
    ]


def test_the_band_of_a_curve_is_the_t_interval_of_its_seeds() -> None:
    from scipy import stats

    table = curves.bands(DEMO)
    row = table[(table["arm_id"] == "arm-esc") & (table["step"] == 1000)].iloc[0]
    raw = DEMO.frames.measurements
    y = np.log(raw[(raw["arm_id"] == "arm-esc") & (raw["step"] == 1000)]["value"])
    low, high = stats.t.interval(0.95, 2, loc=y.mean(), scale=stats.sem(y))
    assert (row["low"], row["mean"], row["high"]) == pytest.approx(tuple(np.exp([low, y.mean(), high])))
    assert row["n"] == 3


def test_curves_need_two_steps() -> None:
    assert curves.build(analyse(study(every=2000))) == []


def test_every_line_of_the_curves_has_its_legend_entry() -> None:
    [figure] = curves.build(DEMO)
    groups = {t["legendgroup"] for t in figure.spec["data"]}
    assert {k.group for k in figure.legend} == groups
    assert len({(k.colour, k.dash) for k in figure.legend}) == len(figure.legend)


def test_each_loss_panel_has_its_own_scale() -> None:
    name, found = panels(DEMO)
    assert name == "loss"
    assert len(found) == 7
    assert found[0].low != found[6].low
    assert found[0].line.startswith("M0.0 ")
    assert found[0].band.endswith("Z")


def test_limits_of_a_flat_loss_can_be_told_apart() -> None:
    frames = study({"fm": 0.0}, 2)
    flat = frames.curves.assign(value=1.0 - frames.curves["step"] * 1e-8)
    _, [panel] = panels(analyse(changed(frames, curves=flat)))
    assert (panel.low, panel.high) == ("0.99998", "1.00000")
    around = frames.curves.assign(value=1.00002 - frames.curves["step"] * 2e-8)
    _, [panel] = panels(analyse(changed(frames, curves=around)))
    assert (panel.low, panel.high) == ("0.99998", "1.0000"), "not 1.000 and 1.00, which say the same"


def test_the_training_loss_is_recognised_among_other_scalars() -> None:
    assert loss_name(["grad_norm", "loss"]) == "loss"
    assert loss_name(["a/val_loss"]) == "a/val_loss"
    assert loss_name(["lr"]) is None


def test_the_gallery_takes_the_lowest_seed_of_every_arm_first(tmp_path: Any) -> None:
    a = analyse(study(pictures=tmp_path))
    shown = gallery(a)
    assert [p.label for p in shown.first] == [r.label for r in a.rows]
    assert {p.seed for p in shown.first} == {0}
    assert len(shown.rest) == 14
    assert shown.first[0].uri.startswith("data:image/png;base64,iVBOR")


def test_a_missing_or_foreign_picture_is_said_not_fatal(tmp_path: Any) -> None:
    frames = study(pictures=tmp_path)
    (tmp_path / "trial-esc-0.png").unlink()
    (tmp_path / "trial-ct-0.png").write_text("<svg onload=alert(1)>")
    shown = gallery(analyse(frames))
    assert len(shown.first) == 5
    assert [p.split(",")[0] for p in shown.problems] == ["The samples of ct", "The samples of esc"]


def test_pictures_beyond_the_budget_are_counted(tmp_path: Any) -> None:
    size = len(png(64, 64, 0))
    shown = gallery(analyse(study(pictures=tmp_path)), budget=8 * size)
    assert len(shown.first) == 7
    assert shown.problems == ["Left out, so that the page stays small: 13 grids of samples."]


def test_numbers_for_json_are_short_and_finite() -> None:
    assert plain([1.23456789, None, float("nan"), float("inf")]) == [1.23457, None, None, None]
    assert log_ticks(0.9, 30) == [1, 2, 5, 10, 20]
    assert len(log_ticks(3.1, 3.2)) == 2
