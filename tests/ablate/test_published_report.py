"""From the numbers that ship as YAML, through space, journal and store, to the page: what single runs can tell."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

from ablate.space import expand, load_space
from ablate.store import Journal, StorePaths, open_frames, record_plan
from ablate_reports import StudyFrames, render_html, render_json, render_markdown

SPACE = Path(__file__).parents[2] / "spaces" / "esc.yaml"
SENTENCE = (
    "With an assumed seed noise of 1.3%, two single runs that do not differ lie within ±3.6% of each other in 95% of "
    "cases: only ESC (−5.3%) is resolved against MeanFlow; inconclusive: A1 (−1.3%), A2 (−1.8%), B1 (−0.2%), "
    "B2 (−2.1%), C (−1.6%) and D (−2.3%)."
)


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Every report of the shipped space on ESC, of which nothing has been trained yet."""
    paths = StorePaths(tmp_path_factory.mktemp("esc"))
    with Journal(paths, "driver") as journal:
        record_plan(journal, expand(load_space(SPACE)))
    frames = StudyFrames.from_mapping(open_frames(paths, "esc"))
    return {"html": render_html(frames), "md": render_markdown(frames), "json": render_json(frames)}


def test_the_page_says_which_published_steps_are_resolved(reports: dict[str, str]) -> None:
    text = html.unescape(re.sub(r"<[^>]+>", "", reports["html"]))
    assert SENTENCE in text
    assert "A published value is one run as far as is known, and has no interval" in text
    rows = re.findall(r"<tr.*?>(.*?)</tr>", reports["html"][reports["html"].index("What single runs can tell") :], re.S)
    cells = [
        [html.unescape(re.sub(r"<[^>]+>", "", c)).strip() for c in re.findall(r"<t[dh].*?</t[dh]>", r, re.S)]
        for r in rows
    ]
    told = {c[0]: c[3:] for c in cells if len(c) == 5 and c[3] in ("inconclusive", "outside the band")}
    assert told.pop("ESC") == ["outside the band", "yes"]
    assert list(told) == ["A1", "A2", "B1", "B2", "C", "D"]
    assert set(map(tuple, told.values())) == {("inconclusive", "no")}


def test_every_other_report_says_the_same(reports: dict[str, str]) -> None:
    assert SENTENCE in reports["md"]
    [found] = json.loads(reports["json"])["findings"]["single_runs"]
    assert found["sentence"] == SENTENCE
    assert [s["name"] for s in found["steps"] if s["resolved"]] == ["ESC"]


def test_none_of_the_published_numbers_becomes_a_verdict_of_ours(reports: dict[str, str]) -> None:
    document = json.loads(reports["json"])
    assert all(arm["mean"] is None and arm["verdict"] is None for arm in document["arms"])
    assert [p["comparable"] for p in document["published"]] == [False] * 8
    assert document["headline"] == "0 of 27 trials finished so far: nothing is measured yet."
