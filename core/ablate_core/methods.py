"""Published methods as rows of slot choices. A row is data: no code anywhere asks for a method's name.

A space may override any slot of a row; ``differs`` says what the row itself does not share with the publication.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ablate_core.component import unknown_name


@dataclass(frozen=True)
class Method:
    """One row.

    Attributes:
        title: name and authors' system in a few words.
        paper: reference.
        differs: what differs from the publication, and why.
        slots: slot -> component, in the short or the long form.
    """

    title: str
    paper: str
    differs: str
    slots: dict[str, Any]


_NO_TWO_STEPS = {"first_step": "none", "second_step": "none"}
_COMMON = {"velocity": "conditional", "guidance": "none", "weighting": "none", "tangent": "none", "batching": "iid"}
_PER_TRIAL = "Guidance is off by default, so that all rows can be compared; {name: omega_kappa} is the paper's."

METHODS: dict[str, Method] = {
    "fm": Method(
        title="Flow matching: the velocity only, many sampling steps",
        paper="Lipman et al., Flow Matching for Generative Modeling, arXiv 2210.02747; times of 2403.03206",
        differs="Times are LN(-0.4, 1) rather than LN(0, 1), those of the MeanFlow rows.",
        slots=_COMMON
        | _NO_TWO_STEPS
        | {
            "parameterization": "u",
            "time_sampler": "logit_normal",
            "limit": "none",
            "target_network": "stop_gradient",
            "metric": "l2_mean",
            "label_dropout": 0.1,
        },
    ),
    "ct": Method(
        title="Consistency training",
        paper="Song et al., Consistency Models, arXiv 2303.01469",
        differs=(
            "DDIM parameterisation with sigma_data 1 in place of EDM's, so that it runs on every path; the grid in"
            " sigma is mapped to the path by equal log-SNR (the map of the ESC code keeps t below 0.5); l2 for LPIPS,"
            " which needs downloaded weights; lands at t = 0 rather than at sigma_min."
        ),
        slots=_COMMON
        | {
            "parameterization": {"name": "v_ddim", "sigma_data": 1.0},
            "time_sampler": "ct_progressive",
            "first_step": "ddim",
            "second_step": "network",
            "limit": {"name": "discrete", "compare": "states"},
            "target_network": "ct_adaptive",
            "metric": "l2_mean",
            "label_dropout": 0.1,
        },
    ),
    "scd": Method(
        title="Shortcut models (self-consistency distillation from scratch)",
        paper="Frans et al., One Step Diffusion via Shortcut Models, arXiv 2410.12557",
        differs=(
            "A quarter of the batch learns jumps (the ESC code's choice; 1/8 in the original), with t anywhere on the"
            " 1/M grid; the network sees t - r instead of log2 of the jump; bootstrap guidance is off by default."
        ),
        slots=_COMMON
        | {
            "parameterization": "u",
            "time_sampler": "dyadic",
            "first_step": "network",
            "second_step": "network",
            "limit": {"name": "discrete", "compare": "velocities", "clamp_state": 4.0, "clamp_target": 4.0},
            "target_network": {"name": "ema", "mu": 0.999},
            "metric": "l2_mean",
            "label_dropout": 0.1,
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
        slots=_COMMON
        | {
            "parameterization": {"name": "v_ddim", "sigma_data": 1.0},
            "time_sampler": "imm_eta",
            "first_step": "ddim",
            "second_step": "network",
            "limit": {"name": "discrete", "compare": "states"},
            "target_network": "stop_gradient",
            "metric": "mmd_laplace",
            "weighting": "imm",
            "label_dropout": 0.1,
        },
    ),
    "sct": Method(
        title="Continuous-time consistency training (sCM)",
        paper="Lu and Song, Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models, arXiv 2410.11081",
        differs=(
            "One formula for every path: on cosine01 it is TrigFlow's (velocity per unit t), on linear the same noise"
            " levels. c_out is applied to the velocity and to its derivative, which the ESC code forgets. sigma_data is"
            " 1, the scale of our data sets; 0.5 in the original, whose data have that scale."
        ),
        slots=_COMMON
        | _NO_TWO_STEPS
        | {
            "parameterization": {"name": "v_ddim", "sigma_data": 1.0},
            "time_sampler": "scm_lognormal",
            "limit": "continuous",
            "target_network": "stop_gradient",
            "metric": "l2_mean",
            "weighting": "variational",
            "tangent": {"name": "shaped", "warmup_steps": 10_000, "normalize": "rms", "c": 0.1, "weight": "alpha"},
            "label_dropout": 0.1,
        },
    ),
    "sct_linear": Method(
        title="Continuous-time consistency training on average velocities (ESC's row sCT-linear)",
        paper="ESC, arXiv 2512.11831; EDAPINENUT/ExplicitShortCut loss/scm_linear_loss.py",
        differs="Warm-up 10000 is the loss file's default; the released command passes 0, which divides by zero.",
        slots=_COMMON
        | _NO_TWO_STEPS
        | {
            "parameterization": "u",
            "time_sampler": "fixed0",
            "limit": "continuous",
            "target_network": "stop_gradient",
            "metric": "l2_mean",
            "weighting": "variational",
            "tangent": {"name": "shaped", "warmup_steps": 10_000},
            "label_dropout": 0.1,
        },
    ),
    "meanflow": Method(
        title="MeanFlow",
        paper="Geng et al., Mean Flows for One-step Generative Modeling, arXiv 2505.13447",
        differs=f"c = 1e-3 in the adaptive metric, as in the CIFAR and ESC code (ImageNet code: 1e-2). {_PER_TRIAL}",
        slots=_COMMON
        | _NO_TWO_STEPS
        | {
            "parameterization": "u",
            "time_sampler": "ln_minmax",
            "limit": "continuous",
            "target_network": "stop_gradient",
            "metric": "adaptive",
            "label_dropout": 0.1,
        },
    ),
    "esc": Method(
        title="Explicit shortcut model (ESC)",
        paper="ESC, arXiv 2512.11831; EDAPINENUT/ExplicitShortCut loss/esc_loss.py",
        differs=(
            "The log-variance is (B,), not broadcast to one number. Warm-up 10000 follows the paper; the released"
            " commands pass 0. The plug-in velocity of a row with a class averages over the samples of that class in an"
            " ordinary batch; the publication gets the same by batches of one class (batching: class_consistent)."
            f" Plug-in probability 0.5 is the B/2 setting (XL/2: 0.2). {_PER_TRIAL}"
        ),
        slots=_COMMON
        | _NO_TWO_STEPS
        | {
            "parameterization": "u",
            "time_sampler": "esc_gradual",
            "limit": "continuous",
            "velocity": {"name": "plugin", "prob": 0.5, "same_class": True},
            "target_network": "stop_gradient",
            "metric": "adaptive",
            "weighting": "variational",
            "tangent": {"name": "shaped", "warmup_steps": 10_000},
            "label_dropout": 0.1,
        },
    ),
}


def method(name: object) -> Method:
    """The row `name`. Raises ValueError that names the nearest rows."""
    if not isinstance(name, str) or name not in METHODS:
        raise ValueError(unknown_name("objective", name, METHODS))
    return METHODS[name]


def describe(name: str) -> dict[str, Any]:
    """A row as plain data: name, summary, paper, differs, and every slot with every field resolved.

    Raises ValueError that names the nearest rows.
    """
    from ablate_core.objective import Objective  # the template reads this table

    row = method(name)
    slots = Objective.model_validate(name).model_dump(mode="json")
    del slots["name"]
    return {"name": name, "summary": row.title, "paper": row.paper, "differs": row.differs, "slots": slots}


def methods_table() -> str:
    """The rows as a Markdown table, one column per slot that any two rows fill differently."""
    rows = {name: describe(name)["slots"] for name in METHODS}
    slots = [slot for slot in rows["fm"] if len({_choice(row[slot]) for row in rows.values()}) > 1]
    lines = [["method", *slots], ["---"] * (len(slots) + 1)]
    lines += [[f"`{name}`", *(_choice(row[slot]) for slot in slots)] for name, row in rows.items()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _choice(value: Any) -> str:
    return str(value["name"]) if isinstance(value, dict) else str(value)
