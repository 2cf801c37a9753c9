"""Sections of the page that are words and tables: claims, confirmation, planning, sample sizes, single runs, losses."""

from __future__ import annotations

from dataclasses import dataclass

from ablate_reports import accounting, confirming, formats
from ablate_reports.analysis import Analysis
from ablate_reports.figures.base import Table
from ablate_reports.luck import Confirmed
from ablate_reports.verdicts import count

SIGNS = {"holds": "✓", "fails": "✗", "undecided": "?", "not understood": "–"}
CLASSES = {"holds": "better", "fails": "worse"}
LATE = "declared after the first result of the study, so no prediction"


@dataclass(frozen=True)
class ClaimRow:
    """A claim as the page prints it; `look` is the class of its status."""

    text: str
    read: str
    status: str
    look: str
    reason: str


def claims(analysis: Analysis) -> tuple[str, list[ClaimRow]]:
    """An introduction that counts, and every declared claim with its status."""
    judged = analysis.findings.claims.judged
    rows = [
        ClaimRow(
            formats.short(c.claim.text, 400),
            formats.short(c.claim.read, 400) if _plain(c.claim.read) != _plain(c.claim.text) else "",
            f"{SIGNS[c.status]} {c.status}",
            CLASSES.get(c.status, "inconclusive"),
            formats.short(c.reason, 400) + f" ({LATE})" * bool(c.late),
        )
        for c in judged
    ]
    tally = [f"{n} {status}" for status in SIGNS if (n := sum(c.status == status for c in judged))]
    family = count(analysis.findings.claims.comparisons, "comparison")
    text = f"Of {count(len(judged), 'claim')} declared in the space: {formats.listed(tally)}." if judged else ""
    if judged and analysis.findings.claims.comparisons:
        text += (
            f" Their {family} form one family with {analysis.level} simultaneous intervals of its own. Everything "
            "else is exploration."
        )
    return text, rows


def _plain(text: str) -> str:
    return "".join(ch for ch in text.lower() if ch.isalnum())


def confirmation(analysis: Analysis) -> list[str]:
    """What fresh seeds say of picked arms; without them, what luck alone gives a winner."""
    found, scale = analysis.findings, analysis.scale
    if found.confirmed is not None:
        return confirmed(analysis, found.confirmed)
    picked = sum(r.verdict == "better" for r in analysis.rows)
    return (
        [found.luck.sentence(scale, analysis.lower_is_better)]
        if found.luck is not None and picked and found.luck.arms > 2
        else []
    )


def confirmed(analysis: Analysis, found: Confirmed) -> list[str]:
    """A sentence for every arm that was confirmed or not, and what was lost or left out."""
    frames, said = analysis.frames, []
    for c in found.found:
        said.append(c.sentence(formats.short(frames.label(c.arm)), analysis.baseline_name, found.scale))
    if found.scale != analysis.scale:
        said.append("A fresh value is not positive, so these differences are in the metric's own units.")
    if found.stale:
        seeds = formats.listed([str(s) for s in found.stale])
        said.append(f"Not fresh, so left out: seed{'s' if len(found.stale) > 1 else ''} {seeds}.")
    assert analysis.primary is not None
    return said + [text for text in (confirming.state(analysis.whole, analysis.primary),) if text]


def planning(analysis: Analysis) -> list[str]:
    """What more seeds, draws or samples would give."""
    found = analysis.findings
    said = [found.seeds.sentence()] if found.seeds is not None else []
    return said + ([found.noise.sentence] if found.noise is not None else [])


def sample_sizes(analysis: Analysis) -> list[tuple[str, Table]]:
    """Families of metrics that differ in the number of samples: a sentence and the line of every arm."""
    out = []
    for family in analysis.findings.samples:
        head = ["Arm", "Sizes", "For infinitely many", f"{analysis.level} interval", "Bias times samples", "Note"]
        rows = []
        for arm, line in family.arms.items():
            sizes = ", ".join(f"{n:,}" for n in line.sizes) or "—"
            between = f"{formats.number(line.low)} to {formats.number(line.high)}" if line.low is not None else "—"
            ignored = f"left out: {', '.join(f'{n:,}' for n in line.ignored)}" if line.ignored else ""
            note = "; ".join(part for part in (line.note, ignored) if part)
            label = formats.short(analysis.frames.label(arm), 80)
            rows.append([label, sizes, formats.number(line.infinity), between, formats.number(line.slope), note])
        sizes = formats.listed([f"{n:,}" for n in family.metric_ids])
        text = (
            f"{family.name} was measured with {sizes} samples. The expected value falls like B/N with a B that differs "
            "from arm to arm, so the line through the sizes is fitted and read off at N without end; the bias of the "
            "reference stays."
        )
        out.append((text, Table(head, rows)))
    return out


def importances(analysis: Analysis) -> list[tuple[str, Table]]:
    """Which axes explain a search, beside what noise would give: a sentence and a table for every such plan."""
    out = []
    for plan, found in analysis.findings.importances.items():
        above = [formats.short(i.axis, 60) for i in found if i.above_noise]
        said = f"above what shuffled values give: {formats.listed(above)}" if above else "no axis is above noise"
        text = (
            f"Share of each axis of {formats.short(plan)} in what sets the best quarter of its arms apart (PED-ANOVA): "
            f"{said}. Shares add up to 1 whatever the data; only those above noise say anything."
        )
        rows = [
            [formats.short(i.axis, 60), str(i.levels), f"{i.share:.2f}", f"{i.noise_95:.2f}",
             "above" if i.above_noise else "not told from it"]
            for i in found
        ]  # fmt: skip
        out.append((text, Table(["Axis", "Levels", "Share", "95% of noise below", "Against noise"], rows)))
    return out


def single_runs(analysis: Analysis) -> list[tuple[str, Table]]:
    """Published tables of single runs, judged with an assumed noise."""
    out = []
    for runs in analysis.findings.single_runs:
        rows = [
            [formats.short(s.name, 80), formats.number(s.value), formats.change(s.change),
             "outside the band" if s.resolved else "inconclusive", "yes" if s.resolved_family else "no"]
            for s in runs.steps
        ]  # fmt: skip
        reference = runs.steps[0].reference if runs.steps else "the reference"
        head = ["Arm", "Published", f"Against {formats.short(reference, 40)}", "With the assumed noise"]
        out.append((runs.sentence(), Table([*head, "For all at once"], rows)))
    return out


def lost_by_level(analysis: Analysis) -> tuple[list[str], Table]:
    """Whether some level loses more trials than others: sentences and counts; empty where none was lost."""
    counts = analysis.findings.levels
    head = ["Axis", "Level", "Planned", "Ended", "Failed", "Diverged", "Without a value", "Loses more often, p"]
    if not any(c.lost for c in counts):
        return [], Table(head, [])
    rows = [
        [formats.short(c.axis, 60), formats.short(c.level, 60), *map(str, (c.planned, c.final, c.failed, c.diverged)),
         str(c.missing), "—" if c.p_family is None else f"{c.p_family:.2g}"]
        for c in counts
    ]  # fmt: skip
    return accounting.sentences(counts), Table(head, rows)
