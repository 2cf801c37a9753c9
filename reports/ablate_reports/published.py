"""Published numbers beside one's own: never in one interval, difference, axis or verdict with them.

A published value has no metric identity that could equal one of ours (network weights, resize and reference statistics
are not published with it), so every one of them is marked as not comparable, with what is known of the reasons.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ablate_reports import formats
from ablate_reports.analysis import Analysis, ArmRow
from ablate_reports.data import METRIC_NAMES
from ablate_reports.figures.base import Table
from ablate_reports.groups import SAMPLE_FIELDS, Group

KNOWN = ("arm", "label", "method", "metric", "value", "spread", "approximate", "identity", "source", "note")
POINTERS = ("table", "entry")
"""Fields that say where a row was taken from; the JSON has them, a reader does not need them."""

INTRODUCTION = (
    "For orientation only; they take part in no comparison, difference, interval, figure or verdict of this report. A "
    "published value is one run as far as is known, and has no interval."
)


@dataclass(frozen=True)
class Beside:
    """Published numbers of one identity, with what this study has for the same arms.

    Attributes:
        metric: the name they were published under.
        identity: what else is known of them, in words; empty when nothing is.
        source: where they were read; empty when it is not said.
        why: the reason they are not compared with ours.
        table: arm, published, ours, and the note where there is one.
    """

    metric: str
    identity: str
    source: str
    why: str
    table: Table


def beside(analysis: Analysis) -> list[Beside]:
    """The published numbers of a study, those of one identity and source together, in the order they were given."""
    groups: dict[tuple[str, str, str, str], list[Mapping[str, Any]]] = {}
    for entry in analysis.frames.published:
        key = (_metric(entry), _identity(entry), _text(entry.get("source")), why(analysis, entry))
        groups.setdefault(key, []).append(entry)
    return [Beside(*key, _table(analysis, entries)) for key, entries in groups.items()]


def records(analysis: Analysis) -> list[dict[str, Any]]:
    """The published numbers as given, each with our value of the same arm and why the two are not compared."""
    found = []
    for entry in analysis.frames.published:
        row = _row(analysis, entry)
        ours = {
            "arm_id": row.arm_id if row else None,
            "metric": analysis.primary.name if analysis.primary else None,
            "mean": row.value if row else None,
            "low": row.low if row else None,
            "high": row.high if row else None,
            "n": row.n if row else 0,
        }
        found.append({**entry, "ours": ours, "comparable": False, "why": why(analysis, entry)})
    return found


def why(analysis: Analysis, entry: Mapping[str, Any]) -> str:
    """Why a published value is not compared with ours, in words; it never is."""
    group, theirs = analysis.primary, _metric(entry)
    if group is None:
        return "Nothing of this study is measured yet."
    if _kind(theirs) != _kind(group.name):
        ours = METRIC_NAMES.get(group.name, group.name)
        return f"Not comparable: {theirs} is another quantity than ours, {ours}."
    differs = "; ".join(
        [*_differences(entry, group), "weights, resize and reference of theirs are not known to be ours"]
    )
    return f"Not comparable: the same kind of metric as ours, of another identity ({differs})."


def _differences(entry: Mapping[str, Any], group: Group) -> list[str]:
    """What is known to differ, in the words ``50,000 samples there, 2,000 here``."""
    known = _mapping(entry)
    samples = known.get("samples", _samples_of_name(_metric(entry)))
    pairs = [
        ("samples", samples, next((group.metric[k] for k in SAMPLE_FIELDS if k in group.metric), None)),
        ("network evaluations", known.get("nfe"), group.condition.get("nfe")),
    ]
    return [
        f"{_text(there)} {name} there, {_text(here)} here"
        for name, there, here in pairs
        if there is not None and here is not None and there != here
    ]


def _table(analysis: Analysis, entries: list[Mapping[str, Any]]) -> Table:
    rows = [[_arm(e), _value(e), _ours(analysis, _row(analysis, e)), _note(e)] for e in entries]
    head = ["Arm", "Published", "Ours", "Note"]
    return Table(head, rows) if any(row[3] for row in rows) else Table(head[:3], [row[:3] for row in rows])


def _row(analysis: Analysis, entry: Mapping[str, Any]) -> ArmRow | None:
    """Our row of the arm an entry names; None where the study has no such arm, or two of them."""
    arms = analysis.frames.arms
    named = [str(a) for a, label in zip(arms["arm_id"], arms["label"], strict=True) if label == _arm(entry)]
    return analysis.by_id.get(named[0]) if len(named) == 1 else None


def _ours(analysis: Analysis, row: ArmRow | None) -> str:
    """``fd_digits 5.81 (95%: 3.84 to 8.79, 3 seeds)``, with our metric's name so that nobody reads it as theirs."""
    if row is None:
        return "not in this study"
    if row.value is None or analysis.primary is None:
        return "no value"
    seeds = f"{row.n} seed{'s' if row.n != 1 else ''}"
    interval = (
        f"{analysis.level}: {formats.number(row.low)} to {formats.number(row.high)}, " if row.low is not None else ""
    )
    return f"{analysis.primary.name} {formats.number(row.value)} ({interval}{seeds})"


