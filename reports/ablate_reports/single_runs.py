"""Single runs with an assumed seed noise: which steps of a published ablation could have been luck.

A difference of two single runs, on the log scale, has standard deviation ``sqrt(2) * CV``: with the 1.3 % that FID
shows between trainings ("The FID Lottery", arXiv 2606.20536) two equal configurations differ by up to 3.6 % in 95 % of
cases; by 1.8 % if guidance was tuned for each of them. Nothing here is an interval of the runs at hand: the noise is
assumed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy import stats

from ablate_reports import formats
from ablate_reports.power import ASSUMED_CV

TUNED_CV = ASSUMED_CV / 2
"""Seed noise of FID where guidance is tuned for every configuration: half of it (same source)."""


@dataclass(frozen=True)
class SingleStep:
    """One run against another.

    Attributes:
        change: of the logarithm, ``log(value / reference value)``.
        resolved: whether the change lies outside the band of assumed noise.
        resolved_family: the same with the band widened for all steps at once (Bonferroni).
    """

    name: str
    reference: str
    value: float
    reference_value: float
    change: float
    resolved: bool
    resolved_family: bool


@dataclass(frozen=True)
class SingleRuns:
    """Every step of a table of single runs, judged with an assumed noise.

    Attributes:
        cv: assumed coefficient of variation of one run.
        band: half-width of the band of no change, on the log scale; `band_family` for all steps at once.
    """

    cv: float
    band: float
    band_family: float
    steps: list[SingleStep]

    def sentence(self) -> str:
        """Which steps are resolved, in one sentence."""
        yes = [f"{s.name} ({formats.change(s.change)})" for s in self.steps if s.resolved]
        no = [f"{s.name} ({formats.change(s.change)})" for s in self.steps if not s.resolved]
        noise = (
            f"With an assumed seed noise of {100 * self.cv:.2g}%, two single runs that do not differ lie within "
            f"±{100 * self.band:.1f}% of each other in 95% of cases"
        )
        reference = self.steps[0].reference if self.steps else "the reference"
        if not yes:
            return f"{noise}: no step is resolved against {reference} ({formats.listed(no)})."
        if not no:
            return f"{noise}: every step is resolved against {reference} ({formats.listed(yes)})."
        verb = "is" if len(yes) == 1 else "are"
        rest = f"inconclusive: {formats.listed(no)}"
        return f"{noise}: only {formats.listed(yes)} {verb} resolved against {reference}; {rest}."


def single_runs(values: Mapping[str, float], reference: str, cv: float = ASSUMED_CV, alpha: float = 0.05) -> SingleRuns:
    """Judge single runs against one of them.

    Args:
        values: name -> published value, > 0.
        cv: assumed coefficient of variation of one run, > 0.

    Raises:
        ValueError: the reference is not there, or a value or the noise is not positive.
    """
    if reference not in values:
        raise ValueError(f"single runs: there is no {reference!r} among {', '.join(values)}")
    if not cv > 0 or not all(v > 0 for v in values.values()):
        raise ValueError("single runs: values and the assumed noise must be positive")
    others = [name for name in values if name != reference]
    spread = math.sqrt(2) * cv
    band = float(stats.norm.isf(alpha / 2)) * spread
    family = float(stats.norm.isf(alpha / 2 / max(1, len(others)))) * spread
    steps = []
    for name in others:
        change = math.log(values[name] / values[reference])
        steps.append(
            SingleStep(
                name, reference, values[name], values[reference], change, abs(change) > band, abs(change) > family
            )
        )
    return SingleRuns(cv, band, family, steps)


def of_published(
    published: Sequence[Mapping[str, Any]], reference: str | None, cv: float = ASSUMED_CV
) -> list[SingleRuns]:
    """The tables of a study's published numbers that have the reference arm, each judged by itself.

    Entries belong to one table when metric, source and everything known of their identity agree; a value with a spread
    is no single run and takes no part.

    Args:
        reference: the arm the others are compared with, as the entries name it.
    """
    tables: dict[str, dict[str, float]] = {}
    for entry in published:
        value, arm = entry.get("value"), entry.get("arm") or entry.get("label") or entry.get("method")
        if entry.get("spread") is not None or not isinstance(value, int | float) or not value > 0 or not arm:
            continue
        key = "|".join(str(entry.get(k)) for k in ("metric", "table", "source", "identity"))
        tables.setdefault(key, {})[str(arm)] = float(value)
    return [
        single_runs(values, reference, cv)
        for values in tables.values()
        if reference is not None and reference in values and len(values) > 1
    ]
