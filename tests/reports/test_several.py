"""Several studies: ratios to their own baselines and nothing pooled, one page with every id once, every format."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import Chromium, executable
from scipy import stats
from simulated_study import DEGENERATE, METRIC, study
from test_latex import tables
from test_page import HOSTILE, Page

from ablate_reports import StudyFrames, analyse, render
from ablate_reports.data import COLUMNS
from ablate_reports.outputs import SEVERAL
from ablate_reports.several import Several, changes, combined, ratios, summary

HALF = {"fm": 0.0, "meanflow": -0.8, "esc": -0.9, "imm": -0.6, "new": -0.3}


def elsewhere(metric: str = "mid-other", **more: Any) -> StudyFrames:
    """Another study: other data, another metric identity, trials of its own, effects half as large."""
    f = study(**({"effects": HALF, "seeds": 4, "rng_seed": 5, "level": 30.0, "name": "elsewhere"} | more))
    parts = {name: getattr(f, name).copy() for name in COLUMNS}
    for name in ("trials", "measurements", "curves", "artifacts", "attempts"):
        parts[name]["trial_id"] = "other-" + parts[name]["trial_id"].astype(str)
    if metric != "mid000000001":
        parts["measurements"]["metric_id"] = metric
        definition = json.dumps(METRIC | {"weights_sha256": "another"})
        parts["metric_defs"] = f.metric_defs.assign(metric_id=metric, definition=definition)
    data = {"data": {"name": "other"}}
    parts["arms"]["config"] = [json.dumps(json.loads(c) | data) for c in parts["arms"]["config"]]
    return StudyFrames(study=f.study, **parts)


@pytest.fixture(scope="module")
def two() -> list[StudyFrames]:
    return [study(name="here", labels=HOSTILE), elsewhere(labels={"meanflow": "MeanFlow"})]


@pytest.fixture(scope="module")
def both(two: list[StudyFrames]) -> Several:
    return Several([analyse(f) for f in two])


def test_arms_are_shared_by_what_they_change_and_not_by_their_names(both: Several) -> None:
    assert [set(arm.rows) for arm in both.shared] == [{0, 1}] * 3
    assert [arm.rows[1].label for arm in both.shared] == ["imm", "MeanFlow", "esc"]
    assert [arm.rows[0].arm_id for arm in both.shared] == ["arm-imm", "arm-meanflow", "arm-esc"]
    assert both.shared[1].change == (("objective.name", '"fm"', '"meanflow"'),), "not the data, in which both differ"
    assert both.shared[2].label == f"{HOSTILE['esc']} / esc"
    assert changes(both.analyses[0].frames)["arm-fm"] == ()


def test_an_arm_that_changes_something_else_of_the_same_name_is_not_shared() -> None:
    f = elsewhere()
    longer = [json.dumps(json.loads(c) | {"steps": 9 * ("esc" in c)}) for c in f.arms["config"]]
    parts = {name: getattr(f, name) for name in COLUMNS} | {"arms": f.arms.assign(config=longer)}
    found = Several([analyse(study()), analyse(StudyFrames(study=f.study, **parts))])
    assert [arm.label for arm in found.shared] == ["imm", "meanflow"]


def test_the_geometric_mean_is_of_ratios_to_the_own_baselines(both: Several) -> None:
    for arm in both.shared:
        contrasts = [r.contrast for r in arm.rows.values()]
        t = arm.together
        assert t is not None
        own = [
            math.log(r.value / base.value)
            for i, r in arm.rows.items()
            for base in [both.analyses[i].by_id["arm-fm"]]
            if r.value and base.value
        ]
        assert t.estimate == pytest.approx(np.mean(own), abs=1e-12)
        assert t.se == pytest.approx(math.sqrt(sum(c.se_family**2 for c in contrasts if c and c.se_family)) / 2)
        assert t.low is not None
        assert t.se is not None
        assert t.estimate - t.low == pytest.approx(stats.t.isf(0.05 / 2 / 3, t.df) * t.se)
        assert t.verdict == "better"


def test_degrees_of_freedom_are_those_of_welch_in_scipy() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(1, 0.2, 4), rng.normal(0.5, 1.1, 7)
    se, df = combined([(0.5, x.std(ddof=1) / 2, 3), (0.5, y.std(ddof=1) / math.sqrt(7), 6)])
    oracle = stats.ttest_ind(x, -y, equal_var=False)
    between = oracle.confidence_interval(0.95)
    middle = (x.mean() + y.mean()) / 2
    assert df == pytest.approx(oracle.df, rel=1e-12)
    assert middle - stats.t.isf(0.025, df) * se == pytest.approx(between.low / 2, rel=1e-10)


def test_intervals_of_the_mean_cover_what_they_should() -> None:
    rng = np.random.default_rng(11)
    sds, dfs, reps = np.array([1.0, 3.0, 1.5]), np.array([6, 4, 12]), 4000
    estimates = rng.normal(0, sds, (reps, 3)).mean(axis=1)
    ses = sds * np.sqrt(rng.chisquare(dfs, (reps, 3)) / dfs)
    found = [combined([(1 / 3, s, df) for s, df in zip(row, dfs, strict=True)]) for row in ses]
    critical = stats.t.isf(0.025, [df for _, df in found]) * np.array([se for se, _ in found])
    assert 0.94 < (np.abs(estimates) < critical).mean() < 0.965


def test_every_metric_identity_weighs_the_same() -> None:
    third = elsewhere(name="third", rng_seed=8)
    s = Several([analyse(study()), analyse(elsewhere()), analyse(StudyFrames(study=third.study, **{
        name: getattr(third, name).replace({"trial_id": r"^other"}, {"trial_id": "third"}, regex=True)
        for name in COLUMNS}))])  # fmt: skip
    (arm,) = [a for a in s.shared if a.label == "esc"]
    d = [r.contrast.estimate for r in arm.rows.values() if r.contrast]
    assert arm.together is not None
    assert arm.together.estimate == pytest.approx(d[0] / 2 + d[1] / 4 + d[2] / 4)
    assert arm.together.low is not None


def test_studies_that_share_trials_or_lack_seeds_get_no_interval() -> None:
    a, again, one = analyse(study()), analyse(study(name="again")), analyse(elsewhere(seeds=1))
    same = Several([a, again]).shared[0].together
    assert same is not None
    assert (same.low, same.note) == (None, "no interval: the studies share trials")
    single = Several([a, one]).shared[0].together
    assert single is not None
    assert (single.low, single.verdict, single.note) == (None, None, "no interval: a study has none")


def test_other_directions_scales_and_missing_baselines_are_left_out() -> None:
    a, f = analyse(study()), elsewhere()
    assert all(arm.together for arm in Several([a, analyse(f)]).shared)
    parts = {name: getattr(f, name) for name in COLUMNS}
    up = StudyFrames(study=dict(f.study) | {"metric": {"name": "fd_digits", "mode": "max", "at": "last"}}, **parts)
    assert all(arm.together is None for arm in Several([a, analyse(up)]).shared)
    lowered = f.measurements.assign(value=f.measurements["value"] - 40)
    signed = StudyFrames(study=f.study, **parts | {"measurements": lowered})
    assert all(arm.together is None for arm in Several([a, analyse(signed)]).shared)
    assert Several([a, analyse(study(baseline_arm_id=None))]).shared == []


def test_the_summary_has_a_row_per_study_with_verdict_best_n_and_identity(both: Several) -> None:
    table = summary(both)
    assert [row[0] for row in table.rows] == ["here", "elsewhere"]
    for row, a in zip(table.rows, both.analyses, strict=True):
        assert row[1] == a.headline
        assert row[3] == str(a.rows[0].n)
        assert a.primary is not None
        assert a.primary.metric_id in row[6]
    assert "leads, not resolved" in summary(Several([analyse(DEGENERATE["one seed"])])).rows[0][2]


def test_no_row_of_shared_arms_holds_a_raw_value(both: Several) -> None:
    rows = ratios(both).rows
    assert len(rows) == 3 * (2 + 1)
    assert all(re.fullmatch(r"[+−][\d.]+%|—", row[4]) for row in rows)


@pytest.fixture(scope="module")
def page(both: Several) -> str:
    return SEVERAL["html"](both)


def test_one_page_has_every_id_once_every_link_leads_somewhere_and_plotly_is_in_once(page: str) -> None:
    tags = Page(page).tags
    ids = Counter(attrs["id"] for _, attrs in tags if attrs.get("id"))
    assert [i for i, n in ids.items() if n > 1] == []
    links = [str(attrs["href"]) for t, attrs in tags if t == "a"]
    assert {"#overview", "#s1-verdict", "#s2-verdict", "#s2-arms"} <= set(links)
    assert [link for link in links if link.removeprefix("#") not in ids] == []
    named = [i for _, a in tags for k in ("aria-labelledby", "aria-describedby") if a.get(k) for i in str(a[k]).split()]
    assert [i for i in named if i not in ids] == []
    assert ids["plotly"] == 1
    assert len(page) < 3_000_000
    assert "<script>alert" not in page
    visible = re.sub(r"<[^>]+>", " ", re.sub(r"(?s)<(style|script).*?</\1>", "", page))
    assert not re.search(r"\b(nan|NaN|NaT|inf|None)\b(?!\.)", visible)


def test_figures_belong_to_one_study_each(page: str, both: Several) -> None:
    axes = re.findall(r'data-figure="(s\d)-effects" style', page)
    assert axes == ["s1", "s2"]
    specs = re.findall(r'id="spec-(s\d)-effects">(.*?)</script>', page)
    assert all(json.loads(spec)["data"] for _, spec in specs)


def test_one_study_is_rendered_as_before() -> None:
    alone = [study({"fm": 0.0, "ct": -0.5}, points=5)]
    assert 'id="overview"' not in render("html", alone)
    assert render("md", alone).startswith("# objectives (synthetic)\n")
    assert json.loads(render("json", alone))["headline"]


def test_markdown_csv_json_and_latex_hold_all_studies(both: Several) -> None:
    text = SEVERAL["md"](both)
    assert text.startswith("# 2 studies: here and elsewhere\n")
    assert [line for line in text.splitlines() if re.match(r"##? (here|elsewhere|2)", line)][1:] == [
        "## here",
        "## elsewhere",
    ]
    assert "<script" not in text
    rows = list(csv.DictReader(io.StringIO(SEVERAL["csv"](both))))
    assert Counter(r["study"] for r in rows) == {"here": 7, "elsewhere": 5}
    document = json.loads(SEVERAL["json"](both))
    assert document["format"] == 1
    assert [s["headline"] for s in document["studies"]] == [a.headline for a in both.analyses]
    assert [s["metric_id"] for s in document["summary"]] == ["mid000000001", "mid-other"]
    shared = {arm["label"]: arm for arm in document["shared"]}
    mean = shared[f"{HOSTILE['esc']} / esc"]["mean"]
    assert mean["studies"] == ["here", "elsewhere"]
    assert mean["difference_low"] < mean["difference"] < mean["difference_high"] < 0
    found = tables(SEVERAL["tex"](both))
    assert len(found) == 2 + 2
    assert [row[0] for row in found[0][1]] == ["Study", "here", "elsewhere"]


def test_degenerate_studies_stand_beside_each_other_in_every_format() -> None:
    s = Several([analyse(DEGENERATE[name]) for name in ("empty", "all failed", "one seed", "no baseline")])
    for write in SEVERAL.values():
        assert write(s)


@pytest.mark.skipif(executable() is None, reason="chromium not found: apt-get install chromium")
def test_the_filters_of_one_study_leave_the_other_alone(page: str, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    with Chromium() as browser:
        browser.open(path, "#all")
        browser.run("window.ablateReport.ready")
        drawn = "[...document.querySelectorAll('.plot')].every(p => p.querySelector('.main-svg'))"
        assert browser.run(drawn)
        count = "[...document.querySelectorAll(`#${p}trial-rows tr`)].filter(r => !r.hidden).length"
        shown = f"['s1-', 's2-'].map(p => {count})"
        assert browser.run(shown) == [21, 20]
        browser.run(
            "(() => { const f = document.querySelectorAll('article')[1].querySelector('[data-filter=text]');"
            " f.value = 'esc'; f.dispatchEvent(new Event('input')); })()"
        )
        assert browser.run(shown) == [21, 4]
        assert browser.problems == []
        assert [u for u in browser.requests if not u.startswith(("data:", "blob:"))] == [path.as_uri()]
