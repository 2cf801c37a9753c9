"""Which trainings share a process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ablate.launch import groups
from ablate.launch.attempt import Task
from ablate.launch.groups import Sorter, works
from ablate.space import expand, space_from_text
from ablate_core.config import TrialConfig


def packed(names: str, slots: int, pack: Any = "auto", small: str = "abcdxyz") -> list[str]:
    """Works of trainings such as ``a0 a1 b0``; the letter is the kind, upper case may be packed with its lower case."""
    tasks = [Task(name, "e", {}, "eval" if "-" in name else "train") for name in names.split()]
    made = works(
        tasks,
        slots,
        pack,
        lambda task: None if task.key[0] == "_" else (task.key[0].lower(), task.key[0]),
        lambda task: task.key[0].lower() in small,
    )
    assert sorted(index for work in made for index in work) == list(range(len(tasks)))
    return ["+".join(tasks[index].key for index in work) for work in made]


def seeds(kinds: str, count: int) -> str:
    """Seed by seed, as an agenda has them."""
    return " ".join(f"{kind}{seed}" for seed in range(count) for kind in kinds)


def test_no_slot_is_idle_so_that_others_can_share() -> None:
    assert packed("a0 a1 a2", 4) == ["a0", "a1", "a2"]
    assert packed("a0 a1 a2 a3", 2) == ["a0+a1", "a2+a3"]
    assert packed("a0 a1 a2", 2) == ["a0+a1", "a2"]
    assert packed(seeds("ab", 4), 4) == ["a0+a1", "b0+b1", "a2+a3", "b2+b3"]


def test_seeds_of_an_arm_go_together_in_the_order_of_the_plan() -> None:
    assert packed(seeds("abc", 3), 2) == ["a0+a1+a2", "b0+b1+b2", "c0+c1+c2"]


def test_packs_are_even_and_bounded() -> None:
    sizes = [len(work.split("+")) for work in packed(seeds("a", 100), 2)]
    assert max(sizes) == groups.MOST
    assert max(sizes) - min(sizes) <= 1
    many = [len(work.split("+")) for work in packed(seeds("a", 1000), 64)]
    assert max(many) <= groups.MOST
    assert len(packed(seeds("a", 300), 64)) == 64


def test_what_cannot_or_should_not_be_packed_is_alone() -> None:
    assert packed("_0 _1 a0 a1 b0 b1", 1, small="b") == ["_0", "_1", "a0", "a1", "b0+b1"]
    assert packed("a0-e2 a0-e4 b0 b1", 1) == ["a0-e2", "a0-e4", "b0+b1"]
    assert packed("a0 a1 a2", 1, 1) == ["a0", "a1", "a2"]


def test_a_number_is_the_most_that_share_whatever_the_slots_and_sizes() -> None:
    assert packed(seeds("a", 5), 64, 2, small="") == ["a0+a1", "a2+a3", "a4"]
    assert packed(seeds("a", 5), 64, 4) == ["a0+a1+a2", "a3+a4"]


def test_a_number_fills_packs_with_others_of_the_same_shapes() -> None:
    assert packed("a0 A0 a1 A1 b0", 1, 4) == ["a0+a1+A0+A1", "b0"]
    assert packed("a0 A0 a1 A1 a2", 1, 3) == ["a0+a1+a2", "A0+A1"]


SPACE = """
base: {objective: meanflow, architecture: {name: sit, width: 32, depth: 1, heads: 2}, train: {steps: 4, batch_size: 32}}
axes:
  objective: [meanflow, fm]
  lr: {path: train.lr, levels: [1e-3, 3e-3]}
seeds: 2
"""


def test_seeds_rates_and_constants_share_a_kind_and_other_graphs_do_not() -> None:
    plan = expand(space_from_text(SPACE, name="t"))
    sorter = Sorter()
    kinds: dict[str, set[Any]] = {}
    for trial in plan.trials:
        config = trial.config.resolved()
        kinds.setdefault(config["objective"]["name"], set()).add(sorter.kind(Task(trial.key, "e", config)))
    assert {name: len(found) for name, found in kinds.items()} == {"meanflow": 1, "fm": 1}
    (one,), (other,) = kinds.values()
    assert one[0] == other[0]
    assert one != other
    assert sorter.small(Task("k", "e", plan.trials[0].config.resolved()))
    large = {**plan.trials[0].config.resolved(), "architecture": {"name": "sit", "size": "S/2"}}
    wide = {**plan.trials[0].config.resolved(), "train": {"batch_size": 128}}
    assert not sorter.small(Task("k", "e", wide))
    assert not sorter.small(Task("k", "e", large))


def trainings(objectives: str, size: str = "tiny/4", seeds: str = "0, 1") -> list[Task]:
    text = f"""
base: {{objective: fm, architecture: {{name: sit, size: {size}}}, data: digits,
  train: {{steps: 10, batch_size: 4}}, eval: {{metric: fd_digits, samples: 10}}}}
axes: {{objective: [{objectives}]}}
seeds: {{list: [{seeds}]}}
"""
    plan = expand(space_from_text(text, name="toy"))
    return [Task(trial.key, trial.eval_key, trial.config.resolved()) for trial in plan.trials]


def test_lengths_count_passes_of_rows_through_weights() -> None:
    tasks = trainings("fm, ct")
    found = groups.lengths([*tasks, Task("evaluation", "e", tasks[0].config, "eval")])
    weights = Sorter().weights(tasks[0])
    by_objective = {task.config["objective"]["name"]: found[index] for index, task in enumerate(tasks)}
    assert found[-1] is None
    assert by_objective == {"fm": 3 * 40 * weights, "ct": 4 * 40 * weights}


def test_of_too_many_kinds_no_lengths_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "MOST_RECIPES", 1)
    assert groups.lengths(trainings("fm, ct")) == [None] * 4


def test_weights_of_a_network_are_counted_without_writing_them() -> None:
    small, large = trainings("fm")[0], trainings("fm", "XL/2")[0]
    config = TrialConfig.model_validate(small.config)
    assert Sorter().weights(small) == sum(p.numel() for p in config.architecture.build((1, 8, 8), 10).parameters())
    resident = int(Path("/proc/self/statm").read_text().split()[1])
    assert Sorter().weights(large) > 600e6
    grown = (int(Path("/proc/self/statm").read_text().split()[1]) - resident) * os.sysconf("SC_PAGESIZE")
    assert grown < 200e6  # its weights are 2.7 GB


def test_torchs_forward_mode_is_wanted_for_tangents_of_networks_that_have_not_written_them_out() -> None:
    assert not groups.forward_mode(trainings("fm, meanflow"))
    on_mlp = [
        Task(task.key, "e", {**task.config, "architecture": {"name": "mlp"}, "data": {"name": "gaussians"}})
        for task in trainings("fm, meanflow", seeds="0")
    ]
    assert [groups.forward_mode([task]) for task in on_mlp] == [False, True]
