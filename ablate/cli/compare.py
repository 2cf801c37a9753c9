"""``ablate compare``: two arms of a study, with the verdict that the report gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ablate.cli.arms import AllowMixedOption, arm_named, refuse_mixed, said
from ablate.cli.options import JsonOption, StoreOption, store_root
from ablate.errors import NotHereError

if TYPE_CHECKING:
    from ablate_reports import Analysis
    from ablate_reports.pairs import Pair

ArmArgument = Annotated[
    str,
    typer.Argument(
        help="An arm: its label, the beginning of its id, axis=level (several with commas), or baseline.",
        show_default=False,
    ),
]


def compare(
    arm: ArmArgument,
    reference: Annotated[str, typer.Argument(help="The arm it is compared with.", show_default=False)],
    study: Annotated[
        str | None, typer.Argument(help="A study of the store; not needed when there is one.", show_default=False)
    ] = None,
    allow_mixed: AllowMixedOption = False,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Compare two arms: difference, intervals, verdict, equivalence, and every field in which their configs differ.

    Against the baseline the verdict is the report's; any other pair is judged among all pairs of arms.
    """
    from ablate.cli import present
    from ablate.cli.report import study_frames, study_name
    from ablate.store import StorePaths
    from ablate_reports import analyse
    from ablate_reports.pairs import NotComparableError, apart
    from ablate_reports.pairs import compare as judge

    paths = StorePaths(store_root(store))
    frames = study_frames(paths, study_name(paths, study))
    both = arm_named(frames, arm), arm_named(frames, reference)
    analysis = analyse(frames)
    if not allow_mixed:
        refuse_mixed(analysis, both)
    try:
        pair = judge(analysis, *both)
    except NotComparableError as problem:
        raise NotHereError(f"{frames.study['name']}: {problem}") from None
    left_out = [said(analysis, found) for found in apart(analysis, both)]
    if json:
        return present.as_json(document(analysis, pair, left_out))
    _show(analysis, pair, left_out)
    return None


def document(a: Analysis, pair: Pair, left_out: list[str]) -> dict[str, Any]:
    """Everything `ablate compare` says, as plain values (docs/json.md)."""
    from dataclasses import asdict

    assert a.primary is not None
    c = pair.contrast
    return {
        "study": a.frames.study["name"],
        "metric": a.primary.name,
        "metric_id": a.primary.metric_id,
        "lower_is_better": a.lower_is_better,
        "scale": a.scale,
        "alpha": a.alpha,
        "margin": a.margin,
        "sentence": pair.sentence(a),
        "verdict": pair.verdict,
        "arm": _side(a, pair.arm),
        "reference": _side(a, pair.reference),
        "difference": c.estimate,
        "difference_low": c.low,
        "difference_high": c.high,
        "difference_low_single": c.low_single,
        "difference_high_single": c.high_single,
        "p": c.p,
        "p_family": c.p_family,
        "method": c.method,
        "note": c.note,
        "common_seeds": pair.common,
        "comparisons": pair.comparisons,
        "family": pair.family,
        "equivalence": None if pair.equivalence is None else asdict(pair.equivalence),
        "detectable": pair.detectable,
        "axes": [dict(zip(("axis", "arm", "reference"), row, strict=True)) for row in _axes(a, pair)],
        "differs": [dict(zip(("field", "arm", "reference"), row, strict=True)) for row in _differs(a, pair)],
        "condition": [dict(zip(("field", "arm", "reference"), row, strict=True)) for row in _conditions(a, pair)],
        "left_out": left_out,
    }


def _side(a: Analysis, arm: str) -> dict[str, Any]:
    row = a.by_id[arm]
    found = {name: getattr(row, name) for name in ("arm_id", "label", "baseline", "n", "planned", "diverged", "failed")}
    found |= {"mean": row.value, "low": row.low, "high": row.high}
    return found | {"cond_id": a.primary.cond_ids.get(arm) if a.primary else None,
                    "values": {str(seed): value for seed, value in row.seeds.items()}}  # fmt: skip


