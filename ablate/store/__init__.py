"""The results store: append-only journals are the truth, DuckDB is an index that can be rebuilt from them.

    paths        names every file of a store
    journal      what a process writes: one file per process, one event per line
    record       a plan as journal events
    provenance   the environment an attempt runs in
    status       the state of a trial, derived from its attempts
    tables       which event becomes which row;  loading: journals into tables;  database: DuckDB files, migrations
    ingest       the one writer of the index
    reader       how everybody else sees the store;  frames, read, detail: what they ask;  integrity: `ablate db check`

Names are imported when they are first used: a training process needs the journal only, and must not pay for DuckDB.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ablate.store.detail import trial_detail as trial_detail
    from ablate.store.frames import open_frames as open_frames
    from ablate.store.ingest import Ingester as Ingester
    from ablate.store.ingest import rebuild as rebuild
    from ablate.store.integrity import check as check
    from ablate.store.journal import Journal as Journal
    from ablate.store.journal import read_events as read_events
    from ablate.store.paths import StorePaths as StorePaths
    from ablate.store.provenance import environment as environment
    from ablate.store.read import finished as finished
    from ablate.store.read import measured as measured
    from ablate.store.read import seeds as seeds
    from ablate.store.read import states as states
    from ablate.store.read import studies as studies
    from ablate.store.read import throughput as throughput
    from ablate.store.record import record_confirmation as record_confirmation
    from ablate.store.record import record_plan as record_plan
    from ablate.store.record import study_id as study_id

_HOMES = {
    "Ingester": "ingest",
    "Journal": "journal",
    "StorePaths": "paths",
    "check": "integrity",
    "environment": "provenance",
    "finished": "read",
    "measured": "read",
    "open_frames": "frames",
    "read_events": "journal",
    "rebuild": "ingest",
    "record_confirmation": "record",
    "record_plan": "record",
    "seeds": "read",
    "states": "read",
    "studies": "read",
    "study_id": "record",
    "throughput": "read",
    "trial_detail": "detail",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
