"""What tests of several rooms share."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

collect_ignore = ["plugin_package"]
"""It has tests of its own; loaded here, its components would be in every test over a registry."""


@pytest.fixture
def registry() -> Iterator[None]:
    """Plug-ins that a test loads are forgotten after it."""
    import ablate_core.config  # noqa: F401  (ours are registered before anything is remembered)
    from ablate_core import plugins
    from ablate_core.component import axes

    choices = {axis: dict(base.choices) for axis, base in axes().items()}
    modules, known = set(sys.modules), dict(plugins._loaded)
    yield
    roots = {module.partition(".")[0] for module in plugins._loaded.keys() - known.keys()}
    for axis, base in axes().items():
        base.choices.clear()
        base.choices.update(choices[axis])
    for name in [n for n in sys.modules if n not in modules and n.partition(".")[0] in roots]:
        del sys.modules[name]
    plugins._loaded.clear()
    plugins._loaded.update(known)
