"""The query shown under a figure is run: it finds the numbers that the figure was drawn from."""

from __future__ import annotations

import math
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
from simulated_study import component_study, rich_study, study

from ablate_reports import StudyFrames, queries
from ablate_reports.analysis import Analysis, analyse
from ablate_reports.data import COLUMNS
from ablate_reports.figures import all_figures, cost, curves, losses


def run(analysis: Analysis, query: str) -> pd.DataFrame:
    con = duckdb.connect()
    for name in COLUMNS:
        con.register(name, getattr(analysis.frames, name))
    return con.execute(query).df()


@pytest.mark.parametrize("at", ["last", "best", {"step": 1000}])
@pytest.mark.parametrize("scale", ["log", "linear"])
def test_the_values_of_the_model_are_found(at: Any, scale: str) -> None:
    frames = rich_study(metric={"name": "fd_digits", "mode": "min", "at": at})
    if scale == "linear":
        shifted = frames.measurements.assign(value=frames.measurements["value"] - 30)
        parts = {name: getattr(frames, name) for name in COLUMNS} | {"measurements": shifted}
        frames = StudyFrames(study=frames.study, **parts)
    a = analyse(frames)
    assert a.scale == scale
    found = run(a, queries.final_values(a))
    wanted = {(r.arm_id, s): v for r in a.rows for s, v in r.seeds.items()}
    assert {(r.arm_id, r.seed) for r in found.itertuples()} == set(wanted)
    for r in found.itertuples():
        assert r.value == pytest.approx(wanted[r.arm_id, r.seed], rel=1e-12)


def test_the_points_of_the_curves_are_found() -> None:
    a = analyse(rich_study())
    found = run(a, queries.all_steps(a))
    mean = found.assign(y=np.log(found["value"])).groupby(["arm_id", "step"])["y"].agg(["mean", "count"])
    table = curves.bands(a).set_index(["arm_id", "step"])
    assert len(mean) == len(table)
    assert np.exp(mean["mean"]).to_numpy() == pytest.approx(table["mean"].to_numpy(), rel=1e-12)
    assert (mean["count"] == table["n"]).all()


def test_costs_scalars_and_choices_are_found() -> None:
    a = analyse(component_study())
    spent = run(a, queries.costs()).set_index("arm_id")["cpu_seconds"]
    assert all(math.isclose(spent[p.row.arm_id], p.cost) for p in cost.times(a)[1])
    name, panels = losses.panels(a)
    assert run(a, queries.scalar(name))["arm_id"].nunique() == len(panels)
    assert set(run(a, queries.choices())["arm_id"]) == set(a.frames.arms["arm_id"])
    assert run(a, queries.plan("walk", "cumulative"))["position"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("frames", [rich_study(), component_study(), study()], ids=["rich", "components", "demo"])
def test_every_figure_has_queries_that_find_rows(frames: StudyFrames) -> None:
    a = analyse(frames)
    for figure in all_figures(a):
        assert figure.queries, figure.id
        assert figure.nav, figure.id
        for query in figure.queries:
            assert len(run(a, query)), query


def test_a_hostile_name_stays_a_text_in_a_query() -> None:
    name = "x'; DROP TABLE arms; --\nend"
    assert queries.quoted(name) == "'x''; DROP TABLE arms; -- end'"
    assert len(run(analyse(study()), queries.plan(name, "grid"))) == 0
