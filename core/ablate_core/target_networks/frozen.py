"""Targets use a trained teacher that never moves: distillation, not training from scratch (C24)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from ablate_core import stored_weights
from ablate_core.ema import tied_names
from ablate_core.target_networks.base import TargetNetwork

WHERE = "objective.target_network.checkpoint"
WHAT = "a trial's checkpoint.pt, or a torch file with a state dict of the same architecture"


class Frozen(TargetNetwork):
    """theta^- is read from a file and stays as it is."""

    name: Literal["frozen"] = "frozen"
    checkpoint: str | None = Field(
        None, json_schema_extra={"nuisance": True}, description="path of a trial's checkpoint or of a state dict"
    )
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", description="SHA-256 of that file: which weights")
    ema: float = Field(0.0, ge=0, lt=1, description="which average of a trial's checkpoint, by its decay; 0: none")
    separate: ClassVar[bool] = True
    teacher: ClassVar[bool] = True

    def decay(self, step: int, total_steps: int) -> float:
        return 1.0

    def preflight(self) -> None:
        stored_weights.find(WHERE, self.checkpoint, self.sha256, WHAT)

    def prepare(self, copy: nn.Module) -> None:
        stored = self._weights(stored_weights.read(WHERE, self.checkpoint, self.sha256, WHAT))
        own = copy.state_dict()
        for name in sorted(own.keys() | stored.keys()):
            ours, theirs = _shape(own.get(name)), _shape(stored.get(name))
            if ours != theirs:
                raise ValueError(
                    f"{WHERE}: {self.checkpoint!r} has another architecture: {name} is {theirs} there and {ours} here"
                )
        copy.load_state_dict({**stored, **{name: stored[first] for name, first in tied_names(copy).items()}})

    def _weights(self, stored: dict[str, Any]) -> dict[str, Any]:
        """The state dict in what the file holds."""
        trial = isinstance(stored.get("net"), dict)
        if not self.ema:
            weights: dict[str, Any] = stored["net"] if trial else stored
            return weights
        averages = stored.get("ema", {}) if trial else {}
        if repr(self.ema) not in averages:
            kept, where = ", ".join(averages) or "none", "objective.target_network.ema"
            raise ValueError(f"{where}: {self.checkpoint!r} has no average of decay {self.ema:g}; there are {kept}")
        return {**stored["net"], **averages[repr(self.ema)]}


def _shape(value: object) -> str:
    return " x ".join(map(str, value.shape)) or "a number" if isinstance(value, Tensor) else "missing"
