"""Arms that compute the same are one arm under every name they were given, and are trained once.

What is the same is decided in `ablate_core.equivalence`. No key changes: the arm that a plan names first stands for the
others, with its own config. Two arms with one network would count every seed twice in the statistics of a report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ablate.space.draft import BASE, Draft
from ablate.space.keys import arm_id
from ablate.space.plan import Arm, Equivalent, Membership, Skip
from ablate_core.config import TrialConfig
from ablate_core.equivalence import Equivalence, canonical, expected

Place = tuple[str, str]
"""A plan and a label in it."""
Rules = tuple[Equivalence, ...]


@dataclass(frozen=True)
class Namesake:
    """What became a name of another arm, or an arm that another one is trained for.

    Attributes:
        arm: id of that arm.
        places: those it had, before any was found to change nothing.
        why: the rules by which both compute the same.
    """

    arm: str
    places: tuple[Membership, ...]
    why: Rules


@dataclass
class Shared:
    """Drafts after those that compute the same have become one, by id and in the order they had.

    `skips` are cells that turned out to be what they are compared with.
    """

    drafts: dict[str, Draft] = field(default_factory=dict)
    skips: list[Skip] = field(default_factory=list)
    namesakes: list[Namesake] = field(default_factory=list)


def share(drafts: Mapping[str, Draft], identity: Callable[[TrialConfig], str]) -> Shared:
    """Make one arm of those that compute the same; `identity` is the id of the arm of a config."""
    shared = Shared()
    first: dict[str, tuple[str, Draft, Rules]] = {}  # what is trained -> who stands for it, and by which rules
    for known_as, draft in drafts.items():
        form, rules = canonical(draft.config)
        name, standing, others = first.setdefault(arm_id(form), (known_as, draft, rules))
        if arm_id(standing.config) == arm_id(draft.config):  # itself, or another way of measuring it
            shared.drafts[known_as] = draft
            continue
        why = tuple(rule for rule in (*others, *rules) if (rule in others) != (rule in rules)) or rules
        draft.resolved.config = standing.config.model_copy(update={"eval": draft.config.eval})
        draft.resolved.touched |= standing.resolved.touched
        now = identity(draft.config)
        home = shared.drafts.setdefault(now, draft)
        shared.namesakes.append(Namesake(name if home is draft else now, tuple(draft.memberships), why))
        if home is not draft:
            home.memberships += [replace(m, choice=m.choice or draft.choice) for m in draft.memberships]
            home.resolved.touched |= draft.resolved.touched
    if shared.namesakes:
        _drop_changes_of_nothing(shared)
    return shared


def _drop_changes_of_nothing(shared: Shared) -> None:
    """A cell whose arm is the one it is compared with is no cell; what was compared with it moves on."""
    home = {(m.plan, m.label): draft for draft in shared.drafts.values() for m in draft.memberships}
    base = next(iter(shared.drafts.values()))
    why = {(m.plan, m.label): same.why for same in shared.namesakes for m in same.places}
    instead: dict[Place, str] = {}
    for draft in shared.drafts.values():
        for m in list(draft.memberships):
            if m.baseline_label is None or m.label == m.baseline_label:
                continue
            other = base if m.baseline_label == BASE else home.get((m.plan, m.baseline_label))
            reason = why.get((m.plan, m.label)) or why.get((m.plan, m.baseline_label))
            if other is draft and reason:
                draft.memberships.remove(m)
                instead[m.plan, m.label] = m.baseline_label
                shared.skips.append(Skip(m.plan, m.label, f"the same as {m.baseline_label}: {said(reason)}"))
    for draft in shared.drafts.values():
        draft.memberships = [_compared_with(m, instead) for m in draft.memberships]


def _compared_with(m: Membership, instead: Mapping[Place, str]) -> Membership:
    label = m.baseline_label
    while label is not None and (m.plan, label) in instead:
        label = instead[m.plan, label]
    return m if label == m.baseline_label else replace(m, baseline_label=label)


def said(rules: Iterable[Equivalence]) -> str:
    """Rules in one line: ``on a straight path ... (E1)``."""
    return "; ".join(f"{rule.statement} ({rule.code})" for rule in rules)


def reported(arms: Sequence[Arm], shared: Shared, seeds: Callable[[Arm], list[int]]) -> tuple[Equivalent, ...]:
    """What a plan says of equal arms: those that are trained once, and those that are only expected to be equal.

    Args:
        arms: of the plan.
        shared: where their drafts came from.
        seeds: the seeds of an arm.
    """
    by_id, found = {arm.id: arm for arm in arms}, list[Equivalent]()
    for same in shared.namesakes:
        arm = by_id.get(same.arm)
        labels = {m.label: m for m in same.places if arm is None or m.label != arm.label}
        if arm is None or not labels:
            continue
        own = [m for m in arm.memberships if (m.plan, m.label) not in {(p.plan, p.label) for p in same.places}]
        alone = replace(arm, label=next(iter(labels)), memberships=same.places)
        saved = {*seeds(replace(arm, memberships=tuple(own)))} & {*seeds(alone)}
        codes = tuple(dict.fromkeys(rule.code for rule in same.why))
        found.append(Equivalent(codes, said(same.why), "identical", (arm.label, *labels), True, len(saved)))
    trained = list({arm.trained: arm for arm in reversed(arms)}.values())[::-1]
    for rule, group in expected([arm.config for arm in trained]):
        names = tuple(trained[i].label for i in group)
        found.append(Equivalent((rule.code,), said([rule]), rule.exactness, names, False, 0))
    return tuple(found)
