"""The published ESC ablation under assumed seed noise: which of its steps could have been luck."""

from __future__ import annotations

import math

import pytest

from ablate.space.published import row
from ablate_reports.power import ASSUMED_CV
from ablate_reports.single_runs import TUNED_CV, of_published, single_runs

ESC = {"MeanFlow": 6.09, "A1": 6.01, "A2": 5.98, "B1": 6.08, "B2": 5.96, "C": 5.99, "D": 5.95, "ESC": 5.77}
TABLE = "ablation_sit_b2_cfg_1nfe_imagenet256"
ENTRIES = {
    "MeanFlow": "baseline_MeanFlow_cfg",
    "A1": "A1_plugin_p1.0",
    "A2": "A2_plugin_p0.5",
    "B1": "B1_plugin_p1.0_class_consistent",
    "B2": "B2_plugin_p0.5_class_consistent",
    "C": "C_gradual_time_sampler",
    "D": "D_extra_stabilisation",
    "ESC": "ESC_B2_C_D",
}


def test_the_numbers_are_those_that_ship_with_the_program() -> None:
    published = [row(TABLE, entry, arm) for arm, entry in ENTRIES.items()]
    assert {p["arm"]: p["value"] for p in published} == ESC
    [found] = of_published(published, "MeanFlow")
    assert found == single_runs(ESC, "MeanFlow")


def test_no_single_step_of_the_published_ablation_is_resolved_and_the_whole_recipe_is() -> None:
    found = single_runs(ESC, "MeanFlow")
    assert found.band == pytest.approx(0.036, abs=2e-4)
    changes = {s.name: 100 * math.expm1(s.change) for s in found.steps}
    assert min(v for k, v in changes.items() if k != "ESC") == pytest.approx(-2.3, abs=0.05)
    assert changes["ESC"] == pytest.approx(-5.25, abs=0.05)
    assert {s.name: s.resolved for s in found.steps} == dict.fromkeys(ESC.keys() - {"MeanFlow", "ESC"}, False) | {
        "ESC": True
    }
    assert found.steps[-1].resolved_family, "also with the band of all seven steps at once"
    assert found.sentence() == (
        "With an assumed seed noise of 1.3%, two single runs that do not differ lie within ±3.6% of each other in 95% "
        "of cases: only ESC (−5.3%) is resolved against MeanFlow; inconclusive: A1 (−1.3%), A2 (−1.8%), B1 (−0.2%), "
        "B2 (−2.1%), C (−1.6%) and D (−2.3%)."
    )


def test_with_guidance_tuned_per_cell_the_larger_steps_are_resolved_too() -> None:
    found = single_runs(ESC, "MeanFlow", TUNED_CV)
    assert found.band == pytest.approx(0.018, abs=1e-4)
    assert [s.name for s in found.steps if s.resolved] == ["A2", "B2", "D", "ESC"]


def test_extreme_tables_have_their_own_sentences() -> None:
    assert "no step is resolved against a" in single_runs({"a": 1.0, "b": 1.001}, "a").sentence()
    assert "every step is resolved against a" in single_runs({"a": 1.0, "b": 2.0}, "a").sentence()
    with pytest.raises(ValueError, match="no 'z' among a, b"):
        single_runs({"a": 1.0, "b": 2.0}, "z")
    with pytest.raises(ValueError, match="must be positive"):
        single_runs({"a": 1.0, "b": -2.0}, "a")


def test_tables_of_one_study_are_kept_apart_and_values_with_a_spread_take_no_part() -> None:
    one = [{"arm": a, "metric": "fid50k", "value": v, "source": "page"} for a, v in ESC.items()]
    other = [{"arm": a, "metric": "fid50k", "value": v * 3, "source": "another"} for a, v in list(ESC.items())[:2]]
    spread = [{"arm": "A9", "metric": "fid50k", "value": 1.0, "source": "page", "spread": 0.1}]
    found = of_published([*one, *other, *spread, {"arm": "x", "value": "about 3"}], "MeanFlow")
    assert [len(f.steps) for f in found] == [7, 1]
    assert of_published(one, "nobody") == []
    assert {f.cv for f in found} == {ASSUMED_CV}
