"""``ablate plan``: what a run would do, before it does it. No side effects."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ablate.cli.options import (
    FidelityOption,
    JsonOption,
    OnlyOption,
    PlanOption,
    PluginOption,
    SeedsOption,
    SetOption,
    SpaceArgument,
    StoreOption,
    plugin_names,
    seed_list,
    store_root,
)

if TYPE_CHECKING:
    from ablate.cli.packs import Packs
    from ablate.launch.options import RunOptions
    from ablate.space import Arm, Equivalent, Evaluation, Plan
    from ablate.store import StorePaths


def plan(
    space: SpaceArgument,
    store: StoreOption = None,
    fidelity: FidelityOption = None,
    seeds: SeedsOption = None,
    plan: PlanOption = None,
    only: OnlyOption = None,
    set_: SetOption = None,
    plugin: PluginOption = None,
    json: JsonOption = False,
) -> None:
    """Show the arms, trials, skips with reasons, what the store already has, and what the rest would cost."""
    from ablate.store import StorePaths

    paths = StorePaths(store_root(store))
    show(expanded(space, fidelity, seed_list(seeds), plan, only, set_, plugin), paths, json)


def expanded(
    space: str,
    fidelity: str | None,
    seeds: list[int] | None,
    plans: list[str] | None,
    only: list[str] | None,
    overrides: list[str] | None,
    plugins: list[str] | None = None,
) -> Plan:
    """The plan of a space under the command line's choices. Raises SpaceError, and AblateError for a plug-in."""
    from ablate.cli import present
    from ablate.space import expand, load_space

    loaded = load_space(space, overrides=overrides or [], plugins=plugin_names(plugins))
    with present.slow("making the plan"):
        return expand(loaded, fidelity=fidelity, seeds=seeds, plans=plans, only=only)


def show(plan: Plan, paths: StorePaths, json: bool) -> None:
    """Print the whole plan; with `json`, as one object."""
    from ablate.cli import present

    known = _state(plan, paths)
    if json:
        told = {"store": known.status, "cost": known.cost, "packs": known.packs.keys()}
        return present.as_json({**plan.to_dict(), **told})
    if plan.question:
        present.line(plan.question, style="bold")
    asked = Counter(e.arm_id for e in plan.evaluations)
    finished = Counter(e.arm_id for e in plan.evaluations if _is_finished(e, known))
    rows = [
        [
            arm.label,
            "baseline" if arm.id == plan.baseline.id else "",
            ", ".join(sorted({m.plan for m in arm.memberships})),
            _chosen(arm, plan),
            asked[arm.id],
            finished[arm.id],
            arm.id,
        ]
        for arm in plan.arms
    ]
    present.table("arms", ["arm", "", "plans", "choices", "trials", "finished", "id"], rows, right=(4, 5), whole=(0, 6))
    if plan.skips:
        present.table("skipped", ["plan", "cell", "because"], [[s.plan, s.label, s.reason] for s in plan.skips])
    if plan.equivalences:
        rows = [[(" = " if e.trained_once else " ~ ").join(e.arms), e.because, _trained(e)] for e in plan.equivalences]
        present.table("the same", ["arms", "because", ""], rows)
    if known.packs.groups:
        present.table("packs", ["packs", "of", "trainings"], known.packs.rows(), right=(0, 1))
    _print_warnings(plan)
    _print_totals(plan, known)
    return None


def _chosen(arm: Arm, plan: Plan) -> str:
    """The levels that make an arm; where none do, what it changes in the base, or in the baseline without one."""
    from ablate.space import arm_diff

    if arm.choice:
        return ", ".join(f"{axis}={level}" for axis, level in arm.choice.items())
    base = next((a for a in plan.arms if any(m.kind == "base" for m in a.memberships)), None)
    if arm is base:
        return "as base"
    base = base or plan.baseline
    changed = [f"{path}={value}" for path, value, _ in arm_diff(arm.config, base.config)]
    return ", ".join(changed[:4]) + (f" and {len(changed) - 4} more" if len(changed) > 4 else "")


