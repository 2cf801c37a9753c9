"""Claims read before anything is trained: what a report would not understand is a warning of the plan."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ablate.space.plan import Arm

if TYPE_CHECKING:
    from ablate_reports.claim_names import Names

MOST_ARMS = 1000
"""Reading claims takes time with the square of the arms; the plan of a larger study is not held up by it."""


def not_understood(claims: Sequence[Any], arms: Sequence[Arm], baseline: Arm) -> list[str]:
    """One sentence for each claim that the report of these arms would not understand."""
    if not claims or len(arms) > MOST_ARMS:
        return []
    from ablate_reports.claim_reading import read

    names = names_in(arms, baseline)
    found = [(number, read(claim, names).problem) for number, claim in enumerate(claims, start=1)]
    return [f"claim {number} is not understood: {problem}" for number, problem in found if problem]


def names_in(arms: Sequence[Arm], baseline: Arm) -> Names:
    """What the arms of a plan may be called in its claims, as a report will know them."""
    import pandas as pd

    from ablate_reports.claim_names import names_of
    from ablate_reports.data import COLUMNS, StudyFrames

    places = [
        (arm.id, m.plan, m.kind, m.position, m.label, m.axis, m.level, json.dumps(m.choice or arm.choice))
        for arm in arms
        for m in arm.memberships
    ]
    frames = StudyFrames.from_mapping({
        "study": {"baseline_arm_id": baseline.id},
        "arms": pd.DataFrame([(arm.id, arm.label, "{}", None) for arm in arms], columns=list(COLUMNS["arms"])),
        "study_arms": pd.DataFrame(places, columns=list(COLUMNS["study_arms"])),
    })  # fmt: skip
    return names_of(frames, baseline.config.eval.nfe)
