"""No first step: the target is a velocity or a continuous limit."""

from __future__ import annotations

from typing import ClassVar, Literal

from ablate_core.first_steps.base import FirstStep


class NoFirstStep(FirstStep):
    """For limits `none` and `continuous`."""

    name: Literal["none"] = "none"
    takes_step: ClassVar[bool] = False
