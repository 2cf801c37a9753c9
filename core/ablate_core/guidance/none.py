"""No guidance inside training."""

from __future__ import annotations

from typing import ClassVar, Literal

from ablate_core.guidance.base import Guidance


class NoGuidance(Guidance):
    """Targets are those of the data."""

    name: Literal["none"] = "none"
    needs_labels: ClassVar[bool] = False
    trained: ClassVar[bool] = False
