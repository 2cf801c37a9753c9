"""The journals: what is acknowledged stays, whoever dies."""

import errno
import json
import multiprocessing
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from ablate.errors import ExitCode, StoreError
from ablate.store import journal as journal_module
from ablate.store.journal import JOURNAL_VERSION, Journal, read_events, read_lines
from ablate.store.paths import StorePaths


@pytest.fixture
def paths(tmp_path: Path) -> StorePaths:
    return StorePaths(tmp_path / "runs")


def events(paths: StorePaths, kind: str) -> list[dict]:
    return [event for event in read_events(paths) if event["kind"] == kind]


def test_an_event_is_one_line_with_version_uid_kind_and_utc_time(paths):
    with Journal(paths, "driver") as journal:
        uid = journal.append("trial", {"trial_id": "a", "seed": 3})
    (event,) = events(paths, "trial")
    assert (event["v"], event["uid"], event["trial_id"], event["seed"]) == (JOURNAL_VERSION, uid, "a", 3)
    assert event["at"].endswith("+00:00")
    (file,) = paths.journals()
    host, pid, ns = file.stem.rsplit("-", 2)
    assert host
    assert int(pid) == os.getpid()
    assert ns.isdigit()


def test_uids_are_unique_over_journals_of_one_process(paths):
    with Journal(paths, "a") as one, Journal(paths, "b") as two:
        uids = [journal.append("scalar", {}) for journal in (one, two, one, two)]
    assert len(set(uids)) == 4
    assert len(paths.journals()) == 2


def test_numbers_that_json_lacks_become_null_and_numpy_scalars_become_numbers(paths):
    with Journal(paths, "driver") as journal:
        values = {"nan": float("nan"), "inf": float("-inf"), "f": np.float32(0.5), "i": np.int64(7), "none": None}
        journal.append("scalar", {"values": values, "path": Path("/x"), "list": (1, float("inf"))})
    (event,) = events(paths, "scalar")
    assert event["values"] == {"nan": None, "inf": None, "f": 0.5, "i": 7, "none": None}
    assert event["path"] == "/x"
    assert event["list"] == [1, None]
    with Journal(paths, "driver") as journal, pytest.raises(TypeError, match="JSON types"):
        journal.append("scalar", {"values": {1, 2}})


def test_text_that_utf8_cannot_hold_is_written_all_the_same(paths):
    with Journal(paths, "driver") as journal:
        journal.append("attempt_ended", {"error_head": os.fsdecode(b"no file \xff.png")})
    (event,) = events(paths, "attempt_ended")
    assert event["error_head"] == "no file ?.png"


def test_a_payload_may_not_forge_the_journals_own_fields(paths):
    with Journal(paths, "driver") as journal, pytest.raises(ValueError, match="kind"):
        journal.append("artifact", {"kind": "samples"})


def test_results_are_fsynced_with_all_before_them_and_scalars_only_now_and_then(paths, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(journal_module.os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_ino), fsync(fd)))
    with Journal(paths, "attempt") as journal:
        journal.append("attempt_started", {"trial_id": "a"})
        for step in range(50):
            journal.append("scalar", {"step": step})
        assert synced == []
        journal.append("measurement", {"trial_id": "a"})
        file = os.stat(journal.file).st_ino
        assert synced == [file, os.stat(paths.journal).st_ino]  # the data, then the name of the new file
        journal._synced -= journal_module.SYNC_SECONDS
        journal.append("scalar", {"step": 51})
        journal.append("attempt_ended", {"trial_id": "a"})
        assert synced[2:] == [file, file]


def test_a_started_attempt_names_its_process(paths):
    with Journal(paths, "attempt") as journal:
        journal.append("attempt_started", {"trial_id": "a"})
    (event,) = events(paths, "attempt_started")
    assert event["pid"] == os.getpid()
    assert event["machine"] == journal_module.machine()
    assert event["process_started"] == journal_module.process_started(os.getpid())


def _append_in_child(journal: Journal, count: int) -> None:
    for step in range(count):
        journal.append("scalar", {"step": step, "who": "child"})
    journal.close()
    os._exit(0)


