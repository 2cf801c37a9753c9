"""Booleans where numbers are meant: pydantic would take ``true`` for 1, a space refuses it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

WANTED = "input should be a number, got"


def takes_numbers_only(annotation: Any) -> bool:
    """True for a field of numbers, or of lists or mappings of them, in which no boolean has a meaning."""
    kinds = set(_kinds(annotation))
    return bool(kinds & {int, float}) and not kinds & {bool, Any}


def booleans(value: Any, loc: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], bool]]:
    """The booleans in nested mappings and lists, with their places."""
    if isinstance(value, bool):
        yield loc, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, part in items:
        yield from booleans(part, (*loc, key))


def _kinds(annotation: Any) -> Iterator[Any]:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        yield from (type(word) for word in inner if isinstance(word, bool))
    elif origin is Annotated:
        yield from _kinds(inner[0])
    elif inner:
        for part in inner:
            yield from _kinds(part)
    else:
        yield annotation
