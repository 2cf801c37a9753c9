"""Rows that learn to land at the data: consistency training, in two steps and in their limit."""

from __future__ import annotations

from ablate_core.methods.row import COMMON, NO_TWO_STEPS, Method

METHODS: dict[str, Method] = {
    "ct": Method(
        title="Consistency training",
        paper="Song et al., Consistency Models, arXiv 2303.01469",
        path="ve",
        differs=(
            "DDIM parameterisation with sigma_data 1 in place of EDM's, so that it runs on every path; the grid in"
            " sigma is mapped to the path by equal log-SNR (the map of the ESC code keeps t below 0.5); l2 for LPIPS,"
            " which needs downloaded weights; lands at t = 0 rather than at sigma_min."
        ),
        slots=COMMON
        | {
            "parameterization": {"name": "v_ddim", "sigma_data": 1.0},
            "time_sampler": "ct_progressive",
            "first_step": "ddim",
            "second_step": "network",
            "limit": {"name": "discrete", "compare": "states"},
            "target_network": "ct_adaptive",
            "metric": "l2_mean",
        },
    ),
    "ct_linear": Method(
        title="Consistency training on the linear path (ESC's row CT-linear)",
        paper="ESC, arXiv 2512.11831; EDAPINENUT/ExplicitShortCut loss/consistency_loss_esc.py",
        differs=(
            "The grid in sigma is mapped to the path by equal log-SNR; the reference divides the index twice and"
            " keeps t below 0.5, while sampling starts at t = 1. The metric is the adaptive one of the other rows; the"
            " reference has adaptive_sq under the same name."
        ),
        slots=COMMON
        | {
            "parameterization": {"name": "v_ddim", "sigma_data": 1.0},
            "time_sampler": "ict",
            "first_step": "ddim",
            "second_step": "network",
            "limit": {"name": "discrete", "compare": "states"},
            "target_network": "stop_gradient",
            "metric": "adaptive",
        },
    ),
    "ict": Method(
        title="Improved consistency training (iCT)",
        paper="Song and Dhariwal, Improved Techniques for Training Consistency Models, arXiv 2310.14189",
        path="ve",
        differs=(
            "The pseudo-Huber metric is the norm form of the paper, not the element-wise one of a public code."
            " sigma_data is 1, the scale of our data sets; 0.5 in the original."
        ),
        slots=COMMON
        | {
            "parameterization": {"name": "edm", "sigma_data": 1.0, "sigma_min": 0.002},
            "time_sampler": "ict",
            "first_step": "ddim",
            "second_step": "network",
            "limit": {"name": "discrete", "compare": "states"},
            "target_network": "stop_gradient",
            "metric": "pseudo_huber",
            "weighting": "inv_dt",
        },
    ),
    "ect": Method(
        title="Easy consistency tuning, from scratch (ECT)",
        paper="Geng et al., Consistency Models Made Easy, arXiv 2406.14548; locuslab/ect",
        path="ve",
        differs=(
            "Trained from scratch; the paper starts from a diffusion model. Stages follow step / total. Rows whose s"
            " is 0 have the clean sample as target by the boundary of the parameterisation, with sigma_min 0."
            " sigma_data is 1, the scale of our data sets; 0.5 in the original."
        ),
        slots=COMMON
        | {
            "parameterization": {"name": "edm", "sigma_data": 1.0, "sigma_min": 0.0},
            "time_sampler": "ect",
            "first_step": "ddim",
            "second_step": "network",
            "limit": {"name": "discrete", "compare": "states"},
            "target_network": "stop_gradient",
            "metric": "l2_norm",
            "weighting": "inv_dt",
        },
    ),
    "sct": Method(
        title="Continuous-time consistency training (sCM)",
        paper="Lu and Song, Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models, arXiv 2410.11081",
        path="cosine01",
        differs=(
            "One formula for every path: on cosine01 it is TrigFlow's (velocity per unit t), on linear the same noise"
            " levels. c_out is applied to the velocity and to its derivative, which the ESC code forgets. sigma_data"
            " is 1, the scale of our data sets; 0.5 in the original, whose data have that scale. The sampler keeps the"
            " original's mu of -1; the same distribution of sigma / sigma_data would have -0.31."
        ),
        slots=COMMON
        | NO_TWO_STEPS
        | {
            "parameterization": {"name": "v_ddim", "sigma_data": 1.0},
            "time_sampler": "scm_lognormal",
            "limit": "continuous",
            "target_network": "stop_gradient",
            "metric": "l2_mean",
            "weighting": "variational",
            "tangent": {"name": "shaped", "warmup_steps": 10_000, "normalize": "rms", "c": 0.1, "weight": "alpha"},
        },
    ),
    "sct_linear": Method(
        title="Continuous-time consistency training on average velocities (ESC's row sCT-linear)",
        paper="ESC, arXiv 2512.11831; EDAPINENUT/ExplicitShortCut loss/scm_linear_loss.py",
        differs="Warm-up 10000 is the loss file's default; the released command passes 0, which divides by zero.",
        slots=COMMON
        | NO_TWO_STEPS
        | {
            "parameterization": "u",
            "time_sampler": "fixed0",
            "limit": "continuous",
            "target_network": "stop_gradient",
            "metric": "l2_mean",
            "weighting": "variational",
            "tangent": {"name": "shaped", "warmup_steps": 10_000},
        },
    ),
}
