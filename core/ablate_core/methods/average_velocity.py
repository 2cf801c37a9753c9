"""Rows that learn average velocities in the continuous limit: MeanFlow and what followed it."""

from __future__ import annotations

from ablate_core.methods.row import COMMON, NO_TWO_STEPS, UNGUIDED, Method

METHODS: dict[str, Method] = {
    "meanflow": Method(
        title="MeanFlow",
        paper="Geng et al., Mean Flows for One-step Generative Modeling, arXiv 2505.13447",
        differs=f"c = 1e-3 in the adaptive metric, as in the CIFAR and ESC code (ImageNet code: 1e-2). {UNGUIDED}",
        slots=COMMON
        | NO_TWO_STEPS
        | {
            "parameterization": "u",
            "time_sampler": "ln_minmax",
            "limit": "continuous",
            "target_network": "stop_gradient",
            "metric": "adaptive",
        },
    ),
    "esc": Method(
        title="Explicit shortcut model (ESC)",
        paper="ESC, arXiv 2512.11831; EDAPINENUT/ExplicitShortCut loss/esc_loss.py",
        differs=(
            "The log-variance is (B,), not broadcast to one number. Warm-up 10000 follows the paper; the released"
            " commands pass 0. The plug-in velocity of a row with a class averages over the samples of that class in"
            " an ordinary batch; the publication gets the same by batches of one class (batching: class_consistent)."
            f" Plug-in probability 0.5 is the B/2 setting (XL/2: 0.2). {UNGUIDED}"
        ),
        slots=COMMON
        | NO_TWO_STEPS
        | {
            "parameterization": "u",
            "time_sampler": "esc_gradual",
            "limit": "continuous",
            "velocity": {"name": "plugin", "prob": 0.5, "same_class": True},
            "target_network": "stop_gradient",
            "metric": "adaptive",
            "weighting": "variational",
            "tangent": {"name": "shaped", "warmup_steps": 10_000},
        },
    ),
    "imf": Method(
        title="Improved MeanFlow (iMF)",
        paper="Geng et al., Improved Mean Flows: On the Challenges of Fastforward Generative Models, arXiv 2512.02012",
        differs=(
            "Guidance is off by default; {name: omega_conditioned} is the paper's, and needs an architecture with"
            " guidance inputs. The heads share the trunk of whatever architecture is chosen; the paper's is sit with"
            " in-context conditioning. The r = t rows are drawn independently of the dropped labels; in the reference"
            " both are the first rows of the batch (defect D16)."
        ),
        slots=COMMON
        | NO_TWO_STEPS
        | {
            "parameterization": "uv_dual",
            "time_sampler": {"name": "ln_minmax", "p_eq": 0.5},
            "limit": "continuous",
            "velocity": "network",
            "target_network": "stop_gradient",
            "metric": {"name": "adaptive", "p": 1.0, "c": 0.01},
        },
    ),
    "pmf": Method(
        title="Pixel MeanFlow without its perceptual terms (pMF)",
        paper="Lu et al., One-step Latent-free Image Generation with Pixel Mean Flows, arXiv 2601.22158; Lyy-iiis/pMF",
        differs=(
            "The LPIPS and ConvNeXt terms are left out: they need downloaded weights, and a row here is one loss."
            " Guidance is off by default; {name: omega_conditioned} is the paper's."
        ),
        slots=COMMON
        | NO_TWO_STEPS
        | {
            "parameterization": "x0_dual",
            "time_sampler": {"name": "ln_mask_first", "mu": 0.8, "sd": 0.8},
            "limit": "continuous",
            "velocity": "network",
            "target_network": "stop_gradient",
            "metric": {"name": "adaptive", "p": 1.0, "c": 0.01},
        },
    ),
    "alphaflow": Method(
        title="AlphaFlow: from trajectory flow matching to MeanFlow by a ratio that falls",
        paper="Zhang et al., AlphaFlow, arXiv 2510.20771; snap-research/alphaflow src/training/loss.py",
        differs=(
            "The ratio follows step / total, so that a short run is a scaled one. The weight is that of the code,"
            f" alpha on a self-normalised mean; the paper writes 1 / alpha on the squared residual. {UNGUIDED}"
        ),
        slots=COMMON
        | {
            "parameterization": "u",
            "time_sampler": "alpha_ratio",
            "first_step": "euler",
            "second_step": "network",
            "limit": "annealed",
            "target_network": "stop_gradient",
            "metric": {"name": "adaptive", "reduce": "mean"},
            "weighting": {"name": "inv_ratio", "power": 1},
        },
    ),
    "dmf": Method(
        title="Decoupled MeanFlow, from scratch (DMF)",
        paper="Lee et al., Decoupled MeanFlow, arXiv 2510.24474; kyungmnlee/dmf loss.py",
        differs=(
            "From scratch; the paper starts from a flow matching model trained with representation alignment. The"
            " first blocks see t and the rest r where the architecture is sit with conditioning: decoupled. Both terms"
            " share noise and labels. Guidance is off by default; {name: mg} is the paper's."
        ),
        slots=COMMON
        | NO_TWO_STEPS
        | {
            "parameterization": "u",
            "time_sampler": "dmf",
            "limit": "continuous",
            "target_network": "stop_gradient",
            "metric": "l2_mean",
            "weighting": "cauchy_lv",
        },
    ),
}
