"""`Report`: a study's report as an object for a notebook, frames and Plotly figures instead of text."""

from __future__ import annotations

from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ablate_reports import emitters, tables
from ablate_reports.analysis import Analysis, analyse
from ablate_reports.data import StudyFrames
from ablate_reports.figures import all_figures
from ablate_reports.html import render_html
from ablate_reports.images import plotly_figure

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


class Report:
    """What a study says, computed at the first look.

    Attributes:
        frames: the study it is made from.
    """

    def __init__(self, frames: StudyFrames) -> None:
        self.frames = frames

    @cached_property
    def analysis(self) -> Analysis:
        """Every number and verdict; `analysis.findings` has what goes beyond the arms against the baseline."""
        return analyse(self.frames)

    @property
    def headline(self) -> str:
        """The verdict sentence."""
        return self.analysis.headline

    @property
    def remarks(self) -> list[str]:
        """What must stand beside the headline, caveats last."""
        return [*self.analysis.remarks, *self.analysis.notes]

    def table(self) -> pd.DataFrame:
        """One row per arm with the columns of ``report.csv``: differences are on the model's scale."""
        return pd.DataFrame(emitters.arm_records(self.analysis), columns=list(emitters.CSV_COLUMNS))

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """Name -> ``plotly.graph_objects.Figure``, in the order of the page: ``effects``, ``cost-time``, ``curves``."""
        return {f.id: plotly_figure(f) for f in all_figures(self.analysis)}

    def html(self, path: str | Path) -> Path:
        """Write the whole report as one offline page.

        Raises:
            OSError: the file cannot be written.
        """
        path = Path(path)
        path.write_text(render_html(self.frames), encoding="utf-8")
        return path

    def __repr__(self) -> str:
        return f"Report({str(self.frames.study['name'])!r}: {self.headline})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the verdict, what stands beside it and the arms; names are text."""
        table = tables.arms(self.analysis)
        head = "".join(f"<th>{escape(h)}</th>" for h in table.head)
        rows = []
        for r, cells in zip(self.analysis.rows, table.rows, strict=True):
            shown = [f"<bdi>{escape(c)}</bdi>" for c in cells]
            shown[1] = f"<b>{shown[1]}</b>" if r.tied_best else shown[1]
            rows.append("<tr>" + "".join(f"<td>{c}</td>" for c in shown) + "</tr>")
        said = " ".join(map(escape, self.remarks))
        return (
            f"<div><p><b>{escape(self.headline)}</b></p><p>{said}</p>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
            "<p>Bold: arms that cannot be told from the best one.</p></div>"
        )