def _value(entry: Mapping[str, Any]) -> str:
    """``fid50k 6.09``; the digits that were published, with the published spread if there is one."""
    value, spread = entry.get("value"), entry.get("spread")
    about = "about " if entry.get("approximate") else ""
    more = f" ± {_text(spread)} (as published)" if spread is not None else ""
    return f"{_metric(entry)} {about}{_text(value)}{more}"


def _note(entry: Mapping[str, Any]) -> str:
    """The note, and fields nobody foresaw."""
    rest = [f"{_text(k)}: {_text(v)}" for k, v in entry.items() if k not in (*KNOWN, *POINTERS)]
    method = _text(entry["method"]) if entry.get("method") and _text(entry["method"]) != _arm(entry) else ""
    return "; ".join(part for part in (method, _text(entry["note"]) if entry.get("note") else "", *rest) if part)


def _arm(entry: Mapping[str, Any]) -> str:
    return _text(next((entry[k] for k in ("arm", "label", "method") if entry.get(k)), "?"))


def _metric(entry: Mapping[str, Any]) -> str:
    return _text(entry["metric"]) if entry.get("metric") else "a metric that is not named"


def _kind(name: str) -> str:
    """``FID-50k`` and ``fid50k`` are kinds of ``fid``."""
    return re.sub(r"[-_ ]*\d+k$", "", name.strip().lower())


def _samples_of_name(name: str) -> int | None:
    found = re.search(r"(\d+)k$", name.strip().lower())
    return 1000 * int(found[1]) if found else None


def _mapping(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    identity = entry.get("identity")
    return identity if isinstance(identity, Mapping) else {}


def _identity(entry: Mapping[str, Any]) -> str:
    """What is known of a published value in one line: ``ImageNet-256; SiT-B/2; 1 network evaluation; guided (...)``."""
    words = []
    known = dict(_mapping(entry))
    guidance = known.pop("guidance", None)
    for key, value in known.items():
        match key:
            case "dataset" | "architecture" | "evaluation":
                words.append(_text(value))
            case "nfe":
                words.append(f"{_text(value)} network evaluation{'' if value == 1 else 's'}")
            case "guided":
                words.append(("guided" + (f" ({_text(guidance)})" if guidance else "")) if value else "not guided")
            case "parameters_millions":
                words.append(f"{_text(value)} million parameters")
            case "epochs" | "iterations" | "samples":
                words.append(f"{_text(value)} {key}")
            case _:
                words.append(f"{_text(key)}: {_text(value)}")
    return "; ".join(words)


def _text(value: Any) -> str:
    """A value of any kind as short text."""
    if value is None:
        return "—"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.10g}" if math.isfinite(value) else "—"
    return formats.short(str(value), 400)
