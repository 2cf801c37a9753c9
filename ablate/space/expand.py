"""From a space to a plan: arms, trials and skips, each arm once however many plans it serves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from ablate.errors import SpaceError
from ablate.space import fair
from ablate.space.candidates import MAX_CELLS, Candidate, candidates, size
from ablate.space.expressions import Expression, ExpressionError
from ablate.space.keys import arm_id, essential, eval_key, train_key
from ablate.space.levels import Levels, axis_levels, axis_path
from ablate.space.plan import Arm, Membership, Metric, Plan, Skip, Trial
from ablate.space.problems import Problem, nearest, refuse
from ablate.space.resolve import SET, Resolved, Resolver
from ablate.space.schema import AtStep, GridPlan, RandomPlan, Space
from ablate.space.written import Path
from ablate_core import legality
from ablate_core.config import TrialConfig

BASE = "base"
AROUND_BASE = ("ofat", "cumulative", "leave_one_out", "random")
"""Kinds of plan that start from the base, which is then an arm of theirs."""


@dataclass
class _Draft:
    """An arm being gathered: the first cell that resolved to it, and every place it has."""

    resolved: Resolved
    first: Candidate
    memberships: list[Membership] = field(default_factory=list)

    @property
    def config(self) -> TrialConfig:
        assert self.resolved.config is not None
        return self.resolved.config


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
        fidelity: a level of ``fidelity.levels``; default: ``fidelity.run``.
        seeds: in place of ``seeds.list`` (``seeds.extra`` is then left out).
        plans: names of the plans to run; default: all.
        only: globs on arm labels, ``plan.label`` or ids. Only these get trials; the baseline stays in `arms`.

    Raises:
        SpaceError: a config is invalid, a named arm is illegal or written twice, an arm differs from the baseline
            outside what is declared, or an argument names nothing.
    """
    return _Expansion(space, fidelity, seeds, plans).plan(only)


