"""``ablate show``: everything about one trial."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ablate.cli.options import JsonOption, StoreOption, store_root


def show(
    trial: Annotated[str, typer.Argument(help="A trial's key, or the beginning of one.", show_default=False)],
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Show one trial: its config, attempts, measurements and files."""
    from ablate.cli import present
    from ablate.store import StorePaths, trial_detail

    detail = trial_detail(StorePaths(store_root(store)), trial)
    if json:
        return present.as_json(detail)
    simple = [[name, value] for name, value in detail.items() if not isinstance(value, dict | list)]
    present.table("trial", ["", ""], simple)
    for name, value in detail.items():
        if isinstance(value, dict):
            present.table(name, ["", ""], _flat(value))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            head = [key for key in value[0] if any(row.get(key) not in (None, "") for row in value)]
            present.table(name.replace("_", " "), head, [[_short(row.get(key)) for key in head] for row in value])
    return None


def _flat(value: dict[str, Any], prefix: str = "") -> list[list[Any]]:
    """A nested mapping as rows of dotted keys, as `--set` takes them."""
    rows: list[list[Any]] = []
    for key, inner in value.items():
        if isinstance(inner, dict):
            rows += _flat(inner, f"{prefix}{key}.")
        else:
            rows.append([f"{prefix}{key}", "null" if inner is None else inner])
    return rows


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
