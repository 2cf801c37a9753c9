"""The JSON Schema for editors: valid itself, accepts what the loader accepts, and knows every component."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from ablate.space import builtin_names, find_space, space_json_schema
from ablate.space.source import read_file, read_text
from ablate_core.architectures import Architecture
from ablate_core.datasets import Dataset
from ablate_core.methods import METHODS
from ablate_core.schedules import Schedule
from ablate_core.velocities import Velocity


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = space_json_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(json.loads(json.dumps(schema)))


@pytest.mark.parametrize("name", builtin_names())
def test_the_shipped_spaces_are_valid(validator: Draft202012Validator, name: str) -> None:
    data = read_file(find_space(name)).data
    errors = [f"{list(e.absolute_path)}: {e.message}" for e in validator.iter_errors({"base": {}, **data})]
    assert errors == []


GOOD = [
    "base: {objective: meanflow}\naxes: {objective: [ct, scd], schedule: [linear, cosine01]}",
    "base: {objective: {name: esc, velocity: {prob: 0.2}, batching: class_consistent}}\nseeds: [1]\nmetric: fid",
    "base: {objective: fm, train.steps: 3}\nplans: {p: {kind: list, arms: {a: , b: {preset: x, plug: p05}}}}",
    "base: {objective: fm}\naxes: {x: {path: train.lr, levels: [1, 2], when: schedule == 'linear', needs: {y: [1]}}}",
    "base: {objective: fm}\nfidelity: {run: s, levels: {s: {train: {steps: 3}, per_arm: {a > 1: {train.lr: 1}}}, f: }}",
    "base: {objective: fm}\nmetric: {at: {step: 100}}\nseeds: {list: [3], extra: {base: [4]}}\nextends: [a.yaml]",
    "base: {objective: fm}\ncompare: {intervals: dunnett}",
    "base: {objective: fm}\naxes: {lr: {path: train.lr, levels: [1, 2], baseline: 1}}\ncompare: {baseline: 2}",
    "base: {objective: fm}\nplugins: my_lab.paths",
    "base: {objective: fm}\nplugins: [my_lab.paths, _other]",
]
BAD = [
    "base: {objective: fm}\nplugins: [./mine.py]",
    "base: {objective: fm}\nplugins: mine/paths",
    "axes: {objective: [ct]}",
    "base: {objectve: fm}",
    "base: {objective: fmm}",
    "base: {objective: {name: fm, velocty: plugin}}",
    "base: {objective: {name: fm, velocity: plugn}}",
    "base: {objective: fm, train: {stepz: 1}}",
    "base: {objective: fm, train: {steps: -1}}",
    "base: {objective: fm, architecture: {name: sit, sizee: S/2}}",
    "base: {objective: fm}\nplans: {p: {kind: gird}}",
    "base: {objective: fm}\nplans: {p: {kind: list, arms: {}}}",
    "base: {objective: fm}\naxes: {a: []}",
    "base: {objective: fm}\nseeds: 0",
    "base: {objective: fm}\nseeds: [9223372036854775808]",
    "base: {objective: fm}\nfoo: 1",
    "base: {objective: fm}\ncompare: {intervals: none}",
    "base: {objective: fm}\nmetric: {mode: low}",
    "base: {objective: fm}\npresets: {x: {trian: 1}}",
]


@pytest.mark.parametrize("text", GOOD)
def test_what_the_loader_takes_is_valid(validator: Draft202012Validator, text: str) -> None:
    assert [e.message for e in validator.iter_errors(read_text(text, "f").data)] == []


@pytest.mark.parametrize("text", BAD)
def test_a_mistake_is_underlined_while_typing(validator: Draft202012Validator, text: str) -> None:
    assert list(validator.iter_errors(read_text(text, "f").data))


@pytest.mark.parametrize(
    ("definition", "names"),
    [
        ("schedule", set(Schedule.choices)),
        ("architecture", set(Architecture.choices)),
        ("dataset", set(Dataset.choices)),
        ("velocity", set(Velocity.choices)),
        ("objective", set(METHODS)),
    ],
)
def test_every_component_is_completed_by_name(definition: str, names: set[str]) -> None:
    options = space_json_schema()["$defs"][definition]["anyOf"]
    assert {option["const"] for option in options if "const" in option} == names
    assert all(option["description"] for option in options if "const" in option)


def test_fields_of_a_component_are_described() -> None:
    definitions: dict[str, Any] = space_json_schema()["$defs"]
    (sit,) = [
        o for o in definitions["architecture"]["anyOf"] if o.get("properties", {}).get("name", {}).get("const") == "sit"
    ]
    assert "patch" in sit["properties"]["size"]["description"]
    assert "optimiser steps" in definitions["Config"]["properties"]["train"]["properties"]["steps"]["description"]
