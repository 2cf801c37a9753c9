"""The components keep the contracts that those of `ablate` keep, and have the closed forms they claim."""

from __future__ import annotations

import pytest
import torch
from ablate_example_plugin import Parabola, Tilted
from torch.testing import assert_close

from ablate_core.random import Draws
from ablate_core.schedules import Schedule
from ablate_core.testing import Check, checks


@pytest.mark.parametrize("check", checks("ablate_example_plugin"), ids=str)
def test_every_component_keeps_the_contract_of_its_axis(check: Check) -> None:
    check()


def test_a_jump_of_the_parabola_has_its_closed_form() -> None:
    t, r = torch.tensor([[0.9, 0.5, 1.0], [0.1, 0.5, 0.0]], dtype=torch.float64)
    keep, move = Parabola().jump(t, r)
    assert_close(keep, (1 - r**2 + 2 * t * r) / (1 + t**2), rtol=1e-14, atol=0)
    assert_close(move, (r - t) * (1 + r * t) / (1 + t**2), rtol=1e-14, atol=0)


def test_tilted_times_have_their_closed_distributions() -> None:
    own = Tilted(tilt=2.0, p_eq=0.0)
    draws = Draws(0, 0, dtype=torch.float64)
    times = own.sample(50_000, draws, schedule=Schedule.model_validate("linear"), noise_std=1.0, step=0, total_steps=1)
    for q in (0.3, 0.5, 0.8):
        assert float((times.t < q).double().mean()) == pytest.approx(q**3, abs=0.01)
        assert float((times.r / times.t < q).double().mean()) == pytest.approx(q, abs=0.01)
