"""From a space to a plan: arms, trials and skips, each arm once however many plans it serves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ablate.errors import SpaceError
from ablate.space.assemble import assemble
from ablate.space.candidates import MAX_CELLS, Candidate, base_label, candidates, size
from ablate.space.draft import BASE, Draft
from ablate.space.expressions import Expression, ExpressionError
from ablate.space.keys import arm_id, essential, study_arm_id
from ablate.space.levels import Levels, axis_levels, axis_path
from ablate.space.plan import Membership, Plan, Skip
from ablate.space.problems import Problem, nearest, refuse
from ablate.space.resolve import SET, Resolved, Resolver
from ablate.space.schema import GridPlan, RandomPlan, Space
from ablate.space.source import Where
from ablate_core import legality
from ablate_core.config import EvalConfig, TrialConfig
from ablate_core.identity import canonical_json

FROM_BASE = ("ofat", "cumulative", "leave_one_out")
"""Kinds of plan whose cells change something: one that changes nothing is no cell of theirs."""


def expand(
    space: Space,
    *,
    fidelity: str | None = None,
    seeds: list[int] | None = None,
    plans: list[str] | None = None,
    only: list[str] | None = None,
) -> Plan:
    """Expand a space into its plan. No side effects; the same arguments always give the same plan.

    Args:
        space: what `load_space` read.
        fidelity: a level of ``fidelity.levels``; default: ``fidelity.run``.
        seeds: in place of ``seeds.list``; ``seeds.extra`` is then left out.
        plans: names of the plans to run; default: all.
        only: globs on arm labels, ``plan.label`` or ids. Only these get trials; every arm stays in `Plan.arms`.

    Raises:
        SpaceError: a config is invalid, a named arm is illegal or written twice, an arm differs from the baseline
            outside what is declared, or an argument names nothing.
    """
    walk = _Walk(space, _known("fidelity level", fidelity, space.fidelity.levels) or space.fidelity.run)
    chosen = space.plans_or_grid()
    wanted = [name for name in plans or chosen if _known("plan", name, chosen)]
    walk.start()
    for name in dict.fromkeys(wanted):
        walk.gather(name)
    refuse(walk.problems)
    complete = set(wanted) == set(chosen)
    return assemble(space, walk.resolver, walk.gathered, wanted=wanted, complete=complete, seeds=seeds, only=only)


@dataclass
class Gathered:
    """What the plans of a space resolved to: arms in the making, the base first, cells left out, and advice."""

    drafts: dict[str, Draft] = field(default_factory=dict)
    skips: list[Skip] = field(default_factory=list)
    warnings: dict[str, list[str]] = field(default_factory=dict)


class _Walk:
    """Resolves every cell of every plan once; mistakes of the file are gathered in `problems`."""

    def __init__(self, space: Space, fidelity: str | None) -> None:
        self.space = space
        self.levels = Levels(space)
        self.resolver = Resolver(space, self.levels, fidelity)
        self.forbidden = [Expression(c.forbid) for c in space.constraints]
        self.gathered = Gathered()
        self.problems: list[Problem] = []
        self.usual = EvalConfig()  # that of the base, once it is known

    def identity(self, config: TrialConfig) -> str:
        """What makes an arm: what is trained, and how it is measured where that is not as the base is."""
        return study_arm_id(config, self.usual)

    def at(self, where: Where, message: str, *, key: bool = True) -> None:
        self.problems.append(Problem(self.resolver.mark(where, key=key), message))

    # -- the base and the levels by themselves

    def start(self) -> None:
        resolved = self.resolver.resolve({})
        refuse(resolved.problems)
        base = resolved.valid
        measured, named = base.eval.metric, self.space.metric.name
        if named is not None and named != measured:
            self.at(("metric", "name"), f"metric: {named} is compared, but the base measures {measured}", key=False)
        if reasons := self.reasons(base):
            self.at(("base",), f"the base cannot run: {reasons[0]}")
        self.usual = base.eval
        self.gathered.drafts[self.identity(base)] = Draft(resolved, ("base",), [Membership(BASE, BASE, 0, BASE)])
        self.warn(base, BASE)
        self.check_last_words()
        refuse(self.problems)
        for name in self.space.axes:
            self.check_levels(name, base)
        refuse(self.problems)
        baseline = self.levels.baseline
        self.base.choice = {a: lv for a, lv in baseline.items() if lv is not None and a not in self.resolver.when}

    def check_last_words(self) -> None:
        """Fidelity and ``--set`` come last: over what an axis varies they would make its levels one."""
        fidelity = self.resolver.fidelity
        sized = self.resolver.sized
        for name in self.space.axes:
            for path in _varied_paths(name, self.space):
                for key, leaf in ((key, leaf) for key, leaf in _said(sized) if _encloses(leaf, path)):
                    why = f"{leaf} is what axis {name!r} varies; fidelity {fidelity!r} would make its levels one"
                    self.at(("fidelity", "levels", fidelity or "", key), why)
                for i, (key, _) in enumerate(self.resolver.settings):
                    if _encloses(key, path):
                        self.at((SET, i), f"axis {name!r} varies it and its levels would be one; choose arms instead")

    def check_levels(self, name: str, base: TrialConfig) -> None:
        """Every level makes a config by itself, no two the same; find the level that is the base."""
        axis, seen, alike = self.space.axes[name], dict[str, str](), dict[str, str]()
        conditional = axis.when is not None or bool(axis.needs)
        for level in (lv for lv in axis_levels(name, axis) if lv.name not in axis.not_yet):
            alone = self.resolver.resolve({name: level.name})
            if alone.config is None:
                self.problems += [] if conditional else alone.problems
            elif name in alone.choice:
                same = seen.setdefault(_settings(alone.config), level.name)
                alike.setdefault(self.identity(alone.config), level.name)
                if same != level.name and not conditional:
                    self.at(level.where, f"levels {same!r} and {level.name!r} of axis {name!r} are the same config")
        equal = seen.get(_settings(base)) or alike.get(self.identity(base))  # else: it is measured like the base
        if axis.baseline is None:
            self.levels.baseline[name] = equal or (next(iter(self.levels.of[name])) if conditional else None)
            if self.levels.baseline[name] is None and not self.problems:
                self.gathered.warnings[f"no level of axis {name!r} is what base says; base is an arm beside them"] = []
        elif axis.baseline != equal and axis.when is None:
            hint = f"; {equal!r} is" if equal else ""
            where: Where = ("axes", name, "baseline")
            self.at(where, f"level {axis.baseline!r} of axis {name!r} is not what base says{hint}", key=False)

    # -- the plans

    def gather(self, name: str) -> None:
        plan = self.space.plans_or_grid()[name]
        if isinstance(plan, RandomPlan):
            self.draw(name, plan)
            return
        if isinstance(plan, GridPlan) and (cells := size(plan, self.levels)) > MAX_CELLS:
            self.at(("plans", name), f"plan {name!r} has {cells:,} cells, more than {MAX_CELLS:,}; use kind: random")
            return
        if plan.kind in ("ofat", "cumulative"):
            self.base.memberships.append(Membership(name, plan.kind, 0, base_label(plan, self.levels) or BASE))
        seen: dict[str, Candidate] = {}
        instead: dict[str, str | None] = {}  # a skipped cell -> what cells compared with it are compared with
        for cell in candidates(name, plan, self.levels):
            while cell.from_label in instead:
                cell = replace(cell, from_label=instead[cell.from_label])
            found = self.resolve(cell)
            reason = found if isinstance(found, str) else self.place(cell, found, seen) if found else None
            if reason:
                instead[cell.label] = cell.from_label
                self.gathered.skips.append(Skip(cell.plan, cell.label, " ".join(reason.split())))

    @property
    def base(self) -> Draft:
        return next(iter(self.gathered.drafts.values()))

    def draw(self, name: str, plan: RandomPlan) -> None:
        taken: dict[str, Candidate] = {}
        refused = 0
        for tried, cell in enumerate(candidates(name, plan, self.levels)):
            if len(taken) == plan.n or tried > MAX_CELLS:
                break
            found = self.resolve(cell)
            if isinstance(found, str):
                refused += 1
            elif found is not None:
                self.place(replace(cell, position=len(taken)), found, taken)
        warnings = self.gathered.warnings
        if refused:
            warnings[f"plan {name!r}: {refused} drawn combinations cannot run; others were drawn in their place"] = []
        if len(taken) < plan.n:
            warnings[f"plan {name!r} asks for {plan.n} arms; only {len(taken)} distinct ones can run"] = []

    def resolve(self, cell: Candidate) -> Resolved | str | None:
        """What a cell resolves to, or the reason it cannot run, or None where it is a mistake in the file."""
        if cell.refused:
            return cell.refused
        resolved = self.resolver.resolve(cell.choice, cell.own, cell.where)
        if resolved.config is None:
            if self.only_together(cell):
                return f"refused: {resolved.problems[0].message}"
            self.problems += [replace(p, message=f"arm {cell.label!r}: {p.message}") for p in resolved.problems]
            return None
        if resolved.clash and cell.kind == "list":
            self.at(cell.where, f"arm {cell.label!r}: {resolved.clash}; leave one of them out")
            return None
        if resolved.clash:
            return f"refused: {resolved.clash}, to different values"
        reasons = self.reasons(resolved.config)
        if cell.kind == "list" and (illegal := _illegal(resolved.config)):
            self.at(cell.where, f"arm {cell.label!r} cannot run: {illegal[0]}")
            return None
        return reasons[0] if reasons else resolved

    def only_together(self, cell: Candidate) -> bool:
        """True where every level of a crossing makes a config by itself, so only the combination is at fault."""
        if cell.kind == "list" or len(cell.choice) < 2:
            return False
        return all(self.resolver.resolve({axis: level}).config for axis, level in cell.choice.items())

    def place(self, cell: Candidate, resolved: Resolved, seen: dict[str, Candidate]) -> str | None:
        """Give a resolved cell its arm, new or known. The reason where it is no arm of its own."""
        identity = self.identity(resolved.valid)
        draft = self.gathered.drafts.get(identity)
        if cell.kind == "list" and identity in seen:
            self.at(cell.where, f"arm {cell.label!r} is the same as arm {seen[identity].label!r}; remove one of them")
            return None
        if cell.kind in FROM_BASE and draft is not None and self.is_compared_with(cell, draft):
            return f"the same as {cell.from_label or BASE}: {self.why_same(resolved)}"
        place = replace(_membership(cell), choice=dict(resolved.choice))
        if identity in seen:  # the same cell by another name: a conditional axis collapsed, or it is measured alike
            if (
                draft is not None
                and cell.kind == "grid"
                and resolved.choice not in [m.choice for m in draft.memberships]
            ):
                draft.memberships.append(place)
            return None
        seen[identity] = cell
        if draft is None:
            draft = self.gathered.drafts[identity] = Draft(resolved, cell.where)
            self.warn(resolved.valid, cell.label)
        draft.join(resolved, place)
        return None

    def is_compared_with(self, cell: Candidate, draft: Draft) -> bool:
        if cell.from_label is None:
            return draft is self.base
        return any(m.plan == cell.plan and m.label == cell.from_label for m in draft.memberships)

    def why_same(self, resolved: Resolved) -> str:
        if not resolved.inactive:
            return "it changes nothing"
        axis = resolved.inactive[0]
        return f"axis {axis!r} is inactive there (when: {self.space.axes[axis].when})"

    # -- what cannot run

    def reasons(self, config: TrialConfig) -> list[str]:
        """Why a valid config is not run: the space's own constraints first, then what the methods forbid."""
        resolved, found = config.resolved(), list[str]()
        for i, expression in enumerate(self.forbidden):
            try:
                if expression(resolved):
                    found.append(self.space.constraints[i].because)
            except ExpressionError as error:
                refuse([Problem(self.space.source.mark(("constraints", i, "forbid")), str(error))])
        return found + _illegal(config)

    def warn(self, config: TrialConfig, label: str) -> None:
        for problem in legality.check(config):
            if problem.level == "warning":
                self.gathered.warnings.setdefault(str(problem), []).append(label)


