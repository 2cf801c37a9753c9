"""O23: the batches of a trial follow from (seed, step), see every sample and hold one class where they must."""

from __future__ import annotations

import pytest
import torch

from ablate_core.batches import Batches
from ablate_core.batching import Batching

LABELS = torch.tensor([0] * 37 + [1] * 50 + [2] * 16)[torch.randperm(103, generator=torch.Generator().manual_seed(0))]


def batches(name: str, batch_size: int = 16, seed: int = 0, **fields: object) -> Batches:
    rule = Batching.model_validate({"name": name, **fields})
    return Batches(rule, len(LABELS), LABELS, batch_size, seed)


@pytest.mark.parametrize("name", sorted(Batching.choices))
@pytest.mark.parametrize("batch_size", [1, 7, 16])
def test_every_sample_is_seen_and_every_batch_is_full(name: str, batch_size: int) -> None:
    order = batches(name, batch_size)
    seen = torch.zeros(len(LABELS), dtype=torch.int64)
    for step in range(60 * len(LABELS) // batch_size):
        index = order.indices(step)
        assert index.shape == (batch_size,)
        assert len(index.unique()) == batch_size, "a batch holds no sample twice"
        seen[index] += 1
    assert seen.min() > 0


@pytest.mark.parametrize("name", sorted(Batching.choices))
def test_any_order_of_calls_gives_the_same_batches(name: str) -> None:
    forward = [batches(name).indices(step) for step in range(40)]
    one = batches(name)
    for step in reversed(range(40)):
        assert torch.equal(one.indices(step), forward[step])


@pytest.mark.parametrize("name", sorted(Batching.choices))
def test_passes_and_seeds_differ(name: str) -> None:
    def first(order: Batches, at: int) -> list[int]:
        return torch.cat([order.indices(at + k) for k in range(4)]).tolist()

    a = batches(name)
    per_pass = next(k for k in range(1, 20) if divmod(k, len(a._order))[0] == 1)
    assert first(a, 0) != first(a, per_pass)
    assert first(a, 0) != first(batches(name, seed=1), 0)


@pytest.mark.parametrize("batch_size", [1, 5, 15, 16])
def test_class_consistent_batches_hold_one_class_at_its_share(batch_size: int) -> None:
    order, drawn = batches("class_consistent", batch_size), torch.zeros(3)
    for step in range(600):
        labels = LABELS[order.indices(step)]
        assert (labels == labels[0]).all()
        drawn[labels[0]] += 1
    whole = torch.tensor([37 // batch_size, 50 // batch_size, 16 // batch_size]).float()
    assert (drawn / 600 - whole / whole.sum()).abs().max() < 0.02


def test_a_class_smaller_than_the_batch_is_refused_or_drawn_with_replacement() -> None:
    with pytest.raises(ValueError, match="class 2 has 16 samples"):
        batches("class_consistent", 17)
    order = batches("class_consistent", 17, replacement=True)
    assert {int(LABELS[order.indices(step)][0]) for step in range(60)} == {0, 1, 2}


def test_a_batch_larger_than_the_data_repeats_it_evenly() -> None:
    order = Batches(Batching.model_validate("iid"), 5, None, 12, 0)
    counts = torch.bincount(order.indices(0), minlength=5)
    assert counts.tolist().count(2) >= 3
    assert counts.sum() == 12