def test_a_forked_child_writes_its_own_file_even_while_the_parent_holds_the_journal(paths):
    journal = Journal(paths, "parent")
    journal.append("scalar", {"step": -1, "who": "parent"})
    with journal._lock:  # the child is forked at the worst moment
        child = multiprocessing.get_context("fork").Process(target=_append_in_child, args=(journal, 20))
        child.start()
        child.join(20)
    assert child.exitcode == 0
    for step in range(20):
        journal.append("scalar", {"step": step, "who": "parent"})
    journal.close()
    assert len(paths.journals()) == 2
    by_file = [{line.event.get("who") for line in read_lines(file) if line.event} - {None} for file in paths.journals()]
    assert sorted(map(sorted, by_file)) == [["child"], ["parent"]]
    assert len(events(paths, "scalar")) == 41


def test_threads_share_a_journal_without_mixing_lines(paths):
    with Journal(paths, "driver") as journal:

        def write() -> None:
            for step in range(100):
                journal.append("scalar", {"step": step, "text": "x" * 300})

        threads = [threading.Thread(target=write) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = events(paths, "scalar")
    assert len(found) == 400
    assert len({event["uid"] for event in found}) == 400


def test_a_full_disk_is_one_line_and_costs_only_the_event_that_did_not_fit(paths, monkeypatch):
    write = os.write

    def half_then_full(fd: int, data: bytes) -> int:
        if len(data) < 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data[: len(data) - 60])

    with Journal(paths, "attempt") as journal:
        journal.append("scalar", {"step": 1})
        with monkeypatch.context() as patch:
            patch.setattr(journal_module.os, "write", half_then_full)
            with pytest.raises(StoreError, match="No space left on device") as error:
                journal.append("trial", {"trial_id": "lost", "filler": "y" * 200})
        assert "\n" not in str(error.value)
        assert error.value.exit_code is ExitCode.USAGE
        journal.append("scalar", {"step": 2})
    assert [event["step"] for event in events(paths, "scalar")] == [1, 2]
    assert not events(paths, "trial")


def test_a_store_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot make the store") as error:
        Journal(StorePaths(tmp_path / "file"), "driver").append("study", {})
    assert "--store" in str(error.value)


def test_a_torn_last_line_is_left_for_later_and_a_torn_middle_line_is_skipped(paths):
    with Journal(paths, "driver") as journal:
        journal.append("scalar", {"step": 1})
        file = journal.file
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"v":1,"uid":"x","kind":"sca')
    lines = list(read_lines(file))
    assert lines[-1].end == len(whole)
    assert all(line.event is not None for line in lines)
    file.write_bytes(whole + b'{"v":1,"uid":"x","kind":"sca\n' + b'{"v":1,"uid":"y","kind":"scalar","step":2}\n')
    lines = list(read_lines(file))
    assert [line.event is None for line in lines] == [False, False, True, False]
    assert [event["step"] for event in events(paths, "scalar")] == [1, 2]


@pytest.mark.parametrize(
    "line", [b"null\n", b"[1]\n", b'{"uid":"x","kind":"y"}\n', b'{"v":1,"kind":"y"}\n', b"\xff\xfe\n"]
)
def test_a_line_that_is_no_event_counts_as_torn(paths, line):
    paths.make()
    (paths.journal / "a.jsonl").write_bytes(line)
    (found,) = read_lines(paths.journal / "a.jsonl")
    assert found.event is None


def test_a_journal_of_a_newer_version_is_refused_naming_both(paths):
    paths.make()
    event = {"v": JOURNAL_VERSION + 1, "uid": "x", "kind": "scalar", "at": "2026-01-01T00:00:00+00:00"}
    (paths.journal / "a.jsonl").write_text(json.dumps(event) + "\n")
    with pytest.raises(StoreError, match=f"version {JOURNAL_VERSION + 1}.*up to {JOURNAL_VERSION}") as error:
        list(read_events(paths))
    assert error.value.exit_code == 2


def test_reading_can_stop_at_a_number_of_bytes_and_go_on_from_there(paths):
    with Journal(paths, "driver") as journal:
        for step in range(10):
            journal.append("scalar", {"step": step})
        file = journal.file
    offset, steps = 0, []
    while lines := list(read_lines(file, offset, limit=1)):
        assert len(lines) == 1
        offset = lines[-1].end
        steps.append(lines[0].event.get("step"))
    assert steps == [None, *range(10)]
    assert offset == file.stat().st_size
