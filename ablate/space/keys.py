"""Content keys: what is the same arm, the same trial, the same measurement.

A key is a hash of the canonical JSON of what can change a result, so it is equal for a short form and its long
form, for any order of keys, and for ``1`` and ``1.0`` where a float is meant (pydantic has made them one).
Fields marked ``nuisance`` and the objective's name, which is only a label of its slots, stay outside.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ablate_core.config import EvalConfig, TrialConfig
from ablate_core.evaluation import condition
from ablate_core.fid import MetricError
from ablate_core.identity import content_id, same_as

TRAINING_SEMANTICS = 1
"""Raise this when the same config trains to something else (a fixed defect in the trainer, a new random-number
layout): every trained result is then trained again. A refactor that leaves results bit-identical must not."""

NEUTRAL = "neutral"
"""``json_schema_extra={"neutral": value}`` on a field that is added later: at this value the config means what it meant
before, so the field stays outside the keys and no trained result is orphaned."""

KEY_LENGTH = 16


def arm_id(config: TrialConfig) -> str:
    """16 hex digits: everything that affects training, except the seed."""
    return _key({"arm": _training(config)})


def train_key(config: TrialConfig) -> str:
    """16 hex digits: the arm and its seed; a store trains each train key at most once."""
    return _key({"arm": _training(config), "seed": config.seed})


def eval_key(config: TrialConfig) -> str:
    """16 hex digits: the trained network and everything in ``eval`` that affects a measured number."""
    return _key({"train": train_key(config), "eval": essential(config.eval)})


def study_arm_id(config: TrialConfig, usual: EvalConfig) -> str:
    """16 hex digits: the arm and how it is measured; `arm_id` itself where that is as `usual`, the study's base.

    What is measured alike is one arm: with one step every sampler is the same, and null is the longest average.
    """
    here = how_measured(config)
    if config.eval == usual or here == how_measured(config.model_copy(update={"eval": usual})):
        return arm_id(config)
    return _key({"arm": _training(config), "measured": here})


def how_measured(config: TrialConfig) -> dict[str, Any] | None:
    """How a network is measured, with what ``auto`` and null stand for; None where it cannot be measured so."""
    fields = type(config.eval).model_fields
    what = {
        name: value for name, value in essential(config.eval).items() if _decides_what(fields[name]) or name == "seed"
    }
    try:
        return {**what, **condition(config, 0)}
    except MetricError:
        return None


def _decides_what(field: FieldInfo) -> bool:
    return isinstance(field.json_schema_extra, dict) and "no_axis" in field.json_schema_extra


def essential(value: Any) -> Any:
    """`value` as plain types, without the fields marked as nuisance at any depth."""
    if isinstance(value, BaseModel):
        return {
            name: essential(same_as(value, name)) for name in type(value).model_fields if not _left_out(value, name)
        }
    if isinstance(value, dict):
        return {str(k): essential(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [essential(v) for v in value]
    return value


def _left_out(model: BaseModel, name: str) -> bool:
    """True where a field cannot change a result, or stands at the value that means what was before it existed."""
    extra = type(model).model_fields[name].json_schema_extra
    if not isinstance(extra, dict):
        return False
    return bool(extra.get("nuisance")) or (NEUTRAL in extra and getattr(model, name) == extra[NEUTRAL])


def _training(config: TrialConfig) -> dict[str, Any]:
    parts: dict[str, Any] = {
        name: essential(getattr(config, name)) for name in TrialConfig.model_fields if name not in ("eval", "seed")
    }
    parts["objective"].pop("name", None)
    return parts


def _key(content: dict[str, Any]) -> str:
    return content_id({"training_semantics": TRAINING_SEMANTICS, **content}, KEY_LENGTH)
