"""``ablate schema``: the JSON Schema of a space file, for editors."""

from __future__ import annotations

from ablate.cli.options import PluginOption, plugin_names


def schema(plugin: PluginOption = None) -> None:
    """Print the JSON Schema of a space file (point your editor's YAML support at it)."""
    from ablate.cli import present
    from ablate.space import load_plugins, space_json_schema

    load_plugins(plugin_names(plugin))
    present.as_json(space_json_schema())
