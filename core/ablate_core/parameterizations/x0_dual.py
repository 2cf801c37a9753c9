"""Denoised sample with a second head, both clean images (pMF; Lyy-iiis/pMF models/pmfDiT.py, pmf.py:397)."""

from __future__ import annotations

from typing import ClassVar, Literal

from ablate_core.parameterizations.x0 import X0


class X0Dual(X0):
    """As `x0`, with a velocity head whose output is a denoised sample too, turned into a velocity in the same way."""

    name: Literal["x0_dual"] = "x0_dual"  # type: ignore[assignment]
    needs_velocity_head: ClassVar[bool] = True
