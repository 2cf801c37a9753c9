"""From gathered arms to a plan: labels, the baseline, fairness, seeds and trials."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from ablate.errors import SpaceError
from ablate.space import fair
from ablate.space.booleans import WANTED
from ablate.space.describe import booleans_for_numbers
from ablate.space.draft import BASE, Draft
from ablate.space.equivalent import reported, share
from ablate.space.foretold import not_understood
from ablate.space.keys import arm_id, eval_key, study_arm_id, train_key
from ablate.space.levels import axis_levels, axis_path, respelled
from ablate.space.plan import Arm, Evaluation, Membership, Metric, Plan, Skip, Trial
from ablate.space.problems import Problem, nearest, refuse
from ablate.space.published import row
from ablate.space.resolve import Resolver
from ablate.space.schema import LARGEST_SEED, AtStep, Axis, Published, PublishedTable, Space
from ablate.space.source import Where
from ablate.space.written import leaves
from ablate_core.config import TrialConfig

if TYPE_CHECKING:
    from ablate.space.expand import Gathered


def assemble(
    space: Space,
    resolver: Resolver,
    gathered: Gathered,
    *,
    wanted: Sequence[str],
    complete: bool,
    seeds: list[int] | None,
    only: list[str] | None,
) -> Plan:
    """The plan of gathered arms; arguments as in `expand`, `complete` where no plan was left out.

    Raises:
        SpaceError: as `expand`.
    """
    _check_booleans(resolver, gathered.drafts.values())
    usual = next(iter(gathered.drafts.values())).config.eval
    shared = share(gathered.drafts, lambda config: study_arm_id(config, usual))
    skips = [*gathered.skips, *shared.skips]
    arms = _arms(space, shared.drafts)
    baseline = _baseline(space, arms, skips)
    if not arms[0].memberships[1:] and baseline.id != arms[0].id:
        arms = arms[1:]  # the base is in no plan and nothing is compared with it
    warnings = dict(gathered.warnings)
    _check_fair(space, resolver, shared.drafts, arms, baseline, warnings)
    if complete:
        _check_mentioned(space, arms, skips)
        warnings |= {text: [] for text in not_understood(space.claims, arms, baseline)}
    _check_measured_at(space, arms)
    further = _extra_seeds(space, arms)
    evaluations = [_evaluation(arm, seed) for arm in _chosen(arms, only) for seed in _seeds(space, arm, further, seeds)]
    trials = _trials(evaluations)
    if space.budget.trials is not None and len(trials) > space.budget.trials:
        more = f"{len(trials)} trials are more than the budget of {space.budget.trials}"
        warnings[f"{more}: `ablate run` refuses to start while more than that are left to run"] = []
    dump: dict[str, Any] = space.model_dump(mode="json", by_alias=True)
    at = space.metric.at.step if isinstance(space.metric.at, AtStep) else space.metric.at
    return Plan(
        name=space.name,
        question=space.question,
        space_yaml=space.source.text,
        space_sha256=hashlib.sha256(space.source.text.encode()).hexdigest(),
        baseline=baseline,
        arms=tuple(arms),
        trials=tuple(trials),
        skips=tuple(skips),
        metric=Metric(baseline.config.eval.metric, space.metric.mode, at),
        fidelity=resolver.fidelity,
        evaluations=tuple(evaluations),
        warnings=tuple(f"{text} ({', '.join(labels)})" if labels else text for text, labels in warnings.items()),
        overrides=space.overrides,
        plugins=space.loaded,
        compare=dump["compare"],
        resources=dump["resources"],
        budget=dump["budget"],
        stop=dump["stop"],
        claims=tuple(dump["claims"]),
        equivalences=reported(arms, shared, lambda arm: _seeds(space, arm, further, seeds)),
        published=tuple(row for part in space.published for row in _published(arms, part)),
    )


def _check_booleans(resolver: Resolver, drafts: Iterable[Draft]) -> None:
    """A config that was written with ``true`` for a number is valid to pydantic, which reads it as 1."""
    problems: list[Problem] = []
    for written in (draft.resolved.written for draft in drafts):
        for loc, given in booleans_for_numbers(TrialConfig, written.data):
            message = f"{'.'.join(map(str, loc))}: {WANTED} {str(given).lower()}"
            problems.append(Problem(resolver.mark(written.origin(loc)), message))
    refuse(problems)


def _published(arms: Sequence[Arm], part: Published | PublishedTable) -> list[dict[str, Any]]:
    """Published numbers under the labels their arms have in this plan; empty notes left out."""

    def label(name: str) -> str:
        identity = _id(arms, name)
        return next((arm.label for arm in arms if arm.id == identity), name)

    if isinstance(part, PublishedTable):
        return [row(part.table, entry, label(arm)) for arm, entry in part.arms.items()]
    return [{**part.model_dump(exclude_none=True), "arm": label(part.arm)}]


def _arms(space: Space, drafts: dict[str, Draft]) -> list[Arm]:
    """Arms with distinct labels, the base first; where two plans use one label, the later one says its plan."""
    labels: dict[str, str] = {}
    taken: set[str] = set()
    for identity, draft in drafts.items():
        place = draft.named_by()
        names = (place.label, f"{place.plan}.{place.label}", f"{place.label} ({identity[:6]})")
        labels[identity] = next(name for name in names if name not in taken)
        taken.add(labels[identity])
    base = labels[next(iter(drafts))]

    def renamed(m: Membership, is_base: bool) -> Membership:
        """A membership with the base called by the name it got."""
        label = base if is_base and m.label == BASE else m.label
        return replace(m, label=label, baseline_label=base if m.baseline_label == BASE else m.baseline_label)

    trained = {identity: arm_id(draft.config) for identity, draft in drafts.items()}
    called = _trained_labels(space, drafts, labels, trained)
    return [
        Arm(
            identity, labels[identity], draft.config, dict(draft.choice),
            tuple(renamed(m, draft.is_base) for m in draft.memberships), trained[identity], called[trained[identity]],
        )
        for identity, draft in drafts.items()
    ]  # fmt: skip


def _trained_labels(
    space: Space, drafts: dict[str, Draft], labels: dict[str, str], trained: dict[str, str]
) -> dict[str, str]:
    """What is trained -> its label: the arm's where it is measured in one way, else the levels that are trained."""
    measuring = {name for name, axis in space.axes.items() if all(p[0] == "eval" for p in _written(name, axis))}
    of_one: dict[str, list[str]] = {}
    for identity in drafts:
        of_one.setdefault(trained[identity], []).append(identity)
    found: dict[str, str] = {}
    taken: set[str] = set()
    for key, arms in of_one.items():
        first = key if key in arms else arms[0]
        parts = [
            space.axes[axis].label.get(level, level)
            for axis, level in drafts[first].choice.items()
            if axis not in measuring
        ]
        label = labels[first] if len(arms) == 1 or not parts else "/".join(parts)
        found[key] = label if label not in taken else f"{label} ({key[:6]})"
        taken.add(found[key])
    return found


