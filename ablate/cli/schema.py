"""``ablate schema``: the JSON Schema of a space file, for editors."""

from __future__ import annotations


def schema() -> None:
    """Print the JSON Schema of a space file (point your editor's YAML support at it)."""
    from ablate.cli import present
    from ablate.space import space_json_schema

    present.as_json(space_json_schema())
