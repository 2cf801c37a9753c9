"""Orders of a pass over the data: complete, without repetition, one class per batch where asked (O23)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ablate_core.batching import Batching
from ablate_core.batching.class_consistent import proportional_counts
from ablate_core.random import generator


@pytest.mark.oracle("O23")
@pytest.mark.proves("batching:iid")
@pytest.mark.parametrize("n", [10, 32, 100])
def test_a_pass_in_random_order_repeats_nothing_and_later_passes_show_the_rest(n: int) -> None:
    seen: set[int] = set()
    for number in range(40):
        order = Batching.model_validate("iid").epoch(n, None, 8, generator(0, "data", number))
        assert order.shape == (n // 8, 8)
        assert len(order.unique()) == order.numel()
        seen |= set(order.flatten().tolist())
    assert seen == set(range(n))


def test_fewer_samples_than_a_batch_are_repeated_evenly() -> None:
    order = Batching.model_validate("iid").epoch(3, None, 8, generator(0, "data", 0))
    assert order.shape == (1, 8)
    assert order.flatten().bincount().tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])


def one_class(counts: str = "whole", **more: Any) -> Batching:
    return Batching.model_validate({"name": "class_consistent", "counts": counts, **more})


@pytest.mark.oracle("O23")
@pytest.mark.proves("batching:class_consistent")
@pytest.mark.parametrize("counts", ["whole", "proportional"])
@pytest.mark.parametrize("size", [8, 12, 50, 63, 64])
def test_every_batch_holds_one_class_and_every_sample_comes_up(size: int, counts: str) -> None:
    y = torch.repeat_interleave(torch.arange(4), torch.tensor([64, 65, 127, 128]))  # defect D11
    seen: set[int] = set()
    orders = []
    for number in range(60):
        order = one_class(counts).epoch(len(y), y, size, generator(0, "data", number))
        assert order.shape[1] == size
        assert bool((y[order] == y[order][:, :1]).all())
        assert all(len(batch.unique()) == size for batch in order)
        assert counts == "proportional" or len(order.unique()) == order.numel()
        seen |= set(order.flatten().tolist())
        orders.append(order)
    assert seen == set(range(len(y)))
    assert len({len(order) for order in orders}) == 1  # a resume counts on it
    assert not torch.equal(orders[0], orders[1])


@pytest.mark.oracle("O23")
@pytest.mark.proves("batching:class_consistent")
@pytest.mark.parametrize("size", range(8, 65))
def test_no_size_of_class_at_or_above_the_batch_runs_off_its_end(size: int) -> None:
    y = torch.repeat_interleave(torch.arange(3), torch.tensor([64, 100, 97]))  # defect D11: 32 left, 64 asked for
    for counts in ("whole", "proportional"):
        for number in range(5):
            order = one_class(counts).epoch(len(y), y, size, generator(1, "data", number))
            assert bool((y[order] == y[order][:, :1]).all())


@pytest.mark.parametrize("sizes", [(39, 32), (59, 21, 31)])
def test_a_class_that_lacks_more_than_a_batch_repeats_no_sample_inside_one(sizes: tuple[int, ...]) -> None:
    y, lacking = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)), 0
    for number in range(200):
        order = one_class("proportional").epoch(len(y), y, 20, generator(0, "data", number))
        assert all(len(batch.unique()) == 20 for batch in order)
        lacking = max(lacking, *(int((y[order[:, 0]] == k).sum()) * 20 - n for k, n in enumerate(sizes)))
    assert lacking > 20


@pytest.mark.oracle("O23")
@pytest.mark.proves("batching:class_consistent")
def test_classes_come_up_in_proportion_to_their_size_where_that_is_asked_for() -> None:
    sizes = torch.tensor([110, 190, 300])  # defect D11: uniformly, whatever their size
    y, passes = torch.repeat_interleave(torch.arange(3), sizes), 1500
    shares = {}
    for counts in ("whole", "proportional"):
        own = one_class(counts)
        drawn = torch.cat([y[own.epoch(600, y, 100, generator(0, "data", k))[:, 0]] for k in range(passes)])
        shares[counts] = (drawn.bincount(minlength=3) / passes).tolist()
    assert shares["whole"] == [1.0, 1.0, 3.0]
    assert shares["proportional"] == pytest.approx([1.1, 1.9, 3.0], abs=0.04)
    for number in range(50):
        counted = proportional_counts([110, 190, 300], 100, generator(0, "data", number))
        assert sum(counted) == 6
        assert all(low <= c <= low + 1 for c, low in zip(counted, (1, 1, 3), strict=True))


def test_the_order_of_earlier_trials_is_unchanged() -> None:
    order = Batching.model_validate("class_consistent").epoch(30, torch.arange(30) % 3, 4, generator(0, "data", 0))
    pinned = [[13, 10, 7, 1], [8, 14, 17, 23], [20, 5, 26, 11], [24, 12, 0, 3], [4, 22, 16, 25], [18, 6, 27, 21]]
    assert order.tolist() == pinned


def test_a_class_smaller_than_a_batch_is_refused_or_drawn_with_replacement() -> None:
    y = torch.tensor([0] * 4 + [1] * 16)
    with pytest.raises(ValueError, match=r"class 0 has 4 samples, fewer than train\.batch_size = 8"):
        Batching.model_validate("class_consistent").epoch(20, y, 8, generator(0, "data", 0))
    order = one_class(replacement=True).epoch(20, y, 8, generator(0, "data", 0))
    assert sorted(y[order][:, 0].tolist()) == [0, 1, 1]
    rare = sum(
        int((y[one_class("proportional", replacement=True).epoch(20, y, 8, generator(0, "data", k))[:, 0]] == 0).sum())
        for k in range(2000)
    )
    assert rare / 2000 == pytest.approx(0.4, abs=0.04)  # 4 of 20 samples, 2 batches per pass


def test_batches_of_one_class_need_labels() -> None:
    with pytest.raises(ValueError, match="needs labelled data"):
        Batching.model_validate("class_consistent").epoch(20, None, 8, generator(0, "data", 0))