def _show(a: Analysis, pair: Pair, left_out: list[str]) -> None:
    from ablate.cli import present
    from ablate_reports import formats
    from ablate_reports.equivalence import sentence
    from ablate_reports.verdicts import count

    c, scale = pair.contrast, a.scale
    name, reference = (formats.short(a.frames.label(x)) for x in (pair.arm, pair.reference))
    names = (name, reference)
    present.line(f"{a.marker(pair.verdict)} {pair.verdict}: {pair.sentence(a)}", style="bold")
    rows = []
    for label, row in zip(names, (a.by_id[pair.arm], a.by_id[pair.reference]), strict=True):
        between = f"{formats.number(row.low)} to {formats.number(row.high)}" if row.low is not None else row.note
        lost = [f"{n} {word}" for word in ("diverged", "failed") if (n := getattr(row, word))]
        rows.append([label, formats.number(row.value), between, row.n, ", ".join(lost)])
    present.table("", ["arm", a.metric_axis, f"{a.level} interval", "seeds", "lost"], rows, right=(1, 3))
    single, family = formats.interval(c.low_single, c.high_single, scale), formats.interval(c.low, c.high, scale)
    facts: list[list[object]] = [
        ["difference", formats.change(c.estimate, scale)],
        [f"{a.level} interval, this comparison alone", single or c.note or "none"],
        [f"{a.level} interval, {pair.family}", family or c.note or "none"],
        ["p alone, over the family", _p(c.p, c.p_family)],
        ["seeds in common", pair.common],
        ["found with 80 % power", formats.magnitude(pair.detectable, scale) if pair.detectable else "unknown"],
    ]
    present.table("", ["", ""], facts)
    if pair.equivalence is not None:
        margin = formats.percent(float(a.frames.study["margin"]))
        present.line(f"Equivalence alone: {sentence(pair.equivalence, name, reference, margin)}")
    if c.note and c.low is not None:
        present.line(f"Judged by: {c.note}.")
    axes = _axes(a, pair)
    if len(axes) > 1:
        both = formats.listed([axis for axis, *_ in axes])
        present.line(f"They differ in {both}: the difference is that of all of them together.", style="yellow")
    differs = _differs(a, pair)
    cells = [[field, *map(_cell, values)] for field, *values in differs]
    present.table(f"these two arms differ in {count(len(differs), 'field')}", ["field", *names], cells)
    if conditions := _conditions(a, pair):
        cells = [[field, *map(_cell, values)] for field, *values in conditions]
        present.table("measured differently, as the study asks", ["field", *names], cells)
    for line in left_out:
        present.line(f"left out: {line}", style="yellow")


def _p(alone: float | None, family: float | None) -> str:
    return "none" if alone is None else f"{alone:.2g}" + (f", {family:.2g}" if family is not None else "")


def _axes(a: Analysis, pair: Pair) -> list[tuple[str, Any, Any]]:
    """Axes of the space at which they have different levels."""
    from ablate_reports.choices import choices

    chosen = choices(a.frames)
    mine, other = chosen.get(pair.arm, {}), chosen.get(pair.reference, {})
    return [(x, mine.get(x), other.get(x)) for x in dict.fromkeys([*other, *mine]) if mine.get(x) != other.get(x)]


def _differs(a: Analysis, pair: Pair) -> list[tuple[str, Any, Any]]:
    """Fields of the resolved configs; an exchanged component is one field."""
    from ablate.space.fair import resolved_diff
    from ablate_reports.data import definition

    configs = {str(r["arm_id"]): r["config"] for r in a.frames.arms.to_dict("records")}
    return resolved_diff(*(definition(configs[arm]) for arm in (pair.arm, pair.reference)))


def _conditions(a: Analysis, pair: Pair) -> list[tuple[str, Any, Any]]:
    from ablate_reports.data import field_diff

    assert a.primary is not None
    return field_diff(*(a.primary.conditions.get(arm, {}) for arm in (pair.arm, pair.reference)))


def _cell(value: Any) -> str:
    import json

    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
