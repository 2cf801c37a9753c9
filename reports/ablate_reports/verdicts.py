"""Four verdicts against a declared margin, and the one sentence the study comes down to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["better", "worse", "equivalent", "inconclusive"]

VERDICTS: tuple[Verdict, ...] = ("better", "equivalent", "inconclusive", "worse")


def judge(low: float | None, high: float | None, margin: float | None, *, lower_is_better: bool = True) -> Verdict:
    """What an interval of ``arm - baseline`` says.

    Better and worse come before equivalent: an effect that is resolved but smaller than the margin is still resolved.

    Args:
        low, high: the interval; None when there is none.
        margin: half-width of practical equivalence on the same scale; None or 0 when none was declared.
        lower_is_better: the metric's direction.
    """
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return "inconclusive"
    if high < 0:
        return "better" if lower_is_better else "worse"
    if low > 0:
        return "worse" if lower_is_better else "better"
    return "equivalent" if margin and -margin < low and high < margin else "inconclusive"


def marker(verdict: Verdict, *, lower_is_better: bool = True) -> str:
    """The sign printed with a verdict: an arrow for the way the metric went, so that colour is never the only cue."""
    arrows = {"better": "▼", "worse": "▲"} if lower_is_better else {"better": "▲", "worse": "▼"}
    return (arrows | {"equivalent": "≈", "inconclusive": "?"})[verdict]


@dataclass(frozen=True)
class Compared:
    """One arm against the baseline, ready to be put into words (texts are formatted, numbers are not)."""

    label: str
    verdict: Verdict
    estimate: float
    change: str
    interval: str | None
    n: int
    n_reference: int


@dataclass(frozen=True)
class Situation:
    """What a study knows, as far as its verdict depends on it.

    Attributes:
        metric: the metric's right name.
        baseline: what sentences call the baseline (``the baseline fm``); None when none is named.
        baseline_problem: why the baseline cannot be compared with, or "".
        planned, final, done, diverged, failed: trials by status (final = done + diverged + failed).
        measured: trials with a usable value of the metric.
        arms_measured: arms with a usable value, baseline included.
        others: arms beside the baseline, with a value or without.
        lowest: label and value of the best mean, formatted; None without a value.
        no_spread: repeated seeds gave identical values everywhere.
        resolution: the smallest detectable difference, formatted, or None.
        tied: labels that cannot be told from the best.
        luck: what luck alone would give the best of equal arms, as a sentence, or "".
    """

    metric: str
    baseline: str | None
    baseline_problem: str
    planned: int
    final: int
    done: int
    diverged: int
    failed: int
    measured: int
    arms_measured: int
    lowest: tuple[str, str] | None
    compared: Sequence[Compared]
    no_spread: bool
    level: str
    margin: str | None
    resolution: str | None
    tied: Sequence[str]
    lower_is_better: bool = True
    luck: str = ""
    others: int = 0


def count(n: int, noun: str) -> str:
    """``count(1, "seed") == "1 seed"``, ``count(3, "seed") == "3 seeds"``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def headline(s: Situation) -> str:
    """The study in one sentence, true in every state a study can be in."""
    core = _nothing_measured(s) or _nothing_compared(s) or _compared(s)
    if s.final < s.planned:
        start = core[0].lower() if _plain(core) else core[0]
        return f"{s.done} of {count(s.planned, 'trial')} finished so far: {start}{core[1:]}"
    return core


def _plain(sentence: str) -> bool:
    """True when the first word is ours, not a label whose case must stay."""
    return sentence.split()[0] in {"All", "No", "Nothing", "One", "None"} or sentence.startswith("The one ")


def _nothing_measured(s: Situation) -> str | None:
    if s.planned == 0:
        return "Nothing has been planned or run in this study."
    if s.measured:
        return None
    if s.final == s.planned and s.done == 0:
        parts = [f"{s.failed} failed"] * bool(s.failed) + [f"{s.diverged} diverged"] * bool(s.diverged)
        return f"No trial finished ({', '.join(parts)}), so no value of the {s.metric} exists."
    if s.done == 0:
        return "Nothing is measured yet."
    return f"No value of the {s.metric} was measured in {count(s.done, 'finished trial')}."


