"""Canonical JSON, content ids and the field-by-field difference."""

from __future__ import annotations

import json

import pytest

from ablate_core.identity import canonical_json, content_id, diff


def test_the_order_of_keys_does_not_change_the_text() -> None:
    assert canonical_json({"b": 1, "a": {"d": 2, "c": 3}}) == canonical_json({"a": {"c": 3, "d": 2}, "b": 1})


def test_tuples_and_lists_are_the_same_value() -> None:
    assert canonical_json({"a": (1, 2)}) == canonical_json({"a": [1, 2]}) == '{"a":[1,2]}'


@pytest.mark.parametrize("x", [0.1, 1e-4, 1 / 3, 5e-324, 1.7976931348623157e308, -0.1])
def test_floats_read_back_bit_for_bit(x: float) -> None:
    assert json.loads(canonical_json(x)) == x


@pytest.mark.parametrize("x", [float("nan"), float("inf"), -float("inf")])
def test_numbers_json_does_not_have_are_refused(x: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json({"x": x})


def test_keys_that_are_not_strings_are_refused_at_any_depth() -> None:
    with pytest.raises(TypeError, match="key of canonical JSON is a string, got 1"):
        canonical_json({"a": [{1: "x"}]})


def test_an_id_is_fixed_for_all_time() -> None:
    # A stored key must mean the same in every later version: this literal may only change with the stores' schema.
    assert content_id({"lr": 1e-4, "name": "sit"}) == "dd7d0cf1bcfb"
    assert content_id({"name": "sit", "lr": 0.0001}, length=16).startswith("dd7d0cf1bcfb")


def test_ids_tell_values_types_and_nesting_apart() -> None:
    values = [{"a": 1}, {"a": 1.5}, {"a": "1"}, {"a": None}, {"a": [1]}, {"a": {}}, {"a": True}, {"b": 1}, {}]
    assert len({content_id(v) for v in values}) == len(values)


@pytest.mark.parametrize("length", [0, 65])
def test_an_id_longer_than_the_hash_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="1 to 64"):
        content_id({}, length)


def test_a_difference_names_each_field_with_both_values() -> None:
    a = {"name": "fid", "reference": {"count": 10, "split": "train"}, "dtype": "float32"}
    b = {"name": "fid", "reference": {"count": 12, "split": "train"}, "resize": "clean", "dtype": "float32"}
    assert diff(a, b) == {"reference.count": (10, 12), "resize": (None, "clean")}


def test_equal_definitions_have_no_difference() -> None:
    assert diff({"a": {"b": (1, 2)}}, {"a": {"b": [1, 2]}}) == {}


def test_a_field_set_to_null_differs_from_a_missing_field() -> None:
    assert diff({"a": None}, {}) == {"a": (None, None)}
