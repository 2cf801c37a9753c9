"""The table of what proves what is current, and nothing is missing from it."""

from __future__ import annotations

from functools import cache

from table import DEFECTS, ORACLES, README, Collected, collect, table


@cache
def found() -> Collected:
    return collect()


def test_the_table_is_the_one_that_the_tests_give() -> None:
    written = README.read_text(encoding="utf-8")
    assert written == table(found()), "run: python tests/oracles/table.py"


def test_markers_name_oracles_and_components_that_exist() -> None:
    assert set(found().oracles) <= set(ORACLES)
    assert (set(found().proofs) | set(found().contracts)) <= set(found().components)
    assert set(found().defects) <= set(DEFECTS)


def test_every_oracle_and_every_defect_has_a_test() -> None:
    assert sorted(set(ORACLES) - set(found().oracles)) == []
    assert sorted(set(DEFECTS) - set(found().defects)) == []


def test_every_component_is_held_to_a_closed_form_and_to_its_contract() -> None:
    """A contract alone is not enough, but for what does nothing."""
    idle = {name for name in found().components if name.endswith(":none")}
    assert sorted(set(found().components) - set(found().contracts)) == []
    assert sorted(set(found().components) - set(found().proofs) - idle) == []
