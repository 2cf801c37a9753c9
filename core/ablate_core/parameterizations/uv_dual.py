"""Average velocity with a second head for the velocity (iMF, improved mean flows; Lyy-iiis/imeanflow imf.py)."""

from __future__ import annotations

from typing import ClassVar, Literal

from ablate_core.parameterizations.base import AverageVelocity


class UvDual(AverageVelocity):
    """F is the average velocity; a velocity head on the same trunk regresses on v at every (r, t) beside it."""

    name: Literal["uv_dual"] = "uv_dual"
    needs_velocity_head: ClassVar[bool] = True
