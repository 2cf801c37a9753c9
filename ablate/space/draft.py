"""An arm in the making: what it resolved to and the places it has in plans."""

from __future__ import annotations

from dataclasses import dataclass, field

from ablate.space.plan import Membership
from ablate.space.resolve import Resolved
from ablate.space.source import Where
from ablate_core.config import TrialConfig

BASE = "base"
"""How the config that everything starts from is called where nothing names it."""


@dataclass
class Draft:
    """An arm in the making; `where` is the first place it was written."""

    resolved: Resolved
    where: Where
    memberships: list[Membership] = field(default_factory=list)
    choice: dict[str, str] = field(default_factory=dict)

    @property
    def config(self) -> TrialConfig:
        return self.resolved.valid

    @property
    def is_base(self) -> bool:
        return any(m.kind == BASE for m in self.memberships)

    def join(self, resolved: Resolved, membership: Membership) -> None:
        """Add a place; the levels by which this place chose the arm are added to its choice."""
        self.memberships.append(membership)
        self.choice = {**resolved.choice, **self.choice}
        self.resolved.touched |= resolved.touched

    def named_by(self) -> Membership:
        """The place that names it: in a list plan, else in a crossing, else the first that says more than "base"."""
        for kinds in (("list",), ("grid", "random")):
            for membership in self.memberships:
                if membership.kind in kinds:
                    return membership
        return next((m for m in self.memberships if m.label != BASE), self.memberships[0])
