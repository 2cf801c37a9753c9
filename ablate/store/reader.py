"""How everybody but the ingester sees a store: never through the live index, always a consistent picture of now."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from ablate.errors import StoreError
from ablate.store.database import MIGRATIONS, CorruptIndexError, connect, migrate, quoted, schema_version
from ablate.store.loading import load_journals
from ablate.store.paths import StorePaths
from ablate.store.status import AttemptFact

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)
_READ_BYTES = 1 << 20


@contextlib.contextmanager
def reading(paths: StorePaths, *, without_journals: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to what the journals say now.

    That is the snapshot if it covers all of their bytes, else the snapshot (if there is one) and the rest of the
    journals, in memory. The live index is never opened: DuckDB lets nobody in beside a writer.

    Args:
        without_journals: also where all journals are gone, which the snapshot was made from.

    Raises:
        StoreError: the snapshot or a journal was written by a newer version, or the journals are gone or unreadable.
    """
    con = _open(paths, without_journals)
    try:
        yield con
    finally:
        con.close()


def _open(paths: StorePaths, without_journals: bool) -> duckdb.DuckDBPyConnection:
    if paths.snapshot.exists():
        try:
            return _from_snapshot(paths, without_journals)
        except (duckdb.Error, CorruptIndexError) as error:
            _log.warning("%s: not readable, reading the journals instead (%s)", paths.snapshot, error)
    con = connect()
    try:
        load_journals(con, paths)
    except BaseException:
        con.close()
        raise
    return con


def _from_snapshot(paths: StorePaths, without_journals: bool) -> duckdb.DuckDBPyConnection:
    con = duckdb.connect(":memory:", config={"autoinstall_known_extensions": "false", "threads": "2"})
    try:
        con.execute(f"ATTACH {quoted(paths.snapshot)} AS snapshot (READ_ONLY)")
        version = schema_version(con, paths.snapshot, "snapshot")
        offsets = dict(con.execute("SELECT journal, byte_offset FROM snapshot.ingest").fetchall())
        journals = paths.journals()
        if offsets and not journals and not without_journals:
            raise StoreError(
                f"{paths.journal}: the journals are gone, {len(offsets)} of which the snapshot was made from; restore "
                "them, or give up what they held with `ablate db rebuild --force`"
            )
        if version == len(MIGRATIONS) and not any(_more(file, offsets.get(file.name, 0)) for file in journals):
            con.execute("USE snapshot")
            return con
        con.execute("COPY FROM DATABASE snapshot TO memory")
        con.execute("DETACH snapshot")
        migrate(con, paths.snapshot)
        load_journals(con, paths)
    except BaseException:
        con.close()
        raise
    return con


def _more(file: Path, offset: int) -> bool:
    """Whether the journal has a complete line after `offset`; a torn last line is no news."""
    try:
        if file.stat().st_size <= offset:
            return False
        with file.open("rb") as stream:
            stream.seek(offset)
            return any(b"\n" in block for block in iter(lambda: stream.read(_READ_BYTES), b""))
    except OSError as error:
        raise StoreError(f"{file}: cannot be read ({error.strerror})") from error


def frame(con: duckdb.DuckDBPyConnection, sql: str, parameters: list[Any] | None = None) -> pd.DataFrame:
    """The rows of a query as pandas, through arrow: no deprecated path, and no result is left open."""
    relation = con.sql(sql, params=parameters or [])
    found: pd.DataFrame = relation.to_arrow_table().to_pandas()
    relation.close()
    return found


def rows(con: duckdb.DuckDBPyConnection, sql: str, parameters: list[Any] | None = None) -> list[tuple[Any, ...]]:
    """All rows of a query."""
    return con.execute(sql, parameters or []).fetchall()


_FACTS = """
SELECT a.trial_id, a.number, a.status, a.task, a.host, a.pid, a.machine, a.process_started, i.last_at, a.started_at,
       a.reason, a.error_type, a.error_head
FROM attempt a LEFT JOIN ingest i ON i.journal = a.journal ORDER BY a.trial_id, a.number"""


def attempt_facts(con: duckdb.DuckDBPyConnection) -> dict[str, dict[int, AttemptFact]]:
    """Trial -> number of the attempt, in time -> what is known of it."""
    found: dict[str, dict[int, AttemptFact]] = {}
    for trial, number, *fact in rows(con, _FACTS):
        found.setdefault(trial, {})[number] = AttemptFact(*fact)
    return found
