"""Preconditioner `simple_edm` of inductive moment matching (arXiv 2503.07565; lumalabs/imm training/preconds.py)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ablate_core.parameterizations.base import DdimVelocity
from ablate_core.schedules.base import Schedule


class ImmSimpleEdm(DdimVelocity):
    """X = [(a_t a_r + b_t b_r) x - (a_r b_t - a_t b_r) sqrt(q) sigma_data F] / q, q = a_t^2 + b_t^2, a alpha, b sigma.

    The same map is a DDIM jump with V = [(a a' + b b') x + W sqrt(q) sigma_data F] / q, whose value at r = t is the
    velocity, W the Wronskian. The network sees x / (sigma_data sqrt(q)).
    """

    name: Literal["imm_simple_edm"] = "imm_simple_edm"
    sigma_data: float = Field(1.0, gt=0, description="standard deviation of data and of noise")

    @property
    def noise_std(self) -> float:
        return self.sigma_data

    @property
    def claimed_data_std(self) -> float | None:
        return self.sigma_data

    def input_scale(self, t: Tensor, schedule: Schedule) -> Tensor:
        point = schedule.at(t)
        return 1 / (self.sigma_data * torch.sqrt(point.alpha**2 + point.sigma**2))

    def output_scale(self, t: Tensor, schedule: Schedule, g: Tensor | None = None) -> Tensor:
        point = schedule.at(t)
        return self.sigma_data * point.wronskian / torch.sqrt(point.alpha**2 + point.sigma**2)

    def skip_scale(self, t: Tensor, schedule: Schedule) -> Tensor:
        point = schedule.at(t)
        q = point.alpha**2 + point.sigma**2
        return (point.alpha * point.d_alpha + point.sigma * point.d_sigma) / q
