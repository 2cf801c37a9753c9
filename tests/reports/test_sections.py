"""Claims, confirmation, planning, sample sizes, single runs, lost trials: what the page says in words and tables."""

from __future__ import annotations

import html
import json
import re

import numpy as np
import pandas as pd
import pytest
from simulated_study import METRIC, component_study, rich_study, study
from test_analysis import changed

from ablate_reports import StudyFrames, analyse, render_html, render_json, sections


def test_claims_stand_apart_with_status_reading_and_reason() -> None:
    introduction, rows = sections.claims(analyse(component_study()))
    assert [r.status for r in rows] == ["✓ holds", "✗ fails", "? undecided", "– not understood"]
    assert [r.look for r in rows] == ["better", "worse", "inconclusive", "inconclusive"]
    assert rows[0].text == "All four together beat MeanFlow."
    assert "is better than" in rows[0].read
    assert rows[1].read == ""  # read as it was written
    assert introduction.startswith(
        "Of 4 claims declared in the space: 1 holds, 1 fails, 1 undecided and 1 not understood."
    )
    page = render_html(component_study())
    assert page.index('id="claims"') < page.index('id="arms"')
    assert "✗ fails" in page


def test_a_study_without_claims_has_no_such_section_and_says_so_in_the_methods() -> None:
    page = render_html(study())
    assert 'id="claims"' not in page
    assert "No claim was declared before the run" in page


def confirmed() -> StudyFrames:
    """The winner and the baseline once more, on fresh seeds."""
    frames = study(seeds=6, noise=0.01)
    fresh = frames.trials["seed"] >= 3
    picked = frames.trials["arm_id"].isin(["arm-esc", "arm-fm"])
    trials = frames.trials[~fresh | picked].assign(confirm=fresh)
    rows = frames.measurements[frames.measurements["trial_id"].isin(trials["trial_id"])]
    return changed(frames, trials=trials, measurements=rows)


def test_a_winner_on_fresh_seeds_is_confirmed_beside_the_verdict() -> None:
    [said] = sections.confirmation(analyse(confirmed()))
    assert said.startswith("Confirmed on 3 fresh seeds: esc is better than the baseline fm")
    assert said in re.sub(r"&#39;", "'", render_html(confirmed()))


def test_without_fresh_seeds_the_luck_of_a_winner_is_said() -> None:
    [said] = sections.confirmation(analyse(study()))
    assert said.startswith("Of 7 equal arms, luck alone would make the best look ")
    assert sections.confirmation(analyse(study({"fm": 0.0, "ct": 0.0}))) == []


def test_the_next_run_is_planned() -> None:
    said = sections.planning(analyse(rich_study()))
    assert said[0].startswith("To find a difference of 2.0% with 80% power")
    assert sections.planning(analyse(study(seeds=1))) == []


def test_metrics_of_several_sample_sizes_are_read_off_at_no_end() -> None:
    frames = study()
    defs, rows = [], []
    for n in (5000, 10_000, 20_000):
        metric = f"mid{n:09d}"
        defs.append((metric, "fd_digits", json.dumps(METRIC | {"samples": n}), False))
        value = frames.measurements["value"] + 20_000 / n
        rows.append(frames.measurements.assign(metric_id=metric, n_samples=float(n), value=value))
    a = analyse(
        changed(
            frames,
            metric_defs=pd.DataFrame(defs, columns=list(frames.metric_defs.columns)),
            measurements=pd.concat(rows, ignore_index=True),
        )
    )
    [(text, table)] = sections.sample_sizes(a)
    assert "5,000, 10,000 and 20,000 samples" in text
    line = next(row for row in table.rows if row[0] == "fm")
    assert abs(float(line[4].replace(",", "")) - 20_000) < 1
    assert "The number of samples" in render_html(a.frames)


def test_published_single_runs_are_judged_with_an_assumed_noise() -> None:
    published = [
        {"arm": arm, "metric": "FID-50k", "value": value, "source": "a paper"}
        for arm, value in (("fm", 6.09), ("ct", 5.97), ("esc", 5.77))
    ]
    [(sentence, table)] = sections.single_runs(analyse(study(parts={"published": published})))
    assert "only esc (−5.3%) is resolved against fm" in sentence
    assert [row[3] for row in table.rows] == ["inconclusive", "outside the band"]


def test_lost_trials_are_counted_by_level() -> None:
    sentences, table = sections.lost_by_level(analyse(rich_study()))
    assert sentences == [s for s in sentences if "trig-huber diverges more often" in s]
    assert ["schedule", "trig", "8", "8", "1", "3", "4"] in [row[:7] for row in table.rows]
    assert sections.lost_by_level(analyse(study()))[1].rows == []


def test_draws_per_checkpoint_are_planned_from_both_kinds_of_noise() -> None:
    frames = study()
    rows = frames.measurements
    noise = np.random.default_rng(0).normal(0, 0.01, (2, len(rows)))
    more = [rows.assign(draw=float(i + 1), value=rows["value"] * np.exp(noise[i])) for i in range(2)]
    drawn = changed(frames, measurements=pd.concat([rows, *more], ignore_index=True))
    said = sections.planning(analyse(drawn))[-1]
    assert "Retraining moves the metric by" in said
    assert "draw" in said.split("With a training")[1]
    assert said in html_text(render_html(drawn))
    assert json.loads(render_json(drawn))["findings"]["noise"]["components"]["draws"] == pytest.approx(3)


def test_what_a_study_has_no_data_for_is_silent_on_the_page_and_empty_in_the_document() -> None:
    frames = study({"fm": 0.0, "ct": -1.0, "scd": -0.9}, every=2000)
    found = json.loads(render_json(frames))["findings"]
    empty = {"plans", "noise", "confirmed", "rungs", "speeds", "samples", "single_runs", "importances"}
    assert {key: found[key] for key in empty if found[key]} == {}
    assert found["claims"]["judged"] == []
    assert not any(level["fails_more_often"] or level["failed"] or level["diverged"] for level in found["levels"])
    page = html_text(render_html(frames))
    for words in ("Retraining moves", "The number of samples", "Would stopping early", "Which axes explain",
                  "What single runs can tell", "loses more often", "fresh seeds:", "Claims, declared"):  # fmt: skip
        assert words not in page


def html_text(page: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", re.sub(r"(?s)<(style|script).*?</\1>", "", page)))
