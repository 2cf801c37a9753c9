"""The tangent of the continuous limit and its warm-up against the closed forms of TrigFlow (O14; design-space 2.13)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from golden_cases import random_network
from torch import Tensor
from torch.testing import assert_close

from ablate_core.flow_map import FlowMap
from ablate_core.parameterizations import Parameterization
from ablate_core.schedules import Schedule
from ablate_core.state import Rows
from ablate_core.tangents import Tangent
from ablate_core.tangents.shaped import Shaped
from ablate_core.targets.continuous import Continuous

TRIG = Schedule.model_validate("trig")
SIGMA_DATA = 0.5


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def trigflow(rho: float, kind: str) -> tuple[Tensor, Any, Tensor]:
    """The published tangent g at warm-up `rho`, the slope of ours, and F^-."""
    theta = torch.tensor([0.1, 0.4, 0.9, 1.4, 1.57], dtype=torch.float64)
    x, dx = TRIG.interpolate(normal(5, 4, seed=0), SIGMA_DATA * normal(5, 4, seed=1), theta)
    net, zero = random_network((4,)), torch.zeros_like(theta)
    own = Parameterization.model_validate({"name": "trig_F", "sigma_data": SIGMA_DATA})
    rows = Rows(x=x, v=dx, r=zero, s=theta, t=theta, y=None, ladder_bottom=None, null=5)
    with torch.no_grad():
        slope = Continuous().slope(FlowMap(net, own, TRIG), rows)
        raw, d_raw = torch.func.jvp(
            lambda x, t: net(x / SIGMA_DATA, zero, t, None), (x, theta), (dx, torch.ones_like(theta))
        )
    cos, sin = theta.cos()[:, None], theta.sin()[:, None]
    straight = cos if kind == "curved" else torch.sqrt(1 - rho**2 * sin**2)
    g = -cos * straight * (SIGMA_DATA * raw - dx) - rho * cos * sin * (x + SIGMA_DATA * d_raw)
    return g, slope, raw


@pytest.mark.oracle("O14")
@pytest.mark.proves("tangent:shaped")
@pytest.mark.parametrize("kind", ["curved", "rcm"])
@pytest.mark.parametrize("step", [0, 30, 99, 100, 500])
def test_the_warm_up_equals_the_closed_form_of_its_publication(kind: Any, step: int) -> None:
    shaped = Shaped(warmup_steps=100, weight="alpha", warmup=kind)
    g, slope, raw = trigflow(min(1.0, step / 100), kind)
    assert_close(shaped.target(slope, step) - raw, g, rtol=1e-9, atol=1e-12)


@pytest.mark.oracle("O14")
def test_both_warm_ups_end_at_the_same_target_bit_for_bit() -> None:
    _, slope, _ = trigflow(1.0, "rcm")
    ends = [Shaped(warmup_steps=100, weight="alpha", warmup=kind).target(slope, 100) for kind in ("curved", "rcm")]
    assert torch.equal(*ends)
    begins = [Shaped(warmup_steps=100, weight="alpha", warmup=kind).target(slope, 0) for kind in ("curved", "rcm")]
    assert not torch.allclose(*begins)


@pytest.mark.oracle("O14")
@pytest.mark.proves("tangent:none")
def test_a_warm_up_of_no_steps_is_off_whatever_its_kind() -> None:
    own = Shaped(warmup_steps=0, normalize="rms", warmup="rcm")  # defect D5: the reference divides by 0
    assert own.rho(0) == 1.0
    assert own.simplest() == Shaped(warmup_steps=0, normalize="rms")
    assert Shaped(warmup_steps=0, warmup="rcm").simplest() == Tangent.model_validate("none")
    assert Shaped(warmup="rcm").simplest() == Shaped(warmup="rcm")
