"""Rows that learn to land anywhere by two steps or by moments: shortcut models and their relatives."""

from __future__ import annotations

from ablate_core.methods.row import COMMON, NO_TWO_STEPS, Method

METHODS: dict[str, Method] = {
    "scd": Method(
        title="Shortcut models (self-consistency distillation from scratch)",
        paper="Frans et al., One Step Diffusion via Shortcut Models, arXiv 2410.12557",
        differs=(
            "A quarter of the batch learns jumps (the ESC code's choice; 1/8 in the original), with t anywhere on the"
            " 1/M grid; the network sees t - r instead of log2 of the jump; bootstrap guidance is off by default."
        ),
        slots=COMMON
        | {
            "parameterization": "u",
            "time_sampler": "dyadic",
            "first_step": "network",
            "second_step": "network",
            "limit": {"name": "discrete", "compare": "velocities", "clamp_state": 4.0, "clamp_target": 4.0},
            "target_network": {"name": "ema", "mu": 0.999},
            "metric": "l2_mean",
        },
    ),
    "imm": Method(
        title="Inductive moment matching",
        paper="Zhou et al., Inductive Moment Matching, arXiv 2503.07565",
        differs=(
            "Time is fed in [0, 1] as to all rows (1000 t in the original; an option of the architecture). The kernel"
            " is evaluated per group and s >= r, both of which the ESC code misses. sigma_data is 1, the scale of our"
            " data sets; 0.5 in the original, whose data have that scale."
        ),
        slots=COMMON
        | {
            "parameterization": {"name": "v_ddim", "sigma_data": 1.0},
            "time_sampler": "imm_eta",
            "first_step": "ddim",
            "second_step": "network",
            "limit": {"name": "discrete", "compare": "states"},
            "target_network": "stop_gradient",
            "metric": "mmd_laplace",
            "weighting": "imm",
        },
    ),
    "splitmeanflow": Method(
        title="SplitMeanFlow: interval splitting consistency",
        paper="Guo et al., SplitMeanFlow, arXiv 2507.16884; clcarwin/SplitMeanFlow_MNIST and primepake/splitmeanflow",
        differs=(
            "From scratch with the data velocity at r = t; the paper distils a guided teacher. Times are those of two"
            " LN draws, p_eq 0.5, as the unofficial codes have it; the official one is not public."
        ),
        slots=COMMON
        | {
            "parameterization": "u",
            "time_sampler": "lambda_split",
            "first_step": "network",
            "second_step": "network",
            "limit": {"name": "discrete", "compare": "velocities"},
            "target_network": "stop_gradient",
            "metric": "l2_mean",
        },
    ),
    "tvm": Method(
        title="Terminal velocity matching (TVM)",
        paper="Zhou et al., Terminal Velocity Matching, arXiv 2511.19797; lumalabs/tvm training/loss.py",
        differs=(
            "The flow matching and the terminal term share noise and labels and count one half each (one each in the"
            " original: a factor 2 of the loss). Guidance is off by default; {name: tvm} with parameterization"
            " scaled_u is the paper's. Its Lipschitz control (RMS-normalised modulation, QK-norm) is an option of the"
            " architecture."
        ),
        slots=COMMON
        | NO_TWO_STEPS
        | {
            "parameterization": "u",
            "time_sampler": "tvm",
            "limit": "lagrangian",
            "target_network": {"name": "ema", "mu": 0.99},
            "metric": "l2_mean",
        },
    ),
}
