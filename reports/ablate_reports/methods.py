"""The methods paragraph, written from what was done."""

from __future__ import annotations

from ablate_reports import formats
from ablate_reports.analysis import Analysis
from ablate_reports.data import definition, records
from ablate_reports.power import upper_sigma
from ablate_reports.simultaneous import MaxT
from ablate_reports.statistics import Contrast
from ablate_reports.verdicts import count


def paragraph(analysis: Analysis) -> str:
    """How the numbers of this report came to be, in sentences that hold for exactly this study."""
    if analysis.model is None or analysis.primary is None:
        return "Nothing was measured, so no statistics were computed."
    return " ".join(
        [_data(analysis), *_seeds(analysis), *_model(analysis), *_contrasts(analysis), *_families(analysis),
         *_software(analysis)]
    )  # fmt: skip


def _data(analysis: Analysis) -> str:
    at = analysis.frames.study["metric"]["at"]
    when = {"last": "at its last step", "best": "at its best measured step"}.get(at) if isinstance(at, str) else None
    when = when or f"at step {at['step']:,}"
    scale = "analysed as natural logarithms" if analysis.scale == "log" else "analysed on their own scale"
    s = analysis.situation
    return (
        f"Each finished trial contributes one value of the {s.metric}, {when}; the {count(s.measured, 'value')} of "
        f"{count(s.arms_measured, 'arm')} are {scale}."
    )


def _seeds(analysis: Analysis) -> list[str]:
    """Which seeds, whether the same in every arm, and the sampling noise that all of them share."""
    sets = {tuple(sorted(r.seeds)) for r in analysis.rows if r.seeds}
    every = sorted({s for seeds in sets for s in seeds})
    if not every:
        return []
    names = formats.listed([str(s) for s in every[:12]]) + (" and more" if len(every) > 12 else "")
    which = "the same in every arm" if len(sets) == 1 else "not all of them in every arm"
    return [f"Training seed{'s' if len(every) > 1 else ''} {names}, {which}."]


def _families(analysis: Analysis) -> list[str]:
    """What is compared beside the arms with the baseline, each in intervals of its own."""
    if analysis.model is None or not analysis.model.sigma:
        return []
    kinds = set(analysis.frames.study_arms["kind"])
    parts = []
    if "cumulative" in kinds:
        parts.append("the steps of a path with the row each builds on")
    if kinds & {"leave_one_out", "cumulative"}:
        parts.append("components added first with the same added last")
    if "grid" in kinds:
        parts.append("interactions within a grid (least squares on its cells)")
    if analysis.findings.claims.comparisons:
        parts.append("the comparisons of all claims")
    parts.append("every arm with the best of those that cost no more")
    said = [f"Families of their own, each at the same level: {formats.listed(parts)}."]
    if not analysis.findings.claims.judged:
        said.append("No claim was declared before the run, so everything here is exploration.")
    return said


def _software(analysis: Analysis) -> list[str]:
    """Versions that made the numbers; several where the study ran in several environments."""
    found: dict[str, list[str]] = {}
    for env in records(analysis.frames.environments):
        for name, version in definition(env.definition).items():
            if name in ("ablate", "python", "torch", "cuda") and isinstance(version, str):
                found.setdefault(name, [])
                found[name] += [version] if version not in found[name] else []
    names = {"ablate": "ablate", "python": "Python", "torch": "PyTorch", "cuda": "CUDA"}
    said = [f"{names[k]} {' and '.join(formats.short(v, 40) for v in found[k])}" for k in names if k in found]
    return [f"Trained with {formats.listed(said)}."] if said else []


def _model(analysis: Analysis) -> list[str]:
    m = analysis.model
    assert m is not None
    if not m.sigma:
        return ["There is no variation over seeds to estimate, so values are given without intervals."]
    blocks = "arms and seed blocks" if m.blocked else "arms"
    parts = [
        f"The model is y = {blocks.replace(' and ', ' + ')} + noise, with one pooled residual standard deviation of "
        f"{m.sigma:.3g} ({m.df:g} degrees of freedom; {m.block_note})."
    ]
    if inside := next(iter(m.within.values()), None):
        parts.append(
            f"The {count(len(m.values), 'arm')} are measured from {count(m.networks, 'training')}. That deviation "
            "holds between trainings, with the degrees of freedom of one way of measuring them; arms of one training "
            f"are compared within its trials, with a deviation of {inside.sigma:.3g} ({inside.df:g} degrees of "
            "freedom)."
        )
    marginal = " for new seeds (Satterthwaite degrees of freedom)" if m.blocked else ""
    mean = "Geometric means" if analysis.scale == "log" else "Means"
    parts.append(f"{mean} carry {analysis.level} t intervals{marginal} from the pooled variance.")
    if m.brown_forsythe_p is not None:
        parts.append(f"Brown-Forsythe test of equal variances: p = {m.brown_forsythe_p:.2g}.")
    if m.own:
        parts.append(
            f"{count(len(m.own), 'arm')} with a spread out of line, judged with own variance and Welch-Satterthwaite "
            "degrees of freedom."
        )
    return parts


def _contrasts(analysis: Analysis) -> list[str]:
    m = analysis.model
    judged = [r.contrast for r in analysis.rows if r.contrast is not None and r.contrast.low is not None]
    if m is None or not judged:
        return []
    between = [c for c in judged if c.method == "pooled"]
    pairs = [(c.arm, c.reference) for c in between]
    critical = _critical(between[0]) if between else None
    law = _law(analysis, pairs)
    way = "numerical integration" if law is None or law.exact else "a seeded quasi-random simulation"
    label = analysis.baseline_name
    parts = [f"Differences to {label} are contrasts of this model, so they are paired by seed where seeds are blocks."]
    if not m.blocked:
        parts = [f"Differences to {label} are contrasts of this model."]
    if critical is not None:
        parts.append(
            f"Their {analysis.level} intervals hold for all {count(len(judged), 'comparison')} at once "
            f"(largest |t|, Dunnett; critical value {critical:.3f} by {way})."
        )
    elif any(c.method == "welch" for c in judged):
        parts.append(
            f"Their {analysis.level} intervals hold for all {count(len(judged), 'comparison')} at once (largest |t|, "
            f"with the own variance of {label} and the degrees of freedom of each comparison)."
        )
    if analysis.margin:
        parts.append(
            "An arm is better or worse when its interval excludes no change, equivalent when the interval lies "
            "within the declared margin "
            f"of {analysis.situation.margin}, inconclusive otherwise."
        )
    else:
        parts.append(
            "An arm is better or worse when its interval excludes no change, inconclusive otherwise; no margin "
            "of equivalence applies."
        )
    if analysis.detectable:
        assert m.sigma is not None
        parts.append(
            "With 80% power this study detects a difference of "
            f"{formats.magnitude(analysis.detectable, analysis.scale)}; "
            f"for planning, the residual standard deviation may be as large as {upper_sigma(m.sigma, m.df):.3g} "
            "(upper 80% limit)."
        )
    return parts


def _critical(contrast: Contrast) -> float:
    """How many standard errors wide the simultaneous interval is on each side."""
    assert contrast.low is not None
    assert contrast.se is not None
    return (contrast.estimate - contrast.low) / contrast.se


def _law(analysis: Analysis, pairs: list[tuple[str, str]]) -> MaxT | None:
    assert analysis.model is not None
    return analysis.model.family_law(pairs) if pairs else None
