"""Published methods as rows of slot choices. A row is data: no code anywhere asks for a method's name.

A space may override any slot of a row; ``differs`` says what the row itself does not share with the publication.
"""

from __future__ import annotations

from typing import Any

from ablate_core.component import unknown_name
from ablate_core.methods import average_velocity, consistency, flow_maps
from ablate_core.methods.row import COMMON, NO_TWO_STEPS
from ablate_core.methods.row import Method as Method

METHODS: dict[str, Method] = {
    "fm": Method(
        title="Flow matching: the velocity only, many sampling steps",
        paper="Lipman et al., Flow Matching for Generative Modeling, arXiv 2210.02747; times of 2403.03206",
        differs="Times are LN(-0.4, 1) rather than LN(0, 1), those of the MeanFlow rows.",
        slots=COMMON
        | NO_TWO_STEPS
        | {
            "parameterization": "u",
            "time_sampler": "logit_normal",
            "limit": "none",
            "target_network": "stop_gradient",
            "metric": "l2_mean",
        },
    ),
    **consistency.METHODS,
    **flow_maps.METHODS,
    **average_velocity.METHODS,
}


def method(name: object) -> Method:
    """The row `name`. Raises ValueError that names the nearest rows."""
    if not isinstance(name, str) or name not in METHODS:
        raise ValueError(unknown_name("objective", name, METHODS))
    return METHODS[name]


def describe(name: str) -> dict[str, Any]:
    """A row as plain data: name, summary, paper, differs, and every slot with every field resolved.

    Raises ValueError that names the nearest rows.
    """
    from ablate_core.objective import Objective  # the template reads this table

    row = method(name)
    slots = Objective.model_validate(name).model_dump(mode="json")
    del slots["name"]
    text = {"name": name, "summary": row.title, "paper": row.paper, "path": row.path, "differs": row.differs}
    return text | {"slots": slots}


def methods_table() -> str:
    """The rows as a Markdown table, one column per slot that any two rows fill differently."""
    rows = {name: describe(name)["slots"] for name in METHODS}
    slots = [slot for slot in rows["fm"] if len({_choice(row[slot]) for row in rows.values()}) > 1]
    lines = [["method", *slots], ["---"] * (len(slots) + 1)]
    lines += [[f"`{name}`", *(_choice(row[slot]) for slot in slots)] for name, row in rows.items()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _choice(value: Any) -> str:
    return str(value["name"]) if isinstance(value, dict) else str(value)
