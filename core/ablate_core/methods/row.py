"""What a row of the table holds, and what most rows have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Method:
    """One row.

    Attributes:
        title: name and authors' system in a few words.
        paper: reference.
        differs: what differs from the publication, and why.
        slots: slot -> component, in the short or the long form.
        path: the flow path of the publication, as a schedule; a space chooses its own, and legality has the last word.
    """

    title: str
    paper: str
    differs: str
    slots: dict[str, Any]
    path: str = "linear"


NO_TWO_STEPS = {"first_step": "none", "second_step": "none"}
COMMON = {
    "velocity": "conditional",
    "guidance": "none",
    "weighting": "none",
    "tangent": "none",
    "batching": "iid",
    "label_dropout": 0.1,
}
UNGUIDED = "Guidance is off by default, so that all rows can be compared; {name: omega_kappa} is the paper's."
