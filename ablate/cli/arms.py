"""What a person calls an arm on the command line, and arms whose numbers do not mean the same."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ablate.errors import MetricMismatchError, NotHereError

if TYPE_CHECKING:
    from ablate_reports import Analysis, StudyFrames
    from ablate_reports.pairs import Apart

AllowMixedOption = Annotated[
    bool,
    typer.Option(
        "--allow-mixed", help="Leave numbers of another metric identity out, and say so, instead of stopping."
    ),
]
SHORTEST_ID = 4
"""Characters from which on the beginning of an arm's id names it."""
FEWEST_SHOWN = 3


def arms_named(frames: StudyFrames, text: str) -> list[str]:
    """The arms a name stands for.

    A name is an arm's label, ``baseline``, the beginning of its id, ``axis=level`` (several with commas between), or
    what a claim may call it (docs/space-file.md).

    Raises:
        NotHereError: none is called so; lists what there is.
    """
    from ablate_reports.claim_names import NotUnderstoodError, names_of

    if found := [arm for arm, label in frames.labels.items() if label == text]:
        return found
    if text in ("base", "baseline") and frames.baseline is not None:
        return [frames.baseline]
    if len(text) >= SHORTEST_ID and (found := [arm for arm in frames.ordered if arm.startswith(text)]):
        return found
    names = names_of(frames)
    if "," in text and all("=" in part for part in text.split(",")):
        chosen = [set(arms_named(frames, part.strip())) for part in text.split(",")]
        if both := set.intersection(*chosen):
            return [arm for arm in frames.ordered if arm in both]
        raise NotHereError(f"{frames.study['name']}: no arm has all of {text}")
    try:
        side = names.named(text)
    except NotUnderstoodError as problem:
        raise NotHereError(f"{frames.study['name']}: {problem}") from None
    return [arm for arm in frames.ordered if arm in side.arms]


def arm_named(frames: StudyFrames, text: str) -> str:
    """The one arm of this name; of several at one level, the one that is as the baseline otherwise.

    Raises:
        NotHereError: none, or several.
    """
    from ablate_reports.choices import choices

    found = arms_named(frames, text)
    if len(found) > 1 and "=" in text and frames.baseline is not None:
        every, named = choices(frames), {part.partition("=")[0].strip() for part in text.split(",")}
        rest = {k: v for k, v in every[frames.baseline].items() if k not in named}
        alike = [arm for arm in found if {k: v for k, v in every[arm].items() if k not in named} == rest]
        found = alike if len(alike) == 1 else found
    if len(found) > 1:
        some = ", ".join(frames.label(arm) for arm in found[:4]) + (", ..." if len(found) > 4 else "")
        raise NotHereError(
            f"{frames.study['name']}: {text!r} stands for {len(found)} arms ({some}); name one, or say more levels "
            "as in objective=esc,schedule=linear"
        )
    return found[0]


def refuse_mixed(analysis: Analysis, arms: Iterable[str]) -> None:
    """Stop where a number of these arms has another meaning than those it would be compared with.

    Raises:
        MetricMismatchError: field by field, and how to measure again.
    """
    from ablate_reports.pairs import apart

    if found := apart(analysis, arms):
        study = analysis.frames.study["name"]
        raise MetricMismatchError(
            f"{said(analysis, found[0])}; `ablate eval {study} --again` measures every network anew, "
            "--allow-mixed leaves such numbers out"
        )


def said(analysis: Analysis, found: Apart) -> str:
    """``sCT is not measured as it is compared (3 trials): weights_sha256 'ab', compared are 'cd'``."""
    fields = [f"{name} is {_short(theirs)}, compared is {_short(ours)}" for name, ours, theirs in found.fields]
    more = f" and {len(fields) - FEWEST_SHOWN} more fields" if len(fields) > FEWEST_SHOWN else ""
    trials = f"{len(found.trials)} trial{'s' * (len(found.trials) > 1)}"
    return f"{analysis.frames.label(found.arm)} is not measured as it is compared ({trials}): " + (
        "; ".join(fields[:FEWEST_SHOWN]) + more
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:36]}..."