def _membership(cell: Candidate) -> Membership:
    from_label = cell.from_label or (BASE if cell.kind in ("ofat", "cumulative") else None)
    return Membership(cell.plan, cell.kind, cell.position, cell.label, cell.axis, cell.level, from_label)


def _settings(config: TrialConfig) -> str:
    """Everything that is set for an arm, as written; two levels with equal settings are one."""
    return arm_id(config) + canonical_json(essential(config.eval))


def _illegal(config: TrialConfig) -> list[str]:
    return [str(problem) for problem in legality.check(config) if problem.level == "error"]


def _varied_paths(name: str, space: Space) -> list[str]:
    if path := axis_path(name, space.axes[name]):
        return [path]
    levels = axis_levels(name, space.axes[name])
    return list(dict.fromkeys(key for level in levels for key in level.overrides if key != "preset"))


def _said(overrides: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key as written, path it sets): a mapping under ``train`` or ``eval`` sets its own fields only."""
    for key, value in overrides.items():
        if key in ("train", "eval") and isinstance(value, dict):
            yield from ((key, f"{key}.{name}") for name in value)
        else:
            yield key, key


def _encloses(outer: str, inner: str) -> bool:
    return inner == outer or inner.startswith(outer + ".")


def _known(what: str, name: str | None, known: Iterable[str]) -> str | None:
    names = list(known)
    if name is not None and name not in names:
        raise SpaceError(nearest(what, name, names))
    return name
