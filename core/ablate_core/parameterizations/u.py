"""F is the average velocity: X_{t,r}(x) = x + (r - t) F(x, r, t) on any path (MeanFlow, arXiv 2505.13447, eq. 3)."""

from __future__ import annotations

from typing import Literal

from ablate_core.parameterizations.base import AverageVelocity
from ablate_core.schedules.base import Schedule


class U(AverageVelocity):
    """The network's output is the average velocity itself; no scaling anywhere."""

    name: Literal["u"] = "u"

    def is_average_velocity(self, schedule: Schedule) -> bool:
        return True
