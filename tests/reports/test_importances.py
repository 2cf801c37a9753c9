"""Importances of a search against Optuna's, and what a report makes of them."""

from __future__ import annotations

import itertools
import json
import random

import numpy as np
import pytest
from simulated_study import study

from ablate import search
from ablate_reports import StudyFrames, render_html, render_json, render_markdown
from ablate_reports.importances import importances

CELLS = [{"path": a, "metric": b, "times": c} for a, b, c in itertools.product("xyz", "pq", "uvw")]


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("kept", [18, 13, 6])
def test_shares_and_their_floor_are_those_of_optuna(lower: bool, kept: int) -> None:
    rng = np.random.default_rng(kept)
    cells = [dict(CELLS[i]) for i in rng.choice(18, kept, replace=False)]
    cells[0].pop("times")  # an axis that an arm does not name
    values = [float(rng.normal() + 2 * (c["path"] == "x")) for c in cells]
    values[1] = values[2]
    ours = importances(cells, values, lower_is_better=lower, shuffles=8)
    optuna = search.importances(cells, values, minimize=lower, shuffles=8)
    assert [(o.axis, o.levels) for o in ours] == [(t.axis, t.levels) for t in optuna]
    assert [o.share for o in ours] == pytest.approx([t.share for t in optuna], rel=1e-8, abs=1e-10)
    assert [o.noise_95 for o in ours] == pytest.approx([t.noise_95 for t in optuna], rel=1e-8, abs=1e-10)


def test_noise_is_above_its_floor_as_rarely_as_it_says() -> None:
    """Shares of three axes add up to 1, so on noise each is above its own 95 % line in about 5 % of studies."""
    rng, above = np.random.default_rng(1), 0
    for i in range(60):
        above += sum(f.above_noise for f in importances(CELLS, rng.normal(size=18).tolist(), shuffles=40, seed=i))
    assert above / 180 < 0.05 + 3 * (0.05 * 0.95 / 180) ** 0.5


def test_too_little_to_divide_gives_nothing() -> None:
    assert importances(CELLS[:5], [1.0] * 5) == []
    assert importances([{"path": str(i)} for i in range(8)], [1.0] * 8) == []
    assert importances([], []) == []
    assert {f.share for f in importances(CELLS, [1.0] * 18, shuffles=2)} == {1 / 3}


def searched(kind: str) -> StudyFrames:
    rng = random.Random(2)
    arms = {
        f"a{i}": {k: v for k, v in cell.items() if k != "times"} for i, cell in enumerate(CELLS) if rng.random() < 0.8
    }
    members = [(name, "look", kind, i, name, cell) for i, (name, cell) in enumerate(arms.items())]
    effects = {name: -1.0 * (cell["path"] == "x") for name, cell in arms.items()}
    frames = study(effects, 2, members=members)
    object.__setattr__(frames, "study_arms", frames.study_arms[frames.study_arms["plan"] == "look"])
    return frames


def test_a_search_has_its_importances_beside_noise_on_every_report() -> None:
    frames = searched("random")
    page, text = render_html(frames), render_markdown(frames)
    for seen in (page, text):
        assert "Which axes explain the search" in seen
        assert "above what shuffled values give: path." in seen
    [first, second] = json.loads(render_json(frames))["findings"]["importances"]["look"]
    assert (first["axis"], first["share"] > first["noise_95"]) == ("path", True)
    assert (second["axis"], second["share"] > second["noise_95"]) == ("metric", False)
    assert page.count("not told from it") == 1


def test_a_designed_plan_is_read_from_its_effects() -> None:
    frames = searched("grid")
    assert "Which axes explain the search" not in render_html(frames)
    assert json.loads(render_json(frames))["findings"]["importances"] == {}
