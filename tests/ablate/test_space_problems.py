"""What a person is told of a name that does not exist."""

from __future__ import annotations

from ablate.space.problems import MOST_LISTED, listed, nearest


def test_a_misspelt_name_among_thousands_is_one_line_a_person_can_read() -> None:
    arms = [f"arm{i:04d}" for i in range(1440)]
    message = nearest("arm", "xyz", arms)
    assert message.endswith(f"arm{MOST_LISTED - 2:04d}, {1440 - MOST_LISTED + 1} more")
    assert len(message) < 300
    assert nearest("arm", "arm0007x", arms).startswith("no arm is named 'arm0007x'; did you mean arm0007 or")


def test_as_many_as_fit_are_all_named_and_none_is_said() -> None:
    names = [f"n{i}" for i in range(MOST_LISTED)]
    assert listed(names) == ", ".join(names)
    assert listed([*names, "last"]) == ", ".join([*names[:-1], "2 more"])
    assert listed([]) == "none"
