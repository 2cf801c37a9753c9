"""`TrialConfig`: everything that decides one trial, fully resolved, frozen, unknown keys refused at every level."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    SerializeAsAny,
    Tag,
    ValidationInfo,
    field_validator,
)

from ablate_core.architectures import Architecture
from ablate_core.datasets import Dataset
from ablate_core.objective import Objective
from ablate_core.posthoc_ema import LONGEST
from ablate_core.sampling_steps import GAMMA, RHO, SHIFT, WHOLE_PATH, Grid, Sampler
from ablate_core.schedules import Schedule

NUISANCE: dict[str, Any] = {"nuisance": True}
"""Marks a field (``json_schema_extra``) that may change without changing any result: it stays outside the keys."""


IDENTITY: dict[str, Any] = {"no_axis": "decides what the number means; numbers of another meaning are never compared"}
"""Marks a field of `EvalConfig` whose values make different metrics: it cannot be an axis of a study."""


USUAL_LENGTHS_ARE_NEUTRAL: dict[str, Any] = {"neutral": (0.05, 0.10)}
WHOLE_PATH_IS_NEUTRAL: dict[str, Any] = {"neutral": WHOLE_PATH}


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


class TrainConfig(Frozen):
    """How the network is trained. Units are in the names; counts are optimiser steps unless said otherwise."""

    steps: int = Field(gt=0, description="optimiser steps")
    batch_size: int = Field(gt=0, description="samples per optimiser step")
    lr: float = Field(1e-4, gt=0, description="learning rate after the warm-up")
    lr_warmup_steps: int = Field(0, ge=0, description="linear learning-rate warm-up; 0 is off")
    optimizer: Literal["adamw", "adam", "radam"] = "adam"
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(0.0, ge=0)
    grad_clip: float = Field(1.0, ge=0, description="largest global gradient norm; 0 is off")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="autocast of matrix products; times stay fp32")
    compile: bool = Field(
        False,
        json_schema_extra=NUISANCE,
        description="torch.compile the network: equal to rounding, pays in long trainings; docs/performance.md",
    )
    ema: tuple[float, ...] = Field((0.999,), description="decays of the evaluation averages kept while training")
    snapshot_every: int = Field(
        0,
        ge=0,
        json_schema_extra={"neutral": 0},
        description="steps between stored power-function averages, from which eval.ema: {sigma_rel: ...} takes any "
        "length after training; a sixteenth of the steps serves 0.025 to 0.25; 0: none are kept",
    )
    snapshot_sigma_rel: tuple[float, ...] = Field(
        (0.05, 0.10),
        min_length=1,
        json_schema_extra=USUAL_LENGTHS_ARE_NEUTRAL,
        description="lengths of the power-function averages that are tracked, relative to the training so far",
    )
    diverged_above: float = Field(1e6, gt=0, description="a mean loss above this, or not finite, is a divergence")
    log_every: int = Field(50, gt=0, json_schema_extra=NUISANCE, description="steps between logged training scalars")
    checkpoint_every: int = Field(500, gt=0, json_schema_extra=NUISANCE, description="steps between checkpoints")

    @field_validator("ema")
    @classmethod
    def _decays(cls, ema: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 <= d < 1 for d in ema) or len(set(ema)) != len(ema):
            raise ValueError(f"ema decays are distinct numbers in [0, 1), got {list(ema)}")
        return tuple(sorted(ema))

    @field_validator("snapshot_sigma_rel")
    @classmethod
    def _lengths(cls, lengths: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        if any(not 0 < s <= LONGEST for s in lengths) or len(set(lengths)) != len(lengths):
            raise ValueError(f"lengths are distinct numbers above 0 and at most {LONGEST}, got {list(lengths)}")
        if tuple(sorted(lengths)) != (0.05, 0.10) and not info.data.get("snapshot_every"):
            raise ValueError("nothing is tracked without train.snapshot_every; set it, or leave this out")
        return tuple(sorted(lengths))


class PostHocEMA(Frozen):
    """A power-function average, reconstructed after training from the snapshots that `train.snapshot_every` keeps."""

    sigma_rel: float = Field(
        gt=0, le=LONGEST, description="standard deviation of its profile, relative to the training"
    )


def _kind_of_average(value: Any) -> str:
    return "post_hoc" if isinstance(value, dict | PostHocEMA) else "decay"


Average = Annotated[
    Annotated[float, Tag("decay")] | Annotated[PostHocEMA, Tag("post_hoc")], Discriminator(_kind_of_average)
]
"""A number is a decay, a mapping a post-hoc average: told apart first, so that a mistake gives one error, not two."""


Beside = Literal["kid", "precision_recall", "density_coverage", "curve", "infinity"]
"""What can be measured beside the metric of images, from the same features."""

NOTHING_BESIDE: dict[str, Any] = {**IDENTITY, "neutral": ()}


class EvalConfig(Frozen):
    """What is measured on a trained network. Nothing here ever retrains a trial."""

    metric: Literal["fid", "fd_digits", "energy_distance"] = Field("fid", json_schema_extra=IDENTITY)
    samples: int = Field(
        50_000, gt=1, json_schema_extra=IDENTITY, description="generated samples per measurement, exactly"
    )
    nfe: int = Field(1, gt=0, description="network evaluations per sample")
    sampler: Sampler = Field("auto", description="how few steps are taken; auto: as the network was trained")
    gamma: float = Field(
        GAMMA,
        ge=0,
        le=1,
        json_schema_extra={"neutral": GAMMA},
        description="sampler gamma: share of fresh noise after each step, between pushforward (0) and restart (1)",
    )
    grid: Grid = Field(
        "uniform",
        json_schema_extra={"neutral": "uniform"},
        description="times of the steps: equally far apart, or edm: in noise-to-signal ratio to the power 1/rho",
    )
    rho: float = Field(RHO, gt=0, json_schema_extra={"neutral": RHO}, description="exponent of grid edm")
    shift: float = Field(
        SHIFT,
        gt=0,
        json_schema_extra={"neutral": SHIFT},
        description="s of s t / (1 + (s - 1) t), applied to a uniform grid; above 1: more steps near the noise",
    )
    ratios: tuple[float, ...] | None = Field(
        None,
        json_schema_extra={"neutral": None},
        description="noise-to-signal ratios at which the steps after the first start, falling; on ve they are noise "
        "levels. In place of a grid",
    )
    guidance: float = Field(1.0, ge=0, description="classifier-free guidance scale at sampling; 1 is off")
    guidance_window: tuple[float, float] = Field(
        WHOLE_PATH,
        json_schema_extra=WHOLE_PATH_IS_NEUTRAL,
        description="times in which guidance acts, both included; on paths with their own unit of time in units of "
        "its end",
    )
    ema: Average | None = Field(
        None,
        description="which average is sampled: one of train.ema; null: the longest of them; 0: raw weights; "
        "{sigma_rel: 0.15}: a post-hoc average of that length, measured at the end only",
    )
    every: int = Field(
        0,
        ge=0,
        json_schema_extra={"no_axis": "says when a trial is measured, not how"},
        description="steps between measurements while training; 0: only at the end",
    )
    batch_size: int = Field(500, gt=0, json_schema_extra=NUISANCE)
    seed: int = Field(0, ge=0, description="seed of the sampling noise and labels, common to all arms")
    reference: str | None = Field(
        None,
        json_schema_extra=IDENTITY,
        description="npz with mu and sigma of the reference; null: computed from the data once",
    )
    extractor: str | None = Field(
        None,
        json_schema_extra=IDENTITY,
        description="path of Inception weights for fid; null: clean-fid's own download",
    )
    resize: Literal["pil", "torch"] = Field(
        "pil",
        json_schema_extra={**IDENTITY, "neutral": "pil"},
        description="how images reach the size of fid's network: pil, as clean-fid does, on the CPU; torch, the same "
        "filter where the network is, many times faster on a GPU. Numbers of the two are not compared",
    )
    also: tuple[Beside, ...] = Field(
        (),
        json_schema_extra=NOTHING_BESIDE,
        description="what is measured on the same features beside the metric, each under an identity of its own: kid, "
        "precision_recall, density_coverage, curve (the metric of the first n samples, for every n of sizes), infinity "
        "(its limit for infinitely many samples)",
    )
    sizes: tuple[Annotated[int, Field(gt=1)], ...] | None = Field(
        None,
        min_length=1,
        json_schema_extra={**IDENTITY, "neutral": None},
        description="numbers of samples of curve and infinity, at most samples; null: ten, evenly spaced up to it",
    )
    keep_statistics: bool = Field(
        False,
        json_schema_extra=NUISANCE,
        description="keep the feature statistics of every measurement as an artifact, 8.4 MB each for fid, to score "
        "them against another reference without sampling; false: those of the newest alone, and as no artifact",
    )
    gallery: int = Field(64, ge=0, json_schema_extra=NUISANCE, description="samples kept as a picture; 0: none")
    neighbours: int = Field(
        0,
        ge=0,
        le=64,
        json_schema_extra=NUISANCE,
        description="samples kept as a picture beside their nearest training images, in pixels; 0: none",
    )

    @field_validator("also")
    @classmethod
    def _once(cls, also: tuple[Beside, ...]) -> tuple[Beside, ...]:
        if len(set(also)) != len(also):
            raise ValueError(f"also names each metric once, got {list(also)}")
        return tuple(sorted(also))

    @field_validator("sizes")
    @classmethod
    def _rising(cls, sizes: tuple[int, ...] | None) -> tuple[int, ...] | None:
        return None if sizes is None else tuple(sorted(set(sizes)))

    @field_validator("ratios")
    @classmethod
    def _falling(cls, ratios: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if ratios is not None and (not ratios or any(a <= b for a, b in pairwise((*ratios, 0.0)))):
            raise ValueError(f"ratios fall and are above 0, got {list(ratios)}")
        return ratios

    @field_validator("guidance_window")
    @classmethod
    def _ordered(cls, window: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= window[0] < window[1] <= 1:
            raise ValueError(f"a window is [low, high] with 0 <= low < high <= 1, got {list(window)}")
        return window


class TrialConfig(Frozen):
    """One trial. ``TrialConfig.model_validate(mapping)`` resolves every short form and every default."""

    schedule: SerializeAsAny[Schedule]
    objective: Objective
    architecture: SerializeAsAny[Architecture]
    data: SerializeAsAny[Dataset]
    train: TrainConfig
    eval: EvalConfig = EvalConfig()
    seed: int = Field(0, ge=0)

    def resolved(self) -> dict[str, Any]:
        """The whole config as plain JSON types; validating it again gives an equal config."""
        return self.model_dump(mode="json")
