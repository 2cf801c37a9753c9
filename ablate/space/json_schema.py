"""The JSON Schema of a space file, for editors: completion, descriptions and red underlines while typing.

It is made from the pydantic models and the component registries, so a new component is in it by existing. It is
looser than `load_space` where a schema cannot follow (names of levels, expressions, dotted paths).
"""

from __future__ import annotations

import types
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from ablate.space.candidates import MAX_CELLS
from ablate.space.published import published
from ablate.space.schema import LARGEST_SEED, MAX_SEEDS, PER_ARM, Space
from ablate_core.component import Component
from ablate_core.config import TrialConfig
from ablate_core.methods import METHODS
from ablate_core.objective import Objective

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
_DOTTED = r"^[a-z_]+(\.[A-Za-z0-9_]+)+$"


def space_json_schema() -> Schema:
    """JSON Schema (draft 2020-12) of a space file, version 1."""
    schema = Space.model_json_schema(by_alias=True, mode="validation")
    definitions: Schema = schema.setdefault("$defs", {})
    builder = _Builder(definitions)
    config = builder.config()
    properties: Schema = schema["properties"]
    arm = {"anyOf": [{"type": "null"}, {**config, "additionalProperties": True}]}
    properties["base"] = config
    properties["presets"] = {**properties["presets"], "additionalProperties": config}
    per_arm = {"type": "object", "additionalProperties": config, "description": "expression on the config -> overrides"}
    level = {**config, "properties": {**config["properties"], PER_ARM: per_arm}}
    definitions["Fidelity"]["properties"]["levels"]["additionalProperties"] = {"anyOf": [level, {"type": "null"}]}
    definitions["ListPlan"]["properties"]["arms"]["additionalProperties"] = arm
    definitions["ListPlan"]["properties"]["arms"]["minProperties"] = 1
    _allow(definitions, "Axis", {"type": "array", "minItems": 1, "maxItems": MAX_CELLS})
    seed = {"type": "integer", "minimum": 0, "maximum": LARGEST_SEED}
    _allow(
        definitions, "Seeds", {"type": "integer", "minimum": 1, "maximum": MAX_SEEDS}, {"type": "array", "items": seed}
    )
    _allow(definitions, "MetricChoice", {"type": "string"})
    definitions["PublishedTable"]["properties"]["table"]["enum"] = list(published().tables)
    module = {"type": "string", "pattern": r"^[^\W\d]\w*(\.[^\W\d]\w*)*$"}
    properties["plugins"] = {"anyOf": [module, {**properties["plugins"], "items": module}]}
    properties["published"] = {"anyOf": [properties["published"], properties["published"]["items"]]}
    for name in ("axes", "plans", "presets"):
        taken_back = {"type": "null", "description": "takes back what an extended file says"}
        properties[name]["additionalProperties"] = {"anyOf": [properties[name]["additionalProperties"], taken_back]}
    for name in properties.keys() - {"ablate", "name", "base"}:
        properties[name] = {"anyOf": [properties[name], {"type": "null"}]}
    schema["required"] = ["base"]  # the name defaults to that of the file
    return {"$schema": DIALECT, **schema, "title": "ablate space, version 1"}


def _allow(definitions: Schema, name: str, *short_forms: Schema) -> None:
    long_form = definitions[name]
    definitions[name] = {"description": long_form.get("description", ""), "anyOf": [*short_forms, long_form]}


class _Builder:
    """Adds one definition for each axis of components; a config is then a mapping of references to them."""

    def __init__(self, definitions: Schema) -> None:
        self.definitions = definitions

    def config(self) -> Schema:
        """A partial config: every part optional, dotted keys and `preset:` allowed."""
        fields = {name: field for name, field in TrialConfig.model_fields.items() if name != "seed"}
        parts = {name: self.kind(field.annotation) for name, field in fields.items()}
        preset = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
        self.definitions["Config"] = {
            "type": "object",
            "properties": {**parts, "preset": {**preset, "description": "presets laid here, in order"}},
            "patternProperties": {_DOTTED: {"description": "a dotted path of the config"}},
            "additionalProperties": False,
        }
        return {"type": "object", **self.definitions["Config"]}

    def kind(self, annotation: Any) -> Schema:
        origin = get_origin(annotation)
        if origin is Annotated:
            return self.kind(get_args(annotation)[0])
        if origin in (Union, types.UnionType):
            return {"anyOf": [self.kind(option) for option in get_args(annotation)]}
        if isinstance(annotation, type) and issubclass(annotation, Objective):
            return self.define("objective", self.objective)
        if isinstance(annotation, type) and issubclass(annotation, Component):
            return self.define(annotation.axis, lambda: self.component(annotation))
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return self.partial(annotation)
        raise AssertionError(f"no schema for {annotation!r}")

    def define(self, name: str, make: Any) -> Schema:
        if name not in self.definitions:
            self.definitions[name] = {}
            self.definitions[name] = make()
        return {"$ref": f"#/$defs/{name}"}

    def objective(self) -> Schema:
        slots = {
            name: self.kind(field.annotation) if _is_component(field.annotation) else _field(Objective, name)
            for name, field in Objective.model_fields.items()
            if name != "name"
        }
        names = [{"const": name, "description": f"{m.title}. {m.paper}"} for name, m in METHODS.items()]
        whole = {
            "type": "object",
            "properties": {"name": {"anyOf": names}, **slots},
            "patternProperties": {_DOTTED: {}},
            "additionalProperties": False,
        }
        return {"anyOf": [*names, whole]}

    def component(self, axis: type[Component]) -> Schema:
        """A bare name, a mapping of one choice, or a mapping without a name that merges into what is there."""
        names = [{"const": n, "description": _first_line(c)} for n, c in axis.choices.items()]
        return {"anyOf": [*names, *(self.partial(choice) for choice in axis.choices.values())]}

    def partial(self, model: type[BaseModel]) -> Schema:
        schema = model.model_json_schema(mode="validation")
        self.definitions.update(schema.pop("$defs", {}))
        schema.pop("required", None)
        return schema


def _is_component(annotation: Any) -> bool:
    kind = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    return isinstance(kind, type) and issubclass(kind, Component)


def _field(model: type[BaseModel], name: str) -> Schema:
    found: Schema = model.model_json_schema(mode="validation")["properties"][name]
    return found


def _first_line(choice: type[Component]) -> str:
    return (choice.__doc__ or "").strip().splitlines()[0] if choice.__doc__ else ""
