"""Importances: the axis that decides stands out, noise does not, and a study that cannot be divided is refused."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest
from written_study import SPACE, call_ablate, plan, write

from ablate.errors import AblateError
from ablate.search import importances
from ablate.store import StorePaths, rebuild

GRID = [{"path": a, "metric": b, "times": c} for a, b, c in itertools.product("xyz", "pq", "uv")]
WORTH = {"x": 1.0, "y": 3.0, "z": 9.0}


@pytest.mark.parametrize("minimize", [True, False])
def test_the_axis_that_decides_the_value_has_the_largest_share_and_beats_noise(minimize: bool) -> None:
    spread = random.Random(0)
    sign = 1 if minimize else -1
    values = [sign * WORTH[choice["path"]] + spread.gauss(0, 0.1) for choice in GRID]
    first, *rest = importances(GRID, values, minimize=minimize, shuffles=30)
    assert (first.axis, first.levels) == ("path", 3)
    assert first.share > first.noise_95
    assert all(row.share <= row.noise_95 for row in rest)
    assert sum(row.share for row in (first, *rest)) == pytest.approx(1.0)


def test_pure_noise_is_not_told_from_noise() -> None:
    spread = random.Random(3)
    rows = importances(GRID, [spread.gauss(0, 1) for _ in GRID], minimize=True, shuffles=30)
    assert sum(row.share for row in rows) == pytest.approx(1.0), "shares add up to 1 on noise too: hence the floor"
    assert all(row.share <= row.noise_95 + 1e-9 for row in rows)


def test_an_axis_that_an_arm_does_not_set_is_a_level_of_its_own() -> None:
    arms = [{k: v for k, v in choice.items() if (k, v) != ("path", "x")} for choice in GRID]
    values = [WORTH[choice.get("path", "x")] for choice in arms]
    assert importances(arms, values, minimize=True, shuffles=5)[0].levels == 3


@pytest.mark.parametrize(
    ("choices", "counts"),
    [(GRID[:5], "5 and 3"), ([{"path": str(i)} for i in range(8)], "8 and 1"), ([], "0 and 0")],
)
def test_a_study_that_cannot_be_divided_is_refused_in_one_line(choices: list[dict[str, str]], counts: str) -> None:
    with pytest.raises(AblateError, match=f"this one has {counts}; read the effects"):
        importances(choices, [1.0] * len(choices), minimize=True)


def test_an_axis_that_a_plan_does_not_name_is_at_the_level_of_base(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The arm that a plan of one axis adds says nothing of the batch: it has that of base, and no third one."""
    text = SPACE.replace("[fm, meanflow, sct_linear]", "[meanflow, sct_linear]")
    text = text.replace("axes:", "axes:\n  batch: {{path: train.batch_size, levels: [16, 32]}}")
    text = text.replace(
        "plans: {{cross: {{kind: grid}}}}", "plans: {{cross: {{kind: grid}}, one: {{kind: ofat, axes: [lr]}}}}"
    )
    paths = StorePaths(tmp_path / "store")
    write(paths, plan(claims="[]", text=text))
    rebuild(paths)
    ended = call_ablate(capsys, monkeypatch, tmp_path)("importance", "paths", "--store", str(paths.root), "--json")
    assert {row["axis"]: row["levels"] for row in json.loads(ended.out)} == {"objective": 3, "lr": 2, "batch": 2}


def test_an_arm_that_also_changes_what_is_no_axis_explains_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = "{{kind: list, arms: {{C: {{train.betas: [0.5, 0.9]}}, D: {{lr: 2e-3, train.betas: [0.5, 0.9]}}}}}}"
    text = SPACE.replace("{{cross: {{kind: grid}}}}", "{{cross: {{kind: grid}}, rows: " + rows + "}}")
    paths = StorePaths(tmp_path / "store")
    write(paths, plan(claims="[]", text=text))
    rebuild(paths)
    ended = call_ablate(capsys, monkeypatch, tmp_path)("importance", "paths", "--store", str(paths.root))
    assert "6 arms" in ended.out
    assert "2 more also change what is no axis: no axis explains them." in ended.out
