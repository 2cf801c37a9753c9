"""YAML 1.2 text to plain Python values, remembering where everything was written.

The node tree comes from ruamel.yaml's composer; the values are made here, so no tag can construct an object,
``off`` stays a string and ``1e-4`` is a number. Keys are always text, exactly as written.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from ablate.space.problems import Mark, Problem, refuse

MAX_BYTES = 1_000_000
MAX_VALUES = 20_000
"""Values after aliases are followed: nine lines of aliases to aliases can otherwise stand for a billion."""

Where = tuple[str | int, ...]
_CORE = "tag:yaml.org,2002:"


@dataclass(frozen=True)
class Place:
    """Where a value was written, and where its key was (the same for items of a list)."""

    key: Mark
    value: Mark
    quoted: tuple[bool, bool] = (False, False)
    """Whether the key and the value begin with a quotation mark."""


@dataclass
class Source:
    """A read file: its data, and the place of everything in it."""

    file: str
    text: str
    data: dict[str, Any]
    places: dict[Where, Place] = field(default_factory=dict)

    def within(self, where: Where) -> Where:
        """`where` without the segments that are not in the file (long forms of short forms, tags of unions)."""
        node: Any = self.data
        at: Where = ()
        for segment in where:
            named = isinstance(node, dict) and segment in node
            if named or (isinstance(node, list) and isinstance(segment, int) and segment < len(node)):
                node, at = node[segment], (*at, segment)
        return at

    def mark(self, where: Where, *, key: bool = False) -> Mark:
        """The place of `where`, or of what is nearest around it.

        What is missing from a mapping is marked at the mapping's key; a part of a long form at the short form's value.
        """
        at = self.within(where)
        place = self.places.get(at)
        if place is None:
            return Mark(self.file)
        missing = at[-1:] != where[-1:] and isinstance(self._value(at), dict)
        return place.key if key or missing else place.value

    def mark_inside(self, where: Where, column: int, *, key: bool = False) -> Mark:
        """The place of a column, from 1, inside a text that was written on one line."""
        mark = self.mark(where, key=key)
        place = self.places.get(self.within(where))
        quoted = place is not None and place.quoted[0 if key else 1]
        return Mark(mark.file, mark.line, mark.column + column - (0 if quoted else 1))

    def _value(self, at: Where) -> Any:
        node: Any = self.data
        for segment in at:
            node = node[segment]
        return node


def read_file(path: Path, shown: str | None = None) -> Source:
    """Read a YAML file whose top level is a mapping.

    Raises:
        SpaceError: the file is missing, too large, not UTF-8, not YAML, or not a mapping.
    """
    name = shown or str(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        reason = "is a folder, not a space file" if path.is_dir() else (error.strerror or str(error)).lower()
        refuse([Problem(Mark(name), f"cannot be read: {reason}")])
        raise AssertionError from error
    if len(raw) > MAX_BYTES:
        refuse([Problem(Mark(name), f"is {len(raw):,} bytes; a space file has at most {MAX_BYTES:,}")])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - (raw.rfind(b"\n", 0, error.start) + 1) + 1
        refuse([Problem(Mark(name, line, column), "is not UTF-8; save the file as UTF-8")])
    return read_text(text, name)


def read_text(text: str, file: str) -> Source:
    """Read YAML text whose top level is a mapping; `file` is the name shown in errors."""
    node = _compose(text, file)
    if not isinstance(node, MappingNode):
        what = "is empty" if node is None else "the top level of a space is a mapping"
        refuse([Problem(Mark(file, 1, 1), f"{what}; a space has at least `base:` and `axes:`")])
        raise AssertionError
    source = Source(file, text, {})
    reader = _Reader(source)
    source.data = reader.value(node, ())
    refuse(reader.problems)
    return source


def _compose(text: str, file: str) -> Node | None:
    problem: Problem
    try:
        yaml = YAML(typ="safe", pure=True)
        return yaml.compose(text)  # type: ignore[no-any-return]
    except MarkedYAMLError as error:
        seen = error.problem_mark or error.context_mark
        mark = Mark(file, seen.line + 1, seen.column + 1) if seen else Mark(file)
        message = str(error.problem or error.context or "not YAML")
        if "'\\t'" in message:
            message = "a tab cannot indent YAML; use spaces"
        elif "another document" in message:
            message = "a space file is one YAML document; remove the second `---`"
        problem = Problem(mark, f"unreadable YAML: {message}")
    except ReaderError as error:
        at = error.position
        mark = Mark(file, text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at))
        message = f"the control character U+{ord(text[at]):04X} cannot stand in YAML; remove it"
        problem = Problem(mark, f"unreadable YAML: {message}")
    except YAMLError as error:
        problem = Problem(Mark(file), f"unreadable YAML: {str(error).splitlines()[0]}")
    except RecursionError:
        problem = Problem(Mark(file), "unreadable YAML: nested too deeply")
    refuse([problem])
    raise AssertionError


class _Reader:
    """Makes values of nodes and notes their places."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.problems: list[Problem] = []
        self.open: set[int] = set()
        self.count = 0

    def value(self, node: Node, where: Where, key: Node | None = None) -> Any:
        mark = self.mark(node)
        self.source.places[where] = Place(self.mark(key or node), mark, (_quoted(key or node), _quoted(node)))
        self.count += 1
        if self.count > MAX_VALUES:
            refuse([Problem(mark, f"more than {MAX_VALUES:,} values after following aliases")])
        if isinstance(node, ScalarNode):
            return self.scalar(node)
        if not isinstance(node, MappingNode | SequenceNode) or node.tag not in (_CORE + "map", _CORE + "seq"):
            return self.wrong(node, f"the tag {node.tag} is not allowed; a space holds plain values only")
        if id(node) in self.open:
            return self.wrong(node, "an alias cannot stand for something that contains it")
        self.open.add(id(node))
        made = self.mapping(node, where) if isinstance(node, MappingNode) else self.sequence(node, where)
        self.open.discard(id(node))
        return made

    def sequence(self, node: SequenceNode, where: Where) -> list[Any]:
        return [self.value(item, (*where, i)) for i, item in enumerate(node.value)]

    def mapping(self, node: MappingNode, where: Where) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key, item in node.value:
            if not isinstance(key, ScalarNode):
                self.wrong(key, "a key is a word, not a list or a mapping")
            elif key.tag == _CORE + "merge":
                self.wrong(key, "merge keys (<<) are not YAML 1.2; use `presets:` or `extends:`")
            elif key.value in made:
                first = self.source.places[(*where, key.value)].key.line
                self.wrong(key, f"duplicate key {key.value!r}, first written on line {first}")
            else:
                made[key.value] = None
                made[key.value] = self.value(item, (*where, key.value), key)
        return made

    def scalar(self, node: ScalarNode) -> Any:
        text, kind = str(node.value), str(node.tag).removeprefix(_CORE)
        if node.style is None and kind in ("null", "bool", "int", "float"):
            try:
                return _plain(text, kind)
            except ValueError:
                return self.wrong(node, f"{text!r} is no {kind}")
        if kind in ("str", "timestamp", "value", "merge", "bool", "null", "int", "float"):
            return text
        return self.wrong(node, f"the tag {node.tag} is not allowed; a space holds plain values only")

    def wrong(self, node: Node, message: str) -> None:
        self.problems.append(Problem(self.mark(node), message))

    def mark(self, node: Node) -> Mark:
        return Mark(self.source.file, node.start_mark.line + 1, node.start_mark.column + 1)


def _quoted(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.style in ("'", '"')


def _plain(text: str, kind: str) -> bool | int | float | str | None:
    """A plain scalar by the YAML 1.2 core schema (digits may be grouped: 600_000)."""
    lower = text.lower()
    if kind == "null":
        return None
    if kind == "bool":  # a %YAML 1.1 directive would make booleans of yes, no, on and off: they stay words
        return lower == "true" if lower in ("true", "false") else text
    if kind == "int":
        digits = lower.lstrip("+-")
        base = {"0x": 16, "0o": 8, "0b": 2}.get(digits[:2], 10)
        return int(lower, base)
    special = {".inf": math.inf, "+.inf": math.inf, "-.inf": -math.inf, ".nan": math.nan}
    return special[lower] if lower in special else float(lower)


def parse_value(text: str) -> Any:
    """One YAML value given on the command line (``--set train.lr=1e-4``). Raises SpaceError."""
    node = _compose(text, "--set") if text.strip() else None
    if node is None:
        return None
    source = Source("--set", text, {})
    reader = _Reader(source)
    made = reader.value(node, ())
    refuse([Problem(Mark("--set"), p.message) for p in reader.problems])
    return made
