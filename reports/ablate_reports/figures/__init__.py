"""One file per figure; each turns an `Analysis` into figures: plain data, a caption, a table.

Plotly itself is not imported: a spec is JSON, and ``plotly.graph_objects.Figure(figure.spec)`` reads it.
"""

from __future__ import annotations

from ablate_reports.analysis import Analysis
from ablate_reports.figures import components, cost, cumulative, curves, effects, heatmap, mains, parallel, rungs
from ablate_reports.figures.base import Figure, Table

BUILDERS = (
    cumulative.build,
    effects.build,
    components.build,
    mains.build,
    heatmap.build,
    cost.build,
    curves.build,
    rungs.build,
    parallel.build,
)

__all__ = ["BUILDERS", "Figure", "Table", "all_figures"]


def all_figures(analysis: Analysis) -> list[Figure]:
    """Every figure this study has, in page order, with distinct ids."""
    return [figure for build in BUILDERS for figure in build(analysis)]
