"""Which trainings share a process: the plan of packs, before anything runs. No Ray here.

A pack saves the arithmetic's overhead and costs slots, so that trials are packed only when there are more of them than
slots, and are then spread evenly over the slots.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ablate.launch.attempt import Task
from ablate.launch.options import Pack
from ablate_core.identity import canonical_json

if TYPE_CHECKING:
    from ablate_core.architectures.base import Network
    from ablate_core.config import TrialConfig
    from ablate_core.passes import Asked

Kind = tuple[str, ...]
"""Trainings of one kind may be packed; the first entry is what must be equal, the others what had better be."""

MOST = 8
"""Members of a pack that ``auto`` makes: beyond it a step gains little, and a crash costs more."""
SMALL = 2_000_000
"""Weights of the largest network that ``auto`` packs: beyond it the time of a step is arithmetic, not overhead."""
ROWS = 64
"""Largest batch that ``auto`` packs: packs of three seeds at 64 saved 7 % of the demo (docs/performance.md)."""
MOST_RECIPES = 64
"""Recipes of which lengths are told, a few milliseconds each."""
GUESSED_SHAPE = (4, 32, 32)
"""Shape of a sample where only loading the data would tell; the number of weights depends little on it."""


def works(
    tasks: Sequence[Task],
    slots: int,
    pack: Pack,
    kind: Callable[[Task], Kind | None] | None = None,
    small: Callable[[Task], bool] | None = None,
    sorter: Sorter | None = None,
) -> list[list[int]]:
    """Indices of the tasks, grouped into what one process does at once, in the order they are started.

    Args:
        tasks: in the order in which they should be done.
        slots: how many processes run at once.
        pack: 1: every task alone; N: at most N trainings together; ``auto``: as many as leave no slot idle, at most
            `MOST`, and only those whose networks are small.
        kind: of a training, None where it is trained alone; by default what its config says.
        small: whether ``auto`` may pack a training; by default by the size of its network.
        sorter: one that has looked at these tasks already.
    """
    sorter = sorter or Sorter()
    kind, small = kind or sorter.kind, small or sorter.small
    trainings = sum(task.kind == "train" for task in tasks)
    alike: dict[Kind, list[int]] = {}
    for index, task in enumerate(tasks):
        may = pack != 1 and task.kind == "train" and (pack != "auto" or (trainings > slots and small(task)))
        found = kind(task) if may else None
        alike.setdefault(("alone", str(index)) if found is None else found, []).append(index)
    made: list[list[int]] = []
    for members in alike.values():
        if pack == "auto":
            share = int(slots * len(members) / max(trainings, 1) + 0.5)  # of the slots
            made += _evenly(members, max(-(-len(members) // MOST), min(share, len(members)), 1))
        else:
            made += _evenly(members, -(-len(members) // pack))
    if pack != "auto" and pack > 1:
        made = _joined(made, pack, lambda index: kind(tasks[index]) if tasks[index].kind == "train" else None)
    return sorted(made)


def lengths(tasks: Sequence[Task], sorter: Sorter | None = None) -> list[float | None]:
    """How long these tasks take, compared with each other: passes of rows through weights.

    None for evaluations, where it cannot be told, and everywhere where there are too many kinds to look at each: a run
    of that many pieces does not end with most of its slots idle.
    """
    if _recipes(tasks) > MOST_RECIPES:
        return [None] * len(tasks)
    sorter = sorter or Sorter()
    return [sorter.length(task) if task.kind == "train" else None for task in tasks]


def forward_mode(tasks: Sequence[Task], sorter: Sorter | None = None) -> bool:
    """Whether a training may use torch's forward mode: tangents of a network that has not written them out."""
    if _recipes(tasks) > MOST_RECIPES:
        return True
    sorter = sorter or Sorter()
    return any(sorter.forward_mode(task) for task in tasks if task.kind == "train")


def _recipes(tasks: Sequence[Task]) -> int:
    return len({canonical_json({**task.config, "seed": 0}) for task in tasks if task.kind == "train"})


