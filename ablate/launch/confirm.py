"""Which trials confirm arms that were picked: the same arms on seeds that their study never used. No Ray here.

The arms are taken as the store has them, config for config, so that what is confirmed is what was picked, whatever has
become of the space file since.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ablate.errors import AblateError
from ablate.space.keys import arm_id, eval_key, train_key
from ablate.space.plan import Arm, Evaluation, Membership, Metric, Plan, Trial
from ablate.space.schema import Resources
from ablate.space.source import read_text
from ablate_core.config import TrialConfig

if TYPE_CHECKING:
    from ablate.store.paths import StorePaths

KIND = "confirm"
DEFAULT_SEEDS = 5
FIRST_SEED = BLOCK = 1000
"""Fresh seeds are the first of a thousand of which nothing was used: nobody explores there by accident."""


@dataclass(frozen=True)
class Confirming:
    """A plan of kind ``confirm``.

    Attributes:
        seeds: the fresh seeds, the new ones last.
        new: how many of them no call has asked for before.
        stale: seeds of earlier calls that the study has explored since; they confirm nothing.
    """

    plan: Plan
    seeds: tuple[int, ...]
    new: int
    stale: tuple[int, ...]


def confirming(
    paths: StorePaths,
    frames: Mapping[str, Any],
    arms: Sequence[str],
    number: int | None = None,
    plugins: Sequence[str] = (),
) -> Confirming:
    """The plan that runs some arms of a study, and its baseline, on fresh seeds.

    Args:
        paths: the store.
        frames: the study, from `open_frames`.
        arms: ids of the picked arms.
        number: fresh seeds of each arm in all; None: those of earlier calls, or `DEFAULT_SEEDS`.
        plugins: modules that were loaded for it; workers import them too.

    Raises:
        AblateError: the study has no baseline, `number` is below 1, every seed of earlier calls has become stale, or a
            recorded config means something else to this version of ablate.
    """
    from ablate.store.read import seeds as seeds_of

    about = frames["study"]
    name, base = str(about["name"]), about["baseline_arm_id"]
    rows = {str(row["arm_id"]): row for row in frames["arms"].to_dict("records")}
    if base not in rows:
        raise AblateError(f"{name}: its baseline is no arm of it, so there is nothing to confirm an arm against")
    explored, recorded = seeds_of(paths, name)
    before = sorted({seed for some in recorded.values() for seed in some})
    seeds, stale = fresh_seeds(number, before, explored)
    if not seeds:
        raise AblateError(
            f"{name}: seeds {', '.join(map(str, stale))} were run to confirm and explored since, so they confirm "
            f"nothing; --seeds {len(stale)} runs fresh ones"
        )
    chosen = [_arm(rows[key], i, name) for i, key in enumerate(dict.fromkeys([base, *arms]))]
    evaluations = [_evaluation(arm, seed) for seed in seeds for arm in chosen]
    trials: dict[str, Trial] = {}
    for e, arm in zip(evaluations, chosen * len(seeds), strict=True):
        trials.setdefault(e.trial, Trial(e.trial, e.eval_key, arm.trained, e.seed, e.config))
    plan = Plan(
        name=name,
        question=about["question"],
        space_yaml=str(about["space_yaml"]),
        space_sha256=str(about["space_sha256"]),
        baseline=chosen[0],
        arms=tuple(chosen),
        trials=tuple(trials.values()),
        skips=(),
        metric=Metric(**about["metric"]),
        fidelity=about["fidelity"],
        evaluations=tuple(evaluations),
        compare=about["compare"] or {},
        resources=_resources(about["space_yaml"]),
        plugins=tuple(plugins),
    )
    return Confirming(plan, seeds, len(set(seeds) - set(before)), stale)


def fresh_seeds(
    number: int | None, before: Sequence[int], explored: Collection[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Seeds to confirm on, and those of earlier calls that are not fresh any more.

    Args:
        number: how many in all; None: those of `before` that are still fresh, or `DEFAULT_SEEDS` where there are none.
        before: seeds of earlier calls.
        explored: seeds that the study has explored, in any version.

    Raises:
        AblateError: `number` is below 1.
    """
    if number is not None and number < 1:
        raise AblateError(f"--seeds is the number of fresh seeds of each arm, at least 1, got {number}")
    stale = tuple(seed for seed in before if seed in explored)
    seeds = [seed for seed in before if seed not in explored]
    wanted = number if number is not None else len(seeds) if before else DEFAULT_SEEDS
    used = {*explored, *before}
    block = FIRST_SEED
    while not seeds and any(block <= seed < block + BLOCK for seed in used):
        block += BLOCK
    following = max(seeds) + 1 if seeds else block
    while len(seeds) < wanted:
        if following not in used:
            seeds.append(following)
        following += 1
    return tuple(seeds[:wanted]), stale


def _arm(row: Mapping[str, Any], position: int, study: str) -> Arm:
    label, identity, trained = str(row["label"]), str(row["arm_id"]), str(row["trained_id"])
    try:
        config = TrialConfig.model_validate(json.loads(row["config"]))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise AblateError(
            f"{study}: the recorded config of {label} cannot be read ({why}); does it need a --plugin?"
        ) from None
    if arm_id(config) != trained:
        raise AblateError(f"{study}: {label} means another training to this version of ablate; run its space again")
    place = Membership(KIND, KIND, position, label)
    return Arm(identity, label, config, {}, (place,), trained, str(row["trained_label"]))


def _evaluation(arm: Arm, seed: int) -> Evaluation:
    config = arm.config.model_copy(update={"seed": seed})
    return Evaluation(train_key(config), arm.id, eval_key(config), seed, config)


def _resources(space_yaml: Any) -> dict[str, Any]:
    """What the space gives a trial."""
    if not isinstance(space_yaml, str) or not space_yaml.strip():
        return {}
    given = read_text(space_yaml, "<the recorded space>").data.get("resources") or {}
    return Resources.model_validate(given).model_dump(mode="json", by_alias=True)
