"""Claims: what is read, what is refused to be read, and when a claim holds, fails or stays open."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from simulated_study import study
from test_analysis import changed

from ablate.space import expand, load_space
from ablate.space.foretold import names_in
from ablate_reports.claim_names import Names, names_of
from ablate_reports.claim_reading import read
from ablate_reports.claims import Claims, judge_claims
from ablate_reports.data import COLUMNS, StudyFrames
from ablate_reports.statistics import fit

SPACES = Path(__file__).parents[2] / "spaces"
ROWS = list[tuple[str, str, str, str, dict[str, str]]]


def frames_of(rows: ROWS, baseline: str) -> StudyFrames:
    """A study without numbers; rows are (arm, plan, kind, label, choice)."""
    arms = dict.fromkeys(a for a, *_ in rows)
    labels = {a: label for a, _, _, label, _ in reversed(rows)}
    plans = [
        (a, plan, kind, i, label, *(next(iter(c.items())) if kind == "ofat" and c else (None, None)), json.dumps(c))
        for i, (a, plan, kind, label, c) in enumerate(rows)
    ]
    return StudyFrames.from_mapping({
        "study": {"baseline_arm_id": baseline},
        "arms": pd.DataFrame([(a, labels[a], "{}", 1.0) for a in arms], columns=list(COLUMNS["arms"])),
        "study_arms": pd.DataFrame(plans, columns=list(COLUMNS["study_arms"])),
    })  # fmt: skip


METHODS: ROWS = [
    ("id0", "methods", "base", "FM", {"method": "fm"}),
    ("id1", "methods", "ofat", "CT", {"method": "ct"}),
    ("id2", "methods", "ofat", "ESC", {"method": "esc"}),
    ("id3", "methods", "ofat", "MeanFlow", {"method": "meanflow"}),
]
GRID: ROWS = [
    (f"{o}-{p}", "paths", "grid", f"{label}/{name}", {"objective": o, "schedule": p})
    for (o, label), (p, name) in itertools.product(
        [("fm", "FM"), ("meanflow", "MeanFlow"), ("esc", "ESC")], [("linear", "linear"), ("cosine01", "cosine")]
    )
]


def methods(nfe: int | None = 1) -> Names:
    return names_of(frames_of(METHODS, "id0"), nfe)


def grid() -> Names:
    return names_of(frames_of(GRID, "meanflow-linear"), 1)


def pairs(text: Any, names: Names) -> set[tuple[str, str]]:
    claim = read(text, names)
    assert claim.problem == "", claim.problem
    return {(names.shown[a], names.shown[b]) for a, b in claim.pairs}


# -- reading


@pytest.mark.parametrize(
    "text",
    [
        "ESC is better than MeanFlow.",
        "esc beats the meanflow method",
        "method=esc is better than methods.MeanFlow",
        "id2 is better than id3",
        {"better": ["ESC", "MeanFlow"]},
        {"better": [{"method": "esc"}, {"method": ["meanflow"]}], "says": "The newest is best."},
    ],
)
def test_two_arms_can_be_named_in_many_ways(text: Any) -> None:
    claim = read(text, methods())
    assert (claim.relation, claim.some, claim.by, claim.margin) == ("better", False, 0.0, None)
    assert pairs(text, methods()) == {("ESC", "MeanFlow")}
    assert claim.read == "ESC is better than MeanFlow"


def test_an_arm_called_like_an_article_is_found() -> None:
    rows: ROWS = [("m", "rows", "list", "MF", {}), ("a", "rows", "list", "A", {"plug": "half"})]
    assert pairs("A is better than MF.", names_of(frames_of(rows, "m"))) == {("A", "MF")}


def test_every_other_arm_is_compared_with_the_one_that_is_named() -> None:
    wanted = {("CT", "FM"), ("ESC", "FM"), ("MeanFlow", "FM")}
    assert pairs("Every shortcut objective is better than flow matching at one step.", methods()) == wanted
    claim = read("Every shortcut objective is better than flow matching at one step.", methods())
    assert claim.read == "CT, ESC and MeanFlow are better than FM", "the reader sees what was made of it"
    assert pairs("FM is worse than every other method", methods()) == {(b, a) for a, b in wanted}
    assert read("At least one other arm is better than FM.", methods()).some
    assert pairs({"some_better": [["ESC", "CT"], "FM"]}, methods()) == {("ESC", "FM"), ("CT", "FM")}


def test_levels_are_compared_where_all_else_is_equal() -> None:
    wanted = {(f"{o}/linear", f"{o}/cosine") for o in ("FM", "MeanFlow", "ESC")}
    for text in (
        "The linear path is better than the cosine path for every objective.",
        "schedule=linear is better than schedule=cosine01",
        {"better": [{"schedule": "linear"}, {"schedule": "cosine01"}]},
    ):
        assert pairs(text, grid()) == wanted
    assert pairs("FM/linear is better than every other schedule", grid()) == {("FM/linear", "FM/cosine")}
    assert pairs({"better": [{"objective": "esc", "schedule": "linear"}, "FM/cosine"]}, grid()) == {
        ("ESC/linear", "FM/cosine")
    }


def test_a_name_that_labels_begin_with_means_all_of_them() -> None:
    rows: ROWS = [
        ("c", "v", "base", "conditional", {"velocity": "conditional"}),
        ("p", "v", "ofat", "plug-in p=1", {"velocity": "plugin"}),
        ("h", "v", "ofat", "plug-in of the class p=0.5", {"velocity": "half"}),
        ("s", "v", "ofat", "plug-in of the class p=1", {"velocity": "same"}),
    ]
    names = names_of(frames_of(rows, "c"))
    text = "The plug-in velocity of the class is better than the conditional velocity."
    assert pairs(text, names) == {
        ("plug-in of the class p=0.5", "conditional"),
        ("plug-in of the class p=1", "conditional"),
    }


@pytest.mark.parametrize(
    ("text", "relation", "by", "margin"),
    [
        ("ESC is equivalent to CT within 2 %.", "equivalent", 0.0, 0.02),
        ("ESC is not worse than CT within 1.5%", "not_worse", 0.0, 0.015),
        ("ESC is at least as good as CT", "not_worse", 0.0, None),
        ("ESC is better than CT by at least 5 per cent.", "better", 0.05, None),
        ("ESC beats CT by 3 % or more", "better", 0.03, None),
        ({"equivalent": ["ESC", "CT"], "margin": 0.03}, "equivalent", 0.0, 0.03),
        ({"worse": ["ESC", "CT"], "by": 0.1}, "worse", 0.1, None),
    ],
)
def test_relations_margins_and_sizes_are_read(text: Any, relation: str, by: float, margin: float | None) -> None:
    claim = read(text, methods())
    assert (claim.problem, claim.relation, claim.by, claim.margin) == ("", relation, by, margin)
    assert claim.pairs == (("id2", "id1"),)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Guided training is better than FM.", "no arm or level is called 'guided training'; there are FM, CT, ESC"),
        ("ESC improves on CT.", "a claim reads 'A is better than B.'; relations are better than"),
        ("ESC is better than flow matching with 16 steps.", "no arm or level is called 'flow matching with 16 steps'"),
        ("ESC is better than CT for every schedule.", "there is no such axis; there are method"),
        ("Every arm is better than every arm.", "both sides are groups"),
        ("ESC is better than ESC.", "no two arms of the two sides can be compared"),
        ({"best": ["ESC", "CT"]}, "a claim has no key 'best'; its keys are better"),
        ({"better": ["ESC", "CT"], "worse": ["CT", "FM"]}, "a claim has one of better"),
        ({"better": ["ESC"]}, "better is a list of two sides, [A, B]"),
        ({"better": [{"lr": "1"}, "CT"]}, "there is no axis 'lr'; there are method"),
        ({"better": [{"method": "vae"}, "CT"]}, "'method' has no level 'vae'; it has fm, ct, esc and meanflow"),
        ({"equivalent": ["ESC", "CT"], "margin": 2}, "margin is a share between 0 and 1 (0.02 is 2 %), got 2"),
        ({"equivalent": ["ESC", "CT"], "by": 0.1}, "'by' goes with better and worse"),
        ({"same_ranking": {"of": "method"}}, "same_ranking is {of: AXIS, over: AXIS}"),
        ({"same_ranking": {"of": "method", "over": "nfe"}}, "there is no axis 'nfe'"),
    ],
)
def test_what_is_not_understood_is_said_in_one_line_and_never_true(text: Any, problem: str) -> None:
    claim = read(text, methods())
    assert problem in claim.problem
    assert "\n" not in claim.problem
    assert claim.pairs == ()
    [judged] = judge_claims([text], methods(), fit({"id2": {0: 0.0, 1: 0.1}, "id1": {0: 5.0, 1: 5.1}})).judged
    assert judged.status == "not understood"


def test_a_level_of_two_axes_must_be_written_with_its_axis() -> None:
    rows: ROWS = [
        (f"{g}{s}", "p", "list", f"arm {g} {s}", {"gradual": g, "stable": s})
        for g in ("on", "off")
        for s in ("on", "off")
    ]
    names = names_of(frames_of(rows, "offoff"))
    assert (
        "'on' is a level of several axes; write gradual=on and stable=on" in read("on is better than FM", names).problem
    )
    assert pairs("gradual=on is better than gradual=off", names) == {
        ("arm on on", "arm off on"),
        ("arm on off", "arm off off"),
    }


LABELLED: ROWS = [
    ("fm1", "methods", "ofat", "fm", {"objective": "fm", "nfe": "1"}),
    ("mf1", "methods", "ofat", "meanflow", {"objective": "meanflow", "nfe": "1"}),
    *((f"{m}{n}", "cross", "grid", f"{name}/{n}", {"objective": name, "nfe": n})
      for m, name in (("fm", "fm"), ("mf", "meanflow")) for n in ("1", "2")),
]  # fmt: skip
"""A grid, and one plan that names its arms at one step as their levels are called."""


def test_a_claim_may_name_an_arm_as_one_plan_calls_it() -> None:
    """Such names were known and stood for no arm, and a level of the same name was then hidden."""
    rows: ROWS = [("a", "first", "base", "MF", {}), ("b", "first", "list", "half/iid", {"plug": "half"}),
                  ("b", "one", "ofat", "plug=half", {"plug": "half"})]  # fmt: skip
    for count in (2, 3):
        names = names_of(frames_of(rows[:count], "a"))
        assert pairs("plug=half is better than MF.", names) == {("half/iid", "MF")}
    assert pairs("one.plug=half is better than MF.", names) == {("half/iid", "MF")}
    assert pairs("meanflow is better than fm.", names_of(frames_of(LABELLED, "fm1"))) == {("meanflow", "fm")}


def test_for_every_axis_compares_at_each_of_its_levels_whatever_names_the_sides() -> None:
    names = names_of(frames_of(LABELLED, "fm1"))
    both = {("meanflow", "fm"), ("meanflow/2", "fm/2")}
    assert pairs("meanflow is better than fm for every nfe.", names) == both
    assert pairs("objective=meanflow is better than objective=fm for every nfe.", names) == both
    [claim] = judged(
        ["meanflow is better than fm for every nfe."], {"fm1": 0.0, "mf1": -0.2, "fm2": -0.7, "mf2": -0.1}, names
    ).judged
    assert claim.status == "fails"
    alone: ROWS = [*LABELLED[:2], ("fm2", "more", "ofat", "fm2", {"objective": "fm", "nfe": "2"})]
    problem = read("meanflow is better than fm for every nfe.", names_of(frames_of(alone, "fm1"))).problem
    assert problem == "'for every nfe': no plan crosses 'nfe' with what is compared"


def test_a_ranking_leaves_out_arms_that_have_no_level_of_its_axis() -> None:
    rows: ROWS = [("base", "steps", "base", "base", {}), ("late", "steps", "ofat", "nfe=2", {"nfe": "2"}),
                  *((f"{m}{n}", "cross", "grid", f"{m}/{n}", {"objective": m, "nfe": n})
                    for m in ("meanflow", "sct") for n in ("1", "2"))]  # fmt: skip
    found = pairs({"same_ranking": {"of": "objective", "over": "nfe"}}, names_of(frames_of(rows, "base")))
    assert found == {("meanflow/1", "sct/1"), ("meanflow/2", "sct/2")}


def test_a_number_of_steps_must_be_the_one_that_everything_is_measured_with() -> None:
    assert read("ESC is better than CT at one step", methods(1)).problem == ""
    assert "at one step" in read("ESC is better than CT at one step", methods(4)).problem
    assert "at one step" in read("ESC is better than CT at one step", methods(None)).problem


# -- the shipped spaces


def space_names(file: Path) -> tuple[list[Any], Names]:
    plan = expand(load_space(file))
    return list(plan.claims), names_in(plan.arms, plan.baseline)


@pytest.mark.parametrize("file", sorted(SPACES.glob("*.yaml")), ids=lambda f: f.stem)
def test_every_claim_of_a_shipped_space_is_understood(file: Path) -> None:
    claims, names = space_names(file)
    for claim in claims:
        found = read(claim, names)
        assert found.problem == ""
        assert found.pairs


def test_the_claims_of_some_shipped_spaces_are_read_as_they_are_meant() -> None:
    claims, names = space_names(SPACES / "schedules.yaml")
    assert len(pairs(claims[0], names)) == 7
    assert all(
        a.endswith("/linear") and b == a.replace("linear", "cosine")
        for a, b in pairs(claims[0], names)
        if "sCT-l" not in a
    )
    claims, names = space_names(SPACES / "posthoc.yaml")
    ranking = read(claims[1], names)
    assert len(ranking.pairs) == 5 * math.comb(4, 2), "four methods in pairs, at each of five averages and one step"
    claims, names = space_names(SPACES / "objectives.yaml")
    assert {b for _, b in pairs(claims[0], names)} == {"FM"}


# -- judging


def judged(
    claims: list[Any], effects: dict[str, float], names: Names | None = None, sd: float = 0.005, **more: Any
) -> Claims:
    """Six seeds around the effects; arms by id."""
    rng = np.random.default_rng(0)
    values = {a: {s: float(e + rng.normal(0, sd)) for s in range(6)} for a, e in effects.items()}
    return judge_claims(claims, names or methods(), fit(values), **more)


EFFECTS = {"id0": 0.0, "id1": -0.2, "id2": -0.5, "id3": -0.2}


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("ESC is better than MeanFlow.", "holds"),
        ("MeanFlow is better than ESC.", "fails"),
        ("FM is worse than ESC.", "holds"),
        ("CT is better than MeanFlow.", "undecided"),
        ("CT is equivalent to MeanFlow within 3 %.", "holds"),
        ("CT is equivalent to ESC within 3 %.", "fails"),
        ("CT is not worse than MeanFlow within 3 %.", "holds"),
        ("FM is not worse than ESC within 3 %.", "fails"),
        ("Every other arm is better than FM.", "holds"),
        ("Every other arm is better than MeanFlow.", "fails"),
        ("At least one other arm is better than MeanFlow.", "holds"),
        ("At least one other arm is better than ESC.", "fails"),
        ("ESC is better than MeanFlow by at least 10 %.", "holds"),
        ("ESC is better than MeanFlow by at least 50 %.", "fails"),
        ("ESC is better than MeanFlow by at least 26.4 %.", "undecided"),
        ("FM is worse than ESC by at least 50 %.", "holds"),
        ("FM is worse than ESC by at least 150 %.", "fails"),
        ("ESC is better than FM by at least 100 %.", "not understood"),
        ({"worse": ["FM", "ESC"], "by": 1.5}, "fails"),
    ],
)
def test_claims_hold_fail_or_stay_open(text: Any, status: str) -> None:
    [claim] = judged([text], EFFECTS).judged
    assert claim.status == status, claim.reason
    assert claim.reason


def test_higher_is_better_turns_everything_around() -> None:
    claims = ["ESC is better than MeanFlow.", "MeanFlow is better than ESC by at least 10 %.", "FM is worse than CT."]
    found = judged(claims, EFFECTS, lower_is_better=False).judged
    assert [c.status for c in found] == ["fails", "holds", "fails"]
    claims = [
        "FM is better than ESC by at least 60 %.",
        "FM is better than ESC by at least 120 %.",
        "CT is worse than FM by 100 %",
    ]
    found = judged(claims, EFFECTS, lower_is_better=False).judged
    assert [c.status for c in found] == ["holds", "fails", "not understood"]


def test_the_family_is_what_the_claims_compare_and_nothing_else() -> None:
    one = judged(["ESC is better than MeanFlow."], EFFECTS)
    two = judged(["ESC is better than MeanFlow.", "Every other arm is better than FM."], EFFECTS)
    assert (one.comparisons, two.comparisons) == (1, 4)
    alone, among = (c.judged[0].pairs[0].contrast for c in (one, two))
    assert alone is not None
    assert among is not None
    assert (alone.low, alone.high) == pytest.approx((alone.low_single, alone.high_single))
    assert among.low is not None
    assert alone.low is not None
    assert among.low < alone.low
    assert two.judged[1].reason.startswith("3 of 3 comparisons hold, 0 fail: CT against FM −")


def test_what_cannot_be_compared_stays_open_with_the_reason() -> None:
    [claim] = judged(["ESC is better than MeanFlow."], {"id0": 0.0, "id2": -1.0}).judged
    assert (claim.status, claim.reason) == (
        "undecided",
        "ESC against MeanFlow: no value of MeanFlow to compare",
    )
    [claim] = judge_claims(["ESC is better than CT."], methods(), fit({"id2": {0: 0.0}, "id1": {0: 1.0}})).judged
    assert (claim.status, claim.reason) == ("undecided", "ESC against CT: no interval: one seed")
    [claim] = judged(["CT is equivalent to MeanFlow."], EFFECTS).judged
    assert (claim.status, "needs a margin" in claim.reason) == ("undecided", True)
    [claim] = judged(["CT is equivalent to MeanFlow."], EFFECTS, margin=0.03).judged
    assert claim.status == "holds"
    [claim] = judged(["CT is equivalent to MeanFlow."], EFFECTS, margin=0.03, scale="linear").judged
    assert (claim.status, "a share means nothing" in claim.reason) == ("undecided", True)
    assert judge_claims(["ESC is better than CT."], methods(), None).judged[0].status == "undecided"


def test_a_check_fails_on_a_claim_that_fails_or_cannot_be_read() -> None:
    assert judged(["MeanFlow is better than ESC."], EFFECTS).failed
    assert judged(["Gibberish."], EFFECTS).failed
    assert not judged(["ESC is better than MeanFlow.", "CT is better than MeanFlow."], EFFECTS).failed
    assert not judged([], EFFECTS).failed


@pytest.mark.parametrize(("shift", "status"), [(0.0, "holds"), (0.5, "fails"), (0.2, "undecided")])
def test_a_ranking_is_the_same_unless_two_levels_change_places(shift: float, status: str) -> None:
    """FM and MeanFlow are 0.2 apart on the linear path; the cosine path shifts FM."""
    effects = {a: {"fm": 0.0, "meanflow": 0.2, "esc": 2.0}[a.split("-")[0]] for a, *_ in GRID}
    effects["fm-cosine01"] += shift
    text = "The ranking of objective is the same for every schedule."
    for claim in (text, {"same_ranking": {"of": "objective", "over": "schedule"}}):
        [found] = judged([claim], effects, grid()).judged
        assert found.status == status, found.reason


def test_true_claims_of_no_difference_are_rarely_called_failed_or_held() -> None:
    """Nothing differs: over all claims of a study, an error in at most 5 % of studies."""
    names, rng, runs, wrong = methods(), np.random.default_rng(3), 150, 0
    for _ in range(runs):
        values = {f"id{i}": {s: float(rng.normal()) for s in range(4)} for i in range(4)}
        found = judge_claims(["Every other arm is better than FM.", "ESC is better than FM."], names, fit(values))
        wrong += any(p.status in ("holds", "fails") for c in found.judged for p in c.pairs)
    assert wrong / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_the_parts_of_a_grids_labels_find_their_axes_whatever_the_order_of_the_choice() -> None:
    """A store keeps the levels of a cell sorted by axis; the label has them as the space lists the axes."""
    levels = [("plain", "0.5"), ("plain", "1"), ("scaled", "0.5"), ("scaled", "1")]
    members = [
        (arm, "cross", "grid", i, f"{loss} loss/{rate}", {"rate": rate, "loss": loss})
        for i, (arm, (loss, rate)) in enumerate(zip(("fm", "ct", "imm", "esc"), levels, strict=True))
    ]
    frames = study(dict.fromkeys(("fm", "ct", "imm", "esc"), 0.0), members=members)
    names = names_of(changed(frames, study_arms=frames.study_arms[frames.study_arms["plan"] == "cross"]))
    assert names.named("plain loss").arms == ("arm-fm", "arm-ct")
    assert names.named("scaled").arms == ("arm-imm", "arm-esc")
    assert names.named("0.5").arms == ("arm-fm", "arm-imm")
    assert names.levels["plain loss"] == (("loss", "plain"),)