class _Expansion:
    def __init__(
        self, space: Space, fidelity: str | None, seeds: list[int] | None, plans: list[str] | None
    ) -> None:
        self.space, self.seeds = space, seeds
        self.fidelity = _known("fidelity level", fidelity, space.fidelity.levels) or space.fidelity.run
        self.named_plans = space.plans_or_grid()
        self.wanted = [_known("plan", name, self.named_plans) for name in plans] if plans else list(self.named_plans)
        self.levels = Levels(space)
        self.resolver = Resolver(space, self.levels, self.fidelity)
        self.forbidden = [Expression(c.forbid) for c in space.constraints]
        self.drafts: dict[str, _Draft] = {}
        self.skips: list[Skip] = []
        self.problems: list[Problem] = []
        self.warnings: dict[str, list[str]] = {}
        self.labels: dict[str, str] = {}

    # -- the walk

    def plan(self, only: list[str] | None) -> Plan:
        base = self._base()
        self._check_settings()
        self._check_levels(base)
        refuse(self.problems)
        for name in self.wanted:
            assert name is not None
            self._gather(name)
        refuse(self.problems)
        arms = self._arms()
        baseline = self._baseline(arms)
        self._check_fair(baseline)
        refuse(self.problems)
        if baseline.id != arm_id(base) and not self._needs_base():
            arms = [arm for arm in arms if arm.id != arm_id(base) or len(arm.memberships) > 1]
        self._check_mentioned(arms)
        trials = self._trials(arms, only)
        return self._made(arms, baseline, trials)

    def _base(self) -> TrialConfig:
        resolved = self.resolver.resolve({})
        refuse(resolved.problems)
        config = resolved.config
        assert config is not None
        reasons = self._reasons(config)
        if reasons:
            refuse([Problem(self.space.source.mark(("base",), key=True), f"the base cannot run: {reasons[0]}")])
        self._warn(config, BASE)
        here = Candidate(BASE, BASE, 0, BASE, {}, ("base",))
        self.drafts[arm_id(config)] = _Draft(resolved, here, [Membership(BASE, BASE, 0, BASE)])
        return config

    def _check_settings(self) -> None:
        """Fidelity and ``--set`` come last: over what an axis varies they would make its levels one."""
        for axis_name, axis in self.space.axes.items():
            for path in _axis_paths(axis_name, self.space):
                level = self.space.fidelity.levels.get(self.fidelity or "") or {}
                for key in (k for k in level if _encloses(k, path)):
                    mark = self.space.source.mark(("fidelity", "levels", self.fidelity or "", key), key=True)
                    message = f"fidelity {self.fidelity!r} sets {key}, which axis {axis_name!r} varies; its levels would be one"
                    self.problems.append(Problem(mark, message))
                for i, (key, _) in enumerate(self.resolver.settings):
                    if _encloses(key, path):
                        message = f"axis {axis_name!r} varies it, so its levels would be one; use the only option"
                        self.problems.append(Problem(self.resolver.mark((SET, i)), message))
            del axis

    def _check_levels(self, base: TrialConfig) -> None:
        """Every level must make a config by itself; find the one of each axis that is the base."""
        for name, axis in self.space.axes.items():
            equal: str | None = None
            for level in (lv for lv in axis_levels(name, axis) if lv.name not in axis.not_yet):
                resolved = self._alone(name, level.name)
                if resolved.config is None:
                    if axis.when is None and not axis.needs:
                        self.problems += resolved.problems
                elif name in resolved.choice and arm_id(resolved.config) == arm_id(base):
                    equal = equal or level.name
            if axis.baseline is None:
                conditional = axis.when is not None or bool(axis.needs)
                self.levels.baseline[name] = equal or (next(iter(self.levels.of[name])) if conditional else None)
            elif equal is None and axis.when is None and not self.problems:
                mark = self.space.source.mark(("axes", name, "baseline"))
                self.problems.append(Problem(mark, f"level {axis.baseline!r} of axis {name!r} is not what base says"))
            elif axis.when is None and axis.baseline != equal and not self.problems:
                resolved = self._alone(name, axis.baseline)
                if resolved.config is None or arm_id(resolved.config) != arm_id(base):
                    mark = self.space.source.mark(("axes", name, "baseline"))
                    message = f"level {axis.baseline!r} of axis {name!r} is not what base says; {equal!r} is"
                    self.problems.append(Problem(mark, message))

    def _alone(self, axis: str, level: str) -> Resolved:
        return self.resolver.resolve({axis: level})

    def _gather(self, name: str) -> None:
        plan = self.named_plans[name]
        if isinstance(plan, GridPlan) and size(plan, self.levels) > MAX_CELLS:
            cells = size(plan, self.levels)
            message = f"plan {name!r} has {cells:,} cells, more than {MAX_CELLS:,}; name fewer axes or use kind random"
            self.problems.append(Problem(self.space.source.mark(("plans", name), key=True), message))
            return
        if plan.kind in AROUND_BASE[:3]:
            self._join_base(name, plan.kind)
        if isinstance(plan, RandomPlan):
            self._draw(name, plan)
            return
        seen: dict[str, Candidate] = {}
        for candidate in candidates(name, plan, self.levels):
            found = self._cell(candidate)
            if isinstance(found, str):
                self._skip(candidate, found)
            elif found is not None:
                self._place(candidate, found, seen)

    def _draw(self, name: str, plan: RandomPlan) -> None:
        taken: dict[str, Candidate] = {}
        refused = 0
        for tried, candidate in enumerate(candidates(name, plan, self.levels)):
            if len(taken) == plan.n or tried > MAX_CELLS:
                break
            found = self._cell(candidate)
            if isinstance(found, str):
                refused += 1
            elif found is not None and arm_id(_config(found)) not in taken:
                self._place(replace(candidate, position=len(taken)), found, taken)
        if refused:
            self.warnings[f"plan {name!r}: {refused} drawn combinations cannot run and were drawn again"] = []
        if len(taken) < plan.n:
            self.warnings[f"plan {name!r} asks for {plan.n} arms; only {len(taken)} distinct ones can run"] = []

    def _cell(self, candidate: Candidate) -> Resolved | str | None:
        """What a cell resolves to, or the reason it cannot run, or None where it is a mistake in the file."""
        if candidate.refused:
            return candidate.refused
        resolved = self.resolver.resolve(candidate.choice, candidate.own, candidate.where)
        if resolved.config is None:
            if self._only_together(candidate):
                return f"refused: {resolved.problems[0].message}"
            self.problems += [replace(p, message=f"arm {candidate.label!r}: {p.message}") for p in resolved.problems]
            return None
        reasons = self._reasons(resolved.config)
        if not reasons:
            return resolved
        illegal = next((p for p in self._illegal(resolved.config)), None)
        if candidate.kind == "list" and illegal is not None:
            mark = self.space.source.mark(candidate.where, key=True)
            self.problems.append(Problem(mark, f"arm {candidate.label!r} cannot run: {illegal}"))
            return None
        return reasons[0]

    def _only_together(self, candidate: Candidate) -> bool:
        """True where every level of a crossing makes a config by itself, so only the combination is at fault."""
        if candidate.kind == "list" or len(candidate.choice) < 2:
            return False
        return all(self._alone(axis, level).config is not None for axis, level in candidate.choice.items())

    def _place(self, candidate: Candidate, resolved: Resolved, seen: dict[str, Candidate]) -> None:
        identity = arm_id(_config(resolved))
        draft = self.drafts.get(identity)
        if candidate.kind == "list" and identity in seen:
            mark = self.space.source.mark(candidate.where, key=True)
            message = f"arm {candidate.label!r} is the same as arm {seen[identity].label!r}; remove one of them"
            self.problems.append(Problem(mark, message))
            return
        if draft is not None and _measured_otherwise(draft.config, _config(resolved)):
            mark = self.space.source.mark(candidate.where, key=True)
            other = draft.memberships[-1].label
            message = f"arm {candidate.label!r} differs from arm {other!r} only in eval; axes under eval do not exist yet"
            self.problems.append(Problem(mark, message))
            return
        if candidate.kind in AROUND_BASE[:3] and identity in self._same_as(candidate):
            axes = [a for a in resolved.inactive]
            why = f"axis {axes[0]!r} is inactive there (when: {self.space.axes[axes[0]].when})" if axes else "changes nothing"
            self._skip(candidate, f"the same as {candidate.from_label or BASE!r}: {why}")
            return
        if identity in seen:
            return  # a conditional axis collapsed: the same cell by another name
        seen[identity] = candidate
        if draft is None:
            draft = self.drafts[identity] = _Draft(resolved, candidate)
            self._warn(_config(resolved), candidate.label)
        draft.memberships.append(_membership(candidate))

    def _same_as(self, candidate: Candidate) -> set[str]:
        """The arm a varied cell must differ from: the cell it is compared with inside its plan."""
        wanted = candidate.from_label or BASE
        return {
            identity
            for identity, draft in self.drafts.items()
            for m in draft.memberships
            if (m.plan == candidate.plan and m.label == wanted) or (wanted == BASE and m.kind == BASE)
        }

    def _join_base(self, plan: str, kind: str) -> None:
        next(iter(self.drafts.values())).memberships.append(Membership(plan, kind, 0 if kind != "leave_one_out" else -1, BASE))

    # -- what cannot run

    def _illegal(self, config: TrialConfig) -> list[str]:
        return [_legality_text(p) for p in legality.check(config) if p.level == "error"]

    def _reasons(self, config: TrialConfig) -> list[str]:
        """Why a valid config is not run: the space's own constraints first, then what the method forbids."""
        resolved = config.resolved()
        found: list[str] = []
        for i, expression in enumerate(self.forbidden):
            try:
                if expression(resolved):
                    found.append(self.space.constraints[i].because)
            except ExpressionError as error:
                refuse([Problem(self.space.source.mark(("constraints", i, "forbid")), str(error))])
        return found + self._illegal(config)

    def _warn(self, config: TrialConfig, label: str) -> None:
        for problem in legality.check(config):
            if problem.level == "warning":
                self.warnings.setdefault(_legality_text(problem), []).append(label)

    def _skip(self, candidate: Candidate, reason: str) -> None:
        self.skips.append(Skip(candidate.plan, candidate.label, " ".join(reason.split())))
        self.labels.setdefault(candidate.label, "")

    # -- arms, baseline, trials

    def _arms(self) -> list[Arm]:
        chosen: dict[str, str] = {}
        taken: set[str] = set()
        for identity, draft in self.drafts.items():
            named = next((m for m in draft.memberships if m.kind == "list"), None)
            first = named or draft.memberships[0]
            label = first.label if first.label not in taken else f"{first.plan}.{first.label}"
            taken.add(label)
            chosen[identity] = label
        return [
            Arm(identity, chosen[identity], draft.config, draft.resolved.choice, tuple(draft.memberships))
            for identity, draft in self.drafts.items()
        ]

    def _find(self, arms: Iterable[Arm], name: str) -> Arm | None:
        named = list(arms)
        by_label = next((a for a in named if name in (a.label, a.id)), None)
        return by_label or next(
            (a for a in named for m in a.memberships if name in (m.label, f"{m.plan}.{m.label}")), None
        )

    def _baseline(self, arms: Sequence[Arm]) -> Arm:
        name = self.space.compare.baseline
        found = next(iter(arms)) if name == BASE else self._find(arms, name)
        if found is None:
            mark = self.space.source.mark(("compare", "baseline"))
            skipped = next((s for s in self.skips if name in (s.label, f"{s.plan}.{s.label}")), None)
            message = f"arm {name!r} is skipped: {skipped.reason}" if skipped else nearest("arm", name, _names(arms))
            refuse([Problem(mark, message)])
            raise AssertionError
        return found

    def _needs_base(self) -> bool:
        return any(self.named_plans[str(name)].kind in AROUND_BASE for name in self.wanted)

    def _check_fair(self, baseline: Arm) -> None:
        varied = {path for name, axis in self.space.axes.items() if (path := axis_path(name, axis))}
        base_touched = self.drafts[baseline.id].resolved.touched
        for draft in self.drafts.values():
            label, where = draft.first.label, draft.first.where
            touched: set[Path] = draft.resolved.touched | base_touched
            found = [
                (path, f"arm {label!r} differs from the baseline in {path} ({a!r} against {b!r}), which nothing declares")
                for path, a, b in fair.undeclared(draft.config, baseline.config, touched)
            ]
            found += [
                (path, f"arm {label!r} has {path} {a!r}, the baseline {b!r}; if that is meant, list it in fair.except")
                for path, a, b in fair.unmatched(draft.config, baseline.config, self.space.fair, varied)
            ]
            for path, message in found:
                if self.space.fair.on_mismatch == "warn":
                    self.warnings.setdefault(message, [])
                    continue
                origin = draft.resolved.written.origin(tuple(path.split(".")))
                mark = self.resolver.mark(origin if origin[0] != "base" else where)
                self.problems.append(Problem(mark, message))

    def _check_mentioned(self, arms: Sequence[Arm]) -> None:
        """Arms that `seeds.extra` and `published` name must exist, if only as skipped ones."""
        everything = set(self.wanted) == set(self.named_plans)
        known = {BASE, *_names(arms), *(s.label for s in self.skips)}
        mentions: list[tuple[tuple[str | int, ...], str]] = [(("seeds", "extra", a), a) for a in self.space.seeds.extra]
        mentions += [(("published", i, "arm"), p.arm) for i, p in enumerate(self.space.published)]
        if everything:
            marks = self.space.source
            refuse(
                Problem(marks.mark(where, key=where[0] == "seeds"), nearest("arm", name, sorted(known)))
                for where, name in mentions
                if name not in known
            )

    def _trials(self, arms: Sequence[Arm], only: list[str] | None) -> list[Trial]:
        chosen = list(arms)
        for pattern in only or []:
            if not any(_matches(arm, pattern) for arm in arms):
                raise SpaceError(f"only {pattern!r}: {nearest('arm', pattern, _names(arms))}")
        if only:
            chosen = [arm for arm in arms if any(_matches(arm, pattern) for pattern in only)]
        return [self._trial(arm, seed) for arm in chosen for seed in self._seeds(arm)]

    def _seeds(self, arm: Arm) -> list[int]:
        if self.seeds is not None:
            if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
                raise SpaceError(f"seeds are distinct numbers from 0, at least one, got {self.seeds}")
            found = list(self.seeds)
        else:
            is_base = any(m.kind == BASE for m in arm.memberships)
            names = {arm.label, *(m.label for m in arm.memberships)} | ({BASE} if is_base else set())
            extra = [s for name, more in self.space.seeds.extra.items() if name in names for s in more]
            found = list(dict.fromkeys([*self.space.seeds.list_, *extra]))
        if self.space.seeds.paired:
            return found
        return [int(arm.id[:7], 16) * 1000 + seed for seed in found]  # unpaired: no two arms share a seed

    def _trial(self, arm: Arm, seed: int) -> Trial:
        config = arm.config.model_copy(update={"seed": seed})
        return Trial(train_key(config), eval_key(config), arm.id, seed, config)

    def _made(self, arms: Sequence[Arm], baseline: Arm, trials: Sequence[Trial]) -> Plan:
        space = self.space
        at = space.metric.at.step if isinstance(space.metric.at, AtStep) else space.metric.at
        warnings = [f"{text} ({', '.join(labels)})" if labels else text for text, labels in self.warnings.items()]
        if space.budget.trials is not None and len(trials) > space.budget.trials:
            warnings.append(f"{len(trials)} trials are more than the budget of {space.budget.trials}")
        dump: dict[str, Any] = space.model_dump(mode="json", by_alias=True)
        return Plan(
            name=space.name,
            question=space.question,
            space_yaml=space.source.text,
            space_sha256=hashlib.sha256(space.source.text.encode()).hexdigest(),
            baseline=baseline,
            arms=tuple(arms),
            trials=tuple(trials),
            skips=tuple(self.skips),
            metric=Metric(baseline.config.eval.metric, space.metric.mode, at),
            fidelity=self.fidelity,
            warnings=tuple(warnings),
            overrides=space.overrides,
            compare=dump["compare"],
            resources=dump["resources"],
            budget=dump["budget"],
            stop=dump["stop"],
            claims=tuple(dump["claims"]),
            published=tuple(dump["published"]),
        )


