"""The page as text, and its siblings in Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from simulated_study import DEGENERATE, degenerate_page, random_pictures, rich_study, study

from ablate_reports import StudyFrames, analyse, render_csv, render_html, render_json, render_markdown
from ablate_reports.emitters import CSV_COLUMNS

HOSTILE = {
    "ct": "<script>alert(1)</script>",
    "scd": "x" * 300,
    "imm": "\u202eevil \u05e9\u05dc\u05d5\u05dd",
    "sct": "</script><img src=x onerror=alert(2)>",
    "meanflow": "{{ 7*7 }} & \"quoted\" 'single' `tick` | pipe",
    "esc": "=cmd()|'/c calc'!A0\n\x00new line",
}


class Page(HTMLParser):
    """Tags, their attributes, and the text inside each kind of element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_script = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return render_html(rich_study(pictures=tmp_path_factory.mktemp("pictures")))


def test_nothing_on_the_page_points_outside(page: str) -> None:
    for tag, attrs in Page(page).tags:
        for name in ("src", "href", "action", "data", "srcset", "poster"):
            value = attrs.get(name) or ""
            assert not re.match(r"(?i)(https?:)?//", value), (tag, value)
            assert tag != "link"
    assert "@import" not in page
    assert "url(" not in page


def test_the_policy_allows_this_script_and_no_other(page: str) -> None:
    policy = next(a["content"] for t, a in Page(page).tags if t == "meta" and a.get("http-equiv"))
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe-eval" not in policy
    assert "script-src 'unsafe-inline'" not in policy
    code = page.rsplit("<script>", 1)[1].split("</script>", 1)[0]
    import base64

    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in policy


def test_every_figure_has_a_caption_a_name_and_a_data_table(page: str) -> None:
    figures = re.findall(r"<figure.*?</figure>", page, re.S)
    assert len(figures) == 10
    for number, figure in enumerate(figures, 1):
        assert "aria-labelledby=" in figure
        assert f"<b>Figure {number}.</b>" in figure
        assert "<summary>Data table</summary>" in figure
        assert "<tbody>" in figure
        assert "<summary>Query</summary>" in figure
    assert page.count('role="img"') >= 4


def test_plotly_is_inlined_once_and_compressed(page: str) -> None:
    assert page.count('id="plotly"') == 1
    assert len(page) < 3_000_000


def test_the_same_study_gives_the_same_bytes_in_another_process() -> None:
    """Another one with other hashes of text, and so another order of sets: those of seed 1 or 2."""
    code = (
        "import hashlib, sys; sys.path.insert(0, sys.argv[1]); from simulated_study import rich_study;"
        "import ablate_reports as r; f = rich_study();"
        "print([hashlib.sha256(x(f).encode()).hexdigest() for x in (r.render_html, r.render_json, r.render_csv, "
        "r.render_markdown)])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"},
        check=True,
    )
    frames = rich_study()
    texts = [render(frames) for render in (render_html, render_json, render_csv, render_markdown)]
    assert found.stdout.strip() == str([hashlib.sha256(text.encode()).hexdigest() for text in texts])


@pytest.fixture(scope="module")
def hostile() -> StudyFrames:
    return study(
        labels=HOSTILE,
        name="<b>study</b>",
        question="</title><script>alert(3)</script>",
        space_yaml="</pre><script>alert(4)</script>",
    )


def test_hostile_names_stay_text_on_the_page(hostile: StudyFrames) -> None:
    html = render_html(hostile)
    tags = Page(html)
    assert sum(t == "script" for t, _ in tags.tags) == 4 + 3  # figure specs; levels of the arms, plotly, the page's own
    assert not any(t == "img" for t, _ in tags.tags)
    assert not any(name.startswith("on") for _, attrs in tags.tags for name in attrs)
    assert "alert(1)" in html
    assert "<script>alert" not in html
    assert "{{ 7*7 }}" in html


def test_hostile_names_stay_text_inside_plotly(hostile: StudyFrames) -> None:
    for text in Page(render_html(hostile)).scripts:
        if text.startswith('{"data"'):
            assert "<script" not in text
            spec = json.loads(text)
            for note in spec["layout"].get("annotations", []):
                assert "<script" not in note["text"]
                assert len(note["text"]) < 400