def _written(name: str, axis: Axis) -> list[tuple[str, ...]]:
    """The config paths that the levels of an axis write."""
    overrides = {key: value for level in axis_levels(name, axis) for key, value in level.overrides.items()}
    return [leaf for key, value in overrides.items() for leaf, _ in leaves(value, tuple(key.split(".")))]


def _names(arm: Arm) -> list[str]:
    """Everything an arm may be called by."""
    in_plans = [name for m in arm.memberships for name in (m.label, f"{m.plan}.{m.label}")]
    base = [BASE] if any(m.kind == BASE for m in arm.memberships) else []
    levels = [f"{axis}={level}" for axis, level in arm.choice.items()]
    alone = [*levels, *arm.choice.values()] if len(levels) == 1 else []
    return list(dict.fromkeys([arm.label, *base, *in_plans, *alone, arm.id]))


def _id(arms: Iterable[Arm], name: str) -> str | None:
    """The arm called `name`: by its label, else by another of its names where only one arm has it."""
    found = list(arms)
    for spelled in (name, respelled(name)):
        if named := [a.id for a in found if a.label == spelled] or [a.id for a in found if spelled in _names(a)]:
            return named[0] if len(named) == 1 else None
    return None


def _shown(arms: Iterable[Arm]) -> list[str]:
    return [arm.label for arm in arms]


def _baseline(space: Space, arms: Sequence[Arm], skips: Iterable[Skip]) -> Arm:
    name = space.compare.baseline
    identity = arms[0].id if name == BASE else _id(arms, name)
    if identity is None:
        spelled = (name, respelled(name))
        skipped = next((s for s in skips if {s.label, f"{s.plan}.{s.label}"} & {*spelled}), None)
        message = f"arm {name!r} cannot run: {skipped.reason}" if skipped else nearest("arm", name, _shown(arms))
        refuse([Problem(space.source.mark(("compare", "baseline")), f"compare.baseline: {message}")])
    return next(arm for arm in arms if arm.id == identity)


