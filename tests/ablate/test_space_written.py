"""Overrides laid over a written config follow the rules that components have."""

from __future__ import annotations

from typing import Any

import pytest

from ablate.space.written import Written, leaves


def lay(data: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    written = Written(data)
    written.lay(tuple(path.split(".")), value, ("here",))
    return written.data


@pytest.mark.parametrize(
    ("data", "path", "value", "made"),
    [
        ({"a": 1}, "a", 2, {"a": 2}),
        ({}, "a.b.c", 1, {"a": {"b": {"c": 1}}}),
        ({"t": {"x": 1, "y": 2}}, "t", {"y": 3}, {"t": {"x": 1, "y": 3}}),
        ({"t": {"x": 1}}, "t", {"u.v": 3}, {"t": {"x": 1, "u": {"v": 3}}}),
        ({"o": "fm"}, "o.velocity", "plugin", {"o": {"name": "fm", "velocity": "plugin"}}),
        ({"o": "fm"}, "o", {"x": 1}, {"o": {"name": "fm", "x": 1}}),
        ({"o": {"name": "fm", "x": 1}}, "o", "esc", {"o": "esc"}),
        ({"o": {"name": "fm", "x": 1}}, "o.name", "esc", {"o": "esc"}),
        ({"o": {"name": "fm", "x": 1}}, "o", {"name": "esc", "y": 2}, {"o": {"name": "esc", "y": 2}}),
        ({"o": {"name": "fm", "x": 1}}, "o", "fm", {"o": {"name": "fm", "x": 1}}),
        ({"o": {"name": "fm", "x": 1}}, "o.name", "fm", {"o": {"name": "fm", "x": 1}}),
        ({"o": {"name": "fm", "x": 1}}, "o", {"name": "fm", "y": 2}, {"o": {"name": "fm", "x": 1, "y": 2}}),
        (
            {"o": {"name": "fm", "v": {"name": "plugin", "prob": 1}}},
            "o",
            {"v": {"name": "conditional"}},
            {"o": {"name": "fm", "v": {"name": "conditional"}}},
        ),
        ({"o": {"name": "fm", "v": {"name": "plugin", "prob": 1}}}, "o.v", "c", {"o": {"name": "fm", "v": "c"}}),
        ({"t": {"optimizer": "adam"}}, "t.optimizer", "radam", {"t": {"optimizer": "radam"}}),
        ({"t": {"ema": [1]}}, "t.ema", [2, 3], {"t": {"ema": [2, 3]}}),
        ({"e": {"ema": 0.9}}, "e.ema", None, {"e": {"ema": None}}),
    ],
)
def test_what_laying_an_override_makes(data: Any, path: str, value: Any, made: dict[str, Any]) -> None:
    assert lay(data, path, value) == made


def test_a_later_override_wins_in_either_notation() -> None:
    written = Written()
    for path, value in [(("t",), {"x": 1}), (("t", "x"), 2), (("t",), {"x": 3})]:
        written.lay(path, value, ("here",))
    assert written.data == {"t": {"x": 3}}


def test_every_part_knows_where_it_was_written() -> None:
    written = Written()
    written.lay(("o",), {"name": "fm", "v": {"prob": 1}}, ("base", "o"))
    written.lay(("o", "v", "prob"), 0.5, ("arm", "o.v.prob"))
    assert written.origin(("o", "v", "prob")) == ("arm", "o.v.prob")
    assert written.origin(("o", "v", "unknown")) == ("base", "o", "v", "unknown")
    assert written.origin(("o", "name")) == ("base", "o", "name")


def test_a_replaced_component_leaves_no_origin_behind() -> None:
    written = Written()
    written.lay(("o",), {"name": "fm", "v": {"prob": 1}}, ("base", "o"))
    written.lay(("o",), "esc", ("arm", "o"))
    assert written.origin(("o", "v", "prob")) == ("arm", "o", "v", "prob")


def test_a_copy_does_not_share_what_is_inside() -> None:
    written = Written({"t": {"x": [1]}})
    written.copy().lay(("t", "x"), [2], ("here",))
    written.copy().data["t"]["x"].append(3)
    assert written.data == {"t": {"x": [1]}}


def test_leaves_open_dotted_keys() -> None:
    assert list(leaves({"a.b": 1, "c": {"d": 2, "e": {}}})) == [(("a", "b"), 1), (("c", "d"), 2), (("c", "e"), {})]
