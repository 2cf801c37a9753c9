"""Nothing that was acknowledged is lost, whoever is killed and whenever. Real processes, SIGKILL."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ablate.store.ingest import Ingester, rebuild
from ablate.store.journal import Journal, read_events
from ablate.store.paths import StorePaths
from ablate.store.reader import reading

WRITER = """
import os, sys
from ablate.store.journal import Journal
from ablate.store.paths import StorePaths
root, name, count, torn = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "torn"
journal = Journal(StorePaths(root), name)
for step in range(count):
    journal.append("scalar", {"trial_id": name, "step": step, "values": {"loss": 1.0}})
    journal.append("measurement", {"trial_id": name, "metric_id": "m", "cond_id": "c", "step": step, "n_samples": 1,
                                   "value": 1.0})
    print(step, flush=True)
if torn:
    os.write(journal._fd, b'{"v":1,"uid":"half","kind":"measurem')
    os.kill(os.getpid(), 9)
journal.close()
"""
INGESTERS = """
import os, sys
import ablate.store.ingest as ingest
from ablate.store.paths import StorePaths
for _ in sys.stdin:  # one forked ingester per line: the imports are paid for once
    pid = os.fork()
    if pid == 0:
        with ingest.Ingester(StorePaths(sys.argv[1])) as ingester:
            print(os.getpid(), flush=True)
            while True:
                ingester.ingest()
                ingester.publish_snapshot()
    os.waitpid(pid, 0)
    print("gone", flush=True)
"""


def python(code: str, *arguments: object) -> "subprocess.Popen[str]":
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdin=pipe, stdout=pipe, text=True)


def measurements(paths: StorePaths) -> set[tuple[str, int]]:
    with reading(paths) as con:
        return set(con.execute("SELECT trial_id, step FROM measurement").fetchall())


def test_eight_writers_of_which_one_dies_in_the_middle_of_a_line_lose_nothing_acknowledged(tmp_path):
    paths = StorePaths(tmp_path / "runs")
    writers = [python(WRITER, paths.root, f"w{n}", 40, "torn" if n == 3 else "whole") for n in range(8)]
    with Ingester(paths) as ingester:
        while any(writer.poll() is None for writer in writers):
            ingester.ingest()  # while they write
            time.sleep(0.02)
        ingester.ingest()
        ingester.publish_snapshot()
    acknowledged = {(f"w{n}", int(step)) for n, writer in enumerate(writers) for step in writer.stdout.read().split()}
    for writer in writers:
        writer.stdin.close()
        writer.stdout.close()
    assert [writer.wait() for writer in writers] == [-signal.SIGKILL if n == 3 else 0 for n in range(8)]
    assert len(acknowledged) == 8 * 40
    assert measurements(paths) == acknowledged
    assert len(paths.journals()) == 8
    with reading(paths) as con:
        assert con.execute("SELECT count(*) FROM scalar_point").fetchall() == [(8 * 40,)]
    rebuild(paths)
    assert measurements(paths) == acknowledged


def killed_ingest_rounds(paths: StorePaths, rounds: int, seed: int) -> list[str]:
    """Write, ingest in another process, kill it at a random moment; return the notes of the last, undisturbed one."""
    chance = random.Random(seed)
    expected = set()
    with Journal(paths, "attempt") as journal, python(INGESTERS, paths.root) as ingesters:
        for number in range(rounds):
            print("start one", file=ingesters.stdin, flush=True)
            ingester = int(ingesters.stdout.readline())
            for step in range(30):
                identity = {"trial_id": f"r{number}", "metric_id": "m", "cond_id": "c", "step": step}
                journal.append("measurement", {**identity, "n_samples": 1, "value": 1.0}, sync=False)
                values = {f"s{n}": 1.0 for n in range(40)}
                journal.append("scalar", {"trial_id": f"r{number}", "step": step, "values": values}, sync=False)
                expected.add((f"r{number}", step))
            time.sleep(chance.uniform(0, 0.15))
            os.kill(ingester, signal.SIGKILL)
            assert ingesters.stdout.readline() == "gone\n"
            if number % 5 == 0:
                assert measurements(paths) == expected  # a reader needs nobody to tidy up first
        ingesters.stdin.close()
    with Ingester(paths) as ingester:
        ingester.ingest()
        ingester.publish_snapshot()
        notes = ingester.notes
    assert measurements(paths) == expected
    with reading(paths) as con:
        assert con.execute("SELECT count(*) FROM scalar_point").fetchall() == [(rounds * 30 * 40,)]
        assert con.execute("SELECT sum(events) FROM ingest").fetchall() == [(sum(1 for _ in read_events(paths)),)]
    return notes


def test_twenty_ingesters_killed_at_any_moment_lose_nothing_and_count_nothing_twice(tmp_path):
    killed_ingest_rounds(StorePaths(tmp_path / "runs"), rounds=20, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_two_hundred_ingesters_killed_at_any_moment_lose_nothing(tmp_path: Path, seed: int):
    killed_ingest_rounds(StorePaths(tmp_path / "runs"), rounds=200, seed=seed)


def test_what_an_ingester_killed_while_publishing_leaves_is_removed_by_the_next(tmp_path: Path):
    paths = StorePaths(tmp_path / "runs")
    with Journal(paths, "attempt") as journal:
        journal.append("trial", {"trial_id": "t", "arm_id": "a", "seed": 0})
    code = (
        "import os, sys; from ablate.store import Ingester, StorePaths\n"
        "os.replace = lambda *_: os.kill(os.getpid(), 9)\n"
        "with Ingester(StorePaths(sys.argv[1])) as ingester: ingester.ingest(), ingester.publish_snapshot()"
    )
    with python(code, paths.root) as killed:
        assert killed.wait(60) == -signal.SIGKILL
    assert list(paths.root.glob(".snapshot.duckdb.*"))
    with Ingester(paths) as ingester:
        assert not list(paths.root.glob(".snapshot.duckdb.*"))
        ingester.ingest()
        ingester.publish_snapshot()
    assert not list(paths.root.glob(".snapshot.duckdb.*"))
