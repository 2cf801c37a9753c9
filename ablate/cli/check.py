"""``ablate check``: do the claims hold that a space declares? Made for continuous integration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ablate.cli.arms import AllowMixedOption, refuse_mixed, said
from ablate.cli.options import JsonOption, StoreOption, store_root
from ablate.errors import AblateError, ExitCode

if TYPE_CHECKING:
    from ablate_reports import Analysis
    from ablate_reports.claims import Claims, JudgedClaim

SIGNS = {"holds": "✓", "fails": "✗", "undecided": "?", "not understood": "–"}
STYLES = {"holds": "green", "fails": "red"}


@dataclass(frozen=True)
class Checked:
    """The claims of one study; `left_out` says which numbers took no part."""

    analysis: Analysis
    claims: Claims
    left_out: list[str]

    @property
    def name(self) -> str:
        return str(self.analysis.frames.study["name"])

    @property
    def waiting(self) -> int:
        """Trials that are not finished yet."""
        situation = self.analysis.situation
        return situation.planned - situation.final


def check(
    studies: Annotated[
        list[str] | None,
        typer.Argument(metavar="STUDY", help="Studies of the store; not needed when there is one.", show_default=False),
    ] = None,
    allow_undecided: Annotated[
        bool, typer.Option("--allow-undecided", help="End with 0 where no claim fails but some are undecided.")
    ] = False,
    allow_mixed: AllowMixedOption = False,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Judge the claims that a space declares (`claims:`) on what the store holds; nothing is run.

    Ends with 0 when every claim holds, 6 when one fails, 7 when none fails but one is undecided, 2 when one cannot be
    read, or there is none.
    """
    from ablate.cli import present
    from ablate.cli.report import study_frames, study_name
    from ablate.store import StorePaths

    paths = StorePaths(store_root(store))
    asked: list[str | None] = [*studies] if studies else [None]
    names = list(dict.fromkeys(study_name(paths, name) for name in asked))
    checked = [_checked(study_frames(paths, name), allow_mixed) for name in names]
    code = exit_code([c for study in checked for c in study.claims.judged], allow_undecided)
    if json:
        present.as_json({"exit_code": int(code), "studies": [_document(study) for study in checked]})
    else:
        for study in checked:
            _show(study)
    if code is ExitCode.USAGE:
        study, claim = next(
            (study, c) for study in checked for c in study.claims.judged if c.status == "not understood"
        )
        raise AblateError(f"{study.name}: the claim {claim.claim.text!r} cannot be read: {claim.reason}")
    raise typer.Exit(int(code))


def exit_code(claims: list[JudgedClaim], allow_undecided: bool = False) -> ExitCode:
    """The worst news first: a claim that fails, one that cannot be read, one that is undecided."""
    found = {c.status for c in claims}
    if "fails" in found:
        return ExitCode.CLAIM_FAILS
    if "not understood" in found:
        return ExitCode.USAGE
    return ExitCode.CLAIM_UNDECIDED if "undecided" in found and not allow_undecided else ExitCode.COMPLETE


def _checked(frames: Any, allow_mixed: bool) -> Checked:
    from ablate_reports import analyse
    from ablate_reports.findings import judged_claims
    from ablate_reports.pairs import apart

    name = frames.study["name"]
    if not frames.study.get("claims"):
        raise AblateError(f"{name}: the space declares no claims; add `claims: [A is better than B.]` and run it again")
    analysis = analyse(frames)
    claims = judged_claims(analysis)
    arms = list(dict.fromkeys(arm for c in claims.judged for pair in c.claim.pairs for arm in pair))
    if not allow_mixed:
        refuse_mixed(analysis, arms)
    return Checked(analysis, claims, [said(analysis, found) for found in apart(analysis, arms)])


def _show(study: Checked) -> None:
    from ablate.cli import present
    from ablate_reports.sections import LATE
    from ablate_reports.verdicts import count

    judged = study.claims.judged
    cells = [[f"{SIGNS[c.status]} {c.status}", _claim(c), c.reason + f" ({LATE})" * bool(c.late)] for c in judged]
    present.table(study.name, ["", "claim", "because"], cells, styles=[STYLES.get(c.status, "yellow") for c in judged])
    tally = [f"{n} {status}" for status in SIGNS if (n := sum(c.status == status for c in judged))]
    level, family = study.analysis.level, count(study.claims.comparisons, "comparison")
    present.line(f"{', '.join(tally)}; {family}, {level} intervals that hold for all of them at once")
    if study.waiting:
        present.line(f"{count(study.waiting, 'trial')} not finished: this may change", style="yellow")
    for line in study.left_out:
        present.line(f"left out: {line}", style="yellow")


def _claim(c: JudgedClaim) -> str:
    """The claim as it was written; where that was a mapping without words, as it was read."""
    return c.claim.read if c.claim.text.startswith("{") and c.claim.read else c.claim.text


def _document(study: Checked) -> dict[str, Any]:
    from ablate_reports.findings import claim_document

    situation = study.analysis.situation
    return {
        "study": study.name,
        "metric": situation.metric,
        "alpha": study.analysis.alpha,
        "comparisons": study.claims.comparisons,
        "planned": situation.planned,
        "finished": situation.final,
        "claims": [claim_document(c) for c in study.claims.judged],
        "left_out": study.left_out,
    }
