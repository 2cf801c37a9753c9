"""Which combinations of choices are refused, and which are only warned about (design-space 3.3).

Decided on declared capabilities, never on names. The same codes as in the table of docs/objectives.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ablate_core.legality import averages, batches, measuring, networks, sampling, times
from ablate_core.legality.networks import check_data_std as check_data_std
from ablate_core.legality.problem import Problem as Problem

if TYPE_CHECKING:
    from ablate_core.config import TrialConfig

RULES: tuple[Callable[[TrialConfig], Iterator[Problem]], ...] = (
    *times.RULES,
    *sampling.RULES,
    *batches.RULES,
    *networks.RULES,
    *averages.RULES,
    *measuring.RULES,
)


def check(config: TrialConfig) -> list[Problem]:
    """Every problem of a resolved config, errors first; empty for a legal one."""
    problems = [problem for rule in RULES for problem in rule(config)]
    return sorted(problems, key=lambda p: p.level != "error")
