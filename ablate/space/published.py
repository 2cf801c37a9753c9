"""Published numbers as data: the tables of ``published.yaml``, and the rows of a space that refer to them.

Nothing here takes part in a comparison. A value carries as much of its metric's identity as its source gives, so that a
report can say beside one's own measurement why the two are not the same quantity.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ablate.space.source import read_file

FILE = Path(__file__).with_name("published.yaml")
IDENTITY = (
    "dataset",
    "architecture",
    "parameters_millions",
    "nfe",
    "guided",
    "guidance",
    "epochs",
    "iterations",
    "samples",
    "evaluation",
)
"""The fields of an entry that say what was measured, in the order in which they are shown."""

Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(gt=0)]


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Origin(Part):
    """How a number was come by, and where it was read."""

    kind: Literal["project page", "figure", "repository", "paper", "secondary"]
    where: Text

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}"


class Entry(Part):
    """One published number. A field that is None is not known."""

    method: Text
    metric: Text = Field(description="the name it was published under, e.g. fid50k")
    value: float
    spread: float | None = Field(None, gt=0, description="as published; what it is the spread of is in the note")
    approximate: bool = Field(False, description="published as a rounded expectation")
    dataset: Text | None = None
    architecture: Text | None = None
    parameters_millions: Count | None = None
    nfe: Count | Text | None = Field(None, description="network evaluations of one sample")
    guided: bool | None = Field(None, description="trained or sampled with classifier-free guidance")
    guidance: Text | None = Field(None, description="its scale and window")
    epochs: Count | None = None
    iterations: Count | None = None
    samples: Count | None = Field(None, description="generated samples that were scored")
    evaluation: Text | None = Field(None, description="code and reference of the evaluation")
    source: Origin
    note: Text | None = None

    @model_validator(mode="after")
    def _guided(self) -> Entry:
        if self.guidance is not None and not self.guided:
            raise ValueError("a number with `guidance` is `guided: true`")
        return self

    def identity(self) -> dict[str, Any]:
        """What is known of the metric and of what was measured; unknown fields are left out."""
        return {name: value for name in IDENTITY if (value := getattr(self, name)) is not None}


class Table(Part):
    """Numbers that were published together."""

    title: Text
    source: Origin
    note: Text | None = None
    entries: dict[str, Entry] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _common(cls, value: Any) -> Any:
        """`common` and the table's source hold for every entry that does not say otherwise."""
        if not isinstance(value, dict) or not isinstance(value.get("entries"), dict):
            return value
        rest = {key: item for key, item in value.items() if key != "common"}
        shared = {"source": value.get("source"), **(value.get("common") or {})}
        return {**rest, "entries": {key: {**shared, **(entry or {})} for key, entry in value["entries"].items()}}


class Finding(Part):
    """A published sentence."""

    says: Text
    source: Origin


class Settings(Part):
    """Published settings, row by row, under the names of their source."""

    title: Text
    source: Origin
    note: Text | None = None
    rows: dict[str, dict[str, Any]] = Field(min_length=1)


class Numbers(Part):
    """The whole file."""

    tables: dict[str, Table]
    findings: dict[str, Finding]
    settings: dict[str, Settings]


@lru_cache(maxsize=1)
def published() -> Numbers:
    """The shipped file, read once."""
    return Numbers.model_validate(read_file(FILE).data)


def row(table: str, entry: str, arm: str) -> dict[str, Any]:
    """An entry as a row of a plan, of the journal and of a report: plain JSON types.

    Raises:
        KeyError: there is no such table or entry.
    """
    found = published().tables[table].entries[entry]
    made = {
        "arm": arm,
        "metric": found.metric,
        "value": found.value,
        "spread": found.spread,
        "approximate": found.approximate or None,
        "method": found.method,
        "identity": found.identity(),
        "source": str(found.source),
        "note": found.note,
        "table": table,
        "entry": entry,
    }
    return {key: value for key, value in made.items() if value is not None}
