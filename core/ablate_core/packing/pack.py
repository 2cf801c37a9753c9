"""Several trials trained as a pack: who may go with whom, and the run itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ablate_core.compute import ALONE, Compute
from ablate_core.config import TrialConfig
from ablate_core.identity import content_id
from ablate_core.memory import keep_memory, share_memory
from ablate_core.packing.calls import MemberCompute
from ablate_core.packing.lockstep import Player, Shares, Turn, conduct
from ablate_core.packing.rendezvous import Rendezvous
from ablate_core.trainer import Report, Result, train


@dataclass(frozen=True)
class Member:
    """One trial of a pack; the fields are the arguments of `trainer.train`."""

    config: TrialConfig
    folder: Path
    report: Report | None = None
    should_stop: Callable[[], bool] | None = None


def pack_key(config: TrialConfig) -> str | None:
    """Trials with the same key may train as one pack; None: this one trains alone.

    Equal keys are equal shapes: the same network with the same heads, data, batch and precision. Seeds, objectives,
    optimisers, learning rates, numbers of steps and measurements may differ.
    """
    if not config.architecture.stackable or config.train.compile:
        return None
    own = config.objective
    return content_id(
        {
            "architecture": config.architecture.model_dump(mode="json"),
            "data": config.data.model_dump(mode="json"),
            "batch_size": config.train.batch_size,
            "precision": config.train.precision,
            "heads": [own.needs_log_variance, own.parameterization.needs_velocity_head, own.guidance_inputs],
        }
    )


def train_pack(members: Sequence[Member], *, device: str | torch.device = "cpu") -> list[Result | Exception]:
    """Train and measure several trials in one process, each as `trainer.train` would alone.

    A member that finishes, diverges, is asked to stop or fails leaves the pack, and the others go on. Only an exception
    in the backward pass, which is one for all, ends all who have a part in it. Members may be at different steps: each
    continues from the checkpoint in its own folder, which is that of the trial alone. CPU seconds of the pack are
    shared equally among the members that live at the time; wall seconds are everybody's.

    Args:
        members: the trials; those whose `pack_key` is the same gain from being together, others work as well.
        device: where all of them run.

    Returns:
        For each member its result, or the exception that `train` would have raised for it alone; a `PackError` where it
        is not known whose it was, or a pack is not for it: such members can be tried again in smaller ones, or alone.

    Raises:
        BaseException: an interrupt of the whole process, after all members were ended.
    """
    keep_memory()
    share_memory()
    shares, turn, rendezvous = Shares(), Turn(), Rendezvous()

    def run(member: Member, compute: Compute) -> Result:
        return train(
            member.config,
            member.folder,
            device=device,
            report=member.report,
            should_stop=member.should_stop,
            compute=compute,
        )

    if len(members) == 1:
        try:
            return [run(members[0], ALONE)]
        except Exception as error:
            return [error]
    players: list[Player[Result]] = [
        Player(number, lambda player, member=member: run(member, MemberCompute(player, shares)), turn)  # type: ignore[misc]
        for number, member in enumerate(members)
    ]
    conduct(players, rendezvous.serve, shares, turn)
    return [_ended(player) for player in players]


def _ended(player: Player[Result]) -> Result | Exception:
    assert player.ended is not None
    result, error = player.ended
    if isinstance(error, Exception):
        return error
    assert result is not None
    return result
