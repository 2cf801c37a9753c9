"""Which trainings of a plan will share a process, for ``ablate plan``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ablate.errors import ClusterError

if TYPE_CHECKING:
    from ablate.launch.attempt import Task
    from ablate.launch.options import RunOptions
    from ablate.space import Plan
    from ablate.store import StorePaths


class Packs:
    """What is left to train, in the groups that share a process.

    Attributes:
        groups: of two trainings and more, the first to start first.
        processes: of all trainings that are left.
        trainings: how many those are.
        slots: how many processes this machine runs at once; a cluster has others, and ``auto`` then packs otherwise.
    """

    def __init__(self, plan: Plan, paths: StorePaths, measured: set[tuple[str, str]], slots: int) -> None:
        from ablate.launch.agenda import agenda
        from ablate.launch.groups import works
        from ablate.store import states

        tasks = [task for task in agenda(plan, states(paths), measured).tasks if task.kind == "train"]
        self.slots = slots
        made = works(tasks, self.slots, plan.resources.get("pack") or "auto")
        self.groups = [[tasks[index] for index in work] for work in made if len(work) > 1]
        self.processes, self.trainings = len(made), len(tasks)

    def keys(self) -> list[list[str]]:
        """Trial keys of each group."""
        return [[task.key for task in group] for group in self.groups]

    def rows(self) -> list[tuple[int, int, str]]:
        """(number of packs, trainings in each, what they hold) for packs that hold the same arms."""
        counts: dict[tuple[int, str], int] = {}
        for group in self.groups:
            row = (len(group), _held(group))
            counts[row] = counts.get(row, 0) + 1
        return [(count, size, held) for (size, held), count in counts.items()]

    def text(self) -> str:
        """The line of a summary; empty where nothing is packed."""
        if not self.groups:
            return ""
        from ablate.cli import present

        at_once = f"{self.slots} at once on this machine"
        processes = present.count(self.processes, "process", "processes")
        return (
            f"packs: {self.trainings} trainings in {processes} instead of {self.trainings} ({at_once}); "
            "--pack 1 trains each alone"
        )


def _held(group: Sequence[Task]) -> str:
    labels = list(dict.fromkeys(task.label for task in group))
    return ", ".join(labels) if len(labels) <= 4 else f"{', '.join(labels[:3])} and {len(labels) - 3} more"


def slots_here(resources: Mapping[str, Any], options: RunOptions | None = None) -> int:
    """Trials that this machine runs at once; 1 where it cannot run any, which a run will say."""
    import torch

    from ablate.launch.options import RunOptions, place

    here = {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}
    wanted = float(resources.get("cpus") or 0), float(resources.get("gpus") or 0)
    try:
        return place(options or RunOptions(), *wanted, [here]).slots
    except ClusterError:
        return 1
