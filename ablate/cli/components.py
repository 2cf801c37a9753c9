"""``ablate components``: what a space file may name."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ablate.cli.options import JsonOption, PluginOption, plugin_names
from ablate.errors import NotHereError


def components(
    action: Annotated[
        str | None, typer.Argument(help="`show` for one component or method.", show_default=False)
    ] = None,
    name: Annotated[str | None, typer.Argument(help="Its name, or axis.name.", show_default=False)] = None,
    plugin: PluginOption = None,
    json: JsonOption = False,
) -> None:
    """List methods and components; `ablate components show esc` prints one of them as a row of choices."""
    from ablate.cli import present
    from ablate.space import load_plugins

    if action not in (None, "show") or (action == "show") != (name is not None):
        raise NotHereError("write `ablate components` or `ablate components show NAME`")
    load_plugins(plugin_names(plugin))
    if name is not None:
        return _show(name, json)
    catalogue = _catalogue()
    if json:
        return present.as_json(catalogue)
    present.table(
        "methods (objective: NAME)", ["name", "is"], [[m["name"], m["summary"]] for m in catalogue["methods"]]
    )
    for axis, choices in catalogue["axes"].items():
        rows = [[c["name"], c["summary"], c["plugin"]] for c in choices]
        wide = any(c["plugin"] for c in choices)
        present.table(axis.replace("_", " "), ["name", "is", "plug-in"] if wide else ["name", "is"],
                      rows if wide else [row[:2] for row in rows])  # fmt: skip
    return None


def _catalogue() -> dict[str, Any]:
    import ablate_core.config  # noqa: F401  (registers every component)
    from ablate_core.component import axes
    from ablate_core.methods import METHODS, describe
    from ablate_core.plugins import plugin_of

    return {
        "methods": [{"name": name, "summary": describe(name)["summary"]} for name in METHODS],
        "axes": {
            axis: [
                {"name": name, "summary": _first_line(cls), "plugin": plugin_of(cls)}
                for name, cls in sorted(base.choices.items())
            ]
            for axis, base in sorted(axes().items())
        },
    }


def _show(name: str, json: bool) -> None:
    from ablate.cli import present
    from ablate_core.component import axes, unknown_name
    from ablate_core.methods import METHODS, describe
    from ablate_core.plugins import plugin_of

    if name in METHODS:
        row = describe(name)
        if json:
            return present.as_json(row)
        present.line(f"{name}: {row['summary']}", style="bold")
        slots = row.pop("slots")
        present.table("", ["slot", "choice"], [[slot, _inline(choice)] for slot, choice in slots.items()])
        present.table(
            "",
            ["", ""],
            [[k.replace("_", " "), _inline(v)] for k, v in row.items() if k not in ("name", "summary") and v],
        )
        return None
    axis_name, _, leaf = name.rpartition(".")
    found = [
        (axis, cls)
        for axis, base in sorted(axes().items())
        for choice, cls in base.choices.items()
        if choice == leaf and axis_name in ("", axis)
    ]
    if not found:
        known = {*METHODS, *(choice for base in axes().values() for choice in base.choices)}
        raise NotHereError(unknown_name("component or method", name, known))
    if json:
        return present.as_json([{"axis": axis, "schema": cls.model_json_schema()} for axis, cls in found])
    for axis, cls in found:
        origin = f" (of plug-in {plugin})" if (plugin := plugin_of(cls)) else ""
        present.line(f"{axis.replace('_', ' ')}: {leaf}{origin}", style="bold")
        present.line(_doc(cls))
        rows = [
            [field, _inline(_default(info)), info.description or ""]
            for field, info in cls.model_fields.items()
            if field != "name"
        ]
        if rows:
            present.table("", ["field", "default", "is"], rows)
    return None


def _default(info: Any) -> Any:
    return "required" if info.is_required() else info.get_default(call_default_factory=True)


def _inline(value: Any) -> str:
    """A value on one line, as it would stand in a space file."""
    if isinstance(value, dict):
        rest = {k: v for k, v in value.items() if k != "name"}
        inside = ", ".join(f"{k}: {_inline(v)}" for k, v in rest.items())
        return f"{value['name']} ({inside})" if "name" in value and rest else str(value.get("name", f"{{{inside}}}"))
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_inline, value))}]"
    return "null" if value is None else str(value)


def _doc(cls: type) -> str:
    import inspect

    return inspect.cleandoc(cls.__doc__ or "")


def _first_line(cls: type) -> str:
    return _doc(cls).split("\n")[0]