def test_markdown_holds_verdict_table_and_methods_and_escapes_names(hostile: StudyFrames) -> None:
    text = render_markdown(hostile)
    assert "<script" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    widths = {line.replace("\\|", "").count("|") for line in rows[:9]}
    assert widths == {9}
    assert "## Methods" in text
    assert "beats the baseline fm" in text


def test_csv_has_one_line_per_arm_with_raw_numbers(hostile: StudyFrames) -> None:
    rows = list(csv.DictReader(io.StringIO(render_csv(hostile))))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [r["arm_id"] for r in rows] == [f"arm-{n}" for n in ("fm", *HOSTILE)]
    a = analyse(hostile)
    for row, arm in zip(rows, a.rows, strict=True):
        assert float(row["mean"]) == arm.value
        assert (row["difference_low"] == "") == (arm.contrast is None)
        assert not row["label"].startswith(("=", "+", "-", "@"))


def test_json_holds_every_number_and_verdict() -> None:
    frames = rich_study()
    a, document = analyse(frames), json.loads(render_json(frames))
    assert document["format"] == 1
    assert document["headline"] == a.headline
    assert [r["verdict"] for r in document["arms"]] == [r.verdict for r in a.rows]
    assert [r["low"] for r in document["arms"]] == [r.low for r in a.rows]
    assert document["arms"][1]["values"]["0"] == a.rows[1].seeds[0]
    assert document["model"]["df"] == a.model.df  # type: ignore[union-attr]
    assert document["others"][0]["differs"] == [{"field": "condition.nfe", "primary": 1, "here": 4}]
    assert [s["verdict"] for s in document["cumulative"]["walk"]] == [
        None,
        "better",
        "inconclusive",
        "inconclusive",
        "better",
    ]
    assert len(document["failures"]) == 4
    assert document["published"][0]["value"] == 2.9
    assert document["primary"]["definition"]["samples"] == 1797


def test_a_hundred_trials_with_their_pictures_stay_under_three_megabytes(tmp_path: Path) -> None:
    effects = {f"arm {i:02d}": -0.01 * i for i in range(25)}
    big = random_pictures(study(effects, 4, points=200, every=200, pictures=tmp_path), kilobytes=14)
    assert len(render_html(big).encode()) < 3_000_000


def test_published_numbers_stand_apart(page: str) -> None:
    section = re.search(r'<section id="published">.*?</section>', page, re.S)
    assert section is not None
    assert "take part in no comparison" in section[0]
    assert "an invented paper" in section[0]
    assert page.count("an invented paper") == 1


def test_failures_and_skips_carry_their_reasons(page: str) -> None:
    assert "RuntimeError: out of memory" in page
    assert "loss is not finite at step 900" in page
    assert re.search(r"4 of 44 trials failed, diverged or were lost; they cost .+, [\d.]+% of the whole\.", page)
    assert "the method is derived for the linear path" in page


def test_methods_say_what_was_done(page: str) -> None:
    methods = re.search(r'<section id="methods">.*?</section>', page, re.S)
    assert methods is not None
    for words in (
        "arms + seed blocks + noise",
        "26 degrees of freedom",
        "all 9 comparisons at once",
        "±2%",
        "Brown-Forsythe",
        "Training seeds 0, 1, 2 and 3, not all of them in every arm.",
        "the steps of a path with the row each builds on",
        "Trained with PyTorch synthetic.",
    ):
        assert words in methods[0]


@pytest.mark.parametrize("name", DEGENERATE)
def test_every_degenerate_study_renders_everywhere(name: str) -> None:
    frames, html = DEGENERATE[name], degenerate_page(name)
    a = analyse(frames)
    assert len(html) > 5_000
    assert json.loads(render_json(frames))["headline"] == a.headline
    assert a.headline in render_markdown(frames).replace("\\", "")
    assert render_csv(frames).count("\n") == len(a.rows) + 1
    visible = re.sub(r"<[^>]+>", " ", re.sub(r"(?s)<(style|script).*?</\1>", "", html))
    assert not re.search(r"\b(nan|NaN|NaT|inf|None)\b(?!\.)", visible)
