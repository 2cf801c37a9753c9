"""Which journal event becomes which row: one `Table` per kind, its columns taken from the event's fields by name."""

from __future__ import annotations

import marshal
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import pyarrow as pa

from ablate.store.journal import plain
from ablate_core.identity import canonical_json

Event = Mapping[str, Any]


class RefusedError(ValueError):
    """An event that cannot become a row; the message is kept beside it."""


def text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):
        value.encode()  # refuses a lone surrogate, which JSON can spell and a table cannot hold
        return value
    if isinstance(value, (bool, int, float)):
        return canonical_json(value)  # a level written as a number
    raise RefusedError(f"expected text, got {type(value).__name__}")


def whole(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
        raise RefusedError(f"expected a whole number, got {value!r}")
    if not -(2**63) <= value < 2**63:
        raise RefusedError(f"{value!r} does not fit in 64 bits")
    return int(value)


def number(value: Any) -> float | None:
    """A float; NaN and infinities are None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RefusedError(f"expected a number, got {value!r}")
    return float(value) if math.isfinite(value) else None


def flag(value: Any) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    raise RefusedError(f"expected true or false, got {value!r}")


def as_json(value: Any) -> str | None:
    return None if value is None else _as_json(marshal.dumps(value, 2))


@lru_cache(maxsize=256)  # definitions of environments, metrics and conditions come again with every attempt
def _as_json(marshalled: bytes) -> str | None:
    return text(canonical_json(plain(marshal.loads(marshalled))))


def moment(value: Any) -> datetime | None:
    """UTC without a zone, as the tables keep it."""
    if value is None:
        return None
    parsed = datetime.fromisoformat(value)
    return parsed if parsed.tzinfo is None else parsed.astimezone(UTC).replace(tzinfo=None)


@dataclass(frozen=True)
class Column:
    """`source` is the event's field, a dotted path into nested objects; "" stands for the whole event."""

    name: str
    convert: Callable[[Any], Any]
    source: str
    default: Any = None
    required: bool = False


ARROW: dict[Callable[[Any], Any], pa.DataType] = {
    text: pa.string(),
    whole: pa.int64(),
    number: pa.float64(),
    flag: pa.bool_(),
    as_json: pa.string(),
    moment: pa.timestamp("us"),
}


@dataclass(frozen=True)
class Table:
    """A table, its key, and which of several events with one key is kept.

    Attributes:
        key: columns of the primary key or unique constraint; none for the append-only curves.
        order: SQL over a row: among events of one key the smallest stays, in whatever order they are ingested.
    """

    name: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    order: tuple[str, ...] = ("written_at", "uid")

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([(column.name, ARROW[column.convert]) for column in self.columns])

    def row(self, event: Event) -> tuple[Any, ...]:
        """The event's values in the order of the columns.

        Raises:
            RefusedError: a required field is missing or a field has the wrong type.
        """
        return tuple(_value(column, event) for column in self.columns)


def _value(column: Column, event: Event) -> Any:
    found: Any = event
    for part in column.source.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    if found is None:
        found = column.default
    if found is None and column.required:
        raise RefusedError(f"{column.source} is missing")
    try:
        return column.convert(found)
    except (TypeError, ValueError, OverflowError) as error:
        raise RefusedError(f"{column.source}: {error}") from error


def _columns(specification: str, **sources: str) -> tuple[Column, ...]:
    """``"trial_id! text"`` is a required text column; `sources` names the event's field where it differs."""
    types = {"text": text, "whole": whole, "number": number, "flag": flag, "json": as_json, "moment": moment}
    columns = [Column("uid", text, "uid", required=True), Column("written_at", moment, "at", required=True)]
    for item in specification.split(","):
        name, kind, *default = item.split()
        bare = name.rstrip("!")
        value = None if not default else int(default[0]) if kind == "whole" else default[0]
        columns.append(Column(bare, types[kind], sources.get(bare, bare), value, name.endswith("!")))
    return tuple(columns)


NEWEST = ("epoch_us({0}.written_at) * -1", "{0}.uid")
OLDEST = ("{0}.written_at", "{0}.uid")
MEASURED = ("({0}.value IS NULL)", "{0}.written_at", "{0}.uid")

TABLES: dict[str, Table] = {
    "study": Table(
        "study",
        ("study_id",),
        _columns(
            "study_id! text, name! text, question text, space_yaml text, space_sha256 text, fidelity text, "
            "baseline_arm_id text, metric json, margin number, alpha number, skips json, published json, claims json, "
            "compare json, version text"
        ),
        NEWEST,
    ),
    "claim": Table("claim", ("study", "claim"), _columns("study! text, claim! json"), OLDEST),
    "arm": Table("arm", ("arm_id",), _columns("arm_id! text, label text, config! json"), NEWEST),
    "study_arm": Table(
        "study_arm",
        ("study_id", "arm_id", "plan", "label"),
        _columns(
            "study_id! text, arm_id! text, plan! text, label! text, arm_label text, plan_kind text, position whole, "
            "axis text, level text, choice json, baseline_label text, trained_id text, trained_label text"
        ),
        NEWEST,
    ),
    "study_trial": Table(
        "study_trial",
        ("study_id", "arm_id", "trial_id"),
        _columns("study_id! text, arm_id! text, trial_id! text, eval_key! text"),
        NEWEST,
    ),
    "confirm_trial": Table(
        "confirm_trial",
        ("study", "arm_id", "trial_id"),
        _columns("study! text, arm_id! text, trial_id! text, eval_key! text"),
        NEWEST,
    ),
    "trial": Table(
        "trial", ("trial_id",), _columns("trial_id! text, arm_id! text, seed! whole, steps_planned whole"), OLDEST
    ),
    "attempt_started": Table(
        "attempt_started",
        ("uid",),
        _columns(
            "journal! text, trial_id! text, task text train, host text, pid whole, machine text, "
            "process_started whole, device text, num_gpus number, env_id text, resumed_from_step whole, packed whole"
        ),
        OLDEST,
    ),
    "attempt_ended": Table(
        "attempt_ended",
        ("uid",),
        _columns(
            "trial_id! text, attempt text, status! text, reason text, step whole, wall_seconds number, "
            "cpu_seconds number, gpu_seconds number, peak_mem_mb number, num_parameters whole, error_type text, "
            "error_head text, eval_key text"
        ),
        OLDEST,
    ),
    "env": Table("env", ("env_id",), _columns("env_id! text, definition! json"), OLDEST),
    "metric_def": Table(
        "metric_def",
        ("metric_id",),
        _columns(
            "metric_id! text, name text, higher_is_better flag, n_samples whole, definition! json",
            name="definition.name",
            higher_is_better="definition.higher_is_better",
            n_samples="definition.samples",
        ),
        OLDEST,
    ),
    "eval_cond": Table("eval_cond", ("cond_id",), _columns("cond_id! text, definition! json"), OLDEST),
    "measurement": Table(
        "measurement",
        ("trial_id", "metric_id", "cond_id", "step", "draw"),
        _columns(
            "trial_id! text, metric_id! text, cond_id! text, step! whole, draw whole 0, attempt text, eval_key text, "
            "n_samples! whole, value number, sample_seed whole, wall_seconds number, extra json"
        ),
        MEASURED,
    ),
    "evaluation": Table(
        "evaluation",
        ("trial_id", "eval_key", "metric_id", "cond_id", "draw"),
        _columns("trial_id! text, eval_key! text, metric_id! text, cond_id! text, draw whole 0"),
        OLDEST,
    ),
    "artifact": Table(
        "artifact",
        ("trial_id", "kind", "step", "cond_id", "path"),
        _columns(
            "trial_id! text, kind! text, step! whole, cond_id text -, path! text, sha256 text, bytes whole, mime text, "
            "width whole, height whole, rows whole, cols whole, draw whole 0",
            kind="artifact",
        ),
        OLDEST,
    ),
}
"""Kind of event -> its table, in the order of ingest: a metric's definition before what was measured by it.

``evaluation`` is no event: it says which numbers an evaluation made, also where an equal one had been measured before
under another key, and so is not lost with a measurement that is kept once.
"""

STATUSES = frozenset({"done", "diverged", "failed", "interrupted", "lost"})
POINTS = pa.schema(
    [
        ("trial_id", pa.string()),
        ("attempt", pa.string()),
        ("step", pa.int64()),
        ("name", pa.string()),
        ("value", pa.float64()),
        ("wall_seconds", pa.float64()),
        ("written_at", pa.timestamp("us")),
    ]
)
"""The table scalar_point: one row per name of a scalar event."""


def points(event: Event) -> list[tuple[Any, ...]]:
    """The rows of one scalar event.

    Raises:
        RefusedError: trial, step or values are missing or of the wrong type.
    """
    values = event.get("values")
    if event.get("trial_id") is None or event.get("step") is None or not isinstance(values, Mapping):
        raise RefusedError("trial_id, step or values is missing")
    trial, attempt, step = text(event["trial_id"]), text(event.get("attempt")), whole(event["step"])
    wall, at = number(event.get("wall_seconds")), moment(event["at"])
    "".join(values).encode()  # as in `text`, for all names at once
    return [(trial, attempt, step, name, number(value), wall, at) for name, value in values.items()]
