"""The report as GitHub Markdown: what the page says in words and tables, without its pictures."""

from __future__ import annotations

from collections.abc import Sequence

from ablate_reports import methods, published, sections, tables
from ablate_reports.analysis import Analysis, analyse
from ablate_reports.data import StudyFrames
from ablate_reports.figures import all_figures
from ablate_reports.figures.base import Table

MOST_ROWS = 60
"""A figure's table with more rows is left to the page: points of a curve are no reading matter."""


def render_markdown(frames: StudyFrames) -> str:
    """The verdict, claims, arms, the figures' tables, failures, skips, identity, published numbers and methods."""
    return "\n\n".join(blocks(analyse(frames))) + "\n"


def blocks(a: Analysis, level: int = 1) -> list[str]:
    """The paragraphs and tables of one study; `level` is the depth of its heading."""
    one, two, three = ("#" * (level + i) for i in range(3))
    parts = [
        f"{one} {escaped(str(a.frames.study['name']))}",
        escaped(str(a.frames.study["question"])),
        f"**{escaped(a.headline)}**",
        escaped(" ".join(a.remarks + sections.confirmation(a))),
    ]
    parts += [f"> {escaped(note)}" for note in a.notes]
    introduction, claims = sections.claims(a)
    if claims:
        rows = [[c.text, c.status, c.reason] for c in claims]
        parts += [f"{two} Claims, declared before the run", table(Table(["Claim", "Verdict", "Because"], rows))]
        parts.append(escaped(introduction))
    parts += [f"{two} Arms", _arms(a)]
    if a.primary:
        parts.append(
            f"{escaped(a.primary.title)} (`{code(a.primary.metric_id)}`, `{code(a.primary.under)}`); "
            f"{'lower' if a.lower_is_better else 'higher'} is better; bold: not told from the best arm."
        )
    for f in all_figures(a):
        if len(f.table.rows) <= MOST_ROWS:
            parts += [f"{two} {escaped(f.title)}", escaped(" ".join([f.caption, *f.notes])), table(f.table)]
    parts += _lost(a, two)
    if a.primary:
        parts += [f"{two} What was measured", table(tables.identity(a.primary))]
    for g, means, diff in tables.other_groups(a):
        parts += [
            f"{three} {escaped(g.title)} (`{code(g.metric_id)}`, `{code(g.cond_id)}`)",
            "Kept apart, because it differs in:",
            table(diff),
            table(means),
        ]
    for sentence, lines in sections.importances(a):
        parts += [f"{two} Which axes explain the search", escaped(sentence), table(lines)]
    for sentence, lines in sections.sample_sizes(a):
        parts += [f"{two} The number of samples", escaped(sentence), table(lines)]
    parts += _beside(a, two, three)
    parts += [f"{two} Methods", escaped(methods.paragraph(a)), *map(escaped, sections.planning(a))]
    return [p for p in parts if p]


def _arms(a: Analysis) -> str:
    """The arms; bold are all of those that cannot be told from the best."""
    found = tables.arms(a)
    rows = [list(map(escaped, row)) for row in found.rows]
    for r, row in zip(a.rows, rows, strict=True):
        if r.tied_best:
            row[1] = f"**{row[1]}**"
    return _lines(found.head, rows)


def _lost(a: Analysis, heading: str) -> list[str]:
    """Failed, diverged and stopped trials, by trial and by level, and what the space skips."""
    parts = []
    if (lost := tables.failures(a)).rows:
        said, by_level = sections.lost_by_level(a)
        parts = [f"{heading} Failed, diverged and stopped trials", escaped(" ".join(said)), table(lost)]
        parts += [table(by_level)] if by_level.rows else []
    if (skips := tables.skips(a)).rows:
        parts += [f"{heading} Skipped combinations", table(skips)]
    return parts


def _beside(a: Analysis, heading: str, below: str) -> list[str]:
    """Numbers of others, and what single runs can tell."""
    found = published.beside(a)
    parts = [f"{heading} Published numbers beside ours", published.INTRODUCTION] if found else []
    for p in found:
        said = [f"**{escaped(p.metric)}**{': ' * bool(p.identity)}{escaped(p.identity)}.", escaped(p.why)]
        parts.append(" ".join([*said, *([f"Source: {escaped(p.source)}."] if p.source else [])]))
        parts.append(table(p.table))
    for sentence, steps in sections.single_runs(a):
        parts += [f"{below} What single runs can tell", escaped(sentence), table(steps)]
    return parts


def table(plain: Table) -> str:
    """A table of text cells."""
    return _lines(plain.head, [list(map(escaped, row)) for row in plain.rows])


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A head of text and rows of Markdown."""
    lines = ["| " + " | ".join(map(escaped, head)) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def escaped(text: str) -> str:
    """Text without meaning to Markdown or HTML, on one line."""
    flat = " ".join(text.split())
    for mark in "\\`*_[]|#~":
        flat = flat.replace(mark, f"\\{mark}")
    return flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def code(text: str) -> str:
    """Text between backticks."""
    return text.replace("`", "'")
