"""Everything a report can say beyond the arms against the baseline: one object, computed when it is asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from ablate_reports import accounting, draws, power
from ablate_reports.aliasing import Aliases, Chain, alias_structure, chains, two_level
from ablate_reports.choices import base_arm, beside_axes, choices
from ablate_reports.claim_names import names_of
from ablate_reports.claims import Claims, JudgedClaim, judge_claims
from ablate_reports.confirming import any_confirming, fresh_values
from ablate_reports.data import definition, records
from ablate_reports.equivalence import Equivalence, equivalences
from ablate_reports.factorial import Factorial, factorial
from ablate_reports.importances import SEARCHES, Importance, importances
from ablate_reports.luck import Confirmed, Luck, confirm, luck
from ablate_reports.rungs import Rung, Speed, rung_values, speeds
from ablate_reports.sample_bias import SampleFamily, sample_families
from ablate_reports.single_runs import SingleRuns, of_published

if TYPE_CHECKING:
    from ablate_reports.analysis import Analysis

NOT_CROSSED = ("base", "cumulative", "leave_one_out", "confirm")
"""Kinds of plans that are read in another way than as a factorial."""


@dataclass(frozen=True)
class Plan:
    """A plan read as a factorial, with what a two-level one aliases.

    Attributes:
        aliases: None where a factor has other than two levels or the plan is complete.
        chains: what an incomplete two-level plan estimates; empty elsewhere.
        left_out: its arms that also change what is no axis.
    """

    factorial: Factorial
    aliases: Aliases | None
    chains: list[Chain]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Noise:
    """Training and sampling noise, and the draws per checkpoint that follow; `plan` None where costs are not known."""

    components: draws.Components
    plan: draws.DrawPlan | None
    sentence: str


@dataclass(frozen=True)
class Findings:
    """What a report can say beyond the arms against the baseline; empty or None where the study has nothing of it.

    Attributes:
        equivalence: every arm against the baseline, TOST and non-inferiority.
        plans: name -> plan that mixes two factors or more.
        noise: from several draws per checkpoint.
        luck: what the best of the arms owes to having been picked.
        confirmed: picked arms on fresh seeds.
        rungs, speeds: early steps as judges of the last one, and axes that change speed.
        samples: families of metrics that differ in the number of samples.
        levels: lost trials by level.
        claims: declared claims, judged as a family of their own.
        single_runs: published tables of single runs, with an assumed noise.
        importances: search plan -> its axes, the most important first.
        seeds: seeds per arm that would find a difference as large as the margin.
    """

    equivalence: list[Equivalence]
    plans: dict[str, Plan]
    noise: Noise | None
    luck: Luck | None
    confirmed: Confirmed | None
    rungs: list[Rung]
    speeds: list[Speed]
    samples: list[SampleFamily]
    levels: list[accounting.LevelCount]
    claims: Claims
    single_runs: list[SingleRuns]
    importances: dict[str, list[Importance]]
    seeds: power.SeedPlan | None


def find(a: Analysis) -> Findings:
    """Compute all of it."""
    stable, moving = _rungs(a)
    usable = set() if a.primary is None else {r.trial_id for r in records(a.primary.values) if math.isfinite(r.value)}
    return Findings(
        equivalence=_equivalence(a),
        plans=_plans(a),
        noise=_noise(a),
        luck=luck(a.model),
        confirmed=confirmation(a),
        rungs=stable,
        speeds=moving,
        samples=sample_families(a.frames, a.alpha),
        levels=accounting.by_level(a.frames, usable),
        claims=judged_claims(a),
        single_runs=_single_runs(a),
        importances=_importances(a),
        seeds=_seeds(a),
    )


def _equivalence(a: Analysis) -> list[Equivalence]:
    base = a.frames.baseline
    if a.model is None or base not in a.model.values:
        return []
    pairs = [(arm, str(base)) for arm in a.model.values if arm != base]
    return equivalences(a.model, pairs, a.margin, lower_is_better=a.lower_is_better, alpha=a.alpha) if pairs else []


def _plans(a: Analysis) -> dict[str, Plan]:
    """Plans with two factors or more; an arm that stands in several places of one counts where it stands first."""
    if a.model is None:
        return {}
    every, beside, found = choices(a.frames), beside_axes(a.frames), {}
    base, start = every.get(str(a.frames.baseline), {}), base_arm(a.frames)
    rows = a.frames.study_arms
    for plan in dict.fromkeys(rows["plan"]):
        mine = rows[(rows["plan"] == plan) & ~rows["kind"].isin(NOT_CROSSED)]
        own: dict[str, dict[str, str]] = {}
        for r in records(mine):
            choice = definition(r.choice) if isinstance(r.choice, str | Mapping) else {}
            own.setdefault(r.arm_id, {str(k): str(v) for k, v in choice.items()})
        if own and set(mine["kind"]) == {"ofat"} and start is not None:  # the base is an arm of every such plan
            own = {start: {}, **own}
        left_out = tuple(arm for arm in own if arm in beside)
        own = {arm: choice for arm, choice in own.items() if arm not in beside}
        axes = dict.fromkeys(axis for choice in own.values() for axis in choice)
        known = {arm: {**every.get(arm, {}), **choice} for arm, choice in own.items()}
        cells = {arm: {axis: at[axis] for axis in axes if axis in at} for arm, at in known.items()}
        fitted = factorial(cells, a.model.values, reference=base, alpha=a.alpha, networks=a.frames.trained)
        if fitted is not None and len(fitted.factors) > 1:
            found[str(plan)] = replace(_two_level(a, cells, fitted, base), left_out=left_out)
    return found


def _two_level(a: Analysis, cells: dict[str, dict[str, str]], fitted: Factorial, base: Mapping[str, str]) -> Plan:
    assert a.model is not None
    mine = {arm: {f: at.get(f, "") for f in fitted.factors} for arm, at in cells.items() if arm in a.model.values}
    two = all(len(levels) == 2 for levels in fitted.factors.values())
    if not two or fitted.within or len({tuple(at.values()) for at in mine.values()}) == 2 ** len(fitted.factors):
        return Plan(fitted, None, [])
    try:
        factors, design = two_level(mine, base)
        return Plan(fitted, alias_structure(factors, design), chains(mine, a.model.values, base, a.alpha))
    except ValueError:  # factors that no cell tells apart: the factorial says so, term by term
        return Plan(fitted, None, [])


def _noise(a: Analysis) -> Noise | None:
    if a.primary is None:
        return None
    values, seen = draws.draws_of(a.frames, a.primary, a.scale), set()
    alone = {}
    for arm, seeds in values.items():  # of arms that share their trials one is enough
        if (network := a.frames.trained.get(arm, arm)) not in seen:
            seen.add(network)
            alone[arm] = seeds
    found = draws.components(alone, a.alpha)
    if found is None:
        return None
    spent = draws.costs(a.frames, a.primary)
    plan = draws.plan_draws(found, *spent) if spent else None
    return Noise(found, plan, draws.sentence(found, plan, a.scale))


def confirmation(a: Analysis) -> Confirmed | None:
    """What fresh seeds say of picked arms."""
    if a.primary is None or a.model is None or not any_confirming(a.whole):
        return None
    fresh, scale = fresh_values(a.whole, a.primary)
    same = scale == a.scale
    return confirm(
        a.model.values if same else a.primary.by_arm(), fresh, a.frames.baseline, a.frames.trained,
        margin=a.margin if same else None, lower_is_better=a.lower_is_better, alpha=a.alpha, scale=scale,
    )  # fmt: skip


def _rungs(a: Analysis) -> tuple[list[Rung], list[Speed]]:
    if a.primary is None or a.model is None:
        return [], []
    values = rung_values(a.frames, a.primary, a.model.values, a.scale)
    chosen, beside = choices(a.frames), beside_axes(a.frames)
    cells = {arm: levels for arm, levels in chosen.items() if arm not in beside}
    moving = speeds(
        cells, values.early, values.final, chosen.get(str(a.frames.baseline), {}), a.alpha, a.frames.trained
    )
    return values.rungs(lower_is_better=a.lower_is_better, alpha=a.alpha), moving


def judged_claims(a: Analysis) -> Claims:
    """The claims that the space declares, judged as a family of their own."""
    condition = a.primary.condition if a.primary else {}
    nfe = condition.get("nfe")
    names = names_of(a.frames, nfe if isinstance(nfe, int) else None)
    declared = list(a.frames.study.get("claims") or [])
    late = list(a.frames.study.get("claims_late") or []) or [None] * len(declared)
    found = judge_claims(
        declared, names, a.model, margin=float(a.frames.study["margin"]), scale=a.scale,
        lower_is_better=a.lower_is_better, alpha=a.alpha,
    )  # fmt: skip
    return replace(found, judged=[replace(c, late=when) for c, when in zip(found.judged, late, strict=True)])


def _single_runs(a: Analysis) -> list[SingleRuns]:
    base = a.frames.baseline
    return of_published(a.frames.published, a.frames.label(base) if base is not None else None)


def _importances(a: Analysis) -> dict[str, list[Importance]]:
    """Of every plan that searches; an arm counts with its mean."""
    rows, chosen, found = a.frames.study_arms, choices(a.frames), {}
    for plan in dict.fromkeys(rows.loc[rows["kind"].isin(SEARCHES), "plan"]):
        members = dict.fromkeys(rows.loc[(rows["plan"] == plan) & rows["kind"].isin(SEARCHES), "arm_id"])
        arms = [arm for arm in members if arm in a.by_id and a.by_id[arm].value is not None]
        values = [float(a.by_id[arm].value or 0.0) for arm in arms]
        if rated := importances([chosen[arm] for arm in arms], values, lower_is_better=a.lower_is_better):
            found[str(plan)] = rated
    return found


def _seeds(a: Analysis) -> power.SeedPlan | None:
    m = a.model
    if m is None or not m.sigma or not a.margin or m.independent < 2:
        return None
    spent = a.frames.trials["gpu_seconds"] if (a.frames.trials["gpu_seconds"] > 0).any() else None
    hours = float((a.frames.trials["cpu_seconds"] if spent is None else spent).mean()) / 3600
    pilot = (m.sigma, m.df)
    return power.seed_plan(
        a.margin, m.independent, pilot, blocked=m.blocked, alpha=a.alpha,
        hours_per_trial=hours if math.isfinite(hours) else None,
    )  # fmt: skip


def document(a: Analysis) -> dict[str, Any]:
    """The findings as plain mappings for ``report.json``."""
    f = a.findings
    return {
        "equivalence": [asdict(e) for e in f.equivalence],
        "plans": {name: _plan(plan) for name, plan in f.plans.items()},
        "noise": None if f.noise is None else asdict(f.noise),
        "luck": None if f.luck is None else {**asdict(f.luck), "sentence": f.luck.sentence(a.scale, a.lower_is_better)},
        "confirmed": None if f.confirmed is None else confirmation_document(f.confirmed),
        "rungs": [asdict(r) for r in f.rungs],
        "speeds": [asdict(s) for s in f.speeds],
        "samples": [asdict(s) for s in f.samples],
        "levels": [{**asdict(c), "fails_more_often": c.fails_more_often} for c in f.levels],
        "claims": {"comparisons": f.claims.comparisons, "judged": [claim_document(c) for c in f.claims.judged]},
        "single_runs": [{**asdict(s), "sentence": s.sentence()} for s in f.single_runs],
        "importances": {plan: [asdict(i) for i in some] for plan, some in f.importances.items()},
        "seeds": None if f.seeds is None else {**asdict(f.seeds), "sentence": f.seeds.sentence()},
    }


def _plan(plan: Plan) -> dict[str, Any]:
    aliases = plan.aliases
    found = [{"chain": str(c), "value": c.value, **(asdict(c.estimate) if c.estimate else {})} for c in plan.chains]
    return {
        **asdict(plan.factorial),
        "aliases": None if aliases is None else {
            "resolution": aliases.resolution, "runs": aliases.runs, "words": [str(w) for w in aliases.words],
            "effects": {" × ".join(e): [[" × ".join(o), c] for o, c in found] for e, found in aliases.aliases.items()},
        },
        "chains": found,
        "left_out": list(plan.left_out),
    }  # fmt: skip


def confirmation_document(found: Confirmed) -> dict[str, Any]:
    """A confirmation as plain values."""
    return {
        "stale": found.stale, "scale": found.scale,
        "arms": [
            {
                "arm_id": c.arm, "verdict": c.verdict, "explored": c.explored, "note": c.note,
                "contrast": None if c.contrast is None else asdict(c.contrast),
            }
            for c in found.found
        ],
    }  # fmt: skip


def claim_document(c: JudgedClaim) -> dict[str, Any]:
    """A judged claim as plain values."""
    return {
        "text": c.claim.text, "status": c.status, "reason": c.reason, "read": c.claim.read, "late": c.late,
        "pairs": [
            {
                "arm_id": p.arm, "reference": p.reference, "status": p.status, "note": p.note,
                "contrast": None if p.contrast is None else asdict(p.contrast),
            }
            for p in c.pairs
        ],
    }  # fmt: skip
