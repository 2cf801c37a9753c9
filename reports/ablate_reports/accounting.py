"""Failed, diverged and missing trials by level: a component that fails is not judged by its survivors alone.

Every level of every axis is set against the other levels of that axis by Fisher's exact test, one-sided ("fails more
often"), with Holm's correction over all levels of all axes. Trials that are still going count as neither. The unit is
the trial: seeds of one arm that fail for one reason are not independent, so a level whose failures lie in a single arm
says as much about that arm.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from ablate_reports.choices import choices, varying
from ablate_reports.data import DIVERGED, FAILED, FINAL, StudyFrames
from ablate_reports.equivalence import holm


@dataclass(frozen=True)
class LevelCount:
    """What became of the trials of one level of an axis (intent to treat: all that were planned count).

    Attributes:
        planned: trials of the level; `final`: those that ended.
        failed, diverged: of the final ones.
        missing: final trials without a usable value, for whatever reason (stopped early too, which is no loss).
        others_lost, others_final: failed or diverged, and final, among the other levels of the axis.
        p: one-sided Fisher exact p that this level loses more trials than the others; None where nothing can be tested.
        p_family: Holm's over all levels of all axes.
    """

    axis: str
    level: str
    planned: int
    final: int
    failed: int
    diverged: int
    missing: int
    others_lost: int
    others_final: int
    p: float | None = None
    p_family: float | None = None

    @property
    def lost(self) -> int:
        """Trials that failed or diverged."""
        return self.failed + self.diverged

    @property
    def fails_more_often(self) -> bool:
        """Whether the test holds over the family at 5 %."""
        return self.p_family is not None and self.p_family <= 0.05

    def sentence(self) -> str:
        """``time_sampler = gradual fails more often: 3 of 9 trials against 1 of 63 (Fisher exact, p = 0.005).``"""
        assert self.p_family is not None
        verb = "diverges" if self.diverged > self.failed else "fails"
        return (
            f"{self.axis} = {self.level} {verb} more often: {self.lost} of {self.final} trials against "
            f"{self.others_lost} of {self.others_final} (Fisher exact, Holm, p = {self.p_family:.2g})."
        )


def by_level(frames: StudyFrames, usable: Set[str]) -> list[LevelCount]:
    """Every level of every axis that varies, in the order of the arms.

    Args:
        usable: trial ids that have a usable value of the study's metric.
    """
    chosen = choices(frames)
    trained = frames.trained
    of_trial: dict[str, set[str]] = {}
    for arm, key in trained.items():
        of_trial.setdefault(key, set()).add(arm)
    trials = frames.trials
    status = trials["status"].to_numpy(dtype=object)
    fate = {name: status == name for name in (DIVERGED, FAILED)} | {"final": trials["status"].isin(FINAL).to_numpy()}
    fate["usable"] = trials["trial_id"].isin(usable).to_numpy()
    found = []
    for axis, levels in varying(chosen).items():
        at = {key: {chosen[a].get(axis) for a in arms if a in chosen} for key, arms in of_trial.items()}
        one = {key: next(iter(some)) for key, some in at.items() if len(some) == 1}
        level_of = np.array([one.get(key) for key in trials["arm_id"].to_numpy(dtype=object)], dtype=object)
        found += [_count(axis, level, level_of, fate) for level in levels]
    tested = [i for i, c in enumerate(found) if c.p is not None]
    for i, p in zip(tested, holm([found[i].p or 0.0 for i in tested]), strict=True):
        found[i] = replace(found[i], p_family=p)
    return found


def _count(axis: str, level: str, level_of: npt.NDArray[Any], fate: Mapping[str, npt.NDArray[np.bool_]]) -> LevelCount:
    """A trial that arms of several levels are measured from says nothing about the axis and is left out (level None).

    Args:
        level_of: (trials,) the level of each.
        fate: (trials,) each: ``diverged, failed, final, usable``.
    """
    mine = level_of == level
    final = mine & fate["final"]
    known = np.array([some is not None for some in level_of], dtype=bool)
    rest = ~mine & known & fate["final"]
    diverged, failed, ended = (int((final & fate[DIVERGED]).sum()), int((final & fate[FAILED]).sum()), int(final.sum()))
    others, rest_lost = int(rest.sum()), int((rest & (fate[DIVERGED] | fate[FAILED])).sum())
    p = None
    if ended and others and failed + diverged + rest_lost:
        table = [[failed + diverged, ended - failed - diverged], [rest_lost, others - rest_lost]]
        p = float(stats.fisher_exact(table, alternative="greater").pvalue)
    missing = int((final & ~fate["usable"]).sum())
    return LevelCount(axis, level, int(mine.sum()), ended, failed, diverged, missing, rest_lost, others, p)


def sentences(counts: list[LevelCount]) -> list[str]:
    """One for every level that fails more often; one that says that none does, where trials were lost at all."""
    found = [c.sentence() for c in counts if c.fails_more_often]
    tested = [c for c in counts if c.p_family is not None]
    if not found and tested:
        least = min(c.p_family or 1.0 for c in tested)
        return [
            f"No level of any axis is shown to lose trials more often (Fisher exact, Holm, smallest p = {least:.2g})."
        ]
    return found