def _check_fair(
    space: Space,
    resolver: Resolver,
    drafts: dict[str, Draft],
    arms: Sequence[Arm],
    baseline: Arm,
    warnings: dict[str, list[str]],
) -> None:
    """Nothing may differ from the baseline but what is declared; see `fair`."""
    varied = {path for name, axis in space.axes.items() if (path := axis_path(name, axis))}
    for name, axis in space.axes.items():  # what an axis says about measuring is what it varies, however it is written
        varied |= {".".join(path) for path in _written(name, axis) if path[0] == "eval"}
    problems: list[Problem] = []
    never: list[Problem] = []
    for arm in arms:
        draft = drafts[arm.id]
        touched = draft.resolved.touched | drafts[baseline.id].resolved.touched
        found = [
            (path, f"arm {arm.label!r} differs from the baseline in {path} ({a!r}, not {b!r}), which nothing declares")
            for path, a, b in fair.undeclared(arm.config, baseline.config, touched)
        ] + [
            (path, f"arm {arm.label!r} has {path} {a!r}, the baseline {b!r}; if that is meant, list it in fair.except")
            for path, a, b in fair.unmatched(arm.config, baseline.config, space.fair, varied)
        ]
        for path, why in fair.incomparable(arm.config, baseline.config):
            never.append(
                _placed(resolver, draft, path, f"arm {arm.label!r} has another {path} than the baseline; it {why}")
            )
        problems += [_placed(resolver, draft, path, message) for path, message in found]
    refuse(never)
    if space.fair.on_mismatch == "error":
        refuse(problems)
    warnings.update({problem.message: [] for problem in problems})


def _placed(resolver: Resolver, draft: Draft, path: str, message: str) -> Problem:
    """A problem with a path of an arm's config, where the arm or one of its levels wrote it."""
    origin = draft.resolved.written.origin(tuple(path.split(".")))
    return Problem(resolver.mark(draft.where if origin[0] == "base" else origin), message)


def _check_measured_at(space: Space, arms: Sequence[Arm]) -> None:
    """One training measured in several ways has the first of them while it trains; all of them only at its end."""
    if space.metric.at != "last" and len({arm.trained for arm in arms}) < len(arms):
        why = "arms that differ in eval alone share a training and are measured when it ends; use `at: last`"
        refuse([Problem(space.source.mark(("metric", "at")), f"metric.at: {why}")])


def _check_mentioned(space: Space, arms: Sequence[Arm], skips: Iterable[Skip]) -> None:
    """Arms that `seeds.extra` and `published` name must exist, if only as skipped ones."""
    known = {BASE, *(name for arm in arms for name in _names(arm))}
    known |= {name for s in skips for name in (s.label, f"{s.plan}.{s.label}")}
    mentions: list[tuple[Where, str]] = [(("seeds", "extra", arm), arm) for arm in space.seeds.extra]
    for i, part in enumerate(space.published):
        if isinstance(part, PublishedTable):
            mentions += [(("published", i, "arms", arm), arm) for arm in part.arms]
        else:
            mentions.append((("published", i, "arm"), part.arm))
    shown = [*_shown(arms), *(s.label for s in skips)]
    refuse(
        Problem(space.source.mark(where, key=where[-1] == name), nearest("arm", name, shown))
        for where, name in mentions
        if name not in known and respelled(name) not in known
    )


def _chosen(arms: Sequence[Arm], only: list[str] | None) -> list[Arm]:
    if only is None:
        return list(arms)
    for pattern in only:
        if not any(_matches(arm, pattern) for arm in arms):
            raise SpaceError(f"only {pattern!r}: {nearest('arm', pattern, _shown(arms))}")
    return [arm for arm in arms if any(_matches(arm, pattern) for pattern in only)]


def _matches(arm: Arm, pattern: str) -> bool:
    return any(name in (pattern, respelled(pattern)) or fnmatchcase(name, pattern) for name in _names(arm))


def _extra_seeds(space: Space, arms: Sequence[Arm]) -> list[tuple[str, list[int]]]:
    """`seeds.extra` under names that the arms have."""
    names = {name for arm in arms for name in _names(arm)}
    return [(name if name in names else respelled(name), more) for name, more in space.seeds.extra.items()]


def _seeds(space: Space, arm: Arm, further: list[tuple[str, list[int]]], instead: list[int] | None) -> list[int]:
    if instead is not None:
        if not instead or len(set(instead)) != len(instead) or min(instead) < 0:
            raise SpaceError(f"seeds are distinct numbers from 0, at least one; got {instead}")
        seeds = list(instead)
    else:
        extra = [seed for name, more in further if name in _names(arm) for seed in more]
        seeds = list(dict.fromkeys([*space.seeds.list_, *extra]))
    if not space.seeds.paired:
        seeds = [int(arm.trained[:7], 16) * 1000 + seed for seed in seeds]  # unpaired: no two trainings share a seed
    if max(seeds) > LARGEST_SEED:
        raise SpaceError(f"seed {max(seeds)} of arm {arm.label!r} is too large to be stored: at most {LARGEST_SEED}")
    return seeds


def _evaluation(arm: Arm, seed: int) -> Evaluation:
    config = arm.config.model_copy(update={"seed": seed})
    return Evaluation(train_key(config), arm.id, eval_key(config), seed, config)


def _trials(evaluations: Iterable[Evaluation]) -> list[Trial]:
    """What has to be trained for the evaluations, each once."""
    found: dict[str, Trial] = {}
    for e in evaluations:
        if e.trial not in found:
            found[e.trial] = Trial(e.trial, e.eval_key, arm_id(e.config), e.seed, e.config)
    return list(found.values())
