"""The index: one writer, idempotent, never the only copy of anything."""

import contextlib
import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import duckdb
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from ablate.cli.db import app
from ablate.errors import StoreError
from ablate.launch.run import _drive
from ablate.store import database, loading
from ablate.store.ingest import Ingester, rebuild
from ablate.store.integrity import check
from ablate.store.journal import Journal
from ablate.store.paths import StorePaths
from ablate.store.read import measured, states, studies
from ablate.store.reader import reading

TABLES = (
    "refused study arm study_arm trial attempt_started attempt_ended env metric_def eval_cond measurement scalar_point "
    "artifact attempt final_measurement"
).split()


@pytest.fixture
def paths(tmp_path: Path) -> StorePaths:
    return StorePaths(tmp_path / "runs")


def write_trial(journal: Journal, trial: str, seed: int = 0) -> None:
    journal.append("arm", {"arm_id": "arm", "label": "base", "config": {"lr": 0.1}})
    journal.append("trial", {"trial_id": trial, "arm_id": "arm", "seed": seed, "steps_planned": 10})
    attempt = journal.append("attempt_started", {"trial_id": trial, "device": "cpu"})
    for step in range(1, 11):
        journal.append("scalar", {"trial_id": trial, "attempt": attempt, "step": step, "values": {"loss": 1 / step}})
    number = {"metric_id": "m", "cond_id": "c", "step": 10, "n_samples": 100, "value": 2.5 + seed}
    definitions = {"metric": {"name": "fd", "samples": 100}, "condition": {"nfe": 1}}
    journal.append("measurement", {"trial_id": trial, "attempt": attempt, **number, **definitions})
    journal.append("attempt_ended", {"trial_id": trial, "attempt": attempt, "status": "done", "step": 10})


def dump(paths: StorePaths, file: Path | None = None) -> dict[str, list]:
    """Every table, sorted: of a database file, or of what a reader sees."""
    if file is not None:
        con = duckdb.connect(str(file), read_only=True)
        try:
            return {table: sorted(con.execute(f"FROM {table}").fetchall(), key=repr) for table in TABLES}
        finally:
            con.close()
    with reading(paths) as con:
        return {table: sorted(con.execute(f"FROM {table}").fetchall(), key=repr) for table in TABLES}


def counts(tables: dict[str, list]) -> dict[str, int]:
    return {name: len(rows) for name, rows in tables.items() if rows}


def test_ingesting_twice_changes_nothing(paths):
    with Journal(paths, "driver") as journal:
        write_trial(journal, "t0")
    with Ingester(paths) as ingester:
        assert ingester.ingest() == 16
        assert ingester.ingest() == 0
        assert ingester.publish_snapshot()
        assert not ingester.publish_snapshot()
    first = dump(paths, paths.snapshot)
    assert counts(first)["scalar_point"] == 10
    with Ingester(paths) as ingester:
        assert ingester.ingest() == 0
        ingester.publish_snapshot()
    assert dump(paths, paths.snapshot) == first


def test_the_same_plan_written_again_and_a_copied_journal_change_no_keyed_table(paths):
    with Journal(paths, "driver") as journal:
        write_trial(journal, "t0")
    rebuild(paths)
    first = dump(paths, paths.snapshot)
    (file,) = paths.journals()
    (paths.journal / "zcopy.jsonl").write_bytes(file.read_bytes())
    rebuild(paths)
    second = dump(paths, paths.snapshot)
    assert {k: v for k, v in first.items() if k != "scalar_point"} == {
        k: v for k, v in second.items() if k != "scalar_point"
    }


def test_deleting_the_index_loses_nothing(paths):
    for seed in range(3):
        with Journal(paths, "attempt") as journal:
            write_trial(journal, f"t{seed}", seed)
    with Ingester(paths) as ingester:
        ingester.ingest()
        ingester.publish_snapshot()
    before = dump(paths, paths.snapshot)
    for file in paths.root.glob("*.duckdb*"):
        file.unlink()
    assert dump(paths) == before  # a reader needs no index
    assert rebuild(paths) == 3 * 16
    assert dump(paths, paths.snapshot) == before


