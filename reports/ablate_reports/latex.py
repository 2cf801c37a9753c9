"""The report's tables as LaTeX for a paper: booktabs, numbers rounded to the first digit of their standard error.

Every arm that cannot be told from the best one is bold, never the lowest alone; a dagger marks what is inconclusive,
a double dagger what has no interval. The caption says n, the level of the intervals, the metric's right name and its
identity.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ablate_reports import formats, sections, tables
from ablate_reports.analysis import Analysis, ArmRow, analyse
from ablate_reports.data import StudyFrames
from ablate_reports.figures import cumulative
from ablate_reports.latex_text import PREAMBLE, text
from ablate_reports.statistics import Contrast
from ablate_reports.verdicts import Verdict

DAGGER, NO_INTERVAL = "$^{\\dagger}$", "$^{\\ddagger}$"
LONG_LABEL = 40
"""Characters from which on labels get a column of fixed width, in which lines break."""


@dataclass(frozen=True)
class TexTable:
    """One table; cells, head and caption are LaTeX already, `label` is ``[a-z0-9-]+``.

    Attributes:
        columns: the column types after the first, ``l`` or ``r`` each.
        wide: whether the first column has a fixed width.
        notes: sentences under it.
    """

    label: str
    caption: str
    head: Sequence[str]
    columns: str
    rows: Sequence[Sequence[str]]
    wide: bool = False
    notes: Sequence[str] = field(default_factory=list)

    def __str__(self) -> str:
        first = "p{0.3\\linewidth}" if self.wide else "l"
        lines = ["\\begin{table}", "  \\centering", f"  \\caption{{{self.caption}}}", f"  \\label{{tab:{self.label}}}"]
        lines += [f"  \\begin{{tabular}}{{{first}{self.columns}}}", "    \\toprule", f"    {_line(self.head)}"]
        lines += ["    \\midrule", *(f"    {_line(row)}" for row in self.rows), "    \\bottomrule", "  \\end{tabular}"]
        lines += [f"  \\par\\smallskip{{\\footnotesize {note}\\par}}" for note in self.notes]
        return "\n".join([*lines, "\\end{table}"])


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + " \\\\"


def render_latex(frames: StudyFrames) -> str:
    """The arms, every cumulative path and the claims as LaTeX tables; ``\\input`` the file, with booktabs loaded."""
    return document([analyse(frames)])


def document(analyses: Sequence[Analysis], first: Iterable[TexTable] = ()) -> str:
    """The tables of some studies, after those of `first`."""
    names = formats.listed([formats.short(str(a.frames.study["name"]), 80) for a in analyses])
    comment = "".join(ch if ch.isascii() else "?" for ch in names)
    several = len(analyses) > 1
    found = [t for i, a in enumerate(analyses, 1) for t in _tables(a, f"-{i}" if several else "")]
    head = f"% Tables of {comment}, written by ablate. Needs \\usepackage{{booktabs}}.\n{PREAMBLE}"
    return "\n\n".join([head, *map(str, [*first, *found])]) + "\n"


def _tables(a: Analysis, number: str) -> list[TexTable]:
    slug = re.sub(r"[^a-z0-9]+", "-", str(a.frames.study["name"]).lower()).strip("-")[:40] + number
    rows = a.frames.study_arms
    plans = dict.fromkeys(map(str, rows.loc[rows["kind"] == "cumulative", "plan"]))
    paths = [_path(a, plan, f"{slug}-path-{i}".strip("-")) for i, plan in enumerate(plans, 1)]
    return [_arms(a, f"{slug}-arms".strip("-")), *paths, *_claims(a, f"{slug}-claims".strip("-"))]


def mean(a: Analysis, row: ArmRow) -> tuple[str, str]:
    """An arm's mean and its interval, rounded to the first digit of its standard error on the metric's scale."""
    if row.value is None or a.model is None:
        return number(row.value), "---"
    se = a.model.mean(row.arm_id, a.alpha).se
    digits = formats.digits_of(None if se is None else se * (row.value if a.scale == "log" else 1.0))
    low, high = formats.rounded(row.low, digits), formats.rounded(row.high, digits)
    return text(formats.rounded(row.value, digits)), "---" if row.low is None else text(f"{low} to {high}")


def change(a: Analysis, c: Contrast | None, verdict: Verdict | None) -> tuple[str, str]:
    """A difference and its simultaneous interval, rounded likewise; a percentage where the model is of logarithms."""
    if c is None:
        return "---", "---"
    log = a.scale == "log"
    slope = 100 * math.exp(min(c.estimate, 700.0)) if log else 1.0
    digits = formats.digits_of(None if c.se is None else c.se * slope)

    resolved = c.low is not None and c.high is not None and c.low * c.high > 0

    def said(delta: float | None) -> str:
        if digits is None or delta is None:
            return formats.change(delta, a.scale)
        size, shown = 100 * math.expm1(min(delta, 700.0)) if log else delta, digits
        if resolved and size:  # what excludes no change must not be rounded to it
            shown = max(digits, math.ceil(-math.log10(abs(size))))
        return ("+" if delta > 0 else "") + formats.rounded(size, shown)

    unit = "%" * (log and digits is not None)
    mark = NO_INTERVAL if c.low is None else DAGGER if verdict == "inconclusive" else ""
    between = "---" if c.low is None else text(f"{said(c.low)}{unit} to {said(c.high)}{unit}")
    return text(f"{said(c.estimate)}{unit}") + mark, between


def number(value: float | None) -> str:
    """A number without an error, as LaTeX."""
    return text(formats.number(value))


def _arms(a: Analysis, label: str) -> TexTable:
    rows, level = [], text(a.level)
    for r in a.rows:
        value, between = mean(a, r)
        delta, both = ("baseline", "---") if r.baseline else change(a, r.contrast, r.verdict)
        said = r.verdict if r.verdict and r.contrast is not None and r.contrast.low is not None else "---"
        cells = [text(r.label), value, between, text(tables.seeds_of(r)), delta, both, said]
        rows.append([f"\\textbf{{{c}}}" for c in cells[:2]] + cells[2:] if r.tied_best else cells)
    head = ["Arm", tables.mean_name(a).capitalize(), f"{level} interval", "Seeds", "Change"]
    head += [f"{level} simultaneous", "Verdict"]
    caption = " ".join([f"{text(str(a.frames.study['name']))}: {_measured(a)}", *_said(a)])
    wide = any(len(r.label) > LONG_LABEL for r in a.rows)
    return TexTable(label, caption, head, "rlrrll", rows, wide, [text(n, 1000) for n in a.notes])


def _measured(a: Analysis) -> str:
    """The metric by its right name, its identity and condition."""
    if a.primary is None:
        return "no value of the study's metric was measured."
    way = "lower" if a.lower_is_better else "higher"
    ids = f"identity \\texttt{{{text(a.primary.metric_id)}}}, condition \\texttt{{{text(a.primary.under)}}}"
    return f"{text(a.primary.title)} ({ids}), {way} is better."


def _said(a: Analysis) -> list[str]:
    """What the numbers of the arms are, n first."""
    counts = sorted({r.n for r in a.rows if r.n})
    if not counts:
        return []
    n = f"$n = {counts[0]}$" if len(counts) == 1 else f"$n = {counts[0]}$ to ${counts[-1]}$"
    said = [f"{tables.mean_name(a).capitalize()} over {n} training seed{'s' * (counts != [1])}."]
    if any(r.low is not None for r in a.rows):
        said = [f"{said[0][:-1]} with {text(a.level)} intervals, rounded to the first digit of the standard error."]
    judged = [r for r in a.rows if r.contrast is not None]
    if sure := sum(r.contrast is not None and r.contrast.low is not None for r in judged):
        held = "interval is of one comparison" if sure == 1 else f"intervals hold for all {sure} comparisons at once"
        said.append(f"Changes are against {text(a.baseline_name)}; their {text(a.level)} {held}.")
    if any(r.tied_best for r in a.rows):
        said.append("Bold: every arm that cannot be told from the best one.")
    elif len(judged) > 1:
        unsure = a.leader is not None and a.leader.low is None
        why = "the best-looking arm has no interval" if unsure else "no arm is worse than the best one beyond doubt"
        said.append(f"Nothing is bold, because {why}.")
    return said + _marks([(r.contrast, r.verdict) for r in judged], a)


def _marks(pairs: Sequence[tuple[Contrast | None, Verdict | None]], a: Analysis) -> list[str]:
    """What the daggers mean, of those that are there."""
    found = [(c, v) for c, v in pairs if c is not None]
    margin = f" and reaches beyond the margin of {text(a.situation.margin)}" if a.situation.margin else ""
    said = []
    if any(c.low is not None and v == "inconclusive" for c, v in found):
        said.append(f"{DAGGER}\\,Inconclusive: the interval includes no change{margin}.")
    if any(c.low is None for c, _ in found):
        said.append(f"{NO_INTERVAL}\\,No interval, so no verdict.")
    return said


def _path(a: Analysis, plan: str, label: str) -> TexTable:
    steps = cumulative.steps(a, plan)
    rows = []
    for s in cumulative.lines(a, plan, steps):
        if isinstance(s, cumulative.Refused):
            rows.append([text(s.name), "not run", *6 * ["---"]])
            continue
        step, both = change(a, s.step, s.verdict)
        judged = s.verdict is not None and s.step is not None and s.step.low is not None
        said = (str(s.verdict) if judged else "---") + (", not kept" if s.left else "")
        rows.append([text(s.name), *mean(a, s.row), text(tables.seeds_of(s.row)), step, both, said,
                     change(a, s.total, None)[0]])  # fmt: skip
    head = ["Step", tables.mean_name(a).capitalize(), f"{text(a.level)} interval", "Seeds", "Change"]
    head += [f"{text(a.level)} simultaneous", "Verdict", "In all"]
    caption = [
        f"{text(str(a.frames.study['name']))}, cumulative path {text(plan)}: {_measured(a)}",
        f"Each change is from the row the step builds on; their {text(a.level)} intervals hold for all steps of the "
        "path at once. The last column is the change from the first row.",
        *_marks([(s.step, s.verdict) for s in steps], a),
    ]
    wide = any(len(s.name) > LONG_LABEL for s in steps)
    return TexTable(label, " ".join(caption), head, "rlrrllr", rows, wide)


def _claims(a: Analysis, label: str) -> list[TexTable]:
    introduction, claims = sections.claims(a)
    if not claims:
        return []
    rows = [[text(c.text), text(c.status.split(" ", 1)[-1]), text(c.reason)] for c in claims]
    caption = f"{text(str(a.frames.study['name']))}: claims declared before the run. {text(introduction, 1000)}"
    return [TexTable(label, caption, ["Claim", "Verdict", "Because"], "lp{0.4\\linewidth}", rows, wide=True)]
