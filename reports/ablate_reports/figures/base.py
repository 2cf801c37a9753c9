"""What figures share: the `Figure` itself, colours (Okabe-Ito), layout, and JSON-safe numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ablate_reports.analysis import Analysis
    from ablate_reports.verdicts import Verdict

GREY = "#7f7f7f"
FONT = "-apple-system, 'Segoe UI', Inter, Roboto, 'Helvetica Neue', Arial, 'Liberation Sans', sans-serif"
COLOURS = {"better": "#0072B2", "worse": "#D55E00", "equivalent": "#009E73", "inconclusive": GREY}
SYMBOLS = {"better": "triangle-down", "worse": "triangle-up", "equivalent": "square", "inconclusive": "circle-open"}
CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#9467bd", "#8c6d31")
DASHES = ("solid", "dash", "dot", "dashdot")


@dataclass(frozen=True)
class Table:
    """The numbers of a figure: the same content for those who cannot or do not want to see it."""

    head: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Key:
    """A legend entry: outside the plot, where it may wrap without eating the drawing on a phone."""

    group: str
    label: str
    colour: str
    dash: str


@dataclass(frozen=True)
class Figure:
    """A figure as data.

    Attributes:
        id: unique on the page, ``[a-z0-9-]+``.
        title: what it shows.
        caption: what to read from it; also its accessible name.
        spec: ``{"data": [...], "layout": {...}}`` for Plotly.
        table: its numbers.
        notes: what must be said with it.
        legend: entries that switch their traces on and off; empty when the plot has its own legend or needs none.
        nav: how the contents call it.
        narrow: layout changes below 600 px, as ``Plotly.relayout`` takes them: shorter texts.
        queries: what it is drawn from (see `queries`).

    A trace whose ``meta`` holds numbers of arms (positions in `Analysis.rows`; -1 for none), one for the trace or one
    for each of its points, follows the page's filters.
    """

    id: str
    title: str
    caption: str
    spec: dict[str, Any] = field(repr=False)
    table: Table = field(repr=False)
    notes: list[str] = field(default_factory=list)
    legend: list[Key] = field(default_factory=list)
    nav: str = ""
    narrow: dict[str, Any] = field(default_factory=dict, repr=False)
    queries: tuple[str, ...] = ()

    @property
    def height(self) -> int:
        """Drawn height in CSS pixels."""
        return int(self.spec["layout"]["height"])


def numbers(analysis: Analysis) -> dict[str, int]:
    """arm -> its number in a trace's ``meta``."""
    return {r.arm_id: i for i, r in enumerate(analysis.rows)}


def symbol(analysis: Analysis, verdict: Verdict) -> str:
    """The mark of a verdict: a triangle for the way the metric went, so that colour is never the only cue."""
    turned: dict[str, Verdict] = {"better": "worse", "worse": "better"}
    return SYMBOLS[verdict if analysis.lower_is_better else turned.get(verdict, verdict)]


def layout(height: int, **more: Any) -> dict[str, Any]:
    """The common layout: transparent, small type, legend above; text and grid colours come from the page's theme."""
    base: dict[str, Any] = {
        "height": height,
        "margin": {"l": 56, "r": 16, "t": 12, "b": 48},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 12.5},
        "hoverlabel": {"align": "left", "namelength": -1},
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0, "xanchor": "left"},
        "dragmode": False,
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#8b949e", "activecolor": "#0072B2"},
    }
    return base | more


def axis(title: str | None = None, **more: Any) -> dict[str, Any]:
    """An axis without a zero line; `title` is ours, never the user's unescaped text."""
    base: dict[str, Any] = {"zeroline": False, "automargin": True, "ticks": "outside", "ticklen": 4}
    return base | ({"title": {"text": title, "standoff": 8, "font": {"size": 12.5}}} if title else {}) | more


def plain(values: Iterable[float | None], digits: int = 6) -> list[float | None]:
    """Numbers for JSON: rounded to significant digits, None where they are not finite."""
    return [None if v is None or not math.isfinite(v) else float(f"{v:.{digits}g}") for v in values]


def rgba(colour: str, alpha: float) -> str:
    """``#0072B2`` with an opacity."""
    return f"rgba({int(colour[1:3], 16)},{int(colour[3:5], 16)},{int(colour[5:7], 16)},{alpha})"


def row_label(text: str, y: float, arm: int = -1) -> dict[str, Any]:
    """A label above a row of marks, at the left edge: readable on a phone, where a wide margin is not.

    Args:
        arm: the number of the arm the row is about; the page's filters dim it with its marks.
    """
    named = {"name": f"arm {arm}"} if arm >= 0 else {}
    return named | {
        "text": text, "x": 0, "xref": "paper", "xanchor": "left", "y": y, "yref": "y", "yanchor": "middle",
        "yshift": 16, "showarrow": False, "align": "left", "font": {"size": 12.5},
    }  # fmt: skip


NARROW = 20
"""Letters of a name that a phone has room for, beside its number."""


def shorter(texts: Iterable[str | None]) -> dict[str, Any]:
    """The `Figure.narrow` of annotations: their texts on a phone, None where nothing changes."""
    return {f"annotations[{i}].text": text for i, text in enumerate(texts) if text is not None}


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers (1, 2, 5 times powers of ten) inside a positive range, at least two."""
    start, end = math.floor(math.log10(low)), math.ceil(math.log10(high))
    ticks = [m * 10.0**e for e in range(start, end + 1) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    if len(ticks) > 9:
        ticks = [t for t in ticks if math.isclose(10 ** round(math.log10(t)), t)]
    return ticks if len(ticks) > 1 else [low, high]
