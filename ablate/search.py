"""The only room that imports Optuna: which axes of a study explain its numbers (PED-ANOVA), with a floor of pure noise.

Importances are for plans that mix levels (grid, random): a designed one-factor study is read from its effects, in the
report. They add up to 1 even on noise, so each comes with what shuffled values give (Watanabe et al., PED-ANOVA,
arXiv 2304.10255; the trap is optuna's normalisation). How a `tune` plan is walked belongs here too, when it exists.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ablate.errors import AblateError

MIN_ARMS = 6
REST = "(as base)"
"""Level of an axis in an arm that does not set it."""


@dataclass(frozen=True)
class Importance:
    """Share of one axis in the differences between good arms and all arms.

    Attributes:
        axis: name of the axis.
        levels: how many levels took part.
        share: in [0, 1]; the shares of all axes add up to 1.
        noise_95: 95 % of the shares that this axis gets when the values are shuffled over the arms lie below this.
    """

    axis: str
    levels: int
    share: float
    noise_95: float


def importances(
    choices: Sequence[Mapping[str, str]], values: Sequence[float], *, minimize: bool, shuffles: int = 60, seed: int = 0
) -> list[Importance]:
    """Importances of the axes over arms, the largest first.

    Args:
        choices: of each arm, axis -> level; an axis an arm does not name counts as one level of its own.
        values: the arm's mean, finite.
        minimize: True where small values are good.
        shuffles: permutations behind `noise_95`.
        seed: of the permutations.

    Raises:
        AblateError: fewer than 6 arms, or fewer than two axes that vary: there is nothing to divide.
    """
    table = [dict(choice) for choice in choices]
    axes = sorted({axis for choice in table for axis in choice})
    levels = {axis: sorted({choice.get(axis, REST) for choice in table}) for axis in axes}
    levels = {axis: found for axis, found in levels.items() if len(found) > 1}
    if len(table) < MIN_ARMS or len(levels) < 2:
        raise AblateError(
            f"importances divide a study among its axes: it needs {MIN_ARMS} measured arms and two axes that vary, "
            f"this one has {len(table)} and {len(levels)}; read the effects in the report instead"
        )
    found = _shares(table, levels, values, minimize)
    shuffler = random.Random(seed)
    noise: dict[str, list[float]] = {axis: [] for axis in levels}
    for _ in range(shuffles):
        shuffled = shuffler.sample(list(values), len(values))
        for axis, share in _shares(table, levels, shuffled, minimize).items():
            noise[axis].append(share)
    rows = [Importance(a, len(levels[a]), found[a], sorted(noise[a])[int(0.95 * (shuffles - 1))]) for a in levels]
    return sorted(rows, key=lambda row: (-row.share, row.axis))


def _shares(
    table: Sequence[Mapping[str, str]], levels: Mapping[str, list[str]], values: Sequence[float], minimize: bool
) -> dict[str, float]:
    import optuna
    from optuna.distributions import CategoricalDistribution
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize" if minimize else "maximize")
    kinds = {axis: CategoricalDistribution(found) for axis, found in levels.items()}
    for choice, value in zip(table, values, strict=True):
        params = {axis: choice.get(axis, REST) for axis in levels}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=dict(kinds), value=float(value)))
    evaluator = PedAnovaImportanceEvaluator(target_quantile=0.25)
    shares = get_param_importances(study, evaluator=evaluator)
    return {axis: float(shares.get(axis, 0.0)) for axis in levels}