def summary(plan: Plan, paths: StorePaths, options: RunOptions | None = None) -> None:
    """What `ablate run` with these options prints before it asks: what is the same, warnings, what runs, its cost."""
    from ablate.cli import present

    if plan.question:
        present.line(plan.question, style="bold")
    for e in plan.equivalences:
        if e.trained_once:
            names = " and ".join(e.arms[1:])
            present.line(f"arm {names} computes the same as arm {e.arms[0]} ({e.because}): {_trained(e)}")
        else:
            present.line(f"expected equal, {_trained(e)}: {', '.join(e.arms)} ({e.because})")
    _print_warnings(plan)
    _print_totals(plan, _state(plan, paths, options))


def _print_warnings(plan: Plan) -> None:
    from ablate.cli import present

    for warning in plan.warnings:
        present.line(f"warning: {warning}", style="yellow")


def _trained(e: Equivalent) -> str:
    """How equal arms are trained, in a few words."""
    if e.trained_once:
        return f"trained once, saves {e.saves} training{'' if e.saves == 1 else 's'}"
    only = {"exact arithmetic": "up to rounding", "fixed point": "at the fixed point only", "in effect": "in effect"}
    return f"{only[e.exactness]}; {'both' if len(e.arms) == 2 else 'all'} trained"


def _listed(seeds: list[int]) -> str:
    """``seed 0``, ``seeds 0, 1, 2``, ``100 seeds 0 to 99``, ``12 seeds``."""
    if len(seeds) <= 10:
        return f"seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}"
    row = seeds[-1] - seeds[0] == len(seeds) - 1
    return f"{len(seeds)} seeds" + (f" {seeds[0]} to {seeds[-1]}" if row else "")


def _print_totals(plan: Plan, known: _Known) -> None:
    from ablate.cli import present
    from ablate.cli.present import count

    finished = sum(s in ("done", "diverged") for s in known.status.values())
    level = f" at fidelity {plan.fidelity}" if plan.fidelity else ""
    asked = {e.arm_id for e in plan.evaluations}  # --only picks some
    trainings = len({arm.trained for arm in plan.arms if arm.id in asked})
    of = f"{len(asked)} of " if len(asked) < len(plan.arms) else ""
    shared = f" from {count(trainings, 'training')}" if trainings < len(asked) else ""
    measured = f" and {count(len(plan.evaluations), 'evaluation')}" if shared else ""
    seeds = sorted({trial.seed for trial in plan.trials})
    product = trainings * len(seeds) == len(plan.trials)  # but where arms have seeds of their own
    present.line(
        f"{plan.name}{level}: {of}{count(len(plan.arms), 'arm')}{shared}{' x' if product else ','} {_listed(seeds)}"
        f"{' =' if product else ':'} {count(len(plan.trials), 'trial')}{measured}, "
        f"{finished} finished in the store, {len(plan.trials) - finished} to run; "
        f"{count(len(plan.skips), 'cell')} skipped"
    )
    present.line(f"cost of the rest: {known.cost['text']}")
    if packs := known.packs.text():
        present.line(packs)


@dataclass(frozen=True)
class _Known:
    """What the store knows of a plan: trial key -> status, what is measured; the cost and the packs of the rest."""

    status: dict[str, str]
    measured: set[tuple[str, str]]
    cost: dict[str, Any]
    packs: Packs


def _is_finished(evaluation: Evaluation, known: _Known) -> bool:
    done = known.status[evaluation.trial]
    return done == "diverged" or (done == "done" and (evaluation.trial, evaluation.eval_key) in known.measured)


def _state(plan: Plan, paths: StorePaths, options: RunOptions | None = None) -> _Known:
    from ablate.cli.packs import Packs, slots_here
    from ablate.space import estimate
    from ablate.store import finished, measured, throughput

    status, numbers, slots = finished(paths), measured(paths), slots_here(plan.resources, options)
    cost = estimate(plan, status, throughput(paths), slots=slots, measured=numbers)
    here = {trial.key: status.get(trial.key, "planned") for trial in plan.trials}
    return _Known(here, numbers, cost, Packs(plan, paths, numbers, slots))
