"""The state of a trial is derived from its attempts: the whole truth table."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from ablate.store.journal import machine, process_identity, process_started
from ablate.store.status import SILENCE_SECONDS, AttemptFact, attempt_status, is_alive, trial_state

NOW = datetime(2026, 1, 1, 12)


def fact(status: str | None, **more: object) -> AttemptFact:
    return AttemptFact(status=status, host="h", pid=1, started_at=NOW, **more)


@pytest.mark.parametrize(
    ("ends", "alive", "status"),
    [
        ([], True, "planned"),
        ([None], True, "running"),
        ([None], False, "lost"),
        (["done"], False, "done"),
        (["diverged"], False, "diverged"),
        (["failed"], False, "failed"),
        (["interrupted"], False, "interrupted"),
        (["lost"], False, "lost"),
        (["failed", "done"], False, "done"),
        (["done", "failed"], False, "done"),
        (["diverged", "done"], False, "done"),
        (["diverged", "failed"], False, "diverged"),
        (["failed", None], True, "running"),
        (["failed", None], False, "lost"),
        ([None, "interrupted"], False, "interrupted"),
        ([None, "failed"], True, "running"),
        (["interrupted", "interrupted", "failed"], False, "failed"),
        (["done", None], True, "done"),
    ],
)
def test_status_of_a_trial(ends, alive, status):
    state = trial_state([fact(end) for end in ends], lambda _: alive)
    assert state.status == status
    assert state.finished == (status in ("done", "diverged"))
    assert state.attempts == len(ends)


def test_failed_and_lost_attempts_are_counted_for_the_retry_policy():
    ends = [fact("failed", error_type="oom"), fact(None), fact("lost"), fact("failed", error_type="SIGSEGV")]
    state = trial_state(ends, lambda _: False)
    assert (state.attempts, state.failed, state.lost, state.error_type) == (4, 2, 2, "SIGSEGV")


def test_a_later_evaluation_says_nothing_about_the_training():
    state = trial_state([fact("done"), fact("failed", task="eval"), fact(None, task="eval")], lambda _: True)
    assert (state.status, state.attempts, state.failed) == ("done", 1, 0)


def test_the_reason_is_one_line_from_the_deciding_attempt():
    failed = fact("failed", error_type="ValueError", error_head="no such\nfolder")
    assert trial_state([fact("interrupted", reason="asked to"), failed]).reason == "ValueError: no such folder"
    assert trial_state([fact("diverged", reason="loss is NaN at step 7"), failed]).reason == "loss is NaN at step 7"
    assert (
        trial_state([fact(None)], lambda _: False).reason == "h:1 is gone without a word since 2026-01-01 12:00:00 UTC"
    )
    assert trial_state([fact("done")]).reason is None


def mine(**change: object) -> AttemptFact:
    return AttemptFact(status=None, started_at=NOW, **{**process_identity(), **change})


@pytest.mark.skipif(machine() is None, reason="there is no /proc here")
def test_on_this_machine_the_process_table_decides_whatever_the_journal_says():
    old = NOW - timedelta(days=300)
    assert is_alive(mine(heard_at=old), now=NOW)
    assert attempt_status(mine()) == "running"
    gone = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert process_started(gone.pid) > process_started(os.getpid())
    gone.communicate()
    assert not is_alive(mine(pid=gone.pid, heard_at=NOW), now=NOW)
    assert attempt_status(mine(pid=gone.pid)) == "lost"


@pytest.mark.skipif(machine() is None, reason="there is no /proc here")
def test_a_later_process_with_the_same_pid_is_not_taken_for_the_attempt():
    assert not is_alive(mine(process_started=process_started(os.getpid()) - 1), now=NOW)


@pytest.mark.skipif(machine() is None, reason="there is no /proc here")
def test_a_zombie_is_not_alive():
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    child.stdout.read()  # at its end; not waited for
    for _ in range(1000):
        if process_started(child.pid) is None:
            break
    assert process_started(child.pid) is None
    child.wait()
    child.stdout.close()


@pytest.mark.parametrize(("silence", "alive"), [(SILENCE_SECONDS - 1, True), (SILENCE_SECONDS + 1, False)])
def test_on_another_machine_the_last_event_decides(silence, alive):
    heard = NOW - timedelta(seconds=silence)
    assert is_alive(mine(machine="another:1", heard_at=heard), now=NOW) is alive
    assert is_alive(AttemptFact(status=None, host="elsewhere", pid=os.getpid(), heard_at=heard), now=NOW) is alive


def test_an_attempt_nobody_knows_anything_about_is_not_alive():
    assert not is_alive(AttemptFact(status=None))
    fresh = AttemptFact(status=None, host="elsewhere", heard_at=datetime.now(UTC).replace(tzinfo=None))
    assert is_alive(fresh)
