"""What luck gives the best of many equal arms, and what fresh seeds say of the one that was picked."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ablate_reports.luck import confirm, expected_best, luck
from ablate_reports.statistics import fit

Values = dict[str, dict[int, float]]


def drawn(arms: int, seeds: range, sd: float = 0.013, rng_seed: int = 0, **shift: float) -> Values:
    rng = np.random.default_rng(rng_seed)
    return {f"a{i}": {s: shift.get(f"a{i}", 0.0) + float(rng.normal(0, sd)) for s in seeds} for i in range(arms)}


def test_the_expected_best_of_few_normals_is_known_in_closed_form() -> None:
    assert expected_best(1) == pytest.approx(0.0, abs=1e-12)
    assert expected_best(2) == pytest.approx(1 / math.sqrt(math.pi), rel=1e-9)
    assert expected_best(3) == pytest.approx(3 / (2 * math.sqrt(math.pi)), rel=1e-9)
    with pytest.raises(ValueError, match="does not exist"):
        expected_best(0)


@pytest.mark.parametrize(("k", "one", "three"), [(10, 2.0, 1.2), (20, 2.4, 1.4), (100, 3.3, 1.9)])
def test_the_numbers_of_the_study_notes_are_reproduced(k: int, one: float, three: float) -> None:
    """Per cent, at a coefficient of variation of 1.3 %, with one seed and with three."""
    assert 1.3 * expected_best(k) == pytest.approx(one, abs=0.06)
    assert 1.3 * expected_best(k) / math.sqrt(3) == pytest.approx(three, abs=0.06)


def test_the_best_of_equal_arms_looks_better_by_what_is_said() -> None:
    rng = np.random.default_rng(0)
    best = rng.normal(0, 0.013 / math.sqrt(3), (40_000, 10)).min(axis=1)
    model = fit(drawn(10, range(3)))
    found = luck(model)
    assert found is not None
    assert model is not None
    scale = 0.013 / found.sigma
    assert -best.mean() == pytest.approx(found.expected * scale, rel=0.01)
    assert np.quantile(-best, 0.95) == pytest.approx(found.limit * scale, rel=0.01)
    assert (found.arms, found.seeds) == (10, 3.0)
    assert found.sentence().startswith("Of 10 equal arms, luck alone would make the best look 0.9% better than")


def test_without_noise_or_with_one_arm_there_is_no_luck_to_speak_of() -> None:
    assert luck(None) is None
    assert luck(fit({"a0": {0: 1.0, 1: 1.0}, "a1": {0: 2.0, 1: 2.0}})) is None
    assert luck(fit(drawn(1, range(3)))) is None
    assert luck(fit(drawn(3, range(1)))) is None


def test_arms_of_one_training_count_once() -> None:
    from ablate_reports.shared import fit_shared

    values = {f"{n}/{w}": s for n, s in drawn(3, range(4)).items() for w in (0, 1)}
    rng = np.random.default_rng(1)
    values = {a: {s: y + float(rng.normal(0, 0.003)) for s, y in v.items()} for a, v in values.items()}
    found = luck(fit_shared(values, {a: a[:2] for a in values}))
    assert found is not None
    assert found.arms == 3


def test_a_winner_by_luck_is_not_confirmed_and_a_real_one_is() -> None:
    explored = drawn(10, range(3), rng_seed=1, a5=-0.2)
    fresh = {a: v for a, v in drawn(10, range(10, 15), rng_seed=2, a5=-0.1).items() if a in ("a0", "a5", "a7")}
    found = confirm(explored, fresh, "a0", margin=0.02)
    assert found is not None
    by = {c.arm: c for c in found.found}
    assert set(by) == {"a5", "a7"}
    assert by["a5"].verdict == "better"
    assert by["a5"].contrast is not None
    assert by["a5"].contrast.n == 5
    wanted = np.mean([fresh["a5"][s] - fresh["a0"][s] for s in range(10, 15)])
    assert by["a5"].contrast.estimate == pytest.approx(wanted), "nothing of the exploration is in it"
    assert by["a5"].explored == pytest.approx(np.mean([explored["a5"][s] - explored["a0"][s] for s in range(3)]))
    assert by["a5"].sentence("five", "base").startswith("Confirmed on 5 fresh seeds: five is better than base, −")
    assert "it was picked at" in by["a5"].sentence("five", "base")
    assert by["a7"].verdict != "better"
    assert by["a7"].sentence("seven", "base").startswith("Not confirmed on 5 fresh seeds: ")


def test_seeds_that_took_part_in_the_picking_confirm_nothing() -> None:
    explored = drawn(3, range(3))
    found = confirm(explored, {a: explored[a] for a in ("a0", "a1")}, "a0")
    assert found is not None
    assert found.stale == [0, 1, 2]
    [c] = found.found
    assert (c.contrast, c.verdict) == (None, "inconclusive")
    assert c.sentence("one", "base") == "one is not confirmed: the baseline has no value on fresh seeds."


def test_nothing_to_confirm_is_nothing_and_a_baseline_without_fresh_seeds_is_said() -> None:
    explored = drawn(3, range(3))
    assert confirm(explored, {}, "a0") is None
    found = confirm(explored, {"a1": {7: 0.1, 8: 0.2}}, "a0")
    assert found is not None
    assert found.found[0].note == "the baseline has no value on fresh seeds"
    single = confirm(explored, {"a0": {7: 0.1}, "a1": {7: 0.1}}, "a0")
    assert single is not None
    assert single.found[0].note == "no interval: one seed"
