"""YAML 1.2 is read as data, and everything in it knows its line and column."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from ablate.errors import SpaceError
from ablate.space.problems import Mark
from ablate.space.source import MAX_BYTES, parse_value, read_file, read_text


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(SpaceError) as caught:
        read_text(text, "f.yaml")
    return caught.value.problems


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("off", "off"),
        ("on", "on"),
        ("yes", "yes"),
        ("n", "n"),
        ("true", True),
        ("False", False),
        ("1e-4", 1e-4),
        ("1.0e-4", 1e-4),
        (".5", 0.5),
        ("12", 12),
        ("012", 12),
        ("0x1F", 31),
        ("0o17", 15),
        ("-3", -3),
        ("600_000", 600_000),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("~", None),
        ("null", None),
        ("'12'", "12"),
        ('"true"', "true"),
        ("2:30:00", "2:30:00"),
        ("2026-01-01", "2026-01-01"),
        ("!!str 12", "12"),
        ("[1, a]", [1, "a"]),
        ("{b: 2}", {"b": 2}),
    ],
)
def test_a_scalar_is_what_yaml_1_2_says(text: str, value: object) -> None:
    assert read_text(f"a: {text}", "f").data["a"] == value
    assert type(read_text(f"a: {text}", "f").data["a"]) is type(value)


def test_a_yaml_1_1_directive_does_not_bring_back_the_booleans() -> None:
    assert read_text("%YAML 1.1\n---\na: off\nb: yes", "f").data == {"a": "off", "b": "yes"}


def test_keys_are_text_exactly_as_written() -> None:
    assert list(read_text("1: a\ntrue: b\n0.50: c\non: d", "f").data) == ["1", "true", "0.50", "on"]


def test_everything_knows_its_line_and_column() -> None:
    source = read_text("a: 1\nb:\n  - x\n  - {c: 2}\n", "f.yaml")
    assert source.mark(("a",)) == Mark("f.yaml", 1, 4)
    assert source.mark(("a",), key=True) == Mark("f.yaml", 1, 1)
    assert source.mark(("b", 1, "c")) == Mark("f.yaml", 4, 9)


def test_a_part_that_is_not_in_the_file_is_marked_at_what_is_around_it() -> None:
    source = read_text("a:\n  b: 1\n", "f.yaml")
    assert source.mark(("a", "missing")) == Mark("f.yaml", 1, 1)
    assert source.mark(("a", "levels", "b")) == Mark("f.yaml", 2, 6)


def test_duplicate_keys_are_refused_with_the_first_line() -> None:
    assert problems("a: 1\nb: {c: 1, c: 2}\na: 3") == (
        "f.yaml:2:11: duplicate key 'c', first written on line 2",
        "f.yaml:3:1: duplicate key 'a', first written on line 1",
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a:\n\tb: 1", "f.yaml:2:1: unreadable YAML: a tab cannot indent YAML; use spaces"),
        ("a: [1, 2", "f.yaml:1:9: unreadable YAML: expected ',' or ']', but got '<stream end>'"),
        ("a: *x", "f.yaml:1:4: unreadable YAML: found undefined alias 'x'"),
        ("a: 1\n---\nb: 2", "f.yaml:2:1: unreadable YAML: a space file is one YAML document; remove the second `---`"),
        ("a: &x [*x]", "f.yaml:1:4: an alias cannot stand for something that contains it"),
        ("a: !!python/name:os.system x", "f.yaml:1:4: the tag tag:yaml.org,2002:python/name:os.system is not allowed"),
        ("a: !!python/object/apply:os.system [ls]", "f.yaml:1:4: the tag tag:yaml.org,2002:python/object/apply"),
        ("a: !!set {x}", "f.yaml:1:4: the tag tag:yaml.org,2002:set is not allowed"),
        ("a: {<<: {b: 1}}", "f.yaml:1:5: merge keys (<<) are not YAML 1.2; use `presets:` or `extends:`"),
        ("? [a]\n: 1", "f.yaml:1:3: a key is a word, not a list or a mapping"),
        ("", "f.yaml:1:1: is empty; a space has at least `base:` and `axes:`"),
        ("# only a comment", "f.yaml:1:1: is empty"),
        ("- a", "f.yaml:1:1: the top level of a space is a mapping"),
        ("a", "f.yaml:1:1: the top level of a space is a mapping"),
        ("[" * 600, "f.yaml: unreadable YAML: nested too deeply"),
        ("a: \x00", "f.yaml:1:4: unreadable YAML: the control character U+0000 cannot stand in YAML; remove it"),
        ("b: 1\na: x\x07", "f.yaml:2:5: unreadable YAML: the control character U+0007"),
        ("a: !!int x", "f.yaml:1:4: 'x' is no int"),
    ],
)
def test_unreadable_text_is_one_line_with_its_place(text: str, line: str) -> None:
    (found,) = problems(text)
    assert found.startswith(line)
    assert "\n" not in found


def test_aliases_that_multiply_are_stopped_early() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    (found,) = problems("\n".join(lines))
    assert "more than 20,000 values after following aliases" in found


def test_an_ordinary_alias_is_followed() -> None:
    assert read_text("a: &x {b: 1}\nc: *x", "f").data == {"a": {"b": 1}, "c": {"b": 1}}


def test_a_missing_file_a_folder_and_a_file_of_bytes_are_one_line_each(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"a: 1\nb: caf\xe9\n")
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (MAX_BYTES + 1))
    for path, message in [
        (tmp_path / "no.yaml", "no.yaml: cannot be read: no such file or directory"),
        (tmp_path, "cannot be read: is a folder"),
        (latin, "latin.yaml:2:7: is not UTF-8; save the file as UTF-8"),
        (large, "a space file has at most 1,000,000"),
    ]:
        with pytest.raises(SpaceError, match=message):
            read_file(path)


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_file(path).data == {"a": 1}


def test_a_command_line_value_is_read_by_the_same_rules() -> None:
    assert [parse_value(text) for text in ("1e-4", "off", "[1, 2]", "", "{a: b}")] == [
        1e-4,
        "off",
        [1, 2],
        None,
        {"a": "b"},
    ]
    with pytest.raises(SpaceError, match="--set"):
        parse_value("[1")