def test_the_order_in_which_journals_are_read_does_not_matter(paths, monkeypatch):
    for seed in (0, 1, 0):  # the third writes the first one's trial again, later
        with Journal(paths, "attempt") as journal:
            write_trial(journal, f"t{seed}", seed)
    rebuild(paths)
    forward = dump(paths, paths.snapshot)
    monkeypatch.setattr(loading, "CHUNK_BYTES", 1)  # an event a transaction: now the conflict of each is decided alone
    rebuild(paths)
    assert dump(paths, paths.snapshot) == forward
    journals = StorePaths.journals
    monkeypatch.setattr(StorePaths, "journals", lambda self: journals(self)[::-1])
    rebuild(paths)
    assert dump(paths, paths.snapshot) == forward


def test_a_failure_in_the_middle_of_a_transaction_leaves_nothing_behind(paths, monkeypatch):
    with Journal(paths, "attempt") as journal:
        write_trial(journal, "t0")
    insert = loading._insert

    def fail_after_the_points(con: duckdb.DuckDBPyConnection, sql: str, *rest: object) -> None:
        insert(con, sql, *rest)
        if "scalar_point" in sql:
            raise MemoryError

    with Ingester(paths) as ingester:
        with monkeypatch.context() as patch:
            patch.setattr(loading, "_insert", fail_after_the_points)
            with pytest.raises(MemoryError):
                ingester.ingest()
        assert ingester.ingest() == 16
        ingester.publish_snapshot()
    assert counts(dump(paths))["scalar_point"] == 10


def test_small_transactions_give_the_same_index_as_one(paths, monkeypatch):
    for seed in range(3):
        with Journal(paths, "attempt") as journal:
            write_trial(journal, f"t{seed}", seed)
    rebuild(paths)
    whole = dump(paths, paths.snapshot)
    monkeypatch.setattr(loading, "CHUNK_BYTES", 500)
    assert rebuild(paths) == 3 * 16
    assert dump(paths, paths.snapshot) == whole


def test_a_second_ingester_is_told_who_writes_and_since_when(paths):
    code = (
        "import sys; from ablate.store.ingest import Ingester; from ablate.store.paths import StorePaths\n"
        "with Ingester(StorePaths(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(paths.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match=rf"being written by \S+:{holder.pid} since 20\d\d-") as error:
            Ingester(paths).__enter__()
        assert error.value.exit_code == 2
        with pytest.raises(StoreError, match=f":{holder.pid} "):
            rebuild(paths)
        holder.send_signal(signal.SIGKILL)  # the lock dies with its holder
        holder.wait(20)
        with Ingester(paths) as ingester:
            assert ingester.ingest() == 0


def test_a_forked_child_does_not_keep_the_store_locked(paths):
    with Ingester(paths):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,))
        child.start()
    try:
        with Ingester(paths) as ingester:
            assert ingester.ingest() == 0
        assert child.is_alive()
    finally:
        child.kill()
        child.join(20)


def test_a_reader_sees_everything_while_the_writer_holds_the_index(paths):
    with Journal(paths, "attempt") as journal, Ingester(paths) as ingester:
        write_trial(journal, "t0")
        ingester.ingest()
        assert counts(dump(paths))["trial"] == 1  # no snapshot yet
        ingester.publish_snapshot()
        write_trial(journal, "t1")
        assert counts(dump(paths))["trial"] == 2  # the snapshot and the rest of the journals
        ingester.ingest()
        write_trial(journal, "t2")
        assert counts(dump(paths))["trial"] == 3
        ingester.ingest()
        ingester.publish_snapshot()
        assert dump(paths) == dump(paths, paths.snapshot)


