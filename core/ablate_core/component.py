"""A component is one choice on one axis of the design space.

It is a frozen pydantic model: its fields are its hyperparameters, its one method is its mathematics.
An axis is an abstract subclass of `Component`; a final class names itself with a `Literal` field ``name``
and is registered under that name by being defined. There is no other registration.
"""

from __future__ import annotations

import abc
import difflib
from collections.abc import Iterable
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, ClassVar, Self, get_args

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, model_validator


class NameClashError(TypeError):
    """Two components of one axis have one name."""


class Component(BaseModel, abc.ABC):
    """Base of the axes. An axis is abstract; its subclasses are final and name themselves.

    In a space file a component is written by its name (``schedule: linear``) or with its hyperparameters
    (``schedule: {name: linear, ...}``); both validate to the same object.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    choices: ClassVar[dict[str, type[Component]]]
    axis: ClassVar[str]
    shared: ClassVar[bool] = False
    """True, in a class itself, for what several choices have in common and which is none."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        if Component in cls.__bases__:  # an axis: it opens its own list of choices
            cls.choices = {}
            cls.axis = _snake(cls.__name__)
            return
        if cls.__dict__.get("shared"):
            return
        names = get_args(cls.model_fields["name"].annotation)
        if len(names) != 1:
            raise TypeError(f'{cls.__qualname__}: a {cls.axis} names itself, name: Literal["..."] = "..."')
        (name,) = names
        if name in cls.choices:
            taken = cls.choices[name].__module__
            raise NameClashError(
                f"{cls.axis} {name!r} of {cls.__module__} is already the name of one of {taken}; give it another"
            )
        cls.choices[name] = cls

    @model_validator(mode="wrap")
    @classmethod
    def _choose(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if Component not in cls.__bases__ or isinstance(value, cls):
            return handler(value)
        fields = {"name": value} if isinstance(value, str) else value
        if not isinstance(fields, dict) or "name" not in fields:
            raise ValueError(f"a {cls.axis} is written as its name or as {{name: ..., ...}}, got {value!r}")
        return cls.choice(fields["name"]).model_validate(fields)  # type: ignore[return-value]

    def simplest(self) -> Component:
        """The choice of the same axis that computes the same with fewer settings; itself by default.

        Equal computations then have equal configs, and equal keys: a plug-in probability of 0 is no plug-in.
        """
        return self

    @classmethod
    def choice(cls, name: object) -> type[Component]:
        """The class registered under `name` on this axis. Raises ValueError that names the nearest choices."""
        if not isinstance(name, str) or name not in cls.choices:
            raise ValueError(unknown_name(cls.axis, name, cls.choices))
        return cls.choices[name]


def axes() -> dict[str, type[Component]]:
    """Every axis by its name, with its `choices` (those registered so far)."""
    return {cls.axis: cls for cls in Component.__subclasses__()}


def unknown_name(what: str, name: object, known: Iterable[str]) -> str:
    """One sentence for a misspelt name: the nearest known names, or all of them when none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names) or 'none'}"
    return f"no {what.replace('_', ' ')} is named {name!r}; {hint}"


def register_modules(package: str, path: Iterable[str]) -> None:
    """Import every module of an axis' folder, so that each component file registers itself."""
    for module in iter_modules(list(path)):
        import_module(f"{package}.{module.name}")


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(name))
