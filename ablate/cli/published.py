"""``ablate published``: what other people reported, as it ships with the program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ablate.cli.options import JsonOption

if TYPE_CHECKING:
    from ablate.space.published import Settings, Table


def published(
    table: Annotated[
        str | None, typer.Argument(help="A table or a set of settings, by its name.", show_default=False)
    ] = None,
    json: JsonOption = False,
) -> None:
    """List published numbers, with their sources; `published: {table: ...}` in a space puts them beside your own."""
    from ablate.cli import present
    from ablate.errors import NotHereError
    from ablate.space.problems import nearest
    from ablate.space.published import published as read

    numbers = read()
    named = {**numbers.tables, **numbers.settings}
    if table is not None and table not in named:
        raise NotHereError(nearest("published table", table, named))
    chosen = named[table] if table else None
    if json:
        return present.as_json((chosen or numbers).model_dump(mode="json", exclude_none=True))
    if chosen is not None:
        return _rows(chosen) if "rows" in type(chosen).model_fields else _entries(chosen)  # type: ignore[arg-type]
    present.table(
        "published numbers (ablate published TABLE)",
        ["table", "numbers", "is", "source"],
        [[name, len(found.entries), found.title, found.source] for name, found in numbers.tables.items()],
        right=(1,),
    )
    present.table("settings", ["name", "is"], [[name, found.title] for name, found in numbers.settings.items()])
    for finding in numbers.findings.values():
        present.line(f"finding: {finding.says} ({finding.source})")
    return None


def _entries(table: Table) -> None:
    """Every entry; what all of them share stands above the table."""
    from ablate.cli import present

    entries = list(table.entries.values())
    rows = [entry.model_dump(exclude={"source"}) | {"source": str(entry.source)} for entry in entries]
    shared = {key: value for key, value in rows[0].items() if all(row[key] == value for row in rows)}
    varying = [key for key in rows[0] if key not in shared and key not in ("value", "spread", "approximate")]
    _heading(table, {key: value for key, value in shared.items() if key not in ("value", "spread", "approximate")})
    present.table(
        "",
        ["entry", "value", *(key.replace("_", " ") for key in varying)],
        [
            [name, value_of(entry.value, entry.spread, entry.approximate), *(_cell(row[key]) for key in varying)]
            for (name, entry), row in zip(table.entries.items(), rows, strict=True)
        ],
        right=(1,),
    )


def _rows(settings: Settings) -> None:
    from ablate.cli import present

    _heading(settings, {"source": str(settings.source)})
    rows = [[name, ", ".join(f"{key} {value}" for key, value in row.items())] for name, row in settings.rows.items()]
    present.table("", ["row", "settings"], rows)


def _heading(part: Table | Settings, shared: dict[str, Any]) -> None:
    from ablate.cli import present

    present.line(part.title, style="bold")
    for key, value in shared.items():
        if value is not None:
            present.line(f"{key.replace('_', ' ')}: {_cell(value)}")
    if part.note:
        present.line(part.note)


def value_of(value: float, spread: float | None, approximate: bool) -> str:
    """``6.09``, ``about 2.9``, ``251.946 +- 3.435``."""
    return f"{'about ' if approximate else ''}{value:.10g}{f' +- {spread:g}' if spread else ''}"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
