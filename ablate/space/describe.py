"""Turns pydantic's errors into problems a person can mend: placed in the file, with the nearest names."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ablate.space.booleans import booleans, takes_numbers_only
from ablate.space.problems import MISSING, Mark, Problem, nearest
from ablate.space.schema import KINDS, LATER_KINDS
from ablate_core.component import Component

Loc = tuple[str | int, ...]
MAPPING, LIST = "input should be a mapping, {key: value}", "input should be a list, [a, b]"
PLAIN = {
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), MAPPING),
    **dict.fromkeys(("list_type", "tuple_type"), LIST),
}
"""What pydantic says in words of Python, in words of a space file."""


def problems_of(
    error: ValidationError,
    mark: Callable[[Loc, bool], Mark],
    fields: Callable[[Loc], Iterable[str]],
    show: Callable[[Loc], Loc] = lambda loc: loc,
    chosen: Callable[[Loc], str | None] = lambda loc: None,
) -> list[Problem]:
    """One problem for each mistake pydantic found.

    Args:
        error: what validation raised.
        mark: (location, the key rather than the value) -> place in the file.
        fields: location of a mapping -> the keys it may have.
        show: location -> the location as the file has it (without the tags of unions).
        chosen: location -> the name of the component chosen there.
    """
    found: dict[tuple[Mark, Loc], Problem] = {}
    for detail in error.errors(include_url=False):
        loc, unknown, missing = detail["loc"], detail["type"] == "extra_forbidden", detail["type"] == "missing"
        shown = (*show(loc[:-1]), loc[-1]) if missing else show(loc[:-1]) if unknown else show(loc)
        holder = loc[:-1]
        message = unknown_key(loc[-1], fields(holder), chosen(holder)) if unknown else _message(detail)
        text = ": ".join(part for part in (".".join(map(str, shown)), message) if part)
        place = mark(loc, unknown)
        before = found.setdefault((place, shown), Problem(place, text))  # alternatives of a union fail together
        if detail["type"] == "literal_error" and before.message != text:  # the first is said, and which words there are
            found[place, shown] = Problem(place, f"{before.message}, nor {' or '.join(_words(detail))}")
    return list(found.values())


def unknown_key(key: object, known: Iterable[str], choice: str | None = None) -> str:
    """One sentence for a key that a mapping, a component named `choice` where it is one, does not have."""
    names = [name for name in known if name != "name"]
    if names:
        return nearest("key" if choice is None else f"setting of {choice}", key, names)
    return f"no key is named {str(key)!r}; {choice or 'this choice'} has no settings"


def _message(detail: ErrorDetails) -> str:
    context, given = detail.get("ctx", {}), detail.get("input")
    match detail["type"]:
        case "missing":
            return MISSING
        case "value_error":
            return str(context.get("error", detail["msg"]))
        case "union_tag_invalid":
            tag = str(context.get("tag"))
            if tag in LATER_KINDS:
                return f"plan kind {tag!r} does not exist yet; there are {', '.join(KINDS)}"
            return nearest("plan kind", tag, KINDS)
        case "union_tag_not_found":
            return f"a plan needs `kind:`, one of {', '.join(KINDS)}"
        case "literal_error":
            return nearest("choice", given, _words(detail))
    message = PLAIN.get(detail["type"], detail["msg"])
    message = message[0].lower() + message[1:]
    shown = repr(given)
    return message if isinstance(given, dict) or len(shown) > 60 else f"{message}, got {shown}"


def _words(detail: ErrorDetails) -> list[str]:
    """The words that a choice between words has."""
    words = str(detail.get("ctx", {}).get("expected", "")).replace(" or ", ", ").split(",")
    return [word.strip().strip("'") for word in words]


def model_fields_at(model: type[BaseModel], loc: Loc, data: Any = None) -> list[str]:
    """The keys that a mapping at `loc` inside a model may have; `data` tells which components were chosen."""
    found: list[str] = []
    for candidate in models_at(model, loc, data):
        found += [field.alias or name for name, field in candidate.model_fields.items()]
    return list(dict.fromkeys(found))


def models_at(model: type[BaseModel], loc: Loc, data: Any = None) -> list[type[BaseModel]]:
    """The models a mapping at `loc` may be validated by."""
    here: list[Any] = [model]
    for part in loc:
        below: list[Any] = []
        for kind in here:
            origin = get_origin(kind)
            if origin is dict:
                below.append(get_args(kind)[1])
            elif origin in (list, tuple):
                below.append(get_args(kind)[0])
            elif isinstance(kind, type) and issubclass(kind, BaseModel):
                below += [f.annotation for n, f in kind.model_fields.items() if part in (n, f.alias)]
        data = data.get(part) if isinstance(data, dict) else None
        if below:
            here = [option for kind in below for option in _options(kind, data)]
        else:  # the tag of a union is no level of the file, but may say which of its models is meant
            here = [kind for kind in here if getattr(kind, "__name__", None) == part] or here
    return [kind for kind in here if isinstance(kind, type) and issubclass(kind, BaseModel)]


def booleans_for_numbers(model: type[BaseModel], data: dict[str, Any]) -> list[tuple[Loc, bool]]:
    """The booleans in `data` where a model takes numbers only, with their places."""
    found: list[tuple[Loc, bool]] = []
    for loc, given in booleans(data):
        at = next((i for i, part in enumerate(loc) if isinstance(part, int)), len(loc)) - 1
        holders = models_at(model, loc[:at], data)
        fields = [f for m in holders for name, f in m.model_fields.items() if loc[at] in (name, f.alias)]
        if fields and all(takes_numbers_only(f.annotation) for f in fields):
            found.append((loc, given))
    return found


def unknown_part(model: type[BaseModel], path: tuple[str, ...]) -> str | None:
    """Why a dotted path cannot be in a config of any choice of components; None when it can."""
    for end, part in enumerate(path):
        known = model_fields_at(model, path[:end])
        if part not in known:
            return nearest("key", part, known) if known else f"{'.'.join(path[:end])} has no parts"
    return None


def _options(kind: Any, data: Any = None) -> list[Any]:
    """The alternatives of an annotation; an abstract component stands for the chosen one, or for all its choices."""
    if get_origin(kind) is Annotated:
        return _options(get_args(kind)[0], data)
    if get_origin(kind) in (Union, types.UnionType):
        return [option for part in get_args(kind) for option in _options(part, data)]
    if isinstance(kind, type) and issubclass(kind, Component) and Component in kind.__bases__:
        name = data.get("name") if isinstance(data, dict) else data
        chosen = kind.choices.get(name) if isinstance(name, str) else None
        return [chosen] if chosen else list(kind.choices.values())
    return [kind]
