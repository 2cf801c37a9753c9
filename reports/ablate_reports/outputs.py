"""`render`: a study, or several of them beside each other, in every format of a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ablate_reports import emitters, latex, markdown, several
from ablate_reports.analysis import analyse
from ablate_reports.data import StudyFrames
from ablate_reports.figures.base import Table
from ablate_reports.html import render_html, render_several_html
from ablate_reports.latex_text import text
from ablate_reports.several import Several

ONE: dict[str, Callable[[StudyFrames], str]] = {
    "html": render_html,
    "md": markdown.render_markdown,
    "tex": latex.render_latex,
    "csv": emitters.render_csv,
    "json": emitters.render_json,
}
"""File suffix -> what renders one study."""


def render(suffix: str, studies: Sequence[StudyFrames]) -> str:
    """The report as text.

    Args:
        suffix: ``html``, ``md``, ``tex``, ``csv`` or ``json``.
        studies: one, or several: then an overview comes first and each study whole after it.

    Raises:
        KeyError: there is no such format.
    """
    if len(studies) == 1:
        return ONE[suffix](studies[0])
    return SEVERAL[suffix](Several([analyse(frames) for frames in studies]))


def _markdown(s: Several) -> str:
    parts = [f"# {markdown.escaped(s.title)}", markdown.table(several.summary(s)), "## Arms that studies share"]
    parts += [markdown.escaped(note) for note in several.notes(s)]
    for table in (several.ratios(s), several.differences(s)):
        parts += [markdown.table(table)] if table.rows else []
    return "\n\n".join([*parts, *(block for a in s.analyses for block in markdown.blocks(a, level=2))]) + "\n"


def _latex(s: Several) -> str:
    found = [
        ("studies", several.summary(s), "p{0.25\\linewidth}p{0.1\\linewidth}llp{0.15\\linewidth}l", s.title),
        ("studies-shared", several.ratios(s), "lllrll", " ".join(several.notes(s))),
    ]
    return latex.document(s.analyses, [_tex(*parts) for parts in found if parts[1].rows])


def _tex(label: str, table: Table, columns: str, caption: str) -> latex.TexTable:
    head, *rows = [[text(c) for c in row] for row in (table.head, *table.rows)]
    return latex.TexTable(label, text(caption, 2000), head, columns, rows)


def _csv(s: Several) -> str:
    """One line per arm of every study, raw numbers, the study first."""
    records = [
        {"study": str(a.frames.study["name"])} | record for a in s.analyses for record in emitters.arm_records(a)
    ]
    return emitters.written(("study", *emitters.CSV_COLUMNS), records)


def _json(s: Several) -> str:
    studies = [emitters.document(a) for a in s.analyses]
    return emitters.dumped({"format": emitters.FORMAT, **several.document(s), "studies": studies})


SEVERAL: dict[str, Callable[[Several], str]] = {
    "html": render_several_html,
    "md": _markdown,
    "tex": _latex,
    "csv": _csv,
    "json": _json,
}
"""File suffix -> what renders several studies."""
