"""What the store costs: appends, ingest against row-wise inserts, snapshot, readers; ``python benchmarks/store.py``.

Prints ratios and rates of one run on this machine; some seconds. The disk decides the fsync line, so read the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable

from ablate.store import Ingester, Journal, StorePaths, finished, open_frames
from ablate.store.database import connect
from ablate.store.journal import read_events
from ablate.store.tables import POINTS, points

NAMES = ("loss", "grad_norm", "lr", "log_variance", "share_r_equals_t")


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def write(journal: Journal, trials: int, lines: int) -> None:
    """A study of `trials` trials with `lines` scalar events each."""
    study = {"study_id": "s", "name": "bench", "metric": {"name": "fd", "mode": "min", "at": "last"}}
    journal.append("study", study, sync=False)
    journal.append("arm", {"arm_id": "a", "label": "base", "config": {}}, sync=False)
    journal.append("study_arm", {"study_id": "s", "arm_id": "a", "plan": "p", "label": "base"}, sync=False)
    for trial in range(trials):
        key = f"{trial:016x}"
        journal.append("trial", {"trial_id": key, "arm_id": "a", "seed": trial, "steps_planned": lines}, sync=False)
        uid = journal.append("attempt_started", {"trial_id": key}, sync=False)
        for step in range(lines):
            values = {name: 1.0 / (step + 1) for name in NAMES}
            journal.append("scalar", {"trial_id": key, "attempt": uid, "step": step, "values": values})
        journal.append("attempt_ended", {"trial_id": key, "attempt": uid, "status": "done", "step": lines}, sync=False)


def row_wise(paths: StorePaths, limit: int) -> float:
    """Rows per second of inserting the same points one by one, in one transaction, into a file of its own."""
    rows = [row for event in read_events(paths) if event["kind"] == "scalar" for row in points(event)][:limit]
    con = connect(paths.root / "row_wise.duckdb")
    sql = f"INSERT INTO scalar_point VALUES ({', '.join('?' * len(POINTS))})"

    def insert() -> None:
        con.execute("BEGIN")
        for row in rows:
            con.execute(sql, row)
        con.execute("COMMIT")

    seconds = timed(insert)
    con.close()
    return len(rows) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--lines", type=int, default=400, help="scalar events per trial, five numbers each")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = StorePaths(folder)
        with Journal(paths, "bench") as journal:
            seconds = timed(lambda: write(journal, options.trials, options.lines))
            events = sum(1 for _ in read_events(paths))
            synced = [timed(lambda: journal.append("note", {"x": 1}, sync=True)) for _ in range(100)]
        print(
            f"journal  {seconds / events * 1e6:8.0f} us per event, {statistics.median(synced) * 1e3:.2f} ms with fsync"
        )
        rows = options.trials * options.lines * len(NAMES)
        with Ingester(paths) as ingester:
            seconds = timed(ingester.ingest)
            single = row_wise(paths, 3000)
            print(f"ingest   {rows / seconds:8.0f} rows/s from JSON to index ({rows} points, {seconds:.2f} s)")
            slower = rows / seconds / single
            print(f"         {single:8.0f} rows/s row by row, JSON not counted: {slower:.0f} times slower")
            print(f"         {timed(ingester.ingest) * 1e3:8.1f} ms when there is nothing new")
            cold = timed(lambda: finished(paths))
            print(f"reader   {cold * 1e3:8.0f} ms from the journals alone")
            print(f"snapshot {timed(ingester.publish_snapshot) * 1e3:8.0f} ms to publish")
            warm = statistics.median(timed(lambda: finished(paths)) for _ in range(5))
            print(f"reader   {warm * 1e3:8.0f} ms from the snapshot: {cold / warm:.0f} times faster")
            print(f"frames   {timed(lambda: open_frames(paths)) * 1e3:8.0f} ms with all curves")


if __name__ == "__main__":
    main()
