"""Caveats that stand beside the numbers: names of one arm, sharing, refused values, odd spreads, what is not judged."""

from __future__ import annotations

from ablate_reports import formats
from ablate_reports.data import DONE, StudyFrames
from ablate_reports.groups import Group
from ablate_reports.statistics import NO_SPREAD, ONE_SEED, Model


def notes(
    frames: StudyFrames,
    primary: Group | None,
    others: list[Group],
    scale: str,
    model: Model | None,
    flat: list[float],
) -> list[str]:
    """Caveats the reader must see beside the numbers."""
    found = []
    labels = frames.labels
    for same in frames.namesakes:
        found.append(
            f"One arm under several names, which all compute the same: {' = '.join(map(formats.short, same))}."
        )
    found += _measured_alike(frames, primary)
    if scale == "linear":
        bad = sum(v <= 0 for v in flat)
        found.append(
            f"{bad} of {len(flat)} values are not positive, so the analysis is on the metric's own scale: "
            "differences are "
            "absolute, means are arithmetic, and the relative margin cannot be applied."
        )
    if primary and primary.refused:
        found.append(
            f"{primary.refused} measurements were refused: their sample count is not the one their metric declares."
        )
    if frames.study["metric"]["at"] == "best":
        found.append("Values are each trial's best over its measured steps, which flatters noisy arms.")
    if primary and primary.lower_is_better != frames.lower_is_better:
        found.append("The study declares the opposite direction of its metric's definition; the study's is used.")
    found += _unjudged(frames, primary, others)
    found += _spread_notes(frames, model)
    if model and model.no_spread and not model.own:
        found.append(f"{NO_SPREAD[0].upper()}{NO_SPREAD[1:]}. Check that the seed reaches the training.")
    elif model and model.no_spread:
        found.append("The seeds of all other arms gave identical values, so these are not compared with each other.")
    ones = [formats.short(labels[a]) for a, seeds in (model.values if model else {}).items() if len(seeds) == 1]
    if ones:
        found.append(f"{ONE_SEED[0].upper()}{ONE_SEED[1:]} for {', '.join(ones)}.")
    return found


def _unjudged(frames: StudyFrames, primary: Group | None, others: list[Group]) -> list[str]:
    """Arms whose trials finished and about which nothing is said: no usable value, or one of another identity alone."""
    if primary is None:
        return []
    mine, elsewhere = primary.by_arm(), {arm for g in others for arm in g.by_arm()}
    ended = [a for a in frames.ordered if a not in mine and (frames.trials_of(a)["status"] == DONE).any()]
    said = {
        "Finished without a usable value, so nothing is said of": [a for a in ended if a not in elsewhere],
        "Measured under another metric identity or condition only, so not compared:": [
            a for a in ended if a in elsewhere
        ],
    }
    names = {text: [formats.short(frames.labels[a]) for a in arms] for text, arms in said.items() if arms}
    return [f"{text} {formats.listed(some)}." for text, some in names.items()]


def _spread_notes(frames: StudyFrames, model: Model | None) -> list[str]:
    """Which arms are judged by their own spread."""
    if model is None:
        return []
    found, labels, base = [], frames.labels, str(frames.baseline)
    if model.own:
        names = ", ".join(f"{formats.short(labels[a])} ({formats.times(r)})" for a, r in model.own.items())
        found.append(f"Spread out of line with the other arms, judged with its own variance: {names}.")
    leaning = model.leaning([(a, base) for a in model.values if a != base and len(model.values[a]) > 1])
    if base in leaning and base not in model.own:
        found.append(
            f"The baseline's seeds spread {formats.times(model.spread[base].ratio)} as much as the others'. Every "
            "comparison leans on it, so its own variance is used; more seeds of the baseline would narrow them all."
        )
    return found


def _measured_alike(frames: StudyFrames, primary: Group | None) -> list[str]:
    """What must be known where arms share their networks, or are not measured under one condition."""
    arms, networks = len(frames.arms), len(set(frames.trained.values()))
    found = []
    if networks < arms:
        found.append(
            f"{arms} arms are measured from {networks} trainings: arms of one training share its trials and their "
            "cost, and are compared within each trial."
        )
    if primary and primary.varied:
        found.append(
            f"By design, arms are not measured under one condition; they differ in {', '.join(primary.varied)}."
        )
    return found
