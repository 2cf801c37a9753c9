"""O21: before the first update a zero-initialised SiT outputs 0, its tangent is 0, and the continuous target is v."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from ablate_core.architectures.sit import SiT
from ablate_core.objective import Batch, Objective
from ablate_core.random import Draws
from ablate_core.schedules import Schedule


@pytest.mark.oracle("O21")
@pytest.mark.proves("velocity:conditional")
@pytest.mark.parametrize("path", ["linear", "cosine01"])
def test_at_step_0_the_loss_of_meanflow_is_the_squared_conditional_velocity(path: str) -> None:
    torch.manual_seed(0)
    net = SiT(size="tiny/4").build((1, 8, 8), 10).double()
    objective = Objective.model_validate({"name": "meanflow", "metric": "l2_mean", "time_sampler": {"p_eq": 0.25}})
    schedule = Schedule.model_validate(path)
    x0 = torch.randn(16, 1, 8, 8, dtype=torch.float64)
    batch = Batch(x0=x0, y=torch.arange(16) % 10, num_classes=10)
    draws = Draws(3, 0, dtype=torch.float64)
    loss = objective.loss(net, net, schedule, batch, draws, 0, 100).per_sample

    again = Draws(3, 0, dtype=torch.float64)
    times = objective.time_sampler.sample(16, again, schedule=schedule, noise_std=1.0, step=0, total_steps=100)
    noise = again.normal("noise", *x0.shape)
    point = schedule.at(times.t.view(-1, 1, 1, 1))
    velocity = point.d_alpha * x0 + point.d_sigma * noise
    assert (times.r < times.t).any(), "some rows jump, so that the tangent takes part"
    assert_close(loss, velocity.square().mean(dim=(1, 2, 3)), rtol=1e-12, atol=1e-12)
