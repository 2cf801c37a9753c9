"""Arms that are measured from the same trained networks: two variances instead of one.

``y = mu[arm] + b[seed] + t[network, seed] + e``: what a network owes to its training, t, is shared by all arms that
measure it, and only e is new in each of them. So

- arms of one network are compared within each trial, where t cancels. Their variance is that of e, pooled over the
  networks, each a block design with its trials as blocks;
- arms of different networks are compared with the variance of t + e. It is estimated from layers that hold one arm of
  every network, where `statistics.fit` is exact, and averaged over the layers. Its degrees of freedom are those of the
  largest layer alone: measuring a network in five ways does not make it five networks.

With one network only there is nothing but the first kind, and `statistics.fit` on all arms is that block design.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from ablate_reports.statistics import SPREAD_RATIO, Model, Values, fit


def fit_shared(values: Values, networks: Mapping[str, str]) -> Model | None:
    """Fit the model to one value per arm and seed.

    Args:
        values: arm -> seed -> y, as for `statistics.fit`.
        networks: arm -> what was trained for it; arms with equal entries are measured from the same networks.

    Returns:
        The model of `statistics.fit` where no network is shared; None when no value is left.
    """
    plain = fit(values)
    if plain is None:
        return None
    members: dict[str, list[str]] = {}
    for arm in plain.values:
        members.setdefault(networks.get(arm, arm), []).append(arm)
    if len(members) in (1, len(plain.values)):
        return plain
    layers = [[arms[i] for arms in members.values() if len(arms) > i] for i in range(max(map(len, members.values())))]
    of_layers = _fitted(plain, layers)
    between = _pooled(of_layers, blocked=plain.blocked)
    if between is None or plain.no_spread:
        return plain
    own = _fitted(plain, [arms for arms in members.values() if len(arms) > 1])
    pooled = _pooled(own, blocked=True)
    within = {}
    if pooled is not None:
        df = sum(model.df for model in own if model.blocked)  # trials of different networks are independent
        made = [replace(model, sigma=pooled.sigma, df=df) for model in own if model.blocked]
        within = {arm: model for model in made for arm in model.values}
    spread = {arm: some for model in of_layers for arm, some in model.spread.items()}  # arms of a layer are independent
    return replace(
        plain, own={arm: some.ratio for arm, some in spread.items() if some.ratio > SPREAD_RATIO}, spread=spread,
        sigma=between.sigma, df=between.df, _marginal=between._marginal, within=within, networks=len(members),
        seed_sd=between.seed_sd, block_f=between.block_f, block_note=between.block_note,
    )  # fmt: skip


def _fitted(plain: Model, families: Iterable[list[str]]) -> list[Model]:
    found = (fit({arm: plain.values[arm] for arm in arms}) for arms in families)
    return [model for model in found if model is not None and model.sigma]


def _pooled(models: list[Model], *, blocked: bool) -> Model | None:
    """The largest of the models with the mean variance of all of them; those that lack wanted blocks do not count."""
    usable = [model for model in models if model.blocked == blocked]
    if not usable:
        return None
    weight = sum(model.df for model in usable)
    variance = sum(model.df * (model.sigma or 0.0) ** 2 for model in usable) / weight
    largest = max(usable, key=lambda model: model.df)
    marginal = sum(model.df * model._marginal[0] for model in usable) / weight
    return replace(largest, sigma=variance**0.5, _marginal=(marginal, largest._marginal[1]))