def _evenly(members: list[int], parts: int) -> list[list[int]]:
    """`members` in order, as `parts` lists whose lengths differ by at most one."""
    size, more = divmod(len(members), parts)
    ends = [(part + 1) * size + min(part + 1, more) for part in range(parts)]
    return [members[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _joined(made: list[list[int]], most: int, kind: Callable[[int], Kind | None]) -> list[list[int]]:
    """Lists whose members may share a process although they had better not, joined up to `most`."""
    found: list[list[int]] = []
    open_: dict[str, list[int]] = {}
    for members in made:
        here = kind(members[0])
        room = open_.get(here[0]) if here else None
        if room is not None and len(room) + len(members) <= most:
            room += members
        else:
            found.append(members)
            if here:
                open_[here[0]] = members
    return found


class Sorter:
    """Tells the kinds and sizes of trainings; those that differ by their seed alone are looked at once."""

    def __init__(self) -> None:
        self._kinds: dict[str, Kind | None] = {}
        self._networks: dict[str, Network | None] = {}
        self._asked: dict[str, Asked | None] = {}

    def kind(self, task: Task) -> Kind | None:
        """Equal where two trainings may be packed: their shapes, and then the parts that their steps are made of."""
        from ablate.launch.attempt import load_config
        from ablate_core.packing import pack_key

        recipe = canonical_json({**task.config, "seed": 0})
        if recipe not in self._kinds:
            config = load_config(task.config)
            key = pack_key(config)
            parts = (*_names(config.objective.model_dump(mode="json")), config.schedule.name)
            self._kinds[recipe] = None if key is None else (key, *parts)
        return self._kinds[recipe]

    def small(self, task: Task) -> bool:
        """Whether a step is mostly overhead: at most `ROWS` rows through at most `SMALL` weights."""
        return task.config["train"]["batch_size"] <= ROWS and self.weights(task) <= SMALL

    def weights(self, task: Task) -> float:
        """Weights of its network; infinity where they cannot be told: it is not packed unless somebody asks for it."""
        net = self._network(task)
        return float("inf") if net is None else float(sum(p.numel() for p in net.parameters()))

    def _network(self, task: Task) -> Network | None:
        from ablate.launch.attempt import load_config

        recipe = canonical_json({name: task.config[name] for name in ("architecture", "data")})
        if recipe not in self._networks:
            self._networks[recipe] = _unwritten(load_config(task.config))
        return self._networks[recipe]

    def length(self, task: Task) -> float | None:
        """Passes of a row through a weight in the whole training; None where they cannot be told."""
        asked, weights = self._asked_by(task), self.weights(task)
        if asked is None or weights == float("inf"):
            return None
        rows = float(task.config["train"]["batch_size"] * task.config["train"]["steps"])
        return asked.passes * rows * weights

    def forward_mode(self, task: Task) -> bool:
        """Whether it may take derivatives by torch's forward mode."""
        from ablate_core.architectures.base import Network

        asked, net = self._asked_by(task), self._network(task)
        if asked is None or net is None:
            return True
        return asked.tangents and type(net).forward_and_tangent is Network.forward_and_tangent

    def _asked_by(self, task: Task) -> Asked | None:
        from ablate.launch.attempt import load_config
        from ablate_core.passes import asked_by_a_step

        recipe = canonical_json({**task.config, "seed": 0})
        if recipe not in self._asked:
            self._asked[recipe] = asked_by_a_step(load_config(task.config))
        return self._asked[recipe]


def _names(part: Any) -> list[str]:
    """The names of a component and of its parts, in order: the graph of a step without its constants."""
    if not isinstance(part, Mapping):
        return []
    own = [str(part["name"])] if "name" in part else []
    return own + [name for field in part.values() for name in _names(field)]


def _unwritten(config: TrialConfig) -> Network | None:
    """The network, built without touching the memory of its weights; None where that does not work."""
    from ablate_core.preparation import unwritten_network

    data = config.data
    shape = data.load().shape if data.dimension is not None else GUESSED_SHAPE
    try:
        return unwritten_network(config, shape, data.classes or 10)
    except (RuntimeError, ValueError, TypeError, NotImplementedError):
        return None
