"""Published numbers stand beside ours with their identity, and take part in nothing."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from simulated_study import CONDITION, METRIC, study

from ablate_reports import analyse, render_csv, render_html, render_json, render_markdown
from ablate_reports.figures import all_figures
from ablate_reports.published import beside, records

IDENTITY = {"dataset": "ImageNet-256", "architecture": "SiT-B/2", "nfe": 1, "guided": True, "guidance": "omega 1"}
ROWS: list[dict[str, Any]] = [
    {"arm": "ct", "metric": "fid50k", "value": 777.125, "source": "a page", "identity": IDENTITY, "table": "t"},
    {"arm": "esc", "metric": "fid50k", "value": 666.4375, "source": "a page", "identity": IDENTITY, "note": "a remark"},
    {"arm": "gone", "metric": "fid50k", "value": 555.8125, "source": "a page", "identity": IDENTITY},
    {"arm": "ct", "metric": "inception_score", "value": 2513.946, "spread": 3.435, "source": "a file"},
]  # fmt: skip
LATER = {"published": ROWS}


def section(html: str) -> str:
    found = re.search(r'<section id="published">.*?</section>', html, re.S)
    assert found is not None
    return found[0]


def test_numbers_of_one_identity_and_source_stand_together_with_ours_beside_them() -> None:
    a = analyse(study(parts=LATER))
    first, second = beside(a)
    assert first.metric == "fid50k"
    assert first.identity == "ImageNet-256; SiT-B/2; 1 network evaluation; guided (omega 1)"
    assert first.source == "a page"
    assert first.table.head == ["Arm", "Published", "Ours", "Note"]
    assert [row[:2] for row in first.table.rows] == [
        ["ct", "fid50k 777.125"],
        ["esc", "fid50k 666.4375"],
        ["gone", "fid50k 555.8125"],
    ]
    ct = a.by_id["arm-ct"]
    assert ct.low is not None
    assert first.table.rows[0][2] == f"fd_digits {ct.value:.2f} (95%: {ct.low:.2f} to {ct.high:.2f}, 3 seeds)"
    assert first.table.rows[2][2] == "not in this study"
    assert first.table.rows[1][3] == "a remark"
    assert second.table.rows[0][1] == "inception_score 2513.946 ± 3.435 (as published)"


def test_another_metric_is_said_to_be_another_quantity() -> None:
    first, second = beside(analyse(study(parts=LATER)))
    assert first.why.startswith("Not comparable: fid50k is another quantity than ours, Frechet distance on digit")
    assert second.why.startswith("Not comparable: inception_score is another quantity than ours")


def fid_study(samples: int, nfe: int, published: list[dict[str, Any]]) -> Any:
    import pandas as pd

    definition = json.dumps(METRIC | {"name": "fid", "samples": samples})
    columns = ["metric_id", "name", "definition", "higher_is_better"]
    first = study(metric={"name": "fid", "mode": "min", "at": "last"})
    return study(
        metric={"name": "fid", "mode": "min", "at": "last"},
        parts={
            "published": published,
            "measurements": first.measurements.assign(metric_name="fid", n_samples=samples),
            "metric_defs": pd.DataFrame([("mid000000001", "fid", definition, False)], columns=columns),
            "conditions": pd.DataFrame(
                [("cid000000001", json.dumps(CONDITION | {"nfe": nfe}))], columns=["cond_id", "definition"]
            ),
        },
    )


def test_the_same_kind_of_metric_is_still_not_comparable_and_says_what_is_known_to_differ() -> None:
    (found,) = beside(analyse(fid_study(2000, 2, ROWS[:1])))
    assert found.why == (
        "Not comparable: the same kind of metric as ours, of another identity (50,000 samples there, 2,000 here; "
        "1 network evaluations there, 2 here; weights, resize and reference of theirs are not known to be ours)."
    )
    (same,) = beside(analyse(fid_study(50_000, 1, ROWS[:1])))
    assert "samples there" not in same.why
    assert same.why.startswith("Not comparable: ")


def test_a_published_number_changes_no_number_verdict_figure_or_row_of_ours() -> None:
    without, with_them = study(), study(parts=LATER)
    assert render_csv(without) == render_csv(with_them)
    a, b = json.loads(render_json(without)), json.loads(render_json(with_them))
    assert {k: v for k, v in a.items() if k != "published"} == {k: v for k, v in b.items() if k != "published"}
    figures = [json.dumps(f.spec, sort_keys=True) for f in all_figures(analyse(with_them))]
    assert figures == [json.dumps(f.spec, sort_keys=True) for f in all_figures(analyse(without))]
    for value in ("777.125", "666.4375", "555.8125", "2513.946"):
        assert render_html(with_them).count(value) == 1  # in its table, and nowhere else on the page


def test_every_published_number_of_the_json_is_marked_and_without_an_interval() -> None:
    found = json.loads(render_json(study(parts=LATER)))["published"]
    assert [row["value"] for row in found] == [row["value"] for row in ROWS]
    for row in found:
        assert row["comparable"] is False
        assert row["why"].startswith("Not comparable")
        assert not {"low", "high", "difference", "verdict", "interval"} & set(row)
    assert found[0]["ours"]["metric"] == "fd_digits"
    assert found[0]["ours"]["n"] == 3
    assert found[2]["ours"] == {"arm_id": None, "metric": "fd_digits", "mean": None, "low": None, "high": None, "n": 0}
    assert records(analyse(study(parts=LATER)))[0]["table"] == "t"


def test_the_page_and_the_markdown_say_that_they_are_for_orientation_only() -> None:
    html, text = render_html(study(parts=LATER)), render_markdown(study(parts=LATER))
    assert "take part in no comparison" in section(html)
    assert '<a href="#published">' in html
    assert section(html).count("Not comparable") == 2
    assert "## Published numbers beside ours" in text
    assert text.count("Not comparable") == 2
    assert "| ct | fid50k 777.125 |" in text
    assert '<section id="published">' not in render_html(study())


@pytest.mark.parametrize("text", ["<script>alert(9)</script>", "{{ 7*7 }} | `x`", "\u202eevil", "a\n\x00b", "x" * 3000])
def test_hostile_names_stay_text(text: str) -> None:
    row = {"arm": text, "metric": text, "value": 1.5, "source": text, "note": text, text: text}
    row |= {"identity": {text: text, "dataset": text}}
    frames = study(labels={"ct": text}, parts={"published": [row]})
    html, markdown = render_html(frames), render_markdown(frames)
    markdown = markdown[markdown.index("## Published") : markdown.index("## Methods")]
    for out in (section(html), markdown):
        assert "<script" not in out
        assert "\x00" not in out
        assert "x" * 500 not in out
    assert json.loads(render_json(frames))["published"][0]["note"] == text
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {row.replace("\\|", "").count("|") for row in rows} == {5}


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"label": "A1", "fid": 6.09},
        {"arm": "ct", "metric": "fid", "value": None},
        {"arm": "ct", "metric": None, "value": float("nan"), "identity": "not a mapping", "source": 3},
        {"arm": ["a", "b"], "metric": 7, "value": {"a": 1}, "identity": {"nfe": [1, 2], "guided": None}},
    ],
)
def test_rows_of_any_form_are_shown(row: dict[str, Any]) -> None:
    frames = study(parts={"published": [row]})
    assert "Published numbers beside ours" in section(render_html(frames))
    assert "## Published numbers" in render_markdown(frames)
    assert json.loads(render_json(frames))["published"][0]["comparable"] is False


def test_nothing_measured_yet_is_said() -> None:
    frames = study(parts=LATER, metric={"name": "never_measured"})
    first, _ = beside(analyse(frames))
    assert first.why == "Nothing of this study is measured yet."
    assert first.table.rows[0][2] == "no value"


def test_an_arm_with_one_seed_has_no_interval_of_ours() -> None:
    first, _ = beside(analyse(study(seeds=1, parts=LATER)))
    assert re.fullmatch(r"fd_digits [\d.]+ \(1 seed\)", first.table.rows[0][2])
