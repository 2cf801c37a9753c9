"""Figures as Plotly objects for a notebook, and as PNG, SVG or PDF files for a paper.

Files are drawn by Chrome or Chromium through kaleido, an optional extra; the page never needs either. plotly.js is the
wheel's, and the browser is kept off the network.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablate_reports.figures.base import Figure

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure

FORMATS = ("png", "svg", "pdf")
INK, GRID, PAPER = "#1c1e21", "#e6e8ea", "#ffffff"
"""The page's light theme: in a browser its script sets these, on paper nobody does."""

WIDTH = 900
"""CSS pixels; the height is the figure's own."""
PNG_SCALE = 2
SECONDS = 60.0
"""Longest that one figure may take to draw."""
OFFLINE = {"mathjax": False, "proxy_server": "127.0.0.1:9"}
"""kaleido's page asks for MathJax, and a browser for what its vendor wants: the one is off, the other gets a proxy that
is not there. Files need none."""


class CannotDrawError(RuntimeError):
    """No kaleido, no browser, or a browser that fails; the message is one line that says how to mend it."""


def on_paper(figure: Figure) -> dict[str, Any]:
    """A figure's spec with the colours of the light theme, and its legend inside, where a page has it outside."""
    spec = copy.deepcopy(figure.spec)
    layout = spec["layout"]
    layout |= {"paper_bgcolor": PAPER, "plot_bgcolor": PAPER, "template": "none"}
    layout["font"] = {**layout.get("font", {}), "color": INK}
    for name in (k for k in layout if k.startswith(("xaxis", "yaxis"))):
        layout[name] = {"gridcolor": GRID, "linecolor": GRID, "tickcolor": GRID} | layout[name]
    if figure.legend:
        layout["showlegend"] = True
    return spec


def plotly_figure(figure: Figure) -> PlotlyFigure:
    """The same as ``plotly.graph_objects.Figure``."""
    from plotly.graph_objects import Figure as Drawn

    spec = on_paper(figure)
    return Drawn(data=spec["data"], layout=spec["layout"])


def write_figures(figures: Sequence[Figure], folder: Path, formats: Sequence[str] = ("svg",)) -> list[Path]:
    """Draw figures into ``folder/<id>.<format>``, all with one browser.

    Raises:
        CannotDrawError: kaleido or a browser is missing, or the browser fails.
        OSError: the folder cannot be written.
        ValueError: a format that is none of `FORMATS`.
    """
    if unknown := [f for f in formats if f not in FORMATS]:
        raise ValueError(f"no figure format {unknown[0]!r}; there are {', '.join(FORMATS)}")
    try:
        import kaleido
        from kaleido.errors import BrowserClosedError, BrowserFailedError, ChromeNotFoundError, JavascriptError
    except ImportError:
        raise CannotDrawError("static figures need kaleido: pip install 'ablate-shortcut[figures]'") from None
    folder.mkdir(parents=True, exist_ok=True)
    jobs: list[dict[str, Any]] = []
    for figure in figures:
        drawn = plotly_figure(figure).to_plotly_json()  # validates: a typo in a spec is an error here, not a blank file
        for suffix in formats:
            size = {"width": WIDTH, "height": figure.height, "scale": PNG_SCALE if suffix == "png" else 1}
            path = str(folder / f"{figure.id}.{suffix}")
            jobs.append({"fig": drawn, "path": path, "opts": {"format": suffix, **size}})
    try:
        kaleido.write_fig_from_object_sync(jobs, kopts=OFFLINE | {"timeout": SECONDS}, cancel_on_error=True)
    except ChromeNotFoundError:
        raise CannotDrawError(
            "static figures are drawn by Chrome or Chromium and none was found: install one "
            "(apt-get install chromium, or plotly_get_chrome), or name its program in BROWSER_PATH"
        ) from None
    except (BrowserClosedError, BrowserFailedError, JavascriptError, TimeoutError) as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise CannotDrawError(
            f"the browser could not draw the figures ({said}); name another in BROWSER_PATH, or print the page"
        ) from error
    return [Path(job["path"]) for job in jobs]


def captions(figures: Sequence[Figure]) -> str:
    """Title, caption and notes of each figure as Markdown, by file name."""
    from ablate_reports.markdown import code, escaped

    return (
        "\n\n".join(
            f"**`{code(f.id)}`** {escaped(f.title)}. {escaped(' '.join([f.caption, *f.notes]))}" for f in figures
        )
        + "\n"
    )