def _nothing_compared(s: Situation) -> str | None:
    assert s.lowest is not None
    best = f"the {'lowest' if s.lower_is_better else 'highest'} {s.metric} is {s.lowest[1]} ({s.lowest[0]})"
    if s.arms_measured == 1:
        return f"One arm has values, so there is nothing to compare: {s.metric} {s.lowest[1]} ({s.lowest[0]})."
    if s.baseline is None:
        return f"No baseline is named, so nothing is compared; {best}."
    if s.baseline_problem:
        return f"No comparison is possible, because {s.baseline} {s.baseline_problem}; {best}."
    if s.no_spread:
        return f"No verdict: all seeds of an arm gave identical values, so there is no noise to judge by; {best}."
    if all(c.interval is None for c in s.compared):
        return f"No verdict, because no arm can be compared over two seeds or more (values only); {best}."
    return None


def _compared(s: Situation) -> str:
    judged = [c for c in s.compared if c.interval is not None]
    k = {v: [c for c in judged if c.verdict == v] for v in VERDICTS}
    if k["better"]:
        best = (min if s.lower_is_better else max)(k["better"], key=lambda c: c.estimate)
        seeds = count(best.n, "seed") if best.n == best.n_reference else f"{best.n} against {best.n_reference} seeds"
        return (
            f"{best.label} beats {s.baseline}: {best.change} "
            f"({s.level} simultaneous interval {best.interval}, {seeds}) in {s.metric}."
        )
    if len(k["equivalent"]) == len(s.compared):
        return f"{_everyone(s)} equivalent to {s.baseline} within {s.margin} in {s.metric}."
    if len(k["worse"]) == len(s.compared):
        return f"{_everyone(s)} worse than {s.baseline} in {s.metric}."
    if len(k["inconclusive"]) == len(s.compared):
        limit = f"; differences below about {s.resolution} cannot be seen at this size" if s.resolution else ""
        return f"No difference to {s.baseline} is resolved in {s.metric}{limit}."
    parts = [f"{len(k[v])} {v}" for v in ("equivalent", "inconclusive", "worse") if k[v]]
    parts += [f"{len(s.compared) - len(judged)} without an interval"] * (len(judged) < len(s.compared))
    return f"No arm beats {s.baseline} in {s.metric}: {', '.join(parts)}."


def _everyone(s: Situation) -> str:
    n = len(s.compared)
    if n < s.others:  # the rest has no value
        return "The one arm that can be compared is" if n == 1 else f"All {n} arms that can be compared are"
    return "The one other arm is" if n == 1 else f"All {n} other arms are"


def remarks(s: Situation) -> list[str]:
    """What must stand beside the headline: the tally, ties at the top, the winner's curse, lost trials."""
    found = []
    judged = [c for c in s.compared if c.interval is not None]
    better = [c for c in s.compared if c.verdict == "better"]
    if judged and s.baseline and not s.no_spread and not s.baseline_problem:
        tally = [f"{n} {v}" for v in VERDICTS if (n := sum(c.verdict == v for c in judged))]
        tally += [f"{len(s.compared) - len(judged)} without an interval"] * (len(judged) < len(s.compared))
        found.append(f"Against {s.baseline}, of {count(len(s.compared), 'arm')}: {', '.join(tally)}.")
    if len(s.tied) > 1:
        found.append(f"Not told apart from the best: {', '.join(s.tied)}.")
    elif len(better) > 1:
        found.append(
            f"The best of {len(s.compared)} was picked after looking at them: confirm it on fresh seeds before "
            f"quoting its size.{' ' * bool(s.luck)}{s.luck}"
        )
    if s.planned and s.final == s.planned and (s.failed or s.diverged) and s.measured:
        lost = [f"{s.failed} failed"] * bool(s.failed) + [f"{s.diverged} diverged"] * bool(s.diverged)
        found.append(f"{' and '.join(lost)} of {count(s.planned, 'trial')}: means are over the survivors.")
    return found
