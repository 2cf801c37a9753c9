"""A store in a notebook: frames, a report with Plotly figures, one line for every mistake, an import that is free."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import ablate
from ablate.errors import NotHereError

ARMS = {"fm": 0.0, "ct": -0.6, "<b>esc</b>": -0.9}
Fill = Callable[..., Path]


def test_frames_have_labels_and_one_row_per_thing(filled_store: Fill) -> None:
    s = ablate.open(filled_store("demo", ARMS))
    arms = s.arms()
    assert list(arms.columns[:4]) == ["arm_id", "label", "baseline", "objective"]
    assert arms["label"].tolist() == list(ARMS)
    assert arms["baseline"].tolist() == [True, False, False]
    assert len(s.trials()) == 9
    assert set(s.trials()["status"]) == {"done"}
    measured = s.measurements()
    assert len(measured) == 18
    last = measured[measured["step"] == 20].groupby("label")["value"].mean()
    assert last["fm"] == pytest.approx(20.2, rel=0.02)
    assert set(s.curves()["name"]) == {"loss"}
    assert s.studies()["name"].tolist() == ["demo"]
    assert "demo" in repr(s)


def test_the_report_has_a_headline_a_table_figures_and_a_page(filled_store: Fill, tmp_path: Path) -> None:
    from plotly.graph_objects import Figure

    report = ablate.open(filled_store("demo", ARMS)).report()
    assert report.headline.startswith("<b>esc</b> beats the baseline fm: −")
    table = report.table()
    assert isinstance(table, pd.DataFrame)
    assert table["verdict"].tolist()[1:] == ["better", "better"]
    assert table["difference"].tolist()[1:] == pytest.approx([-0.6, -0.9], abs=0.05)
    assert {"effects", "cost-time", "curves"} <= set(report.figures)
    assert all(isinstance(figure, Figure) for figure in report.figures.values())
    path = report.html(tmp_path / "page.html")
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert report.headline in repr(report)


def test_what_a_notebook_shows_is_text_and_needs_no_script(filled_store: Fill) -> None:
    s = ablate.open(filled_store("demo", ARMS))
    for shown in (s.report()._repr_html_(), s.study("demo")._repr_html_(), s._repr_html_()):
        assert "<script" not in shown
        assert "<b>esc" not in shown
    shown = s.report()._repr_html_()
    assert "&lt;b&gt;esc&lt;/b&gt;" in shown
    assert len(re.findall(r"<tr>", shown)) == 4


def test_a_study_is_a_picture_of_its_moment_also_while_it_runs(filled_store: Fill) -> None:
    root = filled_store("demo", {"fm": 0.0, "ct": -0.5}, running="demo-ct-2")
    before = ablate.open(root).study()
    assert before.trials()["status"].tolist().count("running") == 1
    assert before.report().headline.startswith("5 of 6 trials finished so far")
    filled_store("demo", {"fm": 0.0, "ct": -0.5})
    assert len(before.measurements()) == 10
    assert len(ablate.open(root).study().measurements()) > 10


def test_every_mistake_is_one_line_that_says_what_there_is(filled_store: Fill, tmp_path: Path) -> None:
    with pytest.raises(NotHereError, match="no store there"):
        ablate.open(tmp_path / "nowhere")
    root = filled_store("one", ARMS)
    with pytest.raises(NotHereError, match="no study 'two'; there are one"):
        ablate.open(root).study("two")
    filled_store("two", ARMS)
    with pytest.raises(NotHereError, match=r"there are (one, two|two, one): name one"):
        ablate.open(root).arms()
    assert ablate.open(root).study("two").arms()["label"].tolist() == list(ARMS)


def test_importing_ablate_costs_nothing() -> None:
    code = "import sys; before = set(sys.modules); import ablate; print(*sorted(set(sys.modules) - before))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = found.stdout.split()
    assert [name for name in loaded if name.partition(".")[0] not in sys.stdlib_module_names] == ["ablate"]


def test_the_documented_example_runs_and_prints_what_it_says(
    filled_store: Fill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "notebook.md").read_text(encoding="utf-8")
    example = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    root = filled_store("objectives", {"fm": 0.0, "meanflow": -0.6, "esc": -0.9})
    monkeypatch.chdir(tmp_path)
    root.rename(tmp_path / "runs")
    namespace: dict[str, object] = {}
    exec(compile(example, "docs/notebook.md", "exec"), namespace)
    printed = capsys.readouterr().out
    assert "beats the baseline fm" in printed
    assert (tmp_path / "objectives.html").stat().st_size > 100_000
    assert list(namespace["arms"]["label"]) == ["fm", "meanflow", "esc"]  # type: ignore[index]
