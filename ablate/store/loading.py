"""Journal lines into tables, by byte offset, in transactions, in bulk; for the ingester and for readers in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from ablate.store.database import transaction
from ablate.store.journal import plain, read_lines, size_of
from ablate.store.paths import StorePaths
from ablate.store.tables import POINTS, STATUSES, TABLES, RefusedError, Table, moment, points
from ablate_core.identity import canonical_json

CHUNK_BYTES = 32 << 20
"""Journal bytes per transaction: bounds memory, and a kill costs at most this much work, never data."""
_ODD = (RefusedError, KeyError, TypeError, ValueError, OverflowError, RecursionError)
"""What reading an odd event may raise: such an event is kept aside, whatever is odd about it."""
_REFUSED = pa.schema([(name, pa.string()) for name in ("uid", "kind", "reason", "event")])
_COUNTS = ("byte_offset", "events", "torn")
_PROGRESS = pa.schema(
    [("journal", pa.string()), *((name, pa.int64()) for name in _COUNTS), ("last_at", pa.timestamp("us"))]
)
_TAKEN_IN = """
INSERT INTO ingest BY NAME SELECT * FROM batch ON CONFLICT (journal) DO UPDATE SET
byte_offset = excluded.byte_offset, events = ingest.events + excluded.events, torn = ingest.torn + excluded.torn,
last_at = coalesce(excluded.last_at, ingest.last_at)"""


def load_journals(con: duckdb.DuckDBPyConnection, paths: StorePaths) -> int:
    """Bring the tables up to the journals' last complete lines.

    Returns:
        The number of events taken in. 0 when there was nothing new.

    Raises:
        StoreError: a journal cannot be read, or is of a newer version.
    """
    rows = con.execute("SELECT journal, byte_offset FROM ingest").fetchall()
    offsets: dict[str, int] = dict(rows)
    total = 0
    files = [(file, offsets.get(file.name, 0)) for file in paths.journals()]
    pending = [(file, offset) for file, offset in files if size_of(file) > offset]
    while pending:
        batch = _Batch()
        while pending and batch.bytes < CHUNK_BYTES:
            file, offset = pending.pop(0)
            end = batch.read(file, offset, CHUNK_BYTES - batch.bytes)
            if end > offset and size_of(file) > end:
                pending.insert(0, (file, end))
        if batch.bytes:
            with transaction(con):
                batch.write(con)
            total += batch.events
    return total


def lost_journals(paths: StorePaths, ingested: Iterable[tuple[str, int]]) -> list[str]:
    """What is missing of the journals that were read up to these byte offsets, one phrase each."""
    sizes = {file.name: size_of(file) for file in paths.journals()}
    return [
        f"journal {name} is shorter than what was read from it" if name in sizes else f"journal {name} is gone"
        for name, offset in ingested
        if sizes.get(name, -1) < offset
    ]


@dataclass
class _Progress:
    """How far one journal has been read in this batch."""

    end: int = 0
    events: int = 0
    torn: int = 0
    last_at: datetime | None = None


@dataclass
class _Batch:
    """What one transaction writes."""

    rows: dict[str, list[tuple[Any, ...]]] = field(default_factory=lambda: {kind: [] for kind in TABLES})
    points: list[tuple[Any, ...]] = field(default_factory=list)
    refused: list[tuple[str, ...]] = field(default_factory=list)
    progress: dict[str, _Progress] = field(default_factory=dict)
    bytes: int = 0
    events: int = 0

    def read(self, file: Path, offset: int, limit: int) -> int:
        """Take complete lines from `offset` on, about `limit` bytes; return the offset after the last one."""
        done = self.progress.setdefault(file.name, _Progress(end=offset))
        before = done.events
        for line in read_lines(file, offset, limit):
            done.end = line.end
            if line.event is None:
                done.torn += bool(line.text)
                continue
            done.events += 1
            with contextlib.suppress(TypeError, ValueError, OverflowError):
                done.last_at = moment(line.event.get("at")) or done.last_at
            self.take(line.event, file.name)
        self.bytes += done.end - offset
        self.events += done.events - before
        return done.end

    def take(self, event: dict[str, Any], journal: str) -> None:
        kind = event["kind"]
        try:
            if kind == "scalar":
                self.points.extend(points(event))
            elif kind == "measurement":
                self._measurement(event)
            elif kind == "attempt_started":
                self.rows[kind].append(TABLES[kind].row({**event, "journal": journal}))
            elif kind in TABLES and kind != "evaluation":
                if kind == "attempt_ended" and event.get("status") not in STATUSES:
                    raise RefusedError(f"status {event.get('status')!r} is none of {', '.join(sorted(STATUSES))}")
                self.rows[kind].append(TABLES[kind].row(event))
        except _ODD as error:
            self._refuse(event, f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error))

    def _refuse(self, event: dict[str, Any], reason: str) -> None:
        try:
            content = canonical_json(plain(event))
        except RecursionError:  # nested so deeply that it can be read but not written
            content = "null"
        kept = (str(event["uid"]), event["kind"], reason, content)
        self.refused.append(tuple(part.encode(errors="replace").decode() for part in kept))

    def _measurement(self, event: dict[str, Any]) -> None:
        """A measurement may bring the definitions of its metric and condition with it."""
        row = TABLES["measurement"].row(event)
        for part, kind in (("metric", "metric_def"), ("condition", "eval_cond")):
            if isinstance(event.get(part), dict):
                self.rows[kind].append(TABLES[kind].row({**event, "definition": event[part]}))
        self.rows["measurement"].append(row)
        if event.get("eval_key") is not None:
            self.rows["evaluation"].append(TABLES["evaluation"].row(event))

    def write(self, con: duckdb.DuckDBPyConnection) -> None:
        for kind, rows in self.rows.items():
            if rows:
                _upsert(con, TABLES[kind], rows)
        if self.points:
            _insert(con, "INSERT INTO scalar_point BY NAME SELECT * FROM batch", POINTS, self.points)
        if self.refused:
            _insert(con, "INSERT OR IGNORE INTO refused BY NAME SELECT * FROM batch", _REFUSED, self.refused)
        done = [(name, p.end, p.events, p.torn, p.last_at) for name, p in self.progress.items()]
        _insert(con, _TAKEN_IN, _PROGRESS, done)


def _upsert(con: duckdb.DuckDBPyConnection, table: Table, rows: list[tuple[Any, ...]]) -> None:
    """Insert; of events with one key the first in `table.order` stays, so the order of ingest does not matter."""
    key = ", ".join(table.key)
    source = "batch"
    if table.name == "measurement":
        source = f"({_WRONG_COUNT_FILTER})"
        _insert(con, _WRONG_COUNT, table.schema, rows)
    ranking = ", ".join(term.format("b") for term in table.order)
    first = f"SELECT b.* FROM {source} b QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY {ranking}) = 1"
    fields = [column.name for column in table.columns if column.name not in table.key]
    update = ", ".join(f"{name} = excluded.{name}" for name in fields)
    new, old = (f"({', '.join(term.format(side) for term in table.order)})" for side in ("excluded", table.name))
    conflict = "NOTHING" if table.key == ("uid",) else f"UPDATE SET {update} WHERE {new} < {old}"
    sql = f"INSERT INTO {table.name} BY NAME {first} ON CONFLICT ({key}) DO {conflict}"
    _insert(con, sql, table.schema, rows)


_WRONG_COUNT = """
INSERT OR IGNORE INTO refused
SELECT b.uid, 'measurement', format('{} samples were used, its metric is defined for {}', b.n_samples, d.n_samples),
       to_json(b) FROM batch b JOIN metric_def d USING (metric_id) WHERE b.n_samples <> d.n_samples"""
_WRONG_COUNT_FILTER = """
SELECT b.* FROM batch b LEFT JOIN metric_def d USING (metric_id)
WHERE d.n_samples IS NULL OR b.n_samples = d.n_samples"""


def _insert(con: duckdb.DuckDBPyConnection, sql: str, schema: pa.Schema, rows: list[tuple[Any, ...]]) -> None:
    """Run `sql` with `rows` as the arrow table ``batch``: thousands of times faster than row by row."""
    columns = [pa.array(values, field.type) for values, field in zip(zip(*rows, strict=True), schema, strict=True)]
    con.register("batch", pa.table(columns, schema=schema))
    try:
        con.execute(sql)
    except BaseException:
        with contextlib.suppress(duckdb.Error):  # in a transaction that has failed it raises, and would hide why
            con.unregister("batch")
        raise
    con.unregister("batch")
