"""Alias structures of textbook designs, and estimates of what they cannot tell apart."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import statsmodels.formula.api as smf

from ablate_reports.aliasing import Aliases, alias_structure, chains, name, two_level


def fraction(base: str, *generated: str) -> tuple[str, np.ndarray]:
    """A regular fraction: full factorial of `base`, further factors by products, ``d=abc`` or ``d=-abc``."""
    runs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(base))))
    columns = {f: runs[:, i] for i, f in enumerate(base)}
    for rule in generated:
        left, right = rule.split("=")
        sign, letters = (-1.0, right[1:]) if right.startswith("-") else (1.0, right)
        columns[left] = sign * np.prod([columns[f] for f in letters], axis=0)
    return "".join(columns), np.stack(list(columns.values()), axis=1)


def structure(base: str, *generated: str) -> Aliases:
    names, design = fraction(base, *generated)
    return alias_structure(list(names), design)


def written(found: Aliases) -> dict[str, set[str]]:
    """effect -> aliases, letters only, a minus in front where the sign is negative."""
    return {"".join(e): {("-" if c < 0 else "") + "".join(a) for a, c in others} for e, others in found.aliases.items()}


def test_the_quarter_fraction_of_five_factors_is_the_textbook_one() -> None:
    """2^(5-2), d = ab, e = ac (Box, Hunter & Hunter, table 12.15; pydoe 1.6 `fracfact_aliasing("a b c ab ac")`)."""
    found = structure("abc", "d=ab", "e=ac")
    assert [str(w) for w in found.words] == ["I = a × b × d", "I = a × c × e", "I = b × c × d × e"]
    assert (found.resolution, found.runs) == (3, 8)
    assert written(found) == {
        "a": {"bd", "ce"}, "b": {"ad"}, "c": {"ae"}, "d": {"ab"}, "e": {"ac"},
        "ab": {"d"}, "ac": {"e"}, "ad": {"b"}, "ae": {"c"}, "bc": {"de"}, "bd": {"a", "ce"}, "be": {"cd"},
        "cd": {"be"}, "ce": {"a", "bd"}, "de": {"bc"},
    }  # fmt: skip


def test_the_half_fraction_of_four_factors_has_resolution_iv() -> None:
    """2^(4-1), d = abc (pydoe 1.6: ab = cd, ac = bd, ad = bc)."""
    found = structure("abc", "d=abc")
    assert (found.resolution, [str(w) for w in found.words]) == (4, ["I = a × b × c × d"])
    assert all(found.clear((f,)) for f in "abcd")
    assert written(found) | {f: set() for f in "abcd"} == written(found)
    assert {k: v for k, v in written(found).items() if len(k) == 2} == {
        "ab": {"cd"}, "ac": {"bd"}, "ad": {"bc"}, "bc": {"ad"}, "bd": {"ac"}, "cd": {"ab"},
    }  # fmt: skip


def test_the_half_fraction_of_five_factors_is_clear_up_to_pairs() -> None:
    found = structure("abcd", "e=abcd")
    assert found.resolution == 5
    assert not any(found.aliases.values())


def test_the_sixteenth_fraction_of_seven_factors_has_fifteen_words() -> None:
    """2^(7-4): seven words of 3, seven of 4, one of 7; every factor aliased with three pairs."""
    found = structure("abc", "d=ab", "e=ac", "f=bc", "g=abc")
    lengths = [len(w.factors) for w in found.words]
    assert [lengths.count(n) for n in (3, 4, 7)] == [7, 7, 1]
    assert all(len(found.aliases[f,]) == 3 for f in found.factors)


def test_a_negative_generator_gives_negative_words_and_aliases() -> None:
    found = structure("ab", "c=-ab")
    assert str(found.words[0]) == "I = −a × b × c"
    assert found.aliases["c",] == [(("a", "b"), -1.0)]
    assert found.sentence(("c",)) == "c is aliased with −a × b"


def test_a_full_design_has_no_words_and_repeated_runs_change_nothing() -> None:
    full = structure("abc")
    assert (full.words, full.resolution, any(full.aliases.values())) == ([], None, False)
    names, design = fraction("abc", "d=abc")
    assert alias_structure(list(names), np.vstack([design, design[:3]])) == structure("abc", "d=abc")


def test_plackett_burman_aliases_are_thirds() -> None:
    """12 runs: every factor is partly aliased, with coefficient +-1/3, with every pair that does not hold it."""
    first = [1, 1, -1, 1, 1, 1, -1, -1, -1, 1, -1]
    design = np.array([np.roll(first, i) for i in range(11)] + [[-1] * 11], dtype=float)
    found = alias_structure([f"x{i}" for i in range(11)], design)
    assert ([len(w.factors) for w in found.words], found.resolution) == ([11], 3)
    others = found.aliases["x0",]
    assert len(others) == 45
    assert {round(abs(c), 9) for _, c in others} == {round(1 / 3, 9)}
    assert "partly aliased with" in found.sentence(("x0",))


def test_designs_that_are_none_are_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"table of -1 and \+1 with 2 columns"):
        alias_structure(["a", "b"], np.array([[0.0, 1.0]]))
    with pytest.raises(ValueError, match="3 levels"):
        two_level({str(i): {"a": str(i)} for i in range(3)})
    with pytest.raises(ValueError, match="'y' has no level of 'b'"):
        two_level({"x": {"a": "0", "b": "0"}, "y": {"a": "1"}})


def arms(names: str, design: np.ndarray) -> dict[str, dict[str, str]]:
    return {
        f"run{i}": {f: "on" if v > 0 else "off" for f, v in zip(names, r, strict=True)} for i, r in enumerate(design)
    }


def test_chains_hold_the_signed_sums_of_true_effects() -> None:
    names, design = fraction("abc", "d=ab", "e=-ac")
    cells = arms(names, design)
    true = {("a",): 0.5, ("b", "d"): 0.25, ("c", "e"): 0.125, ("c",): 1.0, ("b", "c"): 2.0}
    at = {f: design[:, i] for i, f in enumerate(names)}
    y = sum(v / 2 * np.prod([at[f] for f in e], axis=0) for e, v in true.items())
    rng = np.random.default_rng(0)
    values = {a: {s: float(v + 0.01 * rng.normal()) for s in range(3)} for a, v in zip(cells, y, strict=True)}
    found = {str(c): c for c in chains(cells, values, {f: "off" for f in names})}
    assert set(found) == {
        "a + b × d − c × e",
        "b + a × d",
        "c − a × e",
        "d + a × b",
        "e − a × c",
        "b × c − d × e",
        "b × e − c × d",
    }
    wanted = dict.fromkeys(found, 0.0) | {
        "a + b × d − c × e": 0.5 + 0.25 - 0.125,
        "c − a × e": 1.0,
        "b × c − d × e": 2.0,
    }
    for k, chain in found.items():
        assert chain.value == pytest.approx(wanted[k], abs=0.02)
        assert chain.estimate is not None
        assert (chain.estimate.low <= 0 <= chain.estimate.high) == (wanted[k] == 0)


def test_a_full_design_gives_the_estimates_of_statsmodels() -> None:
    import pandas as pd

    names, design = fraction("abc")
    cells = arms(names, design)
    rng = np.random.default_rng(1)
    values = {a: {s: float(rng.normal() + s) for s in range(3)} for a in cells}
    del values["run2"][1]
    rows = [
        {**dict(zip(names, design[i], strict=True)), "seed": s, "arm": a, "y": y}
        for i, a in enumerate(cells)
        for s, y in values[a].items()
    ]
    data = pd.DataFrame(rows)
    ols = smf.ols("y ~ C(seed, Sum) + (a + b + c)**2", data).fit()
    pure = smf.ols("y ~ C(seed) + C(arm)", data).fit()
    for chain in chains(cells, values, {f: "off" for f in names}):
        term = ":".join(chain.effects[0][0])
        assert chain.value == pytest.approx(2 * ols.params[term], rel=1e-8)
        assert chain.estimate is not None
        se = 2 * math.sqrt(ols.normalized_cov_params.loc[term, term] * pure.mse_resid)
        assert chain.estimate.se == pytest.approx(se, rel=1e-8)


def test_a_reference_that_the_plan_does_not_have_is_no_level_of_it() -> None:
    """Levels 128 and 256 where the baseline has 64: the axis varies all the same, and is no constant column."""
    names, design = fraction("abc")
    cells = arms(names, design)
    del cells["run7"]
    _, known = two_level(cells, {"a": "off", "b": "off"})
    _, other = two_level(cells, {"a": "64", "b": "off"})
    assert np.array_equal(other, known)
    assert alias_structure(list(names), other).words == []
    rng = np.random.default_rng(2)
    values = {a: {s: 0.2 * (at["a"] == "on") + 0.01 * float(rng.normal()) for s in range(3)} for a, at in cells.items()}
    found = {str(c): c.value for c in chains(cells, values, {"a": "64", "b": "off", "c": "off"})}
    assert set(found) == {"a", "b", "c", "a × b", "a × c", "b × c"}
    assert found == {name: pytest.approx(0.2 * (name == "a"), abs=0.02) for name in found}


def test_a_full_design_that_lost_a_cell_has_the_resolution_of_a_factor_beside_a_pair() -> None:
    found = alias_structure("abc", fraction("abc")[1][1:])
    assert (found.words, found.resolution) == ([], 3)


def test_when_pairs_do_not_fit_factors_alone_are_estimated_and_without_noise_there_is_no_interval() -> None:
    first = [1, 1, -1, 1, 1, 1, -1, -1, -1, 1, -1]
    design = np.array([np.roll(first, i) for i in range(11)] + [[-1] * 11], dtype=float)[:, :5]
    cells = arms("abcde", design)
    found = chains(cells, {a: {0: float(i)} for i, a in enumerate(cells)})
    assert [name(c.effects[0][0]) for c in found] == list("abcde")
    assert all(c.estimate is not None for c in found), "six runs are left for the noise"
    half = arms(*fraction("ab", "c=ab"))
    assert all(c.estimate is None for c in chains(half, {a: {0: float(i)} for i, a in enumerate(half)}))
