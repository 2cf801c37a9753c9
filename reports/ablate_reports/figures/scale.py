"""How differences are laid out on an axis: in percent, as ratios when they are large, or in the metric's own units."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ablate_reports import formats
from ablate_reports.analysis import Analysis
from ablate_reports.figures.base import COLOURS, GREY, axis, log_ticks, plain


@dataclass(frozen=True)
class Scale:
    """One axis of differences.

    Attributes:
        ratio: ratios on a log axis, once a difference is larger than a factor of two.
        low, high: the axis' ends, in drawn units.
    """

    analysis: Analysis
    ratio: bool
    low: float
    high: float

    @classmethod
    def of(cls, analysis: Analysis, ends: Iterable[float | None]) -> Scale:
        """The axis that holds no change and all of `ends` (on the model's scale)."""
        known = [0.0, *(e for e in ends if e is not None and math.isfinite(e))]
        ratio = analysis.scale == "log" and max(map(abs, known)) > math.log(2)
        bare = cls(analysis, ratio, 0.0, 1.0)
        drawn = [bare(e) for e in known]
        return cls(analysis, ratio, min(drawn), max(drawn))

    def __call__(self, difference: float) -> float:
        """Where a difference on the model's scale is drawn."""
        if self.ratio:
            return math.exp(min(max(difference, -300.0), 300.0))
        return 100 * math.expm1(min(difference, 300.0)) if self.analysis.scale == "log" else difference

    def axis(self, what: str = "baseline") -> dict[str, Any]:
        """The axis of a difference to `what`."""
        a = self.analysis
        name = formats.safe(a.primary.name if a.primary else "metric")
        sense = "left is better" if a.lower_is_better else "right is better"
        if self.ratio:
            ticks = log_ticks(self.low / 1.1, self.high * 1.1)
            return axis(
                f"{name} ÷ {what}, log scale ({sense})",
                type="log", tickvals=plain(ticks), ticktext=[f"×{t:g}" for t in ticks],
                range=plain([math.log10(self.low / 1.12), math.log10(self.high * 1.12)]),
            )  # fmt: skip
        pad = 0.06 * (self.high - self.low or 1.0)
        unit = "%" if a.scale == "log" else ""
        title = f"change in {name}{', %' if unit else ''} ({sense})"
        return axis(title, ticksuffix=unit, range=plain([self.low - pad, self.high + pad]))

    def shapes(self) -> list[dict[str, Any]]:
        """The line of no change, and the declared margin around it."""
        zero = self(0.0)
        line = {"type": "line", "x0": zero, "x1": zero, "y0": 0, "y1": 1, "yref": "paper", "layer": "below"}
        found: list[dict[str, Any]] = [line | {"line": {"color": GREY, "width": 1}}]
        if margin := self.analysis.margin:
            band = {"type": "rect", "x0": self(-margin), "x1": self(margin), "y0": 0, "y1": 1, "yref": "paper"}
            look = {"fillcolor": COLOURS["equivalent"], "opacity": 0.13, "line": {"width": 0}, "layer": "below"}
            found.append(band | look)
        return found
