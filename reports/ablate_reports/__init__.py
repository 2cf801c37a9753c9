"""Frames in, verdicts, tables, figures and one offline HTML page out.

frames = StudyFrames.from_mapping(parts)
Path("report.html").write_text(render_html(frames), encoding="utf-8")
"""

from __future__ import annotations

from ablate_reports.analysis import Analysis, analyse
from ablate_reports.data import StudyFrames
from ablate_reports.emitters import render_csv, render_json
from ablate_reports.html import render_html
from ablate_reports.latex import render_latex
from ablate_reports.markdown import render_markdown
from ablate_reports.outputs import render

__all__ = [
    "Analysis",
    "StudyFrames",
    "analyse",
    "render",
    "render_csv",
    "render_html",
    "render_json",
    "render_latex",
    "render_markdown",
]
