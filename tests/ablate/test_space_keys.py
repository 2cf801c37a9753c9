"""Content keys: what changes a result changes the key, and nothing else does."""

from __future__ import annotations

import random
from typing import Any

import pytest
from pydantic import BaseModel, Field

from ablate.space import arm_id, eval_key, keys, study_arm_id, train_key
from ablate.space.keys import essential
from ablate_core.config import TrialConfig

CONFIG: dict[str, Any] = {
    "schedule": "linear",
    "objective": {"name": "meanflow", "label_dropout": 0.1},
    "architecture": {"name": "sit", "size": "tiny/2"},
    "data": "digits",
    "train": {"steps": 100, "batch_size": 64, "lr": 0.001, "ema": [0.99]},
    "eval": {"metric": "fd_digits", "samples": 100},
}


def config(**changes: Any) -> TrialConfig:
    raw = {key: dict(value) if isinstance(value, dict) else value for key, value in CONFIG.items()}
    for path, value in changes.items():
        *outer, last = path.split("__")
        holder: Any = raw
        for part in outer:
            holder = holder.setdefault(part, {})
        holder[last] = value
    return TrialConfig.model_validate(raw)


def test_keys_are_pinned() -> None:
    """If this fails, every result trained so far is orphaned: its key no longer exists.

    When training really changed meaning, raise TRAINING_SEMANTICS and pin the new keys, on purpose. A field that was
    only added is marked ``neutral`` at the value that means what was before, and no key changes.
    """
    assert keys.TRAINING_SEMANTICS == 1
    esc = config(objective="esc", schedule="cosine01")
    assert (arm_id(config()), train_key(config(seed=3)), eval_key(config(seed=3))) == PINNED_MEANFLOW
    assert (arm_id(esc), train_key(esc), eval_key(esc)) == PINNED_ESC


PINNED_MEANFLOW = ("7f174ae2c0c5b8a7", "573a16dfe80f0ba7", "f74433b12a12db74")
PINNED_ESC = ("493c16bd9beabb9e", "d244b78aa5373798", "1d2eca69c90b2f43")


def test_a_key_is_16_hex_digits() -> None:
    for key in (arm_id(config()), train_key(config()), eval_key(config())):
        assert len(key) == 16
        assert int(key, 16) >= 0


def test_a_version_of_training_semantics_is_in_every_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = arm_id(config()), train_key(config()), eval_key(config())
    monkeypatch.setattr(keys, "TRAINING_SEMANTICS", 2)
    assert not set(before) & {arm_id(config()), train_key(config()), eval_key(config())}


@pytest.mark.parametrize(
    "changes",
    [
        {"train__steps": 101},
        {"train__lr": 0.002},
        {"train__ema": [0.99, 0.999]},
        {"schedule": "cosine01"},
        {"objective": "ct"},
        {"objective__velocity": "plugin"},
        {"objective__label_dropout": 0.2},
        {"architecture__width": 32},
        {"data": "gaussians"},
    ],
)
def test_what_affects_training_changes_every_key(changes: dict[str, Any]) -> None:
    a, b = config(), config(**changes)
    assert arm_id(a) != arm_id(b)
    assert train_key(a) != train_key(b)
    assert eval_key(a) != eval_key(b)


def test_the_seed_changes_the_trial_and_not_the_arm() -> None:
    assert arm_id(config(seed=1)) == arm_id(config(seed=2))
    assert len({train_key(config(seed=s)) for s in range(20)}) == 20


@pytest.mark.parametrize("changes", [{"eval__samples": 200}, {"eval__nfe": 2}, {"eval__seed": 1}, {"eval__ema": 0.99}])
def test_what_affects_measuring_changes_the_eval_key_alone(changes: dict[str, Any]) -> None:
    a, b = config(), config(**changes)
    assert train_key(a) == train_key(b)
    assert eval_key(a) != eval_key(b)


@pytest.mark.parametrize(
    "changes",
    [
        {"train__log_every": 7},
        {"train__compile": True},
        {"train__checkpoint_every": 7},
        {"eval__batch_size": 7},
        {"eval__gallery": 0},
    ],
)
def test_nuisance_changes_no_key(changes: dict[str, Any]) -> None:
    a, b = config(), config(**changes)
    assert a != b
    assert (train_key(a), eval_key(a), arm_id(a)) == (train_key(b), eval_key(b), arm_id(b))


