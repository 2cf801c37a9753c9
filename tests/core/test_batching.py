"""Orders of a pass over the data: complete, without repetition, one class per batch where asked (O23)."""

from __future__ import annotations

import pytest
import torch

from ablate_core.batching import Batching
from ablate_core.random import generator


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


@pytest.mark.parametrize("size", [8, 12, 50, 64])
def test_every_batch_holds_one_class_and_every_sample_comes_up(size: int) -> None:
    y = torch.repeat_interleave(torch.arange(4), torch.tensor([64, 65, 127, 128]))  # defect D11
    seen: set[int] = set()
    orders = []
    for number in range(30):
        order = Batching.model_validate("class_consistent").epoch(len(y), y, size, generator(0, "data", number))
        assert order.shape[1] == size
        assert bool((y[order] == y[order][:, :1]).all())
        assert len(order.unique()) == order.numel()
        seen |= set(order.flatten().tolist())
        orders.append(order)
    assert seen == set(range(len(y)))
    assert not torch.equal(orders[0], orders[1])


def test_a_class_smaller_than_a_batch_is_refused_or_drawn_with_replacement() -> None:
    y = torch.tensor([0] * 4 + [1] * 16)
    with pytest.raises(ValueError, match=r"class 0 has 4 samples, fewer than train\.batch_size = 8"):
        Batching.model_validate("class_consistent").epoch(20, y, 8, generator(0, "data", 0))
    settings = {"name": "class_consistent", "replacement": True}
    order = Batching.model_validate(settings).epoch(20, y, 8, generator(0, "data", 0))
    assert sorted(y[order][:, 0].tolist()) == [0, 1, 1]


def test_batches_of_one_class_need_labels() -> None:
    with pytest.raises(ValueError, match="needs labelled data"):
        Batching.model_validate("class_consistent").epoch(20, None, 8, generator(0, "data", 0))
