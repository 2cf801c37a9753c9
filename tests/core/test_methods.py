"""The table of methods: what a row says, and that the documentation shows the table as it is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import torch
from golden_cases import random_network

import ablate_core
from ablate_core.component import Component
from ablate_core.methods import METHODS, describe, methods_table
from ablate_core.objective import Batch, Objective
from ablate_core.random import Draws
from ablate_core.schedules import Schedule

CORE = Path(ablate_core.__file__).parent
DOCS = Path(__file__).parents[2] / "docs" / "objectives.md"
SLOTS = [name for name in Objective.model_fields if name != "name"]


@pytest.mark.parametrize("name", METHODS)
def test_a_row_fills_every_slot_and_gives_its_source(name: str) -> None:
    row = describe(name)
    assert set(METHODS[name].slots) == set(SLOTS)
    assert list(row["slots"]) == SLOTS
    assert "arXiv" in row["paper"]
    assert row["summary"]
    assert row["differs"]
    assert Objective.model_validate({"name": name, **row["slots"]}) == Objective.model_validate(name)


def test_an_unknown_row_is_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="no objective is named 'sctt'; did you mean"):
        describe("sctt")


def test_the_documented_table_is_the_table() -> None:
    text = DOCS.read_text()
    (shown,) = re.findall(r"<!-- methods -->\n(.*?)\n<!-- /methods -->", text, flags=re.DOTALL)
    assert shown == methods_table()


def test_every_component_of_a_slot_is_in_the_documentation() -> None:
    text = DOCS.read_text()
    for slot in SLOTS:
        assert f"`{slot}`" in text
        axis = Objective.model_fields[slot].annotation
        if isinstance(axis, type) and issubclass(axis, Component):
            missing = [choice for choice in axis.choices if f"`{choice}`" not in text]
            assert not missing, f"docs/objectives.md does not name {missing} of {slot}"


def test_no_code_asks_for_the_name_of_a_method_or_of_a_component() -> None:
    asked = []
    for file in [CORE / "objective.py", CORE / "flow_map.py", *CORE.glob("legality/*.py"), *CORE.glob("targets/*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Compare) and any(
                isinstance(side, ast.Attribute) and side.attr == "name" for side in [node.left, *node.comparators]
            ):
                asked.append(f"{file.name}:{node.lineno}")
    assert asked == []


@pytest.mark.usefixtures("registry")
def test_the_documented_example_of_a_component_works_as_it_is_written() -> None:
    """It registers itself by being defined."""
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
    head = "import torch\nfrom typing import Literal\nfrom pydantic import Field\n"
    head += "from ablate_core.weightings import Weighting\n"
    exec(compile(head + code, "documented", "exec", dont_inherit=True), {"__name__": "documented"})
    objective = Objective.model_validate({"name": "meanflow", "weighting": {"name": "p2", "gamma": 2.0}})
    net = random_network((3,), dtype=torch.float32)
    loss = objective.loss(net, net, Schedule.model_validate("linear"), Batch(torch.ones(4, 3)), Draws(0, 0), 0, 1)
    assert loss.per_sample.shape == (4,)
    assert bool(torch.isfinite(loss.per_sample).all())