def test_the_name_of_an_objective_is_a_label_of_its_slots() -> None:
    """ESC without its three ingredients is MeanFlow (design-space, equivalence E6)."""
    stripped = config(
        objective={
            "name": "esc",
            "velocity": {"prob": 0},
            "time_sampler": {"zero_steps": 0},
            "weighting": "none",
            "tangent": "none",
        }
    )
    assert arm_id(stripped) == arm_id(config())


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ({"schedule": "linear"}, {"schedule": {"name": "linear"}}),
        ({"data": "gaussians"}, {"data": {"name": "gaussians", "modes": 5}}),
        ({"objective": "ct"}, {"objective": {"name": "ct", "metric": {"name": "l2_mean"}}}),
        ({"train__lr": 1}, {"train__lr": 1.0}),
        ({"train__grad_clip": 1}, {"train__grad_clip": 1.0}),
        ({}, {"train__weight_decay": 0}),
        ({}, {"objective__guidance": "none"}),
        ({"objective__velocity": "plugin"}, {"objective__velocity": {"prob": 0.5, "name": "plugin"}}),
    ],
)
def test_short_and_long_forms_defaults_and_whole_floats_have_one_key(
    short: dict[str, Any], long: dict[str, Any]
) -> None:
    assert train_key(config(**short)) == train_key(config(**long))
    assert eval_key(config(**short)) == eval_key(config(**long))


def test_the_order_of_keys_does_not_matter() -> None:
    generator = random.Random(0)

    def shuffled(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        names = list(value)
        generator.shuffle(names)
        return {name: shuffled(value[name]) for name in names}

    wanted = eval_key(config())
    for _ in range(20):
        assert eval_key(TrialConfig.model_validate(shuffled(CONFIG))) == wanted


def test_a_config_read_back_from_json_has_the_same_keys() -> None:
    again = TrialConfig.model_validate_json(config(objective="esc").model_dump_json())
    assert eval_key(again) == eval_key(config(objective="esc"))


def test_different_configs_have_different_keys() -> None:
    found = {train_key(config(train__steps=steps, seed=seed)) for steps in range(1, 21) for seed in range(20)}
    assert len(found) == 400


def test_a_field_that_is_added_later_leaves_old_keys_alone_at_its_neutral_value() -> None:
    class Before(BaseModel):
        steps: int = 3

    class After(Before):
        warmup: int = Field(0, json_schema_extra={"neutral": 0})

    assert essential(After()) == essential(Before())
    assert essential(After(warmup=1)) == {"steps": 3, "warmup": 1}


def test_essential_parts_are_plain_types() -> None:
    parts = essential(config())
    assert parts["train"]["ema"] == [0.99]
    assert "log_every" not in parts["train"]


def test_how_a_network_is_measured_makes_another_arm_of_the_same_training() -> None:
    usual = config().eval
    assert study_arm_id(config(), usual) == arm_id(config())
    few = config(eval__nfe=2)
    assert study_arm_id(few, usual) != arm_id(few) == arm_id(config())
    assert study_arm_id(few, few.eval) == arm_id(few), "what is usual is the base of the study"
    assert study_arm_id(config(eval__seed=1), usual) != arm_id(config())
    assert study_arm_id(config(eval__nfe=2, objective="ct"), usual) != study_arm_id(few, usual)


@pytest.mark.parametrize(
    "changes",
    [
        {"eval__sampler": "pushforward"},  # with one step there is but one sampler
        {"eval__ema": 0.99},  # null is the longest average kept
        {"eval__gallery": 3},
        {"eval__ema": 0.99, "eval__sampler": "restart"},
    ],
)
def test_what_is_measured_alike_is_one_arm(changes: dict[str, Any]) -> None:
    assert study_arm_id(config(**changes), config().eval) == arm_id(config())


def test_snapshots_make_another_trial_and_none_the_one_there_was() -> None:
    assert arm_id(config(train__snapshot_every=0)) == arm_id(config())
    kept = config(train__snapshot_every=10)
    assert arm_id(kept) != arm_id(config())
    assert arm_id(config(train__snapshot_every=10, train__snapshot_sigma_rel=[0.1, 0.05])) == arm_id(kept)
    assert eval_key(config(train__snapshot_every=10, eval__ema={"sigma_rel": 0.1})) != eval_key(kept)