def _config(resolved: Resolved) -> TrialConfig:
    assert resolved.config is not None
    return resolved.config


def _membership(c: Candidate) -> Membership:
    from_label = c.from_label or (BASE if c.kind in ("ofat", "cumulative") else None)
    return Membership(c.plan, c.kind, c.position, c.label, c.axis, c.level, from_label)


def _measured_otherwise(a: TrialConfig, b: TrialConfig) -> bool:
    return bool(essential(a.eval) != essential(b.eval))


def _legality_text(problem: legality.Problem) -> str:
    hint = f" (nearest: {problem.nearest})" if problem.nearest else ""
    return f"{problem.code} {problem.where}: {problem.message}{hint}"


def _axis_paths(name: str, space: Space) -> list[str]:
    if path := axis_path(name, space.axes[name]):
        return [path]
    return [key for level in axis_levels(name, space.axes[name]) for key in level.overrides if key != "preset"]


def _encloses(outer: str, inner: str) -> bool:
    return inner == outer or inner.startswith(outer + ".")


def _names(arms: Iterable[Arm]) -> list[str]:
    return [name for arm in arms for name in dict.fromkeys([arm.label, *(m.label for m in arm.memberships)])]


def _matches(arm: Arm, pattern: str) -> bool:
    names = (arm.id, arm.label, *(m.label for m in arm.memberships), *(f"{m.plan}.{m.label}" for m in arm.memberships))
    return any(fnmatchcase(name, pattern) for name in names)


def _known(what: str, name: str | None, known: Iterable[str]) -> str | None:
    names = list(known)
    if name is not None and name not in names:
        raise SpaceError(nearest(what, name, names))
    return name
