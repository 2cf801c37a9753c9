"""Which event becomes which row, and what is kept aside."""

import json
from pathlib import Path

import pytest

from ablate.store.ingest import rebuild
from ablate.store.integrity import check
from ablate.store.journal import Journal
from ablate.store.paths import StorePaths
from ablate.store.reader import reading


@pytest.fixture
def paths(tmp_path: Path) -> StorePaths:
    return StorePaths(tmp_path / "runs")


def measurement(trial: str, value: float | None, step: int = 10, **more: object) -> dict:
    identity = {"trial_id": trial, "metric_id": "m", "cond_id": "c", "step": step, "n_samples": 100, "value": value}
    return {**identity, "metric": {"name": "fd", "samples": 100}, "condition": {"nfe": 1}, **more}


def test_of_several_measurements_with_one_identity_the_first_that_has_a_value_stays(paths):
    with Journal(paths, "a") as one, Journal(paths, "b") as two:
        one.append("measurement", measurement("t", None))
        two.append("measurement", measurement("t", 2.0))
        one.append("measurement", measurement("t", 3.0))
        two.append("measurement", measurement("t", float("nan"), step=20))
        one.append("measurement", measurement("t", 4.0, draw=1))
    rebuild(paths)
    with reading(paths) as con:
        found = con.execute("SELECT step, draw, value FROM measurement ORDER BY ALL").fetchall()
    assert found == [(10, 0, 2.0), (10, 1, 4.0), (20, 0, None)]


@pytest.mark.parametrize(
    ("kind", "payload", "why"),
    [
        ("measurement", measurement("t", 1.0, n_samples=99), "99 samples were used, its metric is defined for 100"),
        ("measurement", measurement("t", 1.0, metric_id=None), "metric_id is missing"),
        ("measurement", measurement("t", "good"), "value: expected a number"),
        ("measurement", measurement("t", 1.0, step=2**70), "does not fit"),
        ("trial", {"trial_id": "t", "arm_id": "a", "seed": 1.5}, "seed: expected a whole number"),
        ("trial", {"trial_id": "t\ud800", "arm_id": "a", "seed": 1}, "surrogates"),
        ("attempt_ended", {"trial_id": "t", "status": "finished"}, "status 'finished' is none of"),
        ("scalar", {"trial_id": "t", "step": 1}, "values is missing"),
        ("scalar", {"trial_id": "t", "step": 1, "values": {"loss": "low"}}, "expected a number"),
    ],
)
def test_an_event_that_contradicts_itself_is_kept_aside_and_stops_nothing(paths, kind, payload, why):
    with Journal(paths, "attempt") as journal:
        if kind == "trial" and "\ud800" in payload["trial_id"]:
            journal.append("note", {})
            event = {"v": 1, "uid": "bad", "kind": kind, "at": "2026-01-01T00:00:00+00:00", **payload}
            with journal.file.open("a") as stream:
                stream.write(json.dumps(event) + "\n")
        else:
            journal.append(kind, payload)
        journal.append("trial", {"trial_id": "good", "arm_id": "a", "seed": 0})
        journal.append("measurement", measurement("good", 1.0))
    rebuild(paths)
    with reading(paths) as con:
        ((reason, found),) = con.execute("SELECT reason, kind FROM refused").fetchall()
        assert con.execute("SELECT trial_id FROM trial").fetchall() == [("good",)]
        assert con.execute("SELECT trial_id FROM measurement").fetchall() == [("good",)]
    assert why in reason
    assert found == kind


def test_unknown_kinds_and_fields_are_skipped(paths):
    with Journal(paths, "attempt") as journal:
        journal.append("of_the_future", {"x": 1})
        journal.append("trial", {"trial_id": "t", "arm_id": "a", "seed": 1, "colour": "red"})
    rebuild(paths)
    with reading(paths) as con:
        assert con.execute("SELECT trial_id, seed FROM trial").fetchall() == [("t", 1)]
        assert con.execute("SELECT * FROM refused").fetchall() == []


SCALAR = {"v": "1", "uid": '"u"', "kind": '"scalar"', "at": '"2026-01-01T00:00:00+00:00"', "trial_id": '"t"'} | {
    "step": "1",
    "values": '{"loss": 1.0}',
}
TRIAL = {**SCALAR, "kind": '"trial"', "arm_id": '"a"', "seed": "0"}
HUGE = "1" + "0" * 400


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ({**SCALAR, "at": None}, "at is missing"),
        ({**SCALAR, "at": '"yesterday"'}, "yesterday"),
        ({**SCALAR, "at": "17"}, "must be str"),
        ({**SCALAR, "at": '"0001-01-01T00:00:00+05:00"'}, "out of range"),
        ({**SCALAR, "step": "1e999"}, "infinity"),
        ({**SCALAR, "values": f'{{"loss": {HUGE}}}'}, "too large"),
        ({**SCALAR, "values": '{"\\ud800": 1}'}, "surrogates"),
        ({**TRIAL, "at": '"0001-01-01T00:00:00+05:00"'}, "at: date value out of range"),
        ({**TRIAL, "seed": "1e999"}, "seed: cannot convert float infinity"),
        ({**TRIAL, "kind": '"arm"', "config": "[" * 700 + "]" * 700}, "recursion"),
        ({**TRIAL, "kind": '"artifact"', "artifact": '"samples"', "path": '"' + "x" * 5000 + '"'}, None),
        ({**TRIAL, "kind": "[]"}, "torn"),
        ({**TRIAL, "config": "[" * 100_000}, "torn"),
    ],
)
def test_a_line_that_is_json_but_odd_stops_nothing(paths, line, why):
    paths.make()
    odd = ", ".join(f'"{name}": {value}' for name, value in line.items() if value is not None)
    good = ", ".join(f'"{name}": {value}' for name, value in TRIAL.items())
    (paths.journal / "x.jsonl").write_text(f"{{{odd}}}\n{{{good}}}\n")
    rebuild(paths)
    with reading(paths) as con:
        assert con.execute("SELECT trial_id FROM trial").fetchall() == [("t",)]
        refused = con.execute("SELECT reason FROM refused").fetchall()
        torn = con.execute("SELECT torn FROM ingest").fetchall()
    assert torn == [(1 if why == "torn" else 0,)]
    assert (len(refused) == 1 and why in refused[0][0]) if why not in (None, "torn") else refused == []
    check(paths)
