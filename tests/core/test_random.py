"""Named random streams: reproducible, independent, addressed by counters."""

from __future__ import annotations

import pytest
import torch

from ablate_core.random import Draws, generator, stream_seed


def test_a_seed_depends_on_every_part_of_its_address_and_on_nothing_else() -> None:
    seeds = [
        stream_seed(0, "noise", 1),
        stream_seed(1, "noise", 1),
        stream_seed(0, "time", 1),
        stream_seed(0, "noise", 2),
    ]
    seeds += [stream_seed(0, "noise", 1, 0), stream_seed(0, "noise")]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_seed_of_a_stream_never_changes() -> None:
    assert stream_seed(0, "noise", 1) == 4331743028374165210  # a change makes every stored trial unrepeatable


def test_an_unknown_stream_is_refused() -> None:
    with pytest.raises(ValueError, match="no random stream is named 'nois'"):
        stream_seed(0, "nois")


def test_draws_repeat_for_equal_addresses_and_differ_between_steps_and_names() -> None:
    first, again, later = Draws(0, 7), Draws(0, 7), Draws(0, 8)
    assert torch.equal(first.normal("noise", 5), again.normal("noise", 5))
    assert not torch.equal(first.normal("noise", 5), later.normal("noise", 5))
    assert not torch.equal(first.uniform("time.t", 5), first.uniform("time.r", 5))
    assert int(first.integers("time.index", 3, 100).max()) == 2


def test_a_draw_is_that_of_a_new_generator_whatever_was_drawn_before() -> None:
    draws = Draws(3, 7)
    for name, count in (("noise", 3), ("time.t", 1), ("time.r", 17), ("noise", 3)):  # odd counts leave a number behind
        assert torch.equal(draws.normal(name, count), torch.randn(count, generator=generator(3, name, 7)))
        assert torch.equal(draws.uniform(name, count), torch.rand(count, generator=generator(3, name, 7)))
    assert torch.equal(draws.integers("time.k", 9, 5), torch.randint(9, (5,), generator=generator(3, "time.k", 7)))


def test_a_generator_is_seeded_by_its_stream() -> None:
    a, b = generator(0, "data", 3), torch.Generator().manual_seed(stream_seed(0, "data", 3))
    assert torch.equal(torch.randperm(10, generator=a), torch.randperm(10, generator=b))
