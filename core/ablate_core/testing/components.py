"""What every component keeps, whatever its axis; and how a check says that something does not hold."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from typing import Any, get_args

from torch import Tensor
from torch.testing import assert_close

from ablate_core.component import Component


def holds(true: object, sentence: str) -> None:
    """Raise AssertionError with `sentence` unless `true`."""
    if not bool(true):
        raise AssertionError(sentence)


def close(own: Tensor, wanted: Tensor, what: str, *, rtol: float = 1e-12, atol: float = 1e-13) -> None:
    """Raise AssertionError that begins with `what` unless both are the same up to the tolerances."""
    assert_close(own, wanted, rtol=rtol, atol=atol, msg=lambda text: f"{what}: {text}")


def name_of(cls: type[Component]) -> str:
    """The name that a final class gives itself."""
    (name,) = get_args(cls.model_fields["name"].annotation)
    return str(name)


def axis_of(component: Component) -> type[Component]:
    """The abstract class of the component's axis."""
    return next(cls for cls in type(component).__mro__ if Component in cls.__bases__)


def says_what_it_is(component: Component) -> None:
    """`ablate components` shows the first line of the docstring, and what each field means."""
    cls = type(component)
    own = (cls.__dict__.get("__doc__") or "").strip()
    holds(own, f"{cls.__name__}: has no docstring; `ablate components` shows its first line")
    for name, field in cls.model_fields.items():
        holds(name == "name" or field.description, f"{cls.__name__}.{name}: has no description")


def survives_being_written_down(component: Component) -> None:
    """A trial's config is stored as JSON, hashed for its key, and sent to other processes."""
    written = json.loads(json.dumps(component.model_dump(mode="json")))
    again = axis_of(component).model_validate(written)
    holds(again == component, f"{written}: reads back as {again!r}")
    holds(pickle.loads(pickle.dumps(component)) == component, f"{written}: is another one after pickling")
    holds(hash(again) == hash(component), f"{written}: has another hash after being read back")
    simpler = component.simplest()
    holds(simpler.simplest() == simpler, f"{written}: simplest() of its simplest form is another one")


CHECKS: tuple[Callable[[Any], None], ...] = (says_what_it_is, survives_being_written_down)