def test_a_fresh_snapshot_is_read_as_it_is_and_a_torn_tail_does_not_make_it_stale(paths, monkeypatch):
    with Journal(paths, "attempt") as journal:
        write_trial(journal, "t0")
        file = journal.file
    rebuild(paths)
    with file.open("ab") as stream:
        stream.write(b'{"v":1,"uid":"torn')
    monkeypatch.setattr("ablate.store.reader.load_journals", lambda *_: pytest.fail("the journals were read"))
    assert counts(dump(paths))["trial"] == 1


def test_a_damaged_snapshot_is_passed_over(paths):
    with Journal(paths, "attempt") as journal:
        write_trial(journal, "t0")
    rebuild(paths)
    before = dump(paths)
    paths.snapshot.write_bytes(b"nonsense" * 1000)
    assert dump(paths) == before


def test_torn_lines_are_counted_and_a_torn_tail_is_read_when_it_is_whole(paths):
    with Journal(paths, "attempt") as journal:
        write_trial(journal, "t0")
        file = journal.file
    event = {"v": 1, "uid": "late", "kind": "trial", "at": "2026-01-01T00:00:00+00:00", "trial_id": "t9"}
    line = json.dumps({**event, "arm_id": "arm", "seed": 9}).encode() + b"\n"
    with file.open("ab") as stream:
        stream.write(b'{"v":1,"uid":"mid\n' + line[:20])
    with Ingester(paths) as ingester:
        assert ingester.ingest() == 16
        assert ingester.ingest() == 0
        with file.open("ab") as stream:
            stream.write(line[20:])
        assert ingester.ingest() == 1
        ingester.publish_snapshot()
    with reading(paths) as con:
        assert con.execute("SELECT torn, events FROM ingest").fetchall() == [(1, 17)]
        assert con.execute("SELECT count(*) FROM trial").fetchall() == [(2,)]


