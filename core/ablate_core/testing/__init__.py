"""The contracts of components as checks, for the tests of a plug-in and for our own (docs/plugins.md).

    import pytest
    from ablate_core.testing import Check, checks

    @pytest.mark.parametrize("check", checks("my_lab.paths"), ids=str)
    def test_my_components_keep_their_contracts(check: Check) -> None:
        check()

A check takes a component and raises AssertionError with a sentence. Nothing here needs pytest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ablate_core import plugins
from ablate_core.component import Component
from ablate_core.testing import architectures, components, datasets, objectives, schedules, time_samplers

BY_AXIS: dict[str, tuple[Callable[[Any], None], ...]] = {
    "schedule": schedules.CHECKS,
    "time_sampler": time_samplers.CHECKS,
    "architecture": architectures.CHECKS,
    "dataset": datasets.CHECKS,
}
"""What is checked on an axis beside what every component has to keep, and every choice of a slot."""


@dataclass(frozen=True)
class Check:
    """One check of one component; call it. Its text is ``name-what``, for the id of a test."""

    component: Component
    function: Callable[..., None]
    companions: Mapping[str, Any] | None = None

    def __call__(self) -> None:
        more = {} if self.companions is None else {"companions": self.companions}
        self.function(self.component, **more)

    def __str__(self) -> str:
        return f"{self.component.model_dump().get('name')}-{self.function.__name__}"


def checks(
    module: str,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    companions: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Check]:
    """Every check of every component of a plug-in, which is loaded.

    Args:
        module: the plug-in, as in an import.
        settings: name of a component -> fields, for one that has no default for all of them or needs a small size.
        companions: name of a choice of a slot -> further slots, without which no published row can hold it.

    Raises:
        PluginError: the plug-in cannot be used.
    """
    plugins.load([module])
    made: list[Check] = []
    for cls in sorted(plugins.components(module), key=lambda cls: (cls.axis, cls.__name__)):
        name = components.name_of(cls)
        component = cls.model_validate({"name": name, **(settings or {}).get(name, {})})
        for function in checks_of(component):
            more = (companions or {}).get(name) if function in objectives.CHECKS else None
            made.append(Check(component, function, more))
    return made


def checks_of(component: Component) -> Iterable[Callable[..., None]]:
    """The checks that apply to a component."""
    yield from components.CHECKS
    yield from BY_AXIS.get(component.axis, ())
    if component.axis in objectives.SLOTS:
        yield from objectives.CHECKS
