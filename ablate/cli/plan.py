"""``ablate plan``: what a run would do, before it does it. No side effects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ablate.cli.options import (
    FidelityOption,
    JsonOption,
    OnlyOption,
    PlanOption,
    SeedsOption,
    SetOption,
    SpaceArgument,
    StoreOption,
    seed_list,
    store_root,
)

if TYPE_CHECKING:
    from ablate.space import Equivalent, Plan
    from ablate.store import StorePaths


def plan(
    space: SpaceArgument,
    store: StoreOption = None,
    fidelity: FidelityOption = None,
    seeds: SeedsOption = None,
    plan: PlanOption = None,
    only: OnlyOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Show the arms, trials, skips with reasons, what the store already has, and what the rest would cost."""
    from ablate.store import StorePaths

    show(expanded(space, fidelity, seed_list(seeds), plan, only, set_), StorePaths(store_root(store)), json)


def expanded(
    space: str,
    fidelity: str | None,
    seeds: list[int] | None,
    plans: list[str] | None,
    only: list[str] | None,
    overrides: list[str] | None,
) -> Plan:
    """The plan of a space under the command line's choices. Raises SpaceError."""
    from ablate.space import expand, load_space

    return expand(load_space(space, overrides=overrides or []), fidelity=fidelity, seeds=seeds, plans=plans, only=only)


def show(plan: Plan, paths: StorePaths, json: bool) -> None:
    """Print the whole plan; with `json`, as one object."""
    from ablate.cli import present

    status, cost = _state(plan, paths)
    if json:
        return present.as_json({**plan.to_dict(), "store": status, "cost": cost})
    if plan.question:
        present.line(plan.question, style="bold")
    rows = [
        [
            arm.label,
            "baseline" if arm.id == plan.baseline.id else "",
            ", ".join(sorted({m.plan for m in arm.memberships})),
            ", ".join(f"{axis}={level}" for axis, level in arm.choice.items()) or "as base",
            sum(trial.arm_id == arm.id for trial in plan.trials),
            sum(trial.arm_id == arm.id and status[trial.key] in ("done", "diverged") for trial in plan.trials),
            arm.id,
        ]
        for arm in plan.arms
    ]
    present.table("arms", ["arm", "", "plans", "choices", "trials", "finished", "id"], rows, right=(4, 5))
    if plan.skips:
        present.table("skipped", ["plan", "cell", "because"], [[s.plan, s.label, s.reason] for s in plan.skips])
    if plan.equivalences:
        rows = [[(" = " if e.trained_once else " ~ ").join(e.arms), e.because, _trained(e)] for e in plan.equivalences]
        present.table("the same", ["arms", "because", ""], rows)
    for warning in plan.warnings:
        present.line(f"warning: {warning}", style="yellow")
    _print_totals(plan, status, cost)
    return None


def summary(plan: Plan, paths: StorePaths) -> None:
    """The three lines that `ablate run` prints before it asks."""
    from ablate.cli import present

    if plan.question:
        present.line(plan.question, style="bold")
    for e in plan.equivalences:
        if e.trained_once:
            names = " and ".join(e.arms[1:])
            present.line(f"arm {names} computes the same as arm {e.arms[0]} ({e.because}): {_trained(e)}")
        else:
            present.line(f"expected equal, {_trained(e)}: {', '.join(e.arms)} ({e.because})")
    _print_totals(plan, *_state(plan, paths))


def _trained(e: Equivalent) -> str:
    """How equal arms are trained, in a few words."""
    if e.trained_once:
        return f"trained once, saves {e.saves} training{'' if e.saves == 1 else 's'}"
    only = {"exact arithmetic": "up to rounding", "fixed point": "at the fixed point only", "in effect": "in effect"}
    return f"{only[e.exactness]}; {'both' if len(e.arms) == 2 else 'all'} trained"


def _print_totals(plan: Plan, status: dict[str, str], cost: dict[str, Any]) -> None:
    from ablate.cli import present

    finished = sum(s in ("done", "diverged") for s in status.values())
    seeds = sorted({trial.seed for trial in plan.trials})
    level = f" at fidelity {plan.fidelity}" if plan.fidelity else ""
    present.line(
        f"{plan.name}{level}: {len(plan.arms)} arms x seeds {', '.join(map(str, seeds))} = {len(plan.trials)} trials, "
        f"{finished} finished in the store, {len(plan.trials) - finished} to run; {len(plan.skips)} cells skipped"
    )
    present.line(f"cost of the rest: {cost['text']}")


def _state(plan: Plan, paths: StorePaths) -> tuple[dict[str, str], dict[str, Any]]:
    """What the store knows of the plan: trial key -> status, and the cost of the rest."""
    from ablate.space import estimate
    from ablate.store import finished, throughput

    known = finished(paths)
    return {trial.key: known.get(trial.key, "planned") for trial in plan.trials}, estimate(
        plan, known, throughput(paths)
    )