DAMAGE = {
    "header": lambda data: os.urandom(4096) + data[4096:],
    "metadata block": lambda data: data[: 12288 + 64] + bytes(64) + data[12288 + 128 :],
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "text": lambda data: b"this is no database\n" * 500,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_index_is_moved_aside_rebuilt_and_said_so(paths, damage):
    with Journal(paths, "attempt") as journal:
        write_trial(journal, "t0")
    rebuild(paths)
    before = dump(paths, paths.snapshot)
    paths.index.write_bytes(DAMAGE[damage](paths.index.read_bytes()))
    with Ingester(paths) as ingester:
        ingester.ingest()
        ingester.publish_snapshot()
        assert len(ingester.notes) == 1
        assert "rebuilt from the journals" in ingester.notes[0]
    assert dump(paths, paths.snapshot) == before
    assert len(list(paths.root.glob("ablate.duckdb.damaged-*"))) == 1
    with Ingester(paths) as ingester:
        ingester.ingest()
        assert ingester.notes == []


def test_a_damaged_write_ahead_log_is_mended_the_same_way(paths):
    with Journal(paths, "attempt") as journal:
        write_trial(journal, "t0")
        with Ingester(paths) as ingester:
            ingester.ingest()
            ingester.publish_snapshot()
            write_trial(journal, "t1")
            ingester.ingest()  # stays in the log: only publishing checkpoints
    log = paths.index.with_name("ablate.duckdb.wal")
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 0xFF
    log.write_bytes(data)
    with Ingester(paths) as ingester:
        ingester.ingest()
        ingester.publish_snapshot()
        assert "Corrupt WAL" in ingester.notes[0]
    after = dump(paths, paths.snapshot)
    assert counts(after)["trial"] == 2
    rebuild(paths)
    assert dump(paths, paths.snapshot) == after


def test_a_mistake_of_ours_is_not_taken_for_damage(paths, monkeypatch):
    with Journal(paths, "attempt") as journal:
        write_trial(journal, "t0")
    monkeypatch.setattr(loading, "load_journals", None)

    def broken(con: duckdb.DuckDBPyConnection, _: StorePaths) -> int:
        con.execute("SELECT no_such_column FROM trial")
        return 0

    monkeypatch.setattr("ablate.store.ingest.load_journals", broken)
    with Ingester(paths) as ingester, pytest.raises(duckdb.BinderException):
        ingester.ingest()
    assert not list(paths.root.glob("*.damaged-*"))


def test_an_index_that_another_program_has_open_is_one_line(paths):
    rebuild(paths)
    code = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(paths.index)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(StoreError, match="open in another program"):
            Ingester(paths).__enter__()
        holder.kill()
    assert not list(paths.root.glob("*.damaged-*"))


@pytest.mark.parametrize("name", ["index", "snapshot"])
def test_a_database_of_a_newer_schema_is_refused_naming_both_versions_and_left_alone(paths, name):
    with Journal(paths, "attempt") as journal:
        write_trial(journal, "t0")
    rebuild(paths)
    file = getattr(paths, name)
    newer = len(database.MIGRATIONS) + 1
    con = duckdb.connect(str(file))
    con.execute("INSERT INTO schema_version VALUES (?, NULL, '9.9', '')", [newer])
    con.close()
    use = Ingester(paths).__enter__ if name == "index" else lambda: dump(paths)
    with pytest.raises(StoreError, match=f"schema version {newer}.*up to {newer - 1}") as error:
        use()
    assert error.value.exit_code == 2
    assert not list(paths.root.glob("*.damaged-*"))
    if name == "index":
        file.unlink()
        with Ingester(paths) as ingester:  # the refusal has released the lock
            assert ingester.ingest() == 16


def test_a_newer_journal_is_refused_by_writer_and_reader(paths):
    paths.make()
    (paths.journal / "new.jsonl").write_text('{"v":2,"uid":"x","kind":"trial","at":"2026-01-01T00:00:00+00:00"}\n')
    with Ingester(paths) as ingester, pytest.raises(StoreError, match=r"journal version 2.*up to 1") as error:
        ingester.ingest()
    assert error.value.exit_code == 2
    with pytest.raises(StoreError, match="journal version 2"):
        dump(paths)


def test_an_index_made_by_other_sql_under_our_version_number_is_rebuilt(paths):
    with Journal(paths, "attempt") as journal:
        write_trial(journal, "t0")
    rebuild(paths)
    before = dump(paths)
    for file in (paths.index, paths.snapshot):
        con = duckdb.connect(str(file))
        con.execute("UPDATE schema_version SET sql_sha256 = 'of yesterday'; ALTER TABLE trial RENAME seed TO grain")
        con.close()
    assert dump(paths) == before  # the snapshot is passed over
    with Ingester(paths) as ingester:
        assert f"another edition of schema version {len(database.MIGRATIONS)}" in ingester.notes[0]
        assert ingester.ingest() == 16


def test_an_older_database_is_migrated_on_opening_and_by_readers(paths, monkeypatch, tmp_path):
    with Journal(paths, "attempt") as journal:
        write_trial(journal, "t0")
    rebuild(paths)
    old = dump(paths)
    ours = database.MIGRATIONS
    for name in ours:
        (tmp_path / name).write_text(database.resources.files("ablate.store").joinpath(name).read_text())
    (tmp_path / "next.sql").write_text("ALTER TABLE arm ADD COLUMN colour VARCHAR; UPDATE arm SET colour = 'red';")
    monkeypatch.setattr(database.resources, "files", lambda _: tmp_path)
    monkeypatch.setattr(database, "MIGRATIONS", (*ours, "next.sql"))
    monkeypatch.setattr("ablate.store.reader.MIGRATIONS", database.MIGRATIONS)
    with reading(paths) as con:
        assert con.execute("SELECT colour FROM arm").fetchall() == [("red",)]
    with Ingester(paths) as ingester:
        ingester.publish_snapshot()
    versions = "SELECT version, ablate_version FROM schema_version ORDER BY version"
    with reading(paths) as con:
        assert [version for version, _ in con.execute(versions).fetchall()] == list(range(1, len(ours) + 2))
    assert dump(paths)["trial"] == old["trial"]


def test_a_database_of_version_1_knows_which_evaluation_made_its_numbers(monkeypatch):
    """Made by the first schema alone, then brought up to date: what a store of an earlier release goes through."""
    monkeypatch.setattr(database, "MIGRATIONS", ("schema.sql",))
    con = database.connect()
    con.execute(
        "INSERT INTO measurement (trial_id, metric_id, cond_id, step, draw, uid, written_at, eval_key, n_samples) "
        "VALUES ('t', 'm', 'c', 10, 0, 'a', now(), 'e', 5), ('t', 'm', 'c', 20, 0, 'b', now(), 'e', 5), "
        "('t', 'm', 'd', 20, 0, 'c', now(), NULL, 5)"
    )
    con.execute("INSERT INTO study_arm (study_id, arm_id, plan, label) VALUES ('s', 'a', 'p', 'l')")
    con.execute("INSERT INTO artifact (trial_id, kind, step, cond_id, path) VALUES ('t', 'samples', 20, 'c', 'x.png')")
    monkeypatch.undo()
    database.migrate(con)
    assert con.execute("SELECT trial_id, eval_key, metric_id, cond_id, draw FROM evaluation").fetchall() == [
        ("t", "e", "m", "c", 0)
    ]
    assert con.execute("SELECT trained_id FROM study_arm").fetchall() == [(None,)]
    assert con.execute("SELECT draw FROM artifact").fetchall() == [(0,)]
    con.close()


def test_a_path_with_a_quote_is_no_trouble(tmp_path):
    paths = StorePaths(tmp_path / "it's a store")
    with Journal(paths, "attempt") as journal:
        write_trial(journal, "t0")
    rebuild(paths)
    assert counts(dump(paths))["trial"] == 1


@pytest.mark.parametrize("loss", ["all", "one", "end"])
@pytest.mark.parametrize("left", ["index", "snapshot"])
def test_a_rebuild_does_not_destroy_the_only_copy_of_what_lost_journals_held(paths, loss, left):
    for seed in range(2):
        with Journal(paths, "attempt") as journal:
            write_trial(journal, f"t{seed}", seed)
    rebuild(paths)
    first, second = paths.journals()
    (paths.snapshot if left == "index" else paths.index).unlink()
    kept = dump(paths, getattr(paths, left))
    if loss == "end":
        os.truncate(first, first.stat().st_size - 1)
    else:
        first.unlink()
    if loss == "all":
        second.unlink()
    what = "is shorter than what was read from it" if loss == "end" else "is gone"
    more = r" \(and 1 more\)" if loss == "all" else ""
    with pytest.raises(StoreError, match=f"{first.name} {what}{more}; .*rebuild --force") as error:
        rebuild(paths)
    assert error.value.exit_code == 2
    assert dump(paths, getattr(paths, left)) == kept
    assert rebuild(paths, force=True) == {"all": 0, "one": 16, "end": 31}[loss]


def test_a_damaged_index_does_not_keep_a_rebuild_from_making_it_anew(paths):
    with Journal(paths, "attempt") as journal:
        write_trial(journal, "t0")
    rebuild(paths)
    for file in (paths.index, paths.snapshot):
        file.write_bytes(b"nonsense" * 1000)
    assert rebuild(paths) == 16


def test_db_rebuild_is_refused_where_journals_are_lost_unless_it_is_forced(paths):
    with Journal(paths, "attempt") as journal:
        write_trial(journal, "t0")
    rebuild(paths)
    paths.journals()[0].unlink()
    run = CliRunner().invoke
    refused = run(app, ["rebuild", "--store", str(paths.root)])
    assert isinstance(refused.exception, StoreError)
    forced = run(app, ["rebuild", "--store", str(paths.root), "--force"])
    assert (forced.exit_code, "rebuilt from 0 events" in forced.stdout) == (0, True)


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_lock_that_a_full_disk_refuses_is_one_line_and_is_let_go(paths, monkeypatch):
    before = set(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr("ablate.store.ingest.os.pwrite", full_disk)
        with pytest.raises(StoreError, match=r"index\.lock: cannot be written \(No space"):
            Ingester(paths).__enter__()
    assert set(os.listdir("/proc/self/fd")) == before
    with Ingester(paths) as ingester:
        assert ingester.ingest() == 0


def test_what_ended_a_run_is_told_not_what_a_full_disk_refused_afterwards(paths, monkeypatch):
    def full(*_: object) -> int:
        raise duckdb.IOException("IO Error: Could not write file: No space left on device")

    with Journal(paths, "attempt") as journal, Ingester(paths) as ingester:
        write_trial(journal, "t0")
        monkeypatch.setattr("ablate.store.ingest.load_journals", full)
        driver = SimpleNamespace(order=["t0"], ingester=ingester, run=lambda *_: ingester.ingest())
        with pytest.raises(StoreError, match=r"ablate\.duckdb: cannot be written; free the disk"):
            _drive(driver, "", "")


@pytest.mark.parametrize("ends", [None, ZeroDivisionError])
def test_however_a_run_ends_its_results_are_published(paths, ends):
    def run(*_: object) -> None:
        write_trial(journal, "t0")
        if ends:
            raise ends

    with Journal(paths, "attempt") as journal, Ingester(paths) as ingester:
        told = SimpleNamespace(finish=lambda _: None)
        driver = SimpleNamespace(order=["t0"], ingester=ingester, run=run, summary=lambda: "done", view=told)
        with pytest.raises(ends) if ends else contextlib.nullcontext():
            assert _drive(driver, "", "") == "done"
    assert counts(dump(paths, paths.snapshot))["trial"] == 1


WRITE = 'Could not write file "ablate.duckdb.wal": '
REFUSALS = [
    duckdb.TransactionException(f"TransactionContext Error: Failed to commit: {WRITE}Disk quota exceeded"),
    duckdb.IOException(f"IO Error: {WRITE}Input/output error"),
    duckdb.IOException("IO Error: Could not read from file: Stale file handle"),
    duckdb.IOException('IO Error: Cannot open file "ablate.duckdb": Too many open files'),
    duckdb.IOException(f"IO Error: {WRITE}File too large"),
    duckdb.IOException(f"IO Error: {WRITE}Cannot allocate memory"),
    duckdb.IOException(f"IO Error: {WRITE}of another kind"),
    duckdb.OutOfMemoryException("Out of Memory Error: could not allocate block of size 256.0 KiB"),
    duckdb.Error('Failure while replaying WAL file "ablate.duckdb.wal": Could not read: Input/output error'),
]


@pytest.mark.parametrize(("step", "call"), [("load_journals", "ingest"), ("Ingester._publish", "publish_snapshot")])
@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda error: str(error).rpartition(": ")[2])
def test_a_disk_that_refuses_is_one_line_and_no_damage(paths, monkeypatch, refusal, step, call):
    def refuse(*_: object) -> int:
        raise refusal

    with Journal(paths, "attempt") as journal:
        write_trial(journal, "t0")
    with monkeypatch.context() as patch, Ingester(paths) as ingester:
        patch.setattr(f"ablate.store.ingest.{step}", refuse)
        with pytest.raises(StoreError, match=r"ablate\.duckdb: cannot be ") as error:
            getattr(ingester, call)()
        assert error.value.exit_code == 2
    assert not list(paths.root.glob("*.damaged-*"))
    assert rebuild(paths) == 16


@pytest.mark.parametrize("second", ["refused", "damaged"])
def test_what_the_second_try_meets_is_one_line_too(paths, monkeypatch, second):
    told = iter([duckdb.IOException("IO Error: Corrupt database file"), REFUSALS[0] if second == "refused" else None])

    def fail(*_: object) -> int:
        raise next(told) or duckdb.IOException("IO Error: Corrupt database file")

    monkeypatch.setattr("ablate.store.ingest.load_journals", fail)
    why = {"refused": "cannot be written; .*Disk quota exceeded", "damaged": "damaged as soon as it was made anew"}
    with Ingester(paths) as ingester, pytest.raises(StoreError, match=why[second]):
        ingester.ingest()
    assert len(list(paths.root.glob("ablate.duckdb.damaged-*"))) == 1


def test_a_new_index_that_the_disk_refuses_is_one_line(paths, monkeypatch):
    rebuild(paths)
    paths.index.write_bytes(b"nonsense" * 1000)
    monkeypatch.setattr("ablate.store.ingest.os.replace", full_disk)
    with pytest.raises(StoreError, match=r"cannot be written .*No space left"):
        Ingester(paths).__enter__()


def test_a_snapshot_that_the_disk_refuses_is_one_line_and_leaves_no_scratch(paths, monkeypatch):
    with Journal(paths, "attempt") as journal, Ingester(paths) as ingester:
        write_trial(journal, "t0")
        ingester.ingest()
        monkeypatch.setattr("ablate.store.ingest.os.replace", full_disk)
        with pytest.raises(StoreError, match=r"cannot be written .*No space left"):
            ingester.publish_snapshot()
    assert not list(paths.root.glob(".snapshot*"))


def test_a_failed_insert_is_told_not_the_transaction_that_it_ended(paths):
    con = database.connect()
    con.execute("CREATE TABLE one(a BIGINT PRIMARY KEY)")
    twice = pa.schema([("a", pa.int64())])
    with pytest.raises(duckdb.ConstraintException), database.transaction(con):
        loading._insert(con, "INSERT INTO one FROM batch", twice, [(1,), (1,)])
    loading._insert(con, "INSERT INTO one FROM batch", twice, [(1,)])
    assert con.execute("FROM one").fetchall() == [(1,)]
    con.close()


@pytest.mark.parametrize("what", ["folder", "file", "size"])
def test_journals_that_may_not_be_read_are_one_line_to_every_reader(paths, monkeypatch, what):
    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with Journal(paths, "attempt") as journal:
        write_trial(journal, "t0")
    rebuild(paths)
    with Journal(paths, "attempt") as journal:
        write_trial(journal, "t1")
    opened, stat = Path.open, Path.stat
    with monkeypatch.context() as patch:  # root may read everything
        if what == "folder":
            patch.setattr("ablate.store.paths.os.listdir", forbidden)
        elif what == "file":
            patch.setattr(Path, "open", lambda f, *a, **k: (forbidden if f.suffix == ".jsonl" else opened)(f, *a, **k))
        else:
            patch.setattr(Path, "stat", lambda f, **k: (forbidden if f.suffix == ".jsonl" else stat)(f, **k))
        with Ingester(paths) as ingester:
            for use in (studies, states, check, lambda _: ingester.ingest()):
                with pytest.raises(StoreError, match=r"cannot be read \(Permission denied\)") as error:
                    use(paths)
                assert error.value.exit_code == 2
    assert len(states(paths)) == 2


@pytest.mark.parametrize("gone", ["folder", "files"])
def test_journals_that_are_gone_beside_a_snapshot_are_not_an_empty_store(paths, gone):
    with Journal(paths, "attempt") as journal:
        write_trial(journal, "t0")
    rebuild(paths)
    (file,) = paths.journals()
    file.unlink()
    if gone == "folder":
        paths.journal.rmdir()
    for read in (studies, states, measured, dump):
        with pytest.raises(StoreError, match=r"the journals are gone, 1 of which .*restore them") as error:
            read(paths)
        assert error.value.exit_code == 2
    assert any(f"journal {file.name} is gone" in problem for problem in check(paths))


def test_a_store_that_nothing_was_written_to_is_empty(paths):
    assert studies(paths) == []
    rebuild(paths)
    assert studies(paths) == []
    assert check(paths) == []
